//! Fault loops: a scenario is run with its first call failing, then its second, and so on until a
//! run meets no fault. After each run the promises are checked.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use helixmq::broker::faulty::{Fault, Faulty, Seam, Times};
use helixmq::broker::{Batch, Broker, Context, Outcome, Sink, Source, Ticket, Verdict};
use helixmq::clock::Clock;
use helixmq::error::{Error, Fate, Kind};
use helixmq::limits::Limits;
use helixmq::message::{Record, TopicKind};

use crate::harness::{records, seconds, spec, texts, wait, Bell, Outcomes, PATIENCE};
use crate::mounts::embedded::{context, open};

struct World {
    clock: Clock,
    outcomes: Arc<Outcomes>,
    broker: Arc<Faulty>,
}

fn world() -> World {
    let clock = Clock::virtual_();
    let outcomes = Arc::new(Outcomes::default());
    let context: Context = context(&clock, Limits::tiny(), Arc::<Outcomes>::clone(&outcomes));
    let broker = Faulty::over(context, |inner| Ok(open(inner))).expect("the embedded broker opens");
    World { clock, outcomes, broker }
}

/// What a publisher knows of one text in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Confirmed,
    NotTaken,
    Unknown,
}

impl World {
    /// Publishes each text once and writes down how it ended.
    fn publish(&self, topic: &str, sent: &[String]) -> BTreeMap<String, Known> {
        let numbers = std::sync::atomic::AtomicU64::new(0);
        let mut known = BTreeMap::new();
        let mut pending = Vec::new();
        for (index, text) in sent.iter().enumerate() {
            let ticket = Ticket(index as u64);
            let record = [Record::new(text.as_bytes())];
            let batch = Batch {
                records: &record,
                first_ticket: ticket,
                numbers: &numbers,
                now_us: self.clock.wall_us(),
                require: None,
                since: None,
            };
            let answer = contained(|| Ok(self.broker.destination(topic, TopicKind::Task)?.publish(&batch)));
            let ended = match answer {
                Some(Ok(taken)) if taken.count == 1 && taken.level.is_some() => Known::Confirmed,
                Some(Ok(taken)) if taken.count == 1 => {
                    pending.push((ticket, text.clone()));
                    continue;
                }
                Some(_) => Known::NotTaken,
                None => Known::Unknown,
            };
            known.insert(text.clone(), ended);
        }
        self.clock.advance(seconds(1)).expect("the clock is virtual");
        for (ticket, text) in pending {
            let ended = match self.outcomes.of(ticket, 1).remove(0).1 {
                Outcome::Confirmed(_) => Known::Confirmed,
                Outcome::Unknown(_) => Known::Unknown,
                Outcome::Refused(_) | Outcome::NotSent(_) => Known::NotTaken,
            };
            known.insert(text, ended);
        }
        known
    }

    /// Consumes until nothing comes any more, trying again where a call fails.
    fn consume(&self, topic: &str) -> BTreeMap<String, u32> {
        let mut seen = BTreeMap::new();
        for _ in 0..5 {
            let Some(Ok(source)) = contained(|| self.subscribe(topic)) else { continue };
            for _ in 0..30 {
                let mut out = Vec::new();
                let fetched = contained(|| Ok::<_, Error>(source.fetch(2, &mut out)));
                for text in texts(&out) {
                    *seen.entry(text).or_default() += 1;
                }
                let verdicts: Vec<(u64, Verdict)> = out.iter().map(|delivery| (delivery.tag, Verdict::Ack)).collect();
                contained(|| -> Result<(), Error> {
                    source.settle(&verdicts);
                    Ok(())
                });
                self.clock.advance(seconds(1)).expect("the clock is virtual");
                if fetched.is_none() {
                    break;
                }
            }
            source.close();
        }
        seen
    }

    fn subscribe(&self, topic: &str) -> Result<Arc<dyn Source>, Error> {
        let sink: Arc<dyn Sink> = Arc::new(Bell::default());
        let deadline = self.clock.now().plus(PATIENCE);
        wait(self.broker.subscribe(&spec(topic, TopicKind::Task), sink, deadline))
    }
}

/// Runs a call of the seam; `None` when it panicked.
fn contained<T>(call: impl FnOnce() -> Result<T, Error>) -> Option<Result<T, Error>> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

#[test]
fn whichever_call_fails_once_the_promises_hold() {
    for fault in Fault::ALL {
        let mut nth = 1;
        while one_run(fault, nth) {
            nth += 1;
        }
        assert!(nth > 20, "the scenario of {fault:?} has {nth} calls only: it proves little");
    }
}

/// One run with the `nth` call failing; answers whether it came to that.
fn one_run(fault: Fault, nth: u64) -> bool {
    let world = world();
    world.broker.fail(None, nth, Times::Once, fault);
    let sent: Vec<String> = (0..6).map(|number| format!("message {number}")).collect();
    let known = world.publish("t", &sent);
    let seen = world.consume("t");
    let story = format!("{fault:?} at call {nth}: {known:?}, seen {seen:?}");
    for text in &sent {
        let times = seen.get(text).copied().unwrap_or(0);
        match known[text] {
            Known::Confirmed => assert!(times >= 1, "{text} was confirmed and is lost; {story}"),
            Known::NotTaken => assert_eq!(times, 0, "{text} was not taken, but came; {story}"),
            Known::Unknown => {}
        }
    }
    assert!(seen.values().sum::<u32>() <= sent.len() as u32 + 3, "more copies than one fault explains; {story}");
    let deadline = world.clock.now().plus(PATIENCE);
    drop(contained(|| wait(world.broker.close(deadline))));
    world.broker.struck() > 0
}

#[test]
fn a_seam_fails_for_good_until_it_is_healed() {
    let world = world();
    world.broker.fail(Some(Seam::Destination), 2, Times::ForGood, Fault::Refused);
    world.broker.destination("t", TopicKind::Task).expect("the first call is well");
    for _ in 0..3 {
        let refused = world.broker.destination("t", TopicKind::Task).expect_err("every later one fails");
        assert_eq!((refused.kind(), refused.fate()), (Kind::Refused, Some(Fate::Refused)));
    }
    world.broker.heal();
    world.broker.destination("t", TopicKind::Task).expect("healed");
    assert_eq!((world.broker.calls(Some(Seam::Destination)), world.broker.struck()), (5, 3));
}

#[test]
fn outcomes_are_held_and_released_in_any_order() {
    let world = world();
    let numbers = std::sync::atomic::AtomicU64::new(0);
    world.broker.hold(true);
    let to = world.broker.destination("t", TopicKind::Task).expect("no fault is planned");
    let batch = records(&["a", "b", "c", "d"]);
    let batch =
        Batch { records: &batch, first_ticket: Ticket(10), numbers: &numbers, now_us: 0, require: None, since: None };
    let taken = to.publish(&batch);
    assert_eq!((taken.count, taken.level), (4, None));
    world.clock.advance(seconds(1)).expect("the clock is virtual");
    assert_eq!(world.outcomes.count(), 0);
    assert_eq!(world.broker.release(&[Ticket(12), Ticket(10), Ticket(12), Ticket(99)]), 2);
    assert_eq!(world.outcomes.count(), 2);
    assert_eq!(world.broker.held(), [Ticket(11), Ticket(13)]);
    wait(world.broker.close(world.clock.now().plus(PATIENCE))).expect("no fault is planned");
    world.outcomes.confirmed(Ticket(10), 4);
}
