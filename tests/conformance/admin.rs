//! Administration: describe, purge, delete.

use helixmq::broker::{Admin, Description, Verdict};
use helixmq::message::{Record, TopicKind};

use crate::harness::{texts, wait, Bench};

fn admin(bench: &Bench) -> &dyn Admin {
    bench.broker.admin().expect("a mount that offers Admin has it")
}

fn describe(bench: &Bench, pattern: &str) -> Vec<Description> {
    wait(admin(bench).describe(pattern, bench.soon())).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}

pub fn describe_counts(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b", "c"]);
    let described = describe(bench, &topic).remove(0);
    assert_eq!((described.name.as_str(), described.kind), (topic.as_str(), "task"));
    assert_eq!((described.messages, described.unsettled, described.consumers), (3, 0, 0), "{described:?}");
    let _consumer = bench.worker(&topic, 1);
    assert_eq!(describe(bench, &topic)[0].consumers, 1);
}

pub fn describe_counts_bytes(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a"]);
    let one = describe(bench, &topic)[0].bytes;
    bench.tasks(&topic, &["b"]);
    assert!(one > 0 && describe(bench, &topic)[0].bytes > one);
}

pub fn describe_counts_delayed_and_unsettled(bench: &Bench) {
    let topic = bench.topic();
    let now = Record::new(b"x");
    bench.publish(&topic, TopicKind::Task, &[now, Record { delay_ms: 5_000, ..now }, now]);
    let consumer = bench.worker(&topic, 1);
    let out = consumer.one();
    let described = describe(bench, &topic).remove(0);
    assert_eq!((described.messages, described.unsettled, described.delayed), (1, 1, 1), "{described:?}");
    consumer.settle(&out, Verdict::Ack);
    assert_eq!(describe(bench, &topic)[0].unsettled, 0);
}

pub fn describe_counts_the_lag_of_groups(bench: &Bench) {
    let topic = bench.topic();
    bench.events(&topic, &["a", "b", "c"]);
    let consumer = bench.member(&topic, "g");
    consumer.ack(1);
    let described = describe(bench, &topic).remove(0);
    assert_eq!((described.kind, described.messages), ("event", 3), "{described:?}");
    assert_eq!(described.lag.values().collect::<Vec<_>>(), [&2], "{described:?}");
    let next: i64 = described.partitions.iter().map(|(_, next)| *next).sum();
    assert_eq!(next, 3, "{described:?}");
}

pub fn describe_takes_a_pattern(bench: &Bench) {
    let base = bench.topic();
    for name in ["x", "y", "y.z"] {
        bench.tasks(&format!("{base}.{name}"), &["1"]);
    }
    let mut names: Vec<String> = describe(bench, &format!("{base}.*")).into_iter().map(|one| one.name).collect();
    names.sort_unstable();
    assert_eq!(names, [format!("{base}.x"), format!("{base}.y")]);
}

pub fn describe_of_nothing_is_empty(bench: &Bench) {
    assert!(describe(bench, &bench.topic()).is_empty());
}

pub fn purge_removes_what_waits(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b", "c"]);
    assert_eq!(wait(admin(bench).purge(&topic, bench.soon())).expect("it is there"), 3);
    assert_eq!(describe(bench, &topic)[0].messages, 0);
    bench.tasks(&topic, &["d"]);
    let consumer = bench.worker(&topic, 10);
    assert_eq!(consumer.ack(1), ["d"]);
    consumer.nothing();
}

pub fn purge_leaves_what_is_out(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b"]);
    let consumer = bench.worker(&topic, 1);
    let out = consumer.one();
    assert_eq!(wait(admin(bench).purge(&topic, bench.soon())).expect("it is there"), 1);
    consumer.settle(&out, Verdict::Retry(std::time::Duration::ZERO));
    assert_eq!(texts(&consumer.take(1)), ["a"]);
    consumer.nothing();
}

pub fn delete_removes_all_and_the_topic_may_come_back(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b"]);
    let consumer = bench.worker(&topic, 1);
    let out = consumer.one();
    wait(admin(bench).delete(&topic, bench.soon())).expect("it is there");
    assert!(describe(bench, &topic).iter().all(|left| left.messages == 0 && left.unsettled == 0));
    consumer.settle(&out, Verdict::Ack);
    consumer.nothing();
    bench.tasks(&topic, &["new"]);
    assert_eq!(consumer.ack(1), ["new"], "the subscription waits for the topic to come back");
}
