//! Processes that are killed: every receipt of level `disk` is worth what it says.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::*;

/// An ignored test of this program, in a process of its own, on `dir`.
pub(super) fn child(name: &str, dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "--nocapture", name]).env("HMQ_TEST_DIR", dir);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

pub(super) fn dir_of_child() -> PathBuf {
    PathBuf::from(std::env::var("HMQ_TEST_DIR").expect("a parent starts this"))
}

/// Reads what a child says until it has said `count` lines that begin with `+`, and kills it.
pub(super) fn killed_after(mut child: Child, count: usize) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = Vec::new();
    let mut lines = lines.map_while(Result::ok);
    while told.len() < count {
        let line = lines.next().expect("the child ended by itself");
        // The first may stand behind what the test's own frame has written.
        if let Some((_, text)) = line.rsplit_once('+') {
            told.push(text.to_owned());
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died was said after its receipt.
    told.extend(lines.filter_map(|line| line.rsplit_once('+').map(|(_, text)| text.to_owned())));
    told
}

/// Prints a line for each receipt, in the order of publishing.
#[test]
#[ignore = "the child of the tests below"]
fn publishing_child() {
    let hub = open(&dir_of_child());
    let lanes: Vec<(Publisher, &str)> = ["tasks.a", "tasks.b", "events.a"]
        .into_iter()
        .map(|topic| (publisher(&hub, json!({"topic": topic, "require": "disk"})), topic))
        .collect();
    let out = Arc::new(Mutex::new(std::io::stdout()));
    for number in 0..1_000_000 {
        let (to, topic) = &lanes[number % lanes.len()];
        let text = format!("{topic} {number}");
        loop {
            let (out, line) = (Arc::clone(&out), format!("+{text}\n"));
            let tell = move |result: helixmq::error::Result<helixmq::hub::Receipt>| {
                use std::io::Write;
                if result.is_ok_and(|receipt| receipt.level == helixmq::broker::Level::Disk) {
                    out.lock().unwrap().write_all(line.as_bytes()).unwrap();
                }
            };
            match to.send_async(&Record::new(text.as_bytes()), Box::new(tell)) {
                Ok(_) => break,
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

fn all_of(hub: &Hub, topic: &str) -> Vec<String> {
    let inbox = inbox(hub);
    let sub = subscribe(hub, json!({"topic": topic, "group": "after", "start": "earliest", "prefetch": 1000}), &inbox);
    let all = drain(&inbox);
    sub.close(WAIT).unwrap();
    all
}

#[test]
fn ten_thousand_receipts_outlive_a_kill() {
    let dir = TestDir::new();
    let told = killed_after(child("kill::publishing_child", &dir.0), 10_000);
    assert!(told.len() >= 10_000);
    let hub = open(&dir.0);
    assert_eq!(hub.health()["backends"][0]["storage"]["damage"], Value::Null);
    for topic in ["tasks.a", "tasks.b", "events.a"] {
        let there = all_of(&hub, topic);
        let receipts: Vec<&String> = told.iter().filter(|text| text.starts_with(topic)).collect();
        // In order, each once, and of what has no receipt only what followed.
        let number = |text: &str| text.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
        assert!(there.iter().map(|text| number(text)).is_sorted_by(|one, next| one < next), "{topic} is out of order");
        assert_eq!(there.iter().take(receipts.len()).collect::<Vec<_>>(), receipts, "{topic} has lost some");
    }
    hub.close(WAIT).unwrap();
}

/// Several lives on one directory, each killed: nothing is lost, and the numbers go on.
#[test]
fn life_after_life_is_killed() {
    let dir = TestDir::new();
    let mut told = Vec::new();
    for life in 0..6 {
        told.extend(killed_after(child("kill::publishing_child", &dir.0), 200 + 150 * life));
    }
    let hub = open(&dir.0);
    for topic in ["tasks.a", "tasks.b", "events.a"] {
        let there = all_of(&hub, topic);
        let mut left = there.iter();
        for text in told.iter().filter(|text| text.starts_with(topic)) {
            assert!(left.any(|other| other == text), "{text} is lost, or out of order");
        }
    }
}

/// Says what it gets, and acknowledges it.
#[test]
#[ignore = "the child of the test below"]
fn working_child() {
    let hub = open(&dir_of_child());
    let (inbox, to) = (inbox(&hub), publisher(&hub, json!({"topic": "tasks.b"})));
    let _sub = subscribe(&hub, json!({"topic": "tasks.a"}), &inbox);
    for number in 0.. {
        let incoming = next(&inbox);
        println!("+{}", text(&incoming));
        helixmq::hub::settle(incoming.token, helixmq::hub::Decision::Ack).unwrap();
        if number % 50 == 0 {
            // What was acknowledged before is on disk with it.
            to.send(&Record::new(b"-"), WAIT).unwrap();
        }
    }
}

/// What was acknowledged may come again after a kill; what was not has to.
#[test]
fn a_killed_worker_loses_no_task() {
    let dir = TestDir::new();
    let hub = open(&dir.0);
    let to = publisher(&hub, json!({"topic": "tasks.a"}));
    let texts: Vec<String> = (0..2_000).map(|number| format!("{number:04}")).collect();
    let records: Vec<Record<'_>> = texts.iter().map(|text| Record::new(text.as_bytes())).collect();
    assert_eq!(to.send_batch(&records, WAIT, None).0, texts.len());
    hub.close(WAIT).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for count in [100, 300, 500] {
        seen.extend(killed_after(child("kill::working_child", &dir.0), count));
    }
    let hub = open(&dir.0);
    let left = all_of(&hub, "tasks.a");
    assert!(left.is_sorted(), "the order is kept");
    assert!(left.len() < texts.len(), "some acknowledgements had to reach the disk");
    seen.extend(left);
    assert_eq!(seen.len(), texts.len(), "a task is lost");
}
