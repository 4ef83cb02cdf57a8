//! Several disks side by side, for archives that hold more than one.

use std::ops::Range;
use std::sync::Arc;

use crate::raw::check_range;
use crate::{BlockMap, Disk, Error, ErrorKind, Extent, ExtentKind, MAX_DISK, ReadAt, Result};

/// Where a part may begin: the blocks of no format cross the border of two disks.
const ALIGN: u64 = 2 << 20;
/// Layers of a part count from its index times this.
const LAYERS: u32 = 1024;

/// Several disks side by side in one space of bytes: what [`Plan::of_disks`](crate::Plan::of_disks)
/// lays out as an archive. Each disk begins at a multiple of 2 MiB.
///
/// ```
/// use std::sync::Arc;
/// use vmimage::{Disk, JoinedDisk, RawDisk};
///
/// let disk = |byte: u8| -> vmimage::Result<Arc<dyn Disk>> {
///     Ok(Arc::new(RawDisk::new(Arc::new(vec![byte; 1000]))?))
/// };
/// let joined = JoinedDisk::new(vec![disk(1)?, disk(2)?])?;
/// assert_eq!(joined.parts(), [0..1000, (2 << 20)..(2 << 20) + 1000]);
/// let mut byte = [0];
/// joined.read_exact_at(&mut byte, (2 << 20) + 5)?;
/// assert_eq!(byte, [2]);
/// # Ok::<(), vmimage::Error>(())
/// ```
#[derive(Debug)]
pub struct JoinedDisk {
    disks: Vec<Arc<dyn Disk>>,
    parts: Vec<Range<u64>>,
    size: u64,
}

impl JoinedDisk {
    /// The disks in the order of the archive.
    ///
    /// # Errors
    /// `TooLarge` beyond [`MAX_DISK`] in all, `Usage` for none at all.
    pub fn new(disks: Vec<Arc<dyn Disk>>) -> Result<Self> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        for disk in &disks {
            let start = parts.last().map_or(0, |part| part.end.next_multiple_of(ALIGN));
            let end = start.checked_add(disk.virtual_size()).filter(|end| *end <= MAX_DISK);
            let Some(end) = end else {
                let message = "the disks together are beyond the 64 TiB that are read";
                return Err(Error::new(ErrorKind::TooLarge, message));
            };
            // An empty disk would share its place with the next one.
            parts.push(start..end.max(start + 1));
        }
        let Some(size) = parts.last().map(|part| part.end) else {
            return Err(Error::new(ErrorKind::Usage, "an archive needs at least one disk"));
        };
        Ok(Self { disks, parts, size })
    }

    /// Where each disk lies.
    pub fn parts(&self) -> &[Range<u64>] {
        &self.parts
    }

    /// The part that holds `offset` or begins after it.
    fn part(&self, offset: u64) -> Option<(usize, &Arc<dyn Disk>, Range<u64>)> {
        let index = self.parts.partition_point(|part| part.end <= offset);
        Some((index, self.disks.get(index)?, self.parts.get(index)?.clone()))
    }
}

impl Disk for JoinedDisk {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn layer(&self, layer: u32) -> Option<&dyn ReadAt> {
        self.disks.get((layer / LAYERS) as usize)?.layer(layer % LAYERS)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(&[0], offset, self.size)?;
        let Some((index, disk, part)) = self.part(offset) else {
            return Ok(Extent::new(offset, self.size - offset, ExtentKind::Zero));
        };
        if offset < part.start || offset - part.start >= disk.virtual_size() {
            let end = if offset < part.start { part.start } else { part.end };
            return Ok(Extent::new(offset, end - offset, ExtentKind::Zero));
        }
        let inner = disk.extent_at(offset - part.start)?;
        let kind = match inner.kind {
            ExtentKind::Data { layer, file_offset } if layer < LAYERS => {
                let layer = u32::try_from(index).unwrap_or(u32::MAX / LAYERS) * LAYERS + layer;
                ExtentKind::Data { layer, file_offset }
            }
            ExtentKind::Zero => ExtentKind::Zero,
            _ => ExtentKind::Encoded,
        };
        Ok(Extent::new(offset, inner.len, kind))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(buf, offset, self.size)?;
        let end = offset + buf.len() as u64;
        buf.fill(0);
        for (disk, part) in self.disks.iter().zip(&self.parts) {
            let from = offset.max(part.start);
            let to = end.min(part.start + disk.virtual_size());
            if from < to {
                let within = (from - offset) as usize..(to - offset) as usize;
                disk.read_exact_at(&mut buf[within], from - part.start)?;
            }
        }
        Ok(())
    }

    fn block_map(&self) -> Result<BlockMap> {
        let mut map = BlockMap::empty(self.size);
        for (disk, part) in self.disks.iter().zip(&self.parts) {
            for run in disk.block_map()?.runs() {
                map.insert(part.start + run.start..part.start + run.end);
            }
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RawDisk;

    #[test]
    fn each_disk_keeps_its_content_and_gaps_are_zero() {
        let disk = |byte: u8, len: usize| -> Arc<dyn Disk> {
            Arc::new(RawDisk::new(Arc::new(vec![byte; len])).unwrap())
        };
        let joined = JoinedDisk::new(vec![disk(1, 700), disk(0, 0), disk(3, 3 << 20)]).unwrap();
        let third = 4 << 20;
        assert_eq!(joined.parts(), [0..700, (2 << 20)..(2 << 20) + 1, third..(7 << 20)]);
        let mut all = vec![9; 7 << 20];
        joined.read_exact_at(&mut all, 0).unwrap();
        let of = |byte| all.iter().filter(|b| **b == byte).count();
        assert_eq!((of(1), of(3), of(0)), (700, 3 << 20, (4 << 20) - 700));
        assert!(all[..700].iter().all(|b| *b == 1) && all[third as usize] == 3);
        let extent = joined.extent_at(third + 5).unwrap();
        assert_eq!(extent.kind, ExtentKind::Data { layer: 2048, file_offset: 5 });
        assert_eq!(joined.extent_at(699).unwrap().len, 1);
        assert_eq!(joined.extent_at(700).unwrap().kind, ExtentKind::Zero);
        assert_eq!(joined.extent_at(2 << 20).unwrap().kind, ExtentKind::Zero);
        let runs: Vec<_> = joined.block_map().unwrap().runs().collect();
        assert_eq!(runs, [0..65536, third..(7 << 20)]);
        assert!(JoinedDisk::new(Vec::new()).is_err());
    }
}
