//! A store that has no space, or fails: what is refused, what is unknown, what goes on.

use super::*;
use crate::error::{Fate, Kind};

pub(super) fn medium() -> Arc<Mutex<Medium>> {
    Arc::new(Mutex::new(Medium { free_bytes: 1 << 40, ..Medium::default() }))
}

fn fate(outcome: Outcome) -> (Kind, Option<Fate>) {
    let error = outcome.into_result().unwrap_err();
    (error.kind(), error.fate())
}

fn tasks(medium: &Arc<Mutex<Medium>>) -> Vec<String> {
    let medium = medium.lock();
    medium.content.rows.values().map(|row| String::from_utf8_lossy(row.pieces().payload).into_owned()).collect()
}

#[test]
fn a_full_disk_refuses_messages_and_nothing_else() {
    let medium = medium();
    let house = House::fake(&medium);
    house.task("one");
    house.task("two");
    medium.lock().always = Some(Fault::Full);
    let refused = house.publish("t", TopicKind::Task, &Record::new(b"three"));
    assert_eq!(fate(refused), (Kind::Full, Some(Fate::NotSent)));
    let (rings, waker) = waker();
    house.to("t", TopicKind::Task).on_space(waker);
    assert_eq!(rings.0.load(Ordering::SeqCst), 0, "there is no space yet");
    // Reading and settling go on, and reach the disk.
    let worker = house.worker();
    assert_eq!(acked(&*worker), ["one", "two"]);
    house.settle_down().unwrap();
    assert!(tasks(&medium).is_empty());
    assert!(house.broker.storage().unwrap().full.unwrap().contains("full"));
    // With space all works again, by itself.
    medium.lock().always = None;
    until("space", || rings.0.load(Ordering::SeqCst) > 0);
    house.task("four");
    assert_eq!(acked(&*worker), ["four"]);
    assert_eq!(house.broker.storage().unwrap().full, None);
    let warnings = house.told.warnings.lock().clone();
    assert!(warnings.iter().any(|text| text.contains("full")), "{warnings:?}");
}

#[test]
fn less_free_space_than_the_floor_refuses_messages_until_there_is_more() {
    let medium = medium();
    let with_floor = DiskConfig { free_space_floor: 1_000, ..config(Path::new("none")) };
    let house = House::try_open(with_floor, Some(Fake::on(&medium))).unwrap();
    house.task("one");
    medium.lock().free_bytes = 999;
    let refused = house.publish("t", TopicKind::Task, &Record::new(b"two"));
    assert_eq!(fate(refused), (Kind::Full, Some(Fate::NotSent)));
    let refused = house.publish("t", TopicKind::Task, &Record::new(b"three"));
    assert_eq!(fate(refused), (Kind::Full, Some(Fate::NotSent)));
    assert_eq!(acked(&*house.worker()), ["one"]);
    house.settle_down().unwrap();
    assert!(tasks(&medium).is_empty());
    let (rings, waker) = waker();
    house.to("t", TopicKind::Task).on_space(waker);
    medium.lock().free_bytes = 1_000;
    until("space", || rings.0.load(Ordering::SeqCst) > 0);
    house.task("four");
}

/// Whichever call fails: what was not sent is not there, what is unknown is never delivered by this
/// process, and all that was confirmed is there after a restart.
#[test]
fn each_call_may_fail_once() {
    for fault in [Fault::Full, Fault::Broken, Fault::KeptUnseen] {
        for call in 1..40 {
            let medium = medium();
            medium.lock().faults.insert(call, fault);
            let house = House::fake(&medium);
            let mut confirmed = Vec::new();
            let mut unknown = Vec::new();
            for number in 0..6 {
                let text = number.to_string();
                match house.publish("t", TopicKind::Task, &Record::new(text.as_bytes())) {
                    Outcome::Confirmed(level) => {
                        assert_eq!(level, Level::Disk);
                        confirmed.push(text);
                    }
                    Outcome::Unknown(_) => unknown.push(text),
                    Outcome::NotSent(error) => assert!(matches!(error.kind(), Kind::Full | Kind::Storage), "{error}"),
                    other => panic!("{other:?}"),
                }
            }
            let worker = house.worker();
            let out = fetch(&*worker);
            assert_eq!(texts(&out), confirmed, "{fault:?} at call {call}");
            if let Some(first) = out.first() {
                worker.settle(&[(first.tag, Verdict::Ack)]);
                confirmed.remove(0);
            }
            // What has failed is written with the next.
            until("a unit that is written", || house.settle_down().is_ok());
            house.close();
            let house = House::fake(&medium);
            let left = texts(&fetch(&*house.worker()));
            let expected: Vec<&String> =
                confirmed.iter().chain(unknown.iter().filter(|text| left.contains(text))).collect();
            let mut sorted = left.clone();
            sorted.sort();
            let mut wanted: Vec<String> = expected.into_iter().cloned().collect();
            wanted.sort();
            assert_eq!(sorted, wanted, "{fault:?} at call {call}");
        }
    }
}

#[test]
fn a_failed_sync_is_unknown_and_not_tried_again() {
    let medium = medium();
    let house = House::fake(&medium);
    house.task("one");
    let calls = medium.lock().calls;
    // One append, then the sync.
    medium.lock().faults.insert(calls + 2, Fault::Broken);
    let outcome = house.publish("t", TopicKind::Task, &Record::new(b"two"));
    assert_eq!(fate(outcome), (Kind::Storage, Some(Fate::Unknown)));
    house.task("three");
    house.settle_down().unwrap();
    assert_eq!(tasks(&medium), ["one", "three"]);
    assert_eq!(acked(&*house.worker()), ["one", "three"]);
}

/// Kept though its sync had failed, it would have the place that the next one gets.
#[test]
fn an_event_of_unknown_outcome_takes_no_place() {
    let medium = medium();
    let house = House::fake(&medium);
    house.event("one");
    house.settle_down().unwrap();
    let calls = medium.lock().calls;
    medium.lock().faults.insert(calls + 2, Fault::KeptUnseen);
    let one = Record { key: Some(b"one"), ..Record::new(b"unknown") };
    let outcome = house.publish("e", TopicKind::Event, &one);
    assert_eq!(fate(outcome), (Kind::Storage, Some(Fate::Unknown)));
    house.event("one");
    house.close();
    let house = House::fake(&medium);
    let out = fetch(&*house.member("g"));
    assert_eq!(texts(&out), ["one", "one"]);
    assert_eq!(out.iter().map(|one| one.offset).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn nothing_is_delivered_before_it_is_kept() {
    let medium = medium();
    let house = House::fake(&medium);
    let worker = house.worker();
    for number in 0..200 {
        let text = number.to_string();
        let (taken, ticket) = house.offer("t", TopicKind::Task, &[Record::new(text.as_bytes())]);
        assert_eq!(taken.level, None);
        let mut out = Vec::new();
        while out.is_empty() {
            worker.fetch(1, &mut out);
        }
        let kept = medium.lock().content.rows.values().any(|row| row.pieces().payload == text.as_bytes());
        assert!(kept, "{text} was delivered before it was kept");
        worker.settle(&[(out[0].tag, Verdict::Ack)]);
        house.told.outcome(ticket);
    }
}

#[test]
fn what_leaves_by_itself_leaves_the_disk() {
    let medium = medium();
    let house = House::fake(&medium);
    let declare = |topic: &str, kind, spec: TopicSpec| {
        crate::runtime::wait(house.broker.declare(topic, kind, &spec, Moment::NEVER), Some(PATIENCE)).unwrap();
    };
    declare(
        "small",
        TopicKind::Task,
        TopicSpec { messages_max: Some(2), drop_oldest: Some(true), ..Default::default() },
    );
    declare(
        "log",
        TopicKind::Event,
        TopicSpec { messages_max: Some(2), drop_oldest: Some(true), ..Default::default() },
    );
    declare("aged", TopicKind::Event, TopicSpec { age_max: Some(Duration::from_secs(5)), ..Default::default() });
    for number in 0..5 {
        let text = number.to_string();
        house.publish("small", TopicKind::Task, &Record::new(text.as_bytes())).into_result().unwrap();
        house.publish("log", TopicKind::Event, &Record::new(text.as_bytes())).into_result().unwrap();
    }
    house.publish("aged", TopicKind::Event, &Record::new(b"old")).into_result().unwrap();
    house.publish("t", TopicKind::Task, &Record { ttl_ms: 1_000, ..Record::new(b"short") }).into_result().unwrap();
    house.publish("purged", TopicKind::Task, &Record::new(b"purged")).into_result().unwrap();
    house.publish("deleted", TopicKind::Event, &Record::new(b"deleted")).into_result().unwrap();
    house.clock.advance(Duration::from_secs(10)).unwrap();
    let admin = house.broker.admin().unwrap();
    assert_eq!(crate::runtime::wait(admin.purge("purged", Moment::NEVER), Some(PATIENCE)).unwrap(), 1);
    crate::runtime::wait(admin.delete("deleted", Moment::NEVER), Some(PATIENCE)).unwrap();
    house.settle_down().unwrap();
    let mut left = tasks(&medium);
    left.sort();
    assert_eq!(left, ["3", "3", "4", "4"]);
    assert!(!medium.lock().content.topics.values().any(|topic| topic.name == "deleted"));
}

#[test]
fn a_topic_that_could_not_be_written_is_written_with_the_next() {
    let medium = medium();
    let house = House::fake(&medium);
    medium.lock().faults.insert(1, Fault::Broken);
    // Its failure may be told to this one, or to nobody.
    let _ = house.settle_down();
    house.task("one");
    house.close();
    let house = House::fake(&medium);
    assert_eq!(acked(&*house.worker()), ["one"]);
}

#[test]
fn the_journal_has_a_limit_and_says_when_there_is_room() {
    let medium = medium();
    let house = House::fake(&medium);
    house.task("first");
    // The writer waits for the medium meanwhile.
    let held = medium.lock();
    let records = vec![Record::new(b"x"); 1_000];
    let mut taken = 0;
    let stopped = loop {
        let (one, _) = house.offer("t", TopicKind::Task, &records);
        taken += one.count;
        if let Some(error) = one.stopped {
            break error;
        }
        assert!(taken < 100_000, "no limit was met");
    };
    assert_eq!(stopped.kind(), Kind::Full);
    let (rings, waker) = waker();
    house.to("t", TopicKind::Task).on_space(waker);
    drop(held);
    until("room", || rings.0.load(Ordering::SeqCst) > 0);
    house.task("last");
}

#[test]
fn a_record_that_is_too_large_is_refused_at_once() {
    let medium = medium();
    let house = House::fake(&medium);
    let (taken, _) = house.offer("t", TopicKind::Task, &[Record::new(&[0; 2 << 20])]);
    assert_eq!(taken.stopped.map(|error| error.kind()), Some(Kind::TooLarge));
    house.task("small");
}
