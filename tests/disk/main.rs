//! Hubs with a data directory: what a program gets of disk storage, over restarts and kills.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use helixmq::config::options::{InboxOptions, PublisherOptions, SubscribeOptions};
use helixmq::config::Config;
use helixmq::hub::{Event, Hub, Inbox, Incoming, Polled, Publisher, Subscription};
use helixmq::message::Record;
use serde_json::{json, Value};

mod figures;
mod kill;
mod life;
#[cfg(feature = "rabbitmq")]
mod spool;

const WAIT: Option<Duration> = Some(Duration::from_secs(20));
const NOW: Option<Duration> = Some(Duration::ZERO);

/// A directory that is removed with its test.
struct TestDir(PathBuf);

impl TestDir {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("helixmq-hub-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A hub on a directory, with `more` over its configuration.
fn try_open(dir: &Path, more: Value) -> helixmq::error::Result<Hub> {
    let mut config = json!({"failover": {"dir": dir, "free_space_floor_bytes": 0}});
    for (name, value) in more.as_object().unwrap() {
        match (config[name].as_object_mut(), value.as_object()) {
            (Some(own), Some(value)) => own.extend(value.clone()),
            _ => config[name] = value.clone(),
        }
    }
    Hub::open(Config::from_json(&config.to_string())?, WAIT)
}

fn open(dir: &Path) -> Hub {
    try_open(dir, json!({})).unwrap()
}

fn publisher(hub: &Hub, options: Value) -> Publisher {
    hub.publisher(PublisherOptions::from_json(&options.to_string()).unwrap()).unwrap()
}

fn inbox(hub: &Hub) -> Inbox {
    hub.inbox(InboxOptions::from_json("{}").unwrap()).unwrap()
}

fn subscribe(hub: &Hub, options: Value, inbox: &Inbox) -> Subscription {
    hub.subscribe_inbox(SubscribeOptions::from_json(&options.to_string()).unwrap(), inbox, 0, WAIT).unwrap()
}

#[track_caller]
fn next(inbox: &Inbox) -> Incoming {
    let mut events = Vec::new();
    assert_eq!(inbox.poll(1, WAIT, &mut events), Polled::Data, "nothing came");
    match events.pop() {
        Some(Event::Message { incoming, .. }) => incoming,
        other => panic!("expected a message, not {other:?}"),
    }
}

fn text(incoming: &Incoming) -> String {
    String::from_utf8_lossy(incoming.message.payload()).into_owned()
}

/// What comes within a moment, as texts.
fn drain(inbox: &Inbox) -> Vec<String> {
    let mut out = Vec::new();
    loop {
        let mut events = Vec::new();
        if inbox.poll(64, Some(Duration::from_millis(200)), &mut events) != Polled::Data {
            return out;
        }
        for event in events {
            if let Event::Message { incoming, .. } = event {
                helixmq::hub::settle(incoming.token, helixmq::hub::Decision::Ack).unwrap();
                out.push(text(&incoming));
            }
        }
    }
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to be");
        std::thread::yield_now();
    }
}

fn publish(hub: &Hub, topic: &str, payload: &str) {
    hub.publish(topic, None, &Record::new(payload.as_bytes()), None, WAIT).unwrap();
}
