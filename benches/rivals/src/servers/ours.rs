//! helixmq as a side: a hub with RabbitMQ alone, used through its C ABI.

use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use helixmq_rivals::abi::*;
use helixmq_rivals::hub::{empty_event, empty_record, must, Hub, Inbox, Publisher};
use helixmq_rivals::pairs::{Meter, Sample};

use super::load::{median, Consumes, Load, Publishes, RoundTrips, Server, To, HOST, PREFETCH, VHOST};

/// Records of one call of `hmq_pub_send_inbox`.
const RECORDS: usize = 128;
/// Events of one poll.
const EVENTS: usize = 256;
/// The largest window.
const WINDOW: usize = 5_000;

/// A hub and an inbox for outcomes.
pub struct Ours {
    inbox: Inbox,
    hub: Hub,
    events: Box<[hmq_event; EVENTS]>,
}

impl Ours {
    /// `queues`: `classic` or `quorum`.
    pub fn open(server: Server, queues: &str) -> Self {
        let hub = Hub::configured(&format!(
            r#"{{"name": "bench", "publish_window": {WINDOW}, "rabbitmq": {{"host": "{HOST}", "port": {}, "vhost": "{VHOST}", "queue_type": "{queues}"}}}}"#,
            server.port
        ));
        let inbox = hub.inbox(&format!(r#"{{"capacity": {WINDOW}}}"#));
        Self { inbox, hub, events: Box::new([empty_event(); EVENTS]) }
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
        let mut publisher = self.publisher(load);
        let mut left = count;
        self.windowed(&mut publisher, load, |sent| {
            left -= sent;
            left
        });
    }

    /// Publishes with the window kept full, until `more`, told how many were taken last, wants none;
    /// then waits for the rest. Answers how many were confirmed.
    fn windowed(&mut self, publisher: &mut Publisher, load: &Load, mut more: impl FnMut(usize) -> usize) -> u64 {
        let body = load.body();
        let record = hmq_record { payload: body.as_ptr().cast(), payload_len: body.len(), ..empty_record() };
        let records = [record; RECORDS];
        let (mut open, mut confirmed) = (0, 0);
        let mut wanted = more(0);
        while wanted > 0 || open > 0 {
            let count = RECORDS.min(wanted).min(load.window - open);
            // Calls are not made smaller than need be; half of a small window goes at once.
            if count > 0 && (count == wanted || load.window - open >= RECORDS.min(load.window / 2)) {
                let mut accepted = 0;
                let inbox = self.inbox.handle();
                // SAFETY: `count` records whose bodies outlive the call.
                must(|err| unsafe {
                    hmq_pub_send_inbox(
                        publisher.handle(),
                        records.as_ptr(),
                        count,
                        inbox,
                        null_mut(),
                        &mut accepted,
                        err,
                    )
                });
                open += accepted;
                wanted = more(accepted);
            } else {
                let outcomes = self.outcomes();
                open -= outcomes;
                confirmed += outcomes as u64;
            }
        }
        confirmed
    }

    /// Outcomes of publishes, all of which must be confirmed.
    fn outcomes(&mut self) -> usize {
        let count = self.inbox.poll(&mut self.events[..]);
        for event in &self.events[..count] {
            let (kind, status) = (event.kind, event.status);
            assert!(kind == HMQ_EV_PUBLISHED && status == HMQ_OK, "event {kind} with status {status}");
        }
        // SAFETY: `count` events are filled.
        unsafe { hmq_events_clear(self.events.as_mut_ptr(), count) };
        count
    }
}

impl Publishes for Ours {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let mut publisher = self.publisher(load);
        let meter = Meter::start();
        let end = Instant::now() + time;
        let count =
            self.windowed(&mut publisher, load, |_| if Instant::now() < end { RECORDS.min(load.window) } else { 0 });
        meter.rate(count)
    }
}

impl RoundTrips for Ours {
    fn round_trips(&mut self, load: &Load, time: Duration) -> Sample {
        let mut publisher = self.publisher(load);
        let body = load.body();
        let record = hmq_record { payload: body.as_ptr().cast(), payload_len: body.len(), ..empty_record() };
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
