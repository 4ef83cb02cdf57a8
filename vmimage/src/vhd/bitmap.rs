//! The sector bitmap of a block: which of its sectors this layer holds.

/// A block's bitmap as 64-bit words; bit 63 of word 0 is the first sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Box<[u64]>,
    sectors: u64,
    full: bool,
}

impl Bitmap {
    /// How many sectors one look at a bitmap spans at most; bounds the work of one query.
    const LOOK: u64 = 4096;

    /// The bitmap of a block of `sectors` sectors; the most significant bit of the first byte is
    /// the first sector. Missing bytes count as zero.
    pub fn parse(bytes: &[u8], sectors: u64) -> Self {
        let count = usize::try_from(sectors.div_ceil(64)).unwrap_or(0);
        let words: Box<[u64]> = (0..count)
            .map(|i| {
                let mut word = [0; 8];
                if let Some(rest) = bytes.get(i * 8..) {
                    let n = rest.len().min(8);
                    word[..n].copy_from_slice(&rest[..n]);
                }
                u64::from_be_bytes(word)
            })
            .collect();
        let mut bitmap = Self { words, sectors, full: false };
        bitmap.full = (0..sectors)
            .step_by(64)
            .all(|s| bitmap.word(s) & mask(sectors - s) == mask(sectors - s));
        bitmap
    }

    /// Whether every sector is held.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether `sector` of the block is held.
    pub fn get(&self, sector: u64) -> bool {
        sector < self.sectors && self.word(sector) >> (63 - sector % 64) & 1 == 1
    }

    /// The state of `sector`, and the end of the run of equal bits that it begins: at most the
    /// end of the block, and at most as far as one look goes.
    pub fn run(&self, sector: u64) -> (bool, u64) {
        if self.full {
            return (sector < self.sectors, self.sectors);
        }
        let held = self.get(sector);
        // Turn the run into ones, so that the first zero ends it.
        let flip = if held { 0 } else { u64::MAX };
        let stop = self.sectors.min(sector.saturating_add(Self::LOOK));
        let mut at = sector;
        while at < stop {
            let ones = ((self.word(at) ^ flip) << (at % 64)).leading_ones();
            let rest = 64 - at % 64;
            if u64::from(ones) < rest {
                at += u64::from(ones);
                break;
            }
            at += rest;
        }
        (held, at.min(stop))
    }

    fn word(&self, sector: u64) -> u64 {
        usize::try_from(sector / 64).ok().and_then(|i| self.words.get(i)).copied().unwrap_or(0)
    }
}

/// The first `n` bits of a word, as many as it has.
fn mask(n: u64) -> u64 {
    if n >= 64 { u64::MAX } else { !(u64::MAX >> n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixed_bytes_are_read_bit_by_bit() {
        // 0xC9 = 1100_1001: a reader that takes "byte >> (7 - i)" for a bit sees eight ones.
        let bitmap = Bitmap::parse(&[0xC9], 8);
        let bits: Vec<bool> = (0..8).map(|s| bitmap.get(s)).collect();
        assert_eq!(bits, [true, true, false, false, true, false, false, true]);
        assert_eq!(bitmap.run(0), (true, 2));
        assert_eq!(bitmap.run(2), (false, 4));
        assert_eq!(bitmap.run(4), (true, 5));
        assert_eq!(bitmap.run(5), (false, 7));
        assert_eq!(bitmap.run(7), (true, 8));
    }

    #[test]
    fn runs_agree_with_single_bits() {
        let mut bytes = vec![0_u8; 640];
        let mut seed = 1_u32;
        for (i, b) in bytes.iter_mut().enumerate() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *b = match i / 40 % 3 {
                0 => 0,
                1 => 0xff,
                _ => (seed >> 24) as u8,
            };
        }
        for sectors in [8, 63, 64, 65, 1024, 4096, 5120] {
            let bitmap = Bitmap::parse(&bytes, sectors);
            let mut at = 0;
            while at < sectors {
                let (held, end) = bitmap.run(at);
                assert!(end > at && end <= sectors);
                for s in at..end {
                    let byte = bytes[(s / 8) as usize];
                    assert_eq!(byte & (0x80 >> (s % 8)) != 0, held, "sector {s}");
                }
                if end < sectors && end - at < Bitmap::LOOK {
                    assert_ne!(bitmap.get(end), held, "the run at {at} ends too early");
                }
                at = end;
            }
        }
    }

    #[test]
    fn fullness_looks_at_the_sectors_of_the_block_only() {
        assert!(Bitmap::parse(&[0xff], 8).is_full());
        assert!(Bitmap::parse(&[0xf0], 4).is_full());
        assert!(!Bitmap::parse(&[0xf0], 5).is_full());
        assert!(!Bitmap::parse(&[], 8).is_full());
        assert!(!Bitmap::parse(&[0xff], 16).get(8));
        assert_eq!(Bitmap::parse(&[0xff; 8], 64).run(3), (true, 64));
    }
}
