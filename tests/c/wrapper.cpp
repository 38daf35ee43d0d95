// Proves: helixmq.hpp lets no exception reach the library: a handler that throws means retry (B35);
// failures of calls are exceptions with status and JSON; handlers with captures are dropped once,
// also when subscribing fails; handles may go out of scope in any order.
#include <helixmq.hpp>

#include <atomic>
#include <cstdio>
#include <memory>

using namespace std::chrono_literals;

static int failures = 0;

#define CHECK(what)                                                              \
    do {                                                                         \
        if (!(what)) {                                                           \
            failures++;                                                          \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
        }                                                                        \
    } while (0)

static void a_throwing_handler_means_retry() {
    helixmq::hub hub("{}", 5s);
    std::atomic<int> calls{0};
    auto owned = std::make_shared<int>(7);
    std::weak_ptr<int> watched = owned;
    auto sub = hub.subscribe(R"({"topic":"tasks.throw","retry":{"attempts":5,"delay_ms":1}})",
                             [&calls, owned = std::move(owned)](const helixmq::message &) {
                                 if (++calls < 3) {
                                     throw std::runtime_error("not yet");
                                 }
                                 return helixmq::verdict::ack;
                             });
    hub.publish_task("tasks.throw", "x", 1s);
    // A wait for a stop that never comes is a pause of 5 ms.
    for (int i = 0; i < 2000 && calls < 3; i++) {
        CHECK(hmq_hub_wait(hub.get(), 5, nullptr) == HMQ_E_TIMEOUT);
    }
    CHECK(calls == 3);
    CHECK(!watched.expired());
    sub.close(5s);
    CHECK(watched.expired());
    hub.close(5s);
}

static void failures_are_exceptions() {
    try {
        helixmq::hub hub("{\"prefetc\":3}", 5s);
        CHECK(!"a document with a mistyped key is taken");
    } catch (const helixmq::error &error) {
        CHECK(error.status() == HMQ_E_CONFIG);
        CHECK(error.json().find("prefetch") != std::string::npos);
    }
    helixmq::hub hub("{}", 5s);
    auto owned = std::make_shared<int>(7);
    std::weak_ptr<int> watched = owned;
    try {
        hub.subscribe("{\"topic\":\"\"}", [owned = std::move(owned)](const helixmq::message &) {
            return helixmq::verdict::ack;
        });
        CHECK(!"a subscription without a topic is taken");
    } catch (const helixmq::error &error) {
        CHECK(error.status() == HMQ_E_NAME);
    }
    CHECK(watched.expired());
}

int main() {
    a_throwing_handler_means_retry();
    failures_are_exceptions();
    if (hmq_shutdown(10000, nullptr) < 0) {
        failures++;
    }
    return failures != 0;
}
