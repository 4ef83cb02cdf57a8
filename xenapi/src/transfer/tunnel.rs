//! `CONNECT /console`: a request by hand, and then the connection itself.
//!
//! HTTP libraries make an authority out of the target of a CONNECT, so that the path would be lost
//! with them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use url::{Url, form_urlencoded};

use super::connect::url_authority;
use super::link::{self, Link};
use super::redirect::{self, Errand};
use super::sniff;
use crate::console::{self, Console};
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::refs::Ref;

const CONSOLE: Errand<'_> = Errand { what: "console", path: "/console" };
/// How much is read of a page that explains a refusal.
const LONGEST_PAGE: usize = 8 * 1024;
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a page may take that explains a refusal.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes of a console in both directions, over the server's TLS.
///
/// What they mean says the console's protocol: hand it to [`Rfb`](crate::console::Rfb) or to
/// [`Terminal`](crate::console::Terminal). Dropping it closes the console.
pub struct ConsoleStream {
    link: Link,
    /// What came in the same breath as the answer's head.
    early: Bytes,
    server: String,
}

impl Session {
    /// Opens a console: the connection to the host that its guest runs on, trusted as the pool is.
    ///
    /// Consoles are made anew with every start of a guest; [`open_rfb`](Self::open_rfb) and
    /// [`open_terminal`](Self::open_terminal) look for the one of now. The role `vm-operator` is
    /// enough, but for the consoles of hosts.
    ///
    /// # Errors
    /// - [`Connect`](ErrorKind::Connect): no connection, or the console is not there (yet): the
    ///   guest does not run, or not on that host any more; or the pool allows one viewer at a time
    ///   (`limit_console_sessions`) and there is one;
    /// - [`Authentication`](ErrorKind::Authentication): the host does not take the session, or the
    ///   user must not;
    /// - [`Redirect`](ErrorKind::Redirect): the console is said to be at a host that is none of
    ///   the pool;
    /// - [`Tls`](ErrorKind::Tls), [`Timeout`](ErrorKind::Timeout), [`Protocol`](ErrorKind::Protocol),
    ///   and as [`call`](Self::call).
    pub async fn open_console(&self, console: &Ref<Console>) -> Result<ConsoleStream> {
        let record = self.call(console::get_record(console)).await?;
        let opened = self.open_location(&record).await;
        opened.map_err(|e| self.redact(e).context(format!("console {}", record.uuid)))
    }

    async fn open_location(&self, record: &Console) -> Result<ConsoleStream> {
        if record.location.is_empty() {
            let words = "it has no location; does the guest run?";
            return Err(Error::new(ErrorKind::Connect, words));
        }
        let from = self.url();
        // This asks the pool for its hosts, which also renews a session that has died.
        let target = redirect::resolve(self, CONSOLE, &from, &record.location).await?;
        let server = url_authority(&target.url);
        let line = format!("CONNECT {}?{} HTTP/1.0", CONSOLE.path, query(record));
        let request = link::request(self, &target.url, &line, "")?;
        let limit = self.inner.settings.connect_timeout;
        let link = tokio::time::timeout(limit, link::open(&target, &server))
            .await
            .map_err(|_| late(&server, "no connection", limit))??;
        let asking = ask(link, &server, request.as_bytes());
        tokio::time::timeout(ANSWER_TIMEOUT, asking)
            .await
            .map_err(|_| late(&server, "no answer", ANSWER_TIMEOUT))?
    }
}

/// What names the console, as its location says; nothing else of that goes into the request.
fn query(record: &Console) -> String {
    let named = Url::parse(&record.location).ok().and_then(|url| {
        let mut pairs = url.query_pairs();
        let found = pairs.find(|(key, _)| matches!(&**key, "uuid" | "ref"))?;
        Some((found.0.into_owned(), found.1.into_owned()))
    });
    let (key, value) = named.unwrap_or_else(|| ("uuid".to_owned(), record.uuid.clone()));
    form_urlencoded::Serializer::new(String::new()).append_pair(&key, &value).finish()
}

/// Sends the request and reads the answer's head, to its last byte and no further.
async fn ask(mut link: Link, server: &str, request: &[u8]) -> Result<ConsoleStream> {
    let broke = |e: io::Error| {
        let words = format!("{server}: the connection broke before there was an answer");
        Error::new(ErrorKind::Transport, words).with_source(e)
    };
    link.write_all(request).await.map_err(broke)?;
    link.flush().await.map_err(broke)?;
    let mut buffer = BytesMut::new();
    // XAPI drops connections to a console that is not of this host.
    let head = link::read_head(&mut link, &mut buffer, server).await?;
    match head.status {
        200 => Ok(ConsoleStream { link, early: buffer.freeze(), server: server.to_owned() }),
        status => Err(refusal(link, buffer, server, status).await),
    }
}

/// The error for an answer that is no 200, with the words of its page.
async fn refusal(mut link: Link, mut page: BytesMut, server: &str, status: u16) -> Error {
    let reading = async {
        while page.len() < LONGEST_PAGE {
            if !matches!(link.read_buf(&mut page).await, Ok(n) if n > 0) {
                break;
            }
        }
    };
    // The page is a nicety; a server that does not end it must not hold us.
    let _ = tokio::time::timeout(PAGE_TIMEOUT, reading).await;
    let said = sniff::strip_tags(&String::from_utf8_lossy(&page));
    let (kind, hint) = match status {
        401 => (ErrorKind::Authentication, "the session is not valid there"),
        403 => (ErrorKind::Authentication, "the user must not open it"),
        404 | 500 => (ErrorKind::Connect, "does the guest run, and on that host?"),
        503 => (ErrorKind::Connect, "the pool allows one viewer at a time, and there is one"),
        _ => (ErrorKind::Protocol, "no console answers so"),
    };
    Error::new(kind, format!("{server} refuses with status {status}: {hint}; {said}"))
}

fn late(server: &str, what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("{server}: {what} within {} s", limit.as_secs()))
}

impl fmt::Debug for ConsoleStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleStream").field("server", &self.server).finish_non_exhaustive()
    }
}

impl AsyncRead for ConsoleStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.early.is_empty() {
            return Pin::new(&mut me.link).poll_read(cx, buffer);
        }
        let now = me.early.len().min(buffer.remaining());
        buffer.put_slice(&me.early.split_to(now));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ConsoleStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().link).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().link).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().link).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_the_console_is_taken_from_its_location() {
        for (location, expected) in [
            ("https://h/console?uuid=a-b", "uuid=a-b"),
            ("https://h/console?ref=OpaqueRef%3Aa", "ref=OpaqueRef%3Aa"),
            ("https://h/console?session_id=s&uuid=a%0d%0a+b&x=y", "uuid=a%0D%0A+b"),
            ("https://h/console", "uuid=own"),
            ("", "uuid=own"),
        ] {
            let record = Console {
                location: location.to_owned(),
                uuid: "own".to_owned(),
                ..Console::default()
            };
            assert_eq!(query(&record), expected);
        }
    }
}
