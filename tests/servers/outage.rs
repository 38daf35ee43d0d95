//! What tests of outages share: a server that is taken away and brought back, and what came of numbered messages.

use std::collections::{BTreeMap, BTreeSet};

use helixmq::error::Result;
use helixmq::hub::Receipt;

use super::*;

/// A server and what it carries.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub name: &'static str,
    pub kind: TopicKind,
}

pub(super) const RABBITMQ: Side = Side { name: "rabbitmq", kind: TopicKind::Task };
pub(super) const KAFKA: Side = Side { name: "kafka", kind: TopicKind::Event };

/// The server is away until this is dropped, and comes back by that word.
pub(super) struct Away(Side, &'static str);

impl Side {
    pub fn alone(self) -> MutexGuard<'static, ()> {
        match self.name {
            "kafka" => kafka::alone(),
            _ => super::alone(),
        }
    }

    pub fn does(self, what: &str) {
        tool(&format!("{}.sh", self.name), &[what]);
    }

    pub fn away(self, how: &str) -> Away {
        self.does(how);
        Away(self, if how == "pause" { "resume" } else { "start" })
    }

    /// A hub that keeps what its server cannot take.
    pub fn hub(self, more: Value) -> Hub {
        let server = match self.name {
            "kafka" => json!({"kafka": {"brokers": [format!("127.0.0.1:{}", kafka::port())]}}),
            _ => json!({"rabbitmq": {"host": "127.0.0.1", "port": port()}}),
        };
        let mut config = json!({"connection_timeout_ms": 5000, "fallback_to_inmemory": true});
        config.as_object_mut().unwrap().extend(server.as_object().unwrap().clone());
        open_over(config, more)
    }

    pub fn topic(self) -> String {
        match self.name {
            "kafka" => kafka::topic(),
            _ => super::topic(),
        }
    }

    pub fn publish(self, hub: &Hub, topic: &str, key: &str, payload: &str) -> Result<Receipt> {
        let record = Record { key: Some(key.as_bytes()), ..Record::new(payload.as_bytes()) };
        hub.publish(topic, Some(self.kind), &record, None, WAIT)
    }

    /// Everything of a topic, taken by a hub of its own until `count` different ones have come.
    pub fn all(self, topic: &str, count: usize, more: Value) -> Seen {
        self.gather_until(topic, more, |seen| seen.times.len() >= count, |seen| seen.missing(count))
    }

    /// Everything of a topic, taken until all of these have come.
    pub fn gather(self, topic: &str, told: &[u64]) -> Seen {
        let told: BTreeSet<u64> = told.iter().copied().collect();
        let missing = |seen: &Seen| told.iter().filter(|own| !seen.times.contains_key(own)).copied().take(20).collect();
        let is_all =
            |seen: &Seen| seen.times.len() >= told.len() && told.iter().all(|own| seen.times.contains_key(own));
        self.gather_until(topic, json!({}), is_all, missing)
    }

    fn gather_until(
        self,
        topic: &str,
        more: Value,
        is_all: impl Fn(&Seen) -> bool,
        missing: impl Fn(&Seen) -> Vec<u64>,
    ) -> Seen {
        let hub = self.hub(more);
        until("a connection", || is_up(&hub));
        let inbox = inbox(&hub);
        let options = json!({"topic": topic, "kind": self.kind.name(), "group": "all", "prefetch": 1000});
        let _sub = subscribe(&hub, options, &inbox);
        let mut seen = Seen::default();
        while !is_all(&seen) {
            let Some(incoming) = next_within(&inbox, Duration::from_secs(30)) else {
                panic!("{} came; of those missing {:?}", seen.times.len(), missing(&seen));
            };
            seen.add(&incoming);
        }
        while let Some(incoming) = next_within(&inbox, Duration::from_millis(500)) {
            seen.add(&incoming);
        }
        hub.close(WAIT).unwrap();
        seen
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would end all tests, and hide the first.
            drop(std::panic::catch_unwind(|| self.0.does(self.1)));
        } else {
            self.0.does(self.1);
        }
    }
}

/// What came of numbered messages, `key` being the number modulo [`KEYS`].
#[derive(Default)]
pub(super) struct Seen {
    pub times: BTreeMap<u64, (usize, usize)>,
    latest: BTreeMap<u64, u64>,
    overtakes: Vec<(u64, u64)>,
}

const KEYS: u64 = 7;

impl Seen {
    fn add(&mut self, incoming: &Incoming) {
        ack(incoming);
        let number: u64 = text(incoming).parse().unwrap();
        let (times, marked) = self.times.entry(number).or_default();
        *times += 1;
        *marked += usize::from(incoming.message.maybe_dup());
        if *times == 1 {
            let latest = self.latest.entry(number % KEYS).or_insert(number);
            if number < *latest {
                self.overtakes.push((number, *latest));
            }
            *latest = number;
        }
    }

    pub fn missing(&self, count: usize) -> Vec<u64> {
        (0..count as u64).filter(|number| !self.times.contains_key(number)).take(20).collect()
    }

    /// As [`check_order_and_marks`](Self::check_order_and_marks), and none of so many is lost.
    pub fn check(&self, count: usize) -> usize {
        assert_eq!(self.missing(count), [0; 0], "lost");
        self.check_order_and_marks()
    }

    /// None overtakes, and every pair has a copy that says so; answers how many pairs.
    pub fn check_order_and_marks(&self) -> usize {
        assert_eq!(self.overtakes, [], "number, and the later one of its key that came before");
        let pairs: Vec<_> = self.times.iter().filter(|(_, (times, _))| *times > 1).collect();
        assert!(pairs.iter().all(|(_, (times, marked))| *times <= marked + 1), "unmarked second copies: {pairs:?}");
        pairs.len()
    }
}

pub(super) fn key(number: u64) -> String {
    (number % KEYS).to_string()
}

pub(super) fn forwarded(hub: &Hub) {
    let done = hub.wait_forwarded(Some(Duration::from_secs(60)));
    assert!(done.is_ok(), "{done:?} {}", own(hub));
}

pub(super) fn publisher_of(hub: &Hub, side: Side, topic: &str) -> Publisher {
    let options = json!({"topic": topic, "kind": side.kind.name()});
    hub.publisher(PublisherOptions::from_json(&options.to_string()).unwrap()).unwrap()
}
