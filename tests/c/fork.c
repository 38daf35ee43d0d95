/* Proves: in a child of fork every call answers HMQ_E_FORKED at once and every free does nothing,
 * also while threads of the parent are in the middle of calls; the child ends cleanly; the parent
 * does not notice; and a process that forks before its first call uses the library in the child.
 * Rows of docs/bad-input.md: B44. */
#include <sys/wait.h>

#include "check.h"

static hmq_hub *hub;
static hmq_sub *sub;
static hmq_pub *pub;
static hmq_inbox *inbox;
static hmq_error *old_error;
static hmq_msg *kept;
static atomic_int handled, stop, drops;

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    (void)user_data;
    if (handled++ == 0 && hmq_msg_retain(msg) == HMQ_OK)
        kept = msg;
    return HMQ_ACK;
}

static void count_drop(void *user_data)
{
    (void)user_data;
    drops++;
}

static void *keep_publishing(void *argument)
{
    (void)argument;
    while (!stop)
        STATUS(hmq_publish(hub, "tasks.fork", HMQ_NTS, "x", 1, -1, NULL, &err), HMQ_OK);
    return NULL;
}

/* Everything that could hang on a lock that a thread held which is not here any more. */
static int in_child(void)
{
    hmq_error *error = NULL;
    hmq_hub *other = NULL;
    hmq_sub *own = NULL;
    hmq_record record = HMQ_RECORD_INIT;
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0, len = 0;
    char *text = NULL;

    failures = 0;
    CHECK_NUMBER(hmq_publish(hub, "tasks.fork", HMQ_NTS, "x", 1, -1, NULL, &error), HMQ_E_FORKED);
    CHECK(error != NULL);
    CHECK_NUMBER(hmq_error_status(error), HMQ_E_FORKED);
    CHECK_TEXT(hmq_error_json(error, &len), "HMQ_E_FORKED");
    CHECK(len > 0);
    hmq_error_free(error);
    CHECK_NUMBER(hmq_hub_open("{}", HMQ_NTS, -1, &other, NULL), HMQ_E_FORKED);
    CHECK(other == NULL);
    CHECK_NUMBER(hmq_pub_send(pub, &record, -1, NULL, NULL), HMQ_E_FORKED);
    drops = 0;
    CHECK_NUMBER(hmq_subscribe(hub, "{\"topic\":\"tasks.fork\"}", HMQ_NTS, handle, NULL, count_drop, -1, &own, NULL),
                 HMQ_E_FORKED);
    CHECK_NUMBER(drops, 1);
    CHECK_NUMBER(hmq_inbox_poll(inbox, &event, 1, -1, &count), HMQ_E_FORKED);
    CHECK_NUMBER(hmq_settle(1, HMQ_ACK, 0, NULL, 0, NULL), HMQ_E_FORKED);
    CHECK_NUMBER(hmq_health(hub, &text, NULL, NULL), HMQ_E_FORKED);
    CHECK_NUMBER(hmq_hub_close(hub, -1, NULL), HMQ_E_FORKED);
    CHECK_NUMBER(hmq_shutdown(-1, NULL), HMQ_E_FORKED);
    CHECK_NUMBER(hmq_error_status(old_error), HMQ_E_FORKED);
    CHECK(hmq_msg_payload(kept, &len) == NULL && len == 0);
    hmq_hub_stop(hub);
    hmq_inbox_wake(inbox);
    hmq_msg_free(kept);
    hmq_error_free(old_error);
    hmq_sub_free(sub);
    hmq_pub_free(pub);
    hmq_inbox_free(inbox);
    hmq_hub_free(hub);
    hmq_events_clear(&event, 1);
    return failures > 0;
}

static void wait_for(pid_t child)
{
    int status = 0;
    long long until = now_ms() + DEADLINE_MS;
    pid_t ended;
    while ((ended = waitpid(child, &status, WNOHANG)) == 0 && now_ms() < until)
        breathe();
    CHECK(ended == child && child_ended_well(status));
}

static void fork_before_the_first_call(void)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        hub = open_hub("{}");
        publish(hub, "tasks.fork", "x");
        close_hub(hub);
        exit(result());
    }
    wait_for(child);
}

int main(void)
{
    pthread_t threads[3];
    int before;

    fork_before_the_first_call();
    hub = open_hub("{}");
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.fork\"}", HMQ_NTS, handle, NULL, NULL, -1, &sub, &err), HMQ_OK);
    STATUS(hmq_pub_new(hub, "{\"topic\":\"tasks.fork\"}", HMQ_NTS, &pub, &err), HMQ_OK);
    STATUS(hmq_inbox_new(hub, NULL, 0, &inbox, &err), HMQ_OK);
    CHECK_NUMBER(hmq_abi_check(0, &old_error), HMQ_E_ABI);
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&threads[i], NULL, keep_publishing, NULL) == 0);
    EVENTUALLY(handled > 10);

    for (long round = 0; round < scaled(100); round++) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            int code = in_child();
            /* Half of them run what is registered for the exit, too: under a sanitizer that would be a
             * search for leaks, in a process whose other threads are gone. */
            if (round % 2 && figures_count())
                exit(code);
            end_child(code);
        }
        wait_for(child);
    }

    before = handled;
    EVENTUALLY(handled > before);
    stop = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK(hmq_msg_payload(kept, NULL) != NULL);
    hmq_msg_free(kept);
    hmq_error_free(old_error);
    hmq_sub_free(sub);
    hmq_pub_free(pub);
    hmq_inbox_free(inbox);
    close_hub(hub);
    return result();
}
