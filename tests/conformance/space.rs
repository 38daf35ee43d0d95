//! Bounds: a full topic is back-pressure or drops the oldest, as declared.

use std::sync::Arc;

use helixmq::broker::{TopicSpec, Verdict};
use helixmq::error::Kind;
use helixmq::message::{Record, TopicKind};

use crate::harness::{records, texts, wait, Bell, Bench};

fn bounded(bench: &Bench, spec: TopicSpec) -> String {
    let topic = bench.topic();
    bench.declare(&topic, TopicKind::Task, spec);
    topic
}

pub fn a_prefix_is_taken_and_the_rest_stays(bench: &Bench) {
    let topic = bounded(bench, TopicSpec { messages_max: Some(3), ..TopicSpec::default() });
    let to = bench.destination(&topic, TopicKind::Task);
    let (taken, first) = bench.offer(&*to, &records(&["a", "b", "c", "d", "e"]));
    assert_eq!((taken.count, taken.stopped.map(|error| error.kind())), (3, Some(Kind::Full)));
    if taken.level.is_none() {
        bench.outcomes.confirmed(first, 3);
    }
    let consumer = bench.worker(&topic, 10);
    assert_eq!(consumer.ack(3), ["a", "b", "c"]);
    consumer.nothing();
}

pub fn full_says_when_there_is_space(bench: &Bench) {
    let topic = bounded(bench, TopicSpec { messages_max: Some(2), ..TopicSpec::default() });
    let to = bench.destination(&topic, TopicKind::Task);
    assert_eq!(bench.offer(&*to, &records(&["a", "b", "c"])).0.count, 2);
    let bell = Arc::new(Bell::default());
    to.on_space(Arc::<Bell>::downgrade(&bell));
    assert_eq!(bell.rings(), 0, "there is no space yet");
    let consumer = bench.worker(&topic, 10);
    let out = consumer.take(2);
    assert_eq!(bench.offer(&*to, &records(&["c"])).0.count, 0, "a task that is out takes its space");
    consumer.settle(&out[0], Verdict::Ack);
    bell.wait();
    assert_eq!(bench.offer(&*to, &records(&["c"])).0.count, 1);
    assert_eq!(texts(&consumer.take(1)), ["c"]);
}

pub fn space_that_is_there_is_said_at_once(bench: &Bench) {
    let to = bench.destination(&bench.topic(), TopicKind::Task);
    let bell = Arc::new(Bell::default());
    to.on_space(Arc::<Bell>::downgrade(&bell));
    bell.wait();
}

pub fn bytes_are_bounded_too(bench: &Bench) {
    let topic = bounded(bench, TopicSpec { bytes_max: Some(4_000), ..TopicSpec::default() });
    let to = bench.destination(&topic, TopicKind::Task);
    let payload = [7; 1_000];
    let (taken, _) = bench.offer(&*to, &[Record::new(&payload); 10]);
    assert!((1..=4).contains(&taken.count), "{} records of 1000 bytes fit into 4000 bytes", taken.count);
    assert_eq!(taken.stopped.map(|error| error.kind()), Some(Kind::Full));
    let consumer = bench.worker(&topic, 10);
    consumer.ack(taken.count);
    assert!(bench.offer(&*to, &[Record::new(&payload)]).0.count == 1, "space came back with the acks");
}

pub fn dropping_the_oldest_is_counted(bench: &Bench) {
    let spec = TopicSpec { messages_max: Some(3), drop_oldest: Some(true), ..TopicSpec::default() };
    let topic = bounded(bench, spec);
    bench.tasks(&topic, &["a", "b", "c", "d", "e"]);
    let admin = bench.broker.admin().expect("a mount that offers Admin has it");
    let described = wait(admin.describe(&topic, bench.soon())).expect("the topic is described").remove(0);
    assert_eq!((described.messages, described.dropped), (3, 2), "{described:?}");
    assert_eq!(bench.worker(&topic, 10).ack(3), ["c", "d", "e"]);
}

/// A fast publisher against a consumer that settles one task at a time: what is kept never
/// exceeds the bound, nothing is lost, and the publisher is woken each time.
pub fn a_slow_consumer_is_back_pressure(bench: &Bench) {
    const BOUND: u64 = 8;
    const ALL: usize = 200;
    let topic = bounded(bench, TopicSpec { messages_max: Some(BOUND), ..TopicSpec::default() });
    let to = bench.destination(&topic, TopicKind::Task);
    let consumer = bench.worker(&topic, 2);
    let sent: Vec<String> = (0..ALL).map(|number| number.to_string()).collect();
    let batch: Vec<Record<'_>> = sent.iter().map(|text| Record::new(text.as_bytes())).collect();
    let (mut taken, mut got) = (0, Vec::new());
    while got.len() < ALL {
        if taken < ALL {
            taken += bench.offer(&*to, &batch[taken..]).0.count;
        }
        assert!(taken - got.len() <= BOUND as usize, "{taken} taken and {} settled with a bound of {BOUND}", got.len());
        let bell = Arc::new(Bell::default());
        let full = taken < ALL;
        if full {
            to.on_space(Arc::<Bell>::downgrade(&bell));
        }
        got.extend(consumer.ack(1));
        if full {
            bell.wait();
        }
    }
    assert_eq!(got, sent);
}
