//! Made-up histories, and what is done to them, for the checker's own test.

use crate::history::{
    Attempt, Break, Counters, Decision, Delivery, Ending, History, Level, Name, Outcome, Partition, Traits, Usage,
};
use crate::setup::{Side, PRODUCERS, WINDOW};

pub const SECOND: u64 = 1_000_000;
pub const TASKS: &str = "tasks.made-up";
pub const EVENTS: &str = "events.made-up";
/// Messages of each topic, one a second.
pub const COUNT: u64 = 60;

pub fn name(topic: &str, seq: u64) -> Name {
    Name { topic: topic.to_owned(), producer: 0, key: "k".to_owned(), seq }
}

/// Two topics, each message published, confirmed and delivered once.
pub fn peaceful() -> History {
    let mut history = History {
        run: "run".to_owned(),
        slack: 1,
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

pub fn publish(history: &mut History, topic: &str, seq: u64) {
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
pub fn stormy() -> History {
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
pub fn killed(level: Level) -> History {
    let mut history = peaceful();
    history.kills.insert(1, 8 * SECOND);
    outcome(&mut history, 7).level = level;
    history.deliveries.retain(|own| own.name != name(TASKS, 7));
    history
}

pub fn swapped_tasks(history: &mut History) {
    let (seventh, eighth) = (at(history, TASKS, 7), at(history, TASKS, 8));
    history.deliveries[seventh].at += 2 * SECOND;
    history.deliveries.swap(seventh, eighth);
}

/// Its first handing-over went to a connection that was lost.
pub fn late_redelivery() -> History {
    let mut history = peaceful();
    swapped_tasks(&mut history);
    each(&mut history, 7, |own| own.redelivered = true);
    history
}

/// An event that is read twice; with the end of a consumer between, or without.
pub fn again(consumer: bool) -> History {
    let mut history = peaceful();
    copy(&mut history, EVENTS, 7, |own| own.at += 3 * SECOND);
    if consumer {
        let (from, side) = (8 * SECOND, Some(Side::Kafka));
        history.breaks.push(Break { from, to: from + 1000, side, consumer: true, what: "consumer away".to_owned() });
    }
    history
}

pub fn many_unknown() -> History {
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

pub fn fault(history: &mut History, what: &str, from: u64, to: u64) {
    let side = Some(Side::Rabbitmq);
    let broken = Break { from: from * SECOND, to: to * SECOND, side, consumer: false, what: what.to_owned() };
    history.breaks.push(broken);
}

pub fn at(history: &History, topic: &str, seq: u64) -> usize {
    history.deliveries.iter().position(|own| own.name == name(topic, seq)).unwrap()
}

pub fn attempt(history: &mut History, seq: u64) -> &mut Attempt {
    history.attempts.get_mut(&name(TASKS, seq)).unwrap()
}

pub fn outcome(history: &mut History, seq: u64) -> &mut Outcome {
    &mut attempt(history, seq).outcomes[0]
}

pub fn told(history: &mut History, seq: u64, ending: Ending) {
    outcome(history, seq).ending = ending;
}

/// Changes all deliveries of a task.
pub fn each(history: &mut History, seq: u64, change: impl Fn(&mut Delivery)) {
    history.deliveries.iter_mut().filter(|own| own.name == name(TASKS, seq)).for_each(change);
}

/// A second copy of a message, with its own offset where that matters to no other rule.
pub fn copy(history: &mut History, topic: &str, seq: u64, change: impl Fn(&mut Delivery)) {
    let index = at(history, topic, seq);
    let mut again = history.deliveries[index].clone();
    again.at += 1000;
    change(&mut again);
    let place = history.deliveries.partition_point(|own| own.at <= again.at);
    history.deliveries.insert(place, again);
}
