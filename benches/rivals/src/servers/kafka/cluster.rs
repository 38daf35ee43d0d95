//! The server, and topics that are there for one comparison.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ::rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use ::rdkafka::client::DefaultClientContext;
use ::rdkafka::config::ClientConfig;
use tokio::runtime::Runtime;

use crate::load::{Server, HOST};

const PARTITIONS: i32 = 3;

/// Beginning of the names of topics.
pub const NATIVE: &str = "hmq-bench.native";
/// The same, where ours has the wire form `plain`.
pub const PLAIN: &str = "hmq-bench.plain";

/// The server, with the runtime that `#[tokio::main]` makes for the peers in this process.
pub struct Cluster {
    pub server: Server,
    pub runtime: Runtime,
    admin: AdminClient<DefaultClientContext>,
    named: Cell<usize>,
}

impl Cluster {
    pub fn open(server: Server) -> Rc<Self> {
        let runtime = Runtime::new().expect("a runtime");
        let admin = config(server).create().expect("an admin client");
        Rc::new(Self { server, runtime, admin, named: Cell::new(0) })
    }

    /// What every client of the crate begins with.
    pub fn config(&self) -> ClientConfig {
        config(self.server)
    }

    /// A name that nobody else has: of a topic, or of a group.
    pub fn name(&self, begin: &str) -> String {
        self.named.set(self.named.get() + 1);
        format!("{begin}.{}.{}", std::process::id(), self.named.get())
    }

    /// Makes a topic, which goes with the answer.
    pub fn topic(self: &Rc<Self>, begin: &str) -> Topic {
        let name = self.name(begin);
        let wanted = [NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1))];
        let made = self.runtime.block_on(self.admin.create_topics(&wanted, &patience()));
        for result in made.expect("the server makes a topic") {
            if let Err((name, code)) = result {
                panic!("topic {name}: {code:?}");
            }
        }
        Topic { name, cluster: Rc::clone(self) }
    }

    fn delete(&self, name: &str) {
        let gone = self.runtime.block_on(self.admin.delete_topics(&[name], &patience()));
        // A panic on the way may have led here.
        match gone {
            Ok(results) if results.iter().all(Result::is_ok) => {}
            other => eprintln!("topic {name} is left behind: {other:?}"),
        }
    }
}

fn config(server: Server) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("{HOST}:{}", server.port));
    config
}

fn patience() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(Duration::from_secs(20))).operation_timeout(Some(Duration::from_secs(10)))
}

/// A topic of three partitions; deleted with its drop.
pub struct Topic {
    pub name: String,
    cluster: Rc<Cluster>,
}

impl Drop for Topic {
    fn drop(&mut self) {
        self.cluster.delete(&self.name);
    }
}
