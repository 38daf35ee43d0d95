//! The embedded broker in memory: bare, with tiny segments, and behind both wrappers.

use std::sync::Arc;
use std::time::Duration;

use helixmq::broker::checked::{Checked, Enforced};
use helixmq::broker::embedded::{Embedded, EmbeddedConfig};
use helixmq::broker::faulty::Faulty;
use helixmq::broker::{BackendSink, Broker, Capabilities, Context, Epoch};
use helixmq::clock::Clock;
use helixmq::limits::Limits;

use crate::harness::{wait, Harness, Need, Outcomes, PATIENCE};

/// As programs get it.
pub fn memory() -> Box<dyn Harness> {
    Box::new(Memory { clock: Clock::virtual_(), limits: Limits::production(), wrap: false })
}

/// With segments of a few records, so that every case meets their ends.
pub fn memory_tiny() -> Box<dyn Harness> {
    Box::new(Memory { clock: Clock::virtual_(), limits: Limits::tiny(), wrap: false })
}

/// Behind `Checked`, and behind a `Faulty` that never fails: the wrappers change nothing.
pub fn wrapped() -> Box<dyn Harness> {
    Box::new(Memory { clock: Clock::virtual_(), limits: Limits::production(), wrap: true })
}

/// A context on a virtual clock.
pub fn context(clock: &Clock, limits: Limits, sink: Arc<dyn BackendSink>) -> Context {
    Context { clock: clock.clone(), limits, id_prefix: 0x00c0_ffee, hub: 0, sink }
}

/// An embedded broker of four MiB.
pub fn open(context: Context) -> Arc<dyn Broker> {
    let config = EmbeddedConfig { memory_bytes_max: 4 << 20, partitions: 1, topics: Vec::new() };
    Embedded::open(config, context).expect("an embedded broker opens")
}

/// What an embedded broker can do, for whoever mounts something over one.
pub fn capabilities() -> Capabilities {
    let outcomes: Arc<dyn BackendSink> = Arc::new(Outcomes::default());
    open(context(&Clock::virtual_(), Limits::tiny(), outcomes)).capabilities()
}

struct Memory {
    clock: Clock,
    limits: Limits,
    wrap: bool,
}

impl Harness for Memory {
    fn broker(&self, sink: Arc<dyn BackendSink>) -> Arc<dyn Broker> {
        let context = context(&self.clock, self.limits, sink);
        let broker: Arc<dyn Broker> = if self.wrap {
            let faulty = Faulty::over(context, |inner| Ok(open(inner))).expect("the embedded broker opens");
            Checked::over(faulty, Enforced::Nothing)
        } else {
            open(context)
        };
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
        match need {
            Need::Checks => self.wrap,
            // Tasks are taken by priority, whatever order a subscription asks for.
            Need::OrderedTasks => false,
            _ => true,
        }
    }
}
