//! The block map: which parts of a disk may hold data, in bounded memory.

use std::ops::Range;
use std::sync::Arc;

/// The grain of a [`BlockMap`] in bytes: 64 KiB, the default cluster of QCOW2 and the grain of
/// XenServer's changed-block tracking. A 2 TiB disk is a map of 4 MiB.
pub const GRANULE: u64 = 64 * 1024;

/// How many granules one chunk of the map covers: 256 MiB of disk.
const CHUNK: u64 = 4096;
const WORDS: usize = (CHUNK / 64) as usize;

/// Which granules of a disk may hold data; all others are known to be zero.
///
/// One bit per [`GRANULE`], and none where 256 MiB of the disk are all data or all zeros: memory
/// is bounded by the size of the disk and never by how fragmented it is, a size alone costs
/// nothing, and a full disk next to nothing. A clone shares the bits. Every plan is made from a
/// map before the first byte of data is read.
#[derive(Clone)]
pub struct BlockMap {
    virtual_size: u64,
    /// Up to the last chunk with data, so that equal maps have equal chunks.
    chunks: Arc<Vec<Chunk>>,
    /// Whether granules that store zeros were left out already.
    zeros_left_out: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Chunk {
    Empty,
    Full,
    /// Neither empty nor full.
    Mixed(Box<[u64; WORDS]>),
}

impl PartialEq for BlockMap {
    fn eq(&self, other: &Self) -> bool {
        self.virtual_size == other.virtual_size && self.chunks == other.chunks
    }
}

impl Eq for BlockMap {}

impl std::fmt::Debug for BlockMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockMap")
            .field("virtual_size", &self.virtual_size)
            .field("allocated", &self.allocated())
            .finish()
    }
}

impl BlockMap {
    /// A map of a disk of `virtual_size` bytes with no data at all.
    pub fn empty(virtual_size: u64) -> Self {
        Self { virtual_size, chunks: Arc::default(), zeros_left_out: false }
    }

    /// The size of the disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Says that the data was looked at, so that nobody needs to look for zeros again.
    pub(crate) fn set_zeros_left_out(&mut self) {
        self.zeros_left_out = true;
    }

    pub(crate) fn zeros_left_out(&self) -> bool {
        self.zeros_left_out
    }

    /// Marks every granule that `range` (guest bytes) touches; what lies past the end is ignored.
    pub fn insert(&mut self, range: Range<u64>) {
        let end = range.end.min(self.virtual_size);
        if range.start >= end {
            return;
        }
        let (mut at, until) = (range.start / GRANULE, (end - 1) / GRANULE + 1);
        let chunks = Arc::make_mut(&mut self.chunks);
        let count = usize::try_from(until.div_ceil(CHUNK)).unwrap_or(usize::MAX);
        if count > chunks.len() {
            chunks.resize(count, Chunk::Empty);
        }
        while at < until {
            let stop = until.min((at / CHUNK + 1) * CHUNK);
            if let Some(chunk) = chunks.get_mut((at / CHUNK) as usize) {
                chunk.insert(at % CHUNK, stop - at / CHUNK * CHUNK);
            }
            at = stop;
        }
    }

    /// Whether any granule that `range` touches may hold data. Looks at no other granule.
    pub fn any(&self, range: Range<u64>) -> bool {
        self.first_run(range).is_some()
    }

    /// The first run of data granules within `range`, clipped to it and to the disk; `None` if
    /// the range is all zeros. Looks at no granule outside of the range, so that walking a disk
    /// block by block costs one pass over the map.
    pub fn first_run(&self, range: Range<u64>) -> Option<Range<u64>> {
        let limit = range.end.min(self.virtual_size);
        if range.start >= limit {
            return None;
        }
        let until = limit.div_ceil(GRANULE);
        let first = self.find_below(range.start / GRANULE, until, true)?;
        let end = self.find_below(first, until, false).unwrap_or(until);
        Some((first * GRANULE).max(range.start)..end.saturating_mul(GRANULE).min(limit))
    }

    /// How many granules may hold data.
    pub fn granules(&self) -> u64 {
        self.chunks.iter().map(Chunk::ones).sum()
    }

    /// The next maximal run of data granules that ends after `offset`, as guest bytes clipped to
    /// `offset..virtual_size`; `None` if only zeros follow.
    pub fn next_run(&self, offset: u64) -> Option<Range<u64>> {
        let start = self.find_below(offset / GRANULE, u64::MAX, true)?;
        let end = self.find_below(start, u64::MAX, false).unwrap_or(u64::MAX);
        let range =
            (start * GRANULE).max(offset)..end.saturating_mul(GRANULE).min(self.virtual_size);
        (range.start < range.end).then_some(range)
    }

    /// All maximal runs of data granules in ascending order, as guest bytes.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(at)?;
            at = run.end;
            Some(run)
        })
    }

    /// The blocks of `size` bytes (a multiple of [`GRANULE`]) that may hold data, by index in
    /// ascending order: a step for each block with data and none for the others.
    pub(crate) fn blocks(&self, size: u64) -> impl Iterator<Item = u64> + '_ {
        let mut next = 0_u64;
        std::iter::from_fn(move || {
            let start = self.find_below(next.saturating_mul(size) / GRANULE, u64::MAX, true)?;
            let block = start * GRANULE / size;
            next = block + 1;
            Some(block)
        })
    }

    /// How many bytes of the disk may hold data.
    pub fn allocated(&self) -> u64 {
        self.runs().map(|r| r.end - r.start).sum()
    }

    /// The first granule in `from..until` whose bit is `set`.
    fn find_below(&self, from: u64, until: u64, set: bool) -> Option<u64> {
        let mut at = from;
        while at < until {
            let index = usize::try_from(at / CHUNK).ok()?;
            let Some(chunk) = self.chunks.get(index) else { break };
            if let Some(found) = chunk.find(at % CHUNK, set) {
                let found = at / CHUNK * CHUNK + found;
                return (found < until).then_some(found);
            }
            at = (at / CHUNK + 1) * CHUNK;
        }
        (!set && at < until).then_some(at)
    }
}

impl Chunk {
    fn insert(&mut self, from: u64, until: u64) {
        if from == 0 && until == CHUNK {
            *self = Self::Full;
            return;
        }
        match self {
            Self::Full => return,
            Self::Empty => *self = Self::Mixed(Box::new([0; WORDS])),
            Self::Mixed(_) => {}
        }
        let Self::Mixed(words) = self else { return };
        let mut at = from;
        while at < until {
            let stop = until.min((at / 64 + 1) * 64);
            if let Some(word) = words.get_mut((at / 64) as usize) {
                *word |= (u64::MAX >> (64 - (stop - at))) << (at % 64);
            }
            at = stop;
        }
        if words.iter().all(|&word| word == u64::MAX) {
            *self = Self::Full;
        }
    }

    /// The first bit at or after `from` that is `set`.
    fn find(&self, from: u64, set: bool) -> Option<u64> {
        let words = match self {
            Self::Empty => return (!set).then_some(from),
            Self::Full => return set.then_some(from),
            Self::Mixed(words) => words,
        };
        let flip = if set { 0 } else { u64::MAX };
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in words.iter().enumerate().skip((from / 64) as usize) {
            let hit = (word ^ flip) & mask;
            if hit != 0 {
                return Some(index as u64 * 64 + u64::from(hit.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    fn ones(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full => CHUNK,
            Self::Mixed(words) => words.iter().map(|w| u64::from(w.count_ones())).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_merge_and_clip_to_the_disk() {
        let size = 200 * GRANULE + 512;
        let mut map = BlockMap::empty(size);
        map.insert(1..2);
        map.insert(GRANULE..GRANULE + 1);
        map.insert(63 * GRANULE..66 * GRANULE);
        map.insert(200 * GRANULE..u64::MAX);
        let runs: Vec<_> = map.runs().collect();
        assert_eq!(runs, [0..2 * GRANULE, 63 * GRANULE..66 * GRANULE, 200 * GRANULE..size]);
        assert_eq!(map.allocated(), 5 * GRANULE + 512);
        assert!(!map.any(2 * GRANULE..63 * GRANULE));
        assert!(map.any(2 * GRANULE..63 * GRANULE + 1));
        assert_eq!(map.next_run(64 * GRANULE + 7), Some(64 * GRANULE + 7..66 * GRANULE));
        assert_eq!(map.next_run(size), None);
        assert_eq!(map.granules(), 6);
        assert_eq!(map.first_run(0..u64::MAX), Some(0..2 * GRANULE));
        assert_eq!(map.first_run(5..GRANULE + 9), Some(5..GRANULE + 9));
        assert_eq!(map.first_run(2 * GRANULE..63 * GRANULE), None);
        assert_eq!(map.first_run(2 * GRANULE..64 * GRANULE), Some(63 * GRANULE..64 * GRANULE));
        assert_eq!(map.first_run(200 * GRANULE + 1..u64::MAX), Some(200 * GRANULE + 1..size));
        assert_eq!(map.first_run(7..7), None);
    }

    #[test]
    fn the_last_granule_of_a_word_ends_a_run() {
        let mut map = BlockMap::empty(1000 * GRANULE);
        map.insert(60 * GRANULE..64 * GRANULE);
        assert!(map.runs().eq(std::iter::once(60 * GRANULE..64 * GRANULE)));
        assert_eq!(map.first_run(62 * GRANULE..u64::MAX), Some(62 * GRANULE..64 * GRANULE));
        assert!(!map.any(64 * GRANULE..u64::MAX));
        // The same content in another order is the same map.
        let mut other = BlockMap::empty(1000 * GRANULE);
        (60..64).rev().for_each(|g| other.insert(g * GRANULE..g * GRANULE + 1));
        assert_eq!(map, other);
    }

    #[test]
    fn an_empty_disk_has_no_runs() {
        assert_eq!(BlockMap::empty(0).runs().count(), 0);
        assert_eq!(BlockMap::empty(5 * GRANULE).next_run(0), None);
        assert_eq!(BlockMap::empty(64 << 40).chunks.capacity(), 0);
    }

    #[test]
    fn whole_chunks_have_no_bits_and_blocks_are_counted_once() {
        let span = CHUNK * GRANULE;
        let mut map = BlockMap::empty(10 * span + 5);
        map.insert(span..3 * span + 1);
        for at in (0..CHUNK).rev() {
            map.insert(5 * span + at * GRANULE..5 * span + at * GRANULE + 1);
        }
        map.insert(10 * span + 1..u64::MAX);
        let full = map.chunks.iter().filter(|c| matches!(c, Chunk::Full)).count();
        assert_eq!((full, map.chunks.len()), (3, 11));
        assert_eq!(map.granules(), 3 * CHUNK + 2);
        let runs: Vec<_> = map.runs().collect();
        let last = 10 * span..10 * span + 5;
        assert_eq!(runs, [span..3 * span + GRANULE, 5 * span..6 * span, last]);
        let blocks: Vec<_> = map.blocks(span / 2).collect();
        assert_eq!(blocks, [2, 3, 4, 5, 6, 10, 11, 20]);
        assert_eq!(map.first_run(3 * span - 1..u64::MAX), Some(3 * span - 1..3 * span + GRANULE));
        assert!(!map.any(6 * span..10 * span) && map.any(0..span + 1));
    }

    #[test]
    fn any_set_of_granules_reads_as_a_plain_list_of_bits_would() {
        let mut seed = 7_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        for _ in 0..50 {
            let total = 2 * CHUNK + random() % (2 * CHUNK);
            let mut plain = vec![false; total as usize];
            let mut map = BlockMap::empty(total * GRANULE);
            for _ in 0..random() % 40 {
                let from = random() % total;
                let until =
                    (from + 1 + random() % [3, 200, 6000][(random() % 3) as usize]).min(total);
                map.insert(from * GRANULE..until * GRANULE);
                plain[from as usize..until as usize].fill(true);
            }
            let granules = map.runs().flat_map(|r| r.start / GRANULE..r.end / GRANULE);
            let expected = (0..total).filter(|g| plain[*g as usize]);
            assert!(granules.eq(expected));
            let blocks = (0..total.div_ceil(32)).filter(|b| {
                let end = (b * 32 + 32).min(total) as usize;
                plain[*b as usize * 32..end].contains(&true)
            });
            assert!(map.blocks(32 * GRANULE).eq(blocks));
        }
    }
}
