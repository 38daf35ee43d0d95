//! An event topic: partitions, groups, retention.
//!
//! Events stay until retention drops them: the oldest beyond `messages_max` and `bytes_max` where
//! `drop_oldest` asks for it, and those older than `age_max`. Without `drop_oldest` publishers wait
//! at a maximum until every group has settled the oldest events, which then make room; the same
//! holds for the memory of the broker. Events of a topic without groups never make room.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use smallvec::SmallVec;

use super::core::{call_ready, closed, failure, no_memory, Core, Life, Sinks};
use super::event_source::EventSource;
use super::group::Settled;
use super::log_state::{Member, State};
use super::memory::Waiters;
use super::partition::{partition_of, Partition};
use super::settings::Settings;
use super::timer::Timed;
use crate::broker::{Batch, Description, Destination, Level, Start, Stop, SubscribeSpec, Taken, Wake};
use crate::clock::Moment;
use crate::error::{Error, Fate, Kind};
use crate::message::segment::record_bytes;
use crate::message::{Record, Stamp, TopicKind};
use crate::sync::{Mutex, MutexGuard};

/// An event topic.
#[derive(Debug)]
pub(super) struct Log {
    pub name: Arc<str>,
    pub settings: Settings,
    pub core: Arc<Core>,
    /// Orders the locks of several logs.
    pub id: u64,
    own: Weak<Log>,
    state: Mutex<State>,
    pub(super) waiters: Waiters,
}

impl Log {
    /// A log without events.
    pub fn new(core: &Arc<Core>, id: u64, name: &Arc<str>, settings: Settings) -> Arc<Self> {
        let partitions = (0..settings.partitions).map(|_| Partition::default()).collect();
        let state = State {
            life: Life::Open,
            partitions,
            groups: Vec::new(),
            members: Vec::new(),
            expires: false,
            expired: 0,
            listed: 0,
            count: 0,
            bytes: 0,
            reserved_count: 0,
            reserved_bytes: 0,
            dropped: 0,
            ages: false,
        };
        Arc::new_cyclic(|own| Self {
            name: Arc::clone(name),
            settings,
            core: Arc::clone(core),
            id,
            own: own.clone(),
            state: Mutex::new(state),
            waiters: Waiters::default(),
        })
    }

    /// The state, for a reader.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Adds `source`, which calls this log `slot`; answers its group, and whether its sink must be called.
    pub fn join(&self, spec: &SubscribeSpec, slot: u32, source: &Arc<EventSource>, sinks: &mut Sinks) -> usize {
        let mut state = self.state.lock();
        self.moved();
        let group = state.group_for(spec);
        if let Some(Some(group)) = state.groups.get_mut(group) {
            group.join(source.id);
        }
        let stops = match spec.stop {
            Stop::Never => Vec::new(),
            Stop::Now => state.partitions.iter().map(Partition::next).collect(),
            Stop::Time(us) => state.partitions.iter().map(|own| own.chain.at_time(own.front(), us)).collect(),
        };
        state.members.push(Member { id: source.id, group, source: Arc::clone(source), slot, listed: false, stops });
        if source.bell().hint(slot) {
            sinks.push(Arc::clone(source.bell().sink()));
        }
        group
    }

    /// Removes a source, whose deliveries were given back; its partitions go to others.
    pub fn leave(&self, id: u64, sinks: &mut Sinks) {
        let mut state = self.state.lock();
        let Some(at) = state.members.iter().position(|member| member.id == id) else { return };
        let member = state.members.swap_remove(at);
        state.listed -= usize::from(member.listed);
        let place = state.groups.get_mut(member.group);
        if let Some(place) = place {
            match place {
                Some(group) if group.name.is_some() => group.leave(id),
                _ => *place = None,
            }
        }
        state.wake(Some(self.core.clock.now()), sinks);
    }

    /// Ends deliveries of one group.
    pub fn settle(&self, group: usize, settled: &[Settled], sinks: &mut Sinks) {
        // The time is of no account where all are done and no order is kept.
        let is_plain = settled.iter().all(|one| one.again.is_none() && one.key.is_none());
        let now = if is_plain { Moment(0) } else { self.core.clock.now() };
        let mut first_due = Moment::NEVER;
        let mut wakes = false;
        let mut state = self.state.lock();
        let Some(Some(group)) = state.groups.get_mut(group) else { return };
        for one in settled {
            let Some(tracker) = group.trackers.get_mut(one.partition as usize) else { continue };
            wakes |= one.key.is_some();
            match tracker.end(one) {
                Some(due) if due > now => first_due = first_due.min(due),
                Some(_) => wakes = true,
                None => {}
            }
        }
        self.moved();
        if wakes {
            state.wake(Some(now), sinks);
        }
        drop(state);
        if first_due != Moment::NEVER {
            self.set_timer(first_due);
        }
    }

    /// Moves a group, whose members go on from there.
    pub fn seek(&self, group: usize, to: Start, sinks: &mut Sinks) {
        let mut state = self.state.lock();
        let State { groups, partitions, .. } = &mut *state;
        let Some(Some(group)) = groups.get_mut(group) else { return };
        for (tracker, partition) in group.trackers.iter_mut().zip(partitions) {
            tracker.go_to(partition, to);
        }
        self.moved();
        state.wake(Some(self.core.clock.now()), sinks);
    }

    /// Whether publishers wait for space here.
    pub fn is_wanted(&self) -> bool {
        self.waiters.wanted()
    }

    /// Looks whether publishers that wait can go on. No lock is held.
    pub fn freed(&self) {
        if !self.waiters.wanted() {
            return;
        }
        self.collect_acks();
        let bytes = self.waiters.bytes() as u64;
        let fits = {
            let mut state = self.state.lock();
            state.life != Life::Open || self.make_room(&mut state, 1, bytes)
        };
        if fits {
            self.waiters.wake();
        }
    }

    /// Number of the oldest event that every group has settled.
    pub fn oldest_settled(&self) -> Option<u64> {
        self.state.lock().oldest_settled().map(|(seq, _)| seq)
    }

    /// Drops the oldest events that every group has settled, until `bytes` are free or one is
    /// newer than `until`.
    pub fn evict_settled(&self, bytes: usize, until: u64) {
        let mut state = self.state.lock();
        while self.core.memory.missing(bytes) > 0 {
            match state.oldest_settled() {
                Some((seq, partition)) if seq <= until => self.drop_first(&mut state, partition),
                _ => return,
            };
        }
    }

    /// Takes over what sources have settled but not told yet. No lock is held.
    pub fn collect_acks(&self) {
        let sources: Vec<_> = self.state.lock().members.iter().map(|member| Arc::clone(&member.source)).collect();
        for source in sources {
            source.flush();
        }
    }

    /// Removes all events; answers how many.
    pub fn purge(&self) -> u64 {
        let purged = self.clear(&mut self.state.lock(), true);
        self.freed();
        self.core.memory_freed();
        purged
    }

    /// Ends the log; answers how many events some group had not settled.
    pub fn end(&self, life: Life) -> u64 {
        self.collect_acks();
        let unsettled = {
            let mut state = self.state.lock();
            state.life = life;
            let unsettled = (0..state.partitions.len()).map(|index| state.unsettled(index)).sum();
            self.clear(&mut state, false);
            state.members.clear();
            state.groups.clear();
            state.listed = 0;
            unsettled
        };
        self.core.timers.forget(self.id);
        self.waiters.wake();
        self.core.memory_freed();
        unsettled
    }

    /// Whether it was deleted, or its broker closed.
    pub fn is_dead(&self) -> bool {
        self.state.lock().life != Life::Open
    }

    /// What is known of it.
    pub fn describe(&self) -> Description {
        self.collect_acks();
        let mut state = self.state.lock();
        self.drop_aged(&mut state);
        let mut lag = BTreeMap::new();
        let mut unsettled = 0;
        for group in state.groups.iter().flatten().filter(|group| group.settles) {
            let open = group.trackers.iter().zip(&state.partitions).map(|(tracker, own)| tracker.lag(own)).sum();
            unsettled += group.trackers.iter().map(|tracker| tracker.out() as u64).sum::<u64>();
            if let Some(name) = &group.name {
                lag.insert(name.clone(), open);
            }
        }
        Description {
            name: self.name.to_string(),
            kind: TopicKind::Event.name(),
            messages: state.count - state.reserved_count,
            unsettled,
            delayed: 0,
            bytes: state.bytes - state.reserved_bytes,
            consumers: state.members.len() as u64,
            expired: state.expired,
            dropped: state.dropped,
            partitions: state.partitions.iter().map(|own| (own.first() as i64, own.next() as i64)).collect(),
            lag,
        }
    }

    pub(super) fn fits(&self, state: &State, count: u64, bytes: u64) -> bool {
        state.count.saturating_add(count) <= self.settings.messages_max
            && state.bytes.saturating_add(bytes) <= self.settings.bytes_max
    }

    /// Drops what may be dropped until `count` events of `bytes` in all fit below the maxima.
    pub(super) fn make_room(&self, state: &mut State, count: u64, bytes: u64) -> bool {
        if self.fits(state, count, bytes) {
            return true;
        }
        let drops = self.settings.drop_oldest;
        // Up to where each partition may be dropped; read once, as nothing is settled meanwhile.
        let limits: SmallVec<[u64; 16]> = (0..state.partitions.len())
            .map(|index| if drops { u64::MAX } else { state.settled(index).unwrap_or(0) })
            .collect();
        while !self.fits(state, count, bytes) {
            let Some((_, partition)) = state.oldest_before(&limits) else { return false };
            self.drop_first(state, partition);
            state.dropped += u64::from(drops);
        }
        true
    }

    /// Some group, or the first event kept, is at another place now.
    fn moved(&self) {
        if let Some(journal) = &self.core.journal {
            journal.moved(self.id, &self.own);
        }
    }

    fn drop_first(&self, state: &mut State, partition: usize) {
        if let Some(journal) = &self.core.journal {
            journal.removed(state.partitions.get_mut(partition).and_then(Partition::first_seq).into_iter());
            self.moved();
        }
        if let Some(size) = state.partitions.get_mut(partition).and_then(Partition::drop_first) {
            state.count -= 1;
            state.bytes -= size as u64;
            self.core.memory.free(size);
        }
    }

    /// Drops events that are older than asked; answers when the next one is.
    fn drop_aged(&self, state: &mut State) -> Option<i64> {
        let age_us = i64::try_from(self.settings.age_max?.as_micros()).unwrap_or(i64::MAX);
        let now_us = self.core.clock.wall_us();
        let mut next: Option<i64> = None;
        for index in 0..state.partitions.len() {
            while let Some(first) = state.partitions.get_mut(index).and_then(Partition::first_message) {
                let end_us = first.timestamp_us().saturating_add(age_us);
                if end_us > now_us {
                    next = Some(next.map_or(end_us, |earlier| earlier.min(end_us)));
                    break;
                }
                self.drop_first(state, index);
                state.dropped += 1;
            }
        }
        next
    }

    /// Drops all events; `for_good`: from the disk too.
    fn clear(&self, state: &mut State, for_good: bool) -> u64 {
        if let Some(journal) = self.core.journal.as_ref().filter(|_| for_good) {
            state.partitions.iter_mut().for_each(|partition| journal.removed(partition.seqs().into_iter()));
            self.moved();
        }
        for partition in &mut state.partitions {
            partition.clear();
        }
        let bytes = std::mem::replace(&mut state.bytes, state.reserved_bytes) - state.reserved_bytes;
        self.core.memory.free(bytes as usize);
        std::mem::replace(&mut state.count, state.reserved_count) - state.reserved_count
    }

    #[inline]
    fn size_of(&self, record: &Record<'_>) -> usize {
        let own_ttl = record.ttl_ms > 0 || self.settings.ttl.is_none();
        record_bytes(record) + if own_ttl { 0 } else { 8 }
    }

    /// Takes all of `records` into the counts, if they fit as they are.
    #[inline]
    fn admit_all(&self, state: &mut State, records: &[Record<'_>]) -> bool {
        let bytes: usize = records.iter().map(|record| self.size_of(record)).sum();
        let no_delay = records.iter().all(|record| record.delay_ms <= 0);
        let count = records.len() as u64;
        // A batch larger than the topic is taken one by one, as far as it goes.
        let can_fit = no_delay && count <= self.settings.messages_max && bytes as u64 <= self.settings.bytes_max;
        let fits = can_fit && self.make_room(state, count, bytes as u64) && self.core.memory.take(bytes);
        if fits {
            state.count += records.len() as u64;
            state.bytes += bytes as u64;
        }
        fits
    }

    #[cold]
    fn admit_one(&self, state: &mut State, record: &Record<'_>) -> Result<(), Error> {
        self.check_delay(record)?;
        self.admit_bytes(state, self.size_of(record))
    }

    pub(super) fn check_delay(&self, record: &Record<'_>) -> Result<(), Error> {
        if record.delay_ms <= 0 {
            return Ok(());
        }
        let text = format!("{}: an event cannot be delayed, it is a fact in a log", self.name);
        Err(failure(Kind::Unsupported, text).with_fate(Fate::Refused))
    }

    pub(super) fn admit_bytes(&self, state: &mut State, bytes: usize) -> Result<(), Error> {
        if let Some(error) = self.core.too_large(&self.name, bytes, self.settings.bytes_max) {
            return Err(error);
        }
        if !self.make_room(state, 1, bytes as u64) {
            self.waiters.refused(bytes);
            let Settings { messages_max, bytes_max, .. } = self.settings;
            let limit = if state.count >= messages_max {
                format!("messages_max {messages_max}")
            } else {
                format!("bytes_max {bytes_max}")
            };
            return Err(failure(Kind::Full, format!("topic {} is full: {limit} is reached", self.name)));
        }
        if !self.core.memory.take(bytes) {
            self.core.memory.waiters.refused(bytes);
            return Err(self.core.memory_full());
        }
        state.count += 1;
        state.bytes += bytes as u64;
        Ok(())
    }

    /// Appends admitted records; answers how many, which are fewer when memory runs out.
    fn append_all(&self, state: &mut State, records: &[Record<'_>], first_seq: u64, now_us: i64) -> usize {
        let ttl_ms = self.settings.ttl_ms();
        for (index, record) in records.iter().enumerate() {
            let stamp = Stamp { seq: first_seq + index as u64, now_us };
            let record = Record { ttl_ms: if record.ttl_ms > 0 { record.ttl_ms } else { ttl_ms }, ..*record };
            state.expires |= record.ttl_ms > 0;
            // Without a key the order of the topic is kept, so they all go to one partition.
            let place = record.key.map_or(0, |key| partition_of(key, state.partitions.len()));
            let partition = state.partitions.get_mut(place);
            if !partition.is_some_and(|own| own.chain.append(&self.core, &self.name, &record, stamp)) {
                for left in records.get(index..).unwrap_or_default() {
                    let bytes = self.size_of(left);
                    state.count -= 1;
                    state.bytes -= bytes as u64;
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
            if let Err(error) = self.admit_one(state, record) {
                return (index, Some(error));
            }
            if self.append_all(state, std::slice::from_ref(record), first_seq + index as u64, batch.now_us) == 0 {
                return (index, Some(no_memory()));
            }
        }
        (batch.records.len(), None)
    }

    #[inline]
    fn publish_locked(&self, mut state: MutexGuard<'_, State>, batch: &Batch<'_>) -> Taken {
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
        self.appended(state, count);
        Taken { count, first_seq, level: Some(Level::Memory), stopped }
    }

    /// Tells of `count` events that were appended.
    pub(super) fn appended(&self, mut state: MutexGuard<'_, State>, count: usize) {
        let mut sinks = Sinks::new();
        if state.listed > 0 && count > 0 {
            state.wake(None, &mut sinks);
        }
        let starts_aging = self.settings.age_max.is_some() && count > 0 && !std::mem::replace(&mut state.ages, true);
        drop(state);
        if let Some(age) = self.settings.age_max.filter(|_| starts_aging) {
            self.set_timer(self.core.clock.now().plus(age));
        }
        call_ready(sinks);
    }

    fn set_timer(&self, at: Moment) -> bool {
        self.core.timers.set(self.id, at, self.own.clone() as Weak<dyn Timed>).is_ok()
    }
}

impl Log {
    fn publish_once(&self, batch: &Batch<'_>) -> Taken {
        let state = self.state.lock();
        match state.life {
            Life::Open => self.publish_locked(state, batch),
            Life::Closed => Taken { count: 0, first_seq: 0, level: None, stopped: Some(closed()) },
            Life::Deleted => {
                drop(state);
                super::publish_again(&self.core, &self.name, TopicKind::Event, batch)
            }
        }
    }
}

impl Destination for Log {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let taken = self.publish_once(batch);
        let is_full = taken.stopped.as_ref().is_some_and(|error| error.kind() == Kind::Full);
        if taken.count > 0 || !is_full {
            return taken;
        }
        self.collect_acks();
        self.core.evict_for(&taken, batch.records);
        self.publish_once(batch)
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        let full = {
            let state = self.state.lock();
            state.life == Life::Open && !self.fits(&state, 1, self.waiters.bytes() as u64)
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

impl Timed for Log {
    fn due(&self, now: Moment) {
        let mut sinks = Sinks::new();
        let mut next = Moment::NEVER;
        {
            let mut state = self.state.lock();
            if let Some(us) = self.drop_aged(&mut state) {
                next = self.core.clock.moment_of_wall_us(us);
            }
            state.ages = next != Moment::NEVER;
            let trackers = state.groups.iter().flatten().flat_map(|group| &group.trackers);
            let dues = trackers.flat_map(|tracker| tracker.again.values()).map(|again| again.due);
            next = next.min(dues.filter(|due| *due > now).min().unwrap_or(Moment::NEVER));
            state.wake(Some(now), &mut sinks);
        }
        if next != Moment::NEVER {
            self.set_timer(next);
        }
        call_ready(sinks);
        self.freed();
        self.core.memory_freed();
    }
}
