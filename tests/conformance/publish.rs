//! Publishing: what is taken, what it looks like on arrival, and how it ends.

use std::collections::HashSet;

use helixmq::broker::{Level, Taken};
use helixmq::error::{Fate, Kind};
use helixmq::message::{HeaderBlock, Message, Record, TopicKind};

use crate::harness::{records, refusal, spec, texts, Bench};

pub fn an_empty_payload_is_a_message(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["", "a"]);
    assert_eq!(bench.worker(&topic, 10).ack(2), ["", "a"]);
}

pub fn every_record_taken_ends_once(bench: &Bench) {
    ends_once(bench, TopicKind::Task);
}

pub fn every_event_taken_ends_once(bench: &Bench) {
    ends_once(bench, TopicKind::Event);
}

fn ends_once(bench: &Bench, kind: TopicKind) {
    let to = bench.destination(&bench.topic(), kind);
    let mut late = 0;
    let mut last = None;
    for _ in 0..5 {
        let (taken, first) = bench.offer(&*to, &records(&["a", "b", "c", "d"]));
        assert_eq!((taken.count, taken.stopped.is_none()), (4, true), "{taken:?}");
        assert!(last.is_none_or(|seq| taken.first_seq > seq), "numbers fell: {last:?}, then {}", taken.first_seq);
        last = Some(taken.first_seq + 3);
        match taken.level {
            Some(level) => assert_ne!(level, Level::None),
            None => {
                bench.outcomes.confirmed(first, 4);
                late += 4;
            }
        }
    }
    bench.close();
    assert_eq!(bench.outcomes.count(), late, "an outcome was told twice");
}

pub fn every_field_of_a_task_arrives(bench: &Bench) {
    let topic = bench.topic();
    fields_arrive(bench, &topic, TopicKind::Task);
}

pub fn every_field_of_an_event_arrives(bench: &Bench) {
    let topic = bench.topic();
    bench.group(&topic, "g");
    fields_arrive(bench, &topic, TopicKind::Event);
}

fn fields_arrive(bench: &Bench, topic: &str, kind: TopicKind) {
    let mut block = HeaderBlock::default();
    block.push("trace", b"1");
    block.push("binary", &[0, 255, 10]);
    let full = Record {
        key: Some(b"key"),
        id: "own-id",
        type_: "user.created",
        headers: block.headers(),
        timestamp_us: 1_700_000_000_123_000,
        ..Record::new(&[0, 1, 255])
    };
    bench.publish(topic, kind, &[full, Record::new(b"bare")]);
    let deliveries = bench.subscribe(spec(topic, kind)).take(2);
    let (message, bare) = (&deliveries[0].message, &deliveries[1].message);
    assert_eq!(message.payload(), [0, 1, 255]);
    assert_eq!((message.key(), message.id().as_str()), (Some(&b"key"[..]), "own-id"));
    assert_eq!((message.type_(), message.timestamp_us()), ("user.created", 1_700_000_000_123_000));
    assert_eq!(message.headers().find("trace"), Some(&b"1"[..]));
    assert_eq!(message.headers().find("binary"), Some(&[0, 255, 10][..]));
    assert_eq!(&**message.topic(), topic);
    assert_eq!((deliveries[0].attempt, deliveries[0].redelivered, deliveries[0].provisional), (1, false, false));
    assert_eq!((bare.key(), bare.type_(), bare.headers().into_iter().count()), (None, "", 0));
    assert!(bare.timestamp_us() > 0, "a message without a time stamp gets the time of its publishing");
}

pub fn a_given_id_is_kept_and_a_made_one_is_unique(bench: &Bench) {
    let topic = bench.topic();
    let mut batch = records(&["x"; 20]);
    batch[7].id = "given";
    bench.publish(&topic, TopicKind::Task, &batch);
    bench.publish(&topic, TopicKind::Task, &records(&["x"; 20]));
    let deliveries = bench.worker(&topic, 100).take(40);
    let ids: HashSet<String> = deliveries.iter().map(|delivery| delivery.message.id().as_str().to_owned()).collect();
    assert_eq!(ids.len(), 40, "ids repeat: {ids:?}");
    assert!(ids.contains("given") && !ids.contains(""));
}

pub fn an_empty_key_is_not_no_key(bench: &Bench) {
    let topic = bench.topic();
    let keys = [Some(&b""[..]), None, Some(&b"k"[..])];
    bench.publish(&topic, TopicKind::Task, &keys.map(|key| Record { key, ..Record::new(b"x") }));
    let deliveries = bench.worker(&topic, 10).take(3);
    let arrived: Vec<Option<&[u8]>> = deliveries.iter().map(|delivery| delivery.message.key()).collect();
    assert_eq!(arrived, keys);
}

pub fn a_large_payload_arrives_whole(bench: &Bench) {
    let topic = bench.topic();
    let large: Vec<u8> = (0..bench.payload_bytes_max()).map(|index| (index % 251) as u8).collect();
    bench.publish(&topic, TopicKind::Task, &[Record::new(b"before"), Record::new(&large), Record::new(b"after")]);
    let deliveries = bench.worker(&topic, 10).take(3);
    assert!(deliveries[1].message.payload() == large, "the large payload was changed");
    assert_eq!((deliveries[0].message.payload(), deliveries[2].message.payload()), (&b"before"[..], &b"after"[..]));
}

pub fn a_task_waits_for_its_first_consumer(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["early"]);
    assert_eq!(bench.worker(&topic, 10).ack(1), ["early"]);
}

pub fn an_empty_batch_is_nothing(bench: &Bench) {
    let topic = bench.topic();
    let (taken, _) = bench.offer(&*bench.destination(&topic, TopicKind::Task), &[]);
    assert_eq!((taken.count, taken.stopped.is_none()), (0, true));
    bench.worker(&topic, 10).nothing();
}

pub fn a_message_outlives_its_broker(bench: &Bench) {
    let topic = bench.topic();
    bench.tasks(&topic, &["kept"]);
    let consumer = bench.worker(&topic, 10);
    let kept: Message = consumer.one().message;
    let copy = kept.clone();
    consumer.source.close();
    bench.close();
    drop((consumer, kept));
    assert_eq!((copy.payload(), &**copy.topic()), (&b"kept"[..], topic.as_str()));
}

pub fn destinations_of_one_topic_are_one_place(bench: &Bench) {
    let topic = bench.topic();
    let (one, two) = (bench.destination(&topic, TopicKind::Task), bench.destination(&topic, TopicKind::Task));
    for (to, text) in [(&one, "a"), (&two, "b"), (&one, "c")] {
        let (taken, first) = bench.offer(&**to, &records(&[text]));
        if taken.level.is_none() {
            bench.outcomes.confirmed(first, 1);
        }
    }
    assert_eq!(texts(&bench.worker(&topic, 10).take(3)), ["a", "b", "c"]);
}

pub fn a_batch_is_checked_record_by_record(bench: &Bench) {
    let topic = bench.topic();
    let to = bench.destination(&topic, TopicKind::Task);
    let good = Record::new(b"good");
    let long = "x".repeat(5000);
    let bad = [
        (Record { priority: 11, ..good }, Kind::Arg),
        (Record { ttl_ms: -1, ..good }, Kind::Arg),
        (Record { delay_ms: -1, ..good }, Kind::Arg),
        (Record { id: &long, ..good }, Kind::TooLarge),
        (Record { type_: &long, ..good }, Kind::TooLarge),
        (Record { key: Some(long.as_bytes()), ..good }, Kind::TooLarge),
    ];
    for (record, kind) in bad {
        let (Taken { count, stopped, .. }, _) = bench.offer(&*to, &[good, record, good]);
        let stopped = stopped.unwrap_or_else(|| panic!("{record:?} was taken"));
        assert_eq!((count, stopped.kind()), (1, kind), "{stopped}");
        assert!(matches!(stopped.fate(), Some(Fate::Refused | Fate::NotSent)), "{stopped:?}");
    }
    assert_eq!(bench.worker(&topic, 10).ack(bad.len()), vec!["good"; bad.len()]);
}

pub fn a_name_that_nobody_takes_is_refused(bench: &Bench) {
    let long = "n".repeat(256);
    for name in ["", ".", "..", "a/../b", "a\\b", "a\r\nb", "a\u{202e}b", "a\0b", "a.*", "#", &long] {
        assert_eq!(refusal(bench.broker.destination(name, TopicKind::Task)), Kind::Name, "{name:?}");
    }
    for pattern in ["", "a*.b", "a.b#", &long] {
        assert_eq!(refusal(bench.try_subscribe(spec(pattern, TopicKind::Task))), Kind::Name, "{pattern:?}");
    }
}

pub fn a_prefetch_out_of_range_is_refused(bench: &Bench) {
    for prefetch in [0, helixmq::limits::PREFETCH_MAX + 1, usize::MAX] {
        let spec = helixmq::broker::SubscribeSpec { prefetch, ..spec(&bench.topic(), TopicKind::Task) };
        assert_eq!(refusal(bench.try_subscribe(spec)), Kind::Arg, "prefetch {prefetch}");
    }
}
