/* Proves: the library may be loaded and unloaded again and again with hubs open, threads busy and
 * handles in use, and under a second path beside itself: it stays mapped, so nothing crashes; and
 * loading it alone starts no thread, opens no descriptor and installs no signal handler.
 * Rows of docs/bad-input.md: B45, B46. */
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "helixmq.h"

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        if (!(condition)) {                                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                 \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)

/* Declared with the types of the header, so that a change of a signature does not go unnoticed. */
static struct {
    hmq_status (*open)(const char *, size_t, int32_t, hmq_hub **, hmq_error **);
    hmq_status (*close)(hmq_hub *, int32_t, hmq_error **);
    void (*free)(hmq_hub *);
    hmq_status (*publish)(hmq_hub *, const char *, size_t, const void *, size_t, int32_t, hmq_receipt *, hmq_error **);
    hmq_status (*subscribe)(hmq_hub *, const char *, size_t, hmq_msg_fn, void *, hmq_drop_fn, int32_t, hmq_sub **,
                            hmq_error **);
    void (*sub_free)(hmq_sub *);
    hmq_status (*shutdown)(int32_t, hmq_error **);
} hmq;

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL)
        fprintf(stderr, "no %s\n", name);
    CHECK(found != NULL);
    return found;
}

static void *load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *found;
    if (library == NULL)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library != NULL);
#define BIND(field, name) (found = symbol(library, name), memcpy(&hmq.field, &found, sizeof found))
    BIND(open, "hmq_hub_open");
    BIND(close, "hmq_hub_close");
    BIND(free, "hmq_hub_free");
    BIND(publish, "hmq_publish");
    BIND(subscribe, "hmq_subscribe");
    BIND(sub_free, "hmq_sub_free");
    BIND(shutdown, "hmq_shutdown");
    return library;
}

static int entries(const char *path)
{
    DIR *folder = opendir(path);
    int count = 0;
    while (readdir(folder) != NULL)
        count++;
    closedir(folder);
    return count;
}

static void loading_does_nothing(const char *path)
{
    int fds = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    struct sigaction before[32], after;
    void *library;

    for (int i = 1; i < 32; i++)
        sigaction(i, NULL, &before[i]);
    library = load(path);
    CHECK(entries("/proc/self/fd") == fds && entries("/proc/self/task") == threads);
    hmq_hub *hub = NULL;
    CHECK(hmq.open("{}", HMQ_NTS, -1, &hub, NULL) == HMQ_OK);
    CHECK(hmq.close(hub, -1, NULL) == HMQ_OK);
    hmq.free(hub);
    for (int i = 1; i < 32; i++) {
        sigaction(i, NULL, &after);
        CHECK(before[i].sa_handler == after.sa_handler);
    }
    dlclose(library);
}

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    (void)msg;
    __atomic_add_fetch((int *)user_data, 1, __ATOMIC_SEQ_CST);
    return HMQ_ACK;
}

static void *use_and_end(void *hub)
{
    /* This thread has used the library's thread-local state and ends after dlclose. */
    for (int i = 0; i < 20; i++)
        (void)!hmq.publish(hub, "tasks.dl", HMQ_NTS, "x", 1, -1, NULL, NULL);
    return NULL;
}

static void loaded_and_unloaded(const char *path, int rounds)
{
    static hmq_hub *hubs[100];
    static hmq_sub *subs[100];
    int handled = 0;

    for (int i = 0; i < rounds; i++) {
        void *library = load(path);
        pthread_t thread;
        CHECK(hmq.open("{}", HMQ_NTS, -1, &hubs[i], NULL) == HMQ_OK);
        CHECK(hmq.subscribe(hubs[i], "{\"topic\":\"tasks.dl\"}", HMQ_NTS, handle, &handled, NULL, -1, &subs[i], NULL) == HMQ_OK);
        CHECK(pthread_create(&thread, NULL, use_and_end, hubs[i]) == 0);
        dlclose(library);
        pthread_join(thread, NULL);
    }
    while (__atomic_load_n(&handled, __ATOMIC_SEQ_CST) < rounds * 20)
        usleep(200);
    for (int i = 0; i < rounds; i++) {
        if (i % 2)
            CHECK(hmq.close(hubs[i], -1, NULL) == HMQ_OK);
        hmq.sub_free(subs[i]);
        hmq.free(hubs[i]);
    }
}

/* A copy under another name is another library with state of its own. */
static void loaded_twice(const char *path)
{
    char copy[] = "/tmp/hmq-copy-XXXXXX";
    int fd = mkstemp(copy);
    FILE *from = fopen(path, "rb");
    static char buffer[1 << 16];
    size_t len;
    hmq_hub *first = NULL, *second = NULL;
    void (*first_free)(hmq_hub *);
    hmq_status (*first_shutdown)(int32_t, hmq_error **);
    hmq_status (*first_publish)(hmq_hub *, const char *, size_t, const void *, size_t, int32_t, hmq_receipt *, hmq_error **);

    CHECK(fd >= 0 && from != NULL);
    while ((len = fread(buffer, 1, sizeof buffer, from)) > 0)
        CHECK(write(fd, buffer, len) == (ssize_t)len);
    fclose(from);
    close(fd);

    load(path);
    CHECK(hmq.open("{}", HMQ_NTS, -1, &first, NULL) == HMQ_OK);
    first_publish = hmq.publish;
    first_free = hmq.free;
    first_shutdown = hmq.shutdown;
    load(copy);
    unlink(copy);
    CHECK(hmq.publish != first_publish);
    CHECK(hmq.open("{}", HMQ_NTS, -1, &second, NULL) == HMQ_OK);
    CHECK(hmq.publish(second, "tasks.two", HMQ_NTS, "x", 1, -1, NULL, NULL) == HMQ_OK);
    CHECK(first_publish(first, "tasks.two", HMQ_NTS, "x", 1, -1, NULL, NULL) == HMQ_OK);
    CHECK(hmq.close(second, -1, NULL) == HMQ_OK);
    CHECK(first_publish(first, "tasks.two", HMQ_NTS, "x", 1, -1, NULL, NULL) == HMQ_OK);
    hmq.free(second);
    first_free(first);
    CHECK(hmq.shutdown(-1, NULL) == HMQ_OK && first_shutdown(-1, NULL) == HMQ_OK);
}

int main(void)
{
    const char *path = getenv("HMQ_TEST_LIBRARY");
    const char *scale = getenv("HMQ_TEST_SCALE");
    int rounds = scale && atoi(scale) < 100 ? 10 : 100;

    CHECK(path != NULL);
    loading_does_nothing(path);
    loaded_and_unloaded(path, rounds);
    loaded_twice(path);
    return 0;
}
