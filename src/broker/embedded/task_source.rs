//! A subscription to task queues: what it has out, and where it looks next.
//!
//! A message that is out is held by its lease, so that it can be handed over again when the lease
//! ends. The lock of a source is taken before that of a queue, never after.

use std::sync::{Arc, Weak};

use super::bell::Bell;
use super::core::{call_ready, failure, Core, Sinks};
use super::lease::Leases;
use super::queue::Queue;
use super::queue_state::Entry;
use super::timer::Timed;
use crate::broker::{Delivery, Flow, Sink, Source, Start, SubscribeSpec, Verdict};
use crate::clock::Moment;
use crate::error::{Error, Kind};
use crate::message::{release_all, Message};
use crate::sync::Mutex;

/// A subscription to one task queue, or to all that match a pattern.
#[derive(Debug)]
pub(super) struct TaskSource {
    pub id: u64,
    core: Arc<Core>,
    own: Weak<TaskSource>,
    lease: Option<std::time::Duration>,
    prefetch: usize,
    bell: Bell,
    inner: Mutex<Inner>,
}

/// Guarded together: fetching and settling change the same leases.
#[derive(Debug, Default)]
struct Inner {
    closed: bool,
    leases: Leases<Lease>,
    queues: Vec<Arc<Queue>>,
    /// Queues that may have something, as indexes of `queues`.
    hot: Vec<u32>,
    /// The last fetch found no room in the prefetch.
    starved: bool,
    timer_set: bool,
    /// Messages to let go; kept for its memory.
    released: Vec<Message>,
}

#[derive(Debug)]
struct Lease {
    message: Message,
    bytes: u32,
    queue: u32,
    tries: u32,
    handed: bool,
    until: Moment,
}

impl TaskSource {
    /// A source without queues.
    pub fn new(core: &Arc<Core>, spec: &SubscribeSpec, sink: Arc<dyn Sink>) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            id: core.id(),
            core: Arc::clone(core),
            own: own.clone(),
            lease: spec.lease,
            prefetch: spec.prefetch.max(1),
            bell: Bell::new(sink),
            inner: Mutex::default(),
        })
    }

    /// How queues tell it of messages.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Adds a queue; answers whether the sink must be called.
    pub fn attach(self: &Arc<Self>, queue: &Arc<Queue>) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed {
            return false;
        }
        // The place of a deleted queue is used again once nothing of it is out.
        let Inner { queues, leases, .. } = &mut *inner;
        let is_free = |slot: usize| !leases.iter().any(|(_, lease)| lease.queue as usize == slot);
        let dead = queues.iter().enumerate().position(|(slot, own)| own.is_dead() && is_free(slot));
        let slot = dead.unwrap_or(queues.len());
        match queues.get_mut(slot) {
            Some(place) => *place = Arc::clone(queue),
            None => queues.push(Arc::clone(queue)),
        }
        queue.join(self.id, slot as u32, self)
    }

    /// Starts the timer that ends leases. Fails where the system refuses its thread.
    pub fn start_timer(&self, at: Moment) -> Result<(), Error> {
        self.core.timers.set(self.id, at, self.own.clone() as Weak<dyn Timed>)
    }

    /// Ends the source with its broker: nothing is put back.
    pub fn end(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        for (_, lease) in std::mem::take(&mut inner.leases).iter() {
            if let Some(queue) = inner.queues.get(lease.queue as usize) {
                queue.free(1, lease.bytes as usize);
            }
        }
        inner.queues.clear();
        inner.hot.clear();
        drop(inner);
        self.core.timers.forget(self.id);
    }

    /// Takes from each queue that may have something, once.
    fn take_from_hot(&self, inner: &mut Inner, mut want: usize, out: &mut Vec<Delivery>) {
        let until = self.lease.map_or(Moment::NEVER, |lease| self.core.clock.now().plus(lease));
        let Inner { hot, queues, leases, .. } = inner;
        let mut index = 0;
        while want > 0 {
            let Some(&slot) = hot.get(index) else { break };
            let Some(queue) = queues.get(slot as usize) else { break };
            let taken = queue.take(self.id, want, out, |message, kept, tries, handed| {
                let bytes = message.size() as u32;
                let lease = Lease { message: kept, bytes, queue: slot, tries, handed, until };
                Delivery {
                    attempt: 1 + u32::from(message.attempts()) + tries,
                    message,
                    tag: leases.insert(lease),
                    unsure: 0,
                    redelivered: handed,
                    provisional: false,
                    partition: 0,
                    offset: -1,
                }
            });
            if taken == 0 {
                hot.remove(index);
            } else {
                want -= taken;
                index += 1;
            }
        }
        // The next fetch begins with a queue that this one did not reach.
        let turn = index.min(hot.len());
        hot.rotate_left(turn);
    }

    /// Lets go of leases; what is not done goes back to its queue.
    fn give_back(&self, inner: &mut Inner, entries: Vec<(u32, Entry, Option<Moment>)>, sinks: &mut Sinks) {
        let mut entries = entries.into_iter().peekable();
        while let Some((slot, entry, due)) = entries.next() {
            let Some(queue) = inner.queues.get(slot as usize) else { continue };
            let mut first = Some((entry, due));
            let run = std::iter::from_fn(|| {
                first.take().or_else(|| entries.next_if(|next| next.0 == slot).map(|(_, entry, due)| (entry, due)))
            });
            queue.put_back(run, sinks);
        }
    }

    /// Ends leases that `which` chooses as if handed over in vain; answers their tags.
    fn revoke(&self, inner: &mut Inner, which: impl Fn(&Lease) -> bool, sinks: &mut Sinks) -> Vec<u64> {
        let mut tags = Vec::new();
        let mut entries = Vec::new();
        for (tag, lease) in inner.leases.remove_if(which) {
            tags.push(tag);
            let entry = Entry { message: lease.message, tries: lease.tries + 1, handed: true };
            entries.push((lease.queue, entry, None));
        }
        self.give_back(inner, entries, sinks);
        tags
    }

    /// Whether a source that had no room has some now.
    fn feed(&self, inner: &mut Inner) -> bool {
        let fed = inner.starved && inner.leases.len() < self.prefetch;
        if fed {
            inner.starved = false;
        }
        fed
    }
}

impl Source for TaskSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let mut sinks = Sinks::new();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.closed {
            return Flow::End;
        }
        let before = out.len();
        let want = max.min(self.prefetch.saturating_sub(inner.leases.len()));
        if want == 0 {
            if max == 0 {
                self.bell.leave();
            } else {
                inner.starved = true;
            }
            self.bell.collect(&mut inner.hot);
            for slot in &inner.hot {
                if let Some(queue) = inner.queues.get(*slot as usize) {
                    queue.pass_on(&mut sinks);
                }
            }
            drop(guard);
            call_ready(sinks);
            return Flow::Idle;
        }
        if inner.hot.is_empty() {
            self.bell.collect_or_all(&mut inner.hot, inner.queues.len());
        }
        loop {
            // Also while there is enough from others: a busy queue must not keep a new one waiting.
            if self.bell.has_rung() {
                self.bell.collect(&mut inner.hot);
            }
            self.take_from_hot(inner, want, out);
            if out.len() > before {
                break;
            }
            if self.bell.rest() {
                return Flow::Idle;
            }
        }
        if let Some(lease) = self.lease.filter(|_| !inner.timer_set) {
            inner.timer_set = self.start_timer(self.core.clock.now().plus(lease)).is_ok();
        }
        Flow::More
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let mut sinks = Sinks::new();
        let (mut wanted, mut back, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        // Freed per queue, told in runs: most sources have one.
        let mut run = (u32::MAX, 0, 0);
        let mut free = |run: (u32, u64, usize), queues: &[Arc<Queue>]| {
            if let Some(queue) = queues.get(run.0 as usize) {
                queue.free(run.1, run.2);
                if queue.is_wanted() {
                    wanted.push(Arc::clone(queue));
                }
            }
        };
        for &(tag, verdict) in verdicts {
            let Some(lease) = inner.leases.remove(tag) else {
                ended.push(tag);
                continue;
            };
            let message = lease.message;
            let (tries, handed, due) = match verdict {
                Verdict::Ack => {
                    if run.0 != lease.queue {
                        free(run, &inner.queues);
                        run = (lease.queue, 0, 0);
                    }
                    run.1 += 1;
                    run.2 += lease.bytes as usize;
                    inner.released.push(message);
                    continue;
                }
                Verdict::Retry(delay) if delay.is_zero() => (lease.tries + 1, true, None),
                Verdict::Retry(delay) => (lease.tries + 1, true, Some(self.core.clock.now().plus(delay))),
                Verdict::Return => (lease.tries, lease.handed, None),
            };
            back.push((lease.queue, Entry { message, tries, handed }, due));
        }
        free(run, &inner.queues);
        if let Some(journal) = &self.core.journal {
            journal.removed(inner.released.iter().map(Message::seq));
        }
        release_all(&mut inner.released);
        if !back.is_empty() {
            self.give_back(inner, back, &mut sinks);
        }
        let fed = self.feed(inner);
        drop(guard);
        for queue in wanted {
            queue.freed();
        }
        self.core.memory_freed();
        call_ready(sinks);
        if fed {
            self.bell.sink().ready();
        }
        ended
    }

    fn held(&self, tag: u64) -> Option<Message> {
        self.inner.lock().leases.find(tag).map(|lease| lease.message.clone())
    }

    fn extend(&self, tag: u64, lease: std::time::Duration) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(failure(Kind::Closed, "the subscription is closed"));
        }
        let Some(own) = inner.leases.find(tag) else {
            return Err(failure(Kind::Stale, "the lease of this delivery has ended"));
        };
        if self.lease.is_none() {
            return Ok(());
        }
        own.until = self.core.clock.now().plus(lease);
        let until = own.until;
        drop(inner);
        self.start_timer(until)
    }

    fn seek(&self, _to: Start) -> Result<(), Error> {
        Err(failure(Kind::Unsupported, "tasks have no offsets to seek"))
    }

    fn close(&self) {
        let mut sinks = Sinks::new();
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.closed = true;
        self.revoke(&mut inner, |_| true, &mut sinks);
        for queue in std::mem::take(&mut inner.queues) {
            queue.leave(self.id, &mut sinks);
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

impl Timed for TaskSource {
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
