/* 05: a producer with a server that goes away.
 *
 *   05_server_producer PORT COUNT
 *
 * Publishes COUNT tasks to a RabbitMQ server on this machine. While the server is away, the library
 * keeps what it cannot send, and brings it there in order when the server is back: the program does
 * nothing for that. The receipt says which it was. A task that was on its way when the server went
 * may arrive twice; its id tells the worker.
 */
#include <unistd.h>

#include "example.h"

#define WAIT_MS 5000
#define FORWARD_MS 60000

/* On a thread of the library: {"backend": "rabbitmq", "from": "up", "to": "suspect", "cause": …} */
static void on_state(int32_t level, const char *json, size_t len, void *user_data)
{
    (void)level;
    (void)user_data;
    printf("state: %.*s\n", (int)len, json);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    hmq_hub *hub = NULL;
    hmq_error *err = NULL;
    char config[256];
    int count = argc > 2 ? atoi(argv[2]) : 10;

    must_be(argc > 1, "usage: 05_server_producer PORT [COUNT]");
    snprintf(config, sizeof config,
             "{\"name\": \"producer\", \"rabbitmq\": {\"host\": \"127.0.0.1\", \"port\": %d, \"queue_type\": \"classic\"}}",
             atoi(argv[1]));
    must(hmq_hub_open(config, HMQ_NTS, WAIT_MS, &hub, &err), &err);
    must(hmq_on_state(hub, on_state, NULL, NULL, &err), &err);

    for (int number = 1; number <= count; number++) {
        hmq_record record = HMQ_RECORD_INIT;
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        char id[32];

        snprintf(id, sizeof id, "job-%d", number);
        record.kind = HMQ_TASK;
        record.topic = "tasks.jobs";
        record.topic_len = HMQ_NTS;
        record.id = id;
        record.id_len = HMQ_NTS;
        record.payload = id;
        record.payload_len = strlen(id);
        must(hmq_send(hub, &record, WAIT_MS, &receipt, &err), &err);
        printf("%s is %s\n", id, receipt.level == HMQ_LEVEL_BROKER ? "confirmed by the server" : "kept here");
        fflush(stdout);
        usleep(100 * 1000);
    }
    /* What is kept is in memory: a program that ends before it is forwarded loses it. */
    must(hmq_wait_forwarded(hub, FORWARD_MS, &err), &err);
    printf("all are at the server\n");
    must(hmq_hub_close(hub, WAIT_MS, &err), &err);
    hmq_hub_free(hub);
    return 0;
}
