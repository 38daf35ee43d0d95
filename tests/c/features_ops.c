/* Proves, from end to end: topics are declared, described, purged and deleted; health, metrics in
 * both formats, state changes and log lines tell what happens; a backend held down answers
 * HMQ_E_BACKEND_DOWN and comes back; a stop flag ends a wait; hooks see every thread; and after
 * hmq_shutdown the library can be used again. */
#include "check.h"

static atomic_int started, stopped, unnamed;

static void on_start(const char *name, void *user_data)
{
    (void)user_data;
    started++;
    if (name == NULL || strncmp(name, "hmq-", 4) != 0)
        unnamed++;
}

static void on_stop(const char *name, void *user_data)
{
    (void)user_data;
    stopped++;
    if (name == NULL || strncmp(name, "hmq-", 4) != 0)
        unnamed++;
}

static hmq_verdict take(hmq_msg *msg, void *user_data)
{
    (void)msg;
    ++*(atomic_int *)user_data;
    return HMQ_ACK;
}

static void described(hmq_hub *hub, const char *selector, const char *part)
{
    char *text = NULL;
    STATUS(hmq_describe(hub, selector, HMQ_NTS, -1, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, part);
    hmq_free(text);
}

static void topics(void)
{
    hmq_hub *hub = open_hub("{}");
    uint64_t removed = 0;
    int32_t created = 0;
    char *text = NULL;

    STATUS(hmq_declare(hub, "{\"name\":\"tasks.d\",\"kind\":\"task\"}", HMQ_NTS, -1, &created, &err), HMQ_OK);
    CHECK_NUMBER(created, 1);
    for (int i = 0; i < 7; i++)
        publish(hub, "tasks.d", "x");
    described(hub, "{\"name\":\"tasks.d\"}", "\"messages\":7");
    described(hub, "{\"pattern\":\"tasks.*\"}", "tasks.d");
    described(hub, "{\"kind\":\"event\"}", "[");
    FAILS(hmq_describe(hub, "{\"name\":\"tasks.nowhere\"}", HMQ_NTS, -1, &text, NULL, &err), HMQ_E_NOT_FOUND, "tasks.nowhere");
    STATUS(hmq_purge(hub, "{\"name\":\"tasks.d\"}", HMQ_NTS, -1, &removed, &err), HMQ_OK);
    CHECK_NUMBER(removed, 7);
    described(hub, "{\"name\":\"tasks.d\"}", "\"messages\":0");
    STATUS(hmq_delete(hub, "{\"name\":\"tasks.d\"}", HMQ_NTS, -1, &err), HMQ_OK);
    STATUS(hmq_delete(hub, "{\"name\":\"tasks.d\"}", HMQ_NTS, -1, &err), HMQ_E_NOT_FOUND);
    STATUS(hmq_purge(hub, "{\"name\":\"tasks.d\"}", HMQ_NTS, -1, &removed, &err), HMQ_E_NOT_FOUND);
    /* A deleted name may come back as the other kind. */
    STATUS(hmq_declare(hub, "{\"name\":\"either\",\"kind\":\"task\"}", HMQ_NTS, -1, NULL, &err), HMQ_OK);
    STATUS(hmq_declare(hub, "{\"name\":\"either\",\"kind\":\"event\"}", HMQ_NTS, -1, NULL, &err), HMQ_E_KIND);
    STATUS(hmq_delete(hub, "{\"name\":\"either\"}", HMQ_NTS, -1, &err), HMQ_OK);
    STATUS(hmq_declare(hub, "{\"name\":\"either\",\"kind\":\"event\"}", HMQ_NTS, -1, NULL, &err), HMQ_OK);
    close_hub(hub);
}

static void figures(void)
{
    hmq_hub *hub = open_hub("{\"name\":\"figures\"}");
    hmq_sub *sub = NULL;
    atomic_int handled = 0;
    char *text = NULL;

    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.f\"}", HMQ_NTS, take, &handled, NULL, -1, &sub, &err), HMQ_OK);
    publish(hub, "tasks.f", "x");
    publish(hub, "tasks.f", "x");
    EVENTUALLY(handled == 2);
    STATUS(hmq_health(hub, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"name\":\"figures\"");
    CHECK_TEXT(text, "\"ready\":true");
    CHECK_TEXT(text, "\"subscriptions\":1");
    CHECK_TEXT(text, "\"backend\":\"embedded\"");
    hmq_free(text);
    STATUS(hmq_metrics(hub, HMQ_METRICS_JSON, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "published");
    hmq_free(text);
    STATUS(hmq_metrics(hub, HMQ_METRICS_PROMETHEUS, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "# TYPE ");
    CHECK_TEXT(text, "published");
    hmq_free(text);
    STATUS(hmq_hub_flush(hub, -1, &err), HMQ_OK);
    STATUS(hmq_wait_forwarded(hub, -1, &err), HMQ_OK);
    STATUS(hmq_forwarding(hub, 1, &err), HMQ_OK);
    hmq_sub_free(sub);
    close_hub(hub);
}

struct lines {
    atomic_int count;
    atomic_int drops;
    atomic_int downs;
};

static void note(int32_t level, const char *json, size_t len, void *user_data)
{
    struct lines *lines = user_data;
    CHECK(level >= HMQ_LOG_ERROR && strlen(json) == len);
    if (strstr(json, "down") != NULL)
        lines->downs++;
    lines->count++;
}

static void dropped(void *lines) { ((struct lines *)lines)->drops++; }

static void outage(void)
{
    hmq_hub *hub = open_hub("{}");
    struct lines states = {.count = 0}, log = {.count = 0};
    hmq_sub *sub = NULL;
    atomic_int handled = 0;
    char *text = NULL;

    STATUS(hmq_log_set(HMQ_LOG_INFO, note, &log, dropped, &err), HMQ_OK);
    STATUS(hmq_on_state(hub, note, &states, dropped, &err), HMQ_OK);
    publish(hub, "tasks.o", "before");
    STATUS(hmq_backend_force(hub, "embedded", HMQ_NTS, HMQ_FORCE_DOWN, &err), HMQ_OK);
    EVENTUALLY(states.downs == 1);
    FAILS(hmq_publish(hub, "tasks.o", HMQ_NTS, "x", 1, 0, NULL, &err), HMQ_E_BACKEND_DOWN, "not_sent");
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.o\"}", HMQ_NTS, take, &handled, NULL, 0, &sub, &err), HMQ_E_BACKEND_DOWN);
    STATUS(hmq_health(hub, &text, NULL, &err), HMQ_OK);
    CHECK_TEXT(text, "\"degraded\":true");
    CHECK_TEXT(text, "\"forced\":true");
    hmq_free(text);
    CHECK(hmq_backend_force(hub, "rabbitmq", HMQ_NTS, HMQ_FORCE_DOWN, NULL) < 0);
    STATUS(hmq_backend_force(hub, "embedded", HMQ_NTS, HMQ_FORCE_AUTO, &err), HMQ_OK);
    EVENTUALLY(states.count == 2);
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.o\"}", HMQ_NTS, take, &handled, NULL, -1, &sub, &err), HMQ_OK);
    publish(hub, "tasks.o", "after");
    EVENTUALLY(handled == 2);
    EVENTUALLY(log.count >= 2);
    STATUS(hmq_log_set(HMQ_LOG_INFO, NULL, NULL, NULL, &err), HMQ_OK);
    EVENTUALLY(log.drops == 1);
    hmq_sub_free(sub);
    close_hub(hub);
    EVENTUALLY(states.drops == 1);
}

static void *stop(void *hub)
{
    breathe();
    hmq_hub_stop(hub);
    return NULL;
}

static void run_until_stopped(void)
{
    hmq_hub *hub = open_hub("{}");
    pthread_t thread;

    REQUIRE(pthread_create(&thread, NULL, stop, hub) == 0);
    STATUS(hmq_hub_wait(hub, -1, &err), HMQ_OK);
    pthread_join(thread, NULL);
    STATUS(hmq_hub_wait(hub, -1, &err), HMQ_OK);
    close_hub(hub);
}

static void hooks(void)
{
    hmq_hub *hub;
    hmq_sub *sub = NULL;
    atomic_int handled = 0;
    struct lines replaced = {.count = 0};

    STATUS(hmq_thread_hooks(on_start, on_stop, &replaced, dropped, &err), HMQ_OK);
    STATUS(hmq_thread_hooks(on_start, on_stop, NULL, NULL, &err), HMQ_OK);
    CHECK_NUMBER(replaced.drops, 1);
    hub = open_hub("{}");
    STATUS(hmq_subscribe(hub, "{\"topic\":\"tasks.h\"}", HMQ_NTS, take, &handled, NULL, -1, &sub, &err), HMQ_OK);
    publish(hub, "tasks.h", "x");
    EVENTUALLY(handled == 1);
    CHECK(started > 0);
    STATUS(hmq_thread_hooks(NULL, NULL, NULL, NULL, &err), HMQ_E_STATE);
    hmq_sub_free(sub);
    close_hub(hub);
    STATUS(hmq_shutdown(DEADLINE_MS, &err), HMQ_OK);
    CHECK_NUMBER(stopped, started);
    CHECK_NUMBER(unnamed, 0);
    EVENTUALLY(live_threads() == 3);
}

static void token_providers_have_a_function(void)
{
    STATUS(hmq_token_provider_set("name", HMQ_NTS, NULL, NULL, NULL, &err), HMQ_E_NULL);
}

int main(void)
{
    hooks();
    for (int round = 0; round < 3; round++) {
        topics();
        figures();
        outage();
        run_until_stopped();
        STATUS(hmq_shutdown(DEADLINE_MS, &err), HMQ_OK);
        EVENTUALLY(live_threads() == 3);
    }
    token_providers_have_a_function();
    return result();
}
