//! The form `helixagent`: messages as the Go package of that name writes and reads them, so that both
//! can share a server. A message is one JSON document; a task or an event is another one in its
//! payload, as base64.
//!
//! ```text
//! record            message               task                event
//! id, type          id, type              id, type            id, type
//! payload                                 payload             data
//! timestamp         timestamp             created_at          timestamp
//! time to live      expiration            deadline
//! delay                                   scheduled_at
//! attempts before   retry_count           retry_count
//! key                                                         key
//! headers           headers               metadata            headers
//!   trace-id, correlation-id, reply-to, content-type, ce_source, ce_subject, ce_dataschema: the
//!   fields of their names
//! ```
//!
//! What is written is what Go's encoder writes, byte by byte. What is read may be more loosely made:
//! unknown and missing fields, names in any case, `null`; and a payload that is no task or event is
//! the payload itself, as the package's plain `Publish` sends it.

use std::collections::BTreeMap;

use base64::prelude::{Engine, BASE64_STANDARD};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Origin, CONTENT_TYPE, CORRELATION_ID, REPLY_TO};
use crate::config::{format_rfc3339, parse_rfc3339};
use crate::error::{Error, Kind, Result};
use crate::limits::{PRIORITY_DEFAULT, PRIORITY_MAX};
use crate::message::{Record, TopicKind};

/// Ties messages of one trace together; also a header beside the body.
pub(crate) const TRACE_ID: &str = "trace-id";
const SOURCE: &str = "ce_source";
const SUBJECT: &str = "ce_subject";
const SCHEMA: &str = "ce_dataschema";
/// Headers that have fields of their own.
pub(crate) const FIELDS: [&str; 7] = [TRACE_ID, CORRELATION_ID, REPLY_TO, CONTENT_TYPE, SOURCE, SUBJECT, SCHEMA];
/// No time, as Go writes it.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
/// Written by the package where nothing else was said.
const MAX_RETRIES: u32 = 3;
const PERSISTENT: u8 = 2;
const PENDING: &str = "pending";

fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize)]
struct MessageDocument<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    type_: &'a str,
    payload: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<&'a str, &'a str>,
    timestamp: String,
    priority: u8,
    retry_count: u16,
    max_retries: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reply_to: &'a str,
    expiration: String,
    delivery_mode: u8,
    state: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    redelivered: bool,
}

#[derive(Serialize)]
struct TaskDocument<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    type_: &'a str,
    payload: String,
    priority: u8,
    state: &'a str,
    max_retries: u32,
    retry_count: u16,
    deadline: String,
    created_at: String,
    scheduled_at: String,
    started_at: &'a str,
    completed_at: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlation_id: &'a str,
}

#[derive(Serialize)]
struct EventDocument<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    type_: &'a str,
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    data: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    data_content_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    data_schema: &'a str,
    timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: &'a BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
}

/// The body of a record.
///
/// # Errors
/// `Header` for one that is no text, which JSON cannot carry.
pub(crate) fn encode(record: &Record<'_>, kind: TopicKind, origin: Origin<'_>) -> Result<Vec<u8>> {
    let Origin { id, time_us, now_us, source, .. } = origin;
    let (fields, headers) = sorted(record)?;
    let [trace_id, correlation_id, reply_to, content_type, own_source, subject, schema] = fields;
    let after = |ms: i64| match ms {
        0 => ZERO_TIME.to_owned(),
        ms => format_rfc3339(now_us.saturating_add(ms.saturating_mul(1000))),
    };
    let (timestamp, payload) = (format_rfc3339(time_us), BASE64_STANDARD.encode(record.payload));
    let task = || TaskDocument {
        id,
        type_: record.type_,
        payload: payload.clone(),
        priority: record.priority,
        state: PENDING,
        max_retries: MAX_RETRIES,
        retry_count: record.attempts,
        deadline: after(record.ttl_ms),
        created_at: timestamp.clone(),
        scheduled_at: after(record.delay_ms),
        started_at: ZERO_TIME,
        completed_at: ZERO_TIME,
        metadata: &headers,
        trace_id,
        correlation_id,
    };
    let event = || EventDocument {
        id,
        type_: record.type_,
        source: if own_source.is_empty() { source } else { own_source },
        subject,
        data: payload.clone(),
        data_content_type: content_type,
        data_schema: schema,
        timestamp: timestamp.clone(),
        headers: &headers,
        trace_id,
        correlation_id,
        key: record.key.map(|key| BASE64_STANDARD.encode(key)).unwrap_or_default(),
    };
    let (inner, priority) = match kind {
        TopicKind::Task => (json(&task())?, record.priority),
        TopicKind::Event => (json(&event())?, PRIORITY_DEFAULT),
    };
    json(&MessageDocument {
        id,
        type_: record.type_,
        payload: BASE64_STANDARD.encode(inner),
        headers: &headers,
        timestamp,
        priority,
        retry_count: record.attempts,
        max_retries: MAX_RETRIES,
        trace_id,
        correlation_id,
        reply_to,
        expiration: after(record.ttl_ms),
        delivery_mode: PERSISTENT,
        state: PENDING,
        redelivered: record.maybe_dup,
    })
}

/// The headers that have fields of their own, in the order of [`FIELDS`], and the others by name.
fn sorted<'a>(record: &Record<'a>) -> Result<([&'a str; FIELDS.len()], BTreeMap<&'a str, &'a str>)> {
    let mut fields = [""; FIELDS.len()];
    let mut headers = BTreeMap::new();
    for (name, value) in record.headers {
        let text = std::str::from_utf8(value).map_err(|_| {
            Error::new(Kind::Header, format!("header `{name}` is no text, which the form helixagent cannot carry"))
        })?;
        match FIELDS.iter().zip(&mut fields).find(|(field, _)| **field == name) {
            Some((_, field)) => *field = text,
            None => drop(headers.insert(name, text)),
        }
    }
    Ok((fields, headers))
}

/// As Go writes it: what could end a script in a web page is escaped. None of these occurs outside
/// of a text.
fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    let plain = serde_json::to_string(document).map_err(|failed| Error::internal(failed.to_string()))?;
    let mut out = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => out.push(other),
        }
    }
    Ok(out.into_bytes())
}

/// A message that came in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub id: String,
    pub type_: String,
    pub payload: Vec<u8>,
    pub key: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
    pub timestamp_us: i64,
    pub priority: u8,
    /// Attempts made before.
    pub attempts: u16,
    /// When it is worth nothing any more.
    pub expires_us: Option<i64>,
}

/// Reads a body.
///
/// # Errors
/// `Refused`, with what is wrong with it.
pub(crate) fn decode(body: &[u8], kind: TopicKind) -> Result<Decoded> {
    let refused = |why: &str| Error::new(Kind::Refused, format!("not a message in the form helixagent: {why}"));
    let message: Value = serde_json::from_slice(body).map_err(|wrong| refused(&wrong.to_string()))?;
    let Value::Object(message) = message else { return Err(refused("no JSON object")) };
    let payload = bytes(&message, "payload").map_err(refused)?.unwrap_or_default();
    let inner = serde_json::from_slice(&payload).ok().and_then(|inner: Value| match inner {
        Value::Object(inner) => Some(inner),
        _ => None,
    });
    let content = match kind {
        TopicKind::Task => "payload",
        TopicKind::Event => "data",
    };
    let is_inner = |inner: &Map<String, Value>| ["id", "type", content].iter().all(|name| get(inner, name).is_some());
    let mut decoded = Decoded {
        id: text(&message, "id"),
        type_: text(&message, "type"),
        timestamp_us: time(&message, "timestamp").unwrap_or_default(),
        priority: number(&message, "priority").map_or(PRIORITY_DEFAULT, priority),
        attempts: number(&message, "retry_count").map_or(0, |count| u16::try_from(count.max(0)).unwrap_or(u16::MAX)),
        expires_us: time(&message, "expiration"),
        ..Decoded::default()
    };
    decoded.take_headers(&message, "headers");
    decoded
        .take_fields(&message, &[("trace_id", TRACE_ID), ("correlation_id", CORRELATION_ID), ("reply_to", REPLY_TO)]);
    let Some(inner) = inner.filter(is_inner) else {
        decoded.payload = payload;
        return Ok(decoded);
    };
    decoded.id = text(&inner, "id");
    decoded.type_ = text(&inner, "type");
    decoded.payload = bytes(&inner, content).map_err(refused)?.unwrap_or_default();
    decoded.take_fields(&inner, &[("trace_id", TRACE_ID), ("correlation_id", CORRELATION_ID)]);
    match kind {
        TopicKind::Task => {
            decoded.take_headers(&inner, "metadata");
            decoded.timestamp_us = time(&inner, "created_at").unwrap_or(decoded.timestamp_us);
            decoded.expires_us = time(&inner, "deadline").or(decoded.expires_us);
        }
        TopicKind::Event => {
            decoded.take_headers(&inner, "headers");
            decoded.timestamp_us = time(&inner, "timestamp").unwrap_or(decoded.timestamp_us);
            decoded.key = bytes(&inner, "key").map_err(refused)?;
            let fields = [
                ("source", SOURCE),
                ("subject", SUBJECT),
                ("data_content_type", CONTENT_TYPE),
                ("data_schema", SCHEMA),
            ];
            decoded.take_fields(&inner, &fields);
        }
    }
    Ok(decoded)
}

impl Decoded {
    fn take_fields(&mut self, from: &Map<String, Value>, fields: &[(&str, &str)]) {
        for (field, header) in fields {
            let text = text(from, field);
            if !text.is_empty() {
                self.headers.insert((*header).to_owned(), text);
            }
        }
    }

    fn take_headers(&mut self, from: &Map<String, Value>, field: &str) {
        let Some(Value::Object(headers)) = get(from, field) else { return };
        for (name, value) in headers {
            if let Value::String(value) = value {
                self.headers.insert(name.clone(), value.clone());
            }
        }
    }
}

/// A field, by its name in any case, as Go finds it.
fn get<'a>(from: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    from.get(name).or_else(|| from.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn text(from: &Map<String, Value>, name: &str) -> String {
    get(from, name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(from: &Map<String, Value>, name: &str) -> Option<i64> {
    get(from, name)?.as_i64()
}

fn priority(number: i64) -> u8 {
    u8::try_from(number.clamp(0, PRIORITY_MAX.into())).unwrap_or_default()
}

/// No time before 1970: the zero time is "none".
fn time(from: &Map<String, Value>, name: &str) -> Option<i64> {
    parse_rfc3339(get(from, name)?.as_str()?)
}

fn bytes(from: &Map<String, Value>, name: &str) -> Result<Option<Vec<u8>>, &'static str> {
    match get(from, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => BASE64_STANDARD.decode(text).map(Some).map_err(|_| "a field that is no base64"),
        Some(_) => Err("a field of bytes that is no text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HeaderBlock;

    fn block() -> HeaderBlock {
        let mut headers = HeaderBlock::default();
        for (name, value) in [("b", "2"), ("a", "<1>"), ("trace-id", "t"), ("ce_source", "s"), ("reply-to", "r")] {
            headers.push(name, value.as_bytes());
        }
        headers
    }

    fn origin(id: &str, time_us: i64, now_us: i64) -> Origin<'_> {
        Origin { id, time_us, now_us, topic: "t", source: "hub", again: false }
    }

    /// The documents of the Go package, by its own encoder.
    #[test]
    fn a_task_is_written_as_go_writes_it() {
        let headers = block();
        let record = Record {
            type_: "mail",
            headers: headers.headers(),
            priority: 8,
            attempts: 1,
            ttl_ms: 1000,
            ..Record::new(b"hi")
        };
        let time_us = 1_767_323_045_120_000;
        let body = encode(&record, TopicKind::Task, origin("a", time_us, time_us)).unwrap();
        let message: Value = serde_json::from_slice(&body).unwrap();
        let task = BASE64_STANDARD.decode(message["payload"].as_str().unwrap()).unwrap();
        assert_eq!(
            String::from_utf8(task).unwrap(),
            concat!(
                r#"{"id":"a","type":"mail","payload":"aGk=","priority":8,"state":"pending","max_retries":3,"retry_count":1,"#,
                r#""deadline":"2026-01-02T03:04:06.12Z","created_at":"2026-01-02T03:04:05.12Z","#,
                r#""scheduled_at":"0001-01-01T00:00:00Z","started_at":"0001-01-01T00:00:00Z","completed_at":"0001-01-01T00:00:00Z","#,
                r#""metadata":{"a":"\u003c1\u003e","b":"2"},"trace_id":"t"}"#
            )
        );
        let text = String::from_utf8(body).unwrap();
        let payload = message["payload"].as_str().unwrap();
        assert_eq!(
            text.replace(payload, "…"),
            concat!(
                r#"{"id":"a","type":"mail","payload":"…","headers":{"a":"\u003c1\u003e","b":"2"},"#,
                r#""timestamp":"2026-01-02T03:04:05.12Z","priority":8,"retry_count":1,"max_retries":3,"trace_id":"t","#,
                r#""reply_to":"r","expiration":"2026-01-02T03:04:06.12Z","delivery_mode":2,"state":"pending"}"#
            )
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        let headers = block();
        for (kind, key) in [(TopicKind::Task, None), (TopicKind::Event, Some(&b"\xffk"[..]))] {
            let record = Record { key, type_: "t", headers: headers.headers(), attempts: 2, ..Record::new(b"\x00{}") };
            let body = encode(&record, kind, origin("id", 1_500_000, 2_000_000)).unwrap();
            let decoded = decode(&body, kind).unwrap();
            assert_eq!((decoded.id.as_str(), decoded.type_.as_str()), ("id", "t"));
            assert_eq!((&decoded.payload[..], decoded.key.as_deref()), (record.payload, key));
            assert_eq!((decoded.timestamp_us, decoded.attempts, decoded.expires_us), (1_500_000, 2, None));
            let source = (kind == TopicKind::Event).then_some("s");
            assert_eq!(decoded.headers.get("ce_source").map(String::as_str), source);
            for (name, value) in [("a", "<1>"), ("b", "2"), ("trace-id", "t"), ("reply-to", "r")] {
                assert_eq!(decoded.headers[name], value);
            }
        }
    }

    #[test]
    fn what_is_more_loosely_made_is_read_too() {
        let plain = decode(br#"{"ID":"x","payload":"aGk=","extra":1,"headers":null}"#, TopicKind::Task).unwrap();
        assert_eq!((plain.id.as_str(), &plain.payload[..], plain.priority), ("x", &b"hi"[..], 5));
        assert_eq!(
            decode(br#"{"payload":null,"retry_count":-1}"#, TopicKind::Event).unwrap(),
            Decoded { priority: 5, ..Decoded::default() }
        );
        for wrong in ["", "[]", "{", r#"{"payload":{}}"#, r#"{"payload":"?"}"#] {
            assert_eq!(decode(wrong.as_bytes(), TopicKind::Task).unwrap_err().kind(), Kind::Refused, "{wrong}");
        }
    }

    #[test]
    fn a_header_that_is_no_text_is_refused() {
        let mut headers = HeaderBlock::default();
        headers.push("h", b"\xff");
        let record = Record { headers: headers.headers(), ..Record::new(b"x") };
        assert_eq!(encode(&record, TopicKind::Task, origin("a", 0, 0)).unwrap_err().kind(), Kind::Header);
    }
}
