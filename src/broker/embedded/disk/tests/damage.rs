//! Damaged files: opening ends, what was read is right, what is missing is counted, and told.

use proptest::prelude::*;

use super::*;

const TASKS: usize = 200;

/// A directory with tasks and events, closed.
fn filled() -> TestDir {
    let dir = TestDir::new();
    let house = House::at(&dir.0);
    let texts: Vec<String> = (0..TASKS).map(|number| format!("{number:05}{}", "x".repeat(300))).collect();
    let tasks: Vec<Record<'_>> = texts.iter().map(|text| Record::new(text.as_bytes())).collect();
    let last = |(taken, first): (Taken, u64)| {
        assert_eq!(taken.count, TASKS);
        house.told.outcome(first + TASKS as u64 - 1).into_result().unwrap();
    };
    last(house.offer("t", TopicKind::Task, &tasks));
    last(house.offer("e", TopicKind::Event, &tasks));
    house.close();
    dir
}

fn file(dir: &TestDir) -> PathBuf {
    dir.0.join("helixmq.db")
}

/// Opens it, checks what is there, and that it works; answers how many tasks and events came back, and
/// what was told.
fn survivors(dir: &TestDir) -> (usize, usize, Vec<String>) {
    let house = House::at(&dir.0);
    let warnings = house.told.warnings.lock().clone();
    let whole = |text: &str| text.len() == 305 && text[5..].bytes().all(|byte| byte == b'x');
    let tasks = texts(&fetch(&*house.worker()));
    let replay = house.subscribe(&SubscribeSpec { read_only: true, stop: Stop::Now, ..spec("e", TopicKind::Event) });
    let events = fetch(&*replay);
    for text in tasks.iter().chain(&texts(&events)) {
        assert!(whole(text), "this was never published: {text}");
    }
    assert!(tasks.is_sorted());
    for event in &events {
        let number: i64 = texts(std::slice::from_ref(event))[0][..5].parse().unwrap();
        assert_eq!(event.offset, number, "an event is at another offset");
    }
    // It goes on as if nothing had been.
    house.publish("t", TopicKind::Task, &Record::new(b"after")).into_result().unwrap();
    house.publish("e", TopicKind::Event, &Record::new(b"after")).into_result().unwrap();
    house.close();
    let house = House::at(&dir.0);
    assert!(house.told.warnings.lock().is_empty(), "{:?}", house.told.warnings.lock());
    assert_eq!(texts(&fetch(&*house.worker())).len(), tasks.len() + 1);
    (tasks.len(), events.len(), warnings)
}

#[test]
fn a_whole_file_is_not_set_aside() {
    let dir = filled();
    let (tasks, events, warnings) = survivors(&dir);
    assert_eq!((tasks, events, warnings.len()), (TASKS, TASKS, 0));
}

/// Of this file every page but one is whole.
#[test]
fn flipped_bytes_cost_what_they_hit() {
    let dir = filled();
    let mut bytes = std::fs::read(file(&dir)).unwrap();
    let mut flipped = 0;
    for at in 0..bytes.len() {
        // In the middle of the text of one task.
        if bytes[at..].starts_with(b"00100xxxx") {
            bytes[at + 50] ^= 1;
            flipped += 1;
        }
    }
    assert_eq!(flipped, 2, "of the task and of the event");
    std::fs::write(file(&dir), bytes).unwrap();
    let (tasks, events, warnings) = survivors(&dir);
    assert_eq!((tasks, events), (TASKS - 1, TASKS - 1));
    let told = &warnings[0];
    assert!(told.contains("398 messages were recovered") && told.contains("2 rows were damaged"), "{told}");
    assert!(told.contains("1 events are missing") && told.contains("helixmq.db.damaged-1"), "{told}");
    assert!(dir.0.join("helixmq.db.damaged-1").exists());
}

#[test]
fn a_first_page_that_is_lost_costs_nothing() {
    let dir = filled();
    let mut bytes = std::fs::read(file(&dir)).unwrap();
    bytes[..4096].fill(0x5a);
    std::fs::write(file(&dir), bytes).unwrap();
    let (tasks, events, warnings) = survivors(&dir);
    assert_eq!((tasks, events, warnings.len()), (TASKS, TASKS, 1));
}

/// Each byte of the header of a file: what SQLite makes of it differs from byte to byte.
#[test]
fn any_byte_of_the_header_may_be_wrong() {
    let dir = filled();
    let bytes = std::fs::read(file(&dir)).unwrap();
    for at in 0..100 {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x55;
        std::fs::write(file(&dir), wrong).unwrap();
        let house = House::at(&dir.0);
        let (tasks, events) = (fetch(&*house.worker()).len(), fetch(&*house.member("g")).len());
        assert_eq!((tasks, events), (TASKS, TASKS), "byte {at}");
        house.close();
    }
}

/// A file of a later version is left alone.
#[test]
fn a_later_version_is_refused() {
    let dir = filled();
    let mut bytes = std::fs::read(file(&dir)).unwrap();
    bytes[63] += 1;
    std::fs::write(file(&dir), &bytes).unwrap();
    let error = House::try_open(config(&dir.0), None).map(drop).unwrap_err();
    assert!(error.message().contains("version 2"), "{error}");
    assert_eq!(std::fs::read(file(&dir)).unwrap(), bytes);
}

#[test]
fn a_truncated_file_gives_what_is_left() {
    let dir = filled();
    let bytes = std::fs::read(file(&dir)).unwrap();
    std::fs::write(file(&dir), &bytes[..bytes.len() / 2 / 4096 * 4096 + 1234]).unwrap();
    let (tasks, events, warnings) = survivors(&dir);
    assert!(tasks + events > TASKS / 2, "{tasks} tasks and {events} events are left");
    assert_eq!(warnings.len(), 1);
}

#[test]
fn garbage_gives_an_empty_store_and_is_kept() {
    for garbage in [&b"this is no database"[..], &[0x17; 100_000], &[0; 8192]] {
        let dir = filled();
        std::fs::write(file(&dir), garbage).unwrap();
        let (tasks, events, warnings) = survivors(&dir);
        assert_eq!((tasks, events, warnings.len()), (0, 0, 1));
        assert_eq!(std::fs::read(dir.0.join("helixmq.db.damaged-1")).unwrap(), garbage);
    }
}

#[test]
fn an_empty_file_is_a_new_store() {
    let dir = filled();
    std::fs::write(file(&dir), b"").unwrap();
    let (tasks, events, warnings) = survivors(&dir);
    assert_eq!((tasks, events, warnings.len()), (0, 0, 0));
}

/// A log that is damaged is read up to there, as after a crash: never wrongly.
#[test]
fn a_damaged_log_gives_no_wrong_message() {
    let dir = filled();
    let house = House::at(&dir.0);
    let worker = house.worker();
    assert_eq!(acked(&*worker).len(), TASKS);
    house.settle_down().unwrap();
    let log = dir.0.join("helixmq.db-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let copy = TestDir::new();
    std::fs::create_dir_all(&copy.0).unwrap();
    std::fs::copy(file(&dir), file(&copy)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(copy.0.join("helixmq.db-wal"), bytes).unwrap();
    house.close();
    survivors(&copy);
}

/// A crash while a damaged file is being replaced, at each step of it.
#[test]
fn a_replacement_that_was_interrupted_is_ended() {
    let whole = filled();
    let rewritten = std::fs::read(file(&whole)).unwrap();
    // The new file is not finished: the damaged one is read again.
    let dir = filled();
    let mut bytes = rewritten.clone();
    bytes[..4096].fill(1);
    std::fs::write(file(&dir), bytes).unwrap();
    std::fs::write(dir.0.join("helixmq.db.rewritten"), b"half").unwrap();
    let (tasks, events, warnings) = survivors(&dir);
    assert_eq!((tasks, events, warnings.len()), (TASKS, TASKS, 1));
    // The damaged one is set aside already, and its log is not.
    let dir = filled();
    std::fs::rename(file(&dir), dir.0.join("helixmq.db.damaged-1")).unwrap();
    std::fs::write(dir.0.join("helixmq.db-wal"), b"of the damaged one").unwrap();
    std::fs::write(dir.0.join("helixmq.db.rewritten"), rewritten).unwrap();
    let (tasks, events, warnings) = survivors(&dir);
    assert_eq!((tasks, events, warnings.len()), (TASKS, TASKS, 0));
}

/// There is no space for the new file: the damaged one stays in its place, for the next try.
#[test]
fn a_replacement_that_fails_leaves_the_damaged_file() {
    let dir = filled();
    let mut bytes = std::fs::read(file(&dir)).unwrap();
    bytes[..4096].fill(1);
    std::fs::write(file(&dir), &bytes).unwrap();
    // A directory in its place is one way for the new file to fail.
    std::fs::create_dir_all(dir.0.join("helixmq.db.rewritten/x")).unwrap();
    assert!(House::try_open(config(&dir.0), None).is_err());
    assert_eq!(std::fs::read(file(&dir)).unwrap(), bytes);
    std::fs::remove_dir_all(dir.0.join("helixmq.db.rewritten")).unwrap();
    assert_eq!(survivors(&dir).0, TASKS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Anything, anywhere: it opens, nothing wrong comes out, and it goes on.
    #[test]
    fn any_damage_is_survived(
        hits in prop::collection::vec((0.0f64..1.0, 1usize..600, any::<u8>()), 1..6),
        cut in prop::option::of(0.0f64..1.0),
    ) {
        let dir = filled();
        let mut bytes = std::fs::read(file(&dir)).unwrap();
        for (at, count, with) in hits {
            let at = (at * bytes.len() as f64) as usize;
            let end = (at + count).min(bytes.len());
            bytes[at..end].fill(with);
        }
        if let Some(cut) = cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        std::fs::write(file(&dir), bytes).unwrap();
        survivors(&dir);
    }
}
