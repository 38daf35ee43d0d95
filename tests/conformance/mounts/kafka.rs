//! A real Kafka server, started by `make test-infra-start`. Without it the suite fails.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use helixmq::broker::kafka::{Kafka, Settings};
use helixmq::broker::{BackendSink, Broker, Context, Epoch};
use helixmq::clock::Clock;
use helixmq::config::KafkaConfig;
use helixmq::limits::Limits;

use crate::harness::{wait, Harness, Need, PATIENCE};

/// With one partition where a case does not say otherwise: records without a key keep their order there.
pub fn kafka() -> Box<dyn Harness> {
    static CLEAN: Once = Once::new();
    CLEAN.call_once(forget_earlier_runs);
    let port = std::env::var("HMQ_KAFKA_PORT").unwrap_or_else(|_| "9392".into());
    // Cases run side by side and call their group the same: at the cluster each has its own, or members of one
    // case would wait for those of another.
    static GROUPS: AtomicU64 = AtomicU64::new(0);
    let group = format!("conf-{}-{}", std::process::id(), GROUPS.fetch_add(1, Ordering::Relaxed));
    let section = format!(r#"{{"brokers":["127.0.0.1:{port}"],"partitions":1,"group_id":"{group}"}}"#);
    let kafka: KafkaConfig = serde_json::from_str(&section).expect("the section is right");
    Box::new(Server { clock: Clock::real(), kafka })
}

/// The server keeps topics, and process ids come again. What cannot be removed shows in the cases.
fn forget_earlier_runs() {
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kafka.sh");
    let arguments = ["tool", "TopicCommand", "--delete", "--if-exists", "--topic", "conf-.*"];
    let _ = Command::new(tool).args(arguments).output();
}

struct Server {
    clock: Clock,
    kafka: KafkaConfig,
}

impl Harness for Server {
    fn broker(&self, sink: Arc<dyn BackendSink>) -> Arc<dyn Broker> {
        let settings = Settings {
            kafka: self.kafka.clone(),
            name: "conformance".into(),
            group_id: "g".into(),
            connection_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(10),
            message_bytes_max: 1 << 20,
            publish_window: 5_000,
            routes: Vec::new(),
            topics: Vec::new(),
            patience: Arc::new(|_| false),
            token: None,
        };
        self.clock.start().expect("a clock starts");
        let context =
            Context { clock: self.clock.clone(), limits: Limits::production(), id_prefix: 0x00c0_ffee, hub: 0, sink };
        let broker = Kafka::open(settings, context).expect("there is no login to go wrong");
        let deadline = self.clock.now().plus(PATIENCE);
        if let Err(failed) = wait(broker.connect(Epoch(1), deadline)) {
            panic!("no Kafka to test with; `make test-infra-start` starts one: {failed}");
        }
        broker
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn advance(&self, by: Duration) {
        unreachable!("no case that moves time by {by:?} runs on a server");
    }

    fn offers(&self, need: Need) -> bool {
        // It has real time, bounds no topic by messages, and its members have what they have without a lease.
        matches!(
            need,
            Need::Partitions
                | Need::Declare
                | Need::Offsets
                | Need::Admin
                | Need::Log
                | Need::Seek
                | Need::ReadOnly
                | Need::Purge
                | Need::Attempts
                | Need::Return
                | Need::Tags
                | Need::Revoked
                | Need::ReadyOnce
                | Need::OrderedTasks
                | Need::Space
        )
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(300)
    }

    // The broker's own limit counts the batch with its headers.
    fn payload_bytes_max(&self) -> usize {
        (1 << 20) - 4096
    }
}
