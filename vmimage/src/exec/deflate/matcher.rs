//! Finds what repeats: greedily, with one candidate per place.

use super::block::{BLOCK, Block, MATCH_MIN};
use super::tables::{LENGTH_MAX, WINDOW};

/// 2^15 entries of two bytes lie in the second-level cache of any core. Twice as many make the
/// guest disk (see the module) 0.3 % smaller, half as many 0.4 % larger and 1 % faster.
const HASH_BITS: u32 = 15;

/// How many bytes a hash looks at. With four it is 0.3 % smaller and takes 10 % longer: matches of
/// four bytes save next to nothing, and there are many.
const HASHED: u32 = 5;

/// After 2^6 literals in a row every second place is tried, after twice as many every third, down
/// to one in 17. This is what makes data without repetitions fast.
const SKIP_SHIFT: u32 = 6;
const SKIP_MAX: usize = 16;

/// Where each hash was seen last: the low 16 bits of the position.
///
/// Nothing tells whether an entry is still within reach. It is not needed: any entry gives a
/// distance within the window, and whether the bytes there are the same is looked at anyway.
#[derive(Debug)]
pub(super) struct Matcher {
    last_seen: Box<[u16; 1 << HASH_BITS]>,
}

impl Matcher {
    pub(super) fn new() -> Self {
        Self { last_seen: Box::new([0; 1 << HASH_BITS]) }
    }

    /// Forgets the last input, so that what it was has no effect on the next one's output.
    pub(super) fn reset(&mut self) {
        self.last_seen.fill(0);
    }

    /// Fills the empty `block` with what starts at `from`; says where the block ends.
    pub(super) fn fill(&mut self, input: &[u8], from: usize, block: &mut Block) -> usize {
        let last_seen = &mut *self.last_seen;
        let Block { sequences, used, counts } = block;
        let mut free = sequences.iter_mut();
        let end = input.len().min(from + BLOCK);
        let (mut at, mut literals_from) = (from, from);
        while at < end {
            let Some(here) = word(input, at) else { break };
            let entry = &mut last_seen[hash(here)];
            let distance_less_one = (at as u16).wrapping_sub(*entry).wrapping_sub(1) % WINDOW;
            let distance = usize::from(distance_less_one) + 1;
            *entry = at as u16;
            let differ = match at.checked_sub(distance).and_then(|there| word(input, there)) {
                Some(there) => here ^ there,
                None => 1,
            };
            if differ as u32 != 0 {
                counts.literal(here as u8);
                at += 1;
                let skip = (at - literals_from) >> SKIP_SHIFT;
                if skip > 0 {
                    let to = end.min(at + skip.min(SKIP_MAX));
                    counts.literals(&input[at..to]);
                    at = to;
                }
                continue;
            }
            let most = LENGTH_MAX.min(end - at);
            let length = match differ {
                0 => common(input, at, distance, most),
                _ => most.min(differ.trailing_zeros() as usize / 8),
            };
            if length < MATCH_MIN {
                break;
            }
            let Some(sequence) = free.next() else { break };
            *sequence = counts.sequence(at - literals_from, length, distance_less_one);
            // What lies within a match is found again from its first and last places. With none
            // of them the guest disk is 3 % larger; all of them take longer than they save.
            last_seen[hash(here >> 8)] = (at + 1) as u16;
            last_seen[hash(here >> 16)] = (at + 2) as u16;
            at += length;
            if let Some(tail) = word(input, at - 2) {
                last_seen[hash(tail)] = (at - 2) as u16;
                last_seen[hash(tail >> 8)] = (at - 1) as u16;
            }
            literals_from = at;
        }
        *used = BLOCK / MATCH_MIN - free.len();
        counts.literals(&input[at..end]);
        end
    }
}

/// Eight bytes, the first of them lowest.
#[inline(always)]
fn word(input: &[u8], at: usize) -> Option<u64> {
    input.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Where the bytes at the low end of `word` are remembered (multiplicative hashing: the product's
/// top bits depend on all of them).
#[inline(always)]
fn hash(word: u64) -> usize {
    let bytes = word << (64 - 8 * HASHED);
    (bytes.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - HASH_BITS)) as usize
}

/// How many bytes from `at` on are the same as those `distance` before, up to `most`, when the
/// first eight are known to be.
#[inline(always)]
fn common(input: &[u8], at: usize, distance: usize, most: usize) -> usize {
    let mut length = 8;
    while length < most {
        let (here, there) = (at + length, at + length - distance);
        let Some((here, there)) = word(input, here).zip(word(input, there)) else {
            let alike = |n: &usize| input[at + n] == input[at + n - distance];
            return length + (length..most).take_while(alike).count();
        };
        let differ = here ^ there;
        if differ != 0 {
            return most.min(length + differ.trailing_zeros() as usize / 8);
        }
        length += 8;
    }
    most
}
