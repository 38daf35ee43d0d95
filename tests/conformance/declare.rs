//! Declaring topics.

use helixmq::broker::{Declared, TopicSpec};
use helixmq::error::{Kind, Result};
use helixmq::message::TopicKind;

use crate::harness::{refusal, wait, Bench};

fn declare(bench: &Bench, topic: &str, kind: TopicKind, spec: &TopicSpec) -> Result<Declared> {
    wait(bench.broker.declare(topic, kind, spec, bench.soon()))
}

pub fn declaring_twice_is_the_same(bench: &Bench) {
    let topic = bench.topic();
    let spec = TopicSpec { messages_max: Some(7), ..TopicSpec::default() };
    assert_eq!(declare(bench, &topic, TopicKind::Task, &spec).expect("it is new"), Declared::Created);
    assert_eq!(declare(bench, &topic, TopicKind::Task, &spec).expect("it is the same"), Declared::Existed);
    let open = TopicSpec::default();
    assert_eq!(declare(bench, &topic, TopicKind::Task, &open).expect("nothing is asked"), Declared::Existed);
}

pub fn declaring_partitions_twice_is_the_same(bench: &Bench) {
    let topic = bench.topic();
    let spec = TopicSpec { partitions: Some(2), ..TopicSpec::default() };
    assert_eq!(declare(bench, &topic, TopicKind::Event, &spec).expect("it is new"), Declared::Created);
    for again in [spec, TopicSpec::default()] {
        assert_eq!(declare(bench, &topic, TopicKind::Event, &again).expect("it is as asked"), Declared::Existed);
    }
}

pub fn another_setting_is_a_conflict_with_both_values(bench: &Bench) {
    let topic = bench.topic();
    let spec = |partitions| TopicSpec { partitions: Some(partitions), ..TopicSpec::default() };
    declare(bench, &topic, TopicKind::Event, &spec(3)).expect("it is new");
    let error = declare(bench, &topic, TopicKind::Event, &spec(5)).expect_err("it has 3 partitions");
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains('3') && error.message().contains('5'), "both values are named: {error}");
}

pub fn the_other_kind_is_refused(bench: &Bench) {
    let topic = bench.topic();
    declare(bench, &topic, TopicKind::Task, &TopicSpec::default()).expect("it is new");
    let kind = refusal(declare(bench, &topic, TopicKind::Event, &TopicSpec::default()));
    assert!(matches!(kind, Kind::TopicKind | Kind::Conflict), "{kind:?}");
}
