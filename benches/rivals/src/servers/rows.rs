//! The rows: which load, which peers, which minimum.

use std::cell::RefCell;
use std::time::Duration;

use helixmq_rivals::pairs::{compare, Comparison, Plan, Sample};
use helixmq_rivals::report::{measure, Row};

use super::go::Go;
use super::lapin::{ChannelAck, Client, DeliveryAck, PolledOnce, Usual};
use super::load::{Consumes, Load, Publishes, RoundTrips, Server, To};
use super::ours::Ours;
use super::rabbitmq_c::RabbitmqC;

const SMALL: usize = 100;
const KIB: usize = 1 << 10;
const LARGE: usize = 64 << 10;

/// A topic of events that nobody has subscribed to.
const UNBOUND: &str = "bench.unbound";
pub const CLASSIC: &str = "bench.classic";
const QUORUM: &str = "bench.quorum";

const LAPIN_POLLED: &str = "lapin, futures polled once";
const LAPIN_USUAL: &str = "lapin, usual loop";
const RABBITMQ_C: &str = "rabbitmq-c";
const RABBITMQ_C_DRESSED: &str = "rabbitmq-c, properties as ours";
const GO: &str = "amqp091-go, NotifyPublish";

/// All sides, and what they have come to.
pub struct Rows {
    server: Server,
    plan: Plan,
    ours: Ours,
    lapin: Client,
    rabbitmq_c: RabbitmqC,
    go: Option<Go>,
    pub done: Vec<Row>,
}

impl Rows {
    pub fn new(server: Server, plan: Plan, go: Option<String>) -> Self {
        let ours = Ours::open(server, "classic");
        ours.declare(CLASSIC);
        let mut rows = Self {
            server,
            plan,
            ours,
            lapin: Client::open(server),
            rabbitmq_c: RabbitmqC::open(server),
            go: go.map(|path| Go::start(&path, server)),
            done: Vec::new(),
        };
        // The first event makes the exchange that the peers publish to.
        rows.ours.fill(&unbound(SMALL, 1), 1);
        rows
    }

    /// Measures the rows of these names; all, if there are none.
    pub fn measure(&mut self, only: &[String]) {
        // R7 is the cost of R1.
        let only: Vec<String> = only.iter().map(|word| word.replace("R7", "R1")).collect();
        measure(
            self,
            &[
                ("R1", Self::unbound_small),
                ("R2", Self::classic),
                ("R3", Self::quorum),
                ("R4", Self::unbound_large),
                ("R5", Self::consume),
                ("R6", Self::round_trips),
            ],
            &only,
            "R1 to R7",
        );
        // Those of R7 come with R1.
        self.done.sort_by_key(|row| row.id);
    }

    fn unbound_small(&mut self) {
        let load = unbound(SMALL, 1_000);
        let what = "confirmed publish, 100 B, no queue, window 1000";
        self.published("R1", what, &load, Peer::LapinPolled, Some(0.95));
        let usual = self.published("R1", what, &load, Peer::LapinUsual, Some(3.5));
        let c = self.published("R1", what, &load, Peer::RabbitmqC, Some(0.85));
        self.published("R1", what, &Load { dressed: true, ..load }, Peer::RabbitmqC, None);
        self.published("R1", what, &load, Peer::Go, Some(2.5));
        self.cost(LAPIN_USUAL, usual, 3.0);
        self.cost(RABBITMQ_C, c, 0.5);

        let (load, what) = (unbound(SMALL, 5_000), "confirmed publish, 100 B, no queue, window 5000");
        self.published("R1", what, &load, Peer::LapinPolled, Some(0.95));
        self.published("R1", what, &load, Peer::RabbitmqC, Some(0.85));
    }

    fn classic(&mut self) {
        for (bytes, size) in [(SMALL, "100 B"), (KIB, "1 KiB")] {
            let load = classic(bytes);
            let what = format!("confirmed publish, {size}, classic queue, window 1000");
            self.published("R2", &what, &load, Peer::RabbitmqC, Some(1.0));
            if bytes == SMALL {
                let dressed = Load { dressed: true, ..load };
                self.published("R2", &what, &dressed, Peer::RabbitmqC, None);
                self.published("R2", &what, &load, Peer::LapinPolled, None);
            }
            self.published("R2", &what, &load, Peer::LapinUsual, Some(1.5));
            self.published("R2", &what, &load, Peer::Go, Some(1.4));
        }
        self.ours.purge(CLASSIC);
    }

    fn quorum(&mut self) {
        let quorum = Ours::open(self.server, "quorum");
        quorum.declare(QUORUM);
        let classic = std::mem::replace(&mut self.ours, quorum);
        let load = Load { topic: QUORUM, to: To::Queue, bytes: KIB, window: 1_000, dressed: false };
        let what = "confirmed publish, 1 KiB, quorum queue, window 1000";
        self.published("R3", what, &load, Peer::LapinPolled, None);
        self.published("R3", what, &load, Peer::LapinUsual, Some(1.0));
        self.ours.purge(QUORUM);
        self.ours = classic;
    }

    fn unbound_large(&mut self) {
        let load = unbound(LARGE, 200);
        let what = "confirmed publish, 64 KiB, no queue, window 200";
        self.published("R4", what, &load, Peer::RabbitmqC, Some(1.0));
        self.published("R4", what, &load, Peer::LapinPolled, None);
        self.published("R4", what, &load, Peer::LapinUsual, Some(1.2));
    }

    fn consume(&mut self) {
        let one_thread = Client::open_on_one_thread(self.server);
        // As many as ours takes in about the time of a side.
        let count = (self.plan.time.as_millis() as usize * 30).max(3_000);
        let load = classic(SMALL);
        let what = "consume and acknowledge each, 100 B, classic queue, prefetch 1000";
        for (mut peer, name, minimum) in [
            (Box::new(DeliveryAck(&self.lapin)) as Box<dyn Consumes>, "lapin, Delivery::ack each", Some(2.0)),
            (Box::new(DeliveryAck(&one_thread)), "lapin, the same, current-thread runtime", None),
            (Box::new(ChannelAck(&self.lapin)), "lapin, basic_ack each", Some(1.2)),
        ] {
            let ours = RefCell::new(&mut self.ours);
            // Every turn begins with the same queue, filled by ours.
            let filled = || {
                let mut ours = ours.borrow_mut();
                ours.purge(CLASSIC);
                ours.fill(&load, count);
                ours
            };
            let comparison = compare(
                self.plan,
                |_| filled().consume(CLASSIC, count),
                |_| {
                    drop(filled());
                    peer.consume(CLASSIC, count)
                },
            );
            drop(peer);
            self.done.push(row("R5", what, name, &comparison, rates(&comparison), minimum));
        }
    }

    fn round_trips(&mut self) {
        let load = unbound(SMALL, 1);
        let what = "confirm round trip, one in flight, p50";
        let micros = |comparison: &Comparison| {
            (format!("{:.1} µs", comparison.ours.value), format!("{:.1} µs", comparison.peer.value))
        };
        let (ours, c, lapin) = (&mut self.ours, &mut self.rabbitmq_c, &self.lapin);
        let against_c = compare(self.plan, |time| ours.round_trips(&load, time), |time| c.round_trips(&load, time));
        let against_lapin =
            compare(self.plan, |time| ours.round_trips(&load, time), |time| Usual(lapin).round_trips(&load, time));
        for (mut comparison, name, minimum) in [(against_c, RABBITMQ_C, 0.7), (against_lapin, "lapin", 0.95)] {
            comparison.ratio = comparison.ratio.inverse();
            let values = micros(&comparison);
            self.done.push(row("R6", what, name, &comparison, values, Some(minimum)));
        }
    }

    /// Compares ours with one peer by the rate of confirmed publishes. `None`: there is no such peer.
    fn published(
        &mut self,
        id: &'static str,
        what: &str,
        load: &Load,
        peer: Peer,
        minimum: Option<f64>,
    ) -> Option<Comparison> {
        let (name, mut polled, mut usual);
        let side: &mut dyn Publishes = match peer {
            Peer::LapinPolled => {
                polled = PolledOnce(&self.lapin);
                name = LAPIN_POLLED;
                &mut polled
            }
            Peer::LapinUsual => {
                usual = Usual(&self.lapin);
                name = LAPIN_USUAL;
                &mut usual
            }
            Peer::RabbitmqC => {
                name = if load.dressed { RABBITMQ_C_DRESSED } else { RABBITMQ_C };
                &mut self.rabbitmq_c
            }
            Peer::Go => {
                name = GO;
                self.go.as_mut()?
            }
        };
        let ours = RefCell::new(&mut self.ours);
        // Each side finds an empty queue.
        let ready = || {
            if load.to == To::Queue {
                ours.borrow().purge(load.topic);
            }
        };
        let comparison = compare(
            self.plan,
            |time| {
                ready();
                ours.borrow_mut().publish(load, time)
            },
            |time| {
                ready();
                side.publish(load, time)
            },
        );
        self.done.push(row(id, what, name, &comparison, rates(&comparison), minimum));
        Some(comparison)
    }

    fn cost(&mut self, peer: &str, comparison: Option<Comparison>, minimum: f64) {
        let Some(mut comparison) = comparison else { return };
        comparison.ratio = comparison.cpu_ratio.inverse();
        let micros = |sample: Sample| format!("{:.2} µs", sample.cpu_us);
        let values = (micros(comparison.ours), micros(comparison.peer));
        let what = "processor time of the client per message of R1, window 1000";
        self.done.push(row("R7", what, peer, &comparison, values, Some(minimum)));
    }
}

#[derive(Clone, Copy)]
enum Peer {
    LapinPolled,
    LapinUsual,
    RabbitmqC,
    Go,
}

/// Prints and answers a row; one without a minimum has no verdict.
pub fn row(
    id: &'static str,
    what: &str,
    peer: &str,
    comparison: &Comparison,
    values: (String, String),
    minimum: Option<f64>,
) -> Row {
    let mut row = Row::of_ratio(id, (what, peer), values, comparison, comparison.ratio, minimum.unwrap_or(1.0));
    if minimum.is_none() {
        row.minimum = "–".into();
        row.verdict = String::new();
    }
    row.print();
    row
}

/// Into a classic queue, as R2 is.
pub fn classic(bytes: usize) -> Load {
    Load { topic: CLASSIC, to: To::Queue, bytes, window: 1_000, dressed: false }
}

fn unbound(bytes: usize, window: usize) -> Load {
    Load { topic: UNBOUND, to: To::Nobody, bytes, window, dressed: false }
}

/// Messages per second of both sides.
pub fn rates(comparison: &Comparison) -> (String, String) {
    let rate = |sample: Sample| format!("{:.1} k/s", sample.value / 1e3);
    (rate(comparison.ours), rate(comparison.peer))
}

/// One side alone.
pub fn solo(server: Server, side: &str, mode: &str, time: Duration) {
    let mut ours = Ours::open(server, "classic");
    ours.declare(CLASSIC);
    ours.purge(CLASSIC);
    // Makes the exchange, as for the rows.
    ours.fill(&unbound(SMALL, 1), 1);
    let mut load = match mode {
        "publish" => unbound(SMALL, 1_000),
        "large" => unbound(LARGE, 200),
        "round-trip" => unbound(SMALL, 1),
        "queue" | "consume" => classic(SMALL),
        other => panic!("no mode is named {other}"),
    };
    let sample = match (side, mode) {
        ("ours", "round-trip") => ours.round_trips(&load, time),
        ("ours", "consume") => {
            let count = (time.as_secs_f64() * 30_000.0) as usize;
            ours.fill(&load, count);
            ours.consume(CLASSIC, count)
        }
        ("ours", _) => ours.publish(&load, time),
        ("lapin", "round-trip") => Usual(&Client::open(server)).round_trips(&load, time),
        ("lapin", _) => PolledOnce(&Client::open(server)).publish(&load, time),
        ("lapin-usual", _) => Usual(&Client::open(server)).publish(&load, time),
        ("rabbitmq-c", "round-trip") => RabbitmqC::open(server).round_trips(&load, time),
        ("rabbitmq-c", _) => RabbitmqC::open(server).publish(&load, time),
        ("rabbitmq-c-dressed", _) => {
            load.dressed = true;
            RabbitmqC::open(server).publish(&load, time)
        }
        (other, _) => panic!("no side is named {other}"),
    };
    ours.purge(CLASSIC);
    println!(
        "{side} {mode}: {:.1} per second (round trips: µs), {:.3} µs of processor and {:.1} switches per 1,000",
        sample.value, sample.cpu_us, sample.switches
    );
}
