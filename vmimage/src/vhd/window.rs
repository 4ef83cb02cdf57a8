//! Which layer of a chain holds which sector: one window of the disk at a time, 64 sectors at
//! once.

use super::SECTOR;

/// The part of a disk that is resolved at once, in bytes: the usual block.
pub(super) const WINDOW: u64 = 2 << 20;

const SECTORS: u64 = WINDOW / SECTOR;
const WORDS: usize = (SECTORS / 64) as usize;

/// Sectors that lie one after the other in the file of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first sector, counted from the start of the window.
    pub(super) start: u64,
    /// The sector after the last one.
    pub(super) end: u64,
    /// The layer; 0 is the youngest.
    pub(super) layer: u32,
    /// Where the first sector lies in the layer's file, in bytes.
    pub(super) file_offset: u64,
}

/// A resolved window: its runs in ascending order. What lies between them is zeros.
#[derive(Debug, Default)]
pub(super) struct Window(Vec<Run>);

impl Window {
    pub(super) fn runs(&self) -> &[Run] {
        &self.0
    }

    /// The runs from the one that holds `sector` on, or else from the next one on.
    pub(super) fn runs_from(&self, sector: u64) -> &[Run] {
        let first = self.0.partition_point(|run| run.end <= sector);
        self.0.get(first..).unwrap_or_default()
    }
}

/// Resolves one window: layers are asked from the youngest to the oldest, each for the sectors
/// that no younger one has. Bit 63 of word 0 is the first sector, as in a block's bitmap.
#[derive(Debug)]
pub(super) struct Resolver {
    want: [u64; WORDS],
    runs: Vec<Run>,
}

impl Resolver {
    /// A window of so many sectors.
    pub(super) fn new(sectors: u64) -> Self {
        let mut this = Self { want: [u64::MAX; WORDS], runs: Vec::new() };
        this.zero(sectors, SECTORS);
        this
    }

    /// Whether every sector is resolved.
    pub(super) fn is_done(&self) -> bool {
        self.want.iter().all(|&word| word == 0)
    }

    /// Whether any sector of `from..until` is not resolved yet.
    pub(super) fn wants(&self, from: u64, until: u64) -> bool {
        pieces(from, until).any(|(index, mask)| self.want[index] & mask != 0)
    }

    /// The sectors `from..until` are zero, as far as no younger layer has them.
    pub(super) fn zero(&mut self, from: u64, until: u64) {
        for (index, mask) in pieces(from, until) {
            self.want[index] &= !mask;
        }
    }

    /// The layer holds all of `from..until`; `file_offset` is where `from` lies.
    pub(super) fn take(&mut self, from: u64, until: u64, layer: u32, file_offset: u64) {
        for (index, mask) in pieces(from, until) {
            self.take_word(index, mask, from, layer, file_offset);
        }
    }

    /// The layer holds those of `from..until` whose bit in `bits` is set; the most significant
    /// bit of the first byte stands for `from`, which is a multiple of 8.
    pub(super) fn take_held(
        &mut self,
        from: u64,
        until: u64,
        bits: &[u8],
        layer: u32,
        file_offset: u64,
    ) {
        for (index, mask) in pieces(from, until) {
            let held = word_of(bits, index as u64 * 64, from);
            self.take_word(index, held & mask, from, layer, file_offset);
        }
    }

    fn take_word(&mut self, index: usize, held: u64, from: u64, layer: u32, file_offset: u64) {
        let mut taken = self.want[index] & held;
        self.want[index] &= !held;
        while taken != 0 {
            let first = u64::from(taken.leading_zeros());
            let count = u64::from((taken << first).leading_ones());
            taken &= !ones(first, first + count);
            let start = index as u64 * 64 + first;
            let file_offset = file_offset + (start - from) * SECTOR;
            self.push(Run { start, end: start + count, layer, file_offset });
        }
    }

    fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && last.end == run.start
            && last.layer == run.layer
            && last.file_offset + (last.end - last.start) * SECTOR == run.file_offset
        {
            last.end = run.end;
            return;
        }
        self.runs.push(run);
    }

    /// The runs in ascending order.
    pub(super) fn finish(self) -> Window {
        if self.runs.is_sorted_by_key(|run| run.start) {
            return Window(self.runs);
        }
        // Each run under its first sector: cheaper than sorting thousands of them.
        let mut starts = [0_u64; WORDS];
        let mut slots = [0_u16; SECTORS as usize];
        for (i, run) in self.runs.iter().enumerate() {
            starts[(run.start / 64) as usize] |= ones(run.start % 64, run.start % 64 + 1);
            slots[run.start as usize] = i as u16;
        }
        let mut sorted = Vec::with_capacity(self.runs.len());
        for (index, mut word) in starts.into_iter().enumerate() {
            while word != 0 {
                let first = word.leading_zeros() as usize;
                word &= !ones(first as u64, first as u64 + 1);
                sorted.push(self.runs[usize::from(slots[index * 64 + first])]);
            }
        }
        Window(sorted)
    }
}

/// The words that `from..until` touches, each with the bits inside.
fn pieces(from: u64, until: u64) -> impl Iterator<Item = (usize, u64)> {
    let until = until.min(SECTORS);
    let words = if from < until { from / 64..until.div_ceil(64) } else { 0..0 };
    words.map(move |word| {
        let base = word * 64;
        (word as usize, ones(from.saturating_sub(base), (until - base).min(64)))
    })
}

/// The bits `from..until` of a word, the most significant one being 0.
fn ones(from: u64, until: u64) -> u64 {
    let below = |n: u64| if n >= 64 { 0 } else { u64::MAX >> n };
    below(from) & !below(until)
}

/// The 64 bits for the sectors from `base` on, out of bytes that begin at sector `from`.
fn word_of(bits: &[u8], base: u64, from: u64) -> u64 {
    if let Some(skip) = base.checked_sub(from)
        && skip.is_multiple_of(8)
        && let Some(bytes) = bits.get((skip / 8) as usize..).and_then(|b| b.first_chunk::<8>())
    {
        return u64::from_be_bytes(*bytes);
    }
    (0..8).fold(0, |word, n| {
        let byte = (base + n * 8).checked_sub(from).and_then(|s| bits.get((s / 8) as usize));
        word << 8 | u64::from(byte.copied().unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window as a plain list: who holds each sector, and where.
    fn owners(window: &Window) -> Vec<Option<(u32, u64)>> {
        let mut owners = vec![None; SECTORS as usize];
        let mut end = 0;
        for run in window.runs() {
            assert!(run.start >= end && run.end > run.start && run.end <= SECTORS);
            end = run.end;
            for sector in run.start..run.end {
                let at = run.file_offset + (sector - run.start) * SECTOR;
                owners[sector as usize] = Some((run.layer, at));
            }
        }
        owners
    }

    #[test]
    fn mixed_bytes_are_taken_bit_by_bit() {
        let mut resolver = Resolver::new(4096);
        resolver.take_held(0, 8, &[0xC9], 0, 0);
        resolver.take(0, 9, 1, 100 * 512);
        let window = resolver.finish();
        let layers: Vec<_> = owners(&window)[..10].iter().map(|o| o.map(|(l, _)| l)).collect();
        let (a, b) = (Some(0), Some(1));
        assert_eq!(layers, [a, a, b, b, a, b, b, a, b, None]);
        assert_eq!(window.runs_from(3).first().map(|r| (r.start, r.layer)), Some((2, 1)));
        assert!(window.runs_from(9).is_empty());
        // A run knows where its first sector lies.
        assert_eq!(owners(&window)[5], Some((1, 105 * 512)));
    }

    #[test]
    fn random_layers_resolve_as_single_bits_would() {
        let mut seed = 3_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11);
            seed >> 35
        };
        for round in 0..60 {
            let sectors = if round % 3 == 0 { 1 + random() % SECTORS } else { SECTORS };
            let mut resolver = Resolver::new(sectors);
            let mut expected = vec![None; SECTORS as usize];
            let mut done: Vec<bool> = (0..SECTORS).map(|s| s >= sectors).collect();
            for layer in 0..5 {
                let block = [8, 32, 64, 1024, 4096][(random() % 5) as usize];
                for from in (0..sectors).step_by(block as usize) {
                    let until = (from + block).min(sectors);
                    let bits: Vec<u8> = (0..block / 8)
                        .map(|_| [0, 0xff, random() as u8][(random() % 3) as usize])
                        .collect();
                    let offset = random() * 512;
                    let kind = random() % 8;
                    let wants = (from..until).any(|s| !done[s as usize]);
                    assert_eq!(resolver.wants(from, until), wants);
                    match kind {
                        0 => resolver.take(from, until, layer, offset),
                        1 => resolver.zero(from, until),
                        _ => resolver.take_held(from, until, &bits, layer, offset),
                    }
                    for s in from..until {
                        let n = s - from;
                        let held = bits[(n / 8) as usize] & (0x80 >> (n % 8)) != 0;
                        if !done[s as usize] && (kind < 2 || held) {
                            done[s as usize] = true;
                            let place = (layer, offset + n * 512);
                            expected[s as usize] = (kind != 1).then_some(place);
                        }
                    }
                }
            }
            assert_eq!(resolver.is_done(), done.iter().all(|d| *d));
            assert_eq!(owners(&resolver.finish()), expected);
        }
    }
}
