/* Proves: a document that is not as its call asks is refused with HMQ_E_CONFIG, quickly, and the
 * error says where: the path of the key, line and column, both paths of a contradiction, and the
 * name that was probably meant. Secrets are never echoed.
 * Rows of docs/bad-input.md: B19-B26. */
#include "check.h"

struct wrong {
    const char *json;
    const char *part;
};

static void config_is_refused(const char *json, const char *part)
{
    hmq_hub *hub = (hmq_hub *)(void *)&failures;
    if (!FAILS(hmq_hub_open(json, HMQ_NTS, 0, &hub, &err), HMQ_E_CONFIG, part))
        fprintf(stderr, "  the document was: %.200s\n", json);
    CHECK(hub == NULL);
    hmq_hub_free(hub);
}

static void configurations(void)
{
    static const struct wrong all[] = {
        {"", "hmq_hub_open_env"},
        {"  \n ", "hmq_hub_open_env"},
        {"null", "line"},
        {"[]", "line"},
        {"7", "line"},
        {"\"{}\"", "line"},
        {"{", "\"line\":1"},
        {"{\"prefetch\":1", "\"line\":1"},
        {"{\"prefetch\":1}}", "\"line\":1"},
        {"{} x", "\"column\":4"},
        {"\xEF\xBB\xBF{}", "\"line\":1"},
        {"{/* no */}", "\"line\":1"},
        {"{\n  // no\n}", "\"line\":2"},
        {"{'prefetch':1}", "\"line\":1"},
        {"{\n  \"prefetsh\": 1\n}", "did you mean `prefetch`?"},
        {"{\n  \"prefetsh\": 1\n}", "\"line\":2"},
        {"{\n  \"prefetsh\": 1\n}", "\"column\":3"},
        {"{\"retry\":{\"delai_ms\":1}}", "delay_ms"},
        {"{\"retry\":{\"delai_ms\":1}}", "retry.delai_ms"},
        {"{\"routes\":[{\"pattern\":\"a\"},{\"pattern\":\"b\",\"knd\":\"task\"}]}", "routes[1].knd"},
        {"{\"prefetch\":1,\"prefetch\":2}", "twice"},
        {"{\"retry\":{\"jitter\":true,\"jitter\":true}}", "retry.jitter"},
        {"{\"clock\":\"sundial\"}", "\"path\":\"clock\""},
        {"{\"retry\":{\"delay_ms\":5000,\"delay_max_ms\":10}}", "delay_max_ms"},
        {"{\"retry\":{\"factor\":0.5}}", "retry.factor"},
        {"{\"retry\":{\"factor\":1e400}}", "line"},
        {"{\"rabbitmq\":{\"port\":0,\"host\":\"h\"}}", "rabbitmq.port"},
        {"{\"rabbitmq\":{\"port\":65536,\"host\":\"h\"}}", "rabbitmq.port"},
        {"{\"rabbitmq\":{\"port\":5672}}", "rabbitmq.host"},
        {"{\"rabbitmq\":{\"port\":5672}}", "rabbitmq.port"},
        {"{\"routes\":[{\"pattern\":\"a*b\"}]}", "routes[0].pattern"},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        config_is_refused(all[i].json, all[i].part);
}

/* Each of these keys takes one type only: all others are refused with the path. */
static void types(void)
{
    static const struct {
        const char *key;
        const char *takes;
    } keys[] = {{"enabled", "b"}, {"env", "b"},     {"name", "s0"},   {"fallback_to_inmemory", "b"},
                {"connection_timeout_ms", "n"},     {"connect", "s"}, {"group_id", "s"},
                {"prefetch", "n"},                  {"message_bytes_max", "n"},
                {"publish_window", "n"},            {"retry", "o"},   {"embedded", "o"},
                {"rabbitmq", "o0"},                 {"kafka", "o0"},  {"routes", "a"},
                {"topics", "a"},                    {"tls", "o"}};
    static const struct {
        char type;
        const char *json;
    } values[] = {{'s', "\"10\""}, {'n', "1.5"},    {'n', "-1"}, {'n', "18446744073709551616"}, {'n', "01"},
                  {'n', "1e3"},    {'b', "true"},   {'a', "[1]"}, {'o', "{\"no_such_key\":1}"},  {'0', "null"}};

    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            char json[128];
            int fits = strchr(keys[k].takes, values[v].type) != NULL;
            if (fits && strchr("bsn0", values[v].type) != NULL && values[v].type != 'n')
                continue;
            snprintf(json, sizeof json, "{\"%s\":%s}", keys[k].key, values[v].json);
            config_is_refused(json, "\"line\":1");
        }
}

static char *repeat(const char *head, const char *part, long count, const char *tail)
{
    size_t part_len = strlen(part);
    char *text = malloc(strlen(head) + part_len * (size_t)count + strlen(tail) + 1);
    char *end;
    REQUIRE(text != NULL);
    end = text + strlen(strcpy(text, head));
    for (long i = 0; i < count; i++, end += part_len)
        memcpy(end, part, part_len);
    strcpy(end, tail);
    return text;
}

static void timed(char *json)
{
    long long start = now_ms();
    config_is_refused(json, "\"name\":\"HMQ_E_CONFIG\"");
    if (figures_count() && now_ms() - start > 50)
        CHECK_NUMBER(now_ms() - start, 50);
    free(json);
}

static void sizes(void)
{
    timed(repeat("{\"name\":", "[", 33, ""));
    timed(repeat("{\"name\":", "[", 129, ""));
    timed(repeat("", "[", 100000, ""));
    timed(repeat("", "{\"a\":", 100000, ""));
    timed(repeat("{\"routes\":[", "[", 30, "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}"));
    timed(repeat("{\"name\":\"", "x", 1024 * 1024 + 1, "\"}"));
    timed(repeat("{", "\"k\":0,", 1000000, "\"k\":0}"));
    timed(repeat("{", "\"k\":0,", 100000, "\"k\":0}"));
    timed(repeat("{\"", "k", 500000, "\":1}"));
}

static void secrets_stay_secret(void)
{
    static const char *const documents[] = {
        "{\"rabbitmq\":{\"host\":\"h\",\"password\":\"hunter2\",\"password\":\"hunter2\"}}",
        "{\"rabbitmq\":{\"host\":\"h\",\"password\":[\"hunter2\"]}}",
        "{\"rabbitmq\":{\"password\":\"hunter2\"}}",
        "{\"rabbitmq\":{\"host\":\"h\",\"password\":\"hunter2}}",
        "{\"rabbitmq\":{\"host\":\"amqp://u:hunter2@h\"}}",
        "{\"rabbitmq\":{\"port\":\"hunter2\",\"host\":\"h\"}}",
    };
    char *effective = NULL;

    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        hmq_hub *hub = NULL;
        hmq_error *error = NULL;
        CHECK_NUMBER(hmq_hub_open(documents[i], HMQ_NTS, 0, &hub, &error), HMQ_E_CONFIG);
        if (strstr(hmq_error_json(error, NULL), "hunter2") != NULL) {
            CHECK(!"the secret is in the error");
            fprintf(stderr, "  the document was: %s\n", documents[i]);
        }
        hmq_error_free(error);
    }
    STATUS(hmq_config_check("{\"rabbitmq\":{\"host\":\"h\",\"password\":\"hunter2\"}}", HMQ_NTS, &effective, NULL, &err),
           HMQ_OK);
    CHECK_TEXT(effective, "***");
    CHECK(effective == NULL || strstr(effective, "hunter2") == NULL);
    hmq_free(effective);
    /* Valid, but not built yet. */
    {
        hmq_hub *hub = NULL;
        STATUS(hmq_hub_open("{\"kafka\":{\"brokers\":[\"h:1\"]}}", HMQ_NTS, 0, &hub, &err), HMQ_E_UNSUPPORTED);
    }
}

static hmq_verdict take(hmq_msg *msg, void *user_data)
{
    (void)msg, (void)user_data;
    return HMQ_ACK;
}

static void options_of_calls(void)
{
    hmq_hub *hub = open_hub("{}");
    hmq_sub *sub = NULL;
    hmq_pub *pub = NULL;
    hmq_inbox *inbox = NULL;
    hmq_broker *broker = NULL;
    char *text = NULL;
    static const struct wrong subscribe[] = {
        {"{}", "topic"},
        {"{\"topic\":\"tasks.a\",\n\"prefetsch\":1}", "did you mean `prefetch`?"},
        {"{\"topic\":\"tasks.a\",\n\"prefetsch\":1}", "\"line\":2"},
        {"{\"topic\":\"tasks.a\",\"prefetch\":0}", "prefetch"},
        {"{\"topic\":\"tasks.a\",\"prefetch\":32769}", "prefetch"},
        {"{\"topic\":\"tasks.a\",\"concurrency\":65}", "concurrency"},
        {"{\"topic\":\"tasks.a\",\"retry\":{\"attempts\":0}}", "retry.attempts"},
        {"{\"topic\":\"tasks.a\",\"retry\":{\"delay_ms\":10,\"delay_max_ms\":1}}", "retry.delay_max_ms"},
        {"{\"topic\":\"tasks.a\",\"start\":\"yesterday\"}", "start"},
        {"{\"topic\":\"tasks.a\",\"start\":{\"offset\":1,\"time\":1}}", "start"},
        {"{\"topic\":7}", "\"path\":\"topic\""},
        {"{\"topic\":\"tasks.a\",\"filter\":{\"header\":{}}}", "filter.header"},
    };

    for (size_t i = 0; i < sizeof subscribe / sizeof subscribe[0]; i++)
        FAILS(hmq_subscribe(hub, subscribe[i].json, HMQ_NTS, take, NULL, NULL, 0, &sub, &err), HMQ_E_CONFIG,
              subscribe[i].part);
    FAILS(hmq_replay(hub, "{\"topic\":\"a\",\"from\":\"2026-13-01\"}", HMQ_NTS, take, NULL, NULL, 0, &sub, &err),
          HMQ_E_CONFIG, "\"path\":\"from\"");
    FAILS(hmq_replay(hub, "{\"topic\":\"a\",\"from\":2,\"to\":1}", HMQ_NTS, take, NULL, NULL, 0, &sub, &err), HMQ_E_CONFIG,
          "`from`");
    FAILS(hmq_pub_new(hub, "{\"topic\":\"a\",\"priority\":11}", HMQ_NTS, &pub, &err), HMQ_E_CONFIG, "priority");
    FAILS(hmq_pub_new(hub, "{\"topic\":\"a\",\"headers\":{\"x\":1}}", HMQ_NTS, &pub, &err), HMQ_E_CONFIG, "headers.x");
    FAILS(hmq_inbox_new(hub, "{\"signal\":\"smoke\"}", HMQ_NTS, &inbox, &err), HMQ_E_CONFIG, "signal");
    FAILS(hmq_inbox_new(hub, "{\"capacity\":0}", HMQ_NTS, &inbox, &err), HMQ_E_CONFIG, "capacity");
    FAILS(hmq_publish_json(hub, "{\"topic\":\"a\",\"payload\":1,\"payload_text\":\"x\"}", HMQ_NTS, 0, NULL, &err),
          HMQ_E_CONFIG, "payload_text");
    FAILS(hmq_publish_json(hub, "{\"topic\":\"a\",\"payload_base64\":\"?\"}", HMQ_NTS, 0, NULL, &err), HMQ_E_CONFIG,
          "payload_base64");
    FAILS(hmq_declare(hub, "{\"name\":\"a\",\"partitions\":0}", HMQ_NTS, 0, NULL, &err), HMQ_E_CONFIG, "partitions");
    FAILS(hmq_describe(hub, "{\"name\":\"a\",\"pattern\":\"b\"}", HMQ_NTS, 0, &text, NULL, &err), HMQ_E_CONFIG, "pattern");
    FAILS(hmq_purge(hub, "{}", HMQ_NTS, 0, NULL, &err), HMQ_E_CONFIG, "name");
    FAILS(hmq_dead_letters(hub, "{\"action\":\"eat\"}", HMQ_NTS, 0, &text, NULL, &err), HMQ_E_CONFIG, "action");
    FAILS(hmq_broker_open("{\"backend\":\"embeded\"}", HMQ_NTS, 0, &broker, &err), HMQ_E_CONFIG, "backend");
    FAILS(hmq_broker_open("{\"backend\":\"kafka\"}", HMQ_NTS, 0, &broker, &err), HMQ_E_UNSUPPORTED, "kafka");
    FAILS(hmq_init("{\"verbose\":1}", HMQ_NTS, &err), HMQ_E_CONFIG, "verbose");
    STATUS(hmq_init(NULL, 0, &err), HMQ_OK);
    CHECK(sub == NULL && pub == NULL && inbox == NULL && broker == NULL && text == NULL);
    close_hub(hub);
}

/* Settings that would load code or start programs are refused, however they are written. */
static void forbidden_keys(void)
{
    static const char *const keys[] = {"plugin.library.paths", "Plugin.Library.Paths", " plugin.library.paths",
                                       "ssl.engine.location",  "ssl.providers",        "sasl.kerberos.kinit.cmd"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char json[160];
        snprintf(json, sizeof json, "{\"kafka\":{\"brokers\":[\"h:9092\"],\"options\":{\"%s\":\"x\"}}}", keys[i]);
        FAILS(hmq_config_check(json, HMQ_NTS, NULL, NULL, &err), HMQ_E_CONFIG, "kafka.options");
        config_is_refused(json, "kafka.options");
    }
}

static void no_document_at_all(void)
{
    hmq_hub *hub = NULL;
    CHECK(hmq_hub_open(NULL, 0, 0, &hub, &err) < 0);
    CHECK_TEXT(hmq_error_json(err, NULL), "hmq_hub_open_env");
    hmq_error_free(err);
    CHECK(hub == NULL);
}

int main(void)
{
    no_document_at_all();
    configurations();
    types();
    sizes();
    secrets_stay_secret();
    forbidden_keys();
    options_of_calls();
    return result();
}
