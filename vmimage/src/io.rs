//! Positioned reads: the one door through which image files are read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that can be read at any position, from several threads at once.
///
/// Implemented for files, byte slices and vectors; implement it for anything else that can
/// answer a positioned read (a block device, an HTTP range client, a fault-injecting double).
pub trait ReadAt: Send + Sync + std::fmt::Debug {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the bytes end before `buf` is full.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn byte_len(&self) -> io::Result<u64>;

    /// The next range at or after `offset` that may hold something other than zeros, or `None`
    /// if only zeros follow. A source that cannot tell answers "everything".
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.byte_len()?;
        Ok((offset < len).then_some(offset..len))
    }

    /// The file with just these bytes, if that is what the source is: the system can then copy
    /// from it without a detour through this process.
    fn as_file(&self) -> Option<&File> {
        None
    }
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }

    fn byte_len(&self) -> io::Result<u64> {
        // A block device has no length in its metadata; its end can be sought.
        let meta = self.metadata()?;
        if meta.is_file() {
            Ok(meta.len())
        } else {
            io::Seek::seek(&mut &*self, io::SeekFrom::End(0))
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        use rustix::fs::{SeekFrom, seek};
        let len = self.byte_len()?;
        if offset >= len {
            return Ok(None);
        }
        let start = match seek(self, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // The file system does not know holes.
            Err(rustix::io::Errno::INVAL) => return Ok(Some(offset..len)),
            Err(e) => return Err(e.into()),
        };
        let end = seek(self, SeekFrom::Hole(start))?;
        Ok(Some(start..end.max(start)))
    }

    fn as_file(&self) -> Option<&File> {
        Some(self)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buf, offset)
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }

    fn byte_len(&self) -> io::Result<u64> {
        (**self).byte_len()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        (**self).next_data(offset)
    }

    fn as_file(&self) -> Option<&File> {
        (**self).as_file()
    }
}
