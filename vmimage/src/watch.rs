//! How long work is watched and stopped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, ErrorKind, Result};

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
            Some(flag) if flag.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Cancelled, "the work was cancelled"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn report(&self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress(bytes);
        }
    }
}
