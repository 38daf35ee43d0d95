//! The same message twice: by a second publish (`"dedup": true`), and after a connection broke (the ledger).

use std::collections::HashMap;
use std::sync::{mpsc, Arc, Mutex, Weak};

use helixmq::broker::embedded::{Embedded, EmbeddedConfig};
use helixmq::broker::{
    Admin, BackendKind, Broken, Broker, Capabilities, CloseReport, Declared, Delivery, Destination, Epoch, Flow,
    Receipts, Sink, Source, Start, SubscribeSpec, TopicSpec, Verdict,
};
use helixmq::clock::Moment;
use helixmq::config::options::{DeadLetterQuery, SeekOptions};
use helixmq::error::{Kind, Result};
use helixmq::hub::backends::{BrokerHandle, Role};
use helixmq::hub::{extend, settle, Decision, MetricsFormat};
use helixmq::message::{Message, TopicKind};
use helixmq::runtime::Pending;
use serde_json::Value;

use super::*;

const RETRY: Decision<'static> = Decision::Retry { delay: Some(Duration::ZERO), reason: "again" };

fn send(hub: &Hub, topic: &str, id: &str, payload: &str) {
    let record = Record { id, ..Record::new(payload.as_bytes()) };
    hub.publish(topic, None, &record, None, NOW).unwrap();
}

fn metrics(hub: &Hub) -> Value {
    serde_json::from_str(&hub.metrics(MetricsFormat::Json)).unwrap()
}

fn dropped(hub: &Hub) -> u64 {
    metrics(hub)["helixmq_duplicates_dropped_total"].as_u64().unwrap()
}

fn text(incoming: &Incoming) -> String {
    String::from_utf8_lossy(incoming.message.payload()).into_owned()
}

fn ack(incoming: &Incoming) {
    settle(incoming.token, Decision::Ack).unwrap();
}

#[test]
fn a_second_copy_is_acknowledged_and_not_handed_over() {
    for topic in ["tasks.a", "events.a"] {
        let hub = virtual_hub();
        let inbox = inbox(&hub);
        let sub = subscribe_to(&hub, &format!(r#"{{"topic":"{topic}","dedup":true}}"#), &inbox, 0);
        send(&hub, topic, "one", "first");
        ack(&next(&inbox));
        send(&hub, topic, "one", "second");
        send(&hub, topic, "two", "other");
        let other = next(&inbox);
        assert_eq!((text(&other).as_str(), dropped(&hub)), ("other", 1));
        assert_eq!(metrics(&hub)["helixmq_remembered_ids"]["dedup"], 2);
        ack(&other);
        assert_eq!(sub.progress().unwrap()["unsettled"], 0);
        // A subscription that is opened later knows what another was handed.
        sub.close(WAIT).unwrap();
        let _sub = subscribe_to(&hub, &format!(r#"{{"topic":"{topic}","dedup":true}}"#), &inbox, 1);
        send(&hub, topic, "two", "once more");
        send(&hub, topic, "three", "third");
        assert!(matches!(next_event(&inbox), Event::End { .. }));
        let third = next(&inbox);
        assert_eq!((text(&third).as_str(), dropped(&hub)), ("third", 2));
        ack(&third);
        hub.clock_advance(Duration::from_secs(599)).unwrap();
        send(&hub, topic, "three", "within the window");
        assert_quiet(&inbox);
        hub.clock_advance(Duration::from_secs(1)).unwrap();
        send(&hub, topic, "three", "beyond it");
        assert_eq!(text(&next(&inbox)), "beyond it");
    }
}

fn next_event(inbox: &Inbox) -> Event {
    let mut events = Vec::new();
    assert_eq!(inbox.poll(1, WAIT, &mut events), Polled::Data);
    events.pop().unwrap()
}

#[test]
fn without_the_option_each_copy_is_handed_over() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    for payload in ["first", "second"] {
        send(&hub, "tasks.a", "one", payload);
        let incoming = next(&inbox);
        assert_eq!(text(&incoming), payload);
        ack(&incoming);
    }
    assert_eq!(metrics(&hub)["helixmq_remembered_ids"]["dedup"], 0);
}

/// Nothing may be lost for a second copy that was thrown away too early.
#[test]
fn a_second_copy_waits_for_the_first_and_takes_its_place_if_that_fails() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _subs = [1, 2].map(|tag| subscribe_to(&hub, r#"{"topic":"tasks.a","dedup":true}"#, &inbox, tag));
    for payload in ["first", "second", "third"] {
        send(&hub, "tasks.a", "one", payload);
    }
    let first = next(&inbox);
    assert_quiet(&inbox);
    assert_eq!(metrics(&hub)["helixmq_held_back"]["dedup"], 2);
    settle(first.token, Decision::Retry { delay: None, reason: "not now" }).unwrap();
    let second = next(&inbox);
    assert_quiet(&inbox);
    assert_ne!(text(&first), text(&second));
    hub.clock_advance(Duration::from_secs(10)).unwrap();
    assert_quiet(&inbox);
    ack(&second);
    assert_quiet(&inbox);
    assert_eq!((dropped(&hub), &metrics(&hub)["helixmq_held_back"]["dedup"]), (2, &0.into()));
}

#[test]
fn a_second_copy_runs_when_the_first_ones_lease_or_subscription_ends() {
    let hub = virtual_hub();
    let (first, second) = (inbox(&hub), inbox(&hub));
    let options = r#"{"topic":"tasks.a","dedup":true,"lease_ms":10000,"prefetch":1}"#;
    let sub = subscribe_to(&hub, options, &first, 1);
    send(&hub, "tasks.a", "one", "1");
    let held = next(&first);
    let other = subscribe_to(&hub, options, &second, 2);
    send(&hub, "tasks.a", "one", "2");
    assert_quiet(&second);
    // Renewed, it is waited for, and what waits is not taken back meanwhile.
    for _ in 0..10 {
        extend(held.token, Duration::from_secs(10)).unwrap();
        hub.clock_advance(Duration::from_secs(9)).unwrap();
        assert_quiet(&second);
    }
    hub.clock_advance(Duration::from_secs(1)).unwrap();
    let copy = next(&second);
    assert_eq!((text(&copy).as_str(), copy.attempt), ("2", 1));
    assert_eq!(settle(held.token, Decision::Ack).unwrap_err().kind(), Kind::Stale);
    assert_quiet(&first);
    other.close(WAIT).unwrap();
    // Both are the first subscription's now: one is out, one waits.
    let again = next(&first);
    sub.close(WAIT).unwrap();
    let third = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a","dedup":true}"#, &third, 3);
    ack(&next(&third));
    assert_quiet(&third);
    assert_eq!(settle(again.token, Decision::Ack).unwrap_err().kind(), Kind::Closed);
    assert_eq!(dropped(&hub), 1);
}

/// A copy had waited for half of its lease, and had the other half to be handled in.
#[test]
fn a_copy_that_runs_has_its_whole_lease() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let options = r#"{"topic":"tasks.a","dedup":true,"lease_ms":10000}"#;
    let _sub = subscribe_to(&hub, options, &inbox, 0);
    send(&hub, "tasks.a", "one", "1");
    let first = next(&inbox);
    hub.clock_advance(Duration::from_secs(5)).unwrap();
    send(&hub, "tasks.a", "one", "2");
    assert_quiet(&inbox);
    hub.clock_advance(Duration::from_secs(4)).unwrap();
    settle(first.token, Decision::Retry { delay: Some(Duration::from_secs(60)), reason: "" }).unwrap();
    let copy = next(&inbox);
    hub.clock_advance(Duration::from_secs(9)).unwrap();
    ack(&copy);
}

#[test]
fn a_dead_letter_is_done_until_it_is_sent_back() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a","dedup":true}"#, &inbox, 0);
    for _ in 0..2 {
        send(&hub, "tasks.a", "one", "bad");
    }
    for round in 1..=2 {
        settle(next(&inbox).token, Decision::Reject { reason: "bad" }).unwrap();
        assert_quiet(&inbox);
        let query = DeadLetterQuery::from_json("{}").unwrap();
        assert_eq!((hub.dead_letters(&query, WAIT).unwrap()["count"].clone(), dropped(&hub)), (1.into(), 1));
        let redrive = DeadLetterQuery::from_json(r#"{"action":"redrive","topic":"tasks.a"}"#).unwrap();
        assert_eq!(hub.dead_letters(&redrive, WAIT).unwrap()["count"], 1, "round {round}");
    }
    let back = next(&inbox);
    ack(&back);
    send(&hub, "tasks.a", "one", "bad");
    assert_quiet(&inbox);
}

#[test]
fn each_group_is_handed_each_event_once() {
    let hub = virtual_hub();
    let inboxes = [inbox(&hub), inbox(&hub), inbox(&hub)];
    let _subs: Vec<Subscription> = inboxes
        .iter()
        .zip([r#""a""#, r#""b""#, "null"])
        .map(|(inbox, group)| {
            subscribe_to(&hub, &format!(r#"{{"topic":"events.a","dedup":true,"group":{group}}}"#), inbox, 0)
        })
        .collect();
    for payload in ["first", "second"] {
        send(&hub, "events.a", "one", payload);
    }
    for inbox in &inboxes {
        ack(&next(inbox));
        assert_quiet(inbox);
    }
    assert_eq!(dropped(&hub), 3);
}

#[test]
fn ids_of_other_topics_are_others() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.*","kind":"task","dedup":true}"#, &inbox, 0);
    for topic in ["tasks.a", "tasks.b"] {
        send(&hub, topic, "one", topic);
        let incoming = next(&inbox);
        assert_eq!(text(&incoming), topic);
        ack(&incoming);
    }
}

#[test]
fn events_that_are_sought_come_again() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let sub = subscribe_to(&hub, r#"{"topic":"events.a","dedup":true}"#, &inbox, 0);
    for id in ["one", "one", "two"] {
        send(&hub, "events.a", id, id);
    }
    let mut out = [next(&inbox), next(&inbox)];
    out.sort_by_key(text);
    ack(&out[1]);
    sub.seek(&SeekOptions::from_json(r#"{"to":"earliest"}"#).unwrap(), WAIT).unwrap();
    let mut again = [next(&inbox), next(&inbox)];
    again.sort_by_key(text);
    assert_eq!(again.each_ref().map(text), ["one", "two"]);
    again.iter().for_each(ack);
    assert_quiet(&inbox);
}

#[test]
fn dedup_that_could_remember_nothing_is_refused() {
    for (name, failover) in [("window", r#"{"dedup_window_ms":0}"#), ("ids", r#"{"dedup_ids_max":0}"#)] {
        let hub = open(&format!(r#"{{"failover":{failover}}}"#));
        let options = SubscribeOptions::from_json(r#"{"topic":"tasks.a","dedup":true}"#).unwrap();
        let refused = hub.subscribe_inbox(options, &inbox(&hub), 0, WAIT).unwrap_err();
        assert_eq!(refused.kind(), Kind::Config, "{name}: {refused}");
        let _plain = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox(&hub), 0);
    }
}

#[test]
fn what_is_remembered_is_bounded_and_the_rest_is_handed_over() {
    let hub = open(r#"{"clock":"virtual","failover":{"dedup_ids_max":10}}"#);
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a","dedup":true}"#, &inbox, 0);
    for id in 0..100 {
        send(&hub, "tasks.a", &id.to_string(), "x");
        ack(&next(&inbox));
    }
    assert_eq!(metrics(&hub)["helixmq_remembered_ids"]["dedup"], 10);
    for id in [89, 95] {
        send(&hub, "tasks.a", &id.to_string(), "y");
    }
    let forgotten = next(&inbox);
    assert_eq!(forgotten.message.id().as_str(), "89");
    assert_quiet(&inbox);
}

/// The embedded broker behind a connection that a test can break.
#[derive(Debug)]
struct Far {
    inner: Arc<Embedded>,
    sources: Mutex<Vec<Weak<FarSource>>>,
}

impl Far {
    fn given_to(hub: &Hub) -> Arc<Self> {
        let mut made = None;
        let broker = BrokerHandle::make(|context| {
            let config = EmbeddedConfig { memory_bytes_max: 1 << 20, partitions: 1, topics: Vec::new() };
            let far = Arc::new(Self { inner: Embedded::open(config, context)?, sources: Mutex::default() });
            made = Some(Arc::clone(&far));
            Ok(far as Arc<dyn Broker>)
        });
        hub.set_broker(Role::TaskQueue, &broker.unwrap()).unwrap();
        made.unwrap()
    }

    /// What is out is nobody's, and comes again, marked.
    fn break_off(&self) {
        let sources: Vec<_> = self.sources.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        for source in sources {
            let out = std::mem::take(&mut *source.out.lock().unwrap());
            let mut ended: Vec<Broken> = out.into_values().collect();
            ended.sort_by_key(|own| own.tag);
            let back: Vec<_> = ended.iter().map(|own| (own.tag, Verdict::Retry(Duration::ZERO))).collect();
            // In this order, as a server takes a while to find out, and to hand over again.
            source.sink.broken(ended);
            source.inner.settle(&back);
        }
    }
}

impl Broker for Far {
    fn kind(&self) -> BackendKind {
        BackendKind::Custom
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn receipts(&self) -> Receipts {
        self.inner.receipts()
    }

    fn connect(&self, epoch: Epoch, deadline: Moment) -> Pending<()> {
        self.inner.connect(epoch, deadline)
    }

    fn declare(&self, topic: &str, kind: TopicKind, spec: &TopicSpec, deadline: Moment) -> Pending<Declared> {
        self.inner.declare(topic, kind, spec, deadline)
    }

    fn destination(&self, topic: &str, kind: TopicKind) -> Result<Arc<dyn Destination>> {
        self.inner.destination(topic, kind)
    }

    fn subscribe(&self, spec: &SubscribeSpec, sink: Arc<dyn Sink>, deadline: Moment) -> Pending<Arc<dyn Source>> {
        let opened = self.inner.subscribe(spec, Arc::clone(&sink), deadline);
        let inner = helixmq::runtime::wait(opened, WAIT);
        let opened = inner.map(|inner| {
            let source = Arc::new(FarSource { inner, sink, out: Mutex::default() });
            self.sources.lock().unwrap().push(Arc::downgrade(&source));
            source as Arc<dyn Source>
        });
        Box::pin(std::future::ready(opened))
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.inner.admin()
    }

    fn close(&self, deadline: Moment) -> Pending<CloseReport> {
        self.inner.close(deadline)
    }
}

struct FarSource {
    inner: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    out: Mutex<HashMap<u64, Broken>>,
}

impl std::fmt::Debug for FarSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FarSource")
    }
}

impl Source for FarSource {
    fn fetch(&self, max: usize, out: &mut Vec<Delivery>) -> Flow {
        let from = out.len();
        let flow = self.inner.fetch(max, out);
        let own = out[from..].iter().map(|delivery| {
            let Delivery { message, tag, partition, offset, .. } = delivery;
            (*tag, Broken { tag: *tag, message: message.clone(), partition: *partition, offset: *offset })
        });
        self.out.lock().unwrap().extend(own);
        flow
    }

    fn settle(&self, verdicts: &[(u64, Verdict)]) -> Vec<u64> {
        let mut out = self.out.lock().unwrap();
        let (own, ended): (Vec<_>, Vec<_>) = verdicts.iter().partition(|(tag, _)| out.remove(tag).is_some());
        drop(out);
        self.inner.settle(&own);
        ended.into_iter().map(|(tag, _)| tag).collect()
    }

    fn held(&self, tag: u64) -> Option<Message> {
        self.out.lock().unwrap().get(&tag).map(|own| own.message.clone())
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

fn far_hub(json: &str) -> (Hub, Arc<Far>) {
    let hub = open(json);
    let far = Far::given_to(&hub);
    (hub, far)
}

fn ledger_acked(hub: &Hub) -> u64 {
    metrics(hub)["helixmq_ledger_acked_total"].as_u64().unwrap()
}

/// T6, with and without dedup: one run, whenever the redelivery comes.
#[test]
fn a_handler_that_runs_across_a_break_runs_once() {
    for (dedup, name) in [("", "ledger"), (r#","dedup":true"#, "dedup")] {
        let (hub, far) = far_hub("{}");
        let inbox = inbox(&hub);
        let sub = subscribe_to(&hub, &format!(r#"{{"topic":"tasks.a","prefetch":3{dedup}}}"#), &inbox, 0);
        for payload in ["held", "buffered", "not fetched"] {
            publish(&hub, "tasks.a", payload);
        }
        let held = next(&inbox);
        far.break_off();
        // What no handler had comes as it would have.
        let others = [next(&inbox), next(&inbox)].each_ref().map(text);
        assert!(others.contains(&"buffered".to_owned()) && others.contains(&"not fetched".to_owned()), "{others:?}");
        assert_quiet(&inbox);
        assert_eq!(metrics(&hub)["helixmq_held_back"][name], 1);
        // And again, while the copy waits.
        far.break_off();
        assert_quiet(&inbox);
        assert_eq!(metrics(&hub)["helixmq_held_back"][name], 3, "the two others are with their handlers, too");
        ack(&held);
        assert_eq!(settle(held.token, Decision::Ack).unwrap_err().kind(), Kind::Settled);
        assert_quiet(&inbox);
        assert_eq!(ledger_acked(&hub) + dropped(&hub), 1);
        // It is done: what comes after another break is not run, either.
        far.break_off();
        assert_quiet(&inbox);
        assert_eq!(sub.progress().unwrap()["unsettled"], 2);
    }
}

/// A handler that fails across a break: its message comes again, now that it may.
#[test]
fn what_fails_across_a_break_comes_again() {
    let (hub, far) = far_hub("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    publish(&hub, "tasks.a", "x");
    let first = next(&inbox);
    far.break_off();
    assert_quiet(&inbox);
    assert_eq!(settle(first.token, RETRY).unwrap_err().kind(), Kind::Stale);
    let second = next(&inbox);
    assert!(second.redelivered);
    // Across a second break, before its redelivery was looked at.
    far.break_off();
    assert_eq!(settle(second.token, RETRY).unwrap_err().kind(), Kind::Stale);
    ack(&next(&inbox));
    assert_quiet(&inbox);
    assert_eq!(ledger_acked(&hub), 0);
}

/// A rejection across a break makes its dead letter, once.
#[test]
fn what_is_rejected_across_a_break_is_a_dead_letter() {
    let (hub, far) = far_hub("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    publish(&hub, "tasks.a", "bad");
    let first = next(&inbox);
    far.break_off();
    assert_quiet(&inbox);
    settle(first.token, Decision::Reject { reason: "bad" }).unwrap();
    assert_quiet(&inbox);
    let list = hub.dead_letters(&DeadLetterQuery::from_json("{}").unwrap(), WAIT).unwrap();
    assert_eq!((&list["count"], ledger_acked(&hub)), (&1.into(), 1), "{list}");
}

#[test]
fn a_callback_that_runs_across_a_break_is_called_once() {
    let (hub, far) = far_hub("{}");
    let (began, begun) = mpsc::channel();
    let (go, going) = mpsc::channel::<()>();
    let (began, going) = (Mutex::new(began), Mutex::new(going));
    let options = SubscribeOptions::from_json(r#"{"topic":"tasks.a","concurrency":2}"#).unwrap();
    let handle = move |incoming: Incoming| {
        let payload = text(&incoming);
        began.lock().unwrap().send(payload.clone()).unwrap();
        if payload == "slow" {
            going.lock().unwrap().recv().unwrap();
        }
        Some(HandlerVerdict::Ack)
    };
    let sub = hub.subscribe(options, handler(handle), WAIT).unwrap();
    publish(&hub, "tasks.a", "slow");
    assert_eq!(begun.recv().unwrap(), "slow");
    far.break_off();
    publish(&hub, "tasks.a", "quick");
    assert_eq!(begun.recv().unwrap(), "quick", "and not the slow one again");
    go.send(()).unwrap();
    publish(&hub, "tasks.a", "last");
    assert_eq!(begun.recv().unwrap(), "last");
    sub.close(WAIT).unwrap();
    assert_eq!((ledger_acked(&hub), begun.try_recv().is_err()), (1, true));
}

/// One that never decides is waited for as long as ids are remembered.
#[test]
fn a_handler_that_never_ends_gives_way_to_the_redelivery() {
    let (hub, far) = far_hub(r#"{"failover":{"dedup_window_ms":200}}"#);
    let inbox = inbox(&hub);
    let sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    publish(&hub, "tasks.a", "x");
    let stuck = next(&inbox);
    far.break_off();
    assert_quiet(&inbox);
    let again = next(&inbox);
    assert!(again.redelivered);
    assert_eq!(settle(stuck.token, Decision::Ack).unwrap_err().kind(), Kind::Stale);
    ack(&again);
    assert_eq!((sub.progress().unwrap()["unsettled"].clone(), ledger_acked(&hub)), (0.into(), 0));
}

/// An id that a program uses for many messages is no reason to take one for another.
#[test]
fn the_ledger_takes_no_other_message_of_the_same_id() {
    let (hub, far) = far_hub("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    send(&hub, "tasks.a", "report", "monday");
    let monday = next(&inbox);
    far.break_off();
    ack(&monday);
    send(&hub, "tasks.a", "report", "tuesday");
    let tuesday = next(&inbox);
    assert_eq!((text(&tuesday).as_str(), ledger_acked(&hub)), ("tuesday", 1));
    far.break_off();
    settle(tuesday.token, RETRY).unwrap_err();
    assert_eq!(text(&next(&inbox)), "tuesday");
    send(&hub, "tasks.a", "report", "monday");
    assert_eq!(text(&next(&inbox)), "monday", "the same again, which nobody has handed over before");
}

/// Both were out, with the same id: what is decided of one is not decided of the other.
#[test]
fn the_ledger_keeps_messages_of_the_same_id_apart() {
    let (hub, far) = far_hub("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 0);
    for payload in ["monday", "tuesday"] {
        send(&hub, "tasks.a", "report", payload);
    }
    let (monday, tuesday) = (next(&inbox), next(&inbox));
    far.break_off();
    assert_quiet(&inbox);
    ack(&monday);
    settle(tuesday.token, RETRY).unwrap_err();
    let again = next(&inbox);
    assert_eq!((text(&again).as_str(), ledger_acked(&hub)), ("tuesday", 1));
    ack(&again);
    assert_quiet(&inbox);
}

/// What had been fetched ahead when the connection broke was never begun: it comes with its redelivery, once.
#[test]
fn what_was_fetched_ahead_of_a_break_comes_once() {
    let (hub, far) = far_hub("{}");
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a","prefetch":64}"#, &inbox, 0);
    for number in 0..100 {
        publish(&hub, "tasks.a", &number.to_string());
    }
    let mut seen = Vec::new();
    let mut take = |count: usize| {
        for _ in 0..count {
            let incoming = next(&inbox);
            ack(&incoming);
            seen.push(text(&incoming).parse::<u32>().unwrap());
        }
    };
    // Quick enough to be given batches.
    take(20);
    far.break_off();
    take(80);
    assert_quiet(&inbox);
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

/// What a closed subscription had is handed over again, by another.
#[test]
fn a_subscription_that_is_closed_after_a_break_waits_for_nobody() {
    let (hub, far) = far_hub("{}");
    let (first, second) = (inbox(&hub), inbox(&hub));
    let sub = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &first, 1);
    publish(&hub, "tasks.a", "x");
    let held = next(&first);
    let _other = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &second, 2);
    far.break_off();
    assert_quiet(&second);
    sub.close(WAIT).unwrap();
    let again = next(&second);
    assert_eq!((text(&again).as_str(), again.redelivered), ("x", true));
    assert_eq!(settle(held.token, Decision::Ack).unwrap_err().kind(), Kind::Closed);
    ack(&again);
}
