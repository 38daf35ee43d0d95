//! The checker tested on made-up histories: each rule passes a peaceful one, and fails those that break it, alone.

use crate::history::{
    Attempt, Break, Counters, Decision, Delivery, Ending, History, Level, Name, Outcome, Partition, Traits, Usage,
};
use crate::nemesis::{plan, Fault};
use crate::options::{parse, Job};
use crate::rules;
use crate::setup::{Pairing, Side, PRODUCERS, SPOOL_BYTES_MAX, WINDOW};

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
            let hole = |at: u64| (20 * SECOND..27 * SECOND).contains(&at);
            history.attempts.retain(|_, own| !hole(own.at));
            history.deliveries.retain(|own| !hole(own.at));
            // Offsets that are missing would be another matter.
            history.partitions.clear();
        })
    }),
    ("C10: memory", || breaks("C10", |history| history.after.rss *= 3)),
    ("C10: descriptors", || breaks("C10", |history| history.after.descriptors += 1)),
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

const SECOND: u64 = 1_000_000;
const TASKS: &str = "tasks.made-up";
const EVENTS: &str = "events.made-up";
/// Messages of each topic, one a second.
const COUNT: u64 = 60;

fn name(topic: &str, seq: u64) -> Name {
    Name { topic: topic.to_owned(), producer: 0, key: "k".to_owned(), seq }
}

/// Two topics, each message published, confirmed and delivered once.
fn peaceful() -> History {
    let mut history = History {
        run: "run".to_owned(),
        load: (SECOND, COUNT * SECOND),
        before: Usage { rss: 100 << 20, descriptors: 20, threads: 10 },
        after: Usage { rss: 101 << 20, descriptors: 20, threads: 10 },
        counters: vec![Counters {
            hub: "1.1".to_owned(),
            spooled: 9,
            forwarded: 7,
            local_done: 2,
            ..Counters::default()
        }],
        left: vec![(TASKS.to_owned(), 0)],
        partitions: vec![Partition {
            topic: EVENTS.to_owned(),
            partition: 0,
            end: COUNT as i64,
            committed: Some(COUNT as i64),
        }],
        ..History::default()
    };
    history.topics.insert(TASKS.to_owned(), Traits { side: Side::Rabbitmq, ordered: true });
    history.topics.insert(EVENTS.to_owned(), Traits { side: Side::Kafka, ordered: true });
    for seq in 1..=COUNT {
        for topic in [TASKS, EVENTS] {
            publish(&mut history, topic, seq);
        }
    }
    // Of no consequence, but for the bounds that follow from their number.
    history.breaks.push(Break { from: 0, to: 1, side: None, consumer: false, what: "reopen".to_owned() });
    history
}

fn publish(history: &mut History, topic: &str, seq: u64) {
    let (name, at, id) = (name(topic, seq), seq * SECOND, format!("{topic}-{seq}"));
    let outcome = Outcome {
        at: at + 1000,
        ending: Ending::Confirmed,
        level: Level::Broker,
        spooled: false,
        id: id.clone(),
        kind: String::new(),
    };
    let attempt = Attempt { name: name.clone(), life: 1, at, id: String::new(), outcomes: vec![outcome] };
    history.attempts.insert(name.clone(), attempt);
    history.deliveries.push(Delivery {
        name,
        run: "run".to_owned(),
        at: at + 2000,
        life: 1,
        consumer: "one".to_owned(),
        decision: Decision::Ack,
        redelivered: false,
        attempt: 1,
        maybe_dup: false,
        partition: 0,
        offset: if topic == EVENTS { seq as i64 - 1 } else { -1 },
        id,
        intact: true,
    });
}

/// Faults, kept messages, unknown outcomes, marked copies.
fn stormy() -> History {
    let mut history = peaceful();
    fault(&mut history, "kill", 10, 14);
    for seq in 10..=15 {
        let outcome = outcome(&mut history, seq);
        (outcome.level, outcome.spooled) = (Level::Memory, true);
    }
    told(&mut history, 10, Ending::Unknown);
    copy(&mut history, TASKS, 9, |own| own.maybe_dup = true);
    // Its acknowledgement went with the server.
    copy(&mut history, TASKS, 8, |own| own.at = 16 * SECOND);
    history
}

/// The host was killed, and one message of its first life is gone.
fn killed(level: Level) -> History {
    let mut history = peaceful();
    history.kills.insert(1, 8 * SECOND);
    outcome(&mut history, 7).level = level;
    history.deliveries.retain(|own| own.name != name(TASKS, 7));
    history
}

fn swapped_tasks(history: &mut History) {
    let (seventh, eighth) = (at(history, TASKS, 7), at(history, TASKS, 8));
    history.deliveries[seventh].at += 2 * SECOND;
    history.deliveries.swap(seventh, eighth);
}

/// Its first handing-over went to a connection that was lost.
fn late_redelivery() -> History {
    let mut history = peaceful();
    swapped_tasks(&mut history);
    each(&mut history, 7, |own| own.redelivered = true);
    history
}

/// An event that is read twice; with the end of a consumer between, or without.
fn again(consumer: bool) -> History {
    let mut history = peaceful();
    copy(&mut history, EVENTS, 7, |own| own.at += 3 * SECOND);
    if consumer {
        let (from, side) = (8 * SECOND, Some(Side::Kafka));
        history.breaks.push(Break { from, to: from + 1000, side, consumer: true, what: "consumer away".to_owned() });
    }
    history
}

fn many_unknown() -> History {
    let mut history = peaceful();
    let most = (WINDOW + PRODUCERS) as u64;
    for seq in COUNT + 1..=COUNT + most + 1 {
        publish(&mut history, TASKS, seq);
        told(&mut history, seq, Ending::Unknown);
    }
    // One fault that was there all the time.
    history.breaks.clear();
    fault(&mut history, "pause", 0, COUNT + most + 2);
    history
}

fn fault(history: &mut History, what: &str, from: u64, to: u64) {
    let side = Some(Side::Rabbitmq);
    let broken = Break { from: from * SECOND, to: to * SECOND, side, consumer: false, what: what.to_owned() };
    history.breaks.push(broken);
}

fn at(history: &History, topic: &str, seq: u64) -> usize {
    history.deliveries.iter().position(|own| own.name == name(topic, seq)).unwrap()
}

fn attempt(history: &mut History, seq: u64) -> &mut Attempt {
    history.attempts.get_mut(&name(TASKS, seq)).unwrap()
}

fn outcome(history: &mut History, seq: u64) -> &mut Outcome {
    &mut attempt(history, seq).outcomes[0]
}

fn told(history: &mut History, seq: u64, ending: Ending) {
    outcome(history, seq).ending = ending;
}

/// Changes all deliveries of a task.
fn each(history: &mut History, seq: u64, change: impl Fn(&mut Delivery)) {
    history.deliveries.iter_mut().filter(|own| own.name == name(TASKS, seq)).for_each(change);
}

/// A second copy of a message, with its own offset where that matters to no other rule.
fn copy(history: &mut History, topic: &str, seq: u64, change: impl Fn(&mut Delivery)) {
    let index = at(history, topic, seq);
    let mut again = history.deliveries[index].clone();
    again.at += 1000;
    change(&mut again);
    let place = history.deliveries.partition_point(|own| own.at <= again.at);
    history.deliveries.insert(place, again);
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
