//! Room in the spool: by its own cap, by those of a topic, on the disk; and what goes when there is none.

use std::sync::atomic::Ordering;

use super::topic::{SpoolTopic, State};
use super::{After, Spool};
use crate::broker::BackendEvent;
use crate::clock::Moment;
use crate::config::{FailoverConfig, Overflow};
use crate::hub::failover::lane::Lane;
use crate::hub::failover::policy::Room;

/// What may be kept for a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    /// The option that says so, and its value.
    bytes: (&'static str, u64),
    topic_bytes: u64,
    topic_records: u64,
    drops_oldest: bool,
}

/// Why there is no room.
enum Full {
    Bytes,
    TopicBytes,
    TopicRecords,
    Disk(String),
}

impl Caps {
    pub fn new(failover: &FailoverConfig, on_disk: bool) -> Self {
        let FailoverConfig { disk_bytes_max, memory_bytes_max, topic_bytes_max, topic_messages_max, .. } = *failover;
        Self {
            bytes: if on_disk { ("disk_bytes_max", disk_bytes_max) } else { ("memory_bytes_max", memory_bytes_max) },
            topic_bytes: topic_bytes_max.unwrap_or(u64::MAX),
            topic_records: topic_messages_max.unwrap_or(u64::MAX),
            drops_oldest: failover.overflow == Overflow::DropOldest,
        }
    }
}

impl Spool {
    fn full(&self, topic: &SpoolTopic, bytes: usize) -> Option<Full> {
        let (kept, kept_bytes, bytes) = (topic.counts().0, topic.kept_bytes(), bytes as u64);
        if self.bytes.load(Ordering::Acquire) as u64 + bytes > self.caps.bytes.1 {
            return Some(Full::Bytes);
        }
        if kept_bytes.saturating_add(bytes) > self.caps.topic_bytes {
            return Some(Full::TopicBytes);
        }
        if kept >= self.caps.topic_records {
            return Some(Full::TopicRecords);
        }
        self.disk.as_ref()?.no_room().map(Full::Disk)
    }

    /// Whether a record of so many bytes may be kept.
    pub(super) fn room(&self, topic: &SpoolTopic, bytes: usize) -> Room {
        // One that is larger than the cap drives out nobody.
        let may_fit = (bytes as u64) <= self.caps.bytes.1.min(self.caps.topic_bytes);
        match self.full(topic, bytes) {
            None => Room::Free,
            Some(Full::Bytes | Full::TopicBytes | Full::TopicRecords) if self.caps.drops_oldest && may_fit => {
                Room::Evict
            }
            Some(_) => Room::Full,
        }
    }

    /// Whether it is nearly full: from four fifths of its cap on, until it is below three fifths again.
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Acquire)
    }

    /// Tells once when it begins to be nearly full.
    pub(super) fn watch_pressure(&self) {
        let (option, cap) = self.caps.bytes;
        let (bytes, was_pressed) = (self.bytes.load(Ordering::Acquire) as u64, self.is_pressed());
        let is_pressed = bytes >= if was_pressed { cap / 5 * 3 } else { cap / 5 * 4 };
        if is_pressed == was_pressed || self.pressed.swap(is_pressed, Ordering::AcqRel) == is_pressed {
            return;
        }
        if is_pressed {
            let text = format!("the spool is nearly full: {bytes} bytes of failover.{option} {cap}");
            self.sink.event(BackendEvent::Warned(text));
        }
    }

    /// Why it may not.
    pub(super) fn why_full(&self, topic: &SpoolTopic, bytes: usize) -> String {
        let option = |name: &str, cap: u64| format!("failover.{name} {cap}");
        let why = match self.full(topic, bytes) {
            Some(Full::TopicBytes) => option("topic_bytes_max", self.caps.topic_bytes),
            Some(Full::TopicRecords) => option("topic_messages_max", self.caps.topic_records),
            Some(Full::Disk(why)) => why,
            // Or there is room by now.
            Some(Full::Bytes) | None => option(self.caps.bytes.0, self.caps.bytes.1),
        };
        format!("the spool is full: {why}")
    }

    /// When a record that is kept from `now` on is too old.
    pub(super) fn oldest(&self, now: Moment) -> Moment {
        self.age_max.map_or(Moment::NEVER, |age| now.plus(age))
    }
}

impl SpoolTopic {
    /// Drops the oldest record that waits, to make room; `false`: there is none.
    pub(super) fn evict(&self, spool: &Spool, state: &mut State, after: &mut After) -> bool {
        let oldest = state.lanes.iter().filter_map(|(id, lane)| Some((lane.evictable()?, id)));
        let Some((_, id)) = oldest.min_by_key(|(seq, _)| *seq) else { return false };
        let gate = self.gate(spool);
        if self.begins_to_evict() {
            let text = format!("the oldest messages of `{}` that are kept are dropped, to make room", self.name());
            after.warnings.push(text);
        }
        self.with_lane(spool, state, id, gate, after, Lane::evict).flatten().is_some()
    }
}
