//! Rows F: what becomes of publishes while their server is away, and what it costs that they are kept. No client
//! here does the same, so ours stands beside its own figures without an outage, or alone.

use std::io::Read;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use helixmq_rivals::abi::*;
use helixmq_rivals::hub::{empty_event, empty_record, must, Hub, Inbox, Publisher};
use helixmq_rivals::pairs::{compare, quartiles, Plan};
use helixmq_rivals::report::{measure, verdict, verdict_low, Row};

use super::kafka;
use super::load::{Publishes, Server, HOST, VHOST};
use super::ours::Ours;
use super::rows::{classic, rates, row, CLASSIC};

/// Publishes per second of F1 and F2.
const RATE: u64 = 10_000;
/// Publishes without an outcome, at most.
const WINDOW: usize = 100_000;
const EVENTS: usize = 1_024;
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that F3 forwards.
const BACKLOG: usize = 1_000_000;

/// The servers, and the programs that kill them.
pub struct Rows {
    rabbitmq: Server,
    kafka: Server,
    tools: PathBuf,
    plan: Plan,
    pub done: Vec<Row>,
}

/// A server that is taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    RabbitMq,
    Kafka,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::RabbitMq => "rabbitmq",
            Side::Kafka => "kafka",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Side::RabbitMq => "task",
            Side::Kafka => "event",
        }
    }
}

const SIDES: [Side; 2] = [Side::RabbitMq, Side::Kafka];

impl Rows {
    pub fn new(rabbitmq: Server, kafka: Server, tools: PathBuf, plan: Plan) -> Self {
        Self { rabbitmq, kafka, tools, plan, done: Vec::new() }
    }

    /// Measures the rows of these names; all, if there are none.
    pub fn measure(&mut self, only: &[String]) {
        measure(
            self,
            &[("F1", Self::killed), ("F2", Self::silent), ("F3", Self::forwarded), ("F4", Self::healthy)],
            only,
            "F1 to F4",
        );
    }

    fn does(&self, side: Side, what: &str) {
        let tool = self.tools.join(format!("{}.sh", side.name()));
        let done = Command::new(&tool).arg(what).output().unwrap_or_else(|error| panic!("{}: {error}", tool.display()));
        assert!(done.status.success(), "{} {what}: {}", tool.display(), String::from_utf8_lossy(&done.stderr));
    }

    /// A hub that keeps what its server cannot take.
    fn hub(&self, side: Side) -> Hub {
        let server = match side {
            Side::RabbitMq => format!(
                r#""rabbitmq": {{"host": "{HOST}", "port": {}, "vhost": "{VHOST}", "queue_type": "classic"}}"#,
                self.rabbitmq.port
            ),
            Side::Kafka => format!(r#""kafka": {{"brokers": ["{HOST}:{}"]}}"#, self.kafka.port),
        };
        Hub::configured(&format!(
            r#"{{"name": "bench", "publish_window": {WINDOW}, "connect": "require", "fallback_to_inmemory": true,
                "failover": {{"memory_bytes_max": 1073741824, "confirm_timeout_ms": {}}}, {server}}}"#,
            CONFIRM_TIMEOUT.as_millis()
        ))
    }

    fn killed(&mut self) {
        for side in SIDES {
            let rounds: Vec<Outage> = (0..self.plan.pairs.min(5)).map(|_| self.outage(side, "kill", "start")).collect();
            let call = quartiles(rounds.iter().map(|round| round.call_ms)).median;
            let gap = quartiles(rounds.iter().map(|round| round.gap_ms)).median;
            let end = quartiles(rounds.iter().filter_map(|round| round.end_ms)).median;
            let what = format!(
                "{} killed under 10 k/s: p99.9 of a call; from the last confirm to the first kept, and to the end of \
                 another connection",
                side.name()
            );
            let value = format!("{call:.3} ms; {gap:.1} ms, {end:.1} ms");
            self.alone("F1", what, value, "≤ 20 ms", verdict_low(call.max(gap), 20.0));
        }
    }

    fn silent(&mut self) {
        let limit = CONFIRM_TIMEOUT.as_secs_f64() * 1e3 + 500.0;
        for side in SIDES {
            let rounds: Vec<Outage> =
                (0..self.plan.pairs.min(3)).map(|_| self.outage(side, "pause", "resume")).collect();
            let gap = quartiles(rounds.iter().map(|round| round.gap_ms)).median;
            let what = format!("{} stands still under 10 k/s: from the last confirm to the first kept", side.name());
            self.alone("F2", what, format!("{gap:.0} ms"), "≤ 5,500 ms", verdict_low(gap, limit));
        }
    }

    /// Publishes at a rate while the server goes and comes back; then everything has to be there, in order.
    fn outage(&self, side: Side, goes: &str, comes: &str) -> Outage {
        let hub = self.hub(side);
        let topic = format!("bench.outage.{}.{}", std::process::id(), NAMED.fetch_add(1, Ordering::Relaxed));
        let options = format!(r#"{{"topic": "{topic}", "kind": "{}"}}"#, side.kind());
        let publisher = hub.publisher(&options);
        let inbox = hub.inbox(&format!(r#"{{"capacity": {WINDOW}}}"#));
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let (calls, heard, end) = std::thread::scope(|scope| {
            let publishing = scope.spawn(|| publish(&publisher, &inbox, &sent, &stop));
            let hearing = scope.spawn(|| hear(&inbox, &sent, &stop));
            std::thread::sleep(Duration::from_secs(2));
            let watching = (goes == "kill").then(|| scope.spawn(|| self.end_of_a_connection(side)));
            self.does(side, goes);
            // A silent server is found out by then.
            std::thread::sleep(if goes == "pause" { CONFIRM_TIMEOUT * 2 } else { Duration::from_secs(2) });
            self.does(side, comes);
            std::thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::SeqCst);
            let end = watching.map(|watching| watching.join().expect("it watches"));
            (publishing.join().expect("it publishes"), hearing.join().expect("it hears"), end)
        });
        hub.wait_forwarded(120_000);
        all_in_order(&hub, &topic, side, sent.load(Ordering::SeqCst));
        let since = |at: Instant| at.duration_since(heard.confirmed).as_secs_f64() * 1e3;
        Outage { call_ms: p999(calls), gap_ms: since(heard.kept), end_ms: end.map(since) }
    }

    /// When a connection that says nothing ends, with the process at its other end: nobody can know earlier.
    fn end_of_a_connection(&self, side: Side) -> Instant {
        let port = match side {
            Side::RabbitMq => self.rabbitmq.port,
            Side::Kafka => self.kafka.port,
        };
        let mut connection = TcpStream::connect((HOST, port)).expect("the server is there");
        let _ = connection.read(&mut [0]);
        Instant::now()
    }

    /// What was kept goes out, as fast as plain publishing.
    fn forwarded(&mut self) {
        for side in SIDES {
            let rounds = self.plan.pairs.min(3);
            let (mut ours, mut plain) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                ours.push(self.forwards(side));
                plain.push(self.plain(side));
            }
            let ratio = quartiles(ours.iter().zip(&plain).map(|(ours, plain)| ours / plain));
            let rate = |rates: Vec<f64>| format!("{:.1} k/s", quartiles(rates.into_iter()).median / 1e3);
            let row = Row {
                id: "F3",
                workload: format!("{}: forwarding of {BACKLOG} kept messages, 100 B, behind the ramp", side.name()),
                peer: "ours, published directly".into(),
                ours_value: rate(ours),
                peer_value: rate(plain),
                ratio: format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.low, ratio.high),
                minimum: "0.8".into(),
                verdict: verdict(ratio.median, 0.8),
                cost: "–".into(),
                peer_cost: "–".into(),
            };
            row.print();
            self.done.push(row);
        }
    }

    /// Forwarded per second, once the ramp is over: of the second half.
    fn forwards(&self, side: Side) -> f64 {
        let (hub, topic) = (self.hub(side), format!("bench.kept.{}", std::process::id()));
        let publisher = hub.publisher(&format!(r#"{{"topic": "{topic}", "kind": "{}"}}"#, side.kind()));
        hub.force(side.name(), HMQ_FORCE_DOWN);
        let mut outcomes = super::outcomes::Outcomes::of(&hub, 10_000);
        let (body, mut left) = ([b'x'; 100], BACKLOG);
        outcomes.publish(&publisher, &super::outcomes::record_of(&body), 10_000, |sent| {
            left -= sent;
            left
        });
        hub.force(side.name(), HMQ_FORCE_AUTO);
        let mut begin = None;
        let rate = loop {
            let (kept, now) = (kept(&hub), Instant::now());
            match begin {
                None if kept <= BACKLOG / 2 => begin = Some((kept, now)),
                Some((from, since)) if kept <= BACKLOG / 20 => {
                    break (from - kept) as f64 / (now - since).as_secs_f64();
                }
                None | Some(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        hub.wait_forwarded(120_000);
        if side == Side::RabbitMq {
            hub.purge(&topic);
        }
        rate
    }

    fn plain(&self, side: Side) -> f64 {
        let time = Duration::from_secs(2);
        match side {
            Side::RabbitMq => {
                let mut ours = Ours::open(self.rabbitmq, "classic");
                ours.declare(CLASSIC);
                let load = classic(100);
                ours.fill(&load, 1);
                let rate = ours.publish(&load, time).value;
                ours.purge(CLASSIC);
                rate
            }
            Side::Kafka => {
                let cluster = kafka::Cluster::open(self.kafka);
                let topic = cluster.topic(kafka::NATIVE);
                let load = events(&topic.name);
                let mut ours = kafka::Ours::open(&cluster, kafka::Codec::Lz4);
                ours.fill(&load, 1);
                kafka::Publishes::publish(&mut ours, &load, time).value
            }
        }
    }

    /// With its server there, a hub that keeps beside one that does not.
    fn healthy(&mut self) {
        let load = classic(100);
        let (mut ours, mut plain) =
            (Ours::opened(self.rabbitmq, "classic", true), Ours::open(self.rabbitmq, "classic"));
        ours.declare(CLASSIC);
        for side in [&mut ours, &mut plain] {
            side.fill(&load, 1);
        }
        let comparison = compare(self.plan, |time| emptied(&mut ours, time), |time| emptied(&mut plain, time));
        let what = "R2 (100 B, window 1000) with messages that would be kept";
        self.done.push(row("F4", what, "ours, keeping nothing", &comparison, rates(&comparison), Some(0.95)));

        let cluster = kafka::Cluster::open(self.kafka);
        let topic = cluster.topic(kafka::NATIVE);
        let load = events(&topic.name);
        let (mut ours, mut plain) =
            (kafka::Ours::opened(&cluster, kafka::Codec::Lz4, true), kafka::Ours::open(&cluster, kafka::Codec::Lz4));
        for side in [&mut ours, &mut plain] {
            side.fill(&load, 1);
        }
        let publish = |side: &mut kafka::Ours, time| kafka::Publishes::publish(side, &load, time);
        let comparison = compare(self.plan, |time| publish(&mut ours, time), |time| publish(&mut plain, time));
        let what = "K1 (100 B, lz4, window 10000) with messages that would be kept";
        self.done.push(row("F4", what, "ours, keeping nothing", &comparison, rates(&comparison), Some(0.95)));
    }

    /// A row without a peer.
    fn alone(&mut self, id: &'static str, workload: String, value: String, minimum: &str, verdict: String) {
        let none = || "–".to_owned();
        let row = Row {
            id,
            workload,
            peer: none(),
            ours_value: value,
            peer_value: none(),
            ratio: none(),
            minimum: minimum.into(),
            verdict,
            cost: none(),
            peer_cost: none(),
        };
        row.print();
        self.done.push(row);
    }
}

static NAMED: AtomicU64 = AtomicU64::new(0);

fn events(topic: &str) -> kafka::Load {
    kafka::Load { topic: topic.into(), ..kafka::load(100, kafka::WINDOW, kafka::Codec::Lz4) }
}

/// Into an empty queue.
fn emptied(ours: &mut Ours, time: Duration) -> helixmq_rivals::pairs::Sample {
    ours.purge(CLASSIC);
    ours.publish(&classic(100), time)
}

struct Outage {
    call_ms: f64,
    gap_ms: f64,
    /// From the last confirm to the end of another connection.
    end_ms: Option<f64>,
}

/// The last confirm of the server before the first receipt of a message that is kept, and that.
struct Heard {
    confirmed: Instant,
    kept: Instant,
}

/// Publishes numbers at the rate; answers how long each call took.
fn publish(publisher: &Publisher, inbox: &Inbox, sent: &AtomicU64, stop: &AtomicBool) -> Vec<Duration> {
    let (mut calls, begin, every) = (Vec::new(), Instant::now(), Duration::from_secs(1) / RATE as u32);
    while !stop.load(Ordering::SeqCst) {
        let number = sent.load(Ordering::SeqCst);
        let due = begin + every * number as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let payload = number.to_string();
        let record = hmq_record {
            payload: payload.as_ptr().cast(),
            payload_len: payload.len(),
            key: c"k".as_ptr().cast(),
            key_len: 1,
            ..empty_record()
        };
        let (start, mut accepted) = (Instant::now(), 0);
        // SAFETY: the record and what it points at outlive the call.
        must(|err| unsafe {
            hmq_pub_send_inbox(publisher.handle(), &record, 1, inbox.handle(), null_mut(), &mut accepted, err)
        });
        calls.push(start.elapsed());
        sent.fetch_add(accepted as u64, Ordering::SeqCst);
    }
    calls
}

/// Hears how each ended, all of them well.
fn hear(inbox: &Inbox, sent: &AtomicU64, stop: &AtomicBool) -> Heard {
    let mut events = vec![empty_event(); EVENTS];
    let (mut heard, mut confirmed, mut kept) = (0, Instant::now(), None);
    while !stop.load(Ordering::SeqCst) || heard < sent.load(Ordering::SeqCst) {
        let count = inbox.poll_within(&mut events, 1_000);
        let now = Instant::now();
        for event in &events[..count] {
            assert!(event.kind == HMQ_EV_PUBLISHED && event.status == HMQ_OK, "{} {}", event.kind, event.status);
            match event.level {
                HMQ_LEVEL_BROKER if kept.is_none() => confirmed = now,
                HMQ_LEVEL_BROKER => {}
                _ => drop(kept.get_or_insert(now)),
            }
        }
        // SAFETY: `count` events are filled.
        unsafe { hmq_events_clear(events.as_mut_ptr(), count) };
        heard += count as u64;
    }
    Heard { confirmed, kept: kept.expect("some were kept") }
}

/// Every number comes, and first copies come in order.
fn all_in_order(hub: &Hub, topic: &str, side: Side, count: u64) {
    let inbox = hub.inbox("{}");
    let options = format!(
        r#"{{"topic": "{topic}", "kind": "{}", "group": "bench.{}", "prefetch": 1000}}"#,
        side.kind(),
        std::process::id()
    );
    let sub = hub.subscribed(&inbox, &options);
    let mut events = vec![empty_event(); EVENTS];
    let mut next = 0;
    while next < count {
        let here = inbox.poll_within(&mut events, 30_000);
        assert!(here > 0, "{next} of {count} came");
        for event in &events[..here] {
            // SAFETY: the payload lives until the event is cleared.
            let payload = unsafe { std::slice::from_raw_parts(event.payload.cast::<u8>(), event.payload_len) };
            let number: u64 = std::str::from_utf8(payload).expect("text").parse().expect("a number");
            assert!(number <= next, "{number} came before {next}");
            next = next.max(number + 1);
            // SAFETY: no pointer but `err` is given.
            must(|err| unsafe { hmq_settle(event.token, HMQ_ACK, 0, std::ptr::null(), 0, err) });
        }
        // SAFETY: `here` events are filled.
        unsafe { hmq_events_clear(events.as_mut_ptr(), here) };
    }
    // SAFETY: the subscription is ours, and not used after this.
    unsafe {
        must(|err| hmq_sub_close(sub, 5_000, err));
        hmq_sub_free(sub);
    }
}

/// Milliseconds within which 99.9 of 100 calls end.
fn p999(mut calls: Vec<Duration>) -> f64 {
    calls.sort();
    calls[(calls.len() - 1) * 999 / 1_000].as_secs_f64() * 1e3
}

/// Messages that are kept.
fn kept(hub: &Hub) -> usize {
    let health = hub.health();
    let spool = health.find(r#""spool""#).map(|at| &health[at..]);
    let records = spool.and_then(|spool| spool.split_once(r#""records":"#));
    let digits = records.map(|(_, rest)| rest.trim_start().split(|c: char| !c.is_ascii_digit()).next());
    digits.flatten().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no spool in {health}"))
}
