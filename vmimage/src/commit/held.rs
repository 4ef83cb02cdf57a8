//! Which sectors a child holds itself, and where they lie in its file.

use crate::vhd::file::{Sparse, VhdFile};
use crate::vhd::{Bitmap, SECTOR};
use crate::{Error, ErrorKind, Result};

/// Sectors that lie one after the other in the child's file; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first byte on the disk.
    pub(super) start: u64,
    /// The byte after the last one.
    pub(super) end: u64,
    /// Where the first byte lies in the file.
    pub(super) place: u64,
}

/// The child's blocks, the last one's bitmap remembered.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) file: &'a VhdFile,
    sparse: &'a Sparse,
    last: Option<(u64, Stored)>,
}

#[derive(Debug, Clone)]
struct Stored {
    data: u64,
    bitmap: std::sync::Arc<Bitmap>,
}

impl<'a> Held<'a> {
    pub(super) fn new(file: &'a VhdFile) -> Result<Self> {
        match &file.sparse {
            Some(sparse) if file.is_differencing() => Ok(Self { file, sparse, last: None }),
            _ => Err(Error::new(
                ErrorKind::Usage,
                "is no differencing VHD, so it has no parent to commit to",
            )),
        }
    }

    fn block_size(&self) -> u64 {
        u64::from(self.sparse.header.block_size)
    }

    /// Where the next block that the child stores begins, at or after `offset` or around it.
    pub(super) fn next_stored(&self, offset: u64) -> Result<Option<u64>> {
        let next = self.sparse.bat.next_stored(offset / self.block_size());
        let next = next.map_err(|e| self.file.named(e))?;
        Ok(next.map(|index| (index * self.block_size()).max(offset)))
    }

    /// The runs that the child holds of `start..end`, which are whole sectors of its disk.
    pub(super) fn runs(&mut self, start: u64, end: u64) -> Result<Vec<Run>> {
        let size = self.block_size();
        let mut runs: Vec<Run> = Vec::new();
        let mut at = start;
        while at < end {
            let index = at / size;
            let stop = ((index + 1) * size).min(end);
            if let Some(stored) = self.stored(index)? {
                let base = index * size;
                let mut from = at;
                while from < stop {
                    let (held, until) = stored.bitmap.run((from - base) / SECTOR);
                    let until = (base + until * SECTOR).min(stop);
                    if held {
                        push(
                            &mut runs,
                            Run { start: from, end: until, place: stored.data + from - base },
                        );
                    }
                    from = until;
                }
            }
            at = stop;
        }
        Ok(runs)
    }

    fn stored(&mut self, index: u64) -> Result<Option<Stored>> {
        if let Some((last, stored)) = &self.last
            && *last == index
        {
            return Ok(Some(stored.clone()));
        }
        let Some(start) = self.sparse.bat.block(index).map_err(|e| self.file.named(e))? else {
            return Ok(None);
        };
        let header = &self.sparse.header;
        let mut raw = vec![0xff; usize::try_from(header.bitmap_len()).unwrap_or(0)];
        if !self.sparse.batmap.as_ref().is_some_and(|b| b.get(index)) {
            self.file.read(&mut raw, start)?;
        }
        let bitmap = Bitmap::parse(&raw, self.block_size() / SECTOR);
        let stored = Stored { data: start + header.bitmap_len(), bitmap: bitmap.into() };
        self.last = Some((index, stored.clone()));
        Ok(Some(stored))
    }
}

/// A bitmap answers in looks of limited length: neighbours are one run.
fn push(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last)
            if last.end == run.start && last.place + (last.end - last.start) == run.place =>
        {
            last.end = run.end;
        }
        _ => runs.push(run),
    }
}
