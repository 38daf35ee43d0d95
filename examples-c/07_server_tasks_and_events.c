/* 07: tasks and events, each on the server made for it, with nothing in the program about servers.
 *
 * Where the servers are, and who we are there, say ten variables of the environment:
 *
 *   MESSAGING_ENABLED, MESSAGING_FALLBACK_INMEMORY, RABBITMQ_HOST, RABBITMQ_PORT, RABBITMQ_USER,
 *   RABBITMQ_PASSWORD, RABBITMQ_VHOST, KAFKA_BROKERS, KAFKA_CLIENT_ID, KAFKA_GROUP_ID
 *
 * Tasks go to RabbitMQ and are done once. Events go to Kafka and stay there, so the last hour can be
 * read again, by pattern, beside those who read them as they come.
 */
#include <stdatomic.h>
#include <time.h>

#include "example.h"

#define WAIT_MS 20000
#define TASKS 3

static hmq_hub *hub;
static atomic_int done;

static hmq_verdict work(hmq_msg *msg, void *user_data)
{
    size_t length;
    const char *payload = hmq_msg_payload(msg, &length);

    (void)user_data;
    printf("task:   %.*s\n", (int)length, payload);
    if (++done == TASKS)
        hmq_hub_stop(hub);
    return HMQ_ACK;
}

static hmq_verdict show(hmq_msg *msg, void *user_data)
{
    size_t key_len, length;
    const char *key = hmq_msg_key(msg, &key_len);
    const char *payload = hmq_msg_payload(msg, &length);

    (void)user_data;
    printf("replay: %s, %.*s: %.*s\n", hmq_msg_topic(msg, NULL), (int)key_len, key, (int)length, payload);
    return HMQ_ACK; /* a replay settles nothing; this is as good as any */
}

static void tell(const char *what, const hmq_receipt *receipt)
{
    const char *where = receipt->backend == HMQ_BACKEND_RABBITMQ ? "RabbitMQ"
                        : receipt->backend == HMQ_BACKEND_KAFKA  ? "Kafka"
                                                                 : "this process";
    printf("%s is %s %s\n", what, receipt->level == HMQ_LEVEL_BROKER ? "confirmed by" : "in", where);
}

int main(void)
{
    static const char *const mails[TASKS] = {"welcome ada", "welcome bob", "goodbye ada"};
    static const char *const events[][3] = {
        {"user.created", "ada", "signed up"},
        {"user.created", "bob", "signed up"},
        {"user.deleted", "ada", "left"},
    };
    hmq_error *err = NULL;
    hmq_sub *worker, *replay;
    char options[128];
    struct timespec now;

    must(hmq_hub_open_env(WAIT_MS, &hub, &err), &err);
    must(hmq_subscribe(hub, "{\"topic\": \"tasks.mail\"}", HMQ_NTS, work, NULL, NULL, WAIT_MS, &worker, &err), &err);

    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        must(hmq_publish_event(hub, events[i][0], HMQ_NTS, events[i][2], strlen(events[i][2]), events[i][1], HMQ_NTS,
                               WAIT_MS, &receipt, &err), &err);
        tell("event", &receipt);
    }
    for (int i = 0; i < TASKS; i++) {
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        must(hmq_publish_task(hub, "tasks.mail", HMQ_NTS, mails[i], strlen(mails[i]), WAIT_MS, &receipt, &err), &err);
        tell("task", &receipt);
    }
    must(hmq_hub_wait(hub, WAIT_MS, &err), &err);

    /* Everything that users did in the last hour, in all topics of theirs. */
    must_be(clock_gettime(CLOCK_REALTIME, &now) == 0, "clock_gettime");
    snprintf(options, sizeof options, "{\"topic\": \"user.*\", \"from\": %lld}",
             ((long long)now.tv_sec - 3600) * 1000000);
    must(hmq_replay(hub, options, HMQ_NTS, show, NULL, NULL, WAIT_MS, &replay, &err), &err);
    must(hmq_sub_wait(replay, WAIT_MS, &err), &err);

    must(hmq_hub_close(hub, WAIT_MS, &err), &err);
    hmq_sub_free(replay);
    hmq_sub_free(worker);
    hmq_hub_free(hub);
    return 0;
}
