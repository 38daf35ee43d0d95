//! helixmq as a side: a hub with Kafka alone, used through its C ABI.

use std::rc::Rc;
use std::time::{Duration, Instant};

use helixmq_rivals::abi::*;
use helixmq_rivals::hub::{empty_event, empty_settlement, must, Hub};
use helixmq_rivals::pairs::{Meter, Sample};

use super::cluster::{Cluster, PLAIN};
use super::load::{Codec, Load, Publishes};
use crate::load::{Consumes, HOST};
use crate::outcomes::{record_of, Outcomes, RECORDS, SILENCE_MS};

/// Events of one poll of a consumer.
const EVENTS: usize = 1_024;
/// Deliveries that are not settled, at most: the most that there can be.
const PREFETCH: usize = 1 << 15;
/// The largest window.
const WINDOW: usize = 100_000;

/// A hub and its outcomes.
pub struct Ours {
    outcomes: Outcomes,
    hub: Hub,
    cluster: Rc<Cluster>,
    events: Box<[hmq_event; EVENTS]>,
    settlements: Box<[hmq_settlement; EVENTS]>,
}

impl Ours {
    /// Nothing is kept for the cluster, as the peers keep nothing.
    pub fn open(cluster: &Rc<Cluster>, codec: Codec) -> Self {
        Self::opened(cluster, codec, false)
    }

    /// `keep`: what its cluster cannot take is kept.
    pub fn opened(cluster: &Rc<Cluster>, codec: Codec, keep: bool) -> Self {
        let options = match codec {
            // The library's own choice.
            Codec::Lz4 => String::new(),
            Codec::None => format!(r#", "options": {{"compression.type": "{}"}}"#, codec.name()),
        };
        let hub = Hub::configured(&format!(
            r#"{{"name": "bench", "publish_window": {WINDOW}, "connect": "require", "fallback_to_inmemory": {keep},
                "routes": [{{"pattern": "{PLAIN}.#", "kind": "event", "wire": "plain"}}],
                "kafka": {{"brokers": ["{HOST}:{}"]{options}}}}}"#,
            cluster.server.port
        ));
        Self {
            outcomes: Outcomes::of(&hub, WINDOW),
            hub,
            cluster: Rc::clone(cluster),
            events: Box::new([empty_event(); EVENTS]),
            settlements: Box::new([empty_settlement(); EVENTS]),
        }
    }

    /// Puts `count` messages into a topic.
    pub fn fill(&mut self, load: &Load, count: usize) {
        let mut left = count;
        self.send(load, |sent| {
            left -= sent;
            left
        });
    }

    fn send(&mut self, load: &Load, more: impl FnMut(usize) -> usize) -> u64 {
        let publisher = self.hub.publisher(&format!(r#"{{"topic": "{}", "kind": "event"}}"#, load.topic));
        let body = load.body();
        self.outcomes.publish(&publisher, &record_of(body.as_bytes()), load.window, more)
    }
}

impl Publishes for Ours {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let meter = Meter::start();
        let end = Instant::now() + time;
        let stride = RECORDS.min(load.window);
        let count = self.send(load, |_| if Instant::now() < end { stride } else { 0 });
        meter.rate(count)
    }
}

impl Consumes for Ours {
    fn consume(&mut self, topic: &str, count: usize) -> Sample {
        let inbox = self.hub.inbox("{}");
        let group = self.cluster.name("hmq-bench");
        let options = format!(
            r#"{{"topic": "{topic}", "kind": "event", "group": "{group}", "start": "earliest", "prefetch": {PREFETCH}}}"#
        );
        let sub = self.hub.subscribed(&inbox, &options);
        let (mut meter, mut taken) = (None, 0);
        while taken < count {
            let here = inbox.poll_within(&mut self.events[..], SILENCE_MS);
            assert!(here > 0, "no message for {SILENCE_MS} ms, after {taken}");
            meter.get_or_insert_with(Meter::start);
            for (settlement, event) in self.settlements.iter_mut().zip(&self.events[..here]) {
                assert_eq!(event.kind, HMQ_EV_MESSAGE, "an event that is no message: status {}", event.status);
                settlement.token = event.token;
            }
            let settlements = self.settlements.as_mut_ptr();
            // SAFETY: `here` settlements are filled.
            must(|err| unsafe { hmq_settle_many(settlements, here, err) });
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
