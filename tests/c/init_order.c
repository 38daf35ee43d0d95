/* Proves: a hub may be opened and used before main, in a constructor, and closed after it, in a
 * destructor or an atexit handler: nothing of the library depends on the order.
 * Rows of docs/bad-input.md: B47. */
#include "check.h"

static hmq_hub *early;
static hmq_sub *sub;
static atomic_int handled;

static hmq_verdict handle(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    handled++;
    return HMQ_ACK;
}

__attribute__((constructor)) static void before_main(void)
{
    early = open_hub("{}");
    STATUS(hmq_subscribe(early, "{\"topic\":\"tasks.early\"}", HMQ_NTS, handle, NULL, NULL, -1, &sub, &err), HMQ_OK);
    publish(early, "tasks.early", "from the constructor");
}

static void at_exit(void)
{
    hmq_hub *late = open_hub("{}");
    publish(early, "tasks.early", "from atexit");
    EVENTUALLY(handled == 3);
    close_hub(late);
    if (failures > 0)
        _exit(1);
}

__attribute__((destructor)) static void after_main(void)
{
    close_hub(early);
    hmq_sub_free(sub);
    STATUS(hmq_shutdown(DEADLINE_MS, &err), HMQ_OK);
    if (failures > 0)
        _exit(1);
}

int main(void)
{
    atexit(at_exit);
    publish(early, "tasks.early", "from main");
    EVENTUALLY(handled == 2);
    return failures > 0;
}
