/* Proves, for every function of the header and each of its arguments: NULL where a pointer must be
 * answers HMQ_E_NULL, a handle that is garbage, stale or of another type answers HMQ_E_HANDLE, no
 * memory behind it is touched, outputs are written all the same, drop is called exactly once, and
 * the error object may be left out. The calls are generated from the header.
 * Rows of docs/bad-input.md: B01, B09, B10 (all pairs), B31. */
#include <stdint.h>

#include "check.h"

static struct {
    hmq_hub *hub;
    hmq_broker *broker;
    hmq_pub *pub;
    hmq_sub *sub;
    hmq_msg *msg;
    hmq_inbox *inbox;
    hmq_sink *sink;
    hmq_error *error;
    hmq_record record;
    hmq_receipt receipt;
    hmq_event event;
    hmq_settlement settlement;
    hmq_broker_ops broker_ops;
} fixture;

static void *garbage[64];
static int garbage_count;
static uint64_t out[16];
static int drops;

static void count_drop(void *user_data)
{
    (void)user_data;
    drops++;
}

static hmq_verdict stub_msg_fn(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    return HMQ_ACK;
}

static void stub_done_fn(hmq_status status, const hmq_receipt *receipt, void *user_data)
{
    (void)status, (void)receipt, (void)user_data;
}

static void stub_text_fn(int32_t level, const char *json, size_t len, void *user_data)
{
    (void)level, (void)json, (void)len, (void)user_data;
}

static void stub_ready_fn(void *user_data) { (void)user_data; }

static hmq_status stub_token_fn(char *buf, size_t cap, size_t *len, int64_t *expires_at_ms, void *user_data)
{
    (void)buf, (void)cap, (void)len, (void)expires_at_ms, (void)user_data;
    return HMQ_E_UNSUPPORTED;
}

#define POISON UINT64_C(0xEEEEEEEEEEEEEEEE)

static void before(void)
{
    for (int i = 0; i < 16; i++)
        out[i] = POISON;
    drops = 0;
}

static void expect(hmq_status got, hmq_status want, const char *what)
{
    if (got != want) {
        failures++;
        fprintf(stderr, "%s: %s, not %s\n", what, hmq_status_name(got), hmq_status_name(want));
    }
}

static void gave_error(int at, const char *what)
{
    hmq_error *error = (hmq_error *)(uintptr_t)out[at];
    if (out[at] == POISON || hmq_error_status(error) >= 0) {
        failures++;
        fprintf(stderr, "%s: no error object\n", what);
        return;
    }
    hmq_error_free(error);
}

static void written(uint64_t value, const char *function, int at)
{
    if (value != 0) {
        failures++;
        fprintf(stderr, "%s: output %d was left as it was\n", function, at);
    }
}

static void dropped_once(const char *what)
{
    if (drops != 1) {
        failures++;
        fprintf(stderr, "%s: dropped %d times\n", what, drops);
    }
}

#define BEFORE() before()
#define EXPECT(call, want, what) expect((call), (want), (what))
#define GAVE_ERROR(at, what) gave_error((at), (what))
#define DROPPED(what) dropped_once(what)
#define WRITTEN(at) written(out[at], __func__, at)
#define WRITTEN32(at) written((uint32_t)out[at], __func__, at)

#include "null_and_garbage.inc"

static hmq_status no_publish(const hmq_record *record, uint64_t seq, uint64_t ticket, void *user_data)
{
    (void)record, (void)seq, (void)ticket, (void)user_data;
    return HMQ_E_REFUSED;
}

static hmq_status no_subscribe(const char *pattern, int32_t kind, const char *group, uint32_t prefetch, uint64_t sub,
                               void *user_data)
{
    (void)pattern, (void)kind, (void)group, (void)prefetch, (void)sub, (void)user_data;
    return HMQ_E_REFUSED;
}

static void no_unsubscribe(uint64_t sub, void *user_data) { (void)sub, (void)user_data; }

static void no_settle(uint64_t sub, uint64_t token, hmq_verdict verdict, int64_t delay_ms, void *user_data)
{
    (void)sub, (void)token, (void)verdict, (void)delay_ms, (void)user_data;
}

static hmq_sub *make_subscription(void)
{
    hmq_sub *sub = NULL;
    REQUIRE(STATUS(hmq_subscribe_inbox(fixture.hub, "{\"topic\":\"tasks.x\"}", HMQ_NTS, fixture.inbox, 7, -1, &sub, &err),
                   HMQ_OK));
    return sub;
}

static void make_fixture(void)
{
    size_t count = 0;
    hmq_event event = HMQ_EVENT_INIT;
    hmq_record record = HMQ_RECORD_INIT;
    hmq_receipt receipt = HMQ_RECEIPT_INIT;
    hmq_settlement settlement = HMQ_SETTLEMENT_INIT;
    hmq_broker_ops ops = HMQ_BROKER_OPS_INIT;

    ops.publish = no_publish;
    ops.subscribe = no_subscribe;
    ops.unsubscribe = no_unsubscribe;
    ops.settle = no_settle;
    fixture.record = record;
    fixture.receipt = receipt;
    fixture.event = event;
    fixture.settlement = settlement;
    fixture.broker_ops = ops;
    fixture.hub = open_hub("{}");
    REQUIRE(STATUS(hmq_broker_custom(&ops, NULL, NULL, &fixture.broker, &fixture.sink, &err), HMQ_OK));
    REQUIRE(STATUS(hmq_pub_new(fixture.hub, "{\"topic\":\"tasks.x\"}", HMQ_NTS, &fixture.pub, &err), HMQ_OK));
    REQUIRE(STATUS(hmq_inbox_new(fixture.hub, NULL, 0, &fixture.inbox, &err), HMQ_OK));
    fixture.sub = make_subscription();
    publish(fixture.hub, "tasks.x", "one");
    REQUIRE(STATUS(hmq_inbox_poll(fixture.inbox, &event, 1, DEADLINE_MS, &count), HMQ_OK));
    REQUIRE(count == 1 && event.msg != NULL);
    fixture.msg = event.msg;
    REQUIRE(hmq_abi_check(0, &fixture.error) == HMQ_E_ABI && fixture.error != NULL);
}

/* Numbers that were never issued, addresses, a handle that was freed, and one of each type. */
static void make_garbage(void)
{
    static int local;
    hmq_sub *freed = make_subscription();
    uint64_t state = 88172645463325252u;

    hmq_sub_free(freed);
    void *fixed[] = {(void *)1,     (void *)UINTPTR_MAX,   (void *)(uintptr_t)0x5A00000000000000u,
                     (void *)(uintptr_t)0x5AE0000000000001u, (void *)&local,     freed,
                     fixture.hub,   fixture.broker,        fixture.pub,
                     fixture.sub,   fixture.msg,           fixture.inbox,
                     fixture.sink,  fixture.error,         (char *)(void *)fixture.hub + 1,
                     (char *)(void *)fixture.hub + 0x1000000};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        garbage[garbage_count++] = fixed[i];
    while (garbage_count < 40) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        garbage[garbage_count++] = (void *)(uintptr_t)state;
    }
}

int main(void)
{
    hmq_event event = HMQ_EVENT_INIT;

    make_fixture();
    make_garbage();
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++)
        tries[i]();

    /* The fixture has come through all of it. */
    publish(fixture.hub, "tasks.y", "two");
    CHECK(hmq_msg_payload(fixture.msg, NULL) != NULL);
    CHECK_NUMBER(hmq_error_status(fixture.error), HMQ_E_ABI);
    event.msg = fixture.msg;
    hmq_events_clear(&event, 1);
    hmq_error_free(fixture.error);
    hmq_sub_free(fixture.sub);
    hmq_pub_free(fixture.pub);
    hmq_inbox_free(fixture.inbox);
    hmq_sink_free(fixture.sink);
    hmq_broker_free(fixture.broker);
    close_hub(fixture.hub);
    return result();
}
