/* Proves: outputs are written whatever happens: NULL or 0 after a failure, *err NULL after success;
 * an error tells code, name, message, retriable, fatal and the outcome of a publish; and the table
 * of statuses, their names and their flags agree with each other.
 * Rows of docs/bad-input.md: B17. */
#include <stdint.h>

#include "check.h"

#define STALE ((void *)(uintptr_t)0x1234)

static hmq_verdict take(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    return HMQ_ACK;
}

static void written_on_failure(hmq_hub *hub)
{
    hmq_sub *sub = STALE;
    hmq_inbox *inbox = STALE;
    hmq_broker *broker = STALE;
    hmq_sink *sink = STALE;
    hmq_pub *pub = STALE;
    char *text = STALE;
    size_t len = 77;
    uint64_t removed = 77;
    int32_t created = 77;
    hmq_broker_ops ops = HMQ_BROKER_OPS_INIT;
    hmq_receipt receipt = HMQ_RECEIPT_INIT;
    hmq_error *error = STALE;

    CHECK(hmq_subscribe(hub, "{}", HMQ_NTS, take, NULL, NULL, 0, &sub, &error) < 0);
    CHECK(sub == NULL && error != NULL && error != (hmq_error *)STALE);
    hmq_error_free(error);
    CHECK(hmq_inbox_new(hub, "[]", HMQ_NTS, &inbox, NULL) < 0 && inbox == NULL);
    CHECK(hmq_pub_new(hub, "[]", HMQ_NTS, &pub, NULL) < 0 && pub == NULL);
    CHECK(hmq_broker_open("[]", HMQ_NTS, 0, &broker, NULL) < 0 && broker == NULL);
    broker = STALE;
    CHECK(hmq_broker_custom(&ops, NULL, NULL, &broker, &sink, NULL) == HMQ_E_NULL && broker == NULL && sink == NULL);
    CHECK(hmq_describe(hub, "[]", HMQ_NTS, 0, &text, &len, NULL) < 0 && text == NULL && len == 0);
    CHECK(hmq_purge(hub, "{\"name\":\"nowhere\"}", HMQ_NTS, 0, &removed, NULL) < 0 && removed == 0);
    CHECK(hmq_declare(hub, "[]", HMQ_NTS, 0, &created, NULL) < 0 && created == 0);

    receipt.level = 77, receipt.backend = 77, receipt.flags = 77, receipt.id[0] = 'x';
    CHECK(hmq_publish(hub, "", 0, "x", 1, 0, &receipt, NULL) == HMQ_E_NAME);
    CHECK_NUMBER(receipt.size, sizeof receipt);
    CHECK(receipt.level == 0 && receipt.backend == 0 && receipt.flags == 0 && receipt.id[0] == 0);
}

static void written_on_success(hmq_hub *hub)
{
    hmq_error *error = STALE;
    hmq_receipt receipt = HMQ_RECEIPT_INIT;
    hmq_record record = HMQ_RECORD_INIT;
    char *text = NULL;
    size_t len = 0;
    int32_t created = 77;
    uint64_t removed = 77;

    CHECK(hmq_publish(hub, "tasks.out", HMQ_NTS, "x", 1, 0, &receipt, &error) == HMQ_OK && error == NULL);
    CHECK_NUMBER(receipt.level, HMQ_LEVEL_MEMORY);
    CHECK_NUMBER(receipt.backend, HMQ_BACKEND_EMBEDDED);
    CHECK_NUMBER(receipt.flags, 0);
    CHECK(strlen(receipt.id) > 0 && strlen(receipt.id) < 64);
    record.topic = "tasks.out";
    record.topic_len = HMQ_NTS;
    record.id = "my-own-id";
    record.id_len = HMQ_NTS;
    STATUS(hmq_send(hub, &record, 0, &receipt, &err), HMQ_OK);
    CHECK_NUMBER(strcmp(receipt.id, "my-own-id"), 0);

    STATUS(hmq_declare(hub, "{\"name\":\"events.out\",\"partitions\":3}", HMQ_NTS, 0, &created, &err), HMQ_OK);
    CHECK_NUMBER(created, 1);
    STATUS(hmq_declare(hub, "{\"name\":\"events.out\",\"partitions\":3}", HMQ_NTS, 0, &created, &err), HMQ_OK);
    CHECK_NUMBER(created, 0);
    STATUS(hmq_declare(hub, "{\"name\":\"events.out\",\"partitions\":4}", HMQ_NTS, 0, &created, &err), HMQ_E_CONFLICT);
    STATUS(hmq_purge(hub, "{\"name\":\"tasks.out\"}", HMQ_NTS, 0, &removed, &err), HMQ_OK);
    CHECK_NUMBER(removed, 2);
    STATUS(hmq_metrics(hub, HMQ_METRICS_JSON, &text, &len, &err), HMQ_OK);
    CHECK(text != NULL && text[0] == '{' && strlen(text) == len);
    hmq_free(text);
}

static void parts_of_an_error(hmq_hub *hub)
{
    hmq_error *error = NULL;
    const char *json;
    size_t len = 0;
    hmq_record record = HMQ_RECORD_INIT;
    static char large[2 * 1024 * 1024];

    CHECK(hmq_error_status(NULL) == HMQ_OK);
    CHECK_NUMBER(strcmp(hmq_error_json(NULL, &len), "{}"), 0);
    CHECK_NUMBER(len, 2);

    CHECK_NUMBER(hmq_publish(hub, "tasks.out", HMQ_NTS, large, sizeof large, 0, NULL, &error), HMQ_E_TOO_LARGE);
    CHECK_NUMBER(hmq_error_status(error), HMQ_E_TOO_LARGE);
    json = hmq_error_message(error, &len);
    CHECK_NUMBER(strlen(json), len);
    CHECK(len > 0 && strstr(hmq_error_json(error, NULL), hmq_error_message(error, NULL)) != NULL);
    CHECK_NUMBER(strcmp(hmq_error_message(NULL, &len), ""), 0);
    json = hmq_error_json(error, &len);
    CHECK_NUMBER(strlen(json), len);
    CHECK_TEXT(json, "\"code\":-10");
    CHECK_TEXT(json, "\"name\":\"HMQ_E_TOO_LARGE\"");
    CHECK_TEXT(json, "\"origin_name\":\"MESSAGE_TOO_LARGE\"");
    CHECK_TEXT(json, "\"message\":\"");
    CHECK_TEXT(json, "\"retriable\":false");
    CHECK_TEXT(json, "\"fatal\":false");
    hmq_error_free(error);

    CHECK_NUMBER(hmq_abi_check(0, &error), HMQ_E_ABI);
    CHECK_TEXT(hmq_error_json(error, NULL), "\"fatal\":true");
    hmq_error_free(error);

    /* A publish that was not sent says so: the topic is full. */
    STATUS(hmq_declare(hub, "{\"name\":\"tasks.full\",\"messages_max\":2,\"overflow\":\"reject\"}", HMQ_NTS, 0, NULL, &err),
           HMQ_OK);
    publish(hub, "tasks.full", "a");
    publish(hub, "tasks.full", "b");
    record.topic = "tasks.full";
    record.topic_len = HMQ_NTS;
    CHECK_NUMBER(hmq_send(hub, &record, 0, NULL, &error), HMQ_E_FULL);
    CHECK_TEXT(hmq_error_json(error, NULL), "\"outcome\":\"not_sent\"");
    CHECK_TEXT(hmq_error_json(error, NULL), "\"retriable\":true");
    hmq_error_free(error);
}

static long long number_after(const char *text, const char *key)
{
    const char *found = strstr(text, key);
    return found ? strtoll(found + strlen(key), NULL, 10) : -99999;
}

static void table_of_statuses(void)
{
    size_t len = 0;
    const char *table = hmq_status_table(&len);
    int entries_seen = 0;
    char name[128];

    CHECK_NUMBER(strlen(table), len);
    for (const char *at = strchr(table, '{'); at != NULL; at = strchr(at + 1, '{')) {
        const char *end = strchr(at, '}');
        char entry[512];
        long long code;
        unsigned flags = 0;
        REQUIRE(end != NULL && (size_t)(end - at) < sizeof entry);
        memcpy(entry, at, (size_t)(end - at));
        entry[end - at] = 0;
        code = number_after(entry, "\"code\":");
        snprintf(name, sizeof name, "\"name\":\"%s\"", hmq_status_name((hmq_status)code));
        CHECK_TEXT(entry, name);
        CHECK(strcmp(hmq_status_name((hmq_status)code), "HMQ_E_?") != 0);
        flags |= strstr(entry, "\"retriable\":true") ? HMQ_STATUS_RETRIABLE : 0;
        flags |= strstr(entry, "\"fatal\":true") ? HMQ_STATUS_FATAL : 0;
        flags |= strstr(entry, "\"misuse\":true") ? HMQ_STATUS_MISUSE : 0;
        flags |= strstr(entry, "\"unknown_outcome\":true") ? HMQ_STATUS_UNKNOWN_OUTCOME : 0;
        CHECK_NUMBER(hmq_status_flags((hmq_status)code), flags);
        CHECK((code < 0) == (strstr(entry, "\"normal\":true") == NULL));
        entries_seen++;
    }
    CHECK(entries_seen >= 40);
    CHECK_NUMBER(strcmp(hmq_status_name(-99), "HMQ_E_?"), 0);
    CHECK_NUMBER(strcmp(hmq_status_name(INT32_MIN), "HMQ_E_?"), 0);
    CHECK_NUMBER(hmq_status_flags(INT32_MIN), 0);
    CHECK_NUMBER(hmq_status_flags(HMQ_OK), 0);
}

static void versions(void)
{
    size_t len = 0;
    const char *info = hmq_build_info(&len);

    CHECK_NUMBER(hmq_version(), HMQ_VERSION_NUMBER);
    CHECK_NUMBER(strcmp(hmq_version_string(), HMQ_VERSION_STRING), 0);
    CHECK_NUMBER(strlen(info), len);
    CHECK_TEXT(info, "\"version\":\"" HMQ_VERSION_STRING "\"");
    CHECK_TEXT(info, "\"backends\":[");
}

int main(void)
{
    hmq_hub *hub = open_hub("{}");
    written_on_failure(hub);
    written_on_success(hub);
    parts_of_an_error(hub);
    table_of_statuses();
    versions();
    close_hub(hub);
    return result();
}
