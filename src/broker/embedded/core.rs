//! What all parts of one embedded broker share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::disk::Journal;
use super::memory::Memory;
use super::timer::Timers;
use super::Embedded;
use crate::broker::{Context, Sink, Taken};
use crate::clock::Clock;
use crate::error::{Error, Fate, Kind};
use crate::limits::Limits;
use crate::message::{Message, Pool, Record, Stamp};

/// Clock, memory and timers of one broker.
#[derive(Debug)]
pub(super) struct Core {
    pub clock: Clock,
    pub pool: Arc<Pool>,
    pub memory: Memory,
    pub timers: Arc<Timers>,
    pub id_prefix: u64,
    pub broker: Weak<Embedded>,
    /// What leaves memory has to leave the disk as well; `None`: there is no disk.
    pub journal: Option<Arc<Journal>>,
    limits: Limits,
    ids: AtomicU64,
}

/// Whether a topic takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Open,
    Deleted,
    Closed,
}

impl Core {
    pub fn new(
        cx: &Context,
        memory_bytes_max: usize,
        broker: Weak<Embedded>,
        journal: Option<Arc<Journal>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock: cx.clock.clone(),
            pool: Pool::new(cx.limits.segment_bytes_max, cx.limits.segments_spare),
            memory: Memory::new(memory_bytes_max),
            timers: Timers::new(&cx.clock),
            id_prefix: cx.id_prefix,
            broker,
            journal,
            limits: cx.limits,
            ids: AtomicU64::new(1),
        })
    }

    /// A number for a topic or a source: names it to the timers, and orders the locks of topics.
    pub fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Numbers up to `id` are in use.
    pub fn skip_ids(&self, id: u64) {
        self.ids.fetch_max(id + 1, Ordering::Relaxed);
    }

    /// Size of the segment that follows one of `before` bytes and takes a record of `record`.
    ///
    /// Segments double, so that an idle topic stays small and a busy one seldom changes. Above
    /// half of the broker's memory they start small again: what is reserved but not written
    /// then stays small beside what is.
    pub fn segment_bytes(&self, before: usize, record: usize) -> usize {
        let crowded = self.pool.bytes() > self.memory.max() / 2;
        let wanted = if crowded { self.limits.segment_bytes_first } else { before.saturating_mul(2) };
        let wanted = wanted.clamp(self.limits.segment_bytes_first, self.limits.segment_bytes_max);
        // One that is larger than a segment gets one of its own size.
        wanted.max(record)
    }

    /// `message` in memory of its own, for one that will wait long and must not hold the segment
    /// of its neighbours. Without memory it stays where it is.
    pub fn apart(&self, message: Message) -> Message {
        let mut record = Record::again(&message, message.given_id().unwrap_or_default());
        let mut stamp = Stamp { seq: message.seq(), now_us: message.timestamp_us() };
        if let Some(expires_us) = message.expires_us() {
            record.ttl_ms = 1;
            stamp.now_us = expires_us.saturating_sub(1_000);
        }
        let apart = Message::alone(&self.pool, message.topic(), message.id_prefix(), &record, stamp);
        apart.unwrap_or(message)
    }

    /// Looks whether publishers that wait for the broker's memory can go on. No lock is held.
    #[inline]
    pub fn memory_freed(&self) {
        if self.memory.waiters.wanted() {
            self.wake_for_memory();
        }
    }

    #[cold]
    fn wake_for_memory(&self) {
        let bytes = self.memory.waiters.bytes();
        if self.memory.missing(bytes) > 0 {
            if let Some(broker) = self.broker.upgrade() {
                // A good piece at once, so that publishing into full memory does not come here each time.
                broker.evict_settled(bytes.max(self.memory.max() / 16));
            }
        }
        if self.memory.missing(bytes) == 0 {
            self.memory.waiters.wake();
        }
    }

    /// Makes room for the first of `records`, where the broker's memory refused it and there are
    /// events that nobody needs any more; answers whether there is. No lock is held.
    pub fn evict_for(&self, taken: &Taken, records: &[Record<'_>]) -> bool {
        let (Some(Kind::Full), Some(first)) = (taken.stopped.as_ref().map(Error::kind), records.first()) else {
            return false;
        };
        self.evict_bytes(crate::message::segment::record_bytes(first) + 8)
    }

    /// Makes room for `bytes`, if the memory is full and there are events that nobody needs any
    /// more; answers whether there is. No lock is held.
    pub fn evict_bytes(&self, bytes: usize) -> bool {
        let full = self.memory.missing(bytes) > 0;
        if full {
            if let Some(broker) = self.broker.upgrade() {
                // A good piece at once, so that publishing into full memory does not come here each time.
                broker.evict_settled(bytes.max(self.memory.max() / 16));
            }
        }
        full && self.memory.missing(bytes) == 0
    }

    /// Why a record of `bytes` cannot ever be taken, or `None`.
    pub fn too_large(&self, topic: &str, bytes: usize, topic_bytes_max: u64) -> Option<Error> {
        let max = (self.memory.max() as u64).min(topic_bytes_max);
        (bytes as u64 > max).then(|| {
            failure(Kind::TooLarge, format!("a message of {bytes} bytes for {topic}, which holds {max}"))
                .with_fate(Fate::Refused)
        })
    }

    pub fn memory_full(&self) -> Error {
        let what = if self.journal.is_some() { "storage" } else { "memory" };
        failure(Kind::Full, format!("the {what} of the embedded broker is full: {} bytes", self.memory.max()))
    }
}

/// Sinks to call once the locks are dropped; few, so that they take no allocation.
pub(super) type Sinks = SmallVec<[Arc<dyn Sink>; 4]>;

/// Calls the sinks of sources that were idle; with no lock held.
pub(super) fn call_ready(sinks: Sinks) {
    for sink in sinks {
        sink.ready();
    }
}

pub(super) fn failure(kind: Kind, text: impl Into<String>) -> Error {
    Error::new(kind, text).with_backend("embedded")
}

pub(super) fn closed() -> Error {
    failure(Kind::Closed, "the embedded broker is closed").with_fate(Fate::NotSent)
}

pub(super) fn no_memory() -> Error {
    failure(Kind::Resources, "the system has no memory for another segment").with_fate(Fate::NotSent)
}
