//! From the configuration to the options of librdkafka: who we are, and what is safe.

use super::{Settings, TASK_GROUP};
use crate::broker::{Group, SubscribeSpec};
use crate::config::client_options::{COMMON, CONSUMER, PRODUCER};
use crate::config::{KafkaConfig, SaslMechanism, SecurityProtocol, TlsConfig};
use crate::message::TopicKind;

/// Options by librdkafka's names.
pub(super) type Options = Vec<(String, String)>;

/// A dead letter carries the message whole, with headers beside it: it may be larger than what a program
/// publishes, and must not be refused here.
const HANDED_OVER_BYTES_MAX: usize = 64 << 20;

fn push(options: &mut Options, name: &str, value: impl ToString) {
    options.push((name.into(), value.to_string()));
}

/// What every client has.
fn common(settings: &Settings) -> Options {
    let config = &settings.kafka;
    let mut options = Options::new();
    let set = &mut options;
    push(set, "bootstrap.servers", config.brokers.join(","));
    push(set, "client.id", &config.client_id);
    push(set, "log.queue", true);
    push(set, "socket.keepalive.enable", true);
    push(set, "allow.auto.create.topics", false);
    push(set, "socket.connection.setup.timeout.ms", settings.connection_timeout.as_millis().max(1_000));
    // A request without an answer for this long ends its connection.
    push(set, "socket.timeout.ms", settings.confirm_timeout.as_millis().clamp(1_000, 60_000));
    push(set, "reconnect.backoff.ms", 100);
    push(set, "reconnect.backoff.max.ms", 5_000);
    let protocol = match config.security_protocol {
        SecurityProtocol::Plaintext => "plaintext",
        SecurityProtocol::Ssl => "ssl",
        SecurityProtocol::SaslPlaintext => "sasl_plaintext",
        SecurityProtocol::SaslSsl => "sasl_ssl",
    };
    push(set, "security.protocol", protocol);
    login(set, config);
    if config.security_protocol.is_encrypted() {
        encryption(set, config.tls.as_ref());
    }
    options
}

fn login(set: &mut Options, config: &KafkaConfig) {
    let Some(mechanism) = config.sasl_mechanism.filter(|_| config.security_protocol.has_login()) else { return };
    let name = match mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        SaslMechanism::OauthBearer => "OAUTHBEARER",
    };
    push(set, "sasl.mechanisms", name);
    if mechanism == SaslMechanism::OauthBearer {
        return;
    }
    if let Some(username) = &config.sasl_username {
        push(set, "sasl.username", username);
    }
    if let Some(password) = &config.sasl_password {
        push(set, "sasl.password", password.expose());
    }
}

fn encryption(set: &mut Options, tls: Option<&TlsConfig>) {
    let Some(tls) = tls else { return };
    for (name, file) in [
        ("ssl.ca.location", &tls.ca_file),
        ("ssl.certificate.location", &tls.cert_file),
        ("ssl.key.location", &tls.key_file),
    ] {
        if let Some(file) = file {
            push(set, name, file.display());
        }
    }
    if let Some(password) = &tls.key_password {
        push(set, "ssl.key.password", password.expose());
    }
    if tls.unsafe_skip_verify {
        push(set, "enable.ssl.certificate.verification", false);
        push(set, "ssl.endpoint.identification.algorithm", "none");
    }
}

/// Adds what the program set; it goes over what is set here.
fn own(set: &mut Options, config: &KafkaConfig, lists: [&[&str]; 2]) {
    for (name, value) in config.options.iter() {
        if lists.iter().any(|list| list.contains(&name.as_str())) {
            push(set, name, value);
        }
    }
}

/// For the one client that publishes.
pub(super) fn producer(settings: &Settings) -> Options {
    let mut options = common(settings);
    let set = &mut options;
    push(set, "enable.idempotence", true);
    push(set, "acks", "all");
    push(set, "compression.type", "lz4");
    push(set, "partitioner", "murmur2_random");
    // Half a millisecond for others to come along, where there are others: with none, a request carries a few
    // messages, and costs both ends twice the time for each.
    push(set, LINGER, "0.5");
    push(set, "message.timeout.ms", settings.confirm_timeout.as_millis().max(1));
    push(set, "request.timeout.ms", settings.confirm_timeout.as_millis().clamp(1, 900_000));
    push(set, "message.max.bytes", handed_over_bytes_max(settings));
    push(set, "queue.buffering.max.messages", settings.publish_window.max(1_000) * 2);
    push(set, "queue.buffering.max.kbytes", queue_bytes_max(settings) / 1024);
    push(set, "topic.metadata.refresh.fast.interval.ms", 100);
    // A connection that is dead, but not closed, is noticed by this when nothing is published.
    push(set, "topic.metadata.refresh.interval.ms", 10_000);
    own(set, &settings.kafka, [COMMON, PRODUCER]);
    options
}

const LINGER: &str = "linger.ms";

/// Whether the program has left it to us how long records wait for others.
pub(super) fn linger_is_ours(settings: &Settings) -> bool {
    [LINGER, "queue.buffering.max.ms"].iter().all(|name| settings.kafka.options.get(*name).is_none())
}

/// Bytes that wait at the client, at most.
pub(super) fn queue_bytes_max(settings: &Settings) -> usize {
    let set = settings.kafka.options.get("queue.buffering.max.kbytes").and_then(|own| own.parse::<usize>().ok());
    set.unwrap_or((handed_over_bytes_max(settings) / 1024).max(65_536)).saturating_mul(1024)
}

/// Bytes of one message, at most.
pub(super) fn handed_over_bytes_max(settings: &Settings) -> usize {
    // Key and headers come beside the payload.
    settings.message_bytes_max.saturating_add(1 << 20).clamp(HANDED_OVER_BYTES_MAX, 1_000_000_000)
}

/// For one subscription. `n`: which one of those with this name and group.
pub(super) fn consumer(settings: &Settings, spec: &SubscribeSpec, is_pattern: bool, n: usize) -> Options {
    let mut options = common(settings);
    let set = &mut options;
    let is_alone = spec.read_only || spec.group == Group::Private;
    // Positions are decided here, so that nothing is ever skipped unseen.
    push(set, "auto.offset.reset", "error");
    // Offsets are committed here, behind the handlers.
    push(set, "enable.auto.commit", false);
    push(set, "enable.auto.offset.store", false);
    push(set, "check.crcs", true);
    push(set, "fetch.wait.max.ms", 100);
    push(set, "fetch.queue.backoff.ms", 10);
    push(set, "queued.min.messages", 10_000);
    // Of each partition.
    push(set, "queued.max.messages.kbytes", 4_096);
    // New topics of a pattern are found, and those that were made again.
    push(set, "topic.metadata.refresh.interval.ms", if is_pattern { 2_000 } else { 5_000 });
    if is_alone {
        push(set, "enable.partition.eof", true);
    } else {
        push(set, "group.id", group_id(settings, spec));
        // How soon others hear that members come and go.
        push(set, "heartbeat.interval.ms", 1_000);
        push(set, "partition.assignment.strategy", "cooperative-sticky");
        if is_pattern {
            // What the library makes itself, and what is the cluster's.
            push(set, "topic.blacklist", r"\.dlq$,^__.*");
        }
    }
    own(set, &settings.kafka, [COMMON, CONSUMER]);
    if let Some((_, instance)) = set.iter_mut().rev().find(|(name, _)| name == "group.instance.id") {
        if is_alone {
            set.retain(|(name, _)| name != "group.instance.id");
        } else if n > 0 {
            // Each member has a name of its own.
            instance.push_str(&format!("-{n}"));
        }
    }
    options
}

/// To look at what a group has committed, without being a member of it.
pub(super) fn observer(settings: &Settings, group: &str) -> Options {
    let mut options = common(settings);
    push(&mut options, "group.id", group);
    push(&mut options, "enable.auto.commit", false);
    own(&mut options, &settings.kafka, [COMMON, &[]]);
    options
}

/// The group at the cluster. Workers of a task queue share one, whatever group their hub is.
pub(super) fn group_id(settings: &Settings, spec: &SubscribeSpec) -> String {
    match (&spec.group, &settings.kafka.group_id) {
        _ if spec.kind == TopicKind::Task => format!("{TASK_GROUP}{}", spec.pattern),
        (Group::Named(name), Some(own)) if *name == settings.group_id => own.clone(),
        (Group::Named(name), _) => name.clone(),
        (Group::Private, _) => String::new(),
    }
}
