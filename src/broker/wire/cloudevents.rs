//! The form `cloudevents`: CloudEvents 1.0 in binary mode, the payload as it is and the attributes
//! beside it. Each server has its own spelling of their names, which is not the matter here.
//!
//! ```text
//! attribute      in a record
//! id, type       id, type (or the topic, as an event must have one)
//! time           timestamp
//! partitionkey   key, where it is text
//! datacontenttype  header content-type, which has a place of its own at every server
//! source         header ce_source (or the hub's name)
//! any other      header ce_ and its name
//! ```

use std::borrow::Cow;

use super::{Origin, ATTRIBUTE};
use crate::config::{format_rfc3339, parse_rfc3339};
use crate::error::{Error, Kind, Result};
use crate::message::Record;

/// The attributes of a record, each once.
pub(crate) fn attributes<'a>(record: &Record<'a>, origin: Origin<'a>) -> Result<Vec<(&'a str, Cow<'a, str>)>> {
    let mut all: Vec<(&str, Cow<'_, str>)> = vec![
        ("specversion", "1.0".into()),
        ("id", origin.id.into()),
        ("type", if record.type_.is_empty() { origin.topic } else { record.type_ }.into()),
        ("time", format_rfc3339(origin.time_us).into()),
    ];
    if let Some(Ok(key)) = record.key.map(std::str::from_utf8) {
        all.push(("partitionkey", key.into()));
    }
    for (name, value) in record.headers {
        let Some(attribute) = name.strip_prefix(ATTRIBUTE) else { continue };
        let is_name = (1..=20).contains(&attribute.len())
            && attribute.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
        let is_there = all.iter().any(|(there, _)| *there == attribute);
        if origin.again && (is_there || attribute.is_empty()) {
            continue;
        }
        if (!is_name && !origin.again) || is_there {
            let text = format!("header `{name}`: not an attribute that a CloudEvent takes from a header");
            return Err(Error::new(Kind::Header, text));
        }
        let value = std::str::from_utf8(value)
            .map_err(|_| Error::new(Kind::Header, format!("header `{name}`: an attribute of a CloudEvent is text")))?;
        all.push((attribute, value.into()));
    }
    if !all.iter().any(|(name, _)| *name == "source") {
        all.push(("source", origin.source.into()));
    }
    Ok(all)
}

/// Attributes of a message that came in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub id: Option<String>,
    pub type_: Option<String>,
    pub time_us: Option<i64>,
    pub key: Option<String>,
    /// The others, under the names of their headers.
    pub headers: Vec<(String, String)>,
}

impl Attributes {
    /// Takes one.
    pub fn take(&mut self, name: &str, value: &str) {
        let value = value.to_owned();
        match name {
            "specversion" => {}
            "id" => self.id = Some(value),
            "type" => self.type_ = Some(value),
            "time" => self.time_us = parse_rfc3339(&value),
            "partitionkey" => self.key = Some(value),
            _ => self.headers.push((format!("{ATTRIBUTE}{name}"), value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::HeaderBlock;

    fn origin() -> Origin<'static> {
        Origin { id: "1", time_us: 1_500_000, now_us: 0, topic: "order.created", source: "shop", again: false }
    }

    #[test]
    fn what_goes_out_comes_in() {
        let mut headers = HeaderBlock::default();
        headers.push("ce_subject", b"order 7");
        headers.push("other", b"x");
        let record = Record { key: Some(b"k"), headers: headers.headers(), ..Record::new(b"{}") };
        let all = attributes(&record, origin()).unwrap();
        let mut came = Attributes::default();
        all.iter().for_each(|(name, value)| came.take(name, value));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!((came.id, came.type_, came.key), (text("1"), text("order.created"), text("k")));
        assert_eq!(came.time_us, Some(1_500_000));
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(came.headers, [named("ce_subject", "order 7"), named("ce_source", "shop")]);
    }

    #[test]
    fn what_is_no_attribute_is_refused() {
        for (name, value) in [("ce_a-b", &b"x"[..]), ("ce_id", b"x"), ("ce_", b"x"), ("ce_subject", b"\xff")] {
            let mut headers = HeaderBlock::default();
            headers.push(name, value);
            let record = Record { headers: headers.headers(), ..Record::new(b"{}") };
            assert_eq!(attributes(&record, origin()).unwrap_err().kind(), Kind::Header, "{name}");
            let again = attributes(&record, Origin { again: true, ..origin() });
            assert!(again.is_ok() || name == "ce_subject", "{name}: as it came");
        }
    }
}
