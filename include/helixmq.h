/*
 * helixmq: tasks and events from any language.
 *
 * Errors
 *   A call answers hmq_status: 0 success, above 0 a normal outcome (HMQ_NO_DATA, HMQ_CLOSED,
 *   HMQ_PARTIAL), below 0 a failure, so `rc < 0` is always the right question. The last argument
 *   of most calls is `hmq_error **err`: NULL, or where the details go; *err is NULL after success.
 *   Outputs are always written: NULL or 0 after a failure. Misuse is a code, never an abort.
 *   Any call may answer HMQ_E_NULL (a pointer that must be there is not), HMQ_E_FORKED,
 *   HMQ_E_PANIC and HMQ_E_INTERNAL, and one with a handle HMQ_E_HANDLE; "Codes" lists the others.
 *   Note that in `check(hmq_x(..., &e), e)` a compiler may read `e` before the call.
 *
 * Handles
 *   A handle has a pointer type, but is a number that is looked up: a stale, foreign or invented
 *   one is HMQ_E_HANDLE, and freeing it again is counted and does nothing. _free(NULL) does
 *   nothing. A _free never fails, never waits, and may be called anywhere, also in callbacks.
 *   Free in any order: what belongs to a closed hub is closed, and stays valid until it is freed.
 *   A `const` handle means that the call changes nothing.
 *
 * Strings and memory
 *   Texts and bytes go in as pointer and length; HMQ_NTS as length of a text or key means that it
 *   ends at its NUL; (NULL, 0) is absent. Texts are UTF-8. Inputs are copied before a call returns.
 *   Texts come out with a length and a NUL behind them. Borrowed ones live as long as their
 *   object; owned ones are freed by hmq_free, never by free(). Messages are counted and outlive
 *   their subscription and hub; what they point to is valid until the last hmq_msg_free.
 *   A struct carries its size in its first field: start from HMQ_..._INIT. In an array of records each
 *   does; of events and settlements the first one's size counts for all. Options that are NULL are the defaults;
 *   docs/options.schema.json has them all, docs/json.md what calls answer.
 *
 * Callbacks
 *   A callback is a function, a user_data and a drop function. drop is called exactly once, after
 *   the last call has returned, and also when registering fails. Callbacks run on threads of the
 *   library with no lock held, and may call everything here; a call that would wait for its own
 *   callback answers HMQ_E_REENTRANT. A callback must not unwind nor longjmp: the process would
 *   abort. In C++ use helixmq.hpp. A message is borrowed in its callback: hmq_msg_retain keeps it.
 *   A verdict that is none of the constants counts as not settled: it is logged and counted, and
 *   the message is handed over again by the subscription's policy. To give a reason, a callback
 *   calls hmq_settle and answers HMQ_LATER.
 *
 * Threads and fork
 *   Every function may be called from any thread. "Blocks" says which can wait; timeout_ms is -1
 *   for ever, 0 try, else milliseconds. hmq_hub_stop and hmq_inbox_wake may be called in signal
 *   handlers. After fork every call in the child answers HMQ_E_FORKED and every free does nothing:
 *   fork first, open hubs afterwards; a child of a process that has used the library has to exec.
 *   Nothing happens at load or at exit, and no signal handler is installed.
 *
 * Versioning
 *   HMQ_ABI counts breaks of the ABI; the soname carries it, hmq_abi_check compares it. Structs
 *   grow only at their end, numbers never move. @since names the version a function came with.
 *
 * Generated from src/ffi. Do not edit.
 */


#ifndef HELIXMQ_H
#define HELIXMQ_H

#include <stddef.h>
#include <stdint.h>

/* Version of this header. */
#define HMQ_VERSION_MAJOR (0)
#define HMQ_VERSION_MINOR (1)
#define HMQ_VERSION_PATCH (0)
#define HMQ_VERSION_NUMBER (1000) /* major * 1000000 + minor * 1000 + patch */
#define HMQ_VERSION_STRING "0.1.0"
#define HMQ_ABI (1)

/* A status that must not be ignored. */
#ifndef HMQ_NODISCARD
#if defined(__cplusplus) && __cplusplus >= 201703L
#define HMQ_NODISCARD [[nodiscard]]
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ > 201710L
#define HMQ_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define HMQ_NODISCARD __attribute__((warn_unused_result))
#else
#define HMQ_NODISCARD
#endif
#endif

/* Length of a text that ends at its NUL. */
#define HMQ_NTS ((size_t)-1)

/* Statuses: success and normal outcomes. */
#define HMQ_OK (0)
#define HMQ_NO_DATA (1)
#define HMQ_CLOSED (2)
#define HMQ_PARTIAL (3)

/* Failures by which the calling program is to blame. */
#define HMQ_E_NULL (-1)
#define HMQ_E_HANDLE (-2)
#define HMQ_E_ARG (-3)
#define HMQ_E_UTF8 (-4)
#define HMQ_E_NAME (-5)
#define HMQ_E_HEADER (-6)
#define HMQ_E_CONFIG (-7)
#define HMQ_E_SECRET (-8)
#define HMQ_E_TLS (-9)
#define HMQ_E_TOO_LARGE (-10)
#define HMQ_E_STATE (-11)
#define HMQ_E_CLOSED (-12)
#define HMQ_E_REENTRANT (-13)
#define HMQ_E_STALE (-14)
#define HMQ_E_SETTLED (-15)
#define HMQ_E_KIND (-16)
#define HMQ_E_ABI (-17)
#define HMQ_E_FORKED (-18)

/* Failures of the library and its surroundings. */
#define HMQ_E_FULL (-100)
#define HMQ_E_TIMEOUT (-101)
#define HMQ_E_CANCELLED (-102)
#define HMQ_E_DISABLED (-103)
#define HMQ_E_BACKEND_DOWN (-104)
#define HMQ_E_UNSUPPORTED (-105)
#define HMQ_E_LOCKED (-106)
#define HMQ_E_PANIC (-107)
#define HMQ_E_INTERNAL (-108)
#define HMQ_E_NOT_FOUND (-109)
#define HMQ_E_CONFLICT (-110)
#define HMQ_E_RESOURCES (-111)
#define HMQ_E_OUTCOME_UNKNOWN (-112)
#define HMQ_E_REFUSED (-113)

/* Failures of backends. */
#define HMQ_E_RABBITMQ (-200)
#define HMQ_E_UNROUTABLE (-201)
#define HMQ_E_KAFKA (-300)
#define HMQ_E_STORAGE (-400)

/* Bits of hmq_status_flags. */
#define HMQ_STATUS_RETRIABLE (1)       /* the same call may succeed later */
#define HMQ_STATUS_FATAL (2)           /* the object cannot be used any more */
#define HMQ_STATUS_MISUSE (4)          /* the calling program must be changed */
#define HMQ_STATUS_UNKNOWN_OUTCOME (8) /* the message may or may not have arrived */

/* Verdicts: sparse, so that garbage is not a decision. */
#define HMQ_ACK (0x2B5AC401)    /* done */
#define HMQ_RETRY (0x2B5AC502)  /* deliver again; after the last attempt: dead letter */
#define HMQ_REJECT (0x2B5AC603) /* dead letter */
#define HMQ_LATER (0x2B5AC704)  /* only from a callback: settled later, by the token */

/* Kinds of topics. */
#define HMQ_TASK (1)
#define HMQ_EVENT (2)

/* Kinds of events in an inbox. */
#define HMQ_EV_MESSAGE (1)   /* a delivery */
#define HMQ_EV_PUBLISHED (2) /* a publish has ended */
#define HMQ_EV_STATE (3)     /* a backend changed its state */
#define HMQ_EV_LOG (4)       /* a log line */
#define HMQ_EV_FATE (5)      /* what became of a message that was kept for a server */
#define HMQ_EV_END (6)       /* the last event of a subscription */

/* Levels of a receipt: how safe the message is. */
#define HMQ_LEVEL_NONE (0)   /* dropped, as its route asked for */
#define HMQ_LEVEL_MEMORY (1) /* in this process; outlives a server */
#define HMQ_LEVEL_DISK (2)   /* on disk; outlives the process */
#define HMQ_LEVEL_BROKER (3) /* confirmed by a server */

/* Backends. */
#define HMQ_BACKEND_EMBEDDED (1)
#define HMQ_BACKEND_RABBITMQ (2)
#define HMQ_BACKEND_KAFKA (3)
#define HMQ_BACKEND_CUSTOM (4)

/* Roles of a broker in a hub. */
#define HMQ_ROLE_TASK_QUEUE (1)
#define HMQ_ROLE_EVENT_STREAM (2)
#define HMQ_ROLE_FALLBACK (3)

/* Log levels; a lower one is more urgent. */
#define HMQ_LOG_ERROR (1)
#define HMQ_LOG_WARN (2)
#define HMQ_LOG_INFO (3)
#define HMQ_LOG_DEBUG (4)

/* Flags. */
#define HMQ_RECORD_MAYBE_DUP (1) /* it may be a second copy */
#define HMQ_RECEIPT_SPOOLED (1)  /* waits in the spool for the backend of its route */
#define HMQ_MSG_REDELIVERED (1)  /* handed over before */
#define HMQ_MSG_PROVISIONAL (2)  /* an event that is kept for a server that is away; its real copy may follow */
#define HMQ_MSG_MAYBE_DUP (4)    /* it may be a second copy */

/* Formats of hmq_metrics. */
#define HMQ_METRICS_JSON (1)
#define HMQ_METRICS_PROMETHEUS (2)

/* Modes of hmq_backend_force. */
#define HMQ_FORCE_AUTO (0)
#define HMQ_FORCE_DOWN (1)

/* What a broker written by the caller tells by hmq_sink_event. */
#define HMQ_SINK_CONNECTED (1)
#define HMQ_SINK_LOST (2)
#define HMQ_SINK_BLOCKED (3)
#define HMQ_SINK_UNBLOCKED (4)
#define HMQ_SINK_DENIED (5)

/* What a broker written by the caller can do. */
#define HMQ_CAN_TASKS (1)
#define HMQ_CAN_EVENTS (2)
#define HMQ_CAN_RETRY_DELAY (4)
#define HMQ_CAN_PRIORITY (8)
#define HMQ_CAN_TTL (16)
#define HMQ_CAN_DELAY (32)
#define HMQ_CAN_HEADERS (64)
#define HMQ_CAN_WILDCARD_TASKS (128)
#define HMQ_CAN_WILDCARD_EVENTS (256)

/* Initial values: `hmq_record r = HMQ_RECORD_INIT;` */
#define HMQ_RECORD_INIT                                                                              \
    {                                                                                                \
        (uint32_t)sizeof(hmq_record), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0 \
    }
#define HMQ_RECEIPT_INIT                               \
    {                                                  \
        (uint32_t)sizeof(hmq_receipt), 0, 0, 0, { 0 }  \
    }
#define HMQ_EVENT_INIT                                                                                   \
    {                                                                                                    \
        (uint32_t)sizeof(hmq_event), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 \
    }
#define HMQ_SETTLEMENT_INIT                                  \
    {                                                        \
        (uint32_t)sizeof(hmq_settlement), 0, 0, -1, 0, 0, 0, 0 \
    }
#define HMQ_BROKER_OPS_INIT                                  \
    {                                                        \
        (uint32_t)sizeof(hmq_broker_ops), 0, 0, 0, 0, 0, 0, 0, 0 \
    }


/**
 * A broker made alone, to be given to a hub by role.
 */
typedef struct hmq_broker hmq_broker;

/**
 * What went wrong, in full. Never changes; may be used by any thread.
 */
typedef struct hmq_error hmq_error;

/**
 * A hub: owns backends, routes and subscriptions.
 */
typedef struct hmq_hub hmq_hub;

/**
 * A bounded queue of events with one descriptor to poll.
 */
typedef struct hmq_inbox hmq_inbox;

/**
 * A received message; counted.
 */
typedef struct hmq_msg hmq_msg;

/**
 * A prepared publisher to one topic.
 */
typedef struct hmq_pub hmq_pub;

/**
 * Through which a broker written by the caller answers.
 */
typedef struct hmq_sink hmq_sink;

/**
 * A subscription or a replay.
 */
typedef struct hmq_sub hmq_sub;

/**
 * Outcome of a call: 0 success, above 0 a normal outcome, below 0 a failure.
 */
typedef int32_t hmq_status;

/**
 * Called first or last thing on a thread of the library. `name` is gone after the call.
 */
typedef void (*hmq_thread_fn)(const char *name, void *user_data);

/**
 * Called once, after the last call with the same `user_data`, also when registering failed.
 */
typedef void (*hmq_drop_fn)(void *user_data);

/**
 * Writes an OAuth token of at most `cap` bytes, its length, and when it expires (ms since 1970).
 */
typedef hmq_status (*hmq_token_fn)(char *buf, size_t cap, size_t *len, int64_t *expires_at_ms, void *user_data);

/**
 * Receives a JSON text, which is gone after the call.
 */
typedef void (*hmq_text_fn)(int32_t level, const char *json, size_t len, void *user_data);

/**
 * What became of a publish. Start from HMQ_RECEIPT_INIT.
 */
typedef struct hmq_receipt {
    /**
     * sizeof(hmq_receipt) of the caller.
     */
    uint32_t size;
    /**
     * How safe the message is: HMQ_LEVEL_...
     */
    int32_t level;
    /**
     * Where it is: HMQ_BACKEND_...
     */
    int32_t backend;
    /**
     * HMQ_RECEIPT_SPOOLED, or 0.
     */
    uint32_t flags;
    /**
     * The id of the message, ended by a NUL.
     */
    char id[64];
} hmq_receipt;

/**
 * One header of a message. Four fields for ever, hence no size.
 */
typedef struct hmq_header {
    /**
     * UTF-8, 1 to 256 bytes.
     */
    const char *name;
    /**
     * Its length, or HMQ_NTS.
     */
    size_t name_len;
    /**
     * Any bytes, at most 8 KiB.
     */
    const void *value;
    /**
     * Its length.
     */
    size_t value_len;
} hmq_header;

/**
 * A message to send. Start from HMQ_RECORD_INIT: it sets `size`, and a priority of -1.
 */
typedef struct hmq_record {
    /**
     * sizeof(hmq_record) of the caller.
     */
    uint32_t size;
    /**
     * 0: as the routes say; HMQ_TASK; HMQ_EVENT.
     */
    int32_t kind;
    /**
     * Where to; (NULL, 0) with a publisher, which has its own.
     */
    const char *topic;
    /**
     * Its length, or HMQ_NTS.
     */
    size_t topic_len;
    /**
     * Any bytes; (NULL, 0) is an empty message.
     */
    const void *payload;
    /**
     * Its length. HMQ_NTS is not taken here.
     */
    size_t payload_len;
    /**
     * Messages of one key keep their order; any bytes; NULL: no key.
     */
    const void *key;
    /**
     * Its length, or HMQ_NTS.
     */
    size_t key_len;
    /**
     * At most 63 bytes; (NULL, 0): one is made.
     */
    const char *id;
    /**
     * Its length, or HMQ_NTS.
     */
    size_t id_len;
    /**
     * At most 255 bytes, such as "user.created".
     */
    const char *type;
    /**
     * Its length, or HMQ_NTS.
     */
    size_t type_len;
    /**
     * `header_count` headers.
     */
    const struct hmq_header *headers;
    /**
     * At most 64.
     */
    size_t header_count;
    /**
     * Microseconds since 1970; 0: now.
     */
    int64_t timestamp_us;
    /**
     * Not delivered before this has passed; 0: at once.
     */
    int64_t delay_ms;
    /**
     * Not delivered after this has passed; 0: never expires.
     */
    int64_t ttl_ms;
    /**
     * Tasks: 0 to 10, higher first; -1: the default (the publisher's, else 5).
     */
    int32_t priority;
    /**
     * HMQ_RECORD_MAYBE_DUP, or 0.
     */
    uint32_t flags;
    /**
     * Rare options as JSON; (NULL, 0): none.
     */
    const char *meta;
    /**
     * Its length, or HMQ_NTS.
     */
    size_t meta_len;
    /**
     * Comes back in HMQ_EV_PUBLISHED.
     */
    uint64_t tag;
} hmq_record;

/**
 * Told once how a publish ended. `receipt` is NULL if it failed, and gone after the call.
 */
typedef void (*hmq_done_fn)(hmq_status status, const struct hmq_receipt *receipt, void *user_data);

/**
 * What shall become of a delivery: HMQ_ACK, HMQ_RETRY, HMQ_REJECT or HMQ_LATER.
 */
typedef int32_t hmq_verdict;

/**
 * Receives one message; answers its verdict. `msg` is borrowed: hmq_msg_retain keeps it.
 */
typedef hmq_verdict (*hmq_msg_fn)(struct hmq_msg *msg, void *user_data);

/**
 * Called once per step from empty to not empty; must not block.
 */
typedef void (*hmq_ready_fn)(void *user_data);

/**
 * Names one delivery; 53 bits, exact as a double.
 */
typedef uint64_t hmq_token;

/**
 * Something that came into an inbox. Start from HMQ_EVENT_INIT; in an array the first one's
 * `size` counts for all. Free what it holds with hmq_events_clear.
 */
typedef struct hmq_event {
    /**
     * sizeof(hmq_event) of the caller.
     */
    uint32_t size;
    /**
     * HMQ_EV_...
     */
    uint32_t kind;
    /**
     * PUBLISHED: how it ended. END: why. Else HMQ_OK.
     */
    hmq_status status;
    /**
     * MESSAGE: 1 for the first delivery. LOG: its level.
     */
    uint32_t attempt;
    /**
     * MESSAGE, END: the tag of the subscription. PUBLISHED: the tag of the record.
     */
    uint64_t tag;
    /**
     * MESSAGE: for hmq_settle. PUBLISHED: the number that the send answered.
     */
    hmq_token token;
    /**
     * MESSAGE: time of publishing, microseconds since 1970.
     */
    int64_t timestamp_us;
    /**
     * MESSAGE: the message, owned by the event. Else NULL.
     */
    struct hmq_msg *msg;
    /**
     * MESSAGE: the bytes, as long as the message lives.
     */
    const void *payload;
    /**
     * Its length.
     */
    size_t payload_len;
    /**
     * MESSAGE: the topic, ended by a NUL, as long as the message lives.
     */
    const char *topic;
    /**
     * Its length.
     */
    size_t topic_len;
    /**
     * MESSAGE: the key, as long as the message lives; NULL: it has none.
     */
    const void *key;
    /**
     * Its length.
     */
    size_t key_len;
    /**
     * STATE, LOG, FATE: the document. PUBLISHED, END: the error, if it failed. Ended by a NUL.
     */
    const char *json;
    /**
     * Its length.
     */
    size_t json_len;
    /**
     * MESSAGE: HMQ_MSG_...; PUBLISHED: HMQ_RECEIPT_SPOOLED, or 0.
     */
    uint32_t flags;
    /**
     * MESSAGE: the partition, else 0.
     */
    uint32_t partition;
    /**
     * MESSAGE: the offset in the partition, or -1. Else 0.
     */
    int64_t offset;
    /**
     * PUBLISHED: HMQ_LEVEL_...
     */
    int32_t level;
    /**
     * PUBLISHED: HMQ_BACKEND_...
     */
    int32_t backend;
} hmq_event;

/**
 * One decision of hmq_settle_many. Start from HMQ_SETTLEMENT_INIT; in an array the first one's
 * `size` counts for all.
 */
typedef struct hmq_settlement {
    /**
     * sizeof(hmq_settlement) of the caller.
     */
    uint32_t size;
    /**
     * HMQ_ACK, HMQ_RETRY or HMQ_REJECT.
     */
    hmq_verdict verdict;
    /**
     * Which delivery.
     */
    hmq_token token;
    /**
     * HMQ_RETRY: wait so long; -1: as the subscription's policy says. Else ignored.
     */
    int64_t delay_ms;
    /**
     * HMQ_RETRY, HMQ_REJECT: why, for people and the dead letter; (NULL, 0): no reason.
     */
    const char *reason;
    /**
     * Its length, or HMQ_NTS.
     */
    size_t reason_len;
    /**
     * Out: how settling it ended.
     */
    hmq_status result;
    /**
     * 0.
     */
    uint32_t reserved;
} hmq_settlement;

/**
 * The functions of a broker written by the caller. Start from HMQ_BROKER_OPS_INIT. None of them
 * may unwind. Those that must not block must not call the library either, but for hmq_sink_....
 */
typedef struct hmq_broker_ops {
    /**
     * sizeof(hmq_broker_ops) of the caller.
     */
    uint32_t size;
    /**
     * What it can do: HMQ_CAN_... bits.
     */
    uint32_t capabilities;
    /**
     * Largest payload in bytes; 0: 1 MiB.
     */
    uint64_t payload_bytes_max;
    /**
     * One attempt to connect; may block for `timeout_ms`. NULL: always connected.
     */
    hmq_status (*connect)(int32_t timeout_ms, void *user_data);
    /**
     * Takes one message, copying what it keeps; texts in it are not ended by a NUL. Its outcome
     * comes by hmq_sink_complete with `ticket`, perhaps before this returns. A failure means it
     * was not taken; HMQ_E_FULL asks to come again. `seq` numbers messages in their order. Must not block.
     */
    hmq_status (*publish)(const struct hmq_record *record, uint64_t seq, uint64_t ticket, void *user_data);
    /**
     * Opens subscription `sub`; `group` is NULL for a private one. Texts end at a NUL. May block.
     */
    hmq_status (*subscribe)(const char *pattern,
                            int32_t kind,
                            const char *group,
                            uint32_t prefetch,
                            uint64_t sub,
                            void *user_data);
    /**
     * Ends subscription `sub`; what was delivered and not settled goes to others. Must not block.
     */
    void (*unsubscribe)(uint64_t sub, void *user_data);
    /**
     * A delivery was decided on: HMQ_ACK; HMQ_RETRY, to be delivered again after `delay_ms`, or
     * with -1 as if it had not been delivered. Must not block.
     */
    void (*settle)(uint64_t sub, uint64_t their_token, hmq_verdict verdict, int64_t delay_ms, void *user_data);
    /**
     * Flushes and closes; may block for `timeout_ms`. NULL: nothing to do.
     */
    hmq_status (*close)(int32_t timeout_ms, void *user_data);
} hmq_broker_ops;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that is loaded, as HMQ_VERSION_NUMBER counts it.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
uint32_t hmq_version(void);

/**
 * The version of the library that is loaded, as text ended by a NUL; lives for ever.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_version_string(void);

/**
 * What this library was built of, as one JSON object: version, abi, target, backends, features,
 * tls, allocator. Borrowed; lives for ever.
 *
 * - `len`: out, may be NULL: length of the text, without its NUL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_build_info(size_t *len);

/**
 * Whether a program compiled with `abi` can use the library that is loaded.
 *
 * - `abi`: in: HMQ_ABI of the program's header.
 * - `err`: out, own, may be NULL: names both numbers.
 *
 * Codes: HMQ_OK; HMQ_E_ABI.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_abi_check(uint32_t abi, struct hmq_error **err);

/**
 * Prepares the process. Not needed: the first call does it. It is for programs that want errors early.
 *
 * - `options`: in, borrow: JSON object; there are no options yet, so `{}` or (NULL, 0).
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_FORKED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_init(const char *options, size_t options_len, struct hmq_error **err);

/**
 * Sets what each thread of the library calls first and last: attach to a JVM once, name, pin.
 * Only before the first hub. `drop` is called when other hooks replace these, else never.
 *
 * - `start`: in, may be NULL: called first, with the name of the thread.
 * - `stop`: in, may be NULL: called last.
 * - `user_data`: in, may be NULL: handed to all three.
 * - `drop`: in, may be NULL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_STATE once a thread of the library runs.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_thread_hooks(hmq_thread_fn start,
                            hmq_thread_fn stop,
                            void *user_data,
                            hmq_drop_fn drop,
                            struct hmq_error **err);

/**
 * Names a function that supplies OAuth tokens, for hubs that are opened from now on; replaces the
 * one of that name before. A configuration refers to it by `name`, as `kafka.token_provider`.
 *
 * - `name`: in, borrow: how the configuration calls it.
 * - `name_len`: in: its length, or HMQ_NTS.
 * - `provide`: in: writes a token, and answers HMQ_OK; any other answer means that there is none now.
 * - `user_data`: in, may be NULL: handed to both functions.
 * - `drop`: in, may be NULL: called once, when the function is replaced or hmq_shutdown is called, and the
 *   last hub that uses it has ended.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_NULL, HMQ_E_NAME, HMQ_E_UTF8; HMQ_E_FULL: 1024 names are set.
 * Threads: any; `provide` is called on threads of the library, perhaps on several at once, before each
 * login and before a token expires. It should answer within seconds.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_token_provider_set(const char *name,
                                  size_t name_len,
                                  hmq_token_fn provide,
                                  void *user_data,
                                  hmq_drop_fn drop,
                                  struct hmq_error **err);

/**
 * Sends the log lines of the process to `log`; replaces the one before. Without one nothing is
 * logged anywhere. When this returns, the one before is not called any more.
 *
 * - `level`: in: HMQ_LOG_..., the least urgent that is sent.
 * - `log`: in, may be NULL: takes lines; NULL: no more log.
 * - `user_data`: in, may be NULL: handed to both functions.
 * - `drop`: in, may be NULL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_ARG for an unknown level; HMQ_E_REENTRANT, HMQ_E_RESOURCES.
 * Threads: any; `log` is called on a thread of the library, one call at a time.
 * Blocks: until a running call of the function before has returned.
 * Callback: HMQ_E_REENTRANT in `log`, else allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_log_set(int32_t level,
                       hmq_text_fn log,
                       void *user_data,
                       hmq_drop_fn drop,
                       struct hmq_error **err);

/**
 * Ends what the library still runs, once all hubs are freed, and waits for its threads. The
 * library can be used again after it.
 *
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
 * Threads: any but the library's own.
 * Blocks: up to `timeout_ms`.
 * Callback: HMQ_E_REENTRANT.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_shutdown(int32_t timeout_ms, struct hmq_error **err);

/**
 * The name of a status, such as "HMQ_E_TIMEOUT"; "HMQ_E_?" for a number that is none. Ended by a
 * NUL; lives for ever.
 *
 * - `status`: in.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_status_name(hmq_status status);

/**
 * What a program can conclude from a status: HMQ_STATUS_... bits; 0 for what is no failure.
 *
 * - `status`: in.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
uint32_t hmq_status_flags(hmq_status status);

/**
 * All statuses as a JSON array, for generators of bindings. Borrowed; lives for ever.
 *
 * - `len`: out, may be NULL: length of the text, without its NUL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_status_table(size_t *len);

/**
 * The status that an error belongs to; HMQ_OK for NULL, HMQ_E_HANDLE for what is no error.
 *
 * - `error`: in, borrow, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_error_status(const struct hmq_error *error);

/**
 * An error as one JSON object: code, name, message, retriable, fatal, and where it applies
 * backend, native, outcome, path, line, column, causes. Borrowed: lives until hmq_error_free.
 *
 * - `error`: in, borrow, may be NULL: then the answer is "{}", as for what is no error.
 * - `len`: out, may be NULL: length of the text, without its NUL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_error_json(const struct hmq_error *error, size_t *len);

/**
 * What an error says, as one sentence for people: the `message` of hmq_error_json. Borrowed: lives
 * until hmq_error_free.
 *
 * - `error`: in, borrow, may be NULL: then the answer is "", as for what is no error.
 * - `len`: out, may be NULL: length of the text, without its NUL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_error_message(const struct hmq_error *error, size_t *len);

/**
 * Frees an error.
 *
 * - `error`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_error_free(struct hmq_error *error);

/**
 * Frees a text that a call gave to the caller. What is no such text is counted and left alone.
 *
 * - `text`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_free(void *text);

/**
 * How many frees in this process named nothing: freed twice, or never issued.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
uint64_t hmq_useless_frees(void);

/**
 * Opens a hub. With a server down it still opens, degraded, and connects when it can.
 *
 * - `config`: in, borrow: JSON document, see docs/config.schema.json. Must be there and not empty.
 * - `config_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try; the configured connection_timeout if that is smaller.
 * - `out`: out, own: close with hmq_hub_close, free with hmq_hub_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_SECRET, HMQ_E_TLS, HMQ_E_UTF8, HMQ_E_ARG, HMQ_E_LOCKED,
 * HMQ_E_UNSUPPORTED, HMQ_E_RESOURCES.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_hub_open(const char *config,
                        size_t config_len,
                        int32_t timeout_ms,
                        struct hmq_hub **out,
                        struct hmq_error **err);

/**
 * Opens a hub as the environment says: MESSAGING_..., RABBITMQ_..., KAFKA_..., HELIXMQ__....
 *
 * - `timeout_ms`: in: -1 for ever, 0 try; the configured connection_timeout if that is smaller.
 * - `out`: out, own: close with hmq_hub_close, free with hmq_hub_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_hub_open.
 * Threads: any; the environment must not change meanwhile.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_hub_open_env(int32_t timeout_ms, struct hmq_hub **out, struct hmq_error **err);

/**
 * Checks a configuration without opening anything, and shows all of it with its defaults and
 * with secrets masked.
 *
 * - `config`: in, borrow: JSON document.
 * - `config_len`: in: its length, or HMQ_NTS.
 * - `effective`: out, own, may be NULL: JSON; free with hmq_free.
 * - `effective_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_SECRET, HMQ_E_TLS, HMQ_E_UTF8.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_config_check(const char *config,
                            size_t config_len,
                            char **effective,
                            size_t *effective_len,
                            struct hmq_error **err);

/**
 * Waits until every publish that was accepted has reached the level it asked for.
 *
 * - `hub`: in, borrow.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_CLOSED, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: HMQ_E_REENTRANT.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_hub_flush(struct hmq_hub *hub, int32_t timeout_ms, struct hmq_error **err);

/**
 * Waits until hmq_hub_stop is called: the body of a program that only serves callbacks.
 *
 * - `hub`: in, borrow.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK once stopped or closed; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: HMQ_E_REENTRANT.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_hub_wait(struct hmq_hub *hub, int32_t timeout_ms, struct hmq_error **err);

/**
 * Ends hmq_hub_wait, now and for later calls. It closes nothing.
 *
 * - `hub`: in, borrow; what is no hub is left alone.
 *
 * Threads: any, and signal handlers.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_hub_stop(struct hmq_hub *hub);

/**
 * Closes a hub in order: takes nothing new in, lets callbacks finish, settles, flushes, leaves.
 * After success no callback of it runs or will run. It waits for callbacks that run; one that waits
 * for ever itself, for a confirm or in hmq_inbox_poll, makes it wait as long. Children become closed and stay valid until
 * they are freed. A second close is HMQ_OK.
 *
 * - `hub`: in, borrow: still to be freed.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: HMQ_E_REENTRANT.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_hub_close(struct hmq_hub *hub,
                         int32_t timeout_ms,
                         struct hmq_error **err);

/**
 * Frees a hub. One that is not closed is closed in the background, within bounds. What belongs
 * to it may be freed before or after.
 *
 * - `hub`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_hub_free(struct hmq_hub *hub);

/**
 * Publishes one message. The routes, or the first use of the topic, decide whether it is a task
 * or an event. What HMQ_OK is worth is the level in the receipt: a server's confirm; or kept here while its server is
 * away (HMQ_RECEIPT_SPOOLED); or none, dropped as its route asks.
 *
 * - `hub`: in, borrow.
 * - `topic`: in, borrow: where to.
 * - `topic_len`: in: its length, or HMQ_NTS.
 * - `payload`: in, borrow: any bytes, copied; (NULL, 0) is an empty message.
 * - `payload_len`: in: its length.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `receipt`: out, may be NULL: `size` set by the caller.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_TOO_LARGE, HMQ_E_ARG, HMQ_E_ABI, HMQ_E_FULL,
 * HMQ_E_TIMEOUT, HMQ_E_CLOSED, HMQ_E_DISABLED, HMQ_E_BACKEND_DOWN, HMQ_E_REFUSED,
 * HMQ_E_OUTCOME_UNKNOWN and the codes of backends.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_publish(struct hmq_hub *hub,
                       const char *topic,
                       size_t topic_len,
                       const void *payload,
                       size_t payload_len,
                       int32_t timeout_ms,
                       struct hmq_receipt *receipt,
                       struct hmq_error **err);

/**
 * Publishes one task: work that any one worker does once.
 *
 * - `hub`: in, borrow.
 * - `queue`: in, borrow: where to.
 * - `queue_len`: in: its length, or HMQ_NTS.
 * - `payload`: in, borrow: any bytes, copied; (NULL, 0) is an empty message.
 * - `payload_len`: in: its length.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `receipt`: out, may be NULL: `size` set by the caller.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_publish; HMQ_E_KIND if the topic carries events.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_publish_task(struct hmq_hub *hub,
                            const char *queue,
                            size_t queue_len,
                            const void *payload,
                            size_t payload_len,
                            int32_t timeout_ms,
                            struct hmq_receipt *receipt,
                            struct hmq_error **err);

/**
 * Publishes one event: a fact that every group of subscribers sees.
 *
 * - `hub`: in, borrow.
 * - `topic`: in, borrow: where to.
 * - `topic_len`: in: its length, or HMQ_NTS.
 * - `payload`: in, borrow: any bytes, copied; (NULL, 0) is an empty message.
 * - `payload_len`: in: its length.
 * - `key`: in, borrow: any bytes; events of one key keep their order. (NULL, 0): no key.
 * - `key_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `receipt`: out, may be NULL: `size` set by the caller.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_publish; HMQ_E_KIND if the topic carries tasks.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_publish_event(struct hmq_hub *hub,
                             const char *topic,
                             size_t topic_len,
                             const void *payload,
                             size_t payload_len,
                             const void *key,
                             size_t key_len,
                             int32_t timeout_ms,
                             struct hmq_receipt *receipt,
                             struct hmq_error **err);

/**
 * Publishes one message with everything a message can have.
 *
 * - `hub`: in, borrow.
 * - `record`: in, borrow: the message, copied.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `receipt`: out, may be NULL: `size` set by the caller.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_publish; HMQ_E_HEADER, HMQ_E_KIND, HMQ_E_CONFIG for `meta`; HMQ_E_UNSUPPORTED for a
 * level that the backend does not reach, or the delay of an event.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_send(struct hmq_hub *hub,
                    const struct hmq_record *record,
                    int32_t timeout_ms,
                    struct hmq_receipt *receipt,
                    struct hmq_error **err);

/**
 * Publishes one message given as a JSON document: topic, kind, payload (any JSON),
 * payload_text or payload_base64, key, id, type, headers, priority, delay_ms, ttl_ms. Convenient, not fast.
 *
 * - `hub`: in, borrow.
 * - `message`: in, borrow: JSON object.
 * - `message_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `receipt`: out, may be NULL: `size` set by the caller.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_send.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_publish_json(struct hmq_hub *hub,
                            const char *message,
                            size_t message_len,
                            int32_t timeout_ms,
                            struct hmq_receipt *receipt,
                            struct hmq_error **err);

/**
 * Cancels a publish that was started by hmq_pub_send_async or hmq_pub_send_inbox and has not
 * ended: it then ends with HMQ_E_CANCELLED, unless its outcome came first.
 *
 * - `hub`: in, borrow.
 * - `op`: in: the number that the send answered.
 *
 * Codes: HMQ_OK; HMQ_E_NOT_FOUND if it has ended; HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_cancel(struct hmq_hub *hub, uint64_t op);

/**
 * Prepares a publisher to one topic: its options are parsed once.
 *
 * - `hub`: in, borrow.
 * - `options`: in, borrow: JSON object: topic, kind, type, headers, priority, ttl_ms, delay_ms, require.
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `out`: out, own: free with hmq_pub_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_KIND, HMQ_E_UNSUPPORTED, HMQ_E_CLOSED,
 * HMQ_E_DISABLED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_pub_new(struct hmq_hub *hub,
                       const char *options,
                       size_t options_len,
                       struct hmq_pub **out,
                       struct hmq_error **err);

/**
 * Frees a publisher. What it sent goes on.
 *
 * - `publisher`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_pub_free(struct hmq_pub *publisher);

/**
 * Publishes one message and waits for its outcome.
 *
 * - `publisher`: in, borrow.
 * - `record`: in, borrow: the message, copied; its topic is (NULL, 0) or the publisher's.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `receipt`: out, may be NULL: `size` set by the caller.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_send.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_pub_send(struct hmq_pub *publisher,
                        const struct hmq_record *record,
                        int32_t timeout_ms,
                        struct hmq_receipt *receipt,
                        struct hmq_error **err);

/**
 * Publishes messages in order and waits for their outcomes. It stops when one is known not to be
 * taken, or its outcome is unknown; those after it were not tried (HMQ_E_CANCELLED in `each`). A server has many of
 * them on their way at once: some behind one that failed may be taken, and `each` says which.
 *
 * - `publisher`: in, borrow.
 * - `records`: in, borrow: `count` messages, copied; each starts from HMQ_RECORD_INIT.
 * - `count`: in: how many.
 * - `timeout_ms`: in: for all of them; -1 for ever, 0 try.
 * - `each`: out, may be NULL: `count` statuses.
 * - `accepted`: out, may be NULL: how many were taken.
 * - `err`: out, own, may be NULL: why the first that failed did, also with HMQ_PARTIAL.
 *
 * Codes: HMQ_OK if all were taken; HMQ_PARTIAL if some were; else as hmq_send.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_pub_send_batch(struct hmq_pub *publisher,
                              const struct hmq_record *records,
                              size_t count,
                              int32_t timeout_ms,
                              hmq_status *each,
                              size_t *accepted,
                              struct hmq_error **err);

/**
 * As hmq_pub_send_batch, from one buffer of frames as hmq_inbox_read writes them; see
 * docs/packed-frames.md. For languages that pay per pointer.
 *
 * - `publisher`: in, borrow.
 * - `frames`: in, borrow: frames one behind another, copied; no alignment is asked.
 * - `bytes`: in: their length.
 * - `timeout_ms`: in: for all of them; -1 for ever, 0 try.
 * - `each`: out, may be NULL: a status for each frame.
 * - `accepted`: out, may be NULL: how many were taken.
 * - `err`: out, own, may be NULL: why the first that failed did, also with HMQ_PARTIAL.
 *
 * Codes: as hmq_pub_send_batch; HMQ_E_ARG for what is no frame: nothing was sent then.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_pub_send_packed(struct hmq_pub *publisher,
                               const void *frames,
                               size_t bytes,
                               int32_t timeout_ms,
                               hmq_status *each,
                               size_t *accepted,
                               struct hmq_error **err);

/**
 * Publishes one message without waiting; `done` is called once with its outcome, perhaps before
 * this returns.
 *
 * - `publisher`: in, borrow.
 * - `record`: in, borrow: the message, copied.
 * - `done`: in, may be NULL: told the outcome; not called if this call fails.
 * - `user_data`: in, may be NULL: handed to both functions.
 * - `drop`: in, may be NULL: called once, after `done`, also if this call fails.
 * - `op`: out, may be NULL: for hmq_cancel.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_FULL when the window of open publishes is full; else as hmq_send.
 * Threads: any; `done` is called on any thread, and must not block.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_pub_send_async(struct hmq_pub *publisher,
                              const struct hmq_record *record,
                              hmq_done_fn done,
                              void *user_data,
                              hmq_drop_fn drop,
                              uint64_t *op,
                              struct hmq_error **err);

/**
 * Publishes messages in order without waiting; each outcome comes as HMQ_EV_PUBLISHED with the
 * `tag` of its record. It stops at the first that is not taken.
 *
 * - `publisher`: in, borrow.
 * - `records`: in, borrow: `count` messages, copied; each starts from HMQ_RECORD_INIT.
 * - `count`: in: how many.
 * - `inbox`: in, borrow: where the outcomes come; of the same hub.
 * - `ops`: out, may be NULL: `count` numbers for hmq_cancel; 0 for what was not taken.
 * - `accepted`: out, may be NULL: how many were taken.
 * - `err`: out, own, may be NULL: why it stopped, also with HMQ_PARTIAL.
 *
 * Codes: HMQ_OK if all were taken; HMQ_PARTIAL if some were; HMQ_E_FULL when the window of open
 * publishes or the inbox is full; else as hmq_send.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_pub_send_inbox(struct hmq_pub *publisher,
                              const struct hmq_record *records,
                              size_t count,
                              struct hmq_inbox *inbox,
                              uint64_t *ops,
                              size_t *accepted,
                              struct hmq_error **err);

/**
 * Subscribes with a callback, on a thread of the library: serial and ordered, unless the options
 * ask for concurrency. What the callback answers settles the message.
 *
 * - `hub`: in, borrow.
 * - `options`: in, borrow: JSON object: topic (a name or a pattern), kind, group, prefetch, credit,
 *   concurrency, ordered, retry, dead_letter, filter, start, lease_ms (docs/options.schema.json).
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `handler`: in: called for each message.
 * - `user_data`: in, may be NULL: handed to both functions.
 * - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `out`: out, own: close with hmq_sub_close, free with hmq_sub_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_KIND, HMQ_E_UNSUPPORTED, HMQ_E_TIMEOUT,
 * HMQ_E_ARG, HMQ_E_FULL when the hub has as many dispatcher threads, or names of
 * dead-letter topics, as it may, HMQ_E_RESOURCES,
 * HMQ_E_CLOSED, HMQ_E_DISABLED and the codes of backends.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_subscribe(struct hmq_hub *hub,
                         const char *options,
                         size_t options_len,
                         hmq_msg_fn handler,
                         void *user_data,
                         hmq_drop_fn drop,
                         int32_t timeout_ms,
                         struct hmq_sub **out,
                         struct hmq_error **err);

/**
 * Subscribes with an inbox: messages come as HMQ_EV_MESSAGE and are settled by their token.
 *
 * - `hub`: in, borrow.
 * - `options`: in, borrow: JSON object, as of hmq_subscribe; with "credit":"manual" see hmq_sub_request.
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `inbox`: in, borrow: of the same hub.
 * - `tag`: in: comes back in each event of this subscription; HMQ_EV_END is the last.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `out`: out, own: close with hmq_sub_close, free with hmq_sub_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_subscribe.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_subscribe_inbox(struct hmq_hub *hub,
                               const char *options,
                               size_t options_len,
                               struct hmq_inbox *inbox,
                               uint64_t tag,
                               int32_t timeout_ms,
                               struct hmq_sub **out,
                               struct hmq_error **err);

/**
 * Reads events again, from one time to another, without moving any group. The callback's answer
 * settles nothing.
 *
 * - `hub`: in, borrow.
 * - `options`: in, borrow: JSON object: topic (a name or a pattern), from, to, filter, dry_run, follow
 *   (docs/events.md).
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `handler`: in: called for each message.
 * - `user_data`: in, may be NULL: handed to both functions.
 * - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `out`: out, own: hmq_sub_wait waits for its end; free with hmq_sub_free.
 * - `err`: out, own, may be NULL.
 *
 * A topic that nobody has published to is empty, not an error.
 *
 * Codes: as hmq_subscribe; HMQ_E_BACKEND_DOWN.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_replay(struct hmq_hub *hub,
                      const char *options,
                      size_t options_len,
                      hmq_msg_fn handler,
                      void *user_data,
                      hmq_drop_fn drop,
                      int32_t timeout_ms,
                      struct hmq_sub **out,
                      struct hmq_error **err);

/**
 * As hmq_replay, into an inbox; HMQ_EV_END tells the end.
 *
 * - `hub`: in, borrow.
 * - `options`: in, borrow: JSON object, as of hmq_replay.
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `inbox`: in, borrow: of the same hub.
 * - `tag`: in: comes back in each event of this replay.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `out`: out, own: free with hmq_sub_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: as hmq_replay.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_replay_inbox(struct hmq_hub *hub,
                            const char *options,
                            size_t options_len,
                            struct hmq_inbox *inbox,
                            uint64_t tag,
                            int32_t timeout_ms,
                            struct hmq_sub **out,
                            struct hmq_error **err);

/**
 * How far a subscription or replay is, as a JSON object of counts.
 *
 * - `sub`: in, borrow.
 * - `json`: out, own: free with hmq_free.
 * - `json_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_sub_progress(struct hmq_sub *sub,
                            char **json,
                            size_t *json_len,
                            struct hmq_error **err);

/**
 * Waits until a subscription has ended: a replay at its end, a subscription that was closed or lost.
 *
 * - `sub`: in, borrow.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK at the orderly end; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG; or what ended it.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: HMQ_E_REENTRANT in its own, else allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_sub_wait(struct hmq_sub *sub, int32_t timeout_ms, struct hmq_error **err);

/**
 * Moves an event subscription's group to another place.
 *
 * - `sub`: in, borrow.
 * - `options`: in, borrow: JSON object: `to`: "earliest", "latest", {"offset": 5} or
 *   {"time": "2026-01-02T03:04:05Z"}.
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_UNSUPPORTED for tasks, HMQ_E_TIMEOUT, HMQ_E_CLOSED, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_sub_seek(struct hmq_sub *sub,
                        const char *options,
                        size_t options_len,
                        int32_t timeout_ms,
                        struct hmq_error **err);

/**
 * Stops and starts the flow of messages; the subscription keeps its place.
 *
 * - `sub`: in, borrow.
 * - `paused`: in: 1 stops, 0 goes on.
 *
 * Codes: HMQ_OK; HMQ_E_ARG, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_sub_pause(struct hmq_sub *sub, int32_t paused);

/**
 * Asks for `n` more messages, where the options say "credit":"manual".
 *
 * - `sub`: in, borrow.
 * - `n`: in: added to what was asked before.
 *
 * Codes: HMQ_OK; HMQ_E_STATE without manual credit; HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_sub_request(struct hmq_sub *sub, uint32_t n);

/**
 * Closes a subscription in order: takes nothing new, waits for its callbacks, gives back what is
 * not settled. After success no callback of it runs or will run. A second close is HMQ_OK.
 *
 * - `sub`: in, borrow: still to be freed.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_REENTRANT, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: HMQ_E_REENTRANT in its own, else allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_sub_close(struct hmq_sub *sub, int32_t timeout_ms, struct hmq_error **err);

/**
 * Frees a subscription; one that is not closed is closed in the background.
 *
 * - `sub`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed, also in its own: no call follows the one that runs.
 * @since 0.1.0
 */
void hmq_sub_free(struct hmq_sub *sub);

/**
 * Makes an inbox: a bounded queue that messages, outcomes of publishes, state changes and logs
 * can come into, with one descriptor that is readable while it is not empty.
 *
 * - `hub`: in, borrow.
 * - `options`: in, borrow: JSON object: capacity, signal ("eventfd" or "socket"), spin_us, state, log, fate.
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `out`: out, own: free with hmq_inbox_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_RESOURCES, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_inbox_new(struct hmq_hub *hub,
                         const char *options,
                         size_t options_len,
                         struct hmq_inbox **out,
                         struct hmq_error **err);

/**
 * The descriptor of an inbox, for poll, epoll, kqueue and their like. Level-triggered: readable
 * while the inbox is not empty. It belongs to the inbox and never changes; it may be dup'ed.
 * With "signal":"socket" its bytes may be read. -1 if `inbox` is no inbox.
 *
 * - `inbox`: in, borrow.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
ptrdiff_t hmq_inbox_fd(const struct hmq_inbox *inbox);

/**
 * Sets what is called once each time the inbox stops being empty, for loops without descriptors.
 * Set once per inbox. `ready` must not block; `drop` is called when the inbox is gone.
 *
 * - `inbox`: in, borrow.
 * - `ready`: in: called from the thread that filled the inbox, with no lock held.
 * - `user_data`: in, may be NULL: handed to both functions.
 * - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
 *
 * Codes: HMQ_OK; HMQ_E_STATE if it is set already.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_inbox_on_ready(struct hmq_inbox *inbox,
                              hmq_ready_fn ready,
                              void *user_data,
                              hmq_drop_fn drop);

/**
 * Takes events out of an inbox, and waits for the first. A wake-up ends the wait with HMQ_NO_DATA.
 *
 * - `inbox`: in, borrow.
 * - `events`: out: room for `max` events; the first one's `size`, set by the caller, is the step.
 *   What they hold is owned by the caller: free it with hmq_events_clear.
 * - `max`: in: at least 1.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `count`: out: how many came.
 *
 * Codes: HMQ_OK; HMQ_NO_DATA; HMQ_CLOSED when nothing will come any more; HMQ_E_ARG, HMQ_E_ABI,
 * HMQ_E_RESOURCES.
 * Threads: any; two polls at a time share the events.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_inbox_poll(struct hmq_inbox *inbox,
                          struct hmq_event *events,
                          size_t max,
                          int32_t timeout_ms,
                          size_t *count);

/**
 * Frees what events hold, all messages in one go, and empties them for the next poll.
 *
 * - `events`: in, out, may be NULL: as hmq_inbox_poll filled them.
 * - `count`: in: how many.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_events_clear(struct hmq_event *events, size_t count);

/**
 * Takes events out of an inbox as packed frames, nothing to free; see docs/packed-frames.md. For
 * languages that pay per call. A frame that finds no room stays in the inbox.
 *
 * - `inbox`: in, borrow.
 * - `buf`: out: filled from its start.
 * - `cap`: in: its size.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `bytes`: out: bytes written; with HMQ_E_TOO_LARGE the size that the first frame needs.
 * - `count`: out, may be NULL: frames written.
 *
 * Codes: HMQ_OK; HMQ_NO_DATA; HMQ_CLOSED when nothing will come any more; HMQ_E_TOO_LARGE if not
 * one frame has room: nothing is lost; HMQ_E_ARG.
 * Threads: one at a time, to keep the order.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_inbox_read(struct hmq_inbox *inbox,
                          void *buf,
                          size_t cap,
                          int32_t timeout_ms,
                          size_t *bytes,
                          size_t *count);

/**
 * Ends the wait of the poll that runs, or else of the next one; makes the descriptor readable
 * until then.
 *
 * - `inbox`: in, borrow; what is no inbox is left alone.
 *
 * Threads: any, and signal handlers.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_inbox_wake(struct hmq_inbox *inbox);

/**
 * Frees an inbox and ends its subscriptions: what they have out goes back unsettled, polls that wait
 * end with HMQ_CLOSED. The handles of the subscriptions stay yours to free.
 *
 * - `inbox`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_inbox_free(struct hmq_inbox *inbox);

/**
 * The bytes of a message; never NULL for a message, also if it is empty. NULL for what is no message.
 *
 * - `msg`: in, borrow.
 * - `len`: out, may be NULL: how many.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const void *hmq_msg_payload(const struct hmq_msg *msg, size_t *len);

/**
 * The topic of a message, ended by a NUL. NULL for what is no message.
 *
 * - `msg`: in, borrow.
 * - `len`: out, may be NULL: its length.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_msg_topic(const struct hmq_msg *msg, size_t *len);

/**
 * The id of a message, ended by a NUL: what the publisher gave, or one that was made. NULL for
 * what is no message.
 *
 * - `msg`: in, borrow.
 * - `len`: out, may be NULL: its length.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_msg_id(const struct hmq_msg *msg, size_t *len);

/**
 * The type of a message, ended by a NUL; "" if it has none. NULL for what is no message.
 *
 * - `msg`: in, borrow.
 * - `len`: out, may be NULL: its length.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const char *hmq_msg_type(const struct hmq_msg *msg, size_t *len);

/**
 * The key of a message. NULL if it has none, and for what is no message.
 *
 * - `msg`: in, borrow.
 * - `len`: out, may be NULL: its length.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
const void *hmq_msg_key(const struct hmq_msg *msg, size_t *len);

/**
 * Which delivery of the message this is: 1 for the first. 0 for what is no message.
 *
 * - `msg`: in, borrow.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
uint32_t hmq_msg_attempt(const struct hmq_msg *msg);

/**
 * HMQ_MSG_REDELIVERED, HMQ_MSG_PROVISIONAL, HMQ_MSG_MAYBE_DUP, or 0; as in the `flags` of an hmq_event. 0 for what is no
 * message.
 *
 * - `msg`: in, borrow.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
uint32_t hmq_msg_flags(const struct hmq_msg *msg);

/**
 * When the message was published, microseconds since 1970. 0 for what is no message.
 *
 * - `msg`: in, borrow.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
int64_t hmq_msg_timestamp(const struct hmq_msg *msg);

/**
 * The token that settles this delivery, at any time and from any thread, also without the
 * message. 0 where nothing is to be settled (replay), and for what is no message.
 *
 * - `msg`: in, borrow.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
hmq_token hmq_msg_token(const struct hmq_msg *msg);

/**
 * The value of the first header called `name`.
 *
 * - `msg`: in, borrow.
 * - `name`: in, borrow.
 * - `name_len`: in: its length, or HMQ_NTS.
 * - `value`: out, borrow: lives as long as the message.
 * - `value_len`: out: its length.
 *
 * Codes: HMQ_OK; HMQ_NO_DATA if there is none; HMQ_E_UTF8, HMQ_E_TOO_LARGE.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_msg_header(const struct hmq_msg *msg,
                          const char *name,
                          size_t name_len,
                          const void **value,
                          size_t *value_len);

/**
 * The header at `index`, in the order they were given.
 *
 * - `msg`: in, borrow.
 * - `index`: in: from 0.
 * - `name`: out, borrow: ended by a NUL; lives as long as the message.
 * - `name_len`: out, may be NULL: its length.
 * - `value`: out, borrow: lives as long as the message.
 * - `value_len`: out: its length.
 *
 * Codes: HMQ_OK; HMQ_NO_DATA behind the last.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_msg_header_at(const struct hmq_msg *msg,
                             size_t index,
                             const char **name,
                             size_t *name_len,
                             const void **value,
                             size_t *value_len);

/**
 * All of a message as one JSON object. Convenient, not fast.
 *
 * - `msg`: in, borrow.
 * - `json`: out, own: free with hmq_free.
 * - `json_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_msg_json(const struct hmq_msg *msg,
                        char **json,
                        size_t *json_len,
                        struct hmq_error **err);

/**
 * Takes one more reference, so that a message outlives its callback, its events, its
 * subscription and its hub.
 *
 * - `msg`: in, borrow: then to be freed once more.
 *
 * Codes: HMQ_OK.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_msg_retain(struct hmq_msg *msg);

/**
 * Gives one reference back; the last one frees the message. It settles nothing. Not for a
 * message borrowed in a callback.
 *
 * - `msg`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_msg_free(struct hmq_msg *msg);

/**
 * Settles one delivery.
 *
 * - `token`: in: of the delivery.
 * - `verdict`: in: HMQ_ACK, HMQ_RETRY or HMQ_REJECT.
 * - `delay_ms`: in: HMQ_RETRY: wait so long; -1: as the subscription's policy says. Else ignored.
 * - `reason`: in, borrow: HMQ_RETRY, HMQ_REJECT: why, kept in the dead letter; (NULL, 0): no reason.
 * - `reason_len`: in: its length, or HMQ_NTS; at most 8 KiB.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_STALE if its lease has ended, or if an event is to be retried that a purge or
 * retention has dropped meanwhile; HMQ_E_SETTLED if it was settled before;
 * HMQ_E_CLOSED if its subscription is closed; HMQ_E_ARG for token 0, which a replay hands out;
 * HMQ_E_UTF8, HMQ_E_TOO_LARGE.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_settle(hmq_token token,
                      hmq_verdict verdict,
                      int64_t delay_ms,
                      const char *reason,
                      size_t reason_len,
                      struct hmq_error **err);

/**
 * Settles many deliveries, each with a verdict of its own.
 *
 * - `settlements`: in, out: `count` decisions; the first one's `size` is the step. `result` of
 *   each tells how it ended.
 * - `count`: in: how many.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK if all were settled; HMQ_PARTIAL if some or all were not: see `result`; HMQ_E_ABI.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_settle_many(struct hmq_settlement *settlements,
                           size_t count,
                           struct hmq_error **err);

/**
 * Renews the lease of a delivery that takes longer than expected.
 *
 * - `token`: in: of the delivery.
 * - `extra_ms`: in: the lease then ends after this, counted from now; above 0.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_STALE, HMQ_E_SETTLED, HMQ_E_UNSUPPORTED, HMQ_E_ARG, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_extend(hmq_token token, int64_t extra_ms, struct hmq_error **err);

/**
 * Makes a broker alone, to be given to a hub by role. It connects in the hub that gets it.
 *
 * - `options`: in, borrow: JSON object: backend ("embedded"), memory_bytes_max, partitions.
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `out`: out, own: free with hmq_broker_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_UNSUPPORTED, HMQ_E_RESOURCES, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_broker_open(const char *options,
                           size_t options_len,
                           int32_t timeout_ms,
                           struct hmq_broker **out,
                           struct hmq_error **err);

/**
 * The state of a broker as JSON.
 *
 * - `broker`: in, borrow.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `json`: out, own: free with hmq_free.
 * - `json_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_broker_health(struct hmq_broker *broker,
                             int32_t timeout_ms,
                             char **json,
                             size_t *json_len,
                             struct hmq_error **err);

/**
 * Frees a broker; a hub that has it keeps it.
 *
 * - `broker`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_broker_free(struct hmq_broker *broker);

/**
 * Gives a broker to a hub, for one role. A broker belongs to one hub, perhaps in several roles.
 *
 * - `hub`: in, borrow.
 * - `role`: in: HMQ_ROLE_TASK_QUEUE, HMQ_ROLE_EVENT_STREAM or HMQ_ROLE_FALLBACK.
 * - `broker`: in, borrow: still to be freed.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_STATE after the first use of the hub, or if another hub has the broker;
 * or if the hub has a virtual clock and the broker, opened alone, keeps real time; HMQ_E_ARG,
 * HMQ_E_UNSUPPORTED, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: up to the hub's connection_timeout.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_hub_set_broker(struct hmq_hub *hub,
                              int32_t role,
                              struct hmq_broker *broker,
                              struct hmq_error **err);

/**
 * Makes a broker of the caller's own functions. It answers through its sink.
 *
 * - `ops`: in, borrow: the functions, copied.
 * - `user_data`: in, may be NULL: handed to all of them.
 * - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
 * - `out`: out, own: free with hmq_broker_free.
 * - `sink`: out, own: free with hmq_sink_free.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_ABI, HMQ_E_ARG, HMQ_E_RESOURCES.
 * Threads: any; the functions are called on any thread.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_broker_custom(const struct hmq_broker_ops *ops,
                             void *user_data,
                             hmq_drop_fn drop,
                             struct hmq_broker **out,
                             struct hmq_sink **sink,
                             struct hmq_error **err);

/**
 * Hands a message to a subscription of the caller's broker.
 *
 * - `sink`: in, borrow.
 * - `record`: in, borrow: the message, copied; its topic must be there.
 * - `sub`: in: which subscription.
 * - `their_token`: in: comes back in `settle`.
 * - `attempt`: in: 1 for the first handing-over.
 *
 * Codes: HMQ_OK; HMQ_E_FULL when the subscription holds its prefetch: again after a settle;
 * HMQ_E_NOT_FOUND when it has ended; HMQ_E_STATE, HMQ_E_CLOSED and the codes of a bad record.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed, also inside the broker's functions.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_sink_deliver(struct hmq_sink *sink,
                            const struct hmq_record *record,
                            uint64_t sub,
                            uint64_t their_token,
                            uint32_t attempt);

/**
 * Tells how a publish of the caller's broker ended.
 *
 * - `sink`: in, borrow.
 * - `ticket`: in: of the publish.
 * - `outcome`: in: HMQ_OK: confirmed; HMQ_E_OUTCOME_UNKNOWN: perhaps; HMQ_E_REFUSED: refused; any
 *   other failure: not sent.
 *
 * Codes: HMQ_OK; HMQ_E_NOT_FOUND for a ticket that is not open; HMQ_E_ARG, HMQ_E_STATE, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed, also inside the broker's functions.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_sink_complete(struct hmq_sink *sink, uint64_t ticket, hmq_status outcome);

/**
 * Tells that the connection of the caller's broker has changed. HMQ_SINK_LOST ends its subscriptions
 * with HMQ_E_BACKEND_DOWN, and its open publishes with HMQ_E_OUTCOME_UNKNOWN.
 *
 * - `sink`: in, borrow.
 * - `what`: in: HMQ_SINK_...
 * - `detail`: in, borrow: JSON object: reason, and epoch for HMQ_SINK_CONNECTED; (NULL, 0): none.
 * - `detail_len`: in: its length, or HMQ_NTS.
 *
 * Codes: HMQ_OK; HMQ_E_ARG, HMQ_E_CONFIG, HMQ_E_UTF8, HMQ_E_STATE, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed, also inside the broker's functions.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_sink_event(struct hmq_sink *sink,
                          int32_t what,
                          const char *detail,
                          size_t detail_len);

/**
 * Frees a sink; the broker goes on, but has no more to say.
 *
 * - `sink`: in, own, may be NULL.
 *
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
void hmq_sink_free(struct hmq_sink *sink);

/**
 * Makes a topic or queue, or checks that it is as asked.
 *
 * - `hub`: in, borrow.
 * - `options`: in, borrow: JSON object: name, kind, and the settings of a topic.
 * - `options_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `created`: out, may be NULL: 1 if it was made by this call, 0 if it was there.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CONFLICT if it is there with other settings; HMQ_E_CONFIG, HMQ_E_NAME,
 * HMQ_E_KIND, HMQ_E_UTF8, HMQ_E_UNSUPPORTED, HMQ_E_TIMEOUT, HMQ_E_BACKEND_DOWN, HMQ_E_CLOSED, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_declare(struct hmq_hub *hub,
                       const char *options,
                       size_t options_len,
                       int32_t timeout_ms,
                       int32_t *created,
                       struct hmq_error **err);

/**
 * Removes a topic or queue with all its messages.
 *
 * - `hub`: in, borrow.
 * - `topic`: in, borrow: JSON object: `name` (exact; required where something is removed) or
 *   `pattern`, and `kind`.
 * - `topic_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_NOT_FOUND; else as hmq_declare.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_delete(struct hmq_hub *hub,
                      const char *topic,
                      size_t topic_len,
                      int32_t timeout_ms,
                      struct hmq_error **err);

/**
 * Removes the waiting messages of a topic or queue. Deliveries of tasks that are out stay; events
 * that are out can be acknowledged, but not come back.
 *
 * - `hub`: in, borrow.
 * - `topic`: in, borrow: JSON object: `name` (exact; required where something is removed) or
 *   `pattern`, and `kind`.
 * - `topic_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `removed`: out, may be NULL: how many.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_NOT_FOUND; else as hmq_declare.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_purge(struct hmq_hub *hub,
                     const char *topic,
                     size_t topic_len,
                     int32_t timeout_ms,
                     uint64_t *removed,
                     struct hmq_error **err);

/**
 * Describes topics and queues as JSON: messages, consumers, lag ...
 *
 * - `hub`: in, borrow.
 * - `topic`: in, borrow: JSON object: name or pattern, kind; (NULL, 0): all.
 * - `topic_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `json`: out, own: free with hmq_free.
 * - `json_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; else as hmq_declare.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_describe(struct hmq_hub *hub,
                        const char *topic,
                        size_t topic_len,
                        int32_t timeout_ms,
                        char **json,
                        size_t *json_len,
                        struct hmq_error **err);

/**
 * Lists, redrives or discards dead letters by filter, or shows what it would do.
 *
 * - `hub`: in, borrow.
 * - `query`: in, borrow: JSON object: action ("list", "redrive", "discard"), topic (or a pattern),
 *   ids, reason, limit, dry_run.
 * - `query_len`: in: its length, or HMQ_NTS.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `json`: out, own: what was found or done; free with hmq_free.
 * - `json_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK, also if there is none; else as hmq_declare.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_dead_letters(struct hmq_hub *hub,
                            const char *query,
                            size_t query_len,
                            int32_t timeout_ms,
                            char **json,
                            size_t *json_len,
                            struct hmq_error **err);

/**
 * The state of a hub, its backends and subscriptions as JSON.
 *
 * - `hub`: in, borrow.
 * - `json`: out, own: free with hmq_free.
 * - `json_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK, also for a closed or disabled hub: the document says so.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_health(struct hmq_hub *hub,
                      char **json,
                      size_t *json_len,
                      struct hmq_error **err);

/**
 * Sends state changes of backends, as JSON, to `state`; replaces the one before.
 *
 * - `hub`: in, borrow.
 * - `state`: in, may be NULL: takes changes; NULL: no more.
 * - `user_data`: in, may be NULL: handed to both functions.
 * - `drop`: in, may be NULL: called once, after the last call, also if this call fails.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_CLOSED.
 * Threads: any; `state` is called on a thread of the library, one call at a time.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_on_state(struct hmq_hub *hub,
                        hmq_text_fn state,
                        void *user_data,
                        hmq_drop_fn drop,
                        struct hmq_error **err);

/**
 * Holds a backend down, for drills, or lets it go again.
 *
 * - `hub`: in, borrow.
 * - `backend`: in, borrow: "embedded", "rabbitmq", "kafka" or "custom".
 * - `backend_len`: in: its length, or HMQ_NTS.
 * - `mode`: in: HMQ_FORCE_DOWN or HMQ_FORCE_AUTO.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_NOT_FOUND, HMQ_E_ARG, HMQ_E_NAME, HMQ_E_UTF8, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_backend_force(struct hmq_hub *hub,
                             const char *backend,
                             size_t backend_len,
                             int32_t mode,
                             struct hmq_error **err);

/**
 * Lets messages that are kept for a server be forwarded to it, or holds them.
 *
 * - `hub`: in, borrow.
 * - `run`: in: 1 forwards, 0 holds.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_ARG, HMQ_E_CLOSED.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_forwarding(struct hmq_hub *hub, int32_t run, struct hmq_error **err);

/**
 * Waits until no message is kept for a server any more.
 *
 * - `hub`: in, borrow.
 * - `timeout_ms`: in: -1 for ever, 0 try.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_TIMEOUT, HMQ_E_CLOSED, HMQ_E_ARG.
 * Threads: any.
 * Blocks: up to `timeout_ms`.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_wait_forwarded(struct hmq_hub *hub, int32_t timeout_ms, struct hmq_error **err);

/**
 * The counters of a hub.
 *
 * - `hub`: in, borrow.
 * - `format`: in: HMQ_METRICS_JSON or HMQ_METRICS_PROMETHEUS.
 * - `text`: out, own: free with hmq_free.
 * - `text_len`: out, may be NULL: its length, without its NUL.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_ARG.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD
hmq_status hmq_metrics(struct hmq_hub *hub,
                       int32_t format,
                       char **text,
                       size_t *text_len,
                       struct hmq_error **err);

/**
 * Moves the clock of a hub that was opened with "clock":"virtual": for tests without sleeping.
 *
 * - `hub`: in, borrow.
 * - `by_ms`: in: 0 or more.
 * - `err`: out, own, may be NULL.
 *
 * Codes: HMQ_OK; HMQ_E_STATE with a real clock; HMQ_E_ARG.
 * Threads: any.
 * Blocks: no.
 * Callback: allowed.
 * @since 0.1.0
 */
HMQ_NODISCARD hmq_status hmq_clock_advance(struct hmq_hub *hub, int64_t by_ms, struct hmq_error **err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HELIXMQ_H */
