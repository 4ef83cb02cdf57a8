//! A PUT to a raw handler: its task, its redirects, its body, and what the server made of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::fetch::{path_and_query, query};
use super::options::Common;
use super::pace::Meter;
use super::redirect::{self, Errand, Target};
use super::upload::{self, Terms};
use super::{ABORT_GRACE, ImportSource, MOST_REDIRECTS, REFUSED_GRACE, link};
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::refs::Ref;
use crate::task::{self, Task};
use crate::tasks::{Cancel, WaitOptions, outcome};

/// How long a task may take to say why its transfer broke.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A PUT, as a value.
pub(super) struct Put<'a> {
    pub(super) errand: Errand<'a>,
    /// Where it goes first.
    pub(super) target: Target,
    /// The handler's own part of the query.
    pub(super) pairs: &'a [(&'a str, &'a str)],
    pub(super) common: &'a Common,
    pub(super) cancel: Option<&'a Cancel>,
    /// Whether a task carries it.
    pub(super) with_task: bool,
    /// How much of the body a server may leave unread whose task has succeeded; none if it must
    /// not even break the connection then.
    pub(super) spare: Option<u64>,
}

impl Session {
    /// Makes the task, sends the body, and gives what the task comes to; nothing without a task. A
    /// session that has died is renewed, once.
    pub(super) async fn put_raw(&self, put: &Put<'_>, mut source: ImportSource) -> Result<Value> {
        let mut renewed = false;
        loop {
            let task = match put.with_task {
                true => Some(self.call(put.common.create_task()).await?),
                false => None,
            };
            let login = self.logins();
            let result = match self.deliver(put, task.as_ref(), &mut source).await {
                Ok(Delivered::Unauthorised(_)) if !renewed && self.is_renewed(login).await => {
                    renewed = true;
                    // Servers fail the task as well.
                    if let Some(task) = &task {
                        let _ = self.discard(task, REFUSED_GRACE).await;
                    }
                    continue;
                }
                Ok(Delivered::Unauthorised(error)) => {
                    self.reason(task.as_ref(), error, false).await
                }
                Ok(Delivered::Done(value)) => Ok(value),
                Err(error) => Err(error),
            };
            // Pages of servers may repeat what they were asked with.
            let result = result.map_err(|error| self.redact(error));
            if let Some(task) = &task {
                // The first error is the one to tell; when there is none, that the task stays
                // would be the server's to clean up.
                let _ = match &result {
                    Ok(_) => self.call(task::destroy(task)).await,
                    Err(error) => self.discard(task, grace(error)).await,
                };
            }
            return result;
        }
    }

    /// Sends the body, and waits for what the task says.
    async fn deliver(
        &self,
        put: &Put<'_>,
        task: Option<&Ref<Task>>,
        source: &mut ImportSource,
    ) -> Result<Delivered> {
        let (total, written) = (source.length(), AtomicU64::new(0));
        let meter = Meter::start(self, task, Some(total), put.common.tell.as_ref());
        let terms = Terms {
            connect: self.inner.settings.connect_timeout,
            inactivity: put.common.inactivity,
            patience: put.common.task_timeout,
            throttle: put.common.throttle.as_ref(),
            meter: meter.as_ref(),
            sent: &written,
        };
        let sent = tokio::select! {
            biased;
            () = said(put.cancel) => {
                let words = format!("the {} was cancelled", put.errand.what);
                Err(Error::new(ErrorKind::Cancelled, words))
            }
            sent = self.send_body(put, task, source, &terms) => sent,
        };
        match sent {
            Ok(None) => self.result(put, task).await.map(Delivered::Done),
            Ok(Some(unauthorised)) => Ok(Delivered::Unauthorised(unauthorised)),
            Err(error) => {
                let left = total.saturating_sub(written.load(Ordering::Relaxed));
                self.reason(task, error, put.spare.is_some_and(|spare| left <= spare))
                    .await
                    .map(Delivered::Done)
            }
        }
    }

    /// Follows redirects as long as nothing of the body is out; gives the error of a host that
    /// does not know the session.
    async fn send_body(
        &self,
        put: &Put<'_>,
        task: Option<&Ref<Task>>,
        source: &mut ImportSource,
        terms: &Terms<'_>,
    ) -> Result<Option<Error>> {
        let errand = put.errand;
        let mut target = put.target.clone();
        let extra = format!("Content-Length: {}\r\nConnection: close\r\n", source.length());
        for _ in 0..=MOST_REDIRECTS {
            target.url.set_path(errand.path);
            let query = query(put.pairs, &[], task);
            let line = format!("PUT {} HTTP/1.1", path_and_query(target.url.path(), &query));
            let request = link::request(self, &target.url, &line, &extra)?;
            match upload::put(&target, request.as_bytes(), source, terms).await? {
                upload::Put::Sent => return Ok(None),
                upload::Put::Unauthorised(error) => return Ok(Some(error)),
                upload::Put::Elsewhere(location) => {
                    target = redirect::resolve(self, errand, &target.url, &location).await?;
                    #[cfg(feature = "tracing")]
                    tracing::debug!(host = target.url.host_str(), "the {} goes on", errand.what);
                }
            }
        }
        Err(redirect::endless(errand))
    }

    async fn result(&self, put: &Put<'_>, task: Option<&Ref<Task>>) -> Result<Value> {
        let Some(task) = task else { return Ok(Value::Null) };
        let mut waiting = WaitOptions::new().with_timeout(put.common.task_timeout);
        if let Some(cancel) = put.cancel {
            waiting = waiting.with_cancel(cancel.clone());
        }
        let record = self.wait_ended(task, &waiting).await?;
        outcome(task, &record)
    }

    /// Prefers what the task says to what the connection looked like, unless it was us who ended
    /// it. That it has succeeded counts only if the server can have all it wants.
    async fn reason(&self, task: Option<&Ref<Task>>, error: Error, has_all: bool) -> Result<Value> {
        let Some(task) = task else { return Err(error) };
        if matches!(
            error.kind(),
            ErrorKind::Authentication | ErrorKind::Protocol | ErrorKind::Transport
        ) {
            // The server fails the task a little after it has closed the connection.
            let waiting = WaitOptions::new().with_timeout(LAST_WORDS);
            if let Ok(record) = self.wait_ended(task, &waiting).await {
                match outcome(task, &record) {
                    Err(said) => return Err(said.with_source(error)),
                    Ok(value) if has_all && error.kind() == ErrorKind::Transport => {
                        return Ok(value);
                    }
                    Ok(_) => {}
                }
            }
        }
        Err(error)
    }
}

/// What became of a PUT.
enum Delivered {
    /// The server has all, and its task has come to this.
    Done(Value),
    /// The host does not know the session; nothing of the body is out.
    Unauthorised(Error),
}

/// How long a task may take to end: a refusal is told at once; what was cut off needs a while.
fn grace(error: &Error) -> Duration {
    let refused = matches!(
        error.kind(),
        ErrorKind::Connect | ErrorKind::Tls | ErrorKind::Redirect | ErrorKind::TooLarge
    );
    if refused { REFUSED_GRACE } else { ABORT_GRACE }
}

/// Returns when the caller says so; never without a word for it.
async fn said(cancel: Option<&Cancel>) {
    match cancel {
        Some(cancel) => cancel.cancelled().await,
        None => std::future::pending().await,
    }
}
