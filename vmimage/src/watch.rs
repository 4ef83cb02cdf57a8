//! How long work is watched and stopped.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, ErrorKind, ReadAt, Result};

/// Hooks of work that takes its time: a flag that ends it, and a function that is told how far it
/// is. A deadline is a flag that a clock sets.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::AtomicBool;
/// use vmimage::{ErrorKind, RawDisk, Watch};
///
/// let disk = RawDisk::new(Arc::new(vec![1; 1000]))?;
/// let late = Arc::new(AtomicBool::new(true));
/// let watch = Watch::new().with_cancel(late);
/// let error = vmimage::guest_sha256_watched(&disk, &watch).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Cancelled);
/// # Ok::<(), vmimage::Error>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Watch {
    cancel: Option<Arc<AtomicBool>>,
    progress: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("cancel", &self.cancel)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

impl Watch {
    /// Nobody watches.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag that, once set, ends the work with [`ErrorKind::Cancelled`] soon afterwards: it is
    /// looked at about once per MiB.
    #[must_use]
    pub fn with_cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
    }

    /// A function that is told how many bytes are done; of what, the work says. It may be called
    /// from several threads, and a number may come after a larger one.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        match &self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(cancelled()),
            _ => Ok(()),
        }
    }

    pub(crate) fn report(&self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress(bytes);
        }
    }
}

pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the work was cancelled")
}

/// A file whose reads fail once a flag is set: work that reads it ends then, wherever it is.
#[derive(Debug)]
pub(crate) struct Cancellable<F> {
    file: F,
    flag: Arc<AtomicBool>,
}

impl<F> Cancellable<F> {
    pub(crate) fn new(file: F, flag: Arc<AtomicBool>) -> Self {
        Self { file, flag }
    }

    fn go_on(&self) -> io::Result<()> {
        match self.flag.load(Ordering::Relaxed) {
            true => Err(io::Error::other(cancelled())),
            false => Ok(()),
        }
    }
}

impl<F: ReadAt> ReadAt for Cancellable<F> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.go_on()?;
        self.file.read_exact_at(buf, offset)
    }

    fn byte_len(&self) -> io::Result<u64> {
        self.file.byte_len()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.go_on()?;
        self.file.next_data(offset)
    }

    fn as_file(&self) -> Option<&File> {
        self.file.as_file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_read_is_told_as_such_through_all_layers() {
        let flag = Arc::new(AtomicBool::new(false));
        let file = Cancellable::new(vec![7; 4096], Arc::clone(&flag));
        let mut buf = [0; 16];
        file.read_exact_at(&mut buf, 100).unwrap();
        flag.store(true, Ordering::Relaxed);
        let error = Error::io("cannot read", file.read_exact_at(&mut buf, 0).unwrap_err());
        assert_eq!((error.kind(), buf), (ErrorKind::Cancelled, [7; 16]));
        assert!(file.next_data(0).is_err());
        assert_eq!(file.byte_len().unwrap(), 4096);
    }
}
