//! CRC-32, as in zlib: what each row carries, so that damage on the disk is found when it is read.

/// A checksum in the making.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crc(u32);

/// Eight tables, for eight bytes at a time: a byte at a time would cost more than SQLite does.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut word = index as u32;
        let mut bit = 0;
        while bit < 8 {
            word = if word & 1 == 1 { (word >> 1) ^ 0xedb8_8320 } else { word >> 1 };
            bit += 1;
        }
        tables[0][index] = word;
        index += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = (before >> 8) ^ tables[0][(before & 255) as usize];
            index += 1;
        }
        table += 1;
    }
    tables
}

impl Crc {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(u32::MAX)
    }

    /// And these bytes.
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut crc = self.0;
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word) ^ u64::from(crc);
            crc = 0;
            for (table, byte) in TABLES.iter().rev().zip(word.to_le_bytes()) {
                crc ^= table[byte as usize];
            }
        }
        for byte in tail {
            crc = (crc >> 8) ^ TABLES[0][((crc ^ u32::from(*byte)) & 255) as usize];
        }
        Self(crc)
    }

    /// And these numbers.
    pub fn numbers(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self, |crc, number| crc.bytes(&number.to_le_bytes()))
    }

    /// And this piece, whose length counts too.
    pub fn piece(self, piece: &[u8]) -> Self {
        self.numbers(&[piece.len() as i64]).bytes(piece)
    }

    /// The sum.
    pub fn sum(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_that_others_know() {
        assert_eq!(Crc::new().bytes(b"123456789").sum(), 0xcbf4_3926);
        let text = b"The quick brown fox jumps over the lazy dog";
        assert_eq!(Crc::new().bytes(text).sum(), 0x414f_a339);
        assert_eq!(Crc::new().bytes(&text[..11]).bytes(&text[11..]).sum(), 0x414f_a339);
    }
}
