//! What a case works with: a [`Bench`] over the [`Harness`] of a mount, and [`Consumer`]s.
//!
//! Nothing here sleeps. Positive waits end with what is waited for, or fail with the state after
//! [`PATIENCE`]; time that a case lets pass is virtual.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use helixmq::broker::{
    BackendEvent, BackendSink, Batch, Broker, Capabilities, Delivery, Destination, Flow, Group, Ordered, Outcome, Sink,
    Source, Start, Stop, SubscribeSpec, Support, Taken, Ticket, TopicSpec, Verdict, Wake,
};
use helixmq::clock::{Clock, Moment};
use helixmq::error::{Kind, Result};
use helixmq::message::{Record, TopicKind};
use helixmq::runtime::Pending;
use helixmq::sync::{Condvar, Mutex};

/// How long a case waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes the harness of a mount.
pub type Mount = fn() -> Box<dyn Harness>;

/// A line of the table of cases.
pub struct Case {
    pub name: &'static str,
    pub needs: &'static [Need],
}

/// What a case may need of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    // Capabilities of the broker.
    Tasks,
    Events,
    RetryDelay,
    Priority,
    Ttl,
    Delay,
    OrderedKey,
    ReplayTime,
    ReplayOffset,
    Headers,
    WildcardTasks,
    WildcardEvents,
    Extend,
    // What the mount has beside them.
    /// Time stands until the case moves it.
    VirtualTime,
    /// Names, sizes and ranges are checked.
    Checks,
    /// Settings of a topic can be declared.
    Declare,
    /// Bounds of a topic hold, to the message.
    Bounds,
    /// Bytes of a topic are counted.
    Bytes,
    /// Workers share a queue message by message, and not by partitions.
    Shares,
    Partitions,
    /// A delivery tells its offset.
    Offsets,
    Admin,
    /// A topic can be emptied and deleted.
    Purge,
    /// Events are kept for groups that come later.
    Log,
    /// The verdict `Return`.
    Return,
    /// A lease that ends with time.
    Lease,
    /// Attempts of earlier copies can be published.
    Attempts,
    Seek,
    ReadOnly,
    /// Verdicts reach the broker unfiltered, whatever the tag.
    Tags,
    /// What a closing broker leaves is counted.
    CloseReport,
    /// A publisher is told when there is space.
    Space,
    /// Ended leases are told by their tags.
    Revoked,
    /// Order by key for tasks, where `OrderedKey` may hold for events only.
    OrderedTasks,
    /// One `ready` for one `Idle`.
    ReadyOnce,
}

/// One mounted backend.
pub trait Harness: Send + Sync {
    /// The broker, connected and empty. Called once.
    fn broker(&self, sink: Arc<dyn BackendSink>) -> Arc<dyn Broker>;

    /// The clock that the broker goes by.
    fn clock(&self) -> Clock;

    /// Lets time pass.
    fn advance(&self, by: Duration);

    /// Whether the mount has what no capability tells of.
    fn offers(&self, need: Need) -> bool;

    /// How long nothing must come before a case believes that nothing comes.
    fn quiet(&self) -> Duration {
        Duration::ZERO
    }

    /// Largest payload to try.
    fn payload_bytes_max(&self) -> usize {
        1 << 20
    }
}

/// A fresh broker and what it told.
pub struct Bench {
    harness: Box<dyn Harness>,
    pub broker: Arc<dyn Broker>,
    pub outcomes: Arc<Outcomes>,
    numbers: AtomicU64,
    tickets: AtomicU64,
}

impl Bench {
    pub fn new(harness: Box<dyn Harness>) -> Self {
        let outcomes = Arc::new(Outcomes::default());
        let sink: Arc<dyn BackendSink> = Arc::<Outcomes>::clone(&outcomes);
        let broker = harness.broker(sink);
        Self { harness, broker, outcomes, numbers: AtomicU64::new(1), tickets: AtomicU64::new(1) }
    }

    pub fn has(&self, need: Need) -> bool {
        let can: Capabilities = self.broker.capabilities();
        let support = match need {
            Need::Tasks => can.tasks,
            Need::Events => can.events,
            Need::RetryDelay => can.retry_delay,
            Need::Priority => can.priority,
            Need::Ttl => can.ttl,
            Need::Delay => can.delay,
            Need::OrderedKey => can.ordered_key,
            Need::ReplayTime => can.replay_time,
            Need::ReplayOffset => can.replay_offset,
            Need::Headers => can.headers,
            Need::WildcardTasks => can.wildcard_tasks,
            Need::WildcardEvents => can.wildcard_events,
            Need::Extend => can.extend,
            _ => return self.harness.offers(need),
        };
        support != Support::None
    }

    /// A topic name that nobody used before.
    pub fn topic(&self) -> String {
        static TOPICS: AtomicU64 = AtomicU64::new(0);
        format!("conf-{}-{}", std::process::id(), TOPICS.fetch_add(1, Ordering::Relaxed))
    }

    pub fn advance(&self, by: Duration) {
        self.harness.advance(by);
    }

    pub fn now_us(&self) -> i64 {
        self.harness.clock().wall_us()
    }

    pub fn payload_bytes_max(&self) -> usize {
        self.harness.payload_bytes_max()
    }

    /// A deadline for rare calls.
    pub fn soon(&self) -> Moment {
        self.harness.clock().now().plus(PATIENCE)
    }

    pub fn declare(&self, topic: &str, kind: TopicKind, spec: TopicSpec) {
        wait(self.broker.declare(topic, kind, &spec, self.soon()))
            .unwrap_or_else(|error| panic!("{topic} cannot be declared with {spec:?}: {error}"));
    }

    pub fn destination(&self, topic: &str, kind: TopicKind) -> Arc<dyn Destination> {
        self.broker.destination(topic, kind).unwrap_or_else(|error| panic!("no destination {topic}: {error}"))
    }

    /// Publishes a batch as it is; answers what was taken and the first ticket.
    pub fn offer(&self, to: &dyn Destination, records: &[Record<'_>]) -> (Taken, Ticket) {
        let first_ticket = Ticket(self.tickets.fetch_add(records.len() as u64, Ordering::Relaxed));
        let batch =
            Batch { records, first_ticket, numbers: &self.numbers, now_us: self.now_us(), require: None, since: None };
        (to.publish(&batch), first_ticket)
    }

    /// Publishes records and waits until all are confirmed.
    pub fn publish(&self, topic: &str, kind: TopicKind, records: &[Record<'_>]) {
        let (taken, first) = self.offer(&*self.destination(topic, kind), records);
        assert_eq!(taken.count, records.len(), "{topic} did not take all: {taken:?}");
        if taken.level.is_none() {
            self.outcomes.confirmed(first, taken.count);
        }
    }

    /// Publishes one task for each text.
    pub fn tasks(&self, topic: &str, texts: &[&str]) {
        self.publish(topic, TopicKind::Task, &records(texts));
    }

    /// Publishes one event for each text.
    pub fn events(&self, topic: &str, texts: &[&str]) {
        self.publish(topic, TopicKind::Event, &records(texts));
    }

    pub fn try_subscribe(&self, spec: SubscribeSpec) -> Result<Consumer> {
        let bell = Arc::new(Bell::default());
        let sink: Arc<dyn Sink> = Arc::<Bell>::clone(&bell);
        let source = wait(self.broker.subscribe(&spec, sink, self.soon()))?;
        Ok(Consumer { source, bell, quiet: self.harness.quiet() })
    }

    pub fn subscribe(&self, spec: SubscribeSpec) -> Consumer {
        let text = format!("{spec:?}");
        self.try_subscribe(spec).unwrap_or_else(|error| panic!("cannot subscribe with {text}: {error}"))
    }

    /// A consumer of tasks with room for `prefetch`.
    pub fn worker(&self, pattern: &str, prefetch: usize) -> Consumer {
        self.subscribe(SubscribeSpec { prefetch, ..spec(pattern, TopicKind::Task) })
    }

    /// A consumer of events in `group`, from the earliest.
    pub fn member(&self, pattern: &str, group: &str) -> Consumer {
        self.subscribe(SubscribeSpec { group: Group::Named(group.into()), ..spec(pattern, TopicKind::Event) })
    }

    /// Makes a group known, so that it gets what is published from now on also where nothing is kept
    /// for groups that come later.
    pub fn group(&self, topic: &str, group: &str) {
        self.member(topic, group).source.close();
    }

    pub fn close(&self) -> helixmq::broker::CloseReport {
        wait(self.broker.close(self.soon())).unwrap_or_else(|error| panic!("the broker does not close: {error}"))
    }
}

/// A subscription of group `g`, from the earliest, without lease or order, with room for 100.
pub fn spec(pattern: &str, kind: TopicKind) -> SubscribeSpec {
    SubscribeSpec {
        pattern: pattern.into(),
        kind,
        group: Group::Named("g".into()),
        start: Start::Earliest,
        stop: Stop::Never,
        prefetch: 100,
        ordered: Ordered::No,
        lease: None,
        read_only: false,
    }
}

pub fn records<'a>(texts: &[&'a str]) -> Vec<Record<'a>> {
    texts.iter().map(|text| Record::new(text.as_bytes())).collect()
}

/// A record with a key.
pub fn keyed<'a>(key: &'a str, text: &'a str) -> Record<'a> {
    Record { key: Some(key.as_bytes()), ..Record::new(text.as_bytes()) }
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Waits for a rare call, and fails when it does not answer in time.
pub fn wait<T>(pending: Pending<T>) -> Result<T> {
    helixmq::runtime::wait(pending, Some(PATIENCE))
}

/// The payloads of deliveries, as text.
pub fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(text).collect()
}

/// The payload of a delivery, as text.
pub fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message.payload()).into_owned()
}

/// The kind of the error that was due.
#[track_caller]
pub fn refusal<T>(result: Result<T>) -> Kind {
    match result {
        Ok(_) => panic!("this had to be refused"),
        Err(error) => error.kind(),
    }
}

/// The receiving end of a case.
pub struct Consumer {
    pub source: Arc<dyn Source>,
    pub bell: Arc<Bell>,
    quiet: Duration,
}

impl Consumer {
    /// Waits for exactly `count` deliveries.
    #[track_caller]
    pub fn take(&self, count: usize) -> Vec<Delivery> {
        let deadline = Instant::now() + PATIENCE;
        let mut out = Vec::new();
        loop {
            let rings = self.bell.rings();
            let flow = self.source.fetch(count - out.len(), &mut out);
            assert!(out.len() <= count, "more than asked for came: {:?}", texts(&out));
            if out.len() == count {
                return out;
            }
            let got = texts(&out);
            match flow {
                Flow::End | Flow::Lost => panic!("{} of {count} deliveries came before the end: {got:?}", out.len()),
                Flow::More => assert!(Instant::now() < deadline, "only {got:?} of {count} came; more was promised"),
                Flow::Idle => {
                    self.bell.wait_beyond(rings, deadline, || format!("{} of {count} came: {got:?}", out.len()))
                }
            }
        }
    }

    /// As [`Consumer::take`], as texts, acknowledged.
    #[track_caller]
    pub fn ack(&self, count: usize) -> Vec<String> {
        let deliveries = self.take(count);
        self.settle_all(&deliveries, Verdict::Ack);
        texts(&deliveries)
    }

    /// Waits for one delivery.
    #[track_caller]
    pub fn one(&self) -> Delivery {
        self.take(1).remove(0)
    }

    /// Fetches what is there now, and waits for nothing.
    pub fn fetch(&self, max: usize) -> Vec<Delivery> {
        let mut out = Vec::new();
        while out.len() < max && self.source.fetch(max - out.len(), &mut out) == Flow::More {}
        out
    }

    /// Nothing comes, now and as long as the mount needs to be sure.
    #[track_caller]
    pub fn nothing(&self) {
        let deadline = Instant::now() + self.quiet;
        loop {
            let rings = self.bell.rings();
            let mut out = Vec::new();
            let flow = self.source.fetch(1, &mut out);
            assert!(out.is_empty(), "nothing was due, but this came: {:?} attempt {}", texts(&out), out[0].attempt);
            if matches!(flow, Flow::End | Flow::Lost) || Instant::now() >= deadline {
                return;
            }
            self.bell.wait_until(rings, deadline);
        }
    }

    /// The source says that nothing will come any more.
    #[track_caller]
    pub fn end(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rings = self.bell.rings();
            let mut out = Vec::new();
            let flow = self.source.fetch(10, &mut out);
            assert!(out.is_empty(), "the end was due, but this came: {:?}", texts(&out));
            match flow {
                Flow::End | Flow::Lost => return,
                Flow::More => assert!(Instant::now() < deadline, "the end did not come"),
                Flow::Idle => self.bell.wait_beyond(rings, deadline, || "no end yet".into()),
            }
        }
    }

    pub fn settle(&self, delivery: &Delivery, verdict: Verdict) {
        self.source.settle(&[(delivery.tag, verdict)]);
    }

    pub fn settle_all(&self, deliveries: &[Delivery], verdict: Verdict) {
        let verdicts: Vec<(u64, Verdict)> = deliveries.iter().map(|delivery| (delivery.tag, verdict)).collect();
        self.source.settle(&verdicts);
    }
}

/// Fetches and acknowledges from several consumers in turns, until `count` deliveries came; which
/// of them gets which is the backend's choice.
#[track_caller]
pub fn ack_from_any(consumers: &[Consumer], count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut got = Vec::new();
    while got.len() < count {
        let rings: Vec<u64> = consumers.iter().map(|consumer| consumer.bell.rings()).collect();
        let before = got.len();
        for consumer in consumers {
            let deliveries = consumer.fetch(4);
            consumer.settle_all(&deliveries, Verdict::Ack);
            got.extend(texts(&deliveries));
        }
        while got.len() == before && consumers.iter().map(|consumer| consumer.bell.rings()).eq(rings.iter().copied()) {
            assert!(Instant::now() < deadline, "{} of {count} came", got.len());
            std::thread::yield_now();
        }
    }
    got
}

/// Counts the calls of a sink, or of a waker.
#[derive(Default)]
pub struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default, Clone)]
struct Rung {
    ready: u64,
    revoked: Vec<u64>,
}

impl Bell {
    /// How often it rang.
    pub fn rings(&self) -> u64 {
        self.state.lock().ready
    }

    /// Tags whose leases ended.
    pub fn revoked(&self) -> Vec<u64> {
        self.state.lock().revoked.clone()
    }

    /// Waits until it rang more often than `rings`.
    #[track_caller]
    pub fn wait_beyond(&self, rings: u64, deadline: Instant, state: impl Fn() -> String) {
        self.wait_until(rings, deadline);
        assert!(self.rings() > rings, "nothing rang in {PATIENCE:?}; {}", state());
    }

    /// Waits until it rang at all.
    #[track_caller]
    pub fn wait(&self) {
        self.wait_beyond(0, Instant::now() + PATIENCE, || "not once".into());
    }

    /// Waits until `count` leases have ended.
    #[track_caller]
    pub fn wait_revoked(&self, count: usize) -> Vec<u64> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        while state.revoked.len() < count {
            assert!(Instant::now() < deadline, "{count} leases had to end, these did: {:?}", state.revoked);
            state = self.changed.wait_until(state, Some(deadline));
        }
        state.revoked.clone()
    }

    fn wait_until(&self, rings: u64, deadline: Instant) {
        let mut state = self.state.lock();
        while state.ready <= rings && Instant::now() < deadline {
            state = self.changed.wait_until(state, Some(deadline));
        }
    }

    fn ring(&self, revoked: &[u64]) {
        let mut state = self.state.lock();
        state.ready += u64::from(revoked.is_empty());
        state.revoked.extend_from_slice(revoked);
        drop(state);
        self.changed.notify_all();
    }
}

impl Sink for Bell {
    fn ready(&self) {
        self.ring(&[]);
    }

    fn revoked(&self, tags: &[u64]) {
        self.ring(tags);
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.ring(&[]);
    }
}

/// Late outcomes and events, as the hub would get them.
#[derive(Default)]
pub struct Outcomes {
    told: Mutex<BTreeMap<u64, Vec<Outcome>>>,
    changed: Condvar,
}

impl Outcomes {
    /// Waits for the outcomes of `count` tickets from `first` on; each comes once and is `Confirmed`.
    #[track_caller]
    pub fn confirmed(&self, first: Ticket, count: usize) {
        for (ticket, outcome) in self.of(first, count) {
            assert!(matches!(outcome, Outcome::Confirmed(_)), "ticket {ticket} ended as {outcome:?}");
        }
    }

    /// Waits for the outcomes of `count` tickets from `first` on; fails when one comes twice.
    #[track_caller]
    pub fn of(&self, first: Ticket, count: usize) -> Vec<(u64, Outcome)> {
        let deadline = Instant::now() + PATIENCE;
        let wanted = first.0..first.0 + count as u64;
        let mut told = self.told.lock();
        while told.range(wanted.clone()).count() < count {
            let missing: Vec<u64> = wanted.clone().filter(|ticket| !told.contains_key(ticket)).collect();
            assert!(Instant::now() < deadline, "no outcome for tickets {missing:?}");
            told = self.changed.wait_until(told, Some(deadline));
        }
        let mut out = Vec::new();
        for (ticket, outcomes) in told.range(wanted) {
            assert_eq!(outcomes.len(), 1, "ticket {ticket} ended more than once: {outcomes:?}");
            out.extend(outcomes.iter().map(|outcome| (*ticket, outcome.clone())));
        }
        out
    }

    /// How many outcomes came late.
    pub fn count(&self) -> usize {
        self.told.lock().values().map(Vec::len).sum()
    }
}

impl BackendSink for Outcomes {
    fn event(&self, _event: BackendEvent) {}

    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        let mut told = self.told.lock();
        for (ticket, outcome) in outcomes.drain(..) {
            told.entry(ticket.0).or_default().push(outcome);
        }
        drop(told);
        self.changed.notify_all();
    }
}
