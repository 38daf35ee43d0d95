//! Messages in order: a chain of segments, read by cursors.
//!
//! ```text
//! Chain   [piece 7: offsets 40..52][piece 8: 52..90][piece 9: 90..97, being written]
//! Cursor  offset 61 = piece 8, place 1224
//! Lane    a chain with one cursor; what is behind the cursor is let go at once
//! ```
//!
//! A message has no entry of its own: its place follows from the one before it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::core::Core;
use crate::message::{Message, Record, Stamp, Writer};

/// A chain of segments. Offsets count messages from 0 and are never reused.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pieces: VecDeque<Piece>,
    /// Number of the first piece in `pieces`.
    front: u64,
    next: u64,
}

#[derive(Debug)]
struct Piece {
    writer: Writer,
    base: u64,
    count: u32,
    /// The latest time stamp in it.
    newest_us: i64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }
}

/// A place in a [`Chain`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    /// The next message to read.
    pub offset: u64,
    piece: u64,
    place: u32,
}

impl Chain {
    /// Begins at `offset`; nothing was appended yet.
    pub fn begin_at(&mut self, offset: u64) {
        self.next = offset;
    }

    /// Offset of the next message to come.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Appends `record`; `false` when the system has no memory left.
    #[inline]
    pub fn append(&mut self, core: &Core, topic: &Arc<str>, record: &Record<'_>, stamp: Stamp) -> bool {
        let timestamp_us = if record.timestamp_us == 0 { stamp.now_us } else { record.timestamp_us };
        if let Some(last) = self.pieces.back_mut() {
            if last.writer.append(record, stamp).is_some() {
                last.count += 1;
                last.newest_us = last.newest_us.max(timestamp_us);
                self.next += 1;
                return true;
            }
        }
        self.append_to_new(core, topic, record, stamp, timestamp_us)
    }

    #[cold]
    fn append_to_new(
        &mut self,
        core: &Core,
        topic: &Arc<str>,
        record: &Record<'_>,
        stamp: Stamp,
        newest_us: i64,
    ) -> bool {
        let before = self.pieces.back().map_or(0, |last| last.writer.capacity());
        let capacity = core.segment_bytes(before, crate::message::segment::record_bytes(record));
        let Some(mut writer) = Writer::new(&core.pool, topic, core.id_prefix, capacity) else { return false };
        if writer.append(record, stamp).is_none() {
            return false;
        }
        self.pieces.push_back(Piece { writer, base: self.next, count: 1, newest_us });
        self.next += 1;
        true
    }

    /// Reads up to `max` messages from `cursor` on into `out`, each with a second hold of it, and
    /// moves the cursor; answers how many.
    #[inline]
    pub fn read_twice<T>(
        &self,
        cursor: &mut Cursor,
        max: usize,
        out: &mut Vec<T>,
        mut wrap: impl FnMut(Message, Message) -> T,
    ) -> usize {
        let mut left = max;
        while left > 0 {
            let Some(piece) = self.piece_of(cursor) else { break };
            let count = left.min((piece.end() - cursor.offset) as usize);
            cursor.place = piece.writer.messages_twice(cursor.place, count, out, &mut wrap);
            cursor.offset += count as u64;
            left -= count;
        }
        max - left
    }

    /// Reads up to `max` messages from `cursor` on into `out` and moves the cursor; answers how many.
    #[inline]
    pub fn read<T>(
        &self,
        cursor: &mut Cursor,
        max: usize,
        out: &mut Vec<T>,
        mut wrap: impl FnMut(Message) -> T,
    ) -> usize {
        let mut left = max;
        while left > 0 {
            let Some(piece) = self.piece_of(cursor) else { break };
            let count = left.min((piece.end() - cursor.offset) as usize);
            cursor.place = piece.writer.messages(cursor.place, count, out, &mut wrap);
            cursor.offset += count as u64;
            left -= count;
        }
        max - left
    }

    /// The message at `cursor`, if it is written.
    pub fn peek(&self, cursor: &mut Cursor) -> Option<Message> {
        let piece = self.piece_of(cursor)?;
        piece.writer.message(cursor.place)
    }

    /// Moves `cursor` behind the message it is at and answers that message's size.
    pub fn step(&self, cursor: &mut Cursor) -> Option<usize> {
        let piece = self.piece_of(cursor)?;
        let size = piece.writer.size_at(cursor.place)?;
        cursor.offset += 1;
        cursor.place += size;
        Some(size as usize)
    }

    /// The cursor at `offset`, or at the nearest one that is there.
    pub fn at(&self, offset: u64) -> Cursor {
        let index = self.pieces.partition_point(|piece| piece.base <= offset).saturating_sub(1);
        let Some(piece) = self.pieces.get(index) else {
            return Cursor { offset: self.next, piece: self.front, place: 0 };
        };
        let mut cursor = Cursor { offset: piece.base, piece: self.front + index as u64, place: 0 };
        while cursor.offset < offset.min(piece.end()) {
            let Some(size) = piece.writer.size_at(cursor.place) else { break };
            cursor.offset += 1;
            cursor.place += size;
        }
        cursor
    }

    /// Offset of the first message with a time stamp at or after `us`, from `from` on.
    pub fn at_time(&self, from: Cursor, us: i64) -> u64 {
        let mut cursor = from;
        while let Some(piece) = self.piece_of(&mut cursor) {
            if piece.newest_us < us {
                cursor = Cursor { offset: piece.end(), piece: cursor.piece + 1, place: 0 };
                continue;
            }
            match piece.writer.message(cursor.place) {
                Some(message) if message.timestamp_us() >= us => return cursor.offset,
                _ => drop(self.step(&mut cursor)),
            }
        }
        self.next
    }

    /// Lets go of every piece that has only messages before `offset`; the last one stays, as it
    /// is being written.
    #[inline]
    pub fn trim(&mut self, offset: u64) {
        while self.pieces.len() > 1 && self.pieces.front().is_some_and(|piece| piece.end() <= offset) {
            self.pieces.pop_front();
            self.front += 1;
        }
    }

    /// Lets go of all messages and of all memory.
    pub fn clear(&mut self) {
        self.front += self.pieces.len() as u64;
        self.pieces.clear();
    }

    /// The piece with the message that `cursor` is at; steps over the ends of pieces.
    #[inline]
    fn piece_of(&self, cursor: &mut Cursor) -> Option<&Piece> {
        if cursor.piece < self.front {
            *cursor = self.at(cursor.offset);
        }
        loop {
            let piece = self.pieces.get((cursor.piece - self.front) as usize)?;
            if cursor.offset < piece.end() {
                return Some(piece);
            }
            if cursor.piece - self.front + 1 >= self.pieces.len() as u64 {
                return None;
            }
            cursor.piece += 1;
            cursor.place = 0;
        }
    }
}

/// A chain that is read once.
#[derive(Debug, Default)]
pub(super) struct Lane {
    chain: Chain,
    cursor: Cursor,
    /// Some message that waits may have an expiry.
    pub expires: bool,
}

impl Lane {
    /// Messages waiting.
    #[inline]
    pub fn len(&self) -> usize {
        (self.chain.next - self.cursor.offset) as usize
    }

    /// Appends `record`; `false` when the system has no memory left.
    #[inline]
    pub fn append(&mut self, core: &Core, topic: &Arc<str>, record: &Record<'_>, stamp: Stamp) -> bool {
        self.expires |= record.ttl_ms > 0;
        self.chain.append(core, topic, record, stamp)
    }

    /// Takes up to `max` messages, each held twice: for who gets it, and for its lease; answers how
    /// many.
    #[inline]
    pub fn take<T>(&mut self, max: usize, out: &mut Vec<T>, wrap: impl FnMut(Message, Message) -> T) -> usize {
        let count = self.chain.read_twice(&mut self.cursor, max, out, wrap);
        self.chain.trim(self.cursor.offset);
        self.expires &= self.len() > 0;
        count
    }

    /// The first message, which stays.
    pub fn peek(&mut self) -> Option<Message> {
        self.chain.peek(&mut self.cursor)
    }

    /// Takes the first message.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.chain.peek(&mut self.cursor)?;
        self.chain.step(&mut self.cursor)?;
        self.chain.trim(self.cursor.offset);
        Some(message)
    }

    /// Drops all messages and lets go of the memory.
    pub fn clear(&mut self) {
        self.chain.clear();
        self.cursor = self.chain.at(self.chain.next);
        self.expires = false;
    }
}
