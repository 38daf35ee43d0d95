/* Proves: the descriptor of an inbox is readable while something is in it and not otherwise, with
 * poll and with epoll, as eventfd and as socket; waking works before, during and from elsewhere;
 * on_ready is called once per step from empty; the end of a subscription is its last event; the
 * packed read answers the size it needs and loses nothing; outcomes, states and logs come in; and
 * with manual credit nothing comes unasked. */
#include <poll.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "check.h"

static hmq_hub *hub;

static hmq_inbox *new_inbox(const char *options)
{
    hmq_inbox *inbox = NULL;
    REQUIRE(STATUS(hmq_inbox_new(hub, options, HMQ_NTS, &inbox, &err), HMQ_OK));
    return inbox;
}

static hmq_sub *subscribe(hmq_inbox *inbox, const char *options, uint64_t tag)
{
    hmq_sub *sub = NULL;
    REQUIRE(STATUS(hmq_subscribe_inbox(hub, options, HMQ_NTS, inbox, tag, -1, &sub, &err), HMQ_OK));
    return sub;
}

static int readable(int fd, int timeout_ms)
{
    struct pollfd entry = {fd, POLLIN, 0};
    return poll(&entry, 1, timeout_ms) == 1 && (entry.revents & POLLIN) != 0;
}

static int take(hmq_inbox *inbox, int max)
{
    hmq_event events[64] = {HMQ_EVENT_INIT};
    size_t count = 0;
    hmq_status status = hmq_inbox_poll(inbox, events, (size_t)max, 0, &count);
    CHECK_NUMBER(status, count > 0 ? HMQ_OK : HMQ_NO_DATA);
    for (size_t i = 0; i < count; i++)
        if (events[i].kind == HMQ_EV_MESSAGE)
            STATUS(hmq_settle(events[i].token, HMQ_ACK, 0, NULL, 0, &err), HMQ_OK);
    hmq_events_clear(events, count);
    CHECK(events[0].msg == NULL);
    return (int)count;
}

static int take_all(hmq_inbox *inbox, int want)
{
    int got = 0;
    long long until = now_ms() + DEADLINE_MS;
    while (got < want && now_ms() < until)
        got += take(inbox, 64);
    return got;
}

static void descriptor(const char *options, const char *topic)
{
    hmq_inbox *inbox = new_inbox(options);
    int fd = (int)hmq_inbox_fd(inbox);
    char subscription[100];
    hmq_sub *sub;
    int poller = epoll_create1(0);
    struct epoll_event entry = {.events = EPOLLIN};
    size_t count = 7;
    hmq_event event = HMQ_EVENT_INIT;

    CHECK(fd >= 0);
    CHECK_NUMBER(hmq_inbox_fd(inbox), fd);
    REQUIRE(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &entry) == 0);
    snprintf(subscription, sizeof subscription, "{\"topic\":\"%s\"}", topic);
    sub = subscribe(inbox, subscription, 5);
    take(inbox, 64);
    CHECK(!readable(fd, 0));
    STATUS(hmq_inbox_poll(inbox, &event, 1, 0, &count), HMQ_NO_DATA);
    CHECK_NUMBER(count, 0);

    for (int i = 0; i < 3; i++)
        publish(hub, topic, "x");
    CHECK(readable(fd, DEADLINE_MS));
    CHECK_NUMBER(epoll_wait(poller, &entry, 1, DEADLINE_MS), 1);
    CHECK_NUMBER(take(inbox, 1), 1);
    /* Level-triggered: still readable, however often it is asked. */
    CHECK(readable(fd, 0) && readable(fd, 0));
    CHECK_NUMBER(epoll_wait(poller, &entry, 1, 0), 1);
    CHECK_NUMBER(take_all(inbox, 2), 2);
    CHECK_NUMBER(take(inbox, 64), 0);
    CHECK(!readable(fd, 0));
    CHECK_NUMBER(epoll_wait(poller, &entry, 1, 0), 0);

    /* Who polls by dup sees the same. */
    int copy = dup(fd);
    publish(hub, topic, "x");
    CHECK(readable(copy, DEADLINE_MS));
    close(copy);
    CHECK_NUMBER(take_all(inbox, 1), 1);

    hmq_inbox_wake(inbox);
    CHECK(readable(fd, 0));
    STATUS(hmq_inbox_poll(inbox, &event, 1, -1, &count), HMQ_NO_DATA);
    CHECK(!readable(fd, 0));

    STATUS(hmq_sub_close(sub, -1, &err), HMQ_OK);
    CHECK(readable(fd, DEADLINE_MS));
    STATUS(hmq_inbox_poll(inbox, &event, 1, DEADLINE_MS, &count), HMQ_OK);
    CHECK_NUMBER(event.kind, HMQ_EV_END);
    CHECK_NUMBER(event.status, HMQ_OK);
    CHECK_NUMBER(event.tag, 5);
    hmq_events_clear(&event, 1);
    hmq_sub_free(sub);
    close(poller);
    hmq_inbox_free(inbox);
    CHECK_NUMBER(hmq_inbox_fd(inbox), -1);
}

/* A host that reads the socket's bytes itself: the poll that empties the inbox arms it again. */
static void socket_is_read_by_the_host(void)
{
    hmq_inbox *inbox = new_inbox("{\"signal\":\"socket\"}");
    hmq_sub *sub = subscribe(inbox, "{\"topic\":\"tasks.host\"}", 1);
    int fd = (int)hmq_inbox_fd(inbox);
    char bytes[64];

    take(inbox, 64);
    for (int round = 0; round < 5; round++) {
        publish(hub, "tasks.host", "x");
        CHECK(readable(fd, DEADLINE_MS));
        CHECK(read(fd, bytes, sizeof bytes) > 0);
        CHECK_NUMBER(take_all(inbox, 1), 1);
        CHECK_NUMBER(take(inbox, 64), 0);
        CHECK(!readable(fd, 0));
    }
    hmq_sub_free(sub);
    hmq_inbox_free(inbox);
}

static void *wait_in_poll(void *inbox)
{
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0;
    STATUS(hmq_inbox_poll(inbox, &event, 1, -1, &count), HMQ_NO_DATA);
    return NULL;
}

static void *wait_for_the_end(void *inbox)
{
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0;
    hmq_status status;
    while ((status = hmq_inbox_poll(inbox, &event, 1, -1, &count)) == HMQ_OK)
        hmq_events_clear(&event, count);
    CHECK(status == HMQ_CLOSED || status == HMQ_E_HANDLE);
    return NULL;
}

static void waking(void)
{
    hmq_inbox *inbox = new_inbox("{}");
    pthread_t thread;

    hmq_inbox_wake(inbox);
    wait_in_poll(inbox);
    for (int i = 0; i < 20; i++) {
        REQUIRE(pthread_create(&thread, NULL, wait_in_poll, inbox) == 0);
        if (i % 2)
            breathe();
        hmq_inbox_wake(inbox);
        pthread_join(thread, NULL);
    }
    REQUIRE(pthread_create(&thread, NULL, wait_for_the_end, inbox) == 0);
    breathe();
    hmq_inbox_free(inbox);
    pthread_join(thread, NULL);
    hmq_inbox_wake(inbox);
    hmq_inbox_wake(NULL);
}

static atomic_int readies, ready_drops;

static void on_ready(void *user_data)
{
    CHECK(user_data == &readies);
    readies++;
}

static void on_drop(void *user_data)
{
    CHECK(user_data == &readies);
    ready_drops++;
}

static void called_when_ready(void)
{
    hmq_inbox *inbox = new_inbox("{}");
    hmq_sub *sub;

    STATUS(hmq_inbox_on_ready(inbox, on_ready, &readies, on_drop), HMQ_OK);
    sub = subscribe(inbox, "{\"topic\":\"tasks.ready\"}", 1);
    while (take(inbox, 64) > 0)
        ;
    readies = 0;
    for (int round = 1; round <= 5; round++) {
        for (int i = 0; i < 10; i++)
            publish(hub, "tasks.ready", "x");
        EVENTUALLY(readies == round);
        CHECK_NUMBER(take_all(inbox, 10), 10);
        CHECK_NUMBER(take(inbox, 64), 0);
        CHECK_NUMBER(readies, round);
    }
    STATUS(hmq_inbox_on_ready(inbox, on_ready, &readies, on_drop), HMQ_E_STATE);
    CHECK_NUMBER(ready_drops, 1);
    hmq_sub_free(sub);
    hmq_inbox_free(inbox);
    EVENTUALLY(ready_drops == 2);
}

static void packed(void)
{
    hmq_inbox *inbox = new_inbox("{}");
    hmq_sub *sub = subscribe(inbox, "{\"topic\":\"tasks.packed\"}", 1);
    hmq_pub *pub = NULL;
    uint64_t buffer[2048];
    hmq_status each[3] = {9, 9, 9};
    size_t bytes = 0, count = 0, needed = 0, accepted = 0, whole;

    for (int i = 0; i < 3; i++)
        publish(hub, "tasks.packed", "a payload of some length, so that frames have a size");
    STATUS(hmq_inbox_read(inbox, NULL, 0, DEADLINE_MS, &needed, &count), HMQ_E_TOO_LARGE);
    CHECK(needed > 52 && needed < 1000);
    CHECK_NUMBER(count, 0);
    STATUS(hmq_inbox_read(inbox, buffer, needed - 1, DEADLINE_MS, &bytes, &count), HMQ_E_TOO_LARGE);
    CHECK_NUMBER(bytes, needed);
    STATUS(hmq_inbox_read(inbox, buffer, needed, DEADLINE_MS, &bytes, &count), HMQ_OK);
    CHECK_NUMBER(count, 1);
    CHECK_NUMBER(bytes, needed);
    CHECK_NUMBER(bytes % 8, 0);
    STATUS(hmq_inbox_read(inbox, buffer, sizeof buffer, DEADLINE_MS, &bytes, &count), HMQ_OK);
    CHECK_NUMBER(count, 2);
    CHECK_NUMBER(bytes, 2 * needed);
    whole = bytes;
    STATUS(hmq_inbox_read(inbox, buffer, sizeof buffer, 0, &bytes, NULL), HMQ_NO_DATA);
    CHECK_NUMBER(bytes, 0);

    /* The same frames go out again. */
    STATUS(hmq_pub_new(hub, "{\"topic\":\"tasks.packed\"}", HMQ_NTS, &pub, &err), HMQ_OK);
    STATUS(hmq_pub_send_packed(pub, buffer, whole, -1, each, &accepted, &err), HMQ_OK);
    CHECK_NUMBER(accepted, 2);
    CHECK(each[0] == HMQ_OK && each[1] == HMQ_OK && each[2] == 9);
    CHECK_NUMBER(take_all(inbox, 2), 2);
    STATUS(hmq_pub_send_packed(pub, buffer, whole - 1, -1, NULL, &accepted, &err), HMQ_E_ARG);
    CHECK_NUMBER(accepted, 0);
    STATUS(hmq_pub_send_packed(pub, "garbage garbage garbage garbage.", 32, -1, NULL, &accepted, &err), HMQ_E_ARG);
    STATUS(hmq_pub_send_packed(pub, NULL, 0, -1, NULL, &accepted, &err), HMQ_OK);
    for (size_t i = 0; i < 8; i++) {
        uint64_t bad[2048];
        memcpy(bad, buffer, whole);
        bad[i] = UINT64_MAX;
        (void)!hmq_pub_send_packed(pub, bad, whole, -1, NULL, &accepted, NULL);
    }
    hmq_pub_free(pub);
    hmq_sub_free(sub);
    hmq_inbox_free(inbox);
}

static void outcomes(void)
{
    hmq_inbox *inbox = new_inbox("{\"capacity\":4}");
    hmq_pub *pub = NULL;
    hmq_record records[6];
    hmq_record record = HMQ_RECORD_INIT;
    hmq_event events[8] = {HMQ_EVENT_INIT};
    uint64_t ops[6];
    size_t accepted = 0, count = 0;

    STATUS(hmq_pub_new(hub, "{\"topic\":\"tasks.outcomes\"}", HMQ_NTS, &pub, &err), HMQ_OK);
    for (int i = 0; i < 6; i++) {
        records[i] = record;
        records[i].tag = 100 + (uint64_t)i;
    }
    STATUS(hmq_pub_send_inbox(pub, records, 6, inbox, ops, &accepted, &err), HMQ_PARTIAL);
    CHECK_NUMBER(accepted, 4);
    CHECK(ops[3] != 0 && ops[4] == 0 && ops[5] == 0);
    STATUS(hmq_pub_send_inbox(pub, records, 1, inbox, NULL, &accepted, &err), HMQ_E_FULL);
    STATUS(hmq_inbox_poll(inbox, events, 8, DEADLINE_MS, &count), HMQ_OK);
    CHECK_NUMBER(count, 4);
    for (size_t i = 0; i < count; i++) {
        CHECK_NUMBER(events[i].kind, HMQ_EV_PUBLISHED);
        CHECK_NUMBER(events[i].status, HMQ_OK);
        CHECK_NUMBER(events[i].tag, 100 + i);
        CHECK_NUMBER(events[i].token, ops[i]);
        CHECK_NUMBER(events[i].level, HMQ_LEVEL_MEMORY);
        CHECK_NUMBER(events[i].backend, HMQ_BACKEND_EMBEDDED);
    }
    hmq_events_clear(events, count);
    hmq_pub_free(pub);
    hmq_inbox_free(inbox);
}

static void manual_credit(void)
{
    hmq_inbox *inbox = new_inbox("{}");
    hmq_sub *sub = subscribe(inbox, "{\"topic\":\"tasks.credit\",\"credit\":\"manual\"}", 1);

    for (int i = 0; i < 5; i++)
        publish(hub, "tasks.credit", "x");
    CHECK_NUMBER(take(inbox, 64), 0);
    STATUS(hmq_sub_request(sub, 2), HMQ_OK);
    CHECK_NUMBER(take_all(inbox, 2), 2);
    CHECK_NUMBER(take(inbox, 64), 0);
    STATUS(hmq_sub_request(sub, UINT32_MAX), HMQ_OK);
    CHECK_NUMBER(take_all(inbox, 3), 3);
    hmq_sub_free(sub);
    sub = subscribe(inbox, "{\"topic\":\"tasks.auto\"}", 1);
    STATUS(hmq_sub_request(sub, 1), HMQ_E_STATE);
    hmq_sub_free(sub);
    hmq_inbox_free(inbox);
}

static void states_and_logs(void)
{
    hmq_inbox *inbox = new_inbox("{\"state\":true,\"log\":true}");
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0;
    int states = 0, logs = 0;

    STATUS(hmq_backend_force(hub, "embedded", HMQ_NTS, HMQ_FORCE_DOWN, &err), HMQ_OK);
    STATUS(hmq_backend_force(hub, "embedded", HMQ_NTS, HMQ_FORCE_AUTO, &err), HMQ_OK);
    while (states < 2 && hmq_inbox_poll(inbox, &event, 1, DEADLINE_MS, &count) == HMQ_OK) {
        states += event.kind == HMQ_EV_STATE;
        logs += event.kind == HMQ_EV_LOG;
        CHECK(event.json != NULL && strlen(event.json) == event.json_len && event.json[0] == '{');
        hmq_events_clear(&event, count);
    }
    CHECK_NUMBER(states, 2);
    CHECK(logs > 0);
    hmq_inbox_free(inbox);
}

/* Nobody polls for its subscriptions any more: what they hold goes to others, at once. */
static void freed_with_subscriptions(void)
{
    hmq_inbox *gone = new_inbox("{}"), *left = new_inbox("{}");
    hmq_sub *first = subscribe(gone, "{\"topic\":\"tasks.freed\"}", 1), *second;
    hmq_event event = HMQ_EVENT_INIT;
    hmq_token held;
    size_t count = 0;

    publish(hub, "tasks.freed", "x");
    STATUS(hmq_inbox_poll(gone, &event, 1, DEADLINE_MS, &count), HMQ_OK);
    held = event.token;
    hmq_events_clear(&event, count);
    second = subscribe(left, "{\"topic\":\"tasks.freed\"}", 2);
    CHECK_NUMBER(take(left, 64), 0);
    hmq_inbox_free(gone);
    CHECK_NUMBER(take_all(left, 1), 1);
    STATUS(hmq_settle(held, HMQ_ACK, 0, NULL, 0, &err), HMQ_E_CLOSED);
    STATUS(hmq_sub_wait(first, DEADLINE_MS, &err), HMQ_OK);
    STATUS(hmq_sub_close(first, 0, &err), HMQ_OK);
    hmq_sub_free(first);
    hmq_sub_free(second);
    hmq_inbox_free(left);
}

int main(void)
{
    hub = open_hub("{}");
    descriptor("{}", "tasks.fd");
    descriptor("{\"signal\":\"socket\"}", "tasks.socket");
    descriptor("{\"spin_us\":50}", "tasks.spin");
    socket_is_read_by_the_host();
    waking();
    called_when_ready();
    packed();
    outcomes();
    manual_credit();
    states_and_logs();
    freed_with_subscriptions();
    close_hub(hub);
    return result();
}
