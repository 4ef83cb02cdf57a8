//! The executors: a plan to an ordered stream of bytes, or to a file.

mod deflate;
mod digest;
mod direct;
mod file;
pub(crate) mod fill;
mod grow;
mod gzip;
mod pool;
mod pull;
mod stream;
mod temporary;

pub(crate) use digest::hex;
pub use digest::{DigestSet, Digests};
pub use file::{FileOptions, stream_to_file, to_file};
pub use grow::scan_to_file;
pub use pull::{OutputReader, reader};
pub use stream::{StreamOptions, stream};

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
