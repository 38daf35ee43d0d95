/* Proves, from end to end: tasks are delivered by priority, after their delay, not after their time
 * to live; retried by policy for days in milliseconds of a virtual clock; dead-lettered with reason
 * and origin; listed, redriven and discarded; filtered; shared among subscribers; and every way of
 * publishing arrives with everything it was given. */
#include <stdint.h>

#include "check.h"

static hmq_hub *hub;
static hmq_inbox *inbox;

static hmq_sub *subscribe(const char *options)
{
    hmq_sub *sub = NULL;
    REQUIRE(STATUS(hmq_subscribe_inbox(hub, options, HMQ_NTS, inbox, 1, -1, &sub, &err), HMQ_OK));
    return sub;
}

static int poll_one(hmq_event *event, int32_t timeout_ms)
{
    hmq_event fresh = HMQ_EVENT_INIT;
    size_t count = 0;
    do {
        *event = fresh;
        if (hmq_inbox_poll(inbox, event, 1, timeout_ms, &count) != HMQ_OK)
            return 0;
        if (event->kind == HMQ_EV_MESSAGE)
            return 1;
        hmq_events_clear(event, 1);
    } while (1);
}

/* The next message is `text`; what becomes of it. */
static uint32_t expect(const char *text, hmq_verdict verdict)
{
    hmq_event event;
    uint32_t attempt;

    if (!poll_one(&event, DEADLINE_MS)) {
        CHECK(!"a message came");
        fprintf(stderr, "  expected: %s\n", text);
        return 0;
    }
    if (event.payload_len != strlen(text) || memcmp(event.payload, text, event.payload_len) != 0) {
        failures++;
        fprintf(stderr, "  expected %s, got %.*s\n", text, (int)event.payload_len, (const char *)event.payload);
    }
    attempt = event.attempt;
    STATUS(hmq_settle(event.token, verdict, -1, "because of it", HMQ_NTS, &err), HMQ_OK);
    hmq_events_clear(&event, 1);
    return attempt;
}

static void nothing_comes(void)
{
    hmq_event event;
    if (poll_one(&event, 0)) {
        CHECK(!"nothing comes");
        fprintf(stderr, "  got %.*s\n", (int)event.payload_len, (const char *)event.payload);
        hmq_events_clear(&event, 1);
    }
}

static void advance(int64_t ms)
{
    STATUS(hmq_clock_advance(hub, ms, &err), HMQ_OK);
}

static void send(const char *topic, const char *text, int32_t priority, int64_t delay_ms, int64_t ttl_ms)
{
    hmq_record record = HMQ_RECORD_INIT;
    record.kind = HMQ_TASK;
    record.topic = topic;
    record.topic_len = HMQ_NTS;
    record.payload = text;
    record.payload_len = strlen(text);
    record.priority = priority;
    record.delay_ms = delay_ms;
    record.ttl_ms = ttl_ms;
    STATUS(hmq_send(hub, &record, -1, NULL, &err), HMQ_OK);
}

static void priority_delay_and_ttl(void)
{
    hmq_sub *sub;

    send("tasks.p", "low", 1, 0, 0);
    send("tasks.p", "usual", -1, 0, 0);
    send("tasks.p", "high", 10, 0, 0);
    send("tasks.p", "usual too", 5, 0, 0);
    send("tasks.p", "short-lived", 10, 0, 50);
    send("tasks.p", "later", 10, 60000, 0);
    advance(51);
    sub = subscribe("{\"topic\":\"tasks.p\"}");
    expect("high", HMQ_ACK);
    expect("usual", HMQ_ACK);
    expect("usual too", HMQ_ACK);
    expect("low", HMQ_ACK);
    nothing_comes();
    advance(59948);
    nothing_comes();
    advance(1);
    expect("later", HMQ_ACK);
    hmq_sub_free(sub);
}

static void three_days_of_retries(void)
{
    static const int64_t hour = 3600 * 1000;
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.retry\",\"retry\":{\"attempts\":4,\"delay_ms\":86400000,"
                             "\"delay_max_ms\":86400000,\"factor\":1,\"jitter\":false}}");
    char *text = NULL;

    send("tasks.retry", "stubborn", -1, 0, 0);
    for (uint32_t attempt = 1; attempt <= 4; attempt++) {
        CHECK_NUMBER(expect("stubborn", HMQ_RETRY), attempt);
        advance(23 * hour);
        nothing_comes();
        advance(hour);
    }
    nothing_comes();

    STATUS(hmq_dead_letters(hub, "{\"topic\":\"tasks.retry\"}", HMQ_NTS, -1, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"count\":1");
    CHECK_TEXT(text, "because of it");
    CHECK_TEXT(text, "\"origin\":\"tasks.retry\"");
    CHECK_TEXT(text, "\"attempts\":4");
    CHECK_TEXT(text, "\"payload_text\":\"stubborn\"");
    hmq_free(text);
    STATUS(hmq_dead_letters(hub, "{\"topic\":\"tasks.retry\",\"action\":\"redrive\",\"dry_run\":true}", HMQ_NTS, -1, &text,
                            NULL, &err),
           HMQ_OK);
    CHECK_TEXT(text, "\"dry_run\":true");
    hmq_free(text);
    nothing_comes();
    STATUS(hmq_dead_letters(hub, "{\"topic\":\"tasks.retry\",\"action\":\"redrive\"}", HMQ_NTS, -1, &text, NULL, &err),
           HMQ_OK);
    CHECK_TEXT(text, "\"count\":1");
    hmq_free(text);
    CHECK_NUMBER(expect("stubborn", HMQ_REJECT), 1);
    STATUS(hmq_dead_letters(hub, "{\"topic\":\"tasks.retry\",\"action\":\"discard\"}", HMQ_NTS, -1, &text, NULL, &err),
           HMQ_OK);
    CHECK_TEXT(text, "\"count\":1");
    hmq_free(text);
    STATUS(hmq_dead_letters(hub, "{\"topic\":\"tasks.#\"}", HMQ_NTS, -1, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"count\":0");
    hmq_free(text);
    hmq_sub_free(sub);
}

static void all_ways_of_publishing(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.ways\",\"prefetch\":100}");
    hmq_pub *pub = NULL;
    hmq_record record = HMQ_RECORD_INIT;
    hmq_record batch[2];
    hmq_status each[2] = {9, 9};
    size_t accepted = 0, len = 0, value_len = 0;
    hmq_header header = {"colour", HMQ_NTS, "blue", 4};
    const char *name = NULL;
    const void *value = NULL;
    hmq_event event;
    char *text = NULL;

    STATUS(hmq_publish(hub, "tasks.ways", HMQ_NTS, "1", 1, -1, NULL, &err), HMQ_OK);
    STATUS(hmq_publish_task(hub, "tasks.ways", 10, "2", 1, -1, NULL, &err), HMQ_OK);
    STATUS(hmq_publish_json(hub, "{\"topic\":\"tasks.ways\",\"payload_text\":\"3\"}", HMQ_NTS, -1, NULL, &err), HMQ_OK);
    STATUS(hmq_publish_json(hub, "{\"topic\":\"tasks.ways\",\"payload_base64\":\"NA==\"}", HMQ_NTS, -1, NULL, &err), HMQ_OK);
    STATUS(hmq_publish_json(hub, "{\"topic\":\"tasks.ways\",\"payload\":{\"n\": 5}}", HMQ_NTS, -1, NULL, &err), HMQ_OK);
    STATUS(hmq_publish_event(hub, "tasks.ways", HMQ_NTS, "x", 1, NULL, 0, -1, NULL, &err), HMQ_E_KIND);
    STATUS(hmq_pub_new(hub, "{\"topic\":\"tasks.ways\",\"type\":\"way\",\"headers\":{\"from\":\"pub\"}}", HMQ_NTS, &pub, &err),
           HMQ_OK);
    batch[0] = batch[1] = record;
    batch[0].payload = "6", batch[0].payload_len = 1;
    batch[1].payload = "7", batch[1].payload_len = 1;
    STATUS(hmq_pub_send_batch(pub, batch, 2, -1, each, &accepted, &err), HMQ_OK);
    CHECK(accepted == 2 && each[0] == HMQ_OK && each[1] == HMQ_OK);
    batch[1].priority = 50;
    STATUS(hmq_pub_send_batch(pub, batch, 2, -1, each, &accepted, &err), HMQ_PARTIAL);
    CHECK(accepted == 1 && each[0] == HMQ_OK && each[1] == HMQ_E_ARG);
    for (const char *digit = "1234"; *digit; digit++)
        expect((char[2]){*digit, 0}, HMQ_ACK);
    expect("{\"n\": 5}", HMQ_ACK);
    expect("6", HMQ_ACK);
    expect("7", HMQ_ACK);
    expect("6", HMQ_ACK);

    record.payload = "all of it", record.payload_len = 9;
    record.key = "k\0y", record.key_len = 3;
    record.id = "the-id", record.id_len = HMQ_NTS;
    record.headers = &header, record.header_count = 1;
    record.timestamp_us = 1700000000000000;
    record.meta = "{\"correlation_id\":\"c-1\"}", record.meta_len = HMQ_NTS;
    STATUS(hmq_pub_send(pub, &record, -1, NULL, &err), HMQ_OK);
    REQUIRE(poll_one(&event, DEADLINE_MS));
    CHECK_NUMBER(strcmp(hmq_msg_id(event.msg, &len), "the-id"), 0);
    CHECK_NUMBER(len, 6);
    CHECK_NUMBER(strcmp(hmq_msg_type(event.msg, NULL), "way"), 0);
    CHECK_NUMBER(strcmp(hmq_msg_topic(event.msg, &len), "tasks.ways"), 0);
    CHECK(memcmp(hmq_msg_key(event.msg, &len), "k\0y", 3) == 0 && len == 3);
    CHECK(memcmp(hmq_msg_payload(event.msg, &len), "all of it", 9) == 0 && len == 9);
    CHECK_NUMBER(hmq_msg_timestamp(event.msg), 1700000000000000);
    CHECK_NUMBER(event.timestamp_us, 1700000000000000);
    CHECK_NUMBER(hmq_msg_attempt(event.msg), 1);
    CHECK_NUMBER(hmq_msg_flags(event.msg), 0);
    CHECK_NUMBER(hmq_msg_flags(NULL), 0);
    CHECK_NUMBER(event.offset, -1);
    STATUS(hmq_msg_header(event.msg, "colour", HMQ_NTS, &value, &value_len), HMQ_OK);
    CHECK(value_len == 4 && memcmp(value, "blue", 4) == 0);
    STATUS(hmq_msg_header(event.msg, "from", HMQ_NTS, &value, &value_len), HMQ_OK);
    STATUS(hmq_msg_header(event.msg, "nothing", HMQ_NTS, &value, &value_len), HMQ_NO_DATA);
    CHECK(value == NULL && value_len == 0);
    STATUS(hmq_msg_header_at(event.msg, 0, &name, &len, &value, &value_len), HMQ_OK);
    CHECK(name != NULL && strlen(name) == len);
    STATUS(hmq_msg_header_at(event.msg, 99, &name, &len, &value, &value_len), HMQ_NO_DATA);
    STATUS(hmq_msg_header_at(event.msg, SIZE_MAX, &name, NULL, &value, &value_len), HMQ_NO_DATA);
    STATUS(hmq_msg_json(event.msg, &text, &len, &err), HMQ_OK);
    CHECK_TEXT(text, "the-id");
    CHECK_TEXT(text, "c-1");
    CHECK_TEXT(text, "blue");
    hmq_free(text);
    STATUS(hmq_settle(event.token, HMQ_ACK, 0, NULL, 0, &err), HMQ_OK);
    hmq_events_clear(&event, 1);
    hmq_pub_free(pub);
    hmq_sub_free(sub);
}

static void filters_and_workers(void)
{
    hmq_sub *sub = subscribe("{\"topic\":\"tasks.filter\",\"filter\":{\"headers\":{\"colour\":\"red\"}}}");
    hmq_sub *second;

    STATUS(hmq_publish_json(hub, "{\"topic\":\"tasks.filter\",\"payload_text\":\"b\",\"headers\":{\"colour\":\"blue\"}}", HMQ_NTS,
                            -1, NULL, &err),
           HMQ_OK);
    STATUS(hmq_publish_json(hub, "{\"topic\":\"tasks.filter\",\"payload_text\":\"r\",\"headers\":{\"colour\":\"red\"}}", HMQ_NTS,
                            -1, NULL, &err),
           HMQ_OK);
    expect("r", HMQ_ACK);
    nothing_comes();
    hmq_sub_free(sub);

    sub = subscribe("{\"topic\":\"tasks.shared\",\"prefetch\":1}");
    second = subscribe("{\"topic\":\"tasks.shared\",\"prefetch\":1}");
    for (int i = 0; i < 10; i++)
        publish(hub, "tasks.shared", "one of ten");
    for (int i = 0; i < 10; i++)
        expect("one of ten", HMQ_ACK);
    nothing_comes();
    STATUS(hmq_sub_pause(sub, 1), HMQ_OK);
    STATUS(hmq_sub_pause(second, 1), HMQ_OK);
    publish(hub, "tasks.shared", "paused");
    nothing_comes();
    STATUS(hmq_sub_pause(second, 0), HMQ_OK);
    STATUS(hmq_sub_pause(sub, 0), HMQ_OK);
    expect("paused", HMQ_ACK);
    STATUS(hmq_sub_pause(sub, 2), HMQ_E_ARG);
    hmq_sub_free(sub);
    hmq_sub_free(second);
}

int main(void)
{
    hub = open_hub("{\"clock\":\"virtual\"}");
    REQUIRE(STATUS(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), HMQ_OK));
    priority_delay_and_ttl();
    three_days_of_retries();
    all_ways_of_publishing();
    filters_and_workers();
    hmq_inbox_free(inbox);
    close_hub(hub);
    return result();
}
