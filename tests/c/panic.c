/* Proves: a panic inside the library becomes HMQ_E_PANIC with its text, takes only its object out of
 * service, is logged, and leaves the process and all other objects alive. (Rust's panic hook belongs to
 * the host: whether it prints is not decided here.) Needs a library built with --cfg hmq_test. */
#include "check.h"

hmq_status hmq_test_panic(hmq_hub *hub, hmq_error **error);

static atomic_int logged;

static void log_line(int32_t level, const char *json, size_t len, void *user_data)
{
    (void)len, (void)user_data;
    if (level == HMQ_LOG_ERROR && strstr(json, "made on purpose") != NULL)
        logged++;
}

int main(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_hub *other = open_hub("{}");

    STATUS(hmq_log_set(HMQ_LOG_ERROR, log_line, NULL, NULL, &err), HMQ_OK);
    err = NULL;
    CHECK_NUMBER(hmq_test_panic(hub, &err), HMQ_E_PANIC);
    CHECK_TEXT(hmq_error_json(err, NULL), "made on purpose");
    hmq_error_free(err);

    STATUS(hmq_publish(hub, "tasks.p", HMQ_NTS, "x", 1, 0, NULL, &err), HMQ_E_PANIC);
    STATUS(hmq_hub_flush(hub, 0, &err), HMQ_E_PANIC);
    publish(other, "tasks.p", "x");
    STATUS(hmq_test_panic(NULL, &err), HMQ_E_PANIC);
    EVENTUALLY(logged >= 2);
    hmq_hub_free(hub);
    FAILS(hmq_hub_flush(hub, 0, &err), HMQ_E_HANDLE, "freed");
    close_hub(other);
    return result();
}
