/* Proves: a comma locale, an environment that changes and closed standard descriptors do no harm,
 * and nothing is ever written to descriptors 0 to 2; calls work on a 64 KiB stack and with all
 * signals blocked; the library's threads take no signals; and hmq_hub_stop and hmq_inbox_wake work
 * in a signal handler.
 * Rows of docs/bad-input.md: B43, B49. */
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"

static hmq_hub *hub;
static hmq_inbox *inbox;
static atomic_int handled;

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    handled++;
    return HMQ_ACK;
}

static void a_little_of_everything(void)
{
    hmq_hub *own = open_hub("{\"retry\":{\"factor\":1.5}}");
    hmq_sub *sub = NULL;
    char *text = NULL;
    int before = handled;

    STATUS(hmq_subscribe(own, "{\"topic\":\"tasks.e\",\"retry\":{\"factor\":1.25}}", HMQ_NTS, handle, NULL, NULL, -1, &sub,
                         &err),
           HMQ_OK);
    publish(own, "tasks.e", "x");
    publish(own, "events.e", "x");
    EVENTUALLY(handled == before + 1);
    STATUS(hmq_metrics(own, HMQ_METRICS_PROMETHEUS, &text, NULL, &err), HMQ_OK);
    CHECK(text == NULL || strstr(text, ",5") == NULL);
    hmq_free(text);
    FAILS(hmq_publish_json(own, "{\"topic\":", HMQ_NTS, 0, NULL, &err), HMQ_E_CONFIG, "line");
    hmq_sub_free(sub);
    close_hub(own);
}

static void locale_with_commas(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE", "nl_NL.UTF-8"};
    char *text = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && setlocale(LC_ALL, names[i]) == NULL; i++)
        ;
    STATUS(hmq_config_check("{\"retry\":{\"factor\":2.5}}", HMQ_NTS, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "2.5");
    hmq_free(text);
    a_little_of_everything();
    setlocale(LC_ALL, "C");
}

static void changed_environment(void)
{
    hmq_hub *own = NULL;
    char *text = NULL;

    setenv("MESSAGING_ENABLED", "false", 1);
    a_little_of_everything();
    STATUS(hmq_hub_open_env(-1, &own, &err), HMQ_OK);
    STATUS(hmq_publish(own, "tasks.e", HMQ_NTS, "x", 1, 0, NULL, &err), HMQ_E_DISABLED);
    STATUS(hmq_health(own, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"enabled\":false");
    hmq_free(text);
    hmq_hub_free(own);
    setenv("MESSAGING_ENABLED", "perhaps", 1);
    FAILS(hmq_hub_open_env(-1, &own, &err), HMQ_E_CONFIG, "MESSAGING_ENABLED");
    unsetenv("MESSAGING_ENABLED");
    setenv("RABBITMQ_PORT", "5672", 1);
    FAILS(hmq_hub_open_env(-1, &own, &err), HMQ_E_CONFIG, "RABBITMQ_HOST");
    unsetenv("RABBITMQ_PORT");
    setenv("HELIXMQ__RETRY__ATTEMPTS", "9", 1);
    STATUS(hmq_config_check("{\"env\":true}", HMQ_NTS, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"attempts\":9");
    hmq_free(text);
    unsetenv("HELIXMQ__RETRY__ATTEMPTS");
    clearenv();
    STATUS(hmq_hub_open_env(-1, &own, &err), HMQ_OK);
    close_hub(own);
}

/* Files of our own take the places of the standard descriptors: they must stay empty. */
static int closed_descriptors(void)
{
    int files[3];
    char path[] = "/tmp/hmq-fd-XXXXXX";
    int keep;

    keep = mkstemp(path);
    if (keep < 3)
        return 1;
    unlink(path);
    if (fcntl(keep, F_DUPFD, 10) < 0)
        return 2;
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    a_little_of_everything();
    for (int i = 0; i < 3; i++) {
        struct stat now;
        files[i] = dup(keep);
        if (files[i] > 2 || fstat(files[i], &now) != 0)
            return 3;
    }
    a_little_of_everything();
    for (int i = 0; i < 3; i++) {
        struct stat now;
        if (fstat(files[i], &now) != 0 || now.st_size != 0)
            return 4;
    }
    return failures > 0 ? 5 : 0;
}

static void *on_small_stack(void *argument)
{
    sigset_t all;
    (void)argument;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    a_little_of_everything();
    return NULL;
}

static void small_stack(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    size_t size = 64 * 1024;

    pthread_attr_init(&attributes);
    if (size < (size_t)sysconf(_SC_THREAD_STACK_MIN))
        size = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    REQUIRE(pthread_attr_setstacksize(&attributes, size) == 0);
    REQUIRE(pthread_create(&thread, &attributes, on_small_stack, NULL) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}

static pthread_t main_thread;
static atomic_int taken, taken_elsewhere;

static void on_signal(int number)
{
    (void)number;
    taken++;
    if (!pthread_equal(pthread_self(), main_thread))
        taken_elsewhere++;
    hmq_hub_stop(hub);
    hmq_inbox_wake(inbox);
}

static void *send_signal(void *argument)
{
    sigset_t all;
    (void)argument;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    breathe();
    kill(getpid(), SIGUSR1);
    return NULL;
}

static void signal_handler(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    hmq_sub *sub = NULL;
    hmq_event event = HMQ_EVENT_INIT;
    size_t count = 0;
    pthread_t thread;

    main_thread = pthread_self();
    hub = open_hub("{}");
    STATUS(hmq_inbox_new(hub, NULL, 0, &inbox, &err), HMQ_OK);
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.e\"}", HMQ_NTS, handle, NULL, NULL, -1, &sub, &err), HMQ_OK);
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 0; i < 20; i++) {
        REQUIRE(pthread_create(&thread, NULL, send_signal, NULL) == 0);
        STATUS(hmq_inbox_poll(inbox, &event, 1, -1, &count), HMQ_NO_DATA);
        pthread_join(thread, NULL);
    }
    EVENTUALLY(taken == 20);
    STATUS(hmq_hub_wait(hub, -1, &err), HMQ_OK);
    CHECK_NUMBER(taken_elsewhere, 0);
    hmq_hub_stop(NULL);
    hmq_sub_free(sub);
    hmq_inbox_free(inbox);
    close_hub(hub);
}

int main(void)
{
    int status = 0;
    pid_t child = fork();

    REQUIRE(child >= 0);
    if (child == 0)
        end_child(closed_descriptors());
    REQUIRE(waitpid(child, &status, 0) == child);
    if (!child_ended_well(status))
        CHECK_NUMBER(WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), 0);
    locale_with_commas();
    small_stack();
    signal_handler();
    changed_environment();
    return result();
}
