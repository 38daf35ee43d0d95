//! Retry and return: attempts, delays, marks.

use std::time::Duration;

use helixmq::broker::Verdict;
use helixmq::message::{HeaderBlock, Record, TopicKind};

use crate::harness::{keyed, seconds, text, Bench};

pub fn a_retry_counts_and_is_marked(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = bench.worker(&topic, 10);
    for attempt in 1..=4 {
        let delivery = consumer.one();
        assert_eq!((delivery.attempt, delivery.redelivered), (attempt, attempt > 1), "{}", text(&delivery));
        consumer.settle(&delivery, Verdict::Retry(Duration::ZERO));
    }
}

pub fn a_retry_waits_for_its_delay(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = bench.worker(&topic, 10);
    consumer.settle(&consumer.one(), Verdict::Retry(seconds(10)));
    consumer.nothing();
    bench.advance(seconds(9));
    consumer.nothing();
    bench.advance(seconds(2));
    assert_eq!(consumer.one().attempt, 2);
}

pub fn a_retry_is_passed_by_others(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["retried", "b", "c"]);
    let consumer = bench.worker(&topic, 1);
    consumer.settle(&consumer.one(), Verdict::Retry(seconds(10)));
    assert_eq!([consumer.ack(1), consumer.ack(1)].concat(), ["b", "c"]);
    bench.advance(seconds(11));
    assert_eq!(consumer.ack(1), ["retried"]);
}

pub fn attempts_of_earlier_copies_count(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Task, &[Record { attempts: 2, ..Record::new(b"a") }]);
    let consumer = bench.worker(&topic, 10);
    let third = consumer.one();
    assert_eq!(third.attempt, 3);
    consumer.settle(&third, Verdict::Retry(Duration::ZERO));
    assert_eq!(consumer.one().attempt, 4);
}

pub fn a_return_does_not_count(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = bench.worker(&topic, 10);
    for _ in 0..3 {
        let delivery = consumer.one();
        assert_eq!(delivery.attempt, 1);
        consumer.settle(&delivery, Verdict::Return);
    }
    consumer.settle(&consumer.one(), Verdict::Retry(Duration::ZERO));
    assert_eq!(consumer.one().attempt, 2);
}

pub fn a_retry_keeps_the_message(bench: &Bench) {
    let topic = bench.topic();
    let mut block = HeaderBlock::default();
    block.push("h", b"v");
    bench.publish(
        &topic,
        TopicKind::Task,
        &[Record { id: "id", type_: "t", headers: block.headers(), ..keyed("key", "a") }],
    );
    let consumer = bench.worker(&topic, 10);
    let first = consumer.one();
    let stamp = first.message.timestamp_us();
    consumer.settle(&first, Verdict::Retry(Duration::ZERO));
    let again = consumer.one().message;
    assert_eq!((again.id().as_str(), again.type_(), again.key()), ("id", "t", Some(&b"key"[..])));
    assert_eq!((again.payload(), again.headers().find("h")), (&b"a"[..], Some(&b"v"[..])));
    assert_eq!(again.timestamp_us(), stamp);
}

pub fn an_event_is_retried_in_its_group(bench: &Bench) {
    let topic = bench.topic();
    let (one, other) = (bench.member(&topic, "one"), bench.member(&topic, "other"));
    bench.events(&topic, &["a", "b"]);
    let first = one.one();
    one.settle(&first, Verdict::Retry(seconds(5)));
    assert_eq!(one.ack(1), ["b"]);
    one.nothing();
    bench.advance(seconds(6));
    let again = one.one();
    assert_eq!((text(&again).as_str(), again.attempt, again.redelivered), ("a", 2, true));
    assert_eq!(other.ack(2), ["a", "b"]);
    other.nothing();
}

pub fn a_retry_survives_its_consumer(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let first = bench.worker(&topic, 10);
    first.settle(&first.one(), Verdict::Retry(seconds(5)));
    first.source.close();
    let second = bench.worker(&topic, 10);
    second.nothing();
    bench.advance(seconds(6));
    assert_eq!(second.one().attempt, 2);
}
