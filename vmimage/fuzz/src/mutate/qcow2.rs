//! Header, L1, L2 and refcounts of a QCOW2 image. There are no checksums.

use super::{Rng, be, interesting, put};

/// Place and length of the header's fields.
const HEADER: [(usize, usize); 19] = [
    (4, 4),
    (8, 8),
    (16, 4),
    (20, 4),
    (24, 8),
    (32, 4),
    (36, 4),
    (40, 8),
    (48, 8),
    (56, 4),
    (60, 4),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 4),
    (100, 4),
    (104, 1),
    (112, 4),
];
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

pub(super) fn is_qcow2(bytes: &[u8]) -> bool {
    bytes.starts_with(b"QFI\xfb") && bytes.len() >= 104
}

pub(super) fn change(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        let bits = be(bytes, 20, 4).unwrap_or(0).clamp(9, 21);
        match rng.below(8) {
            0 => {
                let (at, len) = rng.pick(&HEADER);
                let own = be(bytes, at, len).unwrap_or(0);
                let value = match rng.below(3) {
                    0 => cluster(rng, bytes, bits),
                    _ => interesting(rng, own, bytes.len() as u64),
                };
                put(bytes, at, value, len);
            }
            1 => {
                // A table of the length that the file says, or the entries behind it.
                let at = entry(rng, bytes, 48, 1 << bits.min(12));
                let value = value(rng, bytes, at, bits);
                put(bytes, at, value, 8);
            }
            2 => {
                // A refcount block, which the first entry of the table most often names.
                let table = be(bytes, 48, 8).unwrap_or(0) as usize;
                let block = (be(bytes, table, 8).unwrap_or(0) & OFFSET) as usize;
                let at = block.saturating_add(rng.below(64));
                let value = rng.next();
                put(bytes, at, value, 1);
            }
            3 => {
                let at = entry(rng, bytes, 40, 8 * be(bytes, 36, 4).unwrap_or(0).min(4096));
                let value = value(rng, bytes, at, bits);
                put(bytes, at, value, 8);
            }
            4 => cut_or_grow(rng, bytes, bits),
            _ => {
                let l1 = entry(rng, bytes, 40, 8 * be(bytes, 36, 4).unwrap_or(0).min(4096));
                let l2 = (be(bytes, l1, 8).unwrap_or(0) & OFFSET) as usize;
                let at = l2.saturating_add(8 * rng.below((1 << bits) / 8));
                let value = value(rng, bytes, at, bits);
                put(bytes, at, value, 8);
            }
        }
    }
}

/// The place of an entry of the table whose place stands at `field` of the header.
fn entry(rng: &mut Rng, bytes: &[u8], field: usize, len: u64) -> usize {
    let table = be(bytes, field, 8).unwrap_or(0) as usize;
    table.saturating_add(8 * rng.below(len as usize / 8))
}

/// The start of some cluster, the one behind the last included.
fn cluster(rng: &mut Rng, bytes: &[u8], bits: u64) -> u64 {
    (rng.below((bytes.len() >> bits) + 2) as u64) << bits
}

/// What an entry could hold: a cluster with any flags, a compressed one, a table of the image.
fn value(rng: &mut Rng, bytes: &[u8], at: usize, bits: u64) -> u64 {
    let own = be(bytes, at, 8).unwrap_or(0);
    match rng.below(8) {
        0 => 0,
        1 => 1,
        2 => cluster(rng, bytes, bits) | 1 << 63,
        3 => cluster(rng, bytes, bits) | rng.next() & 0x8000_0000_0000_0001,
        4 => {
            // Compressed: sectors above, the place below; both may lie behind the end.
            let place = rng.below(bytes.len() + 512) as u64;
            let shift = 62_u64.saturating_sub(bits - 8);
            1 << 62 | (rng.below(1 << (bits - 8)) as u64) << shift | place
        }
        // The table itself, the L1 table.
        5 => at as u64 >> bits << bits | 1 << 63,
        6 => be(bytes, 40, 8).unwrap_or(0) | 1 << 63,
        _ => interesting(rng, own, bytes.len() as u64),
    }
}

fn cut_or_grow(rng: &mut Rng, bytes: &mut Vec<u8>, bits: u64) {
    if rng.one_in(2) {
        let end = bytes.len().saturating_sub(1 + rng.below(1 << bits));
        bytes.truncate(end.max(104));
    } else if bits <= 12 {
        bytes.resize(bytes.len() + (1 << bits), 0);
    }
}
