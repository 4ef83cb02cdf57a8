//! What a run is given from outside: its id, a way to be cancelled, a clock, an observer.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::observer::{Event, Observer};
use crate::{Error, ErrorKind, Result};

/// The identity of a run, written into every remote object that the run creates.
///
/// ```
/// use migrate_core::RunId;
/// let run: RunId = "4f0a3c52-7c4e-4b0f-9d6e-1f2a3b4c5d6e".parse()?;
/// assert_eq!(run.object_name(), "migrate-run-4f0a3c52-7c4e-4b0f-9d6e-1f2a3b4c5d6e");
/// # Ok::<(), migrate_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    /// A new random id. The only randomness of a run; steps get everything else from it.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The run id made of a UUID of the caller's.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The id as a UUID.
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// The name that remote objects of this run get when they are created.
    pub fn object_name(&self) -> String {
        format!("migrate-run-{}", self.0)
    }

    /// A UUID that is the same for the same run and `purpose`, and another for any other.
    pub fn derive(&self, purpose: &str) -> Uuid {
        Uuid::new_v5(&self.0, purpose.as_bytes())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Uuid::parse_str(text).map(Self).map_err(|_| {
            Error::new(ErrorKind::Usage, format!("{text:?} is not a run id: give its UUID"))
        })
    }
}

/// Asks a run to stop, from anywhere; clones share one state. There is no way back.
#[derive(Clone, Default)]
pub struct CancelToken {
    flag: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}

impl CancelToken {
    /// A token that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels: every holder sees it, those that wait are woken.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    /// Whether somebody cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// Ends when somebody cancels.
    pub async fn cancelled(&self) {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            // Registered before the flag is read, so that no cancellation falls in between.
            notified.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }

    /// The flag itself, for synchronous code that polls it.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

/// Time, given from outside so that steps can be tested and replayed without it.
pub trait Clock: Send + Sync {
    /// The time since any fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The clock of the machine.
#[derive(Debug, Clone)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// What a run is given from outside.
#[derive(Clone)]
pub struct Context {
    pub(crate) run_id: RunId,
    pub(crate) cancel: CancelToken,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("run_id", &self.run_id)
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context for the run `run_id`, with the machine's clock and nobody watching.
    ///
    /// A run that is resumed keeps the id that its journal holds.
    pub fn new(run_id: RunId) -> Self {
        Self {
            run_id,
            cancel: CancelToken::new(),
            clock: Arc::new(SystemClock::default()),
            observer: Arc::new(()),
        }
    }

    /// Lets `cancel` stop the run.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Takes the time from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Tells `observer` what happens.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }
}

/// What one step is given while it runs, probes or undoes.
#[derive(Clone)]
pub struct StepCx {
    pub(crate) run: Context,
    pub(crate) key: String,
}

impl fmt::Debug for StepCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepCx").field("token", &self.token()).finish_non_exhaustive()
    }
}

impl StepCx {
    /// What the step `key` of the run of `context` is given. The runner makes it; make one yourself
    /// to test a step, or to share its code with a sweep.
    pub fn new(context: &Context, key: &str) -> Self {
        Self { run: context.clone(), key: key.to_owned() }
    }

    /// The same step, but deaf to cancellation: for undo, and for what follows the commit point.
    pub(crate) fn uncancellable(mut self) -> Self {
        self.run.cancel = CancelToken::new();
        self
    }

    /// The run that the step belongs to.
    pub fn run_id(&self) -> RunId {
        self.run.run_id
    }

    /// The step's own key, like `transfer/0`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What the step writes into the remote objects that it creates: run id and key.
    pub fn token(&self) -> String {
        format!("{}/{}", self.run.run_id, self.key)
    }

    /// The token to cancel this step by.
    pub fn cancel(&self) -> &CancelToken {
        &self.run.cancel
    }

    /// Says how far the step is; `total` if it is known.
    pub fn progress(&self, done: u64, total: Option<u64>) {
        self.run.observer.observe(&Event::Progress { step: &self.key, done, total });
    }

    /// The observer, for steps that report from another thread.
    pub fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.run.observer)
    }

    /// Fails if the run was cancelled.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.cancel().is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Waits for `duration`, unless the run is cancelled.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub async fn sleep(&self, duration: Duration) -> Result<()> {
        let sleep = self.run.clock.sleep(duration);
        self.guard(async {
            sleep.await;
            Ok(())
        })
        .await
    }

    /// Runs `future`, which is dropped if the run is cancelled.
    ///
    /// # Errors
    /// Those of `future`, and [`ErrorKind::Cancelled`].
    pub async fn guard<T>(&self, future: impl Future<Output = Result<T>> + Send) -> Result<T>
    where
        T: Send,
    {
        self.check()?;
        tokio::select! {
            biased;
            () = self.cancel().cancelled() => Err(Error::cancelled()),
            result = future => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_stable_and_differ() {
        let run = RunId::from_uuid(Uuid::nil());
        assert_eq!(run.derive("image/0"), run.derive("image/0"));
        assert_ne!(run.derive("image/0"), run.derive("image/1"));
        assert_ne!(run.derive("image/0"), RunId::random().derive("image/0"));
        assert!("../x".parse::<RunId>().is_err());
    }

    #[tokio::test]
    async fn a_cancelled_guard_does_not_start() {
        let cancel = CancelToken::new();
        let cx = StepCx::new(&Context::new(RunId::random()).with_cancel(cancel.clone()), "x");
        assert_eq!(cx.guard(async { Ok(1) }).await.unwrap(), 1);
        cancel.cancel();
        cancel.cancelled().await;
        assert!(cx.guard(async { Ok(1) }).await.unwrap_err().is_cancelled());
        assert!(cx.uncancellable().guard(async { Ok(1) }).await.is_ok());
    }
}
