//! The hub on real RabbitMQ and Kafka servers, through their faults. `make test-infra-start` starts them.

#![cfg(feature = "rabbitmq")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test says what is wrong by failing")]

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use helixmq::config::options::{DeadLetterQuery, InboxOptions, PublisherOptions, SubscribeOptions};
use helixmq::config::Config;
use helixmq::hub::{settle, Decision, Event, Hub, Inbox, Incoming, Polled, Publisher, Subscription};
use helixmq::message::{Record, TopicKind};
use serde_json::{json, Value};

#[cfg(feature = "kafka")]
mod duplicates;
#[cfg(feature = "kafka")]
mod failover;
#[cfg(feature = "kafka")]
mod failover_disk;
mod fake;
mod forms;
#[cfg(feature = "kafka")]
mod forwarding;
mod hostile;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_faults;
#[cfg(feature = "kafka")]
mod kafka_forms;
#[cfg(feature = "kafka")]
mod kafka_groups;
#[cfg(feature = "kafka")]
mod kafka_login;
#[cfg(feature = "kafka")]
mod kafka_replay;
mod limits;
mod network;
#[cfg(feature = "kafka")]
mod outage;
#[cfg(feature = "kafka")]
mod patience;
#[cfg(feature = "kafka")]
mod provisional;
mod proxy;
mod proxy_tests;
mod rabbitmq;
mod secrets;
mod tls;

static ONE: Mutex<()> = Mutex::new(());

/// Waits for the others, which may stop the server, and for the server.
fn alone() -> MutexGuard<'static, ()> {
    let guard = lock();
    server(&["start"]);
    guard
}

/// Waits for the others alone.
fn lock() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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
    let server = json!({"host": "127.0.0.1", "port": port});
    // What a server does, and not what is kept for it.
    open_over(json!({"connection_timeout_ms": 5000, "fallback_to_inmemory": false, "rabbitmq": server}), more)
}

/// A hub with `more` over this configuration, section by section.
fn open_over(mut config: Value, more: Value) -> Hub {
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

fn publisher(hub: &Hub, topic: &str) -> Publisher {
    hub.publisher(PublisherOptions::from_json(&json!({"topic": topic}).to_string()).unwrap()).unwrap()
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

/// Lets the tests' own RabbitMQ do something.
fn server(arguments: &[&str]) {
    tool("rabbitmq.sh", arguments);
}

/// Runs a tool of the repository, which must succeed; answers what it printed.
fn tool(name: &str, arguments: &[&str]) -> String {
    let path = format!("{}/tools/{name}", env!("CARGO_MANIFEST_DIR"));
    let done = Command::new(path).args(arguments).output().unwrap();
    assert!(done.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A user of the server, as long as a test has it.
struct User(String);

impl User {
    /// With rights to configure, to write and to read what these expressions say.
    fn with(name: &str, [configure, write, read]: [&str; 3]) -> Self {
        let user = Self(format!("{name}-{}", std::process::id()));
        server(&["ctl", "add_user", &user.0, PASSWORD]);
        user.may([configure, write, read]);
        user
    }

    fn may(&self, [configure, write, read]: [&str; 3]) {
        server(&["ctl", "set_permissions", &self.0, configure, write, read]);
    }

    /// A hub of the user, with `more` over its configuration.
    fn hub(&self, mut more: Value) -> Hub {
        more["rabbitmq"] = json!({"username": self.0, "password": PASSWORD});
        hub(more)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        server(&["ctl", "delete_user", &self.0]);
    }
}

/// Of all users of tests.
const PASSWORD: &str = "not told to anybody";
/// Rights of one who has tasks, and no delays.
const TASKS_ALONE: [&str; 3] = ["^tasks\\.", "^(tasks\\.|amq\\.default$)", "^tasks\\."];

/// Waits for the one dead letter of a topic.
#[track_caller]
fn dead_letter(hub: &Hub, topic: &str) -> Value {
    let query = DeadLetterQuery::from_json(&json!({"topic": topic}).to_string()).unwrap();
    let mut list = json!({});
    until("the dead letter", || {
        list = hub.dead_letters(&query, WAIT).unwrap();
        list["count"] == 1
    });
    list["dead_letters"][0].take()
}

/// Lets the server evaluate a piece of Erlang.
fn eval(erlang: &str) {
    server(&["ctl", "eval", erlang]);
}

/// Memory of this process, in bytes; `peak`: the most since [`forget_peak`].
fn resident(peak: bool) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let name = if peak { "VmHWM:" } else { "VmRSS:" };
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs an ignored test of this program in a process of its own, with so many descriptors; answers
/// what it printed.
fn child(name: &str, descriptors: usize, environment: &[(&str, &str)]) -> String {
    let program = std::env::current_exe().unwrap();
    let line = format!("ulimit -n {descriptors}; exec \"$0\" --ignored --exact --nocapture {name}");
    let run = Command::new("sh").arg("-c").arg(line).arg(program).envs(environment.iter().copied()).output();
    let done = run.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && told.contains("1 passed"), "{:?} {told}", done.status);
    told
}

/// Waits until `what` holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to be");
        pass(Duration::from_millis(2));
    }
}

/// What health tells of the server.
fn own(hub: &Hub) -> Value {
    let health = hub.health();
    let all = health["backends"].as_array().unwrap();
    all.iter().find(|backend| backend["backend"] != "embedded").unwrap().clone()
}

fn state(hub: &Hub) -> String {
    own(hub)["state"].as_str().unwrap().to_owned()
}

fn metric(hub: &Hub, name: &str) -> u64 {
    let all: Value = serde_json::from_str(&hub.metrics(helixmq::hub::MetricsFormat::Json)).unwrap();
    all[name].as_u64().unwrap()
}

/// Redeliveries that wait for a handler that runs across a break.
fn held_back(hub: &Hub) -> u64 {
    let all: Value = serde_json::from_str(&hub.metrics(helixmq::hub::MetricsFormat::Json)).unwrap();
    all["helixmq_held_back"]["ledger"].as_u64().unwrap()
}

/// Whether it takes messages.
fn is_up(hub: &Hub) -> bool {
    matches!(state(hub).as_str(), "up" | "forwarding")
}

/// How often it has tried to connect.
fn attempts(hub: &Hub) -> u64 {
    own(hub)["attempts"].as_u64().unwrap()
}

/// How much of a long sequence is run: `short` of it, by HMQ_TEST_SCALE in per cent, at most `full`.
fn scaled(short: usize, full: usize) -> usize {
    let percent = std::env::var("HMQ_TEST_SCALE").map_or(100, |text| text.parse().unwrap());
    (short * percent / 100).clamp(1, full)
}

/// Lets a fault last.
fn pass(time: Duration) {
    let (_open, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}
