//! A connection of its own, for requests that HTTP libraries do not make: written by hand, and
//! answered while it is still being written to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use url::Url;
use zeroize::Zeroizing;

use super::connect::{self, LONGEST_HEAD, url_authority};
use super::redirect;
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;

/// How much of an answer's head is read.
const LONGEST_ANSWER: usize = 16 * 1024;

/// A connection, with or without TLS.
pub(super) enum Link {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects.
pub(super) async fn open(target: &redirect::Target, server: &str) -> Result<Link> {
    let tcp = connect::dial(&target.url, server).await?;
    if target.url.scheme() != "https" {
        return Ok(Link::Plain(tcp));
    }
    let tls = connect::secure(&target.url, &target.trust, tcp, server).await?;
    Ok(Link::Tls(Box::new(tls)))
}

/// The head of a request; `extra` are whole lines with their ends. The session goes in a cookie,
/// the only one: servers log queries, and do not trim the name of a second cookie.
pub(super) fn request(
    session: &Session,
    url: &Url,
    line: &str,
    extra: &str,
) -> Result<Zeroizing<String>> {
    let current = session.current();
    let handle = current.handle.expose();
    if !handle.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        let words = "the server's session has an unusable name";
        return Err(Error::new(ErrorKind::Protocol, words));
    }
    let agent = session.inner.settings.user_agent.to_str().unwrap_or("xenapi-rs");
    let request = Zeroizing::new(format!(
        "{line}\r\nHost: {}\r\nUser-Agent: {agent}\r\nCookie: session_id={handle}\r\n{extra}\r\n",
        url_authority(url),
    ));
    if request.len() > LONGEST_HEAD {
        let words = "the request would be longer than servers accept; use a shorter user agent";
        return Err(Error::new(ErrorKind::TooLarge, words));
    }
    Ok(request)
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    pub(super) length: Option<u64>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let status = status(bytes)?;
        let text = String::from_utf8_lossy(bytes);
        let header = |name: &str| {
            let mut all = text.lines().skip(1).filter_map(|line| line.split_once(':'));
            all.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
        };
        let location = header("location").map(str::to_owned);
        let length = header("content-length").and_then(|text| text.parse().ok());
        Some(Self { status, location, length })
    }
}

/// Reads an answer's head; what came behind it stays in `buffer`. May be dropped and called again.
/// Interim answers (1xx), which anything on the way may send unasked, are passed over.
pub(super) async fn read_head(
    link: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    server: &str,
) -> Result<Head> {
    let mut passed = 0;
    loop {
        let bytes = read_to_blank(link, buffer, LONGEST_ANSWER - passed, server).await?;
        let head = Head::parse(&bytes).ok_or_else(|| {
            let said = crate::wire::excerpt(&bytes);
            Error::new(ErrorKind::Protocol, format!("{server}: the answer is not HTTP but {said}"))
        })?;
        if head.status == 101 || !(100..200).contains(&head.status) {
            return Ok(head);
        }
        passed = LONGEST_ANSWER.min(passed + bytes.len());
    }
}

/// Everything to the blank line that ends a head, in not much more than `limit` bytes.
async fn read_to_blank(
    link: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    limit: usize,
    server: &str,
) -> Result<BytesMut> {
    let broke = |e: io::Error| {
        let words = format!("{server}: the connection broke before there was an answer");
        Error::new(ErrorKind::Transport, words).with_source(e)
    };
    loop {
        let end = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
        if end.unwrap_or(buffer.len()) > limit {
            let words = format!("{server}: the head of the answer has no end");
            return Err(Error::new(ErrorKind::TooLarge, words));
        }
        if let Some(end) = end {
            return Ok(buffer.split_to(end));
        }
        if link.read_buf(buffer).await.map_err(broke)? == 0 {
            return Err(broke(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The status in `HTTP/1.x 200 …`.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let parted = matches!(rest, [b'0' | b'1', b' ', _, _, _, b' ' | b'\r', ..]);
    std::str::from_utf8(digits).ok().filter(|_| parted)?.parse().ok()
}

/// Calls the same method of either kind of link.
macro_rules! either {
    ($link:expr, $stream:ident => $call:expr) => {
        match $link {
            Link::Plain($stream) => $call,
            Link::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n\r\n"), Some(503));
        for bad in
            ["", "HTTP/1.1 20\r\n", "HTTP/1.1 2000 OK\r\n", "HTTP/2 200 OK\r\n", "RFB 003.008\n"]
        {
            assert_eq!(status(bad.as_bytes()), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn an_interim_answer_is_passed_over() {
        let mut link = &b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX: y\r\n\r\n\
                          HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\nrest"[..];
        let mut buffer = BytesMut::new();
        let head = read_head(&mut link, &mut buffer, "xen1").await.unwrap();
        assert_eq!((head.status, head.location.as_deref()), (302, Some("/x")));
        assert_eq!(buffer, b"rest"[..]);
        // However many there are, they are one head.
        let many = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000);
        let error = read_head(&mut &many[..], &mut BytesMut::new(), "xen1").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn heads_are_read_whatever_the_case_of_their_names() {
        let head =
            b"HTTP/1.1 302 Found\r\nlocation: https://h/x?a=b:c\r\nContent-LENGTH: 7\r\n\r\n";
        let head = Head::parse(head).unwrap();
        assert_eq!(head.status, 302);
        assert_eq!(head.location.as_deref(), Some("https://h/x?a=b:c"));
        assert_eq!(head.length, Some(7));
        assert!(Head::parse(b"nothing\r\n\r\n").is_none());
    }
}
