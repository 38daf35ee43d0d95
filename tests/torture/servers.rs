//! The real servers: what breaks and mends them, and what they say is left.

use std::process::{Command, Stdio};

use crate::history::Partition;
use crate::nemesis::Fault;
use crate::setup::Side;

pub fn port(variable: &str, default: u16) -> u16 {
    std::env::var(variable).map_or(default, |port| port.parse().unwrap())
}

pub fn rabbitmq_port() -> u16 {
    port("HMQ_RABBITMQ_PORT", 5679)
}

pub fn kafka_port() -> u16 {
    port("HMQ_KAFKA_PORT", 9392)
}

/// Runs a tool of the repository; answers what it printed. Its output goes to a file: a server that it starts keeps
/// what it was given open.
fn tool(name: &str, arguments: &[&str]) -> Result<String, String> {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let path = format!("{}/tools/{name}", env!("CARGO_MANIFEST_DIR"));
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let out = std::env::temp_dir().join(format!("helixmq-torture-tool-{}-{number}", std::process::id()));
    let file = std::fs::File::create(&out).unwrap();
    let errors = file.try_clone().unwrap();
    let run = Command::new(path).args(arguments).stdin(Stdio::null()).stdout(file).stderr(errors).status();
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    let _ = std::fs::remove_file(&out);
    match run {
        Ok(status) if status.success() => Ok(text),
        Ok(status) => Err(format!("{name} {arguments:?}: {status}: {text}")),
        Err(error) => Err(format!("{name} {arguments:?}: {error}")),
    }
}

/// Lets the server of a side do something.
pub fn server(side: Side, arguments: &[&str]) -> Result<String, String> {
    tool(&format!("{}.sh", side.name()), arguments)
}

/// Breaks a server.
pub fn hurt(fault: Fault) -> Result<String, String> {
    match fault {
        Fault::Kill(side) => server(side, &["kill"]),
        Fault::Stop(side) => server(side, &["stop"]),
        Fault::Pause(side) => server(side, &["pause"]),
        Fault::Alarm => server(Side::Rabbitmq, &["ctl", "set_vm_memory_high_watermark", "absolute", "1000000"]),
        _ => Ok(String::new()),
    }
}

/// Mends it.
pub fn mend(fault: Fault) -> Result<String, String> {
    match fault {
        Fault::Kill(side) | Fault::Stop(side) => server(side, &["start"]),
        Fault::Pause(side) => server(side, &["resume"]),
        Fault::Alarm => server(Side::Rabbitmq, &["ctl", "set_vm_memory_high_watermark", "0.6"]),
        _ => Ok(String::new()),
    }
}

/// The queues of a run on RabbitMQ, and how many messages each has, out or waiting.
pub fn queues(run: &str) -> Result<Vec<(String, u64)>, String> {
    let all = server(Side::Rabbitmq, &["ctl", "list_queues", "name", "messages"])?;
    let queues = all.lines().filter_map(|line| {
        let (name, count) = line.split_once('\t')?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    });
    Ok(queues.filter(|(name, _)| name.contains(run)).collect())
}

/// Where the groups of these topics are, partition by partition.
pub fn partitions(topics: &[(String, String)]) -> Result<Vec<Partition>, String> {
    let mut arguments = vec!["tool", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", "--describe"];
    for (_, group) in topics {
        arguments.extend(["--group", group]);
    }
    let all = server(Side::Kafka, &arguments)?;
    let mut partitions = Vec::new();
    for line in all.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [group, topic, partition, committed, end, ..] = words[..] else { continue };
        if topics.iter().any(|(own, of)| own == topic && of == group) {
            let (Ok(partition), Ok(end)) = (partition.parse(), end.parse()) else { continue };
            partitions.push(Partition { topic: topic.to_owned(), partition, end, committed: committed.parse().ok() });
        }
    }
    Ok(partitions)
}

/// Removes what a run has made.
pub fn clean(run: &str, sides: &[Side]) {
    if sides.contains(&Side::Rabbitmq) {
        for (queue, _) in queues(run).unwrap_or_default() {
            let _ = server(Side::Rabbitmq, &["ctl", "delete_queue", &queue]);
        }
    }
    if sides.contains(&Side::Kafka) {
        let names = format!("events\\.torture-{run}\\..*");
        let _ = server(Side::Kafka, &["tool", "TopicCommand", "--delete", "--if-exists", "--topic", &names]);
    }
}
