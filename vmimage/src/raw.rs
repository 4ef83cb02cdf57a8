//! Raw images: the bytes of the disk, with the file system's holes as the map.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Disk, Error, ErrorKind, Extent, ExtentKind, ReadAt, Result};

/// The largest disk that is read: 64 TiB. Its block map takes up to 128 MiB.
pub const MAX_DISK: u64 = 64 << 40;

/// A file's answers about its holes, the last one remembered: neighbouring questions are the
/// rule, and each costs two system calls.
#[derive(Debug)]
pub(crate) struct Holes {
    file: Arc<dyn ReadAt>,
    last: Mutex<(Range<u64>, bool)>,
}

impl Holes {
    pub(crate) fn new(file: Arc<dyn ReadAt>) -> Self {
        Self { file, last: Mutex::new((0..0, false)) }
    }

    /// Whether `offset` may hold data, and up to where the answer holds; `offset` is below `len`.
    pub(crate) fn look(&self, offset: u64, len: u64) -> Result<(bool, u64)> {
        {
            let (range, data) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if range.contains(&offset) {
                return Ok((*data, range.end.min(len)));
            }
        }
        let next = self
            .file
            .next_data(offset)
            .map_err(|e| Error::io("cannot look for holes", e).with_offset(offset))?;
        let (range, data) = match next {
            Some(run) if run.start <= offset && run.end > offset => (offset..run.end, true),
            Some(run) if run.start > offset => (offset..run.start, false),
            _ => (offset..u64::MAX, false),
        };
        let end = range.end.min(len);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (range, data);
        Ok((data, end))
    }
}

/// A raw image.
#[derive(Debug)]
pub struct RawDisk {
    file: Arc<dyn ReadAt>,
    holes: Holes,
    size: u64,
}

impl RawDisk {
    /// The disk whose bytes are those of `file`.
    ///
    /// # Errors
    /// `TooLarge` beyond [`MAX_DISK`]; I/O failures.
    pub fn new(file: Arc<dyn ReadAt>) -> Result<Self> {
        let size = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
        if size > MAX_DISK {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a disk of {size} bytes is beyond the 64 TiB that are read"),
            ));
        }
        Ok(Self { holes: Holes::new(Arc::clone(&file)), file, size })
    }
}

/// Refuses a read that does not lie within a disk of `size` bytes.
pub(crate) fn check_range(buf: &[u8], offset: u64, size: u64) -> Result<()> {
    match offset.checked_add(buf.len() as u64) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Usage,
            format!("a read of {} bytes ends past the disk's {size} bytes", buf.len()),
        )
        .with_offset(offset)),
    }
}

impl Disk for RawDisk {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn layer(&self, layer: u32) -> Option<&dyn ReadAt> {
        (layer == 0).then_some(&self.file)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(&[0], offset, self.size)?;
        let (data, end) = self.holes.look(offset, self.size)?;
        let kind = if data {
            ExtentKind::Data { layer: 0, file_offset: offset }
        } else {
            ExtentKind::Zero
        };
        Ok(Extent::new(offset, end - offset, kind))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(buf, offset, self.size)?;
        self.file
            .read_exact_at(buf, offset)
            .map_err(|e| Error::io("cannot read the image", e).with_offset(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_not_in_the_map() {
        let file = tempfile::tempfile().unwrap();
        file.set_len((8 << 20) + 100).unwrap();
        file.write_all_at(b"data", 4 << 20).unwrap();
        let disk = RawDisk::new(Arc::new(file)).unwrap();
        let map = disk.block_map().unwrap();
        assert!(map.any(4 << 20..(4 << 20) + 1));
        assert!(map.allocated() < 4 << 20, "{map:?}");
        let mut buf = [9; 6];
        disk.read_exact_at(&mut buf, 4 << 20).unwrap();
        assert_eq!(&buf, b"data\0\0");
        let error = disk.read_exact_at(&mut buf, (8 << 20) + 95).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(disk.extent_at((8 << 20) + 100).is_err());
    }

    #[test]
    fn bytes_in_memory_are_all_data() {
        let disk = RawDisk::new(Arc::new(vec![1_u8; 1000])).unwrap();
        let extent = disk.extent_at(10).unwrap();
        assert_eq!((extent.offset, extent.len), (10, 990));
        assert_eq!(extent.kind, ExtentKind::Data { layer: 0, file_offset: 10 });
    }
}
