/* Proves: a close that meets publishers, pollers, waiters and its own callbacks ends, and they all
 * end with it, by success or by a clean code; nothing is delivered after it, and whatever was
 * started is told its outcome exactly once.
 * Rows of docs/bad-input.md: B41, F42. */
#include "check.h"

enum { PUBLISHERS = 8 };

struct round {
    hmq_hub *hub;
    hmq_sub *sub;
    hmq_pub *pub;
    hmq_inbox *inbox;
    pthread_barrier_t start;
    atomic_int next;
    atomic_int closed;
    atomic_int after_close;
    atomic_int drops;
    atomic_int started;
    atomic_int outcomes;
    atomic_int reentrant;
};

static void count_drop(void *round) { ((struct round *)round)->drops++; }

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    struct round *round = user_data;
    hmq_status status;
    (void)msg;
    if (round->closed)
        round->after_close++;
    status = hmq_hub_close(round->hub, -1, NULL);
    if (status == HMQ_E_REENTRANT)
        round->reentrant++;
    else
        CHECK_NUMBER(status, HMQ_E_REENTRANT);
    return HMQ_ACK;
}

static void done(hmq_status status, const hmq_receipt *receipt, void *user_data)
{
    struct round *round = user_data;
    CHECK((status == HMQ_OK) == (receipt != NULL));
    if (round->closed)
        round->after_close++;
    round->outcomes++;
}

static void *publish_until_closed(struct round *round, int kind)
{
    hmq_record record = HMQ_RECORD_INIT;
    hmq_status status = HMQ_OK;

    for (int i = 0; status != HMQ_E_CLOSED; i++) {
        if (kind % 2 == 0) {
            status = hmq_publish(round->hub, "tasks.race", HMQ_NTS, "x", 1, -1, NULL, NULL);
        } else {
            round->started++;
            status = hmq_pub_send_async(round->pub, &record, done, round, NULL, NULL, NULL);
            if (status != HMQ_OK)
                round->started--;
        }
        if (status != HMQ_OK && status != HMQ_E_CLOSED && status != HMQ_E_FULL && status != HMQ_E_CANCELLED) {
            CHECK_NUMBER(status, HMQ_E_CLOSED);
            break;
        }
    }
    return NULL;
}

static void *take_part(void *user_data)
{
    struct round *round = user_data;
    int part = round->next++;
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0;
    hmq_status status;

    pthread_barrier_wait(&round->start);
    if (part < PUBLISHERS)
        return publish_until_closed(round, part);
    switch (part - PUBLISHERS) {
    case 0:
        while ((status = hmq_inbox_poll(round->inbox, &event, 1, -1, &count)) == HMQ_OK)
            hmq_events_clear(&event, count);
        CHECK_NUMBER(status, HMQ_CLOSED);
        break;
    case 1:
        status = hmq_hub_wait(round->hub, -1, NULL);
        CHECK(status == HMQ_OK || status == HMQ_CLOSED || status == HMQ_E_CLOSED);
        break;
    case 2:
        status = hmq_sub_wait(round->sub, -1, NULL);
        CHECK(status == HMQ_OK || status == HMQ_E_CLOSED || status == HMQ_E_CANCELLED);
        break;
    default:
        /* Two close at once, and both are told that it is done. */
        STATUS(hmq_hub_close(round->hub, DEADLINE_MS, &err), HMQ_OK);
        round->closed = 1;
        break;
    }
    return NULL;
}

static void one_round(void)
{
    struct round round = {.hub = open_hub("{}")};
    hmq_sub *second = NULL;
    enum { THREADS = PUBLISHERS + 5 };

    STATUS(hmq_inbox_new(round.hub, NULL, 0, &round.inbox, &err), HMQ_OK);
    STATUS(hmq_subscribe(round.hub, "{\"topic\":\"tasks.race\"}", HMQ_NTS, handle, &round, count_drop, -1, &round.sub, &err),
           HMQ_OK);
    STATUS(hmq_subscribe_inbox(round.hub, "{\"topic\":\"tasks.async\"}", HMQ_NTS, round.inbox, 1, -1, &second, &err), HMQ_OK);
    STATUS(hmq_pub_new(round.hub, "{\"topic\":\"tasks.async\"}", HMQ_NTS, &round.pub, &err), HMQ_OK);
    pthread_barrier_init(&round.start, NULL, THREADS);
    run_threads(THREADS, take_part, &round);
    CHECK_NUMBER(round.after_close, 0);
    CHECK_NUMBER(round.outcomes, round.started);
    hmq_sub_free(round.sub);
    hmq_sub_free(second);
    hmq_pub_free(round.pub);
    hmq_inbox_free(round.inbox);
    hmq_hub_free(round.hub);
    EVENTUALLY(round.drops == 1);
    pthread_barrier_destroy(&round.start);
}

/* The other way out: freed under everybody's hands, without a close. */

static void *publish_until_gone(void *hub)
{
    hmq_status status;
    do
        status = hmq_publish(hub, "tasks.gone", HMQ_NTS, "x", 1, -1, NULL, NULL);
    while (status == HMQ_OK || status == HMQ_E_FULL);
    CHECK(status == HMQ_E_HANDLE || status == HMQ_E_CLOSED);
    return NULL;
}

static void freed_while_used(void)
{
    hmq_hub *hub = open_hub("{}");
    pthread_t threads[PUBLISHERS];
    for (int i = 0; i < PUBLISHERS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, publish_until_gone, hub) == 0);
    breathe();
    hmq_hub_free(hub);
    for (int i = 0; i < PUBLISHERS; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : scaled(3000);
    if (rounds < 5)
        rounds = 5;
    for (long i = 0; i < rounds; i++)
        one_round();
    for (long i = 0; i < rounds / 5; i++)
        freed_while_used();
    return result();
}
