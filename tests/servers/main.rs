//! The hub on a real RabbitMQ server, through its faults. `make test-infra-start` starts the server.

#![cfg(feature = "rabbitmq")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test says what is wrong by failing")]

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use helixmq::config::options::{InboxOptions, SubscribeOptions};
use helixmq::config::Config;
use helixmq::hub::{settle, Decision, Event, Hub, Inbox, Incoming, Polled, Subscription};
use helixmq::message::{Record, TopicKind};
use serde_json::{json, Value};

mod forms;
mod rabbitmq;
mod tls;

static ONE: Mutex<()> = Mutex::new(());

/// Waits for the others, which may stop the server, and for the server.
fn alone() -> MutexGuard<'static, ()> {
    let guard = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    server(&["start"]);
    guard
}

const WAIT: Option<Duration> = Some(Duration::from_secs(20));

fn port() -> u16 {
    std::env::var("HMQ_RABBITMQ_PORT").map_or(5679, |port| port.parse().unwrap())
}

/// A hub on the server, with `more` over its configuration.
fn hub(more: Value) -> Hub {
    hub_at(port(), more)
}

fn hub_at(port: u16, more: Value) -> Hub {
    let mut config = json!({"connection_timeout_ms": 5000, "rabbitmq": {"host": "127.0.0.1", "port": port}});
    for (name, value) in more.as_object().unwrap() {
        match (&mut config[name.as_str()], value) {
            (Value::Object(there), Value::Object(more)) => there.extend(more.clone()),
            (there, value) => *there = value.clone(),
        }
    }
    Hub::open(Config::from_json(&config.to_string()).unwrap(), WAIT).unwrap()
}

/// A name that no run has used before.
fn topic() -> String {
    static TOPICS: AtomicU64 = AtomicU64::new(0);
    format!("tasks.server-{}-{}", std::process::id(), TOPICS.fetch_add(1, Ordering::Relaxed))
}

fn inbox(hub: &Hub) -> Inbox {
    hub.inbox(InboxOptions::from_json("{}").unwrap()).unwrap()
}

fn subscribe(hub: &Hub, json: Value, inbox: &Inbox) -> Subscription {
    hub.subscribe_inbox(SubscribeOptions::from_json(&json.to_string()).unwrap(), inbox, 0, WAIT).unwrap()
}

fn publish(hub: &Hub, topic: &str, payload: &str) -> helixmq::error::Result<helixmq::hub::Receipt> {
    hub.publish(topic, Some(TopicKind::Task), &Record::new(payload.as_bytes()), None, WAIT)
}

fn next(inbox: &Inbox) -> Incoming {
    next_within(inbox, Duration::from_secs(20)).unwrap()
}

fn next_within(inbox: &Inbox, time: Duration) -> Option<Incoming> {
    let mut events = Vec::new();
    match inbox.poll(1, Some(time), &mut events) {
        Polled::Data => match events.pop() {
            Some(Event::Message { incoming, .. }) => Some(incoming),
            other => panic!("{other:?}"),
        },
        Polled::NoData => None,
        Polled::Closed => panic!("the inbox is closed"),
    }
}

fn ack(incoming: &Incoming) {
    settle(incoming.token, Decision::Ack).unwrap();
}

fn text(incoming: &Incoming) -> String {
    String::from_utf8_lossy(incoming.message.payload()).into_owned()
}

/// Lets the tests' own server do something.
fn server(arguments: &[&str]) {
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/rabbitmq.sh");
    let done = Command::new(tool).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Waits until `what` holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to be");
        std::thread::yield_now();
    }
}

fn state(hub: &Hub) -> String {
    let health = hub.health();
    let all = health["backends"].as_array().unwrap();
    let own = all.iter().find(|backend| backend["backend"] == "rabbitmq").unwrap();
    own["state"].as_str().unwrap().to_owned()
}
