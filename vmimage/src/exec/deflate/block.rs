//! One block: what it is made of, which of its forms is the shortest, and its bits.

use super::bits::{BitWriter, Carry, SLACK};
use super::header::Header;
use super::huffman;
use super::tables::{END, LENGTH_MIN, LENGTHS, LITLENS, SLOTS, length_symbols, slot, slot_extra};

/// How much input one block takes: what a stored block can hold, so that a block never becomes
/// longer than it is when stored. Twice as much makes the guest disk (see the module) 0.6 %
/// larger, half as much 0.6 % smaller and takes 4 % longer.
pub(super) const BLOCK: usize = 65535;
/// The shortest match that is used.
pub(super) const MATCH_MIN: usize = 4;

/// The most bits of a literal's or length's code: four literals fit in a register with what a
/// flush leaves there.
const LITLEN_LIMIT: usize = 14;

/// Literals, and the match after them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sequence {
    literals: u16,
    distance_less_one: u16,
    length_less_min: u8,
    slot: u8,
}

/// How often each thing occurs in a block.
#[derive(Debug)]
pub(super) struct Counts {
    literals: [u32; 256],
    /// By length less [`LENGTH_MIN`].
    lengths: [u32; 256],
    slots: [u32; SLOTS],
}

impl Counts {
    const NONE: Self = Self { literals: [0; 256], lengths: [0; 256], slots: [0; SLOTS] };

    #[inline(always)]
    pub(super) fn literal(&mut self, byte: u8) {
        self.literals[usize::from(byte)] += 1;
    }

    #[inline(always)]
    pub(super) fn literals(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.literal(byte);
        }
    }

    /// Counts a match, and makes a sequence of it.
    #[inline(always)]
    pub(super) fn sequence(
        &mut self,
        literals: usize,
        length: usize,
        distance_less_one: u16,
    ) -> Sequence {
        let length_less_min = (length - LENGTH_MIN) as u8;
        let slot = slot(distance_less_one);
        self.lengths[usize::from(length_less_min)] += 1;
        self.slots[usize::from(slot) % SLOTS] += 1;
        Sequence { literals: literals as u16, distance_less_one, length_less_min, slot }
    }

    /// By symbol: literals, the end, lengths.
    fn litlens(&self) -> [u32; LITLENS] {
        let mut counts = [0; LITLENS];
        counts[..END].copy_from_slice(&self.literals);
        counts[END] = 1;
        for (count, (from, to, _)) in counts[LENGTHS..].iter_mut().zip(length_symbols()) {
            *count = self.lengths[from..to].iter().sum();
        }
        counts
    }
}

/// The lengths of all codes of a block.
#[derive(Debug)]
pub(super) struct CodeLengths {
    pub(super) litlens: [u8; LITLENS],
    pub(super) slots: [u8; SLOTS],
}

impl CodeLengths {
    /// The fixed code (RFC 1951, 3.2.6).
    const FIXED: Self = {
        let mut litlens = [8; LITLENS];
        let mut n = 144;
        while n < 280 {
            litlens[n] = if n < END { 9 } else { 7 };
            n += 1;
        }
        Self { litlens, slots: [5; SLOTS] }
    };

    /// How long a block becomes, without its header.
    fn bits(&self, litlens: &[u32; LITLENS], slots: &[u32; SLOTS]) -> usize {
        let product = |(count, bits): (&u32, u32)| *count as usize * bits as usize;
        let extra = length_symbols().map(|(_, _, extra)| extra).chain([0, 0]);
        let extra = litlens[LENGTHS..].iter().zip(extra).map(product).sum::<usize>();
        let codes = litlens.iter().zip(self.litlens.map(u32::from)).map(product).sum::<usize>();
        let distances = slots
            .iter()
            .zip(0..)
            .map(|(count, slot)| product((count, u32::from(self.slots[slot]) + slot_extra(slot))));
        codes + extra + distances.sum::<usize>()
    }
}

/// Bits of a code in the high part, how many they are in the low byte.
#[derive(Debug, Clone, Copy, Default)]
struct Code(u32);

impl Code {
    fn new(bits: u32, count: u32) -> Self {
        Self(bits << 8 | count)
    }

    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self.0 >> 8)
    }

    #[inline(always)]
    fn count(self) -> u32 {
        self.0 & 0xff
    }
}

/// All codes of a block, where the emission finds them with one look.
#[derive(Debug)]
struct Codes {
    literals: [Code; 256],
    /// By length less [`LENGTH_MIN`], extra bits included.
    lengths: [Code; 256],
    slots: [Code; SLOTS],
    end: Code,
}

impl Codes {
    fn new(of: &CodeLengths) -> Self {
        let litlens = huffman::codes(&of.litlens);
        let slots = huffman::codes(&of.slots);
        let litlen = |n: usize| Code::new(litlens[n].into(), of.litlens[n].into());
        let slot = |n: usize| Code::new(slots[n].into(), of.slots[n].into());
        let mut lengths = [Code::default(); 256];
        for (symbol, (from, to, extra)) in (LENGTHS..).zip(length_symbols()) {
            let count = u32::from(of.litlens[symbol]);
            for (n, code) in (0..).zip(&mut lengths[from..to]) {
                *code = Code::new(u32::from(litlens[symbol]) | n << count, count + extra);
            }
        }
        Self {
            literals: std::array::from_fn(litlen),
            lengths,
            slots: std::array::from_fn(slot),
            end: litlen(END),
        }
    }
}

/// A block of up to [`BLOCK`] bytes.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) sequences: Box<[Sequence; BLOCK / MATCH_MIN]>,
    /// How many sequences there are. Whatever input they do not cover is literals.
    pub(super) used: usize,
    pub(super) counts: Counts,
}

impl Block {
    pub(super) fn new() -> Self {
        let sequences = Box::new([Sequence::default(); BLOCK / MATCH_MIN]);
        Self { sequences, used: 0, counts: Counts::NONE }
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.counts = Counts::NONE;
    }

    /// Appends the block, in the shortest of its three forms, to `out` and `carry`. `input` is
    /// what it stands for.
    pub(super) fn write(&self, input: &[u8], out: &mut Vec<u8>, carry: &mut Carry) {
        let (litlens, slots) = (self.counts.litlens(), self.counts.slots);
        let dynamic = CodeLengths {
            litlens: huffman::lengths(&litlens, LITLEN_LIMIT),
            slots: huffman::lengths(&slots, huffman::LIMIT),
        };
        let header = Header::new(&dynamic);
        let dynamic_bits = 3 + header.bits() + dynamic.bits(&litlens, &slots);
        let fixed_bits = 3 + CodeLengths::FIXED.bits(&litlens, &slots);
        let bits = dynamic_bits.min(fixed_bits);
        if stored_bits(*carry) + 8 * input.len() <= bits {
            return store(input, out, carry);
        }
        let from = out.len();
        out.resize(from + (carry.count as usize + bits).div_ceil(8) + SLACK, 0);
        let mut writer = BitWriter::new(&mut out[from..], *carry);
        let codes = if dynamic_bits < fixed_bits {
            writer.put(2 << 1, 3);
            header.write(&mut writer);
            Codes::new(&dynamic)
        } else {
            writer.put(1 << 1, 3);
            writer.flush();
            Codes::new(&CodeLengths::FIXED)
        };
        self.write_codes(input, &codes, &mut writer);
        let (bytes, rest) = writer.finish();
        debug_assert_eq!(8 * bytes + rest.count as usize, carry.count as usize + bits);
        out.truncate(from + bytes);
        *carry = rest;
    }

    #[inline]
    fn write_codes(&self, mut input: &[u8], codes: &Codes, writer: &mut BitWriter<'_>) {
        for sequence in &self.sequences[..self.used] {
            let (run, rest) = input.split_at(usize::from(sequence.literals));
            write_literals(run, codes, writer);
            let length = codes.lengths[usize::from(sequence.length_less_min)];
            let slot = usize::from(sequence.slot) % SLOTS;
            let distance = codes.slots[slot];
            let extra = slot_extra(slot);
            let extra_bits = u64::from(sequence.distance_less_one) & ((1 << extra) - 1);
            // 14 and 5 bits, 15 and 13: that fits.
            writer.put(length.bits(), length.count());
            writer.put(distance.bits() | extra_bits << distance.count(), distance.count() + extra);
            writer.flush();
            input = &rest[LENGTH_MIN + usize::from(sequence.length_less_min)..];
        }
        write_literals(input, codes, writer);
        writer.put(codes.end.bits(), codes.end.count());
        writer.flush();
    }
}

#[inline(always)]
fn write_literals(run: &[u8], codes: &Codes, writer: &mut BitWriter<'_>) {
    let mut put = |bytes: &[u8]| {
        for &byte in bytes {
            let code = codes.literals[usize::from(byte)];
            writer.put(code.bits(), code.count());
        }
        writer.flush();
    };
    let (fours, rest) = run.as_chunks::<4>();
    for four in fours {
        put(four);
    }
    if !rest.is_empty() {
        put(rest);
    }
}

/// What a stored block costs besides its bytes: three bits and what fills up their byte, two
/// lengths.
fn stored_bits(carry: Carry) -> usize {
    let count = carry.count as usize;
    (count + 3).next_multiple_of(8) - count + 2 * 16
}

/// Appends a stored block, which ends with a whole byte.
pub(super) fn store(input: &[u8], out: &mut Vec<u8>, carry: &mut Carry) {
    // Not the last one, of the form 0: three bits that are not set.
    let bytes = (carry.count + 3).div_ceil(8) as usize;
    out.extend_from_slice(&carry.bits.to_le_bytes()[..bytes]);
    let len = input.len() as u16;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&(!len).to_le_bytes());
    out.extend_from_slice(input);
    *carry = Carry::default();
}
