//! The arithmetic of stored gzip members, shared by the plan and the compressor.

use super::unit::UNIT;

/// Header and trailer of a gzip member.
pub(crate) const MEMBER_OVERHEAD: u64 = 10 + 8;
/// The most that one stored deflate block holds, and what it costs.
pub(crate) const STORED_MAX: usize = 65535;
const STORED_OVERHEAD: u64 = 5;

/// How long `len` bytes become when each unit is one member of stored blocks.
pub(crate) fn stored_len(len: u64) -> u64 {
    let unit = UNIT as u64;
    let whole = len / unit;
    let rest = len % unit;
    let member = |n: u64| MEMBER_OVERHEAD + n + n.div_ceil(STORED_MAX as u64) * STORED_OVERHEAD;
    whole * member(unit) + if rest > 0 { member(rest) } else { 0 }
}
