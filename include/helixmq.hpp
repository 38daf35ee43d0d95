// helixmq.hpp: helixmq.h for C++17 and later, header only.
//
// Handles free themselves, failures are exceptions (helixmq::error), callbacks are any callable. What a
// callback throws never reaches the library: it is caught here, and the message is retried.
#ifndef HELIXMQ_HPP
#define HELIXMQ_HPP

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "helixmq.h"

namespace helixmq {

using token = hmq_token;

// What a handler answers.
enum class verdict : hmq_verdict { ack = HMQ_ACK, retry = HMQ_RETRY, reject = HMQ_REJECT, later = HMQ_LATER };

// A failed call.
class error : public std::runtime_error {
public:
    error(hmq_status status, const std::string &json)
        : std::runtime_error(std::string(hmq_status_name(status)) + (json.empty() ? "" : ": " + json)),
          status_(status), json_(json) {}

    hmq_status status() const noexcept { return status_; }
    // The whole error as JSON; empty if the call tells no more than its status.
    const std::string &json() const noexcept { return json_; }
    bool retriable() const noexcept { return (hmq_status_flags(status_) & HMQ_STATUS_RETRIABLE) != 0; }
    bool unknown_outcome() const noexcept { return (hmq_status_flags(status_) & HMQ_STATUS_UNKNOWN_OUTCOME) != 0; }

private:
    hmq_status status_;
    std::string json_;
};

namespace detail {

// Takes `err` by its address: as an argument of the same call it could be read before it is set.
inline hmq_status check(hmq_status status, hmq_error **err) {
    std::string json;
    if (*err) {
        std::size_t len = 0;
        const char *text = hmq_error_json(*err, &len);
        json.assign(text, len);
        hmq_error_free(*err);
        *err = nullptr;
    }
    if (status < 0) {
        throw error(status, json);
    }
    return status;
}

inline hmq_status check(hmq_status status) {
    if (status < 0) {
        throw error(status, std::string());
    }
    return status;
}

template <class T, void (*Free)(T *)> struct freer {
    void operator()(T *handle) const noexcept { Free(handle); }
};

template <class T, void (*Free)(T *)> using handle = std::unique_ptr<T, freer<T, Free>>;

// An owned text as a string.
inline std::string take(char *text, std::size_t len) {
    std::unique_ptr<char, freer<void, hmq_free>> owned(text);
    return text ? std::string(text, len) : std::string();
}

inline std::int32_t milliseconds(std::chrono::milliseconds timeout) {
    if (timeout.count() < 0) {
        return -1;
    }
    return timeout.count() > INT32_MAX ? INT32_MAX : static_cast<std::int32_t>(timeout.count());
}

template <class Handler> void drop(void *handler) { delete static_cast<Handler *>(handler); }

} // namespace detail

// Waits for ever.
constexpr std::chrono::milliseconds forever{-1};

// A message that is held; copies share it.
class message {
public:
    // Takes one more reference of a message that is borrowed.
    static message retain(hmq_msg *borrowed) {
        detail::check(hmq_msg_retain(borrowed));
        return message(borrowed);
    }
    // Takes over a reference.
    explicit message(hmq_msg *own) : handle_(own) {}
    message(const message &other) : handle_(other.handle_) {
        if (handle_) {
            detail::check(hmq_msg_retain(handle_));
        }
    }
    message(message &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    message &operator=(message other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~message() { hmq_msg_free(handle_); }

    std::string_view payload() const { return bytes(hmq_msg_payload); }
    std::string_view key() const { return bytes(hmq_msg_key); }
    std::string_view topic() const { return text(hmq_msg_topic); }
    std::string_view id() const { return text(hmq_msg_id); }
    std::string_view type() const { return text(hmq_msg_type); }
    std::uint32_t attempt() const { return hmq_msg_attempt(handle_); }
    // HMQ_MSG_REDELIVERED, HMQ_MSG_PROVISIONAL, HMQ_MSG_MAYBE_DUP.
    std::uint32_t flags() const { return hmq_msg_flags(handle_); }
    helixmq::token token() const { return hmq_msg_token(handle_); }
    // The value of a header; empty if there is none.
    std::string_view header(std::string_view name) const {
        const void *value = nullptr;
        std::size_t len = 0;
        detail::check(hmq_msg_header(handle_, name.data(), name.size(), &value, &len));
        return {static_cast<const char *>(value), len};
    }
    hmq_msg *get() const noexcept { return handle_; }

private:
    std::string_view bytes(const void *(*getter)(const hmq_msg *, std::size_t *)) const {
        std::size_t len = 0;
        const void *data = getter(handle_, &len);
        return {static_cast<const char *>(data), len};
    }
    std::string_view text(const char *(*getter)(const hmq_msg *, std::size_t *)) const {
        std::size_t len = 0;
        const char *data = getter(handle_, &len);
        return {data, len};
    }

    hmq_msg *handle_;
};

namespace detail {

// Between the library and a handler: nothing that it throws passes.
template <class Handler> hmq_verdict call(hmq_msg *borrowed, void *handler) noexcept {
    try {
        return static_cast<hmq_verdict>((*static_cast<Handler *>(handler))(message::retain(borrowed)));
    } catch (...) {
        return HMQ_RETRY;
    }
}

} // namespace detail

// A subscription or replay; freed, and so closed in the background, when it goes.
class subscription {
public:
    explicit subscription(hmq_sub *own) : handle_(own) {}

    void wait(std::chrono::milliseconds timeout = forever) {
        hmq_error *err = nullptr;
        hmq_status status = hmq_sub_wait(get(), detail::milliseconds(timeout), &err);
        detail::check(status, &err);
    }
    void close(std::chrono::milliseconds timeout = forever) {
        hmq_error *err = nullptr;
        hmq_status status = hmq_sub_close(get(), detail::milliseconds(timeout), &err);
        detail::check(status, &err);
    }
    void pause(bool paused = true) { detail::check(hmq_sub_pause(get(), paused ? 1 : 0)); }
    void request(std::uint32_t count) { detail::check(hmq_sub_request(get(), count)); }
    std::string progress() {
        char *json = nullptr;
        std::size_t len = 0;
        hmq_error *err = nullptr;
        hmq_status status = hmq_sub_progress(get(), &json, &len, &err);
        detail::check(status, &err);
        return detail::take(json, len);
    }
    hmq_sub *get() const noexcept { return handle_.get(); }

private:
    detail::handle<hmq_sub, hmq_sub_free> handle_;
};

// Events that were polled; freed together.
class events {
public:
    explicit events(std::size_t max) : events_(max, hmq_event HMQ_EVENT_INIT) {}
    events(const events &) = delete;
    events &operator=(const events &) = delete;
    ~events() { clear(); }

    const hmq_event *begin() const noexcept { return events_.data(); }
    const hmq_event *end() const noexcept { return events_.data() + count_; }
    std::size_t size() const noexcept { return count_; }
    void clear() noexcept {
        hmq_events_clear(events_.data(), count_);
        count_ = 0;
    }

private:
    friend class inbox;
    std::vector<hmq_event> events_;
    std::size_t count_ = 0;
};

// A queue of events with one descriptor.
class inbox {
public:
    explicit inbox(hmq_inbox *own) : handle_(own) {}

    // Fills `into` (its old events are freed); HMQ_OK, HMQ_NO_DATA or HMQ_CLOSED.
    hmq_status poll(events &into, std::chrono::milliseconds timeout = forever) {
        into.clear();
        std::vector<hmq_event> &room = into.events_;
        return detail::check(
            hmq_inbox_poll(get(), room.data(), room.size(), detail::milliseconds(timeout), &into.count_));
    }
    std::intptr_t fd() const noexcept { return hmq_inbox_fd(get()); }
    void wake() noexcept { hmq_inbox_wake(get()); }
    hmq_inbox *get() const noexcept { return handle_.get(); }

private:
    detail::handle<hmq_inbox, hmq_inbox_free> handle_;
};

// A prepared publisher to one topic.
class publisher {
public:
    explicit publisher(hmq_pub *own) : handle_(own) {}

    hmq_receipt send(const hmq_record &record, std::chrono::milliseconds timeout = forever) {
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        hmq_error *err = nullptr;
        hmq_status status = hmq_pub_send(get(), &record, detail::milliseconds(timeout), &receipt, &err);
        detail::check(status, &err);
        return receipt;
    }
    hmq_receipt send(std::string_view payload, std::chrono::milliseconds timeout = forever) {
        hmq_record record = HMQ_RECORD_INIT;
        record.payload = payload.data();
        record.payload_len = payload.size();
        return send(record, timeout);
    }
    hmq_pub *get() const noexcept { return handle_.get(); }

private:
    detail::handle<hmq_pub, hmq_pub_free> handle_;
};

// A hub; freed, and so closed in the background, when it goes. Close it to know that all is done.
class hub {
public:
    explicit hub(std::string_view config, std::chrono::milliseconds timeout = forever) {
        hmq_hub *own = nullptr;
        hmq_error *err = nullptr;
        hmq_status status = hmq_hub_open(config.data(), config.size(), detail::milliseconds(timeout), &own, &err);
        detail::check(status, &err);
        handle_.reset(own);
    }
    // As the environment says.
    static hub from_environment(std::chrono::milliseconds timeout = forever) {
        hmq_hub *own = nullptr;
        hmq_error *err = nullptr;
        hmq_status status = hmq_hub_open_env(detail::milliseconds(timeout), &own, &err);
        detail::check(status, &err);
        return hub(own);
    }

    hmq_receipt publish(std::string_view topic, std::string_view payload,
                        std::chrono::milliseconds timeout = forever) {
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        hmq_error *err = nullptr;
        hmq_status status = hmq_publish(get(), topic.data(), topic.size(), payload.data(), payload.size(),
                                        detail::milliseconds(timeout), &receipt, &err);
        detail::check(status, &err);
        return receipt;
    }
    hmq_receipt publish_task(std::string_view queue, std::string_view payload,
                             std::chrono::milliseconds timeout = forever) {
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        hmq_error *err = nullptr;
        hmq_status status = hmq_publish_task(get(), queue.data(), queue.size(), payload.data(), payload.size(),
                                             detail::milliseconds(timeout), &receipt, &err);
        detail::check(status, &err);
        return receipt;
    }
    hmq_receipt publish_event(std::string_view topic, std::string_view payload, std::string_view key = {},
                              std::chrono::milliseconds timeout = forever) {
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        hmq_error *err = nullptr;
        hmq_status status =
            hmq_publish_event(get(), topic.data(), topic.size(), payload.data(), payload.size(), key.data(),
                              key.size(), detail::milliseconds(timeout), &receipt, &err);
        detail::check(status, &err);
        return receipt;
    }
    hmq_receipt send(const hmq_record &record, std::chrono::milliseconds timeout = forever) {
        hmq_receipt receipt = HMQ_RECEIPT_INIT;
        hmq_error *err = nullptr;
        hmq_status status = hmq_send(get(), &record, detail::milliseconds(timeout), &receipt, &err);
        detail::check(status, &err);
        return receipt;
    }
    publisher make_publisher(std::string_view options) {
        hmq_pub *own = nullptr;
        hmq_error *err = nullptr;
        hmq_status status = hmq_pub_new(get(), options.data(), options.size(), &own, &err);
        detail::check(status, &err);
        return publisher(own);
    }
    inbox make_inbox(std::string_view options = {}) {
        hmq_inbox *own = nullptr;
        hmq_error *err = nullptr;
        hmq_status status = hmq_inbox_new(get(), options.data(), options.size(), &own, &err);
        detail::check(status, &err);
        return inbox(own);
    }

    // `handler`: called with a message, answers a verdict; what it throws means retry.
    template <class Handler>
    subscription subscribe(std::string_view options, Handler &&handler,
                           std::chrono::milliseconds timeout = forever) {
        return with_handler(hmq_subscribe, options, std::forward<Handler>(handler), timeout);
    }
    template <class Handler>
    subscription replay(std::string_view options, Handler &&handler, std::chrono::milliseconds timeout = forever) {
        return with_handler(hmq_replay, options, std::forward<Handler>(handler), timeout);
    }
    subscription subscribe(std::string_view options, inbox &into, std::uint64_t tag = 0,
                           std::chrono::milliseconds timeout = forever) {
        hmq_sub *own = nullptr;
        hmq_error *err = nullptr;
        hmq_status status = hmq_subscribe_inbox(get(), options.data(), options.size(), into.get(), tag,
                                                detail::milliseconds(timeout), &own, &err);
        detail::check(status, &err);
        return subscription(own);
    }

    std::string health() {
        char *json = nullptr;
        std::size_t len = 0;
        hmq_error *err = nullptr;
        hmq_status status = hmq_health(get(), &json, &len, &err);
        detail::check(status, &err);
        return detail::take(json, len);
    }
    void flush(std::chrono::milliseconds timeout = forever) {
        hmq_error *err = nullptr;
        hmq_status status = hmq_hub_flush(get(), detail::milliseconds(timeout), &err);
        detail::check(status, &err);
    }
    void wait(std::chrono::milliseconds timeout = forever) {
        hmq_error *err = nullptr;
        hmq_status status = hmq_hub_wait(get(), detail::milliseconds(timeout), &err);
        detail::check(status, &err);
    }
    // May be called in a signal handler.
    void stop() noexcept { hmq_hub_stop(get()); }
    void close(std::chrono::milliseconds timeout = forever) {
        hmq_error *err = nullptr;
        hmq_status status = hmq_hub_close(get(), detail::milliseconds(timeout), &err);
        detail::check(status, &err);
    }
    hmq_hub *get() const noexcept { return handle_.get(); }

private:
    explicit hub(hmq_hub *own) : handle_(own) {}

    template <class Subscribe, class Handler>
    subscription with_handler(Subscribe function, std::string_view options, Handler &&handler,
                              std::chrono::milliseconds timeout) {
        using Own = std::decay_t<Handler>;
        auto own_handler = std::make_unique<Own>(std::forward<Handler>(handler));
        hmq_sub *own = nullptr;
        hmq_error *err = nullptr;
        // The library calls drop on every path, so the handler is its own from here on.
        hmq_status status = function(get(), options.data(), options.size(), detail::call<Own>, own_handler.release(),
                                     detail::drop<Own>, detail::milliseconds(timeout), &own, &err);
        detail::check(status, &err);
        return subscription(own);
    }

    detail::handle<hmq_hub, hmq_hub_free> handle_;
};

// Settles a delivery, from any thread.
inline void settle(token delivery, verdict decision, std::string_view reason = {},
                   std::chrono::milliseconds delay = std::chrono::milliseconds(-1)) {
    hmq_error *err = nullptr;
    hmq_status status = hmq_settle(delivery, static_cast<hmq_verdict>(decision), delay.count(), reason.data(),
                                   reason.size(), &err);
    detail::check(status, &err);
}

} // namespace helixmq

#endif // HELIXMQ_HPP
