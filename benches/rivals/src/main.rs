//! helixmq beside its peers. Every comparison runs in this one process, helixmq through its shared
//! library and C ABI alone; see `pairs.rs` for how the figures are taken.
//!
//! ```text
//! rivals [--quick] [--unpinned] [--only I1,J1] [--out table.md]    compare, print, write the table
//! rivals --solo one|batch SECONDS                                  our side alone, to be profiled
//! rivals --single one|batch MESSAGES                               our side on one thread, for instruction counts
//! ```

mod cores;
mod durable;
mod json;
mod latency;
mod memory;
#[path = "servers/outcomes.rs"]
mod outcomes;
mod peers;
mod sides;
mod throughput;
mod transport;

use std::time::Duration;

use helixmq_rivals::hub::{self, Hub, Publisher, Subscription, BATCH};
use helixmq_rivals::pairs::{compare, quartiles, Plan};
use helixmq_rivals::report::{self, Row};
use latency::Latency;
use sides::{Batched, Single};
use transport::{Receiver, Sender};

/// Messages that a queue holds, on every side.
const BOUND: usize = 4096;
const SMALL: usize = 100;
const LARGE: usize = 1024;
/// Memory for the messages of a hub: far more than the bound needs.
const MEMORY: usize = 256 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--memory-child", side] => memory::child(side),
        ["--solo", mode, seconds] => solo(mode, seconds.parse().expect("a number of seconds")),
        ["--single", mode, messages] => single(mode, messages.parse().expect("a number of messages")),
        _ => compare_all(&Options::parse(&words)),
    }
}

struct Options {
    plan: Plan,
    only: Option<Vec<String>>,
    out: Option<String>,
}

impl Options {
    fn parse(words: &[&str]) -> Self {
        let full = Plan { pairs: 11, time: Duration::from_millis(500) };
        let mut options = Self { plan: full, only: None, out: None };
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            match *word {
                "--quick" => options.plan = Plan { pairs: 3, time: Duration::from_millis(200) },
                "--unpinned" => cores::leave_to_scheduler(),
                "--only" => {
                    let ids = rest.next().expect("--only takes rows, such as I1,J1");
                    options.only = Some(ids.split(',').map(str::to_owned).collect());
                }
                "--out" => options.out = Some(rest.next().expect("--out takes a path").to_string()),
                other => panic!("unknown option {other}"),
            }
        }
        options
    }

    fn wants(&self, id: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|wanted| wanted == id))
    }
}

fn compare_all(options: &Options) {
    type Measure = fn(Plan) -> Vec<Row>;
    let groups: [(&str, Measure); 7] = [
        ("I1", one_by_one),
        ("I2", in_batches),
        ("I3", other_shapes),
        ("I4", latency_rows),
        ("I5", queued_memory),
        ("D1", durable::rows),
        ("J1", json_door),
    ];
    assert!(groups.iter().any(|(id, _)| options.wants(id)), "no row of that name: I1 to I5, D1, J1");
    println!("{}", report::machine());
    let mut rows = Vec::new();
    for (_, measure) in groups.iter().filter(|(id, _)| options.wants(id)) {
        let measured = measure(options.plan);
        measured.iter().for_each(Row::print);
        rows.extend(measured);
    }
    if let Some(path) = &options.out {
        let table = report::markdown(&rows, &intro(options.plan));
        let text = report::placed(std::fs::read_to_string(path).ok().as_deref(), &table, "table");
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// What stands above the table.
fn intro(plan: Plan) -> String {
    format!(
        "helixmq {} through its C ABI; {} pairs of 2 × {:.1} s, order alternating, after a warm-up; \
         queues bound to {BOUND} messages on both sides. Ratio: ours / peer, turned round where lower is better, \
         so that above 1 is always better; median of the pairs, quartiles in brackets. Cost: processor time of the \
         process per message, and context switches per 1,000 messages.",
        hub::version(),
        plan.pairs,
        plan.time.as_secs_f64()
    )
}

/// A task topic with a publisher and a subscribed inbox. `inbox` are the options of the inbox.
fn tasks(hub: &Hub, topic: &str, inbox: &str) -> (Publisher, Subscription) {
    hub.declare(&format!(r#"{{"name": "{topic}", "kind": "task", "messages_max": {BOUND}}}"#));
    let subscription = hub.subscribe(inbox, &format!(r#"{{"topic": "{topic}", "kind": "task", "prefetch": 256}}"#));
    (hub.publisher(&format!(r#"{{"topic": "{topic}", "kind": "task"}}"#)), subscription)
}

/// As users get it, and watching for 50 µs before it sleeps.
const DEFAULT_INBOX: &str = "{}";
const SPINNING_INBOX: &str = r#"{"spin_us": 50}"#;

fn one_by_one(plan: Plan) -> Vec<Row> {
    let hub = Hub::open(MEMORY);
    let mut rows = Vec::new();
    for (topic, inbox, what) in [
        ("tasks.one", DEFAULT_INBOX, "100 B, one by one"),
        ("tasks.one-spin", SPINNING_INBOX, "100 B, one by one, spin_us 50"),
    ] {
        let (publisher, subscription) = tasks(&hub, topic, inbox);
        let mut ours = Side { senders: [Single(publisher)], receivers: [Single(subscription)], size: SMALL };
        rows.push(ours.against("I1", what, "crossbeam, boxed copy", peers::crossbeam(BOUND), plan, 0.6));
        rows.push(ours.against("I1", what, "tokio mpsc, boxed copy", peers::tokio(BOUND), plan, 1.3));
        rows.push(ours.against("I1", what, "ZeroMQ inproc", peers::zeromq(BOUND), plan, 1.7));
    }
    rows
}

fn in_batches(plan: Plan) -> Vec<Row> {
    let hub = Hub::open(MEMORY);
    let (publisher, subscription) = tasks(&hub, "tasks.batch", DEFAULT_INBOX);
    let mut ours = Side { senders: [Batched(publisher)], receivers: [Batched(subscription)], size: SMALL };
    let what = "100 B, batches of 64";
    vec![
        ours.against("I2", what, "crossbeam, boxed copy", peers::crossbeam(BOUND), plan, 4.0),
        ours.against("I2", what, "ZeroMQ inproc", peers::zeromq(BOUND), plan, 11.0),
    ]
}

fn other_shapes(plan: Plan) -> Vec<Row> {
    let hub = Hub::open(MEMORY);
    let (publisher, subscription) = tasks(&hub, "tasks.two", DEFAULT_INBOX);
    let second = hub.publisher(r#"{"topic": "tasks.two", "kind": "task"}"#);
    let mut ours =
        Side { senders: [Single(publisher), Single(second)], receivers: [Single(subscription)], size: SMALL };
    let (sender, receiver) = peers::crossbeam(BOUND);
    let mut peer = Side { senders: [sender.clone(), sender], receivers: [receiver], size: SMALL };
    let two = ours.compared("I3", "100 B, one by one, 2 producers", "crossbeam, boxed copy", &mut peer, plan, 0.6);

    let (publisher, subscription) = tasks(&hub, "tasks.large", DEFAULT_INBOX);
    let mut ours = Side { senders: [Single(publisher)], receivers: [Single(subscription)], size: LARGE };
    let large = ours.against("I3", "1 KiB, one by one", "crossbeam, boxed copy", peers::crossbeam(BOUND), plan, 0.6);

    vec![two, fan_out(&hub, plan), large]
}

fn fan_out(hub: &Hub, plan: Plan) -> Row {
    hub.declare(&format!(r#"{{"name": "events.fan", "kind": "event", "partitions": 1, "messages_max": {BOUND}}}"#));
    let receivers = ["first", "second"].map(|group| {
        let options = format!(r#"{{"topic": "events.fan", "kind": "event", "group": "{group}", "prefetch": 256}}"#);
        Single(hub.subscribe(DEFAULT_INBOX, &options))
    });
    let publisher = hub.publisher(r#"{"topic": "events.fan", "kind": "event"}"#);
    let mut ours = Side { senders: [Single(publisher)], receivers, size: SMALL };
    let (sender, receivers) = peers::broadcast(BOUND);
    let mut peer = Side { senders: [sender], receivers, size: SMALL };
    ours.compared("I3", "100 B, one by one, events to 2 groups", "tokio broadcast", &mut peer, plan, 2.0)
}

/// One side of a throughput comparison.
struct Side<S, R, const SENDERS: usize, const RECEIVERS: usize> {
    senders: [S; SENDERS],
    receivers: [R; RECEIVERS],
    size: usize,
}

impl<S: Sender, R: Receiver, const SENDERS: usize, const RECEIVERS: usize> Side<S, R, SENDERS, RECEIVERS> {
    /// Compares with a peer of one sender and one receiver.
    fn against<T: Sender, Q: Receiver>(
        &mut self,
        id: &'static str,
        workload: &str,
        peer_name: &str,
        (sender, receiver): (T, Q),
        plan: Plan,
        minimum: f64,
    ) -> Row {
        let mut peer = Side { senders: [sender], receivers: [receiver], size: self.size };
        self.compared(id, workload, peer_name, &mut peer, plan, minimum)
    }

    fn compared<T: Sender, Q: Receiver, const M: usize, const N: usize>(
        &mut self,
        id: &'static str,
        workload: &str,
        peer_name: &str,
        peer: &mut Side<T, Q, M, N>,
        plan: Plan,
        minimum: f64,
    ) -> Row {
        let comparison = compare(
            plan,
            |time| throughput::run(&mut self.senders, &mut self.receivers, self.size, time),
            |time| throughput::run(&mut peer.senders, &mut peer.receivers, peer.size, time),
        );
        let rate = |rate: f64| format!("{:.2} M/s", rate / 1e6);
        let values = (rate(comparison.ours.value), rate(comparison.peer.value));
        Row::of_ratio(id, (workload, peer_name), values, &comparison, comparison.ratio, minimum)
    }
}

fn latency_rows(plan: Plan) -> Vec<Row> {
    let default = "latency at 100 k/s; p50 / p99 / p99.9";
    let asleep = "the same, spin_us 0: the consumer sleeps at once";
    vec![
        latency_row(plan, "tasks.latency", DEFAULT_INBOX, default),
        latency_row(plan, "tasks.latency-asleep", r#"{"spin_us": 0}"#, asleep),
    ]
}

fn latency_row(plan: Plan, topic: &str, inbox: &str, workload: &'static str) -> Row {
    let hub = Hub::open(MEMORY);
    let (publisher, subscription) = tasks(&hub, topic, inbox);
    let (mut publisher, mut subscription) = (Single(publisher), Single(subscription));
    let (mut sender, mut receiver) = peers::crossbeam(BOUND);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let comparison = compare(
        plan,
        |time| {
            let (sample, latency) = latency::run(&mut publisher, &mut subscription, time);
            ours.push(latency);
            sample
        },
        |time| {
            let (sample, latency) = latency::run(&mut sender, &mut receiver, time);
            theirs.push(latency);
            sample
        },
    );
    // The first of each is the warm-up.
    let values = (latencies(&ours[1..]), latencies(&theirs[1..]));
    Row::of_ratio("I4", (workload, "crossbeam, recv"), values, &comparison, comparison.ratio.inverse(), 0.9)
}

fn latencies(runs: &[Latency]) -> String {
    let median = |part: fn(&Latency) -> f64| quartiles(runs.iter().map(part)).median;
    format!("{:.1} / {:.0} / {:.0} µs", median(|run| run.p50), median(|run| run.p99), median(|run| run.p999))
}

fn queued_memory(plan: Plan) -> Vec<Row> {
    let median = |side: &str| quartiles((0..plan.pairs.min(3)).map(|_| memory::measure(side))).median;
    let ours = median("helixmq");
    let row = |peer: &str, side: &str| {
        let theirs = median(side);
        Row {
            id: "I5",
            workload: "memory of 1 M queued messages of 100 B".into(),
            peer: peer.into(),
            ours_value: format!("{ours:.1} B each"),
            peer_value: format!("{theirs:.1} B each"),
            ratio: format!("{:.2}", theirs / ours),
            minimum: "≤ 150 MB".into(),
            verdict: report::verdict_low(ours, 150.0),
            cost: "–".into(),
            peer_cost: "–".into(),
        }
    };
    vec![
        row("crossbeam bounded, boxed copy", "crossbeam-bounded"),
        row("crossbeam unbounded, boxed copy", "crossbeam-unbounded"),
    ]
}

fn json_door(plan: Plan) -> Vec<Row> {
    let hub = Hub::open(MEMORY);
    let document = json::document();
    assert_eq!(document.len(), json::DOCUMENT_BYTES, "the document has another size than the row says");
    let mut publisher = json::publisher(&hub);
    let comparison = compare(
        plan,
        |time| json::by_document(&hub, &document, time),
        |time| json::by_fields(&hub, &mut publisher, time),
    );
    let extra = comparison.ours.value - comparison.peer.value;
    let micros = |value: f64| format!("{value:.3} µs");
    let values = (micros(comparison.ours.value), micros(comparison.peer.value));
    let names = ("hmq_publish_json, document of 353 B", "hmq_pub_send, same fields");
    let mut row = Row::of_ratio("J1", names, values, &comparison, comparison.ratio.inverse(), 1.0);
    row.minimum = "≤ 1 µs more".into();
    row.verdict = format!("{extra:.3} µs more: {}", report::verdict_low(extra, 1.0));
    vec![row]
}

/// Our side of I1 or I2 alone.
fn solo(mode: &str, seconds: f64) {
    let hub = Hub::open(MEMORY);
    let (publisher, subscription) = tasks(&hub, "tasks.solo", DEFAULT_INBOX);
    let time = Duration::from_secs_f64(seconds);
    let sample = match mode {
        "one" => throughput::run(&mut [Single(publisher)], &mut [Single(subscription)], SMALL, time),
        "batch" => throughput::run(&mut [Batched(publisher)], &mut [Batched(subscription)], SMALL, time),
        other => panic!("no mode is named {other}"),
    };
    let rate = sample.value / 1e6;
    println!("{rate:.2} M/s, {:.3} µs of processor and {:.1} switches per 1,000", sample.cpu_us, sample.switches);
}

/// Publish and take by turns of [`BATCH`] on one thread: no waiting, so every run is alike.
fn single(mode: &str, messages: usize) {
    let hub = Hub::open(MEMORY);
    let (publisher, subscription) = tasks(&hub, "tasks.single", DEFAULT_INBOX);
    match mode {
        "one" => by_turns(Single(publisher), Single(subscription), messages),
        "batch" => by_turns(Batched(publisher), Batched(subscription), messages),
        other => panic!("no mode is named {other}"),
    }
}

fn by_turns<S: Sender>(mut sender: S, mut receiver: impl Receiver, messages: usize) {
    let payload = [0; SMALL];
    let started = std::time::Instant::now();
    for _ in 0..messages / BATCH {
        for _ in 0..BATCH as u64 / S::PER_CALL {
            sender.send(&payload);
        }
        let mut taken = 0;
        while taken < BATCH {
            receiver.receive(|payload| taken += usize::from(payload.len() == SMALL));
        }
    }
    println!("{:.1} ns per message", started.elapsed().as_secs_f64() * 1e9 / messages as f64);
}
