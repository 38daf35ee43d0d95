/* Proves: a callback may call everything; what would wait for itself answers HMQ_E_REENTRANT at
 * once; a subscription may be freed inside its own callback and another one closed there; drop
 * runs exactly once, after the last call, also when registering failed; a blocked handler delays
 * nobody else; and what is no verdict settles nothing.
 * Rows of docs/bad-input.md: B18, B31-B34, B36, F42. */
#include "check.h"

#define TASK_OPTIONS "{\"topic\":\"tasks.c\",\"retry\":{\"delay_ms\":0,\"attempts\":100}}"

struct listener {
    hmq_hub *hub;
    hmq_sub *own;
    hmq_sub *other;
    atomic_int calls;
    atomic_int drops;
    atomic_int called_after_drop;
    atomic_int blocked;
    atomic_int go;
    pthread_mutex_t lock;
};

static void note_call(struct listener *listener)
{
    listener->calls++;
    if (listener->drops > 0)
        listener->called_after_drop++;
}

static void note_drop(void *user_data)
{
    struct listener *listener = user_data;
    listener->drops++;
}

static void ended_well(struct listener *listener)
{
    EVENTUALLY(listener->drops == 1);
    CHECK_NUMBER(listener->drops, 1);
    CHECK_NUMBER(listener->called_after_drop, 0);
}

static hmq_sub *subscribe(struct listener *listener, const char *options, hmq_msg_fn handler)
{
    hmq_sub *sub = NULL;
    REQUIRE(STATUS(hmq_subscribe(listener->hub, options, HMQ_NTS, handler, listener, note_drop, -1, &sub, &err), HMQ_OK));
    return sub;
}

/* 1: everything from a callback. */

static hmq_verdict everything(hmq_msg *msg, void *user_data)
{
    struct listener *listener = user_data;
    hmq_hub *hub = listener->hub;
    hmq_sub *sub = NULL;
    hmq_pub *pub = NULL;
    hmq_inbox *inbox = NULL;
    hmq_record record = HMQ_RECORD_INIT;
    char *text = NULL;

    if (listener->calls == 0) {
        publish(hub, "tasks.c", "again");
        publish(hub, "events.c", "event");
        STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.else\"}", HMQ_NTS, everything, NULL, NULL, -1, &sub, &err), HMQ_OK);
        STATUS(hmq_sub_close(sub, -1, &err), HMQ_OK);
        hmq_sub_free(sub);
        STATUS(hmq_pub_new(hub, "{\"topic\":\"tasks.else\"}", HMQ_NTS, &pub, &err), HMQ_OK);
        STATUS(hmq_pub_send(pub, &record, -1, NULL, &err), HMQ_OK);
        hmq_pub_free(pub);
        STATUS(hmq_inbox_new(hub, NULL, 0, &inbox, &err), HMQ_OK);
        hmq_inbox_free(inbox);
        STATUS(hmq_metrics(hub, HMQ_METRICS_PROMETHEUS, &text, NULL, &err), HMQ_OK);
        hmq_free(text);
        STATUS(hmq_health(hub, &text, NULL, &err), HMQ_OK);
        hmq_free(text);
        STATUS(hmq_describe(hub, NULL, 0, -1, &text, NULL, &err), HMQ_OK);
        hmq_free(text);
        STATUS(hmq_sub_progress(listener->own, &text, NULL, &err), HMQ_OK);
        hmq_free(text);
        STATUS(hmq_sub_pause(listener->own, 0), HMQ_OK);

        STATUS(hmq_hub_close(hub, -1, &err), HMQ_E_REENTRANT);
        STATUS(hmq_hub_wait(hub, -1, &err), HMQ_E_REENTRANT);
        STATUS(hmq_sub_close(listener->own, -1, &err), HMQ_E_REENTRANT);
        STATUS(hmq_sub_wait(listener->own, -1, &err), HMQ_E_REENTRANT);
        STATUS(hmq_settle(hmq_msg_token(msg), HMQ_ACK, 0, NULL, 0, &err), HMQ_OK);
        note_call(listener);
        return HMQ_LATER;
    }
    note_call(listener);
    return HMQ_ACK;
}

static void reentrancy(void)
{
    struct listener listener = {.hub = open_hub("{}")};

    listener.own = subscribe(&listener, TASK_OPTIONS, everything);
    publish(listener.hub, "tasks.c", "first");
    EVENTUALLY(listener.calls == 2);
    STATUS(hmq_hub_close(listener.hub, -1, &err), HMQ_OK);
    hmq_sub_free(listener.own);
    ended_well(&listener);
    hmq_hub_free(listener.hub);
}

/* 2: free of oneself, close of another. */

static hmq_verdict free_self(hmq_msg *msg, void *user_data)
{
    struct listener *listener = user_data;
    (void)msg;
    note_call(listener);
    STATUS(hmq_sub_close(listener->other, -1, &err), HMQ_OK);
    hmq_sub_free(listener->own);
    breathe();
    CHECK_NUMBER(listener->drops, 0);
    return HMQ_ACK;
}

static hmq_verdict plain(hmq_msg *msg, void *user_data)
{
    (void)msg;
    note_call(user_data);
    return HMQ_ACK;
}

static void freed_inside(void)
{
    struct listener listener = {.hub = open_hub("{}")};
    struct listener other = {.hub = listener.hub};

    listener.other = subscribe(&other, "{\"topic\":\"tasks.other\"}", plain);
    STATUS(hmq_publish(listener.hub, "tasks.c", HMQ_NTS, "x", 1, -1, NULL, &err), HMQ_OK);
    publish(listener.hub, "tasks.c", "y");
    /* The handle is there before the first call: it is paused until then. */
    listener.own = NULL;
    {
        hmq_sub *sub = NULL;
        REQUIRE(STATUS(hmq_subscribe(listener.hub, "{\"topic\":\"tasks.quiet\"}", HMQ_NTS, free_self, &listener, note_drop,
                                     -1, &sub, &err),
                       HMQ_OK));
        listener.own = sub;
    }
    publish(listener.hub, "tasks.quiet", "a");
    publish(listener.hub, "tasks.quiet", "b");
    ended_well(&listener);
    CHECK_NUMBER(listener.calls, 1);
    ended_well(&other);
    CHECK_NUMBER(other.calls, 0);
    hmq_sub_free(listener.other);
    close_hub(listener.hub);
}

/* 3: drop also when it failed. */

static void dropped_on_failure(void)
{
    struct listener listener = {.hub = open_hub("{}")};
    hmq_sub *sub = NULL;
    hmq_pub *pub = NULL;
    hmq_record record = HMQ_RECORD_INIT;

#define FAILED_ONCE(call, want)                                                                     \
    do {                                                                                            \
        listener.drops = 0;                                                                         \
        STATUS(call, want);                                                                         \
        CHECK_NUMBER(listener.drops, 1);                                                            \
    } while (0)

    FAILED_ONCE(hmq_subscribe(listener.hub, "{", 1, plain, &listener, note_drop, 0, &sub, &err), HMQ_E_CONFIG);
    FAILED_ONCE(hmq_subscribe(listener.hub, TASK_OPTIONS, HMQ_NTS, NULL, &listener, note_drop, 0, &sub, &err), HMQ_E_NULL);
    FAILED_ONCE(hmq_subscribe(NULL, TASK_OPTIONS, HMQ_NTS, plain, &listener, note_drop, 0, &sub, &err), HMQ_E_NULL);
    FAILED_ONCE(hmq_subscribe(listener.hub, TASK_OPTIONS, HMQ_NTS, plain, &listener, note_drop, -5, &sub, &err), HMQ_E_ARG);
    FAILED_ONCE(hmq_subscribe(listener.hub, TASK_OPTIONS, HMQ_NTS, plain, &listener, note_drop, 0, NULL, &err), HMQ_E_NULL);
    publish(listener.hub, "tasks.kind", "x");
    FAILED_ONCE(hmq_subscribe(listener.hub, "{\"topic\":\"tasks.kind\",\"kind\":\"event\"}", HMQ_NTS, plain, &listener,
                              note_drop, 0, &sub, &err),
                HMQ_E_KIND);
    FAILED_ONCE(hmq_replay(listener.hub, "{}", HMQ_NTS, plain, &listener, note_drop, 0, &sub, &err), HMQ_E_CONFIG);
    FAILED_ONCE(hmq_token_provider_set("t", 1, NULL, &listener, note_drop, &err), HMQ_E_NULL);
    FAILED_ONCE(hmq_log_set(99, NULL, &listener, note_drop, &err), HMQ_E_ARG);
    FAILED_ONCE(hmq_on_state(NULL, NULL, &listener, note_drop, &err), HMQ_E_NULL);
    STATUS(hmq_pub_new(listener.hub, "{\"topic\":\"tasks.p\"}", HMQ_NTS, &pub, &err), HMQ_OK);
    record.priority = 99;
    FAILED_ONCE(hmq_pub_send_async(pub, &record, NULL, &listener, note_drop, NULL, &err), HMQ_E_ARG);
    hmq_pub_free(pub);
    close_hub(listener.hub);
}

/* 4: a blocked handler. */

static hmq_verdict block(hmq_msg *msg, void *user_data)
{
    struct listener *listener = user_data;
    (void)msg;
    note_call(listener);
    listener->blocked = 1;
    EVENTUALLY(listener->go);
    return HMQ_ACK;
}

static void blocked_handler(void)
{
    struct listener listener = {.hub = open_hub("{}")};
    struct listener other = {.hub = listener.hub};
    struct listener hooks = {.hub = NULL};
    hmq_sub *free_one;

    listener.own = subscribe(&listener, "{\"topic\":\"tasks.slow\"}", block);
    free_one = subscribe(&other, "{\"topic\":\"tasks.fast\"}", plain);
    publish(listener.hub, "tasks.slow", "x");
    EVENTUALLY(listener.blocked);
    STATUS(hmq_thread_hooks(NULL, NULL, &hooks, note_drop, &err), HMQ_E_STATE);
    CHECK_NUMBER(hooks.drops, 1);
    for (int i = 0; i < 100; i++)
        publish(listener.hub, "tasks.fast", "x");
    EVENTUALLY(other.calls == 100);
    STATUS(hmq_sub_close(listener.own, 0, &err), HMQ_E_TIMEOUT);
    STATUS(hmq_hub_close(listener.hub, 10, &err), HMQ_E_TIMEOUT);
    CHECK_NUMBER(listener.drops, 0);
    listener.go = 1;
    STATUS(hmq_sub_close(listener.own, DEADLINE_MS, &err), HMQ_OK);
    ended_well(&listener);
    hmq_sub_free(free_one);
    hmq_sub_free(listener.own);
    hmq_hub_free(listener.hub);
    ended_well(&other);
}

/* 5: garbage instead of a verdict counts as not settled: the message is retried. */

static _Atomic(hmq_token) first_token;

static hmq_verdict garbage(hmq_msg *msg, void *user_data)
{
    first_token = hmq_msg_token(msg);
    note_call(user_data);
    return 494845024;
}

static void no_verdict(void)
{
    struct listener listener = {.hub = open_hub("{}")};
    char *text = NULL;

    listener.own = subscribe(&listener, "{\"topic\":\"tasks.garbage\",\"retry\":{\"attempts\":2,\"delay_ms\":1}}", garbage);
    publish(listener.hub, "tasks.garbage", "x");
    EVENTUALLY(listener.calls == 2);
    STATUS(hmq_settle(first_token, HMQ_ACK, 0, NULL, 0, &err), HMQ_E_SETTLED);
    STATUS(hmq_metrics(listener.hub, HMQ_METRICS_JSON, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"helixmq_not_settled_total\":");
    hmq_free(text);
    close_hub(listener.hub);
    hmq_sub_free(listener.own);
    ended_well(&listener);
}

/* 6: what the other callbacks may do. */

static void published(hmq_status status, const hmq_receipt *receipt, void *user_data)
{
    struct listener *listener = user_data;
    CHECK_NUMBER(status, HMQ_OK);
    CHECK(receipt != NULL && receipt->backend == HMQ_BACKEND_EMBEDDED);
    publish(listener->hub, "tasks.from.done", "x");
    STATUS(hmq_hub_close(listener->hub, -1, &err), HMQ_E_REENTRANT);
    note_call(listener);
}

static void told(int32_t level, const char *json, size_t len, void *user_data)
{
    struct listener *listener = user_data;
    CHECK(level >= HMQ_LOG_ERROR && level <= HMQ_LOG_DEBUG);
    CHECK_NUMBER(strlen(json), len);
    publish(listener->hub, "tasks.from.text", "x");
    note_call(listener);
}

static void other_callbacks(void)
{
    struct listener done = {.hub = open_hub("{}")};
    struct listener state = {.hub = open_hub("{}")};
    struct listener replaced = {.hub = state.hub};
    hmq_pub *pub = NULL;
    hmq_record record = HMQ_RECORD_INIT;
    uint64_t op = 0;

    STATUS(hmq_pub_new(done.hub, "{\"topic\":\"tasks.async\"}", HMQ_NTS, &pub, &err), HMQ_OK);
    for (int i = 0; i < 50; i++)
        STATUS(hmq_pub_send_async(pub, &record, published, &done, NULL, &op, &err), HMQ_OK);
    STATUS(hmq_pub_send_async(pub, &record, published, &done, note_drop, NULL, &err), HMQ_OK);
    STATUS(hmq_hub_flush(done.hub, DEADLINE_MS, &err), HMQ_OK);
    CHECK_NUMBER(done.calls, 51);
    CHECK(op != 0);
    STATUS(hmq_cancel(done.hub, op), HMQ_E_NOT_FOUND);
    hmq_pub_free(pub);
    close_hub(done.hub);
    ended_well(&done);

    STATUS(hmq_on_state(state.hub, told, &replaced, note_drop, &err), HMQ_OK);
    STATUS(hmq_on_state(state.hub, told, &state, note_drop, &err), HMQ_OK);
    ended_well(&replaced);
    STATUS(hmq_on_state(state.hub, NULL, NULL, NULL, &err), HMQ_OK);
    ended_well(&state);
    close_hub(state.hub);
}

/* 7: the end of everything cannot be waited for from inside. */

static hmq_verdict shut_down(hmq_msg *msg, void *user_data)
{
    (void)msg;
    STATUS(hmq_shutdown(-1, &err), HMQ_E_REENTRANT);
    STATUS(hmq_shutdown(0, &err), HMQ_E_REENTRANT);
    note_call(user_data);
    return HMQ_ACK;
}

static void shutdown_inside(void)
{
    struct listener listener = {.hub = open_hub("{}")};

    listener.own = subscribe(&listener, "{\"topic\":\"tasks.shut\"}", shut_down);
    publish(listener.hub, "tasks.shut", "x");
    EVENTUALLY(listener.calls == 1);
    REQUIRE(listener.calls == 1);
    close_hub(listener.hub);
    hmq_sub_free(listener.own);
    ended_well(&listener);
}

int main(void)
{
    reentrancy();
    freed_inside();
    dropped_on_failure();
    blocked_handler();
    no_verdict();
    other_callbacks();
    shutdown_inside();
    return result();
}
