//! Which of the messages that are kept go out first.

use super::outage::{forwarded, RABBITMQ};
use super::*;

/// Tasks that are with workers of this process keep others of their keys here, and none of other keys.
#[test]
fn keys_that_wait_for_workers_take_no_turn_from_others() {
    let side = RABBITMQ;
    let _alone = side.alone();
    let hub = side.hub(json!({"rabbitmq": {"queue_type": "classic"}}));
    let (held, free, inbox) = (side.topic(), side.topic(), inbox(&hub));
    let _sub = subscribe(&hub, json!({"topic": held, "prefetch": 500}), &inbox);
    for topic in [&held, &free] {
        side.publish(&hub, topic, "k", "before").unwrap();
    }
    ack(&next(&inbox));
    hub.backend_force(side.name, true).unwrap();
    let publish = |topic: &str, number: u64| {
        let key = format!("k{number}");
        let record = Record { key: Some(key.as_bytes()), ..Record::new(b"kept") };
        assert!(hub.publish(topic, Some(side.kind), &record, None, WAIT).unwrap().spooled);
    };
    (0..200).for_each(|number| publish(&held, number));
    let out: Vec<Incoming> = (0..200).map(|_| next(&inbox)).collect();
    (0..30).for_each(|number| publish(&free, number));
    let start = Instant::now();
    hub.backend_force(side.name, false).unwrap();
    until("all that nobody here has", || own(&hub)["spool"]["records"] == 200);
    // In the first second 64 go out.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    out.iter().for_each(ack);
    forwarded(&hub);
    assert_eq!(metric(&hub, "helixmq_local_done_total"), 200);
    hub.close(WAIT).unwrap();
}
