//! Outages of a process that keeps messages on disk: killed, restarted, out of space.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use super::outage::{forwarded, key, Side, KAFKA, RABBITMQ};
use super::*;
use helixmq::broker::Level;
use helixmq::error::{Fate, Kind};

/// A directory that is removed with its test.
pub(super) struct TestDir(pub PathBuf);

impl TestDir {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("helixmq-servers-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn on_disk(side: Side, dir: &Path, more: Value) -> Hub {
    let mut config = json!({"failover": {"dir": dir, "free_space_floor_bytes": 0}});
    for (name, value) in more.as_object().unwrap() {
        match (config[name].as_object_mut(), value.as_object()) {
            (Some(own), Some(value)) => own.extend(value.clone()),
            _ => config[name] = value.clone(),
        }
    }
    side.hub(config)
}

/// Publishes numbers without an end, and prints one for each receipt that is worth more than this process.
#[test]
#[ignore = "the child of the tests below"]
fn publishing_child() {
    let told = |name: &str| std::env::var(name).unwrap();
    let side = if told("HMQ_TEST_SIDE") == "kafka" { KAFKA } else { RABBITMQ };
    let classic = json!({"connection_timeout_ms": 1000, "rabbitmq": {"queue_type": "classic"}});
    let plain = json!({"connection_timeout_ms": 1000});
    let more = if side.name == "rabbitmq" { classic } else { plain };
    let hub = on_disk(side, Path::new(&told("HMQ_TEST_DIR")), more);
    let options = json!({"topic": told("HMQ_TEST_TOPIC"), "kind": side.kind.name(), "require": "disk"});
    let publisher = hub.publisher(PublisherOptions::from_json(&options.to_string()).unwrap()).unwrap();
    let out = Arc::new(Mutex::new(std::io::stdout()));
    for number in told("HMQ_TEST_FIRST").parse::<u64>().unwrap().. {
        let (key, payload) = (key(number), number.to_string());
        let record = Record { key: Some(key.as_bytes()), ..Record::new(payload.as_bytes()) };
        loop {
            let (out, line) = (Arc::clone(&out), format!("+{number}\n"));
            let tell = move |result: helixmq::error::Result<helixmq::hub::Receipt>| {
                if result.is_ok() {
                    out.lock().unwrap().write_all(line.as_bytes()).unwrap();
                }
            };
            match publisher.send_async(&record, Box::new(tell)) {
                Ok(_) => break,
                Err(full) => assert_eq!(full.kind(), Kind::Full, "{full}"),
            }
        }
        pass(Duration::from_micros(100));
    }
}

/// Starts the child, lets `then` happen once it has told `before` receipts, and kills it when it has told `after` more.
fn killed(
    side: Side,
    dir: &Path,
    topic: &str,
    first: u64,
    (before, after): (usize, usize),
    then: impl FnOnce(),
) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "--nocapture", "failover_disk::publishing_child"]);
    child.env("HMQ_TEST_DIR", dir).env("HMQ_TEST_TOPIC", topic).env("HMQ_TEST_SIDE", side.name);
    let child = child.env("HMQ_TEST_FIRST", first.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut told = Vec::new();
    let mut hear = |told: &mut Vec<u64>, count: usize| {
        while told.len() < count {
            let line = lines.next().unwrap();
            told.extend(line.rsplit_once('+').map(|(_, number)| number.parse::<u64>().unwrap()));
        }
    };
    hear(&mut told, before);
    then();
    hear(&mut told, before + after);
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died was said after its receipt.
    let rest = lines.filter_map(|line| line.rsplit_once('+').and_then(|(_, number)| number.parse::<u64>().ok()));
    told.extend(rest);
    told
}

/// T1: the server dies under load, the process is killed, and a new one brings what the receipts say.
fn receipts_outlive_the_process(side: Side) {
    let _alone = side.alone();
    let (dir, topic) = (TestDir::new(), side.topic());
    let mut away = None;
    // Not in the first moments of a topic: a server that is killed then may forget that it was made.
    let mut told = killed(side, &dir.0, &topic, 0, (2_000, 6_000), || away = Some(side.away("stop")));
    let next = told.iter().max().unwrap() + 100_000;
    // A second life that never sees the server.
    told.extend(killed(side, &dir.0, &topic, next, (1, 3_000), || {}));
    drop(away);
    let hub = on_disk(side, &dir.0, json!({}));
    let left = own(&hub)["spool"]["records"].as_u64().unwrap();
    assert!(left > 0, "there was something left to send");
    forwarded(&hub);
    hub.close(WAIT).unwrap();
    let seen = side.gather(&topic, &told);
    let lost: Vec<_> = told.iter().filter(|number| !seen.times.contains_key(number)).take(10).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), told.len());
    let doubles = seen.check_order_and_marks();
    println!("{} receipts, {left} forwarded by the last life, {doubles} second copies", told.len());
}

#[test]
fn t1_rabbitmq_receipts_outlive_the_process() {
    receipts_outlive_the_process(RABBITMQ);
}

#[test]
fn t1_kafka_receipts_outlive_the_process() {
    receipts_outlive_the_process(KAFKA);
}

/// T8: no space while the server is away.
#[test]
fn t8_without_space_forwarding_goes_on_and_with_space_all_does() {
    const SPARE: u64 = 150 << 20;
    let side = RABBITMQ;
    let _alone = side.alone();
    let (dir, topic) = (TestDir::new(), side.topic());
    // By how much is free now, as a file that takes it away is simpler than a disk of its own.
    let free = free_bytes(&std::env::temp_dir());
    let hub = on_disk(side, &dir.0, json!({"failover": {"free_space_floor_bytes": free - SPARE}}));
    until("a connection", || is_up(&hub));
    let away = side.away("stop");
    until("the loss", || !is_up(&hub));
    for number in 0..500 {
        assert_eq!(side.publish(&hub, &topic, &key(number), &number.to_string()).unwrap().level, Level::Disk);
    }
    let ballast = dir.0.join("ballast");
    fill(&ballast, 2 * SPARE);
    let late = |timeout| {
        let record = Record { key: Some(b"late"), ..Record::new(b"500") };
        hub.publish(&topic, Some(side.kind), &record, None, Some(timeout))
    };
    let mut refused = None;
    until("a refusal", || {
        refused = late(Duration::from_millis(100)).err();
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!((refused.kind(), refused.fate()), (Kind::Full, Some(Fate::NotSent)), "{refused}");
    assert!(refused.message().contains("free_space_floor_bytes"), "{refused}");
    drop(away);
    forwarded(&hub);
    std::fs::remove_file(&ballast).unwrap();
    let away = side.away("stop");
    until("the loss", || !is_up(&hub));
    let mut receipt = None;
    until("space", || {
        receipt = late(Duration::from_secs(1)).ok();
        receipt.is_some()
    });
    assert_eq!(receipt.unwrap().level, Level::Disk);
    drop(away);
    forwarded(&hub);
    hub.close(WAIT).unwrap();
    let all: Vec<u64> = (0..=500).collect();
    let seen = side.gather(&topic, &all);
    assert_eq!(seen.missing(501), [0; 0], "lost");
    assert_eq!(seen.check_order_and_marks(), 0);
}

/// Writes so many bytes, for real.
fn fill(path: &Path, bytes: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let piece = vec![7; 1 << 20];
    (0..bytes >> 20).for_each(|_| file.write_all(&piece).unwrap());
    file.sync_all().unwrap();
}

fn free_bytes(dir: &Path) -> u64 {
    let done = Command::new("df").args(["--output=avail", "-B1"]).arg(dir).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().last().unwrap().trim().parse().unwrap()
}

/// A close with a backlog leaves it on disk, and the next run forwards it (T15).
#[test]
fn t15_what_a_close_leaves_the_next_run_forwards() {
    for side in [RABBITMQ, KAFKA] {
        let _alone = side.alone();
        let (dir, topic) = (TestDir::new(), side.topic());
        let hub = on_disk(side, &dir.0, json!({}));
        until("a connection", || is_up(&hub));
        side.publish(&hub, &topic, &key(0), "0").unwrap();
        hub.backend_force(side.name, true).unwrap();
        for number in 1..100 {
            side.publish(&hub, &topic, &key(number), &number.to_string()).unwrap();
        }
        let start = Instant::now();
        hub.close(WAIT).unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let hub = on_disk(side, &dir.0, json!({}));
        forwarded(&hub);
        let receipt = side.publish(&hub, &topic, &key(100), "100").unwrap();
        assert_eq!((receipt.level, receipt.spooled), (Level::Broker, false));
        hub.close(WAIT).unwrap();
        assert_eq!(side.all(&topic, 101, json!({})).check(101), 0);
    }
}
