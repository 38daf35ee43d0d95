//! What is published, the same on every side, and what a side can do with it.

use std::time::Duration;

use helixmq_rivals::pairs::{quartiles, Sample};

/// Address of the server: its plain listener on this machine, user `guest`.
#[derive(Clone, Copy)]
pub struct Server {
    pub port: u16,
}

pub const HOST: &str = "127.0.0.1";
/// One of the benchmarks' own, which `benches/servers.sh` makes: nothing is bound there.
pub const VHOST: &str = "hmq-bench";
/// Largest frame, on every side.
pub const FRAME_MAX: u32 = 128 << 10;

/// One kind of message and where it goes. Every side sends it as persistent.
#[derive(Clone, Copy)]
pub struct Load {
    /// The topic of ours, and the routing key of the peers.
    pub topic: &'static str,
    pub to: To,
    pub bytes: usize,
    /// Publishes that are not confirmed, at most.
    pub window: usize,
    /// The peer's messages carry the properties that ours have (rabbitmq-c only).
    pub dressed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The exchange of events, where nobody has bound anything.
    Nobody,
    /// The queue of that name.
    Queue,
}

impl Load {
    /// As the server knows it.
    pub fn exchange(&self) -> &'static str {
        match self.to {
            To::Nobody => "hmq.events",
            To::Queue => "",
        }
    }

    /// As helixmq publishes tasks.
    pub fn mandatory(&self) -> bool {
        self.to == To::Queue
    }

    pub fn body(&self) -> Vec<u8> {
        vec![b'x'; self.bytes]
    }
}

/// A client that publishes and follows the confirms.
pub trait Publishes {
    /// Publishes for `time` with the window kept full, waits for the rest: confirmed per second.
    fn publish(&mut self, load: &Load, time: Duration) -> Sample;
}

/// A client that publishes one by one.
pub trait RoundTrips {
    /// Publishes for `time`, each awaited: microseconds of the median.
    fn round_trips(&mut self, load: &Load, time: Duration) -> Sample;
}

/// A client that consumes with a prefetch of [`PREFETCH`].
pub trait Consumes {
    /// Takes the `count` messages that the queue holds and acknowledges each: per second, from the
    /// first delivery on.
    fn consume(&mut self, topic: &str, count: usize) -> Sample;
}

pub const PREFETCH: u16 = 1000;

/// Median of round trips.
pub fn median(micros: &[f64]) -> f64 {
    quartiles(micros.iter().copied()).median
}
