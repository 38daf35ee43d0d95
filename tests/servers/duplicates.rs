//! The same message twice, on real servers: T5, a confirm that was lost; T6, a handler across a break.

use std::collections::BTreeMap;
use std::sync::{mpsc, Arc};

use helixmq::error::Kind;
use helixmq::hub::{Handler, HandlerVerdict};

use super::proxy::{Proxy, Way};
use super::*;

const RETRY: Decision<'static> = Decision::Retry { delay: None, reason: "again" };

fn through(proxy: &Proxy, more: Value) -> Hub {
    let server = json!({"host": "127.0.0.1", "port": proxy.port(), "heartbeat_ms": 1000});
    let failover = json!({"reconnect_max_ms": 500, "confirm_timeout_ms": 1000});
    let own = json!({"connection_timeout_ms": 2000, "rabbitmq": server, "failover": failover});
    open_over(own, more)
}

/// Breaks every connection, and waits until they are back.
fn broken(hub: &Hub, proxy: &Proxy) {
    let before = attempts(hub);
    proxy.reset();
    until("the loss", || attempts(hub) > before);
    until("the return", || is_up(hub));
}

/// Waits until `what` holds, while these inboxes are looked at, and give nothing.
#[track_caller]
fn quiet_until(what: &str, inboxes: &[&Inbox], mut holds: impl FnMut() -> bool) {
    until(what, || {
        for inbox in inboxes {
            let came = next_within(inbox, Duration::from_millis(5)).map(|incoming| text(&incoming));
            assert_eq!(came, None, "before {what}");
        }
        holds()
    });
}

fn ledger_acked(hub: &Hub) -> u64 {
    metric(hub, "helixmq_ledger_acked_total")
}

/// T5: the server has taken a message, and its confirm is lost. What is sent again bears the mark; who remembers
/// ids is handed each once.
#[test]
fn t5_rabbitmq_a_lost_confirm_makes_a_second_copy_that_dedup_does_not_hand_over() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let publishing = through(&proxy, json!({"fallback_to_inmemory": true}));
    let consuming = super::hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&consuming));
    publish(&publishing, &topic, "first").unwrap();
    proxy.set(Way::Down, super::network::BLACKHOLE);
    let publisher = publisher(&publishing, &topic);
    let results = publishing.inbox(InboxOptions::from_json("{}").unwrap()).unwrap();
    for number in 0..20 {
        let sent = publisher.send_inbox(&[Record::new(number.to_string().as_bytes())], &[number], &results, None);
        assert_eq!(sent.0, 1);
    }
    until("the loss", || !is_up(&publishing));
    proxy.heal();
    until("the return", || is_up(&publishing));
    publishing.wait_forwarded(Some(Duration::from_secs(60))).unwrap();
    let second = metric(&publishing, "helixmq_maybe_duplicate_total");
    assert!(second > 0, "no confirm was lost");
    publish(&publishing, &topic, "last").unwrap();
    let _sub = subscribe(&consuming, json!({"topic": topic, "dedup": true}), &inbox);
    let mut seen = BTreeMap::<String, usize>::new();
    while seen.len() < 22 {
        let incoming = next(&inbox);
        ack(&incoming);
        *seen.entry(text(&incoming)).or_default() += 1;
    }
    assert!(next_within(&inbox, Duration::from_millis(500)).is_none());
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    let dropped = metric(&consuming, "helixmq_duplicates_dropped_total");
    assert!((1..=second).contains(&dropped), "{dropped} of {second} that may be second copies");
    println!("{second} were sent again, {dropped} of them were second copies");
    publishing.close(WAIT).unwrap();
    consuming.close(WAIT).unwrap();
}

/// A program that does not know how its publish ended sends it again, with the same id.
fn a_second_publish_is_handed_over_once(hub: &Hub, topic: &str, kind: TopicKind) {
    let inbox = inbox(hub);
    let json = json!({"topic": topic, "kind": kind.name(), "group": topic, "dedup": true});
    let sub = subscribe(hub, json.clone(), &inbox);
    let send = |id: &str, payload: &str| {
        let record = Record { id, key: Some(b"k"), ..Record::new(payload.as_bytes()) };
        hub.publish(topic, Some(kind), &record, None, WAIT).unwrap();
    };
    send("one", "first");
    send("one", "second");
    send("two", "third");
    let (first, third) = (next(&inbox), next(&inbox));
    assert_eq!((text(&first), text(&third)), ("first".to_owned(), "third".to_owned()));
    ack(&third);
    // The second takes the place of the first, if that fails.
    settle(first.token, Decision::Retry { delay: Some(Duration::from_millis(100)), reason: "again" }).unwrap();
    let second = next(&inbox);
    assert_eq!(text(&second), "second");
    ack(&second);
    quiet_until("the first, which is done now", &[&inbox], || metric(hub, "helixmq_duplicates_dropped_total") == 1);
    // What is acknowledged unasked is gone from the server.
    sub.close(WAIT).unwrap();
    let other = super::inbox(hub);
    let _sub = subscribe(hub, json!({"topic": topic, "kind": kind.name(), "group": topic}), &other);
    send("three", "last");
    let last = next(&other);
    assert_eq!(text(&last), "last");
    ack(&last);
}

#[test]
fn rabbitmq_a_second_publish_is_handed_over_once() {
    let _alone = alone();
    let hub = super::hub(json!({}));
    a_second_publish_is_handed_over_once(&hub, &topic(), TopicKind::Task);
    hub.close(WAIT).unwrap();
    let hub = super::hub(json!({}));
    a_second_publish_is_handed_over_once(&hub, &kafka::topic(), TopicKind::Event);
    hub.close(WAIT).unwrap();
}

#[test]
fn kafka_a_second_publish_is_handed_over_once() {
    let _alone = kafka::alone();
    let hub = kafka::hub(json!({"kafka": {"partitions": 1}}));
    a_second_publish_is_handed_over_once(&hub, &kafka::topic(), TopicKind::Event);
    hub.close(WAIT).unwrap();
}

/// T6, one side: the redelivery comes to the process whose handler still runs.
#[test]
fn t6_rabbitmq_a_handler_across_a_break_runs_once() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let hub = through(&proxy, json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    for payload in ["done", "failed", "rejected"] {
        publish(&hub, &topic, payload).unwrap();
    }
    let held = [next(&inbox), next(&inbox), next(&inbox)];
    broken(&hub, &proxy);
    quiet_until("the redeliveries", &[&inbox], || held_back(&hub) == 3);
    assert!(next_within(&inbox, Duration::from_millis(300)).is_none());
    // A second break while they wait.
    broken(&hub, &proxy);
    quiet_until("the redeliveries", &[&inbox], || held_back(&hub) == 3);
    ack(&held[0]);
    assert_eq!(settle(held[0].token, Decision::Ack).unwrap_err().kind(), Kind::Settled);
    assert_eq!(settle(held[1].token, RETRY).unwrap_err().kind(), Kind::Stale);
    settle(held[2].token, Decision::Reject { reason: "never" }).unwrap();
    let again = next(&inbox);
    assert_eq!((text(&again).as_str(), again.redelivered), ("failed", true));
    ack(&again);
    quiet_until("the end of the others", &[&inbox], || ledger_acked(&hub) == 2);
    assert_eq!(dead_letter(&hub, &format!("{topic}.dlq"))["reason"], "never");
    assert_eq!(sub.progress().unwrap()["unsettled"], 0);
    sub.close(WAIT).unwrap();
    // The server has it from nobody but the ledger.
    let _sub = subscribe(&hub, json!({"topic": topic}), &inbox);
    publish(&hub, &topic, "last").unwrap();
    let mut events = Vec::new();
    until("the last", || {
        inbox.poll(1, Some(Duration::from_millis(100)), &mut events);
        events.iter().any(|event| matches!(event, Event::Message { .. }))
    });
    let texts = events.iter().filter_map(|event| match event {
        Event::Message { incoming, .. } => Some(text(incoming)),
        _ => None,
    });
    assert_eq!(texts.collect::<Vec<_>>(), ["last"]);
    hub.close(WAIT).unwrap();
}

/// Waits inside its first call until the test lets it go on.
struct Slow {
    began: Mutex<mpsc::Sender<String>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Handler for Slow {
    fn handle(&self, incoming: Incoming) -> Option<HandlerVerdict> {
        let payload = text(&incoming);
        self.began.lock().unwrap().send(payload.clone()).unwrap();
        if payload == "slow" {
            self.go.lock().unwrap().recv().unwrap();
        }
        Some(HandlerVerdict::Ack)
    }
}

#[test]
fn t6_rabbitmq_a_callback_across_a_break_is_called_once() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let hub = through(&proxy, json!({}));
    let topic = topic();
    let ((began, begun), (go, going)) = (mpsc::channel(), mpsc::channel());
    let slow = Slow { began: Mutex::new(began), go: Mutex::new(going) };
    let options = json!({"topic": topic, "concurrency": 2}).to_string();
    let sub = hub.subscribe(SubscribeOptions::from_json(&options).unwrap(), Box::new(slow), WAIT).unwrap();
    publish(&hub, &topic, "slow").unwrap();
    let patience = Duration::from_secs(20);
    assert_eq!(begun.recv_timeout(patience).unwrap(), "slow");
    broken(&hub, &proxy);
    until("the redelivery", || held_back(&hub) == 1);
    publish(&hub, &topic, "quick").unwrap();
    assert_eq!(begun.recv_timeout(patience).unwrap(), "quick");
    go.send(()).unwrap();
    until("its acknowledgement", || ledger_acked(&hub) == 1);
    publish(&hub, &topic, "last").unwrap();
    assert_eq!(begun.recv_timeout(patience).unwrap(), "last");
    sub.close(WAIT).unwrap();
    hub.close(WAIT).unwrap();
}

/// T6, the other side: elsewhere it is a redelivery like any other, marked.
#[test]
fn t6_rabbitmq_elsewhere_it_is_a_marked_redelivery() {
    let _alone = alone();
    let proxy = Proxy::to(port());
    let (far, near) = (through(&proxy, json!({})), super::hub(json!({})));
    let (topic, first, second) = (topic(), inbox(&far), inbox(&near));
    let _far = subscribe(&far, json!({"topic": topic}), &first);
    publish(&near, &topic, "x").unwrap();
    let held = next(&first);
    let _near = subscribe(&near, json!({"topic": topic}), &second);
    proxy.down();
    until("the loss", || !is_up(&far));
    let again = next(&second);
    assert_eq!((text(&again).as_str(), again.redelivered), ("x", true));
    ack(&again);
    ack(&held);
    assert_eq!((ledger_acked(&far), ledger_acked(&near)), (0, 0));
    near.close(WAIT).unwrap();
    far.close(WAIT).unwrap();
}

/// T6: a partition moves while its handler runs longer than it is waited for.
#[test]
fn t6_kafka_a_handler_across_a_rebalance_runs_once() {
    let _alone = kafka::alone();
    let hub = kafka::hub(json!({"kafka": {"partitions": 2}}));
    let (topic, first, second) = (kafka::topic(), inbox(&hub), inbox(&hub));
    let sub = kafka::member(&hub, &topic, &first, json!({}));
    let mut held = Vec::new();
    // One of each partition, and then some behind them.
    for number in 0..200 {
        kafka::event(&hub, &topic, Some(&number.to_string()), &number.to_string()).unwrap();
        let incoming = next(&first);
        match held.iter().any(|own: &Incoming| own.partition == incoming.partition) {
            true => ack(&incoming),
            false => held.push(incoming),
        }
        if held.len() == 2 {
            break;
        }
    }
    let other = kafka::member(&hub, &topic, &second, json!({}));
    let inboxes = [&first, &second];
    quiet_until("the partition's move, after the five seconds", &inboxes, || held_back(&hub) >= 1);
    held.iter().for_each(ack);
    quiet_until("its acknowledgement", &inboxes, || ledger_acked(&hub) >= 1 && held_back(&hub) == 0);
    let times: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let note = |incoming: &Incoming| {
        ack(incoming);
        *times.lock().unwrap().entry(text(incoming)).or_default() += 1;
    };
    for number in 1000..1020 {
        kafka::event(&hub, &topic, Some(&number.to_string()), &number.to_string()).unwrap();
    }
    let start = Instant::now();
    while times.lock().unwrap().keys().filter(|text| text.len() == 4).count() < 20 {
        assert!(start.elapsed() < Duration::from_secs(30), "{times:?}");
        for inbox in inboxes {
            if let Some(incoming) = next_within(inbox, Duration::from_millis(20)) {
                note(&incoming);
            }
        }
    }
    let again: Vec<String> = held.iter().map(text).filter(|own| times.lock().unwrap().contains_key(own)).collect();
    assert!(again.is_empty(), "{again:?} ran again");
    // What the ledger acknowledged is committed: nobody is handed it later.
    sub.close(WAIT).unwrap();
    other.close(WAIT).unwrap();
    let third = inbox(&hub);
    let _sub = kafka::member(&hub, &topic, &third, json!({}));
    kafka::event(&hub, &topic, Some("k"), "last").unwrap();
    assert_eq!(text(&next_within(&third, Duration::from_secs(30)).unwrap()), "last");
    hub.close(WAIT).unwrap();
}
