//! What one million waiting messages take, measured in a process of its own for each side.

use std::process::Command;

use crate::peers;
use crate::transport::Sender;
use helixmq_rivals::hub::{Hub, BATCH};

const MESSAGES: usize = 1_000_000 / BATCH * BATCH;
const SIZE: usize = 100;
const TOPIC: &str = "tasks.memory";

/// Bytes of resident memory per message of `side` (a word for [`child`]).
pub fn measure(side: &str) -> f64 {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new(program).args(["--memory-child", side]).output().expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse()
        .unwrap_or_else(|_| panic!("the {side} child said {text:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The body of the child: fills one queue and prints the bytes per message.
pub fn child(side: &str) {
    let payload = [7; SIZE];
    let bytes = match side {
        "helixmq" => {
            let hub = Hub::open(1 << 30);
            let mut publisher = hub.publisher(&format!(r#"{{"topic": "{TOPIC}", "kind": "task"}}"#));
            publisher.send_batch(&payload);
            grown(|| {
                for _ in 0..MESSAGES / BATCH {
                    publisher.send_batch(&payload);
                }
            })
        }
        "crossbeam-bounded" => {
            // The whole ring is allocated, but touched only as it fills.
            let (mut sender, _receiver) = peers::crossbeam(MESSAGES);
            grown(|| (0..MESSAGES).for_each(|_| Sender::send(&mut sender, &payload)))
        }
        "crossbeam-unbounded" => {
            let (mut sender, _receiver) = crossbeam_channel::unbounded::<peers::Boxed>();
            grown(|| (0..MESSAGES).for_each(|_| Sender::send(&mut sender, &payload)))
        }
        other => panic!("no side is named {other}"),
    };
    println!("{}", bytes / MESSAGES as f64);
}

fn grown(fill: impl FnOnce()) -> f64 {
    let before = resident();
    fill();
    resident() - before
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: f64 = status.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a count of pages");
    // SAFETY: no pointer is given.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as f64
}
