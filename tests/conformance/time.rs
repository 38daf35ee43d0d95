//! TTL and delay.

use helixmq::broker::TopicSpec;
use helixmq::message::{Record, TopicKind};

use crate::harness::{seconds, wait, Bench};

fn expiring(text: &str, ttl_ms: i64) -> Record<'_> {
    Record { ttl_ms, ..Record::new(text.as_bytes()) }
}

fn delayed(text: &str, delay_ms: i64) -> Record<'_> {
    Record { delay_ms, ..Record::new(text.as_bytes()) }
}

pub fn an_expired_task_is_not_delivered(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Task, &[expiring("short", 1_000), expiring("long", 60_000), expiring("ever", 0)]);
    bench.advance(seconds(2));
    let consumer = bench.worker(&topic, 10);
    assert_eq!(consumer.ack(2), ["long", "ever"]);
    consumer.nothing();
}

pub fn an_expired_event_is_not_delivered(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Event, &[expiring("short", 1_000), expiring("long", 60_000)]);
    bench.advance(seconds(2));
    let consumer = bench.member(&topic, "g");
    assert_eq!(consumer.ack(1), ["long"]);
    consumer.nothing();
}

pub fn a_ttl_of_the_topic_holds_for_all(bench: &Bench) {
    let topic = bench.topic();
    bench.declare(&topic, TopicKind::Task, TopicSpec { ttl: Some(seconds(5)), ..TopicSpec::default() });
    bench.publish(&topic, TopicKind::Task, &[expiring("by topic", 0), expiring("own", 60_000)]);
    bench.advance(seconds(6));
    let consumer = bench.worker(&topic, 10);
    assert_eq!(consumer.ack(1), ["own"]);
    consumer.nothing();
}

pub fn expired_tasks_are_counted(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Task, &[expiring("a", 1_000), expiring("b", 1_000), expiring("c", 0)]);
    bench.advance(seconds(2));
    let consumer = bench.worker(&topic, 10);
    assert_eq!(consumer.ack(1), ["c"]);
    consumer.nothing();
    let admin = bench.broker.admin().expect("a mount that offers Admin has it");
    let described = wait(admin.describe(&topic, bench.soon())).expect("the topic is described");
    assert_eq!(described[0].expired, 2, "{described:?}");
}

pub fn a_delayed_task_comes_at_its_time(bench: &Bench) {
    let topic = bench.topic();
    let consumer = bench.worker(&topic, 10);
    bench.publish(&topic, TopicKind::Task, &[delayed("later", 10_000)]);
    consumer.nothing();
    bench.advance(seconds(9));
    consumer.nothing();
    bench.advance(seconds(2));
    let delivery = consumer.one();
    assert_eq!((delivery.attempt, delivery.redelivered), (1, false), "a delay is no attempt");
}

pub fn delayed_tasks_come_in_the_order_of_their_times(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(
        &topic,
        TopicKind::Task,
        &[delayed("third", 3_000), delayed("first", 1_000), delayed("second", 2_000)],
    );
    let consumer = bench.worker(&topic, 10);
    for text in ["first", "second", "third"] {
        bench.advance(seconds(1));
        assert_eq!(consumer.ack(1), [text]);
        consumer.nothing();
    }
}

pub fn a_delay_is_overtaken(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Task, &[delayed("later", 5_000), delayed("now", 0)]);
    let consumer = bench.worker(&topic, 10);
    assert_eq!(consumer.ack(1), ["now"]);
    bench.advance(seconds(6));
    assert_eq!(consumer.ack(1), ["later"]);
}

pub fn a_delay_longer_than_the_ttl_never_comes(bench: &Bench) {
    let topic = bench.topic();
    bench.publish(&topic, TopicKind::Task, &[Record { ttl_ms: 1_000, ..delayed("never", 5_000) }]);
    let consumer = bench.worker(&topic, 10);
    bench.advance(seconds(10));
    consumer.nothing();
}
