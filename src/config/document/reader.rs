//! JSON text to serde, in one pass, borrowing where it can.
//!
//! Accepts exactly RFC 8259 without a byte order mark. What it adds to other readers: an object is
//! never read from an array, no key may come twice in one object, and depth is bounded.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Error as _, Visitor};
use serde::{forward_to_deserialize_any, Deserialize, Deserializer};

use super::Fault;
use crate::limits::JSON_DEPTH_MAX;

type Read<T> = Result<T, Fault>;

/// The place in a text.
pub(super) struct Reader<'de> {
    text: &'de str,
    at: usize,
    depth: usize,
}

enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl<'de> Reader<'de> {
    pub(super) fn new(text: &'de str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Succeeds if nothing but white space is left.
    pub(super) fn end(&mut self) -> Read<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault("the document ends here, but text follows")),
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space; it stays.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    #[cold]
    fn fault(&self, text: &str) -> Fault {
        Fault::new(text).or_at(self.at)
    }

    #[cold]
    fn unexpected(&self, expected: &str) -> Fault {
        let hint = match self.byte() {
            None if self.text.trim_ascii().is_empty() => "the document is empty",
            None => "the document is cut off",
            Some(b'\'') => "text stands in double quotes, not in single ones",
            Some(b'/' | b'#') => "JSON has no comments",
            Some(_) if self.text.get(self.at..).is_some_and(|rest| rest.starts_with('\u{feff}')) => {
                "there is a byte order mark"
            }
            Some(b'}' | b']') => "a value is missing, or a comma is too many",
            Some(_) => "this is not JSON",
        };
        self.fault(&format!("expected {expected}: {hint}"))
    }

    fn enter(&mut self) -> Read<()> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(self.fault(&format!("nested deeper than {JSON_DEPTH_MAX} levels")));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    fn literal<T>(&mut self, word: &str, value: T) -> Read<T> {
        match self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            true => {
                self.at += word.len();
                Ok(value)
            }
            false => Err(self.unexpected("a value")),
        }
    }

    fn digits(&mut self) -> Read<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.unexpected("a digit"));
        }
        Ok(())
    }

    fn number(&mut self) -> Read<Number> {
        let start = self.at;
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        match self.byte() {
            Some(b'0') => {
                self.at += 1;
                if let Some(b'0'..=b'9') = self.byte() {
                    return Err(self.fault("a number has no leading zeros"));
                }
            }
            _ => self.digits()?,
        }
        let mut whole = true;
        if self.byte() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            whole = false;
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        if whole && negative {
            if let Ok(value) = digits.parse() {
                return Ok(Number::Signed(value));
            }
        } else if whole {
            if let Ok(value) = digits.parse() {
                return Ok(Number::Unsigned(value));
            }
        }
        match digits.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Number::Float(value)),
            _ => Err(Fault::new("out of range: the number is too large for any option").or_at(start)),
        }
    }

    /// A string; the reader stands at its opening quote.
    fn string(&mut self) -> Read<Cow<'de, str>> {
        self.at += 1;
        let start = self.at;
        self.plain_run();
        let run = self.text.get(start..self.at).unwrap_or_default();
        if self.byte() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(run));
        }
        let mut owned = run.to_owned();
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(owned));
                }
                Some(b'\\') => owned.push(self.escape()?),
                Some(_) => {
                    return Err(self.fault("a string holds a control character; write it as \\n, \\t or \\u00XX"))
                }
                None => return Err(self.fault("the document is cut off inside a string")),
            }
            let from = self.at;
            self.plain_run();
            owned.push_str(self.text.get(from..self.at).unwrap_or_default());
        }
    }

    /// Goes on to the next quote, backslash or control character.
    fn plain_run(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let run = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
        self.at += run.unwrap_or(rest.len());
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        self.at += 1;
        let plain = match self.byte() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape().ok_or_else(|| Fault::new("a bad \\u escape").or_at(start)),
            _ => return Err(Fault::new("an escape that JSON has not").or_at(start)),
        };
        self.at += 1;
        Ok(plain)
    }

    /// The reader stands at the `u`.
    fn unicode_escape(&mut self) -> Option<char> {
        let first = self.four_digits()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        if !self.text.get(self.at..)?.starts_with("\\u") {
            return None;
        }
        self.at += 1;
        let second = self.four_digits()?;
        let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + low)
    }

    fn four_digits(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at + 1..self.at + 5)?;
        self.at += 5;
        digits.bytes().try_fold(0, |value, byte| Some(value * 16 + char::from(byte).to_digit(16)?))
    }

    /// Goes behind a value of any shape, checking its syntax.
    fn skip(&mut self) -> Read<()> {
        match self.peek() {
            Some(open @ (b'{' | b'[')) => self.skip_entries(open == b'{'),
            Some(b'"') => self.string().map(|_| ()),
            Some(b't') => self.literal("true", ()),
            Some(b'f') => self.literal("false", ()),
            Some(b'n') => self.literal("null", ()),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn skip_entries(&mut self, object: bool) -> Read<()> {
        self.enter()?;
        let close = if object { b'}' } else { b']' };
        let mut first = true;
        while self.more(close, first)? {
            first = false;
            if object {
                self.key()?;
                self.colon()?;
            }
            self.skip()?;
        }
        self.leave();
        Ok(())
    }

    /// Whether another entry follows; goes behind the comma in front of it.
    fn more(&mut self, close: u8, first: bool) -> Read<bool> {
        match self.peek() {
            Some(byte) if byte == close => Ok(false),
            _ if first => Ok(true),
            Some(b',') => {
                self.at += 1;
                match self.peek() {
                    Some(byte) if byte == close => Err(self.unexpected("another entry")),
                    _ => Ok(true),
                }
            }
            _ => Err(self.unexpected(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" })),
        }
    }

    fn key(&mut self) -> Read<Cow<'de, str>> {
        match self.peek() {
            Some(b'"') => self.string(),
            _ => Err(self.unexpected("a key in double quotes")),
        }
    }

    fn colon(&mut self) -> Read<()> {
        match self.peek() {
            Some(b':') => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.unexpected("`:`")),
        }
    }

    fn map<V: Visitor<'de>>(&mut self, visitor: V) -> Read<V::Value> {
        self.enter()?;
        let value =
            visitor.visit_map(Entries { reader: self, keys: Keys::default(), last: Cow::Borrowed(""), first: true })?;
        if self.more(b'}', false)? {
            return Err(self.fault("too many keys"));
        }
        self.leave();
        Ok(value)
    }

    fn seq<V: Visitor<'de>>(&mut self, visitor: V) -> Read<V::Value> {
        self.enter()?;
        let value = visitor.visit_seq(Items { reader: self, index: 0 })?;
        if self.more(b']', false)? {
            return Err(self.fault("too many entries"));
        }
        self.leave();
        Ok(value)
    }
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let next = self.peek();
        let start = self.at;
        let value = match next {
            Some(b'{') => self.map(visitor),
            Some(b'[') => self.seq(visitor),
            Some(b'"') => match self.string()? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            Some(b't') => self.literal("true", ()).and_then(|()| visitor.visit_bool(true)),
            Some(b'f') => self.literal("false", ()).and_then(|()| visitor.visit_bool(false)),
            Some(b'n') => self.literal("null", ()).and_then(|()| visitor.visit_unit()),
            Some(b'-' | b'0'..=b'9') => match self.number()? {
                Number::Unsigned(value) => visitor.visit_u64(value),
                Number::Signed(value) => visitor.visit_i64(value),
                Number::Float(value) => visitor.visit_f64(value),
            },
            _ => Err(self.unexpected("a value")),
        };
        value.map_err(|fault| fault.or_at(start))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.peek() {
            Some(b'n') => self.literal("null", ()).and_then(|()| visitor.visit_none()),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Read<V::Value> {
        if name != Raw::NAME {
            return visitor.visit_newtype_struct(self);
        }
        self.peek();
        let start = self.at;
        self.skip()?;
        visitor.visit_borrowed_str(self.text.get(start..self.at).unwrap_or_default())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        match self.peek() {
            Some(b'{') => self.deserialize_any(visitor),
            // Any other value is an error, told by a visitor that takes nothing.
            _ => self.deserialize_any(AnObject).map(|never| match never {}),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map enum identifier
    }
}

enum Never {}

struct AnObject;

impl Visitor<'_> for AnObject {
    type Value = Never;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
}

/// The keys of one object so far.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// Comparing beats hashing up to about this many.
    const FEW: usize = 16;

    /// `false`: it was there.
    fn add(&mut self, key: Cow<'de, str>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() < Self::FEW {
            if self.few.is_empty() {
                self.few.reserve(Self::FEW / 2);
            }
            self.few.push(key);
            return true;
        }
        self.many.insert(key)
    }
}

struct Entries<'a, 'de> {
    reader: &'a mut Reader<'de>,
    keys: Keys<'de>,
    /// The key whose value is read, for the path of an error.
    last: Cow<'de, str>,
    first: bool,
}

impl<'de> de::MapAccess<'de> for Entries<'_, 'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        if !self.reader.more(b'}', self.first)? {
            return Ok(None);
        }
        self.first = false;
        self.reader.peek();
        let start = self.reader.at;
        let key = self.reader.key()?;
        if !self.keys.add(key.clone()) {
            return Err(Fault::custom("this key comes twice in its object").or_at(start).under_key(&key));
        }
        let value = seed.deserialize(Key(&key)).map_err(|fault| fault.or_at(start).under_key(&key))?;
        self.reader.colon()?;
        self.last = key;
        Ok(Some(value))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Read<V::Value> {
        seed.deserialize(&mut *self.reader).map_err(|fault| fault.under_key(&self.last))
    }
}

struct Items<'a, 'de> {
    reader: &'a mut Reader<'de>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_, 'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        if !self.reader.more(b']', self.index == 0)? {
            return Ok(None);
        }
        let index = self.index;
        self.index += 1;
        seed.deserialize(&mut *self.reader).map(Some).map_err(|fault| fault.under_index(index))
    }
}

/// A key, read as a text.
struct Key<'a, 'de>(&'a Cow<'de, str>);

impl<'de> Deserializer<'de> for Key<'_, 'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Cow::Borrowed(key) => visitor.visit_borrowed_str(key),
            Cow::Owned(key) => visitor.visit_str(key),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The text of a value, kept as it stands. Its syntax and depth are checked, its keys are not.
///
/// As a field with a default it can tell `null` from absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw<'a>(pub &'a str);

impl Raw<'_> {
    /// How [`Reader`] recognises it.
    const NAME: &'static str = "helixmq::Raw";

    /// Whether the document has no such value.
    pub fn is_absent(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = &'de str;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(text)
            }
        }

        deserializer.deserialize_newtype_struct(Self::NAME, Text).map(Raw)
    }
}
