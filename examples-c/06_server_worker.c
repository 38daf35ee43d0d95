/* 06: a worker with a server.
 *
 *   06_server_worker PORT COUNT
 *
 * Works on tasks of a RabbitMQ server on this machine until COUNT different ones are done. It does
 * nothing about a server that goes away: its subscription is opened again when the server is back,
 * and tasks that were not acknowledged come again. Which it has seen before it knows by their ids.
 */
#include <stdatomic.h>

#include "example.h"

#define COUNT_MAX 1000

static hmq_hub *hub;
static int wanted;
static atomic_int done;
static atomic_char seen[COUNT_MAX + 1];

static hmq_verdict work(hmq_msg *msg, void *user_data)
{
    char id[32] = "";
    size_t length = 0;
    const void *payload = hmq_msg_payload(msg, &length);
    int number = 0;

    (void)user_data;
    memcpy(id, payload, length < sizeof id ? length : sizeof id - 1);
    if (sscanf(id, "job-%d", &number) != 1 || number < 1 || number > COUNT_MAX)
        return HMQ_REJECT;
    if (!atomic_exchange(&seen[number], 1)) {
        printf("%s is done\n", id);
        fflush(stdout);
        if (++done == wanted)
            hmq_hub_stop(hub);
    }
    return HMQ_ACK;
}

int main(int argc, char **argv)
{
    hmq_sub *sub = NULL;
    hmq_error *err = NULL;
    char config[256];

    wanted = argc > 2 ? atoi(argv[2]) : 10;
    must_be(argc > 1 && wanted > 0 && wanted <= COUNT_MAX, "usage: 06_server_worker PORT [COUNT]");
    snprintf(config, sizeof config,
             "{\"name\": \"worker\", \"rabbitmq\": {\"host\": \"127.0.0.1\", \"port\": %d, \"queue_type\": \"classic\"}}",
             atoi(argv[1]));
    must(hmq_hub_open(config, HMQ_NTS, 5000, &hub, &err), &err);
    must(hmq_subscribe(hub, "{\"topic\": \"tasks.jobs\"}", HMQ_NTS, work, NULL, NULL, 5000, &sub, &err), &err);
    must(hmq_hub_wait(hub, 120000, &err), &err);
    must(hmq_hub_close(hub, 5000, &err), &err);
    hmq_sub_free(sub);
    hmq_hub_free(hub);
    printf("all are done\n");
    return 0;
}
