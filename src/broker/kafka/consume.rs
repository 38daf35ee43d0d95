//! A subscription: what is known of its partitions, shared between the program's end ([`KafkaSource`]
//! fetches and settles) and the thread that talks to the cluster (`pump`).
//!
//! [`KafkaSource`]: super::source::KafkaSource

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::partition::Partition;
use super::positions;
use super::raw::Wake;
use super::Shared;
use crate::broker::{Broken, Delivery, Group, Ordered, Sink, Start, SubscribeSpec, Verdict};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::message::TopicKind;
use crate::pattern::Pattern;
use crate::sync::{Deadline, Mutex};

/// Bits of a tag that name a place in its partition; those above name the partition.
const PLACE_BITS: u32 = 40;

/// A partition that is read here. It is another one each time it is assigned or sought.
#[derive(Debug)]
pub(super) struct Slot {
    pub topic: Arc<str>,
    pub number: i32,
    pub partition: Partition,
    /// It is being given up: nothing more of it is handed over.
    pub leaving: bool,
    /// The group went on elsewhere: what is settled here has no effect.
    pub past: bool,
    /// What is before this was deleted, and is not handed over any more.
    pub deleted: i64,
}

/// A wish to go on elsewhere, answered when it is carried out.
pub(super) type Seek = (Start, oneshot::Sender<Result<()>>);

#[derive(Default)]
pub(super) struct State {
    pub slots: BTreeMap<u32, Slot>,
    /// The last slot's name.
    names: u32,
    /// The slot that was served last.
    turn: u32,
    /// Handed over and not settled, of all.
    pub out: usize,
    /// Whoever fetches was told that there is nothing, and waits for a ring.
    idle: bool,
    /// The program is closing it, or has.
    pub closed: bool,
    /// It ended by itself.
    pub lost: bool,
    /// Everything up to its stop has been handed over, once what waits is.
    pub at_end: bool,
    pub seeks: Vec<Seek>,
    /// Who waits for a commit.
    pub commits: Vec<oneshot::Sender<()>>,
    /// There was more than could wait here.
    pub starved: bool,
    /// Where partitions go on, until their thread takes it to be committed.
    pub moved_to: Vec<(Arc<str>, i32, i64, String)>,
}

/// Both ends of one subscription.
pub(super) struct Subscriber {
    pub spec: SubscribeSpec,
    pub pattern: Pattern,
    pub clock: Clock,
    pub sink: Arc<dyn Sink>,
    pub wake: Arc<Wake>,
    pub state: Mutex<State>,
    /// Told once, when the first partitions were assigned, or could not be.
    started: Mutex<Option<oneshot::Sender<Result<()>>>>,
    /// The thread has ended.
    pub over: AtomicBool,
    /// The program had no token: that is no refusal.
    pub without_token: Arc<AtomicBool>,
    /// When it was made, wall microseconds.
    since_us: i64,
    /// Which of the members of its group in this hub it is.
    pub number: usize,
}

impl Subscriber {
    pub fn new(
        shared: &Arc<Shared>,
        spec: &SubscribeSpec,
        pattern: Pattern,
        sink: Arc<dyn Sink>,
        wake: Arc<Wake>,
        number: usize,
    ) -> (Arc<Self>, oneshot::Receiver<Result<()>>) {
        let (started, answer) = oneshot::channel();
        let own = Self {
            spec: spec.clone(),
            pattern,
            clock: shared.context.clock.clone(),
            sink,
            wake,
            state: Mutex::default(),
            started: Mutex::new(Some(started)),
            over: AtomicBool::new(false),
            without_token: Arc::default(),
            since_us: shared.context.clock.wall_us(),
            number,
        };
        (Arc::new(own), answer)
    }

    /// Whether it has no group: nothing is kept of where it is.
    pub fn is_alone(&self) -> bool {
        self.spec.read_only || self.spec.group == Group::Private
    }

    /// Where partitions begin of which the group has no place. Those that are found later began later: what was
    /// published to them since is meant.
    pub fn start_now(&self) -> Start {
        match self.spec.start {
            Start::Latest if !self.is_starting() => Start::Time(self.since_us),
            start => start,
        }
    }

    /// Whether messages of `topic` are for it.
    pub fn receives(&self, topic: &str) -> bool {
        // Dead letters lie beside the events they were, and what is the cluster's own beside all.
        self.pattern.receives(topic, TopicKind::Task) && (self.pattern.is_exact() || !topic.starts_with("__"))
    }

    /// What order its deliveries keep. Replays hand over what comes as it comes.
    pub fn ordered(&self) -> Ordered {
        match self.spec.read_only {
            true => Ordered::No,
            false => self.spec.ordered,
        }
    }

    /// Answers whoever subscribes; later answers go nowhere.
    pub fn answer_start(&self, answer: Result<()>) {
        if let Some(started) = self.started.lock().take() {
            let _ = started.send(answer);
        }
    }

    pub fn is_starting(&self) -> bool {
        self.started.lock().is_some()
    }

    /// Begins its end; the thread carries it out.
    pub fn close(&self) {
        let seeks = {
            let mut state = self.state.lock();
            state.closed = true;
            state.collect_moved();
            state.collect_handed();
            state.slots.clear();
            state.out = 0;
            state.commits.clear();
            std::mem::take(&mut state.seeks)
        };
        for (_, answer) in seeks {
            let _ = answer.send(Err(super::error::closed()));
        }
        self.wake.raise();
    }

    /// It ends by itself, for good.
    pub fn lose(&self, why: Error) {
        let ended = {
            let mut state = self.state.lock();
            state.lost = true;
            state.commits.clear();
            state.forget_all()
        };
        self.answer_start(Err(why));
        self.revoke(ended);
        self.ring();
    }

    /// Tells the program that the leases of these have ended.
    pub fn revoke(&self, ended: Vec<Broken>) {
        if !ended.is_empty() {
            self.sink.broken(ended);
        }
    }

    /// Tells whoever waits that a fetch would give something.
    pub fn ring(&self) {
        if std::mem::take(&mut self.state.lock().idle) {
            self.sink.ready();
        }
    }

    /// Wakes the thread when what waits here has become little, and there is more.
    pub fn feed(&self) {
        let mut state = self.state.lock();
        if state.starved && state.slots.values().any(|slot| slot.partition.waiting() <= self.waiting_max() / 2) {
            state.starved = false;
            drop(state);
            self.wake.raise();
        }
    }

    /// How many messages of a partition may wait here.
    pub fn waiting_max(&self) -> usize {
        match self.spec.read_only {
            true => WAITING_MAX,
            false => (self.spec.prefetch * 2).clamp(64, WAITING_MAX),
        }
    }

    /// Commits what is settled by now, of a group; waits for that, at most until `deadline`.
    pub fn commit(&self, deadline: Deadline) {
        if self.is_alone() || self.is_over() {
            return;
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state.lock();
            // One that ends commits by itself.
            if state.closed || state.lost {
                return;
            }
            state.commits.push(answer);
        }
        self.wake.raise();
        let pending = Box::pin(async move { answered.await.map_err(|_| super::error::closed()) });
        // What cannot be committed now counts as not settled.
        drop(crate::runtime::wait(pending, deadline.left()));
    }

    /// What waits here of a topic, before these offsets, is deleted there.
    pub fn drop_waiting(&self, topic: &str, before: impl Fn(i32) -> i64) {
        let mut state = self.state.lock();
        for slot in state.slots.values_mut().filter(|slot| *slot.topic == *topic) {
            let before = before(slot.number);
            slot.partition.drop_waiting(before);
            // Of a topic that is deleted whole, another one may take the name.
            slot.deleted = if before == i64::MAX { 0 } else { before };
            if before == i64::MAX {
                slot.partition.forget_moved();
            }
        }
        drop(state);
        self.ring();
    }

    /// One that was out, but not with the program, is done.
    pub fn settle_own(&self, tag: u64) {
        let (name, place) = untag(tag);
        let rings = {
            let mut state = self.state.lock();
            let now = self.clock.now();
            let done = state.slots.get_mut(&name).is_some_and(|slot| slot.partition.settle(place, Verdict::Ack, now));
            state.out -= usize::from(done);
            // It took a place among those that may be out.
            state.out < self.spec.prefetch && state.has_ready() && state.take_idle()
        };
        self.wake.raise();
        if rings {
            self.sink.ready();
        }
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

impl State {
    /// A partition to be read.
    pub fn add(&mut self, topic: &Arc<str>, number: i32, ordered: Ordered) -> u32 {
        self.names += 1;
        let partition = Partition::new(ordered);
        self.slots.insert(
            self.names,
            Slot { topic: Arc::clone(topic), number, partition, leaving: false, past: false, deleted: 0 },
        );
        self.names
    }

    /// Takes what has moved to where it is committed from.
    pub fn collect_moved(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| !slot.past) {
            if let Some(offset) = slot.partition.moved() {
                let note = positions::note(offset, slot.partition.handed());
                self.moved_to.push((Arc::clone(&slot.topic), slot.number, offset, note));
            }
        }
    }

    /// What was handed over and not settled is told to whoever has it next, for a group whose place is known.
    pub fn collect_handed(&mut self) {
        for slot in self.slots.values().filter(|slot| !slot.past) {
            let Some(offset) = slot.partition.unfinished() else { continue };
            let note = positions::note(offset, slot.partition.handed());
            if !note.is_empty() {
                self.moved_to.push((Arc::clone(&slot.topic), slot.number, offset, note));
            }
        }
    }

    /// A partition that goes on elsewhere is another one; what is out of it is settled without effect.
    pub fn renew(&mut self, name: u32, ordered: Ordered) -> Option<u32> {
        let slot = self.slots.get_mut(&name)?;
        slot.past = true;
        slot.leaving = true;
        let (topic, number) = (Arc::clone(&slot.topic), slot.number);
        if slot.partition.out() == 0 {
            self.slots.remove(&name);
        }
        Some(self.add(&topic, number, ordered))
    }

    /// Forgets what is past and has nothing out any more.
    pub fn forget_past(&mut self) {
        self.slots.retain(|_, slot| !slot.past || slot.partition.out() > 0);
    }

    /// Forgets a partition; answers what was out.
    pub fn forget(&mut self, name: u32) -> Vec<Broken> {
        let Some(slot) = self.slots.remove(&name) else { return Vec::new() };
        self.out -= slot.partition.out();
        let partition = u32::try_from(slot.number).unwrap_or_default();
        let out = slot.partition.all_out();
        out.map(|(place, message, offset)| Broken { tag: tag(name, place), message, partition, offset }).collect()
    }

    fn forget_all(&mut self) -> Vec<Broken> {
        let names: Vec<u32> = self.slots.keys().copied().collect();
        names.into_iter().flat_map(|name| self.forget(name)).collect()
    }

    /// Hands over up to `max`, from each partition in turn.
    pub fn take(&mut self, max: usize, out: &mut Vec<Delivery>) {
        let mut left = max;
        while left > 0 {
            let can = |(_, slot): &(&u32, &mut Slot)| slot.partition.has_ready() && !slot.leaving;
            let after = (Bound::Excluded(self.turn), Bound::Unbounded);
            let next = match self.slots.range_mut(after).find(can) {
                Some(next) => Some(next),
                None => self.slots.iter_mut().find(can),
            };
            let Some((name, slot)) = next else { return };
            self.turn = *name;
            // A run at a time: taking turns for each message would cost more than it evens out.
            for _ in 0..left.min(RUN) {
                let Some(taken) = slot.partition.take() else { break };
                left -= 1;
                self.out += 1;
                out.push(Delivery {
                    message: taken.message,
                    tag: tag(*name, taken.place),
                    attempt: taken.attempt,
                    unsure: 0,
                    redelivered: taken.redelivered,
                    provisional: false,
                    partition: u32::try_from(slot.number).unwrap_or_default(),
                    offset: taken.offset,
                });
            }
        }
    }

    /// Whether there is something to hand over.
    pub fn has_ready(&self) -> bool {
        self.slots.values().any(|slot| slot.partition.has_ready() && !slot.leaving)
    }

    /// Whoever fetches waits for a ring from now on, or wants none.
    pub fn set_idle(&mut self, idle: bool) {
        self.idle = idle;
    }

    pub fn take_idle(&mut self) -> bool {
        std::mem::take(&mut self.idle)
    }
}

/// Messages of a partition that wait here, at most.
const WAITING_MAX: usize = 2_048;

/// Messages of one partition that are handed over before the next has its turn.
const RUN: usize = 32;

pub(super) fn tag(slot: u32, place: u64) -> u64 {
    u64::from(slot) << PLACE_BITS | place
}

/// The slot and the place that a tag names.
pub(super) fn untag(tag: u64) -> (u32, u64) {
    ((tag >> PLACE_BITS) as u32, tag & ((1 << PLACE_BITS) - 1))
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("pattern", &self.spec.pattern).finish_non_exhaustive()
    }
}
