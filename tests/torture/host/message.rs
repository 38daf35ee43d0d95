//! A message of a run: what is published, and how a consumer knows that it is whole.

use crate::history::Name;

/// The header that every message has, with its number.
pub const HEADER: &str = "torture-seq";

/// The payload: words, some bytes to make it longer, and a checksum over all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub run: String,
    pub name: Name,
    pub intact: bool,
}

impl Body {
    pub fn write(run: &str, name: &Name, padding: usize) -> Vec<u8> {
        let Name { topic, producer, key, seq } = name;
        let padding: String = (0..padding).map(|at| char::from(b'a' + ((at as u64 + seq) % 26) as u8)).collect();
        let text = format!("{run} {topic} {producer} {key} {seq} {padding}. ");
        let crc = crc32(text.as_bytes());
        format!("{text}{crc:08x}").into_bytes()
    }

    /// What was published, as far as it can be told.
    pub fn read(payload: &[u8]) -> Self {
        let text = String::from_utf8_lossy(payload);
        let (before, crc) = text.split_at(text.len().saturating_sub(8));
        let intact = u32::from_str_radix(crc, 16).is_ok_and(|crc| crc == crc32(before.as_bytes()));
        let words: Vec<&str> = before.split(' ').collect();
        let word = |at: usize| words.get(at).copied().unwrap_or("?").to_owned();
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
        let name = Name {
            topic: word(1),
            producer: number(2).map_or(u16::MAX, |number: u64| number as u16),
            key: word(3),
            seq: number(4).unwrap_or(u64::MAX),
        };
        Self { run: word(0), name, intact }
    }
}

/// The checksum of Ethernet and zip, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
