//! Order by key, at the consumer and at the publisher.

use std::collections::BTreeMap;

use helixmq::broker::{Ordered, SubscribeSpec, Verdict};
use helixmq::message::TopicKind;

use crate::harness::{keyed, seconds, spec, text, texts, Bench, Consumer};

fn ordered(bench: &Bench, topic: &str, kind: TopicKind, ordered: Ordered) -> Consumer {
    bench.subscribe(SubscribeSpec { ordered, ..spec(topic, kind) })
}

pub fn one_key_is_out_once_at_a_time(bench: &Bench) {
    once_at_a_time(bench, TopicKind::Task);
}

pub fn events_of_one_key_are_out_once_at_a_time(bench: &Bench) {
    once_at_a_time(bench, TopicKind::Event);
}

fn once_at_a_time(bench: &Bench, kind: TopicKind) {
    let topic = bench.topic();
    bench.publish(&topic, kind, &[keyed("k", "1"), keyed("k", "2"), keyed("k", "3")]);
    let consumer = ordered(bench, &topic, kind, Ordered::Key);
    for expected in ["1", "2", "3"] {
        let delivery = consumer.one();
        assert_eq!(text(&delivery), expected);
        consumer.nothing();
        consumer.settle(&delivery, Verdict::Ack);
    }
}

pub fn other_keys_flow_meanwhile(bench: &Bench) {
    let topic = bench.topic();
    let records = [keyed("a", "a1"), keyed("a", "a2"), keyed("b", "b1"), keyed("c", "c1"), keyed("b", "b2")];
    bench.publish(&topic, TopicKind::Task, &records);
    let consumer = ordered(bench, &topic, TopicKind::Task, Ordered::Key);
    let out = consumer.take(3);
    assert_eq!(texts(&out), ["a1", "b1", "c1"]);
    consumer.nothing();
    consumer.settle(&out[1], Verdict::Ack);
    assert_eq!(texts(&consumer.take(1)), ["b2"]);
    consumer.settle(&out[0], Verdict::Ack);
    assert_eq!(texts(&consumer.take(1)), ["a2"]);
}

pub fn strict_order_waits_for_a_retry(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Task, &[keyed("k", "1"), keyed("k", "2"), keyed("other", "x")]);
    let consumer = ordered(bench, &topic, TopicKind::Task, Ordered::Strict);
    let out = consumer.take(2);
    assert_eq!(texts(&out), ["1", "x"]);
    consumer.settle(&out[0], Verdict::Retry(seconds(5)));
    consumer.nothing();
    bench.advance(seconds(6));
    assert_eq!(consumer.ack(1), ["1"]);
    assert_eq!(consumer.ack(1), ["2"]);
}

pub fn key_order_passes_a_retry(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Task, &[keyed("k", "1"), keyed("k", "2")]);
    let consumer = ordered(bench, &topic, TopicKind::Task, Ordered::Key);
    consumer.settle(&consumer.one(), Verdict::Retry(seconds(5)));
    assert_eq!(consumer.ack(1), ["2"]);
    bench.advance(seconds(6));
    assert_eq!(consumer.ack(1), ["1"]);
}

pub fn publishers_at_once_keep_the_order_of_their_keys(bench: &Bench) {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 100;
    let topic = bench.topic();
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let topic = &topic;
            scope.spawn(move || {
                let key = publisher.to_string();
                for number in 0..EACH {
                    let text = format!("{publisher}:{number:03}");
                    bench.publish(topic, TopicKind::Task, &[keyed(&key, &text)]);
                }
            });
        }
    });
    let consumer = bench.worker(&topic, 50);
    let mut last: BTreeMap<char, String> = BTreeMap::new();
    for _ in 0..PUBLISHERS * EACH {
        let text = consumer.ack(1).remove(0);
        let key = text.chars().next().expect("every text begins with its key");
        let before = last.insert(key, text.clone());
        assert!(before.as_ref() < Some(&text), "{text} came behind {before:?}");
    }
    consumer.nothing();
    assert_eq!(last.len(), PUBLISHERS);
}
