//! A subscription's source, watched: what it gives is looked up in the memory of its group, and what is settled
//! is entered there. It stands between the broker's source and the [feed](crate::hub::feed), and is not there
//! where nothing is to be remembered.
//!
//! ```text
//! broker's source ── fetch ──> known as done: acknowledged, after the feed's locks
//!                              being handled: held back in the memory ── its end ──> ready
//!                              else, and what is ready ──> feed
//! broker's source ── broken ──> not handed over yet: forgotten; with a handler: its tag stays good, and what is
//!                               decided by it is what becomes of the copy that comes
//! ```
//!
//! Lock order: feed → source (this one's, then the broker's) → memory; none is held while something is settled.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::group::{Copy, Group};
use super::{Arrival, Effects, Keeps, Ticket};
use crate::broker::{BackendKind, Broken, Delivery, Flow, Level, Sink, Source, Start, SubscribeSpec, Verdict};
use crate::error::Result;
use crate::hub::provisional::is_for_all;
use crate::hub::subscribe::sink::SubSink;
use crate::hub::{Shared, Timeout};
use crate::limits::PREFETCH_MAX;
use crate::message::{Message, TopicKind};
use crate::sync::Mutex;

/// A source that knows what its group has seen.
pub(in crate::hub) struct Watched {
    /// Of its tickets.
    pub number: u64,
    group: Arc<Group>,
    inner: Arc<dyn Source>,
    sink: Arc<SubSink>,
    lease: Option<Duration>,
    prefetch: usize,
    /// Provisional copies come here, of events whose real ones are known by their place.
    has_copies: bool,
    own: Weak<Watched>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Held back before, to be handed over now.
    ready: VecDeque<Delivery>,
    /// With a handler, though their connection is gone.
    broken: HashMap<u64, Message>,
    /// Decided when their connection was gone already, which this has not been told yet. The oldest is forgotten
    /// beyond the prefetch.
    late: VecDeque<u64>,
    /// What a fetch leaves to be done after the locks.
    drops: Vec<(u64, Verdict)>,
    effects: Effects<Copy>,
    /// Reused by every fetch.
    came: Vec<Delivery>,
}

/// What the program's end uses, and the same where it is watched.
type Opened = (Arc<dyn Source>, Option<Arc<Watched>>);

/// Opens a source on the backend that a subscription's topic has, watched where there is a use for it: by option,
/// or as its connection can break.
pub(in crate::hub) fn open(
    hub: &Shared,
    (backend, spec): (BackendKind, &SubscribeSpec),
    dedup: bool,
    sink: &Arc<SubSink>,
    timeout: Timeout,
) -> Result<Opened> {
    let keeps = match dedup {
        true => Some(Keeps::Every),
        // Where it is not in this process its connection can break.
        false => (backend != BackendKind::Embedded).then_some(Keeps::Broken),
    };
    let keeps = keeps.filter(|_| !spec.read_only);
    let Some(group) = keeps.and_then(|keeps| hub.memories.group(hub, (backend, spec), keeps)) else {
        let plain: Arc<dyn Sink> = Arc::<SubSink>::clone(sink);
        return Ok((hub.open_source(spec, plain, timeout)?, None));
    };
    let between = Arc::new(WatchedSink { sink: Arc::clone(sink), source: OnceLock::new() });
    let inner = hub.open_source(spec, Arc::<WatchedSink>::clone(&between), timeout)?;
    let watched = Watched::new(hub.next_id(), group, inner, Arc::clone(sink), spec);
    // Set once, here. What was told before is nothing: nobody has fetched.
    let _ = between.source.set(Arc::downgrade(&watched));
    Ok((Arc::<Watched>::clone(&watched), Some(watched)))
}

impl Watched {
    fn new(
        number: u64,
        group: Arc<Group>,
        inner: Arc<dyn Source>,
        sink: Arc<SubSink>,
        spec: &SubscribeSpec,
    ) -> Arc<Self> {
        let (lease, prefetch) = (spec.lease, spec.prefetch);
        let has_copies = spec.kind == TopicKind::Event && group.keeps == Keeps::Broken;
        let watched = Arc::new_cyclic(|own| Self {
            number,
            group,
            inner,
            sink,
            lease,
            prefetch,
            has_copies,
            own: Weak::clone(own),
            state: Mutex::default(),
        });
        watched.group.add(number, Weak::clone(&watched.own));
        watched
    }

    fn ticket(&self, tag: u64) -> Ticket {
        Ticket { source: self.number, tag }
    }

    /// Whether the last fetch has left something to be done.
    pub fn has_chores(&self) -> bool {
        let state = self.state.lock();
        !state.drops.is_empty() || !state.effects.is_empty()
    }

    /// Does it. With no lock held.
    pub fn do_chores(&self) {
        let (drops, effects) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.drops), std::mem::take(&mut state.effects))
        };
        if !drops.is_empty() {
            self.group.count_dropped(drops.len());
            // A lease that has ended meanwhile comes again, and here again.
            drop(self.inner.settle(&drops));
        }
        self.group.carry_out(effects);
    }

    /// Settles one that was held back.
    pub(super) fn settle_copy(&self, tag: u64, verdict: Verdict) {
        drop(self.inner.settle(&[(tag, verdict)]));
    }

    /// One that was held back is handed over.
    pub(super) fn release(&self, delivery: Delivery) {
        if let Some(lease) = self.lease {
            // It begins now. Where it has ended, that is told, too.
            let _ = self.inner.extend(delivery.tag, lease);
        }
        self.state.lock().ready.push_back(delivery);
        self.sink.ready();
    }

    /// A handler is not waited for any more.
    pub(super) fn wait_ended(&self, tag: u64) {
        if self.state.lock().broken.remove(&tag).is_some() {
            self.sink.revoked(&[tag]);
        }
    }

    /// Keeps what is to be handed over of what came.
    fn look_at(&self, state: &mut State, out: &mut Vec<Delivery>, from: usize) {
        state.came.extend(out.drain(from..));
        let State { came, drops, effects, .. } = state;
        for delivery in came.drain(..) {
            if delivery.provisional && self.has_copies {
                let (id, by) = (self.group.id_of_copy(&delivery.message), self.ticket(delivery.tag));
                let ((), more) = self.group.with(|memory, now, effects| memory.start(now, id, by, effects));
                effects.ended.extend(more.ended);
                effects.run.extend(more.run);
                out.push(delivery);
                continue;
            }
            let Some(id) = self.shown(&delivery).or_else(|| self.looked_up(&delivery)) else {
                out.push(delivery);
                continue;
            };
            let (tag, copy) = (delivery.tag, Copy { source: Weak::clone(&self.own), delivery });
            let (arrival, more) =
                self.group.with(|memory, now, effects| memory.arrive(now, id, self.ticket(tag), copy, effects));
            match arrival {
                Arrival::Run(copy) => out.push(copy.delivery),
                Arrival::Done(_) => drops.push((tag, Verdict::Ack)),
                Arrival::Held => {}
            }
            effects.ended.extend(more.ended);
            effects.run.extend(more.run);
        }
    }

    /// The id of the provisional copy of one, where that is known.
    fn shown(&self, delivery: &Delivery) -> Option<super::Id> {
        if !self.has_copies || is_for_all(&delivery.message) {
            return None;
        }
        let id = self.group.id_of_copy(&delivery.message);
        self.group.with(|memory, _, _| memory.knows(id)).0.then_some(id)
    }

    /// The id of one that is to be looked up. In the ledger there is only what came before: of tasks that is
    /// marked, of events it has its place.
    fn looked_up(&self, delivery: &Delivery) -> Option<super::Id> {
        let Delivery { message, redelivered, partition, offset, .. } = delivery;
        let may_be = self.group.keeps == Keeps::Every || *redelivered || *offset >= 0;
        may_be.then(|| self.group.id(message, *partition, *offset)).flatten()
    }

    /// Enters what became of deliveries whose verdict the broker has.
    fn enter(&self, verdicts: &[(u64, Verdict)], ended: &[u64]) {
        let ((), effects) = self.group.with(|memory, now, effects| {
            for (tag, verdict) in verdicts {
                match verdict {
                    Verdict::Ack if !ended.contains(tag) => drop(memory.done(now, self.ticket(*tag), effects)),
                    _ => memory.failed(self.ticket(*tag), effects),
                }
            }
        });
        self.group.carry_out(effects);
    }

    /// Takes a verdict on one whose connection is gone; `false`: it has no effect, the message comes again.
    fn settle_broken(&self, tag: u64, verdict: Verdict) -> bool {
        let (taken, effects) = self.group.with(|memory, now, effects| match verdict {
            Verdict::Ack => memory.done(now, self.ticket(tag), effects),
            _ => {
                memory.failed(self.ticket(tag), effects);
                false
            }
        });
        self.group.carry_out(effects);
        taken
    }

    /// The broker says that it knows nothing of this one: its connection is gone, or its lease.
    fn settle_unknown(&self, tag: u64, verdict: Verdict) -> bool {
        let is_broken = {
            let mut state = self.state.lock();
            let is_broken = state.broken.remove(&tag).is_some();
            if !is_broken {
                if state.late.len() >= self.prefetch {
                    state.late.pop_front();
                }
                state.late.push_back(tag);
            }
            is_broken
        };
        is_broken && self.settle_broken(tag, verdict)
    }

    /// The connection under these is gone.
    fn broken(&self, all: Vec<Broken>) {
        let tags: HashSet<u64> = all.iter().map(|own| own.tag).collect();
        {
            let mut state = self.state.lock();
            state.ready.retain(|own| !tags.contains(&own.tag));
        }
        let handed = self.sink.handed(&tags);
        let mut over = Vec::new();
        for own in all {
            let tag = own.tag;
            if !handed.contains(&tag) || !self.keep_broken(own) {
                let ((), effects) = self.group.with(|memory, _, effects| memory.failed(self.ticket(tag), effects));
                self.group.carry_out(effects);
                over.push(tag);
            }
        }
        self.state.lock().late.retain(|tag| !tags.contains(tag));
        if !over.is_empty() {
            self.sink.revoked(&over);
        }
    }

    /// Waits for the handler of one whose connection is gone, if that can be.
    fn keep_broken(&self, own: Broken) -> bool {
        let Broken { tag, message, partition, offset } = own;
        let Some(id) = self.group.id(&message, partition, offset) else { return false };
        // They keep their places among the tokens of the subscription, beside as many as its prefetch.
        if self.state.lock().broken.len() >= self.prefetch.min(PREFETCH_MAX - self.prefetch) {
            return false;
        }
        let (kept, effects) = self.group.with(|memory, now, effects| memory.broke(now, id, self.ticket(tag), effects));
        self.group.carry_out(effects);
        let mut state = self.state.lock();
        // Decided meanwhile: whoever did was told that it comes again.
        let kept = kept && !state.late.contains(&tag);
        if kept {
            state.broken.insert(tag, message);
        }
        kept
    }

    /// The leases of these have ended.
    fn revoked(&self, tags: &[u64]) {
        {
            let mut state = self.state.lock();
            state.ready.retain(|own| !tags.contains(&own.tag));
            state.late.retain(|tag| !tags.contains(tag));
        }
        self.sink.revoked(tags);
        let ((), effects) = self.group.with(|memory, _, effects| {
            tags.iter().for_each(|tag| memory.failed(self.ticket(*tag), effects));
        });
        self.group.carry_out(effects);
    }

    fn forget(&self) {
        let number = self.number;
        self.state.lock().broken.clear();
        let ((), effects) = self.group.with(|memory, _, effects| memory.forget_source(number, effects));
        self.group.carry_out(effects);
    }
}

impl Source for Watched {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let mut state = self.state.lock();
        let from = out.len();
        let count = max.min(state.ready.len());
        out.extend(state.ready.drain(..count));
        if count > 0 && count == max {
            return Flow::More;
        }
        let looked = out.len();
        let flow = self.inner.fetch(max - (looked - from), out);
        let may_be_known = || !self.group.knows_nothing() || out.iter().skip(looked).any(|own| own.provisional);
        if out.len() > looked && may_be_known() {
            self.look_at(&mut state, out, looked);
        }
        flow
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        if self.group.waits_for_nothing() {
            let mut ended = self.inner.settle(verdicts);
            if !ended.is_empty() {
                let of = |tag: u64| verdicts.iter().find(|(own, _)| *own == tag).map(|(_, verdict)| *verdict);
                ended.retain(|tag| !of(*tag).is_some_and(|verdict| self.settle_unknown(*tag, verdict)));
            }
            return ended;
        }
        let (broken, others): (Vec<_>, Vec<_>) = {
            let mut state = self.state.lock();
            verdicts.iter().partition(|(tag, _)| state.broken.remove(tag).is_some())
        };
        let unknown = if others.is_empty() { Vec::new() } else { self.inner.settle(&others) };
        let mut ended = Vec::new();
        for (tag, verdict) in broken {
            if !self.settle_broken(tag, verdict) {
                ended.push(tag);
            }
        }
        let (unknown, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|(tag, _)| unknown.contains(tag));
        for (tag, verdict) in unknown {
            if !self.settle_unknown(tag, verdict) {
                self.enter(&[(tag, verdict)], &[tag]);
                ended.push(tag);
            }
        }
        self.enter(&others, &[]);
        ended
    }

    fn held(&self, tag: u64) -> Option<Message> {
        let broken = self.state.lock().broken.get(&tag).cloned();
        broken.or_else(|| self.inner.held(tag))
    }

    fn level(&self, tag: u64) -> Level {
        self.inner.level(tag)
    }

    fn extend(&self, tag: u64, lease: Duration) -> Result<()> {
        self.inner.extend(tag, lease)?;
        // Those that wait for it wait longer, too: not to be taken back before it is.
        for (source, copy) in self.group.held_behind(self.ticket(tag)) {
            if let Some(source) = source.upgrade() {
                let _ = source.inner.extend(copy, lease + source.lease.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn seek(&self, to: Start) -> Result<()> {
        // What was handed over before is wanted again.
        let ((), mut effects) = self.group.with(|memory, _, effects| memory.clear(effects));
        let ready = std::mem::take(&mut self.state.lock().ready);
        effects.back.extend(ready.into_iter().map(|delivery| Copy { source: Weak::clone(&self.own), delivery }));
        self.group.carry_out(effects);
        self.inner.seek(to)
    }

    fn close(&self) {
        self.forget();
        self.inner.close();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.forget();
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("number", &self.number).field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The broker's view of a watched subscription. It does not hold the source, which holds the broker's.
struct WatchedSink {
    sink: Arc<SubSink>,
    source: OnceLock<Weak<Watched>>,
}

impl WatchedSink {
    fn source(&self) -> Option<Arc<Watched>> {
        self.source.get()?.upgrade()
    }
}

impl Sink for WatchedSink {
    fn ready(&self) {
        self.sink.ready();
    }

    fn revoked(&self, tags: &[u64]) {
        match self.source() {
            Some(source) => source.revoked(tags),
            None => self.sink.revoked(tags),
        }
    }

    fn broken(&self, ended: Vec<Broken>) {
        match self.source() {
            Some(source) => source.broken(ended),
            None => self.sink.broken(ended),
        }
    }
}
