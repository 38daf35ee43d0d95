//! What is kept on disk for a server that is away: what its receipts are worth, over restarts and kills.

use helixmq::broker::Level;
use helixmq::error::{Fate, Kind};
use helixmq::hub::{settle, Decision};

use super::kill::{child, dir_of_child, killed_after};
use super::*;

/// A hub whose server is not there.
fn away(dir: &Path, more: Value) -> Hub {
    let mut config = json!({
        "connect": "background", "fallback_to_inmemory": true,
        "rabbitmq": {"host": "127.0.0.1", "port": NOBODY},
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    try_open(dir, config).unwrap()
}

/// Nobody listens there.
const NOBODY: u16 = 9;

fn keep(hub: &Hub, topic: &str, payload: &str) -> String {
    let record = Record { key: Some(b"k"), ..Record::new(payload.as_bytes()) };
    let receipt = hub.publish(topic, None, &record, None, WAIT).unwrap();
    assert_eq!((receipt.level, receipt.spooled, receipt.backend.name()), (Level::Disk, true, "rabbitmq"));
    receipt.id.text().as_str().to_owned()
}

/// The spool, as health tells of it.
fn spool(hub: &Hub) -> Value {
    let health = hub.health();
    let all = health["backends"].as_array().unwrap();
    all.iter().find(|backend| backend["backend"] == "rabbitmq").unwrap()["spool"].clone()
}

#[test]
fn what_is_kept_outlives_a_restart_and_is_done_here_once() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({}));
    let ids: Vec<String> = (0..4).map(|number| keep(&hub, "tasks.a", &number.to_string())).collect();
    assert_eq!((&spool(&hub)["records"], &spool(&hub)["level"]), (&json!(4), &json!("disk")));
    hub.close(WAIT).unwrap();

    let hub = away(&dir.0, json!({"retry": {"delay_ms": 0}}));
    assert_eq!((&spool(&hub)["records"], counted(&hub, "spooled_total")), (&json!(4), 4));
    let own = inbox(&hub);
    let sub = subscribe(&hub, json!({"topic": "tasks.a"}), &own);
    let first = next(&own);
    assert_eq!((first.message.id().as_str(), text(&first), first.attempt), (&*ids[0], "0".into(), 1));
    settle(first.token, Decision::Ack).unwrap();
    let second = next(&own);
    assert_eq!((text(&second), second.attempt), ("1".into(), 1));
    settle(second.token, Decision::Retry { delay: Some(Duration::from_millis(1500)), reason: "no luck" }).unwrap();
    sub.close(WAIT).unwrap();
    keep(&hub, "tasks.a", "4");
    hub.close(WAIT).unwrap();

    // What was done is gone; what failed has its attempt, and stays before the later ones of its key.
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 4);
    let own = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &own);
    for (number, attempt) in [(1, 2), (2, 1), (3, 1), (4, 1)] {
        let incoming = next(&own);
        assert_eq!((text(&incoming), incoming.attempt), (number.to_string(), attempt));
        settle(incoming.token, Decision::Ack).unwrap();
    }
    until("an empty spool", || spool(&hub)["records"] == 0);
    hub.close(WAIT).unwrap();
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 0);
}

#[test]
fn a_server_that_is_not_configured_any_more_costs_nothing() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({}));
    keep(&hub, "tasks.a", "one");
    hub.close(WAIT).unwrap();
    let without = open(&dir.0);
    // A topic of that name is another one here.
    let own = inbox(&without);
    let sub = subscribe(&without, json!({"topic": "tasks.a"}), &own);
    assert!(drain(&own).is_empty());
    sub.close(WAIT).unwrap();
    without.publish("tasks.a", None, &Record::new(b"other"), None, WAIT).unwrap();
    without.close(WAIT).unwrap();
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 1);
}

#[test]
fn a_route_that_keeps_nothing_any_more_does_not_lose_what_it_kept() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({}));
    keep(&hub, "tasks.a", "one");
    hub.close(WAIT).unwrap();
    let hub = away(&dir.0, json!({"routes": [{"pattern": "tasks.*", "on_outage": "fail"}]}));
    assert_eq!(spool(&hub)["records"], 1);
    let refused = hub.publish("tasks.a", None, &Record::new(b"two"), None, WAIT).unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::BackendDown, Some(Fate::NotSent)));
    hub.close(WAIT).unwrap();
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 1);
}

#[test]
fn the_caps_are_those_of_the_disk() {
    let dir = TestDir::new();
    let sizes = json!({"failover": {"disk_bytes_max": 1_048_576}, "message_bytes_max": 1_000_000});
    let hub = away(&dir.0, sizes);
    let record = Record::new(&[7; 340_000]);
    let some = Some(Duration::from_millis(50));
    for number in 1..=3 {
        assert_eq!(spool(&hub)["pressure"], false, "{number}");
        hub.publish("tasks.a", None, &record, None, WAIT).unwrap();
    }
    assert_eq!(spool(&hub)["pressure"], true);
    let full = hub.publish("tasks.a", None, &record, None, some).unwrap_err();
    assert_eq!((full.kind(), full.fate()), (Kind::Full, Some(Fate::NotSent)));
    assert!(full.message().contains("failover.disk_bytes_max"), "{full}");
    // A worker of this process makes room.
    let own = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &own);
    settle(next(&own).token, Decision::Ack).unwrap();
    hub.publish("tasks.a", None, &record, None, WAIT).unwrap();
    // Between three and four fifths it is as it was.
    for is_pressed in [true, true, false] {
        assert_eq!(spool(&hub)["pressure"], is_pressed);
        settle(next(&own).token, Decision::Ack).unwrap();
    }
    hub.close(WAIT).unwrap();
}

#[test]
fn less_safe_syncs_do_not_call_it_disk() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({"failover": {"sync": "interval"}}));
    let record = Record::new(b"one");
    assert_eq!(hub.publish("tasks.a", None, &record, None, WAIT).unwrap().level, Level::Memory);
    let refused = hub.publish("tasks.a", None, &record, Some(Level::Disk), WAIT).unwrap_err();
    assert_eq!(refused.kind(), Kind::BackendDown, "{refused}");
    assert_eq!(spool(&hub)["level"], "memory");
    hub.close(WAIT).unwrap();
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 1);
    assert_eq!(hub.publish("tasks.a", None, &record, Some(Level::Disk), WAIT).unwrap().level, Level::Disk);
}

/// Prints a line for each receipt.
#[test]
#[ignore = "the child of the test below"]
fn keeping_child() {
    let hub = away(&dir_of_child(), json!({}));
    let to = publisher(&hub, json!({"topic": "tasks.a", "require": "disk"}));
    let out = std::sync::Arc::new(std::sync::Mutex::new(std::io::stdout()));
    for number in 0..1_000_000 {
        let text = number.to_string();
        let (key, line) = (format!("{}", number % 10), format!("+{text}\n"));
        let record = Record { key: Some(key.as_bytes()), ..Record::new(text.as_bytes()) };
        loop {
            let (out, line) = (std::sync::Arc::clone(&out), line.clone());
            let tell = move |result: helixmq::error::Result<helixmq::hub::Receipt>| {
                use std::io::Write;
                if result.is_ok_and(|receipt| receipt.level == Level::Disk) {
                    out.lock().unwrap().write_all(line.as_bytes()).unwrap();
                }
            };
            match to.send_async(&record, Box::new(tell)) {
                Ok(_) => break,
                Err(full) => assert_eq!(full.kind(), Kind::Full, "{full}"),
            }
        }
    }
}

/// T1, as far as no server is needed.
#[test]
fn t1_ten_thousand_kept_receipts_outlive_a_kill() {
    let dir = TestDir::new();
    let told = killed_after(child("spool::keeping_child", &dir.0), 10_000);
    let hub = away(&dir.0, json!({}));
    let own = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a", "prefetch": 1000}), &own);
    let mut latest = [None; 10];
    let mut there = std::collections::HashSet::new();
    while spool(&hub)["records"] != 0 {
        let incoming = next(&own);
        let number: usize = text(&incoming).parse().unwrap();
        assert!(latest[number % 10] < Some(number), "{number} after {:?}", latest[number % 10]);
        latest[number % 10] = Some(number);
        assert!(there.insert(number.to_string()) && !incoming.message.maybe_dup(), "{number}");
        settle(incoming.token, Decision::Ack).unwrap();
    }
    let lost: Vec<_> = told.iter().filter(|number| !there.contains(*number)).take(10).collect();
    assert!(lost.is_empty(), "{lost:?} of {} are lost", told.len());
}

fn counted(hub: &Hub, name: &str) -> u64 {
    let text = hub.metrics(helixmq::hub::MetricsFormat::Prometheus);
    let line = text.lines().find(|line| line.starts_with(&format!("helixmq_{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// An inbox that is told what became of kept messages.
fn fates(hub: &Hub) -> Inbox {
    hub.inbox(InboxOptions::from_json(r#"{"fate": true}"#).unwrap()).unwrap()
}

/// So many ends: the word, and the id.
fn ends(inbox: &Inbox, count: usize) -> Vec<(String, String)> {
    let mut events = Vec::new();
    while events.len() < count {
        assert_eq!(inbox.poll(count - events.len(), WAIT, &mut events), Polled::Data, "{events:?}");
    }
    let end = |event: Event| {
        let Event::Fate { json } = event else { panic!("expected a fate, not {event:?}") };
        let told: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&told["topic"], &told["kind"], &told["backend"]),
            (&json!("tasks.a"), &json!("task"), &json!("rabbitmq"))
        );
        (told["fate"].as_str().unwrap().to_owned(), told["id"].as_str().unwrap().to_owned())
    };
    events.into_iter().map(end).collect()
}

/// T13: each policy, with counts that agree.
#[test]
fn t13_what_does_not_fit_is_refused_or_makes_the_oldest_go() {
    for on_disk in [true, false] {
        for cap in ["topic_messages_max", "topic_bytes_max", "all"] {
            let (dir, message) = (TestDir::new(), vec![7; 300_000]);
            let mut failover = match cap {
                "topic_messages_max" => json!({"topic_messages_max": 3}),
                "topic_bytes_max" => json!({"topic_bytes_max": 1_000_000}),
                _ => json!({"disk_bytes_max": 1_048_576, "memory_bytes_max": 1_048_576}),
            };
            failover["free_space_floor_bytes"] = json!(0);
            if on_disk {
                failover["dir"] = json!(dir.0);
            }
            let opened = |overflow: &str| {
                let mut failover = failover.clone();
                failover["overflow"] = json!(overflow);
                let config = json!({
                    "connect": "background", "rabbitmq": {"host": "127.0.0.1", "port": NOBODY},
                    "message_bytes_max": 1_000_000, "failover": failover,
                });
                Hub::open(Config::from_json(&config.to_string()).unwrap(), WAIT).unwrap()
            };
            let briefly = Some(Duration::from_millis(50));
            let send = |hub: &Hub, number: u8, timeout| {
                let (key, mut payload) = ([number % 2], message.clone());
                payload[0] = number;
                let record = Record { key: Some(&key), ..Record::new(&payload) };
                hub.publish("tasks.a", None, &record, None, timeout)
            };
            let hub = opened("reject");
            for number in 0..3 {
                send(&hub, number, WAIT).unwrap();
            }
            let full = send(&hub, 3, briefly).unwrap_err();
            let name = if cap == "all" { "bytes_max" } else { cap };
            assert_eq!((full.kind(), full.fate()), (Kind::Full, Some(Fate::NotSent)), "{full}");
            assert!(full.message().contains(name), "{cap}: {full}");
            // Another topic has room, unless all is full.
            let patience = if cap == "all" { briefly } else { WAIT };
            let other = hub.publish("tasks.b", None, &Record::new(&message), None, patience);
            assert_eq!(other.is_ok(), cap != "all", "{cap} {other:?}");
            assert_eq!(counted(&hub, "spool_evicted_total"), 0);
            hub.close(WAIT).unwrap();
            let hub = opened("drop_oldest");
            let (before, told) = (spool(&hub)["records"].as_u64().unwrap(), fates(&hub));
            for number in 10..20 {
                send(&hub, number, WAIT).unwrap();
            }
            let (evicted, own) = (counted(&hub, "spool_evicted_total"), inbox(&hub));
            let left = spool(&hub)["records"].as_u64().unwrap();
            assert_eq!(before + 10 - evicted, left, "{cap}");
            let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &own);
            let taken = || {
                let incoming = next(&own);
                settle(incoming.token, Decision::Ack).unwrap();
                incoming.message.payload()[0]
            };
            let mut numbers: Vec<u8> = (0..3).map(|_| taken()).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, [17, 18, 19], "{cap}: the newest stay");
            let told = ends(&told, evicted as usize + 3);
            let count = |word: &str| told.iter().filter(|(fate, _)| fate == word).count() as u64;
            assert_eq!((count("evicted"), count("local_done")), (evicted, 3), "{told:?}");
            hub.close(WAIT).unwrap();
        }
    }
}

/// What could not be written has left the spool as its publish failed, and the books say so.
#[test]
fn what_is_not_written_is_counted_as_failed() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({"failover": {"free_space_floor_bytes": 1_u64 << 50}}));
    let full = hub.publish("tasks.a", None, &Record::new(b"one"), None, WAIT).unwrap_err();
    assert_eq!((full.kind(), full.fate()), (Kind::Full, Some(Fate::NotSent)), "{full}");
    assert_eq!((counted(&hub, "spooled_total"), counted(&hub, "spool_failed_total")), (1, 1));
    assert_eq!(spool(&hub)["records"], 0);
}

#[test]
fn what_is_too_old_goes() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({"failover": {"dir": dir.0, "free_space_floor_bytes": 0, "age_max_ms": 20}}));
    let told = fates(&hub);
    let id = keep(&hub, "tasks.a", "one");
    until("its end", || counted(&hub, "spool_expired_total") == 1);
    assert_eq!(spool(&hub)["records"], 0);
    assert_eq!(ends(&told, 1), [("expired".to_owned(), id)]);
    hub.close(WAIT).unwrap();
}

/// A close takes back nothing that is on its way to the disk.
#[test]
fn a_close_lets_what_is_being_written_be_written() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({}));
    let to = publisher(&hub, json!({"topic": "tasks.a"}));
    let (told, outcomes) = std::sync::mpsc::channel();
    for number in 0..500 {
        let (told, text) = (told.clone(), format!("{number}"));
        to.send_async(&Record::new(text.as_bytes()), Box::new(move |result| drop(told.send(result)))).unwrap();
    }
    hub.close(WAIT).unwrap();
    for _ in 0..500 {
        assert_eq!(outcomes.recv_timeout(WAIT.unwrap()).unwrap().unwrap().level, Level::Disk);
    }
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 500);
}

#[test]
fn another_fallback_leaves_what_is_kept_where_it_is() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({}));
    let other = helixmq::hub::BrokerHandle::open(r#"{"backend": "embedded"}"#, WAIT).unwrap();
    hub.set_broker(helixmq::hub::Role::Fallback, &other).unwrap();
    keep(&hub, "tasks.a", "one");
    hub.close(WAIT).unwrap();
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 1);
}

/// Opening does not compare every message with every key.
#[test]
fn many_keys_come_back() {
    let dir = TestDir::new();
    let hub = away(&dir.0, json!({"publish_window": 20_000}));
    let to = publisher(&hub, json!({"topic": "tasks.a"}));
    let keys: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    let records: Vec<Record<'_>> =
        keys.iter().map(|key| Record { key: Some(key.as_bytes()), ..Record::new(key.as_bytes()) }).collect();
    assert_eq!(to.send_batch(&records, WAIT, None).0, 10_000);
    hub.close(WAIT).unwrap();
    let hub = away(&dir.0, json!({}));
    assert_eq!(spool(&hub)["records"], 10_000);
    let own = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a", "prefetch": 1000}), &own);
    let mut there = std::collections::HashSet::new();
    while there.len() < 10_000 {
        let incoming = next(&own);
        assert!(there.insert(text(&incoming)));
        settle(incoming.token, Decision::Ack).unwrap();
    }
}
