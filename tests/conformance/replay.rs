//! Replay: reading a log without a group, to an end.

use helixmq::broker::{Group, Start, Stop, SubscribeSpec, Verdict};
use helixmq::message::TopicKind;

use crate::harness::{seconds, spec, texts, Bench, Consumer};

fn reader(bench: &Bench, topic: &str, start: Start, stop: Stop) -> Consumer {
    let spec = spec(topic, TopicKind::Event);
    bench.subscribe(SubscribeSpec { group: Group::Private, start, stop, read_only: true, ..spec })
}

pub fn reading_leaves_groups_untouched(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a", "b", "c"]);
    let group = bench.member(&topic, "g");
    assert_eq!(group.ack(1), ["a"]);
    let replay = reader(bench, &topic, Start::Earliest, Stop::Now);
    let read = replay.take(3);
    assert_eq!(texts(&read), ["a", "b", "c"]);
    replay.settle_all(&read, Verdict::Ack);
    replay.end();
    assert_eq!(group.ack(2), ["b", "c"]);
    group.nothing();
}

pub fn stop_now_ends_behind_the_last(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a", "b"]);
    let replay = reader(bench, &topic, Start::Earliest, Stop::Now);
    bench.events(&topic, &["too late"]);
    assert_eq!(replay.ack(2), ["a", "b"]);
    replay.end();
}

pub fn stop_now_of_an_empty_topic_ends_at_once(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a"]);
    reader(bench, &topic, Start::Latest, Stop::Now).end();
}

/// Three events, ten seconds apart, and their times.
fn three_times(bench: &Bench, topic: &str) -> [i64; 3] {
    ["0", "10", "20"].map(|text| {
        let at = bench.now_us();
        bench.events(topic, &[text]);
        bench.advance(seconds(10));
        at
    })
}

pub fn stop_at_a_time_ends_before_it(bench: &Bench) {
    let topic = bench.topic();
    let [_, _, last] = three_times(bench, &topic);
    let replay = reader(bench, &topic, Start::Earliest, Stop::Time(last));
    assert_eq!(replay.ack(2), ["0", "10"]);
    replay.end();
}

pub fn a_replay_from_a_time_to_a_time(bench: &Bench) {
    let topic = bench.topic();
    let [_, middle, last] = three_times(bench, &topic);
    let replay = reader(bench, &topic, Start::Time(middle), Stop::Time(last));
    assert_eq!(replay.ack(1), ["10"]);
    replay.end();
}

/// Nothing is settled in a replay, so its prefetch bounds nothing that could wait for ever.
pub fn a_replay_needs_no_verdicts(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a", "b", "c"]);
    let plain = spec(&topic, TopicKind::Event);
    let replay = bench.subscribe(SubscribeSpec {
        group: Group::Private,
        stop: Stop::Now,
        read_only: true,
        prefetch: 1,
        ..plain
    });
    assert_eq!(texts(&replay.take(3)), ["a", "b", "c"]);
    replay.end();
}
