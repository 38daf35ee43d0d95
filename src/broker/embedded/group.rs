//! A consumer group of one event topic: who reads which partition, and how far it has come.
//!
//! ```text
//! Tracker  committed ──────────── cursor ──────────── end of the log
//!              │  done: one flag per event handed over │  not handed over yet
//!              └─ all before are settled
//!          again: events between the two that wait to be handed over (again)
//!          busy:  keys that are out, where their order is asked for
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::lane::Cursor;
use super::partition::Partition;
use crate::broker::{Ordered, Start};
use crate::clock::Moment;
use crate::message::Message;

/// Events of one key set aside while an earlier one is out: more of them stop the partition, so
/// that one slow key cannot set aside a whole log.
pub(super) const HELD_MAX: usize = 1024;

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    /// `None`: private to one source.
    pub name: Option<String>,
    /// Whether it settles: a reader that only looks keeps nothing from being evicted.
    pub settles: bool,
    /// One for each partition.
    pub trackers: Vec<Tracker>,
    members: Vec<u64>,
}

/// The progress of a group in one partition.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    /// The one source that is handed events of it.
    pub owner: Option<u64>,
    /// Rises when the group is moved, so that what was out before has no effect after.
    pub epoch: u32,
    pub committed: u64,
    pub cursor: Cursor,
    pub again: BTreeMap<u64, Again>,
    done: VecDeque<bool>,
    /// Key to the offset that has it.
    busy: HashMap<u64, u64>,
}

/// An event to be handed over again, or for the first time after its key was busy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    pub tries: u32,
    pub handed: bool,
    pub due: Moment,
    pub key: Option<u64>,
}

/// The end of one delivery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    pub slot: u32,
    pub partition: u32,
    pub epoch: u32,
    pub offset: u64,
    pub key: Option<u64>,
    /// `None`: done for good.
    pub again: Option<Again>,
    /// Whether its key stays taken while it waits.
    pub holds: bool,
}

impl Group {
    /// A group that begins at `start` in each of `partitions`.
    pub fn new(name: Option<String>, settles: bool, partitions: &[Partition], start: Start) -> Self {
        let trackers = partitions.iter().map(|partition| {
            let mut tracker = Tracker::default();
            tracker.go_to(partition, start);
            tracker
        });
        Self { name, settles, trackers: trackers.collect(), members: Vec::new() }
    }

    /// Adds a member, which takes its share of partitions from the others.
    pub fn join(&mut self, id: u64) {
        self.members.push(id);
        self.balance();
    }

    /// Removes a member; its partitions go to the others.
    pub fn leave(&mut self, id: u64) {
        self.members.retain(|member| *member != id);
        for tracker in &mut self.trackers {
            if tracker.owner == Some(id) {
                tracker.owner = None;
            }
        }
        self.balance();
    }

    /// Gives every partition an owner and evens them out, moving as few as possible.
    fn balance(&mut self) {
        let count = |trackers: &[Tracker], id: u64| trackers.iter().filter(|tracker| tracker.owner == Some(id)).count();
        loop {
            let loads = || self.members.iter().map(|id| (count(&self.trackers, *id), *id));
            let (Some((least, poor)), Some((most, rich))) = (loads().min(), loads().max()) else { return };
            let moved = match self.trackers.iter_mut().find(|tracker| tracker.owner.is_none()) {
                Some(free) => Some(free),
                None if most > least + 1 => self.trackers.iter_mut().rev().find(|tracker| tracker.owner == Some(rich)),
                None => None,
            };
            match moved {
                Some(tracker) => tracker.owner = Some(poor),
                None => return,
            }
        }
    }
}

impl Tracker {
    /// Moves to `start`, forgetting what is out.
    pub fn go_to(&mut self, partition: &Partition, start: Start) {
        let offset = match start {
            Start::Earliest => partition.first(),
            Start::Latest => partition.next(),
            Start::Offset(offset) => u64::try_from(offset).unwrap_or(0).clamp(partition.first(), partition.next()),
            Start::Time(us) => partition.chain.at_time(partition.front(), us),
        };
        *self = Self {
            owner: self.owner,
            epoch: self.epoch.wrapping_add(1),
            committed: offset,
            cursor: partition.chain.at(offset),
            ..Self::default()
        };
    }

    /// Forgets events that retention has dropped.
    #[inline]
    pub fn keep_up(&mut self, partition: &Partition) {
        if self.committed < partition.first() {
            self.skip_dropped(partition);
        }
    }

    #[cold]
    fn skip_dropped(&mut self, partition: &Partition) {
        let first = partition.first();
        self.again = self.again.split_off(&first);
        self.busy.retain(|_, holder| *holder >= first);
        let gone = (first - self.committed).min(self.done.len() as u64) as usize;
        self.done.drain(..gone);
        self.committed = first;
        if self.cursor.offset < first {
            self.cursor = partition.front();
        }
        self.commit();
    }

    /// Notes that the next `count` events were handed over; the cursor is behind them already.
    #[inline]
    pub fn hand_over(&mut self, count: usize, settles: bool) {
        if settles {
            self.done.extend(std::iter::repeat_n(false, count));
        } else {
            self.committed = self.cursor.offset;
        }
    }

    /// Notes that `offset` is settled for good.
    #[inline]
    pub fn settle(&mut self, offset: u64) {
        let Some(index) = offset.checked_sub(self.committed) else { return };
        if let Some(done) = self.done.get_mut(index as usize) {
            *done = true;
        }
        if index == 0 {
            self.commit();
        }
    }

    /// Ends a delivery; answers when it is due again.
    pub fn end(&mut self, settled: &Settled) -> Option<Moment> {
        if settled.epoch != self.epoch || settled.offset < self.committed {
            return None;
        }
        if let Some(key) = settled.key.filter(|_| !settled.holds) {
            self.release(key, settled.offset);
        }
        match settled.again {
            None => self.settle(settled.offset),
            Some(again) => drop(self.again.insert(settled.offset, again)),
        }
        settled.again.map(|again| again.due)
    }

    /// Whether an event at `offset` with `key` may go out now; takes the key if so.
    pub fn claim(&mut self, key: Option<u64>, offset: u64) -> bool {
        match key {
            None => true,
            Some(key) => *self.busy.entry(key).or_insert(offset) == offset,
        }
    }

    /// The first event that is to be handed over again and may be.
    pub fn next_again(&self, now: Moment) -> Option<(u64, Again)> {
        let mut passed = Vec::new();
        for (&offset, again) in self.again.iter().filter(|(_, again)| again.due <= now) {
            let Some(key) = again.key else { return Some((offset, *again)) };
            let may_go = match self.busy.get(&key) {
                Some(holder) => *holder == offset,
                // Of one key the first goes first.
                None => !passed.contains(&key),
            };
            if may_go {
                return Some((offset, *again));
            }
            passed.push(key);
        }
        None
    }

    /// Events handed over and not settled.
    pub fn out(&self) -> usize {
        let open = self.done.iter().filter(|done| !**done).count();
        open.saturating_sub(self.again.len())
    }

    /// Events not settled, up to `next`.
    pub fn lag(&self, partition: &Partition) -> u64 {
        let settled = self.done.iter().filter(|done| **done).count() as u64;
        (partition.next() - self.committed.max(partition.first())).saturating_sub(settled)
    }

    fn release(&mut self, key: u64, offset: u64) {
        if self.busy.get(&key) == Some(&offset) {
            self.busy.remove(&key);
        }
    }

    #[inline]
    fn commit(&mut self) {
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.committed += 1;
        }
    }
}

/// What `message` must keep its order with. Events without a key are one lane only where the
/// strictest order is asked for; else they would never be handled side by side.
pub(super) fn order_key(message: &Message, ordered: Ordered) -> Option<u64> {
    let key = match (ordered, message.key()) {
        (Ordered::No, _) | (Ordered::Key, None) => return None,
        (Ordered::Key | Ordered::Strict, key) => key,
    };
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    Some(hasher.finish())
}
