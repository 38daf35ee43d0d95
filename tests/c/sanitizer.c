/* Proves that the tools which watch the other programs do watch: it does on purpose what they must
 * find, half of it inside the library. Not part of the suite: run.sh expects it to be caught. */
#include "check.h"

/* The library copies a payload that is longer than its buffer. */
static void overread(void)
{
    hmq_hub *hub = open_hub("{}");
    char *payload = malloc(8);
    REQUIRE(payload != NULL);
    memset(payload, 'x', 8);
    STATUS(hmq_publish(hub, "tasks.x", HMQ_NTS, payload, 64, 0, NULL, &err), HMQ_OK);
    free(payload);
    close_hub(hub);
}

/* The library writes a length where there is no room for one. */
static void overflow(void)
{
    char *small = malloc(4);
    REQUIRE(small != NULL);
    hmq_build_info((size_t *)(void *)small);
    free(small);
}

static void leak(void)
{
    char *volatile lost = malloc(77);
    REQUIRE(lost != NULL);
    lost[0] = 'x';
    lost = NULL;
}

static int shared;

static void *count_up(void *rounds)
{
    for (int i = 0; i < *(int *)rounds; i++)
        shared++;
    return NULL;
}

static void race(void)
{
    int rounds = 1000;
    run_threads(2, count_up, &rounds);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "overread") == 0)
        overread();
    else if (strcmp(what, "overflow") == 0)
        overflow();
    else if (strcmp(what, "leak") == 0)
        leak();
    else if (strcmp(what, "race") == 0)
        race();
    return 0;
}
