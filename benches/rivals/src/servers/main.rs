//! helixmq with a RabbitMQ server beside other clients of it: rabbitmq-c, lapin, amqp091-go. Ours
//! and the peers take turns on the same server, in this one process (amqp091-go in a child of it);
//! ours through the shared library and its C ABI alone. See `pairs.rs` for how figures are taken.
//!
//! ```text
//! benches/servers.sh [--quick] [--only R1,R6]              compare, print, write the table
//! benches/servers.sh --solo SIDE MODE SECONDS     one side alone, to be profiled
//!     SIDE: ours|lapin|lapin-usual|rabbitmq-c|rabbitmq-c-dressed    MODE: publish|large|queue|round-trip|consume
//! ```

mod go;
mod lapin;
mod load;
mod ours;
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
    let server = Server { port: options.port.expect("--port is needed") };
    if let Some((side, mode, seconds)) = &options.solo {
        return rows::solo(server, side, mode, Duration::from_secs_f64(*seconds));
    }
    println!("{}", report::machine());
    let mut rows = Rows::new(server, options.plan, options.go.clone());
    rows.measure(&options.only);
    if let Some(path) = &options.out {
        let table = report::markdown(&rows.done, &intro(options.plan, options.server.as_deref(), options.go.is_some()));
        let text = report::placed(std::fs::read_to_string(path).ok().as_deref(), &table, "rabbitmq table");
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

struct Options {
    plan: Plan,
    port: Option<u16>,
    only: Vec<String>,
    go: Option<String>,
    out: Option<String>,
    server: Option<String>,
    solo: Option<(String, String, f64)>,
}

impl Options {
    fn parse(words: &[String]) -> Self {
        let mut options = Self {
            plan: Plan { pairs: 11, time: Duration::from_millis(300) },
            port: None,
            only: Vec::new(),
            go: None,
            out: None,
            server: None,
            solo: None,
        };
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().unwrap_or_else(|| panic!("{word} takes a value")).clone();
            match word.as_str() {
                "--quick" => options.plan = Plan { pairs: 1, time: Duration::from_millis(150) },
                "--port" => options.port = Some(value().parse().expect("a port")),
                "--only" => options.only = value().split(',').map(str::to_owned).collect(),
                "--go" => options.go = Some(value()),
                "--out" => options.out = Some(value()),
                "--server" => options.server = Some(value()),
                "--solo" => options.solo = Some((value(), value(), value().parse().expect("a number of seconds"))),
                other => panic!("unknown option {other}"),
            }
        }
        options
    }
}

/// What stands above the table.
fn intro(plan: Plan, server: Option<&str>, go: bool) -> String {
    format!(
        "helixmq {} through its C ABI, RabbitMQ {} on the same machine; {} pairs of 2 × {:.1} s, order alternating, \
         after a warm-up. Ratio: ours / peer, turned round where lower is better, so that above 1 is always better; \
         median of the pairs, quartiles in brackets. Cost: processor time of the client per message, and its context \
         switches per 1,000 messages.{}",
        hub::version(),
        server.unwrap_or("(version not told)"),
        plan.pairs,
        plan.time.as_secs_f64(),
        if go { "" } else { " There was no Go: amqp091-go is left out." },
    )
}
