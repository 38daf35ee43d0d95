/* 03: pull: an inbox in an event loop.
 *
 * An inbox is a queue with one descriptor that is readable while it is not empty: it fits into any
 * loop (epoll here), beside sockets and timers, and no callback runs. Batches are taken with one
 * call and settled with one call.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>

#include "example.h"

#define JOBS 100
#define BATCH 16
#define WAIT_MS 10000

enum { TASKS = 7 }; /* the tag of the subscription: any number the program likes */

static hmq_hub *hub;
static hmq_inbox *inbox;
static atomic_int all_sent;

/* Another thread, which publishes all jobs with one call. */
static void *produce(void *unused)
{
    hmq_error *err = NULL;
    hmq_pub *publisher;
    hmq_record records[JOBS] = {HMQ_RECORD_INIT}; /* in an array the first `size` counts for all */
    int numbers[JOBS];

    must(hmq_pub_new(hub, "{\"topic\": \"tasks.numbers\"}", HMQ_NTS, &publisher, &err), &err);
    for (int i = 0; i < JOBS; i++) {
        numbers[i] = i + 1;
        records[i] = (hmq_record)HMQ_RECORD_INIT;
        records[i].payload = &numbers[i], records[i].payload_len = sizeof numbers[i];
    }
    /* HMQ_PARTIAL is no failure, but here it would be: all or nothing was meant. */
    must_be(must(hmq_pub_send_batch(publisher, records, JOBS, WAIT_MS, NULL, NULL, &err), &err) == HMQ_OK, "partly sent");
    hmq_pub_free(publisher);

    /* A wake-up says only "look again": what there is to see is told by the program's own flag.
     * hmq_inbox_wake may even be called from a signal handler. */
    atomic_store(&all_sent, 1);
    hmq_inbox_wake(inbox);
    return unused;
}

/* Decides about a batch and settles it with one call, each delivery with a verdict of its own. */
static void settle(const hmq_event *events, size_t count, int *sum, int *refused)
{
    hmq_error *err = NULL;
    hmq_settlement settlements[BATCH];
    for (size_t i = 0; i < count; i++) {
        int number;
        memcpy(&number, events[i].payload, sizeof number);
        settlements[i] = (hmq_settlement)HMQ_SETTLEMENT_INIT;
        settlements[i].token = events[i].token;
        settlements[i].verdict = HMQ_ACK;
        if (number % 25 == 0) {
            settlements[i].verdict = HMQ_REJECT; /* a dead letter at once, without further attempts */
            settlements[i].reason = "a multiple of 25", settlements[i].reason_len = HMQ_NTS;
            ++*refused;
        } else {
            *sum += number;
        }
    }
    /* HMQ_PARTIAL would say that some were not settled; `result` of each tells which and why. */
    must_be(must(hmq_settle_many(settlements, count, &err), &err) == HMQ_OK, "partly settled");
}

int main(void)
{
    hmq_error *err = NULL;
    hmq_sub *sub;
    pthread_t producer;
    int sum = 0, seen = 0, refused = 0, ended = 0, closing = 0;

    must(hmq_hub_open("{}", HMQ_NTS, WAIT_MS, &hub, &err), &err);
    must(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), &err);
    must(hmq_subscribe_inbox(hub, "{\"topic\": \"tasks.numbers\"}", HMQ_NTS, inbox, TASKS, WAIT_MS, &sub, &err), &err);

    int loop = epoll_create1(EPOLL_CLOEXEC);
    must_be(loop >= 0, "epoll_create1");
    int fd = (int)hmq_inbox_fd(inbox);
    struct epoll_event interest = {.events = EPOLLIN, .data.fd = fd};
    must_be(epoll_ctl(loop, EPOLL_CTL_ADD, fd, &interest) == 0, "epoll_ctl");
    must_be(pthread_create(&producer, NULL, produce, NULL) == 0, "pthread_create");

    while (!ended) {
        struct epoll_event ready;
        must_be(epoll_wait(loop, &ready, 1, WAIT_MS) == 1, "epoll_wait");

        /* Never read the descriptor: polls until HMQ_NO_DATA make it quiet again. */
        for (;;) {
            hmq_event events[BATCH] = {HMQ_EVENT_INIT};
            size_t count;
            if (must(hmq_inbox_poll(inbox, events, BATCH, 0, &count), NULL) != HMQ_OK)
                break;
            size_t messages = 0;
            while (messages < count && events[messages].kind == HMQ_EV_MESSAGE)
                messages++;
            settle(events, messages, &sum, &refused);
            seen += (int)messages;
            if (messages < count) {
                /* The last event of a subscription, with the reason as its status. */
                must_be(events[messages].kind == HMQ_EV_END && events[messages].tag == TASKS, "an unknown event came");
                printf("the subscription ended: %s\n", hmq_status_name(events[messages].status));
                ended = 1;
            }
            hmq_events_clear(events, count);
        }
        if (atomic_load(&all_sent) && seen == JOBS && !closing) {
            printf("%d tasks came, %d were refused, the others sum up to %d\n", seen, refused, sum);
            closing = 1;
            must(hmq_sub_close(sub, WAIT_MS, &err), &err);
        }
    }

    must_be(pthread_join(producer, NULL) == 0, "pthread_join");
    must(hmq_hub_close(hub, WAIT_MS, &err), &err);
    hmq_sub_free(sub);
    hmq_inbox_free(inbox);
    hmq_hub_free(hub);
    return 0;
}
