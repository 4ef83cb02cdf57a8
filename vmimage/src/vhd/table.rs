//! The BAT of a file, read a window at a time: the memory of a chain must not grow with its disk.

use std::sync::{Arc, Mutex, PoisonError};

use super::Bat;
use crate::{Error, ReadAt, Result};

/// How many entries one window holds: 16 KiB of table, 8 GiB of disk at the usual block size.
const WINDOW: u64 = 4096;
/// How many windows are kept. Readers go forwards, and there are a few of them.
const SLOTS: usize = 4;

/// The number of a window and its entries.
type Slot = Option<(u64, Arc<Bat>)>;

/// The block allocation table of one file.
#[derive(Debug)]
pub(crate) struct Table {
    file: Arc<dyn ReadAt>,
    /// Where the table lies, in bytes.
    offset: u64,
    /// How many entries the disk needs; the table may have more.
    entries: u64,
    /// Whether a window has any stored block: one bit each, all set until
    /// [`learn`](Self::learn) has looked.
    used: Vec<u64>,
    slots: Mutex<[Slot; SLOTS]>,
}

impl Table {
    /// The table of `entries` entries at `offset` of `file`, which is known to be that long.
    pub(crate) fn new(file: Arc<dyn ReadAt>, offset: u64, entries: u32) -> Self {
        let entries = u64::from(entries);
        let words = entries.div_ceil(WINDOW).div_ceil(64) as usize;
        Self { file, offset, entries, used: vec![u64::MAX; words], slots: Mutex::default() }
    }

    /// Where block `index` begins in the file (its bitmap), if it is stored.
    pub(crate) fn block(&self, index: u64) -> Result<Option<u64>> {
        if index >= self.entries || !self.is_used(index / WINDOW) {
            return Ok(None);
        }
        Ok(self.window(index / WINDOW)?.block(index % WINDOW))
    }

    /// The first stored block at or after `index`.
    pub(crate) fn next_stored(&self, index: u64) -> Result<Option<u64>> {
        let mut at = index;
        while at < self.entries {
            let (window, within) = (at / WINDOW, at % WINDOW);
            if self.is_used(window)
                && let Some(found) = self.window(window)?.next_stored(within)
            {
                return Ok(Some(window * WINDOW + found));
            }
            at = (window + 1) * WINDOW;
        }
        Ok(None)
    }

    /// The stored blocks as (index, byte offset), by index. Ends after the first error.
    pub(crate) fn stored(&self) -> impl Iterator<Item = Result<(u64, u64)>> + '_ {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let found = match self.next_stored(next?) {
                Ok(Some(index)) => self.block(index).map(|start| Some((index, start?))),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            next = match &found {
                Ok(Some((index, _))) => Some(index + 1),
                _ => None,
            };
            found.transpose()
        })
    }

    /// Reads the table once, gives each stored block to `look`, and remembers which windows have
    /// none.
    pub(crate) fn learn(&mut self, mut look: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        for window in 0..self.entries.div_ceil(WINDOW) {
            let bat = self.window(window)?;
            let mut any = false;
            for (within, start) in bat.allocated() {
                any = true;
                look(window * WINDOW + within, start)?;
            }
            if !any && let Some(word) = self.used.get_mut((window / 64) as usize) {
                *word &= !(1 << (window % 64));
            }
        }
        Ok(())
    }

    fn is_used(&self, window: u64) -> bool {
        self.used.get((window / 64) as usize).is_some_and(|word| word >> (window % 64) & 1 == 1)
    }

    fn window(&self, window: u64) -> Result<Arc<Bat>> {
        let slot = (window % SLOTS as u64) as usize;
        {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Some((held, bat))) = slots.get(slot)
                && *held == window
            {
                return Ok(Arc::clone(bat));
            }
        }
        // The lock is not held over the read: two threads may load one window, to no harm.
        let first = window * WINDOW;
        let count = WINDOW.min(self.entries.saturating_sub(first));
        let mut raw = vec![0; (count * 4) as usize];
        let at = self.offset.saturating_add(first * 4);
        self.file.read_exact_at(&mut raw, at).map_err(|e| {
            Error::io("cannot read the VHD's block allocation table", e).with_offset(at)
        })?;
        let bat = Arc::new(Bat::parse(&raw));
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = slots.get_mut(slot) {
            *entry = Some((window, Arc::clone(&bat)));
        }
        Ok(bat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(stored: &[(u64, u32)], entries: u32) -> Table {
        let mut raw = vec![0xff; 512 + entries as usize * 4];
        for &(index, sector) in stored {
            let at = 512 + index as usize * 4;
            raw[at..at + 4].copy_from_slice(&sector.to_be_bytes());
        }
        Table::new(Arc::new(raw), 512, entries)
    }

    #[test]
    fn windows_make_no_difference() {
        let stored = [(0, 8), (4095, 9), (4096, 10), (40_000, 0xffff_fffe), (65_535, 11)];
        let mut table = table(&stored, 65_536);
        let expected: Vec<_> = stored.iter().map(|&(i, s)| (i, u64::from(s) * 512)).collect();
        for learnt in [false, true] {
            let found: Vec<_> = table.stored().map(Result::unwrap).collect();
            assert_eq!(found, expected, "{learnt}");
            assert_eq!(table.block(4096).unwrap(), Some(5120));
            assert_eq!(table.block(4097).unwrap(), None);
            assert_eq!(table.block(1 << 40).unwrap(), None);
            assert_eq!(table.next_stored(4097).unwrap(), Some(40_000));
            assert_eq!(table.next_stored(65_536).unwrap(), None);
            let mut seen = Vec::new();
            let look = |index, start| {
                seen.push((index, start));
                Ok(())
            };
            table.learn(look).unwrap();
            assert_eq!(seen, expected);
        }
        assert_eq!(table.used[0].count_ones(), 64 - 12);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_an_error_and_no_loop() {
        let table = Table::new(Arc::new(vec![0_u8; 100]), 0, 5000);
        assert!(table.block(0).is_err() && table.next_stored(4999).is_err());
        assert_eq!(table.stored().count(), 1);
    }
}
