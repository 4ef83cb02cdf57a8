//! One HTTP/1.1 connection for one request, over TLS or plain TCP.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};
use crate::tls::{self, Trust};

/// Servers refuse more than 1024 bytes of request line and headers; some is left for what hyper
/// puts between the parts.
pub(super) const LONGEST_HEAD: usize = 1000;

/// How much is read at once: several records of TLS.
const READ: usize = 64 << 10;

/// What moves the bytes of a connection.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of an answer, which moves the bytes of its connection itself while it is read. In a
/// task of its own the connection would hand each record of TLS from one thread to another, which
/// costs more than to decrypt it.
pub(super) struct Body {
    incoming: Incoming,
    /// `None` once it has ended.
    driver: Option<Driver>,
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Connects and sends the request.
pub(super) async fn open(
    url: &Url,
    trust: &Trust,
    request: Request<Empty<Bytes>>,
    connect_timeout: Duration,
    answer_timeout: Duration,
) -> Result<Response<Body>> {
    let server = url_authority(url);
    check_head(&request)?;
    let connecting = async {
        let tcp = dial(url, &server).await?;
        if url.scheme() == "https" {
            handshake(secure(url, trust, tcp, &server).await?, &server).await
        } else {
            handshake(tcp, &server).await
        }
    };
    let late = |what: &str, limit: Duration| {
        Error::new(ErrorKind::Timeout, format!("{server}: {what} within {} s", limit.as_secs()))
    };
    let (mut sender, mut driver) = tokio::time::timeout(connect_timeout, connecting)
        .await
        .map_err(|_| late("no connection", connect_timeout))??;
    let answering = async {
        let mut answer = std::pin::pin!(sender.send_request(request));
        // When the connection ends, the answer learns of it.
        tokio::select! {
            answer = &mut answer => (answer, Some(driver)),
            () = &mut driver => (answer.await, None),
        }
    };
    let (answer, driver) = tokio::time::timeout(answer_timeout, answering)
        .await
        .map_err(|_| late("no answer", answer_timeout))?;
    let answer = answer.map_err(|e| {
        let words = format!("{server}: the connection broke before there was an answer");
        Error::new(ErrorKind::Transport, words).with_source(e)
    })?;
    Ok(answer.map(|incoming| Body { incoming, driver }))
}

/// `host:port` for messages.
pub(super) fn url_authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(super) async fn dial(url: &Url, server: &str) -> Result<TcpStream> {
    let port = url.port_or_known_default().unwrap_or(443);
    let made = match url.host() {
        Some(Host::Domain(name)) => TcpStream::connect((name, port)).await,
        Some(Host::Ipv4(address)) => TcpStream::connect((address, port)).await,
        Some(Host::Ipv6(address)) => TcpStream::connect((address, port)).await,
        None => return Err(Error::new(ErrorKind::Config, "the URL names no host")),
    };
    let tcp = made.map_err(|e| {
        let words = format!("{server}: no connection; is the address right and the server up?");
        Error::new(ErrorKind::Connect, words).with_source(e)
    })?;
    // Only latency: a failure is no reason to give up.
    let _ = tcp.set_nodelay(true);
    Ok(tcp)
}

pub(super) async fn secure(
    url: &Url,
    trust: &Trust,
    tcp: TcpStream,
    server: &str,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = match url.host() {
        Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()).ok(),
        Some(Host::Ipv4(address)) => Some(ServerName::from(std::net::IpAddr::V4(address))),
        Some(Host::Ipv6(address)) => Some(ServerName::from(std::net::IpAddr::V6(address))),
        None => None,
    }
    .ok_or_else(|| Error::new(ErrorKind::Config, "the URL names no host that TLS can check"))?;
    let connector = TlsConnector::from(Arc::new(trust.client_config()?));
    connector.connect(name, tcp).await.map_err(|e| match tls::tls_failure(&e) {
        Some(why) => Error::new(ErrorKind::Tls, format!("{server}: {why}")).with_source(e),
        None => {
            let words = format!("{server}: the connection broke while TLS was set up");
            Error::new(ErrorKind::Connect, words).with_source(e)
        }
    })
}

type Sender = http1::SendRequest<Empty<Bytes>>;

async fn handshake<S>(stream: S, server: &str) -> Result<(Sender, Driver)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .read_buf_exact_size(Some(READ))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| {
            Error::new(ErrorKind::Connect, format!("{server}: HTTP cannot begin")).with_source(e)
        })?;
    // Errors of the connection come out of the body as well, where they can be told.
    Ok((sender, Box::pin(async move { drop(connection.await) })))
}

/// Refuses a head that the server would refuse with status 431.
fn check_head(request: &Request<Empty<Bytes>>) -> Result<()> {
    let line = request.method().as_str().len() + request.uri().to_string().len() + 12;
    let headers: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if line + headers > LONGEST_HEAD {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the request's head has {} bytes and servers refuse more than 1024; use a shorter \
                 user agent or host name",
                line + headers
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_6_a_long_head_is_refused_here() {
        let request = |n: usize| {
            Request::get("/export_raw_vdi").header("x", "y".repeat(n)).body(Empty::new()).unwrap()
        };
        check_head(&request(100)).unwrap();
        assert_eq!(check_head(&request(2_000)).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
