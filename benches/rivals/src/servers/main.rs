//! helixmq with a server beside other clients of it: of RabbitMQ rabbitmq-c, lapin and amqp091-go, of
//! Kafka librdkafka's own program and the `rdkafka` crate. Ours and the peers take turns on the same
//! server, in this one process (amqp091-go and librdkafka's program in children of it); ours through the
//! shared library and its C ABI alone. See `pairs.rs` for how figures are taken.
//!
//! ```text
//! benches/servers.sh [--quick] [--only R1,K3,F1]  compare, print, write the tables
//! benches/servers.sh --solo SIDE MODE SECONDS     one side alone, to be profiled
//!     SIDE: ours|lapin|lapin-usual|rabbitmq-c|rabbitmq-c-dressed    MODE: publish|large|queue|round-trip|consume
//!     SIDE: ours-kafka                                              MODE: publish|kept|plain|large|consume
//! ```

mod go;
mod kafka;
mod lapin;
mod load;
mod ours;
mod outage;
mod outcomes;
mod rabbitmq_c;
mod rows;

use std::time::Duration;

use helixmq_rivals::hub;
use helixmq_rivals::pairs::Plan;
use helixmq_rivals::report;

use load::Server;
use rows::Rows;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = Options::parse(&arguments);
    if let Some((side, mode, seconds)) = &options.solo {
        let time = Duration::from_secs_f64(*seconds);
        return match side.as_str() {
            "ours-kafka" => kafka::solo(needed(options.kafka_port, "--kafka-port"), mode, time),
            side => rows::solo(needed(options.port, "--port"), side, mode, time),
        };
    }
    println!("{}", report::machine());
    if let Some(only) = options.of("R") {
        let server = needed(options.port, "--port");
        let mut rows = Rows::new(server, options.plan, options.go.clone());
        rows.measure(&only);
        let note = if options.go.is_some() { "" } else { " There was no Go: amqp091-go is left out." };
        let intro = intro("RabbitMQ", options.server.as_deref(), options.plan, note);
        options.write(&report::markdown(&rows.done, &intro), "rabbitmq table");
    }
    if let Some(only) = options.of("K") {
        let server = needed(options.kafka_port, "--kafka-port");
        let mut rows = kafka::Rows::new(server, options.kafka_plan);
        rows.measure(&only);
        let intro = intro("Kafka", options.kafka_server.as_deref(), options.kafka_plan, "");
        options.write(&report::markdown(&rows.done, &intro), "kafka table");
    }
    outages(&options);
}

/// Both servers are taken away: not for a quick look, unless these rows are named.
fn outages(options: &Options) {
    let named: Vec<String> = options.only.iter().filter(|word| word.starts_with('F')).cloned().collect();
    if named.is_empty() && (options.plan.pairs == 1 || !options.only.is_empty()) {
        return;
    }
    let (rabbitmq, kafka) = (needed(options.port, "--port"), needed(options.kafka_port, "--kafka-port"));
    let tools = options.tools.clone().expect("--tools is needed");
    let mut rows = outage::Rows::new(rabbitmq, kafka, tools.into(), options.plan);
    rows.measure(&named);
    let versions = [("RabbitMQ", &options.server), ("Kafka", &options.kafka_server)]
        .map(|(name, version)| format!("{name} {}", version.as_deref().unwrap_or("(version not told)")));
    let intro = format!(
        "helixmq {} through its C ABI, {} on the same machine. F1: the median of {} outages, F2 and F3 of {}; in F1 and \
         F2 everything came, in order. F4: as the rows above.",
        hub::version(),
        versions.join(", "),
        options.plan.pairs.min(5),
        options.plan.pairs.min(3),
    );
    options.write(&report::markdown(&rows.done, &intro), "outage table");
}

fn needed(port: Option<u16>, option: &str) -> Server {
    Server { port: port.unwrap_or_else(|| panic!("{option} is needed")) }
}

struct Options {
    plan: Plan,
    kafka_plan: Plan,
    port: Option<u16>,
    kafka_port: Option<u16>,
    only: Vec<String>,
    go: Option<String>,
    tools: Option<String>,
    out: Option<String>,
    server: Option<String>,
    kafka_server: Option<String>,
    solo: Option<(String, String, f64)>,
}

impl Options {
    fn parse(words: &[String]) -> Self {
        let mut options = Self {
            plan: Plan { pairs: 11, time: Duration::from_millis(300) },
            // Long enough that the batches which fill up at its beginning and end are few.
            kafka_plan: Plan { pairs: 11, time: Duration::from_secs(1) },
            port: None,
            kafka_port: None,
            only: Vec::new(),
            go: None,
            tools: None,
            out: None,
            server: None,
            kafka_server: None,
            solo: None,
        };
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().unwrap_or_else(|| panic!("{word} takes a value")).clone();
            match word.as_str() {
                "--quick" => {
                    options.plan = Plan { pairs: 1, time: Duration::from_millis(150) };
                    options.kafka_plan = options.plan;
                }
                "--port" => options.port = Some(value().parse().expect("a port")),
                "--kafka-port" => options.kafka_port = Some(value().parse().expect("a port")),
                "--only" => options.only = value().split(',').map(str::to_owned).collect(),
                "--go" => options.go = Some(value()),
                "--tools" => options.tools = Some(value()),
                "--out" => options.out = Some(value()),
                "--server" => options.server = Some(value()),
                "--kafka-server" => options.kafka_server = Some(value()),
                "--solo" => options.solo = Some((value(), value(), value().parse().expect("a number of seconds"))),
                other => panic!("unknown option {other}"),
            }
        }
        for word in &options.only {
            assert!(word.starts_with(['R', 'K', 'F']), "no row is named {word}: R1 to R7, K1 to K3, F1 to F4");
        }
        options
    }

    /// The rows that are wanted of those that begin with that letter, an empty list being all; `None`
    /// where others alone are wanted.
    fn of(&self, letter: &str) -> Option<Vec<String>> {
        let named: Vec<String> = self.only.iter().filter(|word| word.starts_with(letter)).cloned().collect();
        (self.only.is_empty() || !named.is_empty()).then_some(named)
    }

    /// Puts a table into the document, if there is to be one.
    fn write(&self, table: &str, name: &str) {
        let Some(path) = &self.out else { return };
        let text = report::placed(std::fs::read_to_string(path).ok().as_deref(), table, name);
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// What stands above a table.
fn intro(server: &str, version: Option<&str>, plan: Plan, note: &str) -> String {
    format!(
        "helixmq {} through its C ABI, {server} {} on the same machine; {} pairs of 2 × {:.1} s, order alternating, \
         after a warm-up. Ratio: ours / peer, turned round where lower is better, so that above 1 is always better; \
         median of the pairs, quartiles in brackets. Cost: processor time of the client per message, and its context \
         switches per 1,000 messages.{note}",
        hub::version(),
        version.unwrap_or("(version not told)"),
        plan.pairs,
        plan.time.as_secs_f64(),
    )
}
