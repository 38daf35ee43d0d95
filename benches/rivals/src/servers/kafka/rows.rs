//! The rows: which load, which peers, which minimum.

use std::rc::Rc;
use std::time::Duration;

use helixmq_rivals::pairs::{compare, Plan};
use helixmq_rivals::report::{measure, Row};

use super::cluster::{Cluster, NATIVE, PLAIN};
use super::load::{Codec, Load, Publishes};
use super::ours::Ours;
use super::performance::{self, Producer};
use super::rdkafka::{Futures, Stream};
use crate::load::{Consumes, Server};
use crate::rows::{rates, row};

const SMALL: usize = 100;
const KIB: usize = 1 << 10;
const LARGE: usize = 64 << 10;

/// The usual window, and rdkafka_performance's own.
pub const WINDOW: usize = 10_000;
const WINDOW_WIDE: usize = 100_000;
/// Of the largest messages, 32 MiB.
const WINDOW_LARGE: usize = 500;

/// All sides, and what they have come to.
pub struct Rows {
    plan: Plan,
    cluster: Rc<Cluster>,
    lz4: Ours,
    none: Ours,
    start_ms: f64,
    pub done: Vec<Row>,
}

impl Rows {
    pub fn new(server: Server, plan: Plan) -> Self {
        let cluster = Cluster::open(server);
        let start_ms = performance::start_ms(&cluster);
        let (lz4, none) = (Ours::open(&cluster, Codec::Lz4), Ours::open(&cluster, Codec::None));
        Self { plan, cluster, lz4, none, start_ms, done: Vec::new() }
    }

    /// Measures the rows of these names; all, if there are none.
    pub fn measure(&mut self, only: &[String]) {
        measure(
            self,
            &[("K1", Self::named), ("K1b", Self::plain), ("K2", Self::larger), ("K3", Self::consume)],
            only,
            "K1, K1b, K2, K3",
        );
    }

    fn named(&mut self) {
        for codec in [Codec::Lz4, Codec::None] {
            let load = load(SMALL, WINDOW, codec);
            self.published("K1", "100 B with an id", &load, Peer::Performance, Some(0.9));
            self.published("K1", "100 B with an id", &wide(&load), Peer::Performance, Some(0.9));
            self.published("K1", "100 B with an id", &load, Peer::Futures(None), Some(1.5));
            if codec == Codec::Lz4 {
                self.published("K1", "100 B with an id", &load, Peer::Futures(Some(0)), None);
            }
        }
    }

    fn plain(&mut self) {
        for codec in [Codec::Lz4, Codec::None] {
            let load = Load { named: false, ..load(SMALL, WINDOW, codec) };
            self.published("K1b", "100 B, plain", &load, Peer::Performance, Some(1.0));
            self.published("K1b", "100 B, plain", &wide(&load), Peer::Performance, Some(1.0));
            self.published("K1b", "100 B, plain", &load, Peer::Futures(None), Some(2.0));
        }
    }

    fn larger(&mut self) {
        for (bytes, window, what) in [(KIB, WINDOW, "1 KiB with an id"), (LARGE, WINDOW_LARGE, "64 KiB with an id")] {
            let load = Load { copied: true, ..load(bytes, window, Codec::Lz4) };
            self.published("K2", what, &load, Peer::Performance, Some(0.9));
            self.published("K2", what, &load, Peer::Futures(None), Some(1.3));
        }
    }

    fn consume(&mut self) {
        let topic = self.cluster.topic(NATIVE);
        // As many as take about the time of a side.
        let count = (self.plan.time.as_millis() as usize * 2_000).max(50_000);
        self.lz4.fill(&Load { topic: topic.name.clone(), ..load(SMALL, WINDOW, Codec::Lz4) }, count);
        let what = "consume 100 B with an id, lz4";
        let peers: [(Box<dyn Consumes>, &str, Option<f64>); 4] = [
            (Box::new(Stream::open(&self.cluster, None)), "StreamConsumer", Some(1.8)),
            (Box::new(Stream::open(&self.cluster, Some(10))), "StreamConsumer, fetch.queue.backoff.ms 10", Some(1.8)),
            (Box::new(performance::Consumer::open(&self.cluster, false)), "rdkafka_performance -C", Some(0.7)),
            (Box::new(performance::Consumer::open(&self.cluster, true)), "rdkafka_performance -G", None),
        ];
        for (mut peer, name, minimum) in peers {
            let ours = &mut self.lz4;
            let comparison =
                compare(self.plan, |_| ours.consume(&topic.name, count), |_| peer.consume(&topic.name, count));
            self.done.push(row("K3", what, name, &comparison, rates(&comparison), minimum));
        }
    }

    /// Compares ours with one peer by the rate of delivered messages, on a topic of their own.
    fn published(&mut self, id: &'static str, what: &str, load: &Load, peer: Peer, minimum: Option<f64>) {
        let topic = self.cluster.topic(if load.named { NATIVE } else { PLAIN });
        let load = Load { topic: topic.name.clone(), ..load.clone() };
        let ours = match load.codec {
            Codec::Lz4 => &mut self.lz4,
            Codec::None => &mut self.none,
        };
        // The time of ours begins when the topic has been found; so does that of the peers.
        ours.fill(&load, 1);
        let (mut side, name): (Box<dyn Publishes>, String) = match peer {
            Peer::Performance => {
                let name = if load.copied { "rdkafka_performance -D" } else { "rdkafka_performance" };
                (Box::new(Producer::open(self.cluster.server, self.start_ms, &load)), name.into())
            }
            Peer::Futures(linger) => {
                let linger_of = linger.map_or(String::new(), |ms| format!(", linger.ms {ms}"));
                (Box::new(Futures::open(&self.cluster, &load, linger)), format!("FutureProducer{linger_of}"))
            }
        };
        let comparison = compare(self.plan, |time| ours.publish(&load, time), |time| side.publish(&load, time));
        let what = format!("produce {what}, {}, window {}", compression(load.codec), load.window);
        self.done.push(row(id, &what, &name, &comparison, rates(&comparison), minimum));
    }
}

#[derive(Clone, Copy)]
enum Peer {
    /// rdkafka_performance.
    Performance,
    /// FutureProducer, with that linger.ms.
    Futures(Option<u32>),
}

fn compression(codec: Codec) -> &'static str {
    match codec {
        Codec::Lz4 => "lz4",
        Codec::None => "no compression",
    }
}

/// With an id, on a topic yet to be named.
pub fn load(bytes: usize, window: usize, codec: Codec) -> Load {
    Load { topic: String::new(), bytes, window, codec, named: true, copied: false }
}

fn wide(load: &Load) -> Load {
    Load { window: WINDOW_WIDE, ..load.clone() }
}

/// Ours alone.
pub fn solo(server: Server, mode: &str, time: Duration) {
    let cluster = Cluster::open(server);
    let (begin, load) = match mode {
        "publish" | "kept" | "consume" => (NATIVE, load(SMALL, WINDOW, Codec::Lz4)),
        "plain" => (PLAIN, load(SMALL, WINDOW, Codec::Lz4)),
        "large" => (NATIVE, load(LARGE, WINDOW_LARGE, Codec::Lz4)),
        other => panic!("no mode is named {other}: publish, kept, plain, large, consume"),
    };
    let topic = cluster.topic(begin);
    let load = Load { topic: topic.name.clone(), ..load };
    let mut ours = Ours::opened(&cluster, load.codec, mode == "kept");
    ours.fill(&load, 1);
    let sample = if mode == "consume" {
        let count = (time.as_secs_f64() * 1e6) as usize;
        ours.fill(&load, count);
        ours.consume(&load.topic, count + 1)
    } else {
        ours.publish(&load, time)
    };
    println!(
        "ours {mode}: {:.1} per second, {:.3} µs of processor and {:.1} switches per 1,000",
        sample.value, sample.cpu_us, sample.switches
    );
}
