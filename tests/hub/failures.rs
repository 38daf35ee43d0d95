//! Failures of messages and of brokers: nothing is lost on the way, told twice, or asked in a loop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::time::Instant;

use helixmq::broker::custom::{CustomOps, CustomSink, NO_CAPABILITIES};
use helixmq::broker::{BackendEvent, Capabilities, Level, Outcome, Support, Verdict};
use helixmq::config::options::{DeadLetterQuery, PublisherOptions, TopicSelector};
use helixmq::error::{Error, Kind, Result};
use helixmq::hub::backends::{BrokerHandle, Role};
use helixmq::hub::{settle, Decision};
use helixmq::message::TopicKind;

use super::*;

fn dead_letters(hub: &Hub) -> serde_json::Value {
    hub.dead_letters(&DeadLetterQuery::from_json("{}").unwrap(), WAIT).unwrap()
}

/// A dead letter was told by its headers, so a message that came with such a header was taken for
/// one, and was handed over for ever.
#[test]
fn a_message_that_brings_the_headers_of_a_dead_letter_becomes_one_like_any_other() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"tasks.a","retry":{"attempts":1}}"#, &inbox, 0);
    let mut block = helixmq::message::HeaderBlock::default();
    block.push("hmq-origin-topic", b"elsewhere");
    let record = Record { headers: block.headers(), ..Record::new(b"odd") };
    hub.publish("tasks.a", None, &record, None, NOW).unwrap();
    settle(next(&inbox).token, Decision::Retry { delay: None, reason: "no" }).unwrap();
    hub.clock_advance(Duration::from_secs(3600)).unwrap();
    assert_quiet(&inbox);
    let list = dead_letters(&hub);
    assert_eq!((&list["count"], &list["dead_letters"][0]["origin"]), (&1.into(), &"tasks.a".into()), "{list}");
}

/// A name that one subscription gave to its dead letters took the dead letters of another away:
/// what was published to it directly was handed over for ever.
#[test]
fn an_ordinary_message_in_a_topic_of_dead_letters_becomes_one() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _first = subscribe_to(&hub, r#"{"topic":"tasks.a","dead_letter":"tasks.b"}"#, &inbox, 1);
    let _second = subscribe_to(&hub, r#"{"topic":"tasks.b"}"#, &inbox, 2);
    publish(&hub, "tasks.b", "ordinary");
    settle(next(&inbox).token, Decision::Reject { reason: "no" }).unwrap();
    hub.clock_advance(Duration::from_secs(3600)).unwrap();
    assert_quiet(&inbox);
    assert_eq!(dead_letters(&hub)["dead_letters"][0]["topic"], "tasks.b.dlq");
}

/// An event that a purge drops while a handler has it cannot come back; its retry was answered with
/// success and then nothing came.
#[test]
fn retrying_an_event_that_was_purged_meanwhile_says_so() {
    let hub = virtual_hub();
    let inbox = inbox(&hub);
    let _sub = subscribe_to(&hub, r#"{"topic":"event.a"}"#, &inbox, 0);
    publish(&hub, "event.a", "1");
    publish(&hub, "event.a", "2");
    let (one, two) = (next(&inbox), next(&inbox));
    assert_eq!(hub.purge(&TopicSelector::from_json(r#"{"name":"event.a"}"#).unwrap(), WAIT).unwrap(), 2);
    let refused = settle(one.token, Decision::Retry { delay: None, reason: "" }).unwrap_err();
    assert_eq!(refused.kind(), Kind::Stale, "{refused}");
    settle(two.token, Decision::Ack).unwrap();
    publish(&hub, "event.a", "3");
    assert_eq!(next(&inbox).message.payload(), b"3");
}

/// A broker opened alone has real time; its delays would not have followed the hub's clock.
#[test]
fn a_broker_opened_alone_is_refused_by_a_hub_with_a_virtual_clock() {
    let broker = BrokerHandle::open(r#"{"backend":"embedded"}"#, WAIT).unwrap();
    let refused = virtual_hub().set_broker(Role::Fallback, &broker).unwrap_err();
    assert_eq!(refused.kind(), Kind::State, "{refused}");
    open("{}").set_broker(Role::Fallback, &broker).unwrap();
}

type OnPublish = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// A broker of the program whose publishes do as the test says.
struct Program {
    on_publish: OnPublish,
    on_close: Box<dyn Fn() + Send + Sync>,
}

impl CustomOps for Program {
    fn capabilities(&self) -> Capabilities {
        Capabilities { tasks: Support::Native, payload_bytes_max: 1000, name_bytes_max: 200, ..NO_CAPABILITIES }
    }
    fn connect(&self, _: Duration) -> Result<()> {
        Ok(())
    }
    fn publish(&self, _: &str, _: TopicKind, _: &Record<'_>, _: u64, ticket: u64) -> Result<()> {
        (self.on_publish)(ticket)
    }
    fn subscribe(&self, _: &str, _: TopicKind, _: Option<&str>, _: usize, _: u64) -> Result<()> {
        Ok(())
    }
    fn unsubscribe(&self, _: u64) {}
    fn settle(&self, _: u64, _: u64, _: Verdict) {}
    fn close(&self, _: Duration) -> Result<()> {
        (self.on_close)();
        Ok(())
    }
}

fn hub_over(on_publish: OnPublish) -> (Hub, CustomSink) {
    let hub = open("{}");
    let program = Program { on_publish, on_close: Box::new(|| {}) };
    let (broker, sink) = BrokerHandle::custom(Box::new(program)).unwrap();
    hub.set_broker(Role::TaskQueue, &broker).unwrap();
    (hub, sink)
}

/// A broker that answered "full" was asked again at once, for as long as the publish might wait.
#[test]
fn a_full_broker_is_asked_again_when_it_has_space() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (hub, sink) = hub_over(Box::new(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        3.. => Ok(()),
        _ => Err(Error::new(Kind::Full, "no space")),
    }));
    let short = hub.publish("tasks.a", None, &Record::new(b"x"), None, Some(Duration::from_millis(50)));
    assert_eq!(short.unwrap_err().kind(), Kind::Full);
    let before = asked.load(Ordering::SeqCst);
    assert!(before <= 3, "asked {before} times in 50 ms without a sign of space");
    asked.store(0, Ordering::SeqCst);
    let waiting = {
        let hub = hub.clone();
        std::thread::spawn(move || hub.publish("tasks.a", None, &Record::new(b"x"), None, WAIT))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !waiting.is_finished() && Instant::now() < deadline {
        sink.event(BackendEvent::Unblocked).unwrap();
        // Refused by all tickets but that of the publish that was taken.
        (0..64).for_each(|ticket| drop(sink.complete(ticket, Outcome::Confirmed(Level::Broker))));
        std::thread::yield_now();
    }
    waiting.join().unwrap().unwrap();
}

/// A subscription whose broker had lost its connection neither ended nor came back.
#[test]
fn a_lost_connection_ends_the_subscriptions_of_a_custom_broker() {
    let (hub, sink) = hub_over(Box::new(|_| Ok(())));
    let inbox = inbox(&hub);
    let polled = subscribe_to(&hub, r#"{"topic":"tasks.a"}"#, &inbox, 7);
    let options = SubscribeOptions::from_json(r#"{"topic":"tasks.b"}"#).unwrap();
    let called = hub.subscribe(options, handler(|_| Some(HandlerVerdict::Ack)), WAIT).unwrap();
    let asking = self::inbox(&hub);
    let without_credit = subscribe_to(&hub, r#"{"topic":"tasks.c","credit":"manual"}"#, &asking, 0);
    assert_quiet(&asking);
    assert_quiet(&inbox);
    let publisher = hub.publisher(PublisherOptions::from_json(r#"{"topic":"tasks.a"}"#).unwrap()).unwrap();
    let (outcomes, outcome) = mpsc::channel();
    publisher.send_async(&Record::new(b"x"), Box::new(move |result| outcomes.send(result).unwrap())).unwrap();
    sink.event(BackendEvent::Lost(Error::new(Kind::BackendDown, "gone"))).unwrap();
    let mut events = Vec::new();
    assert_eq!(inbox.poll(4, WAIT, &mut events), Polled::Data);
    match &events[..] {
        [Event::End { tag: 7, result: Err(error) }] => assert_eq!(error.kind(), Kind::BackendDown),
        other => panic!("{other:?}"),
    }
    assert_eq!(polled.wait(WAIT).unwrap_err().kind(), Kind::BackendDown);
    assert_eq!(called.wait(WAIT).unwrap_err().kind(), Kind::BackendDown);
    let unknown = outcome.recv_timeout(Duration::from_secs(10)).unwrap().unwrap_err();
    assert_eq!(unknown.kind(), Kind::OutcomeUnknown, "whoever sends it again may send it twice");
    events.clear();
    assert_eq!(asking.poll(4, WAIT, &mut events), Polled::Data);
    assert_eq!(without_credit.wait(NOW).unwrap_err().kind(), Kind::BackendDown);
}

/// A close during a hand-over completed the publish as cancelled, and the hand-over then completed
/// it once more.
#[test]
fn a_close_during_a_publish_tells_its_outcome_once() {
    for taken in [true, false] {
        let (entered, inside) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (entered, released) = (Mutex::new(entered), Mutex::new(released));
        let (hub, _sink) = hub_over(Box::new(move |_| {
            entered.lock().unwrap().send(()).unwrap();
            let _ = released.lock().unwrap().recv();
            if taken {
                Ok(())
            } else {
                Err(Error::new(Kind::Refused, "no"))
            }
        }));
        let publisher = hub.publisher(PublisherOptions::from_json(r#"{"topic":"tasks.a"}"#).unwrap()).unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        let publishing = std::thread::spawn(move || {
            let done = move |_: Result<_>| {
                counted.fetch_add(1, Ordering::SeqCst);
            };
            publisher.send_async(&Record::new(b"x"), Box::new(done)).map(drop)
        });
        inside.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(hub.close(Some(Duration::from_millis(20))).unwrap_err().kind(), Kind::Timeout);
        release.send(()).unwrap();
        let answer = publishing.join().unwrap();
        hub.close(WAIT).unwrap();
        // An error of the call means that `done` is not called.
        assert_eq!(told.load(Ordering::SeqCst), usize::from(answer.is_ok()), "taken: {taken}");
        assert!(answer.is_ok() || !taken);
    }
}

/// A broker that bridges to a hub of its own was refused to close that hub from its own close.
#[test]
fn a_broker_may_close_a_hub_of_its_own_when_it_closes() {
    let (hub, inner) = (open("{}"), open("{}"));
    let (answers, answer) = mpsc::channel();
    let (own, outer) = (inner.clone(), hub.clone());
    let on_close = move || answers.send((own.close(WAIT), outer.close(None).unwrap_err().kind())).unwrap();
    let program = Program { on_publish: Box::new(|_| Ok(())), on_close: Box::new(on_close) };
    let (broker, _sink) = BrokerHandle::custom(Box::new(program)).unwrap();
    hub.set_broker(Role::TaskQueue, &broker).unwrap();
    hub.close(WAIT).unwrap();
    let (inner_closed, outer_refused) = answer.recv_timeout(Duration::from_secs(10)).unwrap();
    inner_closed.unwrap();
    assert_eq!(outer_refused, Kind::Reentrant);
}

/// What a broker says while it closes was told on a thread that the close did not wait for.
#[test]
fn nothing_is_called_after_a_close_that_succeeded() {
    struct Counting(Arc<AtomicUsize>);
    impl helixmq::hub::TextHandler for Counting {
        fn text(&self, _: helixmq::hub::LogLevel, _: &str) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for _ in 0..50 {
        let hub = open("{}");
        let sink: Arc<Mutex<Option<CustomSink>>> = Arc::default();
        let own = Arc::clone(&sink);
        let on_close = move || {
            let sink = own.lock().unwrap().clone().unwrap();
            sink.event(BackendEvent::Lost(Error::new(Kind::BackendDown, "closed"))).unwrap();
        };
        let program = Program { on_publish: Box::new(|_| Ok(())), on_close: Box::new(on_close) };
        let (broker, its_sink) = BrokerHandle::custom(Box::new(program)).unwrap();
        *sink.lock().unwrap() = Some(its_sink);
        hub.set_broker(Role::TaskQueue, &broker).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        hub.on_state(Some(Box::new(Counting(Arc::clone(&calls))))).unwrap();
        let inbox = hub.inbox(InboxOptions::from_json(r#"{"state":true}"#).unwrap()).unwrap();
        hub.close(WAIT).unwrap();
        let (before, mut events) = (calls.load(Ordering::SeqCst), Vec::new());
        while inbox.poll(8, NOW, &mut events) == Polled::Data {}
        for _ in 0..20 {
            std::thread::yield_now();
        }
        assert_eq!(calls.load(Ordering::SeqCst), before);
        assert_eq!(inbox.poll(8, NOW, &mut events), Polled::Closed);
    }
}

/// The user data of a publish that was not taken were dropped while it still counted as open, so a
/// drop function that flushed waited for itself.
#[test]
fn a_drop_function_of_a_refused_publish_cannot_wait_for_it() {
    struct Flushes(Hub, mpsc::Sender<Kind>);
    impl Drop for Flushes {
        fn drop(&mut self) {
            self.1.send(self.0.flush(None).unwrap_err().kind()).unwrap();
        }
    }
    let (hub, _sink) = hub_over(Box::new(|_| Ok(())));
    let publisher = hub.publisher(PublisherOptions::from_json(r#"{"topic":"tasks.a"}"#).unwrap()).unwrap();
    let (answers, answer) = mpsc::channel();
    let user_data = Flushes(hub.clone(), answers);
    let done = move |_: Result<_>| drop(user_data);
    publisher.send_async(&Record::new(&[0; 2_000_000]), Box::new(done)).unwrap_err();
    assert_eq!(answer.recv_timeout(Duration::from_secs(10)).unwrap(), Kind::Reentrant);
}
