//! The hub over the embedded broker, end to end, with the virtual clock.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test says what is wrong by failing")]

use std::time::Duration;

use helixmq::config::options::{InboxOptions, SubscribeOptions};
use helixmq::config::Config;
use helixmq::hub::{Event, Handler, HandlerVerdict, Hub, Inbox, Incoming, Polled, Subscription};
use helixmq::message::Record;

mod basics;
mod closing;
mod duplicates;
mod failures;
mod wakeups;

const WAIT: Option<Duration> = Some(Duration::from_secs(10));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn open(json: &str) -> Hub {
    Hub::open(Config::from_json(json).unwrap(), WAIT).unwrap()
}

fn virtual_hub() -> Hub {
    open(r#"{"clock": "virtual", "retry": {"attempts": 3, "delay_ms": 1000, "jitter": false}}"#)
}

fn subscribe_to(hub: &Hub, json: &str, inbox: &Inbox, tag: u64) -> Subscription {
    hub.subscribe_inbox(SubscribeOptions::from_json(json).unwrap(), inbox, tag, WAIT).unwrap()
}

fn inbox(hub: &Hub) -> Inbox {
    hub.inbox(InboxOptions::from_json("{}").unwrap()).unwrap()
}

fn next(inbox: &Inbox) -> Incoming {
    let mut events = Vec::new();
    assert_eq!(inbox.poll(1, WAIT, &mut events), Polled::Data);
    match events.pop() {
        Some(Event::Message { incoming, .. }) => incoming,
        other => panic!("expected a message, not {other:?}"),
    }
}

fn assert_quiet(inbox: &Inbox) {
    let mut events = Vec::new();
    assert_eq!(inbox.poll(1, NOW, &mut events), Polled::NoData, "{events:?}");
}

struct Each<F>(F);

impl<F: Fn(Incoming) -> Option<HandlerVerdict> + Send + Sync> Handler for Each<F> {
    fn handle(&self, incoming: Incoming) -> Option<HandlerVerdict> {
        (self.0)(incoming)
    }
}

fn handler(handle: impl Fn(Incoming) -> Option<HandlerVerdict> + Send + Sync + 'static) -> Box<dyn Handler> {
    Box::new(Each(handle))
}

fn publish(hub: &Hub, topic: &str, payload: &str) {
    hub.publish(topic, None, &Record::new(payload.as_bytes()), None, NOW).unwrap();
}
