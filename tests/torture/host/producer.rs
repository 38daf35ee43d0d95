//! Publishers: each thread publishes to every topic, one by one, in batches and asynchronously, and writes down what
//! it is about to do and what it was told.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use helixmq::config::options::PublisherOptions;
use helixmq::error::{Error, Fate, Result};
use helixmq::hub::{Publisher, Receipt};
use helixmq::message::{HeaderBlock, Record};
use serde_json::json;

use super::message::{Body, HEADER};
use super::mutant::Layer;
use super::{now_us, pass, Host, Numbers};
use crate::history::{Ending, Level, Name, Outcome};
use crate::logs::Log;
use crate::rng::Rng;
use crate::setup::{Side, KEYS};

/// Between two calls of a producer; the servers, and others, share the processor.
const PACE: Duration = Duration::from_millis(20);
/// How long a call may take.
const CALL: Option<Duration> = Some(Duration::from_secs(5));
/// A message with a key of its own, which waits for no other: it shows that a server takes messages again.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// A message that is about to be published.
pub struct Sent {
    pub name: Name,
    pub id: String,
    payload: Vec<u8>,
    headers: HeaderBlock,
}

impl Sent {
    pub fn record(&self) -> Record<'_> {
        let key = Some(self.name.key.as_bytes());
        Record { key, id: &self.id, headers: self.headers.headers(), ..Record::new(&self.payload) }
    }
}

struct Producer {
    host: Arc<Host>,
    index: u16,
    log: Arc<Log>,
    rng: Rng,
    numbers: Numbers,
    /// Of the hub with this number, by topic and whether the server's confirm is required.
    publishers: BTreeMap<(usize, bool), Publisher>,
    generation: u32,
    layer: Layer,
    probes: u64,
}

pub fn run(host: &Arc<Host>, index: u16, numbers: Numbers) {
    let log = Arc::new(Log::create(&host.dir, &format!("publish.{}.{index}.log", host.life)));
    let rng = Rng::new(host.setup.seed ^ (u64::from(host.life) << 32) ^ u64::from(index));
    let layer = Layer::new(host, &log);
    let probes = u64::from(host.life) * 1_000_000;
    let host = Arc::clone(host);
    let mut producer =
        Producer { host, index, log, rng, numbers, publishers: BTreeMap::new(), generation: 0, layer, probes };
    let mut probed = Instant::now();
    while !producer.host.stop.load(Ordering::SeqCst) {
        let host = Arc::clone(&producer.host);
        {
            // Who closes the hub waits for this call, and later calls for it.
            let hub = host.hub.read().unwrap();
            if producer.generation != hub.1 {
                producer.publishers.clear();
                producer.generation = hub.1;
            }
            if index == 0 && probed.elapsed() >= PROBE_EVERY {
                probed = Instant::now();
                producer.probe(&hub.0);
            }
            producer.step(&hub.0);
        }
        pass(PACE);
    }
    producer.layer.end();
}

impl Producer {
    fn step(&mut self, hub: &helixmq::hub::Hub) {
        let topic = self.rng.below(self.host.topics.len() as u64) as usize;
        let require = self.host.topics[topic].side != Side::Embedded && self.rng.chance(5);
        let Some(publisher) = self.publisher(hub, topic, require) else { return };
        let count = if self.rng.chance(60) { 1 } else { self.rng.between(2, 8) };
        let how = self.rng.below(3);
        let sent: Vec<Sent> = (0..count).map(|_| self.next(topic)).collect();
        if self.host.setup.mutant.is_some() {
            sent.into_iter().for_each(|sent| self.layer.send(&publisher, sent));
            return;
        }
        match how {
            0 => sent.iter().for_each(|sent| self.wait_for(&publisher, sent)),
            1 => self.batch(&publisher, &sent),
            _ => sent.into_iter().for_each(|sent| self.later(&publisher, sent)),
        }
    }

    /// One message to each topic, with a key that was never used.
    fn probe(&mut self, hub: &helixmq::hub::Hub) {
        for topic in 0..self.host.topics.len() {
            let Some(publisher) = self.publisher(hub, topic, false) else { continue };
            self.probes += 1;
            let sent = self.named(topic, format!("probe{}", self.probes));
            self.later(&publisher, sent);
        }
    }

    fn publisher(&mut self, hub: &helixmq::hub::Hub, topic: usize, require: bool) -> Option<Publisher> {
        if let Some(known) = self.publishers.get(&(topic, require)) {
            return Some(known.clone());
        }
        let own = &self.host.topics[topic];
        let mut options = json!({"topic": own.name, "kind": own.side.kind()});
        if require {
            options["require"] = json!("broker");
        }
        let made = hub.publisher(PublisherOptions::from_json(&options.to_string()).unwrap()).ok()?;
        self.publishers.insert((topic, require), made.clone());
        Some(made)
    }

    fn next(&mut self, topic: usize) -> Sent {
        let key = format!("k{}", self.rng.below(KEYS));
        self.named(topic, key)
    }

    fn named(&mut self, topic: usize, key: String) -> Sent {
        let topic = self.host.topics[topic].name.clone();
        let last = self.numbers.entry((self.index, topic.clone(), key.clone())).or_default();
        *last += 1;
        let name = Name { topic, producer: self.index, key, seq: *last };
        // The first producer gives ids, the library makes those of the others.
        let given = self.index == 0;
        let id = if given { format!("{}-{}-{}", self.host.setup.run, now_us(), name.seq) } else { String::new() };
        let padding = self.rng.below(200) as usize;
        let payload = Body::write(&self.host.setup.run, &name, padding);
        let mut headers = HeaderBlock::default();
        headers.push(HEADER, name.seq.to_string().as_bytes());
        Sent { name, id, payload, headers }
    }

    fn wait_for(&self, publisher: &Publisher, sent: &Sent) {
        self.log.intent(&sent.name, &sent.id);
        let result = publisher.send(&sent.record(), CALL);
        told(&self.host, &self.log, &sent.name, result);
    }

    fn later(&self, publisher: &Publisher, sent: Sent) {
        later(&self.host, &self.log, publisher, sent);
    }

    /// A batch tells a status for each record and no level, so the least is written down.
    fn batch(&self, publisher: &Publisher, sent: &[Sent]) {
        sent.iter().for_each(|sent| self.log.intent(&sent.name, &sent.id));
        let records: Vec<Record<'_>> = sent.iter().map(Sent::record).collect();
        let mut each = vec![0_i32; records.len()];
        let (_, failed) = publisher.send_batch(&records, CALL, Some(&mut each));
        for (sent, status) in sent.iter().zip(each) {
            let mut outcome = outcome_of_status(status, failed.as_ref());
            outcome.id.clone_from(&sent.id);
            self.log.outcome(&sent.name, &outcome);
        }
    }
}

/// Publishes without waiting; the outcome is written down when it is told.
pub fn later(host: &Arc<Host>, log: &Arc<Log>, publisher: &Publisher, sent: Sent) {
    log.intent(&sent.name, &sent.id);
    hand_over(host, log, publisher, sent);
}

/// The same, of a message whose intent is written down.
pub fn hand_over(host: &Arc<Host>, log: &Arc<Log>, publisher: &Publisher, sent: Sent) {
    host.under_way.fetch_add(1, Ordering::SeqCst);
    let (of, at, name) = (Arc::clone(host), Arc::clone(log), sent.name.clone());
    let done = move |result: Result<Receipt>| {
        told(&of, &at, &name, result);
        of.under_way.fetch_sub(1, Ordering::SeqCst);
    };
    if let Err(error) = publisher.send_async(&sent.record(), Box::new(done)) {
        told(host, log, &sent.name, Err(error));
        host.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

fn told(host: &Host, log: &Log, name: &Name, result: Result<Receipt>) {
    let outcome = match result {
        Ok(receipt) => {
            let level = level(receipt.level);
            if receipt.spooled {
                let kept = if level == Level::Memory { &host.keeps_in_memory } else { &host.keeps_on_disk };
                kept.store(true, Ordering::SeqCst);
            }
            let id = receipt.id.text().as_str().to_owned();
            Outcome {
                at: now_us(),
                ending: Ending::Confirmed,
                level,
                spooled: receipt.spooled,
                id,
                kind: String::new(),
            }
        }
        Err(error) => failed(&error),
    };
    log.outcome(name, &outcome);
}

fn level(level: helixmq::broker::Level) -> Level {
    match level {
        helixmq::broker::Level::Memory => Level::Memory,
        helixmq::broker::Level::Disk => Level::Disk,
        helixmq::broker::Level::Broker => Level::Broker,
        _ => Level::None,
    }
}

/// An error that names no outcome is one of the call: nothing was taken.
fn failed(error: &Error) -> Outcome {
    let ending = match error.fate() {
        Some(Fate::Refused) => Ending::Refused,
        Some(Fate::Unknown) => Ending::Unknown,
        Some(Fate::NotSent) | None => Ending::NotSent,
    };
    let kind = error.kind().name().to_owned();
    Outcome { at: now_us(), ending, level: Level::None, spooled: false, id: String::new(), kind }
}

fn outcome_of_status(status: i32, failed_with: Option<&Error>) -> Outcome {
    if status == 0 {
        let level = Level::Memory;
        return Outcome {
            at: now_us(),
            ending: Ending::Confirmed,
            level,
            spooled: false,
            id: String::new(),
            kind: String::new(),
        };
    }
    let kind = helixmq::error::Kind::ALL.iter().copied().find(|kind| kind.code() == status);
    let fate = match (failed_with.filter(|error| Some(error.kind()) == kind), kind) {
        (Some(error), _) => return failed(error),
        (None, Some(kind)) if kind.flags() & helixmq::error::UNKNOWN_OUTCOME != 0 => Ending::Unknown,
        _ => Ending::NotSent,
    };
    let kind = kind.map_or_else(|| status.to_string(), |kind| kind.name().to_owned());
    Outcome { at: now_us(), ending: fate, level: Level::None, spooled: false, id: String::new(), kind }
}
