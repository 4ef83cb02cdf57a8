//! Sending an image's data.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};

use super::body::{Meter, Producer, Progress};
use super::call::get;
use super::digest::{Hasher, Hashing, hashing, lane};
use super::preflight::{HEAD_LEN, TAIL_LEN, preflight, preflight_ends};
use super::record::{Image, ImageStatus};
use super::verify::Digests;
use crate::call::segment;
use crate::error::{Error, ErrorKind, Result, request_id};
use crate::keystone::{Access, ServiceClient, Token};
use crate::transport::{Body, BodyStream, refusal};

/// The data of an image, and how to send it.
///
/// The length should be given whenever it is known: it is declared to the server twice (`Content-Length` and
/// `x-openstack-image-size`), so that a store can reserve space, a quota can refuse at once, and a short
/// body is not taken for a whole one.
///
/// The last piece is sent only after the producer has ended without an error, so an error that it reports at its very
/// end still keeps the image from becoming active.
#[non_exhaustive]
pub struct Upload {
    /// The exact number of bytes.
    pub len: Option<u64>,
    source: Source,
    store: Option<String>,
    target: Target,
    preflight: Preflight,
    tail: Option<bytes::Bytes>,
    digests: bool,
    /// What was sent in the last attempt whose data all went out.
    whole: Option<Uploaded>,
    estimate: Option<Duration>,
    limits: Limits,
    progress: Option<Progress>,
}

#[derive(Clone)]
struct Limits {
    stall: Duration,
    answer: Duration,
    cancel: Option<Arc<AtomicBool>>,
}

/// What the data is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The image itself.
    File,
    /// The place from which an import takes it.
    Stage,
}

impl Target {
    fn path(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Stage => "stage",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::File => "upload",
            Self::Stage => "stage",
        }
    }
}

enum Source {
    Once(Option<Producer>),
    Again(Box<dyn FnMut() -> Producer + Send>),
}

/// Whether the start of the data is compared with the declared formats before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preflight {
    /// Refuse what [`preflight`](super::preflight()) refuses.
    #[default]
    Enforce,
    /// Send whatever it is: for a Glance older than 2025 or one that does not check, and odd boot sectors.
    Off,
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uploaded {
    /// The number of bytes.
    pub bytes: u64,
    /// The server's request id.
    pub request_id: Option<String>,
    /// The digests of what was sent, if they [were wanted](Upload::with_digests).
    pub digests: Digests,
}

impl Upload {
    /// Data that can be made once.
    #[must_use]
    pub fn new(len: Option<u64>, body: Producer) -> Self {
        Self::of(len, Source::Once(Some(body)))
    }

    /// Data that can be made again from its start: then a refused token costs a second attempt and not the upload.
    pub fn replayable(len: Option<u64>, body: impl FnMut() -> Producer + Send + 'static) -> Self {
        Self::of(len, Source::Again(Box::new(body)))
    }

    /// Data in memory.
    pub fn from_bytes(data: impl Into<bytes::Bytes>) -> Self {
        let data = data.into();
        let len = data.len() as u64;
        let tail = data.slice(data.len().saturating_sub(TAIL_LEN)..);
        Self::replayable(Some(len), move || futures_util::stream::iter([Ok(data.clone())]).boxed())
            .with_tail(tail)
    }

    fn of(len: Option<u64>, source: Source) -> Self {
        Self {
            len,
            source,
            store: None,
            target: Target::File,
            preflight: Preflight::default(),
            tail: None,
            digests: false,
            whole: None,
            estimate: None,
            limits: Limits {
                stall: Duration::from_secs(300),
                answer: Duration::from_secs(3600),
                cancel: None,
            },
            progress: None,
        }
    }

    /// Puts the data into this store of the cloud and not into its default one.
    #[must_use]
    pub fn with_store(mut self, store: impl Into<String>) -> Self {
        self.store = Some(store.into());
        self
    }

    /// The last [`TAIL_LEN`] bytes of the data, for the [check of the formats](super::preflight_ends).
    #[must_use]
    pub fn with_tail(mut self, tail: impl Into<bytes::Bytes>) -> Self {
        self.tail = Some(tail.into());
        self
    }

    /// Computes MD5 and SHA-512 of the data while it is sent, beside each other on threads of the crate's own: what
    /// [`verify`](super::verify()) compares with Glance's `checksum` and `os_hash_value`.
    #[must_use]
    pub fn with_digests(mut self) -> Self {
        self.digests = true;
        self
    }

    /// Whether the data is checked first.
    #[must_use]
    pub fn with_preflight(mut self, preflight: Preflight) -> Self {
        self.preflight = preflight;
        self
    }

    /// How long the upload will take: the token is renewed first if it would not live that long. Without it the length
    /// and 20 MB/s are taken.
    #[must_use]
    pub fn with_estimate(mut self, estimate: Duration) -> Self {
        self.estimate = Some(estimate);
        self
    }

    /// Gives up when no byte has moved for so long (5 minutes), whether the producer or the server is to blame.
    #[must_use]
    pub fn with_stall_timeout(mut self, limit: Duration) -> Self {
        self.limits.stall = limit;
        self
    }

    /// Gives up when the server has not answered so long after the last byte (1 hour): it may be copying into its store.
    #[must_use]
    pub fn with_answer_timeout(mut self, limit: Duration) -> Self {
        self.limits.answer = limit;
        self
    }

    /// A flag that ends the upload within a fraction of a second; the image is `queued` again afterwards.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.limits.cancel = Some(cancel);
        self
    }

    /// Called with the number of bytes handed to the connection so far, for every piece.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// Sends the data to where an import takes it from.
    pub(super) fn to(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    fn needed(&self) -> Duration {
        const PESSIMISTIC: u64 = 20_000_000;
        self.estimate.unwrap_or_else(|| Duration::from_secs(self.len.unwrap_or(0) / PESSIMISTIC))
    }

    pub(super) fn cancel(&self) -> Option<Arc<AtomicBool>> {
        self.limits.cancel.clone()
    }

    /// What was sent in the last attempt whose data all went out, whatever came of it.
    pub(super) fn whole(&self) -> Option<&Uploaded> {
        self.whole.as_ref()
    }

    pub(super) fn can_repeat(&self) -> bool {
        matches!(self.source, Source::Again(_))
    }

    /// The digest of the data by an algorithm that was not known to be needed when they were sent; `None` if they cannot be
    /// made again, or it cannot be computed.
    pub(super) async fn digest_again(
        &mut self,
        id: &str,
        algorithm: &str,
    ) -> Result<Option<String>> {
        let (Source::Again(make), Some(hasher)) = (&mut self.source, Hasher::of(algorithm)) else {
            return Ok(None);
        };
        let mut producer = make();
        let (queue, lane) = lane(hasher);
        while let Some(chunk) = producer.next().await {
            let chunk = chunk.map_err(|error| bad_data(id, error))?;
            // It ends early only with the runtime.
            let _ = queue.send(chunk).await;
        }
        drop(queue);
        Ok(lane.finish().await)
    }

    fn open(&mut self) -> Option<(Meter, Option<Hashing>)> {
        let producer = match &mut self.source {
            Source::Once(producer) => producer.take()?,
            Source::Again(make) => make(),
        };
        let (producer, digests) = match self.digests {
            true => {
                let (producer, digests) = hashing(producer);
                (producer, Some(digests))
            }
            false => (producer, None),
        };
        Some((Meter::new(self.len, producer, self.progress.clone()), digests))
    }

    /// Compares the data with the image's formats: the start, and the end now or when it is there.
    fn check(&self, image: &Image, head: &[u8], meter: &Meter) -> Result<()> {
        let (Preflight::Enforce, Some(disk), Some(container)) =
            (self.preflight, &image.disk_format, &image.container_format)
        else {
            return Ok(());
        };
        let Some(tail) = &self.tail else {
            preflight(disk, container, head)?;
            let (disk, container) = (disk.clone(), container.clone());
            // A copy, so that the first piece is not kept for as long as the upload lasts.
            let start = head[..head.len().min(HEAD_LEN)].to_vec();
            let ending = move |tail: &[u8]| preflight_ends(&disk, &container, &start, tail);
            let looked = meter.look_at_end(Box::new(ending));
            return looked.map_err(|error| {
                let other =
                    |error: std::io::Error| Error::new(ErrorKind::Source, error.to_string());
                error.downcast().unwrap_or_else(other)
            });
        };
        preflight_ends(disk, container, head, tail)
    }

    /// The request's headers. `Content-Range` is never among them: Glance ignores it and takes the piece for the whole.
    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(len) = self.len {
            headers.insert("x-openstack-image-size", len.into());
        }
        if let Some(store) = &self.store {
            let store = HeaderValue::try_from(store).map_err(|_| {
                Error::new(ErrorKind::Invalid, format!("{store:?} cannot be the name of a store"))
            })?;
            headers.insert("x-image-meta-store", store);
        }
        Ok(headers)
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("len", &self.len)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Sends data to where an import takes it from.
pub(crate) async fn stage(client: &ServiceClient, id: &str, data: Upload) -> Result<Uploaded> {
    upload(client, id, &mut data.to(Target::Stage)).await
}

pub(crate) async fn upload(
    client: &ServiceClient,
    id: &str,
    upload: &mut Upload,
) -> Result<Uploaded> {
    // One cheap call finds a refused token, a missing image and a wrong state before the data starts to flow.
    let image = client.call(get(id)).await?;
    if image.status != ImageStatus::Queued {
        let text = format!(
            "image {id}: it is {}; data can be sent only to a queued image, and only once",
            image.status
        );
        return Err(Error::new(ErrorKind::Conflict, text));
    }
    let mut access = Access::of(client.session(), upload.needed(), upload.can_repeat()).await?;
    loop {
        let result = attempt(client, id, &image, upload, access.token()).await;
        if let Some(result) = access.settle(result).await {
            return result;
        }
    }
}

async fn attempt(
    client: &ServiceClient,
    id: &str,
    image: &Image,
    upload: &mut Upload,
    token: &Token,
) -> Result<Uploaded> {
    let headers = upload.headers()?;
    let limits = upload.limits.clone();
    let (meter, digests) = upload.open().ok_or_else(|| {
        Error::new(ErrorKind::Source, format!("image {id}: the data can be sent only once"))
    })?;
    let stop = Stop(meter.clone());
    let head = watched(&limits, &meter, id, meter.peek(HEAD_LEN))
        .await?
        .map_err(|error| bad_data(id, error))?;
    upload.check(image, &head, &meter).map_err(|error| {
        Error::new(error.kind(), format!("image {id}: {error}; nothing was sent"))
    })?;
    let result =
        exchange(client, id, (upload.target, upload.len), headers, &limits, &meter, token).await;
    // Whatever the answer is, no more data is wanted.
    drop(stop);
    let digests = match digests {
        Some(digests) if meter.is_finished() => digests.finish().await,
        _ => Digests::new(),
    };
    let mut sent = Uploaded { bytes: meter.given(), request_id: None, digests };
    if let Ok(request_id) = &result {
        sent.request_id.clone_from(request_id);
    }
    if meter.is_finished() {
        upload.whole = Some(sent.clone());
    }
    match result {
        Ok(_) => Ok(sent),
        Err(error) => {
            // Glance keeps the location of data that it has refused, and fails over it with each upload that follows.
            if error.kind() == ErrorKind::Server && !image.stores.is_empty() {
                return Err(error.with_hint(
                    "an earlier upload to it was refused, after which Glance takes no other: delete the image and make \
                     a new one",
                ));
            }
            Err(error)
        }
    }
}

/// Sends the data and reads the answer; gives the request id.
async fn exchange(
    client: &ServiceClient,
    id: &str,
    (target, len): (Target, Option<u64>),
    headers: HeaderMap,
    limits: &Limits,
    meter: &Meter,
    token: &Token,
) -> Result<Option<String>> {
    let body = Body::Stream { len, stream: meter.wire().boxed() };
    let path = format!("images/{}/{}", segment(id).unwrap_or_default(), target.path());
    let what = format!("image {id}: {}", target.verb());
    let send = client.send_raw(&what, Method::PUT, &path, headers, body, token);
    match watched(limits, meter, id, send).await? {
        Ok(answer) => {
            meter.stop();
            finish(id, &what, answer, meter).await
        }
        Err(error) => Err(match meter.failure() {
            Some(failure) => bad_data(id, failure),
            None => error.with_hint(&format!("{} bytes were on their way", meter.given())),
        }),
    }
}

async fn finish(
    id: &str,
    what: &str,
    answer: http::Response<BodyStream>,
    meter: &Meter,
) -> Result<Option<String>> {
    let status = answer.status();
    if !status.is_success() {
        let error = refusal(what, answer).await;
        return Err(match status.as_u16() {
            301 | 302 | 307 | 308 => {
                error.with_hint("data is not sent after a redirect: correct the endpoint")
            }
            401 => error.with_hint("the token was refused on the way: send the data again"),
            413 => error.with_hint("it is over the cloud's size limit or this project's quota"),
            415 => error.with_hint(
                "the content does not match the declared formats; delete the image, it takes no other data now",
            ),
            _ => error,
        });
    }
    if !meter.is_finished() {
        let text = format!("image {id}: the server reported success before it had all of the data");
        return Err(Error::protocol(text).with_answer(status, answer.headers()));
    }
    Ok(request_id(answer.headers()))
}

/// Stops the producer on every way out.
struct Stop(Meter);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn bad_data(id: &str, error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => Error::new(
            error.kind(),
            format!("image {id}: {error}; the last of the data was not sent"),
        ),
        Err(error) => {
            let text = format!("image {id}: the data to be sent is bad: {error}");
            Error::new(ErrorKind::Source, text).with_source(error)
        }
    }
}

/// Runs `work` under the upload's cancel flag and time limits.
async fn watched<T>(
    limits: &Limits,
    meter: &Meter,
    id: &str,
    work: impl Future<Output = T> + Send,
) -> Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return Ok(result),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        if limits.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                format!("image {id}: the upload was cancelled"),
            ));
        }
        let (limit, what) = if meter.is_finished() {
            (limits.answer, "the server has not answered after the last byte")
        } else {
            (limits.stall, "no data has moved")
        };
        if Instant::now().saturating_duration_since(meter.moved()) > limit {
            let text = format!("image {id}: {what} for {} s", limit.as_secs_f32());
            return Err(Error::new(ErrorKind::Timeout, text));
        }
    }
}
