/* Proves: many threads may do everything at once with shared objects while others close and free
 * them: nothing crashes, nothing hangs, and every answer is one of the documented codes.
 * Rows of docs/bad-input.md: B41. */
#include <stdint.h>

#include "check.h"

enum { HUBS = 4, SLOTS = 16 };

/* Handles come and go here without any lock: a stale one is part of the test. */
static struct {
    _Atomic(hmq_hub *) hub[HUBS];
    _Atomic(hmq_sub *) sub[SLOTS];
    _Atomic(hmq_pub *) pub[SLOTS];
    _Atomic(hmq_inbox *) inbox[SLOTS];
    _Atomic(hmq_msg *) msg[SLOTS];
    _Atomic(uint64_t) token[SLOTS];
} shared;

static atomic_int drops, registered;
static long rounds;

static void count_drop(void *user_data)
{
    (void)user_data;
    drops++;
}

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    static const hmq_verdict verdicts[] = {HMQ_ACK, HMQ_ACK, HMQ_RETRY, HMQ_REJECT, HMQ_LATER, 7};
    uint32_t state = (uint32_t)hmq_msg_token(msg) * 2654435761u + 1;
    uint32_t pick = next_random(&state);
    (void)user_data;
    shared.token[pick % SLOTS] = hmq_msg_token(msg);
    if (pick % 5 == 0 && hmq_msg_retain(msg) == HMQ_OK)
        hmq_msg_free(atomic_exchange(&shared.msg[pick % SLOTS], msg));
    return verdicts[(pick >> 8) % 6];
}

static void done(hmq_status status, const hmq_receipt *receipt, void *user_data)
{
    (void)status, (void)receipt, (void)user_data;
}

/* What random calls may answer; anything else is a defect. */
static void allowed(hmq_status status, int op)
{
    switch (status) {
    case HMQ_OK: case HMQ_NO_DATA: case HMQ_CLOSED: case HMQ_PARTIAL: case HMQ_E_NULL: case HMQ_E_HANDLE:
    case HMQ_E_CLOSED: case HMQ_E_STALE: case HMQ_E_SETTLED: case HMQ_E_FULL: case HMQ_E_TIMEOUT: case HMQ_E_STATE:
    case HMQ_E_NOT_FOUND: case HMQ_E_CANCELLED: case HMQ_E_BACKEND_DOWN: case HMQ_E_CONFLICT: case HMQ_E_TOO_LARGE:
    case HMQ_E_RESOURCES: case HMQ_E_CONFIG: case HMQ_E_ARG:
        return;
    default:
        failures++;
        fprintf(stderr, "operation %d answered %s\n", op, hmq_status_name(status));
    }
}

static const char *const topics[] = {"tasks.a", "tasks.b", "events.a", "events.b"};

static hmq_status make(uint32_t pick, hmq_hub *hub)
{
    char options[160];
    hmq_sub *sub = NULL;
    hmq_pub *pub = NULL;
    hmq_inbox *inbox = NULL;
    const char *topic = topics[(pick >> 8) % 4];
    size_t slot = (pick >> 12) % SLOTS;
    hmq_status status;

    switch (pick % 4) {
    case 0:
        snprintf(options, sizeof options, "{\"topic\":\"%s\",\"retry\":{\"delay_ms\":1,\"attempts\":3}}", topic);
        registered++;
        status = hmq_subscribe(hub, options, HMQ_NTS, handle, NULL, count_drop, 100, &sub, NULL);
        hmq_sub_free(atomic_exchange(&shared.sub[slot], sub));
        return status;
    case 1:
        snprintf(options, sizeof options, "{\"topic\":\"%s\"}", topic);
        status = hmq_subscribe_inbox(hub, options, HMQ_NTS, shared.inbox[slot], pick, 100, &sub, NULL);
        hmq_sub_free(atomic_exchange(&shared.sub[slot], sub));
        return status;
    case 2:
        snprintf(options, sizeof options, "{\"topic\":\"%s\"}", topic);
        status = hmq_pub_new(hub, options, HMQ_NTS, &pub, NULL);
        hmq_pub_free(atomic_exchange(&shared.pub[slot], pub));
        return status;
    default:
        status = hmq_inbox_new(hub, "{\"capacity\":16}", HMQ_NTS, &inbox, NULL);
        hmq_inbox_free(atomic_exchange(&shared.inbox[slot], inbox));
        return status;
    }
}

static hmq_status send(uint32_t pick, hmq_hub *hub)
{
    hmq_record records[4];
    hmq_record record = HMQ_RECORD_INIT;
    hmq_pub *pub = shared.pub[(pick >> 12) % SLOTS];
    size_t accepted = 0;

    record.payload = "some bytes";
    record.payload_len = 10;
    for (int i = 0; i < 4; i++)
        records[i] = record;
    switch (pick % 6) {
    case 0:
        registered++;
        return hmq_pub_send_async(pub, &record, done, NULL, count_drop, NULL, NULL);
    case 1:
        return hmq_pub_send_batch(pub, records, 4, 10, NULL, &accepted, NULL);
    case 2:
        return hmq_pub_send_inbox(pub, records, 4, shared.inbox[(pick >> 8) % SLOTS], NULL, &accepted, NULL);
    case 3:
        return hmq_pub_send(pub, &record, 10, NULL, NULL);
    case 4:
        return hmq_publish_json(hub, "{\"topic\":\"tasks.a\",\"payload\":{\"a\":1}}", HMQ_NTS, 10, NULL, NULL);
    default:
        return hmq_publish(hub, topics[(pick >> 8) % 4], HMQ_NTS, "x", 1, 10, NULL, NULL);
    }
}

static hmq_status receive(uint32_t pick)
{
    hmq_inbox *inbox = shared.inbox[(pick >> 12) % SLOTS];
    hmq_event events[8] = {HMQ_EVENT_INIT};
    uint64_t buffer[256];
    size_t count = 0, bytes = 0;
    hmq_status status;

    if (pick % 4 == 0)
        return hmq_inbox_read(inbox, buffer, sizeof buffer, (int32_t)(pick >> 8) % 2, &bytes, &count);
    status = hmq_inbox_poll(inbox, events, 8, (int32_t)(pick >> 8) % 2, &count);
    for (size_t i = 0; i < count; i++)
        shared.token[(pick + i) % SLOTS] = events[i].token;
    hmq_events_clear(events, count);
    return status;
}

static hmq_status operate(uint32_t pick, hmq_hub *hub)
{
    hmq_sub *sub = shared.sub[(pick >> 12) % SLOTS];
    hmq_token token = shared.token[(pick >> 12) % SLOTS];
    char *text = NULL;
    hmq_status status = HMQ_OK;

    switch (pick % 16) {
    case 0: status = hmq_health(hub, &text, NULL, NULL); break;
    case 1: status = hmq_metrics(hub, HMQ_METRICS_JSON, &text, NULL, NULL); break;
    case 2: status = hmq_describe(hub, NULL, 0, 10, &text, NULL, NULL); break;
    case 3: status = hmq_dead_letters(hub, "{\"action\":\"redrive\",\"topic\":\"#\",\"limit\":5}", HMQ_NTS, 10, &text, NULL, NULL); break;
    case 4: status = hmq_purge(hub, "{\"name\":\"tasks.b\"}", HMQ_NTS, 10, NULL, NULL); break;
    case 5: status = hmq_sub_progress(sub, &text, NULL, NULL); break;
    case 6: status = hmq_sub_pause(sub, (int32_t)(pick >> 8) % 2); break;
    case 7: status = hmq_sub_close(sub, 1000, NULL); break;
    case 8: hmq_sub_free(atomic_exchange(&shared.sub[(pick >> 8) % SLOTS], NULL)); break;
    case 9: hmq_inbox_free(atomic_exchange(&shared.inbox[(pick >> 8) % SLOTS], NULL)); break;
    case 10: hmq_inbox_wake(shared.inbox[(pick >> 8) % SLOTS]); break;
    case 11: status = hmq_settle(token, HMQ_ACK, 0, NULL, 0, NULL); break;
    case 12: status = hmq_settle(token, HMQ_RETRY, 0, "again", HMQ_NTS, NULL); break;
    case 13: status = hmq_hub_flush(hub, 10, NULL); break;
    case 14: hmq_msg_free(atomic_exchange(&shared.msg[(pick >> 8) % SLOTS], NULL)); break;
    default: status = hmq_delete(hub, "{\"name\":\"tasks.b\"}", HMQ_NTS, 10, NULL); break;
    }
    hmq_free(text);
    return status;
}

static void *mix(void *seed)
{
    uint32_t state = 2463534242u + (uint32_t)atomic_fetch_add((atomic_int *)seed, 1) * 7919;

    for (long i = 0; i < rounds; i++) {
        uint32_t pick = next_random(&state);
        uint32_t what = next_random(&state);
        size_t which = pick % HUBS;
        hmq_hub *hub = shared.hub[which];
        if (pick % 997 == 0) {
            /* Close a hub in everybody's hands, and put a new one there. */
            hmq_hub *next = open_hub("{}");
            hub = atomic_exchange(&shared.hub[which], next);
            allowed(hmq_hub_close(hub, DEADLINE_MS, NULL), 1);
            hmq_hub_free(hub);
        } else if (pick % 1009 == 0) {
            hmq_hub_free(atomic_exchange(&shared.hub[which], open_hub("{}")));
        } else if (pick % 8 == 0) {
            allowed(make(what, hub), 2);
        } else if (pick % 8 < 4) {
            allowed(send(what, hub), 3);
        } else if (pick % 8 < 6) {
            allowed(receive(what), 4);
        } else {
            allowed(operate(what, hub), 100 + (int)(what % 16));
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    atomic_int seed = 1;
    int threads = argc > 1 ? atoi(argv[1]) : figures_count() ? 64 : 8;

    rounds = scaled(1500);
    if (rounds < 60)
        rounds = 60;
    for (int i = 0; i < HUBS; i++)
        shared.hub[i] = open_hub("{}");
    run_threads(threads, mix, &seed);
    for (int i = 0; i < HUBS; i++)
        close_hub(shared.hub[i]);
    for (int i = 0; i < SLOTS; i++) {
        hmq_sub_free(shared.sub[i]);
        hmq_pub_free(shared.pub[i]);
        hmq_inbox_free(shared.inbox[i]);
        hmq_msg_free(shared.msg[i]);
    }
    STATUS(hmq_shutdown(DEADLINE_MS, &err), HMQ_OK);
    EVENTUALLY(drops == registered);
    return result();
}
