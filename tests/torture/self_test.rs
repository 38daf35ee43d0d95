//! The checker tested on made-up histories: each rule passes a peaceful one, and fails those that break it, alone.

use crate::history::{Attempt, Break, Decision, Ending, History, Level, Name};
use crate::made_up::{
    again, at, attempt, copy, each, fault, killed, late_redelivery, many_unknown, name, outcome, peaceful, stormy,
    swapped_tasks, told, EVENTS, SECOND, TASKS,
};
use crate::nemesis::{plan, Fault};
use crate::options::{parse, Job};
use crate::rules;
use crate::setup::{Pairing, SPOOL_BYTES_MAX};

/// A test: its name, and what it finds wrong with the checker.
type Case = (&'static str, fn() -> Result<(), String>);

const CASES: &[Case] = &[
    ("a peaceful history keeps all rules", || keeps(&peaceful())),
    ("a history of faults keeps all rules", || keeps(&stormy())),
    ("C1: confirmed and never delivered", || {
        breaks("C1", |history| history.deliveries.retain(|own| own.name != name(TASKS, 7)))
    }),
    ("C1: given back, and not seen again", || {
        breaks("C1", |history| each(history, 7, |own| own.decision = Decision::Retry))
    }),
    ("C1: confirmed in memory, and the host was killed", || keeps(&killed(Level::Memory))),
    ("C1: confirmed on disk, and the host was killed", || breaks_in("C1", &killed(Level::Disk))),
    ("C1: confirmed by the server, and the host was killed", || breaks_in("C1", &killed(Level::Broker))),
    ("C2: delivered and never published", || breaks("C2", |history| drop(history.attempts.remove(&name(TASKS, 7))))),
    ("C2: a message of another run", || breaks("C2", |history| each(history, 7, |own| own.run = "other".to_owned()))),
    ("C3: refused and delivered", || breaks("C3", |history| told(history, 7, Ending::Refused))),
    ("C3: not sent and delivered", || breaks("C3", |history| told(history, 7, Ending::NotSent))),
    ("C4: tasks that change places", || breaks("C4", swapped_tasks)),
    ("C4: a late redelivery is allowed", || keeps(&late_redelivery())),
    ("C4: redelivered tasks that change places", || {
        breaks("C4", |history| {
            swapped_tasks(history);
            history.deliveries.iter_mut().for_each(|own| own.redelivered = true);
        })
    }),
    ("C4: events that change places", || {
        breaks("C4", |history| {
            let (seventh, eighth) = (at(history, EVENTS, 7), at(history, EVENTS, 8));
            history.deliveries[seventh].offset = 7;
            history.deliveries[eighth].offset = 6;
        })
    }),
    ("C5: a second copy without a mark", || breaks("C5", |history| copy(history, TASKS, 7, |_| {}))),
    ("C5: a second copy with a mark", || kept_with(|history| copy(history, TASKS, 7, |own| own.maybe_dup = true))),
    ("C5: a redelivery", || kept_with(|history| copy(history, TASKS, 7, |own| own.redelivered = true))),
    ("C5: of an unknown one", || {
        kept_with(|history| {
            told(history, 7, Ending::Unknown);
            copy(history, TASKS, 7, |_| {});
        })
    }),
    ("C5: the same offset again, in peace", || breaks_in("C5", &again(false))),
    ("C5: the same offset again, after its consumer had gone", || keeps(&again(true))),
    ("C5: more copies than breaks explain", || {
        breaks("C5", |history| {
            for _ in 0..700 {
                copy(history, TASKS, 7, |own| own.maybe_dup = true);
            }
        })
    }),
    ("C6: a damaged payload", || breaks("C6", |history| each(history, 7, |own| own.intact = false))),
    ("C6: an id that is not the receipt's", || breaks("C6", |history| each(history, 7, |own| own.id = "x".to_owned()))),
    ("C6: two copies with two ids", || {
        breaks("C6", |history| {
            outcome(history, 7).id.clear();
            copy(history, TASKS, 7, |own| {
                own.maybe_dup = true;
                own.id = "second".to_owned();
            });
        })
    }),
    ("C7: no outcome", || breaks("C7", |history| attempt(history, 7).outcomes.clear())),
    ("C7: no outcome, as the host was killed", || {
        let mut history = killed(Level::Memory);
        attempt(&mut history, 7).outcomes.clear();
        keeps(&history)
    }),
    ("C7: two outcomes", || {
        breaks("C7", |history| {
            let again = outcome(history, 7).clone();
            attempt(history, 7).outcomes.push(again);
        })
    }),
    ("C7: an outcome of no publish", || breaks("C7", |history| history.strays.push("O 1 …".to_owned()))),
    ("C8: unknown without a fault", || {
        breaks("C8", |history| {
            history.breaks.clear();
            told(history, 7, Ending::Unknown);
        })
    }),
    ("C8: more unknown than a fault can have", || breaks_in("C8", &many_unknown())),
    ("C9: no confirm after a fault", || {
        breaks("C9", |history| {
            fault(history, "stop", 30, 31);
            let late = |own: &mut Attempt| own.outcomes[0].level = Level::Memory;
            history.attempts.values_mut().filter(|own| own.at >= 31 * SECOND).for_each(late);
        })
    }),
    ("C9: a hole in peace", || {
        breaks("C9", |history| {
            let hole = |at: u64| (20 * SECOND..29 * SECOND).contains(&at);
            history.attempts.retain(|_, own| !hole(own.at));
            history.deliveries.retain(|own| !hole(own.at));
            // Offsets that are missing would be another matter.
            history.partitions.clear();
        })
    }),
    ("C9: a hole in which its producers wait for another server", || {
        kept_with(|history| {
            let hole = |name: &Name, at: u64| name.topic == TASKS && (20 * SECOND..29 * SECOND).contains(&at);
            history.attempts.retain(|name, own| !hole(name, own.at));
            history.deliveries.retain(|own| !hole(&own.name, own.at));
            for seq in [20, 24] {
                // Which then publishes nothing else.
                history.attempts.get_mut(&name(EVENTS, seq)).unwrap().outcomes[0].at = (seq + 4) * SECOND;
                let behind = |own: &Name| own.topic == EVENTS && (seq + 1..seq + 4).contains(&own.seq);
                history.attempts.retain(|name, _| !behind(name));
                history.deliveries.retain(|own| !behind(&own.name));
            }
            history.partitions.clear();
        })
    }),
    ("C9: a hole in which they publish to another server", || {
        breaks("C9", |history| {
            let hole = |name: &Name, at: u64| name.topic == TASKS && (20 * SECOND..29 * SECOND).contains(&at);
            history.attempts.retain(|name, own| !hole(name, own.at));
            history.deliveries.retain(|own| !hole(&own.name, own.at));
            history.attempts.get_mut(&name(EVENTS, 20)).unwrap().outcomes[0].at = 28 * SECOND;
        })
    }),
    ("C10: memory", || breaks("C10", |history| history.after.rss *= 3)),
    ("C10: descriptors", || breaks("C10", |history| history.after.descriptors += 5)),
    ("C10: a connection of each client of Kafka, after the warm-up", || {
        kept_with(|history| history.after.descriptors += 4)
    }),
    ("C10: threads", || breaks("C10", |history| history.after.threads += 1)),
    ("C10: the spool", || breaks("C10", |history| history.spool_bytes_most = SPOOL_BYTES_MAX + 1)),
    ("C11: kept, and neither sent nor there", || breaks("C11", |history| history.counters[0].forwarded -= 1)),
    ("C11: left in the spool", || {
        breaks("C11", |history| {
            history.counters[0].forwarded -= 1;
            history.counters[0].records += 1;
        })
    }),
    ("C11: left in a queue", || breaks("C11", |history| history.left[0].1 = 3)),
    ("C12: an offset that nobody read", || breaks("C12", |history| history.partitions[0].end += 1)),
    ("C12: an event whose provisional copy was the end of it", || {
        kept_with(|history| {
            let seventh = at(history, EVENTS, 7);
            history.deliveries[seventh].offset = -1;
        })
    }),
    ("C5: a provisional copy that was given back, and the real one", || {
        kept_with(|history| shown_as_well(history, Decision::Retry))
    }),
    ("C5: a provisional copy that was the end of it, and the real one", || {
        breaks("C5", |history| shown_as_well(history, Decision::Ack))
    }),
    ("C12: a place before the end", || breaks("C12", |history| history.partitions[0].committed = Some(3))),
    ("C12: no place at all", || breaks("C12", |history| history.partitions[0].committed = None)),
    ("rest: stuck", || breaks("rest", |history| history.stuck = Some("17 in the spool".to_owned()))),
    ("a seed makes one plan, within its bounds", plans_are_bounded),
    ("the logs tell what happened", logs_are_read_back),
    ("options", options_are_read),
];

/// Runs all; prints what fails, and a line for whoever counts.
pub fn run() -> bool {
    let mut failed = 0;
    for (name, case) in CASES {
        if let Err(why) = case() {
            failed += 1;
            println!("{name}: FAILED: {why}");
        }
    }
    println!("torture, the checker's own test: {} passed, {failed} failed", CASES.len() - failed);
    failed == 0
}

fn keeps(history: &History) -> Result<(), String> {
    match rules::check(history).first() {
        None => Ok(()),
        Some(broken) => Err(format!("{} is broken: {}", broken.rule, broken.text)),
    }
}

fn kept_with(change: impl Fn(&mut History)) -> Result<(), String> {
    let mut history = peaceful();
    change(&mut history);
    keeps(&history)
}

fn breaks(rule: &str, change: impl Fn(&mut History)) -> Result<(), String> {
    let mut history = peaceful();
    change(&mut history);
    breaks_in(rule, &history)
}

/// This rule, and no other.
fn breaks_in(rule: &str, history: &History) -> Result<(), String> {
    let broken = rules::check(history);
    match broken.iter().find(|broken| broken.rule != rule) {
        Some(other) => Err(format!("{} is broken, too: {}", other.rule, other.text)),
        None if broken.is_empty() => Err(format!("{rule} holds")),
        None => Ok(()),
    }
}

/// A provisional copy of an event, beside the real one.
fn shown_as_well(history: &mut History, decision: Decision) {
    copy(history, EVENTS, 7, |own| (own.offset, own.decision) = (-1, decision));
}

fn plans_are_bounded() -> Result<(), String> {
    for seed in 0..200 {
        for pairing in [Pairing::Rabbitmq, Pairing::Kafka, Pairing::Both] {
            let made = plan(seed, 60_000, pairing, true, &[]);
            if made != plan(seed, 60_000, pairing, true, &[]) {
                return Err(format!("seed {seed} makes two plans"));
            }
            if let Some(late) = made.iter().find(|step| step.at >= 60_000) {
                return Err(format!("seed {seed}: {late:?} is after the load"));
            }
            let mut of_host = plan(seed, 60_000, pairing, false, &[]).into_iter().map(|step| step.fault);
            if of_host.any(|fault| matches!(fault, Fault::HostKill | Fault::DiskFull)) {
                return Err(format!("seed {seed}: a host that keeps nothing on disk is killed"));
            }
            let only = plan(seed, 60_000, pairing, true, &["kill".to_owned()]);
            if let Some(other) = only.iter().find(|step| step.fault.name() != "kill") {
                return Err(format!("seed {seed}: {other:?} was not asked for"));
            }
        }
    }
    let counts = (0..200).map(|seed| plan(seed, 60_000, Pairing::Rabbitmq, false, &[]).len()).sum::<usize>();
    let mean = counts as f64 / 200.0;
    if !(3.0..=7.0).contains(&mean) {
        return Err(format!("{mean} faults in a minute"));
    }
    Ok(())
}

fn logs_are_read_back() -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("helixmq-torture-logs-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut told = stormy();
    told.breaks.retain(|broken| broken.consumer);
    told.breaks.push(Break { from: 5, to: 6, side: None, consumer: true, what: "two words".to_owned() });
    told.counters.truncate(1);
    let (publisher, consumer) =
        (crate::logs::Log::create(&dir, "publish.1.0.log"), crate::logs::Log::create(&dir, "consume.1.one.log"));
    for attempt in told.attempts.values_mut() {
        publisher.intent(&attempt.name, &attempt.id);
        attempt.outcomes.iter().for_each(|outcome| publisher.outcome(&attempt.name, outcome));
    }
    told.deliveries.iter().for_each(|delivery| consumer.delivery(delivery));
    told.breaks.iter().for_each(|broken| consumer.break_(broken));
    told.counters.iter().for_each(|counters| consumer.counters(counters));
    publisher.line("no line of this program".to_owned());
    let mut read = History::default();
    crate::logs::read(&dir, &mut read);
    let _ = std::fs::remove_dir_all(&dir);
    // When a publish began is written by the log itself.
    for (name, attempt) in &mut read.attempts {
        attempt.at = told.attempts[name].at;
    }
    if read.attempts != told.attempts || read.breaks != told.breaks || read.counters != told.counters {
        return Err("publishes, breaks or counters are not what was written".to_owned());
    }
    if read.deliveries != told.deliveries {
        return Err("deliveries are not what was written".to_owned());
    }
    if read.strays.len() != 1 {
        return Err(format!("{:?} do not fit", read.strays));
    }
    Ok(())
}

fn options_are_read() -> Result<(), String> {
    let parsed = |line: &str| parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let wrong = |line: &str| parsed(line).is_err();
    let is = |line: &str, expected: fn(&Job) -> bool| parsed(line).is_ok_and(|job| expected(&job));
    let right = is("--test-threads 4", |job| matches!(job, Job::SelfTest))
        && is("", |job| matches!(job, Job::SelfTest))
        && is("--help", |job| matches!(job, Job::Help))
        && is("--mutant all", |job| matches!(job, Job::Mutants(_)))
        && is(
            "--pairing both --spool disk --minutes 0.5 --seed 7 --faults kill,reset",
            |job| matches!(job, Job::Run(own) if own.disk && own.seed == 7 && own.faults.len() == 2 && own.minutes < 1.0),
        );
    let refused = ["--seed", "--seed x", "--minutes 0", "--pairing none", "--faults fire", "--seed 1 --colour red"];
    match refused.iter().find(|line| !wrong(line)) {
        Some(line) => Err(format!("`{line}` is taken")),
        None if !right => Err("an option is not read as it is meant".to_owned()),
        None => Ok(()),
    }
}
