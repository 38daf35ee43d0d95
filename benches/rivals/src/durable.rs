//! Row D1: publishes whose receipt says `disk`, beside a plain writer of SQLite that commits groups of the same size,
//! in the same directory's file system and with the same pragmas.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use helixmq_rivals::hub::Hub;
use helixmq_rivals::pairs::{compare, Meter, Plan, Sample};
use helixmq_rivals::report::Row;
use rusqlite::Connection;

use crate::outcomes::{record_of, Outcomes};

/// Publishes without a receipt, and rows of one commit.
const GROUP: usize = 256;
const BYTES: usize = 256;
const TOPIC: &str = "tasks.durable";

/// A directory on the disk of the build, removed with its drop: a directory for temporary files may be in memory.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let program = std::env::current_exe().expect("a program has a path");
        let place = program.parent().expect("and a directory").join(format!("durable-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a directory");
        Self(place)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn rows(plan: Plan) -> Vec<Row> {
    let directory = Directory::new();
    let mut ours = Ours::open(&directory.0);
    let mut peer = Plain::open(&directory.0);
    let comparison = compare(plan, |time| ours.publish(time), |time| peer.insert(time));
    let rate = |sample: Sample| format!("{:.1} k/s", sample.value / 1e3);
    let values = (rate(comparison.ours), rate(comparison.peer));
    let names = ("durable publish, 256 B, 256 in flight", "SQLite, WAL, FULL, 256 rows a commit");
    vec![Row::of_ratio("D1", names, values, &comparison, comparison.ratio, 0.8)]
}

struct Ours {
    outcomes: Outcomes,
    hub: Hub,
}

impl Ours {
    fn open(directory: &Path) -> Self {
        let hub = Hub::configured(&format!(
            r#"{{"embedded": {{"memory_bytes_max": 2147483648}},
                "failover": {{"dir": "{}", "disk_bytes_max": 4294967296}}}}"#,
            directory.join("ours").display()
        ));
        Self { outcomes: Outcomes::of(&hub, GROUP), hub }
    }

    fn publish(&mut self, time: Duration) -> Sample {
        let publisher = self.hub.publisher(&format!(r#"{{"topic": "{TOPIC}", "kind": "task"}}"#));
        let body = [b'x'; BYTES];
        let meter = Meter::start();
        let end = Instant::now() + time;
        let count = self.outcomes.publish(&publisher, &record_of(&body), GROUP, |_| {
            if Instant::now() < end {
                GROUP / 2
            } else {
                0
            }
        });
        let sample = meter.rate(count);
        self.hub.purge(TOPIC);
        sample
    }
}

/// What a program would write by itself: a number, a topic and a payload.
struct Plain(Connection);

impl Plain {
    fn open(directory: &Path) -> Self {
        let connection = Connection::open(directory.join("plain.db")).expect("a file");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 CREATE TABLE messages (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL)",
            )
            .expect("a table");
        Self(connection)
    }

    fn insert(&mut self, time: Duration) -> Sample {
        let (body, mut count) = ([b'x'; BYTES], 0);
        let meter = Meter::start();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let group = self.0.transaction().expect("a transaction");
            {
                let mut insert =
                    group.prepare_cached("INSERT INTO messages (topic, payload) VALUES (?1, ?2)").expect("a statement");
                for _ in 0..GROUP {
                    insert.execute((TOPIC, &body[..])).expect("a row");
                }
            }
            group.commit().expect("a commit");
            count += GROUP as u64;
        }
        let sample = meter.rate(count);
        self.0.execute_batch("DELETE FROM messages").expect("an empty table");
        sample
    }
}
