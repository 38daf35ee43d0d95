//! The types and numbers of the C header. Numbers are written twice, here and in the hand-written
//! block of `cbindgen.toml`; `tests/header.rs` compares the two.

use std::ffi::{c_char, c_void};

use super::broker_ops;

/// Outcome of a call: 0 success, above 0 a normal outcome, below 0 a failure.
pub type hmq_status = i32;

/// What shall become of a delivery: HMQ_ACK, HMQ_RETRY, HMQ_REJECT or HMQ_LATER.
pub type hmq_verdict = i32;

/// Names one delivery; 53 bits, exact as a double.
pub type hmq_token = u64;

/// A hub: owns backends, routes and subscriptions.
pub struct hmq_hub {
    _opaque: [u8; 0],
}

/// A broker made alone, to be given to a hub by role.
pub struct hmq_broker {
    _opaque: [u8; 0],
}

/// A prepared publisher to one topic.
pub struct hmq_pub {
    _opaque: [u8; 0],
}

/// A subscription or a replay.
pub struct hmq_sub {
    _opaque: [u8; 0],
}

/// A received message; counted.
pub struct hmq_msg {
    _opaque: [u8; 0],
}

/// A bounded queue of events with one descriptor to poll.
pub struct hmq_inbox {
    _opaque: [u8; 0],
}

/// Through which a broker written by the caller answers.
pub struct hmq_sink {
    _opaque: [u8; 0],
}

/// What went wrong, in full. Never changes; may be used by any thread.
pub struct hmq_error {
    _opaque: [u8; 0],
}

/// One header of a message. Four fields for ever, hence no size.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_header {
    /// UTF-8, 1 to 256 bytes.
    pub name: *const c_char,
    /// Its length, or HMQ_NTS.
    pub name_len: usize,
    /// Any bytes, at most 8 KiB.
    pub value: *const c_void,
    /// Its length.
    pub value_len: usize,
}

/// A message to send. Start from HMQ_RECORD_INIT: it sets `size`, and a priority of -1.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_record {
    /// sizeof(hmq_record) of the caller.
    pub size: u32,
    /// 0: as the routes say; HMQ_TASK; HMQ_EVENT.
    pub kind: i32,
    /// Where to; (NULL, 0) with a publisher, which has its own.
    pub topic: *const c_char,
    /// Its length, or HMQ_NTS.
    pub topic_len: usize,
    /// Any bytes; (NULL, 0) is an empty message.
    pub payload: *const c_void,
    /// Its length. HMQ_NTS is not taken here.
    pub payload_len: usize,
    /// Messages of one key keep their order; any bytes; NULL: no key.
    pub key: *const c_void,
    /// Its length, or HMQ_NTS.
    pub key_len: usize,
    /// At most 63 bytes; (NULL, 0): one is made.
    pub id: *const c_char,
    /// Its length, or HMQ_NTS.
    pub id_len: usize,
    /// At most 255 bytes, such as "user.created".
    pub r#type: *const c_char,
    /// Its length, or HMQ_NTS.
    pub type_len: usize,
    /// `header_count` headers.
    pub headers: *const hmq_header,
    /// At most 64.
    pub header_count: usize,
    /// Microseconds since 1970; 0: now.
    pub timestamp_us: i64,
    /// Not delivered before this has passed; 0: at once.
    pub delay_ms: i64,
    /// Not delivered after this has passed; 0: never expires.
    pub ttl_ms: i64,
    /// Tasks: 0 to 10, higher first; -1: the default (the publisher's, else 5).
    pub priority: i32,
    /// HMQ_RECORD_MAYBE_DUP, or 0.
    pub flags: u32,
    /// Rare options as JSON; (NULL, 0): none.
    pub meta: *const c_char,
    /// Its length, or HMQ_NTS.
    pub meta_len: usize,
    /// Comes back in HMQ_EV_PUBLISHED.
    pub tag: u64,
}

/// What became of a publish. Start from HMQ_RECEIPT_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_receipt {
    /// sizeof(hmq_receipt) of the caller.
    pub size: u32,
    /// How safe the message is: HMQ_LEVEL_...
    pub level: i32,
    /// Where it is: HMQ_BACKEND_...
    pub backend: i32,
    /// HMQ_RECEIPT_SPOOLED, or 0.
    pub flags: u32,
    /// The id of the message, ended by a NUL.
    pub id: [c_char; 64],
}

/// Something that came into an inbox. Start from HMQ_EVENT_INIT; in an array the first one's
/// `size` counts for all. Free what it holds with hmq_events_clear.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_event {
    /// sizeof(hmq_event) of the caller.
    pub size: u32,
    /// HMQ_EV_...
    pub kind: u32,
    /// PUBLISHED: how it ended. END: why. Else HMQ_OK.
    pub status: hmq_status,
    /// MESSAGE: 1 for the first delivery. LOG: its level.
    pub attempt: u32,
    /// MESSAGE, END: the tag of the subscription. PUBLISHED: the tag of the record.
    pub tag: u64,
    /// MESSAGE: for hmq_settle. PUBLISHED: the number that the send answered.
    pub token: hmq_token,
    /// MESSAGE: time of publishing, microseconds since 1970.
    pub timestamp_us: i64,
    /// MESSAGE: the message, owned by the event. Else NULL.
    pub msg: *mut hmq_msg,
    /// MESSAGE: the bytes, as long as the message lives.
    pub payload: *const c_void,
    /// Its length.
    pub payload_len: usize,
    /// MESSAGE: the topic, ended by a NUL, as long as the message lives.
    pub topic: *const c_char,
    /// Its length.
    pub topic_len: usize,
    /// MESSAGE: the key, as long as the message lives; NULL: it has none.
    pub key: *const c_void,
    /// Its length.
    pub key_len: usize,
    /// STATE, LOG, FATE: the document. PUBLISHED, END: the error, if it failed. Ended by a NUL.
    pub json: *const c_char,
    /// Its length.
    pub json_len: usize,
    /// MESSAGE: HMQ_MSG_...; PUBLISHED: HMQ_RECEIPT_SPOOLED, or 0.
    pub flags: u32,
    /// MESSAGE: the partition, else 0.
    pub partition: u32,
    /// MESSAGE: the offset in the partition, or -1. Else 0.
    pub offset: i64,
    /// PUBLISHED: HMQ_LEVEL_...
    pub level: i32,
    /// PUBLISHED: HMQ_BACKEND_...
    pub backend: i32,
}

/// One decision of hmq_settle_many. Start from HMQ_SETTLEMENT_INIT; in an array the first one's
/// `size` counts for all.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hmq_settlement {
    /// sizeof(hmq_settlement) of the caller.
    pub size: u32,
    /// HMQ_ACK, HMQ_RETRY or HMQ_REJECT.
    pub verdict: hmq_verdict,
    /// Which delivery.
    pub token: hmq_token,
    /// HMQ_RETRY: wait so long; -1: as the subscription's policy says. Else ignored.
    pub delay_ms: i64,
    /// HMQ_RETRY, HMQ_REJECT: why, for people and the dead letter; (NULL, 0): no reason.
    pub reason: *const c_char,
    /// Its length, or HMQ_NTS.
    pub reason_len: usize,
    /// Out: how settling it ended.
    pub result: hmq_status,
    /// 0.
    pub reserved: u32,
}

/// Receives one message; answers its verdict. `msg` is borrowed: hmq_msg_retain keeps it.
pub type hmq_msg_fn = Option<unsafe extern "C" fn(msg: *mut hmq_msg, user_data: *mut c_void) -> hmq_verdict>;

/// Told once how a publish ended. `receipt` is NULL if it failed, and gone after the call.
pub type hmq_done_fn =
    Option<unsafe extern "C" fn(status: hmq_status, receipt: *const hmq_receipt, user_data: *mut c_void)>;

/// Receives a JSON text, which is gone after the call.
pub type hmq_text_fn =
    Option<unsafe extern "C" fn(level: i32, json: *const c_char, len: usize, user_data: *mut c_void)>;

/// Called once per step from empty to not empty; must not block.
pub type hmq_ready_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Called first or last thing on a thread of the library. `name` is gone after the call.
pub type hmq_thread_fn = Option<unsafe extern "C" fn(name: *const c_char, user_data: *mut c_void)>;

/// Writes an OAuth token of at most `cap` bytes, its length, and when it expires (ms since 1970).
pub type hmq_token_fn = Option<
    unsafe extern "C" fn(
        buf: *mut c_char,
        cap: usize,
        len: *mut usize,
        expires_at_ms: *mut i64,
        user_data: *mut c_void,
    ) -> hmq_status,
>;

/// Called once, after the last call with the same `user_data`, also when registering failed.
pub type hmq_drop_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// Statuses that are not failures; failures are in [`crate::error::Kind`].
pub const OK: hmq_status = 0;
/// Nothing was there in the time given.
pub const NO_DATA: hmq_status = 1;
/// The orderly end was met.
pub const CLOSED: hmq_status = 2;
/// Some were taken, not all.
pub const PARTIAL: hmq_status = 3;

/// Verdicts: sparse, so that garbage is told from a decision.
pub const ACK: hmq_verdict = 0x2B5A_C401;
/// Deliver again.
pub const RETRY: hmq_verdict = 0x2B5A_C502;
/// Dead-letter.
pub const REJECT: hmq_verdict = 0x2B5A_C603;
/// Settled later by its token.
pub const LATER: hmq_verdict = 0x2B5A_C704;

/// Kinds of topic.
pub const TASK: i32 = 1;
/// See [`TASK`].
pub const EVENT: i32 = 2;

/// Kinds of event in an inbox.
pub const EV_MESSAGE: u32 = 1;
/// See [`EV_MESSAGE`].
pub const EV_PUBLISHED: u32 = 2;
/// See [`EV_MESSAGE`].
pub const EV_STATE: u32 = 3;
/// See [`EV_MESSAGE`].
pub const EV_LOG: u32 = 4;
/// See [`EV_MESSAGE`].
pub const EV_FATE: u32 = 5;
/// See [`EV_MESSAGE`].
pub const EV_END: u32 = 6;

/// Levels of a receipt.
pub const LEVEL_NONE: i32 = 0;
/// See [`LEVEL_NONE`].
pub const LEVEL_MEMORY: i32 = 1;
/// See [`LEVEL_NONE`].
pub const LEVEL_DISK: i32 = 2;
/// See [`LEVEL_NONE`].
pub const LEVEL_BROKER: i32 = 3;

/// Backends.
pub const BACKEND_EMBEDDED: i32 = 1;
/// See [`BACKEND_EMBEDDED`].
pub const BACKEND_RABBITMQ: i32 = 2;
/// See [`BACKEND_EMBEDDED`].
pub const BACKEND_KAFKA: i32 = 3;
/// See [`BACKEND_EMBEDDED`].
pub const BACKEND_CUSTOM: i32 = 4;

/// Roles of a broker in a hub.
pub const ROLE_TASK_QUEUE: i32 = 1;
/// See [`ROLE_TASK_QUEUE`].
pub const ROLE_EVENT_STREAM: i32 = 2;
/// See [`ROLE_TASK_QUEUE`].
pub const ROLE_FALLBACK: i32 = 3;

/// Log levels; a lower one is more urgent.
pub const LOG_ERROR: i32 = 1;
/// See [`LOG_ERROR`].
pub const LOG_WARN: i32 = 2;
/// See [`LOG_ERROR`].
pub const LOG_INFO: i32 = 3;
/// See [`LOG_ERROR`].
pub const LOG_DEBUG: i32 = 4;

/// Flag of a record: it may be a second copy.
pub const RECORD_MAYBE_DUP: u32 = 1;
/// Flag of a receipt: accepted into the spool, not yet by the backend of its route.
pub const RECEIPT_SPOOLED: u32 = 1;
/// Flag of a message: it was handed over before.
pub const MSG_REDELIVERED: u32 = 1;
/// Flag of a message: a copy shown while its backend is away.
pub const MSG_PROVISIONAL: u32 = 2;
/// Flag of a message: it may be a second copy.
pub const MSG_MAYBE_DUP: u32 = 4;

/// Formats of `hmq_metrics`.
pub const METRICS_JSON: i32 = 1;
/// See [`METRICS_JSON`].
pub const METRICS_PROMETHEUS: i32 = 2;

/// Modes of `hmq_backend_force`.
pub const FORCE_AUTO: i32 = 0;
/// See [`FORCE_AUTO`].
pub const FORCE_DOWN: i32 = 1;

/// What a custom broker tells by `hmq_sink_event`.
pub const SINK_CONNECTED: i32 = 1;
/// See [`SINK_CONNECTED`].
pub const SINK_LOST: i32 = 2;
/// See [`SINK_CONNECTED`].
pub const SINK_BLOCKED: i32 = 3;
/// See [`SINK_CONNECTED`].
pub const SINK_UNBLOCKED: i32 = 4;
/// See [`SINK_CONNECTED`].
pub const SINK_DENIED: i32 = 5;

/// Length of a text that ends at its NUL.
pub const NTS: usize = usize::MAX;

/// Every constant of the header's hand-written block that is not a status of [`crate::error::Kind`].
pub const CONSTANTS: &[(&str, i64)] = &[
    ("HMQ_OK", OK as i64),
    ("HMQ_NO_DATA", NO_DATA as i64),
    ("HMQ_CLOSED", CLOSED as i64),
    ("HMQ_PARTIAL", PARTIAL as i64),
    ("HMQ_STATUS_RETRIABLE", crate::error::RETRIABLE as i64),
    ("HMQ_STATUS_FATAL", crate::error::FATAL as i64),
    ("HMQ_STATUS_MISUSE", crate::error::MISUSE as i64),
    ("HMQ_STATUS_UNKNOWN_OUTCOME", crate::error::UNKNOWN_OUTCOME as i64),
    ("HMQ_ACK", ACK as i64),
    ("HMQ_RETRY", RETRY as i64),
    ("HMQ_REJECT", REJECT as i64),
    ("HMQ_LATER", LATER as i64),
    ("HMQ_TASK", TASK as i64),
    ("HMQ_EVENT", EVENT as i64),
    ("HMQ_EV_MESSAGE", EV_MESSAGE as i64),
    ("HMQ_EV_PUBLISHED", EV_PUBLISHED as i64),
    ("HMQ_EV_STATE", EV_STATE as i64),
    ("HMQ_EV_LOG", EV_LOG as i64),
    ("HMQ_EV_FATE", EV_FATE as i64),
    ("HMQ_EV_END", EV_END as i64),
    ("HMQ_LEVEL_NONE", LEVEL_NONE as i64),
    ("HMQ_LEVEL_MEMORY", LEVEL_MEMORY as i64),
    ("HMQ_LEVEL_DISK", LEVEL_DISK as i64),
    ("HMQ_LEVEL_BROKER", LEVEL_BROKER as i64),
    ("HMQ_BACKEND_EMBEDDED", BACKEND_EMBEDDED as i64),
    ("HMQ_BACKEND_RABBITMQ", BACKEND_RABBITMQ as i64),
    ("HMQ_BACKEND_KAFKA", BACKEND_KAFKA as i64),
    ("HMQ_BACKEND_CUSTOM", BACKEND_CUSTOM as i64),
    ("HMQ_ROLE_TASK_QUEUE", ROLE_TASK_QUEUE as i64),
    ("HMQ_ROLE_EVENT_STREAM", ROLE_EVENT_STREAM as i64),
    ("HMQ_ROLE_FALLBACK", ROLE_FALLBACK as i64),
    ("HMQ_LOG_ERROR", LOG_ERROR as i64),
    ("HMQ_LOG_WARN", LOG_WARN as i64),
    ("HMQ_LOG_INFO", LOG_INFO as i64),
    ("HMQ_LOG_DEBUG", LOG_DEBUG as i64),
    ("HMQ_RECORD_MAYBE_DUP", RECORD_MAYBE_DUP as i64),
    ("HMQ_RECEIPT_SPOOLED", RECEIPT_SPOOLED as i64),
    ("HMQ_MSG_REDELIVERED", MSG_REDELIVERED as i64),
    ("HMQ_MSG_PROVISIONAL", MSG_PROVISIONAL as i64),
    ("HMQ_MSG_MAYBE_DUP", MSG_MAYBE_DUP as i64),
    ("HMQ_METRICS_JSON", METRICS_JSON as i64),
    ("HMQ_METRICS_PROMETHEUS", METRICS_PROMETHEUS as i64),
    ("HMQ_FORCE_AUTO", FORCE_AUTO as i64),
    ("HMQ_FORCE_DOWN", FORCE_DOWN as i64),
    ("HMQ_SINK_CONNECTED", SINK_CONNECTED as i64),
    ("HMQ_SINK_LOST", SINK_LOST as i64),
    ("HMQ_SINK_BLOCKED", SINK_BLOCKED as i64),
    ("HMQ_SINK_UNBLOCKED", SINK_UNBLOCKED as i64),
    ("HMQ_SINK_DENIED", SINK_DENIED as i64),
    ("HMQ_CAN_TASKS", broker_ops::CAN_TASKS as i64),
    ("HMQ_CAN_EVENTS", broker_ops::CAN_EVENTS as i64),
    ("HMQ_CAN_RETRY_DELAY", broker_ops::CAN_RETRY_DELAY as i64),
    ("HMQ_CAN_PRIORITY", broker_ops::CAN_PRIORITY as i64),
    ("HMQ_CAN_TTL", broker_ops::CAN_TTL as i64),
    ("HMQ_CAN_DELAY", broker_ops::CAN_DELAY as i64),
    ("HMQ_CAN_HEADERS", broker_ops::CAN_HEADERS as i64),
    ("HMQ_CAN_WILDCARD_TASKS", broker_ops::CAN_WILDCARD_TASKS as i64),
    ("HMQ_CAN_WILDCARD_EVENTS", broker_ops::CAN_WILDCARD_EVENTS as i64),
];

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// A struct that crosses grows only at its end: these numbers never change on 64-bit machines.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn sizes_and_offsets_are_pinned() {
        assert_eq!(size_of::<hmq_header>(), 32);
        assert_eq!((size_of::<hmq_record>(), offset_of!(hmq_record, headers)), (160, 88));
        assert_eq!((offset_of!(hmq_record, priority), offset_of!(hmq_record, tag)), (128, 152));
        assert_eq!((size_of::<hmq_receipt>(), offset_of!(hmq_receipt, id)), (80, 16));
        assert_eq!((size_of::<hmq_event>(), offset_of!(hmq_event, msg)), (136, 40));
        assert_eq!((offset_of!(hmq_event, flags), offset_of!(hmq_event, backend)), (112, 132));
        assert_eq!((size_of::<hmq_settlement>(), offset_of!(hmq_settlement, result)), (48, 40));
    }
}
