/* Proves, from end to end: every group sees every event once and its members share; a private
 * subscriber sees what comes after it; events of one key stay in order; a pattern matches words;
 * replay reads the past by pattern, time and filter without moving any group; and a group can be
 * moved. */
#include <stdint.h>

#include "check.h"

static hmq_hub *hub;

struct seen {
    pthread_mutex_t lock;
    char text[4096];
    atomic_int count;
    atomic_int drops;
};

static hmq_verdict note(hmq_msg *msg, void *user_data)
{
    struct seen *seen = user_data;
    size_t len = 0;
    const char *payload = hmq_msg_payload(msg, &len);

    pthread_mutex_lock(&seen->lock);
    if (strlen(seen->text) + len + 2 < sizeof seen->text) {
        strncat(seen->text, payload, len);
        strcat(seen->text, " ");
    }
    pthread_mutex_unlock(&seen->lock);
    seen->count++;
    return HMQ_ACK;
}

static void count_drop(void *seen) { ((struct seen *)seen)->drops++; }

static hmq_sub *subscribe(const char *options, struct seen *seen)
{
    hmq_sub *sub = NULL;
    REQUIRE(STATUS(hmq_subscribe(hub, options, HMQ_NTS, note, seen, count_drop, -1, &sub, &err), HMQ_OK));
    return sub;
}

static void event(const char *topic, const char *text, const char *key)
{
    STATUS(hmq_publish_event(hub, topic, HMQ_NTS, text, strlen(text), key, key ? HMQ_NTS : 0, -1, NULL, &err), HMQ_OK);
}

static void close_and_free(hmq_sub *sub)
{
    STATUS(hmq_sub_close(sub, DEADLINE_MS, &err), HMQ_OK);
    hmq_sub_free(sub);
}

static void groups(void)
{
    struct seen billing = {.count = 0}, mail_a = {.count = 0}, mail_b = {.count = 0}, private = {.count = 0};
    hmq_sub *subs[4];

    event("events.g", "before", NULL);
    subs[0] = subscribe("{\"topic\":\"events.g\",\"group\":\"billing\"}", &billing);
    subs[1] = subscribe("{\"topic\":\"events.g\",\"group\":\"mail\"}", &mail_a);
    subs[2] = subscribe("{\"topic\":\"events.g\",\"group\":\"mail\"}", &mail_b);
    subs[3] = subscribe("{\"topic\":\"events.g\",\"group\":null}", &private);
    for (int i = 0; i < 50; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%d", i);
        event("events.g", "e", key);
    }
    EVENTUALLY(billing.count == 51 && mail_a.count + mail_b.count == 51 && private.count == 50);
    CHECK_TEXT(billing.text, "before");
    CHECK(strstr(private.text, "before") == NULL);
    for (int i = 0; i < 4; i++)
        close_and_free(subs[i]);
    CHECK(billing.drops == 1 && mail_a.drops == 1 && mail_b.drops == 1 && private.drops == 1);

    /* A group keeps its place while nobody is there. */
    event("events.g", "missed", NULL);
    billing.count = 0;
    billing.text[0] = 0;
    subs[0] = subscribe("{\"topic\":\"events.g\",\"group\":\"billing\"}", &billing);
    EVENTUALLY(billing.count == 1);
    CHECK_NUMBER(strcmp(billing.text, "missed "), 0);
    close_and_free(subs[0]);
}

static void order_and_patterns(void)
{
    struct seen user = {.count = 0};
    hmq_sub *sub = subscribe("{\"topic\":\"user.*\",\"kind\":\"event\",\"group\":\"p\"}", &user);

    event("user.created", "c1", "u1");
    event("user.created", "c2", "u1");
    event("users.created", "no", "u1");
    event("user.a.b", "no", "u1");
    event("user.created", "c3", "u1");
    EVENTUALLY(user.count == 3);
    CHECK_NUMBER(strcmp(user.text, "c1 c2 c3 "), 0);
    event("user.deleted", "d", "u1");
    EVENTUALLY(user.count == 4);
    close_and_free(sub);
    CHECK(strstr(user.text, "no") == NULL);
}

static void timed_event(const char *topic, const char *text, int64_t timestamp_us)
{
    hmq_record record = HMQ_RECORD_INIT;
    record.kind = HMQ_EVENT;
    record.topic = topic;
    record.topic_len = HMQ_NTS;
    record.payload = text;
    record.payload_len = strlen(text);
    record.timestamp_us = timestamp_us;
    record.type = "timed";
    record.type_len = HMQ_NTS;
    STATUS(hmq_send(hub, &record, -1, NULL, &err), HMQ_OK);
}

static void replayed(const char *options, const char *expected)
{
    struct seen seen = {.count = 0};
    hmq_sub *sub = NULL;
    REQUIRE(STATUS(hmq_replay(hub, options, HMQ_NTS, note, &seen, count_drop, -1, &sub, &err), HMQ_OK));
    STATUS(hmq_sub_wait(sub, DEADLINE_MS, &err), HMQ_OK);
    if (strcmp(seen.text, expected) != 0) {
        failures++;
        fprintf(stderr, "replay %s: `%s`, not `%s`\n", options, seen.text, expected);
    }
    hmq_sub_free(sub);
    EVENTUALLY(seen.drops == 1);
}

static void replay(void)
{
    hmq_inbox *inbox = NULL;
    hmq_sub *sub = NULL;
    hmq_event events[16] = {HMQ_EVENT_INIT};
    size_t count = 0, total = 0;
    char *text = NULL;
    int ended = 0;

    STATUS(hmq_declare(hub, "{\"name\":\"order.made\",\"kind\":\"event\",\"partitions\":1}", HMQ_NTS, -1, NULL, &err), HMQ_OK);
    timed_event("order.made", "a", 1700000001000000);
    timed_event("order.made", "b", 1700000002000000);
    timed_event("order.made", "c", 1700000003000000);
    timed_event("order.made", "d", 1700000004000000);
    replayed("{\"topic\":\"order.*\"}", "a b c d ");
    replayed("{\"topic\":\"order.*\",\"from\":1700000002000000,\"to\":1700000004000000}", "b c ");
    replayed("{\"topic\":\"order.made\",\"from\":\"2023-11-14T22:13:24Z\"}", "d ");
    replayed("{\"topic\":\"order.made\",\"from\":1700000009000000}", "");
    replayed("{\"topic\":\"order.made\",\"filter\":{\"type\":\"other\"}}", "");

    STATUS(hmq_replay(hub, "{\"topic\":\"order.*\",\"dry_run\":true}", HMQ_NTS, note, NULL, NULL, -1, &sub, &err), HMQ_OK);
    STATUS(hmq_sub_wait(sub, DEADLINE_MS, &err), HMQ_OK);
    STATUS(hmq_sub_progress(sub, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"counted\":4");
    hmq_free(text);
    hmq_sub_free(sub);

    STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK);
    STATUS(hmq_replay_inbox(hub, "{\"topic\":\"order.*\"}", HMQ_NTS, inbox, 77, -1, &sub, &err), HMQ_OK);
    while (!ended && hmq_inbox_poll(inbox, events, 16, DEADLINE_MS, &count) == HMQ_OK) {
        for (size_t i = 0; i < count; i++) {
            CHECK_NUMBER(events[i].tag, 77);
            CHECK(!ended);
            ended = events[i].kind == HMQ_EV_END;
            total += events[i].kind == HMQ_EV_MESSAGE;
            if (events[i].kind == HMQ_EV_MESSAGE) {
                CHECK_NUMBER(events[i].token, 0);
                CHECK_NUMBER(events[i].offset, total - 1);
            }
        }
        hmq_events_clear(events, count);
    }
    CHECK(ended && total == 4);
    STATUS(hmq_inbox_poll(inbox, events, 16, 0, &count), HMQ_NO_DATA);
    hmq_sub_free(sub);
    hmq_inbox_free(inbox);
    STATUS(hmq_replay(hub, "{\"topic\":\"no.such.topic\"}", HMQ_NTS, note, NULL, NULL, -1, &sub, &err), HMQ_OK);
    STATUS(hmq_sub_wait(sub, DEADLINE_MS, &err), HMQ_OK);
    hmq_sub_free(sub);
}

static void seek(void)
{
    struct seen seen = {.count = 0};
    hmq_sub *sub;

    STATUS(hmq_declare(hub, "{\"name\":\"events.seek\",\"partitions\":1}", HMQ_NTS, -1, NULL, &err), HMQ_OK);
    timed_event("events.seek", "a", 1700000001000000);
    timed_event("events.seek", "b", 1700000002000000);
    timed_event("events.seek", "c", 1700000003000000);
    sub = subscribe("{\"topic\":\"events.seek\",\"group\":\"s\"}", &seen);
    EVENTUALLY(seen.count == 3);
    STATUS(hmq_sub_seek(sub, "{\"to\":\"earliest\"}", HMQ_NTS, -1, &err), HMQ_OK);
    EVENTUALLY(seen.count == 6);
    STATUS(hmq_sub_seek(sub, "{\"to\":{\"offset\":2}}", HMQ_NTS, -1, &err), HMQ_OK);
    EVENTUALLY(seen.count == 7);
    STATUS(hmq_sub_seek(sub, "{\"to\":{\"time\":1700000002000000}}", HMQ_NTS, -1, &err), HMQ_OK);
    EVENTUALLY(seen.count == 9);
    STATUS(hmq_sub_seek(sub, "{\"to\":\"latest\"}", HMQ_NTS, -1, &err), HMQ_OK);
    timed_event("events.seek", "d", 1700000004000000);
    EVENTUALLY(seen.count == 10);
    CHECK_NUMBER(strcmp(seen.text, "a b c a b c c b c d "), 0);
    close_and_free(sub);
    sub = subscribe("{\"topic\":\"tasks.seek\"}", &seen);
    STATUS(hmq_sub_seek(sub, "{\"to\":\"latest\"}", HMQ_NTS, -1, &err), HMQ_E_UNSUPPORTED);
    close_and_free(sub);
}

int main(void)
{
    hub = open_hub("{}");
    groups();
    order_and_patterns();
    replay();
    seek();
    close_hub(hub);
    return result();
}
