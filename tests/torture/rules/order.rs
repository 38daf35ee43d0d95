//! Rules about the sequence of messages: C4 and C5.

use std::collections::BTreeMap;

use super::Broken;
use crate::history::{Decision, Delivery, Ending, History, Name};
use crate::setup::{Side, CONSUMERS, PREFETCH, WINDOW};

type Lane<'a> = (&'a str, u16, &'a str);

fn lane(name: &Name) -> Lane<'_> {
    (&name.topic, name.producer, &name.key)
}

/// Of one producer and key, first copies reach the server in the order of publishing.
///
/// Kafka tells that order by its offsets. Elsewhere it is seen by the one consumer of an ordered topic.
pub fn c4_order_is_kept(history: &History) -> Vec<Broken> {
    let mut broken = by_offset(history);
    broken.extend(by_sight(history));
    broken
}

fn by_offset(history: &History) -> Vec<Broken> {
    let mut first: BTreeMap<Lane<'_>, BTreeMap<u64, &Delivery>> = BTreeMap::new();
    let from_kafka = |delivery: &&Delivery| {
        history.side(&delivery.name.topic) == Some(Side::Kafka) && !history.is_provisional(delivery)
    };
    for delivery in history.deliveries.iter().filter(from_kafka) {
        let copies = first.entry(lane(&delivery.name)).or_default();
        let known = copies.entry(delivery.name.seq).or_insert(delivery);
        if delivery.offset < known.offset {
            *known = delivery;
        }
    }
    let mut broken = Vec::new();
    for copies in first.values() {
        let mut last: Option<&Delivery> = None;
        for delivery in copies.values() {
            if let Some(before) = last.filter(|before| before.offset > delivery.offset) {
                let text = format!(
                    "offset {} of partition {}, before seq {} of its key at {}",
                    delivery.offset, delivery.partition, before.name.seq, before.offset
                );
                broken.push(Broken::of("C4", &delivery.name, text));
            } else {
                last = Some(delivery);
            }
        }
    }
    broken
}

/// How far a key has come at its consumer.
#[derive(Default)]
struct Seen {
    numbers: std::collections::BTreeSet<u64>,
    most: u64,
    most_redelivered: u64,
}

/// A message that says it was handed over before may be late: its first handing-over went to a connection that was
/// lost, and what the server sent after it by the next one may have been faster. Among those the order holds.
fn by_sight(history: &History) -> Vec<Broken> {
    let mut lanes: BTreeMap<Lane<'_>, Seen> = BTreeMap::new();
    let mut broken = Vec::new();
    for delivery in &history.deliveries {
        let ordered = history.topics.get(&delivery.name.topic);
        if ordered.is_none_or(|topic| !topic.ordered || topic.side == Side::Kafka) {
            continue;
        }
        let seen = lanes.entry(lane(&delivery.name)).or_default();
        let seq = delivery.name.seq;
        if !seen.numbers.insert(seq) {
            continue;
        }
        let before = if delivery.redelivered { seen.most_redelivered } else { seen.most };
        if seq < before {
            let text = format!("first seen after seq {before} of its key (redelivered: {})", delivery.redelivered);
            broken.push(Broken::of("C4", &delivery.name, text));
        }
        seen.most = seen.most.max(seq);
        if delivery.redelivered {
            seen.most_redelivered = seen.most_redelivered.max(seq);
        }
    }
    broken
}

/// How long before a crash an acknowledgement may have been given that the crash took along.
const ACK_UNDER_WAY_US: u64 = 5_000_000;

/// Of all copies of a message at most one bears no mark, and there are not more than the breaks explain.
pub fn c5_copies_have_reasons(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut extra = 0;
    for (name, copies) in history.by_name() {
        extra += copies.len() - 1;
        let unknown = history
            .attempts
            .get(name)
            .is_none_or(|attempt| attempt.outcome().is_none_or(|outcome| outcome.ending == Ending::Unknown));
        if unknown {
            continue;
        }
        let mut plain: Option<&Delivery> = None;
        for (index, copy) in copies.iter().enumerate() {
            let again = copy.offset >= 0
                && copies[..index].iter().any(|other| (other.partition, other.offset) == (copy.partition, copy.offset));
            if copy.redelivered || copy.attempt > 1 || copy.maybe_dup {
                continue;
            }
            // What is made of a provisional copy counts if it is the end of it.
            if history.is_provisional(copy) && copy.decision != Decision::Ack {
                continue;
            }
            match plain {
                Some(before) if !is_explained(history, before, copy, again) => {
                    let times = copies.len();
                    let text = format!(
                        "{times} copies, and two of them without a mark: to {} and, {} ms later, to {} ({})",
                        before.consumer,
                        (copy.at - before.at) / 1000,
                        copy.consumer,
                        if again { "the same offset again" } else { "a second time from its publisher" },
                    );
                    broken.push(Broken::of("C5", name, text));
                }
                _ => plain = Some(copy),
            }
        }
    }
    let most = history.breaks.len() * (WINDOW + PREFETCH * CONSUMERS);
    if extra > most {
        broken.push(Broken::run(
            "C5",
            format!("{extra} second copies, of {} breaks at most {most}", history.breaks.len()),
        ));
    }
    broken
}

/// Whether an unmarked copy may have a predecessor: its acknowledgement went with a crash, or its group's place did.
fn is_explained(history: &History, before: &Delivery, copy: &Delivery, again: bool) -> bool {
    let side = history.side(&before.name.topic);
    let between = history.breaks.iter().filter(|broken| {
        let concerns = side.is_none_or(|side| broken.concerns(side));
        concerns && broken.overlaps(before.at, copy.at)
    });
    let crash = |what: &str| ["kill", "host-kill"].contains(&what);
    between.into_iter().any(|broken| {
        // The place of a group moves by commits, which a member that ends, or a server that is away, may not get through.
        let place = again && side == Some(Side::Kafka);
        place || (crash(&broken.what) && broken.from <= before.at + ACK_UNDER_WAY_US)
    })
}
