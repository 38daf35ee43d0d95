/* What all C tests share: assertions that count, a few waits with a deadline, and the figures of
 * the process. An assertion prints its place and goes on; REQUIRE ends the program. */
#ifndef HMQ_TESTS_CHECK_H
#define HMQ_TESTS_CHECK_H

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "helixmq.h"

/* Long enough for a loaded machine under valgrind: no test passes because of it, some fail by it. */
#define DEADLINE_MS 20000

static atomic_int failures;

/* Where calls leave their error: STATUS and FAILS look at it and free it. */
static _Thread_local hmq_error *err;

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            failures++;                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                 \
        }                                                                                           \
    } while (0)

#define REQUIRE(condition)                                                                          \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            fprintf(stderr, "%s:%d: not so, giving up: %s\n", __FILE__, __LINE__, #condition);      \
            _exit(1);                                                                               \
        }                                                                                           \
    } while (0)

#define CHECK_NUMBER(got, want) check_number((long long)(got), (long long)(want), #got, __FILE__, __LINE__)
#define CHECK_TEXT(text, part) check_text((text), (part), __FILE__, __LINE__)
/* The status of a call that has `&err` as its last argument, or no error object at all. */
#define STATUS(call, want) (err = NULL, check_status((call), (want), NULL, #call, __FILE__, __LINE__))
/* As STATUS; the error's JSON must contain `part`. */
#define FAILS(call, want, part) (err = NULL, check_status((call), (want), (part), #call, __FILE__, __LINE__))

static inline int check_number(long long got, long long want, const char *what, const char *file, int line)
{
    if (got != want) {
        failures++;
        fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, got, want);
    }
    return got == want;
}

static inline int check_text(const char *text, const char *part, const char *file, int line)
{
    int found = text != NULL && strstr(text, part) != NULL;
    if (!found) {
        failures++;
        fprintf(stderr, "%s:%d: no `%s` in: %.2000s\n", file, line, part, text ? text : "(null)");
    }
    return found;
}

static inline int check_status(hmq_status got, hmq_status want, const char *part, const char *call, const char *file,
                               int line)
{
    const char *json = hmq_error_json(err, NULL);
    if (got != want) {
        failures++;
        fprintf(stderr, "%s:%d: %s\n    answered %s, not %s: %.2000s\n", file, line, call, hmq_status_name(got),
                hmq_status_name(want), json);
    } else if (part != NULL) {
        check_text(json, part, file, line);
    }
    hmq_error_free(err);
    err = NULL;
    return got == want;
}

/* Ends the library's threads, so that leak checkers see what is left, and prints the verdict; what
 * main returns. */
static inline int result(void)
{
    STATUS(hmq_shutdown(DEADLINE_MS, &err), HMQ_OK);
    if (failures > 0)
        fprintf(stderr, "%d checks failed\n", (int)failures);
    return failures > 0;
}

/* HMQ_TEST_SCALE is in percent: how much of a loop is run. At least one round. */
static inline long scaled(long count)
{
    const char *text = getenv("HMQ_TEST_SCALE");
    long percent = text ? atol(text) : 100;
    long rounds = (long)((double)count * (double)percent / 100.0);
    return rounds > 0 ? rounds : 1;
}

/* Whether time and memory mean something: not under valgrind or a sanitizer. */
static inline int figures_count(void)
{
    return getenv("HMQ_TEST_INSTRUMENTED") == NULL;
}

static inline long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void breathe(void)
{
    struct timespec moment = {0, 200000};
    nanosleep(&moment, NULL);
}

/* Waits until `condition` holds; the deadline makes a failure of it. */
#define EVENTUALLY(condition)                                                                       \
    do {                                                                                            \
        long long until_ = now_ms() + DEADLINE_MS;                                                  \
        while (!(condition) && now_ms() < until_)                                                   \
            breathe();                                                                              \
        CHECK(condition);                                                                           \
    } while (0)

static inline void run_threads(int count, void *(*body)(void *), void *argument)
{
    pthread_t threads[128];
    for (int i = 0; i < count; i++)
        REQUIRE(pthread_create(&threads[i], NULL, body, argument) == 0);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

static inline int entries(const char *path)
{
    DIR *folder = opendir(path);
    int count = 0;
    if (folder == NULL)
        return -1;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static inline int open_fds(void) { return entries("/proc/self/fd"); }
static inline int live_threads(void) { return entries("/proc/self/task"); }

static inline long rss_kib(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Ends a forked child. Instrumented, it must not look for leaks: its other threads are gone. */
static inline void end_child(int code)
{
    if (code == 0 && !figures_count())
        kill(getpid(), SIGKILL);
    _exit(code);
}

static inline int child_ended_well(int status)
{
    if (!figures_count() && WIFSIGNALED(status))
        return WTERMSIG(status) == SIGKILL;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static inline hmq_hub *open_hub(const char *config)
{
    hmq_hub *hub = NULL;
    REQUIRE(STATUS(hmq_hub_open(config, HMQ_NTS, -1, &hub, &err), HMQ_OK));
    return hub;
}

static inline void close_hub(hmq_hub *hub)
{
    STATUS(hmq_hub_close(hub, DEADLINE_MS, &err), HMQ_OK);
    hmq_hub_free(hub);
}

static inline void publish(hmq_hub *hub, const char *topic, const char *text)
{
    STATUS(hmq_publish(hub, topic, HMQ_NTS, text, strlen(text), DEADLINE_MS, NULL, &err), HMQ_OK);
}

#endif
