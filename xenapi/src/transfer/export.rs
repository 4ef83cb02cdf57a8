//! The export of a disk or of a machine.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::header::{COOKIE, HOST, LOCATION, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use serde_json::Value;
use tokio::time::{Instant, Sleep};
use url::{Url, form_urlencoded};

use super::connect::{self, Body, url_authority};
use super::ending::Ending;
use super::pace::{Meter, Throttle};
use super::redirect::{self, Errand};
use super::{ExportFormat, ExportOptions, XvaCompression, sniff, upload};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::refs::Ref;
use crate::task::{self, Task};
use crate::tasks::{WaitOptions, outcome};
use crate::vdi::Vdi;
use crate::vm::Vm;

/// The handlers.
const DISK: Errand = Errand { what: "export", path: "/export_raw_vdi" };
const MACHINE: Errand = Errand { what: "export", path: "/export" };
/// A pool needs one redirect; more than this is a loop.
const MOST_REDIRECTS: usize = 4;
/// How much of an error page is read.
pub(super) const LONGEST_PAGE: usize = 8 * 1024;
/// How long a cancelled task may take to end.
pub(super) const ABORT_GRACE: Duration = Duration::from_secs(30);
/// The same when the export never began: the error is not held back for long.
pub(super) const REFUSED_GRACE: Duration = Duration::from_secs(1);

impl Session {
    /// Opens the export of a disk as a stream of bytes.
    ///
    /// The disk must not be in use by a running machine: export a snapshot. The server sends on a
    /// connection of its own, possibly another host of the pool after a redirect, which is
    /// followed only to a host of this pool. The task that carries the export is made first, with
    /// the label of `options`.
    ///
    /// What arrived is the disk only when the stream has ended *and* [`Export::finish`] has
    /// succeeded: servers report failures after their status 200, and a stream without a length
    /// can end early without looking so.
    ///
    /// # Errors
    /// Of kind [`TaskFailed`](ErrorKind::TaskFailed) or [`Api`](ErrorKind::Api) with the server's
    /// code when it refuses, [`Authentication`](ErrorKind::Authentication) when it does so without
    /// one, [`Redirect`](ErrorKind::Redirect) when it sends us where we must not go, and the kinds
    /// for connections and trust. The task is removed again then; only if this future is dropped
    /// half way can one stay, findable by its label.
    pub async fn export_raw_vdi(
        &self,
        vdi: &Ref<Vdi>,
        format: ExportFormat,
        options: &ExportOptions,
    ) -> Result<Export> {
        let mut pairs = vec![("vdi", vdi.as_str()), ("format", format.as_str())];
        pairs.extend(options.base.as_ref().map(|base| ("base", base.as_str())));
        let opened = async {
            let ending = match format {
                // A difference in raw form has no size of its own.
                ExportFormat::Raw if options.base.is_none() => {
                    let size = self.call(Call::<i64>::new("VDI.get_virtual_size").arg(vdi));
                    Ending::raw(u64::try_from(size.await?).ok())
                }
                ExportFormat::Raw => Ending::raw(None),
                ExportFormat::Vhd => Ending::vhd(),
                ExportFormat::Qcow2 => Ending::qcow2(),
                ExportFormat::Tar => Ending::archive(),
            };
            self.export(DISK, &pairs, ending, options).await
        };
        opened.await.map_err(|error| error.context(format!("export of VDI {vdi}")))
    }

    /// Opens the export of a whole machine as a stream of bytes: an XVA archive with the
    /// description of the machine and all its disks (`GET /export`, since XenServer 4.0).
    ///
    /// The machine must be halted or suspended, or be a snapshot. The rest is as for
    /// [`export_raw_vdi`](Self::export_raw_vdi): a connection of its own, redirects within the
    /// pool, a task; what arrived is whole only when [`Export::finish`] has succeeded. There is no
    /// difference to a base: that of `options` is not looked at.
    ///
    /// # Errors
    /// Those of [`export_raw_vdi`](Self::export_raw_vdi).
    pub async fn export_vm(
        &self,
        vm: &Ref<Vm>,
        compression: XvaCompression,
        options: &ExportOptions,
    ) -> Result<Export> {
        let mut pairs = vec![("ref", vm.as_str())];
        pairs.extend(compression.as_str().map(|name| ("use_compression", name)));
        let opened = self.export(MACHINE, &pairs, Ending::archive(), options).await;
        opened.map_err(|error| error.context(format!("export of VM {vm}")))
    }

    /// Makes the task and opens the stream; `pairs` are the handler's own part of the query.
    async fn export(
        &self,
        errand: Errand,
        pairs: &[(&str, &str)],
        ending: Ending,
        options: &ExportOptions,
    ) -> Result<Export> {
        let task = self.call(options.common.create_task()).await?;
        let query = query(pairs, &task);
        match self.open_export(errand, &query, options).await {
            Ok(response) => Ok(Export::new(self.clone(), task, response, ending, options)),
            Err(error) => {
                // Pages of servers may repeat what they were asked with.
                let error = self.redact(self.explain(&task, error).await);
                // The first error is the one to tell.
                let _ = self.discard(&task, REFUSED_GRACE).await;
                Err(error)
            }
        }
    }

    /// Sends the request, follows redirects, and gives the answer if it is a 200.
    async fn open_export(
        &self,
        errand: Errand,
        query: &str,
        options: &ExportOptions,
    ) -> Result<Response<Body>> {
        let mut target = redirect::here(self);
        for _ in 0..=MOST_REDIRECTS {
            target.url.set_path(errand.path);
            let request = self.export_request(&target.url, query)?;
            let connect_timeout = self.inner.settings.connect_timeout;
            let response = connect::open(
                &target.url,
                &target.trust,
                request,
                connect_timeout,
                options.common.inactivity,
            )
            .await?;
            let status = response.status();
            if status == http::StatusCode::OK {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(refusal(&target.url, response).await);
            }
            let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let Some(location) = location else {
                let words = "the server redirects the export without saying where to";
                return Err(Error::new(ErrorKind::Redirect, words));
            };
            target = redirect::resolve(self, errand, &target.url, location).await?;
            #[cfg(feature = "tracing")]
            tracing::debug!(host = target.url.host_str(), "the export is at another host");
        }
        let words = "the hosts of the pool redirect the export to each other without end";
        Err(Error::new(ErrorKind::Redirect, words))
    }

    /// The request. The session is in a cookie, the only one, and never in the URL: URLs are
    /// logged, and the server does not trim a second cookie's name.
    fn export_request(&self, url: &Url, query: &str) -> Result<Request<Empty<Bytes>>> {
        let bad = |_| Error::new(ErrorKind::Protocol, "the server's session has an unusable name");
        let current = self.current();
        let cookie = format!("session_id={}", current.handle.expose());
        let mut cookie = HeaderValue::from_str(&cookie).map_err(|_| bad(()))?;
        cookie.set_sensitive(true);
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Request::get(format!("{}?{query}", url.path()))
            .header(HOST, host)
            .header(USER_AGENT, self.inner.settings.user_agent.clone())
            .header(COOKIE, cookie)
            .body(Empty::new())
            .map_err(|_| bad(()))
    }

    /// Prefers what the task says to what the connection looked like.
    pub(super) async fn explain(&self, task: &Ref<Task>, error: Error) -> Error {
        if matches!(error.kind(), ErrorKind::Connect | ErrorKind::Tls | ErrorKind::Redirect) {
            return error;
        }
        match self.call(task::get_record(task)).await {
            Ok(record) if !record.error_info.is_empty() => match outcome::<Value>(task, &record) {
                Err(said) => said.with_source(error),
                Ok(_) => error,
            },
            _ => error,
        }
    }

    /// Ends a task that nobody needs and removes it.
    pub(super) async fn discard(&self, task: &Ref<Task>, grace: Duration) -> Result<()> {
        self.cancel_task(task).await?;
        let ended = self.wait_ended(task, &WaitOptions::new().with_timeout(grace)).await;
        let destroyed = match self.call(task::destroy(task)).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        };
        match ended {
            Err(e) if e.kind() == ErrorKind::TaskVanished => Ok(()),
            Err(e) => Err(e),
            Ok(_) => destroyed,
        }
    }
}

/// Query of the request. References hold no characters that need escaping, but they come from
/// outside.
pub(super) fn query(pairs: &[(&str, &str)], task: &Ref<Task>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs).append_pair("task_id", task.as_str());
    query.finish()
}

/// The error for an answer that is neither a 200 nor a redirect.
async fn refusal(url: &Url, response: Response<Body>) -> Error {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut page = BytesMut::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            page.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
            if page.len() > LONGEST_PAGE {
                break;
            }
        }
    };
    // The page is a nicety; a server that does not end it must not hold us.
    let _ = tokio::time::timeout(Duration::from_secs(10), reading).await;
    upload::refused(&url_authority(url), status, &page)
}

/// The bytes of a disk as they come: a `Stream` of `Result<Bytes>`.
///
/// Nothing is read ahead beyond one buffer of the connection, so that a reader that pauses makes
/// the server pause. Servers drop readers that pause for long; give the stream a buffer of your
/// own if yours does.
///
/// End an export with [`finish`](Self::finish) or [`abort`](Self::abort). Dropping it closes the
/// connection and nothing else: the task stays at the server, findable by its label.
pub struct Export {
    session: Session,
    task: Ref<Task>,
    task_timeout: Duration,
    inactivity: Duration,
    /// `None` once the stream has ended in one way or the other.
    flow: Option<Flow>,
    /// The start of the body, until it is known to be data.
    held: BytesMut,
    /// Set once the start turned out to be a second answer: the rest is its text.
    second_answer: Option<u16>,
    /// Whether the start is known to be data.
    decided: bool,
    received: u64,
    /// What the format says of the end.
    ending: Ending,
    throttle: Option<Throttle>,
    /// Until when nothing may be taken.
    pause: Option<Pin<Box<Sleep>>>,
    meter: Option<Meter>,
    end: End,
}

/// How the stream ended.
#[derive(Debug)]
enum End {
    NotYet,
    Whole,
    Broken(Error),
}

struct Flow {
    body: Body,
    /// Whether the body said how long it is, by a length or by chunks.
    framed: bool,
    idle: Pin<Box<Sleep>>,
}

impl Export {
    fn new(
        session: Session,
        task: Ref<Task>,
        response: Response<Body>,
        ending: Ending,
        options: &ExportOptions,
    ) -> Self {
        let headers = response.headers();
        let framed = headers.contains_key(http::header::CONTENT_LENGTH)
            || headers.contains_key(http::header::TRANSFER_ENCODING);
        let idle = Box::pin(tokio::time::sleep(options.common.inactivity));
        let total = response.body().size_hint().exact();
        let meter = Meter::start(&session, &task, total, options.common.tell.as_ref());
        Self {
            session,
            task,
            task_timeout: options.common.task_timeout,
            inactivity: options.common.inactivity,
            flow: Some(Flow { body: response.into_body(), framed, idle }),
            held: BytesMut::new(),
            second_answer: None,
            decided: false,
            received: 0,
            ending,
            throttle: options.common.throttle.clone(),
            pause: None,
            meter,
            end: End::NotYet,
        }
    }

    /// The task that carries the export.
    #[must_use]
    pub fn task(&self) -> &Ref<Task> {
        &self.task
    }

    /// Bytes given out so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The length of the stream, where the server told it. It seldom does.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.flow.as_ref().and_then(|f| f.body.size_hint().exact())
    }

    /// Waits for the task and removes it: the export is whole if this succeeds. Call it when the
    /// stream has given `None`.
    ///
    /// # Errors
    /// - [`Truncated`](ErrorKind::Truncated) if the stream was not read to its end, or if it does
    ///   not end as its format does: servers that fail half way have been seen to close the
    ///   connection in good order;
    /// - the stream's own error, or what the server says about it;
    /// - [`TaskFailed`](ErrorKind::TaskFailed) when the server says that the export failed, even
    ///   though the stream looked whole;
    /// - [`Timeout`](ErrorKind::Timeout) when the task does not end.
    ///
    /// After an error the task is cancelled and removed as by [`abort`](Self::abort).
    pub async fn finish(mut self) -> Result<()> {
        self.flow = None;
        let ended = std::mem::replace(&mut self.end, End::NotYet);
        let result = match ended {
            End::Whole => {
                let options = WaitOptions::new().with_timeout(self.task_timeout);
                // If there is someone to tell, the meter goes on until this is known.
                match self.session.wait_ended(&self.task, &options).await {
                    Ok(record) => outcome::<Value>(&self.task, &record).and_then(|_| {
                        let verdict = self.ending.verdict();
                        verdict.map_err(|why| Error::new(ErrorKind::Truncated, why))
                    }),
                    Err(e) => Err(e),
                }
            }
            End::Broken(error) => Err(self.session.explain(&self.task, error).await),
            End::NotYet => Err(Error::new(
                ErrorKind::Truncated,
                format!("the export was given up after {} bytes, before its end", self.received),
            )),
        };
        match result {
            Ok(()) => {
                // The outcome is known; that the task stays would be the server's to clean up.
                let _ = self.session.call(task::destroy(&self.task)).await;
                Ok(())
            }
            Err(error) => {
                let _ = self.session.discard(&self.task, ABORT_GRACE).await;
                Err(self.session.redact(error))
            }
        }
    }

    /// Closes the connection, cancels the task and removes it.
    ///
    /// # Errors
    /// What the calls meet, and [`Timeout`](ErrorKind::Timeout) when the cancelled task does not
    /// end within 30 s; it is marked for removal then.
    pub async fn abort(mut self) -> Result<()> {
        self.flow = None;
        self.session.discard(&self.task, ABORT_GRACE).await
    }

    /// Ends the stream with an error.
    fn broken(&mut self, error: Error) -> Error {
        self.flow = None;
        self.end = End::Broken(error.clone());
        error
    }

    /// Takes bytes in; gives out what is known to be data.
    fn accept(&mut self, data: Bytes) -> Option<Bytes> {
        if self.decided {
            return Some(data);
        }
        self.held.extend_from_slice(&data);
        if self.second_answer.is_some() || sniff::may_be_error(&self.held) {
            return None;
        }
        self.second_answer = sniff::error_status(&self.held);
        if self.second_answer.is_some() {
            return None;
        }
        self.decided = true;
        Some(self.held.split().freeze())
    }

    /// The error that stands in the place of the data.
    fn second_answer_error(&self) -> Error {
        let said = sniff::error_text(&self.held);
        let words = format!("the server reports a failure in the place of the disk: {said}");
        self.session.redact(Error::new(ErrorKind::Protocol, words))
    }

    /// The body has ended as a body may.
    fn ended(&mut self) -> Option<Result<Bytes>> {
        if self.second_answer.is_some() {
            let error = self.second_answer_error();
            return Some(Err(self.broken(error)));
        }
        self.flow = None;
        self.end = End::Whole;
        let rest = self.held.split().freeze();
        if rest.is_empty() {
            return None;
        }
        self.pass(&rest);
        Some(Ok(rest))
    }

    /// Counts what is given out.
    fn pass(&mut self, data: &Bytes) {
        self.received += data.len() as u64;
        self.ending.see(data);
        if let Some(meter) = &self.meter {
            meter.moved(self.received);
        }
        if let Some(throttle) = &self.throttle {
            let until = throttle.take(data.len() as u64, Instant::now());
            self.pause = Some(Box::pin(tokio::time::sleep_until(until)));
        }
    }

    /// Whether nothing may come now.
    fn is_paused(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else { return false };
        if pause.as_mut().poll_deadline(cx).is_pending() {
            return true;
        }
        self.pause = None;
        // The pause was ours, not the server's silence.
        let deadline = Instant::now().checked_add(self.inactivity);
        if let (Some(flow), Some(deadline)) = (&mut self.flow, deadline) {
            flow.idle.as_mut().reset(deadline);
        }
        false
    }
}

impl Stream for Export {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let this = &mut *self;
            if this.is_paused(cx) {
                return Poll::Pending;
            }
            let Some(flow) = this.flow.as_mut() else { return Poll::Ready(None) };
            let frame = match Pin::new(&mut flow.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(flow.idle.as_mut().poll_deadline(cx));
                    let words = format!(
                        "the export is dead: nothing came for {} s",
                        this.inactivity.as_secs()
                    );
                    let error = this.broken(Error::new(ErrorKind::Timeout, words));
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let data = match frame {
                None => return Poll::Ready(this.ended()),
                Some(Err(error)) => {
                    let error = broken_flow(error, flow.framed, this.received);
                    return Poll::Ready(Some(Err(this.broken(error))));
                }
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            // A limit beyond what a clock can hold is none: the first one is far away then.
            if let Some(deadline) = Instant::now().checked_add(this.inactivity) {
                flow.idle.as_mut().reset(deadline);
            }
            if let Some(data) = this.accept(data).filter(|d| !d.is_empty()) {
                this.pass(&data);
                return Poll::Ready(Some(Ok(data)));
            }
            if this.second_answer.is_some() && this.held.len() > LONGEST_PAGE {
                let error = this.second_answer_error();
                return Poll::Ready(Some(Err(this.broken(error))));
            }
        }
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("task", &self.task)
            .field("received", &self.received)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// A timer polled as a future, by a name that says what it is.
trait PollDeadline {
    fn poll_deadline(self, cx: &mut Context<'_>) -> Poll<()>;
}

impl PollDeadline for Pin<&mut Sleep> {
    fn poll_deadline(self, cx: &mut Context<'_>) -> Poll<()> {
        std::future::Future::poll(self, cx)
    }
}

/// Why a body broke: cut short of a length that it had, cut without TLS's word of parting, or a
/// connection that failed.
fn broken_flow(error: hyper::Error, framed: bool, received: u64) -> Error {
    let cut = error.is_incomplete_message() || has_unexpected_eof(&error);
    let (kind, words) = match (cut, framed) {
        (true, true) => {
            (ErrorKind::Truncated, format!("the export ended early, after {received} bytes"))
        }
        (true, false) => (
            ErrorKind::UncleanClose,
            format!(
                "the export's connection was closed after {received} bytes without TLS's \
                 close_notify; it may have been cut"
            ),
        ),
        (false, _) => {
            (ErrorKind::Transport, format!("the export's connection broke after {received} bytes"))
        }
    };
    Error::new(kind, words).with_source(error)
}

fn has_unexpected_eof(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::UnexpectedEof
        {
            return true;
        }
        next = error.source();
    }
    false
}
