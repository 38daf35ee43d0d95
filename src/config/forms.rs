//! How values stand in a document: numbers with a range, durations, words out of a list, texts.
//!
//! A [`Form`] says how one kind of value is read, written and described, all in one place; a field
//! names its form with `#[serde(with = "As::<…>")]`, or `Maybe::<…>` where it may be absent. So a
//! value outside its range never gets into a checked type.

#[cfg(test)]
mod schema;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[cfg(test)]
pub(crate) use schema::inline_schema;

use super::time::parse_rfc3339;

/// How one kind of value is read, written and described.
pub trait Form {
    /// What a checked type holds.
    type Value;

    /// Reads and checks one.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self::Value, D::Error>;

    /// Writes one.
    fn write<S: Serializer>(value: &Self::Value, serializer: S) -> Result<S::Ok, S::Error>;

    /// Its JSON schema.
    #[cfg(test)]
    fn schema() -> serde_json::Value;
}

/// A value that is there, or that has a default in its struct.
pub struct As<F>(PhantomData<F>);

impl<F: Form> As<F> {
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<F::Value, D::Error> {
        F::read(deserializer)
    }

    pub(crate) fn serialize<S: Serializer>(value: &F::Value, serializer: S) -> Result<S::Ok, S::Error> {
        F::write(value, serializer)
    }
}

/// A value that may be absent or null.
pub struct Maybe<F>(PhantomData<F>);

impl<F: Form> Maybe<F> {
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<F::Value>, D::Error> {
        let some: Option<Read<F>> = Option::deserialize(deserializer)?;
        Ok(some.map(|read| read.0))
    }

    pub(crate) fn serialize<S: Serializer>(value: &Option<F::Value>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => F::write(value, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// Any number of values.
pub struct Many<F>(PhantomData<F>);

impl<F: Form> Many<F> {
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<F::Value>, D::Error> {
        let all: Vec<Read<F>> = Vec::deserialize(deserializer)?;
        Ok(all.into_iter().map(|read| read.0).collect())
    }

    pub(crate) fn serialize<S: Serializer>(values: &[F::Value], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(Written::<F>))
    }
}

struct Read<F: Form>(F::Value);

impl<'de, F: Form> Deserialize<'de> for Read<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        F::read(deserializer).map(Read)
    }
}

struct Written<'a, F: Form>(&'a F::Value);

impl<F: Form> Serialize for Written<'_, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        F::write(self.0, serializer)
    }
}

/// A whole number from `MIN` to `MAX`, held as `T`.
pub struct Num<T, const MIN: u64, const MAX: u64>(PhantomData<T>);

impl<T, const MIN: u64, const MAX: u64> Form for Num<T, MIN, MAX>
where
    T: TryFrom<u64> + TryInto<u64> + Copy,
{
    type Value = T;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let value = deserializer.deserialize_any(Whole { min: MIN, max: MAX, unit: "" })?;
        T::try_from(value).map_err(|_| de::Error::custom("out of range for this platform"))
    }

    fn write<S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64((*value).try_into().unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A duration: whole milliseconds from `MIN` to `MAX`. Keys of this form end in `_ms`.
pub struct Ms<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Form for Ms<MIN, MAX> {
    type Value = Duration;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Whole { min: MIN, max: MAX, unit: " milliseconds" }).map(Duration::from_millis)
    }

    fn write<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A short duration: whole microseconds from `MIN` to `MAX`. Keys of this form end in `_us`.
pub struct Us<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> Form for Us<MIN, MAX> {
    type Value = Duration;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Whole { min: MIN, max: MAX, unit: " microseconds" }).map(Duration::from_micros)
    }

    fn write<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_micros()).unwrap_or(u64::MAX))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

struct Whole {
    min: u64,
    max: u64,
    unit: &'static str,
}

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}{}", self.min, self.max, self.unit)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        match (self.min..=self.max).contains(&value) {
            true => Ok(value),
            false => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        match u64::try_from(value) {
            Ok(value) => self.visit_u64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
        }
    }
}

/// A number from 1 to 100 by which a delay grows.
pub struct Factor;

impl Form for Factor {
    type Value = f64;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        struct Growth;

        impl Visitor<'_> for Growth {
            type Value = f64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1 to 100")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
                match (1.0..=100.0).contains(&value) {
                    true => Ok(value),
                    false => Err(E::invalid_value(de::Unexpected::Float(value), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
                self.visit_f64(value as f64)
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
                self.visit_f64(value as f64)
            }
        }

        deserializer.deserialize_any(Growth)
    }

    fn write<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*value)
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "number", "minimum": 1, "maximum": 100})
    }
}

/// A text of 1 to `MAX` bytes without control characters.
pub struct Text<const MAX: usize>;

impl<const MAX: usize> Form for Text<MAX> {
    type Value = String;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.len() > MAX {
            return Err(de::Error::custom(format!("out of range: expected a string of 1 to {MAX} bytes")));
        }
        match text.chars().position(char::is_control) {
            Some(index) => Err(de::Error::custom(format!("character {} is a control character", index + 1))),
            None => Ok(text),
        }
    }

    fn write<S: Serializer>(value: &String, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value)
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string", "minLength": 1, "maxLength": MAX})
    }
}

/// An enum whose values are words.
pub trait Words: Copy + PartialEq + 'static {
    /// All words with their values.
    const ALL: &'static [(&'static str, Self)];
    /// Whether `SASL_SSL` and `sasl_ssl` are the same word.
    const ANY_CASE: bool = false;

    /// The word of a value.
    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }

    /// The value of a word.
    fn from_word(text: &str) -> Option<Self> {
        let same = |word: &str| text == word || Self::ANY_CASE && text.eq_ignore_ascii_case(word);
        Self::ALL.iter().find(|(word, _)| same(word)).map(|(_, value)| *value)
    }

    /// All words, for people.
    fn list() -> String {
        let words: Vec<String> = Self::ALL.iter().map(|(word, _)| format!("{word:?}")).collect();
        words.join(", ")
    }
}

/// One word out of a list.
pub struct Word<T>(PhantomData<T>);

impl<T: Words> Form for Word<T> {
    type Value = T;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        struct OneOf<T>(PhantomData<T>);

        impl<T: Words> Visitor<'_> for OneOf<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one of {}", T::list())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_word(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(OneOf(PhantomData))
    }

    fn write<S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.word())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        let words: Vec<&str> = T::ALL.iter().map(|(word, _)| *word).collect();
        serde_json::json!({"type": "string", "enum": words})
    }
}

/// March 1973 in microseconds; milliseconds reach it in the year 5138.
const MICROS_MIN: u64 = 100_000_000_000_000;

/// A wall time: whole microseconds since 1970, or RFC 3339 text. Held as microseconds.
pub struct Time;

impl Form for Time {
    type Value = i64;

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        struct Wall;

        impl Visitor<'_> for Wall {
            type Value = i64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("microseconds since 1970, or a time such as \"2026-01-31T12:00:00Z\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
                if (1..MICROS_MIN).contains(&value) {
                    return Err(E::custom(
                        "times are microseconds since 1970; this looks like seconds or milliseconds",
                    ));
                }
                i64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
                match value {
                    0.. => self.visit_u64(value as u64),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
                parse_rfc3339(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Wall)
    }

    fn write<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(*value)
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": ["integer", "string"], "minimum": 0})
    }
}

/// A text that borrows from its document where it has no escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Borrowed<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Borrowed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;

        impl<'de> Visitor<'de> for AnyText {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text))
            }
        }

        deserializer.deserialize_any(AnyText).map(Borrowed)
    }
}

impl std::ops::Deref for Borrowed<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// Declares an enum whose values are words in documents.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $value:ident = $word:literal,)* } $($any_case:ident)?) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $value,)* }

        impl $crate::config::forms::Words for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, $name::$value),)*];
            $(const $any_case: bool = true;)?
        }
    };
}

pub(crate) use words;

impl Words for crate::message::TopicKind {
    const ALL: &'static [(&'static str, Self)] = &[("task", Self::Task), ("event", Self::Event)];
}

impl Words for crate::broker::BackendKind {
    const ALL: &'static [(&'static str, Self)] =
        &[("embedded", Self::Embedded), ("rabbitmq", Self::RabbitMq), ("kafka", Self::Kafka), ("custom", Self::Custom)];
}

/// The levels that a publish may require.
impl Words for crate::broker::Level {
    const ALL: &'static [(&'static str, Self)] =
        &[("memory", Self::Memory), ("disk", Self::Disk), ("broker", Self::Broker)];
}

impl Words for crate::broker::Ordered {
    const ALL: &'static [(&'static str, Self)] = &[("none", Self::No), ("key", Self::Key), ("strict", Self::Strict)];
}
