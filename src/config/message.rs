//! The documents that carry messages: `hmq_publish_json`, and the `meta` of a record.
//!
//! Texts borrow from the document, so reading one allocates next to nothing.

use std::borrow::Cow;
use std::fmt;

use base64::prelude::{Engine, BASE64_STANDARD};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::document::{read_borrowed, Raw};
use super::forms::{Borrowed, Maybe, Num, Time, Word};
use super::DECADE_MS;
use crate::broker::Level;
use crate::error::{Error, Kind, Result};
use crate::limits::PRIORITY_MAX;
use crate::message::TopicKind;

/// One message as a document.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MessageDocument<'a> {
    /// Where it goes.
    #[serde(borrow)]
    pub topic: Borrowed<'a>,
    /// Task or event; none: by route.
    #[serde(default, with = "Maybe::<Word<TopicKind>>")]
    pub kind: Option<TopicKind>,
    /// Any JSON; its text is the payload, to the letter (a string keeps its quotes).
    #[serde(borrow, default)]
    payload: Raw<'a>,
    /// The payload as text.
    #[serde(borrow, default)]
    payload_text: Option<Borrowed<'a>>,
    /// The payload as base64 (standard alphabet, padded).
    #[serde(borrow, default)]
    payload_base64: Option<Borrowed<'a>>,
    /// Keeps order among messages of the same key.
    #[serde(borrow, default)]
    pub key: Option<Borrowed<'a>>,
    /// Names the message; none: one is made.
    #[serde(borrow, default)]
    pub id: Option<Borrowed<'a>>,
    /// What kind of message it is, for its handlers.
    #[serde(borrow, default, rename = "type")]
    pub type_: Option<Borrowed<'a>>,
    /// Names and texts.
    #[serde(borrow, default)]
    pub headers: HeaderList<'a>,
    /// Time of the message: microseconds since 1970, or RFC 3339 text; none: now.
    #[serde(default, rename = "timestamp_us", with = "Maybe::<Time>")]
    pub timestamp: Option<i64>,
    /// Tasks: higher first.
    #[serde(default, with = "Maybe::<Num<u8, 0, { PRIORITY_MAX as u64 }>>")]
    pub priority: Option<u8>,
    /// Not delivered before this has passed.
    #[serde(default, with = "Maybe::<Num<i64, 0, DECADE_MS>>")]
    pub delay_ms: Option<i64>,
    /// Not delivered after this has passed.
    #[serde(default, with = "Maybe::<Num<i64, 0, DECADE_MS>>")]
    pub ttl_ms: Option<i64>,
    /// How safe it must be for the publish to succeed.
    #[serde(default, with = "Maybe::<Word<Level>>")]
    pub require: Option<Level>,
    /// Ties an answer to its request.
    #[serde(borrow, default)]
    pub correlation_id: Option<Borrowed<'a>>,
    /// Where an answer goes.
    #[serde(borrow, default)]
    pub reply_to: Option<Borrowed<'a>>,
    /// Media type of the payload.
    #[serde(borrow, default)]
    pub content_type: Option<Borrowed<'a>>,
}

impl<'a> MessageDocument<'a> {
    /// Reads one; never blocks.
    ///
    /// `Config`: not a document of this shape, or more than one payload.
    pub fn from_json(json: &'a str) -> Result<Self> {
        let document: Self = read_borrowed("message", json)?;
        let payloads = [
            ("payload", !document.payload.is_absent()),
            ("payload_text", document.payload_text.is_some()),
            ("payload_base64", document.payload_base64.is_some()),
        ];
        let mut given = payloads.iter().filter(|(_, given)| *given);
        match (given.next(), given.next()) {
            (Some((first, _)), Some((second, _))) => {
                let text = format!("message: `{first}` and `{second}` are both set; keep one of them");
                Err(Error::new(Kind::Config, text).at(*second, 0, 0))
            }
            _ => Ok(document),
        }
    }

    /// The payload; empty if there is none.
    ///
    /// `Config`: not base64.
    pub fn payload(&self) -> Result<Cow<'_, [u8]>> {
        if !self.payload.is_absent() {
            return Ok(Cow::Borrowed(self.payload.0.as_bytes()));
        }
        if let Some(text) = &self.payload_text {
            return Ok(Cow::Borrowed(text.as_bytes()));
        }
        let Some(text) = &self.payload_base64 else { return Ok(Cow::Borrowed(&[])) };
        BASE64_STANDARD.decode(text.as_bytes()).map(Cow::Owned).map_err(|_| {
            let text = "message: `payload_base64`: expected base64 with the standard alphabet and padding";
            Error::new(Kind::Config, text).at("payload_base64", 0, 0)
        })
    }
}

/// The rare options of a record.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Meta<'a> {
    /// Ties an answer to its request.
    #[serde(borrow)]
    pub correlation_id: Option<Borrowed<'a>>,
    /// Where an answer goes.
    #[serde(borrow)]
    pub reply_to: Option<Borrowed<'a>>,
    /// Media type of the payload.
    #[serde(borrow)]
    pub content_type: Option<Borrowed<'a>>,
    /// Trace context of the W3C.
    #[serde(borrow)]
    pub traceparent: Option<Borrowed<'a>>,
    /// Further trace context.
    #[serde(borrow)]
    pub tracestate: Option<Borrowed<'a>>,
    /// How safe the message must be for the publish to succeed.
    #[serde(with = "Maybe::<Word<Level>>")]
    pub require: Option<Level>,
}

impl<'a> Meta<'a> {
    /// Reads one; never blocks.
    ///
    /// `Config`: not a document of this shape.
    pub fn from_json(json: &'a str) -> Result<Self> {
        read_borrowed("meta", json)
    }
}

/// Headers in the order of the document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderList<'a>(pub Vec<(Borrowed<'a>, Borrowed<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for HeaderList<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = HeaderList<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    list.push(entry);
                }
                Ok(HeaderList(list))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
super::forms::inline_schema!(
    [] HeaderList<'_>,
    serde_json::json!({"type": "object", "additionalProperties": {"type": "string"}})
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_borrows_from_its_document() {
        let json = r#"{"topic":"tasks.mail","payload":{"to": ["a",1.0]},"headers":{"b":"1","a":"x\ny"},"priority":9}"#;
        let message = MessageDocument::from_json(json).unwrap();
        assert!(matches!(message.topic.0, Cow::Borrowed("tasks.mail")));
        assert_eq!(&*message.payload().unwrap(), br#"{"to": ["a",1.0]}"#);
        let headers: Vec<(&str, &str)> = message.headers.0.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(headers, [("b", "1"), ("a", "x\ny")]);
        assert_eq!(message.priority, Some(9));
    }

    #[test]
    fn payloads() {
        let payload = |json: &str| Ok(MessageDocument::from_json(json)?.payload()?.into_owned());
        let cases: [(&str, &[u8]); 6] = [
            (r#"{"topic":"t"}"#, b""),
            (r#"{"topic":"t","payload":"text"}"#, b"\"text\""),
            (r#"{"topic":"t","payload":null}"#, b"null"),
            (r#"{"topic":"t","payload_text":"te\"xt"}"#, b"te\"xt"),
            (r#"{"topic":"t","payload_base64":"AP8="}"#, &[0, 255]),
            (r#"{"topic":"t","payload_text":null}"#, b""),
        ];
        for (json, expected) in cases {
            let found: Result<Vec<u8>> = payload(json);
            assert_eq!(found.unwrap(), expected, "{json}");
        }
        let bad: [(&str, &str); 5] = [
            (r#"{"topic":"t","payload":1,"payload_text":""}"#, "payload_text"),
            (r#"{"topic":"t","payload_base64":"AP8"}"#, "payload_base64"),
            (r#"{"topic":"t","priority":11}"#, "priority"),
            (r#"{"topic":"t","headers":{"a":1}}"#, "headers.a"),
            (r#"{"topic":"t","headers":{"a":"","a":""}}"#, "headers.a"),
        ];
        for (json, path) in bad {
            assert_eq!(payload(json).unwrap_err().path(), Some(path), "{json}");
        }
    }

    #[test]
    fn meta() {
        let meta = Meta::from_json(r#"{"correlation_id":"c","require":"disk"}"#).unwrap();
        assert_eq!(meta.correlation_id.as_deref(), Some("c"));
        assert_eq!(meta.require, Some(Level::Disk));
        assert!(Meta::from_json(r#"{"require":"none"}"#).is_err());
    }
}
