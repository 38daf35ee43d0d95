//! Maps keyed by numbers that are given out here, one after another: nobody outside chooses them, so
//! they need no hash that withstands malice, which costs more than the rest of a lookup.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map keyed by such numbers.
pub type NumberMap<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

const MARK: u64 = 0x7f << 57;

/// Leaves neighbouring numbers beside each other, so that what comes and goes in order is found where the one before
/// it was; numbers that are a power of two apart are spread.
#[derive(Debug, Default, Clone, Copy)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // The place: of numbers in a row no two have the same. The upper seven bits tell apart what shares one.
        let place = number ^ (number >> 7) ^ (number >> 14) ^ (number >> 28);
        let mark = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = (place & !MARK) | (mark & MARK);
    }
}
