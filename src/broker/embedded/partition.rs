//! A partition of an event topic, and the choice of it by key.

use super::lane::{Chain, Cursor};
use crate::message::Message;

/// A log kept for several readers; the front drops away by retention.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub chain: Chain,
    front: Cursor,
    /// Number of the front message, once it was asked for.
    front_seq: Option<u64>,
    /// Expired events are counted once, though every group meets them: those before this offset were.
    pub expired_until: u64,
}

impl Partition {
    /// Offset of the first event kept.
    pub fn first(&self) -> u64 {
        self.front.offset
    }

    /// Offset of the next event.
    pub fn next(&self) -> u64 {
        self.chain.next()
    }

    /// The place of the first event.
    pub fn front(&self) -> Cursor {
        self.front
    }

    /// The first event.
    pub fn first_message(&mut self) -> Option<Message> {
        self.chain.peek(&mut self.front)
    }

    /// Number of the first event.
    pub fn first_seq(&mut self) -> Option<u64> {
        if self.front_seq.is_none() {
            self.front_seq = self.first_message().map(|message| message.seq());
        }
        self.front_seq
    }

    /// Drops the first event and answers its size.
    pub fn drop_first(&mut self) -> Option<usize> {
        let size = self.chain.step(&mut self.front)?;
        self.front_seq = None;
        self.chain.trim(self.front.offset);
        Some(size)
    }

    /// Begins at `offset`; nothing was appended yet.
    pub fn begin_at(&mut self, offset: u64) {
        self.chain.begin_at(offset);
        self.front = self.chain.at(offset);
    }

    /// Numbers of all events.
    pub fn seqs(&self) -> Vec<u64> {
        let mut cursor = self.front;
        let mut messages = Vec::new();
        self.chain.read(&mut cursor, usize::MAX, &mut messages, |message| message.seq());
        messages
    }

    /// Drops all events and their memory.
    pub fn clear(&mut self) {
        self.chain.clear();
        self.front = self.chain.at(self.next());
        self.front_seq = None;
    }
}

/// The partition of `key` among `partitions`, as Kafka's default partitioner chooses it.
#[inline]
pub(super) fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// Murmur2 with Kafka's seed.
fn murmur2(bytes: &[u8]) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MIX);
        k = (k ^ (k >> 24)).wrapping_mul(MIX);
        hash = hash.wrapping_mul(MIX) ^ k;
    }
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MIX);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
            assert_eq!(partition_of(key.as_bytes(), 7), (hash & 0x7fff_ffff) as usize % 7);
        }
    }
}
