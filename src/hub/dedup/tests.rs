//! The memory against a plain model, and its rules one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_nanos(100);
const A: Id = Id(1, 0);
const B: Id = Id(2, 0);

fn ticket(tag: u64) -> Ticket {
    Ticket { source: tag % 2, tag }
}

/// A memory, the time, and what it has asked for.
struct Bench {
    memory: Memory<u64>,
    now: Moment,
    effects: Effects<u64>,
}

impl Bench {
    fn new(keeps: Keeps, ids_max: usize) -> Self {
        Self { memory: Memory::new(keeps, WINDOW, ids_max), now: Moment(0), effects: Effects::default() }
    }

    fn arrive(&mut self, id: Id, tag: u64) -> Arrival<u64> {
        self.memory.arrive(self.now, id, ticket(tag), tag, &mut self.effects)
    }

    fn start(&mut self, id: Id, tag: u64) {
        self.memory.start(self.now, id, ticket(tag), &mut self.effects);
    }

    fn done(&mut self, tag: u64) -> bool {
        self.memory.done(self.now, ticket(tag), &mut self.effects)
    }

    fn failed(&mut self, tag: u64) {
        self.memory.failed(ticket(tag), &mut self.effects);
    }

    fn broke(&mut self, id: Id, tag: u64) -> bool {
        self.memory.broke(self.now, id, ticket(tag), &mut self.effects)
    }

    fn pass(&mut self, nanos: u64) {
        self.now.0 += nanos;
        self.memory.expire(self.now, &mut self.effects);
    }

    fn asked(&mut self) -> Effects<u64> {
        std::mem::take(&mut self.effects)
    }
}

#[test]
fn a_copy_waits_and_is_acknowledged_when_the_first_is_done() {
    let mut bench = Bench::new(Keeps::Every, 10);
    assert_eq!(
        (bench.arrive(A, 1), bench.arrive(A, 2), bench.arrive(B, 3)),
        (Arrival::Run(1), Arrival::Held, Arrival::Run(3))
    );
    assert_eq!((bench.memory.held(), bench.memory.tickets(), bench.memory.len()), (1, 3, 2));
    assert!(bench.done(1));
    assert_eq!(bench.asked().ack, [2]);
    assert_eq!((bench.arrive(A, 4), bench.memory.held()), (Arrival::Done(4), 0));
    bench.pass(99);
    assert_eq!(bench.arrive(A, 5), Arrival::Done(5));
    bench.pass(1);
    assert_eq!(bench.arrive(A, 6), Arrival::Run(6), "the window is over");
}

#[test]
fn a_copy_runs_when_the_first_has_failed() {
    let mut bench = Bench::new(Keeps::Every, 10);
    assert_eq!(
        [bench.arrive(A, 1), bench.arrive(A, 2), bench.arrive(A, 3)],
        [Arrival::Run(1), Arrival::Held, Arrival::Held]
    );
    bench.failed(1);
    assert_eq!(bench.asked(), Effects { run: vec![2], ..Effects::default() });
    assert_eq!(bench.arrive(A, 4), Arrival::Held, "the retry of the first, behind the others");
    bench.failed(2);
    bench.failed(3);
    assert_eq!(bench.asked().run, [3, 4]);
    bench.failed(4);
    assert_eq!((bench.memory.len(), bench.memory.tickets()), (0, 0));
    assert_eq!(bench.arrive(A, 5), Arrival::Run(5));
}

#[test]
fn what_is_out_has_no_end_of_its_own() {
    let mut bench = Bench::new(Keeps::Every, 10);
    bench.arrive(A, 1);
    bench.pass(1_000_000);
    assert_eq!((bench.arrive(A, 2), bench.memory.next_end()), (Arrival::Held, None));
}

#[test]
fn a_handler_is_waited_for_over_a_break() {
    for keeps in [Keeps::Every, Keeps::Broken] {
        let mut bench = Bench::new(keeps, 10);
        bench.arrive(A, 1);
        assert!(bench.broke(A, 1));
        assert_eq!((bench.arrive(A, 2), bench.memory.next_end()), (Arrival::Held, Some(Moment(100))));
        // The connection breaks again: the copy is not there any more.
        assert!(!bench.broke(A, 2));
        assert_eq!((bench.memory.held(), bench.arrive(A, 3)), (0, Arrival::Held));
        assert!(bench.done(1));
        assert_eq!((bench.asked().ack, bench.memory.next_end()), (vec![3], None));
        assert_eq!(bench.arrive(A, 4), Arrival::Done(4));
    }
}

#[test]
fn a_handler_that_never_ends_is_not_waited_for_for_ever() {
    let mut bench = Bench::new(Keeps::Broken, 10);
    assert!(bench.broke(A, 1) && bench.broke(B, 3));
    assert_eq!(bench.arrive(A, 2), Arrival::Held);
    bench.pass(100);
    assert_eq!(bench.asked(), Effects { run: vec![2], ended: vec![ticket(1), ticket(3)], ..Effects::default() });
    assert!(!bench.done(1), "too late");
    assert!(bench.done(2));
    assert_eq!(bench.arrive(A, 4), Arrival::Done(4));
}

#[test]
fn the_ledger_knows_only_what_broke() {
    let mut bench = Bench::new(Keeps::Broken, 10);
    assert_eq!([bench.arrive(A, 1), bench.arrive(A, 2)], [Arrival::Run(1), Arrival::Run(2)]);
    assert!(!bench.done(1));
    assert_eq!(bench.memory.len(), 0);
}

#[test]
fn a_real_copy_waits_for_its_provisional_one_and_is_taken_for_it_once() {
    let mut bench = Bench::new(Keeps::Broken, 10);
    bench.start(A, 1);
    assert_eq!(bench.arrive(A, 2), Arrival::Held);
    assert!(bench.done(1));
    assert_eq!(bench.asked().ack, [2]);
    assert_eq!((bench.arrive(A, 3), bench.memory.len()), (Arrival::Run(3), 0));
    // Done before its real one is there.
    bench.start(A, 4);
    assert!(bench.done(4));
    assert_eq!([bench.arrive(A, 5), bench.arrive(A, 6)], [Arrival::Done(5), Arrival::Run(6)]);
    // Given back, the real one runs.
    bench.start(A, 7);
    assert_eq!(bench.arrive(A, 8), Arrival::Held);
    bench.failed(7);
    assert_eq!(bench.asked().run, [8]);
    bench.failed(8);
    // Known anew, it is not forgotten in the place of the first.
    bench.start(A, 9);
    bench.pass(100);
    assert_eq!([bench.arrive(A, 10), bench.arrive(A, 11)], [Arrival::Held, Arrival::Held]);
    // Two copies that cannot be told apart: both real ones run, and who ran first has no say in that.
    bench.start(A, 12);
    assert_eq!((bench.asked().run, bench.memory.len()), (vec![10, 11], 0));
    assert!(!bench.done(9) && !bench.done(12));
}

#[test]
fn provisional_copies_without_an_end_are_not_remembered_without_one() {
    let mut bench = Bench::new(Keeps::Broken, 10);
    for tag in 0..100 {
        bench.start(Id(tag, 0), 2 * tag);
        assert!(bench.done(2 * tag));
        assert_eq!(bench.arrive(Id(tag, 0), 2 * tag + 1), Arrival::Done(2 * tag + 1));
    }
    assert_eq!((bench.memory.len(), bench.memory.done.len()), (0, 10));
}

#[test]
fn two_that_cannot_be_told_apart_both_come_again() {
    let mut bench = Bench::new(Keeps::Broken, 10);
    assert!(bench.broke(A, 1) && !bench.broke(A, 2));
    assert_eq!((bench.asked().ended, bench.arrive(A, 3)), (vec![ticket(1)], Arrival::Run(3)));
    // Nor is one that is done over a break taken for another that breaks later.
    assert!(bench.broke(B, 4) && bench.done(4) && !bench.broke(B, 5));
    assert_eq!((bench.arrive(B, 6), bench.memory.len()), (Arrival::Run(6), 0));
}

#[test]
fn ids_are_bounded_and_what_runs_is_forgotten_last() {
    let mut bench = Bench::new(Keeps::Every, 2);
    bench.arrive(A, 1);
    assert!(bench.done(1));
    bench.arrive(B, 2);
    assert_eq!(bench.arrive(Id(3, 0), 3), Arrival::Run(3));
    assert_eq!((bench.memory.len(), bench.arrive(A, 4)), (2, Arrival::Run(4)), "forgotten for want of room");
    assert!(!bench.done(4), "and not entered");
    assert!(bench.broke(B, 2));
    assert_eq!(bench.arrive(B, 5), Arrival::Held);
    assert!(bench.done(3));
    bench.arrive(A, 6);
    assert_eq!(bench.memory.len(), 2, "the done one has made room");
    bench.arrive(Id(4, 0), 7);
    assert_eq!(bench.asked(), Effects { run: vec![5], ended: vec![ticket(2)], ..Effects::default() });
    assert_eq!(bench.memory.len(), 2);
}

#[test]
fn a_subscription_that_ends_leaves_nothing_and_others_go_on() {
    let mut bench = Bench::new(Keeps::Every, 10);
    bench.arrive(A, 1);
    bench.arrive(A, 3);
    bench.arrive(A, 2);
    bench.arrive(B, 4);
    bench.arrive(B, 5);
    bench.memory.forget_source(1, &mut bench.effects);
    assert_eq!(bench.asked(), Effects { run: vec![2], ..Effects::default() }, "3 is gone as 1 is");
    assert_eq!((bench.memory.tickets(), bench.memory.held()), (2, 0));
}

#[test]
fn a_seek_forgets_all() {
    let mut bench = Bench::new(Keeps::Every, 10);
    bench.arrive(A, 1);
    bench.arrive(A, 2);
    bench.arrive(B, 3);
    assert!(bench.broke(B, 3));
    bench.memory.clear(&mut bench.effects);
    assert_eq!(bench.asked(), Effects { back: vec![2], ended: vec![ticket(3)], ..Effects::default() });
    assert_eq!((bench.arrive(A, 4), bench.memory.len(), bench.memory.next_end()), (Arrival::Run(4), 1, None));
}

/// What the test knows of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// With a handler.
    Handler {
        broken: Option<u64>,
    },
    Held,
    /// Acknowledged, or gone back: its broker's.
    Over,
}

/// The rules, told without any index: a list of deliveries, and when each id was done.
#[derive(Debug, Default)]
struct Model {
    deliveries: BTreeMap<u64, (u8, At)>,
    done: BTreeMap<u8, u64>,
    now: u64,
}

impl Model {
    fn runner(&self, id: u8) -> Option<u64> {
        let runs = |at: &At| matches!(at, At::Handler { .. });
        self.deliveries.iter().find(|(_, (own, at))| *own == id && runs(at)).map(|(tag, _)| *tag)
    }

    fn held(&self, id: u8) -> Vec<u64> {
        self.deliveries.iter().filter(|(_, own)| **own == (id, At::Held)).map(|(tag, _)| *tag).collect()
    }

    fn set(&mut self, tag: u64, at: At) {
        self.deliveries.get_mut(&tag).unwrap().1 = at;
    }

    /// The next copy runs; answers it.
    fn next(&mut self, tag: u64) -> Option<u64> {
        let id = self.deliveries[&tag].0;
        self.set(tag, At::Over);
        let next = self.held(id).first().copied()?;
        self.set(next, At::Handler { broken: None });
        Some(next)
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Arrive(u8),
    Done(usize),
    Failed(usize),
    Broke(usize),
    Pass(u64),
    Close(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8).prop_map(Step::Arrive),
        2 => any::<usize>().prop_map(Step::Done),
        2 => any::<usize>().prop_map(Step::Failed),
        1 => any::<usize>().prop_map(Step::Broke),
        1 => (1..60u64).prop_map(Step::Pass),
        1 => (0..2u64).prop_map(Step::Close),
    ]
}

/// One of those that are not over.
fn pick(model: &Model, index: usize) -> Option<u64> {
    let alive: Vec<u64> = model.deliveries.iter().filter(|(_, own)| own.1 != At::Over).map(|(tag, _)| *tag).collect();
    (!alive.is_empty()).then(|| alive[index % alive.len()])
}

proptest! {
    /// Whatever happens, one copy of an id has a handler at most, none is lost, and none is acknowledged unless
    /// its id was done within the window.
    #[test]
    fn the_memory_does_as_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let (mut bench, mut model) = (Bench::new(Keeps::Every, 1_000), Model::default());
        for (tag, step) in (1..).zip(steps) {
            let mut expected = Effects::default();
            match step {
                Step::Arrive(id) => {
                    let arrival = bench.arrive(Id(u64::from(id), 7), tag);
                    let is_done = model.done.get(&id).is_some_and(|at| model.now < at + 100);
                    let (at, wanted) = match (model.runner(id), is_done) {
                        (Some(_), _) => (At::Held, Arrival::Held),
                        (None, true) => (At::Over, Arrival::Done(tag)),
                        (None, false) => (At::Handler { broken: None }, Arrival::Run(tag)),
                    };
                    prop_assert_eq!(arrival, wanted);
                    model.deliveries.insert(tag, (id, at));
                }
                Step::Done(index) => {
                    let Some(tag) = pick(&model, index) else { continue };
                    let (id, at) = model.deliveries[&tag];
                    prop_assert_eq!(bench.done(tag), at != At::Held);
                    if at != At::Held {
                        expected.ack = model.held(id);
                        expected.ack.iter().chain([&tag]).for_each(|tag| model.set(*tag, At::Over));
                        model.done.insert(id, model.now);
                    }
                }
                Step::Failed(index) => {
                    let Some(tag) = pick(&model, index) else { continue };
                    bench.failed(tag);
                    match model.deliveries[&tag].1 {
                        At::Held => model.set(tag, At::Over),
                        _ => expected.run.extend(model.next(tag)),
                    }
                }
                Step::Broke(index) => {
                    let Some(tag) = pick(&model, index) else { continue };
                    let (id, at) = model.deliveries[&tag];
                    prop_assert_eq!(bench.broke(Id(u64::from(id), 7), tag), at != At::Held);
                    let is_held = at == At::Held;
                    model.set(tag, if is_held { At::Over } else { At::Handler { broken: Some(model.now + 100) } });
                }
                Step::Pass(nanos) => {
                    bench.pass(nanos);
                    model.now += nanos;
                    let late = |at: &At| matches!(at, At::Handler { broken: Some(until) } if *until <= model.now);
                    let late: Vec<u64> =
                        model.deliveries.iter().filter(|(_, own)| late(&own.1)).map(|(tag, _)| *tag).collect();
                    for tag in late {
                        expected.ended.push(ticket(tag));
                        expected.run.extend(model.next(tag));
                    }
                }
                Step::Close(source) => {
                    bench.memory.forget_source(source, &mut bench.effects);
                    let own = |tag: u64| ticket(tag).source == source;
                    let alive = model.deliveries.iter().filter(|(tag, own_at)| own(**tag) && own_at.1 != At::Over);
                    let (held, ran): (Vec<u64>, Vec<u64>) =
                        alive.map(|(tag, _)| *tag).partition(|tag| model.deliveries[tag].1 == At::Held);
                    held.into_iter().for_each(|tag| model.set(tag, At::Over));
                    for tag in ran {
                        expected.run.extend(model.next(tag));
                    }
                }
            }
            let mut asked = bench.asked();
            for list in [&mut asked.run, &mut expected.run] {
                list.sort_unstable();
            }
            asked.ended.sort_unstable();
            expected.ended.sort_unstable();
            prop_assert_eq!(asked, expected);
            let is = |wanted: fn(&At) -> bool| model.deliveries.values().filter(|own| wanted(&own.1)).count();
            prop_assert_eq!(bench.memory.held(), is(|at| *at == At::Held));
            prop_assert_eq!(bench.memory.tickets(), is(|at| *at != At::Over));
        }
    }

    /// However small it is, it is not exceeded, and no copy is lost.
    #[test]
    fn a_small_memory_forgets_and_loses_nothing(
        steps in prop::collection::vec(step(), 1..120), ids_max in 1..4usize, every in any::<bool>(),
    ) {
        let keeps = if every { Keeps::Every } else { Keeps::Broken };
        let mut bench = Bench::new(keeps, ids_max);
        // Where each delivery is, by what the memory said.
        let (mut held, mut ran): (BTreeMap<u64, u8>, BTreeMap<u64, u8>) = Default::default();
        for (tag, step) in (1..).zip(steps) {
            let any_of = |of: &BTreeMap<u64, u8>, index: usize| of.keys().nth(index % of.len().max(1)).copied();
            match step {
                Step::Arrive(id) => match bench.arrive(Id(u64::from(id), 7), tag) {
                    Arrival::Run(_) => drop(ran.insert(tag, id)),
                    Arrival::Held => drop(held.insert(tag, id)),
                    Arrival::Done(_) => {}
                },
                Step::Done(index) => {
                    let Some(tag) = any_of(&ran, index) else { continue };
                    bench.done(tag);
                    ran.remove(&tag);
                }
                Step::Failed(index) => {
                    let Some(tag) = any_of(&ran, index) else { continue };
                    bench.failed(tag);
                    ran.remove(&tag);
                }
                Step::Broke(index) => {
                    let Some(tag) = any_of(&ran, index) else { continue };
                    if !bench.broke(Id(u64::from(ran[&tag]), 7), tag) {
                        bench.failed(tag);
                        ran.remove(&tag);
                    }
                }
                Step::Pass(nanos) => bench.pass(nanos),
                Step::Close(source) => {
                    bench.memory.forget_source(source, &mut bench.effects);
                    held.retain(|tag, _| ticket(*tag).source != source);
                    ran.retain(|tag, _| ticket(*tag).source != source);
                }
            }
            let asked = bench.asked();
            for tag in asked.ack.iter().chain(&asked.run) {
                let id = held.remove(tag);
                prop_assert!(id.is_some(), "{} was not held", tag);
                if asked.run.contains(tag) {
                    ran.insert(*tag, id.unwrap());
                }
            }
            for ended in asked.ended {
                ran.remove(&ended.tag);
            }
            prop_assert!(bench.memory.len() <= ids_max);
            prop_assert_eq!(bench.memory.held(), held.len());
            // Whoever is held back waits for somebody.
            let waits_for_one = held.values().all(|id| ran.values().any(|own| own == id));
            prop_assert!(waits_for_one, "{:?} waits for nobody in {:?}", held, ran);
        }
    }
}
