//! The options of librdkafka that a document may set. Everything else is either set here, because the
//! promises of the library rest on it, or loads code, runs programs, or holds secrets that have a place
//! of their own.

/// What a program may set for every client.
pub(crate) const COMMON: &[&str] = &[
    "broker.address.family",
    "broker.address.ttl",
    "client.rack",
    "connections.max.idle.ms",
    "enable.sparse.connections",
    "max.in.flight.requests.per.connection",
    "metadata.max.age.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "socket.connection.setup.timeout.ms",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.cipher.suites",
    "ssl.curves.list",
    "ssl.sigalgs.list",
    "topic.metadata.refresh.interval.ms",
];

/// For those that publish.
pub(crate) const PRODUCER: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "linger.ms",
    "partitioner",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.ms",
    "request.timeout.ms",
    "sticky.partitioning.linger.ms",
];

/// For those that read.
pub(crate) const CONSUMER: &[&str] = &[
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.instance.id",
    "heartbeat.interval.ms",
    "isolation.level",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "session.timeout.ms",
];

/// Ends of the names of those that are numbers.
const NUMBERS: &[&str] = &[".ms", "bytes", ".messages", ".size", ".ttl", ".brokers", "compression.level"];

/// Why a document may not set it so; its value is not repeated.
pub(crate) fn refused(name: &str, value: &str) -> Option<&'static str> {
    let is_number = NUMBERS.iter().any(|end| name.ends_with(end));
    match [COMMON, PRODUCER, CONSUMER].iter().any(|list| list.contains(&name)) {
        false => Some("is not one of the options that may be set"),
        true if is_number && value.parse::<f64>().is_err() => Some("is a number"),
        true => None,
    }
}
