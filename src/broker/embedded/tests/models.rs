//! Random actions against plain models of a queue and of a log.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    Publish { priority: u8, delay_ms: i64, ttl_ms: i64 },
    Fetch { worker: usize, max: usize },
    Settle { worker: usize, which: usize, verdict: u8 },
    Reopen { worker: usize },
    Advance { ms: u64 },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let publish = (0u8..4, prop_oneof![3 => Just(0i64), 1 => 1i64..20], prop_oneof![3 => Just(0i64), 1 => 1i64..30]);
    let action = prop_oneof![
        4 => publish.prop_map(|(priority, delay_ms, ttl_ms)| Action::Publish { priority, delay_ms, ttl_ms }),
        3 => (0usize..2, 1usize..5).prop_map(|(worker, max)| Action::Fetch { worker, max }),
        4 => (0usize..2, 0usize..9, 0u8..6).prop_map(|(worker, which, verdict)| Action::Settle { worker, which, verdict }),
        1 => (0usize..2).prop_map(|worker| Action::Reopen { worker }),
        2 => (1u64..15).prop_map(|ms| Action::Advance { ms }),
    ];
    prop::collection::vec(action, 1..120)
}

#[derive(Debug, Clone)]
struct Task {
    number: u64,
    priority: u8,
    expires: Option<u64>,
    tries: u32,
    handed: bool,
}

/// What a queue of at most `MAX` must do, in the plainest words.
#[derive(Default)]
struct Model {
    now: u64,
    ready: BTreeMap<(u8, bool, u64), Task>,
    delayed: Vec<(u64, Task)>,
    out: [Vec<(u64, Task)>; 2],
    gone: usize,
    next: u64,
}

const MAX: usize = 12;
const LEASE: u64 = 40;

impl Model {
    fn held(&self) -> usize {
        self.ready.len() + self.delayed.len() + self.out.iter().map(Vec::len).sum::<usize>()
    }

    fn put(&mut self, task: Task, is_back: bool) {
        self.ready.insert((10 - task.priority, !is_back, task.number), task);
    }

    fn move_to(&mut self, now: u64) {
        self.now = now;
        let (due, later) = std::mem::take(&mut self.delayed).into_iter().partition(|(at, _)| *at <= now);
        self.delayed = later;
        let due: Vec<(u64, Task)> = due;
        for (_, task) in due {
            self.put(task, true);
        }
    }

    fn pop(&mut self) -> Option<Task> {
        while let Some((_, task)) = self.ready.pop_first() {
            if task.expires.is_none_or(|at| at > self.now) {
                return Some(task);
            }
            self.gone += 1;
        }
        None
    }
}

fn check_queue(limits: Limits, actions: Vec<Action>) -> Result<(), TestCaseError> {
    let house = House::new(limits);
    let spec = TopicSpec { messages_max: Some(MAX as u64), ..TopicSpec::default() };
    house.declare("q", TopicKind::Task, spec).unwrap();
    let spec = SubscribeSpec { prefetch: 6, lease: Some(millis(LEASE)), ..task_spec("q") };
    let mut workers = [house.subscribe(&spec), house.subscribe(&spec)];
    let mut leased: [Vec<(u64, u64)>; 2] = Default::default();
    let mut model = Model::default();
    for action in actions {
        match action {
            Action::Publish { priority, delay_ms, ttl_ms } => {
                let payload = model.next.to_le_bytes();
                let record = Record { priority, delay_ms, ttl_ms, ..Record::new(&payload) };
                let taken = house.publish("q", TopicKind::Task, &[record]);
                // Expired ones make room only at the head, which the model does not know.
                if model.held() < MAX {
                    prop_assert_eq!(taken.count, 1);
                }
                if taken.count == 1 {
                    let expires = (ttl_ms > 0).then_some(model.now + ttl_ms as u64);
                    let task = Task { number: model.next, priority, expires, tries: 0, handed: false };
                    model.next += 1;
                    match delay_ms {
                        0 => model.put(task, false),
                        _ => model.delayed.push((model.now + delay_ms as u64, task)),
                    }
                }
            }
            Action::Fetch { worker, max } => {
                let got = workers[worker].fetch(max);
                prop_assert!(got.len() <= max && model.out[worker].len() + got.len() <= 6);
                let room = 6 - model.out[worker].len();
                for delivery in &got {
                    let Some(task) = model.pop() else {
                        return Err(TestCaseError::fail("the model has nothing"));
                    };
                    prop_assert_eq!(delivery.message.payload(), &task.number.to_le_bytes());
                    prop_assert_eq!((delivery.attempt, delivery.redelivered), (task.tries + 1, task.handed));
                    leased[worker].push((delivery.tag, model.now + LEASE));
                    model.out[worker].push((delivery.tag, task));
                }
                if got.is_empty() && room > 0 {
                    prop_assert!(model.pop().is_none(), "the model has more");
                }
            }
            Action::Settle { worker, which, verdict } => {
                if model.out[worker].is_empty() {
                    continue;
                }
                let which = which % model.out[worker].len();
                let (tag, task) = model.out[worker].remove(which);
                leased[worker].retain(|(own, _)| *own != tag);
                let (verdict, tries, handed, due) = match verdict {
                    0..=2 => {
                        workers[worker].source.settle(&[(tag, Verdict::Ack), (tag, Verdict::Return)]);
                        continue;
                    }
                    3 => (Verdict::Retry(Duration::ZERO), 1, true, None),
                    4 => (Verdict::Retry(millis(7)), 1, true, Some(model.now + 7)),
                    _ => (Verdict::Return, 0, task.handed, None),
                };
                workers[worker].source.settle(&[(tag, verdict)]);
                let task = Task { tries: task.tries + tries, handed, ..task };
                match due {
                    Some(at) => model.delayed.push((at, task)),
                    None => model.put(task, true),
                }
            }
            Action::Reopen { worker } => {
                workers[worker].source.close();
                workers[worker] = house.subscribe(&spec);
                leased[worker].clear();
                for (_, task) in std::mem::take(&mut model.out[worker]) {
                    model.put(Task { tries: task.tries + 1, handed: true, ..task }, true);
                }
            }
            Action::Advance { ms } => {
                house.advance(ms);
                let now = model.now + ms;
                #[expect(clippy::needless_range_loop, reason = "the index names a worker of both sides")]
                for worker in 0..2 {
                    let (ended, kept) = leased[worker].iter().copied().partition(|(_, until)| *until <= now);
                    leased[worker] = kept;
                    let ended: Vec<(u64, u64)> = ended;
                    for (tag, _) in ended {
                        let at = model.out[worker].iter().position(|(own, _)| *own == tag).unwrap();
                        let (_, task) = model.out[worker].remove(at);
                        model.put(Task { tries: task.tries + 1, handed: true, ..task }, true);
                    }
                }
                model.move_to(now);
            }
        }
        let described = house.describe("q");
        prop_assert_eq!(described.unsettled as usize, model.out.iter().map(Vec::len).sum::<usize>());
        prop_assert_eq!(described.delayed as usize, model.delayed.len());
        // Heads that expired are swept by the broker at once, by the model when it meets them.
        prop_assert!(described.messages as usize <= model.ready.len());
        let live = model.ready.values().filter(|task| task.expires.is_none_or(|at| at > model.now)).count();
        prop_assert!(described.messages as usize >= live);
    }
    let lost = now(house.broker.close(Moment::NEVER)).unwrap().lost as usize;
    prop_assert!(lost <= model.held());
    prop_assert_eq!(house.broker.core.memory.missing(1 << 20), 0, "all memory is given back");
    Ok(())
}

#[derive(Debug, Clone)]
enum Step {
    Publish { key: u8 },
    Fetch { reader: usize, max: usize },
    Settle { reader: usize, which: usize, verdict: u8 },
    Reopen { reader: usize },
    Advance { ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..6).prop_map(|key| Step::Publish { key }),
        3 => (0usize..3, 1usize..5).prop_map(|(reader, max)| Step::Fetch { reader, max }),
        4 => (0usize..3, 0usize..9, 0u8..6).prop_map(|(reader, which, verdict)| Step::Settle { reader, which, verdict }),
        1 => (0usize..3).prop_map(|reader| Step::Reopen { reader }),
        2 => (1u64..15).prop_map(|ms| Step::Advance { ms }),
    ];
    prop::collection::vec(step, 1..150)
}

/// Readers 0 and 1 share group `a`, reader 2 is group `b`. Whatever happens: an event is out at
/// most once in a group, is not handed over after it was settled, keys keep their order where
/// asked, and in the end every group has settled every event.
fn check_log(limits: Limits, ordered: Ordered, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let house = House::with(limits, 1 << 20, 3);
    let specs = ["a", "a", "b"].map(|group| SubscribeSpec { prefetch: 5, ordered, ..event_spec("e", group) });
    let mut readers = specs.each_ref().map(|spec| house.subscribe(spec));
    let group_of = |reader: usize| reader / 2;
    let mut out: [Vec<Delivery>; 3] = Default::default();
    let mut done: [BTreeSet<(u32, i64)>; 2] = Default::default();
    let mut tries: [BTreeMap<(u32, i64), u32>; 2] = Default::default();
    let mut published = 0usize;
    let mut keys: [Vec<u8>; 3] = Default::default();
    let mut step = |step: Step,
                    readers: &mut [Reader; 3],
                    out: &mut [Vec<Delivery>; 3],
                    done: &mut [BTreeSet<(u32, i64)>; 2],
                    tries: &mut [BTreeMap<(u32, i64), u32>; 2],
                    published: &mut usize|
     -> Result<(), TestCaseError> {
        match step {
            Step::Publish { key } => {
                let text = "k".repeat(key as usize);
                house.event("e", &text, &published.to_string());
                let place = if key == 0 { 0 } else { super::super::partition::partition_of(text.as_bytes(), 3) };
                keys[place].push(key);
                *published += 1;
            }
            Step::Fetch { reader, max } => {
                let group = group_of(reader);
                for delivery in readers[reader].fetch(max) {
                    let at = (delivery.partition, delivery.offset);
                    prop_assert!(!done[group].contains(&at), "handed over after it was settled");
                    let others = out.iter().enumerate().filter(|(other, _)| group_of(*other) == group);
                    for own in others.flat_map(|(_, own)| own) {
                        prop_assert_ne!((own.partition, own.offset), at, "out twice");
                        let same_key = own.message.key().is_some() && own.message.key() == delivery.message.key();
                        prop_assert!(ordered == Ordered::No || !same_key, "two of a key are out");
                    }
                    prop_assert_eq!(delivery.attempt, 1 + tries[group].get(&at).copied().unwrap_or(0));
                    if ordered == Ordered::Strict {
                        let key = keys[at.0 as usize][at.1 as usize];
                        let earlier = (0..at.1).filter(|offset| keys[at.0 as usize][*offset as usize] == key);
                        let all_done = earlier.map(|offset| (at.0, offset)).all(|own| done[group].contains(&own));
                        prop_assert!(all_done, "an earlier one of the key is not done");
                    }
                    out[reader].push(delivery);
                }
                prop_assert!(out[reader].len() <= 5);
            }
            Step::Settle { reader, which, verdict } => {
                if out[reader].is_empty() {
                    return Ok(());
                }
                let which = which % out[reader].len();
                let delivery = out[reader].remove(which);
                let at = (delivery.partition, delivery.offset);
                let group = group_of(reader);
                match verdict {
                    0..=2 => {
                        readers[reader].settle(&delivery, Verdict::Ack);
                        done[group].insert(at);
                    }
                    3 | 4 => {
                        let delay = millis(u64::from(verdict - 3) * 9);
                        readers[reader].settle(&delivery, Verdict::Retry(delay));
                        *tries[group].entry(at).or_default() += 1;
                    }
                    _ => readers[reader].settle(&delivery, Verdict::Return),
                }
            }
            Step::Reopen { reader } => {
                readers[reader].source.close();
                readers[reader] = house.subscribe(&specs[reader]);
                for delivery in out[reader].drain(..) {
                    *tries[group_of(reader)].entry((delivery.partition, delivery.offset)).or_default() += 1;
                }
            }
            Step::Advance { ms } => house.advance(ms),
        }
        Ok(())
    };
    for action in steps {
        step(action, &mut readers, &mut out, &mut done, &mut tries, &mut published)?;
    }
    for round in 0.. {
        prop_assert!(round < 2000, "events are stuck: {:?}", house.describe("e"));
        if done.iter().all(|done| done.len() == published) {
            break;
        }
        for reader in 0..3 {
            step(Step::Advance { ms: 5 }, &mut readers, &mut out, &mut done, &mut tries, &mut published)?;
            step(Step::Fetch { reader, max: 5 }, &mut readers, &mut out, &mut done, &mut tries, &mut published)?;
            while !out[reader].is_empty() {
                let ack = Step::Settle { reader, which: 0, verdict: 0 };
                step(ack, &mut readers, &mut out, &mut done, &mut tries, &mut published)?;
            }
        }
    }
    let described = house.describe("e");
    prop_assert_eq!((described.unsettled, described.lag["a"], described.lag["b"]), (0, 0, 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_does_what_its_model_does(actions in actions()) {
        check_queue(Limits::tiny(), actions.clone())?;
        check_queue(Limits::production(), actions)?;
    }

    #[test]
    fn a_log_keeps_its_promises(steps in steps(), order in 0..3) {
        let ordered = [Ordered::No, Ordered::Key, Ordered::Strict][order as usize];
        check_log(Limits::tiny(), ordered, steps.clone())?;
        check_log(Limits::production(), ordered, steps)?;
    }
}
