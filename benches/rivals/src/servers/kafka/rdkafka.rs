//! The clients of the `rdkafka` crate as peers: `FutureProducer` and `StreamConsumer`, on tokio's default
//! runtime as in their documentation.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ::rdkafka::consumer::{Consumer, StreamConsumer};
use ::rdkafka::message::{Header, Message, OwnedHeaders};
use ::rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use helixmq_rivals::pairs::{Meter, Sample};

use super::cluster::Cluster;
use super::load::{Load, Publishes, ID_CHARS, ID_HEADER};
use crate::load::Consumes;

/// Messages between two looks at the clock.
const STRIDE: usize = 64;
/// A turn of a consumer that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(90);

/// `FutureProducer`: each future kept, and the oldest awaited when the window is full.
pub struct Futures {
    cluster: Rc<Cluster>,
    producer: FutureProducer,
    /// Number of the last message, of which its id is made.
    last: u64,
}

impl Futures {
    /// `linger_ms`: if not the default. The producer has got its id and found the topic when this returns.
    pub fn open(cluster: &Rc<Cluster>, load: &Load, linger_ms: Option<u32>) -> Self {
        let mut config = cluster.config();
        config.set("enable.idempotence", "true").set("acks", "all").set("compression.type", load.codec.name());
        if let Some(linger) = linger_ms {
            config.set("linger.ms", linger.to_string());
        }
        let producer: FutureProducer =
            cluster.runtime.block_on(async { config.create() }).expect("a FutureProducer is made");
        let mut futures = Self { cluster: Rc::clone(cluster), producer, last: 0 };
        let mut wanted = 1;
        futures.send(load, || std::mem::take(&mut wanted));
        futures
    }

    /// Publishes until `more` wants none, waits for the rest; answers how many were delivered.
    fn send(&mut self, load: &Load, mut more: impl FnMut() -> usize) -> u64 {
        let (cluster, producer, last) = (&self.cluster, &self.producer, &mut self.last);
        let body = load.body();
        cluster.runtime.block_on(async {
            let (mut open, mut count) = (VecDeque::with_capacity(load.window), 0);
            loop {
                let wanted = more();
                if wanted == 0 {
                    break;
                }
                for _ in 0..wanted {
                    if open.len() == load.window {
                        if let Some(oldest) = open.pop_front() {
                            delivered(oldest).await;
                        }
                    }
                    let mut record = FutureRecord::<(), [u8]>::to(&load.topic).payload(body.as_bytes());
                    if load.named {
                        *last += 1;
                        record = record.headers(id(*last));
                    }
                    match producer.send_result(record) {
                        Ok(delivery) => open.push_back(delivery),
                        Err((error, _)) => panic!("FutureProducer: {error}"),
                    }
                    count += 1;
                }
            }
            for rest in open {
                delivered(rest).await;
            }
            count
        })
    }
}

async fn delivered(delivery: DeliveryFuture) {
    match delivery.await {
        Ok(Ok(_)) => {}
        Ok(Err((error, _))) => panic!("FutureProducer: {error}"),
        Err(_) => panic!("FutureProducer: no delivery report"),
    }
}

/// A header as ours writes it: hexadecimal digits.
fn id(number: u64) -> OwnedHeaders {
    let mut text = [b'0'; ID_CHARS];
    for (place, digit) in text.iter_mut().rev().take(16).enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * place)) as usize & 15];
    }
    OwnedHeaders::new_with_capacity(1).insert(Header { key: ID_HEADER, value: Some(&text[..]) })
}

impl Publishes for Futures {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let meter = Meter::start();
        let end = Instant::now() + time;
        let count = self.send(load, || if Instant::now() < end { STRIDE } else { 0 });
        meter.rate(count)
    }
}

/// `StreamConsumer`: `recv().await` of each.
pub struct Stream {
    cluster: Rc<Cluster>,
    backoff_ms: Option<u32>,
}

impl Stream {
    /// `backoff_ms`: `fetch.queue.backoff.ms`, if not the default.
    pub fn open(cluster: &Rc<Cluster>, backoff_ms: Option<u32>) -> Self {
        Self { cluster: Rc::clone(cluster), backoff_ms }
    }
}

impl Consumes for Stream {
    fn consume(&mut self, topic: &str, count: usize) -> Sample {
        let mut config = self.cluster.config();
        config.set("group.id", self.cluster.name("hmq-bench")).set("auto.offset.reset", "earliest");
        if let Some(backoff) = self.backoff_ms {
            config.set("fetch.queue.backoff.ms", backoff.to_string());
        }
        let turn = async {
            let consumer: StreamConsumer = config.create().expect("a StreamConsumer is made");
            consumer.subscribe(&[topic]).expect("the topic can be subscribed");
            let (mut meter, mut bytes) = (None, 0);
            for _ in 0..count {
                let message = consumer.recv().await.expect("StreamConsumer: consuming failed");
                meter.get_or_insert_with(Meter::start);
                bytes += message.payload().map_or(0, <[u8]>::len);
            }
            assert!(bytes > 0, "messages without payloads");
            meter.expect("a message").rate(count as u64)
        };
        let limited = async { tokio::time::timeout(LIMIT, turn).await };
        self.cluster.runtime.block_on(limited).expect("StreamConsumer: too slow")
    }
}
