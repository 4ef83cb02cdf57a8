//! Waiting: the pauses, the limit, and the flag that ends it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::call::{Call, List, Record};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result, is_quota};
use crate::random::spread;

/// How long the last look may take, also beyond the time limit.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Called before each pause of a wait: with what the last look saw, and how long it has been waited.
type Progress = Arc<dyn Fn(&str, Duration) + Send + Sync>;

/// How to wait for a job or a template.
#[derive(Clone)]
#[non_exhaustive]
pub struct WaitOptions {
    /// How long at most (1 hour); the look that is under way at the end gets some seconds more.
    pub timeout: Duration,
    /// The first pause between two looks (500 ms); it grows by half each time, up to `longest_pause`. Each is up to a
    /// tenth longer or shorter, and at least 10 ms.
    pub first_pause: Duration,
    /// The longest pause (5 s).
    pub longest_pause: Duration,
    /// After a lost answer to a command that makes an object: how long its job is looked for, once the command can no
    /// longer arrive, before it is sent again (30 s). It can arrive as long as its signature is valid, two minutes
    /// mostly; `settle` is for one that arrived at the last moment and is still being begun.
    pub settle: Duration,
    /// Set it to stop waiting.
    pub cancel: Option<Arc<AtomicBool>>,
    progress: Option<Progress>,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3600),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(5),
            settle: Duration::from_secs(30),
            cancel: None,
            progress: None,
        }
    }
}

impl WaitOptions {
    /// How long at most.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The pauses between two looks: the first, and the longest.
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// How long a job is looked for, once its command can no longer arrive, before the command is sent again.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Called before each pause with what the last look saw (`the job is pending`, `zone1: 42% Downloaded`) and how long
    /// it has been waited.
    #[must_use]
    pub fn with_progress(
        mut self,
        progress: impl Fn(&str, Duration) + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }

    /// A flag that stops waiting.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.cancel = Some(cancel);
        self
    }
}

impl fmt::Debug for WaitOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitOptions")
            .field("timeout", &self.timeout)
            .field("first_pause", &self.first_pause)
            .field("longest_pause", &self.longest_pause)
            .field("settle", &self.settle)
            .finish_non_exhaustive()
    }
}

/// No pause is shorter, so that no server is stormed.
const SHORTEST: Duration = Duration::from_millis(10);
/// How often in a row something may be missing before it is taken to be no more.
const LOOKS: u32 = 4;

/// What one look saw.
pub(crate) enum Seen<T> {
    /// What was waited for.
    Done(T),
    /// It is on its way: how far.
    Pending(String),
    /// It is not there, maybe not yet.
    Absent,
    /// It will never be.
    Failed(Error),
}

impl<T> Seen<T> {
    /// What makes something ready will never come. `how` follows on "it failed".
    pub(crate) fn failed(what: &str, how: &str) -> Self {
        let kind = if is_quota(how) { ErrorKind::Quota } else { ErrorKind::Failed };
        let text = format!("{what}: it failed{how}; delete it and begin anew");
        Self::Failed(Error::new(kind, text))
    }
}

/// What a wait for something says that is not there.
pub(crate) fn gone(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what}: it is not there (any more)"))
}

impl Client {
    /// The rows of what has an id; none, if the server says that there is no such thing. What belongs to a project is in
    /// no list that does not ask for projects.
    pub(crate) async fn rows_by_id<R: Record>(&self, get: &Call<List<R>>) -> Result<Vec<R>> {
        match self.call_all(get.clone()).await {
            Ok(rows) if !rows.is_empty() => return Ok(rows),
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        match self.call_all(get.clone().of_project("-1")).await {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::Invalid
                        | ErrorKind::Unsupported
                        | ErrorKind::Forbidden
                ) =>
            {
                Ok(Vec::new())
            }
            rows => rows,
        }
    }
}

/// One wait that has begun.
pub(crate) struct Waiting<'a> {
    options: &'a WaitOptions,
    what: &'a str,
    start: Instant,
    pause: Duration,
}

impl WaitOptions {
    /// Looks again and again until it sees an end. A look that fails because the server is away for a moment is as
    /// good as none; every other failure ends the wait. `None` if it is not there, also after some more looks.
    pub(crate) async fn until<T, F>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> Result<Option<T>>
    where
        F: Future<Output = Result<Seen<T>>>,
    {
        let mut waiting = Waiting::new(what, self);
        let mut missing = 0;
        loop {
            let last = match waiting.look(look()).await {
                Ok(Seen::Done(value)) => return Ok(Some(value)),
                Ok(Seen::Failed(error)) => return Err(error),
                Ok(Seen::Pending(last)) => {
                    missing = 0;
                    last
                }
                Ok(Seen::Absent) => {
                    missing += 1;
                    if missing >= LOOKS {
                        return Ok(None);
                    }
                    "it is not there".to_owned()
                }
                // A server that is restarted for a moment has not lost what is waited for.
                Err(error) if error.is_retryable() => error.to_string(),
                Err(error) => return Err(error),
            };
            waiting.pause(&last).await?;
        }
    }
}

impl<'a> Waiting<'a> {
    pub(crate) fn new(what: &'a str, options: &'a WaitOptions) -> Self {
        Self { options, what, start: Instant::now(), pause: options.first_pause }
    }

    /// One look, which ends with the cancel flag or with the time limit: a server that hangs must not outlast them. It may
    /// be given up because it changes nothing.
    async fn look<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let left = self.options.timeout.saturating_sub(self.start.elapsed()).max(LAST_LOOK);
        let begun = Instant::now();
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
            self.check()?;
            if begun.elapsed() >= left {
                let text = format!("{}: the server does not answer", self.what);
                return Err(Error::new(ErrorKind::Timeout, text));
            }
        }
    }

    fn check(&self) -> Result<()> {
        if self.options.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            let text = format!("{}: waiting was cancelled", self.what);
            return Err(Error::new(ErrorKind::Cancelled, text));
        }
        Ok(())
    }

    /// The pause until the next look. `last` is what the last one saw.
    async fn pause(&mut self, last: &str) -> Result<()> {
        let gone = self.start.elapsed();
        let left = self.options.timeout.saturating_sub(gone);
        if let Some(progress) = &self.options.progress {
            progress(last, gone);
        }
        if left.is_zero() {
            let limit = self.options.timeout.as_secs_f32();
            let text = format!("{}: not done after {limit} s (last: {last})", self.what);
            return Err(Error::new(ErrorKind::Timeout, text));
        }
        let pause = spread(self.pause).max(SHORTEST).min(left);
        self.pause = (self.pause.saturating_mul(3) / 2).min(self.options.longest_pause);
        self.sleep(pause).await
    }

    /// A pause that something else asks for; false, at once, if the time limit is before its end.
    pub(crate) async fn rest(&self, pause: Duration) -> Result<bool> {
        self.check()?;
        if pause > self.options.timeout.saturating_sub(self.start.elapsed()) {
            return Ok(false);
        }
        self.sleep(pause).await?;
        Ok(true)
    }

    async fn sleep(&self, pause: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            // Looked at in between, so that a cancellation does not wait for the end of a pause.
            self.check()?;
            let left = pause.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(Duration::from_millis(200))).await;
        }
    }
}
