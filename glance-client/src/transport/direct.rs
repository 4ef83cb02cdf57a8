//! One request on one connection, for bodies that are made while they are sent.
//!
//! A server that refuses an upload answers and closes while the client is still writing. The client's next write then
//! fails, and an HTTP library that reports this write error throws away the answer that lies unread in
//! the socket. Here a failed write is not reported but silences the writing side; what ends the exchange is what is
//! *read*: the answer, or the end of the connection.
//!
//! The connection is driven by whoever waits for the answer or reads its body, and not by a task of its own: then each
//! piece of data stays on one thread.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::ready;
use futures_util::stream::BoxStream;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION};
use http_body_util::{BodyDataStream, BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::BodyStream;
use super::http_transport::{innermost, place};
use super::proxy::Via;
use crate::error::{Error, Result};

pub(super) async fn send(
    mut parts: http::request::Parts,
    len: Option<u64>,
    body: BoxStream<'static, io::Result<Bytes>>,
    via: Option<Via>,
    tls: Arc<rustls::ClientConfig>,
    connect_timeout: Duration,
) -> Result<http::Response<BodyStream>> {
    let url = url::Url::parse(&parts.uri.to_string())
        .map_err(|error| Error::transport("the request has no usable URL", error))?;
    let at = place(&url);
    let io = connect(&url, via.as_ref(), tls, connect_timeout).await.map_err(|error| {
        super::tls::failure(&at, &error).unwrap_or_else(|| {
            let way = via.as_ref().map(|via| format!(" through the proxy {}", place(&via.url)));
            let way = way.unwrap_or_default();
            Error::transport(format!("cannot connect to {at}{way}: {error}"), error)
        })
    })?;

    parts.headers.insert(HOST, host_header(&url)?);
    if let Some(len) = len {
        parts.headers.insert(CONTENT_LENGTH, len.into());
    }
    match via.as_ref().filter(|_| url.scheme() == "http") {
        // A proxy without a tunnel gets the whole URL.
        Some(via) => {
            if let Some(value) = via.authorization() {
                parts.headers.insert(PROXY_AUTHORIZATION, value.clone());
            }
        }
        None => {
            let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
            parts.uri = path
                .parse()
                .map_err(|error| Error::transport("the request has no usable path", error))?;
        }
    }
    let frames = StreamBody::new(body.map(|chunk| chunk.map(Frame::data)));

    let broke = {
        let at = at.clone();
        move |error: hyper::Error| {
            Error::transport(
                format!(
                    "the connection to {at} broke before an answer came: {}",
                    innermost(&error)
                ),
                error,
            )
        }
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(&broke)?;
    let mut driver = Driver(Some(Box::pin(async move {
        let _ = connection.await;
    })));
    let mut answering =
        std::pin::pin!(sender.send_request(http::Request::from_parts(parts, frames)));
    let answer = std::future::poll_fn(|cx| {
        driver.drive(cx);
        answering.as_mut().poll(cx)
    });
    let (head, body) = answer.await.map_err(&broke)?.into_parts();
    let stream = Answer { body: BodyExt::into_data_stream(body), driver, at };
    Ok(http::Response::from_parts(head, stream.boxed()))
}

/// What moves the bytes of a connection, in both directions, while it is polled. Dropped with the request's future and
/// with the answer's body: then the producer is asked for nothing more.
struct Driver(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Driver {
    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.0.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready()) {
            self.0 = None;
        }
    }
}

/// The body of the answer.
struct Answer {
    body: BodyDataStream<Incoming>,
    driver: Driver,
    at: String,
}

impl futures_util::Stream for Answer {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.driver.drive(cx);
        let chunk = ready!(self.body.poll_next_unpin(cx));
        Poll::Ready(chunk.map(|chunk| {
            chunk.map_err(|error| {
                Error::transport(format!("the answer of {} broke off", self.at), error)
            })
        }))
    }
}

fn host_header(url: &url::Url) -> Result<HeaderValue> {
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    HeaderValue::try_from(host)
        .map_err(|error| Error::transport("the host cannot be named in a header", error))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    url: &url::Url,
    via: Option<&Via>,
    tls: Arc<rustls::ClientConfig>,
    limit: Duration,
) -> io::Result<Box<dyn Stream>> {
    let first = via.map_or(url, |via| &via.url);
    let (name, port) = host_of(first)?;
    let mut addresses: Vec<_> =
        tokio::time::timeout(limit, tokio::net::lookup_host((name.as_str(), port)))
            .await
            .map_err(|_| late())??
            .collect();
    addresses.dedup();
    // A dead address must not eat the time of the ones after it.
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match tokio::time::timeout(share, attempt(address, url, via, &tls)).await {
            Ok(Ok(io)) => return Ok(io),
            Ok(Err(error)) => last = error,
            Err(_) => last = late(),
        }
    }
    Err(last)
}

/// One connection, with what lies upon it: TLS to the proxy, its tunnel, TLS to the host.
async fn attempt(
    address: std::net::SocketAddr,
    url: &url::Url,
    via: Option<&Via>,
    tls: &Arc<rustls::ClientConfig>,
) -> io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let mut io: Box<dyn Stream> = Box::new(QuietWrites { io: tcp, broken: false });
    if let Some(via) = via {
        io = secured(io, &via.url, tls).await?;
        if url.scheme() == "https" {
            let (_, port) = host_of(url)?;
            let host = &url[url::Position::BeforeHost..url::Position::AfterHost];
            via.tunnel(&mut io, &format!("{host}:{port}")).await?;
        }
    }
    secured(io, url, tls).await
}

/// With TLS, if that is what the URL says.
async fn secured(
    io: Box<dyn Stream>,
    url: &url::Url,
    tls: &Arc<rustls::ClientConfig>,
) -> io::Result<Box<dyn Stream>> {
    if url.scheme() != "https" {
        return Ok(io);
    }
    let (name, _) = host_of(url)?;
    let host = ServerName::try_from(name)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let tls = tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(host, io).await?;
    Ok(Box::new(tls))
}

fn host_of(url: &url::Url) -> io::Result<(String, u16)> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let port = url.port_or_known_default().ok_or_else(missing)?;
    let name = match url.host().ok_or_else(missing)? {
        url::Host::Domain(name) => name.to_owned(),
        url::Host::Ipv4(ip) => ip.to_string(),
        url::Host::Ipv6(ip) => ip.to_string(),
    };
    Ok((name, port))
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no connection within the time limit")
}

/// A connection whose failed writes wait for the reading side to tell what happened.
struct QuietWrites<T> {
    io: T,
    broken: bool,
}

impl<T: AsyncWrite + Unpin> QuietWrites<T> {
    fn quiet<R>(&mut self, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match result {
            Poll::Ready(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                ) =>
            {
                // The reader is woken by the same event: it finds the answer, or the end.
                self.broken = true;
                Poll::Pending
            }
            other => other,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for QuietWrites<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for QuietWrites<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_write(cx, data);
        self.quiet(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        self.quiet(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.quiet(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
