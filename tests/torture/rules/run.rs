//! Rules about the run as a whole: C8 to C12, and that it comes to rest.

use std::collections::{BTreeMap, BTreeSet};

use super::Broken;
use crate::history::{Break, Decision, Ending, History, Level, Partition};
use crate::setup::{Side, CONSUMERS, PRODUCERS, SPOOL_BYTES_MAX, WINDOW};

const SECOND: u64 = 1_000_000;
/// A server that is back must take messages within this, times the slack of the run.
const RECOVERY: u64 = 15 * SECOND;
/// In peace something must be confirmed, and delivered, within this; a time in which all producers waited for another
/// server does not count.
const HOLE: u64 = 8 * SECOND;

fn recovery(history: &History) -> u64 {
    RECOVERY * history.slack
}

pub fn c8_unknown_has_a_cause(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut count = 0;
    for attempt in history.attempts.values() {
        let Some(outcome) = attempt.outcome().filter(|outcome| outcome.ending == Ending::Unknown) else { continue };
        count += 1;
        let Some(side) = history.side(&attempt.name.topic) else { continue };
        if !history.faults(side).any(|fault| fault.overlaps(attempt.at.saturating_sub(recovery(history)), outcome.at)) {
            broken.push(Broken::of("C8", &attempt.name, format!("unknown ({}), and no fault near it", outcome.kind)));
        }
    }
    let faults = history.breaks.iter().filter(|broken| !broken.consumer).count();
    if count > faults * (WINDOW + PRODUCERS) {
        broken.push(Broken::run("C8", format!("{count} unknown outcomes of {faults} faults")));
    }
    broken
}

/// After each fault, when the server took messages again; and the longest silence in peace.
pub fn c9_it_goes_on(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    for side in sides(history) {
        for (fault, took) in recoveries(history, side) {
            if took.is_none_or(|took| took > recovery(history)) {
                let (side, what, limit) = (side.name(), &fault.what, recovery(history) / SECOND);
                let text = format!("{side}: {what} was over, and no publish reached the server within {limit} s");
                broken.push(Broken::run("C9", text));
            }
        }
        let elsewhere = elsewhere(history, side);
        for (what, times) in [("confirmed", confirmed(history, side, false)), ("delivered", delivered(history, side))] {
            for (from, to) in calm(history, side) {
                let hole = longest_hole(&times, &elsewhere, from, to);
                if hole > HOLE * history.slack {
                    let text = format!("{}: nothing {what} for {} ms in peace", side.name(), hole / 1000);
                    broken.push(Broken::run("C9", text));
                }
            }
        }
    }
    broken
}

fn sides(history: &History) -> Vec<Side> {
    let mut all: Vec<Side> = history.topics.values().map(|topic| topic.side).collect();
    all.sort();
    all.dedup();
    all
}

/// Faults after which there was time to recover, and how long that took.
fn recoveries(history: &History, side: Side) -> Vec<(&Break, Option<u64>)> {
    let ready = confirmed(history, side, side != Side::Embedded);
    let mut all = Vec::new();
    for fault in history.faults(side) {
        let took = ready.iter().find(|at| **at >= fault.to).map(|at| at - fault.to);
        let deadline = fault.to + recovery(history);
        let disturbed = history.faults(side).any(|other| other != fault && other.overlaps(fault.to, deadline));
        if took.is_some_and(|took| took <= recovery(history)) || (!disturbed && deadline <= history.load.1) {
            all.push((fault, took));
        }
    }
    all
}

/// The longest time from the end of a fault to the next message that its server took, in microseconds.
pub fn worst_recovery(history: &History) -> Option<u64> {
    let times = sides(history).into_iter().flat_map(|side| recoveries(history, side));
    times.filter_map(|(_, took)| took).max()
}

/// When publishes were confirmed; `by_server`: by the server itself.
fn confirmed(history: &History, side: Side, by_server: bool) -> Vec<u64> {
    let own = history.attempts.values().filter(|attempt| history.side(&attempt.name.topic) == Some(side));
    let told = own.filter_map(|attempt| attempt.outcome()).filter(|outcome| outcome.ending == Ending::Confirmed);
    let mut times: Vec<u64> =
        told.filter(|outcome| !by_server || outcome.level == Level::Broker).map(|outcome| outcome.at).collect();
    times.sort_unstable();
    times
}

fn delivered(history: &History, side: Side) -> Vec<u64> {
    let own = history.deliveries.iter().filter(|delivery| history.side(&delivery.name.topic) == Some(side));
    own.map(|delivery| delivery.at).collect()
}

/// The parts of the load in which no fault was, nor had been for as long as recovery may take.
fn calm(history: &History, side: Side) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut from = history.load.0;
    for fault in history.faults(side) {
        if fault.from > from {
            parts.push((from, fault.from));
        }
        from = from.max(fault.to + recovery(history));
    }
    parts.push((from, history.load.1));
    parts.retain(|(from, to)| from < to);
    parts
}

/// A call that takes longer than the first waits for its server; none may take longer than the second.
const WAITS: (u64, u64) = (SECOND, 6 * SECOND);
/// The calls of one batch, or of one step, begin within this.
const STEP: u64 = SECOND / 10;

/// When every producer waited for another server than this, in a call: nothing could come to this one.
fn elsewhere(history: &History, side: Side) -> Vec<(u64, u64)> {
    let mut begun: BTreeMap<u16, BTreeSet<u64>> = BTreeMap::new();
    for own in history.attempts.values() {
        begun.entry(own.name.producer).or_default().insert(own.at);
    }
    let mut waits: BTreeMap<u16, Vec<(u64, u64)>> = begun.keys().map(|producer| (*producer, Vec::new())).collect();
    for own in history.attempts.values() {
        let producer = own.name.producer;
        let (Some(begun), Some(waits)) = (begun.get(&producer), waits.get_mut(&producer)) else { continue };
        let ended = own.outcome().map_or(own.at, |outcome| outcome.at).min(own.at + WAITS.1);
        // One that does not wait goes on with others.
        let is_waited_for = ended > own.at + WAITS.0 && begun.range(own.at + STEP..ended).next().is_none();
        if history.side(&own.name.topic) != Some(side) && is_waited_for {
            waits.push((own.at, ended));
        }
    }
    let all = waits.into_values().map(joined).reduce(|one, other| both(&one, &other));
    all.unwrap_or_default()
}

/// In order, and none within, or beside, another.
fn joined(mut parts: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    parts.sort_unstable();
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (from, to) in parts {
        match all.last_mut().filter(|last| from <= last.1) {
            Some(last) => last.1 = last.1.max(to),
            None => all.push((from, to)),
        }
    }
    all
}

fn both(one: &[(u64, u64)], other: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let common = |a: &(u64, u64), b: &(u64, u64)| (a.0.max(b.0), a.1.min(b.1));
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| common(a, b)));
    pairs.filter(|(from, to)| from < to).collect()
}

/// The longest time in which nothing came, without those in which nothing could.
fn longest_hole(times: &[u64], elsewhere: &[(u64, u64)], from: u64, to: u64) -> u64 {
    let mut last = from;
    let mut longest = 0;
    for at in times.iter().copied().filter(|at| (from..to).contains(at)).chain([to]) {
        let waited: u64 = both(elsewhere, &[(last, at)]).iter().map(|(from, to)| to - from).sum();
        longest = longest.max(at - last - waited);
        last = at;
    }
    longest
}

/// What a full spool takes, and the buffers of both connections to RabbitMQ (8 MiB each), which fill up in the course
/// of a run.
const RSS_SLACK: u64 = SPOOL_BYTES_MAX + (16 << 20);

/// A client of Kafka, of which the publisher and each consumer have one, connects where it must: to whom it was given,
/// to the leader, to the coordinator; after the warm-up some have a connection, and what wakes it, yet to come.
fn late_connections(history: &History) -> u64 {
    let topics: Vec<_> = history.topics.values().filter(|topic| topic.side == Side::Kafka).collect();
    let consumers: usize = topics.iter().map(|topic| if topic.ordered { 1 } else { CONSUMERS }).sum();
    let clients = if topics.is_empty() { 0 } else { consumers + 1 };
    2 * clients as u64
}

pub fn c10_nothing_grows(history: &History) -> Vec<Broken> {
    let (before, after) = (history.before, history.after);
    let mut broken = Vec::new();
    let most = before.rss + before.rss / 20 + RSS_SLACK;
    if after.rss > most {
        let text = format!("memory: {} KiB after the warm-up, {} KiB at the end", before.rss >> 10, after.rss >> 10);
        broken.push(Broken::run("C10", text));
    }
    if after.descriptors > before.descriptors + late_connections(history) {
        let [first, last] = &history.kinds;
        let more = last.iter().filter(|(kind, count)| first.get(*kind).copied().unwrap_or_default() < **count);
        let more: Vec<String> = more.map(|(kind, count)| format!("{count} × {kind}")).collect();
        let (first, last) = (before.descriptors, after.descriptors);
        let text = format!("descriptors: {first} after the warm-up, {last} at the end; grown to {}", more.join(", "));
        broken.push(Broken::run("C10", text));
    }
    if after.threads > before.threads {
        let text = format!("threads: {} after the warm-up, {} at the end", before.threads, after.threads);
        broken.push(Broken::run("C10", text));
    }
    if history.spool_bytes_most > SPOOL_BYTES_MAX {
        let text = format!("spool: {} bytes, of {SPOOL_BYTES_MAX} at most", history.spool_bytes_most);
        broken.push(Broken::run("C10", text));
    }
    broken
}

/// What was kept was forwarded, done here, or is told; and nothing is left in a queue.
pub fn c11_the_books_agree(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    for own in &history.counters {
        let gone = own.forwarded + own.expired + own.evicted + own.refused + own.failed + own.local_done;
        if own.spooled != gone + own.records {
            broken.push(Broken::run("C11", format!("kept is not what went and what is left: {own:?}")));
        }
    }
    if let Some(last) = history.counters.last().filter(|last| last.records > 0) {
        broken.push(Broken::run("C11", format!("{} messages are left in the spool", last.records)));
    }
    for (queue, count) in history.left.iter().filter(|(_, count)| *count > 0) {
        broken.push(Broken::run("C11", format!("{count} messages are left in {queue}")));
    }
    broken
}

/// Every offset of a partition was handed over (nothing is skipped), and the group's place is behind the last. Of what a
/// group has handled as a provisional copy, it is not handed the real ones.
pub fn c12_offsets_agree(history: &History) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut spared: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in history.partitions.iter().map(|own| own.topic.as_str()).collect::<BTreeSet<_>>() {
        let shown = history.deliveries.iter().filter(|own| own.name.topic == topic && history.is_provisional(own));
        let done = shown.filter(|own| own.decision == Decision::Ack).map(|own| &own.name).collect::<BTreeSet<_>>();
        spared.insert(topic, COPIES_MAX * done.len());
    }
    for own in &history.partitions {
        let Partition { topic, partition, end, committed } = own;
        let read = read_of(history, own);
        let skipped: Vec<i64> = (0..*end).filter(|offset| !read.contains(offset)).collect();
        let spared = spared.entry(topic).or_default();
        if skipped.len() > *spared {
            let some = &skipped[..skipped.len().min(10)];
            broken.push(Broken::run("C12", format!("{topic} partition {partition}: not read, of {end}: {some:?} …")));
        }
        *spared = spared.saturating_sub(skipped.len());
        if let Some(beyond) = read.iter().find(|offset| **offset >= *end) {
            broken.push(Broken::run("C12", format!("{topic} partition {partition} ends at {end}; {beyond} was read")));
        }
        if committed.unwrap_or(0) != *end {
            let text = format!("{topic} partition {partition} ends at {end}; the group's place is {committed:?}");
            broken.push(Broken::run("C12", text));
        }
    }
    broken
}

/// So often may one event be in its log, after outcomes that were not known.
const COPIES_MAX: usize = 3;

/// The offsets of a partition that consumers were handed.
fn read_of(history: &History, partition: &Partition) -> BTreeSet<i64> {
    let own = history.deliveries.iter().filter(|delivery| {
        let is_of = delivery.name.topic == partition.topic && delivery.partition == partition.partition;
        is_of && !history.is_provisional(delivery)
    });
    own.map(|delivery| delivery.offset).collect()
}

/// How many offsets of a topic nobody was handed.
pub fn unread(history: &History, topic: &str) -> i64 {
    let own = history.partitions.iter().filter(|partition| partition.topic == topic);
    own.map(|partition| partition.end - read_of(history, partition).len() as i64).sum()
}

pub fn it_comes_to_rest(history: &History) -> Vec<Broken> {
    history.stuck.iter().map(|why| Broken::run("rest", why.clone())).collect()
}
