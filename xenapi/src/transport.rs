//! How requests reach a server: one trait, and its implementation over reqwest.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use crate::error::{Error, ErrorKind, Result};
use crate::tls::{self, Trust};

/// Sends one request and gives its whole answer.
///
/// Implement it to test without a server, or to reach one in another way. The request's URI is
/// absolute; the answer's body must be bounded by the implementation. Timeouts are the caller's
/// affair: a call that takes too long is dropped.
///
/// ```
/// use async_trait::async_trait;
/// use bytes::Bytes;
///
/// #[derive(Debug)]
/// struct Canned;
///
/// #[async_trait]
/// impl xenapi::Transport for Canned {
///     async fn send(&self, _: http::Request<Bytes>) -> xenapi::Result<http::Response<Bytes>> {
///         Ok(http::Response::new(Bytes::from_static(b"{\"result\":\"OpaqueRef:1\"}")))
///     }
/// }
/// ```
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends the request.
    ///
    /// # Errors
    /// Of kind [`Connect`](ErrorKind::Connect), [`Tls`](ErrorKind::Tls),
    /// [`Transport`](ErrorKind::Transport) or [`TooLarge`](ErrorKind::TooLarge). Take `Connect`
    /// only where nothing of the request can have been sent: every call is sent again after it,
    /// also one that changes something.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>>;
}

/// The transport that clients use unless given another: pooled HTTP/1.1 connections, no cookies,
/// no redirects, no proxy.
#[derive(Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
    largest_answer: usize,
}

impl Http {
    pub(crate) fn new(trust: &Trust, connect: Duration, largest_answer: usize) -> Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.client_config()?)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(connect)
            .tcp_nodelay(true)
            .build()
            .map_err(|e| Error::new(ErrorKind::Config, "HTTP cannot be set up").with_source(e))?;
        Ok(Self { client, largest_answer })
    }
}

#[async_trait]
impl Transport for Http {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let server = authority(request.uri());
        let request = reqwest::Request::try_from(request)
            .map_err(|e| Error::new(ErrorKind::Config, "the URL is not usable").with_source(e))?;
        let answer = self.client.execute(request).await.map_err(|e| failure(&server, e))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = BytesMut::new();
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| failure(&server, e))?;
            if body.len().saturating_add(chunk.len()) > self.largest_answer {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!(
                        "{server}: the answer is larger than {} bytes; allow more with \
                         max_response_bytes, or ask for less",
                        self.largest_answer
                    ),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = http::Response::new(body.freeze());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// `host:port` for messages.
pub(crate) fn authority(uri: &http::Uri) -> String {
    uri.authority().map_or_else(|| "the server".to_owned(), |a| a.as_str().to_owned())
}

fn failure(server: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    if let Some(why) = tls::tls_failure(&error) {
        return Error::new(ErrorKind::Tls, format!("{server}: {why}")).with_source(error);
    }
    if error.is_connect() {
        let what = format!("{server}: no connection; is the address right and the server up?");
        return Error::new(ErrorKind::Connect, what).with_source(error);
    }
    let what = format!("{server}: the connection broke before the answer was whole");
    Error::new(ErrorKind::Transport, what).with_source(error)
}
