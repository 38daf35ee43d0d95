//! helixmq as a side: a hub with RabbitMQ alone, used through its C ABI.

use std::ptr::null;
use std::time::{Duration, Instant};

use helixmq_rivals::abi::*;
use helixmq_rivals::hub::{empty_event, must, Hub, Publisher};
use helixmq_rivals::pairs::{Meter, Sample};

use super::load::{median, Consumes, Load, Publishes, RoundTrips, Server, To, HOST, PREFETCH, VHOST};
use super::outcomes::{record_of, Outcomes, EVENTS, RECORDS};

/// The largest window.
const WINDOW: usize = 5_000;

/// A hub and its outcomes.
pub struct Ours {
    outcomes: Outcomes,
    hub: Hub,
    events: Box<[hmq_event; EVENTS]>,
}

impl Ours {
    /// `queues`: `classic` or `quorum`. Nothing is kept for the server, as the peers keep nothing.
    pub fn open(server: Server, queues: &str) -> Self {
        Self::opened(server, queues, false)
    }

    /// `keep`: what its server cannot take is kept.
    pub fn opened(server: Server, queues: &str, keep: bool) -> Self {
        let hub = Hub::configured(&format!(
            r#"{{"name": "bench", "publish_window": {WINDOW}, "fallback_to_inmemory": {keep}, "rabbitmq": {{"host": "{HOST}", "port": {}, "vhost": "{VHOST}", "queue_type": "{queues}"}}}}"#,
            server.port
        ));
        Self { outcomes: Outcomes::of(&hub, WINDOW), hub, events: Box::new([empty_event(); EVENTS]) }
    }

    fn publisher(&self, load: &Load) -> Publisher {
        let kind = match load.to {
            To::Nobody => "event",
            To::Queue => "task",
        };
        self.hub.publisher(&format!(r#"{{"topic": "{}", "kind": "{kind}"}}"#, load.topic))
    }

    /// Makes the queue of a task topic.
    pub fn declare(&self, topic: &str) {
        self.hub.declare(&format!(r#"{{"name": "{topic}", "kind": "task"}}"#));
    }

    /// Empties it.
    pub fn purge(&self, topic: &str) {
        self.hub.purge(topic);
    }

    /// Puts `count` messages into a queue.
    pub fn fill(&mut self, load: &Load, count: usize) {
        let (publisher, body) = (self.publisher(load), load.body());
        let mut left = count;
        self.outcomes.publish(&publisher, &record_of(&body), load.window, |sent| {
            left -= sent;
            left
        });
    }
}

impl Publishes for Ours {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let (publisher, body) = (self.publisher(load), load.body());
        let meter = Meter::start();
        let end = Instant::now() + time;
        let more = |_: usize| if Instant::now() < end { RECORDS.min(load.window) } else { 0 };
        let count = self.outcomes.publish(&publisher, &record_of(&body), load.window, more);
        meter.rate(count)
    }
}

impl RoundTrips for Ours {
    fn round_trips(&mut self, load: &Load, time: Duration) -> Sample {
        let mut publisher = self.publisher(load);
        let body = load.body();
        let record = record_of(&body);
        let mut micros = Vec::new();
        let meter = Meter::start();
        let mut started = Instant::now();
        let end = started + time;
        while started < end {
            publisher.send_record(&record);
            let done = Instant::now();
            micros.push((done - started).as_secs_f64() * 1e6);
            started = done;
        }
        meter.sample(micros.len() as u64, median(&micros))
    }
}

impl Consumes for Ours {
    fn consume(&mut self, topic: &str, count: usize) -> Sample {
        let inbox = self.hub.inbox("{}");
        let options = format!(r#"{{"topic": "{topic}", "kind": "task", "prefetch": {PREFETCH}}}"#);
        let sub = self.hub.subscribed(&inbox, &options);
        let (mut meter, mut taken) = (None, 0);
        while taken < count {
            let here = inbox.poll(&mut self.events[..]);
            meter.get_or_insert_with(Meter::start);
            for event in &self.events[..here] {
                assert_eq!(event.kind, HMQ_EV_MESSAGE, "an event that is no message: status {}", event.status);
                let token = event.token;
                // SAFETY: no pointer but `err` is given.
                must(|err| unsafe { hmq_settle(token, HMQ_ACK, 0, null(), 0, err) });
            }
            // SAFETY: `here` events are filled.
            unsafe { hmq_events_clear(self.events.as_mut_ptr(), here) };
            taken += here;
        }
        let sample = meter.expect("a message").rate(count as u64);
        // SAFETY: the subscription is ours, and not used after this.
        unsafe {
            must(|err| hmq_sub_close(sub, 5_000, err));
            hmq_sub_free(sub);
        }
        sample
    }
}
