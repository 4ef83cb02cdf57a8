//! What RFC 1951 fixes: the symbols of lengths and distances.

/// How far back a match may reach.
pub(super) const WINDOW: u16 = 32 * 1024;
/// The shortest match that has a symbol; lengths are kept less this, which makes them a byte.
pub(super) const LENGTH_MIN: usize = 3;
pub(super) const LENGTH_MAX: usize = 258;

/// The symbol that ends a block. Literals lie below it, lengths above.
pub(super) const END: usize = 256;
pub(super) const LENGTHS: usize = END + 1;
/// 286 symbols for literals, the end and lengths, and two that only the fixed code knows.
pub(super) const LITLENS: usize = 288;
/// 30 symbols for distances, and again two without a meaning.
pub(super) const SLOTS: usize = 32;

/// The first length (less 3) of each length symbol.
const LENGTH_BASE: [u8; 29] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128,
    160, 192, 224, 255,
];

/// The length symbols, less [`LENGTHS`]: lengths (less 3) from and up to, and how many extra bits
/// say which of them it is.
pub(super) fn length_symbols() -> impl Iterator<Item = (usize, usize, u32)> {
    LENGTH_BASE.iter().enumerate().map(|(symbol, &from)| {
        let to = LENGTH_BASE.get(symbol + 1).map_or(256, |&next| usize::from(next));
        // 258 has a symbol of its own; 227 and the 30 after it share the one before.
        let extra = (to - usize::from(from)).next_power_of_two().ilog2();
        (usize::from(from), to, extra)
    })
}

/// The symbol of a distance, from the distance less one: two symbols per power of two.
#[inline(always)]
pub(super) fn slot(distance: u16) -> u8 {
    if distance < 2 {
        return distance as u8;
    }
    let log = distance.ilog2();
    (2 * log + (u32::from(distance) >> (log - 1) & 1)) as u8
}

/// How many extra bits follow the symbol of a distance.
#[inline(always)]
pub(super) fn slot_extra(slot: usize) -> u32 {
    (slot as u32 / 2).saturating_sub(1)
}
