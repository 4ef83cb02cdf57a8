//! The data of an upload on its way: counted, checked, and stopped when nobody wants it any more.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, Stream};
use futures_util::{StreamExt, ready};

use super::preflight::TAIL_LEN;
use crate::error::Result;

pub(super) type Producer = BoxStream<'static, io::Result<Bytes>>;
pub(super) type Progress = Arc<dyn Fn(u64) + Send + Sync>;
/// A look at the last bytes, before the last piece leaves.
pub(super) type Ending = Box<dyn Fn(&[u8]) -> Result<()> + Send>;

/// What the uploading side sees of the data.
#[derive(Clone)]
pub(super) struct Meter(Arc<Mutex<State>>);

struct State {
    len: Option<u64>,
    /// `None` once it has ended, failed or been stopped.
    producer: Option<Producer>,
    /// The newest chunk, kept back until the producer has shown that it goes on or ends well: so the server never has
    /// all bytes of data that turns out to be bad.
    held: Bytes,
    /// The last bytes so far.
    tail: Vec<u8>,
    ending: Option<Ending>,
    /// Bytes from the producer.
    taken: u64,
    /// Bytes handed to the connection.
    given: u64,
    /// The producer came to its end, and the length is right.
    ended: bool,
    /// All of it was handed to the connection.
    finished: bool,
    failure: Option<io::Error>,
    moved: Instant,
    progress: Option<Progress>,
}

/// The same data as the connection sees it.
pub(super) struct Wire(Meter);

impl Meter {
    pub(super) fn new(len: Option<u64>, producer: Producer, progress: Option<Progress>) -> Self {
        Self(Arc::new(Mutex::new(State {
            len,
            producer: Some(producer),
            held: Bytes::new(),
            tail: Vec::new(),
            ending: None,
            taken: 0,
            given: 0,
            ended: false,
            finished: false,
            failure: None,
            moved: Instant::now(),
            progress,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes at least `wanted` bytes from the producer, or all, before anything is sent, and gives a copy.
    pub(super) async fn peek(&self, wanted: usize) -> io::Result<Bytes> {
        let Some(mut producer) = self.state().producer.take() else { return Ok(Bytes::new()) };
        let mut head = BytesMut::new();
        let mut ended = false;
        while head.len() < wanted && !ended {
            match producer.next().await {
                Some(chunk) => head.extend_from_slice(&chunk?),
                None => ended = true,
            }
            self.state().moved = Instant::now();
        }
        let head = head.freeze();
        let mut state = self.state();
        state.take(head.clone())?;
        if ended {
            state.end()?;
            state.ended = true;
            // A body without bytes may never be asked for any.
            state.finished = head.is_empty();
        }
        state.producer = (!ended).then_some(producer);
        Ok(head)
    }

    /// Has the last bytes looked at when they are there, which they may be already.
    pub(super) fn look_at_end(&self, ending: Ending) -> io::Result<()> {
        let mut state = self.state();
        state.ending = Some(ending);
        if state.ended { state.end() } else { Ok(()) }
    }

    pub(super) fn wire(&self) -> Wire {
        Wire(self.clone())
    }

    /// Lets go of the producer, whatever the connection still wants.
    pub(super) fn stop(&self) {
        // Dropped without the lock: it is foreign code.
        let producer = self.state().producer.take();
        drop(producer);
    }

    /// Whether the connection has got all of it.
    pub(super) fn is_finished(&self) -> bool {
        self.state().finished
    }

    pub(super) fn given(&self) -> u64 {
        self.state().given
    }

    /// When data last moved.
    pub(super) fn moved(&self) -> Instant {
        self.state().moved
    }

    /// What was wrong with the data, if that is what ended the upload.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.state().failure.take()
    }
}

impl State {
    fn take(&mut self, chunk: Bytes) -> io::Result<()> {
        self.taken = self.taken.saturating_add(chunk.len() as u64);
        match self.len {
            Some(len) if self.taken > len => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is longer than the declared {len} bytes"),
            )),
            _ => {
                self.keep_tail(&chunk);
                self.held = chunk;
                Ok(())
            }
        }
    }

    fn keep_tail(&mut self, chunk: &[u8]) {
        let new = &chunk[chunk.len().saturating_sub(TAIL_LEN)..];
        let old = (self.tail.len() + new.len()).saturating_sub(TAIL_LEN);
        self.tail.drain(..old);
        self.tail.extend_from_slice(new);
    }

    fn end(&self) -> io::Result<()> {
        match self.len {
            Some(len) if self.taken != len => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ended after {} of the declared {len} bytes", self.taken),
            )),
            _ => match &self.ending {
                Some(ending) => ending(&self.tail).map_err(io::Error::other),
                None => Ok(()),
            },
        }
    }

    fn give(&mut self, chunk: Bytes) -> Poll<Option<io::Result<Bytes>>> {
        self.given = self.given.saturating_add(chunk.len() as u64);
        self.moved = Instant::now();
        if let Some(progress) = &self.progress {
            progress(self.given);
        }
        Poll::Ready(Some(Ok(chunk)))
    }

    fn fail(&mut self, error: io::Error) -> Poll<Option<io::Result<Bytes>>> {
        self.producer = None;
        self.failure = Some(error);
        Poll::Ready(Some(Err(io::Error::other("the data failed"))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if self.finished {
                return Poll::Ready(None);
            }
            if self.ended {
                self.finished = true;
                let last = std::mem::take(&mut self.held);
                return if last.is_empty() { Poll::Ready(None) } else { self.give(last) };
            }
            // Stopped: an error and not an end, because a server takes an end for the end of the image.
            let Some(producer) = self.producer.as_mut() else {
                return Poll::Ready(Some(Err(io::Error::other("the upload was stopped"))));
            };
            match ready!(producer.poll_next_unpin(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    let before = std::mem::take(&mut self.held);
                    if let Err(error) = self.take(chunk) {
                        return self.fail(error);
                    }
                    if !before.is_empty() {
                        return self.give(before);
                    }
                }
                Some(Err(error)) => return self.fail(error),
                None => {
                    if let Err(error) = self.end() {
                        return self.fail(error);
                    }
                    self.ended = true;
                    self.producer = None;
                }
            }
        }
    }
}

impl Stream for Wire {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.state().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn meter(len: Option<u64>, chunks: Vec<io::Result<&'static [u8]>>) -> Meter {
        let chunks = chunks.into_iter().map(|chunk| chunk.map(Bytes::from_static));
        Meter::new(len, stream::iter(chunks).boxed(), None)
    }

    async fn drain(meter: &Meter) -> (Vec<u8>, bool) {
        let (mut all, mut wire, mut good) = (Vec::new(), meter.wire(), true);
        while let Some(chunk) = wire.next().await {
            match chunk {
                Ok(chunk) => all.extend_from_slice(&chunk),
                Err(_) => {
                    good = false;
                    break;
                }
            }
        }
        (all, good)
    }

    #[tokio::test]
    async fn all_of_it_arrives_with_or_without_a_peek() {
        for peek in [0, 1, 4, 100] {
            for len in [None, Some(6)] {
                let meter = meter(len, vec![Ok(b"ab"), Ok(b""), Ok(b"cd"), Ok(b"ef")]);
                let head = meter.peek(peek).await.unwrap();
                assert!(head.len() >= peek.min(6) && b"abcdef".starts_with(&head));
                assert_eq!(drain(&meter).await, (b"abcdef".to_vec(), true), "{peek} {len:?}");
                assert!(meter.is_finished());
                assert_eq!(meter.given(), 6);
            }
        }
        let empty = meter(Some(0), vec![]);
        assert!(empty.peek(512).await.unwrap().is_empty());
        assert!(empty.is_finished());
    }

    #[tokio::test]
    async fn the_server_never_gets_all_bytes_of_bad_data() {
        for (len, chunks, sent, words) in [
            (Some(4), vec![Ok(&b"ab"[..]), Ok(b"c")], &b"ab"[..], "after 3 of the declared 4"),
            (Some(4), vec![Ok(b"ab"), Ok(b"cd"), Ok(b"e")], b"ab", "longer than the declared 4"),
            (
                Some(4),
                vec![Ok(b"ab"), Ok(b"cd"), Err(io::Error::other("export task failed"))],
                b"ab",
                "task failed",
            ),
            (None, vec![Ok(b"ab"), Err(io::Error::other("cut"))], b"", "cut"),
        ] {
            let meter = meter(len, chunks);
            assert_eq!(drain(&meter).await, (sent.to_vec(), false), "{words}");
            assert!(!meter.is_finished());
            assert!(meter.failure().unwrap().to_string().contains(words), "{words}");
        }
    }

    #[tokio::test]
    async fn a_peek_finds_what_is_wrong_at_once() {
        assert!(meter(Some(1), vec![Ok(b"ab")]).peek(512).await.is_err());
        assert!(meter(Some(3), vec![Ok(b"ab")]).peek(512).await.is_err());
        assert!(meter(None, vec![Err(io::Error::other("x"))]).peek(512).await.is_err());
    }

    #[tokio::test]
    async fn the_end_is_looked_at_before_it_leaves() {
        let data: Vec<u8> = (0..2000).map(|n| (n % 251) as u8).collect();
        for size in [1, 100, 511, 512, 513, 2000] {
            for peek in [0, 3000] {
                let chunks: Vec<_> =
                    data.chunks(size).map(Bytes::copy_from_slice).map(Ok).collect();
                let meter = Meter::new(None, stream::iter(chunks).boxed(), None);
                meter.peek(peek).await.unwrap();
                let end = data[2000 - TAIL_LEN..].to_vec();
                let ending = move |tail: &[u8]| {
                    assert_eq!(tail, end);
                    Err(crate::Error::protocol("odd end"))
                };
                let told = meter.look_at_end(Box::new(ending)).err();
                assert_eq!(told.is_some(), peek > 0);
                if told.is_none() {
                    let (sent, whole) = drain(&meter).await;
                    assert!(!whole && sent.len() < 2000, "{size}");
                    assert!(meter.failure().unwrap().to_string().contains("odd end"));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_stopped_upload_asks_for_nothing_more() {
        let meter =
            Meter::new(None, stream::repeat_with(|| Ok(Bytes::from_static(b"x"))).boxed(), None);
        let mut wire = meter.wire();
        assert!(wire.next().await.unwrap().is_ok());
        meter.stop();
        assert!(wire.next().await.unwrap().is_err());
        assert!(!meter.is_finished());
    }
}
