//! What a task queue guards with its lock: the messages that wait, in order, and its members.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::core::Life;
use super::lane::Lane;
use super::task_source::TaskSource;
use crate::clock::Moment;
use crate::limits::PRIORITY_MAX;
use crate::message::Message;

/// Everything that decides which message is next, and who is told of it.
#[derive(Debug)]
pub(super) struct State {
    pub life: Life,
    pub levels: Vec<Level>,
    /// Bit `n`: level `n` has messages.
    pub filled: u16,
    pub ready: usize,
    pub delayed: BTreeMap<(Moment, u64), Entry>,
    /// All that was ever taken; what is held is this less `freed`.
    pub taken_count: u64,
    pub taken_bytes: u64,
    pub freed_count: u64,
    pub freed_bytes: u64,
    /// Of what was taken: on its way to the disk, and not here yet.
    pub reserved_count: u64,
    pub reserved_bytes: u64,
    pub members: Vec<Member>,
    /// Members whose last fetch found nothing, in the order they will be told.
    pub armed: VecDeque<u64>,
    pub expired: u64,
    pub dropped: u64,
    /// Parts entries with the same number or due time, in the order they came.
    pub nth: u64,
}

/// The messages of one priority.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub fresh: Lane,
    pub back: BTreeMap<(u64, u64), Entry>,
}

/// A message off the fast path.
#[derive(Debug)]
pub(super) struct Entry {
    pub message: Message,
    /// Attempts that ended in this queue.
    pub tries: u32,
    /// It was handed over before.
    pub handed: bool,
}

/// A source, as its queue knows it.
#[derive(Debug)]
pub(super) struct Member {
    pub id: u64,
    pub source: Arc<TaskSource>,
    pub slot: u32,
    pub listed: bool,
}

impl State {
    /// No messages and no members.
    pub fn new() -> Self {
        let levels = (0..=PRIORITY_MAX).map(|_| Level::default()).collect();
        Self {
            life: Life::Open,
            levels,
            filled: 0,
            ready: 0,
            delayed: BTreeMap::new(),
            taken_count: 0,
            taken_bytes: 0,
            freed_count: 0,
            freed_bytes: 0,
            reserved_count: 0,
            reserved_bytes: 0,
            members: Vec::new(),
            armed: VecDeque::new(),
            expired: 0,
            dropped: 0,
            nth: 0,
        }
    }

    /// The highest level with messages.
    #[inline]
    pub fn top(&self) -> Option<usize> {
        15_usize.checked_sub(self.filled.leading_zeros() as usize)
    }

    /// Takes the first message of a level.
    pub fn pop(&mut self, index: usize) -> Option<Entry> {
        let level = self.levels.get_mut(index)?;
        let entry = match level.back.pop_first() {
            Some((_, entry)) => entry,
            None => Entry { message: level.fresh.pop()?, tries: 0, handed: false },
        };
        self.ready -= 1;
        self.refill(index);
        Some(entry)
    }

    /// Notes that a level may have run out.
    #[inline]
    pub fn refill(&mut self, index: usize) {
        if self.levels.get(index).is_some_and(|level| level.back.is_empty() && level.fresh.len() == 0) {
            self.filled &= !(1 << index);
        }
    }

    /// Puts a message among those that came back.
    pub fn push_back(&mut self, entry: Entry) {
        let priority = entry.message.priority().min(PRIORITY_MAX) as usize;
        self.nth += 1;
        let key = (entry.message.seq(), self.nth);
        if let Some(level) = self.levels.get_mut(priority) {
            level.back.insert(key, entry);
            self.filled |= 1 << priority;
            self.ready += 1;
        }
    }

    /// Puts a message aside until `at`.
    pub fn push_delayed(&mut self, at: Moment, entry: Entry) {
        self.nth += 1;
        self.delayed.insert((at, self.nth), entry);
    }
}
