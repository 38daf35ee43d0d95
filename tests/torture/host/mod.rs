//! The process under test: one hub, its publishers and its consumers. The orchestrator starts it, tells it what to do by
//! lines on its standard input, reads what it says of itself, kills it, and starts it again on the same directory.

mod consumer;
mod message;
mod mutant;
mod producer;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use helixmq::config::Config;
use helixmq::hub::{Hub, MetricsFormat};
use serde_json::{json, Value};

use crate::history::{Counters, History};
use crate::logs::{self, Log};
use crate::setup::{Setup, Topic, CONSUMERS, PRODUCERS};

pub use consumer::group;

/// For calls that must not last for ever.
const WAIT: Option<Duration> = Some(Duration::from_secs(20));
/// Between two lines on what the host is doing.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Microseconds since 1970, which all processes of a run have in common.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// Lets time go by.
pub fn pass(time: Duration) {
    let (_open, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

/// What all threads of the host share.
struct Host {
    setup: Setup,
    dir: PathBuf,
    life: u32,
    topics: Vec<Topic>,
    /// The hub of now, and its number. Publishers hold this while they call it; who closes it holds it alone.
    hub: RwLock<(Hub, u32)>,
    log: Log,
    /// No more is published.
    stop: AtomicBool,
    /// The hub is closed, and no other will be opened.
    finished: AtomicBool,
    /// Consumers fail and crash no more.
    calm: AtomicBool,
    /// Receipts of kept messages have said `memory`, or `disk`: the former must be forwarded before a hub is closed.
    keeps_in_memory: AtomicBool,
    keeps_on_disk: AtomicBool,
    delivered: AtomicU64,
    last_delivery: AtomicU64,
    open_subscriptions: AtomicU64,
    /// Publishes without an outcome yet.
    under_way: AtomicU64,
    /// The last changes of the servers' states, as health tells them.
    changes: Mutex<String>,
}

/// Writes down where the numbers of the next life go on. By the orchestrator: what the logs take while they are read
/// would count as the hub's (C10).
pub fn write_numbers(dir: &Path) {
    let mut known = History::default();
    logs::read(dir, &mut known);
    let numbers: Vec<_> = numbers_so_far(&known).into_iter().collect();
    std::fs::write(dir.join(NUMBERS), serde_json::to_string(&numbers).unwrap()).unwrap();
}

fn read_numbers(dir: &Path) -> Numbers {
    let numbers: Vec<((u16, String, String), u64)> =
        serde_json::from_str(&std::fs::read_to_string(dir.join(NUMBERS)).unwrap()).unwrap();
    numbers.into_iter().collect()
}

const NUMBERS: &str = "numbers.json";

/// Runs until the orchestrator says `finish`, or kills it.
pub fn run(dir: &Path, life: u32) {
    let setup = Setup::read(dir);
    let topics = setup.topics();
    let numbers = read_numbers(dir);
    let hub = open(&setup, dir);
    let host = Arc::new(Host {
        log: Log::create(dir, &format!("host.{life}.hub.log")),
        hub: RwLock::new((hub, 1)),
        dir: dir.to_owned(),
        setup,
        life,
        topics,
        stop: AtomicBool::new(false),
        finished: AtomicBool::new(false),
        calm: AtomicBool::new(false),
        keeps_in_memory: AtomicBool::new(false),
        keeps_on_disk: AtomicBool::new(false),
        delivered: AtomicU64::new(0),
        last_delivery: AtomicU64::new(0),
        open_subscriptions: AtomicU64::new(0),
        under_way: AtomicU64::new(0),
        changes: Mutex::default(),
    });
    let consumers = consumer::start(&host);
    let expected = consumers.len() as u64;
    while host.open_subscriptions.load(Ordering::SeqCst) < expected {
        pass(Duration::from_millis(10));
    }
    say(&json!({"event": "ready"}));
    let producers: Vec<_> = (0..PRODUCERS as u16)
        .map(|index| {
            let (host, numbers) = (Arc::clone(&host), numbers.clone());
            std::thread::spawn(move || producer::run(&host, index, numbers))
        })
        .collect();
    let telling = Arc::clone(&host);
    std::thread::spawn(move || loop {
        pass(TELL_EVERY);
        telling.tell();
    });
    host.obey();
    for thread in producers.into_iter().chain(consumers) {
        thread.join().unwrap();
    }
    say(&json!({"event": "finished"}));
}

/// The last number of each producer, topic and key in earlier lives.
type Numbers = BTreeMap<(u16, String, String), u64>;

fn numbers_so_far(known: &History) -> Numbers {
    let mut numbers = Numbers::new();
    for name in known.attempts.keys() {
        let last = numbers.entry((name.producer, name.topic.clone(), name.key.clone())).or_default();
        *last = name.seq.max(*last);
    }
    numbers
}

fn open(setup: &Setup, dir: &Path) -> Hub {
    let config = Config::from_json(&setup.config(dir).to_string()).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        match Hub::open(config.clone(), WAIT) {
            Ok(hub) => return hub,
            // A full disk keeps a hub from opening; it comes back.
            Err(error) => assert!(std::time::Instant::now() < deadline, "the hub does not open: {error}"),
        }
        pass(Duration::from_millis(200));
    }
}

fn say(what: &Value) {
    let mut out = std::io::stdout().lock();
    // An orchestrator that is gone needs no answer.
    let _ = writeln!(out, "{what}").and_then(|()| out.flush());
}

impl Host {
    /// Does what the orchestrator says, until that is `finish` or the orchestrator is gone.
    fn obey(&self) {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.as_str() {
                "reopen" => {
                    let done = self.reopen();
                    say(&json!({"event": "reopened", "done": done}));
                }
                "stop" => self.stop.store(true, Ordering::SeqCst),
                "calm" => self.calm.store(true, Ordering::SeqCst),
                _ => break,
            }
        }
        self.stop.store(true, Ordering::SeqCst);
        self.calm.store(true, Ordering::SeqCst);
        let hub = self.hub.read().unwrap();
        self.log.counters(&counters(&hub.0, &format!("{}.{}", self.life, hub.1)));
        self.finished.store(true, Ordering::SeqCst);
        hub.0.close(WAIT).unwrap();
    }

    /// Closes the hub and opens another. Not where messages would be lost by that, as their receipts said they might.
    fn reopen(&self) -> bool {
        let mut hub = self.hub.write().unwrap();
        if hub.0.flush(Some(Duration::from_secs(10))).is_err() {
            return false;
        }
        // A batch tells no level, so it is not known before another publish has told it.
        let safe = self.keeps_on_disk.load(Ordering::SeqCst) && !self.keeps_in_memory.load(Ordering::SeqCst);
        if !safe && hub.0.wait_forwarded(Some(Duration::from_secs(1))).is_err() {
            return false;
        }
        self.log.counters(&counters(&hub.0, &format!("{}.{}", self.life, hub.1)));
        hub.0.close(WAIT).unwrap();
        *hub = (open(&self.setup, &self.dir), hub.1 + 1);
        true
    }

    fn tell(&self) {
        let Ok(hub) = self.hub.try_read() else { return };
        let metrics: Value = serde_json::from_str(&hub.0.metrics(MetricsFormat::Json)).unwrap();
        let sum = |name: &str| -> u64 {
            metrics[name].as_object().into_iter().flatten().filter_map(|(_, own)| own.as_u64()).sum()
        };
        let changes = hub.0.health()["state_changes"].to_string();
        if std::mem::replace(&mut *self.changes.lock().unwrap(), changes.clone()) != changes {
            // For whoever reads about a run that failed.
            eprintln!("{} {changes}", now_us());
        }
        say(&json!({
            "event": "status",
            "records": sum("helixmq_spool_records"), "bytes": sum("helixmq_spool_bytes"),
            "under_way": self.under_way.load(Ordering::SeqCst),
            "delivered": self.delivered.load(Ordering::SeqCst),
            "last_delivery": self.last_delivery.load(Ordering::SeqCst),
        }));
    }
}

fn counters(hub: &Hub, name: &str) -> Counters {
    let all: Value = serde_json::from_str(&hub.metrics(MetricsFormat::Json)).unwrap();
    let count = |name: &str| all[format!("helixmq_{name}_total")].as_u64().unwrap();
    let records = all["helixmq_spool_records"].as_object().into_iter().flatten();
    Counters {
        hub: name.to_owned(),
        spooled: count("spooled"),
        forwarded: count("forwarded"),
        expired: count("spool_expired"),
        evicted: count("spool_evicted"),
        refused: count("spool_refused"),
        failed: count("spool_failed"),
        local_done: count("local_done"),
        records: records.filter_map(|(_, own)| own.as_u64()).sum(),
    }
}

/// Names of the consumers of a topic.
fn consumers_of(topic: &Topic) -> Vec<String> {
    let count = if topic.ordered { 1 } else { CONSUMERS };
    let what = if topic.ordered { "ordered" } else { "rough" };
    (0..count).map(|index| format!("{}-{what}-{index}", topic.side.name())).collect()
}
