//! The ordered executor for who pulls: a client that wants a reader for the body of its request.

use std::fmt;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::{Buf, Bytes};

use super::digest::thread_died;
use super::stream::{StreamOptions, stream};
use super::{Outcome, QUEUE};
use crate::{ErrorKind, Plan, Result, Source};

/// The output of a plan as a [`Read`], made by [`reader`].
///
/// Its end is that of a whole output: a failure is an error, now and whenever it is read again.
/// The error of this crate is inside of the I/O error, and comes out of
/// [`Error::io`](crate::Error::io) as itself. A reader that is dropped early ends its thread at
/// the next piece.
pub struct OutputReader {
    pieces: Receiver<Bytes>,
    piece: Bytes,
    state: State,
}

enum State {
    Running(JoinHandle<Result<Outcome>>),
    Done(Outcome),
    Failed(ErrorKind),
}

impl fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputReader").field("outcome", &self.outcome()).finish_non_exhaustive()
    }
}

/// Makes the output of `plan` for a caller that pulls it, with all that [`stream`] does, on a
/// thread of its own. What was read ahead takes up to 4 MiB besides what [`stream`] takes.
///
/// ```
/// use std::io::Read;
/// use std::sync::Arc;
/// use vmimage::{DiskSource, Plan, PlanOptions, RawDisk, Source, StreamOptions, TargetFormat};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let disk = Arc::new(RawDisk::new(Arc::new(vec![7_u8; 100_000]))?);
/// let source = DiskSource::new(disk)?;
/// let plan = Plan::new(TargetFormat::Qcow2, source.block_map(), &PlanOptions::new())?;
/// let mut body = vmimage::reader(&plan, source, &StreamOptions::new());
/// let mut sent = Vec::new();
/// body.read_to_end(&mut sent)?;
/// assert_eq!(plan.output_len(), Some(sent.len() as u64));
/// assert!(body.outcome().is_some_and(|o| o.digests.sha256.is_some()));
/// # Ok(())
/// # }
/// ```
pub fn reader(plan: &Plan, source: impl Source + 'static, options: &StreamOptions) -> OutputReader {
    let (plan, options) = (plan.clone(), options.clone());
    let (queue, pieces) = sync_channel(QUEUE);
    let thread = thread::spawn(move || {
        let mut source = source;
        let mut sink = |bytes| queue.send(bytes).map_err(|_| io::ErrorKind::BrokenPipe.into());
        stream(&plan, &mut source, &mut sink, &options)
    });
    OutputReader { pieces, piece: Bytes::new(), state: State::Running(thread) }
}

impl OutputReader {
    /// What was read: its length, its digests, the content root of its disk. `None` before the
    /// end was read.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// All pieces were read: how it ended.
    fn end(&mut self) -> io::Result<()> {
        let state = std::mem::replace(&mut self.state, State::Failed(ErrorKind::Io));
        let result = match state {
            State::Running(thread) => thread.join().unwrap_or_else(|_| Err(thread_died("output"))),
            State::Done(outcome) => Ok(outcome),
            State::Failed(kind) => {
                self.state = State::Failed(kind);
                let message = "the output has failed before";
                return Err(io::Error::other(crate::Error::new(kind, message)));
            }
        };
        match result {
            Ok(outcome) => {
                self.state = State::Done(outcome);
                Ok(())
            }
            Err(error) => {
                self.state = State::Failed(error.kind());
                Err(io::Error::other(error))
            }
        }
    }
}

impl Read for OutputReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !buf.is_empty() {
            match self.pieces.recv() {
                Ok(piece) => self.piece = piece,
                Err(_) => return self.end().map(|()| 0),
            }
        }
        let n = self.piece.len().min(buf.len());
        self.piece.copy_to_slice(buf.get_mut(..n).unwrap_or_default());
        Ok(n)
    }
}
