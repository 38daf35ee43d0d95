//! Tests of the embedded broker: a harness on a virtual clock, then tasks, events, space, and
//! models of a queue and of a log.

mod events;
mod models;
mod space;
mod tasks;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::{Embedded, EmbeddedConfig};
use crate::broker::*;
use crate::clock::{Clock, Moment};
use crate::error::Kind;
use crate::limits::Limits;
use crate::message::{Record, TopicKind};
use crate::runtime::Pending;
use crate::sync::Mutex;

#[derive(Default)]
struct Signals {
    ready: AtomicUsize,
    revoked: Mutex<Vec<u64>>,
}

impl Sink for Signals {
    fn ready(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
    }

    fn revoked(&self, tags: &[u64]) {
        self.revoked.lock().extend_from_slice(tags);
    }
}

impl Wake for Signals {
    fn wake(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
    }
}

impl BackendSink for Signals {
    fn event(&self, _event: BackendEvent) {}
    fn complete(&self, _outcomes: &mut Vec<(Ticket, Outcome)>) {}
}

impl Signals {
    fn take(&self) -> usize {
        self.ready.swap(0, Ordering::SeqCst)
    }
}

struct House {
    broker: Arc<Embedded>,
    clock: Clock,
    numbers: AtomicU64,
}

/// A subscription with its signals.
struct Reader {
    source: Arc<dyn Source>,
    signals: Arc<Signals>,
}

fn now<T>(pending: Pending<T>) -> Result<T, crate::error::Error> {
    crate::runtime::wait(pending, None)
}

fn task_spec(pattern: &str) -> SubscribeSpec {
    SubscribeSpec {
        pattern: pattern.into(),
        kind: TopicKind::Task,
        group: Group::Named("g".into()),
        start: Start::Earliest,
        stop: Stop::Never,
        prefetch: 1000,
        ordered: Ordered::No,
        lease: None,
        read_only: false,
    }
}

fn event_spec(pattern: &str, group: &str) -> SubscribeSpec {
    SubscribeSpec { kind: TopicKind::Event, group: Group::Named(group.into()), ..task_spec(pattern) }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Every test runs with segments of a few records, and as users run.
fn with_both(test: impl Fn(House)) {
    test(House::new(Limits::tiny()));
    test(House::new(Limits::production()));
}

impl House {
    fn new(limits: Limits) -> Self {
        Self::with(limits, 1 << 20, 4)
    }

    fn with(limits: Limits, memory_bytes_max: usize, partitions: u32) -> Self {
        let clock = Clock::virtual_();
        let cx = Context { clock: clock.clone(), limits, id_prefix: 7, hub: 0, sink: Arc::new(Signals::default()) };
        let cfg = EmbeddedConfig { memory_bytes_max, partitions, topics: Vec::new() };
        Self { broker: Embedded::open(cfg, cx).unwrap(), clock, numbers: AtomicU64::new(0) }
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: TopicSpec) -> Result<Declared, crate::error::Error> {
        now(self.broker.declare(topic, kind, &spec, Moment::NEVER))
    }

    fn publish_to(&self, destination: &dyn Destination, records: &[Record<'_>]) -> Taken {
        destination.publish(&Batch {
            records,
            first_ticket: Ticket(0),
            numbers: &self.numbers,
            now_us: self.clock.wall_us(),
            require: None,
            since: None,
        })
    }

    fn publish(&self, topic: &str, kind: TopicKind, records: &[Record<'_>]) -> Taken {
        self.publish_to(&*self.broker.destination(topic, kind).unwrap(), records)
    }

    /// Publishes tasks with these payloads; all must be taken.
    fn tasks(&self, topic: &str, payloads: &[&str]) {
        let records: Vec<_> = payloads.iter().map(|payload| Record::new(payload.as_bytes())).collect();
        assert_eq!(self.publish(topic, TopicKind::Task, &records).count, payloads.len());
    }

    /// Publishes one event with `key` (empty: none); it must be taken.
    fn event(&self, topic: &str, key: &str, payload: &str) {
        let key = (!key.is_empty()).then_some(key.as_bytes());
        let taken = self.publish(topic, TopicKind::Event, &[Record { key, ..Record::new(payload.as_bytes()) }]);
        assert_eq!(taken.count, 1, "{:?}", taken.stopped);
    }

    fn subscribe(&self, spec: &SubscribeSpec) -> Reader {
        let signals = Arc::new(Signals::default());
        let source = now(self.broker.subscribe(spec, signals.clone(), Moment::NEVER)).unwrap();
        Reader { source, signals }
    }

    fn advance(&self, ms: u64) {
        self.clock.advance(millis(ms)).unwrap();
    }

    fn describe(&self, topic: &str) -> Description {
        now(self.broker.admin().unwrap().describe(topic, Moment::NEVER)).unwrap().remove(0)
    }
}

impl Reader {
    /// One fetch of up to `max`.
    fn fetch(&self, max: usize) -> Vec<Delivery> {
        let mut out = Vec::new();
        self.source.fetch(max, &mut out);
        out
    }

    /// Fetches until idle or ended.
    fn all(&self) -> Vec<Delivery> {
        let mut out = Vec::new();
        while self.source.fetch(64, &mut out) == Flow::More {}
        out
    }

    fn flow(&self) -> Flow {
        let mut out = Vec::new();
        let flow = self.source.fetch(64, &mut out);
        assert!(out.is_empty(), "{out:?}");
        flow
    }

    fn settle(&self, delivery: &Delivery, verdict: Verdict) {
        self.source.settle(&[(delivery.tag, verdict)]);
    }

    fn ack(&self, deliveries: &[Delivery]) {
        let verdicts: Vec<_> = deliveries.iter().map(|delivery| (delivery.tag, Verdict::Ack)).collect();
        self.source.settle(&verdicts);
    }
}

fn texts(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| std::str::from_utf8(delivery.message.payload()).unwrap()).collect()
}
