//! The ordered executor: one pass from a source to a sink, digests on the side.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use bytes::Bytes;

use super::digest::{DigestSet, DigestThreads, thread_died};
use super::fill::{self, GuestPart, ZEROS};
use super::gzip::Compressors;
use super::pool::Pool;
use super::{Outcome, QUEUE};
use crate::content_root::RootBuilder;
use crate::plan::unit::{UNIT, Unit, Units};
use crate::{Error, ErrorKind, Plan, Result, Source, Watch};

/// What a transfer computes, and how it is watched and stopped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamOptions {
    digests: DigestSet,
    content_root: bool,
    workers: usize,
    watch: Watch,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            digests: DigestSet::ALL,
            content_root: true,
            workers: super::cores(),
            watch: Watch::default(),
        }
    }
}

impl StreamOptions {
    /// All digests and the content root, as many compression workers as cores.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which digests of the output to compute.
    #[must_use]
    pub fn with_digests(mut self, digests: DigestSet) -> Self {
        self.digests = digests;
        self
    }

    /// Whether to compute the content root of the disk.
    #[must_use]
    pub fn with_content_root(mut self, on: bool) -> Self {
        self.content_root = on;
        self
    }

    /// How many threads compress, where the format does.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.clamp(1, 64);
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

    /// A function that is told how many bytes of the output the sink has taken so far.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.watch = self.watch.with_progress(progress);
        self
    }

    pub(super) fn from_parts(
        digests: DigestSet,
        content_root: bool,
        workers: usize,
        watch: Watch,
    ) -> Self {
        Self { digests, content_root, workers, watch }
    }
}

/// Sends the output of `plan` to `sink`, in order and in one pass over `source`.
///
/// Reading, compressing, hashing and the sink overlap: reading and each digest have their own
/// thread with a short queue, and the sink runs on the caller's thread. Memory stays below about
/// 16 MiB for a sink that keeps nothing. The pieces that the sink gets are at most 1 MiB long,
/// but for a compressed archive, whose pieces can be a little longer.
///
/// The source's [`finish`](Source::finish) is called before the sink gets the last piece, so a
/// truncated input is an error before the output is whole, and never an `Ok`.
///
/// ```
/// use std::sync::Arc;
/// use vmimage::{DiskSource, Plan, PlanOptions, StreamOptions, TargetFormat, RawDisk};
///
/// # fn main() -> vmimage::Result<()> {
/// let disk = Arc::new(RawDisk::new(Arc::new(vec![7_u8; 100_000]))?);
/// let mut source = DiskSource::new(disk)?;
/// let plan = Plan::new(
///     TargetFormat::Qcow2,
///     vmimage::Source::block_map(&source),
///     &PlanOptions::new(),
/// )?;
/// let mut file = Vec::new();
/// let outcome = vmimage::stream(
///     &plan,
///     &mut source,
///     &mut |bytes| {
///         file.extend_from_slice(&bytes);
///         Ok(())
///     },
///     &StreamOptions::new(),
/// )?;
/// assert_eq!(Some(outcome.bytes), plan.output_len());
/// assert_eq!(&file[..4], b"QFI\xfb");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Usage`] if the plan was made from another block map than the source's; the
/// source's errors; [`ErrorKind::Io`] with the sink's error as its source;
/// [`ErrorKind::Cancelled`]. After an error the sink has had a part of the output, which must be
/// thrown away. A failure of the sink and a set flag are noticed between two reads: a source that
/// blocks must be woken by its owner.
pub fn stream(
    plan: &Plan,
    source: &mut dyn Source,
    sink: &mut dyn FnMut(Bytes) -> io::Result<()>,
    options: &StreamOptions,
) -> Result<Outcome> {
    stream_into(plan, source, &mut Pieces(sink), options)
}

/// Where a stream goes.
pub(super) trait Sink {
    fn bytes(&mut self, bytes: Bytes) -> io::Result<()>;

    /// Leaves so many zeros out, where they need not be written; whether it did.
    fn skip(&mut self, len: u64) -> bool {
        let _ = len;
        false
    }

    /// What a failure is about, if it has a name.
    fn path(&self) -> Option<&Path> {
        None
    }
}

/// A sink that knows nothing of zeros.
struct Pieces<'a>(&'a mut dyn FnMut(Bytes) -> io::Result<()>);

impl Sink for Pieces<'_> {
    fn bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        (self.0)(bytes)
    }
}

/// So many zeros, a unit at a time.
fn zeros(mut len: u64) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let n = len.min(UNIT as u64);
        len -= n;
        (n > 0).then(|| Bytes::from_static(&ZEROS).slice(..n as usize))
    })
}

/// As [`stream`].
pub(super) fn stream_into(
    plan: &Plan,
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    options: &StreamOptions,
) -> Result<Outcome> {
    if plan.block_map() != source.block_map() {
        return Err(Error::new(
            ErrorKind::Usage,
            "the plan was made from another block map than the source has: make it from \
             `source.block_map()`",
        ));
    }
    thread::scope(|scope| {
        let (queue, units) = sync_channel(QUEUE);
        let (root_queue, root) = if options.content_root {
            let (queue, pieces) = sync_channel(QUEUE);
            let size = plan.block_map().virtual_size();
            (Some(queue), Some(scope.spawn(move || hash_root(size, &pieces))))
        } else {
            (None, None)
        };
        let watch = options.watch.clone();
        let reader = scope.spawn(move || {
            Reader { plan, source, watch, queue, root_queue, pool: Pool::default() }.run()
        });
        let digests = DigestThreads::start(scope, options.digests);
        let gzip = plan.gzip_level().map(|level| Compressors::start(scope, level, options.workers));
        let mut out = Output { sink, digests, watch: &options.watch, bytes: 0 };
        let sent = out.send_all(&units, gzip, plan.segments_len());
        // Ends a reader that waits for room, and so every other thread.
        drop(units);
        let read = reader.join().map_err(|_| thread_died("reading"))?;
        let root = root.map(ScopedJoinHandle::join).transpose();
        // A failed reader ends the output early, which is then not the cause.
        read?;
        sent?;
        Ok(Outcome {
            bytes: out.bytes,
            digests: out.digests.finish()?,
            content_root: root.map_err(|_| thread_died("content root"))?,
        })
    })
}

/// A piece of the output before compression.
enum Piece {
    Bytes(Bytes),
    /// So many zeros, which are not worth a buffer.
    Zeros(u64),
}

/// Guest data for the content root.
type RootPiece = (Bytes, Vec<GuestPart>);

struct Reader<'a> {
    plan: &'a Plan,
    source: &'a mut dyn Source,
    watch: Watch,
    queue: SyncSender<Piece>,
    root_queue: Option<SyncSender<RootPiece>>,
    pool: Pool,
}

impl Reader<'_> {
    /// Reads all units in order. The last one is held back until the source has proved that it
    /// was whole.
    fn run(mut self) -> Result<()> {
        let mut held: Option<Piece> = None;
        for unit in Units::new(self.plan.segments()) {
            self.watch.check()?;
            let piece = self.read(&unit)?;
            if let Some(previous) = held.replace(piece)
                && self.queue.send(previous).is_err()
            {
                // The sink has failed, and says why.
                return Ok(());
            }
        }
        self.source.finish()?;
        self.watch.check()?;
        if let Some(last) = held {
            let _ = self.queue.send(last);
        }
        Ok(())
    }

    fn read(&mut self, unit: &Unit) -> Result<Piece> {
        if unit.parts.is_empty() {
            return Ok(Piece::Zeros(unit.len));
        }
        let mut buffer = self.pool.take(unit.len as usize);
        let source = &mut *self.source;
        let map = self.plan.block_map();
        let guest = fill::fill(unit, map, buffer.as_mut_slice(), |buf, offset| {
            source.read_exact_at(buf, offset)
        })?;
        let bytes = buffer.freeze();
        if let Some(queue) = &self.root_queue
            && !guest.is_empty()
        {
            queue.send((bytes.clone(), guest)).map_err(|_| thread_died("content root"))?;
        }
        Ok(Piece::Bytes(bytes))
    }
}

fn hash_root(size: u64, pieces: &Receiver<RootPiece>) -> String {
    let mut root = RootBuilder::new(size);
    for (bytes, parts) in pieces {
        for part in parts {
            root.update(part.offset, &bytes[part.range]);
        }
    }
    root.finish()
}

struct Output<'a, 'scope> {
    sink: &'a mut dyn Sink,
    digests: DigestThreads<'scope>,
    watch: &'a Watch,
    bytes: u64,
}

impl Output<'_, '_> {
    /// Sends what comes; so long is the output before compression, unless the reader fails.
    fn send_all(
        &mut self,
        pieces: &Receiver<Piece>,
        gzip: Option<Compressors>,
        whole: u64,
    ) -> Result<()> {
        let Some(mut gzip) = gzip else {
            return pieces.iter().try_for_each(|piece| match piece {
                Piece::Bytes(bytes) => self.send(bytes),
                Piece::Zeros(len) => self.send_zeros(len),
            });
        };
        self.send(Compressors::header())?;
        let mut left = whole;
        for piece in pieces {
            match piece {
                Piece::Bytes(unit) => {
                    left -= unit.len() as u64;
                    self.compress(&mut gzip, unit)?;
                }
                Piece::Zeros(len) => {
                    left -= len;
                    zeros(len).try_for_each(|unit| self.compress(&mut gzip, unit))?;
                }
            }
        }
        if left > 0 {
            // The reader has failed, and says why. A trailer would make the stream a sound one.
            return Ok(());
        }
        while let Some(part) = gzip.pop()? {
            self.send(part)?;
        }
        self.send(gzip.trailer())
    }

    fn compress(&mut self, gzip: &mut Compressors, unit: Bytes) -> Result<()> {
        match gzip.push(unit)? {
            Some(part) => self.send(part),
            None => Ok(()),
        }
    }

    fn send(&mut self, bytes: Bytes) -> Result<()> {
        self.watch.check()?;
        self.digests.update(&bytes)?;
        self.bytes += bytes.len() as u64;
        if let Err(e) = self.sink.bytes(bytes) {
            let error = Error::io("writing the output failed", e);
            return Err(match self.sink.path() {
                Some(path) => error.with_path(path),
                None => error,
            });
        }
        self.watch.report(self.bytes);
        Ok(())
    }

    /// Digests must see every zero; a sink that makes holes need not.
    fn send_zeros(&mut self, len: u64) -> Result<()> {
        if !self.digests.is_empty() || !self.sink.skip(len) {
            return zeros(len).try_for_each(|bytes| self.send(bytes));
        }
        self.bytes += len;
        self.watch.report(self.bytes);
        Ok(())
    }
}

const _: () = assert!(UNIT <= ZEROS.len());
