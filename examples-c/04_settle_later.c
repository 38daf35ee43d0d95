/* 04: settling later.
 *
 * A callback does not have to decide. It may hand the *token* of its delivery to somebody else and
 * answer HMQ_LATER; the token settles the delivery from any thread, without the message. While
 * nobody settles it, its *lease* runs; when that has ended, the delivery is handed out again and
 * the old token is stale: it can harm nothing.
 *
 * The hub of this program has a virtual clock, so nothing here has to wait for real time.
 */
#include <unistd.h>

#include "example.h"

#define WAIT_MS 10000

/* What goes from the callback to the main thread, through a pipe. */
struct job {
    hmq_token token;
    uint32_t attempt;
    char name[16];
};

static hmq_verdict pass_on(hmq_msg *msg, void *user_data)
{
    int *pipe_in = user_data;
    struct job job = {0};
    size_t length;
    const void *payload = hmq_msg_payload(msg, &length);

    job.token = hmq_msg_token(msg);
    job.attempt = hmq_msg_attempt(msg);
    memcpy(job.name, payload, length < sizeof job.name ? length : sizeof job.name - 1);
    if (write(*pipe_in, &job, sizeof job) != sizeof job)
        return HMQ_RETRY; /* nobody took it: another attempt */
    return HMQ_LATER;
}

/* Called exactly once, when no further call of pass_on will come. */
static void close_pipe(void *user_data)
{
    close(*(int *)user_data);
}

static struct job next_job(int pipe_out)
{
    struct job job;
    must_be(read(pipe_out, &job, sizeof job) == sizeof job, "read");
    printf("%s came, attempt %u\n", job.name, (unsigned)job.attempt);
    return job;
}

/* Settles and shows the answer: some answers below are failures, on purpose. */
static void settle(const struct job *job)
{
    hmq_status status = hmq_settle(job->token, HMQ_ACK, 0, NULL, 0, NULL);
    printf("  settle %s with the token of attempt %u: %s\n", job->name, (unsigned)job->attempt, hmq_status_name(status));
}

int main(void)
{
    hmq_error *err = NULL;
    hmq_hub *hub;
    hmq_sub *sub;
    int pipes[2];
    struct job job, again;

    must_be(pipe(pipes) == 0, "pipe");
    must(hmq_hub_open("{\"clock\": \"virtual\"}", HMQ_NTS, WAIT_MS, &hub, &err), &err);
    must(hmq_subscribe(hub, "{\"topic\": \"tasks.slow\", \"lease_ms\": 60000}", HMQ_NTS, pass_on, &pipes[1], close_pipe,
                       WAIT_MS, &sub, &err), &err);

    /* A job that takes longer than its lease: extend it in time. */
    must(hmq_publish_task(hub, "tasks.slow", HMQ_NTS, "long", 4, WAIT_MS, NULL, &err), &err);
    job = next_job(pipes[0]);
    must(hmq_clock_advance(hub, 50000, &err), &err);
    must(hmq_extend(job.token, 60000, &err), &err);
    must(hmq_clock_advance(hub, 50000, &err), &err);
    printf("  100 seconds later, extended once:\n");
    settle(&job);
    settle(&job); /* a second settle changes nothing, and says so */

    /* A job that was forgotten: its lease ends, and it comes again. */
    must(hmq_publish_task(hub, "tasks.slow", HMQ_NTS, "forgotten", 9, WAIT_MS, NULL, &err), &err);
    job = next_job(pipes[0]);
    printf("  60 seconds later, forgotten:\n");
    must(hmq_clock_advance(hub, 60000, &err), &err);
    again = next_job(pipes[0]);
    settle(&job);
    settle(&again);

    /* A job that fails for now: try again after a delay that is longer than the usual one. */
    must(hmq_publish_task(hub, "tasks.slow", HMQ_NTS, "hasty", 5, WAIT_MS, NULL, &err), &err);
    job = next_job(pipes[0]);
    must(hmq_settle(job.token, HMQ_RETRY, 3600000, "the printer is cold", HMQ_NTS, &err), &err);
    printf("  an hour later:\n");
    must(hmq_clock_advance(hub, 3600000, &err), &err);
    job = next_job(pipes[0]);
    settle(&job);

    /* Close in order; then the drop function closes the writing end of the pipe. */
    must(hmq_hub_close(hub, WAIT_MS, &err), &err);
    hmq_sub_free(sub);
    hmq_hub_free(hub);
    must_be(read(pipes[0], &job, sizeof job) == 0, "the drop function was not called");
    printf("the hub is closed, and the callback's data was dropped\n");
    close(pipes[0]);
    return 0;
}
