//! The hub on a real Kafka server: what goes right. One after another, and apart from the tests of
//! RabbitMQ, too: they stop the servers under each other, and measure the memory of this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Once};

use helixmq::broker::Level;
use helixmq::config::options::TopicSelector;
use helixmq::error::{Fate, Kind, Result};
use helixmq::hub::{Handler, HandlerVerdict, Receipt};

use super::*;

/// Waits for all others, which may stop the server, and for the server.
pub fn alone() -> MutexGuard<'static, ()> {
    static CLEAN: Once = Once::new();
    let guard = lock();
    server(&["start"]);
    // The server keeps what earlier runs made, perhaps by the same names.
    CLEAN.call_once(|| {
        let names = "(tasks|events|user)\\.(server|alien)-.*";
        server(&["tool", "TopicCommand", "--delete", "--if-exists", "--topic", names]);
    });
    guard
}

/// Lets the tests' own Kafka do something; answers what it printed.
pub fn server(arguments: &[&str]) -> String {
    tool("kafka.sh", arguments)
}

pub fn port() -> u16 {
    std::env::var("HMQ_KAFKA_PORT").map_or(9392, |port| port.parse().unwrap())
}

/// A hub on the server, with `more` over its configuration.
pub fn hub(more: Value) -> Hub {
    hub_at(&[format!("127.0.0.1:{}", port())], more)
}

pub fn hub_at(brokers: &[String], more: Value) -> Hub {
    let server = json!({"brokers": brokers});
    open_over(json!({"connection_timeout_ms": 5000, "fallback_to_inmemory": false, "kafka": server}), more)
}

/// The name of an event topic that no test has used before.
pub fn topic() -> String {
    super::topic().replace("tasks.", "events.")
}

pub fn event(hub: &Hub, topic: &str, key: Option<&str>, payload: &str) -> Result<Receipt> {
    let record = Record { key: key.map(str::as_bytes), ..Record::new(payload.as_bytes()) };
    hub.publish(topic, Some(TopicKind::Event), &record, None, WAIT)
}

/// The member of a group that is the topic's own, with `more` over its options.
pub fn member(hub: &Hub, topic: &str, inbox: &Inbox, more: Value) -> Subscription {
    let mut options = json!({"topic": topic, "kind": "event", "group": format!("group-of-{topic}")});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    subscribe(hub, options, inbox)
}

/// The route that lets tasks go by Kafka, which they do not by themselves.
pub fn tasks_by_kafka() -> Value {
    json!([{"pattern": "tasks.#", "kind": "task", "backend": "kafka"}])
}

/// A handler that is a function.
pub struct Calls<F>(pub F);

impl<F: Fn(&Incoming) -> HandlerVerdict + Send + Sync> Handler for Calls<F> {
    fn handle(&self, incoming: Incoming) -> Option<HandlerVerdict> {
        Some((self.0)(&incoming))
    }
}

pub fn options(json: Value) -> SubscribeOptions {
    SubscribeOptions::from_json(&json.to_string()).unwrap()
}

pub fn selector(topic: &str) -> TopicSelector {
    TopicSelector::from_json(&json!({"name": topic}).to_string()).unwrap()
}

/// Lets another program remove a topic.
pub fn delete_topic(topic: &str) {
    server(&["tool", "TopicCommand", "--delete", "--topic", &topic.replace('.', "\\.")]);
}

#[test]
fn an_event_goes_through_the_server_and_comes_back() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let receipt = event(&hub, &topic, Some("k"), "fact").unwrap();
    assert_eq!((receipt.level, receipt.backend.name(), receipt.spooled), (Level::Broker, "kafka", false));
    let _sub = member(&hub, &topic, &inbox, json!({}));
    let incoming = next(&inbox);
    assert_eq!((text(&incoming).as_str(), incoming.attempt, incoming.redelivered), ("fact", 1, false));
    assert_eq!((incoming.message.key(), &**incoming.message.topic()), (Some(&b"k"[..]), topic.as_str()));
    assert_eq!((incoming.message.id().as_str(), incoming.offset), (receipt.id.text().as_str(), 0));
    assert!(incoming.partition < 3);
    ack(&incoming);
    assert_eq!((attempts(&hub), state(&hub).as_str()), (1, "up"));
    hub.close(WAIT).unwrap();
}

/// Four publishers at once, four handlers at once.
#[test]
fn each_key_keeps_its_order_over_partitions_and_handlers() {
    let _alone = alone();
    let hub = hub(json!({}));
    let topic = topic();
    let (each, keys) = (200, 8);
    std::thread::scope(|scope| {
        for publisher in 0..4 {
            let (hub, topic) = (&hub, &topic);
            scope.spawn(move || {
                for number in 0..each {
                    for key in [publisher, publisher + 4] {
                        event(hub, topic, Some(&key.to_string()), &number.to_string()).unwrap();
                    }
                }
            });
        }
    });
    #[derive(Default)]
    struct Seen {
        keys: BTreeMap<String, Vec<usize>>,
        running: BTreeSet<String>,
        partitions: BTreeMap<String, BTreeSet<u32>>,
        at_once: usize,
        twice: usize,
    }
    let seen = Arc::new(Mutex::new(Seen::default()));
    let shared = Arc::clone(&seen);
    let handler = Calls(move |incoming: &Incoming| {
        let key = String::from_utf8_lossy(incoming.message.key().unwrap()).into_owned();
        {
            let mut seen = shared.lock().unwrap();
            seen.twice += usize::from(!seen.running.insert(key.clone()));
            seen.at_once = seen.at_once.max(seen.running.len());
            seen.partitions.entry(key.clone()).or_default().insert(incoming.partition);
            seen.keys.entry(key.clone()).or_default().push(text(incoming).parse().unwrap());
        }
        pass(Duration::from_micros(500));
        shared.lock().unwrap().running.remove(&key);
        HandlerVerdict::Ack
    });
    let options = options(json!({"topic": topic, "kind": "event", "group": topic, "concurrency": 4, "ordered": "key"}));
    let sub = hub.subscribe(options, Box::new(handler), WAIT).unwrap();
    until("all events", || seen.lock().unwrap().keys.values().map(Vec::len).sum::<usize>() >= keys * each);
    sub.close(WAIT).unwrap();
    let seen = seen.lock().unwrap();
    for (key, numbers) in &seen.keys {
        assert_eq!(*numbers, (0..each).collect::<Vec<_>>(), "{key}");
    }
    let used: BTreeSet<_> = seen.partitions.values().flatten().collect();
    assert!(seen.partitions.values().all(|own| own.len() == 1) && used.len() == 3, "{:?}", seen.partitions);
    assert!(seen.twice == 0 && seen.at_once > 1, "{} twice, {} at once", seen.twice, seen.at_once);
    hub.close(WAIT).unwrap();
}

/// Many on their way at once: one by one, a confirm for each, it would take longer.
#[test]
fn a_batch_is_pipelined_and_a_record_that_cannot_go_stops_it() {
    let _alone = alone();
    let hub = hub(json!({"publish_window": 100, "kafka": {"partitions": 1}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    let publisher = publisher(&hub, &topic);
    publisher.send(&Record::new(b"first"), WAIT).unwrap();
    let mut each = vec![-1; 1000];
    let payloads: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let records: Vec<Record<'_>> = payloads.iter().map(|payload| Record::new(payload.as_bytes())).collect();
    assert_eq!(publisher.send_batch(&records, WAIT, Some(&mut each)).0, 1000);
    assert!(each.iter().all(|status| *status == 0));
    let ours = super::forms::block(&[("hmq-id", "not to be given by hand")]);
    let mut records = vec![Record::new(b"x"); 5];
    records[2].headers = ours.headers();
    let (count, failed) = publisher.send_batch(&records, WAIT, Some(&mut each));
    assert_eq!((count, failed.unwrap().kind()), (2, Kind::Header));
    assert_eq!(each[..5], [0, 0, Kind::Header.code(), Kind::Cancelled.code(), Kind::Cancelled.code()]);
    let _sub = member(&hub, &topic, &inbox, json!({"prefetch": 2000}));
    for expected in ["first"].into_iter().chain(payloads.iter().map(String::as_str)).chain(["x", "x"]) {
        let incoming = next(&inbox);
        assert_eq!(text(&incoming), expected);
        ack(&incoming);
    }
    hub.close(WAIT).unwrap();
}

#[test]
fn tasks_go_to_one_server_and_events_to_the_other() {
    let _alone = alone();
    super::server(&["start"]);
    let hub = hub(json!({"rabbitmq": {"host": "127.0.0.1", "port": super::port()}}));
    let (task, fact, inbox) = (super::topic(), topic(), inbox(&hub));
    let _subs = [subscribe(&hub, json!({"topic": task}), &inbox), member(&hub, &fact, &inbox, json!({}))];
    assert_eq!(publish(&hub, &task, "task").unwrap().backend.name(), "rabbitmq");
    assert_eq!(event(&hub, &fact, None, "fact").unwrap().backend.name(), "kafka");
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        let incoming = next(&inbox);
        ack(&incoming);
        seen.insert((text(&incoming), incoming.message.topic().to_string()));
    }
    assert_eq!(seen, [("task".to_owned(), task), ("fact".to_owned(), fact)].into());
    hub.close(WAIT).unwrap();
}

/// Two hubs of different groups: workers are one group all the same.
#[test]
fn tasks_go_by_kafka_where_a_route_says_so() {
    let _alone = alone();
    let hubs = ["one", "two"].map(|group| hub(json!({"group_id": group, "routes": tasks_by_kafka()})));
    let topic = super::topic();
    assert_eq!(publish(&hubs[0], &topic, "first").unwrap().backend.name(), "kafka");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let subs = [&hubs[0], &hubs[1]].map(|hub| {
        let seen = Arc::clone(&seen);
        let handler = Calls(move |incoming: &Incoming| {
            seen.lock().unwrap().push(text(incoming));
            HandlerVerdict::Ack
        });
        hub.subscribe(options(json!({"topic": topic})), Box::new(handler), WAIT).unwrap()
    });
    until("the first", || !seen.lock().unwrap().is_empty());
    let mut wanted: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    for payload in &wanted {
        publish(&hubs[0], &topic, payload).unwrap();
    }
    wanted.push("first".into());
    until("all tasks", || seen.lock().unwrap().len() >= wanted.len());
    subs.iter().for_each(|sub| sub.close(WAIT).unwrap());
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    // Whoever joins while one is on its way may see it again.
    seen.dedup();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
    hubs.iter().for_each(|hub| hub.close(WAIT).unwrap());
}

#[test]
fn what_kafka_lacks_is_refused_and_harms_nothing() {
    let _alone = alone();
    let hub = hub(json!({"routes": tasks_by_kafka()}));
    let (topic, inbox) = (topic(), inbox(&hub));
    event(&hub, &topic, None, "first").unwrap();
    let delayed = Record { delay_ms: 1000, ..Record::new(b"x") };
    for kind in [TopicKind::Event, TopicKind::Task] {
        let name = if kind == TopicKind::Task { super::topic() } else { topic.clone() };
        let refused = hub.publish(&name, Some(kind), &delayed, None, WAIT).unwrap_err();
        assert_eq!((refused.kind(), refused.fate()), (Kind::Unsupported, Some(Fate::Refused)), "{refused}");
    }
    let _sub = member(&hub, &topic, &inbox, json!({}));
    let held = next(&inbox);
    let refused = helixmq::hub::extend(held.token, Duration::from_secs(1)).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    ack(&held);
    event(&hub, &topic, None, "last").unwrap();
    assert_eq!(text(&next(&inbox)), "last");
    hub.close(WAIT).unwrap();
}

#[test]
fn an_event_whose_time_is_over_is_not_handed_over() {
    let _alone = alone();
    let hub = hub(json!({"kafka": {"partitions": 1}}));
    let (topic, inbox) = (topic(), inbox(&hub));
    for (payload, ttl_ms) in [("never", 300), ("later", 60_000), ("last", 0)] {
        let record = Record { ttl_ms, ..Record::new(payload.as_bytes()) };
        hub.publish(&topic, Some(TopicKind::Event), &record, None, WAIT).unwrap();
    }
    pass(Duration::from_millis(400));
    let _sub = member(&hub, &topic, &inbox, json!({}));
    for expected in ["later", "last"] {
        let incoming = next(&inbox);
        assert_eq!(text(&incoming), expected);
        ack(&incoming);
    }
    hub.close(WAIT).unwrap();
}

#[test]
fn what_is_described_is_what_is_there() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (topic, inbox) = (topic(), inbox(&hub));
    assert_eq!(hub.describe(&selector(&topic), WAIT).unwrap_err().kind(), Kind::NotFound);
    for number in 0..10 {
        event(&hub, &topic, Some(&number.to_string()), "x").unwrap();
    }
    let groups = ["slow", "done"].map(|name| format!("{name}-of-{topic}"));
    let subs = [4, 10].map(|count| {
        let group = &groups[usize::from(count == 10)];
        let sub = member(&hub, &topic, &inbox, json!({"group": group}));
        (0..count).for_each(|_| ack(&next(&inbox)));
        sub.close(WAIT).unwrap();
        let mut rest = Vec::new();
        // Its end, and what was on its way.
        while inbox.poll(100, Some(Duration::from_millis(100)), &mut rest) == Polled::Data {}
        sub
    });
    let mut told = json!(null);
    until("both lags", || {
        told = hub.describe(&selector(&topic), WAIT).unwrap()[0].take();
        told["lag"][&groups[0]] == 6 && told["lag"][&groups[1]] == 0
    });
    assert_eq!((&told["name"], &told["kind"], &told["messages"]), (&json!(topic), &json!("event"), &json!(10)));
    let partitions: Vec<(i64, i64)> = serde_json::from_value(told["partitions"].clone()).unwrap();
    assert_eq!((partitions.len(), partitions.iter().map(|(_, end)| end).sum::<i64>()), (3, 10), "{told}");
    drop(subs);
    hub.close(WAIT).unwrap();
}

#[test]
fn a_topic_is_as_it_was_declared_or_a_conflict() {
    let _alone = alone();
    let hub = hub(json!({}));
    let topic = topic();
    let declare = |more: Value| {
        let mut json = json!({"name": topic, "kind": "event"});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hub.declare(&helixmq::config::options::DeclareOptions::from_json(&json.to_string()).unwrap(), WAIT)
    };
    assert_eq!(declare(json!({"partitions": 5})).unwrap(), helixmq::broker::Declared::Created);
    assert_eq!(declare(json!({"partitions": 5})).unwrap(), helixmq::broker::Declared::Existed);
    assert_eq!(declare(json!({})).unwrap(), helixmq::broker::Declared::Existed);
    let refused = declare(json!({"partitions": 7})).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.message().contains('5') && refused.message().contains('7'), "{refused}");
    let described = hub.describe(&selector(&topic), WAIT).unwrap();
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 5, "{described}");
    hub.close(WAIT).unwrap();
}

#[test]
fn a_pattern_finds_a_topic_that_is_made_later() {
    let _alone = alone();
    let hub = hub(json!({}));
    let (base, inbox) = (topic(), inbox(&hub));
    event(&hub, &format!("{base}.early"), None, "early").unwrap();
    event(&hub, &format!("{base}.far.off"), None, "not for this one").unwrap();
    let options = json!({"topic": format!("{base}.*"), "kind": "event", "group": base, "retry": {"attempts": 1}});
    let _sub = subscribe(&hub, options, &inbox);
    let early = next(&inbox);
    assert_eq!(&**early.message.topic(), format!("{base}.early").as_str());
    // Its dead letter makes a topic that the pattern must not take for one of its own.
    settle(early.token, Decision::Reject { reason: "no" }).unwrap();
    event(&hub, &format!("{base}.late"), None, "late").unwrap();
    let late = next(&inbox);
    assert_eq!((text(&late).as_str(), &**late.message.topic()), ("late", format!("{base}.late").as_str()));
    ack(&late);
    assert_eq!(dead_letter(&hub, &format!("{base}.early"))["reason"], "no");
    assert!(next_within(&inbox, Duration::from_secs(3)).is_none());
    hub.close(WAIT).unwrap();
}
