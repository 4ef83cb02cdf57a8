//! The positioned executor: to a file, with the help of the system where it has any.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::Outcome;
use super::digest::{DigestSet, Digests, thread_died};
use super::direct::Direct;
use super::fill::{fill_chunk, is_zero};
use super::stream::{Sink, StreamOptions, stream_into};
use super::temporary::Temporary;
use crate::plan::Segment;
use crate::plan::unit::{UNIT, Units};
use crate::target::XvaChunk;
use crate::{BlockMap, Disk, DiskSource, Error, ErrorKind, GRANULE, Plan, Result, Source, Watch};

/// The grain in which zeros become holes of the output file: a block of most file systems, and of
/// what guests write.
const HOLE: usize = 4096;
/// How much is read before it is written. It stays in a core's cache in between, which a whole
/// unit would not.
const PIECE: u64 = 256 * 1024;
/// A disk that is no plain file may verify or unpack what it reads, in pieces of its own: it is
/// asked for as much as there is.
const WHOLE: u64 = UNIT as u64;

/// How a file is written. The default is as fast as a copy: no digests.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FileOptions {
    pub(super) digests: DigestSet,
    pub(super) content_root: bool,
    workers: Option<usize>,
    pub(super) watch: Watch,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            digests: DigestSet::NONE,
            content_root: false,
            workers: None,
            watch: Watch::default(),
        }
    }
}

impl FileOptions {
    /// No digests; one thread copies, or as many as there are cores compress.
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

    /// How many threads copy (or compress). One is enough where reads come from a cache or a
    /// local disk: the system writes a file for one thread at a time, whoever asks. More hide the
    /// latency of reads from far away.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers.clamp(1, 64));
        self
    }

    /// Both hooks at once: a flag that ends the transfer, and a function that is told how many
    /// bytes of the output are done.
    #[must_use]
    pub fn with_watch(mut self, watch: Watch) -> Self {
        self.watch = watch;
        self
    }

    /// A flag that, once set, ends the transfer with [`ErrorKind::Cancelled`] at the next unit.
    #[must_use]
    pub fn with_cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.watch = self.watch.with_cancel(flag);
        self
    }

    /// A function that is told how many bytes of the output are done. It is called from several
    /// threads; a number may come after a larger one.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.watch = self.watch.with_progress(progress);
        self
    }
}

/// Writes the output of `plan` to the file `path`, reading `disk` at several positions at once.
///
/// Zeros become holes. The file appears under its name when it is whole, in place of one that
/// was there; before, it has no name (or, where the system knows no nameless files, a temporary
/// one in the same folder that every error removes). It is not synced to the device.
///
/// Digests, a content root and compression need the order of [`stream`](crate::stream()); this function then
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
/// [`to_file`] for the file and with the digests of [`stream`](crate::stream()).
///
/// # Errors
/// Those of [`stream`](crate::stream()) and of [`to_file`]. After an error `path` is as it was before.
pub fn stream_to_file(
    plan: &Plan,
    source: &mut dyn Source,
    path: &Path,
    options: &FileOptions,
) -> Result<Outcome> {
    let output = Temporary::create(path)?;
    let file = output.file();
    let stream_options = StreamOptions::from_parts(
        options.digests,
        options.content_root,
        options.workers.unwrap_or_else(super::cores),
        options.watch.clone(),
    );
    let mut sink = Sparse { file, path, at: 0 };
    let outcome = stream_into(plan, source, &mut sink, &stream_options)?;
    file.set_len(outcome.bytes).map_err(|e| write_error(path, e))?;
    output.persist()?;
    Ok(outcome)
}

/// A new file that is written in order; zeros are left out.
struct Sparse<'a> {
    file: &'a File,
    path: &'a Path,
    at: u64,
}

impl Sink for Sparse<'_> {
    fn bytes(&mut self, bytes: bytes::Bytes) -> io::Result<()> {
        write_sparse(self.file, &bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, len: u64) -> bool {
        self.at += len;
        true
    }

    fn path(&self) -> Option<&Path> {
        Some(self.path)
    }
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
        map: plan.block_map(),
        direct: Direct::new(file, plan.block_map().zeros_left_out()),
        file,
        path,
        writing: Mutex::new(()),
        watch: &options.watch,
        done: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    let workers = options.workers.unwrap_or(1);
    if workers == 1 {
        return copy.work();
    }
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| copy.work())).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| thread_died("copying"))?)
    })
}

/// What the workers share.
struct Copy<'a> {
    units: Mutex<Units<'a>>,
    disk: &'a dyn Disk,
    map: &'a BlockMap,
    direct: Direct<'a>,
    file: &'a File,
    path: &'a Path,
    /// Held over a write: the system lets one thread write to a file, and the others would burn
    /// their time waiting for it.
    writing: Mutex<()>,
    watch: &'a Watch,
    done: AtomicU64,
    failed: AtomicBool,
}

/// Bytes on their way to the output.
struct Pending {
    buf: Vec<u8>,
    /// How many may wait.
    piece: u64,
    /// How many there are.
    len: usize,
    /// Where they belong, in bytes of the output.
    offset: u64,
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
        let piece = if self.disk.layer(0).is_some() { PIECE } else { WHOLE };
        let mut pending = Pending { buf: vec![0; piece as usize], piece, len: 0, offset: 0 };
        loop {
            self.watch.check()?;
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let unit = self.units.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(unit) = unit else { return Ok(()) };
            pending.offset = unit.offset;
            for part in &unit.parts {
                self.copy_part(part, &mut pending)?;
            }
            self.flush(&mut pending)?;
            let done = self.done.fetch_add(unit.len, Ordering::Relaxed) + unit.len;
            self.watch.report(done);
        }
    }

    fn copy_part(&self, part: &Segment, pending: &mut Pending) -> Result<()> {
        match part {
            Segment::Inline(bytes) => {
                for piece in bytes.chunks(PIECE as usize) {
                    self.room(pending, piece.len() as u64)?.copy_from_slice(piece);
                }
                Ok(())
            }
            Segment::Zero(len) => {
                self.flush(pending)?;
                pending.offset += len;
                Ok(())
            }
            Segment::Guest { offset, len } => self.copy_guest(*offset, *len, pending),
            Segment::Chunk(chunk) => {
                self.flush(pending)?;
                // Longer than a piece, and not to be cut.
                pending.buf.resize(pending.buf.len().max(XvaChunk::MAX), 0);
                pending.len = chunk.output_len() as usize;
                let to = &mut pending.buf[..pending.len];
                fill_chunk(chunk, self.map, to, |to, at| self.disk.read_exact_at(to, at))?;
                self.flush(pending)
            }
        }
    }

    /// Copies runs of some length within the system, and the rest through the buffer.
    fn copy_guest(&self, offset: u64, len: u64, pending: &mut Pending) -> Result<()> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            if let Some(run) = self.direct.run(self.disk, at, end)? {
                self.flush(pending)?;
                let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
                let done = self.direct.copy(self.disk, &run, pending.offset)?;
                pending.offset += done;
                at += done;
                if done == run.len {
                    continue;
                }
            }
            let n = match pending.piece {
                PIECE => ((at / GRANULE + 1) * GRANULE).min(end) - at,
                whole => whole.min(end - at),
            };
            self.disk.read_exact_at(self.room(pending, n)?, at)?;
            at += n;
        }
        Ok(())
    }

    /// Room for `n` bytes, at most a piece, behind those that are pending.
    fn room<'p>(&self, pending: &'p mut Pending, n: u64) -> Result<&'p mut [u8]> {
        if pending.len as u64 + n > pending.piece {
            self.flush(pending)?;
        }
        let start = pending.len;
        pending.len += n as usize;
        Ok(&mut pending.buf[start..pending.len])
    }

    fn flush(&self, pending: &mut Pending) -> Result<()> {
        let bytes = &pending.buf[..pending.len];
        if !bytes.is_empty() {
            let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            write_sparse(self.file, bytes, pending.offset)
                .map_err(|e| write_error(self.path, e))?;
        }
        pending.offset += pending.len as u64;
        pending.len = 0;
        Ok(())
    }
}

/// Writes `bytes` at `offset` of a file that reads as zeros there, but for the zeros.
pub(super) fn write_sparse(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
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

pub(super) fn write_error(path: &Path, error: io::Error) -> Error {
    Error::io("cannot write the output", error).with_path(path)
}
