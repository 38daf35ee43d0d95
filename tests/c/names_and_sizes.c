/* Proves: lengths are checked before a byte is read, texts must be UTF-8, names must be names, and
 * headers, structs, flags and enumerations are taken or refused as the header file says.
 * Rows of docs/bad-input.md: B02-B08, B16-B18, B30. */
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

static hmq_hub *hub;

/* A page that is there and one behind it that is not: whoever reads too far, falls. */
static char *edge_of_memory(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(pages != MAP_FAILED);
    REQUIRE(mprotect(pages + page, page, PROT_NONE) == 0);
    return pages + page;
}

static hmq_status send_payload(const void *payload, size_t len)
{
    return hmq_publish(hub, "tasks.size", HMQ_NTS, payload, len, 0, NULL, &err);
}

static void payload_lengths(void)
{
    char *edge = edge_of_memory();
    char *largest = calloc(1, 1024 * 1024 + 1);

    REQUIRE(largest != NULL);
    STATUS(send_payload(NULL, 0), HMQ_OK);
    STATUS(send_payload("x", 0), HMQ_OK);
    STATUS(send_payload(edge, 0), HMQ_OK);
    STATUS(send_payload(edge - 1, 1), HMQ_OK);
    STATUS(send_payload(NULL, 1), HMQ_E_NULL);
    STATUS(send_payload(NULL, SIZE_MAX), HMQ_E_NULL);
    STATUS(send_payload(largest, 1024 * 1024), HMQ_OK);
    FAILS(send_payload(largest, 1024 * 1024 + 1), HMQ_E_TOO_LARGE, "1048576");
    STATUS(send_payload(edge, SIZE_MAX), HMQ_E_TOO_LARGE);
    STATUS(send_payload(edge, SIZE_MAX / 2), HMQ_E_TOO_LARGE);
    STATUS(send_payload(edge, SIZE_MAX / 2 + 1), HMQ_E_TOO_LARGE);
    STATUS(send_payload(edge, (size_t)1 << 40), HMQ_E_TOO_LARGE);
    STATUS(send_payload(edge, 1024 * 1024 + 1), HMQ_E_TOO_LARGE);
    free(largest);
}

static hmq_status send_to(const char *topic, size_t len)
{
    return hmq_publish(hub, topic, len, "x", 1, 0, NULL, &err);
}

static void names(void)
{
    static const char *const bad[] = {"", ".", "..", "/", "\\", "a/../b", "a\r\nb", "a b", "tasks.*", "#", "a\tb",
                                      "\xE2\x80\xAEgnp", "t\xC3\xA4sks"};
    char long_name[300];
    char *edge = edge_of_memory();

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (!STATUS(send_to(bad[i], HMQ_NTS), HMQ_E_NAME))
            fprintf(stderr, "  the name was: %s\n", bad[i]);
    FAILS(send_to("amq.x", HMQ_NTS), HMQ_E_NAME, "reserved");
    FAILS(send_to("__consumer_offsets", HMQ_NTS), HMQ_E_NAME, "reserved");
    STATUS(send_to("a\0b", 3), HMQ_E_NAME);
    STATUS(send_to("", 0), HMQ_E_NAME);
    STATUS(send_to(NULL, 0), HMQ_E_NULL);
    STATUS(send_to(NULL, HMQ_NTS), HMQ_E_NULL);

    memset(long_name, 'n', sizeof long_name);
    STATUS(send_to(long_name, 200), HMQ_OK);
    STATUS(send_to(long_name, 201), HMQ_E_NAME);
    STATUS(send_to(long_name, 250), HMQ_E_NAME);
    STATUS(send_to(long_name, 256), HMQ_E_NAME);
    long_name[299] = 0;
    STATUS(send_to(long_name, HMQ_NTS), HMQ_E_NAME);
    CHECK(send_to(edge, SIZE_MAX - 1) < 0);
    CHECK(send_to(edge, SIZE_MAX / 2) < 0);
    hmq_error_free(err);

    memcpy(edge - 4, "abc", 4);
    STATUS(send_to(edge - 4, HMQ_NTS), HMQ_OK);
    STATUS(send_to(edge - 4, 3), HMQ_OK);
}

static void texts_are_utf8(void)
{
    hmq_record record = HMQ_RECORD_INIT;
    hmq_header header = {"n\xFF", HMQ_NTS, "v", 1};
    hmq_sub *sub = NULL;
    hmq_inbox *inbox = NULL;

    FAILS(send_to("tasks.\xFF", HMQ_NTS), HMQ_E_UTF8, "byte 6");
    FAILS(hmq_publish_json(hub, "{\"topic\":\"\xC3\"}", HMQ_NTS, 0, NULL, &err), HMQ_E_UTF8, "byte 10");
    record.topic = "tasks.utf8";
    record.topic_len = HMQ_NTS;
    record.headers = &header;
    record.header_count = 1;
    FAILS(hmq_send(hub, &record, 0, NULL, &err), HMQ_E_UTF8, "byte 1");
    record.header_count = 0;
    record.id = "\xFF";
    record.id_len = HMQ_NTS;
    STATUS(hmq_send(hub, &record, 0, NULL, &err), HMQ_E_UTF8);
    record.id = NULL;
    record.id_len = 0;
    record.type = "\xC0\x80";
    record.type_len = 2;
    STATUS(hmq_send(hub, &record, 0, NULL, &err), HMQ_E_UTF8);
    STATUS(hmq_inbox_new(hub, "{\"\xFE\":1}", HMQ_NTS, &inbox, &err), HMQ_E_UTF8);
    STATUS(hmq_subscribe_inbox(hub, "\xFE", 1, inbox, 0, 0, &sub, &err), HMQ_E_NULL);
    /* A key is any bytes. */
    STATUS(hmq_publish_event(hub, "events.utf8", HMQ_NTS, "x", 1, "\xFF\0\xFE", 3, 0, NULL, &err), HMQ_OK);
}

static hmq_status send_headers(const hmq_header *headers, size_t count)
{
    hmq_record record = HMQ_RECORD_INIT;
    record.topic = "tasks.headers";
    record.topic_len = HMQ_NTS;
    record.headers = headers;
    record.header_count = count;
    return hmq_send(hub, &record, 0, NULL, &err);
}

static void headers(void)
{
    static char value[8 * 1024 + 1];
    static char names[65][8];
    hmq_header many[65];
    hmq_header one = {"name", HMQ_NTS, "v\0\xFFw", 4};

    for (int i = 0; i < 65; i++) {
        snprintf(names[i], sizeof names[i], "n%d", i);
        many[i] = one;
        many[i].name = names[i];
    }
    STATUS(send_headers(many, 64), HMQ_OK);
    STATUS(send_headers(many, 65), HMQ_E_HEADER);
    STATUS(send_headers(many, SIZE_MAX), HMQ_E_HEADER);
    STATUS(send_headers(NULL, 1), HMQ_E_NULL);
    STATUS(send_headers(NULL, 0), HMQ_OK);
    STATUS(send_headers(&one, 1), HMQ_OK);
    many[1].name = many[0].name;
    FAILS(send_headers(many, 2), HMQ_E_HEADER, "twice");
    one.value = value;
    one.value_len = sizeof value - 1;
    STATUS(send_headers(&one, 1), HMQ_OK);
    one.value_len = sizeof value;
    STATUS(send_headers(&one, 1), HMQ_E_HEADER);
    one.value = NULL;
    one.value_len = 0;
    STATUS(send_headers(&one, 1), HMQ_OK);
    one.value_len = 1;
    STATUS(send_headers(&one, 1), HMQ_E_NULL);
    one.value_len = 0;
    one.name_len = 0;
    STATUS(send_headers(&one, 1), HMQ_E_HEADER);
    one.name = NULL;
    STATUS(send_headers(&one, 1), HMQ_E_NULL);
}

static void structs_carry_their_size(void)
{
    struct {
        hmq_record record;
        char tail[16];
    } newer;
    hmq_record record = HMQ_RECORD_INIT;
    hmq_receipt receipt = HMQ_RECEIPT_INIT;
    hmq_settlement settlement = HMQ_SETTLEMENT_INIT;
    hmq_event event = HMQ_EVENT_INIT;
    hmq_broker_ops ops = HMQ_BROKER_OPS_INIT;
    hmq_broker *broker = NULL;
    hmq_sink *sink = NULL;
    hmq_inbox *inbox = NULL;
    size_t count = 0;

    record.topic = "tasks.struct";
    record.topic_len = HMQ_NTS;
    STATUS(hmq_send(hub, &record, 0, &receipt, &err), HMQ_OK);
    CHECK_NUMBER(strlen(receipt.id) > 0, 1);
    memset(&newer, 0, sizeof newer);
    newer.record = record;
    newer.record.size = sizeof newer;
    STATUS(hmq_send(hub, &newer.record, 0, NULL, &err), HMQ_OK);
    newer.tail[15] = 1;
    STATUS(hmq_send(hub, &newer.record, 0, NULL, &err), HMQ_E_ABI);
    record.size = 0;
    STATUS(hmq_send(hub, &record, 0, NULL, &err), HMQ_E_ABI);
    record.size = 8;
    STATUS(hmq_send(hub, &record, 0, NULL, &err), HMQ_E_ABI);
    record.size = UINT32_MAX;
    STATUS(hmq_send(hub, &record, 0, NULL, &err), HMQ_E_ABI);
    record.size = sizeof record;
    receipt.size = 4;
    STATUS(hmq_send(hub, &record, 0, &receipt, &err), HMQ_E_ABI);
    settlement.size = 0;
    STATUS(hmq_settle_many(&settlement, 1, &err), HMQ_E_ABI);
    STATUS(hmq_settle_many(NULL, 0, &err), HMQ_OK);
    event.size = 12;
    STATUS(hmq_inbox_new(hub, NULL, 0, &inbox, &err), HMQ_OK);
    STATUS(hmq_inbox_poll(inbox, &event, 1, 0, &count), HMQ_E_ABI);
    STATUS(hmq_inbox_poll(inbox, &event, 0, 0, &count), HMQ_E_ARG);
    hmq_inbox_free(inbox);
    ops.size = 3;
    STATUS(hmq_broker_custom(&ops, NULL, NULL, &broker, &sink, &err), HMQ_E_ABI);
    FAILS(hmq_abi_check(HMQ_ABI + 1, &err), HMQ_E_ABI, "ABI 2");
    FAILS(hmq_abi_check(HMQ_ABI + 1, &err), HMQ_E_ABI, "ABI 1");
    STATUS(hmq_abi_check(HMQ_ABI, &err), HMQ_OK);
}

static hmq_status send_with(int32_t kind, uint32_t flags, int32_t priority, int64_t delay_ms, int64_t ttl_ms)
{
    hmq_record record = HMQ_RECORD_INIT;
    record.topic = "tasks.fields";
    record.topic_len = HMQ_NTS;
    record.kind = kind;
    record.flags = flags;
    record.priority = priority;
    record.delay_ms = delay_ms;
    record.ttl_ms = ttl_ms;
    return hmq_send(hub, &record, 0, NULL, &err);
}

static void fields(void)
{
    char *text = NULL;
    hmq_broker *broker = NULL;
    hmq_sub *sub = NULL;
    hmq_record record = HMQ_RECORD_INIT;
    char long_id[65];

    STATUS(send_with(HMQ_TASK, HMQ_RECORD_MAYBE_DUP, 10, 0, 0), HMQ_OK);
    STATUS(send_with(3, 0, -1, 0, 0), HMQ_E_ARG);
    STATUS(send_with(-1, 0, -1, 0, 0), HMQ_E_ARG);
    STATUS(send_with(0, 0x80000000u, -1, 0, 0), HMQ_E_ARG);
    STATUS(send_with(0, 0, 11, 0, 0), HMQ_E_ARG);
    STATUS(send_with(0, 0, -2, 0, 0), HMQ_E_ARG);
    STATUS(send_with(0, 0, INT32_MIN, 0, 0), HMQ_E_ARG);
    STATUS(send_with(0, 0, -1, -1, 0), HMQ_E_ARG);
    STATUS(send_with(0, 0, -1, INT64_MIN, 0), HMQ_E_ARG);
    STATUS(send_with(0, 0, -1, 0, -1), HMQ_E_ARG);
    CHECK(send_with(0, 0, -1, INT64_MAX, INT64_MAX) != HMQ_E_INTERNAL);
    hmq_error_free(err);

    memset(long_id, 'i', sizeof long_id);
    record.topic = "tasks.fields";
    record.topic_len = HMQ_NTS;
    record.id = long_id;
    record.id_len = 63;
    STATUS(hmq_send(hub, &record, 0, NULL, &err), HMQ_OK);
    record.id_len = 64;
    CHECK(hmq_send(hub, &record, 0, NULL, NULL) < 0);

    STATUS(hmq_settle(1, 0, 0, NULL, 0, &err), HMQ_E_ARG);
    STATUS(hmq_settle(1, HMQ_LATER, 0, NULL, 0, &err), HMQ_E_ARG);
    STATUS(hmq_settle(1, HMQ_RETRY, -2, NULL, 0, &err), HMQ_E_ARG);
    STATUS(hmq_extend(1, 0, &err), HMQ_E_ARG);
    STATUS(hmq_extend(1, -1, &err), HMQ_E_ARG);
    STATUS(hmq_metrics(hub, 77, &text, NULL, &err), HMQ_E_ARG);
    STATUS(hmq_log_set(99, NULL, NULL, NULL, &err), HMQ_E_ARG);
    STATUS(hmq_backend_force(hub, "embedded", HMQ_NTS, 9, &err), HMQ_E_ARG);
    STATUS(hmq_forwarding(hub, 2, &err), HMQ_E_ARG);
    STATUS(hmq_broker_open("{\"backend\":\"embedded\"}", HMQ_NTS, 0, &broker, &err), HMQ_OK);
    STATUS(hmq_hub_set_broker(hub, 9, broker, &err), HMQ_E_ARG);
    hmq_broker_free(broker);
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.z\"}", HMQ_NTS, NULL, NULL, NULL, 0, &sub, &err), HMQ_E_NULL);
    STATUS(hmq_sub_pause(sub, 1), HMQ_E_NULL);
}

int main(void)
{
    hub = open_hub("{}");
    payload_lengths();
    names();
    texts_are_utf8();
    headers();
    structs_carry_their_size();
    fields();
    close_hub(hub);
    return result();
}
