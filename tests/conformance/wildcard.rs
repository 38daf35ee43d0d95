//! One subscription over many topics, by pattern.

use helixmq::message::TopicKind;

use crate::harness::{spec, Bench, Consumer};

/// Publishes to topics around `user.*` and takes what a subscription to `pattern` gets of them.
fn around_user(bench: &Bench, kind: TopicKind, pattern: &str, count: usize) -> (Vec<String>, Consumer) {
    let base = bench.topic();
    let consumer = bench.subscribe(spec(&format!("{base}.{pattern}"), kind));
    for name in ["user.created", "user.a.b", "users.created", "user", "user.deleted"] {
        let topic = format!("{base}.{name}");
        bench.publish(&topic, kind, &crate::harness::records(&[name]));
    }
    let mut got = consumer.ack(count);
    consumer.nothing();
    got.sort_unstable();
    (got, consumer)
}

pub fn a_star_is_one_word_of_tasks(bench: &Bench) {
    let (got, _) = around_user(bench, TopicKind::Task, "user.*", 2);
    assert_eq!(got, ["user.created", "user.deleted"]);
}

pub fn a_hash_is_any_number_of_words_of_tasks(bench: &Bench) {
    let (got, _) = around_user(bench, TopicKind::Task, "user.#", 4);
    assert_eq!(got, ["user", "user.a.b", "user.created", "user.deleted"]);
}

pub fn a_star_is_one_word_of_events(bench: &Bench) {
    let (got, _) = around_user(bench, TopicKind::Event, "user.*", 2);
    assert_eq!(got, ["user.created", "user.deleted"]);
}

pub fn a_hash_is_any_number_of_words_of_events(bench: &Bench) {
    let (got, _) = around_user(bench, TopicKind::Event, "user.#", 4);
    assert_eq!(got, ["user", "user.a.b", "user.created", "user.deleted"]);
}

pub fn a_pattern_finds_queues_made_later(bench: &Bench) {
    let base = bench.topic();
    bench.tasks(&format!("{base}.before"), &["before"]);
    let consumer = bench.worker(&format!("{base}.*"), 10);
    assert_eq!(consumer.ack(1), ["before"]);
    consumer.nothing();
    bench.tasks(&format!("{base}.after"), &["after"]);
    let delivery = consumer.one();
    assert_eq!(&**delivery.message.topic(), format!("{base}.after"), "a delivery names its own topic");
}

pub fn a_pattern_competes_with_a_name(bench: &Bench) {
    let base = bench.topic();
    let topic = format!("{base}.q");
    let consumers = [bench.worker(&format!("{base}.#"), 2), bench.worker(&topic, 2)];
    bench.tasks(&topic, &["a", "b", "c", "d"]);
    let mut got = [consumers[0].ack(2), consumers[1].fetch(2).iter().map(crate::harness::text).collect()].concat();
    while got.len() < 4 {
        got.extend(consumers[1].ack(1));
    }
    got.sort_unstable();
    assert_eq!(got, ["a", "b", "c", "d"]);
}

pub fn prefetch_holds_over_all_queues_of_a_pattern(bench: &Bench) {
    let base = bench.topic();
    for name in ["x", "y", "z"] {
        bench.tasks(&format!("{base}.{name}"), &["1", "2"]);
    }
    let consumer = bench.worker(&format!("{base}.*"), 4);
    let out = consumer.take(4);
    consumer.nothing();
    consumer.settle_all(&out, helixmq::broker::Verdict::Ack);
    consumer.ack(2);
    consumer.nothing();
}

pub fn a_pattern_finds_event_topics_made_later(bench: &Bench) {
    let base = bench.topic();
    let consumer = bench.member(&format!("{base}.*"), "g");
    consumer.nothing();
    bench.events(&format!("{base}.later"), &["a", "b"]);
    assert_eq!(consumer.ack(2), ["a", "b"], "a topic made after the subscription is read from its first event");
}
