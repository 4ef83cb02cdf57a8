//! Bits, least significant first, into a slice.

/// The bits of a byte that is not complete, carried from one block to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carry {
    pub(super) bits: u64,
    pub(super) count: u32,
}

/// How far past the last bit a write may reach.
pub(super) const SLACK: usize = 8;

/// Collects bits in a register and writes eight bytes at a time.
///
/// A flush puts down the whole register and then moves on by the bytes that are complete, so that
/// it needs no loop and no branch; this is why the slice must reach [`SLACK`] bytes further than
/// what is written.
#[derive(Debug)]
pub(super) struct BitWriter<'a> {
    out: &'a mut [u8],
    at: usize,
    bits: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(out: &'a mut [u8], carry: Carry) -> Self {
        Self { out, at: 0, bits: carry.bits, count: carry.count }
    }

    /// Adds `count` bits, above which `bits` is zero. At most 7 stay in the register after a
    /// flush, so that 56 more fit.
    #[inline(always)]
    pub(super) fn put(&mut self, bits: u64, count: u32) {
        debug_assert!(self.count + count < 64 && bits >> count == 0);
        // The mask costs nothing: the processor applies it anyway.
        self.bits |= bits << (self.count & 63);
        self.count += count;
    }

    /// Writes the complete bytes.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        self.out[self.at..][..8].copy_from_slice(&self.bits.to_le_bytes());
        self.at += (self.count / 8) as usize;
        self.bits >>= self.count & 56;
        self.count &= 7;
    }

    /// How many bytes are complete, and the bits of the one that is not.
    pub(super) fn finish(mut self) -> (usize, Carry) {
        self.flush();
        (self.at, Carry { bits: self.bits, count: self.count })
    }
}
