//! HTTP/1.1 by hand: the traps of the server are in the bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The server refuses longer header blocks, request line included.
const HEAD_LIMIT: usize = 1024;

/// The server refuses longer bodies of calls.
const BODY_LIMIT: usize = 300 * 1024;

/// How long a connection may be silent between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one read of a header block may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, with or without TLS.
#[derive(Debug)]
pub(crate) enum Conn {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conn {
    /// Makes the coming close a reset.
    pub(crate) fn reset_on_close(&self) {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        let _ = tcp.set_zero_linger();
    }

    /// Ends the TCP stream and leaves TLS without its close_notify.
    pub(crate) async fn shutdown_tcp(&mut self) {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_mut().0,
        };
        let _ = tcp.shutdown().await;
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The query as it was sent, for redirects.
    pub(crate) raw_query: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    minor: u8,
}

/// Why a request was not read.
#[derive(Debug)]
pub(crate) enum BadRequest {
    /// The connection ended between two requests, or in the middle of one.
    Closed,
    /// The request is refused with this status line and the connection ends.
    Status(&'static str),
}

impl Head {
    /// Reads a header block. What follows it stays in `buffer`.
    pub(crate) async fn read(conn: &mut Conn, buffer: &mut BytesMut) -> Result<Self, BadRequest> {
        let end = loop {
            if let Some(at) = find(buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if buffer.len() > HEAD_LIMIT {
                return Err(TOO_LARGE);
            }
            let patience = if buffer.is_empty() { IDLE_TIMEOUT } else { HEAD_TIMEOUT };
            match tokio::time::timeout(patience, conn.read_buf(buffer)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return Err(BadRequest::Closed),
            }
        };
        if end > HEAD_LIMIT {
            return Err(TOO_LARGE);
        }
        let block = buffer.split_to(end);
        Self::parse(&block).ok_or(BadRequest::Status("400 Bad Request"))
    }

    fn parse(block: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        if !request.parse(block).ok()?.is_complete() {
            return None;
        }
        let target = request.path?;
        let (path, raw_query) = target.split_once('?').unwrap_or((target, ""));
        let query = raw_query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| {
            let decode = |s| percent_decode_str(s).decode_utf8_lossy().into_owned();
            (decode(k), decode(v))
        });
        let headers = request.headers.iter().map(|h| {
            let value = String::from_utf8_lossy(h.value).into_owned();
            (h.name.to_ascii_lowercase(), value)
        });
        Some(Self {
            method: request.method?.to_owned(),
            path: path.to_owned(),
            raw_query: raw_query.to_owned(),
            query: query.collect(),
            headers: headers.collect(),
            minor: request.version?,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// A parameter of the query; the first of several wins.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        first(&self.query, name)
    }

    /// Whether a parameter is there, with a value or without.
    pub(crate) fn has_query(&self, name: &str) -> bool {
        let pairs = self.raw_query.split('&');
        pairs.into_iter().any(|pair| pair.split('=').next() == Some(name))
    }

    /// A cookie. The server splits on `;` and does not trim: a second cookie after `; ` has a
    /// name that begins with a blank, and is not found.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.header("cookie")?.split(';').filter_map(|c| c.split_once('='));
        cookies.into_iter().find(|(k, _)| *k == name).map(|(_, v)| v)
    }

    /// The task that is to tell how it ended; empty for none.
    pub(crate) fn task(&self) -> &str {
        self.query("task_id").or_else(|| self.cookie("task_id")).unwrap_or_default()
    }

    pub(crate) fn keep_alive(&self) -> bool {
        match self.header("connection").map(str::to_ascii_lowercase).as_deref() {
            Some("close") => false,
            Some("keep-alive") => true,
            _ => self.minor == 1,
        }
    }

    /// Reads the body of a call: the server wants its length beforehand.
    pub(crate) async fn body(
        &self,
        conn: &mut Conn,
        buffer: &mut BytesMut,
    ) -> Result<BytesMut, BadRequest> {
        let Some(length) = self.header("content-length") else {
            return Err(BadRequest::Status("500 Internal Error"));
        };
        let length: usize =
            length.trim().parse().map_err(|_| BadRequest::Status("500 Internal Error"))?;
        if length > BODY_LIMIT {
            return Err(BadRequest::Status("413 Request Entity Too Large"));
        }
        while buffer.len() < length {
            match conn.read_buf(buffer).await {
                Ok(n) if n > 0 => {}
                _ => return Err(BadRequest::Closed),
            }
        }
        Ok(buffer.split_to(length))
    }
}

const TOO_LARGE: BadRequest = BadRequest::Status("431 Request Header Fields Too Large");

fn first<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Sends a whole response. `headers` are complete lines without their ends.
pub(crate) async fn respond(
    conn: &mut Conn,
    status_line: &str,
    headers: &[&str],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!("{status_line}\r\ncontent-length: {}\r\n", body.len());
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    conn.write_all(&bytes).await?;
    conn.flush().await
}

/// The page that the server sends with a status of its own.
pub(crate) fn page(status: &str) -> Vec<u8> {
    format!("<html><body><h1>HTTP {status}</h1></body></html>").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(extra: &str) -> Head {
        let text = format!("GET /p?a=1&a=2&b=x%2Fy HTTP/1.1\r\nHost: h\r\n{extra}\r\n\r\n");
        Head::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_of_two_parameters_wins() {
        let head = head("Accept: */*");
        assert_eq!((head.query("a"), head.query("b")), (Some("1"), Some("x/y")));
    }

    #[test]
    fn a_second_cookie_after_a_blank_is_lost() {
        let head = head("Cookie: a=1; session_id=x;session=y");
        assert_eq!(head.cookie("session_id"), None);
        assert_eq!(head.cookie(" session_id"), Some("x"));
        assert_eq!(head.cookie("session"), Some("y"));
    }
}
