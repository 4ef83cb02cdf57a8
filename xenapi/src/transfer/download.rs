//! The body of an answer as it comes, and what it came to.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Body as _;
use serde_json::Value;
use tokio::time::{Instant, Sleep};

use super::connect::Body;
use super::ending::Ending;
use super::options::Common;
use super::pace::{Meter, Throttle};
use super::{ABORT_GRACE, LONGEST_PAGE, sniff};
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::refs::Ref;
use crate::task::{self, Task};
use crate::tasks::{WaitOptions, outcome};

/// What is known of a download before its first byte.
pub(super) struct Nature {
    /// The thing, in messages.
    pub(super) what: &'static str,
    /// What its end must look like.
    pub(super) ending: Ending,
    /// Whether it may start with a second answer instead of data.
    pub(super) sniffed: bool,
}

/// A body that is being read, and the task that it belongs to.
pub(super) struct Download {
    session: Session,
    what: &'static str,
    task: Option<Ref<Task>>,
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

impl Download {
    pub(super) fn new(
        session: Session,
        task: Option<Ref<Task>>,
        response: Response<Body>,
        nature: Nature,
        common: &Common,
    ) -> Self {
        let framed = is_framed(&response);
        let idle = Box::pin(tokio::time::sleep(common.inactivity));
        let total = response.body().size_hint().exact();
        let meter = Meter::start(&session, task.as_ref(), total, common.tell.as_ref());
        Self {
            session,
            what: nature.what,
            task,
            task_timeout: common.task_timeout,
            inactivity: common.inactivity,
            flow: Some(Flow { body: response.into_body(), framed, idle }),
            held: BytesMut::new(),
            second_answer: None,
            decided: !nature.sniffed,
            received: 0,
            ending: nature.ending,
            throttle: common.throttle.clone(),
            pause: None,
            meter,
            end: End::NotYet,
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn content_length(&self) -> Option<u64> {
        self.flow.as_ref().and_then(|f| f.body.size_hint().exact())
    }

    /// Says whether what came is whole; waits for the task, if there is one, and removes it.
    pub(super) async fn finish(self) -> Result<()> {
        let Self { session, what, task, task_timeout, flow, received, ending, meter, end, .. } =
            self;
        drop(flow);
        let result = match end {
            End::Whole => match has_succeeded(&session, task.as_ref(), task_timeout).await {
                Ok(()) => {
                    let verdict = ending.verdict();
                    verdict.map_err(|why| Error::new(ErrorKind::Truncated, why))
                }
                failed => failed,
            },
            End::Broken(error) => Err(match &task {
                Some(task) => session.explain(task, error).await,
                None => error,
            }),
            End::NotYet => {
                let words =
                    format!("the {what} was given up after {received} bytes, before its end");
                Err(Error::new(ErrorKind::Truncated, words))
            }
        };
        // If there is someone to tell, it went on until this was known.
        drop(meter);
        if let Some(task) = &task {
            // The first error is the one to tell; when there is none, that the task stays would be
            // the server's to clean up.
            let _ = match &result {
                Ok(()) => session.call(task::destroy(task)).await,
                Err(_) => session.discard(task, ABORT_GRACE).await,
            };
        }
        result.map_err(|error| session.redact(error))
    }

    /// Closes the connection; cancels the task and removes it.
    pub(super) async fn abort(self) -> Result<()> {
        let Self { session, task, flow, .. } = self;
        drop(flow);
        match &task {
            Some(task) => session.discard(task, ABORT_GRACE).await,
            None => Ok(()),
        }
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
        let words = format!("the server reports a failure in the place of the data: {said}");
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

    /// The next bytes.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            if self.is_paused(cx) {
                return Poll::Pending;
            }
            let Some(flow) = self.flow.as_mut() else { return Poll::Ready(None) };
            let frame = match Pin::new(&mut flow.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    ready!(flow.idle.as_mut().poll_deadline(cx));
                    let (what, seconds) = (self.what, self.inactivity.as_secs());
                    let words = format!("the {what} is dead: nothing came for {seconds} s");
                    let error = self.broken(Error::new(ErrorKind::Timeout, words));
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let data = match frame {
                None => return Poll::Ready(self.ended()),
                Some(Err(error)) => {
                    let error = broken_flow(error, flow.framed, self.what, self.received);
                    return Poll::Ready(Some(Err(self.broken(error))));
                }
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            // A limit beyond what a clock can hold is none: the first one is far away then.
            if let Some(deadline) = Instant::now().checked_add(self.inactivity) {
                flow.idle.as_mut().reset(deadline);
            }
            if let Some(data) = self.accept(data).filter(|d| !d.is_empty()) {
                self.pass(&data);
                return Poll::Ready(Some(Ok(data)));
            }
            if self.second_answer.is_some() && self.held.len() > LONGEST_PAGE {
                let error = self.second_answer_error();
                return Poll::Ready(Some(Err(self.broken(error))));
            }
        }
    }

    /// Shows it as what it is part of.
    pub(super) fn show(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("task", &self.task)
            .field("received", &self.received)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Waits for the task, if there is one.
async fn has_succeeded(session: &Session, task: Option<&Ref<Task>>, limit: Duration) -> Result<()> {
    let Some(task) = task else { return Ok(()) };
    let record = session.wait_ended(task, &WaitOptions::new().with_timeout(limit)).await?;
    outcome::<Value>(task, &record).map(drop)
}

/// Whether an answer says how long its body is: without that, a body that was cut looks whole.
pub(super) fn is_framed(response: &Response<Body>) -> bool {
    let headers = response.headers();
    headers.contains_key(http::header::CONTENT_LENGTH)
        || headers.contains_key(http::header::TRANSFER_ENCODING)
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
fn broken_flow(error: hyper::Error, framed: bool, what: &str, received: u64) -> Error {
    let cut = error.is_incomplete_message() || has_unexpected_eof(&error);
    let (kind, words) = match (cut, framed) {
        (true, true) => {
            (ErrorKind::Truncated, format!("the {what} ended early, after {received} bytes"))
        }
        (true, false) => (
            ErrorKind::UncleanClose,
            format!(
                "the {what}'s connection was closed after {received} bytes without TLS's \
                 close_notify; it may have been cut"
            ),
        ),
        (false, _) => {
            (ErrorKind::Transport, format!("the {what}'s connection broke after {received} bytes"))
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
