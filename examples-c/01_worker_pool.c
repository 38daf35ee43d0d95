/* 01: a pool of workers.
 *
 * Every file named on the command line becomes a *task*: work that exactly one worker does. Four
 * workers compete for the tasks. What happens is told as *events*: facts that everybody may read,
 * now or later. One more file does not exist: its task is tried three times and ends as a *dead
 * letter*, kept with the reason, so that nothing is lost silently.
 *
 * No server is needed: a hub without configuration uses the broker inside the library.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdatomic.h>

#include "example.h"

#define WORKERS "4"
#define ATTEMPTS "3" /* then a task is a dead letter */
#define MISSING "reports/of-last-year.txt"
#define WAIT_MS 10000

static void tell(hmq_hub *hub, const char *topic, const char *file, const char *text)
{
    hmq_error *err = NULL;
    /* The file is the key: events of one key stay in order. */
    must(hmq_publish_event(hub, topic, HMQ_NTS, text, strlen(text), file, HMQ_NTS, WAIT_MS, NULL, &err), &err);
}

/* One task: the payload is the name of a file. Runs on four threads of the library at a time. */
static hmq_verdict sum_up(hmq_msg *msg, void *user_data)
{
    static atomic_int workers;
    static _Thread_local int me;
    hmq_hub *hub = user_data;
    char file[512], text[800];
    size_t length;
    const char *payload = hmq_msg_payload(msg, &length);

    me = me ? me : atomic_fetch_add(&workers, 1) + 1;
    snprintf(file, sizeof file, "%.*s", (int)length, payload);

    FILE *in = fopen(file, "rb");
    if (in == NULL) {
        /* Answering HMQ_RETRY would do. Settling by token says why, too; then the answer is
         * HMQ_LATER: "the token settles it". After the last attempt it is a dead letter. */
        uint32_t attempt = hmq_msg_attempt(msg);
        hmq_error *err = NULL;
        must(hmq_settle(hmq_msg_token(msg), HMQ_RETRY, -1, "cannot open the file", HMQ_NTS, &err), &err);
        snprintf(text, sizeof text, "worker %d  %s: cannot open it, attempt %" PRIu32 " of " ATTEMPTS, me, file, attempt);
        tell(hub, attempt < (uint32_t)atoi(ATTEMPTS) ? "file.failed" : "file.abandoned", file, text);
        return HMQ_LATER;
    }
    long lines = 0, words = 0, bytes = 0;
    for (int c, before = ' '; (c = getc(in)) != EOF; before = c) {
        bytes++;
        lines += c == '\n';
        words += isspace(before) && !isspace(c);
    }
    fclose(in);
    snprintf(text, sizeof text, "worker %d  %s: %ld lines, %ld words, %ld bytes", me, file, lines, words, bytes);
    tell(hub, "file.summed", file, text);
    return HMQ_ACK;
}

/* Receives replayed events; the answer of a replay's callback settles nothing. */
static hmq_verdict count_topics(hmq_msg *msg, void *user_data)
{
    int *counts = user_data;
    const char *topic = hmq_msg_topic(msg, NULL);
    counts[strcmp(topic, "file.summed") == 0 ? 0 : strcmp(topic, "file.failed") == 0 ? 1 : 2]++;
    return HMQ_ACK;
}

/* Shows one text of a JSON document. Good enough here; a real program has a JSON parser. */
static void show(const char *json, const char *name)
{
    char field[64];
    int length = snprintf(field, sizeof field, "\"%s\":\"", name);
    const char *value = strstr(json, field);
    must_be(value != NULL, "a field is missing in the list of dead letters");
    value += length;
    printf("  %-13s %.*s\n", name, (int)strcspn(value, "\""), value);
}

int main(int argc, char **argv)
{
    hmq_error *err = NULL;
    hmq_hub *hub;
    hmq_inbox *inbox;
    hmq_sub *workers, *news, *replay;

    if (argc < 2)
        return fprintf(stderr, "usage: %s FILE...\n", argv[0]), 2;
    must(hmq_hub_open("{}", HMQ_NTS, WAIT_MS, &hub, &err), &err);
    printf("A hub is open, with the broker inside the library (helixmq %s).\n", hmq_version_string());

    /* The main thread listens to all `file.*` events. "group": null makes it a group of its own. */
    must(hmq_inbox_new(hub, "{}", HMQ_NTS, &inbox, &err), &err);
    must(hmq_subscribe_inbox(hub, "{\"topic\": \"file.*\", \"kind\": \"event\", \"group\": null}", HMQ_NTS, inbox, 1,
                             WAIT_MS, &news, &err), &err);

    /* Topics that begin with `tasks.` carry tasks, unless the configuration says otherwise. */
    must(hmq_subscribe(hub, "{\"topic\": \"tasks.files\", \"concurrency\": " WORKERS ", \"retry\": {\"attempts\": " ATTEMPTS
                       ", \"delay_ms\": 100}}", HMQ_NTS, sum_up, hub, NULL, WAIT_MS, &workers, &err), &err);

    printf("%d tasks go to " WORKERS " workers. One file does not exist.\n\n", argc);
    argv[0] = MISSING;
    for (int i = 0; i < argc; i++)
        must(hmq_publish_task(hub, "tasks.files", HMQ_NTS, argv[i], strlen(argv[i]), WAIT_MS, NULL, &err), &err);

    /* Each task ends with one of two events: summed, or abandoned. */
    for (int open = argc; open > 0;) {
        hmq_event events[16] = {HMQ_EVENT_INIT};
        size_t count;
        if (must(hmq_inbox_poll(inbox, events, 16, WAIT_MS, &count), NULL) != HMQ_OK)
            return fprintf(stderr, "nothing happened for ten seconds\n"), 1;
        for (size_t i = 0; i < count; i++) {
            printf("  %.*s\n", (int)events[i].payload_len, (const char *)events[i].payload);
            open -= strcmp(events[i].topic, "file.failed") != 0;
            must(hmq_settle(events[i].token, HMQ_ACK, 0, NULL, 0, &err), &err);
        }
        hmq_events_clear(events, count);
    }

    /* Stop in order: no callback runs after a successful close. */
    must(hmq_sub_close(workers, WAIT_MS, &err), &err);
    must(hmq_sub_close(news, WAIT_MS, &err), &err);

    char *json;
    must(hmq_dead_letters(hub, "{\"action\": \"list\", \"topic\": \"tasks.files\"}", HMQ_NTS, WAIT_MS, &json, NULL, &err), &err);
    printf("\nNothing is lost. A dead letter of tasks.files:\n");
    show(json, "payload_text");
    show(json, "reason");
    hmq_free(json);

    /* Events stay after they were read: they can be replayed, by pattern and time. */
    int counts[3] = {0};
    must(hmq_replay(hub, "{\"topic\": \"file.*\"}", HMQ_NTS, count_topics, counts, NULL, WAIT_MS, &replay, &err), &err);
    must(hmq_sub_wait(replay, WAIT_MS, &err), &err);
    printf("\nA replay of file.* tells it again: %d summed, %d failed, %d abandoned.\n", counts[0], counts[1], counts[2]);

    must(hmq_hub_close(hub, WAIT_MS, &err), &err);
    hmq_sub_free(replay);
    hmq_sub_free(workers);
    hmq_sub_free(news);
    hmq_inbox_free(inbox);
    hmq_hub_free(hub);
    printf("The hub is closed.\n");
    return 0;
}
