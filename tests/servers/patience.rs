//! How long a call waits for a server that may be away, or that asks publishers to stop.

use helixmq::broker::Level;
use helixmq::error::{Fate, Kind};

use super::failover::Alarm;
use super::failover_disk::TestDir;
use super::outage::{key, publisher_of, Side, KAFKA, RABBITMQ};
use super::*;

/// Publishes `payload` on another thread, sees that it waits, and ends what it waits for.
fn waits_for(side: Side, hub: &Hub, topic: &str, payload: &str, end: impl FnOnce()) {
    let before = metric(hub, "helixmq_publish_waits_total");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| side.publish(hub, topic, payload, payload));
        until("a call that waits", || {
            assert!(!waiting.is_finished(), "{} {}", own(hub), hub.health()["state_changes"]);
            metric(hub, "helixmq_publish_waits_total") > before
        });
        end();
        let receipt = waiting.join().unwrap().unwrap();
        assert_eq!((receipt.level, receipt.spooled), (Level::Broker, false), "{payload}");
    });
}

/// A server that stands still for a moment costs a wait, and no copy that is kept here.
#[test]
fn a_call_waits_for_a_server_that_may_be_back() {
    let side = KAFKA;
    let _alone = side.alone();
    let hub = side.hub(json!({"failover": {
        "confirm_timeout_ms": 1000, "suspect_wait_ms": 20_000, "down_after_ms": 25_000,
    }}));
    let topic = side.topic();
    side.publish(&hub, &topic, "0", "0").unwrap();
    let results = hub.inbox(InboxOptions::from_json("{}").unwrap()).unwrap();
    let publisher = publisher_of(&hub, side, &topic);
    let away = side.away("pause");
    let one = |number: &'static str| Record { key: Some(number.as_bytes()), ..Record::new(number.as_bytes()) };
    assert_eq!(publisher.send_inbox(&[one("1")], &[1], &results, None).0, 1);
    until("the doubt", || state(&hub) == "suspect");
    // A call that may not wait so long is told in time what became of its message.
    let start = Instant::now();
    let brief = Some(Duration::from_millis(300));
    assert!(hub.publish(&topic, Some(side.kind), &one("2"), None, brief).unwrap().spooled);
    let refused = hub.publish(&topic, Some(side.kind), &one("2"), Some(Level::Broker), brief).unwrap_err();
    assert_eq!((refused.kind(), refused.fate()), (Kind::BackendDown, Some(Fate::NotSent)), "{refused}");
    // One that does not wait has no use for it at all.
    assert_eq!(publisher.send_inbox(&[one("3")], &[3], &results, None).0, 1);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    waits_for(side, &hub, &topic, "4", || drop(away));
    super::outage::forwarded(&hub);
    side.all(&topic, 5, json!({})).check(5);
    hub.close(WAIT).unwrap();
}

/// The wait of all calls together is as long as that of one. With RabbitMQ it is the topic that is doubted first: one
/// record may have no confirm though the server is well.
fn a_server_that_stays_away_is_waited_for_once(side: Side, doubted: &str) {
    let _alone = side.alone();
    let hub = side.hub(json!({"failover": {
        "confirm_timeout_ms": 1000, "suspect_wait_ms": 1000, "down_after_ms": 5000,
    }}));
    let topic = side.topic();
    side.publish(&hub, &topic, &key(0), "0").unwrap();
    let results = hub.inbox(InboxOptions::from_json("{}").unwrap()).unwrap();
    let publisher = publisher_of(&hub, side, &topic);
    let away = side.away("pause");
    let keys: Vec<String> = (0..100).map(key).collect();
    let payloads: Vec<String> = (0..100).map(|number: u64| number.to_string()).collect();
    let records = payloads.iter().zip(&keys);
    let records = records.map(|(payload, key)| Record { key: Some(key.as_bytes()), ..Record::new(payload.as_bytes()) });
    let records: Vec<Record<'_>> = records.collect();
    assert_eq!(publisher.send_inbox(&records[1..2], &[1], &results, None).0, 1);
    until("the doubt", || state(&hub) == doubted);
    let (start, records) = (Instant::now(), &records[2..]);
    assert_eq!(publisher.send_batch(records, WAIT, None).0, records.len());
    assert!(side.publish(&hub, &topic, &key(100), "100").unwrap().spooled);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop(away);
    super::outage::forwarded(&hub);
    side.all(&topic, 101, json!({})).check(101);
    hub.close(WAIT).unwrap();
}

#[test]
fn rabbitmq_a_server_that_stays_away_is_waited_for_once() {
    a_server_that_stays_away_is_waited_for_once(RABBITMQ, "forwarding");
}

#[test]
fn kafka_a_server_that_stays_away_is_waited_for_once() {
    a_server_that_stays_away_is_waited_for_once(KAFKA, "suspect");
}

/// An alarm that is over soon costs a wait, and no copy that is kept here.
#[test]
fn a_call_waits_for_a_server_that_asks_it_to() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let dir = TestDir::new();
    let hub = side.hub(json!({"failover": {"blocked_wait_ms": 30_000, "dir": dir.0}}));
    let topic = side.topic();
    side.publish(&hub, &topic, "0", "0").unwrap();
    let alarm = Alarm::new();
    let results = hub.inbox(InboxOptions::from_json("{}").unwrap()).unwrap();
    // A server tells those of its alarm that publish.
    assert_eq!(publisher_of(&hub, side, &topic).send_inbox(&[Record::new(b"1")], &[1], &results, None).0, 1);
    until("the alarm", || state(&hub) == "blocked");
    // A call that may not wait so long keeps time for the disk to take its message.
    let briefly = Some(Duration::from_secs(2));
    let kept = hub.publish(&topic, Some(side.kind), &Record::new(b"3"), None, briefly).unwrap();
    assert_eq!((kept.level, kept.spooled), (Level::Disk, true));
    waits_for(side, &hub, &topic, "2", || drop(alarm));
    let told = [0, 1, 2, 3];
    side.gather(&topic, &told);
    hub.close(WAIT).unwrap();
}
