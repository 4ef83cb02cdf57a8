//! What an import sends.

use std::fmt;
use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much is read at a time.
const PIECE: usize = 256 * 1024;

/// The bytes that an import sends, and how many they are: servers want the length beforehand.
///
/// It is read once and never ahead of the connection. One that ends early, goes on after its end
/// or fails makes the import fail, at the server, too.
pub struct ImportSource {
    stream: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    length: u64,
}

impl ImportSource {
    /// A stream of `length` bytes in all.
    #[must_use]
    pub fn from_stream(
        stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        length: u64,
    ) -> Self {
        Self { stream: Box::pin(stream), length }
    }

    /// A reader that gives `length` bytes and then ends.
    #[must_use]
    pub fn from_reader(reader: impl AsyncRead + Send + 'static, length: u64) -> Self {
        let start = (Box::pin(reader), BytesMut::new());
        let pieces = stream::try_unfold(start, |(mut reader, mut buffer)| async move {
            buffer.reserve(PIECE);
            let count = reader.read_buf(&mut buffer).await?;
            let piece = buffer.split().freeze();
            Ok((count > 0).then_some((piece, (reader, buffer))))
        });
        Self::from_stream(pieces, length)
    }

    /// Bytes in memory.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        Self::from_stream(stream::once(async move { Ok(bytes) }), length)
    }

    /// How many bytes it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes, never none of them; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.stream.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                other => return other,
            }
        }
    }
}

impl fmt::Debug for ImportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportSource").field("length", &self.length).finish_non_exhaustive()
    }
}
