//! Maxima, the broker's memory, and those who wait for space.

use super::*;

fn max(messages: u64) -> TopicSpec {
    TopicSpec { messages_max: Some(messages), ..TopicSpec::default() }
}

#[test]
fn a_full_queue_takes_what_fits_and_one_ack_makes_room_for_one() {
    with_both(|house| {
        house.declare("q", TopicKind::Task, max(3)).unwrap();
        let records: Vec<_> = (0..5).map(|_| Record::new(b"x")).collect();
        let taken = house.publish("q", TopicKind::Task, &records);
        let stopped = taken.stopped.unwrap();
        assert_eq!((taken.count, stopped.kind()), (3, Kind::Full));
        assert!(stopped.message().contains("messages_max 3"), "{stopped}");
        let worker = house.subscribe(&task_spec("q"));
        let out = worker.all();
        let destination = house.broker.destination("q", TopicKind::Task).unwrap();
        assert_eq!(house.publish_to(&*destination, &records[..1]).count, 0);
        let waiter = Arc::new(Signals::default());
        destination.on_space(Arc::<Signals>::downgrade(&waiter));
        assert_eq!(waiter.take(), 0);
        worker.ack(&out[..1]);
        assert_eq!(waiter.take(), 1);
        assert_eq!(house.publish_to(&*destination, &records[..2]).count, 1);
        worker.ack(&out[1..2]);
        assert_eq!(waiter.take(), 0);
        destination.on_space(Arc::<Signals>::downgrade(&waiter));
        assert_eq!(waiter.take(), 1);
    });
}

#[test]
fn bytes_bound_a_queue_and_what_never_fits_is_refused() {
    with_both(|house| {
        let spec = TopicSpec { bytes_max: Some(200), ..TopicSpec::default() };
        house.declare("q", TopicKind::Task, spec).unwrap();
        let payload = [0; 60];
        let records = [Record::new(&payload), Record::new(&payload), Record::new(&payload)];
        assert_eq!(house.publish("q", TopicKind::Task, &records).count, 2);
        let taken = house.publish("q", TopicKind::Task, &[Record::new(&[0; 300])]);
        assert_eq!(taken.stopped.unwrap().kind(), Kind::TooLarge);
    });
}

#[test]
fn drop_oldest_drops_and_counts() {
    with_both(|house| {
        let spec = TopicSpec { drop_oldest: Some(true), ..max(2) };
        house.declare("q", TopicKind::Task, spec.clone()).unwrap();
        house.tasks("q", &["a", "b", "c", "d"]);
        assert_eq!(house.describe("q").dropped, 2);
        assert_eq!(texts(&house.subscribe(&task_spec("q")).all()), ["c", "d"]);
        house.declare("e", TopicKind::Event, spec).unwrap();
        for text in ["a", "b", "c"] {
            house.event("e", text, text);
        }
        assert_eq!((house.describe("e").dropped, house.describe("e").messages), (1, 2));
        assert_eq!(texts(&house.subscribe(&event_spec("e", "g")).all()), ["b", "c"]);
    });
}

#[test]
fn the_memory_of_the_broker_is_shared_and_exact() {
    let house = House::with(Limits::tiny(), 400, 1);
    let payload = [0; 68];
    let records: Vec<_> = (0..5).map(|_| Record::new(&payload)).collect();
    let taken = house.publish("q", TopicKind::Task, &records);
    let stopped = taken.stopped.unwrap();
    assert_eq!(taken.count, 3);
    assert!(stopped.message().contains("memory"), "{stopped}");
    let other = house.broker.destination("r", TopicKind::Task).unwrap();
    assert_eq!(house.publish_to(&*other, &records[..1]).stopped.unwrap().kind(), Kind::Full);
    let waiter = Arc::new(Signals::default());
    other.on_space(Arc::<Signals>::downgrade(&waiter));
    let worker = house.subscribe(&task_spec("q"));
    let out = worker.all();
    assert_eq!(waiter.take(), 0);
    worker.ack(&out[..1]);
    assert_eq!(waiter.take(), 1);
    assert_eq!(house.publish_to(&*other, &records[..1]).count, 1);
    let huge = house.publish("q", TopicKind::Task, &[Record::new(&[0; 500])]);
    assert_eq!(huge.stopped.unwrap().kind(), Kind::TooLarge);
}

#[test]
fn settled_events_make_room_in_memory_and_those_without_a_group_do_not() {
    let house = House::with(Limits::tiny(), 400, 1);
    let payload = "x".repeat(68);
    house.event("free", "", &payload);
    let reader = house.subscribe(&event_spec("used", "g"));
    house.event("used", "", &payload);
    house.event("used", "", &payload);
    let out = reader.all();
    reader.ack(&out[..1]);
    house.event("used", "", &payload);
    let destination = house.broker.destination("used", TopicKind::Event).unwrap();
    let record = [Record::new(payload.as_bytes())];
    assert_eq!(house.publish_to(&*destination, &record).stopped.unwrap().kind(), Kind::Full);
    let waiter = Arc::new(Signals::default());
    destination.on_space(Arc::<Signals>::downgrade(&waiter));
    reader.ack(&out[1..]);
    assert_eq!(waiter.take(), 1);
    assert_eq!(house.publish("q", TopicKind::Task, &record).count, 1);
    assert_eq!((house.describe("free").messages, house.describe("used").messages), (1, 1));
    assert_eq!((house.describe("used").dropped, house.describe("used").partitions[0]), (0, (2, 3)));
}

#[test]
fn publishers_of_a_full_log_wait_for_the_slowest_group() {
    with_both(|house| {
        house.declare("e", TopicKind::Event, max(2)).unwrap();
        let (fast, slow) = (house.subscribe(&event_spec("e", "fast")), house.subscribe(&event_spec("e", "slow")));
        house.event("e", "", "a");
        house.event("e", "", "b");
        fast.ack(&fast.all());
        let destination = house.broker.destination("e", TopicKind::Event).unwrap();
        let record = [Record::new(b"c")];
        assert_eq!(house.publish_to(&*destination, &record).stopped.unwrap().kind(), Kind::Full);
        let waiter = Arc::new(Signals::default());
        destination.on_space(Arc::<Signals>::downgrade(&waiter));
        let out = slow.all();
        slow.ack(&out[1..]);
        assert_eq!(waiter.take(), 0);
        slow.ack(&out[..1]);
        assert_eq!(waiter.take(), 1);
        assert_eq!(house.publish_to(&*destination, &record).count, 1);
    });
}

#[test]
fn a_message_larger_than_a_segment_has_its_own() {
    with_both(|house| {
        let large = "y".repeat(300_000);
        house.tasks("q", &["a", &large, "b"]);
        assert_eq!(texts(&house.subscribe(&task_spec("q")).all()), ["a", &large, "b"]);
    });
}

#[test]
fn events_older_than_asked_are_dropped_in_time() {
    with_both(|house| {
        let spec = TopicSpec { age_max: Some(millis(100)), ..TopicSpec::default() };
        house.declare("e", TopicKind::Event, spec).unwrap();
        house.event("e", "k", "a");
        house.advance(60);
        house.event("e", "k", "b");
        house.advance(40);
        assert_eq!((house.describe("e").messages, house.describe("e").dropped), (1, 1));
        house.advance(60);
        assert_eq!((house.describe("e").bytes, house.describe("e").dropped), (0, 2));
        house.event("e", "k", "c");
        assert_eq!(texts(&house.subscribe(&event_spec("e", "g")).all()), ["c"]);
        house.advance(100);
        assert_eq!(house.describe("e").messages, 0);
    });
}

/// Lets a thread wait, with a deadline, for what a sink or a waker is told.
struct Doorbell(Mutex<std::sync::mpsc::Sender<()>>, Mutex<std::sync::mpsc::Receiver<()>>);

impl Doorbell {
    fn new() -> Arc<Self> {
        let (sent, received) = std::sync::mpsc::channel();
        Arc::new(Self(Mutex::new(sent), Mutex::new(received)))
    }

    fn wait(&self, what: &str) {
        self.1.lock().recv_timeout(Duration::from_secs(20)).expect(what);
    }
}

impl Sink for Doorbell {
    fn ready(&self) {
        self.0.lock().send(()).unwrap();
    }
    fn revoked(&self, _tags: &[u64]) {}
}

impl Wake for Doorbell {
    fn wake(&self) {
        self.0.lock().send(()).unwrap();
    }
}

#[test]
fn no_wake_up_is_lost_between_threads_that_fill_and_empty_a_small_topic() {
    const EACH: usize = 3000;
    for kind in [TopicKind::Task, TopicKind::Event] {
        let house = House::new(Limits::tiny());
        house.declare("t", kind, max(7)).unwrap();
        let spec = SubscribeSpec { kind, prefetch: 5, ..task_spec("t") };
        let subscribe = || {
            let bell = Doorbell::new();
            (now(house.broker.subscribe(&spec, bell.clone(), Moment::NEVER)).unwrap(), bell)
        };
        let sources = [subscribe(), subscribe()];
        let left = AtomicUsize::new(2 * EACH);
        std::thread::scope(|scope| {
            for producer in 0..2u8 {
                let house = &house;
                scope.spawn(move || {
                    let destination = house.broker.destination("t", kind).unwrap();
                    let (bell, key) = (Doorbell::new(), [producer]);
                    let records = [Record { key: Some(&key), ..Record::new(b"x") }; 3];
                    let mut published = 0;
                    while published < EACH {
                        let taken = house.publish_to(&*destination, &records[..3.min(EACH - published)]);
                        published += taken.count;
                        if taken.stopped.is_some() {
                            destination.on_space(Arc::<Doorbell>::downgrade(&bell));
                            bell.wait("space");
                        }
                    }
                });
            }
            for (source, bell) in &sources {
                let (left, sources) = (&left, &sources);
                scope.spawn(move || loop {
                    let mut out = Vec::new();
                    let flow = source.fetch(4, &mut out);
                    let verdicts: Vec<_> = out.iter().map(|own| (own.tag, Verdict::Ack)).collect();
                    source.settle(&verdicts);
                    if left.fetch_sub(out.len(), Ordering::SeqCst) == out.len() {
                        sources.iter().for_each(|(_, bell)| bell.ready());
                        return;
                    }
                    if flow == Flow::Idle {
                        bell.wait("ready");
                    }
                });
            }
        });
        assert_eq!(left.load(Ordering::SeqCst), 0);
        assert_eq!(house.describe("t").unsettled, 0);
    }
}

/// A publisher that does not wait left its size as the smallest that helps: one with a large record
/// was then woken at once, again and again.
#[test]
fn space_for_one_that_does_not_wait_wakes_nobody() {
    with_both(|house| {
        let spec = TopicSpec { bytes_max: Some(1000), ..TopicSpec::default() };
        house.declare("q", TopicKind::Task, spec).unwrap();
        let (small, large) = ([0; 100], [0; 500]);
        house.publish("q", TopicKind::Task, &[Record::new(&small); 20]);
        let worker = house.subscribe(&task_spec("q"));
        let out = worker.all();
        let destination = house.broker.destination("q", TopicKind::Task).unwrap();
        assert_eq!(house.publish_to(&*destination, &[Record::new(&small)]).count, 0);
        worker.ack(&out[..1]);
        assert_eq!(house.publish_to(&*destination, &[Record::new(&large)]).count, 0);
        let waiter = Arc::new(Signals::default());
        destination.on_space(Arc::<Signals>::downgrade(&waiter));
        assert_eq!(waiter.take(), 0, "there is no space for it");
        worker.ack(&out[1..]);
        assert_eq!(waiter.take(), 1);
        assert_eq!(house.publish_to(&*destination, &[Record::new(&large)]).count, 1);
    });
}
