//! Messages as they travel. In the `native` form the body is the payload as given; everything else
//! is in the properties, so that any AMQP program can read it, and messages of any AMQP program are
//! readable here. `cloudevents` adds its attributes to the headers, as `cloudEvents:` and their names;
//! `helixagent` has a body of its own, and the properties beside it.
//!
//! ```text
//! message-id   the id                          priority        0 to 10
//! type         the type                        expiration      time to live, milliseconds
//! timestamp    whole seconds                   delivery-mode   2, persistent
//! correlation-id, reply-to, content-type       the headers of these names
//! headers      the message's own, byte arrays where they are not UTF-8, and of ours:
//!   hmq-key          the key (byte array)      hmq-time-us     the time, microseconds
//!   hmq-tries        attempts made before      hmq-maybe-dup   perhaps a second copy
//!   hmq-topic        the topic, of a message that took the way of a delay
//!   hmq-expires-us   when its time to live ends, of a delayed one (microseconds since 1970)
//!   hmq-serial       finds a returned message whose id was not made for it; of no meaning to a receiver
//! ```

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::BasicProperties;

use super::confirms::Serial;
use super::error::error;
use crate::broker::wire::cloudevents::{attributes, Attributes};
use crate::broker::wire::{helixagent, Origin, ATTRIBUTE, CONTENT_TYPE, CORRELATION_ID, REPLY_TO};
use crate::config::Wire;
use crate::error::{Kind, Result};
use crate::limits::TYPE_BYTES_MAX;
use crate::message::{HeaderBlock, Headers, MessageId, Record, TopicKind};

const KEY: &str = "hmq-key";
const TIME_US: &str = "hmq-time-us";
const TRIES: &str = "hmq-tries";
const MAYBE_DUP: &str = "hmq-maybe-dup";
const SERIAL: &str = "hmq-serial";
const TOPIC: &str = "hmq-topic";
const EXPIRES_US: &str = "hmq-expires-us";
const OURS: [&str; 7] = [TOPIC, KEY, TIME_US, TRIES, MAYBE_DUP, SERIAL, EXPIRES_US];
/// Set by servers on the way; of one hop only.
const SERVERS: [&str; 9] = [
    DELIVERY_COUNT,
    "x-acquired-count",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];
/// Name further queues to the server; it refuses them in any other form than a list of its own.
const CARBON_COPIES: [&str; 2] = ["CC", "BCC"];
/// Longest time to live that servers take, milliseconds.
const TTL_MS_MAX: i64 = u32::MAX as i64;
/// Properties but the headers, and what frames them.
const PROPERTIES_BYTES_MAX: usize = 2048;
/// Set by quorum queues on what they deliver again.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// Attributes of a CloudEvent are written with the first, and read with both.
const ATTRIBUTES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
/// Of a body in the form helixagent, beside the payload.
const HELIXAGENT_BYTES: usize = 64 * 1024;
/// Longest text of a property.
const SHORT_MAX: usize = 255;

/// A message on its way out.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub body: Vec<u8>,
    /// All but the headers.
    properties: BasicProperties,
    headers: FieldTable,
    /// Time to live, milliseconds; 0 is none.
    ttl_ms: i64,
    /// The number in its id, if that was made for it.
    pub made: Option<u64>,
}

impl Outgoing {
    /// Body and properties, with the serial of the publish where a return brings it back.
    pub fn finished(self, serial: Option<Serial>) -> (Vec<u8>, BasicProperties) {
        let Self { body, properties, mut headers, .. } = self;
        if let Some(serial) = serial {
            headers.insert(SERIAL.into(), AMQPValue::LongLongInt(serial as i64));
        }
        (body, properties.with_headers(headers))
    }
}

/// What a message is published as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub topic: &'a str,
    pub kind: TopicKind,
    pub wire: Wire,
    /// Of events that name none.
    pub source: &'a str,
    /// The queue knows priorities.
    pub priority: bool,
    /// It came in before.
    pub again: bool,
}

/// What an id is made from where a record has none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Made {
    pub prefix: u64,
    pub seq: u64,
}

/// The record as it goes out; its delay is the topology's matter. `made` names it if it has no id.
pub(super) fn outgoing(record: &Record<'_>, target: Target<'_>, made: Made, now_us: i64) -> Result<Box<Outgoing>> {
    check_names(record.headers)?;
    let own_id = MessageId::made(made.prefix, made.seq);
    let id = if record.id.is_empty() { own_id.as_str() } else { record.id };
    let time_us = if record.timestamp_us == 0 { now_us } else { record.timestamp_us };
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(short(id))
        .with_timestamp(u64::try_from(time_us / 1_000_000).unwrap_or_default());
    if !record.type_.is_empty() {
        properties = properties.with_type(short(record.type_));
    }
    if target.priority {
        properties = properties.with_priority(record.priority);
    }
    let mut headers = FieldTable::default();
    for (name, value) in record.headers {
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= SHORT_MAX);
        match (name, text) {
            (CORRELATION_ID, Some(text)) => properties = properties.with_correlation_id(short(text)),
            (REPLY_TO, Some(text)) => properties = properties.with_reply_to(short(text)),
            (CONTENT_TYPE, Some(text)) => properties = properties.with_content_type(short(text)),
            // Attributes are written below, under their own names.
            _ if target.wire == Wire::CloudEvents && name.starts_with(ATTRIBUTE) => {}
            _ => {
                headers.insert(short(name), value_of(value));
            }
        }
    }
    if let Some(key) = record.key {
        headers.insert(KEY.into(), AMQPValue::ByteArray(key.to_vec().into()));
    }
    headers.insert(TIME_US.into(), AMQPValue::LongLongInt(time_us));
    // The form helixagent counts them in the body.
    if record.attempts > 0 && target.wire != Wire::Helixagent {
        headers.insert(TRIES.into(), AMQPValue::LongInt(i32::from(record.attempts)));
    }
    if record.maybe_dup {
        headers.insert(MAYBE_DUP.into(), AMQPValue::Boolean(true));
    }
    let Target { topic, source, again, .. } = target;
    let origin = Origin { id, time_us, now_us, topic, source, again };
    let body = match target.wire {
        Wire::Native | Wire::Plain => record.payload.to_vec(),
        Wire::CloudEvents => {
            for (name, value) in attributes(record, origin)? {
                headers.insert(short(&format!("{}{name}", ATTRIBUTES[0])), AMQPValue::LongString((*value).into()));
            }
            record.payload.to_vec()
        }
        Wire::Helixagent => {
            properties = properties.with_content_type("application/json".into());
            helixagent::encode(record, target.kind, origin)?
        }
    };
    let made = record.id.is_empty().then_some(made.seq);
    Ok(Box::new(Outgoing { body, properties, headers, ttl_ms: record.ttl_ms, made }))
}

/// Keeps the topic of a message whose routing key will tell of a delay.
pub(super) fn set_topic(out: &mut Outgoing, topic: &str) {
    out.headers.insert(TOPIC.into(), AMQPValue::LongString(topic.into()));
}

/// Sets the time to live. Of a delayed message the server's own would end the delay early, and be
/// gone after the first level: it is told in a header, which the receiving end goes by.
pub(super) fn set_ttl(out: &mut Outgoing, delayed_at_us: Option<i64>) {
    if out.ttl_ms <= 0 {
        return;
    }
    match delayed_at_us {
        None => {
            let properties = std::mem::take(&mut out.properties);
            out.properties = properties.with_expiration(short(&out.ttl_ms.to_string()));
        }
        Some(now_us) => {
            let expires_us = now_us.saturating_add(out.ttl_ms.saturating_mul(1000));
            out.headers.insert(EXPIRES_US.into(), AMQPValue::LongLongInt(expires_us));
        }
    }
}

/// A name that the protocol cannot hold, which [`short`] would cut.
fn check_names(headers: Headers<'_>) -> Result<()> {
    match headers.into_iter().find(|(name, _)| name.len() > SHORT_MAX) {
        Some((name, _)) => {
            let text = format!("a header's name of {} bytes: RabbitMQ has at most {SHORT_MAX}", name.len());
            Err(error(Kind::Header, text))
        }
        None => Ok(()),
    }
}

/// What a server would close the channel or the connection for, and so fail all that is on its way.
pub(super) fn check(out: &Outgoing, frame_bytes_max: u32) -> Result<()> {
    let headers = out.headers.inner();
    let refused = |text: String| Err(error(Kind::Header, text));
    if let Some(name) = headers.keys().find(|name| CARBON_COPIES.contains(&name.as_str())) {
        return refused(format!("a header `{name}` would name further queues to a RabbitMQ server"));
    }
    let sizes = headers.iter().map(|(name, value)| name.as_str().len() + 16 + bytes_in(value));
    let bytes = sizes.sum::<usize>() + PROPERTIES_BYTES_MAX;
    if frame_bytes_max > 0 && bytes > frame_bytes_max as usize {
        return refused(format!("headers of {bytes} bytes do not fit into a frame of {frame_bytes_max} bytes"));
    }
    if out.ttl_ms > TTL_MS_MAX {
        let text = format!("ttl_ms: {} is more than {TTL_MS_MAX}, RabbitMQ's longest", out.ttl_ms);
        return Err(error(Kind::Unsupported, text));
    }
    Ok(())
}

fn bytes_in(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => bytes.as_slice().len(),
        // Made here, and small.
        _ => 0,
    }
}

/// The serial of a returned message: told in a header, or the number of an id that was made here, with
/// `prefix`.
pub(super) fn serial_of(properties: &BasicProperties, prefix: u64) -> Option<Serial> {
    let told = properties.headers().as_ref().and_then(|headers| number(headers, SERIAL));
    let made = || MessageId::number(properties.message_id().as_ref()?.as_str(), prefix);
    told.map(|serial| serial as Serial).or_else(made)
}

/// A message as it came in.
pub(super) struct Incoming {
    pub body: Vec<u8>,
    pub id: String,
    pub type_: String,
    pub key: Option<Vec<u8>>,
    pub headers: HeaderBlock,
    pub timestamp_us: i64,
    pub priority: u8,
    pub maybe_dup: bool,
    /// Attempts made before, by earlier copies and by deliveries that came back.
    pub attempts: u16,
    /// How many of them are deliveries that the server counted.
    pub counted: u16,
    pub redelivered: bool,
    /// When it is worth nothing any more, if it took the way of a delay.
    pub expires_us: Option<i64>,
    /// The topic as the message tells it: its routing key, if it took no delay.
    pub topic: String,
    /// Why its body cannot be read in the form of its topic.
    pub unreadable: Option<String>,
}

impl Incoming {
    /// Takes a delivery apart. `form`: which one a topic has. `bytes_max`: of a payload.
    pub fn of(delivery: Delivery, kind: TopicKind, bytes_max: usize, form: impl FnOnce(&str) -> Wire) -> Self {
        let properties = &delivery.properties;
        let empty = FieldTable::default();
        let table = properties.headers().as_ref().unwrap_or(&empty);
        let topic = table
            .inner()
            .get(TOPIC)
            .and_then(|topic| String::from_utf8(bytes_of(topic)).ok())
            .unwrap_or_else(|| delivery.routing_key.to_string());
        let wire = form(&topic);
        let mut headers = HeaderBlock::default();
        let mut attributes = Attributes::default();
        for (name, value) in table.inner() {
            let name = name.as_str();
            let attribute = ATTRIBUTES.iter().find_map(|prefix| name.strip_prefix(prefix));
            match attribute.filter(|_| wire == Wire::CloudEvents) {
                Some(attribute) => attributes.take(attribute, &String::from_utf8_lossy(&bytes_of(value))),
                None if OURS.contains(&name) || SERVERS.contains(&name) || CARBON_COPIES.contains(&name) => {}
                None => headers.push(name, &bytes_of(value)),
            }
        }
        for (name, property) in [
            (CORRELATION_ID, properties.correlation_id()),
            (REPLY_TO, properties.reply_to()),
            (CONTENT_TYPE, properties.content_type()),
        ] {
            if let Some(property) = property {
                headers.push(name, property.as_str().as_bytes());
            }
        }
        attributes.headers.iter().for_each(|(name, value)| headers.push(name, value.as_bytes()));
        let seconds = properties.timestamp().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or_default();
        let count = |name| u16::try_from(number(table, name).unwrap_or_default().max(0)).unwrap_or(u16::MAX);
        let counted = count(DELIVERY_COUNT);
        let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string).unwrap_or_default();
        let time_us = number(table, TIME_US).or(attributes.time_us);
        let mut incoming = Self {
            id: attributes.id.unwrap_or_else(|| text(properties.message_id())),
            type_: attributes.type_.unwrap_or_else(|| text(properties.kind())),
            key: table.inner().get(KEY).map(bytes_of).or(attributes.key.map(String::into_bytes)),
            headers,
            timestamp_us: time_us.unwrap_or_else(|| seconds.saturating_mul(1_000_000)),
            priority: properties.priority().unwrap_or(crate::limits::PRIORITY_DEFAULT).min(crate::limits::PRIORITY_MAX),
            maybe_dup: table.inner().contains_key(MAYBE_DUP),
            attempts: count(TRIES).saturating_add(counted),
            counted,
            redelivered: delivery.redelivered,
            expires_us: number(table, EXPIRES_US),
            topic,
            body: delivery.data,
            unreadable: None,
        };
        if wire == Wire::Helixagent {
            // Its payload is in it as base64 of base64.
            let is_far_too_large = incoming.body.len() > bytes_max.saturating_mul(2).saturating_add(HELIXAGENT_BYTES);
            match helixagent::decode(if is_far_too_large { b"" } else { &incoming.body }, kind) {
                Ok(decoded) => incoming.take(decoded),
                Err(_) if is_far_too_large => {
                    incoming.unreadable = Some(format!("its body is far larger than message_bytes_max {bytes_max}"));
                }
                Err(wrong) => incoming.unreadable = Some(wrong.message().to_owned()),
            }
        }
        incoming.fit();
        incoming
    }

    /// Cuts what could not be held, and says so.
    fn fit(&mut self) {
        cut(&mut self.id, crate::limits::ID_BYTES_MAX);
        let mut too_long = |what: &str, bytes: usize, max: usize| {
            if bytes > max {
                self.unreadable.get_or_insert(format!("{what} of {bytes} bytes; at most {max} are taken"));
            }
        };
        too_long("a type", self.type_.len(), TYPE_BYTES_MAX);
        too_long("a key", self.key.as_ref().map_or(0, Vec::len), usize::from(u16::MAX));
        cut(&mut self.type_, TYPE_BYTES_MAX);
        if let Some(key) = &mut self.key {
            key.truncate(usize::from(u16::MAX));
        }
    }

    /// Takes what the body says, which is what the other package goes by.
    fn take(&mut self, decoded: helixagent::Decoded) {
        self.id = decoded.id;
        self.type_ = decoded.type_;
        self.body = decoded.payload;
        self.key = decoded.key.or(self.key.take());
        self.headers = HeaderBlock::default();
        for (name, value) in &decoded.headers {
            // No other program would be given it by this library, nor could a property of the server.
            if name.len() > SHORT_MAX {
                self.unreadable = Some(format!("a header's name of {} bytes", name.len()));
                continue;
            }
            self.headers.push(name, value.as_bytes());
        }
        self.timestamp_us = decoded.timestamp_us;
        self.priority = decoded.priority;
        self.attempts = self.attempts.saturating_add(decoded.attempts);
        self.expires_us = decoded.expires_us.or(self.expires_us);
    }

    /// The record of it.
    pub fn record(&self) -> Record<'_> {
        Record {
            key: self.key.as_deref(),
            id: &self.id,
            type_: &self.type_,
            headers: self.headers.headers(),
            timestamp_us: self.timestamp_us,
            priority: self.priority,
            maybe_dup: self.maybe_dup,
            ..Record::new(&self.body)
        }
    }
}

fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(boundary(text, bytes_max));
}

/// The end of the last whole character within so many bytes.
fn boundary(text: &str, bytes_max: usize) -> usize {
    (0..=text.len().min(bytes_max)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default()
}

/// A text for a property; one that is too long was refused before, or is cut for a name of ours.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(&text[..boundary(text, SHORT_MAX)]).unwrap_or_default()
}

fn value_of(value: &[u8]) -> AMQPValue {
    match std::str::from_utf8(value) {
        Ok(text) => AMQPValue::LongString(text.into()),
        Err(_) => AMQPValue::ByteArray(value.to_vec().into()),
    }
}

/// A header of another program as bytes: texts and byte arrays as they are, the rest as text.
fn bytes_of(value: &AMQPValue) -> Vec<u8> {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().to_vec(),
        AMQPValue::ShortString(text) => text.as_str().as_bytes().to_vec(),
        AMQPValue::ByteArray(bytes) => bytes.as_slice().to_vec(),
        AMQPValue::Boolean(value) => value.to_string().into_bytes(),
        AMQPValue::Float(value) => value.to_string().into_bytes(),
        AMQPValue::Double(value) => value.to_string().into_bytes(),
        AMQPValue::Void => Vec::new(),
        other => match integer(other) {
            Some(value) => value.to_string().into_bytes(),
            None => format!("{other:?}").into_bytes(),
        },
    }
}

fn number(table: &FieldTable, name: &str) -> Option<i64> {
    integer(table.inner().get(name)?)
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(value) => Some(value.into()),
        AMQPValue::ShortShortUInt(value) => Some(value.into()),
        AMQPValue::ShortInt(value) => Some(value.into()),
        AMQPValue::ShortUInt(value) => Some(value.into()),
        AMQPValue::LongInt(value) => Some(value.into()),
        AMQPValue::LongUInt(value) => Some(value.into()),
        AMQPValue::LongLongInt(value) => Some(value),
        AMQPValue::Timestamp(value) => i64::try_from(value).ok(),
        _ => None,
    }
}
