//! A real RabbitMQ server, started by `make test-infra-start`. Without it the suite fails.

use std::sync::Arc;
use std::time::Duration;

use helixmq::broker::rabbitmq::{RabbitMq, Settings};
use helixmq::broker::{BackendSink, Broker, Context, Epoch};
use helixmq::clock::Clock;
use helixmq::config::RabbitmqConfig;
use helixmq::limits::Limits;

use crate::harness::{wait, Harness, Need, PATIENCE};

/// With quorum queues, as programs get it.
pub fn quorum() -> Box<dyn Harness> {
    mount("quorum")
}

/// With classic queues, which know priorities on every version.
pub fn classic() -> Box<dyn Harness> {
    mount("classic")
}

fn mount(queue_type: &str) -> Box<dyn Harness> {
    let port = std::env::var("HMQ_RABBITMQ_PORT").unwrap_or_else(|_| "5679".into());
    let section = format!(r#"{{"host":"127.0.0.1","port":{port},"queue_type":"{queue_type}"}}"#);
    let rabbitmq: RabbitmqConfig = serde_json::from_str(&section).expect("the section is right");
    Box::new(Server { clock: Clock::real(), rabbitmq })
}

struct Server {
    clock: Clock,
    rabbitmq: RabbitmqConfig,
}

impl Harness for Server {
    fn broker(&self, sink: Arc<dyn BackendSink>) -> Arc<dyn Broker> {
        let mut rabbitmq = self.rabbitmq.clone();
        rabbitmq.password = Some(helixmq::config::Secret::new("guest"));
        let settings = Settings {
            rabbitmq,
            name: "conformance".into(),
            confirm_timeout: Duration::from_secs(10),
            message_bytes_max: 1 << 20,
            publish_window: 5_000,
            routes: Vec::new(),
        };
        self.clock.start().expect("a clock starts");
        let context =
            Context { clock: self.clock.clone(), limits: Limits::production(), id_prefix: 0x00c0_ffee, hub: 0, sink };
        let broker = RabbitMq::open(settings, context).expect("there is no TLS to go wrong");
        let deadline = self.clock.now().plus(PATIENCE);
        if let Err(failed) = wait(broker.connect(Epoch(1), deadline)) {
            panic!("no RabbitMQ to test with; `make test-infra-start` starts one: {failed}");
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
        // It has real time, keeps no log, counts neither bytes nor what is out, and its queues take
        // settings whose fullness is a refusal, not a wait.
        matches!(need, Need::Purge | Need::Attempts | Need::Tags | Need::Revoked | Need::ReadyOnce)
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(150)
    }
}
