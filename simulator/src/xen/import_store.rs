//! A disk that was written here: sparse, over what it held before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use vmimage::{Disk, Error, Extent, ExtentKind, Result};

/// What is kept or left out as a whole.
pub(crate) const GRAIN: u64 = 64 * 1024;

/// Where a piece of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the disk below, or nowhere.
    Below,
    Zero,
    Here,
}

/// A disk in a file of its own. Nothing is written to the disk below: snapshots share it.
#[derive(Debug)]
pub(crate) struct Stored {
    size: u64,
    below: Option<Arc<dyn Disk>>,
    file: File,
    /// As far as anything was written.
    places: Vec<Place>,
}

impl Stored {
    /// A disk of zeros, or one that shows what `below` holds.
    pub(crate) fn new(size: u64, below: Option<Arc<dyn Disk>>) -> io::Result<Self> {
        Ok(Self { size, below, file: tempfile::tempfile()?, places: Vec::new() })
    }

    /// Writes guest bytes. Not past the end of the disk, where a device ends, too.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or_else(|| io::Error::other("a write past the end of the disk"))?;
        let mut from = at;
        let mut rest = bytes;
        while from < end {
            let grain = from / GRAIN;
            let (start, stop) = self.span(grain);
            let (now, later) = rest.split_at((stop.min(end) - from) as usize);
            let whole = from == start && stop <= end;
            if !whole && self.place(grain) != Place::Here {
                let mut old = vec![0; (stop - start) as usize];
                self.read_exact_at(&mut old, start).map_err(io::Error::other)?;
                self.file.write_all_at(&old, start)?;
            }
            self.file.write_all_at(now, from)?;
            self.put(grain, Place::Here);
            (from, rest) = (stop.min(end), later);
        }
        Ok(())
    }

    /// Makes zeros of a range without storing them.
    pub(crate) fn clear(&mut self, from: u64, to: u64) -> io::Result<()> {
        let to = to.min(self.size);
        let mut at = from;
        while at < to {
            let grain = at / GRAIN;
            let (start, stop) = self.span(grain);
            let end = stop.min(to);
            if at == start && end == stop {
                self.put(grain, Place::Zero);
            } else {
                self.write(at, &vec![0; (end - at) as usize])?;
            }
            at = end;
        }
        Ok(())
    }

    fn span(&self, grain: u64) -> (u64, u64) {
        (grain * GRAIN, ((grain + 1) * GRAIN).min(self.size))
    }

    fn place(&self, grain: u64) -> Place {
        let known = usize::try_from(grain).ok().and_then(|grain| self.places.get(grain));
        known.copied().unwrap_or(Place::Below)
    }

    fn put(&mut self, grain: u64, place: Place) {
        let grain = usize::try_from(grain).unwrap_or(usize::MAX);
        if self.places.len() <= grain {
            self.places.resize(grain + 1, Place::Below);
        }
        if let Some(known) = self.places.get_mut(grain) {
            *known = place;
        }
    }
}

impl Disk for Stored {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let (_, stop) = self.span(offset / GRAIN);
        let len = stop.saturating_sub(offset);
        let below = self.below.as_ref().filter(|below| offset < below.virtual_size());
        match (self.place(offset / GRAIN), below) {
            (Place::Here, _) => Ok(Extent::new(offset, len, ExtentKind::Encoded)),
            (Place::Below, Some(below)) => {
                let extent = below.extent_at(offset)?;
                let kind = match extent.kind {
                    ExtentKind::Zero => ExtentKind::Zero,
                    _ => ExtentKind::Encoded,
                };
                Ok(Extent::new(offset, len.min(extent.len.max(1)), kind))
            }
            _ => Ok(Extent::new(offset, len, ExtentKind::Zero)),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let failed = |e| Error::io("a disk of the simulator", e);
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (_, stop) = self.span(at / GRAIN);
            let count = (stop - at).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(count);
            match (self.place(at / GRAIN), &self.below) {
                (Place::Here, _) => self.file.read_exact_at(now, at).map_err(failed)?,
                (Place::Below, Some(below)) => {
                    let held = below.virtual_size().saturating_sub(at).min(count as u64) as usize;
                    let (stored, none) = now.split_at_mut(held);
                    none.fill(0);
                    if !stored.is_empty() {
                        below.read_exact_at(stored, at)?;
                    }
                }
                _ => now.fill(0),
            }
            (at, rest) = (at + count as u64, later);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_over_another_reads_as_what_was_written_last() {
        let size = 5 * GRAIN + 512;
        let mut below = Stored::new(size, None).unwrap();
        let mut expected = vec![0_u8; size as usize];
        let mut both = |disk: &mut Stored, at: usize, byte: u8, len: usize| {
            expected[at..at + len].fill(byte);
            match byte {
                0 => disk.clear(at as u64, (at + len) as u64).unwrap(),
                _ => disk.write(at as u64, &vec![byte; len]).unwrap(),
            }
            let mut got = vec![9; size as usize];
            disk.read_exact_at(&mut got, 0).unwrap();
            assert!(got == expected, "after {byte} at {at}");
        };
        both(&mut below, 100, 1, 70_000);
        both(&mut below, size as usize - 10, 2, 10);
        let below: Arc<dyn Disk> = Arc::new(below);
        let mut top = Stored::new(size, Some(Arc::clone(&below))).unwrap();
        both(&mut top, 200, 3, 50);
        both(&mut top, 60_000, 0, 140_000);
        both(&mut top, 3 * GRAIN as usize, 4, 2 * GRAIN as usize);
        assert!(top.write(size - 1, &[0; 2]).is_err());
        let map = top.block_map().unwrap();
        assert!(map.any(0..GRAIN) && !map.any(2 * GRAIN..3 * GRAIN) && map.any(size - 512..size));
        let mut first = [0; 1];
        below.read_exact_at(&mut first, 210).unwrap();
        assert_eq!(first, [1], "the disk below is as it was");
    }
}
