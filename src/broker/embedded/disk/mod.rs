//! Disk storage for the embedded broker.
//!
//! Promises
//! - With `sync: each`, a message whose receipt says `disk` outlives the process, and the machine's
//!   crash as far as its disk does what it is told. With `interval` and `none` receipts say `memory`.
//! - Nothing is delivered before it is written. Tasks keep their order, attempts and due times;
//!   events their offsets; groups their places; messages their ids.
//! - A full disk refuses messages, and nothing else; it needs no restart when there is space again.
//! - One hub at a time has a directory. Damage is found, counted and told, and the broker opens.
//!
//! Limits
//! - All that is on disk is in memory as well: `bytes_max` bounds both.
//! - 10,000 records, or 32 MiB, wait to be written; then publishing waits.
//! - A verdict does not wait for the disk: what was acknowledged just before a crash may come again.
//!
//! Data
//!
//! ```text
//! Durable ── ToDisk::publish ──> Journal ──> Writer (thread hmq-disk) ──> Store: Sqlite
//!   │  space is taken first       │  all that waits is one unit              │
//!   │                             │                                          └ committed:
//!   └── Embedded (memory) <───────┼── append_stored, then the outcomes <────────┘
//!         └ verdicts, expiry, retention, offsets ──> Journal
//! SpoolRows: what a hub keeps for its servers ──> Journal, and is told by the Writer
//! restore   what an earlier process left            salvage   what is left of a damaged file
//! ```
//!
//! Locks: the journal's is a leaf, taken under those of topics and sources. The writer holds none
//! while it writes, or tells outcomes.

mod crc;
mod directory;
mod durable;
mod events;
mod journal;
mod restore;
mod row;
mod salvage;
mod spool;
mod sqlite;
mod store;
mod tasks;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use durable::Durable;
pub(super) use journal::Journal;
pub(super) use row::TopicRow;
pub use spool::{SpoolRows, SpoolSink, SpooledRecord, SpooledTopic, Told};

use super::TopicSpec;
use crate::config::{SyncMode, SYNC_INTERVAL};

/// What the embedded broker on disk is opened with.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// The directory; made if it is not there.
    pub dir: PathBuf,
    /// When a message is safe from a crash of the machine.
    pub sync: SyncMode,
    /// Longest time between two syncs, for `interval`.
    pub sync_every: Duration,
    /// Bytes of all messages held, at most.
    pub bytes_max: u64,
    /// Bytes that are left free on the disk.
    pub free_space_floor: u64,
    /// Partitions of an event topic that names no number.
    pub partitions: u32,
    /// Settings of topics by pattern; the first that matches gives what a declaration leaves open.
    pub topics: Vec<(String, TopicSpec)>,
}

impl DiskConfig {
    /// A directory with everything as a hub has it unless told otherwise.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            sync: SyncMode::Each,
            sync_every: SYNC_INTERVAL,
            bytes_max: 1 << 30,
            free_space_floor: 256 << 20,
            partitions: 4,
            topics: Vec::new(),
        }
    }
}
