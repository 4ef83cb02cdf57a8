//! A disk of a snapshot as the pool exports it: an HTTP stream on one side, blocking reads on the
//! other, and proof at the end that it was whole.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use vmimage::vhd::VhdStream;
use vmimage::{BlockMap, Source};
use xenapi::vdi::Vdi;
use xenapi::{Export, ExportFormat, ExportOptions, Ref, Session};

use super::pool::failed;
use crate::{Artifact, ArtifactFormat, CancelToken, Error, ErrorKind, Machine, Result, RunId};

/// How many pieces of the stream wait for the reader. Pieces are what one read of the
/// connection gives, some tens of KiB.
const QUEUE: usize = 16;

/// The snapshot of a VM.
pub(crate) struct SnapshotArtifact {
    pub(crate) session: Session,
    pub(crate) machine: Machine,
    pub(crate) disks: Vec<Ref<Vdi>>,
    pub(crate) run_id: RunId,
    pub(crate) pumps: Mutex<Vec<JoinHandle<()>>>,
}

#[async_trait]
impl Artifact for SnapshotArtifact {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn format(&self) -> ArtifactFormat {
        ArtifactFormat::Vhd
    }

    async fn open(&self, index: usize, cancel: &CancelToken) -> Result<Box<dyn Source>> {
        let name = format!("disk {index} of {}", self.machine.name);
        let disk = self
            .disks
            .get(index)
            .ok_or_else(|| Error::new(ErrorKind::Usage, format!("there is no {name}")))?;
        let label = format!("{} export {index}", self.run_id.object_name());
        let options = ExportOptions::new(label);
        let export = tokio::select! {
            biased;
            // Its task may stay behind then; the undo finds it by its label.
            () = cancel.cancelled() => return Err(Error::cancelled()),
            export = self.session.export_raw_vdi(disk, ExportFormat::Vhd, &options) => export,
        };
        let export = export.map_err(|e| failed(format_args!("export of {name}"), e))?;
        let (pieces, queue) = mpsc::channel(QUEUE);
        let (told, whole) = oneshot::channel();
        let pump = tokio::spawn(pump(export, pieces, told, cancel.clone(), name));
        self.pumps.lock().unwrap_or_else(PoisonError::into_inner).push(pump);
        let reader = QueueReader { queue, piece: Bytes::new() };
        let opened = tokio::task::spawn_blocking(move || VhdStream::new(reader))
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "a reading thread died").with_source(e))?;
        match opened {
            Ok(vhd) => Ok(Box::new(ExportSource { vhd, whole: Some(whole) })),
            // The pool's own words are better than ours about what it sent.
            Err(e) => match whole.await {
                Ok(Err(told)) if !told.is_cancelled() => Err(told),
                _ => Err(e.into()),
            },
        }
    }

    async fn settle(&self) {
        let pumps = std::mem::take(&mut *self.pumps.lock().unwrap_or_else(PoisonError::into_inner));
        for pump in pumps {
            let _ = pump.await;
        }
    }
}

/// Moves the stream to the queue; tells at the end whether it was whole and its task succeeded.
async fn pump(
    mut export: Export,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    told: oneshot::Sender<Result<()>>,
    cancel: CancelToken,
    name: String,
) {
    let what = format!("export of {name}");
    let ended = loop {
        let next = tokio::select! {
            biased;
            () = cancel.cancelled() => break Err(Error::cancelled()),
            () = pieces.closed() => break Err(Error::cancelled()),
            next = export.next() => next,
        };
        let piece = match next {
            Some(Ok(piece)) => piece,
            Some(Err(e)) => break Err(failed(&what, e)),
            None => break Ok(()),
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => break Err(Error::cancelled()),
            sent = pieces.send(Ok(piece)) => if sent.is_err() {
                break Err(Error::cancelled());
            },
        }
    };
    let result = match ended {
        Ok(()) => {
            // The reader may see the end; whether it was whole is told apart.
            drop(pieces);
            tokio::select! {
                biased;
                // The pool may keep its word for minutes. The undo finds the task by its label.
                () = cancel.cancelled() => Err(Error::cancelled()),
                ended = export.finish() => ended.map_err(|e| failed(&what, e)),
            }
        }
        Err(e) => {
            if e.is_cancelled() {
                let _ = pieces.try_send(Err(io::Error::other(e.to_string())));
            } else {
                // The pool's own words reach the reader in place of more data.
                let _ = pieces.send(Err(io::Error::other(e.to_string()))).await;
            }
            drop(pieces);
            // What cannot be aborted ends with its connection; the snapshot's removal waits.
            let _ = export.abort().await;
            Err(e)
        }
    };
    let _ = told.send(result);
}

/// The queue as blocking reads.
struct QueueReader {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for QueueReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let len = buf.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buf[..len]);
        Ok(len)
    }
}

struct ExportSource {
    vhd: VhdStream,
    whole: Option<oneshot::Receiver<Result<()>>>,
}

impl ExportSource {
    /// A stream that ended early has a reason, and the pool knows it. The pump has seen the same
    /// end, so its word is on the way.
    fn explain(&mut self, e: vmimage::Error) -> vmimage::Error {
        if e.kind() != vmimage::ErrorKind::Truncated {
            return e;
        }
        match self.whole.take().map(oneshot::Receiver::blocking_recv) {
            Some(Ok(Err(told))) if !told.is_cancelled() => broken(told),
            _ => e,
        }
    }
}

fn broken(e: Error) -> vmimage::Error {
    vmimage::Error::new(vmimage::ErrorKind::Io, e.to_string()).with_source(e)
}

impl Source for ExportSource {
    fn block_map(&self) -> &BlockMap {
        self.vhd.block_map()
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> vmimage::Result<()> {
        let read = self.vhd.read_exact_at(buf, offset);
        read.map_err(|e| self.explain(e))
    }

    fn finish(&mut self) -> vmimage::Result<()> {
        let ended = self.vhd.finish();
        ended.map_err(|e| self.explain(e))?;
        // A stream that looks whole is worth nothing if its task failed.
        match self.whole.take().map(oneshot::Receiver::blocking_recv) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(e))) => Err(broken(e)),
            Some(Err(_)) => Err(vmimage::Error::truncated("the export ended without a word")),
        }
    }
}
