//! What a run consists of: the hub's configuration, its topics, who publishes and who consumes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

/// Which servers the hub has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pairing {
    Rabbitmq,
    Kafka,
    Both,
}

/// Who carries a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    Rabbitmq,
    Kafka,
    /// The broker inside the hub, on disk.
    Embedded,
}

/// A hub with a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutant {
    /// Tells success before the hub has the message.
    EarlyAck,
    /// Drops one of many.
    Drop,
    /// Exchanges two of one key.
    Swap,
    /// Sends one of many twice.
    Double,
}

impl Pairing {
    pub fn parse(name: &str) -> Option<Self> {
        [Pairing::Rabbitmq, Pairing::Kafka, Pairing::Both].into_iter().find(|own| own.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Pairing::Rabbitmq => "rabbitmq",
            Pairing::Kafka => "kafka",
            Pairing::Both => "both",
        }
    }

    pub fn sides(self) -> &'static [Side] {
        match self {
            Pairing::Rabbitmq => &[Side::Rabbitmq],
            Pairing::Kafka => &[Side::Kafka],
            Pairing::Both => &[Side::Rabbitmq, Side::Kafka],
        }
    }
}

impl Side {
    /// As the hub names its backends.
    pub fn name(self) -> &'static str {
        match self {
            Side::Rabbitmq => "rabbitmq",
            Side::Kafka => "kafka",
            Side::Embedded => "embedded",
        }
    }

    pub fn kind(self) -> &'static str {
        match self {
            Side::Kafka => "event",
            Side::Rabbitmq | Side::Embedded => "task",
        }
    }
}

impl Mutant {
    pub const ALL: [Mutant; 4] = [Mutant::EarlyAck, Mutant::Drop, Mutant::Swap, Mutant::Double];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|own| own.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Mutant::EarlyAck => "early-ack",
            Mutant::Drop => "drop",
            Mutant::Swap => "swap",
            Mutant::Double => "double",
        }
    }

    /// The rule that must find it.
    pub fn rule(self) -> &'static str {
        match self {
            Mutant::EarlyAck | Mutant::Drop => "C1",
            Mutant::Swap => "C4",
            Mutant::Double => "C5",
        }
    }
}

/// Who publishes: so many threads ...
pub const PRODUCERS: usize = 3;
/// ... each with so many keys of every topic, which all of them use.
pub const KEYS: u64 = 4;
/// Of topics without order; one with order has one consumer.
pub const CONSUMERS: usize = 2;
/// Small, so that the bounds that follow from it say something.
pub const WINDOW: usize = 500;
pub const PREFETCH: usize = 32;
pub const SPOOL_BYTES_MAX: u64 = 16 << 20;
/// Of the file system that is filled; the database and its log need most of it.
pub const DISK_BYTES: u64 = 192 << 20;

/// A topic of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub side: Side,
    /// One consumer, which acknowledges everything; kept messages wait for the server. The others' consumers fail,
    /// crash and come back, and kept tasks are done here meanwhile.
    pub ordered: bool,
}

/// What the orchestrator tells the host, by a file in the directory of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    pub run: String,
    pub seed: u64,
    pub pairing: Pairing,
    pub disk: bool,
    pub mutant: Option<Mutant>,
    pub rabbitmq_port: u16,
    pub kafka_port: u16,
}

impl Setup {
    pub fn topics(&self) -> Vec<Topic> {
        let own = self.disk.then_some(Side::Embedded);
        let sides = self.pairing.sides().iter().copied().chain(own);
        let topic = |side: Side, ordered: bool| {
            let what = if ordered { "ordered" } else { "rough" };
            Topic { name: format!("{}s.torture-{}.{}-{what}", side.kind(), self.run, side.name()), side, ordered }
        };
        sides.flat_map(|side| [topic(side, true), topic(side, false)]).collect()
    }

    /// The hub's configuration.
    pub fn config(&self, dir: &Path) -> Value {
        let routes = self.topics().into_iter().map(|topic| {
            let on_outage = if topic.ordered { "spool" } else { "local" };
            let mut route = json!({"pattern": topic.name, "kind": topic.side.kind(), "backend": topic.side.name()});
            if topic.side != Side::Embedded {
                route["on_outage"] = json!(on_outage);
            }
            route
        });
        let mut config = json!({
            "name": "torture",
            "connection_timeout_ms": 5000,
            "publish_window": WINDOW,
            "prefetch": PREFETCH,
            // So many that none becomes a dead letter; so short that they wait in this process.
            "retry": {"attempts": 1000, "delay_ms": 50, "delay_max_ms": 200},
            "failover": {"memory_bytes_max": SPOOL_BYTES_MAX},
            "routes": routes.collect::<Vec<_>>(),
        });
        if self.pairing != Pairing::Kafka {
            // A quorum queue made moments before its only node is killed may come back without a leader (3.10.8). Heartbeats
            // short enough that a pause is found out.
            config["rabbitmq"] = json!({
                "host": "127.0.0.1", "port": self.rabbitmq_port, "heartbeat_ms": 1000, "queue_type": "classic",
            });
        }
        if self.pairing != Pairing::Rabbitmq {
            // A member that was killed gives its partitions up within this.
            let options = json!({"session.timeout.ms": 6000});
            config["kafka"] = json!({"brokers": [format!("127.0.0.1:{}", self.kafka_port)], "options": options});
        }
        if self.disk {
            config["failover"]["dir"] = json!(data_dir(dir).join("hub"));
            // The file system is small, and made to be filled.
            config["failover"]["free_space_floor_bytes"] = json!(0);
        }
        config
    }

    pub fn write(&self, dir: &Path) {
        std::fs::write(dir.join("setup.json"), serde_json::to_string(self).unwrap()).unwrap();
    }

    pub fn read(dir: &Path) -> Self {
        serde_json::from_str(&std::fs::read_to_string(dir.join("setup.json")).unwrap()).unwrap()
    }
}

/// Where the file system is mounted that a run fills.
pub fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}
