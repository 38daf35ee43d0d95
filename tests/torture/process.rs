//! The host, from outside: started, told what to do, heard, measured and killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::history::{Kinds, Usage};

/// What the host said of itself last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Status {
    pub heard: Option<Instant>,
    pub records: u64,
    pub bytes_most: u64,
    pub under_way: u64,
    pub delivered: u64,
    pub last_delivery: u64,
}

/// What is freed is given back to the system, so that the memory of the host tells what it holds, and little more.
const GIVE_BACK: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

/// A running host.
pub struct Process {
    dir: PathBuf,
    pub life: u32,
    child: Child,
    input: ChildStdin,
    events: Receiver<Value>,
    status: Arc<Mutex<Status>>,
}

impl Process {
    /// Starts the host and waits until its subscriptions stand.
    pub fn start(dir: &Path, life: u32) -> Result<Self, String> {
        crate::host::write_numbers(dir);
        let errors = std::fs::File::create(dir.join(format!("host.{life}.stderr"))).unwrap();
        // This very program, also when it was built anew meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("--host").arg(dir).args(["--life", &life.to_string()]).envs(GIVE_BACK);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let status = Arc::new(Mutex::new(Status::default()));
        let (sender, events) = std::sync::mpsc::channel();
        let heard = Arc::clone(&status);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
                if said["event"] == "status" {
                    heard.lock().unwrap().hear(&said);
                } else if sender.send(said).is_err() {
                    return;
                }
            }
        });
        let host = Self { dir: dir.to_owned(), life, child, input, events, status };
        host.expect("ready", Duration::from_secs(90))?;
        Ok(host)
    }

    pub fn status(&self) -> Status {
        *self.status.lock().unwrap()
    }

    pub fn tell(&mut self, what: &str) {
        // One that has ended is found by what it does not answer.
        let _ = writeln!(self.input, "{what}").and_then(|()| self.input.flush());
    }

    /// Waits until the host says this.
    pub fn expect(&self, event: &str, within: Duration) -> Result<Value, String> {
        let deadline = Instant::now() + within;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(said) if said["event"] == event => return Ok(said),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("the host did not say `{event}` within {within:?}; {}", self.errors()));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the host ended and had not said `{event}`; {}", self.errors()));
                }
            }
        }
    }

    /// What it wrote to its standard error: a panic.
    fn errors(&self) -> String {
        let path = self.dir.join(format!("host.{}.stderr", self.life));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        format!("its errors: {}", text.lines().take(20).collect::<Vec<_>>().join(" | "))
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it close its hub and end.
    pub fn finish(&mut self) -> Result<(), String> {
        self.tell("finish");
        self.expect("finished", Duration::from_secs(60))?;
        let status = self.child.wait().unwrap();
        if status.success() {
            Ok(())
        } else {
            Err(format!("the host ended with {status}; {}", self.errors()))
        }
    }

    /// What its descriptors are, and how many of each: connections by the port they lead to, and their state.
    pub fn descriptors(&self) -> Kinds {
        let of = format!("/proc/{}", self.child.id());
        let mut kinds = Kinds::new();
        let mut names = BTreeMap::new();
        for line in std::fs::read_to_string(format!("{of}/net/tcp")).unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (Some(remote), Some(state), Some(inode)) = (words.get(2), words.get(3), words.get(9)) else { continue };
            let port =
                remote.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok()).unwrap_or_default();
            let state = if *state == "01" { "" } else { " (closing)" };
            names.insert(format!("socket:[{inode}]"), format!("connection to port {port}{state}"));
        }
        for entry in std::fs::read_dir(format!("{of}/fd")).into_iter().flatten().flatten() {
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            let link = link.to_string_lossy().into_owned();
            let kind = names.get(&link).cloned().unwrap_or_else(|| link.split('[').next().unwrap_or("?").to_owned());
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }

    pub fn usage(&self) -> Usage {
        let of = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{of}/status")).unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or_default()
        };
        let descriptors = std::fs::read_dir(format!("{of}/fd")).map_or(0, |all| all.count() as u64);
        Usage { rss: number("VmRSS:") << 10, descriptors, threads: number("Threads:") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Status {
    fn hear(&mut self, said: &Value) {
        let number = |name: &str| said[name].as_u64().unwrap_or_default();
        *self = Status {
            heard: Some(Instant::now()),
            records: number("records"),
            bytes_most: self.bytes_most.max(number("bytes")),
            under_way: number("under_way"),
            delivered: number("delivered"),
            last_delivery: number("last_delivery"),
        };
    }
}
