/* Proves: when the system refuses a thread, a descriptor or memory, the call answers an error code
 * and the library goes on; nothing aborts, and what works without the refused thing still works.
 * Each limit is tried in a process of its own.
 * Rows of docs/bad-input.md: F53. */
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "check.h"

enum { SIZE = 48 * 1024 * 1024 };

static atomic_int drops;

static hmq_verdict take(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    return HMQ_ACK;
}

static void count_drop(void *user_data)
{
    (void)user_data;
    drops++;
}

static void limit(int what, rlim_t value)
{
    struct rlimit limits = {value, value};
    REQUIRE(setrlimit(what, &limits) == 0);
}

static rlim_t address_space(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    REQUIRE(file != NULL && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* An ordinary user's limit of processes counts; root's does not, so it becomes somebody else. */
static void no_threads(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_sub *sub = NULL;
    hmq_status status;

    publish(hub, "tasks.n", "before");
    if (getuid() == 0)
        REQUIRE(setgid(65534) == 0 && setuid(65534) == 0);
    limit(RLIMIT_NPROC, 0);
    status = hmq_subscribe(hub, "{\"topic\":\"tasks.n\"}", HMQ_NTS, take, NULL, count_drop, 1000, &sub, &err);
    CHECK_NUMBER(status, HMQ_E_RESOURCES);
    CHECK(sub == NULL && drops == 1);
    hmq_error_free(err);
    status = hmq_log_set(HMQ_LOG_INFO, NULL, NULL, NULL, NULL);
    CHECK(status == HMQ_OK || status == HMQ_E_RESOURCES);
    publish(hub, "tasks.n", "after");
    STATUS(hmq_hub_close(hub, 1000, &err), HMQ_OK);
    hmq_hub_free(hub);
    /* A free without a close has no thread to close on, and still neither waits nor fails. */
    hub = open_hub("{}");
    publish(hub, "tasks.n", "x");
    hmq_hub_free(hub);
}

static void no_memory(void)
{
    hmq_hub *hub = open_hub("{\"message_bytes_max\":100000000,\"embedded\":{\"memory_bytes_max\":1000000000},\"failover\":{\"memory_bytes_max\":1000000000}}");
    char *payload = calloc(1, SIZE);
    hmq_status status = HMQ_OK;
    int taken = 0;

    REQUIRE(payload != NULL);
    memset(payload, 'x', SIZE);
    publish(hub, "tasks.m", "before");
    limit(RLIMIT_AS, address_space() + 3 * (rlim_t)SIZE);
    for (int i = 0; i < 10 && status == HMQ_OK; i++, taken += status == HMQ_OK)
        status = hmq_publish(hub, "tasks.m", HMQ_NTS, payload, SIZE, 0, NULL, &err);
    CHECK(status == HMQ_E_RESOURCES || status == HMQ_E_FULL);
    CHECK(taken < 10);
    CHECK(hmq_error_status(err) == status);
    hmq_error_free(err);
    publish(hub, "tasks.m", "after");
    close_hub(hub);
    free(payload);
}

static void no_descriptors(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_inbox *inboxes[64];
    hmq_status status = HMQ_OK;
    int made = 0;

    limit(RLIMIT_NOFILE, (rlim_t)open_fds() + 8);
    while (made < 64 && status == HMQ_OK) {
        status = hmq_inbox_new(hub, "{\"signal\":\"socket\"}", HMQ_NTS, &inboxes[made], &err);
        made += status == HMQ_OK;
    }
    CHECK_NUMBER(status, HMQ_E_RESOURCES);
    CHECK(made > 0 && made < 64);
    hmq_error_free(err);
    hmq_inbox_free(inboxes[--made]);
    STATUS(hmq_inbox_new(hub, "{\"signal\":\"socket\"}", HMQ_NTS, &inboxes[made++], &err), HMQ_OK);
    while (made > 0)
        hmq_inbox_free(inboxes[--made]);
    close_hub(hub);
}

static void apart(const char *name, void (*body)(void))
{
    int status = 0;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(30);
        failures = 0;
        body();
        fflush(stderr);
        _exit(failures > 0);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        failures++;
        fprintf(stderr, "%s: ended with %s %d\n", name, WIFEXITED(status) ? "code" : "signal",
                WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    }
}

int main(void)
{
    apart("no threads", no_threads);
    apart("no memory", no_memory);
    apart("no descriptors", no_descriptors);
    return result();
}
