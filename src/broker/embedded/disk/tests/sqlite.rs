//! Over SQLite: restarts, the lock, rights of files, what is kept of topics, tasks and events.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::SyncMode;
use crate::error::Kind;
use crate::message::HeaderBlock;

#[test]
fn tasks_come_back_as_they_were() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    let mut headers = HeaderBlock::default();
    headers.push("a", b"1");
    let full = Record {
        key: Some(b"k"),
        type_: "user.created",
        headers: headers.headers(),
        timestamp_us: 5,
        priority: 9,
        attempts: 2,
        maybe_dup: true,
        ..Record::new(b"full")
    };
    let ids = |house: &House, records: &[Record<'_>]| -> Vec<u64> {
        let (taken, first) = house.offer("t", TopicKind::Task, records);
        for ticket in (first..).take(taken.count) {
            house.told.outcome(ticket).into_result().unwrap();
        }
        (taken.first_seq..).take(taken.count).collect()
    };
    ids(&house, &[full, Record { id: "mine", ..Record::new(b"named") }, Record::new(b"plain")]);
    house.publish("t", TopicKind::Task, &Record { delay_ms: 60_000, ..Record::new(b"later") }).into_result().unwrap();
    house.publish("t", TopicKind::Task, &Record { ttl_ms: 60_000, ..Record::new(b"short") }).into_result().unwrap();
    let worker = house.worker();
    let out = fetch(&*worker);
    assert_eq!(texts(&out), ["full", "named", "plain", "short"]);
    let before: Vec<_> = out.iter().map(|delivery| delivery.message.id()).collect();
    worker.settle(&[(out[0].tag, Verdict::Retry(Duration::ZERO)), (out[1].tag, Verdict::Ack)]);
    worker.settle(&[(out[2].tag, Verdict::Retry(Duration::from_secs(3_600)))]);
    house.settle_down().unwrap();
    assert_eq!(house.close().kept, 4);

    let house = House::at(&dir.0);
    let worker = house.worker();
    let out = fetch(&*worker);
    assert_eq!(texts(&out), ["full", "short"]);
    let message = &out[0].message;
    assert_eq!((message.key(), message.type_(), message.timestamp_us()), (Some(&b"k"[..]), "user.created", 5));
    assert_eq!((message.priority(), message.attempts(), message.maybe_dup()), (9, 2, true));
    assert_eq!((message.headers().find("a"), message.id()), (Some(&b"1"[..]), before[0]));
    assert_eq!((out[0].attempt, out[0].redelivered), (4, true));
    // Of those that were out when it closed without a verdict, none; and time goes on.
    house.clock.advance(Duration::from_secs(61)).unwrap();
    assert_eq!(texts(&fetch(&*worker)), ["later"]);
    house.clock.advance(Duration::from_secs(3_600)).unwrap();
    let out = fetch(&*worker);
    assert_eq!((texts(&out), out[0].attempt, out[0].message.id()), (vec!["plain".to_owned()], 2, before[2]));
}

#[test]
fn a_message_expires_while_nobody_runs() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    house.publish("t", TopicKind::Task, &Record { ttl_ms: 1, ..Record::new(b"short") }).into_result().unwrap();
    house.task("long");
    house.close();
    let house = House::at(&dir.0);
    house.clock.advance(Duration::from_millis(10)).unwrap();
    assert_eq!(acked(&*house.worker()), ["long"]);
    house.close();
    assert_eq!(House::at(&dir.0).close().kept, 0);
}

#[test]
fn numbers_rise_over_restarts() {
    let dir = TestDir::new();
    for life in 0..3 {
        let house = House::at(&dir.0);
        for number in 0..3 {
            house.task(&format!("{life}{number}"));
        }
        house.close();
    }
    let house = House::at(&dir.0);
    let out = fetch(&*house.worker());
    assert_eq!(texts(&out), ["00", "01", "02", "10", "11", "12", "20", "21", "22"]);
    let ids: std::collections::BTreeSet<_> = out.iter().map(|one| one.message.id().as_str().to_owned()).collect();
    assert_eq!(ids.len(), 9);
}

#[test]
fn events_keep_offsets_groups_and_times() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    for number in 0..20 {
        let at_us = 1_000 + number;
        let (text, key) = (number.to_string(), [number as u8 % 5]);
        let record = Record { key: Some(&key), timestamp_us: at_us, ..Record::new(text.as_bytes()) };
        house.publish("e", TopicKind::Event, &record).into_result().unwrap();
    }
    let place = |out: &[Delivery]| -> Vec<(String, u32, i64)> {
        texts(out).into_iter().zip(out).map(|(text, one)| (text, one.partition, one.offset)).collect()
    };
    let all = |house: &House, start| {
        let spec = SubscribeSpec { read_only: true, stop: Stop::Now, start, ..spec("e", TopicKind::Event) };
        place(&fetch(&*house.subscribe(&spec)))
    };
    let before = all(&house, Start::Earliest);
    assert_eq!(before.len(), 20);
    let half = house.member("half");
    let mut out = Vec::new();
    half.fetch(8, &mut out);
    half.settle(&out.iter().map(|one| (one.tag, Verdict::Ack)).collect::<Vec<_>>());
    assert_eq!(acked(&*house.member("done")).len(), 20);
    // Begins behind all there is: a place that has to be kept as well.
    house.subscribe(&SubscribeSpec {
        group: Group::Named("late".into()),
        start: Start::Latest,
        ..spec("e", TopicKind::Event)
    });
    house.settle_down().unwrap();
    assert_eq!(house.close().kept, 20);

    let house = House::at(&dir.0);
    assert_eq!(all(&house, Start::Earliest), before);
    assert_eq!(all(&house, Start::Time(1_012)), before[12..]);
    assert_eq!(fetch(&*house.member("half")).len(), 12);
    assert!(fetch(&*house.member("done")).is_empty());
    assert!(fetch(&*house.member("late")).is_empty());
    assert_eq!(fetch(&*house.member("new")).len(), 20);
    house.event("more");
    assert_eq!(acked(&*house.member("late")), Vec::<String>::new(), "its other member has it");
}

#[test]
fn offsets_go_on_where_everything_was_dropped() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    for _ in 0..3 {
        house.event("k");
    }
    let admin = house.broker.admin().unwrap();
    assert_eq!(crate::runtime::wait(admin.purge("e", Moment::NEVER), Some(PATIENCE)).unwrap(), 3);
    house.close();
    let house = House::at(&dir.0);
    house.event("k");
    assert_eq!(fetch(&*house.member("g"))[0].offset, 3);
}

#[test]
fn settings_of_topics_are_kept_and_the_rest_follows_the_configuration() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    let asked = TopicSpec { messages_max: Some(2), ttl: Some(Duration::from_secs(9)), ..TopicSpec::default() };
    let declare = |house: &House, topic: &str, kind, spec: &TopicSpec| {
        crate::runtime::wait(house.broker.declare(topic, kind, spec, Moment::NEVER), Some(PATIENCE))
    };
    declare(&house, "t", TopicKind::Task, &asked).unwrap();
    declare(&house, "e", TopicKind::Event, &TopicSpec { partitions: Some(7), ..TopicSpec::default() }).unwrap();
    declare(&house, "gone", TopicKind::Event, &TopicSpec::default()).unwrap();
    crate::runtime::wait(house.broker.admin().unwrap().delete("gone", Moment::NEVER), Some(PATIENCE)).unwrap();
    house.close();
    let bounded = ("e".to_owned(), TopicSpec { messages_max: Some(1), ..TopicSpec::default() });
    let later = DiskConfig { partitions: 2, topics: vec![bounded], ..config(&dir.0) };
    let house = House::try_open(later, None).unwrap();
    assert_eq!(declare(&house, "t", TopicKind::Task, &asked).unwrap(), Declared::Existed);
    let other = TopicSpec { messages_max: Some(3), ..TopicSpec::default() };
    assert_eq!(declare(&house, "t", TopicKind::Task, &other).unwrap_err().kind(), Kind::Conflict);
    let seven = TopicSpec { partitions: Some(7), messages_max: Some(1), ..TopicSpec::default() };
    assert_eq!(declare(&house, "e", TopicKind::Event, &seven).unwrap(), Declared::Existed);
    assert_eq!(declare(&house, "gone", TopicKind::Task, &TopicSpec::default()).unwrap(), Declared::Created);
}

#[test]
fn one_hub_at_a_time_has_a_directory() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    house.task("one");
    let error = House::try_open(config(&dir.0), None).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Locked);
    assert!(error.message().contains(&*dir.0.to_string_lossy()), "{error}");
    house.close();
    assert_eq!(acked(&*House::at(&dir.0).worker()), ["one"]);
}

#[test]
fn a_broker_that_is_dropped_writes_what_it_took_and_leaves_the_directory() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    let (taken, _) = house.offer("t", TopicKind::Task, &[Record::new(b"one")]);
    assert_eq!(taken.count, 1);
    drop(house);
    let mut again = None;
    until("the end of its thread", || {
        again = House::try_open(config(&dir.0), None).ok();
        again.is_some()
    });
    assert_eq!(acked(&*again.unwrap().worker()), ["one"]);
}

#[test]
fn the_files_are_their_owners_alone() {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    house.task("one");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.0), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir.0).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["helixmq.db", "helixmq.db-wal", "helixmq.lock"]);
}

#[test]
fn other_syncs_do_not_call_it_disk() {
    for sync in [SyncMode::Interval, SyncMode::None] {
        let dir = TestDir::new();
        let soon = DiskConfig { sync, sync_every: Duration::from_millis(1), ..config(&dir.0) };
        let house = House::try_open(soon.clone(), None).unwrap();
        for number in 0..20 {
            let text = number.to_string();
            let outcome = house.publish("t", TopicKind::Task, &Record::new(text.as_bytes()));
            assert!(matches!(outcome, Outcome::Confirmed(Level::Memory)), "{outcome:?}");
        }
        assert_eq!(house.broker.receipts(), Receipts { level: Level::Memory, at_once: false });
        house.close();
        assert_eq!(acked(&*House::try_open(soon, None).unwrap().worker()).len(), 20);
    }
}

#[test]
fn a_directory_that_cannot_be_is_told() {
    let dir = TestDir::new();
    std::fs::write(&dir.0, b"a file").unwrap();
    let error = House::try_open(config(&dir.0), None).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Storage);
    assert!(error.message().contains(&*dir.0.to_string_lossy()), "{error}");
    std::fs::remove_file(&dir.0).unwrap();
}

/// SQLite's own word for a full disk, and that it needs no restart.
#[test]
fn a_full_file_is_full_and_not_broken() {
    let dir = TestDir::new();
    let directory = super::super::directory::Directory::take(&dir.0).unwrap();
    let mut store = super::super::sqlite::Sqlite::open(directory, SyncMode::Each).unwrap();
    store.limit_pages(20);
    let record = Record::new(&[7; 3_000]);
    let row = |seq| {
        let mut row = Row::of(&record, 1, 1, 0, 1);
        row.head.seq = seq;
        row
    };
    let mut kept = 0;
    let failure = loop {
        match store.append(&[row(kept + 1)]).and_then(|()| store.sync()) {
            Ok(()) => kept += 1,
            Err(failure) => break failure,
        }
        assert!(kept < 100, "no limit was met");
    };
    assert!(matches!(failure, Failure::Full(_)), "{failure:?}");
    store.remove(&[1, 2]).and_then(|()| store.sync()).unwrap();
    store.append(&[row(500)]).and_then(|()| store.sync()).unwrap();
}
