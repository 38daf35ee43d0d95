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

/// Whether the form `plain` has a place for all that a record says. Its id is of this process only.
fn check_plain(record: &Record<'_>, origin: Origin<'_>) -> Result<()> {
    let has = [
        ("headers", !record.headers.bytes().is_empty()),
        ("a type", !record.type_.is_empty()),
        ("a time to live", record.ttl_ms > 0),
        ("attempts made before", record.attempts > 0),
    ];
    match has.iter().find(|(_, is_there)| *is_there && !origin.again) {
        Some((what, _)) => {
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
mod tests {
    use super::*;
    use crate::message::Headers;

    const NOW_US: i64 = 1_767_323_045_120_345;
    const MADE: Made = Made { prefix: 7, seq: 11 };
    const MADE_ID: &str = "0000000000000007000000000000000b";
    const BYTES_MAX: usize = 100;

    fn target(wire: Wire) -> Target<'static> {
        Target { topic: "order.created", kind: TopicKind::Event, wire, source: "shop", again: false }
    }

    fn written(record: &Record<'_>, target: Target<'_>) -> Frame {
        let mut frame = Frame::default();
        frame.write(record, target, MADE, NOW_US).unwrap();
        frame
    }

    fn refused(record: &Record<'_>, wire: Wire) -> (Kind, String) {
        let wrong = Frame::default().write(record, target(wire), MADE, NOW_US).unwrap_err();
        (wrong.kind(), wrong.message().to_owned())
    }

    fn raw<'a>(frame: &'a Frame, record: &Record<'a>) -> Raw<'a> {
        let timestamp_ms = Some(frame.timestamp_ms());
        Raw { value: frame.value(record), key: frame.key(record), timestamp_ms }
    }

    fn came(headers: &[(&[u8], Option<&[u8]>)], raw: &Raw<'_>, wire: Wire) -> Incoming {
        let mut incoming = Incoming::default();
        headers.iter().for_each(|(name, value)| incoming.header(name, *value, wire));
        incoming.finish(raw, TopicKind::Event, wire, BYTES_MAX);
        incoming
    }

    /// What came of a frame, as if Kafka had carried it.
    fn back(frame: &Frame, raw: &Raw<'_>, wire: Wire) -> Incoming {
        let headers: Vec<_> = frame.headers().map(|(name, value)| (&name[..name.len() - 1], Some(value))).collect();
        assert!(frame.headers().all(|(name, _)| name.ends_with(&[0])));
        came(&headers, raw, wire)
    }

    fn names(frame: &Frame) -> Vec<&str> {
        frame.headers().map(|(name, _)| std::str::from_utf8(&name[..name.len() - 1]).unwrap()).collect()
    }

    fn pairs(headers: Headers<'_>) -> Vec<(&str, &[u8])> {
        headers.into_iter().collect()
    }

    fn block(headers: &[(&str, &[u8])]) -> HeaderBlock {
        let mut block = HeaderBlock::default();
        headers.iter().for_each(|(name, value)| block.push(name, value));
        block
    }

    fn foreign(value: &[u8]) -> Raw<'_> {
        Raw { value, key: None, timestamp_ms: Some(1500) }
    }

    #[test]
    fn what_goes_out_native_comes_in() {
        let headers = block(&[("b", b"2"), ("a", &[0, 255]), ("b", b"")]);
        let record = Record {
            key: Some(b""),
            id: "own",
            type_: "created",
            headers: headers.headers(),
            timestamp_us: 1_500_001,
            ttl_ms: 2,
            attempts: 3,
            maybe_dup: true,
            ..Record::new(b"\x00{}")
        };
        let frame = written(&record, target(Wire::Native));
        assert_eq!(
            names(&frame),
            ["hmq-id", "hmq-type", "hmq-time-us", "hmq-tries", "hmq-maybe-dup", "hmq-expires-us", "b", "a", "b"]
        );
        assert_eq!(frame.timestamp_ms(), 1500);
        let raw = raw(&frame, &record);
        assert_eq!((raw.value, raw.key), (record.payload, Some(&b""[..])));
        let incoming = back(&frame, &raw, Wire::Native);
        let got = incoming.record(&raw);
        assert_eq!((got.payload, got.key, got.id, got.type_), (record.payload, record.key, "own", "created"));
        assert_eq!(pairs(got.headers), pairs(record.headers));
        assert_eq!((got.timestamp_us, got.maybe_dup, got.priority), (1_500_001, true, PRIORITY_DEFAULT));
        assert_eq!((incoming.attempts, incoming.expires_us), (3, Some(NOW_US + 2000)));
        assert_eq!(incoming.unreadable, None);
    }

    #[test]
    fn a_bare_record_has_one_header() {
        let record = Record::new(b"x");
        let frame = written(&record, target(Wire::Native));
        assert_eq!(frame.headers().collect::<Vec<_>>(), [(&b"hmq-id\0"[..], MADE_ID.as_bytes())]);
        assert_eq!((frame.key(&record), frame.timestamp_ms()), (None, NOW_US / 1000));
        let raw = raw(&frame, &record);
        let incoming = back(&frame, &raw, Wire::Native);
        let got = incoming.record(&raw);
        assert_eq!((got.id, got.key, got.timestamp_us), (MADE_ID, None, NOW_US / 1000 * 1000));
        assert_eq!((incoming.attempts, incoming.expires_us, got.maybe_dup), (0, None, false));
    }

    #[test]
    fn a_time_of_whole_milliseconds_is_kafkas_alone() {
        for (time_us, has_header) in [(1_500_000, false), (1_500_999, true), (999, true)] {
            let record = Record { timestamp_us: time_us, ..Record::new(b"x") };
            let frame = written(&record, target(Wire::Native));
            assert_eq!(names(&frame).contains(&TIME_US), has_header, "{time_us}");
            let raw = raw(&frame, &record);
            assert_eq!(back(&frame, &raw, Wire::Native).record(&raw).timestamp_us, time_us);
        }
    }

    #[test]
    fn a_frame_and_an_incoming_keep_nothing_of_the_one_before() {
        let headers = block(&[("a", b"1")]);
        let full = Record {
            key: Some(b"k"),
            type_: "T",
            headers: headers.headers(),
            attempts: 1,
            maybe_dup: true,
            ttl_ms: 1,
            ..Record::new(b"one")
        };
        let mut frame = written(&full, target(Wire::Helixagent));
        let bare = Record::new(b"two");
        frame.write(&bare, target(Wire::Native), MADE, NOW_US).unwrap();
        assert_eq!((names(&frame), frame.value(&bare), frame.key(&bare)), (vec![ID], &b"two"[..], None));

        let mut incoming = Incoming::default();
        for (name, value) in [(ID, &b"i"[..]), (TYPE, b"T"), (TRIES, b"9"), (MAYBE_DUP, b"1"), (EXPIRES_US, b"5")] {
            incoming.header(name.as_bytes(), Some(value), Wire::CloudEvents);
        }
        for name in ["hmq-time-us", "a", "ce_id", "ce_partitionkey"] {
            incoming.header(name.as_bytes(), Some(b"7"), Wire::CloudEvents);
        }
        incoming.finish(&foreign(&[b'x'; BYTES_MAX + 1]), TopicKind::Event, Wire::CloudEvents, BYTES_MAX);
        assert!(incoming.unreadable.is_some());
        incoming.clear();
        let raw = foreign(b"two");
        incoming.finish(&raw, TopicKind::Event, Wire::CloudEvents, BYTES_MAX);
        let got = incoming.record(&raw);
        assert_eq!(
            (got.payload, got.key, got.id, got.type_, got.headers.bytes()),
            (&b"two"[..], None, "", "", &[][..])
        );
        assert_eq!((got.timestamp_us, got.maybe_dup), (1_500_000, false));
        assert_eq!((incoming.attempts, incoming.expires_us, incoming.unreadable), (0, None, None));
    }

    #[test]
    fn headers_that_cannot_be_carried_are_refused_or_left_out_of_what_came_before() {
        for name in OURS.into_iter().chain(["a\0b"]) {
            let headers = block(&[("a", b"1"), (name, b"2")]);
            let record = Record { headers: headers.headers(), ..Record::new(b"x") };
            for wire in [Wire::Native, Wire::CloudEvents, Wire::Helixagent] {
                let (kind, text) = refused(&record, wire);
                assert_eq!(kind, Kind::Header);
                assert!(text.contains(&format!("{name:?}")), "{text}");
                let frame = written(&record, Target { again: true, ..target(wire) });
                let values = frame.headers().filter(|(_, value)| *value == b"2").count();
                assert_eq!((values, names(&frame).contains(&"a")), (0, true), "{name:?} {wire:?}");
            }
        }
        let headers = block(&[("hmq-dead-reason", b"x"), ("type", b"y")]);
        let record = Record { headers: headers.headers(), ..Record::new(b"x") };
        assert_eq!(names(&written(&record, target(Wire::Native))), ["hmq-id", "hmq-dead-reason", "type"]);
    }

    #[test]
    fn messages_of_other_programs_are_readable() {
        let raw = Raw { timestamp_ms: Some(-1), key: Some(b"k"), ..foreign(b"x") };
        let headers: [(&[u8], Option<&[u8]>); 5] = [
            (b"a", None),
            (b"\xff", Some(b"1")),
            (b"ce_id", Some(b"2")),
            (TRIES.as_bytes(), Some(b"many")),
            (b"", None),
        ];
        for wire in [Wire::Native, Wire::Plain] {
            let incoming = came(&headers, &raw, wire);
            let got = incoming.record(&raw);
            assert_eq!((got.id, got.type_, got.key, got.timestamp_us), ("", "", Some(&b"k"[..]), 0));
            assert_eq!(pairs(got.headers), [("a", &b""[..]), ("\u{fffd}", b"1"), ("ce_id", b"2"), ("", b"")]);
            assert_eq!((incoming.attempts, incoming.unreadable), (0, None));
        }
        let counts = [("70000", u16::MAX), ("-1", 0), ("2", 2), ("", 0)];
        for (text, attempts) in counts {
            let tries = [(TRIES.as_bytes(), Some(text.as_bytes()))];
            assert_eq!(came(&tries, &raw, Wire::Native).attempts, attempts, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_held_is_cut_and_said() {
        let (id, long) = ("é".repeat(40), "l".repeat(300));
        let fine = [(ID.as_bytes(), Some(id.as_bytes()))];
        let raw = foreign(b"x");
        let incoming = came(&fine, &raw, Wire::Native);
        assert_eq!((incoming.record(&raw).id, incoming.unreadable.as_deref()), (&id[..62], None));

        let incoming = came(&[(TYPE.as_bytes(), Some(long.as_bytes()))], &raw, Wire::Native);
        assert_eq!(incoming.record(&raw).type_.len(), TYPE_BYTES_MAX);
        assert_eq!(incoming.unreadable.as_deref(), Some("a type of 300 bytes; at most 255 are taken"));

        let incoming = came(&[(long.as_bytes(), None), (b"a", None)], &raw, Wire::Native);
        assert_eq!(pairs(incoming.record(&raw).headers), [("a", &b""[..])]);
        assert_eq!(incoming.unreadable.as_deref(), Some("a header's name of 300 bytes; at most 256 are taken"));

        let key = vec![b'k'; KEY_MAX + 1];
        let raw = Raw { key: Some(&key), ..raw };
        let incoming = came(&[], &raw, Wire::Native);
        assert_eq!(incoming.record(&raw).key.map(<[u8]>::len), Some(KEY_MAX));
        assert_eq!(incoming.unreadable.as_deref(), Some("a key of 65536 bytes; at most 65535 are taken"));

        let raw = foreign(&[b'x'; BYTES_MAX + 1]);
        let incoming = came(&[], &raw, Wire::Plain);
        assert_eq!(incoming.record(&raw).payload, raw.value);
        assert_eq!(incoming.unreadable.as_deref(), Some("a payload of 101 bytes; at most 100 are taken"));
    }

    #[test]
    fn plain_carries_payload_key_and_time_and_refuses_the_rest() {
        let headers = block(&[("a", b"1")]);
        let good = Record { key: Some(b"k"), id: "own", timestamp_us: 1_500_001, maybe_dup: true, ..Record::new(b"x") };
        let frame = written(&good, target(Wire::Plain));
        assert_eq!((frame.headers().len(), frame.timestamp_ms()), (0, 1500));
        assert_eq!((frame.value(&good), frame.key(&good)), (&b"x"[..], good.key));
        let bad = [
            ("headers", Record { headers: headers.headers(), ..good }),
            ("a type", Record { type_: "T", ..good }),
            ("a time to live", Record { ttl_ms: 1, ..good }),
            ("attempts made before", Record { attempts: 1, ..good }),
        ];
        for (what, record) in bad {
            let (kind, text) = refused(&record, Wire::Plain);
            assert_eq!(kind, Kind::Unsupported);
            assert!(text.ends_with(&format!("but not {what}")), "{text}");
            let frame = written(&record, Target { again: true, ..target(Wire::Plain) });
            assert_eq!((frame.headers().len(), frame.value(&record)), (0, &b"x"[..]));
        }
    }

    #[test]
    fn events_go_out_and_come_in() {
        let headers = block(&[("content-type", b"text/plain"), ("ce_subject", b"s"), ("a", &[255])]);
        let record = Record {
            key: Some(b"k"),
            headers: headers.headers(),
            timestamp_us: 1_500_001,
            ttl_ms: 1,
            attempts: 2,
            maybe_dup: true,
            ..Record::new(b"{}")
        };
        let frame = written(&record, target(Wire::CloudEvents));
        let attributes =
            ["ce_specversion", "ce_id", "ce_type", "ce_time", "ce_partitionkey", "ce_subject", "ce_source"];
        let rest = ["hmq-tries", "hmq-maybe-dup", "hmq-expires-us", "content-type", "a"];
        assert_eq!(names(&frame), [&attributes[..], &rest].concat());
        let raw = raw(&frame, &record);
        assert_eq!((raw.value, raw.key, raw.timestamp_ms), (&b"{}"[..], record.key, Some(1500)));
        let incoming = back(&frame, &raw, Wire::CloudEvents);
        let got = incoming.record(&raw);
        assert_eq!((got.id, got.type_, got.key), (MADE_ID, "order.created", record.key));
        assert_eq!((got.timestamp_us, got.maybe_dup, got.payload), (1_500_001, true, &b"{}"[..]));
        assert_eq!((incoming.attempts, incoming.expires_us), (2, Some(NOW_US + 1000)));
        let own = [("content-type", &b"text/plain"[..]), ("a", &[255]), ("ce_subject", b"s"), ("ce_source", b"shop")];
        assert_eq!(pairs(got.headers), own);
    }

    #[test]
    fn events_of_other_programs_may_lack_time_and_key() {
        let headers: [(&[u8], Option<&[u8]>); 3] =
            [(b"ce_id", Some(b"1")), (b"ce_partitionkey", Some(b"p")), (b"ce_type", Some(b"T"))];
        for (key, got) in [(None, b"p"), (Some(&b"k"[..]), b"k")] {
            let raw = Raw { key, ..foreign(b"x") };
            let incoming = came(&headers, &raw, Wire::CloudEvents);
            let record = incoming.record(&raw);
            assert_eq!((record.id, record.type_, record.timestamp_us), ("1", "T", 1_500_000));
            assert_eq!(record.key, Some(&got[..]));
        }
        let headers = block(&[("ce_A", b"1")]);
        let record = Record { headers: headers.headers(), ..Record::new(b"x") };
        assert_eq!(refused(&record, Wire::CloudEvents).0, Kind::Header);
    }

    #[test]
    fn helixagent_is_written_as_the_package_does() {
        let headers = block(&[("b", b"1"), ("trace-id", b"t"), ("content-type", b"c"), ("b", b"2"), ("a", b"3")]);
        let record = Record {
            id: "own",
            type_: "T",
            headers: headers.headers(),
            timestamp_us: 1_500_001,
            ttl_ms: 1,
            attempts: 2,
            maybe_dup: true,
            priority: 8,
            ..Record::new(b"{}")
        };
        for kind in [TopicKind::Task, TopicKind::Event] {
            let frame = written(&record, Target { kind, ..target(Wire::Helixagent) });
            let texts: Vec<_> = frame.headers().collect();
            let expected: [(&[u8], &[u8]); 6] = [
                (b"type\0", b"T"),
                (b"id\0", b"own"),
                (b"b\0", b"2"),
                (b"a\0", b"3"),
                (b"trace-id\0", b"t"),
                (b"hmq-maybe-dup\0", b"1"),
            ];
            assert_eq!(texts, expected);
            let raw = raw(&frame, &record);
            assert_eq!((raw.key, raw.timestamp_ms), (Some(&b"own"[..]), Some(1500)));
            assert!(raw.value.starts_with(br#"{"id":"own","type":"T","payload":""#));
            let mut incoming = Incoming::default();
            frame.headers().for_each(|(n, value)| incoming.header(&n[..n.len() - 1], Some(value), Wire::Helixagent));
            incoming.finish(&raw, kind, Wire::Helixagent, BYTES_MAX);
            let got = incoming.record(&raw);
            assert_eq!((got.payload, got.key, got.id, got.type_), (&b"{}"[..], None, "own", "T"));
            assert_eq!((got.timestamp_us, got.maybe_dup), (1_500_001, true));
            assert_eq!(got.priority, if kind == TopicKind::Task { 8 } else { PRIORITY_DEFAULT });
            assert_eq!((incoming.attempts, incoming.expires_us), (2, Some(NOW_US + 1000)));
            assert_eq!((got.headers.find("b"), got.headers.find("trace-id")), (Some(&b"2"[..]), Some(&b"t"[..])));
            assert_eq!(got.headers.find("id"), None);
        }
    }

    #[test]
    fn a_key_beside_helixagent_comes_back() {
        for key in [&b"k"[..], b""] {
            let record = Record { key: Some(key), ..Record::new(b"x") };
            for kind in [TopicKind::Task, TopicKind::Event] {
                let frame = written(&record, Target { kind, ..target(Wire::Helixagent) });
                let raw = raw(&frame, &record);
                assert_eq!(raw.key, Some(key));
                let mut incoming = Incoming::default();
                incoming.finish(&raw, kind, Wire::Helixagent, BYTES_MAX);
                assert_eq!(incoming.record(&raw).key, Some(key), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_not_in_the_form_helixagent_is_kept_and_said() {
        let headers: [(&[u8], Option<&[u8]>); 1] = [(b"a", Some(b"1"))];
        let large = vec![b'x'; BYTES_MAX * 2 + HELIXAGENT_BYTES + 1];
        for (value, why) in
            [(&b"x"[..], "not a message in the form"), (&large, "far larger than message_bytes_max 100")]
        {
            let raw = foreign(value);
            let incoming = came(&headers, &raw, Wire::Helixagent);
            assert!(incoming.unreadable.as_ref().is_some_and(|text| text.contains(why)), "{:?}", incoming.unreadable);
            let got = incoming.record(&raw);
            assert_eq!((got.payload, pairs(got.headers)), (value, vec![("a", &b"1"[..])]));
        }
        let raw = foreign(br#"{"payload":"aGk=","headers":{"hmq-id":"x","a\u0000":"y","b":"z"}}"#);
        let incoming = came(&headers, &raw, Wire::Helixagent);
        let got = incoming.record(&raw);
        assert_eq!((got.payload, got.id, got.timestamp_us), (&b"hi"[..], "", 1_500_000));
        assert_eq!(pairs(got.headers), [("b", &b"z"[..])]);
        assert!(incoming.unreadable.is_some_and(|text| text.contains("NUL")));
        let raw = foreign(br#"{"payload":"eHh4eA=="}"#);
        let mut incoming = Incoming::default();
        incoming.finish(&raw, TopicKind::Task, Wire::Helixagent, 3);
        assert_eq!(incoming.unreadable.as_deref(), Some("a payload of 4 bytes; at most 3 are taken"));
    }

    #[test]
    fn a_place_is_an_id_that_fits() {
        assert_eq!(place_id("t", 3, 17), "t-3-17");
        let (long, other) = ("t".repeat(200), "u".repeat(200));
        let id = place_id(&long, i32::MAX, i64::MAX);
        assert!(id.len() <= ID_BYTES_MAX && id.ends_with("-2147483647-9223372036854775807"), "{id}");
        assert_eq!(id, place_id(&long, i32::MAX, i64::MAX));
        assert_ne!(id, place_id(&other, i32::MAX, i64::MAX));
    }
}
