//! A task queue: one lane per priority, those that came back, those that wait for their time.
//!
//! ```text
//! level 10 … 0   back:  messages that were returned, retried, or became due, by number
//!                fresh: a lane of messages never handed over
//! delayed        by due time
//! ```
//!
//! A level's `back` is served before its `fresh`: its numbers are lower. What sources settle is
//! counted in `freed`, outside the lock, so that an ack costs publishers nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::core::{call_ready, closed, failure, no_memory, Core, Life, Sinks};
use super::memory::{OwnLine, Waiters};
use super::queue_state::{Entry, Member, State};
use super::settings::Settings;
use super::task_source::TaskSource;
use super::timer::Timed;
use crate::broker::{Batch, Delivery, Description, Destination, Level as Safety, Taken, Wake};
use crate::clock::Moment;
use crate::error::{Error, Kind};
use crate::limits::PRIORITY_MAX;
use crate::message::segment::record_bytes;
use crate::message::{Message, Record, Stamp, TopicKind};
use crate::sync::{Mutex, MutexGuard};

/// A task queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub name: Arc<str>,
    pub settings: Settings,
    pub core: Arc<Core>,
    pub id: u64,
    own: Weak<Queue>,
    pub(super) state: Mutex<State>,
    /// Sources in `State::armed`, for a look without the lock.
    armed: AtomicUsize,
    freed: OwnLine<Freed>,
    pub(super) waiters: Waiters,
}

/// What sources gave back.
#[derive(Debug, Default)]
struct Freed {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Queue {
    /// A queue without messages.
    pub fn new(core: &Arc<Core>, id: u64, name: &Arc<str>, settings: Settings) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            name: Arc::clone(name),
            settings,
            core: Arc::clone(core),
            id,
            own: own.clone(),
            state: Mutex::new(State::new()),
            armed: AtomicUsize::new(0),
            freed: OwnLine::default(),
            waiters: Waiters::default(),
        })
    }

    /// Adds a source, which calls this queue `slot`; answers whether the sink must be called.
    #[must_use]
    pub fn join(&self, id: u64, slot: u32, source: &Arc<TaskSource>) -> bool {
        let mut state = self.state.lock();
        state.members.push(Member { id, source: Arc::clone(source), slot, listed: false });
        // The first fetch decides whether it is armed.
        source.bell().hint(slot)
    }

    /// Removes a source; what it was told of goes to others.
    pub fn leave(&self, id: u64, sinks: &mut Sinks) {
        let mut state = self.state.lock();
        state.members.retain(|member| member.id != id);
        state.armed.retain(|armed| *armed != id);
        let ready = state.ready;
        self.wake(&mut state, ready, sinks);
    }

    /// Tells others of messages that a source was told of but has no room for.
    pub fn pass_on(&self, sinks: &mut Sinks) {
        if self.armed.load(Ordering::Relaxed) > 0 {
            let mut state = self.state.lock();
            let ready = state.ready;
            self.wake(&mut state, ready, sinks);
        }
    }

    /// Takes up to `want` messages for the source `id`, each made into a delivery by `give`, which gets
    /// a second hold of it for the lease; with
    /// none there, arms the source. Answers how many.
    pub fn take(
        &self,
        id: u64,
        want: usize,
        out: &mut Vec<Delivery>,
        mut give: impl FnMut(Message, Message, u32, bool) -> Delivery,
    ) -> usize {
        let mut state = self.state.lock();
        let share = state.ready.div_ceil(state.members.len().max(1)).max(1);
        let want = want.min(share);
        let (expired, bytes) = (state.expired, state.taken_bytes);
        let mut taken = 0;
        while taken < want {
            let Some(top) = state.top() else { break };
            let Some(level) = state.levels.get_mut(top) else { break };
            if level.back.is_empty() && !level.fresh.expires {
                let count = level.fresh.take(want - taken, out, |message, kept| give(message, kept, 0, false));
                taken += count;
                state.ready -= count;
                state.refill(top);
                if count > 0 {
                    continue;
                }
                break;
            }
            let Some(entry) = state.pop(top) else { break };
            if self.is_expired(&entry.message) {
                self.expire(&mut state, &entry.message);
                continue;
            }
            out.push(give(entry.message.clone(), entry.message, entry.tries, entry.handed));
            taken += 1;
        }
        if taken == 0 {
            self.arm(&mut state, id);
        }
        if state.expired != expired {
            self.core.memory.free((bytes - state.taken_bytes) as usize);
            // The lock of the calling source is held, so those who wait are told by the timer.
            self.set_timer(self.core.clock.now());
        }
        taken
    }

    /// Puts messages back that were out: now, or at their time.
    pub fn put_back(&self, entries: impl Iterator<Item = (Entry, Option<Moment>)>, sinks: &mut Sinks) {
        let mut state = self.state.lock();
        let mut ready = 0;
        let mut first_due = Moment::NEVER;
        for (entry, due) in entries {
            if state.life != Life::Open {
                self.free(1, entry.message.size());
                continue;
            }
            if let Some(journal) = &self.core.journal {
                journal.came_back(&entry, due.map(|at| self.core.clock.wall_us_at(at)));
            }
            match due {
                None => {
                    state.push_back(entry);
                    ready += 1;
                }
                Some(at) => {
                    first_due = first_due.min(at);
                    let entry = Entry { message: self.core.apart(entry.message), ..entry };
                    state.push_delayed(at, entry);
                }
            }
        }
        self.wake(&mut state, ready, sinks);
        drop(state);
        if first_due != Moment::NEVER {
            self.set_timer(first_due);
        }
    }

    /// Counts messages that were settled. Whoever calls it calls [`Queue::freed`] afterwards.
    pub fn free(&self, count: u64, bytes: usize) {
        self.freed.0.count.fetch_add(count, Ordering::SeqCst);
        self.freed.0.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        self.core.memory.free(bytes);
    }

    /// Whether publishers wait for space here.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.waiters.wanted()
    }

    /// Looks whether publishers that wait can go on. No lock is held.
    pub fn freed(&self) {
        if !self.waiters.wanted() {
            return;
        }
        let bytes = self.waiters.bytes();
        let fits = {
            let mut state = self.state.lock();
            state.life != Life::Open || self.fits(&mut state, 1, bytes as u64)
        };
        if fits {
            self.waiters.wake();
        }
    }

    /// Removes all messages that are not out; answers how many.
    pub fn purge(&self) -> u64 {
        let purged = self.clear(&mut self.state.lock(), true);
        self.freed();
        self.core.memory_freed();
        purged
    }

    /// Ends the queue; answers how many messages were still to be settled.
    pub fn end(&self, life: Life) -> u64 {
        let held = {
            let mut state = self.state.lock();
            state.life = life;
            let held = self.held(&state).0 - state.reserved_count;
            self.clear(&mut state, false);
            state.members.clear();
            state.armed.clear();
            held
        };
        self.core.timers.forget(self.id);
        self.waiters.wake();
        self.core.memory_freed();
        held
    }

    /// Whether it was deleted, or its broker closed.
    pub fn is_dead(&self) -> bool {
        self.state.lock().life != Life::Open
    }

    /// What is known of it.
    pub fn describe(&self) -> Description {
        let mut state = self.state.lock();
        self.sweep(&mut state);
        let (held, bytes) = self.held(&state);
        let (held, bytes) = (held - state.reserved_count, bytes - state.reserved_bytes);
        let delayed = state.delayed.len() as u64;
        Description {
            name: self.name.to_string(),
            kind: TopicKind::Task.name(),
            messages: state.ready as u64,
            unsettled: held.saturating_sub(state.ready as u64 + delayed),
            delayed,
            bytes,
            consumers: state.members.len() as u64,
            expired: state.expired,
            dropped: state.dropped,
            partitions: Vec::new(),
            lag: BTreeMap::new(),
        }
    }

    pub(super) fn held(&self, state: &State) -> (u64, u64) {
        let count = state.taken_count - self.freed.0.count.load(Ordering::SeqCst);
        (count, state.taken_bytes - self.freed.0.bytes.load(Ordering::SeqCst))
    }

    /// Whether so much more fits below the maxima.
    #[inline]
    pub(super) fn fits(&self, state: &mut State, count: u64, bytes: u64) -> bool {
        if self.fits_by(state, count, bytes) {
            return true;
        }
        state.freed_count = self.freed.0.count.load(Ordering::SeqCst);
        state.freed_bytes = self.freed.0.bytes.load(Ordering::SeqCst);
        self.fits_by(state, count, bytes)
    }

    #[inline]
    fn fits_by(&self, state: &State, count: u64, bytes: u64) -> bool {
        (state.taken_count - state.freed_count).saturating_add(count) <= self.settings.messages_max
            && (state.taken_bytes - state.freed_bytes).saturating_add(bytes) <= self.settings.bytes_max
    }

    /// Takes all of `records` into the counts, if they fit as they are.
    #[inline]
    fn admit_all(&self, state: &mut State, records: &[Record<'_>]) -> bool {
        let bytes: usize = records.iter().map(|record| self.size_of(record)).sum();
        let fits = self.fits(state, records.len() as u64, bytes as u64) && self.core.memory.take(bytes);
        if fits {
            state.taken_count += records.len() as u64;
            state.taken_bytes += bytes as u64;
        }
        fits
    }

    #[cold]
    pub(super) fn admit_one(&self, state: &mut State, bytes: usize) -> Result<(), Error> {
        if let Some(error) = self.core.too_large(&self.name, bytes, self.settings.bytes_max) {
            return Err(error);
        }
        if !self.fits(state, 1, bytes as u64) {
            self.sweep(state);
        }
        while !self.fits(state, 1, bytes as u64) {
            if !self.settings.drop_oldest || !self.drop_one(state) {
                self.waiters.refused(bytes);
                let Settings { messages_max, bytes_max, .. } = self.settings;
                let limit = if self.held(state).0 >= messages_max {
                    format!("messages_max {messages_max}")
                } else {
                    format!("bytes_max {bytes_max}")
                };
                return Err(failure(Kind::Full, format!("queue {} is full: {limit} is reached", self.name)));
            }
        }
        if !self.core.memory.take(bytes) {
            self.core.memory.waiters.refused(bytes);
            return Err(self.core.memory_full());
        }
        state.taken_count += 1;
        state.taken_bytes += bytes as u64;
        Ok(())
    }

    /// Drops the oldest waiting message of the lowest priority there is.
    pub(super) fn drop_one(&self, state: &mut State) -> bool {
        let lowest = state.filled.trailing_zeros() as usize;
        let Some(entry) = state.pop(lowest) else { return false };
        state.dropped += 1;
        self.forget(state, &entry.message);
        self.is_gone(&entry.message);
        self.core.memory.free(entry.message.size());
        true
    }

    /// Takes a message that was never settled out of the counts of this queue.
    fn forget(&self, state: &mut State, message: &Message) {
        state.taken_count -= 1;
        state.taken_bytes -= message.size() as u64;
    }

    fn expire(&self, state: &mut State, message: &Message) {
        state.expired += 1;
        self.forget(state, message);
        self.is_gone(message);
    }

    /// A message has left otherwise than by a verdict.
    fn is_gone(&self, message: &Message) {
        if let Some(journal) = &self.core.journal {
            journal.removed(std::iter::once(message.seq()));
        }
    }

    fn is_expired(&self, message: &Message) -> bool {
        message.expires_us().is_some_and(|at| at <= self.core.clock.wall_us())
    }

    #[inline]
    fn size_of(&self, record: &Record<'_>) -> usize {
        let own_ttl = record.ttl_ms > 0 || self.settings.ttl.is_none();
        record_bytes(record) + if own_ttl { 0 } else { 8 }
    }

    /// Appends an admitted record; `false` without memory.
    #[inline(always)]
    pub(super) fn append(&self, state: &mut State, record: &Record<'_>, stamp: Stamp) -> bool {
        let priority = record.priority.min(PRIORITY_MAX) as usize;
        if record.delay_ms > 0 {
            let now = self.core.clock.now();
            let Some(message) = Message::alone(&self.core.pool, &self.name, self.core.id_prefix, record, stamp) else {
                return false;
            };
            let due = now.plus(Duration::from_millis(record.delay_ms.unsigned_abs()));
            state.push_delayed(due, Entry { message, tries: 0, handed: false });
            return self.set_timer(due);
        }
        if record.ttl_ms > 0 && !state.levels.get(priority).is_some_and(|level| level.fresh.expires) {
            let expires_us = stamp.now_us.saturating_add(record.ttl_ms.saturating_mul(1_000));
            self.set_timer(self.core.clock.moment_of_wall_us(expires_us));
        }
        let Some(level) = state.levels.get_mut(priority) else { return false };
        if !level.fresh.append(&self.core, &self.name, record, stamp) {
            return false;
        }
        state.filled |= 1 << priority;
        state.ready += 1;
        true
    }

    /// Appends admitted records; answers how many, which are fewer when memory runs out.
    fn append_all(&self, state: &mut State, records: &[Record<'_>], first_seq: u64, now_us: i64) -> usize {
        let ttl_ms = self.settings.ttl_ms();
        for (index, record) in records.iter().enumerate() {
            let stamp = Stamp { seq: first_seq + index as u64, now_us };
            let appended = if ttl_ms > 0 && record.ttl_ms <= 0 {
                self.append(state, &Record { ttl_ms, ..*record }, stamp)
            } else {
                self.append(state, record, stamp)
            };
            if !appended {
                for left in records.get(index..).unwrap_or_default() {
                    let bytes = self.size_of(left);
                    state.taken_count -= 1;
                    state.taken_bytes -= bytes as u64;
                    self.core.memory.free(bytes);
                }
                return index;
            }
        }
        records.len()
    }

    /// Appends records one by one, making room for each, until one cannot be taken.
    #[cold]
    fn append_each(&self, state: &mut State, batch: &Batch<'_>, first_seq: u64) -> (usize, Option<Error>) {
        for (index, record) in batch.records.iter().enumerate() {
            if let Err(error) = self.admit_one(state, self.size_of(record)) {
                return (index, Some(error));
            }
            if self.append_all(state, std::slice::from_ref(record), first_seq + index as u64, batch.now_us) == 0 {
                return (index, Some(no_memory()));
            }
        }
        (batch.records.len(), None)
    }

    fn publish_locked(&self, mut state: MutexGuard<'_, State>, batch: &Batch<'_>) -> Taken {
        let ready = state.ready;
        let all = batch.records.len();
        let fits = self.admit_all(&mut state, batch.records);
        // Numbers of records that are not taken stay unused.
        let first_seq = batch.number(all);
        let (count, stopped) = if fits {
            let count = self.append_all(&mut state, batch.records, first_seq, batch.now_us);
            (count, (count < all).then(no_memory))
        } else {
            self.append_each(&mut state, batch, first_seq)
        };
        let mut sinks = Sinks::new();
        let added = state.ready.saturating_sub(ready);
        self.wake(&mut state, added, &mut sinks);
        drop(state);
        call_ready(sinks);
        Taken { count, first_seq, level: Some(Safety::Memory), stopped }
    }

    /// Tells armed sources of `count` messages: one each, in turn.
    #[inline]
    pub(super) fn wake(&self, state: &mut State, mut count: usize, sinks: &mut Sinks) {
        while count > 0 {
            let Some(id) = state.armed.pop_front() else { return };
            self.armed.store(state.armed.len(), Ordering::Relaxed);
            let Some(member) = state.members.iter_mut().find(|member| member.id == id) else { continue };
            member.listed = false;
            // One that is busy with another queue is told too, but may be long in coming.
            let bell = member.source.bell();
            if bell.hint(member.slot) {
                sinks.push(Arc::clone(bell.sink()));
                count -= 1;
            }
        }
    }

    fn arm(&self, state: &mut State, id: u64) {
        if let Some(member) = state.members.iter_mut().find(|member| member.id == id && !member.listed) {
            member.listed = true;
            state.armed.push_back(id);
            self.armed.store(state.armed.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn set_timer(&self, at: Moment) -> bool {
        self.core.timers.set(self.id, at, self.own.clone() as Weak<dyn Timed>).is_ok()
    }

    /// Drops expired messages from the heads of all levels; answers when the next head expires.
    fn sweep(&self, state: &mut State) -> Option<i64> {
        let mut next: Option<i64> = None;
        for index in 0..state.levels.len() {
            while let Some(level) = state.levels.get_mut(index) {
                let head = match level.back.first_key_value() {
                    Some((_, entry)) => entry.message.expires_us(),
                    None if level.fresh.expires => level.fresh.peek().and_then(|message| message.expires_us()),
                    None => None,
                };
                let Some(at) = head else { break };
                if at > self.core.clock.wall_us() {
                    next = Some(next.map_or(at, |earlier| earlier.min(at)));
                    break;
                }
                let Some(entry) = state.pop(index) else { break };
                self.expire(state, &entry.message);
                self.core.memory.free(entry.message.size());
            }
        }
        next
    }

    /// Drops all messages that are not out; `for_good`: from the disk too.
    fn clear(&self, state: &mut State, for_good: bool) -> u64 {
        let mut purged = 0;
        let mut bytes = 0;
        let mut gone = Vec::new();
        while let Some(entry) = state.top().and_then(|top| state.pop(top)) {
            self.forget(state, &entry.message);
            gone.push(entry.message.seq());
            bytes += entry.message.size();
            purged += 1;
        }
        for entry in std::mem::take(&mut state.delayed).into_values() {
            self.forget(state, &entry.message);
            gone.push(entry.message.seq());
            bytes += entry.message.size();
            purged += 1;
        }
        if let Some(journal) = self.core.journal.as_ref().filter(|_| for_good) {
            journal.removed(gone.into_iter());
        }
        for level in &mut state.levels {
            level.fresh.clear();
        }
        self.core.memory.free(bytes);
        purged
    }
}

impl Queue {
    fn publish_once(&self, batch: &Batch<'_>) -> Taken {
        let state = self.state.lock();
        match state.life {
            Life::Open => self.publish_locked(state, batch),
            Life::Closed => Taken { count: 0, first_seq: 0, level: None, stopped: Some(closed()) },
            Life::Deleted => {
                drop(state);
                super::publish_again(&self.core, &self.name, TopicKind::Task, batch)
            }
        }
    }
}

impl Destination for Queue {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let taken = self.publish_once(batch);
        if taken.count == 0 && self.core.evict_for(&taken, batch.records) {
            return self.publish_once(batch);
        }
        taken
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        let full = {
            let mut state = self.state.lock();
            state.life == Life::Open && !self.fits(&mut state, 1, self.waiters.bytes() as u64)
        };
        if full {
            self.waiters.add(waker);
            self.freed();
        } else {
            self.core.memory.waiters.add(waker);
            self.core.memory_freed();
        }
    }
}

impl Timed for Queue {
    fn due(&self, now: Moment) {
        let mut sinks = Sinks::new();
        let mut next = Moment::NEVER;
        {
            let mut state = self.state.lock();
            let mut ready = 0;
            while let Some((&key, _)) = state.delayed.first_key_value() {
                if key.0 > now {
                    next = key.0;
                    break;
                }
                if let Some(entry) = state.delayed.remove(&key) {
                    state.push_back(entry);
                    ready += 1;
                }
            }
            if let Some(expires_us) = self.sweep(&mut state) {
                next = next.min(self.core.clock.moment_of_wall_us(expires_us));
            }
            let ready = state.ready.min(ready);
            self.wake(&mut state, ready, &mut sinks);
        }
        if next != Moment::NEVER {
            self.set_timer(next);
        }
        call_ready(sinks);
        self.freed();
        self.core.memory_freed();
    }
}
