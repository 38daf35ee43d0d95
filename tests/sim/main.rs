//! The failover core in a simulated world: a server, a network, a disk, programs and workers that do
//! their worst, in virtual time and from one seed, with the invariants checked after each step.
//!
//! `SIM_SEED=n` repeats one run; `HMQ_TEST_SCALE` (per cent) runs more or fewer of them. A failure
//! prints its seed and the last steps; seeds that once failed are in `seeds.txt` and run first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, reason = "nobody reads the documentation of a test")]

mod broker_model;
mod checker;
mod clients;
mod driver;
mod duties;
mod lanes;
mod nemesis;
mod rng;
mod setup;
mod store_model;
mod table;
mod world;

use std::collections::BTreeSet;

use helixmq::hub::failover::backend::State;

use setup::{Setup, ONE_COPY};
use table::Marks;
use world::World;

/// A lane of the simulated hub; key 0 is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneId {
    pub topic: usize,
    pub key: u8,
}

const SEEDS: usize = 300;

fn scaled(short: usize, full: usize) -> usize {
    let percent = std::env::var("HMQ_TEST_SCALE").map_or(100, |text| text.parse().unwrap());
    (short * percent / 100).clamp(1, full)
}

fn run(seed: u64, marks: &mut Marks) {
    let mut world = World::new(Setup::random(seed), std::mem::take(marks));
    world.run_faults();
    world.run_to_rest();
    *marks = world.marks;
}

fn seeds() -> Vec<u64> {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return vec![seed.parse().unwrap()];
    }
    let known = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let known = known.filter_map(|line| line.split_whitespace().next()).map(|seed| seed.parse().unwrap());
    let count = scaled(SEEDS, 10_000_000) as u64;
    known.chain(1..=count).chain((1..=count / 3).map(|seed| seed + ONE_COPY)).collect()
}

/// Runs a part of the seeds.
fn run_all(seeds: &[u64]) -> Marks {
    let mut marks = Marks::default();
    for seed in seeds {
        run(*seed, &mut marks);
    }
    marks
}

/// Safety while faults go on, and liveness once they have stopped; every row of the tables is met.
#[test]
fn faults_of_every_kind_and_then_rest() {
    let seeds = seeds();
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let part = seeds.len().div_ceil(threads);
    let mut marks = Marks::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = seeds.chunks(part).map(|part| scope.spawn(|| run_all(part))).collect();
        for part in parts {
            match part.join() {
                Ok(met) => marks.merge(met),
                Err(failed) => std::panic::resume_unwind(failed),
            }
        }
    });
    if seeds.len() >= SEEDS {
        let missing = marks.missing();
        assert!(missing.is_empty(), "rows of the tables that no seed has met:\n{}", missing.join("\n"));
    }
}

/// A long backlog is forwarded as fast as the ramp says, and not faster than half of the window.
#[test]
fn a_long_backlog_goes_home_in_the_time_of_the_ramp() {
    let records = 3_000;
    let mut world = World::new(Setup::long(records), Marks::default());
    world.server.late = 0;
    world.fault(nemesis::Fault::Down, 0);
    world.step_until(60, |world| world.checker.open() == 0 && world.published > 0);
    world.heal(nemesis::Fault::Down, 0);
    let begin = world.now;
    world.calm = true;
    while !world.lanes_idle() {
        world.step();
        let since = world.now.since(begin);
        // One wait before the next attempt to connect, the last confirms.
        let bound = world::ramp_time(records, 5_000) + std::time::Duration::from_secs(6);
        assert!(since < bound, "not home after {since:?}");
    }
    // 64, 128, … : five seconds bring 1,984.
    assert!(world.now.since(begin) >= std::time::Duration::from_secs(5), "no slow start");
}

/// One destination that takes records and confirms nothing keeps its server down for nobody else, though
/// its records are all that there is to probe with.
#[test]
fn a_silent_destination_delays_no_other() {
    let mut world = World::new(Setup::quiet(), Marks::default());
    world.server.late = 0;
    world.step_until(5, |world| world.state() == State::Up);
    world.server.dead[0] = broker_model::Dead::Silent;
    world.publish_to(0, 3);
    world.step_until(30, |world| world.stored(0) == 3 && world.state() == State::Forwarding);
    for _ in 0..20 {
        world.publish_to(1, 1);
        world.step_until(1, |world| world.lanes_idle_of(1));
        assert_eq!(world.stored(1), 0);
        let until = world.now.0 + world::SECOND;
        world.step_until(5, |world| world.now.0 > until);
    }
    // A new process knows nothing of that destination, and has nothing else to probe with.
    world.fault(nemesis::Fault::Crash, 0);
    world.step_until(5, |world| world.hub.is_some());
    world.step_until(30, |world| world.state() == State::Forwarding);
    world.run_to_rest();
}

/// A connection that looks alive and brings nothing back is found out, though one destination alone is
/// used, and given up for a better one.
#[test]
fn a_sick_connection_is_given_up() {
    for ill in [broker_model::Ill::Mute, broker_model::Ill::Deaf] {
        let mut world = World::new(Setup::quiet(), Marks::default());
        world.step_until(5, |world| world.state() == State::Up);
        world.publish_to(0, 1);
        world.step_until(5, |world| world.lanes_idle());
        let conns = world.server.conns.values_mut();
        conns.for_each(|conn| conn.ill = Some(ill));
        world.publish_to(0, 3);
        world.step_until(60, |world| world.lanes_idle());
        world.run_to_rest();
    }
}

/// Two lanes, three records, and one fault of each kind at each step.
#[test]
fn one_fault_at_each_step_of_a_small_world() {
    let mut marks = Marks::default();
    let mut seen = BTreeSet::new();
    for fault in nemesis::Fault::ALL {
        for step in 0.. {
            let mut world = World::new(Setup::small(fault as u64), std::mem::take(&mut marks));
            let ended = world.run_small(fault, step);
            world.run_to_rest();
            marks = world.marks;
            seen.insert((fault as u64, step));
            if ended {
                break;
            }
        }
    }
    assert!(seen.len() > 200, "{} interleavings are not all of them", seen.len());
}
