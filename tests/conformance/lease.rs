//! Leases: they end with time, are told, and can be renewed.

use std::time::Duration;

use helixmq::broker::{SubscribeSpec, Verdict};
use helixmq::error::Kind;
use helixmq::message::TopicKind;

use crate::harness::{refusal, seconds, spec, text, Bench, Consumer};

fn leased(bench: &Bench, topic: &str) -> Consumer {
    bench.subscribe(SubscribeSpec { lease: Some(seconds(10)), ..spec(topic, TopicKind::Task) })
}

pub fn a_lease_ends_and_tells(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = leased(bench, &topic);
    let first = consumer.one();
    bench.advance(seconds(9));
    consumer.nothing();
    assert!(consumer.bell.revoked().is_empty());
    bench.advance(seconds(2));
    assert_eq!(consumer.bell.wait_revoked(1), [first.tag]);
    let again = consumer.one();
    assert_eq!((text(&again).as_str(), again.redelivered), ("a", true));
    assert_ne!(again.tag, first.tag, "a new delivery has a tag of its own");
}

pub fn a_verdict_after_the_lease_is_ignored(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = leased(bench, &topic);
    let first = consumer.one();
    bench.advance(seconds(11));
    consumer.bell.wait_revoked(1);
    let again = consumer.one();
    consumer.settle(&first, Verdict::Ack);
    consumer.settle(&again, Verdict::Retry(Duration::ZERO));
    assert_eq!(text(&consumer.one()), "a", "a verdict on an ended lease took the task away");
}

pub fn extend_keeps_a_lease(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = leased(bench, &topic);
    let delivery = consumer.one();
    for _ in 0..3 {
        bench.advance(seconds(8));
        consumer.source.extend(delivery.tag, seconds(10)).expect("the lease lasts");
    }
    consumer.nothing();
    assert!(consumer.bell.revoked().is_empty());
    bench.advance(seconds(11));
    assert_eq!(consumer.bell.wait_revoked(1), [delivery.tag]);
}

pub fn extend_after_the_end_is_stale(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = leased(bench, &topic);
    let delivery = consumer.one();
    bench.advance(seconds(11));
    consumer.bell.wait_revoked(1);
    assert_eq!(refusal(consumer.source.extend(delivery.tag, seconds(10))), Kind::Stale);
}

pub fn no_lease_never_ends(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let consumer = bench.worker(&topic, 10);
    let delivery = consumer.one();
    bench.advance(seconds(30 * 24 * 3600));
    consumer.nothing();
    assert!(consumer.bell.revoked().is_empty());
    consumer.settle(&delivery, Verdict::Ack);
    consumer.source.close();
    bench.worker(&topic, 10).nothing();
}
