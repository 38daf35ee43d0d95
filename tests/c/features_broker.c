/* Proves, from end to end: a broker made alone is given to a hub by role; a broker written in C gets
 * every publish once and completes it, delivers, is told every verdict, may be lost, full and slow,
 * and is dropped after its last call; and what its sink is told wrongly is a code. */
#include "check.h"

enum { TICKETS = 64 };

struct own_broker {
    hmq_sink *sink;
    pthread_mutex_t lock;
    uint64_t tickets[TICKETS];
    int ticket_count;
    char last_payload[64];
    hmq_status answer;
    int complete_at_once;
    atomic_int connects, publishes, subscribes, unsubscribes, acks, retries, closes, drops, calls_after_drop;
    atomic_ullong sub;
};

static void called(struct own_broker *broker, atomic_int *counter)
{
    if (broker->drops > 0)
        broker->calls_after_drop++;
    ++*counter;
}

static hmq_status on_connect(int32_t timeout_ms, void *user_data)
{
    struct own_broker *broker = user_data;
    CHECK(timeout_ms >= 0);
    called(broker, &broker->connects);
    return HMQ_OK;
}

static hmq_status on_publish(const hmq_record *record, uint64_t seq, uint64_t ticket, void *user_data)
{
    struct own_broker *broker = user_data;
    (void)seq;
    called(broker, &broker->publishes);
    if (broker->answer != HMQ_OK)
        return broker->answer;
    snprintf(broker->last_payload, sizeof broker->last_payload, "%.*s/%.*s", (int)record->topic_len, record->topic,
             (int)record->payload_len, (const char *)record->payload);
    if (broker->complete_at_once) {
        STATUS(hmq_sink_complete(broker->sink, ticket, HMQ_OK), HMQ_OK);
    } else {
        pthread_mutex_lock(&broker->lock);
        if (broker->ticket_count < TICKETS)
            broker->tickets[broker->ticket_count++] = ticket;
        pthread_mutex_unlock(&broker->lock);
    }
    return HMQ_OK;
}

static hmq_status on_subscribe(const char *pattern, int32_t kind, const char *group, uint32_t prefetch, uint64_t sub,
                               void *user_data)
{
    struct own_broker *broker = user_data;
    CHECK_NUMBER(strcmp(pattern, "tasks.own"), 0);
    CHECK_NUMBER(kind, HMQ_TASK);
    CHECK(group != NULL && prefetch > 0);
    broker->sub = sub;
    called(broker, &broker->subscribes);
    return HMQ_OK;
}

static void on_unsubscribe(uint64_t sub, void *user_data)
{
    struct own_broker *broker = user_data;
    CHECK_NUMBER(sub, broker->sub);
    called(broker, &broker->unsubscribes);
}

static void on_settle(uint64_t sub, uint64_t their_token, hmq_verdict verdict, int64_t delay_ms, void *user_data)
{
    struct own_broker *broker = user_data;
    (void)delay_ms;
    CHECK_NUMBER(sub, broker->sub);
    CHECK(their_token >= 1000);
    called(broker, verdict == HMQ_ACK ? &broker->acks : &broker->retries);
}

static hmq_status on_close(int32_t timeout_ms, void *user_data)
{
    struct own_broker *broker = user_data;
    (void)timeout_ms;
    called(broker, &broker->closes);
    return HMQ_OK;
}

static void on_drop(void *user_data) { ((struct own_broker *)user_data)->drops++; }

static hmq_verdict take(hmq_msg *msg, void *user_data)
{
    (void)msg;
    ++*(atomic_int *)user_data;
    return HMQ_ACK;
}

static hmq_status deliver(struct own_broker *broker, uint64_t sub, uint64_t token)
{
    hmq_record record = HMQ_RECORD_INIT;
    record.topic = "tasks.own";
    record.topic_len = HMQ_NTS;
    record.payload = "from C";
    record.payload_len = 6;
    return hmq_sink_deliver(broker->sink, &record, sub, token, 1);
}

static void *complete_the_first(void *user_data)
{
    struct own_broker *broker = user_data;
    uint64_t ticket;
    EVENTUALLY(broker->publishes > 0 && broker->ticket_count > 0);
    pthread_mutex_lock(&broker->lock);
    ticket = broker->tickets[0];
    broker->ticket_count = 0;
    pthread_mutex_unlock(&broker->lock);
    STATUS(hmq_sink_complete(broker->sink, ticket, HMQ_OK), HMQ_OK);
    STATUS(hmq_sink_complete(broker->sink, ticket, HMQ_OK), HMQ_E_NOT_FOUND);
    return NULL;
}

static void publishing(hmq_hub *hub, struct own_broker *broker)
{
    hmq_receipt receipt = HMQ_RECEIPT_INIT;
    pthread_t thread;

    broker->complete_at_once = 1;
    STATUS(hmq_publish(hub, "tasks.own", HMQ_NTS, "one", 3, DEADLINE_MS, &receipt, &err), HMQ_OK);
    CHECK_NUMBER(strcmp(broker->last_payload, "tasks.own/one"), 0);
    CHECK_NUMBER(receipt.level, HMQ_LEVEL_BROKER);
    CHECK_NUMBER(receipt.backend, HMQ_BACKEND_CUSTOM);

    broker->complete_at_once = 0;
    broker->publishes = 0;
    REQUIRE(pthread_create(&thread, NULL, complete_the_first, broker) == 0);
    STATUS(hmq_publish(hub, "tasks.own", HMQ_NTS, "two", 3, DEADLINE_MS, NULL, &err), HMQ_OK);
    pthread_join(thread, NULL);

    broker->answer = HMQ_E_REFUSED;
    STATUS(hmq_publish(hub, "tasks.own", HMQ_NTS, "no", 2, DEADLINE_MS, NULL, &err), HMQ_E_REFUSED);
    broker->answer = HMQ_E_FULL;
    CHECK(hmq_publish(hub, "tasks.own", HMQ_NTS, "full", 4, 20, NULL, NULL) < 0);
    broker->answer = HMQ_OK;

    /* Taken, and never completed: nobody can tell. */
    FAILS(hmq_publish(hub, "tasks.own", HMQ_NTS, "lost", 4, 20, NULL, &err), HMQ_E_OUTCOME_UNKNOWN, "\"unknown\"");
    broker->complete_at_once = 1;
    /* Events go where the role sends them: to the embedded broker. */
    STATUS(hmq_publish(hub, "events.own", HMQ_NTS, "e", 1, DEADLINE_MS, &receipt, &err), HMQ_OK);
    CHECK_NUMBER(receipt.backend, HMQ_BACKEND_EMBEDDED);
}

static void consuming(hmq_hub *hub, struct own_broker *broker)
{
    atomic_int handled = 0;
    hmq_sub *sub = NULL;

    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.own\"}", HMQ_NTS, take, &handled, NULL, DEADLINE_MS, &sub, &err), HMQ_OK);
    CHECK_NUMBER(broker->subscribes, 1);
    for (uint64_t token = 1000; token < 1010; token++)
        STATUS(deliver(broker, broker->sub, token), HMQ_OK);
    EVENTUALLY(handled == 10 && broker->acks == 10);
    STATUS(deliver(broker, broker->sub + 1, 1), HMQ_E_NOT_FOUND);
    STATUS(hmq_sub_close(sub, DEADLINE_MS, &err), HMQ_OK);
    EVENTUALLY(broker->unsubscribes == 1);
    STATUS(deliver(broker, broker->sub, 2000), HMQ_E_NOT_FOUND);
    hmq_sub_free(sub);
}

static void written_in_c(void)
{
    static struct own_broker broker;
    hmq_broker_ops ops = HMQ_BROKER_OPS_INIT;
    hmq_broker *handle = NULL;
    hmq_hub *hub = open_hub("{}");
    hmq_hub *other = open_hub("{}");
    char *text = NULL;

    ops.capabilities = HMQ_CAN_TASKS | HMQ_CAN_HEADERS;
    ops.connect = on_connect;
    ops.publish = on_publish;
    ops.subscribe = on_subscribe;
    ops.unsubscribe = on_unsubscribe;
    ops.settle = on_settle;
    ops.close = on_close;
    STATUS(hmq_broker_custom(&ops, &broker, on_drop, &handle, &broker.sink, &err), HMQ_OK);
    STATUS(deliver(&broker, 1, 1), HMQ_E_STATE);
    STATUS(hmq_hub_set_broker(hub, HMQ_ROLE_FALLBACK, handle, &err), HMQ_E_ARG);
    STATUS(hmq_hub_set_broker(hub, HMQ_ROLE_TASK_QUEUE, handle, &err), HMQ_OK);
    CHECK_NUMBER(broker.connects, 1);
    STATUS(hmq_hub_set_broker(other, HMQ_ROLE_TASK_QUEUE, handle, &err), HMQ_E_STATE);
    STATUS(hmq_broker_health(handle, 1000, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "custom");
    hmq_free(text);
    hmq_broker_free(handle);

    publishing(hub, &broker);
    STATUS(hmq_hub_set_broker(hub, HMQ_ROLE_EVENT_STREAM, handle, &err), HMQ_E_HANDLE);
    consuming(hub, &broker);

    STATUS(hmq_sink_event(broker.sink, 99, NULL, 0), HMQ_E_ARG);
    STATUS(hmq_sink_event(broker.sink, HMQ_SINK_LOST, "{", 1), HMQ_E_CONFIG);
    STATUS(hmq_sink_complete(broker.sink, 1, 77), HMQ_E_ARG);
    STATUS(hmq_sink_event(broker.sink, HMQ_SINK_LOST, "{\"reason\":\"cable\"}", HMQ_NTS), HMQ_OK);
    EVENTUALLY(hmq_publish(hub, "tasks.own", HMQ_NTS, "x", 1, 0, NULL, NULL) == HMQ_E_BACKEND_DOWN || broker.connects > 1);

    close_hub(hub);
    CHECK_NUMBER(broker.closes, 1);
    STATUS(deliver(&broker, broker.sub, 1), HMQ_E_CLOSED);
    hmq_sink_free(broker.sink);
    EVENTUALLY(broker.drops == 1);
    CHECK_NUMBER(broker.calls_after_drop, 0);
    close_hub(other);
}

static void embedded_ones(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_broker *tasks = NULL, *fallback = NULL;
    char *text = NULL;
    hmq_sub *sub = NULL;
    atomic_int handled = 0;

    STATUS(hmq_broker_open("{\"backend\":\"embedded\"}", HMQ_NTS, 1000, &tasks, &err), HMQ_OK);
    STATUS(hmq_broker_open("{\"backend\":\"embedded\",\"partitions\":2}", HMQ_NTS, 1000, &fallback, &err), HMQ_OK);
    STATUS(hmq_broker_health(tasks, 1000, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "embedded");
    hmq_free(text);
    STATUS(hmq_hub_set_broker(hub, HMQ_ROLE_TASK_QUEUE, tasks, &err), HMQ_OK);
    STATUS(hmq_hub_set_broker(hub, HMQ_ROLE_FALLBACK, fallback, &err), HMQ_OK);
    hmq_broker_free(tasks);
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.x\"}", HMQ_NTS, take, &handled, NULL, -1, &sub, &err), HMQ_OK);
    publish(hub, "tasks.x", "1");
    publish(hub, "events.x", "1");
    EVENTUALLY(handled == 1);
    STATUS(hmq_hub_set_broker(hub, HMQ_ROLE_EVENT_STREAM, fallback, &err), HMQ_E_STATE);
    hmq_broker_free(fallback);
    hmq_sub_free(sub);
    close_hub(hub);
    /* Made and never used. */
    STATUS(hmq_broker_open("{\"backend\":\"embedded\"}", HMQ_NTS, 0, &tasks, &err), HMQ_OK);
    hmq_broker_free(tasks);
}

int main(void)
{
    written_in_c();
    embedded_ones();
    return result();
}
