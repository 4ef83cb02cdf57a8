//! The positioned executor: several workers read and write at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::digest::{DigestSet, Digests, thread_died};
use super::fill::{self, is_zero};
use super::stream::{StreamOptions, stream};
use super::temporary::Temporary;
use super::{Hooks, Outcome};
use crate::plan::unit::{UNIT, Units};
use crate::{Disk, DiskSource, Error, ErrorKind, Plan, Result, Source};

/// The grain in which zeros become holes of the output file.
const HOLE: usize = 64 * 1024;
/// More do not help: the copy is bound by memory or by the device.
const MAX_WORKERS: usize = 4;

/// How a file is written. The default is as fast as a copy: no digests, a few workers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileOptions {
    digests: DigestSet,
    content_root: bool,
    workers: usize,
    hooks: Hooks,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            digests: DigestSet::NONE,
            content_root: false,
            workers: thread::available_parallelism().map_or(2, usize::from).min(MAX_WORKERS),
            hooks: Hooks::default(),
        }
    }
}

impl FileOptions {
    /// No digests, as many workers as cores, at most four.
    pub fn new() -> Self {
        Self::default()
    }

    /// Digests of the file's bytes. Any of them makes the writing ordered.
    #[must_use]
    pub fn with_digests(mut self, digests: DigestSet) -> Self {
        self.digests = digests;
        self
    }

    /// Whether to compute the content root. It makes the writing ordered.
    #[must_use]
    pub fn with_content_root(mut self, on: bool) -> Self {
        self.content_root = on;
        self
    }

    /// How many threads copy (or compress).
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.clamp(1, 64);
        self
    }

    /// A flag that, once set, ends the transfer with [`ErrorKind::Cancelled`] at the next unit.
    #[must_use]
    pub fn with_cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.hooks.cancel = Some(flag);
        self
    }

    /// A function that is told how many bytes of the output are done. It is called from several
    /// threads; a number may come after a larger one.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.hooks.progress = Some(Arc::new(progress));
        self
    }
}

/// Writes the output of `plan` to the file `path`, reading `disk` at several positions at once.
///
/// Zeros become holes. The file appears under its name when it is whole, in place of one that
/// was there; before, it has no name (or, where the system knows no nameless files, a temporary
/// one in the same folder that every error removes). It is not synced to the device.
///
/// Digests, a content root and compression need the order of [`stream`]; this function then
/// works as [`stream_to_file`] does.
///
/// # Errors
/// [`ErrorKind::Usage`] if the disk has not the size that was planned, or if `path` is something
/// that is not a regular file; the disk's errors; [`ErrorKind::Io`] of the output;
/// [`ErrorKind::Cancelled`]. After an error `path` is as it was before.
pub fn to_file(
    plan: &Plan,
    disk: &Arc<dyn Disk>,
    path: &Path,
    options: &FileOptions,
) -> Result<Outcome> {
    if disk.virtual_size() != plan.block_map().virtual_size() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "the plan is for a disk of {} bytes, this one has {}",
                plan.block_map().virtual_size(),
                disk.virtual_size()
            ),
        ));
    }
    if options.content_root || !options.digests.is_empty() || plan.gzip_level().is_some() {
        let mut source = DiskSource::with_map(Arc::clone(disk), plan.block_map().clone());
        return stream_to_file(plan, &mut source, path, options);
    }
    let output = Temporary::create(path)?;
    let bytes = plan.segments_len();
    output.file().set_len(bytes).map_err(|e| write_error(path, e))?;
    copy_all(plan, disk.as_ref(), output.file(), path, options)?;
    output.persist()?;
    Ok(Outcome { bytes, digests: Digests::default(), content_root: None })
}

/// Writes the output of `plan` to the file `path` in one pass over `source`, with the care of
/// [`to_file`] for the file and with the digests of [`stream`].
///
/// # Errors
/// Those of [`stream`] and of [`to_file`]. After an error `path` is as it was before.
pub fn stream_to_file(
    plan: &Plan,
    source: &mut dyn Source,
    path: &Path,
    options: &FileOptions,
) -> Result<Outcome> {
    let output = Temporary::create(path)?;
    let file = output.file();
    let mut at = 0;
    let stream_options = StreamOptions::from_parts(
        options.digests,
        options.content_root,
        options.workers,
        options.hooks.clone(),
    );
    let mut sink = |bytes: bytes::Bytes| {
        write_sparse(file, &bytes, at)?;
        at += bytes.len() as u64;
        Ok(())
    };
    let outcome =
        stream(plan, source, &mut sink, &stream_options).map_err(|e| name_output(e, path))?;
    file.set_len(outcome.bytes).map_err(|e| write_error(path, e))?;
    output.persist()?;
    Ok(outcome)
}

fn copy_all(
    plan: &Plan,
    disk: &dyn Disk,
    file: &File,
    path: &Path,
    options: &FileOptions,
) -> Result<()> {
    let copy = Copy {
        units: Mutex::new(Units::new(plan.segments())),
        disk,
        file,
        path,
        hooks: &options.hooks,
        done: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.workers).map(|_| scope.spawn(|| copy.work())).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| thread_died("copying"))?)
    })
}

/// What the workers share.
struct Copy<'a> {
    units: Mutex<Units<'a>>,
    disk: &'a dyn Disk,
    file: &'a File,
    path: &'a Path,
    hooks: &'a Hooks,
    done: AtomicU64,
    failed: AtomicBool,
}

impl Copy<'_> {
    fn work(&self) -> Result<()> {
        let result = self.copy_units();
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn copy_units(&self) -> Result<()> {
        let mut buf = vec![0; UNIT];
        loop {
            self.hooks.check()?;
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let unit = self.units.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(unit) = unit else { return Ok(()) };
            if !unit.parts.is_empty() {
                let buf = &mut buf[..unit.len];
                fill::fill(&unit, buf, |to, offset| self.disk.read_exact_at(to, offset))?;
                write_sparse(self.file, buf, unit.offset).map_err(|e| write_error(self.path, e))?;
            }
            let done = self.done.fetch_add(unit.len as u64, Ordering::Relaxed) + unit.len as u64;
            self.hooks.report(done);
        }
    }
}

/// Writes `bytes` at `offset` of a file that reads as zeros there, but for the zeros.
fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut at = 0;
    let mut data_start = None;
    while at < bytes.len() {
        // Chunks end where the file's own blocks do.
        let aligned = HOLE - ((offset + at as u64) % HOLE as u64) as usize;
        let end = (at + aligned).min(bytes.len());
        if is_zero(&bytes[at..end]) {
            if let Some(start) = data_start.take() {
                file.write_all_at(&bytes[start..at], offset + start as u64)?;
            }
        } else {
            data_start.get_or_insert(at);
        }
        at = end;
    }
    match data_start {
        Some(start) => file.write_all_at(&bytes[start..], offset + start as u64),
        None => Ok(()),
    }
}

fn write_error(path: &Path, error: io::Error) -> Error {
    Error::io("cannot write the output", error).with_path(path)
}

/// The sink's failure is about the output file; the source names itself.
fn name_output(error: Error, path: &Path) -> Error {
    let at_output = error.kind() == ErrorKind::Io && error.path().is_none();
    if at_output { error.with_path(path) } else { error }
}
