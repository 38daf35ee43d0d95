//! The feed of a subscription: pulls deliveries from its source, filters them, enters them into the
//! ledger, and hands them on one by one or in batches.
//!
//! A consumer that keeps up is given deliveries in growing batches, so that the broker's lock is
//! taken once for many; a slow one gets them one at a time, so that others can have the rest.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::dedup::source::Watched;
use super::provisional::has_handled;
use super::settle::{LedgerUse, Open, Owner, Token};
use super::subscribe::SubShared;
use super::Shared;
use crate::broker::{Delivery, Flow, Source, Verdict};
use crate::clock::{Clock, Moment};
use crate::config::options::Filter;
use crate::error::{Error, Kind, Result};
use crate::message::Message;
use crate::metrics::{Counter, Metrics};
use crate::sync::Mutex;

/// A consumer that comes back for more within this time keeps up.
const KEEPS_UP: Duration = Duration::from_millis(1);

/// A delivery as the program sees it.
#[derive(Debug)]
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// Settles it; 0 where nothing is to be settled (replay).
    pub token: Token,
    /// 1 for the first handing-over.
    pub attempt: u32,
    /// Handed over before.
    pub redelivered: bool,
    /// A copy shown while the backend is away.
    pub provisional: bool,
    /// Events: the partition.
    pub partition: u32,
    /// Events: the offset; -1 for tasks.
    pub offset: i64,
}

impl Incoming {
    #[inline]
    fn of(delivery: Delivery, token: Token) -> Self {
        Self {
            message: delivery.message,
            token,
            attempt: delivery.attempt,
            redelivered: delivery.redelivered,
            provisional: delivery.provisional,
            partition: delivery.partition,
            offset: delivery.offset,
        }
    }
}

thread_local! {
    /// Subscriptions that a source told of while this thread held the lock of a feed or an inbox.
    static TOLD: RefCell<Option<Vec<Arc<SubShared>>>> = const { RefCell::new(None) };
}

/// Runs `ask`, a call of a source under the lock of a feed. Sources may tell others meanwhile, as
/// one without room passes its messages on; whom they tell is kept for after the locks.
fn collecting<T>(deferred: &mut Deferred, ask: impl FnOnce() -> T) -> T {
    /// Moves what was told to where it is kept, also when `ask` panics.
    struct Collect<'a>(&'a mut Deferred, Option<Vec<Arc<SubShared>>>);
    impl Drop for Collect<'_> {
        fn drop(&mut self) {
            let told = TOLD.try_with(|told| told.replace(self.1.take())).ok().flatten().unwrap_or_default();
            self.0 .0.extend(told.into_iter().map(Later::Ready));
        }
    }
    // A thread that is ending has no list any more; it is told at once.
    let outer = TOLD.try_with(|told| told.replace(Some(Vec::new()))).unwrap_or_default();
    let _collect = Collect(deferred, outer);
    ask()
}

/// Keeps `subscription` for after the locks, if this thread holds any.
pub(super) fn tell_later(subscription: &Arc<SubShared>) -> bool {
    let kept = TOLD.try_with(|told| match &mut *told.borrow_mut() {
        Some(told) => {
            told.push(Arc::clone(subscription));
            true
        }
        None => false,
    });
    kept.unwrap_or(false)
}

/// What is settled, and who is told, after the locks are dropped.
#[derive(Debug, Default)]
pub(super) struct Deferred(Vec<Later>);

#[derive(Debug)]
enum Later {
    Settle(Arc<dyn Source>, Vec<(u64, Verdict)>),
    Bury(Arc<Owner>, Open),
    /// What its last fetch has left to be done.
    Chores(Arc<Watched>),
    Ready(Arc<SubShared>),
    /// The last hold, whose end may run a drop function of the program.
    Drop(Arc<SubShared>),
}

impl Deferred {
    /// Settles and tells it all. Call with no lock held.
    pub(super) fn run(mut self) {
        self.finish();
    }

    /// Lets go of `subscription`, now or after the locks.
    pub(super) fn let_go(&mut self, subscription: Arc<SubShared>) {
        if Arc::strong_count(&subscription) == 1 {
            self.0.push(Later::Drop(subscription));
        }
    }

    fn finish(&mut self) {
        for later in std::mem::take(&mut self.0) {
            match later {
                Later::Settle(source, verdicts) => drop(source.settle(&verdicts)),
                Later::Ready(subscription) => subscription.ready(),
                Later::Chores(watched) => watched.do_chores(),
                Later::Drop(subscription) => drop(subscription),
                Later::Bury(owner, open) => {
                    // A lease that has ended meanwhile comes again, and here again.
                    let _ = owner.attempts.bury(&owner.source, open, "its attempts ended without a verdict");
                }
            }
        }
    }
}

/// A panic between must not keep others waiting: made before the locks, this is dropped after them.
impl Drop for Deferred {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            let _ = crate::runtime::contained("deferred", || self.finish());
        }
    }
}

/// The pulling end of one subscription.
#[derive(Debug)]
pub(super) struct Feed {
    owner: Arc<Owner>,
    /// The owner's source, where it remembers what came.
    watched: Option<Arc<Watched>>,
    /// `None`: nothing is settled (replay, browsing).
    ledger: Option<LedgerUse>,
    filter: Option<Filter>,
    dry_run: bool,
    /// The group, where its real copies of events may come that it has handled already.
    group: Option<String>,
    clock: Clock,
    batch_max: usize,
    metrics: Arc<Metrics>,
    /// The source has told of something since the last fetch began.
    rung: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    buffer: VecDeque<Incoming>,
    /// Reused by every refill.
    fetched: Vec<Delivery>,
    flow: Flow,
    batch: usize,
    refilled: Moment,
    paused: bool,
    /// It is being moved: nothing is handed over, and nothing fetched.
    seeking: bool,
    /// It was moved: what its group has handled is wanted again.
    sought: bool,
    closed: bool,
    /// `None`: no manual credit.
    credit: Option<u64>,
    counts: Counts,
}

/// What went through a feed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) handed_over: u64,
    pub(super) filtered: u64,
    /// By a dry run.
    pub(super) counted: u64,
}

/// What a subscription's options say of its feed.
pub(super) struct Reads {
    pub(super) filter: Option<Filter>,
    /// The group, of events.
    pub(super) group: Option<String>,
    pub(super) manual_credit: bool,
    pub(super) dry_run: bool,
}

impl Feed {
    pub(super) fn new(
        hub: &Arc<Shared>,
        (owner, watched): (Arc<Owner>, Option<Arc<Watched>>),
        ledger: Option<LedgerUse>,
        Reads { filter, group, manual_credit, dry_run }: Reads,
    ) -> Self {
        if let Some(ledger) = &ledger {
            ledger.set_owner(Arc::clone(&owner));
        }
        let state = State {
            buffer: VecDeque::new(),
            fetched: Vec::new(),
            flow: Flow::More,
            batch: 1,
            refilled: Moment::default(),
            paused: false,
            seeking: false,
            sought: false,
            closed: false,
            credit: manual_credit.then_some(0),
            counts: Counts::default(),
        };
        Self {
            owner,
            watched,
            ledger,
            filter,
            dry_run,
            group,
            clock: hub.context.clock.clone(),
            batch_max: hub.context.limits.fetch_batch,
            metrics: Arc::clone(&hub.metrics),
            rung: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Hands up to `max` deliveries to `give`. `Idle`: the sink will be told when there is more.
    pub(super) fn take(&self, max: usize, deferred: &mut Deferred, mut give: impl FnMut(Incoming)) -> Flow {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut given = 0;
        let flow = loop {
            if state.closed {
                break Flow::Idle;
            }
            let wanted = max - given;
            let allowed = if state.paused || state.seeking { 0 } else { state.credit.unwrap_or(u64::MAX) };
            let room = wanted.min(usize::try_from(allowed).unwrap_or(usize::MAX));
            let ready = room.min(state.buffer.len());
            state.buffer.drain(..ready).for_each(&mut give);
            given += ready;
            if let Some(credit) = &mut state.credit {
                *credit -= ready as u64;
            }
            if given == max {
                // What the source said last may be older than its ring, if all of this was buffered.
                let more = !state.buffer.is_empty() || (state.flow == Flow::Idle && self.rung.load(Ordering::SeqCst));
                break if more { Flow::More } else { state.flow };
            }
            if ready == room && room < wanted {
                // Paused or without credit: `pause` and `request` tell the sink again.
                self.want_nothing(state, deferred);
                let ended = state.buffer.is_empty() && matches!(state.flow, Flow::End | Flow::Lost);
                break if ended { state.flow } else { Flow::Idle };
            }
            if matches!(state.flow, Flow::End | Flow::Lost) {
                break state.flow;
            }
            given += self.refill(state, room - ready, deferred, &mut give);
            if given < max && state.buffer.is_empty() && state.flow != Flow::More {
                break state.flow;
            }
        };
        if given > 0 {
            state.counts.handed_over += given as u64;
            let counter = if self.ledger.is_some() { Counter::Delivered } else { Counter::Replayed };
            self.metrics.add(counter, given as u64);
        }
        flow
    }

    /// Hands over nothing from now on. What was not handed over goes back to the broker as if it
    /// had not been fetched.
    pub(super) fn stop(&self) {
        let mut deferred = Deferred::default();
        {
            let mut state = self.state.lock();
            state.closed = true;
            self.give_back(&mut state, &mut deferred);
            self.want_nothing(&mut state, &mut deferred);
        }
        deferred.run();
    }

    /// Closes the source: deliveries not settled by now go to others.
    pub(super) fn close(&self) {
        self.stop();
        // First, so that nothing is settled that goes back.
        if let Some(ledger) = &self.ledger {
            ledger.end_all();
        }
        self.owner.source.close();
    }

    /// Pauses or resumes; what is buffered goes back meanwhile, for others to have. A replay keeps it:
    /// it is nobody else's, and its source is past it.
    pub(super) fn pause(&self, paused: bool) {
        let mut deferred = Deferred::default();
        {
            let mut state = self.state.lock();
            state.paused = paused;
            if paused {
                if self.ledger.is_some() {
                    self.give_back(&mut state, &mut deferred);
                }
                self.want_nothing(&mut state, &mut deferred);
            }
        }
        deferred.run();
    }

    /// Allows `count` more deliveries; without manual credit this is an error.
    pub(super) fn request(&self, count: u32) -> Result<()> {
        match &mut self.state.lock().credit {
            Some(credit) => {
                *credit = credit.saturating_add(u64::from(count));
                Ok(())
            }
            None => Err(Error::new(Kind::State, "the subscription was not opened with \"credit\": \"manual\"")),
        }
    }

    /// Moves an event subscription; what is buffered is forgotten. Nothing is handed over meanwhile; whoever
    /// fetches is to be told afterwards, whatever the answer.
    pub(super) fn seek(&self, to: crate::broker::Start) -> Result<()> {
        let mut deferred = Deferred::default();
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.seeking, true) {
                return Err(Error::new(Kind::State, "the subscription is being moved by another call"));
            }
            if self.ledger.is_some() {
                self.give_back(&mut state, &mut deferred);
            }
        }
        deferred.run();
        // With no lock: a server's source waits for its server, and may have to tell of ended leases.
        let sought = self.owner.source.seek(to);
        let mut state = self.state.lock();
        state.seeking = false;
        if sought.is_ok() {
            state.sought = true;
            state.buffer.clear();
            state.flow = Flow::More;
        }
        sought
    }

    /// The source has something. Before whoever fetches is told.
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
    }

    /// The leases of these tags have ended.
    pub(super) fn revoked(&self, tags: &[u64]) {
        self.metrics.add(Counter::Revoked, tags.len() as u64);
        let Some(ledger) = &self.ledger else { return };
        let mut state = self.state.lock();
        ledger.revoke(tags);
        // What is buffered under an ended lease must not be handed over.
        state.buffer.retain(|incoming| ledger.is_open(incoming.token));
    }

    /// Of these tags, whose connection is gone: drops those that nobody has been handed yet, and answers those that
    /// are with a handler.
    pub(super) fn handed(&self, tags: &HashSet<u64>) -> HashSet<u64> {
        let Some(ledger) = &self.ledger else { return HashSet::new() };
        let mut state = self.state.lock();
        state.buffer.retain(|incoming| {
            let is_gone = ledger.tag_of(incoming.token).is_some_and(|tag| tags.contains(&tag));
            if is_gone {
                ledger.withdraw(incoming.token);
            }
            !is_gone
        });
        ledger.open_of(tags)
    }

    pub(super) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Deliveries out and not settled.
    pub(super) fn unsettled(&self) -> usize {
        self.ledger.as_ref().map_or(0, LedgerUse::open_count)
    }

    /// Lets others have what the source was told of.
    fn want_nothing(&self, state: &mut State, deferred: &mut Deferred) {
        // What it found stays found; only an end is news.
        let flow = collecting(deferred, || self.owner.source.fetch(0, &mut state.fetched));
        if matches!(flow, Flow::End | Flow::Lost) {
            state.flow = flow;
        }
    }

    fn give_back(&self, state: &mut State, deferred: &mut Deferred) {
        let Some(ledger) = &self.ledger else {
            state.buffer.clear();
            return;
        };
        let tags = state.buffer.drain(..).filter_map(|incoming| ledger.withdraw(incoming.token));
        let verdicts: Vec<_> = tags.map(|tag| (tag, Verdict::Return)).collect();
        if !verdicts.is_empty() {
            deferred.0.push(Later::Settle(Arc::clone(&self.owner.source), verdicts));
        }
    }

    /// Fetches, hands the first `room` deliveries on at once and buffers the rest; answers how many
    /// were handed on.
    fn refill(
        &self,
        state: &mut State,
        room: usize,
        deferred: &mut Deferred,
        give: &mut impl FnMut(Incoming),
    ) -> usize {
        let now = self.clock.now();
        let keeps_up = now.since(state.refilled) < KEEPS_UP;
        state.batch = if keeps_up { (state.batch * 2).min(self.batch_max) } else { 1 };
        state.refilled = now;
        let credit = state.credit.map_or(usize::MAX, |credit| usize::try_from(credit).unwrap_or(usize::MAX));
        let wanted = room.max(state.batch).min(credit);
        self.rung.store(false, Ordering::SeqCst);
        state.flow = collecting(deferred, || self.owner.source.fetch(wanted, &mut state.fetched));
        if let Some(watched) = self.watched.as_ref().filter(|watched| watched.has_chores()) {
            deferred.0.push(Later::Chores(Arc::clone(watched)));
        }
        let State { fetched, buffer, counts, sought, .. } = state;
        let mut ledger = self.ledger.as_ref().map(LedgerUse::entering);
        let (mut given, mut redelivered, mut provisional) = (0, 0, 0);
        let (mut skipped, mut handled) = (Vec::new(), 0);
        let group = self.group.as_deref().filter(|_| !*sought);
        for delivery in fetched.drain(..) {
            if group.is_some_and(|group| has_handled(&delivery.message, group)) {
                handled += 1;
                skipped.push((delivery.tag, Verdict::Ack));
                continue;
            }
            if self.filter.as_ref().is_some_and(|own| !passes(own, &delivery.message)) {
                skipped.push((delivery.tag, Verdict::Ack));
                continue;
            }
            let token = match &mut ledger {
                Some(_) if self.owner.attempts.exhausted(delivery.attempt, delivery.unsure, &delivery.message) => {
                    let open = Open { tag: delivery.tag, attempt: delivery.attempt - 1 };
                    deferred.0.push(Later::Bury(Arc::clone(&self.owner), open));
                    continue;
                }
                Some(ledger) => ledger.enter(delivery.tag, delivery.attempt).unwrap_or_default(),
                None if self.dry_run => {
                    counts.counted += 1;
                    continue;
                }
                None => 0,
            };
            redelivered += u64::from(delivery.redelivered);
            provisional += u64::from(delivery.provisional);
            let incoming = Incoming::of(delivery, token);
            if given < room {
                give(incoming);
                given += 1;
            } else {
                buffer.push_back(incoming);
            }
        }
        drop(ledger);
        if let Some(credit) = &mut state.credit {
            *credit -= given as u64;
        }
        if redelivered + provisional > 0 {
            self.metrics.add(Counter::Redelivered, redelivered);
            self.metrics.add(Counter::Provisional, provisional);
        }
        if !skipped.is_empty() {
            self.skip(state, skipped, handled, deferred);
        }
        given
    }

    /// Settles what is not handed over: `handled` of them by their headers, the others by the filter.
    fn skip(&self, state: &mut State, skipped: Vec<(u64, Verdict)>, handled: u64, deferred: &mut Deferred) {
        let filtered = skipped.len() as u64 - handled;
        state.counts.filtered += filtered;
        self.metrics.add(Counter::Filtered, filtered);
        self.metrics.add(Counter::ProvisionalDone, handled);
        if self.ledger.is_some() {
            deferred.0.push(Later::Settle(Arc::clone(&self.owner.source), skipped));
        }
    }
}

/// Whether a message passes a filter: every part of the filter must agree.
fn passes(filter: &Filter, message: &Message) -> bool {
    let key = filter.key.as_ref().is_none_or(|key| message.key() == Some(key.as_bytes()));
    let type_ = filter.type_.as_ref().is_none_or(|type_| message.type_() == type_);
    let headers = message.headers();
    key && type_ && filter.headers.iter().all(|(name, value)| headers.find(name) == Some(value.as_bytes()))
}
