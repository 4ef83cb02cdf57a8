//! A fast deflate encoder (RFC 1951) for the archive's first level.
//!
//! # Why not a library
//!
//! Packing a disk at level 1 must cost at most half of what `pigz -1` costs in processor time, all
//! included, and be at most a tenth larger. On a guest's disk of 410 MB (a Debian system in a
//! dynamic VHD), in pieces of 1 MiB, on one core of an EPYC 9004, deflate alone:
//!
//! | | seconds | MB |
//! |---|---|---|
//! | `pigz -1` (3.94 s, so the aim for the whole) | 1.97 | 158.8 |
//! | this encoder | 1.02 | 146.8 |
//! | zlib-rs 0.6, level 1 | 1.44 | 172.7 |
//! | zlib-rs, level 2 | 2.68 | 144.6 |
//! | zlib-rs, level 2 with chains of 1, nice length 4 (its hidden `tune`) | 2.36 | 148.6 |
//! | miniz\_oxide 0.8, level 1 | 1.89 | 156.3 |
//! | `igzip -1` (C and assembly; with the checksum) | 0.72 | 149.7 |
//!
//! miniz\_oxide leaves nothing for reading, the checksum and writing. Of the others, libdeflater is
//! C, zenflate's licence (AGPL) does not fit, and fdeflate is made for PNG.
//!
//! # Design
//!
//! - Input is cut into blocks of 65535 bytes, which is also what a stored block can hold: whatever
//!   does not shrink is stored, and a stream is never more than a few bytes longer than stored.
//! - The [matcher] takes the first match that one table lookup finds, and counts symbols as it
//!   goes. In data without repetitions it looks less and less often, so that no samples are needed
//!   to find out what is compressed already: random bytes take 0.5 ns each.
//! - A block is a list of [sequences](block): a run of literals, which stay in the input, and a
//!   match. Counts give the codes ([huffman]), and the exact length of all three forms of a block
//!   before any of them is written.
//! - Emission looks up codes with their extra bits and writes a register at a time ([bits]).
//!
//! All of it is without `unsafe`. What bounds checks the hot loops have left (those of reads and
//! writes of eight bytes) always go the same way; tables are arrays as long as their index can be.
//!
//! To measure again: pack a disk with `TargetFormat::VhdTgz` at level 1 and one worker, under
//! `taskset -c 1`, alternating with `pigz -1 -p 1` and taking the least user time of several runs.

mod bits;
mod block;
mod header;
mod huffman;
mod matcher;
mod tables;

use bits::Carry;
use block::Block;
use matcher::Matcher;

/// Makes deflate streams, one at a time. The memory that it needs (190 KiB) serves all of them.
#[derive(Debug)]
pub(super) struct Deflater {
    matcher: Matcher,
    block: Block,
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self { matcher: Matcher::new(), block: Block::new() }
    }

    /// Appends a complete stream of `input` to `out`. The same input gives the same stream,
    /// whatever came before.
    #[cfg(test)]
    fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.part(input, out);
        out.extend_from_slice(&END);
    }

    /// Appends a part of a stream that ends with a whole byte: more parts or [`END`] follow.
    pub(super) fn part(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.matcher.reset();
        let mut carry = Carry::default();
        let mut at = 0;
        while at < input.len() {
            self.block.clear();
            let to = self.matcher.fill(input, at, &mut self.block);
            self.block.write(&input[at..to], out, &mut carry);
            at = to;
        }
        if carry.count > 0 {
            // An empty block, whose length begins with a byte.
            block::store(&[], out, &mut carry);
        }
    }
}

/// What ends a stream: a last block with nothing in it.
pub(super) const END: [u8; 2] = [3, 0];

#[cfg(test)]
pub(super) mod tests;
