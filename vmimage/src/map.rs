//! The block map: which parts of a disk may hold data, in constant memory.

use std::ops::Range;

/// The grain of a [`BlockMap`] in bytes: 64 KiB, the default cluster of QCOW2 and the grain of
/// XenServer's changed-block tracking. A 2 TiB disk is a map of 4 MiB.
pub const GRANULE: u64 = 64 * 1024;

/// Which granules of a disk may hold data; all others are known to be zero.
///
/// One bit per [`GRANULE`] up to the last one with data, so that memory is bounded by the size of
/// the disk and never by how fragmented it is, and a size alone costs nothing. Every plan is made from a map before the first byte of data is read.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockMap {
    virtual_size: u64,
    /// Up to the last granule that is set, so that equal maps have equal words.
    words: Vec<u64>,
}

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
        Self { virtual_size, words: Vec::new() }
    }

    /// The size of the disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Marks every granule that `range` (guest bytes) touches; what lies past the end is ignored.
    pub fn insert(&mut self, range: Range<u64>) {
        let end = range.end.min(self.virtual_size);
        if range.start >= end {
            return;
        }
        let last = (end - 1) / GRANULE;
        let words = usize::try_from(last / 64 + 1).unwrap_or(usize::MAX);
        if words > self.words.len() {
            self.words.resize(words, 0);
        }
        for g in range.start / GRANULE..=last {
            if let Some(word) = self.words.get_mut((g / 64) as usize) {
                *word |= 1 << (g % 64);
            }
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
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// The next maximal run of data granules that ends after `offset`, as guest bytes clipped to
    /// `offset..virtual_size`; `None` if only zeros follow.
    pub fn next_run(&self, offset: u64) -> Option<Range<u64>> {
        let start = self.find(offset / GRANULE, true)?;
        let end = self.find(start, false).unwrap_or(u64::MAX);
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

    /// How many bytes of the disk may hold data.
    pub fn allocated(&self) -> u64 {
        self.runs().map(|r| r.end - r.start).sum()
    }

    /// The first granule at or after `from` whose bit is `set`.
    fn find(&self, from: u64, set: bool) -> Option<u64> {
        self.find_below(from, u64::MAX, set)
    }

    /// The first granule in `from..until` whose bit is `set`.
    fn find_below(&self, from: u64, until: u64, set: bool) -> Option<u64> {
        let flip = if set { 0 } else { u64::MAX };
        let mut index = usize::try_from(from / 64).ok()?;
        let mut mask = u64::MAX << (from % 64);
        while let Some(word) = self.words.get(index) {
            let base = index as u64 * 64;
            if base >= until {
                return None;
            }
            let hit = (word ^ flip) & mask;
            if hit != 0 {
                let found = base + u64::from(hit.trailing_zeros());
                return (found < until).then_some(found);
            }
            mask = u64::MAX;
            index += 1;
        }
        let beyond = from.max(self.words.len() as u64 * 64);
        (!set && beyond < until).then_some(beyond)
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
        assert_eq!(BlockMap::empty(64 << 40).words.capacity(), 0);
    }
}
