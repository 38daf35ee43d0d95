//! Messages: [`Record`] is one on its way in, borrowed from the caller; [`Message`] is one that
//! was taken, counted and unchanging.

pub mod segment;

use std::fmt;
use std::sync::Arc;

pub use segment::{release_all, Message, Pool, Stamp, Writer};

use crate::limits::PRIORITY_DEFAULT;

/// Task or event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicKind {
    /// Work to be done once by any one worker.
    Task,
    /// A fact in a log; every consumer group sees it.
    Event,
}

impl TopicKind {
    /// The word used in JSON, errors and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            TopicKind::Task => "task",
            TopicKind::Event => "event",
        }
    }
}

/// A message on its way in. Nothing is owned; whoever takes it copies what it keeps.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Any bytes.
    pub payload: &'a [u8],
    /// Keeps order among messages of the same key; `None` and empty differ.
    pub key: Option<&'a [u8]>,
    /// At most [`ID_BYTES_MAX`](crate::limits::ID_BYTES_MAX) bytes; empty: one is made.
    pub id: &'a str,
    /// At most [`TYPE_BYTES_MAX`](crate::limits::TYPE_BYTES_MAX) bytes.
    pub type_: &'a str,
    /// Names and values.
    pub headers: Headers<'a>,
    /// Microseconds since 1970; 0: now.
    pub timestamp_us: i64,
    /// Not delivered before this has passed; 0: at once.
    pub delay_ms: i64,
    /// Not delivered after this has passed; 0: never expires.
    pub ttl_ms: i64,
    /// Tasks: `0..=10`, higher first.
    pub priority: u8,
    /// Attempts made before, for a message that is published again.
    pub attempts: u16,
    /// It may be a second copy of a message whose outcome was unknown.
    pub maybe_dup: bool,
}

impl<'a> Record<'a> {
    /// A record with `payload` and nothing else.
    pub const fn new(payload: &'a [u8]) -> Self {
        Self {
            payload,
            key: None,
            id: "",
            type_: "",
            headers: Headers::EMPTY,
            timestamp_us: 0,
            delay_ms: 0,
            ttl_ms: 0,
            priority: PRIORITY_DEFAULT,
            attempts: 0,
            maybe_dup: false,
        }
    }

    /// A record that publishes `message` again. `id` is [`Message::id`] of it, kept by the caller.
    pub fn again(message: &'a Message, id: &'a str) -> Self {
        Self {
            payload: message.payload(),
            key: message.key(),
            id,
            type_: message.type_(),
            headers: message.headers(),
            timestamp_us: message.timestamp_us(),
            priority: message.priority(),
            attempts: message.attempts(),
            maybe_dup: message.maybe_dup(),
            ..Self::new(&[])
        }
    }
}

impl Message {
    /// The id: what the publisher gave, else 32 hexadecimal digits that no other message has.
    pub fn id(&self) -> MessageId {
        match self.given_id() {
            Some(given) => MessageId::given(given),
            None => MessageId::made(self.id_prefix(), self.seq()),
        }
    }

    /// The same in a segment of its own. `None` when the system has no memory left.
    pub fn apart(&self, pool: &Arc<Pool>) -> Option<Self> {
        let ttl_ms = self.expires_us().map_or(0, |at| at / 1_000);
        let record = Record { ttl_ms, ..Record::again(self, self.given_id().unwrap_or_default()) };
        Self::alone(pool, self.topic(), self.id_prefix(), &record, Stamp { seq: self.seq(), now_us: 0 })
    }
}

/// A message id as text, without allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MessageId {
    text: [u8; crate::limits::ID_BYTES_MAX],
    len: u8,
}

impl MessageId {
    /// The id that a publisher gave; what is beyond the limit is cut off (it was refused before).
    pub fn given(id: &str) -> Self {
        let mut text = [0; crate::limits::ID_BYTES_MAX];
        let len = id.len().min(text.len());
        text[..len].copy_from_slice(&id.as_bytes()[..len]);
        Self { text, len: len as u8 }
    }

    /// The id of message `seq` of the hub with `prefix`.
    pub fn made(prefix: u64, seq: u64) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; crate::limits::ID_BYTES_MAX];
        for (index, place) in text[..32].iter_mut().enumerate() {
            let word = if index < 16 { prefix } else { seq };
            *place = DIGITS[(word >> (60 - (index % 16) * 4)) as usize & 15];
        }
        Self { text, len: 32 }
    }

    /// The number in an id that was made with `prefix`; `None` for any other text.
    pub fn number(text: &str, prefix: u64) -> Option<u64> {
        let (before, number) = text.split_at_checked(16)?;
        let hex = |digits: &str| (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?;
        let number = hex(number).filter(|_| hex(before) == Some(prefix))?;
        (Self::made(prefix, number).as_str() == text).then_some(number)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len as usize]).unwrap_or_default()
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id();
        f.debug_struct("Message")
            .field("topic", self.topic())
            .field("id", &id)
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}

/// Headers in one block of bytes: `u16` name length, `u32` value length, name, value; again.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// No headers.
    pub const EMPTY: Headers<'static> = Headers(&[]);

    /// Reads a block that [`HeaderBlock`] wrote.
    pub const fn from_bytes(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The block.
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The value of the first header called `name`.
    pub fn find(self, name: &str) -> Option<&'a [u8]> {
        self.into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        HeadersIter(self.0)
    }
}

/// Iterates over [`Headers`] in the order they were given.
#[derive(Debug, Clone)]
pub struct HeadersIter<'a>(&'a [u8]);

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_at_checked(6)?;
        let name_len = u16::from_le_bytes([head[0], head[1]]) as usize;
        let value_len = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let (name, rest) = rest.split_at_checked(name_len)?;
        let (value, rest) = rest.split_at_checked(value_len)?;
        self.0 = rest;
        Some((std::str::from_utf8(name).ok()?, value))
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(value)))).finish()
    }
}

/// A block of headers being written; reused, it allocates nothing.
#[derive(Debug, Default, Clone)]
pub struct HeaderBlock(Vec<u8>);

impl HeaderBlock {
    /// Empties the block, keeping its memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds a header. Lengths were checked by the caller against `limits`.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.0.extend_from_slice(&(name.len() as u16).to_le_bytes());
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(value);
    }

    /// Adds all of `headers` but those called by a name in `but`.
    pub fn extend(&mut self, headers: Headers<'_>, but: &[&str]) {
        for (name, value) in headers {
            if !but.contains(&name) {
                self.push(name, value);
            }
        }
    }

    /// What was written.
    pub fn headers(&self) -> Headers<'_> {
        Headers(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn write(record: &Record<'_>, stamp: Stamp) -> Message {
        let pool = Pool::new(1024, 1);
        Message::alone(&pool, &Arc::from("t"), 7, record, stamp).unwrap()
    }

    #[test]
    fn the_number_of_an_id_is_told_only_of_those_made_here() {
        let id = MessageId::made(7, 99);
        assert_eq!(MessageId::number(id.as_str(), 7), Some(99));
        let other = MessageId::made(8, 99);
        let upper = id.as_str().to_uppercase().replace("63", "6A");
        for text in [
            other.as_str(),
            "",
            "99",
            &id.as_str()[1..],
            &format!("{}0", id.as_str()),
            &upper,
            "+000000000000007+000000000000063",
        ] {
            assert_eq!(MessageId::number(text, 7), None, "{text}");
        }
    }

    #[test]
    fn every_field_comes_back() {
        let mut block = HeaderBlock::default();
        block.push("a", b"1");
        block.push("b", &[0, 255]);
        let record = Record {
            key: Some(b"k"),
            id: "own-id",
            type_: "user.created",
            headers: block.headers(),
            timestamp_us: 5,
            ttl_ms: 3,
            priority: 9,
            attempts: 2,
            maybe_dup: true,
            ..Record::new(b"payload")
        };
        let message = write(&record, Stamp { seq: 11, now_us: 1_000 });
        assert_eq!(message.payload(), b"payload");
        assert_eq!(message.key(), Some(&b"k"[..]));
        assert_eq!(message.id().as_str(), "own-id");
        assert_eq!(message.type_(), "user.created");
        assert_eq!(message.headers().find("b"), Some(&[0, 255][..]));
        assert_eq!(message.headers().into_iter().count(), 2);
        assert_eq!((message.timestamp_us(), message.seq(), message.priority()), (5, 11, 9));
        assert_eq!(message.expires_us(), Some(4_000));
        assert_eq!((message.attempts(), message.maybe_dup(), &**message.topic()), (2, true, "t"));
    }

    #[test]
    fn a_copy_of_its_own_is_the_same() {
        let pool = Pool::new(1024, 1);
        let mut block = HeaderBlock::default();
        block.push("a", b"1");
        let bare =
            Record { key: Some(b"k"), type_: "t", headers: block.headers(), ttl_ms: 3, ..Record::new(b"payload") };
        for record in [bare, Record { id: "own-id", timestamp_us: 5, attempts: 2, maybe_dup: true, ..bare }] {
            let mut writer = Writer::new(&pool, &Arc::from("t"), 7, 1024).unwrap();
            writer.append(&Record::new(b"before"), Stamp { seq: 10, now_us: 1_000 }).unwrap();
            let place = writer.append(&record, Stamp { seq: 11, now_us: 1_000 }).unwrap();
            let shared = writer.message(place).unwrap();
            let own = shared.apart(&pool).unwrap();
            drop(writer);
            let fields = |message: &Message| {
                let id = message.id();
                let again = Record::again(message, id.as_str());
                (format!("{again:?}"), message.seq(), message.expires_us(), message.size(), Arc::clone(message.topic()))
            };
            assert_eq!(fields(&own), fields(&shared));
            drop(shared);
            assert_eq!(pool.bytes(), own.size(), "what it shared memory with is gone");
        }
    }

    #[test]
    fn a_bare_record_takes_thirty_two_bytes_beside_its_payload() {
        let message = write(&Record::new(&[1; 104]), Stamp { seq: 1, now_us: 9 });
        assert_eq!(message.size(), 136);
        assert_eq!((message.key(), message.timestamp_us(), message.expires_us()), (None, 9, None));
        assert_eq!(message.id().as_str(), "00000000000000070000000000000001");
    }

    #[test]
    fn segments_are_reused_and_counted() {
        let pool = Pool::new(512, 1);
        let topic: Arc<str> = Arc::from("t");
        let mut writer = Writer::new(&pool, &topic, 1, 512).unwrap();
        let mut places = Vec::new();
        while let Some(place) = writer.append(&Record::new(b"12345678"), Stamp { seq: 0, now_us: 0 }) {
            places.push(place);
        }
        assert_eq!(places.len(), 512 / 40);
        let mut messages = Vec::new();
        assert_eq!(writer.messages(0, places.len(), &mut messages, |message| message) as usize, writer.len());
        let mut copies = messages.clone();
        drop(writer);
        release_all(&mut messages);
        assert_eq!((pool.bytes(), copies[3].payload()), (512, &b"12345678"[..]));
        release_all(&mut copies);
        assert_eq!(pool.bytes(), 0);
    }
}
