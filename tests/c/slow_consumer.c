/* Proves: a handler far slower than its publisher holds it back: at most its prefetch is handed
 * out, the rest waits within the memory that was allowed, publishing answers HMQ_E_FULL instead of
 * growing, and the process stays small. Everything that was accepted arrives.
 * Rows of docs/bad-input.md: F54. */
#include "check.h"

enum { MEMORY = 8 * 1024 * 1024, PAYLOAD = 1024, PREFETCH = 4 };

static atomic_int handled, release;

static hmq_verdict slow(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    handled++;
    while (!release)
        breathe();
    return HMQ_ACK;
}

int main(void)
{
    char config[200], payload[PAYLOAD];
    hmq_hub *hub;
    hmq_sub *sub = NULL;
    long rss, attempts = scaled(200000), accepted = 0, refused = 0;
    char *text = NULL;

    memset(payload, 'x', sizeof payload);
    snprintf(config, sizeof config, "{\"embedded\":{\"memory_bytes_max\":%d}}", MEMORY);
    hub = open_hub(config);
    snprintf(config, sizeof config, "{\"topic\":\"tasks.slow\",\"prefetch\":%d}", PREFETCH);
    STATUS(hmq_subscribe(hub, config, HMQ_NTS, slow, NULL, NULL, -1, &sub, &err), HMQ_OK);
    rss = rss_kib();
    if (attempts < 20000)
        attempts = 20000;
    for (long i = 0; i < attempts; i++) {
        hmq_status status = hmq_publish(hub, "tasks.slow", HMQ_NTS, payload, sizeof payload, 0, NULL, NULL);
        accepted += status == HMQ_OK;
        refused += status == HMQ_E_FULL;
    }
    CHECK_NUMBER(accepted + refused, attempts);
    CHECK(refused > 0);
    CHECK(accepted >= MEMORY / PAYLOAD / 2 && accepted <= MEMORY / PAYLOAD + PREFETCH + 1);
    CHECK_NUMBER(handled, 1);
    /* With a timeout it waits for room, and says at its end that there was none. */
    FAILS(hmq_publish(hub, "tasks.slow", HMQ_NTS, payload, sizeof payload, 20, NULL, &err), HMQ_E_FULL, "not_sent");
    STATUS(hmq_sub_progress(sub, &text, NULL, &err), HMQ_OK);
    hmq_free(text);
    if (figures_count())
        CHECK(rss_kib() - rss < 2 * MEMORY / 1024 + 4096);

    release = 1;
    EVENTUALLY(handled == accepted);
    STATUS(hmq_publish(hub, "tasks.slow", HMQ_NTS, payload, sizeof payload, DEADLINE_MS, NULL, &err), HMQ_OK);
    EVENTUALLY(handled == accepted + 1);
    hmq_sub_free(sub);
    close_hub(hub);
    return result();
}
