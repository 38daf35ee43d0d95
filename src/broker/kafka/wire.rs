//! Messages as they travel. In the `native` form the value is the payload as given, the key is the
//! Kafka key (null and empty differ), and the time is Kafka's, milliseconds. Everything else is in
//! headers, as text, before the message's own; so any Kafka program can read it, and messages of any
//! Kafka program are readable here.
//!
//! ```text
//! hmq-id          the id                        hmq-tries       attempts made before, if any
//! hmq-type        the type, if there is one     hmq-maybe-dup   1: perhaps a second copy
//! hmq-time-us     the time, microseconds since 1970, if it is no whole millisecond
//! hmq-expires-us  when its time to live ends, if it has one (microseconds since 1970)
//! ```
//!
//! The other forms, of which each keeps key and time as above:
//!
//! ```text
//! plain        no headers at all
//! cloudevents  the value is the payload; attributes as `ce_` and their names, `content-type`;
//!              beside them hmq-tries, hmq-maybe-dup, hmq-expires-us
//! helixagent   a value of its own, the id as key where there is none; headers `type`, `id`, the
//!              message's own, `trace-id`; beside them hmq-maybe-dup
//! ```
//!
//! There is no place for a priority but in the value of `helixagent`: a log has none.

use std::io::Write;
use std::mem::take;
use std::ops::Range;

use super::error::error;
use crate::broker::wire::cloudevents::{attributes, Attributes};
use crate::broker::wire::helixagent::{self, FIELDS, TRACE_ID};
use crate::broker::wire::{Origin, ATTRIBUTE};
use crate::config::Wire;
use crate::error::{Kind, Result};
use crate::limits::{HEADER_NAME_BYTES_MAX, ID_BYTES_MAX, PRIORITY_DEFAULT, TYPE_BYTES_MAX};
use crate::message::{HeaderBlock, MessageId, Record, TopicKind};

const ID: &str = "hmq-id";
const TYPE: &str = "hmq-type";
const TIME_US: &str = "hmq-time-us";
const TRIES: &str = "hmq-tries";
const MAYBE_DUP: &str = "hmq-maybe-dup";
const EXPIRES_US: &str = "hmq-expires-us";
const OURS: [&str; 6] = [ID, TYPE, TIME_US, TRIES, MAYBE_DUP, EXPIRES_US];
/// What the package helixagent writes beside its value.
const HELIXAGENT_TYPE: &str = "type";
const HELIXAGENT_ID: &str = "id";
/// Of a value in the form helixagent, beside the payload.
const HELIXAGENT_BYTES: usize = 64 * 1024;
/// Longest key that a message holds.
const KEY_MAX: usize = u16::MAX as usize;

/// What a record is published as.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub topic: &'a str,
    pub kind: TopicKind,
    pub wire: Wire,
    /// Of events that name none.
    pub source: &'a str,
    /// It came in before: what the form cannot carry is left out, not refused.
    pub again: bool,
}

/// What an id is made from where a record has none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Made {
    pub prefix: u64,
    pub seq: u64,
}

/// Where a header is in the bytes of its frame.
#[derive(Debug)]
struct Span {
    name: usize,
    value: usize,
    end: usize,
}

/// A record as it goes out. Reused from record to record, it allocates nothing for `native` and `plain`.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// Names, each with a NUL, and values.
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// A value that is not the payload.
    body: Option<Vec<u8>>,
    /// In `bytes`: the key of a record that has none.
    own_key: Option<Range<usize>>,
    timestamp_ms: i64,
}

impl Frame {
    /// Writes `record`; its delay is the topology's matter. `made` names it if it has no id. After an
    /// error the frame holds nothing of use.
    ///
    /// # Errors
    /// `Header` for one that cannot be carried, `Unsupported` for what the form `plain` has no place for.
    pub fn write(&mut self, record: &Record<'_>, target: Target<'_>, made: Made, now_us: i64) -> Result<()> {
        let Target { topic, source, again, .. } = target;
        let time_us = if record.timestamp_us == 0 { now_us } else { record.timestamp_us };
        self.bytes.clear();
        self.spans.clear();
        self.body = None;
        self.own_key = None;
        self.timestamp_ms = time_us.div_euclid(1000).max(0);
        let made_id = MessageId::made(made.prefix, made.seq);
        let id = if record.id.is_empty() { made_id.as_str() } else { record.id };
        let origin = Origin { id, time_us, now_us, topic, source, again };
        match target.wire {
            Wire::Native => self.write_native(record, origin),
            Wire::Plain => check_plain(record, origin),
            Wire::CloudEvents => self.write_event(record, origin),
            Wire::Helixagent => self.write_helixagent(record, target.kind, origin),
        }
    }

    /// The headers in order. Names end with a NUL, as librdkafka takes them; values may be any bytes.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(move |span| (&self.bytes[span.name..span.value], &self.bytes[span.value..span.end]))
    }

    /// The value: the payload of `record`, which is the one that was written, or the form's own.
    pub fn value<'a>(&'a self, record: &Record<'a>) -> &'a [u8] {
        self.body.as_deref().unwrap_or(record.payload)
    }

    /// The key; `None` is Kafka's null.
    pub fn key<'a>(&'a self, record: &Record<'a>) -> Option<&'a [u8]> {
        match (record.key, &self.own_key) {
            (None, Some(place)) => Some(&self.bytes[place.clone()]),
            (key, _) => key,
        }
    }

    /// The time for Kafka. 0, which is only of a time in the first millisecond of 1970, means "now" there.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    fn write_native(&mut self, record: &Record<'_>, origin: Origin<'_>) -> Result<()> {
        self.put(ID, origin.id.as_bytes());
        if !record.type_.is_empty() {
            self.put(TYPE, record.type_.as_bytes());
        }
        // "Now" needs no microseconds: a header less on nearly every message.
        if record.timestamp_us % 1000 != 0 {
            self.put_number(TIME_US, record.timestamp_us);
        }
        self.put_past(record, origin.now_us);
        for (name, value) in record.headers {
            self.put_own(name, value, origin.again)?;
        }
        Ok(())
    }

    fn write_event(&mut self, record: &Record<'_>, origin: Origin<'_>) -> Result<()> {
        for (name, value) in attributes(record, origin)? {
            self.put_own(&format!("{ATTRIBUTE}{name}"), value.as_bytes(), origin.again)?;
        }
        self.put_past(record, origin.now_us);
        for (name, value) in record.headers {
            if !name.starts_with(ATTRIBUTE) {
                self.put_own(name, value, origin.again)?;
            }
        }
        Ok(())
    }

    /// As the package does; what has a field of its own in the value is in none of its headers, but for
    /// the trace. Attempts and expiry are told in the value.
    fn write_helixagent(&mut self, record: &Record<'_>, kind: TopicKind, origin: Origin<'_>) -> Result<()> {
        self.body = Some(helixagent::encode(record, kind, origin)?);
        self.put(HELIXAGENT_TYPE, record.type_.as_bytes());
        self.put(HELIXAGENT_ID, origin.id.as_bytes());
        self.own_key = self.spans.last().map(|span| span.value..span.end);
        let mut trace_id: &[u8] = &[];
        let mut headers = record.headers.into_iter();
        while let Some((name, value)) = headers.next() {
            if name == TRACE_ID {
                trace_id = value;
            }
            // It has them in a map: of several with one name the last.
            let is_last = || !headers.clone().any(|(later, _)| later == name);
            if !FIELDS.contains(&name) && is_last() {
                self.put_own(name, value, origin.again)?;
            }
        }
        if !trace_id.is_empty() {
            self.put(TRACE_ID, trace_id);
        }
        if record.maybe_dup {
            self.put(MAYBE_DUP, b"1");
        }
        Ok(())
    }

    /// What became of it before, and when it ends.
    fn put_past(&mut self, record: &Record<'_>, now_us: i64) {
        if record.attempts > 0 {
            self.put_number(TRIES, record.attempts.into());
        }
        if record.maybe_dup {
            self.put(MAYBE_DUP, b"1");
        }
        if record.ttl_ms > 0 {
            self.put_number(EXPIRES_US, now_us.saturating_add(record.ttl_ms.saturating_mul(1000)));
        }
    }

    /// Adds a header that the program chose.
    fn put_own(&mut self, name: &str, value: &[u8], again: bool) -> Result<()> {
        let wrong = if OURS.contains(&name) {
            "the library itself writes one of this name"
        } else if name.as_bytes().contains(&0) {
            "Kafka's client takes no name with a NUL"
        } else {
            self.put(name, value);
            return Ok(());
        };
        if again {
            return Ok(());
        }
        Err(error(Kind::Header, format!("header {name:?}: {wrong}")))
    }

    fn put_number(&mut self, name: &str, number: i64) {
        self.put(name, &[]);
        // Into memory: it cannot fail.
        let _ = write!(self.bytes, "{number}");
        if let Some(span) = self.spans.last_mut() {
            span.end = self.bytes.len();
        }
    }

    /// Adds a header whose name has no NUL.
    fn put(&mut self, name: &str, value: &[u8]) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        let value_at = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.spans.push(Span { name: at, value: value_at, end: self.bytes.len() });
    }
}

/// What a record says that the form `plain` has no place for. Its id is of this process only.
fn beyond_plain(record: &Record<'_>) -> Option<&'static str> {
    let has = [
        ("headers", !record.headers.bytes().is_empty()),
        ("a type", !record.type_.is_empty()),
        ("a time to live", record.ttl_ms > 0),
        ("attempts made before", record.attempts > 0),
    ];
    has.iter().find(|(_, is_there)| *is_there).map(|(what, _)| *what)
}

/// Whether the form `plain` carries a record. `again`: what it cannot carry is left out.
pub(super) fn is_plain(record: &Record<'_>, again: bool) -> bool {
    again || beyond_plain(record).is_none()
}

fn check_plain(record: &Record<'_>, origin: Origin<'_>) -> Result<()> {
    match beyond_plain(record).filter(|_| !origin.again) {
        Some(what) => {
            let topic = origin.topic;
            let text = format!("topic `{topic}` has the form `plain`: payload, key and time, but not {what}");
            Err(error(Kind::Unsupported, text))
        }
        None => Ok(()),
    }
}

/// What librdkafka gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    /// Empty also where Kafka has null.
    pub value: &'a [u8],
    pub key: Option<&'a [u8]>,
    pub timestamp_ms: Option<i64>,
}

/// Where the key of a message is.
#[derive(Debug, Default)]
enum Key {
    /// At Kafka.
    #[default]
    Kafkas,
    /// Nowhere: Kafka's says nothing.
    Nowhere,
    /// In the message.
    Own(Vec<u8>),
}

/// A message as it comes in: [`clear`](Self::clear), [`header`](Self::header) for each,
/// [`finish`](Self::finish), [`record`](Self::record). Reused from message to message, it allocates
/// nothing for `native` and `plain`.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Empty if it has none: the caller names it by its place, see [`place_id`].
    id: String,
    type_: String,
    headers: HeaderBlock,
    attributes: Attributes,
    /// A payload that is not the value.
    body: Option<Vec<u8>>,
    key: Key,
    /// The time as the message tells it.
    time_us: Option<i64>,
    timestamp_us: i64,
    priority: Option<u8>,
    maybe_dup: bool,
    /// Attempts made before, by earlier copies; not in the record, so that a dead letter starts anew.
    pub attempts: u16,
    /// When it is worth nothing any more.
    pub expires_us: Option<i64>,
    /// Why no handler can have it.
    pub unreadable: Option<String>,
}

impl Incoming {
    /// Makes ready for the next message, keeping memory.
    pub fn clear(&mut self) {
        let (mut id, mut type_, mut headers) = (take(&mut self.id), take(&mut self.type_), take(&mut self.headers));
        id.clear();
        type_.clear();
        headers.clear();
        *self = Self { id, type_, headers, ..Self::default() };
    }

    /// Takes the next header; its name is without a NUL, its value `None` where Kafka has null.
    pub fn header(&mut self, name: &[u8], value: Option<&[u8]>, wire: Wire) {
        let value = value.unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        match &*name {
            ID => set(&mut self.id, value),
            TYPE => set(&mut self.type_, value),
            TIME_US => self.time_us = number(value).filter(|time_us| *time_us > 0),
            TRIES => self.attempts = count(value),
            MAYBE_DUP => self.maybe_dup = true,
            EXPIRES_US => self.expires_us = number(value),
            name => match name.strip_prefix(ATTRIBUTE).filter(|_| wire == Wire::CloudEvents) {
                Some(attribute) => self.attributes.take(attribute, &String::from_utf8_lossy(value)),
                None => self.keep(name, value),
            },
        }
    }

    /// Reads what is not in the headers, and cuts what could not be held. `bytes_max`: of a payload.
    pub fn finish(&mut self, raw: &Raw<'_>, kind: TopicKind, wire: Wire, bytes_max: usize) {
        match wire {
            Wire::Native | Wire::Plain => {}
            Wire::CloudEvents => self.take_attributes(raw),
            Wire::Helixagent => self.take_value(raw, kind, bytes_max),
        }
        let kafkas = raw.timestamp_ms.unwrap_or_default().max(0).saturating_mul(1000);
        self.timestamp_us = self.time_us.unwrap_or(kafkas);
        self.fit(raw, bytes_max);
    }

    /// The record of it; `raw` is what it was [finished](Self::finish) with.
    pub fn record<'a>(&'a self, raw: &Raw<'a>) -> Record<'a> {
        Record {
            key: self.key(raw).map(|key| &key[..key.len().min(KEY_MAX)]),
            id: &self.id,
            type_: &self.type_,
            headers: self.headers.headers(),
            timestamp_us: self.timestamp_us,
            priority: self.priority.unwrap_or(PRIORITY_DEFAULT),
            maybe_dup: self.maybe_dup,
            ..Record::new(self.payload(raw))
        }
    }

    fn payload<'a>(&'a self, raw: &Raw<'a>) -> &'a [u8] {
        self.body.as_deref().unwrap_or(raw.value)
    }

    /// The key, however long.
    fn key<'a>(&'a self, raw: &Raw<'a>) -> Option<&'a [u8]> {
        match &self.key {
            Key::Kafkas => raw.key,
            Key::Nowhere => None,
            Key::Own(key) => Some(key.as_slice()),
        }
    }

    /// Keeps a header of the message's own.
    fn keep(&mut self, name: &str, value: &[u8]) {
        // Neither could be published again, nor be asked for.
        if name.len() > HEADER_NAME_BYTES_MAX {
            let bytes = name.len();
            self.spoil(|| format!("a header's name of {bytes} bytes; at most {HEADER_NAME_BYTES_MAX} are taken"));
        } else if name.as_bytes().contains(&0) {
            self.spoil(|| format!("a header's name with a NUL: {name:?}"));
        } else {
            self.headers.push(name, value);
        }
    }

    /// The first reason is the one that is told.
    fn spoil(&mut self, why: impl FnOnce() -> String) {
        self.unreadable.get_or_insert_with(why);
    }

    /// Takes the attributes of an event. Kafka's key is the one that kept its order.
    fn take_attributes(&mut self, raw: &Raw<'_>) {
        let Attributes { id, type_, time_us, key, headers } = take(&mut self.attributes);
        if let Some(id) = id {
            self.id = id;
        }
        if let Some(type_) = type_ {
            self.type_ = type_;
        }
        self.time_us = time_us.or(self.time_us);
        if let Some(key) = key.filter(|_| raw.key.is_none()) {
            self.key = Key::Own(key.into_bytes());
        }
        headers.iter().for_each(|(name, value)| self.keep(name, value.as_bytes()));
    }

    /// Reads a value in the form helixagent.
    fn take_value(&mut self, raw: &Raw<'_>, kind: TopicKind, bytes_max: usize) {
        let bytes = raw.value.len();
        // Its payload is in it as base64 of base64.
        if bytes > bytes_max.saturating_mul(2).saturating_add(HELIXAGENT_BYTES) {
            self.spoil(|| format!("its value of {bytes} bytes is far larger than message_bytes_max {bytes_max}"));
            return;
        }
        match helixagent::decode(raw.value, kind) {
            Ok(decoded) => self.take_decoded(decoded, raw),
            Err(wrong) => self.spoil(|| wrong.message().to_owned()),
        }
    }

    /// Takes what the value says, which is what the other package goes by.
    fn take_decoded(&mut self, decoded: helixagent::Decoded, raw: &Raw<'_>) {
        // The key of a message without one.
        let is_id = |key: &[u8]| {
            key == decoded.id.as_bytes() || self.headers.headers().find(HELIXAGENT_ID).is_some_and(|id| id == key)
        };
        let is_none = raw.key.is_some_and(is_id);
        self.key = match decoded.key {
            Some(key) => Key::Own(key),
            None if is_none => Key::Nowhere,
            None => Key::Kafkas,
        };
        self.id = decoded.id;
        self.type_ = decoded.type_;
        self.body = Some(decoded.payload);
        self.headers.clear();
        for (name, value) in &decoded.headers {
            // What bears a name of ours could not be published again, not even as a dead letter.
            if !OURS.contains(&name.as_str()) {
                self.keep(name, value.as_bytes());
            }
        }
        self.time_us = Some(decoded.timestamp_us).filter(|time_us| *time_us > 0);
        self.priority = Some(decoded.priority);
        self.attempts = self.attempts.saturating_add(decoded.attempts);
        self.expires_us = decoded.expires_us.or(self.expires_us);
    }

    /// Cuts what could not be held, and says so. A payload stays whole.
    fn fit(&mut self, raw: &Raw<'_>, bytes_max: usize) {
        let sizes = [
            ("a type", self.type_.len(), TYPE_BYTES_MAX),
            ("a key", self.key(raw).map_or(0, <[u8]>::len), KEY_MAX),
            ("a payload", self.payload(raw).len(), bytes_max),
        ];
        for (what, bytes, max) in sizes {
            if bytes > max {
                self.spoil(|| format!("{what} of {bytes} bytes; at most {max} are taken"));
            }
        }
        cut(&mut self.id, ID_BYTES_MAX);
        cut(&mut self.type_, TYPE_BYTES_MAX);
    }
}

/// The id of a message without one: its place, the same whoever reads it and however often.
pub(super) fn place_id(topic: &str, partition: i32, offset: i64) -> String {
    let id = format!("{topic}-{partition}-{offset}");
    if id.len() <= ID_BYTES_MAX {
        return id;
    }
    // FNV-1a: the same in every process and version.
    let hash = topic
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}-{partition}-{offset}")
}

/// A text of another program: what is no UTF-8 is replaced.
fn set(text: &mut String, value: &[u8]) {
    text.clear();
    text.push_str(&String::from_utf8_lossy(value));
}

/// Cuts at the end of the last whole character within so many bytes.
fn cut(text: &mut String, bytes_max: usize) {
    let end = (0..=text.len().min(bytes_max)).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
}

fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn count(value: &[u8]) -> u16 {
    u16::try_from(number(value).unwrap_or_default().max(0)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
