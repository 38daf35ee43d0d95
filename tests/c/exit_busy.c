/* Proves: a process may end any way while hubs are busy: by return from main, exit(), exit() called
 * in an atexit handler or in a callback, _exit(), the end of the main thread, and dying of SIGTERM.
 * It ends at once, and the exit code is the program's own. Each way is tried in a process of its own.
 * Rows of docs/bad-input.md: F44. */
#include <signal.h>
#include <sys/wait.h>

#include "check.h"

enum { CODE = 42 };

static hmq_hub *hub;
static atomic_int handled;
static const char *how;

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    if (++handled > 100 && strcmp(how, "exit_in_callback") == 0)
        exit(CODE);
    return HMQ_ACK;
}

static void *publish_for_ever(void *argument)
{
    hmq_status status = HMQ_OK;
    (void)argument;
    while (status == HMQ_OK || status == HMQ_E_FULL || status == HMQ_E_TIMEOUT)
        status = hmq_publish(hub, "tasks.busy", HMQ_NTS, "some payload", 12, 10, NULL, NULL);
    return NULL;
}

static void *wait_for_ever(void *argument)
{
    (void)argument;
    (void)!hmq_hub_wait(hub, -1, NULL);
    return NULL;
}

static void *poll_for_ever(void *inbox)
{
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0;
    while (hmq_inbox_poll(inbox, &event, 1, -1, &count) >= 0)
        hmq_events_clear(&event, count);
    return NULL;
}

static void late_use(void)
{
    /* Handlers run while our threads and the library's are still busy. */
    char *text = NULL;
    if (hmq_publish(hub, "tasks.busy", HMQ_NTS, "late", 4, 10, NULL, NULL) == HMQ_E_PANIC)
        _exit(1);
    if (hmq_health(hub, &text, NULL, NULL) == HMQ_OK)
        hmq_free(text);
}

static void exit_again(void)
{
    late_use();
    _exit(CODE);
}

static void close_late(void)
{
    late_use();
    if (hmq_hub_close(hub, 5000, NULL) != HMQ_OK)
        _exit(1);
    hmq_hub_free(hub);
}

static int busy_process(void)
{
    pthread_t thread;
    hmq_sub *sub = NULL;
    hmq_inbox *inbox = NULL;

    hub = open_hub("{}");
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.busy\"}", HMQ_NTS, handle, NULL, NULL, -1, &sub, &err), HMQ_OK);
    STATUS(hmq_inbox_new(hub, NULL, 0, &inbox, &err), HMQ_OK);
    for (int i = 0; i < 3; i++)
        REQUIRE(pthread_create(&thread, NULL, publish_for_ever, NULL) == 0);
    REQUIRE(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0);
    REQUIRE(pthread_create(&thread, NULL, poll_for_ever, inbox) == 0);
    EVENTUALLY(handled > 10);

    if (strcmp(how, "return") == 0)
        return CODE;
    if (strcmp(how, "exit") == 0)
        exit(CODE);
    if (strcmp(how, "underscore_exit") == 0)
        _exit(CODE);
    if (strcmp(how, "use_in_atexit") == 0) {
        atexit(late_use);
        exit(CODE);
    }
    if (strcmp(how, "exit_in_atexit") == 0) {
        atexit(exit_again);
        exit(1);
    }
    if (strcmp(how, "close_in_atexit") == 0) {
        atexit(close_late);
        exit(CODE);
    }
    if (strcmp(how, "exit_in_callback") == 0)
        pause();
    if (strcmp(how, "sigterm") == 0) {
        raise(SIGTERM);
        pause();
    }
    if (strcmp(how, "freed") == 0) {
        hmq_hub_free(hub);
        return CODE;
    }
    return 1;
}

static void try_way(const char *way, const char *self)
{
    int status = 0;
    long long start = now_ms();
    pid_t child = fork();

    REQUIRE(child >= 0);
    if (child == 0) {
        execl(self, self, way, (char *)NULL);
        _exit(127);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    if (strcmp(way, "sigterm") == 0) {
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    } else if (!WIFEXITED(status) || WEXITSTATUS(status) != CODE) {
        failures++;
        fprintf(stderr, "%s: ended with %s %d\n", way, WIFEXITED(status) ? "code" : "signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    }
    CHECK(now_ms() - start < 20000);
}

int main(int argc, char **argv)
{
    static const char *const ways[] = {"return",        "exit",           "underscore_exit",  "use_in_atexit",
                                       "exit_in_atexit", "close_in_atexit", "exit_in_callback", "sigterm", "freed"};
    if (argc > 1) {
        how = argv[1];
        alarm(30);
        return busy_process();
    }
    for (long round = 0; round < scaled(10); round++)
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
            try_way(ways[i], "/proc/self/exe");
    return result();
}
