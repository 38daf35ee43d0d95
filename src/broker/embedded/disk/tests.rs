//! Tests of the broker on disk: a store that fails when it is told to, and a harness over it or over
//! SQLite; then faults, damage, and a model that crashes at any step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod damage;
mod faults;
mod model;
mod spool;
mod sqlite;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::row::{Mark, Row, Spot, TopicRow};
use super::store::{Damage, Done, Failure, Found, Recovery, Store, TopicChange, Usage};
use super::{DiskConfig, Durable, SpoolRows, SpoolSink, SpooledTopic};
use crate::broker::*;
use crate::clock::{Clock, Moment};
use crate::error::Result;
use crate::limits::Limits;
use crate::message::{Record, TopicKind};
use crate::sync::{Condvar, Deadline, Mutex};

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What a medium keeps.
#[derive(Debug, Clone, Default)]
struct Content {
    topics: BTreeMap<u64, TopicRow>,
    rows: BTreeMap<u64, Row>,
    marks: BTreeMap<u64, Mark>,
    spots: BTreeMap<Spot, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Full,
    Broken,
    /// A sync that fails, though everything is kept.
    KeptUnseen,
    /// Nothing works from here on: the process is as good as gone.
    Crash,
}

/// A disk that outlives its store.
#[derive(Debug, Default)]
struct Medium {
    content: Content,
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    /// Fails every call that brings messages.
    always: Option<Fault>,
    has_crashed: bool,
    free_bytes: u64,
    /// Rises with each store on it: one of a crashed life writes no more.
    life: u64,
}

/// A store in memory that fails when it is told to.
struct Fake {
    medium: Arc<Mutex<Medium>>,
    life: u64,
    unit: Option<Content>,
}

impl Fake {
    fn on(medium: &Arc<Mutex<Medium>>) -> Box<dyn Store> {
        let life = {
            let mut medium = medium.lock();
            medium.life += 1;
            medium.has_crashed = false;
            medium.life
        };
        Box::new(Self { medium: Arc::clone(medium), life, unit: None })
    }

    fn call(&mut self, brings: bool, change: impl FnOnce(&mut Content)) -> Done {
        let fault = {
            let mut medium = self.medium.lock();
            if medium.life != self.life {
                return Err(Failure::Broken("this life is over".into()));
            }
            medium.calls += 1;
            let calls = medium.calls;
            let planned = medium.faults.remove(&calls);
            medium.has_crashed |= planned == Some(Fault::Crash);
            let always = medium.always.filter(|_| brings);
            if medium.has_crashed {
                Some(Fault::Broken)
            } else {
                planned.or(always)
            }
        };
        if let Some(fault) = fault {
            self.unit = None;
            return Err(match fault {
                Fault::Full => Failure::Full("no space left".into()),
                Fault::Broken | Fault::KeptUnseen | Fault::Crash => Failure::Broken("input/output error".into()),
            });
        }
        let unit = self.unit.get_or_insert_with(|| self.medium.lock().content.clone());
        change(unit);
        Ok(())
    }
}

impl Store for Fake {
    fn recover(&mut self, to: &mut dyn Recovery) -> Result<Damage, Failure> {
        let content = self.medium.lock().content.clone();
        to.begin(&Found {
            topics: content.topics.into_values().collect(),
            marks: content.marks.into_values().collect(),
            spots: content.spots.into_iter().collect(),
        });
        content.rows.into_values().for_each(|row| to.row(row));
        Ok(Damage::default())
    }

    fn topics(&mut self, changes: &[TopicChange]) -> Done {
        self.call(false, |content| {
            for change in changes {
                match change {
                    TopicChange::Made(row) => drop(content.topics.insert(row.id, row.clone())),
                    TopicChange::Gone(id) => {
                        content.topics.remove(id);
                        content.rows.retain(|_, row| row.head.topic != *id);
                        content.spots.retain(|spot, _| spot.topic != *id);
                    }
                }
            }
        })
    }

    fn append(&mut self, rows: &[Row]) -> Done {
        self.call(true, |content| content.rows.extend(rows.iter().map(|row| (row.head.seq, row.clone()))))
    }

    fn mark(&mut self, marks: &[Mark]) -> Done {
        self.call(false, |content| content.marks.extend(marks.iter().map(|mark| (mark.seq, *mark))))
    }

    fn remove(&mut self, seqs: &[u64]) -> Done {
        self.call(false, |content| {
            for seq in seqs {
                content.rows.remove(seq);
                content.marks.remove(seq);
            }
        })
    }

    fn commit(&mut self, spots: &[(Spot, u64)]) -> Done {
        self.call(false, |content| content.spots.extend(spots.iter().cloned()))
    }

    fn sync(&mut self) -> Done {
        {
            let mut medium = self.medium.lock();
            let next = medium.calls + 1;
            if medium.life == self.life && medium.faults.get(&next) == Some(&Fault::KeptUnseen) {
                if let Some(unit) = self.unit.take() {
                    medium.content = unit;
                }
            }
        }
        self.call(false, |_| {})?;
        if let Some(unit) = self.unit.take() {
            self.medium.lock().content = unit;
        }
        Ok(())
    }

    fn flush(&mut self) -> Done {
        Ok(())
    }

    fn usage(&self) -> Usage {
        Usage { bytes: 0, free_bytes: self.medium.lock().free_bytes }
    }
}

/// What a broker told.
#[derive(Default)]
struct Told {
    outcomes: Mutex<BTreeMap<u64, Outcome>>,
    warnings: Mutex<Vec<String>>,
    changed: Condvar,
}

impl BackendSink for Told {
    fn event(&self, event: BackendEvent) {
        if let BackendEvent::Warned(text) = event {
            self.warnings.lock().push(text);
        }
    }

    fn complete(&self, outcomes: &mut Vec<(Ticket, Outcome)>) {
        let mut told = self.outcomes.lock();
        for (ticket, outcome) in outcomes.drain(..) {
            assert!(told.insert(ticket.0, outcome).is_none(), "{ticket:?} was told twice");
        }
        drop(told);
        self.changed.notify_all();
    }
}

impl Told {
    #[track_caller]
    fn outcome(&self, ticket: u64) -> Outcome {
        let deadline = Deadline::after(Some(PATIENCE));
        let mut told = self.outcomes.lock();
        loop {
            if let Some(outcome) = told.get(&ticket) {
                return outcome.clone();
            }
            assert!(!deadline.has_passed(), "ticket {ticket} has no outcome");
            told = self.changed.wait_until(told, deadline.instant());
        }
    }
}

/// A sink, and a waker, that counts.
#[derive(Default)]
struct Rings(AtomicU64);

impl Sink for Rings {
    fn ready(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn revoked(&self, _tags: &[u64]) {}
}

impl Wake for Rings {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// One life of a broker.
struct House {
    broker: Arc<Durable>,
    clock: Clock,
    told: Arc<Told>,
    numbers: AtomicU64,
    tickets: AtomicU64,
}

/// Ids of one process are not those of another.
static LIVES: AtomicU64 = AtomicU64::new(0x5ca1_ab1e);

impl House {
    fn try_open(config: DiskConfig, store: Option<Box<dyn Store>>) -> Result<Self> {
        let (clock, told) = (Clock::virtual_(), Arc::<Told>::default());
        let sink = Arc::clone(&told) as Arc<dyn BackendSink>;
        let id_prefix = LIVES.fetch_add(1, Ordering::SeqCst);
        let cx = Context { clock: clock.clone(), limits: Limits::tiny(), id_prefix, hub: 0, sink };
        let broker = match store {
            Some(store) => Durable::over(store, config, cx)?,
            None => Durable::open(config, cx)?,
        };
        crate::runtime::wait(broker.connect(Epoch(1), Moment::NEVER), Some(PATIENCE))?;
        Ok(Self { broker, clock, told, numbers: AtomicU64::new(1), tickets: AtomicU64::new(1) })
    }

    fn fake(medium: &Arc<Mutex<Medium>>) -> Self {
        Self::try_open(config(Path::new("none")), Some(Fake::on(medium))).unwrap()
    }

    fn at(dir: &Path) -> Self {
        Self::try_open(config(dir), None).unwrap()
    }

    fn to(&self, topic: &str, kind: TopicKind) -> Arc<dyn Destination> {
        self.broker.destination(topic, kind).unwrap()
    }

    /// What was taken, and the first ticket.
    fn offer(&self, topic: &str, kind: TopicKind, records: &[Record<'_>]) -> (Taken, u64) {
        let first = self.tickets.fetch_add(records.len() as u64, Ordering::SeqCst);
        let now_us = self.clock.wall_us();
        let batch =
            Batch { records, first_ticket: Ticket(first), numbers: &self.numbers, now_us, require: None, since: None };
        (self.to(topic, kind).publish(&batch), first)
    }

    /// Publishes one record; answers how it ended.
    #[track_caller]
    fn publish(&self, topic: &str, kind: TopicKind, record: &Record<'_>) -> Outcome {
        let (taken, ticket) = self.offer(topic, kind, std::slice::from_ref(record));
        match taken.stopped {
            Some(error) => Outcome::NotSent(error),
            None => self.told.outcome(ticket),
        }
    }

    #[track_caller]
    fn task(&self, text: &str) {
        let outcome = self.publish("t", TopicKind::Task, &Record::new(text.as_bytes()));
        assert!(matches!(outcome, Outcome::Confirmed(Level::Disk)), "{outcome:?}");
    }

    #[track_caller]
    fn event(&self, text: &str) {
        let record = Record { key: Some(text.as_bytes()), ..Record::new(text.as_bytes()) };
        let outcome = self.publish("e", TopicKind::Event, &record);
        assert!(matches!(outcome, Outcome::Confirmed(Level::Disk)), "{outcome:?}");
    }

    fn subscribe(&self, spec: &SubscribeSpec) -> Arc<dyn Source> {
        let sink = Arc::<Rings>::default();
        crate::runtime::wait(self.broker.subscribe(spec, sink, Moment::NEVER), Some(PATIENCE)).unwrap()
    }

    fn worker(&self) -> Arc<dyn Source> {
        self.subscribe(&spec("t", TopicKind::Task))
    }

    fn member(&self, group: &str) -> Arc<dyn Source> {
        self.subscribe(&SubscribeSpec { group: Group::Named(group.into()), ..spec("e", TopicKind::Event) })
    }

    /// Waits until all that was told so far is written, or has failed to be.
    fn settle_down(&self) -> Result<()> {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("barrier-{}", NAMES.fetch_add(1, Ordering::SeqCst));
        let made = self.broker.declare(&name, TopicKind::Task, &TopicSpec::default(), Moment::NEVER);
        crate::runtime::wait(made, Some(PATIENCE)).map(drop)
    }

    fn close(self) -> CloseReport {
        crate::runtime::wait(self.broker.close(Moment::NEVER), Some(PATIENCE)).unwrap()
    }
}

fn config(dir: &Path) -> DiskConfig {
    DiskConfig { bytes_max: 1 << 20, free_space_floor: 0, ..DiskConfig::new(dir) }
}

fn spec(pattern: &str, kind: TopicKind) -> SubscribeSpec {
    SubscribeSpec {
        pattern: pattern.into(),
        kind,
        group: Group::Named("g".into()),
        start: Start::Earliest,
        stop: Stop::Never,
        prefetch: 1_000,
        ordered: Ordered::No,
        lease: None,
        read_only: false,
    }
}

/// All that is there now.
fn fetch(source: &dyn Source) -> Vec<Delivery> {
    let mut out = Vec::new();
    while source.fetch(100, &mut out) == Flow::More {}
    out
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    let text = |delivery: &Delivery| String::from_utf8_lossy(delivery.message.payload()).into_owned();
    deliveries.iter().map(text).collect()
}

fn acked(source: &dyn Source) -> Vec<String> {
    let out = fetch(source);
    let verdicts: Vec<_> = out.iter().map(|delivery| (delivery.tag, Verdict::Ack)).collect();
    source.settle(&verdicts);
    texts(&out)
}

/// A directory of one test.
struct TestDir(PathBuf);

impl TestDir {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("helixmq-disk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Keeps a waker alive, and tells whether it was woken.
fn waker() -> (Arc<Rings>, Weak<dyn Wake>) {
    let rings = Arc::<Rings>::default();
    let weak = Arc::downgrade(&rings);
    (rings, weak)
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::after(Some(PATIENCE));
    while !holds() {
        assert!(!deadline.has_passed(), "{what} did not come to be");
        std::thread::yield_now();
    }
}
