//! The embedded broker on disk, in a directory of its own for each case.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use helixmq::broker::embedded::disk::{DiskConfig, Durable};
use helixmq::broker::{BackendSink, Broker, Epoch};
use helixmq::clock::Clock;
use helixmq::limits::Limits;

use crate::harness::{wait, Harness, Need, PATIENCE};
use crate::mounts::embedded::context;

/// As programs get it.
pub fn disk() -> Box<dyn Harness> {
    Box::new(Disk { clock: Clock::virtual_(), limits: Limits::production(), directory: Directory::new() })
}

/// With segments of a few records, so that every case meets their ends.
pub fn disk_tiny() -> Box<dyn Harness> {
    Box::new(Disk { clock: Clock::virtual_(), limits: Limits::tiny(), directory: Directory::new() })
}

/// A directory that is removed with its case.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("helixmq-conformance-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Disk {
    clock: Clock,
    limits: Limits,
    directory: Directory,
}

impl Harness for Disk {
    fn broker(&self, sink: Arc<dyn BackendSink>) -> Arc<dyn Broker> {
        let config = DiskConfig {
            bytes_max: 4 << 20,
            partitions: 1,
            free_space_floor: 0,
            ..DiskConfig::new(self.directory.path())
        };
        let broker = Durable::open(config, context(&self.clock, self.limits, sink)).expect("the directory opens");
        let deadline = self.clock.now().plus(PATIENCE);
        wait(broker.connect(Epoch(1), deadline)).expect("the embedded broker connects");
        broker
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by).expect("the clock is virtual");
    }

    fn offers(&self, need: Need) -> bool {
        // Tasks are taken by priority, whatever order a subscription asks for.
        !matches!(need, Need::Checks | Need::OrderedTasks)
    }
}
