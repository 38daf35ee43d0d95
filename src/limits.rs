//! Every limit of the crate, each with its reason.
//!
//! [`Limits`] is handed down as a value, so that tests run with tiny ones and meet "full" and
//! "wrap" in every run.

/// Longest name that may be declared: Kafka allows 249 and AMQP 255 bytes; 200 leaves room for
/// the suffixes that retry and dead-letter topics add.
pub const NAME_BYTES_MAX: usize = 200;
/// Longest name of a thing that exists already (AMQP short string).
pub const FOREIGN_NAME_BYTES_MAX: usize = 255;
/// Longest message id: fits the 64-byte field of the receipt with its NUL.
pub const ID_BYTES_MAX: usize = 63;
/// Longest message type.
pub const TYPE_BYTES_MAX: usize = 255;
/// Longest key: an AMQP short string and a Kafka key both hold it.
pub const KEY_BYTES_MAX: usize = 4096;
/// Headers of one message.
pub const HEADERS_MAX: usize = 64;
/// Longest header name.
pub const HEADER_NAME_BYTES_MAX: usize = 256;
/// Longest header value.
pub const HEADER_VALUE_BYTES_MAX: usize = 8 * 1024;
/// Longest JSON document taken by any call.
pub const JSON_BYTES_MAX: usize = 1024 * 1024;
/// Deepest nesting of a JSON document; serde_json itself stops at 128.
pub const JSON_DEPTH_MAX: usize = 32;
/// Priorities are `0..=PRIORITY_MAX`, the range of the original package.
pub const PRIORITY_MAX: u8 = 10;
/// Longest delay and time to live, in milliseconds: ten years; longer is a mistake of units.
pub const SPAN_MS_MAX: i64 = 10 * 366 * 24 * 3600 * 1000;
/// Priority of a task that names none.
pub const PRIORITY_DEFAULT: u8 = 5;
/// Unsettled deliveries of one subscription: what the slot field of a token can number.
pub const PREFETCH_MAX: usize = 1 << 15;
/// Live subscriptions of the process: what the subscription field of a token can number.
pub const SUBSCRIPTIONS_MAX: usize = 1 << 19;
/// Dispatcher threads of one hub: callbacks are for tens of subscriptions, an inbox for thousands.
pub const DISPATCHERS_MAX: usize = 256;
/// Concurrency of one callback subscription.
pub const CONCURRENCY_MAX: usize = 64;
/// Causes kept in one error.
pub const CAUSES_MAX: usize = 8;
/// Topics of one embedded broker; each holds at least one small segment.
pub const TOPICS_MAX: usize = 100_000;
/// Partitions of one embedded event topic.
pub const PARTITIONS_MAX: u32 = 1024;
/// State changes kept for `hmq_health`.
pub const STATE_CHANGES_KEPT: usize = 100;
/// Warnings kept for `hmq_health` beside those of the configuration.
pub const WARNINGS_KEPT: usize = 20;

/// How long a consumer looks for the next message before it sleeps: less than a wake-up costs both
/// sides (some 20 microseconds), and seldom more than the pause between messages of a busy topic.
pub const SPIN: std::time::Duration = std::time::Duration::from_micros(10);

/// Sizes that a test may shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// First segment of a lane, in bytes; each next one doubles, so that an idle topic stays small.
    pub segment_bytes_first: usize,
    /// Largest segment of a lane: big enough that a segment switch is rare, small enough that one
    /// kept message does not hold much.
    pub segment_bytes_max: usize,
    /// Free segments kept for reuse by one broker.
    pub segments_spare: usize,
    /// Deliveries taken from a broker at once, when its consumer keeps up.
    pub fetch_batch: usize,
}

impl Limits {
    /// What users run with.
    pub const fn production() -> Self {
        Self { segment_bytes_first: 4 * 1024, segment_bytes_max: 256 * 1024, segments_spare: 16, fetch_batch: 64 }
    }

    /// For tests: segments of a few records.
    pub const fn tiny() -> Self {
        Self { segment_bytes_first: 256, segment_bytes_max: 512, segments_spare: 2, fetch_batch: 3 }
    }
}
