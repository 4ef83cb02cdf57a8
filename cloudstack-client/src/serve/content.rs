//! What is served: a length, and a stream as often as somebody asks.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future, stream};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::error::{Error, Result};
use crate::meter::Producer;

/// The content of one file: its exact length, and a way to read it from any place, again and again.
#[derive(Clone)]
pub struct Content {
    len: u64,
    open: Arc<dyn Fn(u64) -> Producer + Send + Sync>,
}

impl Content {
    /// Content that a factory makes from its start each time it is asked for. `len` must be exact: a stream that turns
    /// out shorter, longer or broken ends its connection before the last piece, so that nobody takes it for whole.
    ///
    /// For a range the beginning is made and thrown away.
    pub fn new(len: u64, open: impl Fn() -> Producer + Send + Sync + 'static) -> Self {
        Self::seekable(len, move |start| skip(open(), start))
    }

    /// As [`new`](Self::new), but the factory gives the content from the byte of that number on.
    pub fn seekable(len: u64, open: impl Fn(u64) -> Producer + Send + Sync + 'static) -> Self {
        Self { len, open: Arc::new(open) }
    }

    /// Content in memory.
    pub fn from_bytes(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self::seekable(data.len() as u64, move |start| {
            let start = usize::try_from(start).unwrap_or(usize::MAX).min(data.len());
            stream::iter([Ok(data.slice(start..))]).boxed()
        })
    }

    /// A file, which must not change while it is served.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if it is no file that can be read.
    pub async fn file(path: impl AsRef<Path>) -> Result<Self> {
        let path: PathBuf = path.as_ref().to_owned();
        let wrong = |error: io::Error| {
            Error::config(format!("{} cannot be served: {error}", path.display()))
                .with_source(error)
        };
        // Opened now, so that a missing permission is told here and not to the cloud.
        let file = tokio::fs::File::open(&path).await.map_err(wrong)?;
        let meta = file.metadata().await.map_err(wrong)?;
        if !meta.is_file() {
            return Err(wrong(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            )));
        }
        Ok(Self::seekable(meta.len(), move |start| read_file(path.clone(), start)))
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn open(&self, start: u64) -> Producer {
        (self.open)(start)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The stream without its first `start` bytes.
fn skip(producer: Producer, start: u64) -> Producer {
    let mut left = start;
    producer
        .map(move |chunk| {
            let mut chunk = chunk?;
            let gone = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            left -= gone as u64;
            Ok(chunk.split_off(gone))
        })
        .boxed()
}

/// The stream up to its first `len` bytes.
pub(super) fn first(producer: Producer, len: u64) -> Producer {
    producer
        .scan(len, |left, chunk| {
            future::ready(if *left == 0 {
                None
            } else {
                Some(chunk.map(|mut chunk| {
                    chunk.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= chunk.len() as u64;
                    chunk
                }))
            })
        })
        .boxed()
}

fn read_file(path: PathBuf, start: u64) -> Producer {
    const PIECE: usize = 256 << 10;
    stream::try_unfold(None::<tokio::fs::File>, move |file| {
        let path = path.clone();
        async move {
            let mut file = match file {
                Some(file) => file,
                None => {
                    let mut file = tokio::fs::File::open(path).await?;
                    file.seek(io::SeekFrom::Start(start)).await?;
                    file
                }
            };
            let mut piece = BytesMut::with_capacity(PIECE);
            let read = file.read_buf(&mut piece).await?;
            Ok((read > 0).then(|| (piece.freeze(), Some(file))))
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(producer: Producer) -> Vec<u8> {
        let chunks: Vec<_> = producer.map(|chunk| chunk.unwrap().to_vec()).collect().await;
        chunks.concat()
    }

    #[tokio::test]
    async fn every_source_gives_the_same_from_everywhere() {
        let data: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &data).unwrap();
        let pieces = data.clone();
        let made = Content::new(data.len() as u64, move || {
            let pieces: Vec<_> =
                pieces.chunks(70_001).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            stream::iter(pieces).boxed()
        });
        let contents =
            [made, Content::from_bytes(data.clone()), Content::file(file.path()).await.unwrap()];
        for content in contents {
            assert_eq!(content.len(), 600_000);
            for start in [0usize, 1, 70_001, 262_144, 599_999, 600_000] {
                assert_eq!(
                    all(content.open(start as u64)).await,
                    data[start..],
                    "{content:?} {start}"
                );
                assert_eq!(
                    all(first(content.open(start as u64), 5)).await,
                    data[start..(start + 5).min(600_000)]
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing")] {
            let error = Content::file(&path).await.unwrap_err();
            assert!(error.to_string().contains("cannot be served"), "{error}");
        }
    }
}
