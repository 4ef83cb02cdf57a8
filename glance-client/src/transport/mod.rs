//! How requests travel: a one-method trait on `http` types, and [`HttpTransport`], which does it with reqwest.

mod direct;
mod http_transport;
mod proxy;
mod tls;

use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::error::{Error, Result, from_answer};

pub use http_transport::HttpTransport;
pub use proxy::Proxy;
pub use tls::TlsOptions;

/// The body of an answer, as it arrives.
pub type BodyStream = BoxStream<'static, Result<Bytes>>;

/// Sends one request and gives the head of its answer, without following redirects and without any
/// retry: what to do about an answer is decided above it.
///
/// A transport that streams a request's body must hand out an answer that arrives *before* the body has been sent
/// (a 413, say), and must stop asking the body for data when its future or the answer's body is dropped.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends `request`.
    ///
    /// # Errors
    /// [`ErrorKind::Transport`](crate::ErrorKind::Transport), if no answer could be had.
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<BodyStream>>;
}

/// The body of a request.
#[non_exhaustive]
pub enum Body {
    /// No body.
    Empty,
    /// A body that is in memory, so that it can be sent again.
    Bytes(Bytes),
    /// A body that is made while it is sent. With a length it is framed by `Content-Length`, without by chunks.
    Stream {
        /// The exact number of bytes.
        len: Option<u64>,
        /// The data.
        stream: BoxStream<'static, io::Result<Bytes>>,
    },
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Stream { len, .. } => write!(f, "Stream({len:?} bytes)"),
        }
    }
}

/// An answer's body from bytes in memory, for transports that are test doubles.
#[must_use]
pub fn body_of(bytes: impl Into<Bytes>) -> BodyStream {
    stream::iter([Ok(bytes.into())]).boxed()
}

/// Reads a body that has to be small. More than `limit` bytes is an error.
pub(crate) async fn read_all(what: &str, mut body: BodyStream, limit: usize) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| error.during(what))?;
        if all.len().saturating_add(chunk.len()) > limit {
            return Err(Error::protocol(format!(
                "{what}: the answer is larger than {limit} bytes"
            )));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// The error that an answer tells, of whatever service.
pub(crate) async fn refusal(what: &str, answer: http::Response<BodyStream>) -> Error {
    let (parts, body) = answer.into_parts();
    from_answer(what, parts.status, &parts.headers, &read_error(body).await)
}

/// Reads the start of an error's body: whatever comes, but not for long. A server may send a text and never end it, and
/// what it has refused is known without.
pub(crate) async fn read_error(mut body: BodyStream) -> Bytes {
    const LIMIT: usize = 64 << 10;
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    let mut all = BytesMut::new();
    while let Ok(Some(Ok(chunk))) = tokio::time::timeout_at(until, body.next()).await {
        let room = LIMIT - all.len();
        all.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if all.len() == LIMIT {
            break;
        }
    }
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_is_read_as_far_as_it_comes() {
        let start =
            || stream::iter([Ok(Bytes::from_static(b"no ")), Ok(Bytes::from_static(b"room"))]);
        let broken = stream::iter([Err(Error::protocol("cut"))]);
        assert_eq!(read_error(start().chain(broken).boxed()).await, "no room");
        let stuck = tokio::time::timeout(
            Duration::from_secs(60),
            read_error(start().chain(stream::pending()).boxed()),
        );
        assert_eq!(stuck.await.unwrap(), "no room");
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 1000])));
        assert_eq!(read_error(endless.boxed()).await.len(), 64 << 10);
    }
}
