//! Where an event subscription starts, and seeking.

use helixmq::broker::{Start, SubscribeSpec, Verdict};
use helixmq::message::TopicKind;

use crate::harness::{keyed, seconds, spec, texts, Bench, Consumer};

fn from(bench: &Bench, topic: &str, start: Start) -> Consumer {
    bench.subscribe(SubscribeSpec { start, ..spec(topic, TopicKind::Event) })
}

/// Five events of one key, so that they lie in one partition.
fn five(bench: &Bench) -> String {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Event, &["0", "1", "2", "3", "4"].map(|text| keyed("k", text)));
    topic
}

pub fn earliest_is_the_oldest_kept(bench: &Bench) {
    let topic = five(bench);
    assert_eq!(from(bench, &topic, Start::Earliest).ack(5), ["0", "1", "2", "3", "4"]);
}

pub fn latest_is_from_now_on(bench: &Bench) {
    let topic = five(bench);
    let consumer = from(bench, &topic, Start::Latest);
    consumer.nothing();
    bench.events(&topic, &["5"]);
    assert_eq!(consumer.ack(1), ["5"]);
}

pub fn an_offset_is_where_it_starts(bench: &Bench) {
    let topic = five(bench);
    assert_eq!(from(bench, &topic, Start::Offset(3)).ack(2), ["3", "4"]);
}

pub fn an_offset_behind_the_end_waits(bench: &Bench) {
    let topic = five(bench);
    let consumer = from(bench, &topic, Start::Offset(5));
    consumer.nothing();
    bench.publish(&topic, TopicKind::Event, &[keyed("k", "5")]);
    assert_eq!(consumer.ack(1), ["5"]);
}

pub fn a_time_is_where_it_starts(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["before"]);
    bench.advance(seconds(10));
    let time = bench.now_us();
    bench.events(&topic, &["at"]);
    bench.advance(seconds(10));
    bench.events(&topic, &["after"]);
    assert_eq!(from(bench, &topic, Start::Time(time)).ack(2), ["at", "after"]);
}

pub fn a_group_with_a_place_ignores_the_start(bench: &Bench) {
    let topic = five(bench);
    let first = from(bench, &topic, Start::Earliest);
    let out = first.take(5);
    first.settle_all(&out[..3], Verdict::Ack);
    first.source.close();
    assert_eq!(from(bench, &topic, Start::Latest).ack(2), ["3", "4"]);
}

pub fn seek_to_the_earliest_gives_all_again(bench: &Bench) {
    let topic = five(bench);
    let consumer = from(bench, &topic, Start::Earliest);
    assert_eq!(consumer.ack(5).len(), 5);
    consumer.nothing();
    consumer.source.seek(Start::Earliest).expect("a group may go back");
    assert_eq!(consumer.ack(5), ["0", "1", "2", "3", "4"]);
}

pub fn seek_to_the_latest_skips_what_waits(bench: &Bench) {
    let topic = five(bench);
    let consumer = bench.subscribe(SubscribeSpec { prefetch: 1, ..spec(&topic, TopicKind::Event) });
    assert_eq!(consumer.ack(1), ["0"]);
    consumer.source.seek(Start::Latest).expect("a group may go on");
    consumer.settle_all(&consumer.fetch(1), Verdict::Ack);
    bench.events(&topic, &["5"]);
    let mut got = consumer.ack(1);
    while got.last().is_none_or(|text| text != "5") {
        got.extend(consumer.ack(1));
    }
    assert_eq!(got, ["5"]);
}

pub fn seek_to_an_offset_goes_there(bench: &Bench) {
    let topic = five(bench);
    let consumer = from(bench, &topic, Start::Earliest);
    assert_eq!(consumer.ack(5).len(), 5);
    consumer.source.seek(Start::Offset(2)).expect("a group may go back");
    assert_eq!(consumer.ack(3), ["2", "3", "4"]);
}

pub fn a_verdict_from_before_a_seek_moves_nothing(bench: &Bench) {
    let topic = five(bench);
    let consumer = from(bench, &topic, Start::Earliest);
    let out = consumer.take(5);
    consumer.source.seek(Start::Earliest).expect("a group may go back");
    consumer.settle_all(&out, Verdict::Ack);
    assert_eq!(texts(&consumer.take(5)), ["0", "1", "2", "3", "4"]);
    consumer.source.close();
    assert_eq!(from(bench, &topic, Start::Latest).ack(5).len(), 5, "the old verdicts moved the group");
}
