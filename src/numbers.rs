//! Maps keyed by numbers that are given out here, one after another: nobody outside chooses them, so
//! they need no hash that withstands malice, which costs more than the rest of a lookup.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map keyed by such numbers.
pub type NumberMap<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

/// Rows are as long as that; where one ends and the next begins a few may share a place.
const ROW_BITS: u32 = 28;
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
        // What came before counts, too, where a key has several numbers. 2^64 over the golden ratio.
        let spread = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let number = number ^ spread(self.0);
        // The place: of numbers in a row hardly any two have the same. The upper seven bits tell apart what shares one.
        let place = number ^ (number >> 7) ^ (number >> 14) ^ (spread(number >> ROW_BITS) >> 32);
        self.0 = (place & !MARK) | (spread(number) & MARK);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::hash::BuildHasher;

    use super::*;

    /// How many numbers share the fullest place of a table of 4,096.
    fn most(numbers: impl Iterator<Item = u64>) -> usize {
        let mut places: HashMap<u64, usize> = HashMap::new();
        let hasher = BuildHasherDefault::<NumberHasher>::default();
        numbers.for_each(|number| *places.entry(hasher.hash_one(number) & 0xfff).or_default() += 1);
        places.into_values().max().unwrap_or(0)
    }

    #[test]
    fn of_numbers_in_a_row_hardly_any_share_a_place() {
        for start in [0, 4_096, 4_096 * 12_345, 1 << 40, u64::MAX - 4_095] {
            assert_eq!(most((start..).take(4_095)), 1, "from {start}");
        }
        // A table is at most seven eighths full.
        for start in [1, 1_000, 4_095, (1 << 20) - 77, (1 << ROW_BITS) - 77, (1 << 40) - 77] {
            assert!(most((start..).take(3_584)) <= 2, "from {start}");
        }
    }

    #[test]
    fn numbers_a_power_of_two_apart_are_spread() {
        for shift in 0..44 {
            let fullest = most((0..2_048).map(|number| 5 + (number << shift)));
            assert!(fullest <= 16, "{fullest} in one place, 2^{shift} apart");
        }
    }
}
