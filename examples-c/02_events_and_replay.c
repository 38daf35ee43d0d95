/* 02: events: groups, order, and the past.
 *
 * An event is a fact in a log. Every *group* of subscribers sees every event; the members of one
 * group share them. Reading removes nothing, so the past can be read again, by pattern and time.
 */

#include "example.h"

#define WAIT_MS 10000

/* Which tag belongs to which subscription. */
enum { BILLING_1, BILLING_2, AUDIT, LATECOMER, SUBSCRIPTIONS };

static hmq_sub *subscribe(hmq_hub *hub, hmq_inbox *inbox, uint64_t tag, const char *options)
{
    hmq_error *err = NULL;
    hmq_sub *sub;
    must(hmq_subscribe_inbox(hub, options, HMQ_NTS, inbox, tag, WAIT_MS, &sub, &err), &err);
    return sub;
}

/* Publishes an event of `user` at a time of our choice: HMQ_RECORD_INIT and then only what matters. */
static void publish(hmq_hub *hub, const char *topic, const char *user, const char *text, int64_t timestamp_us)
{
    hmq_error *err = NULL;
    hmq_record record = HMQ_RECORD_INIT;
    record.kind = HMQ_EVENT;
    record.topic = topic, record.topic_len = HMQ_NTS;
    record.key = user, record.key_len = HMQ_NTS; /* events of one key keep their order */
    record.payload = text, record.payload_len = strlen(text);
    record.timestamp_us = timestamp_us;
    must(hmq_send(hub, &record, WAIT_MS, NULL, &err), &err);
}

/* Takes and acknowledges `wanted` events, and counts them by subscription. The events of one user
 * carry the letters a, b, c in their text: this checks that they come in that order. */
static void receive(hmq_inbox *inbox, int wanted, int counts[SUBSCRIPTIONS])
{
    char last[SUBSCRIPTIONS][2] = {{0}};
    while (wanted > 0) {
        hmq_error *err = NULL;
        hmq_event events[16] = {HMQ_EVENT_INIT};
        size_t count;
        must_be(must(hmq_inbox_poll(inbox, events, 16, WAIT_MS, &count), NULL) == HMQ_OK, "no events came");
        for (size_t i = 0; i < count; i++) {
            const hmq_event *event = &events[i];
            char letter = *(const char *)event->payload;
            char *before = &last[event->tag][*(const char *)event->key == 'a'];
            must_be(letter > *before, "the order of a key was lost");
            *before = letter;
            counts[event->tag]++;
            wanted--;
            must(hmq_settle(event->token, HMQ_ACK, 0, NULL, 0, &err), &err);
        }
        hmq_events_clear(events, count);
    }
}

static hmq_verdict show(hmq_msg *msg, void *user_data)
{
    (void)user_data;
    size_t key_len, text_len;
    const char *key = hmq_msg_key(msg, &key_len);
    const char *text = hmq_msg_payload(msg, &text_len);
    printf("  %-14s %.*s: %.*s\n", hmq_msg_topic(msg, NULL), (int)key_len, key, (int)text_len, text);
    return HMQ_ACK; /* a replay settles nothing; this is as good as any */
}

static void replay(hmq_hub *hub, const char *options)
{
    hmq_error *err = NULL;
    hmq_sub *sub;
    must(hmq_replay(hub, options, HMQ_NTS, show, NULL, NULL, WAIT_MS, &sub, &err), &err);
    must(hmq_sub_wait(sub, WAIT_MS, &err), &err);
    hmq_sub_free(sub);
}

int main(void)
{
    const int64_t january_1st = 1767225600000000, day = 86400000000; /* of 2026, in microseconds */
    hmq_error *err = NULL;
    hmq_hub *hub;
    hmq_inbox *inbox;
    hmq_sub *subs[SUBSCRIPTIONS];
    int counts[SUBSCRIPTIONS] = {0};

    must(hmq_hub_open("{}", HMQ_NTS, WAIT_MS, &hub, &err), &err);
    must(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), &err);

    /* Two members of the group "billing" share its events. A group of null is private: all events
     * from now on, for this subscriber alone. Without "group" it would be the group of the hub. */
    subs[BILLING_1] = subscribe(hub, inbox, BILLING_1, "{\"topic\": \"user.*\", \"kind\": \"event\", \"group\": \"billing\"}");
    subs[BILLING_2] = subscribe(hub, inbox, BILLING_2, "{\"topic\": \"user.*\", \"kind\": \"event\", \"group\": \"billing\"}");
    subs[AUDIT] = subscribe(hub, inbox, AUDIT, "{\"topic\": \"user.*\", \"kind\": \"event\", \"group\": null}");

    publish(hub, "user.created", "ada", "a) signed up", january_1st);
    publish(hub, "user.created", "bob", "a) signed up", january_1st + day);
    publish(hub, "user.changed", "ada", "b) moved to London", january_1st + 2 * day);
    publish(hub, "user.changed", "bob", "b) bought a bicycle", january_1st + 3 * day);
    publish(hub, "user.deleted", "ada", "c) left", january_1st + 4 * day);

    receive(inbox, 10, counts);
    printf("billing, two members together: %d events\n", counts[BILLING_1] + counts[BILLING_2]);
    printf("audit, alone:                  %d events\n", counts[AUDIT]);

    /* A new group starts with the oldest event that is kept, so nobody comes too late. */
    subs[LATECOMER] = subscribe(hub, inbox, LATECOMER, "{\"topic\": \"user.*\", \"kind\": \"event\", \"group\": \"reports\"}");
    receive(inbox, 5, counts);
    printf("reports, which came later:     %d events\n", counts[LATECOMER]);

    printf("\nreplay of user.created:\n");
    replay(hub, "{\"topic\": \"user.created\"}");
    printf("replay of user.* from January 2nd up to, not with, January 5th, of ada alone:\n");
    replay(hub, "{\"topic\": \"user.*\", \"from\": \"2026-01-02T00:00:00Z\", \"to\": \"2026-01-05T00:00:00Z\","
                " \"filter\": {\"key\": \"ada\"}}");

    must(hmq_hub_close(hub, WAIT_MS, &err), &err);
    for (int i = 0; i < SUBSCRIPTIONS; i++)
        hmq_sub_free(subs[i]);
    hmq_inbox_free(inbox);
    hmq_hub_free(hub);
    return 0;
}
