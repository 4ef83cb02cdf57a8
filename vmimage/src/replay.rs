//! Disks out of compressed files: read forwards, and from the start again where that is not
//! enough.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::raw::check_range;
use crate::{BlockMap, Disk, Extent, ExtentKind, ReadAt, Result, Source};

/// A file as a stream.
#[derive(Debug)]
pub(crate) struct ReadFrom {
    file: Arc<dyn ReadAt>,
    at: u64,
}

impl ReadFrom {
    pub(crate) fn new(file: Arc<dyn ReadAt>) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for ReadFrom {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.file.byte_len()?.saturating_sub(self.at);
        let n = left.min(buf.len() as u64) as usize;
        let buf = buf.get_mut(..n).unwrap_or_default();
        self.file.read_exact_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Opens the stream anew.
type Open = dyn Fn() -> Result<Box<dyn Source>> + Send + Sync;
/// Makes the map, which may take a pass over the stream.
type MakeMap = dyn Fn() -> Result<BlockMap> + Send + Sync;

/// A disk that can only be read forwards, as a [`Disk`]: a read backwards starts again at the
/// beginning. Whoever reads it in order, as every conversion does, reads it once.
pub(crate) struct ReplayDisk {
    size: u64,
    open: Box<Open>,
    make_map: Box<MakeMap>,
    map: OnceLock<BlockMap>,
    /// The stream, and the guest offset at which it stands.
    state: Mutex<Option<(Box<dyn Source>, u64)>>,
}

impl fmt::Debug for ReplayDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayDisk").field("size", &self.size).finish_non_exhaustive()
    }
}

impl ReplayDisk {
    pub(crate) fn new(
        size: u64,
        make_map: impl Fn() -> Result<BlockMap> + Send + Sync + 'static,
        open: impl Fn() -> Result<Box<dyn Source>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            size,
            open: Box::new(open),
            make_map: Box::new(make_map),
            map: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    fn map(&self) -> Result<&BlockMap> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = (self.make_map)()?;
        Ok(self.map.get_or_init(|| map))
    }
}

impl Disk for ReplayDisk {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(&[0], offset, self.size)?;
        let run = self.map()?.next_run(offset).unwrap_or(self.size..self.size);
        Ok(if run.start <= offset {
            Extent::new(offset, run.end - offset, ExtentKind::Encoded)
        } else {
            Extent::new(offset, run.start - offset, ExtentKind::Zero)
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(buf, offset, self.size)?;
        let end = offset + buf.len() as u64;
        let map = self.map()?;
        if !map.any(offset..end) {
            buf.fill(0);
            return Ok(());
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut source = match state.take() {
            Some((source, at)) if at <= offset => source,
            _ => (self.open)()?,
        };
        source.read_exact_at(buf, offset)?;
        if map.next_run(end).is_none() {
            // All data were read: nobody comes back to ask whether the stream was whole.
            source.finish()?;
        }
        *state = Some((source, end));
        Ok(())
    }

    fn block_map(&self) -> Result<BlockMap> {
        self.map().cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{DiskSource, Error, ErrorKind, GRANULE, RawDisk};

    #[derive(Debug)]
    struct Forward(DiskSource, u64, bool);

    impl Source for Forward {
        fn block_map(&self) -> &BlockMap {
            self.0.block_map()
        }

        fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
            assert!(offset >= self.1, "read backwards");
            self.1 = offset + buf.len() as u64;
            self.0.read_exact_at(buf, offset)
        }

        fn finish(&mut self) -> Result<()> {
            if self.2 { Ok(()) } else { Err(Error::truncated("cut short")) }
        }
    }

    fn replay(whole: bool) -> (ReplayDisk, Arc<AtomicUsize>) {
        let bytes: Vec<u8> = (0..3 * GRANULE).map(|n| (n / 1000) as u8).collect();
        let disk: Arc<dyn Disk> = Arc::new(RawDisk::new(Arc::new(bytes)).unwrap());
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let map = disk.block_map().unwrap();
        let replay = ReplayDisk::new(
            disk.virtual_size(),
            move || Ok(map.clone()),
            move || {
                count.fetch_add(1, Ordering::Relaxed);
                let source = DiskSource::new(Arc::clone(&disk))?;
                Ok(Box::new(Forward(source, 0, whole)) as Box<dyn Source>)
            },
        );
        (replay, opened)
    }

    #[test]
    fn only_a_read_backwards_starts_again() {
        let (disk, opened) = replay(true);
        let mut buf = [0; 10];
        for at in [0, 10, 5000, 100_000] {
            disk.read_exact_at(&mut buf, at).unwrap();
            assert_eq!(u64::from(buf[0]), at / 1000 % 256);
        }
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        disk.read_exact_at(&mut buf, 2000).unwrap();
        assert_eq!((buf[0], opened.load(Ordering::Relaxed)), (2, 2));
        assert_eq!(disk.extent_at(7).unwrap().kind, ExtentKind::Encoded);
    }

    #[test]
    fn the_last_data_are_only_given_if_the_stream_was_whole() {
        let (disk, _) = replay(false);
        let mut buf = vec![0; GRANULE as usize];
        disk.read_exact_at(&mut buf, GRANULE).unwrap();
        let error = disk.read_exact_at(&mut buf, 2 * GRANULE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated);
    }
}
