//! The life of a hub on disk: receipts, restarts, dead letters, the lock, space, health.

use std::sync::mpsc;

use helixmq::broker::Level;
use helixmq::config::options::DeadLetterQuery;
use helixmq::error::{Fate, Kind};
use helixmq::hub::{settle, Decision};

use super::*;

#[test]
fn a_receipt_says_disk_and_asking_for_more_is_refused() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    let record = Record::new(b"one");
    for require in [None, Some(Level::Memory), Some(Level::Disk)] {
        let receipt = hub.publish("tasks.a", None, &record, require, WAIT).unwrap();
        assert_eq!((receipt.level, receipt.backend.name()), (Level::Disk, "embedded"));
    }
    let refused = hub.publish("tasks.a", None, &record, Some(Level::Broker), WAIT).unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::Unsupported, Some(Fate::NotSent)));
    hub.close(WAIT).unwrap();
    // Less safe, and said so.
    for sync in ["interval", "none"] {
        let hub = try_open(&dir.0, json!({"failover": {"sync": sync}})).unwrap();
        assert_eq!(hub.publish("tasks.a", None, &record, None, WAIT).unwrap().level, Level::Memory);
        let refused = hub.publish("tasks.a", None, &record, Some(Level::Disk), WAIT).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        hub.close(WAIT).unwrap();
    }
}

#[test]
fn every_way_of_publishing_reaches_the_disk() {
    let dir = TestDir::new();
    let hub = try_open(&dir.0, json!({"publish_window": 7})).unwrap();
    let to = publisher(&hub, json!({"topic": "tasks.a", "require": "disk"}));
    let texts: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
    let records: Vec<Record<'_>> = texts.iter().map(|text| Record::new(text.as_bytes())).collect();
    assert_eq!(to.send(&records[0], WAIT).unwrap().level, Level::Disk);
    let (taken, stopped) = to.send_batch(&records[1..20], WAIT, None);
    assert_eq!((taken, stopped.map(|error| error.to_string())), (19, None));
    let (told, outcomes) = mpsc::channel();
    for record in &records[20..30] {
        loop {
            let told = told.clone();
            match to.send_async(record, Box::new(move |result| drop(told.send(result)))) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), Kind::Full, "{error}"),
            }
        }
    }
    for _ in 20..30 {
        assert_eq!(outcomes.recv_timeout(WAIT.unwrap()).unwrap().unwrap().level, Level::Disk);
    }
    let results = inbox(&hub);
    let mut sent = 30;
    let mut confirmed = 0;
    while confirmed < 10 {
        sent += to.send_inbox(&records[sent..], &[], &results, None).0;
        let mut events = Vec::new();
        results.poll(64, Some(Duration::from_millis(1)), &mut events);
        for event in events {
            assert!(matches!(event, Event::Published { result: Ok(receipt), .. } if receipt.level == Level::Disk));
            confirmed += 1;
        }
    }
    hub.flush(WAIT).unwrap();
    hub.close(WAIT).unwrap();
    let hub = open(&dir.0);
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &inbox);
    assert_eq!(drain(&inbox), texts);
}

#[test]
fn attempts_delays_and_dead_letters_outlive_a_restart() {
    let dir = TestDir::new();
    let steady = json!({"clock": "virtual", "retry": {"attempts": 3, "delay_ms": 1000, "jitter": false}});
    let hub = try_open(&dir.0, steady.clone()).unwrap();
    let box_one = inbox(&hub);
    let sub = subscribe(&hub, json!({"topic": "tasks.a"}), &box_one);
    let id = hub.publish("tasks.a", None, &Record::new(b"poison"), None, WAIT).unwrap().id;
    for attempt in 1..3 {
        let incoming = next(&box_one);
        assert_eq!(incoming.attempt, attempt);
        settle(incoming.token, Decision::Retry { delay: None, reason: "no luck" }).unwrap();
        if attempt == 1 {
            hub.clock_advance(Duration::from_secs(1)).unwrap();
        }
    }
    sub.close(WAIT).unwrap();
    hub.close(WAIT).unwrap();

    let hub = try_open(&dir.0, steady.clone()).unwrap();
    let box_two = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &box_two);
    assert!(drain(&box_two).is_empty(), "its delay goes on");
    hub.clock_advance(Duration::from_secs(3)).unwrap();
    let incoming = next(&box_two);
    assert_eq!((incoming.attempt, incoming.redelivered, incoming.message.id()), (3, true, id.text()));
    settle(incoming.token, Decision::Retry { delay: None, reason: "no luck" }).unwrap();
    let list = || hub.dead_letters(&DeadLetterQuery::from_json("{}").unwrap(), WAIT).unwrap();
    until("a dead letter", || list()["count"] == 1);
    hub.close(WAIT).unwrap();

    let hub = try_open(&dir.0, steady).unwrap();
    let list = hub.dead_letters(&DeadLetterQuery::from_json("{}").unwrap(), WAIT).unwrap();
    assert_eq!((&list["count"], &list["dead_letters"][0]["reason"]), (&json!(1), &json!("no luck")), "{list}");
    assert_eq!(
        hub.health()["topics"].as_array().unwrap().iter().map(|t| t["messages"].as_u64().unwrap()).sum::<u64>(),
        1
    );
}

#[test]
fn events_and_groups_go_on_after_a_restart() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    for number in 0..10 {
        publish(&hub, "events.a", &number.to_string());
    }
    let first = inbox(&hub);
    let sub = subscribe(&hub, json!({"topic": "events.a", "group": "g", "start": "earliest"}), &first);
    for number in 0..4 {
        let incoming = next(&first);
        assert_eq!((text(&incoming), incoming.offset), (number.to_string(), number));
        settle(incoming.token, Decision::Ack).unwrap();
    }
    sub.close(WAIT).unwrap();
    hub.close(WAIT).unwrap();
    let hub = open(&dir.0);
    publish(&hub, "events.a", "10");
    let second = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "events.a", "group": "g"}), &second);
    let incoming = next(&second);
    assert_eq!((text(&incoming), incoming.offset), ("4".to_owned(), 4));
    settle(incoming.token, Decision::Ack).unwrap();
    assert_eq!(drain(&second), ["5", "6", "7", "8", "9", "10"]);
    let replayed = inbox(&hub);
    let options = helixmq::config::options::ReplayOptions::from_json(r#"{"topic":"events.*"}"#).unwrap();
    hub.replay_inbox(options, &replayed, 0, WAIT).unwrap();
    assert_eq!(text(&next(&replayed)), "0");
}

#[test]
fn two_hubs_do_not_share_a_directory() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    let error = try_open(&dir.0, json!({})).unwrap_err();
    assert_eq!((error.kind(), error.path()), (Kind::Locked, Some("failover.dir")));
    assert!(error.message().contains(&*dir.0.to_string_lossy()), "{error}");
    // One that is switched off leaves it alone.
    try_open(&dir.0, json!({"enabled": false})).unwrap().close(WAIT).unwrap();
    hub.close(WAIT).unwrap();
    open(&dir.0).close(WAIT).unwrap();
}

#[test]
fn the_variable_for_the_directory_works() {
    let dir = TestDir::new();
    let path = dir.0.to_string_lossy().into_owned();
    let get = |name: &str| (name == "MESSAGING_DATA_DIR").then(|| path.clone());
    let all = || vec![("MESSAGING_DATA_DIR".to_owned(), path.clone())];
    let config = Config::from_env_with(&get, &all).unwrap();
    let hub = Hub::open(config, WAIT).unwrap();
    assert_eq!(hub.health()["backends"][0]["storage"]["directory"], json!(path));
    hub.close(WAIT).unwrap();
    assert!(dir.0.join("helixmq.db").exists());
}

#[test]
fn health_tells_of_the_storage() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    publish(&hub, "tasks.a", "one");
    let health = hub.health();
    let backend = &health["backends"][0];
    assert_eq!((&backend["level"], &backend["storage"]["storage"]), (&json!("disk"), &json!("disk")), "{backend}");
    assert_eq!(backend["storage"]["bytes"], 40);
    assert_eq!(backend["storage"]["bytes_max"], 1 << 30);
    assert!(backend["storage"]["disk_free_bytes"].as_u64().unwrap() > 0);
    assert_eq!(backend["storage"]["full"], Value::Null);
    hub.close(WAIT).unwrap();
    let memory = Hub::open(Config::from_json("{}").unwrap(), WAIT).unwrap();
    assert_eq!(memory.health()["backends"][0]["storage"]["storage"], "memory");
}

/// The size of what may be kept: publishing waits, fails, and goes on.
#[test]
fn a_full_directory_refuses_and_goes_on() {
    let dir = TestDir::new();
    let small = json!({"failover": {"disk_bytes_max": 1 << 20}, "message_bytes_max": 200_000});
    let hub = try_open(&dir.0, small).unwrap();
    let payload = vec![7; 100_000];
    let record = Record::new(&payload);
    let mut taken = 0;
    let full = loop {
        match hub.publish("tasks.a", None, &record, None, Some(Duration::from_secs(3))) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((taken, full.kind(), full.fate()), (10, Kind::Full, Some(Fate::NotSent)));
    assert!(full.message().contains("storage of the embedded broker"), "{full}");
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &inbox);
    std::thread::scope(|scope| {
        // One that waits is let through by an acknowledgement.
        let waiting = scope.spawn(|| hub.publish("tasks.a", None, &record, None, WAIT));
        settle(next(&inbox).token, Decision::Ack).unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(drain(&inbox).len(), 10);
}

/// Less is free than is to be left: nothing is taken, and the hub works otherwise.
#[test]
fn the_floor_of_free_space_is_kept() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    publish(&hub, "tasks.a", "one");
    hub.close(WAIT).unwrap();
    let hub = try_open(&dir.0, json!({"failover": {"free_space_floor_bytes": 1_u64 << 50}})).unwrap();
    let full = hub.publish("tasks.a", None, &Record::new(b"two"), None, NOW).unwrap_err();
    let full = match full.fate() {
        // Not waited for; the next is refused at once.
        Some(Fate::Unknown) => hub.publish("tasks.a", None, &Record::new(b"two"), None, WAIT).unwrap_err(),
        _ => full,
    };
    assert_eq!((full.kind(), full.fate()), (Kind::Full, Some(Fate::NotSent)));
    assert!(full.message().contains("free_space_floor_bytes"), "{full}");
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &inbox);
    assert_eq!(drain(&inbox), ["one"]);
    hub.close(WAIT).unwrap();
    let hub = open(&dir.0);
    let inbox = super::inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &inbox);
    assert!(drain(&inbox).is_empty());
}

#[test]
fn a_damaged_file_is_told_in_health_and_the_hub_opens() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    publish(&hub, "tasks.a", "one");
    hub.close(WAIT).unwrap();
    std::fs::write(dir.0.join("helixmq.db"), b"garbage").unwrap();
    let hub = open(&dir.0);
    let told = hub.health()["backends"][0]["storage"]["damage"].to_string();
    assert!(told.contains("is damaged") && told.contains("helixmq.db.damaged-1"), "{told}");
    publish(&hub, "tasks.a", "two");
    let inbox = inbox(&hub);
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &inbox);
    assert_eq!(drain(&inbox), ["two"]);
}

/// Told by the thread that writes, it would wait for itself.
#[test]
fn a_publish_from_on_ready_reaches_the_disk() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    let inbox = inbox(&hub);
    let (told, answers) = mpsc::channel();
    let from_ready = hub.clone();
    let told = std::sync::Mutex::new(told);
    let ready = move || {
        let answer = from_ready.publish("tasks.b", None, &Record::new(b"again"), None, Some(Duration::from_secs(5)));
        // Of those that come later nobody hears any more.
        let _ = told.lock().unwrap().send(answer.map(|receipt| receipt.level));
    };
    inbox.on_ready(Box::new(ready)).unwrap();
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &inbox);
    // It is told of a new subscription too, by the thread that makes it.
    assert!(drain(&inbox).is_empty());
    while answers.try_recv().is_ok() {}
    publish(&hub, "tasks.a", "one");
    assert_eq!(answers.recv_timeout(WAIT.unwrap()).unwrap().unwrap(), Level::Disk);
    hub.close(WAIT).unwrap();
}
