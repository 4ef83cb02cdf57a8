//! The arithmetic of a gzip file that only stores, shared by the plan and the compressor.

use super::unit::UNIT;

/// Header, an empty last block, checksum and length.
pub(crate) const OVERHEAD: u64 = 10 + 2 + 8;
/// The most that one stored deflate block holds, and what it costs.
pub(crate) const STORED_MAX: usize = 65535;
const STORED_OVERHEAD: u64 = 5;

/// How long `len` bytes become when the blocks of each unit are stored.
pub(crate) fn stored_len(len: u64) -> u64 {
    let unit = UNIT as u64;
    let blocks = |n: u64| n.div_ceil(STORED_MAX as u64);
    OVERHEAD + len + (len / unit * blocks(unit) + blocks(len % unit)) * STORED_OVERHEAD
}
