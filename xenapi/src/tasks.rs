//! Background work at the server: start it, watch it, take its result.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::call::Call;
use crate::enums::TaskStatusType;
use crate::error::{Error, ErrorCode, ErrorKind, Result};
use crate::live::Session;
use crate::refs::Ref;
use crate::task::{self, Task};
use crate::value::FromValue;
use crate::wire::xml;

/// A task whose result is a `T`.
pub struct TaskHandle<T> {
    task: Ref<Task>,
    result: PhantomData<fn() -> T>,
}

impl<T> TaskHandle<T> {
    /// Takes up a task that is known by its reference, for example from an earlier run.
    #[must_use]
    pub fn new(task: Ref<Task>) -> Self {
        Self { task, result: PhantomData }
    }

    /// The task's reference.
    #[must_use]
    pub fn task(&self) -> &Ref<Task> {
        &self.task
    }
}

impl<T> Clone for TaskHandle<T> {
    fn clone(&self) -> Self {
        Self::new(self.task.clone())
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.task, f)
    }
}

/// A word that work should stop, shared by its clones.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<watch::Sender<bool>>);

impl Cancel {
    /// Not cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Says that the work should stop.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Whether that was said.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when it is said.
    pub async fn cancelled(&self) {
        // The sender lives in `self`, so that this cannot fail.
        let _ = self.0.subscribe().wait_for(|said| *said).await;
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

/// How to wait for a task.
#[derive(Clone)]
#[must_use]
#[non_exhaustive]
pub struct WaitOptions {
    timeout: Option<Duration>,
    cancel: Option<Cancel>,
    cancel_grace: Duration,
    progress: Option<Arc<dyn Fn(f64) + Send + Sync>>,
}

impl WaitOptions {
    /// Waits as long as the task takes.
    pub fn new() -> Self {
        Self { timeout: None, cancel: None, cancel_grace: Duration::from_secs(60), progress: None }
    }

    /// Gives up after a time. The task goes on.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Cancels the task when `cancel` says so.
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// How long to wait for a task to end that was cancelled; 60 s unless told otherwise.
    pub fn with_cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// Is told of progress, from 0 to 1. Servers move it in steps, some not at all.
    pub fn with_progress(mut self, progress: impl Fn(f64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WaitOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitOptions")
            .field("timeout", &self.timeout)
            .field("cancel", &self.cancel.as_ref().map(Cancel::is_cancelled))
            .finish_non_exhaustive()
    }
}

/// How long the server may hold one question for events.
const EVENT_WAIT: Duration = Duration::from_secs(30);
/// How often in a row the connection may fail, with pauses that double: 13 s in all.
const MOST_FAILURES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The pause between questions where the server has no usable events.
const POLL: Duration = Duration::from_secs(1);
/// The pause after an answer that came at once and said nothing new: a server that does not hold
/// questions for events must not be asked without end.
const NO_NEWS: Duration = Duration::from_millis(200);
/// How long after the time limit a last answer is still waited for.
const LAST_WORD: Duration = Duration::from_secs(5);

impl Session {
    /// Waits until a task ends, gives its result, and removes the task from the server.
    ///
    /// The waiting is done with `event.from` on this one task; where that brings nothing, the task
    /// is asked for directly, so that a lost event costs time, not the result.
    ///
    /// # Errors
    /// - [`TaskFailed`](ErrorKind::TaskFailed) with the server's code;
    /// - [`Cancelled`](ErrorKind::Cancelled), also when a cancelled task did not end in time;
    /// - [`TaskVanished`](ErrorKind::TaskVanished): the server dropped it, its outcome is unknown;
    /// - [`Timeout`](ErrorKind::Timeout): it still runs;
    /// - what a call can meet.
    ///
    /// A task that ended well although it was cancelled gives its result: what it made exists.
    pub async fn wait<T: FromValue>(
        &self,
        handle: &TaskHandle<T>,
        options: &WaitOptions,
    ) -> Result<T> {
        let record = self.wait_ended(&handle.task, options).await?;
        // The outcome is known; that the task stays behind would be the server's to clean up.
        let _ = self.call(task::destroy(&handle.task)).await;
        outcome(&handle.task, &record).map_err(|error| self.redact(error))
    }

    /// Waits until a task ends and gives its record; the task stays at the server.
    pub(crate) async fn wait_ended(&self, task: &Ref<Task>, options: &WaitOptions) -> Result<Task> {
        let mut watcher = Watcher::new(self, task);
        let mut deadline = options.timeout.and_then(|t| Instant::now().checked_add(t));
        let mut cancel = options.cancel.clone();
        let mut cancelling = false;
        loop {
            let limit = deadline.map_or(EVENT_WAIT, |d| {
                d.saturating_duration_since(Instant::now()).min(EVENT_WAIT)
            });
            let seen = tokio::select! {
                biased;
                () = said(cancel.as_ref()) => {
                    cancel = None;
                    cancelling = true;
                    deadline = Instant::now().checked_add(options.cancel_grace);
                    self.cancel_patiently(task).await?;
                    continue;
                }
                seen = watcher.next(limit) => seen?,
                () = passed(deadline) => return Err(late(task, cancelling)),
            };
            if let Some(record) = seen {
                if let Some(tell) = &options.progress {
                    // Servers do send `NaN`.
                    let known = if record.progress.is_nan() { 0.0 } else { record.progress };
                    tell(known.clamp(0.0, 1.0));
                }
                if has_ended(&record) {
                    return Ok(record);
                }
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Err(late(task, cancelling));
            }
        }
    }

    /// As [`cancel_task`](Self::cancel_task), through a connection that breaks for a moment.
    async fn cancel_patiently(&self, task: &Ref<Task>) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..MOST_FAILURES {
            match self.cancel_task(task).await {
                Err(e) if is_passing(&e) => tokio::time::sleep(pause).await,
                other => return other,
            }
            pause *= 2;
        }
        self.cancel_task(task).await
    }

    /// Cancels a task; one that is gone, has ended, or cannot be cancelled is left alone.
    pub(crate) async fn cancel_task(&self, task: &Ref<Task>) -> Result<()> {
        match self.call(task::cancel(task)).await {
            Err(e) if e.code().is_some() && !e.is_session_invalid() => Ok(()),
            other => other,
        }
    }
}

fn late(task: &Ref<Task>, cancelling: bool) -> Error {
    if cancelling {
        let words = format!("task {task} was cancelled, but the server has not ended it yet");
        Error::new(ErrorKind::Cancelled, words)
    } else {
        let words = format!("task {task} has not ended in the time allowed; it still runs");
        Error::new(ErrorKind::Timeout, words)
    }
}

/// Returns when the cancel word is said; never without one.
async fn said(cancel: Option<&Cancel>) {
    match cancel {
        Some(cancel) => cancel.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Returns a little after the time limit; never without one.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.saturating_add(LAST_WORD)).await;
        }
        None => std::future::pending().await,
    }
}

fn has_ended(record: &Task) -> bool {
    matches!(
        record.status,
        TaskStatusType::Success | TaskStatusType::Failure | TaskStatusType::Cancelled
    )
}

/// The result that an ended task holds.
pub(crate) fn outcome<T: FromValue>(task: &Ref<Task>, record: &Task) -> Result<T> {
    match record.status {
        TaskStatusType::Success => {
            let value = xml::decode_result(&record.result)?;
            T::from_value(value).map_err(|e| {
                let words = format!("task {task}: its result has an unexpected value: {e}");
                Error::new(ErrorKind::Decode, words).with_source(e)
            })
        }
        TaskStatusType::Cancelled => Err(Error::new(
            ErrorKind::Cancelled,
            format!("task {task} ({}) was cancelled", record.name_label),
        )),
        _ => Err(failure(task, record)),
    }
}

/// The error of a task that failed.
fn failure(task: &Ref<Task>, record: &Task) -> Error {
    let mut said = record.error_info.iter().cloned();
    let words = format!("task {task} ({}) failed", record.name_label);
    match said.next() {
        Some(code) if code == "TASK_CANCELLED" => {
            Error::api(ErrorCode::new(code), said.collect()).context(words)
        }
        Some(code) => Error::api(ErrorCode::new(code), said.collect())
            .with_kind(ErrorKind::TaskFailed)
            .context(words),
        None => Error::new(ErrorKind::TaskFailed, words),
    }
}

/// Follows one task by events, and by asking where there are none.
struct Watcher<'a> {
    session: &'a Session,
    task: &'a Ref<Task>,
    token: String,
    /// Off once the server has refused the question.
    events: bool,
    /// Failures of the connection in a row.
    failures: u32,
    /// What was learnt last; the progress as its bits, because `NaN` is not equal to itself.
    known: Option<(TaskStatusType, u64)>,
}

impl<'a> Watcher<'a> {
    fn new(session: &'a Session, task: &'a Ref<Task>) -> Self {
        Self { session, task, token: String::new(), events: true, failures: 0, known: None }
    }

    /// The task's next known state; `None` if nothing was learnt. A connection that breaks ends
    /// the watch only when it stays broken: the work at the server goes on without it.
    async fn next(&mut self, limit: Duration) -> Result<Option<Task>> {
        let asked = Instant::now();
        match self.attempt(limit).await {
            Err(e) if is_passing(&e) && self.failures < MOST_FAILURES => {
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.failures);
                self.failures += 1;
                tokio::time::sleep(pause.min(limit)).await;
                Ok(None)
            }
            other => {
                self.failures = 0;
                if let Ok(Some(record)) = &other
                    && !has_ended(record)
                {
                    let learnt = Some((record.status.clone(), record.progress.to_bits()));
                    if self.known == learnt && asked.elapsed() < NO_NEWS {
                        tokio::time::sleep(NO_NEWS.min(limit)).await;
                    }
                    self.known = learnt;
                }
                other
            }
        }
    }

    async fn attempt(&mut self, limit: Duration) -> Result<Option<Task>> {
        if !self.events {
            tokio::time::sleep(POLL.min(limit)).await;
            return self.ask().await.map(Some);
        }
        match self.question(limit).await {
            Ok(batch) => {
                self.token = batch.token;
                let last = batch.events.into_iter().rev().find(|e| e.reference == *self.task);
                match last {
                    Some(event) if event.gone => Err(vanished(self.task)),
                    Some(Event { record: Some(record), .. }) => Ok(Some(record)),
                    // Nothing, or an event without a record: the word of the object itself.
                    _ => self.ask().await.map(Some),
                }
            }
            Err(e) if e.has_code(&ErrorCode::EVENT_FROM_TOKEN_PARSE_FAILURE) => {
                self.token.clear();
                self.ask().await.map(Some)
            }
            Err(e) if matches!(e.kind(), ErrorKind::Api | ErrorKind::Decode) => {
                self.events = false;
                self.ask().await.map(Some)
            }
            Err(e) => Err(e),
        }
    }

    /// One `event.from`: the server answers at once when something happened since the token.
    async fn question(&self, limit: Duration) -> Result<Batch> {
        let class = format!("task/{}", self.task.as_str());
        let call: Call<Batch> =
            Call::new("event.from").arg([class]).arg(&self.token).arg(limit.as_secs_f64());
        // The answer may come after the time that the server was given.
        let patience = limit.saturating_add(limit / 10).saturating_add(Duration::from_secs(30));
        self.session.ask(&call, patience).await
    }

    async fn ask(&self) -> Result<Task> {
        match self.session.call(task::get_record(self.task)).await {
            Err(e) if e.is_not_found() => Err(vanished(self.task)),
            other => other,
        }
    }
}

/// Whether an error is one of the way to the server, which may pass.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Timeout)
}

fn vanished(task: &Ref<Task>) -> Error {
    Error::new(
        ErrorKind::TaskVanished,
        format!("task {task} is gone from the server; look whether its result exists"),
    )
}

/// A batch of events, as far as a task needs it.
struct Batch {
    token: String,
    events: Vec<Event>,
}

struct Event {
    reference: Ref<Task>,
    gone: bool,
    record: Option<Task>,
}

impl FromValue for Batch {
    fn from_value(mut value: Value) -> Result<Self, crate::DecodeError> {
        let token = match value.get_mut("token").map(Value::take) {
            Some(Value::String(token)) => token,
            _ => return Err(crate::DecodeError::new("a batch of events", &value)),
        };
        let events = value.get_mut("events").map(Value::take).unwrap_or_default();
        let events = Vec::<Event>::from_value(events).map_err(|e| e.within("events"))?;
        Ok(Self { token, events })
    }
}

impl FromValue for Event {
    /// Events of deletions have no snapshot; other fields are of no use (`timestamp` is "0.0").
    fn from_value(mut value: Value) -> Result<Self, crate::DecodeError> {
        let mut take = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
        let reference = Ref::from_value(take("ref"))?;
        let gone = take("operation").as_str() == Some("del");
        let snapshot = take("snapshot");
        let record = snapshot.is_object().then(|| Task::from_value(snapshot)).transpose()?;
        Ok(Self { reference, gone, record })
    }
}
