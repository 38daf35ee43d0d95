//! What is on disk, row by row, and the sum that each row carries.

use std::time::Duration;

use super::crc::Crc;
use crate::broker::{BackendKind, TopicSpec};
use crate::message::{Headers, MessageId, Record, Stamp, TopicKind};

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub head: Head,
    /// Key, id, type, headers, payload, one behind the other.
    pieces: Box<[u8]>,
    ends: [u32; 4],
}

/// The numbers of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub seq: u64,
    /// Id of its topic.
    pub topic: u64,
    pub part: u32,
    /// Events: the offset. Tasks: -1.
    pub place: i64,
    /// Prefix of the ids of the process that took it.
    pub prefix: u64,
    pub at_us: i64,
    /// 0: never.
    pub expires_us: i64,
    /// 0: at once.
    pub due_us: i64,
    pub priority: u8,
    pub attempts: u16,
    pub has_key: bool,
    pub maybe_dup: bool,
}

/// The texts and bytes of a message, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pieces<'a> {
    pub key: &'a [u8],
    pub id: &'a [u8],
    pub type_: &'a [u8],
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}

impl Row {
    /// `record` as it is kept; `ttl_ms` is that of its topic.
    pub fn of(record: &Record<'_>, topic: u64, prefix: u64, ttl_ms: i64, now_us: i64) -> Self {
        let ttl_ms = if record.ttl_ms > 0 { record.ttl_ms } else { ttl_ms };
        let after = |span_ms: i64| if span_ms > 0 { now_us.saturating_add(span_ms.saturating_mul(1_000)) } else { 0 };
        let head = Head {
            seq: 0,
            topic,
            part: 0,
            place: -1,
            prefix,
            at_us: if record.timestamp_us == 0 { now_us } else { record.timestamp_us },
            expires_us: after(ttl_ms),
            due_us: after(record.delay_ms),
            priority: record.priority,
            attempts: record.attempts,
            has_key: record.key.is_some(),
            maybe_dup: record.maybe_dup,
        };
        let pieces = Pieces {
            key: record.key.unwrap_or_default(),
            id: record.id.as_bytes(),
            type_: record.type_.as_bytes(),
            headers: record.headers.bytes(),
            payload: record.payload,
        };
        Self::new(head, pieces)
    }

    /// A row of its parts.
    pub fn new(head: Head, pieces: Pieces<'_>) -> Self {
        let all = [pieces.key, pieces.id, pieces.type_, pieces.headers];
        let mut ends = [0; 4];
        let mut at = 0;
        for (end, piece) in ends.iter_mut().zip(all) {
            at += piece.len() as u32;
            *end = at;
        }
        let mut bytes = Vec::with_capacity(at as usize + pieces.payload.len());
        all.into_iter().for_each(|piece| bytes.extend_from_slice(piece));
        bytes.extend_from_slice(pieces.payload);
        Self { head, pieces: bytes.into_boxed_slice(), ends }
    }

    /// Its texts and bytes.
    pub fn pieces(&self) -> Pieces<'_> {
        let [key, id, type_, headers] = self.ends.map(|end| end as usize);
        let piece = |from: usize, to: usize| self.pieces.get(from..to).unwrap_or_default();
        Pieces {
            key: piece(0, key),
            id: piece(key, id),
            type_: piece(id, type_),
            headers: piece(type_, headers),
            payload: piece(headers, self.pieces.len()),
        }
    }

    /// Bytes that it takes while it waits to be written.
    pub fn size(&self) -> usize {
        self.pieces.len() + size_of::<Self>()
    }

    /// Its sum.
    pub fn crc(&self) -> u32 {
        let Head { seq, topic, part, place, prefix, at_us, expires_us, due_us, .. } = self.head;
        let Head { priority, attempts, has_key, maybe_dup, .. } = self.head;
        let marks = [i64::from(priority), i64::from(attempts), i64::from(has_key), i64::from(maybe_dup)];
        let numbers = [seq as i64, topic as i64, i64::from(part), place, prefix as i64, at_us, expires_us, due_us];
        let Pieces { key, id, type_, headers, payload } = self.pieces();
        let crc = Crc::new().numbers(&numbers).numbers(&marks);
        crc.piece(key).piece(id).piece(type_).piece(headers).piece(payload).sum()
    }

    /// The id it was given, or that it was made with by the process that took it: the ids of
    /// messages never change.
    pub fn full_id(&self) -> MessageId {
        match std::str::from_utf8(self.pieces().id) {
            Ok("") | Err(_) => MessageId::made(self.head.prefix, self.head.seq),
            Ok(given) => MessageId::given(given),
        }
    }

    /// The record that a broker takes, at `wall_us`. `id` is what it has to be called by.
    pub fn record<'a>(&'a self, id: &'a str, wall_us: i64) -> (Record<'a>, Stamp) {
        let pieces = self.pieces();
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).unwrap_or_default();
        let expires = self.head.expires_us != 0;
        let record = Record {
            payload: pieces.payload,
            key: self.head.has_key.then_some(pieces.key),
            id,
            type_: text(pieces.type_),
            headers: Headers::from_bytes(pieces.headers),
            timestamp_us: self.head.at_us,
            delay_ms: delay_ms(self.head.due_us, wall_us),
            ttl_ms: i64::from(expires),
            priority: self.head.priority,
            attempts: self.head.attempts,
            maybe_dup: self.head.maybe_dup,
        };
        // The expiry is the TTL of one millisecond, counted from just before it.
        let now_us = if expires { self.head.expires_us.saturating_sub(1_000) } else { self.head.at_us };
        (record, Stamp { seq: self.head.seq, now_us })
    }

    /// The id that the publisher gave; empty: none.
    pub fn given_id(&self) -> &str {
        std::str::from_utf8(self.pieces().id).unwrap_or_default()
    }
}

/// Time from `wall_us` to `due_us`, as a delay.
pub(super) fn delay_ms(due_us: i64, wall_us: i64) -> i64 {
    due_us.saturating_sub(wall_us).saturating_add(999).max(0) / 1_000
}

/// A task that was handed over in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker::embedded) struct Mark {
    pub seq: u64,
    /// Attempts that ended.
    pub tries: u32,
    /// It was handed over.
    pub handed: bool,
    /// When it is due, wall time; 0: at once.
    pub due_us: i64,
}

impl Mark {
    pub fn crc(&self) -> u32 {
        let numbers = [self.seq as i64, i64::from(self.tries), i64::from(self.handed), self.due_us];
        Crc::new().numbers(&numbers).sum()
    }
}

/// A topic, with what was asked for when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::broker::embedded) struct TopicRow {
    pub id: u64,
    pub name: String,
    pub kind: TopicKind,
    /// The server whose spool it is; `None`: a topic of the embedded broker.
    pub server: Option<BackendKind>,
    /// As they are: what the configuration gives may change, but events stay in their partitions.
    pub partitions: u32,
    pub asked: TopicSpec,
}

impl TopicRow {
    /// The settings as numbers; what was not asked for is -1.
    pub fn numbers(&self) -> [i64; 8] {
        let number = |value: Option<u64>| value.map_or(-1, |value| i64::try_from(value).unwrap_or(i64::MAX));
        let millis = |time: Option<Duration>| number(time.map(|time| time.as_millis() as u64));
        [
            self.id as i64,
            i64::from(self.kind == TopicKind::Event) + 2 * server_number(self.server),
            i64::from(self.partitions),
            number(self.asked.messages_max),
            number(self.asked.bytes_max),
            self.asked.drop_oldest.map_or(-1, i64::from),
            millis(self.asked.age_max),
            millis(self.asked.ttl),
        ]
    }

    /// The topic of [`TopicRow::numbers`].
    pub fn from_numbers(name: String, numbers: [i64; 8]) -> Self {
        let number = |value: i64| u64::try_from(value).ok();
        let [id, kind, partitions, messages_max, bytes_max, drop_oldest, age_max, ttl] = numbers;
        let asked = TopicSpec {
            partitions: None,
            messages_max: number(messages_max),
            bytes_max: number(bytes_max),
            drop_oldest: number(drop_oldest).map(|drops| drops != 0),
            age_max: number(age_max).map(Duration::from_millis),
            ttl: number(ttl).map(Duration::from_millis),
        };
        let (server, kind) = (server_of(kind / 2), if kind % 2 == 0 { TopicKind::Task } else { TopicKind::Event });
        Self { id: id as u64, name, kind, server, partitions: u32::try_from(partitions).unwrap_or(1), asked }
    }

    pub fn crc(&self) -> u32 {
        Crc::new().numbers(&self.numbers()).piece(self.name.as_bytes()).sum()
    }
}

fn server_number(server: Option<BackendKind>) -> i64 {
    match server {
        None | Some(BackendKind::Embedded | BackendKind::Custom) => 0,
        Some(BackendKind::RabbitMq) => 1,
        Some(BackendKind::Kafka) => 2,
    }
}

fn server_of(number: i64) -> Option<BackendKind> {
    match number {
        1 => Some(BackendKind::RabbitMq),
        2 => Some(BackendKind::Kafka),
        _ => None,
    }
}

/// How far a group has come in a partition, or (without a group) the next offset of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Spot {
    pub topic: u64,
    pub part: u32,
    pub group: Option<String>,
}

impl Spot {
    /// Not a place: how many events are known to be missing. No topic has this number.
    pub const MISSING: Spot = Spot { topic: 0, part: 0, group: None };
}

/// The sum of a [`Spot`] with its offset.
pub(super) fn spot_crc(spot: &Spot, offset: u64) -> u32 {
    let numbers = [spot.topic as i64, i64::from(spot.part), offset as i64, i64::from(spot.group.is_some())];
    Crc::new().numbers(&numbers).piece(spot.group.as_deref().unwrap_or_default().as_bytes()).sum()
}
