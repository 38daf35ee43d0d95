/* Proves: no sequence of calls, with arguments made of arbitrary bytes, crashes, hangs or panics.
 * Fixed seeds in the suite; `fuzz SECONDS [SEED]` goes on with new ones and prints the seed of a
 * failure. Each sequence is 50 calls on objects of an embedded hub, and bytes as documents.
 * Rows of docs/bad-input.md: B50. */
#include <stdint.h>

#include "check.h"

enum { CALLS = 50, KEPT = 4 };

static uint64_t state;

static uint32_t pick(uint32_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static struct {
    hmq_hub *hub[KEPT];
    hmq_sub *sub[KEPT];
    hmq_pub *pub[KEPT];
    hmq_inbox *inbox[KEPT];
    hmq_msg *msg[KEPT];
    hmq_broker *broker[KEPT];
    hmq_token token[KEPT];
} kept;

static const char *const fragments[] = {
    "{", "}", "[", "]", ":", ",", "\"", "\"topic\":", "\"tasks.f\"", "\"events.f\"", "\"#\"", "\"kind\":", "\"task\"",
    "\"event\"", "\"prefetch\":", "\"group\":", "null", "true", "-1", "0", "1e9", "18446744073709551616", "\"retry\":",
    "{\"attempts\":1}", "\"delay_ms\":", "\"start\":", "\"earliest\"", "{\"offset\":1}", "\"filter\":", "\"headers\":",
    "\"payload\":", "\"payload_base64\":", "\"AAAA\"", "\"from\":", "\"to\":", "\"dry_run\":", "\"action\":", "\"redrive\"",
    "\"name\":", "\"pattern\":", "\"credit\":", "\"manual\"", "\"\\ud800\"", "\xFF", "\xC3\xA4", " ", "\n", "\\", "\"lease_ms\":"};

static const char *const documents[] = {
    "{}", "{\"topic\":\"tasks.f\"}", "{\"topic\":\"events.f\"}", "{\"topic\":\"events.*\",\"kind\":\"event\"}",
    "{\"topic\":\"tasks.f\",\"retry\":{\"delay_ms\":0,\"attempts\":2}}", "{\"topic\":\"tasks.f\",\"credit\":\"manual\"}",
    "{\"name\":\"tasks.f\"}", "{\"name\":\"events.f\",\"partitions\":3}", "{\"action\":\"redrive\"}", "{\"action\":\"discard\"}",
    "{\"topic\":\"events.f\",\"group\":null}", "{\"topic\":\"tasks.f\",\"payload\":1}", "{\"to\":\"earliest\"}",
    "{\"topic\":\"events.f\",\"from\":1,\"dry_run\":true}", "{\"clock\":\"virtual\"}", "{\"backend\":\"embedded\"}",
    "{\"topic\":\"tasks.f\",\"lease_ms\":1}", "{\"capacity\":2,\"signal\":\"socket\"}", "{\"topic\":\"tasks.f.dlq\"}"};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* A document that is right, wrong in one byte, put together of pieces, or noise. */
static const char *document(size_t *len)
{
    static char text[600];
    size_t at = 0;

    switch (pick(6)) {
    case 0:
        for (uint32_t parts = pick(20); parts > 0 && at < 400; parts--) {
            const char *part = fragments[pick(COUNT(fragments))];
            memcpy(text + at, part, strlen(part));
            at += strlen(part);
        }
        break;
    case 1:
        for (at = 0; at < pick(100); at++)
            text[at] = (char)pick(256);
        break;
    default:
        strcpy(text, documents[pick(COUNT(documents))]);
        at = strlen(text);
        if (pick(4) == 0)
            text[pick((uint32_t)at)] = (char)pick(256);
    }
    *len = at;
    return pick(40) == 0 ? NULL : text;
}

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    static const hmq_verdict verdicts[] = {HMQ_ACK, HMQ_RETRY, HMQ_REJECT, HMQ_LATER, 0};
    (void)user_data;
    return verdicts[hmq_msg_token(msg) % 5];
}

static const char *name(size_t *len)
{
    static const char *const names[] = {"tasks.f", "events.f", "tasks.f.dlq", "", "..", "amq.x", "a\0b", "\xFFx", "other"};
    const char *one = names[pick(COUNT(names))];
    *len = pick(8) == 0 ? pick(4) : HMQ_NTS;
    if (*len != HMQ_NTS && *len > strlen(one) + 1)
        *len = strlen(one);
    return pick(40) == 0 ? NULL : one;
}

static hmq_record some_record(void)
{
    static char payload[5000];
    hmq_record record = HMQ_RECORD_INIT;
    static hmq_header headers[3];

    if (pick(2))
        record.topic = name(&record.topic_len);
    record.kind = (int32_t)pick(4) - (int32_t)pick(2);
    record.payload = pick(10) ? payload : NULL;
    record.payload_len = record.payload ? pick(sizeof payload) : pick(2);
    if (pick(2))
        record.key = name(&record.key_len);
    if (pick(4) == 0)
        record.id = name(&record.id_len);
    for (int i = 0; i < 3; i++) {
        headers[i].name = name(&headers[i].name_len);
        headers[i].value = payload;
        headers[i].value_len = pick(100);
    }
    record.headers = headers;
    record.header_count = pick(4);
    record.priority = (int32_t)pick(14) - 2;
    record.delay_ms = pick(4) ? 0 : (int64_t)pick(100) - 1;
    record.ttl_ms = pick(4) ? 0 : (int64_t)pick(100) - 1;
    if (pick(4) == 0)
        record.meta = document(&record.meta_len);
    if (pick(50) == 0)
        record.size = pick(161);
    return record;
}

static hmq_status one_call(void)
{
    uint32_t at = pick(KEPT);
    hmq_hub *hub = kept.hub[pick(KEPT)];
    hmq_sub *sub = kept.sub[pick(KEPT)], *new_sub = NULL;
    hmq_pub *pub = kept.pub[pick(KEPT)], *new_pub = NULL;
    hmq_inbox *inbox = kept.inbox[pick(KEPT)], *new_inbox = NULL;
    hmq_broker *new_broker = NULL;
    hmq_record record = some_record();
    hmq_receipt receipt = HMQ_RECEIPT_INIT;
    hmq_event events[4] = {HMQ_EVENT_INIT};
    uint64_t buffer[400];
    size_t len = 0, count = 0, bytes = 0;
    const char *json = document(&len);
    char *text = NULL;
    hmq_status status = HMQ_OK;

    switch (pick(30)) {
    case 0:
        hmq_hub_free(kept.hub[at]);
        return hmq_hub_open(json, len, 0, &kept.hub[at], NULL);
    case 1: status = hmq_subscribe(hub, json, len, handle, NULL, NULL, 0, &new_sub, NULL); break;
    case 2: status = hmq_subscribe_inbox(hub, json, len, inbox, at, 0, &new_sub, NULL); break;
    case 3: status = hmq_replay(hub, json, len, handle, NULL, NULL, 0, &new_sub, NULL); break;
    case 4: status = hmq_replay_inbox(hub, json, len, inbox, at, 0, &new_sub, NULL); break;
    case 5: status = hmq_pub_new(hub, json, len, &new_pub, NULL); break;
    case 6: status = hmq_inbox_new(hub, json, len, &new_inbox, NULL); break;
    case 7: case 8: case 9: status = hmq_send(hub, &record, 0, &receipt, NULL); break;
    case 10: case 11: status = hmq_pub_send(pub, &record, 0, &receipt, NULL); break;
    case 12: status = hmq_pub_send_inbox(pub, &record, 1, inbox, NULL, NULL, NULL); break;
    case 13: status = hmq_publish_json(hub, json, len, 0, NULL, NULL); break;
    case 14: case 15: case 16:
        status = hmq_inbox_poll(inbox, events, 4, 0, &count);
        for (size_t i = 0; i < count; i++) {
            kept.token[at] = events[i].token;
            if (events[i].msg != NULL && hmq_msg_retain(events[i].msg) == HMQ_OK) {
                hmq_msg_free(kept.msg[at]);
                kept.msg[at] = events[i].msg;
            }
        }
        hmq_events_clear(events, count);
        break;
    case 17: case 18:
        status = hmq_inbox_read(inbox, buffer, pick(sizeof buffer), 0, &bytes, &count);
        if (status == HMQ_OK && pick(2))
            ((char *)buffer)[pick((uint32_t)bytes)] ^= (char)(1 << pick(8));
        if (status == HMQ_OK)
            status = hmq_pub_send_packed(pub, buffer, bytes - (pick(4) == 0), 0, NULL, &count, NULL);
        break;
    case 19: status = hmq_settle(kept.token[at] ^ (pick(5) ? 0 : 1u << pick(31)), HMQ_ACK, 0, NULL, 0, NULL); break;
    case 20: status = hmq_settle(kept.token[at], pick(2) ? HMQ_RETRY : HMQ_REJECT, pick(3), json, len, NULL); break;
    case 21: status = hmq_declare(hub, json, len, 0, NULL, NULL); break;
    case 22: status = pick(2) ? hmq_purge(hub, json, len, 0, NULL, NULL) : hmq_delete(hub, json, len, 0, NULL); break;
    case 23: status = hmq_dead_letters(hub, json, len, 0, &text, NULL, NULL); break;
    case 24: status = hmq_clock_advance(hub, (int64_t)pick(100000), NULL); break;
    case 25: status = pick(2) ? hmq_sub_seek(sub, json, len, 0, NULL) : hmq_sub_request(sub, pick(5)); break;
    case 26: status = pick(2) ? hmq_sub_close(sub, 0, NULL) : hmq_sub_pause(sub, (int32_t)pick(3)); break;
    case 27: status = pick(2) ? hmq_msg_json(kept.msg[at], &text, NULL, NULL) : hmq_extend(kept.token[at], pick(9), NULL); break;
    case 28:
        hmq_broker_free(kept.broker[at]);
        status = hmq_broker_open(json, len, 0, &new_broker, NULL);
        kept.broker[at] = new_broker;
        (void)!hmq_hub_set_broker(hub, (int32_t)pick(5), new_broker, NULL);
        break;
    default: status = pick(2) ? hmq_describe(hub, json, len, 0, &text, NULL, NULL) : hmq_health(hub, &text, NULL, NULL); break;
    }
    hmq_free(text);
#define KEEP(kind)                                                                                  \
    if (new_##kind != NULL) {                                                                       \
        hmq_##kind##_free(kept.kind[at]);                                                           \
        kept.kind[at] = new_##kind;                                                                 \
    }
    KEEP(sub)
    KEEP(pub)
    KEEP(inbox)
    return status;
}

static void sequence(uint64_t seed)
{
    state = seed * 0x9E3779B97F4A7C15u + 1;
    memset(&kept, 0, sizeof kept);
    kept.hub[0] = open_hub("{\"clock\":\"virtual\"}");
    kept.hub[1] = open_hub("{}");
    REQUIRE(hmq_inbox_new(kept.hub[0], NULL, 0, &kept.inbox[0], NULL) == HMQ_OK);
    REQUIRE(hmq_pub_new(kept.hub[0], "{\"topic\":\"tasks.f\"}", HMQ_NTS, &kept.pub[0], NULL) == HMQ_OK);
    for (int i = 0; i < CALLS; i++) {
        hmq_status status = one_call();
        if (status == HMQ_E_PANIC || status == HMQ_E_INTERNAL || strcmp(hmq_status_name(status), "HMQ_E_?") == 0) {
            failures++;
            fprintf(stderr, "seed %llu: call %d answered %s\n", (unsigned long long)seed, i, hmq_status_name(status));
        }
    }
    for (int i = 0; i < KEPT; i++) {
        hmq_sub_free(kept.sub[i]);
        hmq_pub_free(kept.pub[i]);
        hmq_inbox_free(kept.inbox[i]);
        hmq_broker_free(kept.broker[i]);
        hmq_hub_free(kept.hub[i]);
        hmq_msg_free(kept.msg[i]);
    }
}

int main(int argc, char **argv)
{
    long long until = argc > 1 ? now_ms() + atoll(argv[1]) * 1000 : 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : argc > 1 ? (uint64_t)time(NULL) : 1;
    long rounds = scaled(20000);

    for (long i = 0; until > 0 ? now_ms() < until : i < rounds; i++)
        sequence(seed + (uint64_t)i);
    return result();
}
