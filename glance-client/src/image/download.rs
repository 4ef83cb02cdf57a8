//! Getting an image's data: whole and verified, or a part; and on from where a connection broke.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::mpsc;

use super::call::get;
use super::digest::{Hasher, Lane, lane};
use super::record::Image;
use super::verify::{same, stored};
use crate::call::{encode, segment};
use crate::error::{Error, ErrorKind, Result};
use crate::keystone::{Access, ServiceClient, Token};
use crate::transport::{Body, BodyStream, refusal};

/// Which data of an image, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownloadOptions {
    /// The first byte.
    pub start: u64,
    /// How many bytes; all that follow if it is `None`.
    pub len: Option<u64>,
    /// The stores to read from, the best first (Glance 32, 2026.1, ignored before). The server chooses if there is none.
    pub stores: Vec<String>,
    /// Whether the digest of a whole image is compared with the one that the server has.
    pub verify: bool,
    /// How often in a row the data is asked for again from where it broke off (5). It begins anew with every byte that
    /// comes.
    pub resumes: u32,
    /// No byte for so long is a broken connection, too (1 minute); and no answer.
    pub stall_timeout: Duration,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self {
            start: 0,
            len: None,
            stores: Vec::new(),
            verify: true,
            resumes: 5,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

impl DownloadOptions {
    /// The whole image, verified.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only from this byte on, and only so many: a `Range`. A part is not verified.
    #[must_use]
    pub fn with_range(mut self, start: u64, len: Option<u64>) -> Self {
        (self.start, self.len) = (start, len);
        self
    }

    /// Reads from this store if it has the data; a second one is for when the first has not.
    #[must_use]
    pub fn with_store(mut self, store: impl Into<String>) -> Self {
        self.stores.push(store.into());
        self
    }

    /// Whether the digest is compared. Without it also an image is read of which the server has no digest.
    #[must_use]
    pub fn with_verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// How often in a row the data is asked for again.
    #[must_use]
    pub fn with_resumes(mut self, resumes: u32) -> Self {
        self.resumes = resumes;
        self
    }

    /// How long no answer and no byte may come.
    #[must_use]
    pub fn with_stall_timeout(mut self, limit: Duration) -> Self {
        self.stall_timeout = limit;
        self
    }

    fn is_whole(&self) -> bool {
        self.start == 0 && self.len.is_none()
    }
}

/// The data of an image on its way to us.
///
/// The last piece is held back until the length is right and, of a whole image, the digest: who has seen the end without an
/// error has the image as the cloud knows it.
#[non_exhaustive]
pub struct Download {
    /// The number of bytes that come, where it is known.
    pub len: Option<u64>,
    /// The length of the whole image, where it is known.
    pub total: Option<u64>,
    /// What is compared at the end: `sha512`, say; `None` for a part and where it was not wanted.
    pub verified_by: Option<String>,
    /// The data. An error is the last item: [`ErrorKind::Mismatch`] if the digest or the length of the whole differs,
    /// [`ErrorKind::Transport`] or [`ErrorKind::Timeout`] if the connection broke too often.
    pub stream: BodyStream,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("len", &self.len)
            .field("total", &self.total)
            .field("verified_by", &self.verified_by)
            .finish_non_exhaustive()
    }
}

pub(crate) async fn download(
    client: &ServiceClient,
    id: &str,
    options: &DownloadOptions,
) -> Result<Download> {
    let image = client.call(get(id)).await?;
    // Glance answers 500 to a range of an image without data.
    if image.size.is_none() && image.stores.is_empty() && !options.is_whole() {
        return Err(no_data(id));
    }
    let digest = match options.verify && options.is_whole() {
        true => Some(Running::of(&image)?),
        false => None,
    };
    let verified_by = digest.as_ref().map(|digest| digest.name.clone());
    let mut source = Source {
        client: client.clone(),
        id: id.to_owned(),
        options: options.clone(),
        end: None,
        total: image.size,
    };
    let mut failures = 0;
    let opened = loop {
        match source.open(0).await {
            Err(error) if error.is_retryable() && failures < options.resumes => {
                failures += 1;
                tokio::time::sleep(error.pause(pause(failures))).await;
            }
            result => break result?,
        }
    };
    let len = opened.len;
    source.end = len;
    source.total = opened.total;
    let total = opened.total;
    let flow = Flow {
        source,
        body: Some(opened.body),
        given: 0,
        skip: opened.skip,
        failures,
        pause: Duration::ZERO,
        digest,
        held: None,
    };
    let stream = stream::try_unfold(flow, |mut flow| async move {
        Ok(flow.next().await?.map(|piece| (piece, flow)))
    });
    Ok(Download { len, total, verified_by, stream: stream.boxed() })
}

fn no_data(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("image {id}: download: the image has no data"))
}

/// Where the data come from, as often as it takes.
struct Source {
    client: ServiceClient,
    id: String,
    options: DownloadOptions,
    /// How many bytes there are, once an answer has told.
    end: Option<u64>,
    /// The length of the whole image, as far as it is known: no other image must follow.
    total: Option<u64>,
}

struct Opened {
    /// How many of the wanted bytes there are; not all of them need be in this answer.
    len: Option<u64>,
    total: Option<u64>,
    /// Bytes that the server sends although they were not asked for.
    skip: u64,
    body: BodyStream,
}

impl Source {
    /// Asks for the data from `given` bytes after the start.
    async fn open(&self, given: u64) -> Result<Opened> {
        let start = self.options.start.saturating_add(given);
        let end = match (self.options.len, self.end) {
            (Some(0), _) => {
                return Err(Error::new(ErrorKind::Invalid, self.text("no byte is wanted")));
            }
            (Some(len), _) => Some(self.options.start.saturating_add(len - 1)),
            (None, _) => None,
        };
        let mut access = Access::of(self.client.session(), Duration::ZERO, true).await?;
        loop {
            let result = self.ask(start, end, access.token()).await;
            if let Some(result) = access.settle(result).await {
                return result;
            }
        }
    }

    async fn ask(&self, start: u64, end: Option<u64>, token: &Token) -> Result<Opened> {
        let ranged = start > 0 || end.is_some();
        let answer = self.send(ranged.then(|| range(start, end)), token).await?;
        let (parts, body) = answer.into_parts();
        let told = |error: Error| error.with_answer(parts.status, &parts.headers);
        let length = number(&parts.headers, CONTENT_LENGTH.as_str());
        match parts.status {
            StatusCode::OK if !ranged => {
                let total = self.same(length).map_err(told)?;
                Ok(Opened { len: total, total, skip: 0, body })
            }
            StatusCode::PARTIAL_CONTENT => {
                let (first, last, total) = content_range(&parts.headers).ok_or_else(|| {
                    told(Error::protocol(self.text("the server does not say which part it sends")))
                })?;
                let total = self.same(total).map_err(told)?;
                // It may be less than what was asked for. Then the rest has to follow.
                let wanted = match (end, total.map(|total| total.saturating_sub(1))) {
                    (Some(end), Some(end_of_all)) => end.min(end_of_all),
                    (None, Some(end_of_all)) => end_of_all,
                    (_, None) => last,
                };
                if first != start || last < first || last > end.unwrap_or(last).min(wanted) {
                    let text =
                        format!("bytes {first} to {last} came instead of those from {start} on");
                    return Err(told(Error::protocol(self.text(&text))));
                }
                let len = (wanted - first).checked_add(1);
                let len = len.ok_or_else(|| {
                    told(Error::protocol(self.text("the part that the server sends has no end")))
                })?;
                Ok(Opened { len: Some(len), total, skip: 0, body })
            }
            // A server or a proxy that knows no ranges sends all: what we have is thrown away.
            StatusCode::OK => {
                let total = self.same(length).map_err(told)?;
                if total.is_some_and(|total| total <= start) {
                    let text = self.text("the image has not so many bytes");
                    return Err(told(Error::new(ErrorKind::Invalid, text)));
                }
                let len = total.map(|total| {
                    let end = end.map_or(total, |end| total.min(end.saturating_add(1)));
                    end.saturating_sub(start)
                });
                Ok(Opened { len, total, skip: start, body })
            }
            StatusCode::NO_CONTENT => Err(told(no_data(&self.id))),
            status => {
                let answer = http::Response::from_parts(parts, body);
                let error = refusal(&self.text(""), answer).await;
                Err(match status {
                    StatusCode::RANGE_NOT_SATISFIABLE => {
                        error.with_hint("the image has not so many bytes")
                    }
                    StatusCode::FORBIDDEN => {
                        error.with_hint("a deactivated image can be read by administrators only")
                    }
                    _ => error,
                })
            }
        }
    }

    /// The length of the whole image, if what an answer says of it and what is known agree.
    fn same(&self, total: Option<u64>) -> Result<Option<u64>> {
        match (self.total, total) {
            (Some(known), Some(told)) if known != told => {
                let text = format!(
                    "the image has {known} bytes, and the server sends one of {told} bytes"
                );
                Err(Error::new(ErrorKind::Mismatch, self.text(&text)))
            }
            (known, told) => Ok(told.or(known)),
        }
    }

    async fn send(
        &self,
        range: Option<String>,
        token: &Token,
    ) -> Result<http::Response<BodyStream>> {
        let mut path = format!("images/{}/file", segment(&self.id).unwrap_or_default());
        if !self.options.stores.is_empty() {
            path = format!("{path}?prefer={}", encode(&self.options.stores.join(",")));
        }
        let mut headers = HeaderMap::new();
        if let Some(range) = range.and_then(|range| HeaderValue::try_from(range).ok()) {
            headers.insert(RANGE, range);
        }
        let what = self.text("");
        let limit = self.options.stall_timeout;
        let send = self.client.send_raw(&what, Method::GET, &path, headers, Body::Empty, token);
        tokio::time::timeout(limit, send).await.map_err(|_| {
            let text = format!("no answer within {} s", limit.as_secs_f32());
            Error::new(ErrorKind::Timeout, self.text(&text))
        })?
    }

    fn text(&self, more: &str) -> String {
        let colon = if more.is_empty() { "" } else { ": " };
        format!("image {}: download{colon}{more}", self.id)
    }
}

fn range(start: u64, end: Option<u64>) -> String {
    match end {
        Some(end) => format!("bytes={start}-{end}"),
        None => format!("bytes={start}-"),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// First byte, last byte and the whole length of `bytes 2-4/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (part, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (first, last) = part.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total.trim().parse().ok()))
}

/// The data as they are handed out.
struct Flow {
    source: Source,
    body: Option<BodyStream>,
    given: u64,
    skip: u64,
    /// In a row.
    failures: u32,
    /// How long to wait before the next try.
    pause: Duration,
    digest: Option<Running>,
    /// The last piece so far: it leaves when another one follows, or all is well.
    held: Option<Bytes>,
}

impl Flow {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else {
                self.reopen().await?;
                continue;
            };
            let limit = self.source.options.stall_timeout;
            let why = match tokio::time::timeout(limit, body.next()).await {
                Ok(Some(Ok(piece))) => match self.take(piece).await {
                    Some(piece) => return Ok(Some(piece)),
                    None => continue,
                },
                Ok(None) if self.source.end.is_none_or(|end| self.given >= end) => {
                    return self.finish().await;
                }
                Ok(None) => {
                    Error::new(ErrorKind::Transport, self.source.text("the data end too early"))
                }
                Ok(Some(Err(error))) => error,
                Err(_) => {
                    let text = format!("no byte has come for {} s", limit.as_secs_f32());
                    Error::new(ErrorKind::Transport, self.source.text(&text))
                }
            };
            self.body = None;
            self.fail(why)?;
        }
    }

    /// Notes a piece; gives the one before it.
    async fn take(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        // In range: it is at most the length of the piece.
        let piece = piece.split_off(usize::try_from(skipped).unwrap_or(piece.len()));
        let room = self.source.end.map_or(u64::MAX, |end| end.saturating_sub(self.given));
        let mut piece = piece;
        piece.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if piece.is_empty() {
            // Whoever sends more than it said is done with.
            if room == 0 {
                self.body = Some(stream::empty().boxed());
            }
            return None;
        }
        self.failures = 0;
        self.given += piece.len() as u64;
        if let Some(digest) = &self.digest {
            digest.update(piece.clone()).await;
        }
        self.held.replace(piece)
    }

    async fn finish(&mut self) -> Result<Option<Bytes>> {
        self.body = Some(stream::empty().boxed());
        self.source.end = Some(self.given);
        if let Some(digest) = self.digest.take() {
            digest.finish(&self.source.id).await?;
        }
        Ok(self.held.take())
    }

    /// Counts a failure; the error if it is one too many, or one that lasts.
    fn fail(&mut self, why: Error) -> Result<()> {
        if self.failures >= self.source.options.resumes || !why.is_retryable() {
            return Err(why.with_hint(&format!("{} bytes had come", self.given)));
        }
        self.failures += 1;
        self.pause = why.pause(pause(self.failures));
        Ok(())
    }

    async fn reopen(&mut self) -> Result<()> {
        tokio::time::sleep(self.pause).await;
        match self.source.open(self.given).await {
            Ok(opened) => {
                self.skip = opened.skip;
                self.body = Some(opened.body);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }
}

/// How long to wait after so many failures in a row. The first time not at all: most often a single connection is lost.
fn pause(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(250 << more.min(5)),
    }
}

/// A digest on its way.
struct Running {
    name: String,
    expected: String,
    queue: mpsc::Sender<Bytes>,
    lane: Lane,
}

impl Running {
    /// The digest that the image has and that we can compute.
    fn of(image: &Image) -> Result<Self> {
        let found =
            stored(image).find_map(|(name, expected)| Some((name, expected, Hasher::of(name)?)));
        if let Some((name, expected, hasher)) = found {
            let (queue, lane) = lane(hasher);
            return Ok(Self { name: name.to_owned(), expected: expected.to_owned(), queue, lane });
        }
        // Before there are data there is nothing that could be compared.
        if image.size.is_none() {
            return Err(no_data(&image.id));
        }
        let text = format!(
            "image {}: the cloud has no digest of it that could be compared; read it unverified if that is good enough",
            image.id
        );
        Err(Error::new(ErrorKind::Mismatch, text))
    }

    async fn update(&self, piece: Bytes) {
        // It ends early only with the runtime.
        let _ = self.queue.send(piece).await;
    }

    async fn finish(self, id: &str) -> Result<()> {
        drop(self.queue);
        let came = self.lane.finish().await.unwrap_or_default();
        let remedy = "throw the data away and ask again";
        same(id, &self.name, ("received", &came), &self.expected, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_are_written_and_read() {
        assert_eq!(range(5, None), "bytes=5-");
        assert_eq!(range(5, Some(9)), "bytes=5-9");
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(read("bytes 2-4/10"), Some((2, 4, Some(10))));
        assert_eq!(read("bytes 2-4/*"), Some((2, 4, None)));
        for bad in
            ["bytes */10", "2-4/10", "bytes 2-4", "bytes -4/10", "bytes 2-99999999999999999999/1"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_clouds_algorithm_is_computed_and_compared() {
        let image = |algorithm: &str, value: &str| {
            let json = json!({"id": "1", "size": 3, "os_hash_algo": algorithm, "os_hash_value": value,
                "checksum": "900150983cd24fb0d6963f7d28e17f72"});
            Image::from_json(json).unwrap()
        };
        // FIPS 180-4's examples for "abc".
        let cases = [
            ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "SHA-384",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            ("blake2b", "not known here"),
        ];
        for (name, value) in cases {
            let running = Running::of(&image(name, value)).unwrap();
            running.update(Bytes::from_static(b"ab")).await;
            running.update(Bytes::from_static(b"c")).await;
            assert_eq!(running.name, if name == "blake2b" { "md5" } else { name });
            running.finish("1").await.unwrap();
        }
        let running = Running::of(&image("sha512", "00")).unwrap();
        running.update(Bytes::from_static(b"abc")).await;
        assert_eq!(running.finish("1").await.unwrap_err().kind(), ErrorKind::Mismatch);
        let bare = Image::from_json(json!({"id": "1", "size": 3})).unwrap();
        assert_eq!(Running::of(&bare).err().unwrap().kind(), ErrorKind::Mismatch);
        let empty = Image::from_json(json!({"id": "1"})).unwrap();
        assert_eq!(Running::of(&empty).err().unwrap().kind(), ErrorKind::NotFound);
    }
}
