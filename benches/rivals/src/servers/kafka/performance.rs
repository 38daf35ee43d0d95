//! `rdkafka_performance` as a peer: librdkafka's own program, in a process for each turn. It is built by
//! `build.rs`, from the librdkafka of the `rdkafka` crate.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use helixmq_rivals::pairs::{Meter, Sample};

use super::cluster::{Cluster, NATIVE};
use super::load::{Codec, Load, Publishes, ID_CHARS, ID_HEADER};
use crate::load::{median, Consumes, Server, HOST};

/// A turn that takes longer has failed.
const SECONDS_MAX: &str = "90";
/// What is published in a turn at least.
const MESSAGES_MIN: f64 = 100.0;

/// Publishes, with -P.
pub struct Producer {
    server: Server,
    /// How long a turn of one message takes: it waits half a second for its producer id, which the
    /// clients of this process have when their time begins.
    start_ms: f64,
    /// Messages per second of the last turn; at first a guess.
    rate: f64,
}

impl Producer {
    /// `start_ms`: of [`start_ms`].
    pub fn open(server: Server, start_ms: f64, load: &Load) -> Self {
        Self { server, start_ms, rate: 300e6 / load.bytes.max(1_000) as f64 }
    }

    /// Publishes `count` messages: milliseconds.
    fn run(server: Server, load: &Load, count: u64) -> f64 {
        let (bytes, messages, body) = (load.bytes.to_string(), count.to_string(), load.body());
        let window = format!("queue.buffering.max.messages={}", load.window);
        let id = format!("{ID_HEADER}={}", "0123456789abcdef".repeat(ID_CHARS / 16));
        let mut words = vec!["-P", "-s", &bytes, "-c", &messages, "-m", &body, "-z", load.codec.name()];
        for option in ["enable.idempotence=true", "acks=all", "linger.ms=5", &window] {
            words.extend(["-X", option]);
        }
        if load.named {
            words.extend(["-H", &id]);
        }
        if load.copied {
            words.push("-D");
        }
        let answer = answer(server, &load.topic, &words);
        assert_eq!(answer.before(" delivered"), count as f64, "not all are delivered: {}", answer.line);
        answer.millis()
    }
}

/// How long a turn of one message takes, milliseconds: the median of three.
pub fn start_ms(cluster: &Rc<Cluster>) -> f64 {
    let topic = cluster.topic(NATIVE);
    let name = topic.name.clone();
    let load = Load { topic: name, bytes: 100, window: 1_000, codec: Codec::Lz4, named: true, copied: false };
    let times: Vec<f64> = (0..3).map(|_| Producer::run(cluster.server, &load, 1)).collect();
    median(&times)
}

impl Publishes for Producer {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let count = (self.rate * time.as_secs_f64()).max(MESSAGES_MIN) as u64;
        let meter = Meter::of_children();
        let millis = Self::run(self.server, load, count);
        self.rate = count as f64 * 1e3 / (millis - self.start_ms).max(1.0);
        meter.sample(count, self.rate)
    }
}

/// Consumes: with -C from all partitions, or with -G as the member of a group, as ours is.
pub struct Consumer {
    cluster: Rc<Cluster>,
    grouped: bool,
}

impl Consumer {
    pub fn open(cluster: &Rc<Cluster>, grouped: bool) -> Self {
        Self { cluster: Rc::clone(cluster), grouped }
    }
}

impl Consumes for Consumer {
    fn consume(&mut self, topic: &str, count: usize) -> Sample {
        let (group, messages) = (self.cluster.name("hmq-bench"), count.to_string());
        let mut words = vec!["-c", &messages];
        if self.grouped {
            words.extend(["-G", &group]);
        } else {
            words.extend(["-C", "-p", "0", "-p", "1", "-p", "2", "-o", "beginning"]);
        }
        let meter = Meter::of_children();
        let answer = answer(self.cluster.server, topic, &words);
        assert_eq!(answer.before(" messages"), count as f64, "not all came: {}", answer.line);
        meter.sample(count as u64, count as f64 * 1e3 / answer.millis().max(1.0))
    }
}

/// The line with the result, of which a number stands before each word.
struct Answer {
    line: String,
}

impl Answer {
    fn before(&self, word: &str) -> f64 {
        let number = self.line.find(word).and_then(|end| {
            let digits = self.line[..end].rsplit(|character: char| !character.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        number.unwrap_or_else(|| panic!("rdkafka_performance: no number before{word} in {:?}", self.line))
    }

    fn millis(&self) -> f64 {
        self.before("ms: ")
    }
}

fn answer(server: Server, topic: &str, words: &[&str]) -> Answer {
    let brokers = format!("{HOST}:{}", server.port);
    let output = Command::new("timeout")
        // Quiet, and without its warnings of options that are for the other kind of client.
        .args([SECONDS_MAX, env!("RDKAFKA_PERFORMANCE"), "-q", "-X", "log_level=3", "-b", &brokers, "-t", topic])
        .args(words)
        .output()
        .expect("`timeout` runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "rdkafka_performance: {}: {text}{errors}", output.status);
    let line = text.lines().find(|line| line.contains(" msgs/s")).unwrap_or_else(|| panic!("no result in {text}"));
    Answer { line: line.to_owned() }
}
