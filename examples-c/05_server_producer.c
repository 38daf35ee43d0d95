/* 05: a producer with a server.
 *
 *   05_server_producer PORT COUNT
 *
 * Publishes COUNT tasks to a RabbitMQ server on this machine. When the server goes away, a publish
 * says so and what became of its message: this program waits and sends it again, so that nothing
 * is lost. A task whose outcome is unknown may arrive twice; its id tells the worker.
 */
#include <unistd.h>

#include "example.h"

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
    must(hmq_hub_open(config, HMQ_NTS, 5000, &hub, &err), &err);

    for (int number = 1; number <= count; number++) {
        hmq_record record = HMQ_RECORD_INIT;
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        hmq_status status;
        char id[32];
        int told = 0;

        snprintf(id, sizeof id, "job-%d", number);
        record.kind = HMQ_TASK;
        record.topic = "tasks.jobs";
        record.topic_len = HMQ_NTS;
        record.id = id;
        record.id_len = HMQ_NTS;
        record.payload = id;
        record.payload_len = strlen(id);
        while ((status = hmq_send(hub, &record, 5000, &receipt, &err)) < 0) {
            if (!(hmq_status_flags(status) & HMQ_STATUS_RETRIABLE))
                must(status, &err);
            if (!told++)
                printf("%s waits: %s\n", id, hmq_status_name(status));
            fflush(stdout);
            hmq_error_free(err);
            err = NULL;
            usleep(200 * 1000);
        }
        printf("%s is %s\n", id, receipt.level == HMQ_LEVEL_BROKER ? "confirmed by the server" : "here only");
        fflush(stdout);
        usleep(100 * 1000);
    }
    must(hmq_hub_close(hub, 5000, &err), &err);
    hmq_hub_free(hub);
    return 0;
}
