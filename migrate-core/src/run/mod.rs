//! The runner: one run of steps over a journal.

mod erased;
mod unwind;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::erased::{Erased, ErasedStep};
use crate::journal::{Entry, FORMAT, Journal, Outcome, RunState, StepStatus, next_state};
use crate::observer::Event;
use crate::{Context, Error, ErrorKind, Probe, Result, RunId, Step, StepCx};

/// How often something that is under way is asked about, and how an undo is retried.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// How often a step of a dead process is asked whether it is over: 30 minutes in the end.
const PROBES: usize = 360;
/// How often a step is tried if its failures may pass.
const STEP_TRIES: usize = 3;

/// One run of steps: forward step by step, and back to nothing if one of them fails before the
/// [commit point](Self::commit).
///
/// The steps are ordinary code: call [`step`](Self::step) for one after the other, each made
/// from the outputs of those before, and hand what comes out to [`finish`](Self::finish). A run
/// that is resumed goes through the same code: steps that the journal knows as done give their
/// recorded output at once, the one that was cut short is probed first.
///
/// ```
/// use async_trait::async_trait;
/// use migrate_core::journal::MemoryJournal;
/// use migrate_core::{Context, Probe, Result, Run, RunId, Step, StepCx};
///
/// struct Hello;
///
/// #[async_trait]
/// impl Step for Hello {
///     const NAME: &'static str = "hello";
///     const VERSION: u32 = 1;
///     type Output = String;
///
///     async fn run(&self, cx: &StepCx) -> Result<String> {
///         Ok(format!("made by {}", cx.key()))
///     }
///     async fn probe(&self, _: &StepCx) -> Result<Probe<String>> {
///         Ok(Probe::Absent)
///     }
///     async fn undo(&self, _: &StepCx, _: Option<String>) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let spec = serde_json::json!({"greet": "world"});
/// let mut run = Run::open(MemoryJournal::new(), spec, Context::new(RunId::random())).await?;
/// let result = async {
///     let made = run.step(Hello).await?;
///     run.commit().await?;
///     Ok(made)
/// }
/// .await;
/// assert_eq!(run.finish(result).await?, "made by hello");
/// # Ok(())
/// # }
/// ```
pub struct Run {
    context: Context,
    journal: Box<dyn Journal>,
    state: RunState,
    /// The steps that this process has come by, for the way back.
    stack: Vec<Arc<dyn ErasedStep>>,
    /// Only the way back is left, by the caller's wish.
    abandoned: bool,
    /// A step of another version was met: nothing may be done without the caller's word.
    refused: bool,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("run_id", &self.run_id()).finish_non_exhaustive()
    }
}

impl Run {
    /// Begins a run to do `spec`, or goes on with the one that `journal` holds.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the journal holds a run with another `spec`,
    /// [`ErrorKind::Undone`] if it holds one that was undone, and those of the journal.
    pub async fn open(
        journal: impl Journal + 'static,
        spec: Value,
        mut context: Context,
    ) -> Result<Self> {
        let mut journal: Box<dyn Journal> = Box::new(journal);
        let mut state = RunState::fold(&journal.load().await?)?;
        match (state.run_id(), state.spec()) {
            (Some(run_id), Some(held)) => {
                same_spec(run_id, held, &spec)?;
                if let Some(Outcome::Undone(error)) = state.outcome() {
                    return Err(undone(run_id, error));
                }
                context.run_id = run_id;
            }
            _ => {
                let entry = Entry::RunStarted { format: FORMAT, run_id: context.run_id, spec };
                state = next_state(state, &entry)?;
                journal.append(&entry).await?;
            }
        }
        Ok(Self { context, journal, state, stack: Vec::new(), abandoned: false, refused: false })
    }

    /// The run that `journal` holds, to be [given up](Self::abandon). Another version of a program
    /// may know more or less of a run's spec; what both know must be the same, or the wrong ends
    /// would be asked, and tell that nothing is there.
    pub(crate) async fn open_to_undo(
        mut journal: Box<dyn Journal>,
        spec: &Value,
        context: Context,
    ) -> Result<Self> {
        let state = RunState::fold(&journal.load().await?)?;
        let held = match state.spec() {
            Some(held) if agree(held, spec) => held.clone(),
            _ => spec.clone(),
        };
        Self::open(journal, held, context).await
    }

    /// The run's id.
    pub fn run_id(&self) -> RunId {
        self.context.run_id
    }

    /// What the journal holds by now.
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// The result of the run, if an earlier process finished it.
    ///
    /// # Errors
    /// The recorded result has another shape.
    pub fn result<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        match self.state.outcome() {
            Some(Outcome::Finished(value)) => {
                serde_json::from_value(value.clone()).map(Some).map_err(|e| {
                    Error::new(
                        ErrorKind::Conflict,
                        format!("the result of run {} has another shape", self.run_id()),
                    )
                    .with_source(e)
                })
            }
            _ => Ok(None),
        }
    }

    /// What the step `key` put out, now or in an earlier process.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] if the step has not been done, [`ErrorKind::Conflict`] if its
    /// output has another shape.
    pub fn output<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let output = self.state.step(key).and_then(|s| s.output.clone()).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("step {key} has no output yet"))
        })?;
        serde_json::from_value(output).map_err(|e| {
            Error::new(
                ErrorKind::Conflict,
                format!("the output of step {key} in the journal has another shape"),
            )
            .with_source(e)
        })
    }

    /// Gives the run up: from now on steps do not act, and [`finish`](Self::finish) undoes those
    /// that have. This is the way out of a journal that another version of a step began.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the run is committed: what is published is not taken back.
    pub fn abandon(&mut self) -> Result<()> {
        if self.state.is_committed() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("run {} is committed and cannot be undone: resume it", self.run_id()),
            ));
        }
        self.abandoned = true;
        Ok(())
    }

    /// Whether only the way back is open.
    fn goes_back(&self) -> bool {
        self.abandoned || self.state.is_unwinding()
    }

    /// A context for one step, as [`step`](Self::step) gives it; after the commit point it is
    /// deaf to cancellation.
    fn cx(&self, key: &str) -> StepCx {
        let cx = StepCx::new(&self.context, key);
        if self.state.is_committed() { cx.uncancellable() } else { cx }
    }

    async fn record(&mut self, entry: Entry) -> Result<()> {
        let next = next_state(self.state.clone(), &entry)?;
        self.journal.append(&entry).await?;
        self.state = next;
        Ok(())
    }

    /// Runs `step`, or tells what it put out in an earlier process.
    ///
    /// # Errors
    /// The step's own; [`ErrorKind::Conflict`] if the journal holds another version of it;
    /// [`ErrorKind::Cancelled`]; those of the journal. Hand any of them to
    /// [`finish`](Self::finish).
    pub async fn step<S: Step + 'static>(&mut self, step: S) -> Result<S::Output> {
        let key = step.key();
        if self.stack.iter().any(|s| s.key() == key) {
            // The journal would take it for done, and give out what the first one made.
            return Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "step {key} occurs twice in run {}: a step that occurs more than once needs a key for each time",
                    self.run_id()
                ),
            ));
        }
        let known = self.state.step(&key).cloned();
        if let Some(known) = &known
            && known.version != S::VERSION
            && !self.abandoned
        {
            self.refused = true;
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "run {}: step {key} was begun by version {} of its code, this is version {}: resume with the program that began it, or undo the run",
                    self.run_id(),
                    known.version,
                    S::VERSION
                ),
            ));
        }
        let step = Erased::new(step);
        let Some(known) = known else {
            return if self.goes_back() {
                Err(self.interrupted())
            } else {
                self.act(step, key, false).await
            };
        };
        self.stack.push(Arc::<Erased<S>>::clone(&step));
        if self.goes_back() {
            // Nothing acts any more, but the steps behind this one are made from its output, and
            // they may have to be undone, too.
            let output = known.output.and_then(|o| step.parse(o).ok());
            return output.ok_or_else(|| self.interrupted());
        }
        if known.status == StepStatus::Done {
            let output = step.parse(known.output.unwrap_or(Value::Null));
            let output = output.inspect_err(|_| self.refused = true)?;
            self.observe_finished(&key, Duration::ZERO, true);
            return Ok(output);
        }
        if let Some(output) = self.recover(step.as_ref(), &key).await? {
            return step.parse(output);
        }
        self.act(step, key, true).await
    }

    /// Asks what became of a step that an earlier process began.
    async fn recover<S: Step>(&mut self, step: &Erased<S>, key: &str) -> Result<Option<Value>> {
        let cx = self.cx(key);
        if matches!(self.state.step(key).map(|s| &s.status), Some(StepStatus::Failed(_))) {
            return Ok(None);
        }
        let Some(output) = settle(step, &cx).await?.over()? else { return Ok(None) };
        let entry = Entry::StepDone { step: key.to_owned(), output: output.clone(), seconds: 0.0 };
        self.record(entry).await?;
        self.observe_finished(key, Duration::ZERO, true);
        Ok(Some(output))
    }

    async fn act<S: Step + 'static>(
        &mut self,
        step: Arc<Erased<S>>,
        key: String,
        stacked: bool,
    ) -> Result<S::Output> {
        let cx = self.cx(&key);
        cx.check()?;
        let token = cx.token();
        self.record(Entry::StepStarted { step: key.clone(), version: S::VERSION, token }).await?;
        if !stacked {
            self.stack.push(Arc::<Erased<S>>::clone(&step));
        }
        self.tell(&Event::StepStarted { step: &key });
        let begun = self.context.clock.now();
        let result = self.try_step(step.as_ref(), &cx).await;
        match result {
            Ok(output) => {
                let elapsed = self.context.clock.now().saturating_sub(begun);
                let value = serde_json::to_value(&output).map_err(|e| {
                    Error::new(ErrorKind::Internal, format!("output of step {key} is not JSON"))
                        .with_source(e)
                })?;
                let seconds = (elapsed.as_secs_f64() * 1000.0).round() / 1000.0;
                self.record(Entry::StepDone { step: key.clone(), output: value, seconds }).await?;
                self.observe_finished(&key, elapsed, false);
                Ok(output)
            }
            Err(error) => {
                self.tell(&Event::StepFailed { step: &key, error: &error });
                let entry = Entry::StepFailed { step: key, error: error.report() };
                // The step's own failure is what the caller must hear of.
                let _ = self.record(entry).await;
                Err(error)
            }
        }
    }

    /// Runs a step; tries again if the failure may pass. An answer that got lost says nothing of
    /// the effect, so the remote end is asked first.
    async fn try_step<S: Step>(&self, step: &Erased<S>, cx: &StepCx) -> Result<S::Output> {
        let mut tries = 1;
        loop {
            let error = match step.inner().run(cx).await {
                Err(e) if e.is_retryable() && !cx.cancel().is_cancelled() => e,
                result => return result,
            };
            match settle(step, cx).await {
                Ok(Settled::Over(Some(output))) => return step.parse(output),
                Ok(Settled::Over(None)) if tries < STEP_TRIES => {
                    cx.sleep(PAUSES[tries + 1]).await?
                }
                _ => return Err(error),
            }
            tries += 1;
        }
    }

    /// Tells the observer, and the log.
    fn tell(&self, event: &Event<'_>) {
        #[cfg(feature = "tracing")]
        match event {
            Event::StepFailed { step, error } => {
                tracing::warn!(run = %self.run_id(), step, error = %error.report(), "step failed");
            }
            Event::UndoFinished { step, error: Some(error) } => {
                tracing::warn!(run = %self.run_id(), step, error = %error.report(), "undo failed");
            }
            Event::StepStarted { step } => {
                tracing::info!(run = %self.run_id(), step, "step started");
            }
            Event::StepFinished { step, elapsed, recovered } => {
                let seconds = elapsed.as_secs_f64();
                tracing::info!(run = %self.run_id(), step, seconds, recovered, "step finished");
            }
            Event::UndoStarted { step } => {
                tracing::info!(run = %self.run_id(), step, "undo started");
            }
            other => tracing::debug!(run = %self.run_id(), event = ?other),
        }
        self.context.observer.observe(event);
    }

    fn observe_finished(&self, step: &str, elapsed: Duration, recovered: bool) {
        self.tell(&Event::StepFinished { step, elapsed, recovered });
    }

    /// Marks the commit point: a failure after it never undoes what is done.
    ///
    /// # Errors
    /// Those of the journal; [`ErrorKind::Cancelled`] if the cancellation came in time.
    pub async fn commit(&mut self) -> Result<()> {
        if self.state.is_committed() {
            return Ok(());
        }
        if self.goes_back() {
            return Err(self.interrupted());
        }
        self.cx("commit").check()?;
        self.record(Entry::Committed).await?;
        self.tell(&Event::Committed);
        Ok(())
    }

    /// Ends the run: with its result, or, if there is none, by undoing all steps in reverse
    /// order, unless the commit point has been passed.
    ///
    /// # Errors
    /// The error that `result` holds, once everything is undone; [`ErrorKind::Stuck`], with
    /// the exact leftovers, if something could not be. So it is, too, if the journal cannot be
    /// written: what it does not know must not be undone, or a run that is resumed would go on
    /// without it.
    pub async fn finish<T: Serialize>(mut self, result: Result<T>) -> Result<T> {
        match result {
            Ok(value) => {
                if self.state.outcome().is_none() {
                    let result = serde_json::to_value(&value).map_err(|e| {
                        Error::new(ErrorKind::Internal, "the result is not JSON").with_source(e)
                    })?;
                    self.record(Entry::RunFinished { result }).await?;
                }
                Ok(value)
            }
            Err(error) if self.refused => Err(error),
            Err(error) if self.state.is_committed() => {
                let left = error.leftovers().to_vec();
                Err(Error::new(
                    ErrorKind::Stuck,
                    format!(
                        "run {} is done and published, but not tidied up ({}); resume it to try again, or remove by hand what is named here",
                        self.run_id(),
                        error.reason()
                    ),
                )
                .with_leftovers(left))
            }
            Err(error) => Err(self.unwind(error).await),
        }
    }

    /// Why a run that an earlier process had begun to undo does not go forward.
    fn interrupted(&self) -> Error {
        let why = match self.state.failure() {
            Some((step, error)) => format!("step {step} failed: {error}"),
            None if self.abandoned => "it was given up".to_owned(),
            None => "it was cancelled or had failed before".to_owned(),
        };
        Error::new(ErrorKind::Undone, format!("run {} was undone: {why}", self.run_id()))
    }
}

/// What became of a step.
enum Settled {
    /// It is over, with this output or without an effect.
    Over(Option<Value>),
    /// It does not end.
    UnderWay(Error),
}

impl Settled {
    fn over(self) -> Result<Option<Value>> {
        match self {
            Self::Over(output) => Ok(output),
            Self::UnderWay(e) => Err(e),
        }
    }
}

/// Asks a step what became of it until it is over.
async fn settle(step: &dyn ErasedStep, cx: &StepCx) -> Result<Settled> {
    for i in 0..PROBES {
        match step.probe(cx).await? {
            Probe::Absent => return Ok(Settled::Over(None)),
            Probe::Done(output) => return Ok(Settled::Over(Some(output))),
            Probe::Pending => cx.sleep(PAUSES[i.min(PAUSES.len() - 1)]).await?,
        }
    }
    Ok(Settled::UnderWay(Error::new(
        ErrorKind::Source,
        format!("step {} is still under way from an earlier attempt: try again later", cx.key()),
    )))
}

fn undone(run_id: RunId, why: &str) -> Error {
    Error::new(
        ErrorKind::Undone,
        format!("run {run_id} was undone ({why}): begin a new one with another journal"),
    )
}

/// Whether two specs say the same of everything that both speak of.
fn agree(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(key, value)| other.get(key).is_none_or(|there| agree(value, there)))
        }
        _ => one == other,
    }
}

fn same_spec(run_id: RunId, held: &Value, wanted: &Value) -> Result<()> {
    if held == wanted {
        return Ok(());
    }
    let differs = held
        .as_object()
        .into_iter()
        .flatten()
        .find(|(k, v)| wanted.get(k.as_str()) != Some(v))
        .map_or_else(String::new, |(k, v)| format!(" ({k} is {v} there)"));
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "the journal holds run {run_id}, which does something else{differs}: resume it with the same arguments, or name another journal"
        ),
    ))
}
