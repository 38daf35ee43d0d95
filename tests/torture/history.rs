//! What happened in a run, as the rules see it: publishes with their outcomes, deliveries, breaks, and what was left.

use std::collections::BTreeMap;

use crate::setup::Side;

/// Names a message: its topic, producer, key and number. Numbers of one producer and key rise from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub topic: String,
    pub producer: u16,
    pub key: String,
    pub seq: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} producer {} key {} seq {}", self.topic, self.producer, self.key, self.seq)
    }
}

/// How a publish ended, in the library's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Confirmed,
    Refused,
    NotSent,
    Unknown,
}

impl Ending {
    pub const ALL: [Ending; 4] = [Ending::Confirmed, Ending::Refused, Ending::NotSent, Ending::Unknown];

    pub fn name(self) -> &'static str {
        match self {
            Ending::Confirmed => "confirmed",
            Ending::Refused => "refused",
            Ending::NotSent => "not_sent",
            Ending::Unknown => "unknown",
        }
    }
}

/// The level of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    Memory,
    Disk,
    Broker,
}

impl Level {
    pub const ALL: [Level; 4] = [Level::None, Level::Memory, Level::Disk, Level::Broker];

    pub fn name(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Memory => "memory",
            Level::Disk => "disk",
            Level::Broker => "broker",
        }
    }
}

/// An outcome that the publisher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub at: u64,
    pub ending: Ending,
    pub level: Level,
    pub spooled: bool,
    /// The id in the receipt; empty: none was told.
    pub id: String,
    /// The kind of the error, if it is one.
    pub kind: String,
}

/// One message that the program tried to publish. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub name: Name,
    /// Which of the host's processes, from 1.
    pub life: u32,
    pub at: u64,
    /// Given by the program; empty: the library makes one.
    pub id: String,
    pub outcomes: Vec<Outcome>,
}

/// What the consumer decided, and wrote down before it did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Ack,
    Retry,
    /// Nothing: its subscription is about to be dropped.
    Hold,
}

impl Decision {
    pub const ALL: [Decision; 3] = [Decision::Ack, Decision::Retry, Decision::Hold];

    pub fn name(self) -> &'static str {
        match self {
            Decision::Ack => "ack",
            Decision::Retry => "retry",
            Decision::Hold => "hold",
        }
    }
}

/// One handing-over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub name: Name,
    pub run: String,
    pub at: u64,
    pub life: u32,
    pub consumer: String,
    pub decision: Decision,
    pub redelivered: bool,
    pub attempt: u32,
    pub maybe_dup: bool,
    pub partition: u32,
    /// -1 for tasks.
    pub offset: i64,
    pub id: String,
    /// Payload, key, topic and headers were what was sent.
    pub intact: bool,
}

/// A time in which something was not as in peace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    pub from: u64,
    pub to: u64,
    /// Whom it concerns; none: all.
    pub side: Option<Side>,
    /// A consumer ended, by the program's own will; else a fault.
    pub consumer: bool,
    pub what: String,
}

/// What the host took of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub rss: u64,
    pub descriptors: u64,
    pub threads: u64,
}

/// Descriptors by what they are.
pub type Kinds = BTreeMap<String, u64>;

/// The counters of a hub when it was closed or the run was over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    pub hub: String,
    pub spooled: u64,
    pub forwarded: u64,
    pub expired: u64,
    pub evicted: u64,
    pub refused: u64,
    /// Their publish failed.
    pub failed: u64,
    pub local_done: u64,
    /// In the spool, at that moment.
    pub records: u64,
}

/// A partition at the end, as the cluster tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub topic: String,
    pub partition: u32,
    pub end: i64,
    /// Of the consumers' group; none: it has committed nothing.
    pub committed: Option<i64>,
}

/// What a topic is to the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    pub side: Side,
    pub ordered: bool,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub run: String,
    /// What the limits of time are multiplied by.
    pub slack: u64,
    pub topics: BTreeMap<String, Traits>,
    pub attempts: BTreeMap<Name, Attempt>,
    /// Intents that were written a second time, outcomes without an intent, lines that cannot be read.
    pub strays: Vec<String>,
    /// In the order of time.
    pub deliveries: Vec<Delivery>,
    /// Faults, and the beginnings and ends of hubs and subscriptions.
    pub breaks: Vec<Break>,
    /// When the processes of the host were killed, by life.
    pub kills: BTreeMap<u32, u64>,
    /// From the end of the warm-up to the end of the publishing.
    pub load: (u64, u64),
    pub before: Usage,
    pub after: Usage,
    /// The descriptors of these two moments.
    pub kinds: [Kinds; 2],
    pub spool_bytes_most: u64,
    pub counters: Vec<Counters>,
    /// Messages left in queues of the run, with what was asked: queue and number.
    pub left: Vec<(String, u64)>,
    pub partitions: Vec<Partition>,
    /// Why the run did not come to rest; none: it did.
    pub stuck: Option<String>,
}

impl Attempt {
    /// What the program was told; none: its process died before.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcomes.first()
    }

    pub fn ended_as(&self, ending: Ending) -> bool {
        self.outcome().is_some_and(|outcome| outcome.ending == ending)
    }
}

impl Break {
    pub fn concerns(&self, side: Side) -> bool {
        self.side.is_none_or(|own| own == side)
    }

    pub fn overlaps(&self, from: u64, to: u64) -> bool {
        self.from <= to && from <= self.to
    }
}

impl History {
    /// A copy that was shown while the server was away: it has no place in the log.
    pub fn is_provisional(&self, delivery: &Delivery) -> bool {
        delivery.offset < 0 && self.side(&delivery.name.topic) == Some(Side::Kafka)
    }

    pub fn side(&self, topic: &str) -> Option<Side> {
        self.topics.get(topic).map(|topic| topic.side)
    }

    pub fn faults(&self, side: Side) -> impl Iterator<Item = &Break> {
        self.breaks.iter().filter(move |broken| !broken.consumer && broken.concerns(side))
    }

    /// The deliveries of each message, in the order of time.
    pub fn by_name(&self) -> BTreeMap<&Name, Vec<&Delivery>> {
        let mut all: BTreeMap<&Name, Vec<&Delivery>> = BTreeMap::new();
        for delivery in &self.deliveries {
            all.entry(&delivery.name).or_default().push(delivery);
        }
        all
    }
}
