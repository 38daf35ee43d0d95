//! What a hub keeps for a server that is away, and brings to it when it is back.
//!
//! One spool stands before one server, as the [`Broker`] that the hub sees. A topic whose route keeps messages in an
//! outage is published to by a [`SpoolTopic`], whose lanes decide record by record: to the server, or kept here until
//! the server has confirmed it. Everything else goes to the server as it is.
//!
//! ```text
//! publish ──> SpoolTopic ── lane decides ──> server's Destination ── outcome ──> lane ──> hub
//!                  │                                ^
//!                  └── kept ── forward, probe ──────┘        asked for by the driver
//! ```
//!
//! What is in flight is kept too, until its outcome: a record of a lost connection goes back to the place it had.
//!
//! Locks: a topic's `state` is taken before those of the server's destination, and no sink is called under it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use self::fates::Ended;
use self::graves::Dead;
use self::local::LocalSource;
use self::probing::Probed;
use self::room::Caps;
use self::topic::{EndedCopy, SpoolTopic};
use super::driver::Driver;
use super::failover::backend::Input;
use super::failover::destination::{DestinationConfig, Seen};
use super::failover::lane::Fate;
use super::failover::policy::Failure;
use super::failover::Way;
use super::route::Routes;
use super::Shared;
use crate::broker::embedded::disk::{Durable, SpoolRows};
use crate::broker::{
    Admin, BackendEvent, BackendKind, BackendSink, Broker, Capabilities, CloseReport, Context, Declared, Destination,
    Epoch, Level, Outcome, Sink, Source, SubscribeSpec, Ticket, TopicSpec, Wake, Wakers,
};
use crate::clock::Moment;
use crate::config::OnOutage;
use crate::error::{Error, Kind, Result};
use crate::message::{Pool, TopicKind};
use crate::metrics::{Counter, Metrics};
use crate::runtime::Pending;
use crate::sync::{Bell, Deadline, Mutex, RwLock};

mod disk;
mod fates;
mod forwarding;
mod graves;
mod local;
mod probing;
mod room;
mod standing;
mod topic;

/// A ticket at the server names the topic by its upper bits and the flight by the rest.
const FLIGHT_BITS: u32 = 46;
const FLIGHT_MASK: u64 = (1 << FLIGHT_BITS) - 1;
/// Topics of one spool: what the bits between and the backends' own have room for.
const TOPICS_MAX: usize = (1 << 17) - 1;
/// A confirm is waited for so many times the configured time before the connection is doubted, where the backend has
/// an answer for the record by then if it lives.
const OVERDUE_FACTOR: u32 = 2;

/// Outcomes that are taken in under one hold of a topic's lock.
const OUTCOMES_AT_ONCE: usize = 256;

/// How often those who wait look whether that makes sense.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What goes to the hub once the locks are dropped.
#[derive(Default)]
pub(super) struct After {
    outcomes: Vec<(Ticket, Outcome)>,
    dead: Vec<Dead>,
    fates: Vec<Ended>,
    /// The lanes have changed: publishers that wait may ask again.
    wakes: bool,
    /// What the machine of the backend is to hear, and those of topics.
    inputs: Vec<Input>,
    seen: Vec<(Arc<SpoolTopic>, Option<u32>, Seen)>,
    /// Records came into the spool, left it, or are on their way.
    counts: bool,
    /// There may be something for a worker of this process.
    local: bool,
    /// The server's client is full.
    server_full: bool,
    /// For the log.
    warnings: Vec<String>,
}

impl After {
    fn is_empty(&self) -> bool {
        let Self { outcomes, dead, fates, wakes, inputs, seen, counts, local, warnings, server_full: _ } = self;
        warnings.is_empty()
            && outcomes.is_empty()
            && dead.is_empty()
            && fates.is_empty()
            && inputs.is_empty()
            && seen.is_empty()
            && !(*wakes || *counts || *local)
    }
}

/// The spool of one server.
pub(super) struct Spool {
    server: Arc<dyn Broker>,
    hub: Weak<Shared>,
    driver: Arc<Driver>,
    /// Where the server's words go on to.
    sink: Arc<dyn BackendSink>,
    routes: Arc<Routes>,
    context: Context,
    pool: Arc<Pool>,
    /// Where records are kept; in memory alone if there is none.
    disk: Option<Arc<Durable>>,
    suspect_wait: Duration,
    blocked_wait: Duration,
    confirm_timeout: Duration,
    topics: RwLock<Topics>,
    /// Topics that do not stand well.
    troubled: Mutex<Vec<Arc<SpoolTopic>>>,
    probing: DestinationConfig,
    bytes: AtomicUsize,
    caps: Caps,
    /// It is nearly full.
    pressed: AtomicBool,
    /// Oldest age of what is kept.
    age_max: Option<Duration>,
    /// Records in the spool, and those of them that were handed over.
    backlog: AtomicU64,
    flying: AtomicU64,
    space: Mutex<Wakers>,
    emptied: Bell,
    closing: AtomicBool,
    /// When the server last confirmed or refused a record; 0: never.
    confirmed: AtomicU64,
    /// Since when its client takes nothing more, as too much has no ending; 0: it does.
    full_since: AtomicU64,
    /// Dead letters that are to be written; those that are being written are counted, too.
    graves: Mutex<Vec<Dead>>,
    dead: AtomicU64,
    /// Subscriptions of this process.
    sources: Mutex<Vec<Weak<LocalSource>>>,
    /// Groups that are shown events: the place of each is its bit.
    groups: Mutex<Vec<String>>,
    /// What was left for the driver to finish.
    later: Mutex<Vec<After>>,
    metrics: Arc<Metrics>,
    /// The record that shows whether the server takes them, and the connection that it shows that of.
    probe: Mutex<Option<(u32, Probed)>>,
}

#[derive(Default)]
struct Topics {
    by_name: HashMap<(String, TopicKind), Arc<SpoolTopic>>,
    by_number: Vec<Arc<SpoolTopic>>,
}

impl Topics {
    /// Whose flight a ticket is; `None`: of a topic that is not kept.
    fn of(&self, ticket: u64) -> Option<&Arc<SpoolTopic>> {
        let number = usize::try_from(ticket >> FLIGHT_BITS).ok()?;
        self.by_number.get(number.checked_sub(1)?)
    }
}

/// What passes on what a server says; made before the server and its spool are.
#[derive(Default)]
pub(super) struct Passing(OnceLock<Weak<Spool>>);

impl BackendSink for Passing {
    fn event(&self, event: BackendEvent) {
        if let Some(spool) = self.0.get().and_then(Weak::upgrade) {
            spool.sink.event(event);
        }
    }

    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        if let Some(spool) = self.0.get().and_then(Weak::upgrade) {
            spool.on_outcomes(outcomes);
        }
    }
}

impl Spool {
    /// Puts a spool before `server`, whose sink is `passing`.
    pub fn before(
        server: Arc<dyn Broker>,
        passing: &Passing,
        driver: &Arc<Driver>,
        context: Context,
        hub: &Arc<Shared>,
        disk: Option<&Arc<Durable>>,
    ) -> Arc<Self> {
        let failover = &hub.config.failover;
        let spool = Arc::new(Self {
            server,
            hub: Arc::downgrade(hub),
            driver: Arc::clone(driver),
            sink: Arc::clone(&context.sink),
            routes: Arc::clone(&hub.routes),
            pool: Pool::new(topic::SHARED_BYTES, context.limits.segments_spare),
            disk: disk.cloned(),
            context,
            suspect_wait: failover.suspect_wait,
            blocked_wait: failover.blocked_wait,
            confirm_timeout: failover.confirm_timeout,
            topics: RwLock::default(),
            troubled: Mutex::default(),
            probing: DestinationConfig {
                suspect_wait: failover.suspect_wait,
                down_after: failover.down_after,
                confirm_timeout: failover.confirm_timeout,
                probe: (failover.reconnect_min, failover.reconnect_max),
            },
            bytes: AtomicUsize::new(0),
            caps: Caps::new(failover, disk.is_some()),
            pressed: AtomicBool::new(false),
            age_max: failover.age_max,
            backlog: AtomicU64::new(0),
            flying: AtomicU64::new(0),
            space: Mutex::default(),
            emptied: Bell::new(),
            closing: AtomicBool::new(false),
            confirmed: AtomicU64::new(0),
            full_since: AtomicU64::new(0),
            graves: Mutex::default(),
            dead: AtomicU64::new(0),
            sources: Mutex::default(),
            groups: Mutex::default(),
            later: Mutex::default(),
            metrics: Arc::clone(&hub.metrics),
            probe: Mutex::default(),
        });
        let _ = passing.0.set(Arc::downgrade(&spool));
        driver.serve(&spool);
        spool
    }

    /// Records in the spool, dead letters that are not written yet among them, and their bytes.
    pub fn held(&self) -> (u64, usize) {
        let records = self.backlog.load(Ordering::Acquire) + self.dead.load(Ordering::Acquire);
        (records, self.bytes.load(Ordering::Acquire))
    }

    /// Waits until nothing is left to forward; `false` if something is at the deadline, or when `ends` says that it
    /// will stay.
    pub fn wait_empty(&self, deadline: Deadline, ends: impl Fn() -> bool) -> bool {
        loop {
            let heard = self.emptied.heard();
            if self.held().0 == 0 {
                return true;
            }
            if deadline.has_passed() || ends() {
                return false;
            }
            let near = deadline.left().is_some_and(|left| left < LOOK_AGAIN);
            self.emptied.wait(heard, if near { deadline } else { Deadline::after(Some(LOOK_AGAIN)) });
        }
    }

    /// A topic, found or made; `rows`: what an earlier process has left of it.
    fn topic(self: &Arc<Self>, name: &str, kind: TopicKind, rows: Option<Arc<SpoolRows>>) -> Result<Arc<SpoolTopic>> {
        let server = self.server.destination(name, kind)?;
        let mut topics = self.topics.write();
        if let Some(known) = topics.by_name.get(&(name.to_owned(), kind)) {
            return Ok(Arc::clone(known));
        }
        if topics.by_number.len() >= TOPICS_MAX {
            let text = format!("a hub keeps messages of {TOPICS_MAX} topics at most");
            return Err(Error::new(Kind::Resources, text).with_fate(crate::error::Fate::NotSent));
        }
        let base = (topics.by_number.len() as u64 + 1) << FLIGHT_BITS;
        let made = SpoolTopic::new(self, name, kind, server, base, rows);
        topics.by_number.push(Arc::clone(&made));
        topics.by_name.insert((name.to_owned(), kind), Arc::clone(&made));
        Ok(made)
    }

    fn topics(&self) -> Vec<Arc<SpoolTopic>> {
        self.topics.read().by_number.clone()
    }

    /// Topics that are there.
    fn ready(&self) -> impl Iterator<Item = Arc<SpoolTopic>> {
        self.topics().into_iter().filter(|topic| topic.standing.is_there())
    }

    /// How safe a record is that is kept here.
    pub fn level(&self) -> Level {
        self.disk.as_ref().map_or(Level::Memory, |disk| disk.level())
    }

    fn on_outcomes(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        let mut after = After::default();
        let mut others = Vec::new();
        self.full_since.store(0, Ordering::Release);
        if outcomes.iter().any(|(_, outcome)| is_good(outcome)) {
            self.confirmed.store(self.context.clock.now().0.max(1), Ordering::Release);
        }
        {
            let (topics, mut outcomes) = (self.topics.read(), outcomes.drain(..).peekable());
            while let Some((ticket, _)) = outcomes.peek() {
                let base = ticket.0 & !FLIGHT_MASK;
                let Some(topic) = topics.of(base) else {
                    others.extend(outcomes.next());
                    continue;
                };
                let run = std::iter::from_fn(|| outcomes.next_if(|(ticket, _)| ticket.0 & !FLIGHT_MASK == base));
                let run = run.map(|(ticket, outcome)| (ticket.0 & FLIGHT_MASK, outcome)).take(OUTCOMES_AT_ONCE);
                let ended = topic.on_outcomes(self, run, &mut after);
                self.on_standing(topic, &ended, &mut after);
            }
        }
        after.outcomes.append(&mut others);
        self.finish(after);
    }

    /// What outcomes say of their topic, and of the server.
    fn on_standing(&self, topic: &Arc<SpoolTopic>, ended: &[EndedCopy], after: &mut After) {
        let is_well = topic.standing.word().way == Way::Open && !self.is_probed(topic);
        for EndedCopy { seq, epoch, good } in ended.iter().filter(|ended| !ended.good || !is_well) {
            let may_show = *good || epoch.is_some();
            if may_show && self.on_probe(topic, *seq, *epoch, *good, after) {
                continue;
            }
            if *good && topic.standing.word().way != Way::Open {
                after.seen.push((Arc::clone(topic), None, Seen::Back));
            } else if !good && topic.standing.word().way == Way::Open && self.driver.is_open() {
                // The server is there, and does not take this.
                after.seen.push((Arc::clone(topic), None, Seen::Away));
            }
        }
    }

    /// What is done with no lock held.
    pub fn finish(&self, mut after: After) {
        if !after.outcomes.is_empty() {
            self.sink.complete(&mut after.outcomes);
        }
        self.tell_fates(after.fates);
        if after.wakes {
            self.wake();
        }
        after.inputs.into_iter().for_each(|input| self.driver.input(input));
        after.seen.into_iter().for_each(|(topic, epoch, seen)| self.saw(&topic, epoch, seen));
        after.warnings.into_iter().for_each(|text| self.sink.event(BackendEvent::Warned(text)));
        if after.counts {
            self.report();
        }
        if after.local {
            self.ring_sources();
        }
        if !after.dead.is_empty() {
            self.graves.lock().append(&mut after.dead);
            self.driver.look();
        }
    }

    /// As [`finish`](Self::finish), by the driver: the caller holds locks.
    pub fn finish_later(&self, after: After) {
        if after.is_empty() {
            return;
        }
        self.later.lock().push(after);
        self.driver.look();
    }

    /// Does what was left for the driver.
    pub fn run_later(self: &Arc<Self>) {
        let later = std::mem::take(&mut *self.later.lock());
        later.into_iter().for_each(|after| self.finish(after));
        self.bury();
    }

    /// A record has a place here, or has it no more.
    fn put_in(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.backlog.fetch_add(1, Ordering::AcqRel);
    }

    fn take_out(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.backlog.fetch_sub(1, Ordering::AcqRel);
    }

    /// Its client takes nothing more.
    fn note_full(&self, after: &mut After) {
        after.server_full = true;
        let now = self.context.clock.now().0.max(1);
        let _ = self.full_since.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Publishes that wait for a server that is away need not wait any longer: the hub closes.
    pub fn end_waiting(&self) {
        for topic in self.topics() {
            let mut after = After::default();
            topic.end_waiting(self, &mut after);
            self.finish(after);
        }
    }

    /// Records that could be forwarded now.
    pub fn can_go(&self) -> bool {
        self.ready().any(|topic| topic.counts().0 > 0)
    }

    fn is_paused(&self) -> bool {
        self.driver.view().paused
    }

    /// Tells the machine of the backend what is left.
    fn report(&self) {
        let (mut backlog, mut inflight) = (self.backlog.load(Ordering::Acquire), self.flying.load(Ordering::Acquire));
        for topic in self.troubled.lock().iter().filter(|topic| !topic.standing.is_there()) {
            let (kept, flying) = topic.counts();
            (backlog, inflight) = (backlog.saturating_sub(kept), inflight.saturating_sub(flying));
        }
        self.driver.input(Input::Spool { backlog, inflight });
        self.watch_pressure();
        if self.held().0 == 0 {
            self.emptied.ring();
        }
    }

    /// Looks at every lane: what has expired goes, what flew on a connection that is lost comes back.
    pub fn sweep(self: &Arc<Self>) {
        for topic in self.topics() {
            let mut after = After::default();
            topic.sweep(self, &mut after);
            self.finish(after);
        }
        self.report();
        // Those whose rest before another attempt is over.
        self.ring_sources();
        if self.driver.is_open() {
            self.open_sources();
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Counts the end of a record of the spool.
    fn count(&self, fate: Fate) {
        let counter = match fate {
            Fate::Confirmed => Counter::Forwarded,
            Fate::Refused => Counter::SpoolRefused,
            Fate::Expired => Counter::SpoolExpired,
            Fate::Evicted => Counter::SpoolEvicted,
            Fate::LocalDone => Counter::LocalDone,
            Fate::Unknown => Counter::SpoolFailed,
        };
        self.metrics.add(counter, 1);
    }

    /// Why a publish fails.
    fn failed(&self, failure: Failure, topic: &SpoolTopic, bytes: usize) -> Error {
        let error = match failure {
            Failure::BackendDown => self.driver.down_error(self.server.kind()),
            Failure::Full => Error::new(Kind::Full, self.why_full(topic, bytes)),
            Failure::Closing => Error::new(Kind::Closed, "the hub is closed"),
        };
        error.with_fate(crate::error::Fate::NotSent)
    }
}

/// It says that the server takes records, or that it answers.
fn is_good(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Confirmed(_) | Outcome::Refused(_))
}

/// Publishers that wait may ask again.
impl Wake for Spool {
    fn wake(&self) {
        let waiting: Vec<_> = self.space.lock().take().collect();
        waiting.iter().for_each(|waker| waker.wake());
    }
}

/// The broker that the hub sees.
#[derive(Debug)]
pub(super) struct Spooled(pub(super) Arc<Spool>);

impl Broker for Spooled {
    fn kind(&self) -> BackendKind {
        self.0.server.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.server.capabilities()
    }

    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()> {
        self.0.server.connect(epoch, deadline)
    }

    fn disconnect(&self, epoch: Epoch) {
        self.0.server.disconnect(epoch);
    }

    fn restore(&self) -> Pending<()> {
        self.0.server.restore()
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, deadline: Moment) -> Pending<Declared> {
        self.0.server.declare(topic, kind, spec, deadline)
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        let spool = &self.0;
        let known = spool.topics.read().by_name.get(&(topic.to_owned(), kind)).cloned();
        match known {
            // Also of a route that keeps nothing, if an earlier process has left something.
            Some(known) => Ok(known),
            None if spool.routes.on_outage(topic) == OnOutage::Fail => spool.server.destination(topic, kind),
            None if spool.topics.read().by_number.len() >= TOPICS_MAX => spool.server.destination(topic, kind),
            None => Ok(spool.topic(topic, kind, None)?),
        }
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, deadline: Moment) -> Pending<Arc<dyn Source>> {
        let (spool, spec) = (Arc::clone(&self.0), spec.clone());
        if spec.read_only || spool.routes.on_outage(&spec.pattern) == OnOutage::Fail {
            return spool.server.subscribe(&spec, sink, deadline);
        }
        let opening = spool.driver.is_open().then(|| spool.server.subscribe(&spec, Arc::clone(&sink), deadline));
        Box::pin(async move {
            let server = match opening {
                Some(opening) => Some(opening.await?),
                None => None,
            };
            let source = spool.local_source(&spec, sink, server)?;
            // It may have come back meanwhile.
            if spool.driver.is_open() {
                spool.open_sources();
            }
            Ok(source as Arc<dyn Source>)
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.0.server.admin()
    }

    fn close(&self, deadline: Moment) -> Pending<CloseReport> {
        let spool = Arc::clone(&self.0);
        spool.closing.store(true, Ordering::Release);
        let closing = spool.server.close(deadline);
        Box::pin(async move {
            let closed = closing.await;
            let held = spool.held().0;
            let (lost, kept) = if spool.disk.is_some() { (0, held) } else { (held, 0) };
            if closed.is_err() && lost > 0 {
                let text = format!("{lost} messages that were kept for the server are lost with this process");
                spool.sink.event(BackendEvent::Warned(text));
            }
            closed.map(|report| CloseReport { lost: report.lost + lost, kept: report.kept + kept })
        })
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("server", &self.server).field("held", &self.held()).finish_non_exhaustive()
    }
}
