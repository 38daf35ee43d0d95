//! A subscription to event topics: it reads the partitions it owns, in the order of publishing.
//!
//! What is settled is gathered and told to the log in runs, on the next fetch at the latest, so
//! that an ack seldom touches the log. The lock of a source is taken before those of logs, and
//! those of several logs in the order of their ids.

use std::sync::{Arc, Weak};
use std::time::Duration;

use smallvec::SmallVec;

use super::bell::Bell;
use super::core::{call_ready, failure, Core, Sinks};
use super::group::{Again, Settled};
use super::lease::Leases;
use super::log::Log;
use super::read::{Handed, Head, Locked, Reader};
use super::timer::Timed;
use crate::broker::{Delivery, Flow, Ordered, Sink, Source, Start, Stop, SubscribeSpec, Verdict};
use crate::clock::Moment;
use crate::error::{Error, Kind};
use crate::message::Message;
use crate::sync::Mutex;

/// Acks gathered before the log is told.
const ACKS_GATHERED: usize = 64;

/// A subscription to one event topic, or to all that match a pattern.
#[derive(Debug)]
pub(super) struct EventSource {
    pub id: u64,
    core: Arc<Core>,
    own: Weak<EventSource>,
    spec: SubscribeSpec,
    bell: Bell,
    inner: Mutex<Inner>,
}

/// Guarded together: fetching and settling change the same leases.
#[derive(Debug, Default)]
struct Inner {
    closed: bool,
    leases: Leases<Lease>,
    members: Vec<Membership>,
    /// Logs that may have something, as indexes of `members`.
    hot: Vec<u32>,
    starved: bool,
    timer_set: bool,
    settled: Vec<Settled>,
    /// Kept for its memory.
    heads: Vec<Head>,
}

/// The source's part in one log.
#[derive(Debug)]
pub(super) struct Membership {
    pub log: Arc<Log>,
    pub group: usize,
}

#[derive(Debug)]
struct Lease {
    slot: u32,
    handed: Handed,
    until: Moment,
}

impl EventSource {
    /// A source without logs.
    pub fn new(core: &Arc<Core>, spec: &SubscribeSpec, sink: Arc<dyn Sink>) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            id: core.id(),
            core: Arc::clone(core),
            own: own.clone(),
            spec: spec.clone(),
            bell: Bell::new(sink),
            inner: Mutex::default(),
        })
    }

    /// How logs tell it of events.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Adds a log; `sinks` gets the sinks to call.
    pub fn attach(self: &Arc<Self>, log: &Arc<Log>, sinks: &mut Sinks) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        // The place of a deleted log is used again once nothing of it is out.
        let Inner { members, leases, settled, .. } = &mut *inner;
        let is_free = |slot: u32| {
            !leases.iter().any(|(_, lease)| lease.slot == slot) && !settled.iter().any(|settled| settled.slot == slot)
        };
        let dead = members.iter().zip(0..).position(|(member, slot)| member.log.is_dead() && is_free(slot));
        let slot = dead.unwrap_or(members.len());
        let group = log.join(&self.spec, slot as u32, self, sinks);
        let member = Membership { log: Arc::clone(log), group };
        match members.get_mut(slot) {
            Some(place) => *place = member,
            None => members.push(member),
        }
    }

    /// Tells the logs what was settled.
    pub fn flush(&self) {
        let mut sinks = Sinks::new();
        Self::flush_locked(&mut self.inner.lock(), &mut sinks);
        call_ready(sinks);
    }

    /// Starts the timer that ends leases. Fails where the system refuses its thread.
    pub fn start_timer(&self, at: Moment) -> Result<(), Error> {
        self.core.timers.set(self.id, at, self.own.clone() as Weak<dyn Timed>)
    }

    /// Ends the source with its broker.
    pub fn end(&self) {
        let mut inner = self.inner.lock();
        *inner = Inner { closed: true, ..Inner::default() };
        drop(inner);
        self.core.timers.forget(self.id);
    }

    fn flush_locked(inner: &mut Inner, sinks: &mut Sinks) {
        for run in inner.settled.chunk_by(|one, next| one.slot == next.slot) {
            let member = run.first().and_then(|first| inner.members.get(first.slot as usize));
            if let Some(member) = member {
                member.log.settle(member.group, run, sinks);
            }
        }
        inner.settled.clear();
    }

    /// Ends leases that `which` chooses as if handed over in vain; answers their tags.
    fn revoke(&self, inner: &mut Inner, which: impl Fn(&Lease) -> bool, sinks: &mut Sinks) -> Vec<u64> {
        let ended = inner.leases.remove_if(which);
        for (_, lease) in &ended {
            let again = Again { due: Moment(0), ..lease.handed.again(1) };
            inner.settled.push(lease.handed.settled(lease.slot, Some(again), true));
        }
        Self::flush_locked(inner, sinks);
        ended.into_iter().map(|(tag, _)| tag).collect()
    }

    /// Reads from all logs that may have something; lists this source where there is nothing.
    fn read_hot(&self, inner: &mut Inner, want: usize, out: &mut Vec<Delivery>) {
        let Inner { members, hot, leases, heads, .. } = inner;
        let until = self.spec.lease.map_or(Moment::NEVER, |lease| self.core.clock.now().plus(lease));
        let read_only = self.spec.read_only;
        let mut give = |slot: u32, handed: Handed| match read_only {
            true => 0,
            false => leases.insert(Lease { slot, handed, until }),
        };
        hot.retain(|slot| (*slot as usize) < members.len());
        hot.sort_unstable_by_key(|slot| members.get(*slot as usize).map(|member| member.log.id));
        let lock = |slot: &u32| {
            let member = members.get(*slot as usize)?;
            Some(Locked { slot: *slot, group: member.group, state: member.log.lock(), found: false })
        };
        let before = out.len();
        let mut logs: SmallVec<[Locked<'_>; 2]> = hot.iter().filter_map(lock).collect();
        Reader::new(self.id, self.spec.ordered, &self.core.clock, want, out, &mut give).merge(&mut logs, heads);
        if out.len() - before == want {
            return;
        }
        for log in &mut logs {
            if !log.found {
                log.state.list(self.id);
            }
        }
        let mut found = logs.iter().map(|log| log.found);
        hot.retain(|_| found.next().unwrap_or(false));
    }

    /// Whether all that the spec asked for was handed over and settled.
    fn is_finished(&self, inner: &Inner) -> bool {
        if self.spec.stop == Stop::Never || inner.leases.len() > 0 {
            return false;
        }
        inner.members.iter().all(|member| {
            let state = member.log.lock();
            let Some(Some(group)) = state.groups.get(member.group) else { return true };
            let mut owned = state.owned(self.id);
            owned.all(|(partition, stop)| match group.trackers.get(partition) {
                Some(tracker) => tracker.cursor.offset >= stop && tracker.again.is_empty(),
                None => true,
            })
        })
    }

    fn feed(&self, inner: &mut Inner) -> bool {
        // The last ack may be what a bounded subscription waits for.
        let ends = self.spec.stop != Stop::Never && inner.leases.len() == 0;
        let fed = inner.starved && inner.leases.len() < self.spec.prefetch.max(1);
        if fed {
            inner.starved = false;
        }
        fed || ends
    }

    /// Publishers of these logs may wait for what was settled.
    fn wanted(&self, inner: &Inner) -> Vec<Arc<Log>> {
        let logs = inner.members.iter().filter(|member| member.log.is_wanted());
        logs.map(|member| Arc::clone(&member.log)).collect()
    }
}

impl Source for EventSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let mut sinks = Sinks::new();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.closed {
            return Flow::End;
        }
        Self::flush_locked(inner, &mut sinks);
        let room = self.spec.prefetch.max(1).saturating_sub(inner.leases.len());
        let want = if self.spec.read_only { max } else { max.min(room) };
        let before = out.len();
        let mut flow = Flow::More;
        if want == 0 {
            inner.starved |= max > 0;
            flow = Flow::Idle;
        }
        self.bell.collect_or_all(&mut inner.hot, inner.members.len());
        while flow == Flow::More && out.len() == before {
            self.bell.collect(&mut inner.hot);
            self.read_hot(inner, want, out);
            if out.len() > before || !inner.hot.is_empty() {
                break;
            }
            if self.is_finished(inner) {
                flow = Flow::End;
            } else if self.bell.rest() {
                flow = Flow::Idle;
            }
        }
        if let Some(lease) = self.spec.lease.filter(|_| !inner.timer_set && inner.leases.len() > 0) {
            inner.timer_set = self.start_timer(self.core.clock.now().plus(lease)).is_ok();
        }
        drop(guard);
        call_ready(sinks);
        flow
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let mut sinks = Sinks::new();
        let mut ended = Vec::new();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        // What is on disk is told at once: what is gathered here would be lost with the process.
        let mut at_once = self.spec.ordered != Ordered::No || self.core.journal.is_some();
        for &(tag, verdict) in verdicts {
            let Some(lease) = inner.leases.remove(tag) else {
                ended.push(tag);
                continue;
            };
            let handed = &lease.handed;
            let again = match verdict {
                Verdict::Ack => None,
                Verdict::Retry(delay) if delay.is_zero() => Some(Again { due: Moment(0), ..handed.again(1) }),
                Verdict::Retry(delay) => Some(Again { due: self.core.clock.now().plus(delay), ..handed.again(1) }),
                Verdict::Return => Some(handed.again(0)),
            };
            at_once |= again.is_some();
            let holds = again.is_some() && self.spec.ordered == Ordered::Strict;
            inner.settled.push(handed.settled(lease.slot, again, holds));
        }
        let memory_wanted = self.core.memory.waiters.wanted();
        let wanted = self.wanted(inner);
        let ends = self.spec.stop != Stop::Never && inner.leases.len() == 0;
        if at_once || ends || memory_wanted || !wanted.is_empty() || inner.settled.len() >= ACKS_GATHERED {
            Self::flush_locked(inner, &mut sinks);
        }
        let fed = self.feed(inner);
        drop(guard);
        for log in wanted {
            log.freed();
        }
        self.core.memory_freed();
        call_ready(sinks);
        if fed {
            self.bell.sink().ready();
        }
        ended
    }

    fn held(&self, tag: u64) -> Option<Message> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Lease { slot, handed, .. } = inner.leases.find(tag)?;
        let state = inner.members.get(*slot as usize)?.log.lock();
        let partition = state.partitions.get(handed.partition as usize)?;
        let is_kept = handed.offset >= partition.first();
        is_kept.then(|| partition.chain.peek(&mut partition.chain.at(handed.offset)))?
    }

    fn extend(&self, tag: u64, lease: Duration) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(failure(Kind::Closed, "the subscription is closed"));
        }
        let Some(own) = inner.leases.find(tag) else {
            return Err(failure(Kind::Stale, "the lease of this delivery has ended"));
        };
        if self.spec.lease.is_none() {
            return Ok(());
        }
        own.until = self.core.clock.now().plus(lease);
        let until = own.until;
        drop(inner);
        self.start_timer(until)
    }

    fn seek(&self, to: Start) -> Result<(), Error> {
        let mut sinks = Sinks::new();
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(failure(Kind::Closed, "the subscription is closed"));
        }
        Self::flush_locked(&mut inner, &mut sinks);
        for member in &inner.members {
            member.log.seek(member.group, to, &mut sinks);
        }
        drop(inner);
        call_ready(sinks);
        Ok(())
    }

    fn close(&self) {
        let mut sinks = Sinks::new();
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.closed = true;
        self.revoke(&mut inner, |_| true, &mut sinks);
        for member in std::mem::take(&mut inner.members) {
            member.log.leave(self.id, &mut sinks);
        }
        inner.hot.clear();
        drop(inner);
        self.core.timers.forget(self.id);
        if let Some(broker) = self.core.broker.upgrade() {
            broker.forget_source(self.id);
        }
        call_ready(sinks);
    }
}

impl Timed for EventSource {
    fn due(&self, now: Moment) {
        let mut sinks = Sinks::new();
        let mut inner = self.inner.lock();
        let tags = self.revoke(&mut inner, |lease| lease.until <= now, &mut sinks);
        let next = inner.leases.iter().map(|(_, lease)| lease.until).min();
        inner.timer_set = next.is_some_and(|at| self.start_timer(at).is_ok());
        let fed = self.feed(&mut inner);
        drop(inner);
        if !tags.is_empty() {
            self.bell.sink().revoked(&tags);
        }
        call_ready(sinks);
        if fed {
            self.bell.sink().ready();
        }
    }
}
