//! Random actions, a crash at any call of the store, a restart: what was confirmed is there.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Task {
        priority: u8,
        delay_ms: i64,
    },
    Event {
        key: u8,
    },
    /// Takes so many tasks; acknowledges all, or gives them back with a delay.
    Work {
        count: usize,
        delay_ms: Option<u64>,
    },
    /// Reads and acknowledges so many events.
    Read {
        count: usize,
    },
    Purge,
    Restart,
}

fn actions() -> impl Strategy<Value = (Vec<Action>, u64)> {
    let action = prop_oneof![
        5 => (0u8..3, prop_oneof![3 => Just(0i64), 1 => 1_000i64..5_000])
            .prop_map(|(priority, delay_ms)| Action::Task { priority, delay_ms }),
        5 => (0u8..4).prop_map(|key| Action::Event { key }),
        3 => (1usize..4, prop::option::of(prop_oneof![Just(0u64), 10_000_000u64..20_000_000]))
            .prop_map(|(count, delay_ms)| Action::Work { count, delay_ms }),
        3 => (1usize..4).prop_map(|count| Action::Read { count }),
        1 => Just(Action::Purge),
        1 => Just(Action::Restart),
    ];
    (prop::collection::vec(action, 1..40), 1u64..120)
}

/// What must be, may be, and must not be there.
#[derive(Debug, Default)]
struct Model {
    /// Confirmed, and nobody has said that it is done.
    open: BTreeSet<u64>,
    /// Of unknown outcome, or done when the crash may have come before that was written.
    maybe: BTreeSet<u64>,
    /// Done in this life.
    done: BTreeSet<u64>,
    tries: BTreeMap<u64, u32>,
    /// Number to partition and offset.
    events: BTreeMap<u64, (u32, i64)>,
    /// Events that the group has settled, for sure, and perhaps.
    read: u64,
    maybe_read: u64,
}

fn number(delivery: &Delivery) -> u64 {
    String::from_utf8_lossy(delivery.message.payload()).parse().unwrap()
}

struct Run {
    medium: Arc<Mutex<Medium>>,
    house: House,
    model: Model,
    next: u64,
}

impl Run {
    fn restart(&mut self) {
        let mut done = std::mem::take(&mut self.model.done);
        if !self.medium.lock().has_crashed {
            std::mem::replace(&mut self.house, House::fake(&Arc::default())).close();
        }
        if self.medium.lock().has_crashed {
            // It may come again; of a life that was closed nothing does.
            self.model.maybe.append(&mut done);
        }
        self.house = House::fake(&self.medium);
    }

    fn publish(&mut self, kind: TopicKind, record: &Record<'_>) {
        let text = self.next.to_string();
        let record = Record { payload: text.as_bytes(), ..*record };
        let topic = if kind == TopicKind::Task { "t" } else { "e" };
        match self.house.publish(topic, kind, &record) {
            Outcome::Confirmed(_) if kind == TopicKind::Task => drop(self.model.open.insert(self.next)),
            Outcome::Confirmed(_) => drop(self.model.events.insert(self.next, (u32::MAX, -1))),
            Outcome::Unknown(_) => drop(self.model.maybe.insert(self.next)),
            Outcome::NotSent(_) | Outcome::Refused(_) => {}
        }
        self.next += 1;
    }

    fn work(&mut self, count: usize, delay_ms: Option<u64>) {
        let worker = self.house.worker();
        let mut out = Vec::new();
        worker.fetch(count, &mut out);
        for delivery in &out {
            let number = number(delivery);
            let known = self.model.open.contains(&number) || self.model.maybe.contains(&number);
            assert!(known, "{number} was never published, or is done");
            let verdict = match delay_ms {
                None => Verdict::Ack,
                Some(ms) => Verdict::Retry(Duration::from_millis(ms)),
            };
            worker.settle(&[(delivery.tag, verdict)]);
            match delay_ms {
                None => {
                    self.model.open.remove(&number);
                    self.model.maybe.remove(&number);
                    self.model.done.insert(number);
                }
                Some(_) => *self.model.tries.entry(number).or_default() += 1,
            }
        }
        worker.close();
    }

    /// All events are there once, at the places they had, and no other is at one of those.
    fn check_events(&mut self) {
        let all =
            self.house.subscribe(&SubscribeSpec { read_only: true, stop: Stop::Now, ..spec("e", TopicKind::Event) });
        let mut seen = BTreeMap::new();
        for delivery in fetch(&*all) {
            let place = (delivery.partition, delivery.offset);
            assert!(seen.insert(number(&delivery), place).is_none(), "an event is there twice");
        }
        for (number, place) in &mut self.model.events {
            let found = seen.remove(number).unwrap_or_else(|| panic!("event {number} is lost"));
            assert!(place.1 == -1 || *place == found, "event {number} was at {place:?}, and is at {found:?}");
            *place = found;
        }
        for (number, place) in seen {
            assert!(self.model.maybe.contains(&number), "event {number} was never confirmed");
            self.model.maybe.remove(&number);
            self.model.events.insert(number, place);
        }
        all.close();
    }

    fn read(&mut self, count: usize) {
        let member = self.house.member("g");
        let mut out = Vec::new();
        member.fetch(count, &mut out);
        let verdicts: Vec<_> = out.iter().map(|delivery| (delivery.tag, Verdict::Ack)).collect();
        member.settle(&verdicts);
        member.close();
        match self.house.settle_down() {
            Ok(()) => self.model.read += out.len() as u64,
            Err(_) => self.model.maybe_read += out.len() as u64,
        }
    }

    /// After everything: what was confirmed is there, with its attempts, and only that.
    fn check_tasks(&mut self) {
        self.house.clock.advance(Duration::from_secs(100_000)).unwrap();
        let worker = self.house.worker();
        let mut seen = BTreeSet::new();
        for delivery in fetch(&*worker) {
            let number = number(&delivery);
            assert!(seen.insert(number), "task {number} is there twice");
            assert!(self.model.open.contains(&number) || self.model.maybe.contains(&number), "task {number} is done");
            let tries = self.model.tries.get(&number).copied().unwrap_or(0);
            assert!(delivery.attempt <= tries + 1, "task {number} has attempt {}", delivery.attempt);
        }
        let lost: Vec<_> = self.model.open.difference(&seen).collect();
        assert!(lost.is_empty(), "tasks {lost:?} are lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_confirmed_outlives_a_crash_at_any_step((actions, crash) in actions()) {
        let medium = Arc::new(Mutex::new(Medium { free_bytes: 1 << 40, ..Medium::default() }));
        medium.lock().faults.insert(crash, Fault::Crash);
        let mut run = Run { house: House::fake(&medium), medium, model: Model::default(), next: 1 };
        for action in actions {
            match action {
                Action::Task { priority, delay_ms } => {
                    run.publish(TopicKind::Task, &Record { priority, delay_ms, ..Record::new(b"") });
                }
                Action::Event { key } => {
                    let key = [key];
                    run.publish(TopicKind::Event, &Record { key: Some(&key), ..Record::new(b"") });
                }
                Action::Work { count, delay_ms } => run.work(count, delay_ms),
                Action::Read { count } => run.read(count),
                Action::Purge => {
                    let purged = run.house.broker.admin().unwrap().purge("t", Moment::NEVER);
                    // It may not be there, or not be written any more.
                    let _ = crate::runtime::wait(purged, Some(PATIENCE));
                    let Model { open, maybe, done, .. } = &mut run.model;
                    done.append(open);
                    done.append(maybe);
                }
                Action::Restart => {
                    run.restart();
                    run.check_events();
                }
            }
        }
        run.restart();
        run.check_events();
        run.check_tasks();
        // The group goes on where it was.
        let left = fetch(&*run.house.member("g")).len() as u64;
        let (all, Model { read, maybe_read, .. }) = (run.model.events.len() as u64, run.model);
        prop_assert!(left + read <= all && left + read + maybe_read >= all, "{left} of {all} after {read}, {maybe_read}");
    }
}
