//! One request on one connection, for bodies that are made while they are sent.
//!
//! Two things forbid a common HTTP library here. A server that refuses an upload answers and closes while the client
//! is still writing; the client's next write then fails, and a library that reports this write error throws away
//! the answer that lies unread in the socket. And there are servers that compare the names of the upload's
//! headers letter by letter (`X-signature`), which libraries write all lower case. So the head is written here, the body
//! follows, and what ends the exchange is what is *read*: the answer, or the end of the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http_transport::place;
use super::{BodyStream, body_of};
use crate::error::{Error, Result};

/// How large an answer's head may be.
const HEAD_LIMIT: usize = 64 << 10;
/// How much of an answer's body is read: it is a sentence.
const BODY_LIMIT: usize = 64 << 10;
/// How long the answer may take after a write has failed: it is on its way then or lost.
const AFTER_BREAK: Duration = Duration::from_secs(10);

pub(super) async fn send(
    parts: &http::request::Parts,
    len: u64,
    body: BoxStream<'static, io::Result<Bytes>>,
    tls: Arc<rustls::ClientConfig>,
    connect_timeout: Duration,
) -> Result<http::Response<BodyStream>> {
    let url = url::Url::parse(&parts.uri.to_string())
        .map_err(|error| Error::transport("the request has no usable URL", error))?;
    let at = place(&url);
    let head = head_of(parts, &url, len);
    let io = connect(&url, tls, connect_timeout)
        .await
        .map_err(|error| Error::transport(format!("cannot connect to {at}: {error}"), error))?;
    let broke = |error: io::Error| {
        Error::transport(
            format!("the connection to {at} broke before an answer came: {error}"),
            error,
        )
    };
    exchange(io, head, body).await.map_err(broke)
}

async fn exchange(
    io: Box<dyn Io>,
    head: Vec<u8>,
    body: BoxStream<'static, io::Result<Bytes>>,
) -> io::Result<http::Response<BodyStream>> {
    let (mut input, output) = tokio::io::split(io);
    let mut writer = Box::pin(write(output, head, body));
    let mut reader = Box::pin(async move {
        let (status, headers, rest) = read_head(&mut input).await?;
        io::Result::Ok((status, headers, rest, input))
    });
    let answer = tokio::select! {
        biased;
        answer = &mut reader => answer,
        written = &mut writer => match written {
            Ok(()) => reader.await,
            Err(Broken::Data(error)) => return Err(error),
            Err(Broken::Connection(error)) => {
                match tokio::time::timeout(AFTER_BREAK, reader).await {
                    Ok(Ok(answer)) => Ok(answer),
                    _ => return Err(error),
                }
            }
        },
    };
    // Whatever the answer is, no more of the body is wanted.
    drop(writer);
    let (status, headers, rest, mut input) = answer?;
    let text = tokio::time::timeout(AFTER_BREAK, read_body(&mut input, &headers, rest)).await;
    let mut answer = http::Response::new(body_of(text.unwrap_or_default()));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Who is to blame for a body that could not be sent.
enum Broken {
    Data(io::Error),
    Connection(io::Error),
}

async fn write(
    mut output: impl AsyncWrite + Unpin,
    head: Vec<u8>,
    mut body: BoxStream<'static, io::Result<Bytes>>,
) -> Result<(), Broken> {
    output.write_all(&head).await.map_err(Broken::Connection)?;
    // Before the first byte of data, which may be long in coming.
    output.flush().await.map_err(Broken::Connection)?;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(Broken::Data)?;
        output.write_all(&chunk).await.map_err(Broken::Connection)?;
    }
    output.flush().await.map_err(Broken::Connection)
}

/// The head in the letters that servers expect.
fn head_of(parts: &http::request::Parts, url: &url::Url, len: u64) -> Vec<u8> {
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    // The server signs this name: it must be the URL's, without a default port.
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut head = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", parts.method).into_bytes();
    for (name, value) in &parts.headers {
        head.extend_from_slice(spelling(name).as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(
        format!("Content-Length: {len}\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    head
}

/// `X-signature`, `X-metadata` and `X-expires` have one capital; CloudStack 4.18.0 compares them so.
fn spelling(name: &HeaderName) -> String {
    let own = name.as_str().starts_with("x-");
    let mut capital = true;
    name.as_str()
        .chars()
        .map(|c| {
            let c = if capital { c.to_ascii_uppercase() } else { c };
            capital = c == '-' && !own;
            c
        })
        .collect()
}

async fn read_head(
    input: &mut (impl AsyncRead + Unpin),
) -> io::Result<(StatusCode, HeaderMap, BytesMut)> {
    let mut data = BytesMut::new();
    loop {
        if let Some((status, headers, end)) = parse_head(&data)? {
            let _ = data.split_to(end);
            // 100 and its kin only announce the answer.
            if !status.is_informational() {
                return Ok((status, headers, data));
            }
            continue;
        }
        if data.len() > HEAD_LIMIT {
            return Err(bad("the head of the answer is too large"));
        }
        if input.read_buf(&mut data).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed"));
        }
    }
}

fn parse_head(data: &[u8]) -> io::Result<Option<(StatusCode, HeaderMap, usize)>> {
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Response::new(&mut lines);
    let end = match head.parse(data) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(bad("the answer is not HTTP")),
    };
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| bad("the answer has no status"))?;
    let mut headers = HeaderMap::new();
    for line in head.headers.iter() {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(line.name), HeaderValue::from_bytes(line.value))
        {
            headers.append(name, value);
        }
    }
    Ok(Some((status, headers, end)))
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The body, as far as it comes and within the limit: it is only a text for people.
async fn read_body(
    input: &mut (impl AsyncRead + Unpin),
    headers: &HeaderMap,
    mut data: BytesMut,
) -> Bytes {
    let chunked = headers.contains_key(http::header::TRANSFER_ENCODING);
    let len = headers.get(http::header::CONTENT_LENGTH);
    let len = len.and_then(|len| len.to_str().ok()?.trim().parse::<usize>().ok());
    let wanted = if chunked { BODY_LIMIT } else { len.unwrap_or(BODY_LIMIT).min(BODY_LIMIT) };
    while data.len() < wanted && !(chunked && data.ends_with(b"0\r\n\r\n")) {
        match input.read_buf(&mut data).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
    }
    data.truncate(wanted);
    if chunked { unchunked(&data).into() } else { data.freeze() }
}

/// The data of chunks, up to where they stop being chunks.
fn unchunked(mut data: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(line) = data.windows(2).position(|pair| pair == b"\r\n") {
        let size = std::str::from_utf8(&data[..line]).ok().and_then(|line| {
            usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).ok()
        });
        data = &data[line + 2..];
        match size {
            Some(size) if size > 0 => {
                let there = size.min(data.len());
                all.extend_from_slice(&data[..there]);
                data = data[there..].strip_prefix(b"\r\n").unwrap_or_default();
            }
            _ => break,
        }
    }
    all
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn connect(
    url: &url::Url,
    tls: Arc<rustls::ClientConfig>,
    limit: Duration,
) -> io::Result<Box<dyn Io>> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let port = url.port_or_known_default().ok_or_else(missing)?;
    let name = match url.host().ok_or_else(missing)? {
        url::Host::Domain(name) => name.to_owned(),
        url::Host::Ipv4(ip) => ip.to_string(),
        url::Host::Ipv6(ip) => ip.to_string(),
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection within the time limit");
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
        let attempt = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            if url.scheme() != "https" {
                return Ok(Box::new(tcp) as Box<dyn Io>);
            }
            let host = ServerName::try_from(name.clone())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let tls = tokio_rustls::TlsConnector::from(Arc::clone(&tls)).connect(host, tcp).await?;
            Ok(Box::new(tls) as Box<dyn Io>)
        };
        match tokio::time::timeout(share, attempt).await {
            Ok(Ok(io)) => return Ok(io),
            Ok(Err(error)) => last = error,
            Err(_) => last = late(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_letters_of_the_documentation() {
        let spelled = |name: &'static str| spelling(&HeaderName::from_static(name));
        assert_eq!(spelled("x-signature"), "X-signature");
        assert_eq!(spelled("x-metadata"), "X-metadata");
        assert_eq!(spelled("x-expires"), "X-expires");
        assert_eq!(spelled("content-type"), "Content-Type");
    }

    #[tokio::test]
    async fn answers_are_read_in_every_frame() {
        for (bytes, text) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd"[..], "abc"),
            (b"HTTP/1.1 200 OK\r\n\r\nabcd", "abcd"),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "abc"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
                "abc",
            ),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab", "ab"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab", ""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nab", "ab"),
        ] {
            let mut input = bytes;
            let (status, headers, rest) = read_head(&mut input).await.unwrap();
            assert_eq!(status, 200);
            let body = read_body(&mut input, &headers, rest).await;
            assert_eq!(body, text.as_bytes());
        }
        for bytes in [&b""[..], b"HTTP/1.1 2", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 099 x\r\n\r\n"] {
            assert!(read_head(&mut &bytes[..]).await.is_err());
        }
        let endless = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 200_000]].concat();
        assert!(read_head(&mut &endless[..]).await.is_err());
    }
}
