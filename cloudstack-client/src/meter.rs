//! Data on its way: counted, checked, and stopped when nobody wants it any more.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, Stream};
use futures_util::{StreamExt, ready};

pub(crate) type Producer = BoxStream<'static, io::Result<Bytes>>;
pub(crate) type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What the sending side sees of the data.
#[derive(Clone)]
pub(crate) struct Meter(Arc<Mutex<State>>);

struct State {
    len: u64,
    /// `None` once it has ended, failed or been stopped.
    producer: Option<Producer>,
    /// The newest chunk, kept back until the producer has shown that it goes on or ends well: so the receiver never
    /// has all bytes of data that turns out to be bad.
    held: Bytes,
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
pub(crate) struct Wire(Meter);

impl Meter {
    pub(crate) fn new(len: u64, producer: Producer, progress: Option<Progress>) -> Self {
        Self(Arc::new(Mutex::new(State {
            len,
            producer: Some(producer),
            held: Bytes::new(),
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
    pub(crate) async fn peek(&self, wanted: usize) -> io::Result<Bytes> {
        let Some(mut producer) = self.state().producer.take() else { return Ok(Bytes::new()) };
        let mut head = BytesMut::new();
        let mut ended = false;
        while head.len() < wanted && !ended {
            match producer.next().await {
                Some(chunk) => head.extend_from_slice(&chunk?),
                None => ended = true,
            }
        }
        let head = head.freeze();
        let mut state = self.state();
        state.moved = Instant::now();
        state.take(head.clone())?;
        if ended {
            state.end()?;
            state.ended = true;
        }
        state.producer = (!ended).then_some(producer);
        Ok(head)
    }

    pub(crate) fn wire(&self) -> Wire {
        Wire(self.clone())
    }

    /// Lets go of the producer, whatever the connection still wants.
    pub(crate) fn stop(&self) {
        // Dropped without the lock: it is foreign code.
        let producer = self.state().producer.take();
        drop(producer);
    }

    /// Whether the connection has got all of it.
    pub(crate) fn is_finished(&self) -> bool {
        self.state().finished
    }

    pub(crate) fn given(&self) -> u64 {
        self.state().given
    }

    /// When data last moved.
    pub(crate) fn moved(&self) -> Instant {
        self.state().moved
    }

    /// What was wrong with the data, if that is what ended the exchange.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.state().failure.take()
    }
}

impl State {
    fn take(&mut self, chunk: Bytes) -> io::Result<()> {
        self.taken = self.taken.saturating_add(chunk.len() as u64);
        if self.taken > self.len {
            let text = format!("it is longer than the declared {} bytes", self.len);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.held = chunk;
        Ok(())
    }

    fn end(&self) -> io::Result<()> {
        if self.taken != self.len {
            let text = format!("it ended after {} of the declared {} bytes", self.taken, self.len);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(())
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
            // Stopped: an error and not an end, because a receiver takes an end for the end of the data.
            let Some(producer) = self.producer.as_mut() else {
                return Poll::Ready(Some(Err(io::Error::other("the transfer was stopped"))));
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

    fn meter(len: u64, chunks: Vec<io::Result<&'static [u8]>>) -> Meter {
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
            let meter = meter(6, vec![Ok(b"ab"), Ok(b""), Ok(b"cd"), Ok(b"ef")]);
            let head = meter.peek(peek).await.unwrap();
            assert!(head.len() >= peek.min(6) && b"abcdef".starts_with(&head));
            assert_eq!(drain(&meter).await, (b"abcdef".to_vec(), true), "{peek}");
            assert!(meter.is_finished());
            assert_eq!(meter.given(), 6);
        }
    }

    #[tokio::test]
    async fn the_receiver_never_gets_all_bytes_of_bad_data() {
        let failed = || Err(io::Error::other("the export task failed"));
        for (chunks, words) in [
            (vec![Ok(&b"ab"[..]), Ok(b"c")], "after 3 of the declared 4"),
            (vec![Ok(b"ab"), Ok(b"cd"), Ok(b"e")], "longer than the declared 4"),
            (vec![Ok(b"ab"), Ok(b"cd"), failed()], "task failed"),
        ] {
            let meter = meter(4, chunks);
            assert_eq!(drain(&meter).await, (b"ab".to_vec(), false), "{words}");
            assert!(!meter.is_finished());
            assert!(meter.failure().unwrap().to_string().contains(words), "{words}");
        }
        assert!(meter(1, vec![Ok(b"ab")]).peek(512).await.is_err());
        assert!(meter(3, vec![Ok(b"ab")]).peek(512).await.is_err());
    }

    #[tokio::test]
    async fn a_stopped_transfer_asks_for_nothing_more() {
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"x"))).boxed();
        let meter = Meter::new(1 << 40, endless, None);
        let mut wire = meter.wire();
        assert!(wire.next().await.unwrap().is_ok());
        meter.stop();
        assert!(wire.next().await.unwrap().is_err());
        assert!(!meter.is_finished());
    }
}
