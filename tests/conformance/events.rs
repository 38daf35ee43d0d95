//! Events: a log with partitions, offsets and retention.

use std::collections::BTreeMap;
use std::time::Duration;

use helixmq::broker::{SubscribeSpec, TopicSpec, Verdict};
use helixmq::message::{Record, TopicKind};

use crate::harness::{keyed, seconds, spec, text, texts, wait, Bench};

pub fn an_event_is_kept_without_a_consumer(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a", "b"]);
    let consumer = bench.member(&topic, "g");
    assert_eq!(consumer.ack(2), ["a", "b"]);
    consumer.nothing();
}

pub fn offsets_rise_in_a_partition(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Event, &[keyed("k", "a"), keyed("k", "b"), keyed("k", "c")]);
    let deliveries = bench.member(&topic, "g").take(3);
    let places: Vec<(u32, i64)> = deliveries.iter().map(|delivery| (delivery.partition, delivery.offset)).collect();
    let (partition, first) = places[0];
    assert_eq!(places, [(partition, first), (partition, first + 1), (partition, first + 2)]);
    assert!(first >= 0);
}

fn four_partitions(bench: &Bench, topic: &str) {
    bench.declare(topic, TopicKind::Event, TopicSpec { partitions: Some(4), ..TopicSpec::default() });
}

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

pub fn a_key_stays_in_its_partition(bench: &Bench) {
    let topic = bench.topic();
    four_partitions(bench, &topic);
    for _ in 0..3 {
        bench.publish(&topic, TopicKind::Event, &KEYS.map(|key| keyed(key, key)));
    }
    let mut partitions: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for delivery in bench.member(&topic, "g").take(24) {
        partitions.entry(text(&delivery)).or_default().push(delivery.partition);
    }
    for (key, own) in &partitions {
        assert!(own.len() == 3 && own.iter().all(|partition| *partition == own[0]), "key {key} is in {own:?}");
    }
    let mut used: Vec<u32> = partitions.values().map(|own| own[0]).collect();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1 && used.iter().all(|partition| *partition < 4), "eight keys lie in partitions {used:?}");
}

pub fn order_per_key_is_kept(bench: &Bench) {
    let topic = bench.topic();
    four_partitions(bench, &topic);
    let sent: Vec<String> = (0..80).map(|number| format!("{}{:02}", KEYS[number % 8], number / 8)).collect();
    let records: Vec<Record<'_>> = sent.iter().map(|text| keyed(&text[..1], text)).collect();
    bench.publish(&topic, TopicKind::Event, &records);
    let mut last: BTreeMap<char, String> = BTreeMap::new();
    for text in bench.member(&topic, "g").ack(80) {
        let key = text.chars().next().expect("every text begins with its key");
        let before = last.insert(key, text.clone());
        assert!(before.as_ref() < Some(&text), "{text} came behind {before:?}");
    }
}

pub fn event_prefetch_is_never_exceeded(bench: &Bench) {
    let topic = bench.topic();
    bench.group(&topic, "g");
    bench.events(&topic, &["a", "b", "c", "d"]);
    let consumer = bench.subscribe(SubscribeSpec { prefetch: 2, ..spec(&topic, TopicKind::Event) });
    let out = consumer.take(2);
    consumer.nothing();
    consumer.settle(&out[1], Verdict::Ack);
    assert_eq!(texts(&consumer.take(1)), ["c"]);
    consumer.nothing();
    consumer.settle(&out[0], Verdict::Ack);
    assert_eq!(texts(&consumer.take(1)), ["d"]);
}

pub fn many_events_reach_every_group(bench: &Bench) {
    let topic = bench.topic();
    let sent: Vec<String> = (0..500).map(|number| format!("{number:03}")).collect();
    let consumers = [bench.member(&topic, "one"), bench.member(&topic, "two")];
    for chunk in sent.chunks(50) {
        bench.events(&topic, &chunk.iter().map(String::as_str).collect::<Vec<_>>());
        for consumer in &consumers {
            assert_eq!(consumer.ack(50), chunk);
        }
    }
    consumers.iter().for_each(crate::harness::Consumer::nothing);
}

pub fn retention_drops_the_oldest_and_counts(bench: &Bench) {
    let topic = bench.topic();
    let spec = TopicSpec { messages_max: Some(10), drop_oldest: Some(true), ..TopicSpec::default() };
    bench.declare(&topic, TopicKind::Event, spec);
    let sent: Vec<String> = (0..100).map(|number| format!("{number:02}")).collect();
    bench.publish(&topic, TopicKind::Event, &sent.iter().map(|text| keyed("k", text)).collect::<Vec<_>>());
    let admin = bench.broker.admin().expect("a mount that offers Admin has it");
    let described = wait(admin.describe(&topic, bench.soon())).expect("the topic is described").remove(0);
    assert!(described.messages <= 10 && described.messages > 0, "{described:?}");
    assert_eq!(described.dropped, 100 - described.messages, "{described:?}");
    let kept = described.messages as usize;
    let deliveries = bench.member(&topic, "g").take(kept);
    assert_eq!(texts(&deliveries), sent[100 - kept..], "the newest are kept");
    assert_eq!(deliveries[0].offset, 100 - kept as i64, "a dropped event keeps its offset");
}

pub fn old_events_age_out(bench: &Bench) {
    let topic = bench.topic();
    bench.declare(&topic, TopicKind::Event, TopicSpec { age_max: Some(seconds(60)), ..TopicSpec::default() });
    bench.events(&topic, &["old"]);
    bench.advance(seconds(40));
    bench.events(&topic, &["young"]);
    bench.advance(seconds(30) + Duration::from_millis(1));
    let consumer = bench.member(&topic, "g");
    assert_eq!(consumer.ack(1), ["young"]);
    consumer.nothing();
}
