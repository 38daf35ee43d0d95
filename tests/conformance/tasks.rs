//! Tasks: competing consumers, prefetch, wake-ups, settlement, priority.

use helixmq::broker::{Flow, Verdict};
use helixmq::message::{Record, TopicKind};

use crate::harness::{ack_from_any, text, texts, Bench};

pub fn competing_consumers_share(bench: &Bench) {
    let topic = bench.topic();
    let consumers = [bench.worker(&topic, 5), bench.worker(&topic, 5)];
    let sent: Vec<String> = (0..10).map(|number| format!("{number:02}")).collect();
    bench.tasks(&topic, &sent.iter().map(String::as_str).collect::<Vec<_>>());
    let mut got = consumers[0].ack(5);
    got.extend(consumers[1].ack(5));
    got.sort_unstable();
    assert_eq!(got, sent);
}

pub fn no_task_is_delivered_twice(bench: &Bench) {
    let topic = bench.topic();
    let sent: Vec<String> = (0..60).map(|number| format!("{number:02}")).collect();
    bench.tasks(&topic, &sent.iter().map(String::as_str).collect::<Vec<_>>());
    let consumers = [bench.worker(&topic, 2), bench.worker(&topic, 3), bench.worker(&topic, 7)];
    let mut got = ack_from_any(&consumers, sent.len());
    for consumer in &consumers {
        consumer.nothing();
    }
    got.sort_unstable();
    assert_eq!(got, sent);
}

pub fn order_is_kept_for_one_consumer(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["1", "2", "3"]);
    let consumer = bench.worker(&topic, 2);
    bench.tasks(&topic, &["4", "5"]);
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(consumer.ack(1));
    }
    assert_eq!(got, ["1", "2", "3", "4", "5"]);
}

pub fn prefetch_is_never_exceeded(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b", "c", "d", "e"]);
    let consumer = bench.worker(&topic, 3);
    let mut out = consumer.take(3);
    assert!(consumer.fetch(10).is_empty(), "a fourth delivery is out with a prefetch of 3");
    consumer.nothing();
    consumer.settle(&out.remove(0), Verdict::Ack);
    assert_eq!(texts(&consumer.take(1)), ["d"]);
    consumer.nothing();
}

pub fn a_settle_makes_room_and_rings(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b"]);
    let consumer = bench.worker(&topic, 1);
    let first = consumer.one();
    consumer.nothing();
    let rings = consumer.bell.rings();
    consumer.settle(&first, Verdict::Ack);
    consumer.bell.wait_beyond(rings, std::time::Instant::now() + crate::harness::PATIENCE, || "room was made".into());
    assert_eq!(consumer.ack(1), ["b"]);
}

pub fn a_fetch_gives_no_more_than_asked(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b", "c", "d", "e"]);
    let consumer = bench.worker(&topic, 100);
    assert_eq!(texts(&consumer.take(2)), ["a", "b"]);
    let mut out = Vec::new();
    consumer.source.fetch(0, &mut out);
    assert!(out.is_empty(), "a fetch of nothing gave {out:?}");
    assert_eq!(texts(&consumer.take(3)), ["c", "d", "e"]);
}

pub fn ready_comes_once_after_idle(bench: &Bench) {
    let topic = bench.topic();
    let consumer = bench.worker(&topic, 100);
    consumer.nothing();
    let rings = consumer.bell.rings();
    for text in ["a", "b", "c"] {
        bench.tasks(&topic, &[text]);
    }
    consumer.bell.wait_beyond(rings, std::time::Instant::now() + crate::harness::PATIENCE, || "3 tasks wait".into());
    assert_eq!(consumer.bell.rings(), rings + 1, "it rang more than once after one Idle");
    assert_eq!(consumer.ack(3), ["a", "b", "c"]);
}

pub fn a_new_task_rings_an_idle_consumer(bench: &Bench) {
    let topic = bench.topic();
    let consumer = bench.worker(&topic, 100);
    for text in ["a", "b", "c"] {
        consumer.nothing();
        bench.tasks(&topic, &[text]);
        assert_eq!(consumer.ack(1), [text]);
    }
}

pub fn an_acked_task_never_comes_back(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b"]);
    let consumer = bench.worker(&topic, 100);
    assert_eq!(consumer.ack(2), ["a", "b"]);
    consumer.source.close();
    bench.worker(&topic, 100).nothing();
}

pub fn a_second_verdict_is_ignored(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["a", "b"]);
    let consumer = bench.worker(&topic, 100);
    let deliveries = consumer.take(2);
    consumer.settle(&deliveries[0], Verdict::Ack);
    consumer.settle(&deliveries[0], Verdict::Retry(std::time::Duration::ZERO));
    consumer.source.settle(&[(u64::MAX, Verdict::Ack), (987_654, Verdict::Return)]);
    consumer.nothing();
    consumer.settle(&deliveries[1], Verdict::Ack);
    consumer.source.close();
    bench.worker(&topic, 100).nothing();
}

pub fn unsettled_tasks_go_to_others_on_close(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["done", "open", "waiting"]);
    let (leaving, staying) = (bench.worker(&topic, 2), bench.worker(&topic, 5));
    let out = leaving.take(2);
    leaving.settle(&out[0], Verdict::Ack);
    leaving.source.close();
    let mut got = staying.take(2);
    got.sort_by_key(text);
    assert_eq!(texts(&got), ["open", "waiting"]);
    assert!(got[0].redelivered, "a task that was out is marked when it comes again");
    assert!(!got[1].redelivered, "a task that was never out is not marked");
}

pub fn a_closed_source_gives_nothing(bench: &Bench) {
    let topic = bench.topic();
    let consumer = bench.worker(&topic, 100);
    consumer.source.close();
    bench.tasks(&topic, &["a"]);
    consumer.nothing();
    assert_eq!(bench.worker(&topic, 100).ack(1), ["a"]);
}

pub fn queues_are_apart(bench: &Bench) {
    let (one, two) = (bench.topic(), bench.topic());
    bench.tasks(&one, &["1"]);
    bench.tasks(&two, &["2"]);
    let consumer = bench.worker(&two, 100);
    assert_eq!(consumer.ack(1), ["2"]);
    consumer.nothing();
}

fn with_priorities(bench: &Bench, topic: &str, tasks: &[(u8, &str)]) {
    let records: Vec<Record<'_>> =
        tasks.iter().map(|(priority, text)| Record { priority: *priority, ..Record::new(text.as_bytes()) }).collect();
    bench.publish(topic, TopicKind::Task, &records);
}

pub fn priority_goes_first(bench: &Bench) {
    let topic = bench.topic();
    with_priorities(bench, &topic, &[(0, "lowest"), (5, "middle"), (10, "highest"), (6, "above")]);
    assert_eq!(bench.worker(&topic, 100).ack(4), ["highest", "above", "middle", "lowest"]);
}

pub fn priority_keeps_order_inside(bench: &Bench) {
    let topic = bench.topic();
    with_priorities(bench, &topic, &[(5, "m1"), (9, "h1"), (5, "m2"), (9, "h2"), (5, "m3")]);
    let consumer = bench.worker(&topic, 1);
    assert_eq!(consumer.ack(1), ["h1"]);
    with_priorities(bench, &topic, &[(9, "h3")]);
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(consumer.ack(1));
    }
    // With room for one, "h2" may have been fetched ahead of "h3" only.
    assert_eq!(got, ["h2", "h3", "m1", "m2", "m3"]);
}

pub fn a_backlog_of_thousands_drains(bench: &Bench) {
    let topic = bench.topic();
    let sent: Vec<String> = (0..3000).map(|number| number.to_string()).collect();
    let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
    for chunk in sent.chunks(100) {
        bench.tasks(&topic, chunk);
    }
    let consumer = bench.worker(&topic, 64);
    let mut got = 0;
    while got < sent.len() {
        let rings = consumer.bell.rings();
        let mut out = Vec::new();
        let flow = consumer.source.fetch(64, &mut out);
        assert_eq!(texts(&out), sent[got..got + out.len()], "out of order behind {got}");
        got += out.len();
        consumer.settle_all(&out, Verdict::Ack);
        if out.is_empty() && flow == Flow::Idle {
            let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
            consumer.bell.wait_beyond(rings, deadline, || format!("{got} of 3000 came"));
        }
    }
    consumer.nothing();
}
