//! The transport of everyday: reqwest for calls, a connection of its own for a streamed body.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use hyper_util::client::proxy::matcher::Matcher;

use super::proxy::{Proxy, Via};
use super::tls::{TlsOptions, client_config};
use super::{Body, BodyStream, Transport, direct};
use crate::error::{Error, Result};
use crate::keystone::CloudConfig;

/// HTTP/1.1 over TCP or TLS (rustls with ring).
///
/// Calls go through reqwest's connection pool. A streamed body gets a connection of its own, because an early
/// answer must not be lost when the server closes while the client still writes. Both know proxies: see [`Proxy`].
#[derive(Clone)]
pub struct HttpTransport {
    client: reqwest::Client,
    tls: Arc<rustls::ClientConfig>,
    proxies: Arc<Matcher>,
    connect_timeout: Duration,
    user_agent: http::HeaderValue,
}

impl HttpTransport {
    /// The transport that a configuration describes: whom to trust, the proxy, how long a connection may take.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if a certificate or key file or the proxy cannot be used.
    pub fn of(config: &CloudConfig) -> Result<Self> {
        Self::behind(&config.proxy, &config.tls, config.connect_timeout)
    }

    /// A transport that trusts by `tls` and gives up connecting after `connect_timeout`. Proxies are those of the
    /// environment.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn new(tls: &TlsOptions, connect_timeout: Duration) -> Result<Self> {
        Self::behind(&Proxy::Environment, tls, connect_timeout)
    }

    fn behind(proxy: &Proxy, tls: &TlsOptions, connect_timeout: Duration) -> Result<Self> {
        let config = client_config(tls)?;
        let user_agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
        let client = proxy
            .set_up(reqwest::Client::builder())?
            .tls_backend_preconfigured(config.clone())
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect_timeout)
            .retry(reqwest::retry::never())
            // Shorter than the keep-alive of common servers (Apache: 5 s), so that a call rarely meets a closing one.
            .pool_idle_timeout(Duration::from_secs(4))
            .user_agent(user_agent)
            .build()
            .map_err(|error| {
                Error::config("the HTTP client cannot be set up").with_source(error.without_url())
            })?;
        Ok(Self {
            client,
            tls: Arc::new(config),
            proxies: Arc::new(proxy.matcher()?),
            connect_timeout,
            user_agent: http::HeaderValue::from_static(user_agent),
        })
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport")
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<BodyStream>> {
        let (mut parts, body) = request.into_parts();
        let body = match body {
            Body::Empty => reqwest::Body::from(Vec::new()),
            Body::Bytes(bytes) => reqwest::Body::from(bytes),
            Body::Stream { len, stream } => {
                parts.headers.insert(http::header::USER_AGENT, self.user_agent.clone());
                let via = self.proxies.intercept(&parts.uri).as_ref().map(Via::of).transpose()?;
                let tls = Arc::clone(&self.tls);
                return direct::send(parts, len, stream, via, tls, self.connect_timeout).await;
            }
        };
        let request = reqwest::Request::try_from(http::Request::from_parts(parts, body))
            .map_err(|error| Error::transport("the request cannot be sent", error.without_url()))?;
        let at = place(request.url());
        let answer = self.client.execute(request).await.map_err(|error| {
            if let Some(error) = super::tls::failure(&at, &error) {
                return error;
            }
            let what = if error.is_connect() {
                "cannot connect to"
            } else if error.is_timeout() {
                "no answer in time from"
            } else {
                "the connection broke to"
            };
            let reason = innermost(&error);
            Error::transport(format!("{what} {at}: {reason}"), error.without_url())
        })?;
        let answer: http::Response<reqwest::Body> = answer.into();
        let (parts, body) = answer.into_parts();
        let stream = reqwest::Response::from(http::Response::new(body)).bytes_stream();
        let stream = stream.map(move |chunk| {
            chunk.map_err(|error| {
                Error::transport(format!("the answer of {at} broke off"), error.without_url())
            })
        });
        Ok(http::Response::from_parts(parts, stream.boxed()))
    }
}

/// Scheme, host and port: what an error may say of a URL.
pub(super) fn place(url: &url::Url) -> String {
    url.origin().ascii_serialization()
}

/// The text at the bottom of a chain of errors, where the reason is ("Connection refused").
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}
