/* Proves: nothing the caller owns must stay alive or unchanged after a call: topic, payload, key,
 * headers, options and records are overwritten and freed at once, and what arrives is what was
 * sent.
 * Rows of docs/bad-input.md: B38. */
#include <stdint.h>

#include "check.h"

enum { COUNT = 200, SIZE = 3000 };

static unsigned char *filled(int seed, size_t size)
{
    unsigned char *bytes = malloc(size);
    REQUIRE(bytes != NULL);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(seed + (int)i);
    return bytes;
}

static char *owned(const char *text)
{
    char *copy = malloc(strlen(text) + 1);
    REQUIRE(copy != NULL);
    return strcpy(copy, text);
}

static void spoil(void *memory, size_t size)
{
    memset(memory, 0xDD, size);
    free(memory);
}

static void send_one(hmq_pub *pub, hmq_hub *hub, int seed)
{
    unsigned char *payload = filled(seed, SIZE);
    unsigned char *key = filled(seed, 16);
    char *topic = owned("tasks.copy");
    hmq_record *record = malloc(sizeof *record);
    hmq_header *header = malloc(sizeof *header);
    hmq_record init = HMQ_RECORD_INIT;

    REQUIRE(record != NULL && header != NULL);
    *header = (hmq_header){owned("seed"), HMQ_NTS, filled(seed, 4), 4};
    *record = init;
    record->payload = payload;
    record->payload_len = SIZE;
    record->key = key;
    record->key_len = 16;
    record->headers = header;
    record->header_count = 1;
    if (seed % 2 == 0) {
        STATUS(hmq_pub_send_async(pub, record, NULL, NULL, NULL, NULL, &err), HMQ_OK);
    } else {
        record->topic = topic;
        record->topic_len = HMQ_NTS;
        STATUS(hmq_send(hub, record, -1, NULL, &err), HMQ_OK);
    }
    spoil((void *)(uintptr_t)header->name, 5);
    spoil((void *)(uintptr_t)header->value, 4);
    spoil(header, sizeof *header);
    spoil(record, sizeof *record);
    spoil(payload, SIZE);
    spoil(key, 16);
    spoil(topic, strlen("tasks.copy"));
}

static void check_one(const hmq_event *event, int seed)
{
    unsigned char *expected = filled(seed, SIZE);
    const void *value = NULL;
    size_t value_len = 0;

    CHECK_NUMBER(event->payload_len, SIZE);
    CHECK(memcmp(event->payload, expected, SIZE) == 0);
    CHECK(event->key_len == 16 && memcmp(event->key, expected, 16) == 0);
    STATUS(hmq_msg_header(event->msg, "seed", HMQ_NTS, &value, &value_len), HMQ_OK);
    CHECK(value_len == 4 && memcmp(value, expected, 4) == 0);
    CHECK_NUMBER(strcmp(event->topic, "tasks.copy"), 0);
    free(expected);
}

int main(void)
{
    char *config = owned("{\"name\":\"copy\"}");
    char *options = owned("{\"topic\":\"tasks.copy\",\"prefetch\":1000}");
    char *publisher = owned("{\"topic\":\"tasks.copy\"}");
    hmq_hub *hub = open_hub(config);
    hmq_inbox *inbox = NULL;
    hmq_sub *sub = NULL;
    hmq_pub *pub = NULL;
    hmq_event kept[COUNT];

    spoil(config, strlen(config));
    STATUS(hmq_inbox_new(hub, NULL, 0, &inbox, &err), HMQ_OK);
    STATUS(hmq_pub_new(hub, publisher, HMQ_NTS, &pub, &err), HMQ_OK);
    spoil(publisher, strlen(publisher));
    STATUS(hmq_subscribe_inbox(hub, options, HMQ_NTS, inbox, 1, -1, &sub, &err), HMQ_OK);
    spoil(options, strlen(options));

    for (int i = 0; i < COUNT; i++)
        send_one(pub, hub, i);
    for (int i = 0; i < COUNT; i++) {
        hmq_event event = HMQ_EVENT_INIT;
        size_t count = 0;
        REQUIRE(STATUS(hmq_inbox_poll(inbox, &event, 1, DEADLINE_MS, &count), HMQ_OK));
        kept[i] = event;
        STATUS(hmq_settle(event.token, HMQ_ACK, 0, NULL, 0, &err), HMQ_OK);
    }
    /* And what was received outlives everything it came from. */
    hmq_sub_free(sub);
    hmq_pub_free(pub);
    hmq_inbox_free(inbox);
    close_hub(hub);
    STATUS(hmq_shutdown(DEADLINE_MS, &err), HMQ_OK);
    for (int i = 0; i < COUNT; i++)
        check_one(&kept[i], i);
    hmq_events_clear(kept, COUNT);
    return result();
}
