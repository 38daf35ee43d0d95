//! Where an event subscription starts: a word, an offset or a time.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::broker::Start;
use crate::config::forms::{Maybe, Num, Time};

pub(super) fn maybe_start<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Start>, D::Error> {
    struct Wrapped(Start);

    impl<'de> Deserialize<'de> for Wrapped {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            start(deserializer).map(Wrapped)
        }
    }

    let found: Option<Wrapped> = Option::deserialize(deserializer)?;
    Ok(found.map(|wrapped| wrapped.0))
}

pub(super) fn start<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Point {
        #[serde(with = "Maybe::<Num<i64, 0, { i64::MAX as u64 }>>")]
        offset: Option<i64>,
        #[serde(with = "Maybe::<Time>")]
        time: Option<i64>,
    }

    struct Place;

    impl<'de> Visitor<'de> for Place {
        type Value = Start;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(r#""earliest", "latest", {"offset": number} or {"time": time}"#)
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Start, E> {
            match word {
                "earliest" => Ok(Start::Earliest),
                "latest" => Ok(Start::Latest),
                _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
            }
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Start, A::Error> {
            match Point::deserialize(MapAccessDeserializer::new(map))? {
                Point { offset: Some(offset), time: None } => Ok(Start::Offset(offset)),
                Point { offset: None, time: Some(time) } => Ok(Start::Time(time)),
                _ => Err(de::Error::invalid_length(0, &"either `offset` or `time`")),
            }
        }
    }

    deserializer.deserialize_any(Place)
}

#[cfg(test)]
pub(super) fn start_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": ["string", "object"],
        "properties": {
            "offset": {"type": ["integer", "null"], "minimum": 0},
            "time": {"type": ["integer", "string", "null"], "minimum": 0}
        },
        "additionalProperties": false
    })
}

#[cfg(test)]
pub(super) fn start_schema_or_null(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = start_schema(generator);
    schema.insert("type".into(), serde_json::json!(["string", "object", "null"]));
    schema
}
