//! Both directions of a console's stream at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, ErrorKind, Result};

/// A stream with what came and was not used yet, and what is still to be sent. Both survive a
/// future that is dropped.
pub(super) struct Pipe<S> {
    stream: S,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    unflushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Pipe<S> {
    pub(super) fn new(stream: S, input: BytesMut) -> Self {
        Self { stream, input, output: BytesMut::new(), unflushed: false }
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    /// Moves bytes; ends when any were received, or when all was sent.
    ///
    /// Both directions at once: a server that is stuck with its pictures would not read keys.
    async fn moved(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// As [`moved`](Self::moved), until a time at most; true while there is time left. A stream
    /// that has always more to give never lets a timer have its turn, so the clock is asked.
    pub(super) async fn moved_until(&mut self, until: Instant) -> Result<bool> {
        match timeout_at(until, self.moved()).await {
            Ok(moved) => moved.map(|()| Instant::now() < until),
            Err(_) => Ok(false),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let sent = self.poll_send(cx)?;
        let mut piece = [0; 16 * 1024];
        let mut buffer = ReadBuf::new(&mut piece);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(closed())),
            Poll::Ready(Ok(())) => {
                self.input.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(broken(e))),
            Poll::Pending if sent => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// True when this sent the last of what was to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => return Err(closed()),
                Poll::Ready(Ok(n)) => {
                    self.output.advance(n);
                    self.unflushed = true;
                }
                Poll::Ready(Err(e)) => return Err(broken(e)),
                Poll::Pending => return Ok(false),
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed.map_err(broken)?;
            self.unflushed = false;
            return Ok(true);
        }
        Ok(false)
    }
}

/// When a time limit that begins now is over: one that no clock can hold, in thirty years.
pub(super) fn after(limit: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(limit).unwrap_or(now + FAR)
}

pub(super) fn closed() -> Error {
    let words = "the console was closed; the guest may have stopped or rebooted";
    Error::new(ErrorKind::Transport, words)
}

pub(super) fn broken(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Transport, "the connection to the console broke").with_source(e)
}

pub(super) fn late(what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("{what} within {:.1} s", limit.as_secs_f64()))
}
