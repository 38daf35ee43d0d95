//! What is kept on disk for servers: each thing asked for is told once, and a restart finds what was told.

use super::super::Told;
use super::faults::medium;
use super::*;
use crate::message::{HeaderBlock, Message, Pool, Stamp};

/// Listens for what a spool is told.
#[derive(Default)]
struct Ear {
    told: Mutex<Vec<(u64, Told)>>,
    changed: Condvar,
}

impl SpoolSink for Ear {
    fn told(&self, told: Vec<(u64, Told)>) {
        self.told.lock().extend(told);
        self.changed.notify_all();
    }
}

impl Ear {
    /// The next `count` things that are told, in order.
    #[track_caller]
    fn next(&self, count: usize) -> Vec<String> {
        let deadline = Deadline::after(Some(PATIENCE));
        let mut told = self.told.lock();
        while told.len() < count {
            assert!(!deadline.has_passed(), "not told: {told:?}");
            told = self.changed.wait_until(told, deadline.instant());
        }
        told.drain(..count).map(|(seq, what)| format!("{seq} {}", name(&what))).collect()
    }
}

fn name(what: &Told) -> String {
    match what {
        Told::NotWritten(why) => format!("NotWritten({:?} {:?})", why.kind(), why.fate()),
        other => format!("{other:?}"),
    }
}

/// A spool's topic on the disk of a house.
struct Topic {
    rows: Arc<SpoolRows>,
    ear: Arc<Ear>,
    pool: Arc<Pool>,
}

impl Topic {
    fn of(rows: Arc<SpoolRows>) -> Self {
        let ear = Arc::<Ear>::default();
        rows.tell(Arc::downgrade(&ear) as Weak<dyn SpoolSink>);
        Self { rows, ear, pool: Pool::new(1 << 16, 1) }
    }

    fn new(house: &House) -> Self {
        Self::of(house.broker.spool_rows(BackendKind::RabbitMq, "t", TopicKind::Task))
    }

    fn message(&self, seq: u64, record: &Record<'_>) -> Message {
        Message::alone(&self.pool, &Arc::from("t"), 7, record, Stamp { seq, now_us: 1_000 }).unwrap()
    }

    fn append(&self, seq: u64, was_sent: bool) {
        let message = self.message(seq, &Record::new(format!("m{seq}").as_bytes()));
        assert!(self.rows.append(&message, 0, was_sent, was_sent));
    }
}

/// What a new life finds for the server.
fn found(medium: &Arc<Mutex<Medium>>) -> (House, Vec<SpooledTopic>) {
    let house = House::fake(medium);
    let found = house.broker.take_spooled(BackendKind::RabbitMq);
    (house, found)
}

fn seqs(topics: &[SpooledTopic]) -> Vec<(u64, u16, bool)> {
    let records = topics.iter().flat_map(|topic| &topic.records);
    records.map(|record| (record.message.seq(), record.tries, record.maybe_dup)).collect()
}

#[test]
fn what_was_written_is_found_as_it_was() {
    let medium = medium();
    let house = House::fake(&medium);
    let topic = Topic::new(&house);
    let mut headers = HeaderBlock::default();
    headers.push("h", b"v");
    let full = Record {
        key: Some(b"k"),
        type_: "a.b",
        headers: headers.headers(),
        priority: 4,
        attempts: 2,
        ttl_ms: 60_000,
        timestamp_us: 77,
        ..Record::new(b"payload")
    };
    let message = topic.message(5, &full);
    assert!(topic.rows.append(&message, 123, false, false));
    topic.append(9, false);
    assert_eq!(topic.ear.next(2), ["5 Written", "9 Written"]);
    drop(house);
    let (house, found) = found(&medium);
    assert_eq!(house.broker.next_number(), 10, "numbers go on above");
    let [topic] = &found[..] else { panic!("{found:?}") };
    assert_eq!((topic.rows.name(), topic.rows.kind()), ("t", TopicKind::Task));
    let record = &topic.records[0];
    let own = &record.message;
    assert_eq!(own.id(), message.id(), "the id that its receipt named");
    assert_eq!((own.payload(), own.key(), own.type_()), (&b"payload"[..], Some(&b"k"[..]), "a.b"));
    assert_eq!((own.priority(), own.attempts(), own.timestamp_us()), (4, 2, 77));
    assert_eq!((own.expires_us(), record.due_us), (message.expires_us(), 123));
    assert_eq!(own.headers().bytes(), message.headers().bytes());
    assert_eq!(seqs(&found), [(5, 0, false), (9, 0, false)]);
    // It is of no topic of the embedded broker, and only its own server gets it.
    assert!(house.broker.take_spooled(BackendKind::Kafka).is_empty());
    assert_eq!(house.offer("t", TopicKind::Task, &[Record::new(b"other")]).0.first_seq, 10);
}

#[test]
fn marks_notes_and_removals_are_found() {
    let medium = medium();
    let house = House::fake(&medium);
    let topic = Topic::new(&house);
    (1..=5).for_each(|seq| topic.append(seq, false));
    assert!(topic.rows.mark(2, 0, 0));
    topic.rows.note(3, 4, false, 55);
    topic.rows.remove(4);
    assert!(topic.rows.withdraw(5));
    assert_eq!(topic.ear.next(7)[5..], ["2 Marked(true)", "5 Removed(true)"]);
    house.settle_down().unwrap();
    drop(house);
    let (house, topics) = found(&medium);
    assert_eq!(seqs(&topics), [(1, 0, false), (2, 0, true), (3, 4, false)]);
    // A topic with nothing left is forgotten.
    let topic = Topic::of(Arc::clone(&topics[0].rows));
    (1..=3).for_each(|seq| topic.rows.remove(seq));
    house.settle_down().unwrap();
    drop((house, topics));
    let (house, topics) = found(&medium);
    assert!(topics.is_empty());
    house.settle_down().unwrap();
    assert!(!medium.lock().content.topics.values().any(|row| row.server.is_some()));
}

#[test]
fn without_space_what_was_sent_is_kept_and_nothing_else() {
    let medium = medium();
    let with_floor = DiskConfig { free_space_floor: 1_000, ..config(Path::new("none")) };
    let house = House::try_open(with_floor, Some(Fake::on(&medium))).unwrap();
    let topic = Topic::new(&house);
    medium.lock().free_bytes = 999;
    topic.append(1, false);
    assert_eq!(topic.ear.next(1), ["1 NotWritten(Full Some(NotSent))"]);
    assert!(house.broker.no_room().unwrap().contains("free_space_floor_bytes"));
    topic.append(2, true);
    assert!(topic.rows.mark(2, 0, 0));
    assert_eq!(topic.ear.next(2), ["2 Written", "2 Marked(true)"]);
    let (rings, waker) = waker();
    assert!(house.broker.wait_for_room(&waker));
    medium.lock().free_bytes = 1_000;
    until("room", || rings.0.load(Ordering::SeqCst) > 0);
    assert_eq!(house.broker.no_room(), None);
    topic.append(3, false);
    assert_eq!(topic.ear.next(1), ["3 Written"]);
}

#[test]
fn a_full_disk_ends_what_it_does_not_take() {
    let medium = medium();
    let house = House::fake(&medium);
    let topic = Topic::new(&house);
    medium.lock().always = Some(Fault::Full);
    topic.append(1, true);
    assert_eq!(topic.ear.next(1), ["1 NotWritten(Full Some(NotSent))"]);
    medium.lock().always = None;
    until("space", || house.broker.no_room().is_none());
    topic.append(2, false);
    assert_eq!(topic.ear.next(1), ["2 Written"]);
}

/// Each call of the store fails once, in each way: everything asked for is told once, what was told as written is
/// found, and what was told as not written is not.
#[test]
fn each_call_may_fail_once() {
    for fault in [Fault::Full, Fault::Broken, Fault::KeptUnseen, Fault::Crash] {
        for call in 1..=12 {
            let medium = medium();
            let house = House::fake(&medium);
            let topic = Topic::new(&house);
            let calls = medium.lock().calls;
            medium.lock().faults.insert(calls + call, fault);
            let mut told = Vec::new();
            for seq in 1..=3 {
                topic.append(seq, false);
                told.extend(topic.ear.next(1));
            }
            assert!(topic.rows.mark(1, 0, 0));
            assert!(topic.rows.withdraw(2));
            told.extend(topic.ear.next(2));
            // What failed and does no harm when it is done twice is tried again.
            if fault != Fault::Crash {
                until("the rest", || house.settle_down().is_ok());
            }
            drop(house);
            medium.lock().faults.clear();
            let (_house, topics) = found(&medium);
            let there = seqs(&topics);
            for seq in 1..=3 {
                let is_there = there.iter().any(|(own, ..)| *own == seq);
                let says = |what: &str| told.contains(&format!("{seq} {what}"));
                let left = says("Removed(true)") || (fault != Fault::Crash && seq == 2);
                assert!(!is_there || says("Written"), "{fault:?} at {call}: {told:?} {there:?}");
                if says("Written") && !says("Removed(false)") {
                    assert_eq!(is_there, !left, "{fault:?} at {call}: {seq} of {told:?} {there:?}");
                }
                if says("Marked(true)") && says("Written") {
                    assert!(
                        there.iter().any(|(own, _, dup)| *own == seq && *dup),
                        "{fault:?} at {call}: {told:?} {there:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_disk_that_is_closed_takes_nothing() {
    let medium = medium();
    let house = House::fake(&medium);
    let topic = Topic::new(&house);
    topic.append(1, false);
    assert_eq!(topic.ear.next(1), ["1 Written"]);
    house.close();
    let message = topic.message(2, &Record::new(b"late"));
    assert!(!topic.rows.append(&message, 0, false, false));
    assert!(!topic.rows.mark(1, 0, 0) && !topic.rows.withdraw(1));
}
