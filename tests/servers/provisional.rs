//! Events that are kept for a server that is away are shown to groups of this process; what a group has handled by
//! then it is not handed again.

use helixmq::config::options::SeekOptions;

use super::outage::{forwarded, key, Away, Side, KAFKA, RABBITMQ};
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
fn member(hub: &Hub, topic: &str, group: &str, ordered: &str) -> (Subscription, Inbox) {
    let inbox = inbox(hub);
    let options = json!({"topic": topic, "kind": "event", "group": group, "prefetch": 100, "ordered": ordered});
    (subscribe(hub, options, &inbox), inbox)
}

/// A server that is away, the hub of a process whose members have had event 0 before, and what that keeps.
struct Outage {
    topic: String,
    hub: Hub,
    members: Vec<(Subscription, Inbox)>,
    away: Option<Away>,
}

impl Outage {
    /// `members`: what each subscribes to (empty: the topic), its group, and `ordered`; events 1 to `last` are kept.
    fn begin(side: Side, topic: String, members: &[(&str, &str, &str)], last: u64) -> Self {
        let hub = hub(side, &topic);
        let to = |pattern: &str| if pattern.is_empty() { topic.clone() } else { pattern.to_owned() };
        let members = members.iter().map(|(pattern, group, ordered)| member(&hub, &to(pattern), group, ordered));
        let members: Vec<_> = members.collect();
        publish(&hub, &topic, 0..1);
        members.iter().for_each(|(_, inbox)| ack(&next(inbox)));
        // The queue of a group comes back from so early a kill without a leader (RabbitMQ 3.10.8).
        let away = Some(side.away(if side.name == "kafka" { "kill" } else { "stop" }));
        until("the loss", || !is_up(&hub));
        assert_eq!(publish(&hub, &topic, 1..last + 1), last as usize);
        Self { topic, hub, members, away }
    }

    fn inbox(&self, member: usize) -> &Inbox {
        &self.members[member].1
    }

    /// The server is back, and has what was kept.
    fn end(&mut self) {
        drop(self.away.take());
        until("the return", || is_up(&self.hub));
        forwarded(&self.hub);
    }

    /// Waits until so many real copies wait for their handlers.
    fn until_held_back(&self, member: usize, count: u64) {
        until("the real copies", || {
            // They are fetched by whoever looks.
            assert!(came(self.inbox(member), Duration::from_millis(10)).is_none());
            held_back(&self.hub) == count
        });
    }
}

fn retry(incoming: &Incoming) {
    settle(incoming.token, Decision::Retry { delay: None, reason: "not now" }).unwrap();
}

fn reject(incoming: &Incoming) {
    settle(incoming.token, Decision::Reject { reason: "never" }).unwrap();
}

/// In whatever order.
#[track_caller]
fn are(all: &[Incoming], expected: std::ops::Range<u64>) {
    let mut numbers = numbers(all);
    numbers.sort_unstable();
    assert_eq!(numbers, expected.collect::<Vec<_>>());
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
    let mut outage = Outage::begin(side, topic, &[("", "one", "none"), ("", "two", "none")], 20);
    // Each group is shown all of it, in order.
    let (shown, open) = (some(outage.inbox(0), 20), some(outage.inbox(1), 20));
    assert!(shown.iter().all(|own| own.provisional && own.offset == -1 && own.attempt == 1));
    assert_eq!([numbers(&shown), numbers(&open)], [(1..21).collect::<Vec<_>>(), (1..21).collect()]);
    for incoming in &shown {
        match text(incoming).as_str() {
            "5" => retry(incoming),
            "6" => reject(incoming),
            _ => ack(incoming),
        }
    }
    nothing_more(outage.inbox(0));
    outage.end();
    // What was not handled comes from the server.
    real(&came(outage.inbox(0), SOON).unwrap(), 5);
    // The real ones of those that are with a handler wait for what it makes of them.
    outage.until_held_back(1, 20);
    for incoming in &open {
        match text(incoming).as_str() {
            "7" => retry(incoming),
            _ => ack(incoming),
        }
    }
    real(&came(outage.inbox(1), SOON).unwrap(), 7);
    [0, 1].into_iter().for_each(|member| nothing_more(outage.inbox(member)));
    // Others hear of all.
    let (own, topic) = (&outage.hub, &outage.topic);
    let other = hub(side, topic);
    let (_three, third) = member(&other, topic, "three", "none");
    if side.name == "kafka" {
        let all = some(&third, 20);
        are(&all, 1..21);
        all.iter().for_each(ack);
    }
    assert_eq!(metric(own, HANDLED) + metric(own, "helixmq_ledger_acked_total"), 19 + 19);
    assert_eq!(metric(own, "helixmq_provisional_total"), 40);
    assert_eq!(publish(own, topic, 21..22), 0);
    for inbox in [outage.inbox(0), outage.inbox(1), &third] {
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

/// A member in another process is not handed what its group has handled, unless it goes back for it.
#[test]
fn what_a_group_has_handled_is_told_with_the_event() {
    let _alone = KAFKA.alone();
    let mut outage = Outage::begin(KAFKA, format!("events.{}", KAFKA.topic()), &[("", "one", "none")], 20);
    some(outage.inbox(0), 20).iter().for_each(ack);
    outage.members[0].0.close(WAIT).unwrap();
    outage.end();
    assert_eq!(publish(&outage.hub, &outage.topic, 21..22), 0);
    let other = hub(KAFKA, &outage.topic);
    let (one, inbox) = member(&other, &outage.topic, "one", "none");
    // The member that left while the cluster was away is missed after its session.
    real(&came(&inbox, Duration::from_secs(60)).unwrap(), 21);
    nothing_more(&inbox);
    assert_eq!(metric(&other, HANDLED), 20);
    // Who wants it all again gets it all.
    one.seek(&SeekOptions::from_json(r#"{"to": "earliest"}"#).unwrap(), WAIT).unwrap();
    are(&some(&inbox, 21), 1..22);
    outage.hub.close(WAIT).unwrap();
    other.close(WAIT).unwrap();
}

/// In a group that keeps order by key one event of a key is out at a time; with `strict` none passes one that failed.
#[test]
fn what_is_shown_keeps_the_order_of_its_keys() {
    let _alone = KAFKA.alone();
    let topic = format!("events.{}", KAFKA.topic());
    let mut outage = Outage::begin(KAFKA, topic, &[("", "key", "key"), ("", "strict", "strict")], 21);
    for member in [0, 1] {
        let one_of_each = some(outage.inbox(member), 7);
        assert_eq!(numbers(&one_of_each), (1..8).collect::<Vec<_>>());
        nothing_more(outage.inbox(member));
        retry(&one_of_each[0]);
        one_of_each[1..].iter().for_each(ack);
    }
    // Seven keys, and for one that failed there is none behind it.
    for (member, rounds) in [(0, [8..15, 15..22]), (1, [9..15, 16..22])] {
        for expected in rounds {
            let next_ones = some(outage.inbox(member), expected.clone().count());
            are(&next_ones, expected);
            next_ones.iter().for_each(ack);
        }
        nothing_more(outage.inbox(member));
    }
    outage.end();
    real(&came(outage.inbox(0), SOON).unwrap(), 1);
    [1, 8, 15].into_iter().for_each(|number| real(&came(outage.inbox(1), SOON).unwrap(), number));
    [0, 1].into_iter().for_each(|member| nothing_more(outage.inbox(member)));
    outage.hub.close(WAIT).unwrap();
}

/// With RabbitMQ each pattern of a group has a queue of its own, and so each of its events twice.
#[test]
fn each_queue_of_a_group_is_shown_what_is_kept() {
    let _alone = RABBITMQ.alone();
    let base = format!("events.{}", RABBITMQ.topic());
    let pattern = format!("{base}.*");
    let members = [("", "one", "none"), (pattern.as_str(), "one", "none")];
    let mut outage = Outage::begin(RABBITMQ, format!("{base}.x"), &members, 3);
    some(outage.inbox(0), 3).iter().for_each(ack);
    let open = some(outage.inbox(1), 3);
    outage.end();
    nothing_more(outage.inbox(0));
    assert!(came(outage.inbox(1), Duration::from_millis(500)).is_none());
    open.iter().for_each(retry);
    are(&some(outage.inbox(1), 3), 1..4);
    outage.hub.close(WAIT).unwrap();
}

/// What was rejected as a copy comes again when it is sent back, to that group, too.
#[test]
fn what_is_redriven_is_for_all() {
    let _alone = KAFKA.alone();
    let mut outage = Outage::begin(KAFKA, format!("events.{}", KAFKA.topic()), &[("", "one", "none")], 2);
    let shown = some(outage.inbox(0), 2);
    reject(&shown[0]);
    outage.end();
    outage.until_held_back(0, 1);
    reject(&shown[1]);
    let dead_letters =
        |query: Value| outage.hub.dead_letters(&DeadLetterQuery::from_json(&query.to_string()).unwrap(), WAIT).unwrap();
    until("the dead letters", || dead_letters(json!({"topic": outage.topic}))["count"] == 2);
    dead_letters(json!({"topic": outage.topic, "action": "redrive"}));
    let again = some(outage.inbox(0), 2);
    again.iter().for_each(ack);
    are(&again, 1..3);
    outage.hub.close(WAIT).unwrap();
}
