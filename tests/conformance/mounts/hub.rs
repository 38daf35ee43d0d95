//! The hub itself, over its embedded broker: what a program gets passes the same cases.
//!
//! [`HubBroker`] speaks the `Broker` trait towards the cases and the hub's public calls behind it:
//! a destination is a publisher, a source is an inbox subscription, a tag is a token.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use helixmq::broker::{
    Admin, BackendKind, BackendSink, Batch, Broker, Capabilities, CloseReport, Declared, Delivery, Description,
    Destination, Epoch, Flow, Group, Level, Ordered, Sink, Source, Start, Stop, SubscribeSpec, Taken, TopicSpec,
    Verdict, Wake,
};
use helixmq::clock::{Clock, Moment};
use helixmq::config::options::{
    DeclareOptions, InboxOptions, PublisherOptions, ReplayOptions, SeekOptions, SubscribeOptions, TopicSelector,
};
use helixmq::config::Config;
use helixmq::error::{Error, Fate, Kind, Result};
use helixmq::hub::{Decision, Event, Hub, Inbox, Incoming, Polled, Publisher, Subscription};
use helixmq::message::{Message, TopicKind};
use helixmq::runtime::{ready, Pending};
use helixmq::sync::Mutex;
use serde_json::{json, Value};

use crate::harness::{Harness, Need, PATIENCE};
use crate::mounts::disk::Directory;

/// A hub with a virtual clock, and nothing configured.
pub fn memory() -> Box<dyn Harness> {
    // Made before the hub's, so that a time read from it is never later than the hub's own.
    let clock = Clock::virtual_();
    Box::new(OverHub { clock, hub: open(json!({})), directory: None })
}

/// The same, with a data directory.
pub fn disk() -> Box<dyn Harness> {
    let (clock, directory) = (Clock::virtual_(), Directory::new());
    let hub = open(json!({"dir": directory.path(), "free_space_floor_bytes": 0}));
    Box::new(OverHub { clock, hub, directory: Some(directory) })
}

fn open(failover: Value) -> Hub {
    let config = json!({
        "clock": "virtual", "retry": {"attempts": 1000}, "embedded": {"partitions": 1}, "failover": failover,
    });
    let config = Config::from_json(&config.to_string()).expect("the configuration is right");
    Hub::open(config, Some(PATIENCE)).expect("a hub without servers opens")
}

struct OverHub {
    clock: Clock,
    hub: Hub,
    /// Removed after the hub is closed.
    directory: Option<Directory>,
}

impl Harness for OverHub {
    fn broker(&self, _sink: Arc<dyn BackendSink>) -> Arc<dyn Broker> {
        Arc::new(HubBroker { hub: self.hub.clone(), on_disk: self.directory.is_some() })
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by).expect("the clock is virtual");
        self.hub.clock_advance(by).expect("the hub's clock is virtual");
    }

    fn offers(&self, need: Need) -> bool {
        // A program returns a delivery by closing, sees no space but waits for it, cannot settle by
        // tag, hears of an ended lease when it settles, and of what a close loses in the log.
        !matches!(
            need,
            Need::Return | Need::Space | Need::Tags | Need::CloseReport | Need::Revoked | Need::OrderedTasks
        )
    }

    fn payload_bytes_max(&self) -> usize {
        1 << 20
    }
}

impl Drop for OverHub {
    fn drop(&mut self) {
        // A case that failed has its own story to tell.
        drop(self.hub.close(Some(PATIENCE)));
    }
}

struct HubBroker {
    hub: Hub,
    on_disk: bool,
}

/// A try: the cases wait by themselves.
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

impl Broker for HubBroker {
    fn kind(&self) -> BackendKind {
        BackendKind::Embedded
    }

    fn capabilities(&self) -> Capabilities {
        crate::mounts::embedded::capabilities()
    }

    fn connect(&self, _epoch: Epoch, _deadline: Moment) -> Pending<()> {
        ready(Ok(()))
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, _deadline: Moment) -> Pending<Declared> {
        let mut options = json!({"name": topic, "kind": kind.name()});
        let millis = |time: Option<Duration>| time.map(|time| json!(time.as_millis() as u64));
        let settings = [
            ("partitions", spec.partitions.map(Value::from)),
            ("messages_max", spec.messages_max.map(Value::from)),
            ("bytes_max", spec.bytes_max.map(Value::from)),
            ("overflow", spec.drop_oldest.map(|drop| json!(if drop { "drop_oldest" } else { "reject" }))),
            ("age_max_ms", millis(spec.age_max)),
            ("ttl_ms", millis(spec.ttl)),
        ];
        for (name, value) in settings {
            if let Some(value) = value {
                options[name] = value;
            }
        }
        let declared = DeclareOptions::from_json(&options.to_string())
            .and_then(|options| self.hub.declare(&options, Some(PATIENCE)));
        ready(declared)
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        let options = json!({"topic": topic, "kind": kind.name()}).to_string();
        let options = PublisherOptions::from_json(&options).map_err(argument)?;
        Ok(Arc::new(ToHub { to: self.hub.publisher(options)?, on_disk: self.on_disk }))
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, _deadline: Moment) -> Pending<Arc<dyn Source>> {
        ready(self.open(spec, sink))
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(self)
    }

    fn close(&self, _deadline: Moment) -> Pending<CloseReport> {
        ready(self.hub.close(Some(PATIENCE)).map(|()| CloseReport::default()))
    }
}

impl HubBroker {
    fn open(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>) -> Result<Arc<dyn Source>> {
        let inbox = self.hub.inbox(InboxOptions::default())?;
        let subscription = if spec.read_only {
            self.hub.replay_inbox(replay_options(spec)?, &inbox, 1, Some(PATIENCE))?
        } else {
            let options = subscribe_options(spec);
            let options = SubscribeOptions::from_json(&options.to_string()).map_err(argument)?;
            self.hub.subscribe_inbox(options, &inbox, 1, Some(PATIENCE))?
        };
        inbox.on_ready(Box::new(move || sink.ready()))?;
        Ok(Arc::new(FromHub { inbox, subscription, open: Mutex::default() }))
    }
}

/// The document around an argument is checked before the hub sees the argument itself.
fn argument(error: Error) -> Error {
    match error.path() {
        Some("prefetch") => Error::new(Kind::Arg, error.message()),
        Some("topic") => Error::new(Kind::Name, error.message()),
        _ => error,
    }
}

fn subscribe_options(spec: &SubscribeSpec) -> Value {
    let mut options = json!({
        "topic": spec.pattern,
        "kind": spec.kind.name(),
        "prefetch": spec.prefetch,
        "ordered": match spec.ordered {
            Ordered::No => "none",
            Ordered::Key => "key",
            Ordered::Strict => "strict",
        },
    });
    if let Some(lease) = spec.lease {
        options["lease_ms"] = json!(lease.as_millis() as u64);
    }
    if spec.kind == TopicKind::Event {
        options["start"] = start(spec.start);
        options["group"] = match &spec.group {
            Group::Named(name) => json!(name),
            Group::Private => Value::Null,
        };
    }
    options
}

fn replay_options(spec: &SubscribeSpec) -> Result<ReplayOptions> {
    let mut options = json!({"topic": spec.pattern, "follow": spec.stop == Stop::Never});
    match spec.start {
        Start::Time(from) => options["from"] = json!(time(from)),
        // A replay begins at a time; behind the last event there is none yet.
        Start::Latest | Start::Offset(_) => options["from"] = json!("2999-01-01T00:00:00Z"),
        Start::Earliest => {}
    }
    if let Stop::Time(to) = spec.stop {
        options["to"] = json!(time(to));
    }
    ReplayOptions::from_json(&options.to_string())
}

fn start(start: Start) -> Value {
    match start {
        Start::Earliest => json!("earliest"),
        Start::Latest => json!("latest"),
        Start::Offset(offset) => json!({"offset": offset}),
        Start::Time(at) => json!({"time": time(at)}),
    }
}

/// A wall time as the options take it.
fn time(at_us: i64) -> Value {
    json!(at_us)
}

impl Admin for HubBroker {
    fn describe(&self, pattern: &str, _deadline: Moment) -> Pending<Vec<Description>> {
        let selector = json!({"pattern": pattern}).to_string();
        let described = TopicSelector::from_json(&selector).and_then(|selector| self.hub.describe(&selector, AT_ONCE));
        ready(described.map(|found| found.as_array().into_iter().flatten().map(description).collect()))
    }

    fn purge(&self, topic: &str, _deadline: Moment) -> Pending<u64> {
        let selector = json!({"name": topic}).to_string();
        ready(TopicSelector::from_json(&selector).and_then(|selector| self.hub.purge(&selector, Some(PATIENCE))))
    }

    fn delete(&self, topic: &str, _deadline: Moment) -> Pending<()> {
        let selector = json!({"name": topic}).to_string();
        ready(TopicSelector::from_json(&selector).and_then(|selector| self.hub.delete(&selector, Some(PATIENCE))))
    }
}

fn description(value: &Value) -> Description {
    let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {value}"));
    let pairs = value["partitions"].as_array().into_iter().flatten();
    Description {
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        kind: if value["kind"] == "task" { "task" } else { "event" },
        messages: number("messages"),
        unsettled: number("unsettled"),
        delayed: number("delayed"),
        bytes: number("bytes"),
        consumers: number("consumers"),
        expired: number("expired"),
        dropped: number("dropped"),
        partitions: pairs.map(|pair| (pair[0].as_i64().unwrap_or(-1), pair[1].as_i64().unwrap_or(-1))).collect(),
        lag: value["lag"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(group, lag)| (group.clone(), lag.as_u64().unwrap_or(u64::MAX)))
            .collect(),
    }
}

struct ToHub {
    to: Publisher,
    /// Outcomes come later.
    on_disk: bool,
}

impl ToHub {
    /// Hands over without waiting for space, and then waits for what was taken.
    fn start_and_wait(&self, batch: &Batch<'_>) -> (usize, Option<Error>) {
        let (told, outcomes) = std::sync::mpsc::channel();
        let mut stopped = None;
        let mut count = 0;
        for record in batch.records {
            let told = told.clone();
            match self.to.send_async(record, Box::new(move |result| drop(told.send(result)))) {
                Ok(_) => count += 1,
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
        }
        for _ in 0..count {
            let outcome = outcomes.recv_timeout(PATIENCE).expect("what was taken has an outcome");
            outcome.unwrap_or_else(|error| panic!("what was taken was not kept: {error}"));
        }
        (count, stopped)
    }
}

impl Destination for ToHub {
    fn publish(&self, batch: &Batch<'_>) -> Taken {
        let (count, stopped) = match self.on_disk {
            false => self.to.send_batch(batch.records, AT_ONCE, None),
            true => self.start_and_wait(batch),
        };
        // A record that the hub does not even take has no outcome there; here everyone has one.
        let stopped = stopped.map(|error| if error.fate().is_none() { error.with_fate(Fate::NotSent) } else { error });
        // The hub numbers records by itself; the batch's own numbers only have to rise.
        Taken { count, first_seq: batch.number(batch.records.len()), level: Some(Level::Memory), stopped }
    }

    fn on_space(&self, _waker: Weak<dyn Wake>) {
        unreachable!("a publish of the hub waits for space by itself; no case that needs a sign of it runs here");
    }
}

struct FromHub {
    inbox: Inbox,
    subscription: Subscription,
    /// Tokens that are out, as the cases know them by tag.
    open: Mutex<HashSet<u64>>,
}

impl Source for FromHub {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        if max == 0 {
            return Flow::Idle;
        }
        let mut events = Vec::new();
        let polled = self.inbox.poll(max, AT_ONCE, &mut events);
        let mut ended = polled == Polled::Closed;
        for event in events {
            match event {
                Event::Message { incoming, .. } => out.push(self.delivery(incoming)),
                Event::End { .. } => ended = true,
                other => panic!("this inbox asked for nothing of the kind: {other:?}"),
            }
        }
        match (ended, polled) {
            (true, _) => Flow::End,
            (false, Polled::Data) => Flow::More,
            (false, Polled::NoData | Polled::Closed) => Flow::Idle,
        }
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let out: Vec<_> = verdicts.iter().filter(|(tag, _)| self.open.lock().remove(tag)).collect();
        let get = |index: usize| {
            let (token, verdict) = out[index];
            let decision = match verdict {
                Verdict::Ack => Decision::Ack,
                Verdict::Retry(delay) => Decision::Retry { delay: Some(*delay), reason: "the case asks for it" },
                Verdict::Return => unreachable!("no case that returns a delivery runs here"),
            };
            (*token, decision)
        };
        let mut ended = Vec::new();
        helixmq::hub::settle_many(out.len(), get, |index, result| match result {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Kind::Stale | Kind::Closed) => ended.push(out[index].0),
            Err(error) => panic!("a delivery that is out cannot be settled: {error}"),
        });
        ended
    }

    fn held(&self, _tag: u64) -> Option<Message> {
        None
    }

    fn extend(&self, tag: u64, lease: Duration) -> Result<()> {
        helixmq::hub::extend(tag, lease)
    }

    fn seek(&self, to: Start) -> Result<()> {
        let options = json!({"to": start(to)}).to_string();
        self.subscription.seek(&SeekOptions::from_json(&options)?, Some(PATIENCE))
    }

    fn close(&self) {
        self.subscription.close(Some(PATIENCE)).expect("a subscription into an inbox closes at once");
    }
}

impl FromHub {
    fn delivery(&self, incoming: Incoming) -> Delivery {
        let Incoming { message, token, attempt, redelivered, provisional, partition, offset } = incoming;
        if token != 0 {
            self.open.lock().insert(token);
        }
        Delivery { message, tag: token, attempt, unsure: 0, redelivered, provisional, partition, offset }
    }
}

impl fmt::Debug for HubBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubBroker")
    }
}

impl fmt::Debug for ToHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToHub")
    }
}

impl fmt::Debug for FromHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromHub")
    }
}
