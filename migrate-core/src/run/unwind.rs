//! The way back: undoing what a run has done.

use std::time::Duration;

use serde_json::Value;

use super::erased::ErasedStep;
use super::{PAUSES, Run, Settled};
use crate::journal::{Entry, StepStatus};
use crate::observer::Event;
use crate::{Error, ErrorKind, Leftover, Result, StepCx};

/// How often an undo is tried.
const UNDO_TRIES: usize = 4;
/// How often, if the failure may pass, like that of a connection, and for how long in all.
const LOST_TRIES: usize = 9;
const LOST_FOR: Duration = Duration::from_secs(60);
/// Between the later ones of these tries.
const LONG_PAUSE: Duration = Duration::from_secs(25);

impl Run {
    /// Undoes every step that may have had an effect, the last one first, however many of them
    /// fail; returns the error for the caller.
    pub(super) async fn unwind(&mut self, error: Error) -> Error {
        let mut stuck: Vec<Leftover> = Vec::new();
        let mut reason = None;
        let mut removed = Vec::new();
        // What is lost is lost to all steps: they share the patience.
        let begun = self.context.clock.now();
        for at in (0..self.state.steps().len()).rev() {
            let known = self.state.steps()[at].clone();
            if known.status == StepStatus::Undone {
                continue;
            }
            if let Err(e) = self.record_undo(&known.key).await {
                return self.not_undone(&error, &e);
            }
            let step = self.stack.iter().position(|s| s.key() == known.key);
            let step = step.map(|i| self.stack.swap_remove(i));
            removed.extend(step.as_ref().and_then(|s| s.makes()));
            self.tell(&Event::UndoStarted { step: &known.key });
            let undone = match step {
                Some(step) => self.undo(step.as_ref(), &known.key, known.output, begun).await,
                None => Err(Error::new(
                    ErrorKind::Conflict,
                    format!("step {} is unknown to this program", known.key),
                )
                .with_leftovers([self.untold(&known.key)])),
            };
            self.tell(&Event::UndoFinished { step: &known.key, error: undone.as_ref().err() });
            let entry = match &undone {
                Ok(()) => Entry::Undone { step: known.key.clone() },
                Err(e) => Entry::Stuck {
                    step: known.key.clone(),
                    error: e.report(),
                    leftovers: e.leftovers().to_vec(),
                },
            };
            let _ = self.record(entry).await;
            if let Err(e) = undone {
                stuck.extend(e.leftovers().iter().cloned());
                reason.get_or_insert_with(|| format!("undo of {}: {}", known.key, e.reason()));
            }
        }
        match reason {
            None => {
                let _ = self.record(Entry::RunUndone { error: error.report() }).await;
                match removed.is_empty() {
                    false if error.is_cancelled() => Error::new(
                        ErrorKind::Cancelled,
                        format!(
                            "cancelled: {} of run {} {} removed",
                            all_of(&removed),
                            self.run_id(),
                            if removed.len() == 1 { "was" } else { "were" }
                        ),
                    ),
                    _ => error,
                }
            }
            Some(reason) => Error::new(
                ErrorKind::Stuck,
                format!(
                    "run {} failed ({}) and could not be undone completely ({reason}); resume it to try again, or remove by hand what is named here",
                    self.run_id(),
                    error.reason()
                ),
            )
            .with_leftovers(dedup(stuck)),
        }
    }

    /// Writes down that `key` is about to be undone.
    ///
    /// The first such entry must get there. Without it the next process would go on from steps
    /// whose effects are gone, and might end with a success that is none. Once the journal says
    /// that the run goes back, it may be silent about the rest: all of it can be undone twice.
    async fn record_undo(&mut self, key: &str) -> Result<()> {
        let cx = StepCx::new(&self.context, key).uncancellable();
        let mut tries = 0;
        loop {
            let entry = Entry::UndoStarted { step: key.to_owned() };
            match self.record(entry).await {
                Err(e) if !self.state.is_unwinding() => {
                    tries += 1;
                    if tries >= UNDO_TRIES {
                        return Err(e);
                    }
                    cx.sleep(PAUSES[tries]).await?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// The error of a run that failed and stays as it is, because `silent` is the journal's word.
    fn not_undone(&self, error: &Error, silent: &Error) -> Error {
        let left = self.state.steps().iter().filter_map(|known| {
            let step = self.stack.iter().find(|s| s.key() == known.key);
            // A step that this program does not know may have made anything.
            step.is_none_or(|s| s.makes().is_some()).then(|| self.untold(&known.key))
        });
        let why = silent.reason();
        let failed = match error.reason() {
            same if same == why => String::new(),
            other => format!(" ({other})"),
        };
        Error::new(
            ErrorKind::Stuck,
            format!(
                "run {} failed{failed} and was not undone, because that cannot be written down ({why}): mend that, then resume or undo the run",
                self.run_id(),
            ),
        )
        .with_leftovers(left)
    }

    /// Undoes one step; tries again if that fails. `begun` is when the first step's undo began.
    async fn undo(
        &self,
        step: &dyn ErasedStep,
        key: &str,
        output: Option<Value>,
        begun: Duration,
    ) -> Result<()> {
        let cx = StepCx::new(&self.context, key).uncancellable();
        let mut tries = 0;
        loop {
            // Without an output the effect may still be on its way.
            let known = match &output {
                Some(output) => Ok(Settled::Over(Some(output.clone()))),
                None => step.settle(&cx).await,
            };
            let (result, patience) = match known {
                Ok(Settled::Over(output)) => (step.undo(&cx, output).await, UNDO_TRIES),
                // It has been waited for.
                Ok(Settled::UnderWay(e)) => (Err(e), 0),
                Err(e) => (Err(e), UNDO_TRIES),
            };
            let Err(e) = result else { return Ok(()) };
            tries += 1;
            // Also what looks final is tried again: what is left here is left for good.
            let lost = self.context.clock.now().saturating_sub(begun) < LOST_FOR;
            let patience = match e.is_retryable() && lost {
                true => patience.max(LOST_TRIES),
                false => patience,
            };
            if tries >= patience {
                return Err(if e.leftovers().is_empty() {
                    e.with_leftovers([self.untold(key)])
                } else {
                    e
                });
            }
            let pause = PAUSES.get(tries).copied().unwrap_or(LONG_PAUSE);
            cx.sleep(pause).await?;
        }
    }

    /// What may be left of a step that could not tell.
    fn untold(&self, key: &str) -> Leftover {
        Leftover::new(format!("whatever step {key} made, marked"), self.run_id().object_name())
    }
}

/// `the snapshot and 2 images` of what was removed, the last one first.
fn all_of(removed: &[&'static str]) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for kind in removed.iter().rev() {
        match kinds.iter_mut().find(|(k, _)| k == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let named = kinds.into_iter().map(|(kind, count)| match count {
        1 => format!("the {kind}"),
        _ => format!("{count} {kind}s"),
    });
    named.collect::<Vec<_>>().join(" and ")
}

fn dedup(leftovers: Vec<Leftover>) -> Vec<Leftover> {
    let mut unique: Vec<Leftover> = Vec::new();
    for l in leftovers {
        if !unique.contains(&l) {
            unique.push(l);
        }
    }
    unique
}
