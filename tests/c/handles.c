/* Proves: an error names both types; a stale handle never names a later object; useless frees are
 * counted and harmless; closed objects answer HMQ_E_CLOSED; timeouts are checked; and opening and
 * closing again and again leaves descriptors, threads and memory as they were.
 * Rows of docs/bad-input.md: B10-B15, B42. */
#include <limits.h>
#include <stdint.h>

#include "check.h"

static hmq_verdict take(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    return HMQ_ACK;
}

static void types_are_named(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_sub *sub = NULL;

    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, take, NULL, NULL, -1, &sub, &err), HMQ_OK);
    FAILS(hmq_hub_flush((hmq_hub *)(void *)sub, 0, &err), HMQ_E_HANDLE, "hmq_sub");
    FAILS(hmq_hub_flush((hmq_hub *)(void *)sub, 0, &err), HMQ_E_HANDLE, "hmq_hub");
    FAILS(hmq_sub_wait((hmq_sub *)(void *)hub, 0, &err), HMQ_E_HANDLE, "hmq_hub");
    hmq_sub_free(sub);
    close_hub(hub);
}

static void stale_handles_stay_stale(void)
{
    long rounds = scaled(1000000);
    hmq_error *first = NULL;

    CHECK(hmq_abi_check(0, &first) == HMQ_E_ABI);
    hmq_error_free(first);
    for (long i = 0; i < rounds; i++) {
        hmq_error *next = NULL;
        CHECK(hmq_abi_check(0, &next) == HMQ_E_ABI);
        if (next == first || hmq_error_status(first) != HMQ_E_HANDLE) {
            CHECK(!"a freed handle came back");
            break;
        }
        hmq_error_free(next);
    }
}

static void useless_frees_are_counted(void)
{
    hmq_hub *hub = open_hub("{}");
    uint64_t before;
    char *text = NULL;
    size_t len = 0;
    int local = 0;

    STATUS(hmq_health(hub, &text, &len, &err), HMQ_OK);
    REQUIRE(text != NULL);
    CHECK_NUMBER(strlen(text), len);

    before = hmq_useless_frees();
    hmq_free(text + 1);
    hmq_free(&local);
    CHECK_NUMBER(hmq_useless_frees() - before, 2);
    CHECK_TEXT(text, "backends");
    hmq_free(text);
    hmq_free(text);
    hmq_free(NULL);
    CHECK_NUMBER(hmq_useless_frees() - before, 3);

    close_hub(hub);
    before = hmq_useless_frees();
    hmq_hub_free(hub);
    hmq_hub_free((hmq_hub *)(void *)&local);
    hmq_hub_free(NULL);
    hmq_sub_free(NULL);
    hmq_pub_free(NULL);
    hmq_msg_free(NULL);
    hmq_inbox_free(NULL);
    hmq_broker_free(NULL);
    hmq_sink_free(NULL);
    hmq_error_free(NULL);
    hmq_events_clear(NULL, 3);
    CHECK_NUMBER(hmq_useless_frees() - before, 2);
}

static void closed_objects_say_so(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_sub *sub = NULL;
    hmq_sub *task = NULL;
    hmq_pub *pub = NULL;
    hmq_inbox *inbox = NULL;
    hmq_inbox *none = NULL;
    hmq_event event = HMQ_EVENT_INIT;
    hmq_record record = HMQ_RECORD_INIT;
    size_t count = 0;
    char *text = NULL;

    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, take, NULL, NULL, -1, &task, &err), HMQ_OK);
    STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK);
    STATUS(hmq_subscribe_inbox(hub, "{\"topic\":\"events.t\"}", 20, inbox, 1, -1, &sub, &err), HMQ_OK);
    STATUS(hmq_pub_new(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, &pub, &err), HMQ_OK);

    STATUS(hmq_sub_close(task, -1, &err), HMQ_OK);
    STATUS(hmq_sub_close(task, 0, &err), HMQ_OK);
    STATUS(hmq_sub_pause(task, 1), HMQ_E_CLOSED);
    STATUS(hmq_hub_close(hub, -1, &err), HMQ_OK);
    STATUS(hmq_hub_close(hub, 0, &err), HMQ_OK);

    STATUS(hmq_publish(hub, "tasks.t", HMQ_NTS, "x", 1, 0, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_publish_task(hub, "tasks.t", HMQ_NTS, "x", 1, 0, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_publish_event(hub, "events.t", HMQ_NTS, "x", 1, NULL, 0, 0, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_publish_json(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, 0, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_pub_send(pub, &record, 0, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_cancel(hub, 1), HMQ_E_CLOSED);
    STATUS(hmq_hub_flush(hub, 0, &err), HMQ_E_CLOSED);
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, take, NULL, NULL, 0, &task, &err), HMQ_E_CLOSED);
    STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &none, &err), HMQ_E_CLOSED);
    STATUS(hmq_declare(hub, "{\"name\":\"tasks.t\"}", HMQ_NTS, 0, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_describe(hub, NULL, 0, 0, &text, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_dead_letters(hub, NULL, 0, 0, &text, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_on_state(hub, NULL, NULL, NULL, &err), HMQ_E_CLOSED);
    STATUS(hmq_backend_force(hub, "embedded", HMQ_NTS, HMQ_FORCE_DOWN, &err), HMQ_E_CLOSED);
    STATUS(hmq_wait_forwarded(hub, 0, &err), HMQ_E_CLOSED);
    STATUS(hmq_sub_seek(sub, "{\"to\":\"latest\"}", HMQ_NTS, 0, &err), HMQ_E_CLOSED);
    STATUS(hmq_sub_request(sub, 1), HMQ_E_CLOSED);

    /* Its health says so, and its inbox hands out the end of the subscription before it is over. */
    STATUS(hmq_health(hub, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"closed\":true");
    hmq_free(text);
    STATUS(hmq_inbox_poll(inbox, &event, 1, DEADLINE_MS, &count), HMQ_OK);
    CHECK_NUMBER(event.kind, HMQ_EV_END);
    CHECK_NUMBER(event.tag, 1);
    hmq_events_clear(&event, count);
    STATUS(hmq_inbox_poll(inbox, &event, 1, -1, &count), HMQ_CLOSED);

    hmq_hub_free(hub);
    hmq_inbox_free(inbox);
    hmq_sub_free(sub);
    hmq_pub_free(pub);
}

static void children_outlive_a_freed_hub(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_sub *sub = NULL;
    hmq_pub *pub = NULL;
    hmq_record record = HMQ_RECORD_INIT;
    long long start;

    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, take, NULL, NULL, -1, &sub, &err), HMQ_OK);
    STATUS(hmq_pub_new(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, &pub, &err), HMQ_OK);
    start = now_ms();
    hmq_hub_free(hub);
    CHECK(!figures_count() || now_ms() - start < 1000);
    FAILS(hmq_hub_flush(hub, 0, &err), HMQ_E_HANDLE, "freed");
    /* The close runs on a thread of the library; until it is done the children may still work. */
    EVENTUALLY(hmq_pub_send(pub, &record, 0, NULL, NULL) == HMQ_E_CLOSED);
    STATUS(hmq_sub_wait(sub, DEADLINE_MS, &err), HMQ_OK);
    hmq_pub_free(pub);
    hmq_sub_free(sub);
    STATUS(hmq_shutdown(DEADLINE_MS, &err), HMQ_OK);
}

static void timeouts(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_hub *other = NULL;

    FAILS(hmq_publish(hub, "tasks.t", HMQ_NTS, "x", 1, -2, NULL, &err), HMQ_E_ARG, "timeout_ms");
    STATUS(hmq_publish(hub, "tasks.t", HMQ_NTS, "x", 1, INT_MIN, NULL, &err), HMQ_E_ARG);
    STATUS(hmq_publish(hub, "tasks.t", HMQ_NTS, "x", 1, INT_MAX, NULL, &err), HMQ_OK);
    STATUS(hmq_publish(hub, "tasks.t", HMQ_NTS, "x", 1, 0, NULL, &err), HMQ_OK);
    STATUS(hmq_hub_wait(hub, 0, &err), HMQ_E_TIMEOUT);
    STATUS(hmq_hub_wait(hub, -2, &err), HMQ_E_ARG);
    STATUS(hmq_hub_flush(hub, INT_MAX, &err), HMQ_OK);
    STATUS(hmq_hub_open("{}", HMQ_NTS, -2, &other, &err), HMQ_E_ARG);
    CHECK(other == NULL);
    STATUS(hmq_clock_advance(hub, 1, &err), HMQ_E_STATE);
    STATUS(hmq_clock_advance(hub, -1, &err), HMQ_E_ARG);
    STATUS(hmq_clock_advance(hub, INT64_MIN, &err), HMQ_E_ARG);
    STATUS(hmq_hub_close(hub, INT_MIN, &err), HMQ_E_ARG);
    close_hub(hub);
}

static void open_and_close(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_sub *sub = NULL;
    hmq_inbox *inbox = NULL;

    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.t\"}", HMQ_NTS, take, NULL, NULL, -1, &sub, &err), HMQ_OK);
    STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK);
    CHECK(hmq_inbox_fd(inbox) >= 0);
    publish(hub, "tasks.t", "x");
    publish(hub, "events.t", "x");
    STATUS(hmq_hub_close(hub, -1, &err), HMQ_OK);
    hmq_inbox_free(inbox);
    hmq_sub_free(sub);
    hmq_hub_free(hub);
}

static void cycles_leave_nothing(long rounds)
{
    int fds, threads;
    long rss;

    for (int i = 0; i < 200 && i < rounds; i++)
        open_and_close();
    fds = open_fds();
    threads = live_threads();
    rss = rss_kib();
    for (long i = 0; i < rounds; i++)
        open_and_close();
    CHECK_NUMBER(open_fds(), fds);
    EVENTUALLY(live_threads() <= threads);
    if (figures_count() && rss_kib() > rss + 4096)
        CHECK_NUMBER(rss_kib(), rss);
}

int main(int argc, char **argv)
{
    types_are_named();
    stale_handles_stay_stale();
    useless_frees_are_counted();
    closed_objects_say_so();
    children_outlive_a_freed_hub();
    timeouts();
    cycles_leave_nothing(argc > 1 ? atol(argv[1]) : scaled(100000));
    return result();
}
