//! The data plane: one disk of an artifact, in one pass, to whoever takes the bytes.
//!
//! Decoding, laying out, compressing and hashing are blocking work on threads of their own
//! ([`vmimage::stream`]); the uploader is asynchronous. A short bounded queue is between them,
//! so memory does not depend on the size of the disk.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use vmimage::{Plan, PlanOptions, StreamOptions, TargetFormat};

use crate::{
    Artifact, CancelToken, DiskInfo, Error, ErrorKind, Machine, PlannedImage, Result, StepCx,
};

/// How many pieces of at most 1 MiB wait for the uploader.
const QUEUE: usize = 4;

/// What was sent of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sent {
    /// How many bytes.
    pub bytes: u64,
    /// Their MD5.
    pub md5: String,
    /// Their SHA-256.
    pub sha256: String,
    /// Their SHA-512.
    pub sha512: String,
    /// The content root of the disk.
    pub content_root: String,
}

impl Sent {
    /// What a target knows that did not take its bytes from [`send`]; it fills in the digests.
    pub fn new(bytes: u64) -> Self {
        let none = String::new;
        Self { bytes, md5: none(), sha256: none(), sha512: none(), content_root: none() }
    }
}

/// The bytes of an image on their way to whoever takes them.
#[non_exhaustive]
pub struct Outgoing {
    /// Their exact number, where the format tells it beforehand.
    pub len: Option<u64>,
    /// The bytes. An error is in place of the end if they are not whole.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Sends disk `index` of `artifact` as `format` to `sink`; ends only when nothing of it is under
/// way any more, however it ends.
///
/// The plan depends on the run and the disk alone: the same gives the same bytes again, and no two
/// disks get a VHD of the same UUID.
///
/// `sink` must take the body to its end, and is a failure if it says that all is well before.
///
/// # Errors
/// [`ErrorKind::Cancelled`] by the step's token; the failure of whichever side failed first.
pub async fn send<F, Fut>(
    cx: &StepCx,
    artifact: &Arc<dyn Artifact>,
    index: usize,
    format: TargetFormat,
    sink: F,
) -> Result<Sent>
where
    F: FnOnce(Outgoing) -> Fut + Send,
    Fut: Future<Output = Result<()>> + Send,
{
    // One token for this attempt: a sink that fails ends a read that waits.
    let attempt = CancelToken::new();
    let _ends_with_us = CancelOnDrop(attempt.clone());
    let work = attempt_send(cx, artifact, index, format, &attempt, sink);
    tokio::pin!(work);
    let result = tokio::select! {
        biased;
        () = cx.cancel().cancelled() => {
            attempt.cancel();
            work.await
        }
        result = &mut work => result,
    };
    artifact.settle().await;
    match result {
        Err(_) if cx.cancel().is_cancelled() => Err(Error::cancelled()),
        Err(e) if e.kind() == ErrorKind::Data => {
            Err(e.context(format!("disk {index} of {}", artifact.machine().name)))
        }
        other => other,
    }
}

/// Computes what [`send`] would send, without sending it.
///
/// # Errors
/// Those of [`send`] but for the sink's.
pub async fn digest(
    cx: &StepCx,
    artifact: &Arc<dyn Artifact>,
    index: usize,
    format: TargetFormat,
) -> Result<Sent> {
    send(cx, artifact, index, format, |mut outgoing| async move {
        while let Some(piece) = outgoing.body.next().await {
            piece.map_err(|e| Error::new(ErrorKind::Data, e.to_string()))?;
        }
        Ok(())
    })
    .await
}

async fn attempt_send<F, Fut>(
    cx: &StepCx,
    artifact: &Arc<dyn Artifact>,
    index: usize,
    format: TargetFormat,
    attempt: &CancelToken,
    sink: F,
) -> Result<Sent>
where
    F: FnOnce(Outgoing) -> Fut + Send,
    Fut: Future<Output = Result<()>> + Send,
{
    let source = tokio::select! {
        biased;
        source = artifact.open(index, attempt) => source?,
        // One that does not listen is not waited for.
        () = attempt.cancelled() => return Err(Error::cancelled()),
    };
    let uuid = cx.run_id().derive(&format!("vhd/{index}"));
    let options = PlanOptions::new().with_uuid(uuid.into_bytes());
    let plan = Plan::new(format, source.block_map(), &options)?;
    let len = plan.output_len();
    let total = len.unwrap_or_else(|| plan.data_len());
    let (queue, pieces) = mpsc::channel(QUEUE);
    let progress = cx.clone();
    cx.progress(0, Some(total));
    let options = StreamOptions::new()
        .with_cancel(attempt.flag())
        .with_progress(move |done| progress.progress(done.min(total), Some(total)));
    let stopped = attempt.clone();
    let producer =
        tokio::task::spawn_blocking(move || produce(&plan, source, &options, &queue, &stopped));
    let taken = Arc::new(AtomicU64::new(0));
    let sunk = sink(Outgoing { len, body: body(pieces, Arc::clone(&taken)) }).await;
    if sunk.is_err() {
        attempt.cancel();
    }
    let produced = producer.await.map_err(|e| {
        Error::new(ErrorKind::Internal, "the transfer's thread died").with_source(e)
    })?;
    // What waits in the queue has been sent, and nobody has it.
    let produced = produced.and_then(|sent| match taken.load(Ordering::SeqCst) {
        all if all == sent.bytes => Ok(sent),
        _ => Err(Produced::Stopped),
    });
    match (sunk, produced) {
        (Ok(()), Ok(sent)) => Ok(sent),
        // A sink that fails stops the producer; a producer that fails breaks the sink's body.
        (Err(e), Ok(_) | Err(Produced::Stopped)) => Err(e),
        (_, Err(Produced::Failed(e))) => Err(e),
        (Ok(()), Err(Produced::Stopped)) => Err(Error::new(
            ErrorKind::Target,
            format!("disk {index}: the target did not take all bytes"),
        )
        .with_retryable(true)),
    }
}

enum Produced {
    /// The sink went away.
    Stopped,
    Failed(Error),
}

enum Piece {
    Bytes(Bytes),
    Failed(io::Error),
    End,
}

/// The images of `format` that a machine becomes, one a disk; `name` gives their names.
pub(crate) fn planned(
    machine: &Machine,
    format: TargetFormat,
    name: impl Fn(usize) -> String,
) -> Vec<PlannedImage> {
    let image = |(index, disk): (usize, &DiskInfo)| {
        let bytes = bytes_about(format, disk);
        PlannedImage::new(name(index), format.as_str(), disk.virtual_size, bytes)
    };
    machine.disks.iter().enumerate().map(image).collect()
}

/// About how many bytes an image of a disk has.
fn bytes_about(format: TargetFormat, disk: &DiskInfo) -> u64 {
    let data = disk.allocated.unwrap_or(disk.virtual_size);
    match format {
        TargetFormat::Raw | TargetFormat::VhdFixed => disk.virtual_size,
        // Tables and bitmaps are well below a thousandth of the disk.
        _ => data.saturating_add(disk.virtual_size / 1024).saturating_add(4 << 20),
    }
}

/// The blocking side of a transfer.
fn produce(
    plan: &Plan,
    mut source: Box<dyn vmimage::Source>,
    options: &StreamOptions,
    queue: &mpsc::Sender<Piece>,
    stopped: &CancelToken,
) -> Result<Sent, Produced> {
    let mut gone = false;
    let result = vmimage::stream(
        plan,
        source.as_mut(),
        &mut |bytes| {
            queue.blocking_send(Piece::Bytes(bytes)).map_err(|_| {
                gone = true;
                io::Error::from(io::ErrorKind::BrokenPipe)
            })
        },
        options,
    );
    // Lets go of the source's connection before the end is told.
    drop(source);
    match result {
        Ok(outcome) => {
            let _ = queue.blocking_send(Piece::End);
            let digest = |d: Option<String>| d.unwrap_or_default();
            Ok(Sent {
                bytes: outcome.bytes,
                md5: digest(outcome.digests.md5),
                sha256: digest(outcome.digests.sha256),
                sha512: digest(outcome.digests.sha512),
                content_root: digest(outcome.content_root),
            })
        }
        Err(_) if gone => Err(Produced::Stopped),
        // What a source says once it is told to stop is not the cause.
        Err(_) if stopped.is_cancelled() => {
            let _ = queue.try_send(Piece::Failed(io::Error::other("cancelled")));
            Err(Produced::Stopped)
        }
        Err(e) => {
            let e = Error::from(e);
            let _ = queue.blocking_send(Piece::Failed(io::Error::other(e.to_string())));
            Err(Produced::Failed(e))
        }
    }
}

/// The queue as a body. Only a told end is an end: a sender that vanishes is a failure.
/// `taken` counts what is taken from it.
fn body(
    pieces: mpsc::Receiver<Piece>,
    taken: Arc<AtomicU64>,
) -> BoxStream<'static, io::Result<Bytes>> {
    stream::unfold(Some((pieces, taken)), |state| async move {
        let (mut pieces, taken) = state?;
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => {
                taken.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                Some((Ok(bytes), Some((pieces, taken))))
            }
            Some(Piece::End) => None,
            Some(Piece::Failed(e)) => Some((Err(e), None)),
            None => Some((Err(io::Error::other("the transfer broke off")), None)),
        }
    })
    .boxed()
}

struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use vmimage::{BlockMap, Source};

    use super::*;
    use crate::{ArtifactFormat, Context, RunId};

    /// A disk in memory that can break, or stay silent until it is cancelled.
    struct Double {
        machine: Machine,
        data: Arc<Vec<u8>>,
        fault: Fault,
        settled: AtomicBool,
        opened: Mutex<u32>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        TruncatedAtTheEnd,
        SilentAt(u64),
        FailsAt(u64),
    }

    struct DoubleSource {
        data: Arc<Vec<u8>>,
        map: BlockMap,
        fault: Fault,
        cancel: CancelToken,
    }

    impl Source for DoubleSource {
        fn block_map(&self) -> &BlockMap {
            &self.map
        }
        fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> vmimage::Result<()> {
            match self.fault {
                Fault::FailsAt(at) if offset >= at => {
                    return Err(vmimage::Error::corrupt("the double is broken"));
                }
                Fault::SilentAt(at) if offset >= at => {
                    while !self.cancel.is_cancelled() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    return Err(vmimage::Error::corrupt("woken"));
                }
                _ => {}
            }
            let start = usize::try_from(offset).unwrap();
            buf.copy_from_slice(&self.data[start..start + buf.len()]);
            Ok(())
        }
        fn finish(&mut self) -> vmimage::Result<()> {
            match self.fault {
                Fault::TruncatedAtTheEnd => Err(vmimage::Error::truncated("cut off")),
                _ => Ok(()),
            }
        }
    }

    #[async_trait]
    impl Artifact for Double {
        fn machine(&self) -> &Machine {
            &self.machine
        }
        fn format(&self) -> ArtifactFormat {
            ArtifactFormat::Raw
        }
        async fn open(&self, _: usize, cancel: &CancelToken) -> Result<Box<dyn Source>> {
            *self.opened.lock().unwrap() += 1;
            let mut map = BlockMap::empty(self.data.len() as u64);
            map.insert(0..self.data.len() as u64);
            let (data, fault, cancel) = (Arc::clone(&self.data), self.fault, cancel.clone());
            Ok(Box::new(DoubleSource { data, map, fault, cancel }))
        }
        async fn settle(&self) {
            self.settled.store(true, Ordering::SeqCst);
        }
    }

    const SIZE: usize = 9 << 20;

    fn double(fault: Fault) -> Arc<Double> {
        let data: Vec<u8> = (0..SIZE).map(|i| (i / 4096 % 251) as u8 + 1).collect();
        let machine = Machine::new("web01").with_disk(DiskInfo::new("root", "1", SIZE as u64));
        Arc::new(Double {
            machine,
            data: Arc::new(data),
            fault,
            settled: AtomicBool::new(false),
            opened: Mutex::new(0),
        })
    }

    fn cx() -> StepCx {
        StepCx::new(&Context::new(RunId::random()), "transfer/0")
    }

    async fn collect(cx: &StepCx, fault: Fault) -> (Result<Sent>, Vec<u8>, Arc<Double>) {
        let double = double(fault);
        let artifact: Arc<dyn Artifact> = Arc::<Double>::clone(&double);
        let got = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&got);
        let result = send(cx, &artifact, 0, TargetFormat::Raw, |mut out| async move {
            assert_eq!(out.len, Some(SIZE as u64));
            while let Some(piece) = out.body.next().await {
                let piece = piece.map_err(|e| Error::new(ErrorKind::Target, e.to_string()))?;
                sink.lock().unwrap().extend_from_slice(&piece);
            }
            Ok(())
        })
        .await;
        let got = got.lock().unwrap().clone();
        (result, got, double)
    }

    #[tokio::test]
    async fn all_bytes_arrive_with_their_digests() {
        let (sent, got, double) = collect(&cx(), Fault::None).await;
        let sent = sent.unwrap();
        assert!(got == *double.data);
        assert_eq!(sent.bytes, SIZE as u64);
        assert_eq!((sent.md5.len(), sent.sha256.len(), sent.sha512.len()), (32, 64, 128));
        assert!(double.settled.load(Ordering::SeqCst));
        let artifact: Arc<dyn Artifact> = Arc::<Double>::clone(&double);
        assert_eq!(digest(&cx(), &artifact, 0, TargetFormat::Raw).await.unwrap(), sent);
        assert_eq!(*double.opened.lock().unwrap(), 2);
    }

    #[tokio::test]
    async fn each_disk_of_each_run_has_a_vhd_of_its_own() {
        let artifact: Arc<dyn Artifact> = double(Fault::None);
        let (one, other) = (cx(), cx());
        let vhd =
            async |cx, index| digest(cx, &artifact, index, TargetFormat::VhdDynamic).await.unwrap();
        let first = vhd(&one, 0).await;
        assert_eq!(vhd(&one, 0).await, first);
        for another in [vhd(&one, 1).await, vhd(&other, 0).await] {
            assert_ne!(another.sha256, first.sha256);
            assert_eq!(another.content_root, first.content_root);
        }
    }

    #[tokio::test]
    async fn a_source_that_fails_is_the_error_and_never_a_whole_body() {
        for fault in [Fault::FailsAt(5 << 20), Fault::TruncatedAtTheEnd] {
            let (sent, got, double) = collect(&cx(), fault).await;
            let e = sent.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Data, "{e}");
            assert!(got.len() < SIZE);
            assert!(double.settled.load(Ordering::SeqCst));
        }
    }

    #[tokio::test]
    async fn a_sink_that_fails_ends_a_silent_source() {
        let artifact: Arc<dyn Artifact> = double(Fault::SilentAt(2 << 20));
        let e = send(&cx(), &artifact, 0, TargetFormat::Raw, |mut out| async move {
            out.body.next().await.unwrap().unwrap();
            Err(Error::new(ErrorKind::Target, "quota"))
        })
        .await
        .unwrap_err();
        assert_eq!(e.to_string(), "quota");
    }

    #[tokio::test]
    async fn a_cancelled_step_ends_a_silent_source() {
        let cancel = CancelToken::new();
        let context = Context::new(RunId::random()).with_cancel(cancel.clone());
        let cx = StepCx::new(&context, "transfer/0");
        let artifact: Arc<dyn Artifact> = double(Fault::SilentAt(2 << 20));
        let e = send(&cx, &artifact, 0, TargetFormat::Raw, |mut out| async move {
            out.body.next().await.unwrap().unwrap();
            cancel.cancel();
            while let Some(piece) = out.body.next().await {
                piece.map_err(|e| Error::new(ErrorKind::Target, e.to_string()))?;
            }
            Ok(())
        })
        .await
        .unwrap_err();
        assert!(e.is_cancelled(), "{e}");
    }
}
