//! What goes wrong, when, and for how long: a plan that follows from the seed alone.

use crate::rng::Rng;
use crate::setup::{Pairing, Side};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill(Side),
    Stop(Side),
    Pause(Side),
    Reset,
    Blackhole,
    Alarm,
    Reopen,
    HostKill,
    DiskFull,
}

/// Whom a fault hits; never two at once. The network before RabbitMQ counts as RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Server(Side),
    Host,
}

impl Fault {
    /// As the option names it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::Stop(_) => "stop",
            Fault::Pause(_) => "pause",
            Fault::Reset => "reset",
            Fault::Blackhole => "blackhole",
            Fault::Alarm => "alarm",
            Fault::Reopen => "reopen",
            Fault::HostKill => "host-kill",
            Fault::DiskFull => "disk-full",
        }
    }

    /// Whom it concerns; none: the host, and all.
    pub fn side(self) -> Option<Side> {
        match self {
            Fault::Kill(side) | Fault::Stop(side) | Fault::Pause(side) => Some(side),
            Fault::Reset | Fault::Blackhole | Fault::Alarm => Some(Side::Rabbitmq),
            Fault::Reopen | Fault::HostKill | Fault::DiskFull => None,
        }
    }

    fn all_of(target: Target, disk: bool) -> Vec<Fault> {
        match target {
            Target::Server(side) => {
                let mut all = vec![Fault::Kill(side), Fault::Stop(side), Fault::Pause(side)];
                if side == Side::Rabbitmq {
                    all.extend([Fault::Reset, Fault::Blackhole, Fault::Alarm]);
                }
                all
            }
            // In memory, a host that is killed loses what its receipts said it may.
            Target::Host if disk => vec![Fault::Reopen, Fault::HostKill, Fault::DiskFull],
            Target::Host => vec![Fault::Reopen],
        }
    }
}

/// One fault of a plan; times in milliseconds from the end of the warm-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub target: Target,
    pub fault: Fault,
    pub at: u64,
    pub lasts: u64,
    /// Chooses among variants of a fault.
    pub variant: u64,
}

/// So long after a fault its target is left alone at least: a server moments after its start is another matter.
pub const GAP: u64 = 4_000;
/// Starting a server takes about so long, for the number of faults in a run.
const START: f64 = 8_000.0;

/// The faults of a run, by target. `faults`: only these; empty: all that fit.
pub fn plan(seed: u64, load_ms: u64, pairing: Pairing, disk: bool, faults: &[String]) -> Vec<Step> {
    let servers = pairing.sides();
    let targets = servers.iter().map(|side| Target::Server(*side)).chain([Target::Host]);
    let mut all = Vec::new();
    for (number, target) in targets.enumerate() {
        let mut rng = Rng::new(seed.wrapping_mul(31).wrapping_add(number as u64));
        // Some five faults in the shortest runs, and up to some hundred in long ones.
        let share = if target == Target::Host { 3.0 } else { 5.0 / servers.len() as f64 };
        let mean = (load_ms as f64 / share - START).clamp(3_000.0, 25_000.0);
        let mut known = Fault::all_of(target, disk);
        known.retain(|fault| faults.is_empty() || faults.iter().any(|name| name == fault.name()));
        all.extend(of_target(&mut rng, target, &known, load_ms, mean));
    }
    all.sort_by_key(|step| step.at);
    all
}

fn of_target(rng: &mut Rng, target: Target, known: &[Fault], load_ms: u64, mean: f64) -> Vec<Step> {
    let (mut steps, mut bag) = (Vec::new(), Vec::new());
    let mut at = 0.0;
    let longest = (load_ms / 10).clamp(2_000, 20_000);
    while !known.is_empty() {
        // Exponential, so that some come soon after each other and some late.
        at += -mean * (1.0 - rng.below(1_000_000) as f64 / 1_000_000.0).ln();
        if at as u64 + 1_000 >= load_ms {
            break;
        }
        // One period in four is calm.
        if rng.chance(25) {
            continue;
        }
        if bag.is_empty() {
            bag = known.to_vec();
        }
        let fault = bag.swap_remove(rng.below(bag.len() as u64) as usize);
        let lasts = rng.between(1_000, longest);
        steps.push(Step { target, fault, at: at as u64, lasts, variant: rng.next() });
        at += lasts as f64 + START;
    }
    steps
}
