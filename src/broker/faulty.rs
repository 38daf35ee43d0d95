//! `Faulty`: a broker around a broker, for tests: it fails chosen calls and holds outcomes back.
//!
//! Every call through the seam is counted. A fault is planned for the *n*-th call of one seam, or
//! of all of them together, once or from then on. So a test can fail call 1, 2, 3 … of a scenario
//! until a run meets no fault, and check its promises after each.
//!
//! What a fault does:
//!
//! ```text
//!               refused        not_sent      unknown                        full     panic
//! rare call     Refused        BackendDown   OutcomeUnknown                 Full     panics
//! publish       record refused not sent      sent; outcome unknown, later   Full     panics
//! fetch         gives nothing now and rings `ready` again (any outcome)              panics
//! settle        verdicts lost  lost          verdicts passed on             lost     panics
//! ```
//!
//! Late outcomes leave by an alarm of the clock: at once with a real clock, with the next
//! [`Clock::advance`] of a virtual one, or when the test calls [`Faulty::release`].

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{
    Admin, BackendEvent, BackendKind, BackendSink, Batch, Broker, Capabilities, CloseReport, Context, Declared,
    Delivery, Destination, Epoch, Flow, Level, Outcome, Receipts, Sink, Source, Start, Storage, SubscribeSpec, Taken,
    Ticket, TopicSpec, Verdict, Wake,
};
use crate::clock::{Alarm, AlarmId, Clock, Moment};
use crate::error::{Error, Fate, Kind, Result};
use crate::message::{Message, TopicKind};
use crate::runtime::{ready, Pending};
use crate::sync::Mutex;

/// A place where the hub calls a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seam {
    /// [`Broker::connect`]
    Connect,
    /// [`Broker::declare`]
    Declare,
    /// [`Broker::destination`]
    Destination,
    /// [`Destination::publish`]
    Publish,
    /// [`Broker::subscribe`]
    Subscribe,
    /// [`Source::fetch`]
    Fetch,
    /// [`Source::settle`]
    Settle,
    /// [`Broker::close`]
    Close,
}

/// What a failing call does; see the table of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The broker says no.
    Refused,
    /// It never left this process.
    NotSent,
    /// It may or may not have arrived.
    Unknown,
    /// No space now.
    Full,
    /// The backend panics.
    Panic,
}

impl Fault {
    /// All of them, for loops over faults.
    pub const ALL: [Fault; 5] = [Fault::Refused, Fault::NotSent, Fault::Unknown, Fault::Full, Fault::Panic];

    fn error(self, seam: Seam) -> Error {
        let (kind, fate) = match self {
            Fault::Refused => (Kind::Refused, Fate::Refused),
            Fault::NotSent => (Kind::BackendDown, Fate::NotSent),
            Fault::Unknown => (Kind::OutcomeUnknown, Fate::Unknown),
            Fault::Full => (Kind::Full, Fate::NotSent),
            Fault::Panic => (Kind::Panic, Fate::Unknown),
        };
        Error::new(kind, format!("a planned fault of {seam:?}")).with_fate(fate)
    }
}

/// How often a planned fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// At that call only.
    Once,
    /// At that call and every later one.
    ForGood,
}

/// A broker that fails when told to.
pub struct Faulty {
    inner: Arc<dyn Broker>,
    faults: Arc<Faults>,
}

/// What the wrappers share.
struct Faults {
    clock: Clock,
    /// The hub.
    sink: Arc<dyn BackendSink>,
    alarm: AlarmId,
    own: Weak<Faults>,
    /// Guarded together: whether a call fails depends on its count, and a held outcome on both.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: BTreeMap<Seam, u64>,
    calls_in_all: u64,
    plans: Vec<Plan>,
    struck: u64,
    holding: bool,
    held: Vec<(Ticket, Outcome)>,
    /// Tickets whose outcome, whatever it will be, is told as unknown.
    doubted: HashSet<Ticket>,
    ringing: Vec<Arc<dyn Sink>>,
}

struct Plan {
    /// `None`: counted over all seams.
    seam: Option<Seam>,
    /// The call that fails, as the count stands then.
    at: u64,
    times: Times,
    fault: Fault,
}

impl Faulty {
    /// Wraps the broker that `make` builds. It is given a context whose sink passes through here.
    pub fn over(context: Context, make: impl FnOnce(Context) -> Result<Arc<dyn Broker>>) -> Result<Arc<Self>> {
        let faults = Arc::new_cyclic(|own| Faults {
            alarm: context.clock.alarm(),
            clock: context.clock.clone(),
            sink: Arc::clone(&context.sink),
            own: own.clone(),
            state: Mutex::default(),
        });
        let gate: Arc<dyn BackendSink> = Arc::new(Gate(Arc::downgrade(&faults)));
        let inner = make(Context { sink: gate, ..context })?;
        Ok(Arc::new(Self { inner, faults }))
    }

    /// Plans a fault at the `nth` call from now (1 is the next) of `seam`; `None`: of any.
    pub fn fail(&self, seam: Option<Seam>, nth: u64, times: Times, fault: Fault) {
        let mut state = self.faults.state.lock();
        let so_far = state.count(seam);
        state.plans.push(Plan { seam, at: so_far + nth.max(1), times, fault });
    }

    /// Forgets all plans.
    pub fn heal(&self) {
        self.faults.state.lock().plans.clear();
    }

    /// Calls of `seam` so far; `None`: of all seams.
    pub fn calls(&self, seam: Option<Seam>) -> u64 {
        self.faults.state.lock().count(seam)
    }

    /// Calls that failed so far.
    pub fn struck(&self) -> u64 {
        self.faults.state.lock().struck
    }

    /// From now on outcomes are held back until they are released, those of records that the
    /// broker took at once too. Switching it off does not release what is held.
    pub fn hold(&self, on: bool) {
        self.faults.state.lock().holding = on;
    }

    /// Tickets whose outcome is held back, in the order of their coming.
    pub fn held(&self) -> Vec<Ticket> {
        self.faults.state.lock().held.iter().map(|(ticket, _)| *ticket).collect()
    }

    /// Tells the hub the held outcomes of `tickets`, one by one in this order; answers how many
    /// of them were held.
    pub fn release(&self, tickets: &[Ticket]) -> usize {
        let mut released = 0;
        for ticket in tickets {
            let held = {
                let mut state = self.faults.state.lock();
                let place = state.held.iter().position(|(own, _)| own == ticket);
                place.map(|place| state.held.remove(place))
            };
            if let Some(outcome) = held {
                self.faults.sink.complete(&mut vec![outcome]);
                released += 1;
            }
        }
        released
    }

    /// Tells the hub that the connection changed, as a backend would.
    pub fn tell(&self, event: BackendEvent) {
        self.faults.sink.event(event);
    }
}

impl State {
    fn count(&self, seam: Option<Seam>) -> u64 {
        seam.map_or(self.calls_in_all, |seam| self.calls.get(&seam).copied().unwrap_or(0))
    }
}

impl Faults {
    /// Counts a call and says whether, and how, it fails.
    ///
    /// # Panics
    /// When a panic was planned for this call.
    #[expect(clippy::panic, reason = "a planned panic is what the test asks for")]
    fn strike(&self, seam: Seam) -> Option<Fault> {
        let fault = {
            let mut state = self.state.lock();
            *state.calls.entry(seam).or_default() += 1;
            state.calls_in_all += 1;
            let fault = state.plans.iter().find_map(|plan| {
                let count = match plan.seam {
                    Some(only) if only != seam => return None,
                    own => state.count(own),
                };
                let strikes = match plan.times {
                    Times::Once => count == plan.at,
                    Times::ForGood => count >= plan.at,
                };
                strikes.then_some(plan.fault)
            });
            state.struck += u64::from(fault.is_some());
            fault
        };
        if fault == Some(Fault::Panic) {
            panic!("a planned panic of {seam:?}");
        }
        fault
    }

    /// The error of a rare call, if it fails.
    fn check(&self, seam: Seam) -> Result<()> {
        self.strike(seam).map_or(Ok(()), |fault| Err(fault.error(seam)))
    }

    /// Keeps outcomes for the alarm, or for the test if it holds them back.
    fn keep(&self, outcomes: impl Iterator<Item = (Ticket, Outcome)>) {
        let mut state = self.state.lock();
        state.held.extend(outcomes);
        let ring = !state.holding;
        drop(state);
        if ring {
            self.ring_soon();
        }
    }

    fn ring_soon(&self) {
        let alarm: Weak<dyn Alarm> = self.own.clone();
        // A clock that cannot start its thread leaves the outcomes to `close`.
        drop(self.clock.set_alarm(self.alarm, self.clock.now(), alarm));
    }

    fn let_go(&self, all: bool) {
        let (mut outcomes, sinks) = {
            let mut state = self.state.lock();
            let held = if all || !state.holding { std::mem::take(&mut state.held) } else { Vec::new() };
            (held, std::mem::take(&mut state.ringing))
        };
        if !outcomes.is_empty() {
            self.sink.complete(&mut outcomes);
        }
        for sink in sinks {
            sink.ready();
        }
    }
}

impl Alarm for Faults {
    fn ring(&self, _now: Moment) {
        self.let_go(false);
    }
}

impl Broker for Faulty {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn receipts(&self) -> Receipts {
        self.inner.receipts()
    }

    fn storage(&self) -> Option<Storage> {
        self.inner.storage()
    }

    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()> {
        match self.faults.check(Seam::Connect) {
            Ok(()) => self.inner.connect(epoch, deadline),
            Err(planned) => ready(Err(planned)),
        }
    }

    fn disconnect(&self, epoch: Epoch) {
        self.inner.disconnect(epoch);
    }

    fn restore(&self) -> Pending<()> {
        self.inner.restore()
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, deadline: Moment) -> Pending<Declared> {
        match self.faults.check(Seam::Declare) {
            Ok(()) => self.inner.declare(topic, kind, spec, deadline),
            Err(planned) => ready(Err(planned)),
        }
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        self.faults.check(Seam::Destination)?;
        let inner = self.inner.destination(topic, kind)?;
        Ok(Arc::new(FaultyDestination { inner, faults: Arc::clone(&self.faults) }))
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, deadline: Moment) -> Pending<Arc<dyn Source>> {
        if let Err(planned) = self.faults.check(Seam::Subscribe) {
            return ready(Err(planned));
        }
        let opened = self.inner.subscribe(spec, Arc::clone(&sink), deadline);
        let faults = Arc::clone(&self.faults);
        Box::pin(async move {
            let inner = opened.await?;
            let source: Arc<dyn Source> = Arc::new(FaultySource { inner, sink, faults });
            Ok(source)
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.inner.admin()
    }

    fn close(&self, deadline: Moment) -> Pending<CloseReport> {
        if let Err(planned) = self.faults.check(Seam::Close) {
            return ready(Err(planned));
        }
        let closing = self.inner.close(deadline);
        let faults = Arc::clone(&self.faults);
        Box::pin(async move {
            let report = closing.await;
            // Every ticket completes, also the ones a test forgot.
            faults.let_go(true);
            report
        })
    }
}

struct FaultyDestination {
    inner: Arc<dyn Destination>,
    faults: Arc<Faults>,
}

impl FaultyDestination {
    fn publish_in_doubt(&self, batch: &Batch<'_>) -> Taken {
        let tickets =
            |from: usize| (from..batch.records.len()).map(|index| Ticket(batch.first_ticket.0 + index as u64));
        // Marked before, because outcomes may come from another thread before `publish` returns.
        self.faults.state.lock().doubted.extend(tickets(0));
        let mut taken = self.inner.publish(batch);
        let unmark = if taken.level.is_some() { 0 } else { taken.count };
        {
            let mut state = self.faults.state.lock();
            for ticket in tickets(unmark) {
                state.doubted.remove(&ticket);
            }
        }
        if taken.level.is_some() {
            let error = Fault::Unknown.error(Seam::Publish);
            self.complete_later(batch, &mut taken, || Outcome::Unknown(error.clone()));
        }
        taken
    }

    /// Turns records that were taken at once into records that complete by their tickets.
    fn complete_later(&self, batch: &Batch<'_>, taken: &mut Taken, outcome: impl Fn() -> Outcome) {
        taken.level = None;
        let first = batch.first_ticket.0;
        self.faults.keep((0..taken.count as u64).map(|index| (Ticket(first + index), outcome())));
    }
}

impl Destination for FaultyDestination {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        match self.faults.strike(Seam::Publish) {
            None => {
                let mut taken = self.inner.publish(batch);
                let holding = self.faults.state.lock().holding;
                if let (Some(level), true) = (taken.level, holding) {
                    self.complete_later(batch, &mut taken, || Outcome::Confirmed(level));
                }
                taken
            }
            Some(Fault::Unknown) => self.publish_in_doubt(batch),
            Some(fault) => Taken { count: 0, first_seq: 0, level: None, stopped: Some(fault.error(Seam::Publish)) },
        }
    }

    fn look_again(&self) {
        self.inner.look_again();
    }

    fn keeps_copies(&self) -> bool {
        self.inner.keeps_copies()
    }

    fn on_space(&self, waker: Weak<dyn Wake>) {
        self.inner.on_space(waker);
    }
}

struct FaultySource {
    inner: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    faults: Arc<Faults>,
}

impl Source for FaultySource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        if max == 0 || self.faults.strike(Seam::Fetch).is_none() {
            return self.inner.fetch(max, out);
        }
        self.faults.state.lock().ringing.push(Arc::clone(&self.sink));
        self.faults.ring_soon();
        Flow::Idle
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        match self.faults.strike(Seam::Settle) {
            None | Some(Fault::Unknown) => self.inner.settle(verdicts),
            Some(_) => Vec::new(),
        }
    }

    fn held(&self, tag: u64) -> Option<Message> {
        self.inner.held(tag)
    }

    fn level(&self, tag: u64) -> Level {
        self.inner.level(tag)
    }

    fn extend(&self, tag: u64, lease: Duration) -> Result<()> {
        self.inner.extend(tag, lease)
    }

    fn seek(&self, to: Start) -> Result<()> {
        self.inner.seek(to)
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// The hub as the wrapped broker sees it.
struct Gate(Weak<Faults>);

impl BackendSink for Gate {
    fn event(&self, event: BackendEvent) {
        if let Some(faults) = self.0.upgrade() {
            faults.sink.event(event);
        }
    }

    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        let Some(faults) = self.0.upgrade() else { return };
        let mut state = faults.state.lock();
        for (ticket, outcome) in outcomes.iter_mut() {
            if state.doubted.remove(ticket) {
                *outcome = Outcome::Unknown(Fault::Unknown.error(Seam::Publish));
            }
        }
        if state.holding {
            state.held.append(outcomes);
            return;
        }
        drop(state);
        faults.sink.complete(outcomes);
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).field("struck", &self.struck()).finish()
    }
}

impl fmt::Debug for FaultyDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyDestination").field(&self.inner).finish()
    }
}

impl fmt::Debug for FaultySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultySource").field(&self.inner).finish()
    }
}
