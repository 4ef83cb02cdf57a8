//! The executors: a plan to an ordered stream of bytes, or to a file.

mod digest;
mod direct;
mod file;
pub(crate) mod fill;
mod gzip;
mod pool;
mod stream;
mod temporary;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use digest::hex;
pub use digest::{DigestSet, Digests};
pub use file::{FileOptions, stream_to_file, to_file};
pub use stream::{StreamOptions, stream};

use crate::{Error, ErrorKind, Result};

/// How many units wait in each queue: enough to keep all threads busy, few enough that a
/// transfer stays within a few MiB.
const QUEUE: usize = 4;

/// How many threads can run at once.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// What a transfer did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The length of the output in bytes.
    pub bytes: u64,
    /// Digests of the output, as far as they were asked for.
    pub digests: Digests,
    /// The [content root](crate::content_root()) of the disk, if it was asked for: 64 lower-case
    /// hexadecimal digits.
    pub content_root: Option<String>,
}

/// The hooks that both executors share.
#[derive(Clone, Default)]
struct Hooks {
    cancel: Option<Arc<AtomicBool>>,
    progress: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("cancel", &self.cancel)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

impl Hooks {
    fn check(&self) -> Result<()> {
        match &self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => {
                Err(Error::new(ErrorKind::Cancelled, "the transfer was cancelled"))
            }
            _ => Ok(()),
        }
    }

    fn report(&self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress(bytes);
        }
    }
}
