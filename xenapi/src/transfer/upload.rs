//! One PUT: its body goes out while its answer is listened to.
//!
//! Servers answer 200 before they read the body, and refuse before it as well: what an answer says
//! early ends the upload, or says nothing about it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::connect::url_authority;
use super::link::{self, Head, Link};
use super::pace::{Meter, Throttle};
use super::redirect::Target;
use super::source::ImportSource;
use super::{LONGEST_PAGE, sniff};
use crate::error::{Error, ErrorKind, Result};

/// How long an early answer is waited for: with a redirect the body must not have begun.
const EARLY: Duration = Duration::from_secs(2);
/// How long the rest of an answer may take that refuses.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last bytes may take to a connection whose other end is closed: they fail at once,
/// unless they are not there yet.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// How much goes out between two looks at the throttle.
const PIECE: usize = 64 * 1024;

/// What limits an upload, and who watches it.
pub(super) struct Terms<'a> {
    pub(super) connect: Duration,
    pub(super) inactivity: Duration,
    /// How long the server may take to end the answer after the last byte.
    pub(super) patience: Duration,
    pub(super) throttle: Option<&'a Throttle>,
    pub(super) meter: Option<&'a Meter>,
    /// How much the connection has taken.
    pub(super) sent: &'a AtomicU64,
}

/// What became of a PUT.
#[derive(Debug)]
pub(super) enum Put {
    /// The body is out, and the answer has ended.
    Sent,
    /// Nothing of the body is out: another host is to be asked.
    Elsewhere(String),
    /// Nothing of the body is out: the host does not know the session.
    Unauthorised(Error),
}

/// The end of an answer.
#[derive(Debug)]
struct Answer {
    head: Head,
    page: BytesMut,
    /// Whether the connection has ended with it.
    closed: bool,
}

/// Sends the request and its body, and reads the answer to its end.
pub(super) async fn put(
    target: &Target,
    request: &[u8],
    source: &mut ImportSource,
    terms: &Terms<'_>,
) -> Result<Put> {
    let server = url_authority(&target.url);
    let opened = timeout(terms.connect, link::open(target, &server)).await;
    let mut link = opened.map_err(|_| late(&server, "no connection", terms.connect))??;
    let broke = |e: io::Error| {
        let words = format!("{server}: the connection broke before the body began");
        Error::new(ErrorKind::Transport, words).with_source(e)
    };
    link.write_all(request).await.map_err(broke)?;
    link.flush().await.map_err(broke)?;
    let mut buffer = BytesMut::new();
    let early = match timeout(EARLY, link::read_head(&mut link, &mut buffer, &server)).await {
        Ok(head) => Some(head?),
        // A server may wait for the body instead.
        Err(_) => None,
    };
    if let Some(Head { status: 300..=399, location: Some(location), .. }) = early {
        return Ok(Put::Elsewhere(location));
    }
    if early.as_ref().is_some_and(|head| head.status != 200) {
        let answer = hear(link, (early, buffer), &server).await?;
        return match refusal(&answer, &server) {
            Err(error) if answer.head.status == 401 => Ok(Put::Unauthorised(error)),
            refused => refused.map(|()| Put::Sent),
        };
    }
    both_ways(link, (early, buffer), source, terms, &server).await?;
    Ok(Put::Sent)
}

/// Writes and listens at once.
async fn both_ways(
    link: Link,
    heard: (Option<Head>, BytesMut),
    source: &mut ImportSource,
    terms: &Terms<'_>,
    server: &str,
) -> Result<()> {
    let total = source.length();
    let (reader, writer) = tokio::io::split(link);
    let sending = send(writer, source, terms, server);
    let hearing = hear(reader, heard, server);
    tokio::pin!(sending, hearing);
    // What the sending came to, and until when an answer may come after that.
    let mut sent: Option<Result<()>> = None;
    let mut until = Instant::now();
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut hearing => break Some(answer?),
            result = &mut sending, if sent.is_none() => match result {
                Err(Stop::Ours(error)) => return Err(error),
                Err(Stop::Theirs(error)) => {
                    // A server that refuses may close before it has read everything.
                    until = Instant::now() + PAGE_TIMEOUT;
                    sent = Some(Err(error));
                }
                Ok(()) => {
                    until = Instant::now().checked_add(terms.patience).unwrap_or(until);
                    sent = Some(Ok(()));
                }
            },
            () = tokio::time::sleep_until(until), if sent.is_some() => break None,
        }
    };
    let Some(answer) = answer else {
        return sent.unwrap_or(Ok(())).and(Err(late(
            server,
            "no end of the answer",
            terms.patience,
        )));
    };
    refusal(&answer, server)?;
    if let Some(result) = sent {
        return result;
    }
    let ended = || {
        let words = format!("{server} ended the connection before it had all {total} bytes");
        Error::new(ErrorKind::Transport, words)
    };
    // What goes to a closed end may look as if it had arrived.
    if answer.closed && terms.sent.load(Ordering::Relaxed) < total {
        return Err(ended());
    }
    // The answer's end may be seen before the end of what it answers. One that had a length says
    // nothing of the body.
    let limit = if answer.closed { LAST_WRITE } else { Duration::MAX };
    match timeout(limit, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Stop::Ours(error) | Stop::Theirs(error))) => Err(error),
        Err(_) => Err(ended()),
    }
}

/// Why the sending ended early.
enum Stop {
    /// By us: nothing that the server says can be the reason.
    Ours(Error),
    /// By the server, which may say why.
    Theirs(Error),
}

async fn send(
    mut writer: impl AsyncWrite + Unpin,
    source: &mut ImportSource,
    terms: &Terms<'_>,
    server: &str,
) -> Result<(), Stop> {
    let total = source.length();
    let mut sent = 0_u64;
    // When the next bytes may go out.
    let mut free = Instant::now();
    let mut next = look(source, terms).await?;
    while let Some(bytes) = next.take() {
        let after = sent.saturating_add(bytes.len() as u64);
        if after >= total {
            // The last byte goes out when it is known to be the last: with it the server has all
            // that it wants, and takes the import for whole.
            let more = after > total || look(source, terms).await?.is_some();
            if more {
                return Err(ours(format!("the source has more than the {total} bytes announced")));
            }
        }
        for piece in pieces(bytes) {
            let count = piece.len() as u64;
            tokio::time::sleep_until(free).await;
            write(&mut writer, &piece, sent, terms, server).await?;
            sent += count;
            terms.sent.store(sent, Ordering::Relaxed);
            if let Some(meter) = terms.meter {
                meter.moved(sent);
            }
            if let Some(throttle) = terms.throttle {
                free = throttle.take(count, Instant::now());
            }
        }
        if sent < total {
            next = look(source, terms).await?;
        }
    }
    if sent < total {
        let words = format!("the source ended after {sent} of the {total} bytes announced");
        return Err(ours(words));
    }
    match timeout(terms.inactivity, writer.flush()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(cut(e, sent, server)),
        Err(_) => Err(stuck(sent, terms, server)),
    }
}

async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    piece: &[u8],
    sent: u64,
    terms: &Terms<'_>,
    server: &str,
) -> Result<(), Stop> {
    match timeout(terms.inactivity, writer.write_all(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(cut(e, sent, server)),
        Err(_) => Err(stuck(sent, terms, server)),
    }
}

/// The source's next bytes, in the time allowed.
async fn look(source: &mut ImportSource, terms: &Terms<'_>) -> Result<Option<Bytes>, Stop> {
    match timeout(terms.inactivity, source.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
        Ok(Some(Err(e))) => {
            let error = Error::new(ErrorKind::Source, format!("the source cannot be read: {e}"));
            Err(Stop::Ours(error.with_source(e)))
        }
        Err(_) => {
            Err(ours(format!("the source gave nothing for {} s", terms.inactivity.as_secs())))
        }
    }
}

fn pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let count = bytes.len().min(PIECE);
        (count > 0).then(|| bytes.split_to(count))
    })
}

fn ours(words: String) -> Stop {
    Stop::Ours(Error::new(ErrorKind::Source, words))
}

fn cut(e: io::Error, sent: u64, server: &str) -> Stop {
    let words = format!("{server}: the connection broke after about {sent} bytes");
    Stop::Theirs(Error::new(ErrorKind::Transport, words).with_source(e))
}

fn stuck(sent: u64, terms: &Terms<'_>, server: &str) -> Stop {
    let seconds = terms.inactivity.as_secs();
    let words = format!("{server} took nothing for {seconds} s, after about {sent} bytes");
    Stop::Ours(Error::new(ErrorKind::Timeout, words))
}

/// Reads the answer to its end, or as far as a refusal is worth.
async fn hear(
    mut reader: impl AsyncRead + Unpin,
    (early, mut page): (Option<Head>, BytesMut),
    server: &str,
) -> Result<Answer> {
    let head = match early {
        Some(head) => head,
        None => link::read_head(&mut reader, &mut page, server).await?,
    };
    let mut closed = false;
    let is_whole = |page: &BytesMut| head.length.is_some_and(|n| page.len() as u64 >= n);
    let mut refused = None;
    while !is_whole(&page) && page.len() <= LONGEST_PAGE {
        if refused.is_none() && (head.status != 200 || sniff::error_status(&page).is_some()) {
            refused = Some(Instant::now() + PAGE_TIMEOUT);
        }
        let reading = reader.read_buf(&mut page);
        // The words of a refusal are a nicety; a server that does not end them must not hold us.
        let read = match refused {
            Some(until) => match tokio::time::timeout_at(until, reading).await {
                Ok(read) => read,
                Err(_) => break,
            },
            None => reading.await,
        };
        // However the connection ends: whether it ended too early is for the task to say.
        if !matches!(read, Ok(1..)) {
            closed = true;
            break;
        }
    }
    Ok(Answer { head, page, closed })
}

/// The error in an answer, if it is one: by its status, or by a second answer in its body.
fn refusal(answer: &Answer, server: &str) -> Result<()> {
    let status = answer.head.status;
    if status == 200 {
        if sniff::error_status(&answer.page).is_none() {
            return Ok(());
        }
        let said = sniff::error_text(&answer.page);
        let words = format!("{server} reports a failure after its answer: {said}");
        return Err(Error::new(ErrorKind::Protocol, words));
    }
    Err(refused(server, status, &answer.page))
}

/// The error for an answer that is no 200, with the words of its page.
pub(super) fn refused(server: &str, status: u16, page: &[u8]) -> Error {
    let said = sniff::strip_tags(&String::from_utf8_lossy(page));
    let (kind, hint) = match status {
        300..=399 => {
            (ErrorKind::Redirect, "it sends us elsewhere, and that cannot be followed now")
        }
        401 => (ErrorKind::Authentication, "the session is not valid there"),
        403 => (ErrorKind::Authentication, "the user must not do this"),
        _ => (ErrorKind::Protocol, "see what its task says"),
    };
    Error::new(kind, format!("{server} refuses with status {status}: {hint}; {said}"))
}

fn late(server: &str, what: &str, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("{server}: {what} within {} s", limit.as_secs()))
}
