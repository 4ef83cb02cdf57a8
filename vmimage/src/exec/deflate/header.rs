//! The header of a dynamic block: the lengths of its codes, themselves coded.

use super::bits::BitWriter;
use super::block::CodeLengths;
use super::huffman;
use super::tables::{END, LITLENS, SLOTS};

/// In which order the lengths of the code length code stand.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// The most bits of such a code.
const LIMIT: usize = 7;

/// Symbols above the lengths: the last one 3 to 6 times more, 3 to 10 zeros, 11 to 138 zeros.
const REPEAT: u8 = 16;
const ZEROS: u8 = 17;
const MANY_ZEROS: u8 = 18;

/// How many bits after a symbol say how often.
fn extra(symbol: u8) -> u32 {
    match symbol {
        REPEAT => 2,
        ZEROS => 3,
        MANY_ZEROS => 7,
        _ => 0,
    }
}

/// Symbols of code lengths, with their extra bits.
#[derive(Debug)]
struct Items {
    items: [(u8, u8); LITLENS + SLOTS],
    used: usize,
    counts: [u32; 19],
}

impl Items {
    fn push(&mut self, symbol: u8, extra: usize) {
        self.items[self.used] = (symbol, extra as u8);
        self.used += 1;
        self.counts[usize::from(symbol)] += 1;
    }

    /// Adds `count` times the length `value`.
    fn run(&mut self, value: u8, mut count: usize) {
        if value == 0 {
            while count >= 11 {
                let some = count.min(138);
                self.push(MANY_ZEROS, some - 11);
                count -= some;
            }
            if count >= 3 {
                self.push(ZEROS, count - 3);
                count = 0;
            }
        } else {
            self.push(value, 0);
            count -= 1;
            while count >= 3 {
                let some = count.min(6);
                self.push(REPEAT, some - 3);
                count -= some;
            }
        }
        for _ in 0..count {
            self.push(value, 0);
        }
    }
}

#[derive(Debug)]
pub(super) struct Header {
    litlens: usize,
    slots: usize,
    items: Items,
    /// Lengths of the codes of `items`, and how many of them stand in the header.
    lengths: [u8; 19],
    ordered: usize,
}

impl Header {
    pub(super) fn new(of: &CodeLengths) -> Self {
        let used = |lengths: &[u8]| lengths.iter().rposition(|&l| l > 0).map_or(0, |last| last + 1);
        let litlens = used(&of.litlens).max(END + 1);
        let slots = used(&of.slots).max(1);
        let mut all = [0; LITLENS + SLOTS];
        all[..litlens].copy_from_slice(&of.litlens[..litlens]);
        all[litlens..][..slots].copy_from_slice(&of.slots[..slots]);
        let mut items = Items { items: [(0, 0); LITLENS + SLOTS], used: 0, counts: [0; 19] };
        for run in all[..litlens + slots].chunk_by(|a, b| a == b) {
            items.run(run[0], run.len());
        }
        let lengths = huffman::lengths(&items.counts, LIMIT);
        let ordered = used(&ORDER.map(|symbol| lengths[symbol])).max(4);
        Self { litlens, slots, items, lengths, ordered }
    }

    /// How long the header is, without the three bits that say that it follows.
    pub(super) fn bits(&self) -> usize {
        let items = (0..19).map(|symbol: u8| {
            let bits = u32::from(self.lengths[usize::from(symbol)]) + extra(symbol);
            (self.items.counts[usize::from(symbol)] * bits) as usize
        });
        5 + 5 + 4 + 3 * self.ordered + items.sum::<usize>()
    }

    pub(super) fn write(&self, writer: &mut BitWriter<'_>) {
        writer.put((self.litlens - (END + 1)) as u64, 5);
        writer.put((self.slots - 1) as u64, 5);
        writer.put((self.ordered - 4) as u64, 4);
        writer.flush();
        for &symbol in &ORDER[..self.ordered] {
            writer.put(self.lengths[symbol].into(), 3);
            writer.flush();
        }
        let codes = huffman::codes(&self.lengths);
        for &(symbol, more) in &self.items.items[..self.items.used] {
            let n = usize::from(symbol);
            writer.put(codes[n].into(), self.lengths[n].into());
            writer.put(more.into(), extra(symbol));
            writer.flush();
        }
    }
}
