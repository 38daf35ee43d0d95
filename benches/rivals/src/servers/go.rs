//! amqp091-go as a peer: the program of `benches/go`, a child process that does a round for each
//! line that it is given and answers how many messages, seconds and processor time it was.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use helixmq_rivals::pairs::Sample;

use super::load::{Load, Publishes, Server, HOST, VHOST};

/// The child.
pub struct Go {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Go {
    /// Starts the program at `path`.
    pub fn start(path: &str, server: Server) -> Self {
        let uri = format!("amqp://guest:guest@{HOST}:{}/{VHOST}", server.port);
        let child = Command::new(path).arg(uri).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{path}: {error}"));
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, requests, answers }
    }
}

impl Publishes for Go {
    fn publish(&mut self, load: &Load, time: Duration) -> Sample {
        let requests = self.requests.as_mut().expect("open until the drop");
        let mut answer = String::new();
        // An empty exchange would be no word.
        let (exchange, window) = (format!("/{}", load.exchange()), load.window);
        let (topic, mandatory, bytes, millis) = (load.topic, load.mandatory(), load.bytes, time.as_millis());
        writeln!(requests, "{exchange} {topic} {mandatory} {bytes} {window} {millis}").expect("the child listens");
        self.answers.read_line(&mut answer).expect("the child answers");
        let numbers: Vec<f64> = answer.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        let [count, seconds, cpu_us, switches] = numbers[..] else { panic!("amqp091-go answered {answer:?}") };
        Sample { value: count / seconds, cpu_us: cpu_us / count, switches: switches / count * 1_000.0 }
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        // The end of its input is the end of the child.
        self.requests = None;
        let _ = self.child.wait();
    }
}
