//! Events that are kept for a server that is away are shown to groups of this process; what a group has handled by
//! then it is not handed again.

use helixmq::config::options::SeekOptions;

use super::outage::{forwarded, key, Side, KAFKA, RABBITMQ};
use super::*;

const HANDLED: &str = "helixmq_provisional_done_total";
const SOON: Duration = Duration::from_secs(10);

/// The hub of a process of an application, whose events go to this server.
fn hub(side: Side, topic: &str) -> Hub {
    let mut more = json!({"connection_timeout_ms": 1000, "retry": {"delay_ms": 10, "jitter": false}});
    if side.name == "rabbitmq" {
        more["routes"] = json!([{"pattern": topic, "kind": "event", "backend": "rabbitmq"}]);
    }
    let hub = side.hub(more);
    until("a connection", || is_up(&hub));
    hub
}

fn publish(hub: &Hub, topic: &str, numbers: std::ops::Range<u64>) -> usize {
    let numbers = numbers.map(|number| {
        let (key, payload) = (key(number), number.to_string());
        let record = Record { key: Some(key.as_bytes()), ..Record::new(payload.as_bytes()) };
        hub.publish(topic, Some(TopicKind::Event), &record, None, WAIT).unwrap()
    });
    numbers.filter(|receipt| receipt.spooled).count()
}

/// A member of a group.
fn member(hub: &Hub, topic: &str, group: &str) -> (Subscription, Inbox) {
    let inbox = inbox(hub);
    let options = json!({"topic": topic, "kind": "event", "group": group, "prefetch": 100, "ordered": "none"});
    (subscribe(hub, options, &inbox), inbox)
}

fn numbers(all: &[Incoming]) -> Vec<u64> {
    all.iter().map(|incoming| text(incoming).parse().unwrap()).collect()
}

fn some(inbox: &Inbox, count: usize) -> Vec<Incoming> {
    (0..count).map(|_| came(inbox, SOON).unwrap()).collect()
}

/// This one is from the server, and done.
#[track_caller]
fn real(incoming: &Incoming, number: u64) {
    assert_eq!((text(incoming), incoming.provisional), (number.to_string(), false));
    ack(incoming);
}

/// The next, but for the event from before the outage: its acknowledgement may not have arrived.
fn came(inbox: &Inbox, within: Duration) -> Option<Incoming> {
    loop {
        let incoming = next_within(inbox, within)?;
        if text(&incoming) != "0" {
            return Some(incoming);
        }
        ack(&incoming);
    }
}

#[track_caller]
fn nothing_more(inbox: &Inbox) {
    if let Some(more) = came(inbox, Duration::from_secs(1)) {
        panic!("{} came, provisional: {}", text(&more), more.provisional);
    }
}

fn each_group_is_shown_what_is_kept_and_handed_what_it_has_not_handled(side: Side) {
    let _alone = side.alone();
    let topic = format!("events.{}", side.topic());
    let own = hub(side, &topic);
    let ((_one, first), (_two, second)) = (member(&own, &topic, "one"), member(&own, &topic, "two"));
    publish(&own, &topic, 0..1);
    [&first, &second].into_iter().for_each(|inbox| ack(&next(inbox)));
    // The queue of a group comes back from so early a kill without a leader (RabbitMQ 3.10.8).
    let away = side.away(if side.name == "kafka" { "kill" } else { "stop" });
    until("the loss", || !is_up(&own));
    assert_eq!(publish(&own, &topic, 1..21), 20);
    // Each group is shown all of it, in order.
    let shown = some(&first, 20);
    assert_eq!(numbers(&shown), (1..21).collect::<Vec<_>>());
    assert!(shown.iter().all(|own| own.provisional && own.offset == -1 && own.attempt == 1));
    for incoming in &shown {
        match text(incoming).as_str() {
            "5" => settle(incoming.token, Decision::Retry { delay: None, reason: "not now" }).unwrap(),
            "6" => settle(incoming.token, Decision::Reject { reason: "never" }).unwrap(),
            _ => ack(incoming),
        }
    }
    nothing_more(&first);
    let open = some(&second, 20);
    assert_eq!(numbers(&open), (1..21).collect::<Vec<_>>());
    drop(away);
    until("the return", || is_up(&own));
    forwarded(&own);
    // What was not handled comes from the server.
    real(&came(&first, SOON).unwrap(), 5);
    // The real ones of those that are with a handler wait for what it makes of them.
    until("the real copies", || {
        // They are fetched by whoever looks.
        assert!(came(&second, Duration::from_millis(10)).is_none());
        held_back(&own) == 20
    });
    for incoming in &open {
        match text(incoming).as_str() {
            "7" => settle(incoming.token, Decision::Retry { delay: None, reason: "not now" }).unwrap(),
            _ => ack(incoming),
        }
    }
    real(&came(&second, SOON).unwrap(), 7);
    [&first, &second].into_iter().for_each(nothing_more);
    // Others hear of all.
    let other = hub(side, &topic);
    let (_three, third) = member(&other, &topic, "three");
    if side.name == "kafka" {
        let all = some(&third, 20);
        assert_eq!(numbers(&all).into_iter().collect::<std::collections::BTreeSet<_>>(), (1..21).collect());
        all.iter().for_each(ack);
    }
    assert_eq!(metric(&own, HANDLED) + metric(&own, "helixmq_ledger_acked_total"), 19 + 19);
    assert_eq!(metric(&own, "helixmq_provisional_total"), 40);
    assert_eq!(publish(&own, &topic, 21..22), 0);
    for inbox in [&first, &second, &third] {
        real(&came(inbox, SOON).unwrap(), 21);
    }
    own.close(WAIT).unwrap();
    other.close(WAIT).unwrap();
}

#[test]
fn kafka_each_group_is_shown_what_is_kept_and_handed_what_it_has_not_handled() {
    each_group_is_shown_what_is_kept_and_handed_what_it_has_not_handled(KAFKA);
}

#[test]
fn rabbitmq_each_group_is_shown_what_is_kept_and_handed_what_it_has_not_handled() {
    each_group_is_shown_what_is_kept_and_handed_what_it_has_not_handled(RABBITMQ);
}

/// A member in another process is not handed what its group has handled, and neither is a group moved back to it.
#[test]
fn what_a_group_has_handled_is_told_with_the_event() {
    let side = KAFKA;
    let _alone = side.alone();
    let topic = format!("events.{}", side.topic());
    let own = hub(side, &topic);
    let (one, first) = member(&own, &topic, "one");
    publish(&own, &topic, 0..1);
    ack(&next(&first));
    let away = side.away("kill");
    until("the loss", || !is_up(&own));
    assert_eq!(publish(&own, &topic, 1..21), 20);
    some(&first, 20).iter().for_each(ack);
    one.close(WAIT).unwrap();
    drop(away);
    until("the return", || is_up(&own));
    forwarded(&own);
    assert_eq!(publish(&own, &topic, 21..22), 0);
    let other = hub(side, &topic);
    let (two, second) = member(&other, &topic, "one");
    // The member that left while the cluster was away is missed after its session.
    real(&came(&second, Duration::from_secs(60)).unwrap(), 21);
    nothing_more(&second);
    assert_eq!(metric(&other, HANDLED), 20);
    // Who wants it all again gets it all.
    two.seek(&SeekOptions::from_json(r#"{"to": "earliest"}"#).unwrap(), WAIT).unwrap();
    let all = some(&second, 21);
    assert_eq!(numbers(&all).into_iter().collect::<std::collections::BTreeSet<_>>(), (1..22).collect());
    own.close(WAIT).unwrap();
    other.close(WAIT).unwrap();
}

/// In a group that keeps order by key one event of a key is out at a time; with `strict` none passes one that failed.
#[test]
fn what_is_shown_keeps_the_order_of_its_keys() {
    let side = KAFKA;
    let _alone = side.alone();
    let topic = format!("events.{}", side.topic());
    let own = hub(side, &topic);
    let open = |group: &str, ordered: &str| {
        let inbox = inbox(&own);
        let options = json!({"topic": topic, "kind": "event", "group": group, "prefetch": 100, "ordered": ordered});
        (subscribe(&own, options, &inbox), inbox)
    };
    let ((_one, by_key), (_two, strict)) = (open("key", "key"), open("strict", "strict"));
    publish(&own, &topic, 0..1);
    [&by_key, &strict].into_iter().for_each(|inbox| ack(&next(inbox)));
    let away = side.away("kill");
    until("the loss", || !is_up(&own));
    assert_eq!(publish(&own, &topic, 1..22), 21);
    for inbox in [&by_key, &strict] {
        let one_of_each = some(inbox, 7);
        assert_eq!(numbers(&one_of_each), (1..8).collect::<Vec<_>>());
        nothing_more(inbox);
        settle(one_of_each[0].token, Decision::Retry { delay: None, reason: "not now" }).unwrap();
        one_of_each[1..].iter().for_each(ack);
    }
    let next_ones = some(&by_key, 7);
    assert_eq!(numbers(&next_ones).into_iter().collect::<std::collections::BTreeSet<_>>(), (8..15).collect());
    next_ones.iter().for_each(ack);
    some(&by_key, 7).iter().for_each(ack);
    for expected in [9..15, 16..22] {
        let next_ones = some(&strict, 6);
        assert_eq!(numbers(&next_ones).into_iter().collect::<std::collections::BTreeSet<_>>(), expected.collect());
        next_ones.iter().for_each(ack);
    }
    nothing_more(&strict);
    drop(away);
    until("the return", || is_up(&own));
    forwarded(&own);
    real(&came(&by_key, SOON).unwrap(), 1);
    [1, 8, 15].into_iter().for_each(|number| real(&came(&strict, SOON).unwrap(), number));
    [&by_key, &strict].into_iter().for_each(nothing_more);
    own.close(WAIT).unwrap();
}

/// With RabbitMQ each pattern of a group has a queue of its own, and so each of its events twice.
#[test]
fn each_queue_of_a_group_is_shown_what_is_kept() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let topic = format!("events.{}.x", side.topic());
    let own = hub(side, &topic);
    let pattern = format!("{}.*", topic.rsplit_once('.').unwrap().0);
    let ((_one, exact), (_two, all)) = (member(&own, &topic, "one"), member(&own, &pattern, "one"));
    publish(&own, &topic, 0..1);
    [&exact, &all].into_iter().for_each(|inbox| ack(&next(inbox)));
    let away = side.away("stop");
    until("the loss", || !is_up(&own));
    assert_eq!(publish(&own, &topic, 1..4), 3);
    some(&exact, 3).iter().for_each(ack);
    let open = some(&all, 3);
    drop(away);
    until("the return", || is_up(&own));
    forwarded(&own);
    nothing_more(&exact);
    assert!(came(&all, Duration::from_millis(500)).is_none());
    for incoming in &open {
        settle(incoming.token, Decision::Retry { delay: None, reason: "not now" }).unwrap();
    }
    let mut again = numbers(&some(&all, 3));
    again.sort_unstable();
    assert_eq!(again, [1, 2, 3], "what one queue had handled is not handled for the other");
    own.close(WAIT).unwrap();
}

/// What was rejected as a copy comes again when it is sent back, to that group, too.
#[test]
fn what_is_redriven_is_for_all() {
    let side = KAFKA;
    let _alone = side.alone();
    let topic = format!("events.{}", side.topic());
    let own = hub(side, &topic);
    let (_one, first) = member(&own, &topic, "one");
    publish(&own, &topic, 0..1);
    ack(&next(&first));
    let away = side.away("kill");
    until("the loss", || !is_up(&own));
    assert_eq!(publish(&own, &topic, 1..3), 2);
    let shown = some(&first, 2);
    settle(shown[0].token, Decision::Reject { reason: "never" }).unwrap();
    drop(away);
    until("the return", || is_up(&own));
    forwarded(&own);
    until("the real copy", || {
        assert!(came(&first, Duration::from_millis(10)).is_none());
        held_back(&own) == 1
    });
    settle(shown[1].token, Decision::Reject { reason: "never" }).unwrap();
    let query = DeadLetterQuery::from_json(&json!({"topic": topic}).to_string()).unwrap();
    until("the dead letters", || own.dead_letters(&query, WAIT).unwrap()["count"] == 2);
    let back = json!({"topic": topic, "action": "redrive"}).to_string();
    own.dead_letters(&DeadLetterQuery::from_json(&back).unwrap(), WAIT).unwrap();
    let mut again = some(&first, 2);
    again.iter().for_each(ack);
    again.sort_by_key(text);
    assert_eq!(numbers(&again), [1, 2]);
    own.close(WAIT).unwrap();
}
