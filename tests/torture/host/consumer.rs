//! Consumers: they write down what they were handed before they settle it, and those of topics without order fail,
//! crash and come back.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use helixmq::config::options::{InboxOptions, SubscribeOptions};
use helixmq::hub::{settle, Event, Hub, Inbox, Incoming, Polled, Subscription};
use serde_json::json;

use super::message::{Body, HEADER};
use super::{consumers_of, now_us, pass, Host, WAIT};
use crate::history::{Break, Decision, Delivery};
use crate::logs::Log;
use crate::rng::Rng;
use crate::setup::{Side, Topic};

/// One in so many is given back to be tried again, in per cent.
const RETRIES: u64 = 3;
/// How long a consumer of a topic without order lives, about: those of Kafka share its partitions anew each time.
const LIFE: Duration = Duration::from_secs(5);
const LIFE_ON_KAFKA: Duration = Duration::from_secs(10);

struct Consumer {
    host: Arc<Host>,
    topic: Topic,
    name: String,
    log: Log,
    rng: Rng,
}

/// Why a consumer leaves.
enum Leave {
    /// The hub was closed.
    Closed,
    /// It crashes, or unsubscribes.
    ByItself,
}

pub fn start(host: &Arc<Host>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for topic in &host.topics {
        for name in consumers_of(topic) {
            let seed = host.setup.seed ^ (u64::from(host.life) << 32) ^ ((threads.len() as u64) << 16);
            let log = Log::create(&host.dir, &format!("consume.{}.{name}.log", host.life));
            let consumer = Consumer { host: Arc::clone(host), topic: topic.clone(), name, log, rng: Rng::new(seed) };
            threads.push(std::thread::spawn(move || consumer.run()));
        }
    }
    threads
}

impl Consumer {
    fn run(mut self) {
        let mut left = None;
        let mut first = true;
        loop {
            let hub = self.host.hub.read().unwrap().0.clone();
            let Some((inbox, sub)) = self.open(&hub) else {
                if self.host.finished.load(Ordering::SeqCst) {
                    return;
                }
                pass(Duration::from_millis(100));
                continue;
            };
            if std::mem::take(&mut first) {
                self.host.open_subscriptions.fetch_add(1, Ordering::SeqCst);
            }
            if let Some(from) = left.take() {
                self.tell_break(from);
            }
            let leave = self.consume(&inbox);
            left = Some(now_us());
            if matches!(leave, Leave::ByItself) {
                self.leave(&inbox, &sub);
            }
        }
    }

    fn tell_break(&self, from: u64) {
        let (side, what) = (Some(self.topic.side), "consumer away".to_owned());
        self.log.break_(&Break { from, to: now_us(), side, consumer: true, what });
    }

    fn open(&self, hub: &Hub) -> Option<(Inbox, Subscription)> {
        let inbox = hub.inbox(InboxOptions::from_json("{}").unwrap()).ok()?;
        let options = json!({"topic": self.topic.name, "kind": self.topic.side.kind(), "group": group(&self.topic)});
        let options = SubscribeOptions::from_json(&options.to_string()).unwrap();
        let sub = hub.subscribe_inbox(options, &inbox, 0, WAIT).ok()?;
        Some((inbox, sub))
    }

    fn consume(&mut self, inbox: &Inbox) -> Leave {
        let life = if self.topic.side == Side::Kafka { LIFE_ON_KAFKA } else { LIFE };
        let until = Instant::now() + life.mul_f64(0.3 + self.rng.below(140) as f64 / 100.0);
        let mut events = Vec::new();
        loop {
            let rough = !self.topic.ordered && !self.host.calm.load(Ordering::SeqCst);
            if rough && Instant::now() >= until {
                return Leave::ByItself;
            }
            if inbox.poll(16, Some(Duration::from_millis(100)), &mut events) == Polled::Closed {
                return Leave::Closed;
            }
            for event in events.drain(..) {
                let Event::Message { incoming, .. } = event else { continue };
                let retry = rough && self.rng.chance(RETRIES);
                let decision = if retry { Decision::Retry } else { Decision::Ack };
                self.write_down(&incoming, decision);
                let done = match decision {
                    Decision::Retry => helixmq::hub::Decision::Retry { delay: None, reason: "torture" },
                    _ => helixmq::hub::Decision::Ack,
                };
                // A token may be stale: its connection is gone, and the message comes again.
                let _ = settle(incoming.token, done);
            }
        }
    }

    /// With messages out that are never settled, or in peace.
    fn leave(&mut self, inbox: &Inbox, sub: &Subscription) {
        if self.rng.chance(50) {
            let mut events = Vec::new();
            inbox.poll(16, Some(Duration::from_millis(50)), &mut events);
            for event in &events {
                if let Event::Message { incoming, .. } = event {
                    self.write_down(incoming, Decision::Hold);
                }
            }
            inbox.end();
        } else {
            sub.close(WAIT).unwrap();
        }
        pass(Duration::from_millis(self.rng.between(10, 500)));
    }

    fn write_down(&self, incoming: &Incoming, decision: Decision) {
        let message = &incoming.message;
        let body = Body::read(message.payload());
        let seq = body.name.seq.to_string();
        let intact = body.intact
            && message.key() == Some(body.name.key.as_bytes())
            && **message.topic() == *body.name.topic
            && message.headers().find(HEADER) == Some(seq.as_bytes());
        let at = now_us();
        self.log.delivery(&Delivery {
            name: body.name,
            run: body.run,
            at,
            life: self.host.life,
            consumer: self.name.clone(),
            decision,
            redelivered: incoming.redelivered,
            attempt: incoming.attempt,
            maybe_dup: message.maybe_dup(),
            partition: incoming.partition,
            offset: incoming.offset,
            id: message.id().as_str().to_owned(),
            intact,
        });
        self.host.delivered.fetch_add(1, Ordering::SeqCst);
        self.host.last_delivery.store(at, Ordering::SeqCst);
    }
}

/// The group of a topic's consumers.
pub fn group(topic: &Topic) -> String {
    format!("group-of-{}", topic.name)
}
