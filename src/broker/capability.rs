//! What a backend can do: one flat, copyable struct, stated by each backend and checked by
//! [`Checked`](super::checked::Checked) before a call reaches it.

use serde::Serialize;

/// How a backend comes by a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    /// The broker itself does it.
    Native,
    /// The hub does it for the broker.
    Emulated,
    /// Not to be had; asking for it is `Unsupported`.
    None,
}

impl Support {
    /// Whether asking for it is allowed.
    pub const fn is_there(self) -> bool {
        !matches!(self, Support::None)
    }
}

/// Features and limits of a backend. May sharpen after the first connect, never within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Tasks: competing consumers and settlement.
    pub tasks: Support,
    /// Events: a log with consumer groups.
    pub events: Support,
    /// Retry after a delay.
    pub retry_delay: Support,
    /// Priorities among waiting tasks.
    pub priority: Support,
    /// Messages that expire.
    pub ttl: Support,
    /// Tasks that become due later.
    pub delay: Support,
    /// Order among events of one key at the consumer.
    pub ordered_key: Support,
    /// Start or replay from a time.
    pub replay_time: Support,
    /// Start or seek to an offset.
    pub replay_offset: Support,
    /// Names and values beside the payload.
    pub headers: Support,
    /// One subscription over many task queues by pattern.
    pub wildcard_tasks: Support,
    /// One subscription over many event topics by pattern.
    pub wildcard_events: Support,
    /// A lease can be renewed.
    pub extend: Support,
    /// Largest payload in bytes.
    pub payload_bytes_max: usize,
    /// Longest topic name in bytes.
    pub name_bytes_max: usize,
    /// Longest delay in milliseconds.
    pub delay_ms_max: i64,
}
