//! The section `failover`: what happens while a server is away.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::forms::{words, As, Maybe, Ms, Num, Word};
use super::{DAY_MS, DECADE_MS};

const MIB: u64 = 1024 * 1024;
const PIB: u64 = 1024 * 1024 * 1024 * MIB;

/// Longest time between two syncs, unless set.
pub(crate) const SYNC_INTERVAL: Duration = Duration::from_millis(100);

words! {
    /// When a message on disk is safe from a crash of the machine.
    SyncMode {
        /// Before its publish returns; publishes that wait together share one sync.
        Each = "each",
        /// Within the sync interval.
        Interval = "interval",
        /// When the system likes.
        None = "none",
    }
}

words! {
    /// What a full spool does.
    Overflow {
        /// Publishes wait, then fail: the message stays with the program.
        Reject = "reject",
        /// The oldest message of the topic goes, counted.
        DropOldest = "drop_oldest",
    }
}

/// What happens while a server is away.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FailoverConfig {
    /// Directory of the embedded broker's messages, and of those kept for servers; none: both are in memory.
    pub dir: Option<PathBuf>,
    /// When a message on disk is safe; `each` unless set.
    #[serde(with = "Maybe::<Word<SyncMode>>")]
    pub sync: Option<SyncMode>,
    /// Longest time between two syncs, for `interval`; 100 ms unless set.
    #[serde(rename = "sync_interval_ms", with = "Maybe::<Ms<1, 60_000>>")]
    pub sync_every: Option<Duration>,
    /// How long a call waits for a server whose confirms are late, before its message is kept.
    #[serde(rename = "suspect_wait_ms", with = "As::<Ms<0, 60_000>>")]
    pub suspect_wait: Duration,
    /// After this long without it, a server counts as down.
    #[serde(rename = "down_after_ms", with = "As::<Ms<1, 600_000>>")]
    pub down_after: Duration,
    /// After so many failed connects in a row, a server counts as down.
    #[serde(with = "As::<Num<u32, 1, 1000>>")]
    pub down_after_attempts: u32,
    /// How long a call waits for a server that asks publishers to stop, before its message is kept.
    #[serde(rename = "blocked_wait_ms", with = "As::<Ms<0, 600_000>>")]
    pub blocked_wait: Duration,
    /// How long a server may take to confirm a message.
    #[serde(rename = "confirm_timeout_ms", with = "As::<Ms<1, 600_000>>")]
    pub confirm_timeout: Duration,
    /// First wait before connecting again.
    #[serde(rename = "reconnect_min_ms", with = "As::<Ms<1, 600_000>>")]
    pub reconnect_min: Duration,
    /// Longest wait before connecting again.
    #[serde(rename = "reconnect_max_ms", with = "As::<Ms<1, 600_000>>")]
    pub reconnect_max: Duration,
    /// How long a server that is back has to stay.
    #[serde(rename = "stable_for_ms", with = "As::<Ms<0, 600_000>>")]
    pub stable_for: Duration,
    /// Disk that the messages of the embedded broker, and those kept for each server, may take where there is a
    /// directory; they are in memory as well.
    #[serde(with = "As::<Num<u64, MIB, PIB>>")]
    pub disk_bytes_max: u64,
    /// Memory that messages kept for one server may take, where there is no directory.
    #[serde(with = "As::<Num<u64, 65_536, PIB>>")]
    pub memory_bytes_max: u64,
    /// Bytes that are kept of one topic for its server.
    #[serde(with = "Maybe::<Num<u64, 1, PIB>>")]
    pub topic_bytes_max: Option<u64>,
    /// Messages that are kept of one topic for its server.
    #[serde(with = "Maybe::<Num<u64, 1, 1_000_000_000_000>>")]
    pub topic_messages_max: Option<u64>,
    /// How long a message is kept for its server.
    #[serde(rename = "age_max_ms", with = "Maybe::<Ms<1, DECADE_MS>>")]
    pub age_max: Option<Duration>,
    /// What a full spool does.
    #[serde(with = "As::<Word<Overflow>>")]
    pub overflow: Overflow,
    /// Free space that is left on the disk of the directory; 0: none.
    #[serde(rename = "free_space_floor_bytes", with = "As::<Num<u64, 0, PIB>>")]
    pub free_space_floor: u64,
    /// How long ids of handled messages are remembered.
    #[serde(rename = "dedup_window_ms", with = "As::<Ms<0, DAY_MS>>")]
    pub dedup_window: Duration,
    /// How many of them, at most.
    #[serde(with = "As::<Num<usize, 0, 100_000_000>>")]
    pub dedup_ids_max: usize,
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self {
            dir: None,
            sync: None,
            sync_every: None,
            suspect_wait: Duration::from_millis(250),
            down_after: Duration::from_secs(3),
            down_after_attempts: 3,
            blocked_wait: Duration::from_secs(2),
            confirm_timeout: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(5),
            stable_for: Duration::from_secs(10),
            disk_bytes_max: 1024 * MIB,
            memory_bytes_max: 64 * MIB,
            topic_bytes_max: None,
            topic_messages_max: None,
            age_max: None,
            overflow: Overflow::Reject,
            free_space_floor: 256 * MIB,
            dedup_window: Duration::from_secs(600),
            dedup_ids_max: 100_000,
        }
    }
}
