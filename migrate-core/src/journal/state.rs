//! What the entries of a journal add up to.

use serde_json::Value;

use super::{Entry, FORMAT};
use crate::{Error, ErrorKind, Leftover, Result, RunId};

/// The state of a run, as its journal tells it.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RunState {
    run: Option<(RunId, Value)>,
    steps: Vec<StepState>,
    committed: bool,
    outcome: Option<Outcome>,
}

/// The state of one step.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepState {
    /// The step's key.
    pub key: String,
    /// The version of the code that started it.
    pub version: u32,
    /// How far it is.
    pub status: StepStatus,
    /// What it put out, if it ever did.
    pub output: Option<Value>,
    /// How long it took, in seconds; 0 until it is done.
    pub seconds: f64,
}

/// How far a step is. A step that the journal does not know has not been started.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StepStatus {
    /// It may have acted.
    Started,
    /// It has acted.
    Done,
    /// It failed, and may have acted in part.
    Failed(String),
    /// Its effects may be partly removed.
    Undoing,
    /// Its effects are gone.
    Undone,
    /// Its effects could not be removed.
    Stuck(String, Vec<Leftover>),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// With this result.
    Finished(Value),
    /// With everything undone, for this reason.
    Undone(String),
}

impl RunState {
    /// Adds up `entries`.
    ///
    /// # Errors
    /// The entries are in an order that no run writes.
    pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Self> {
        entries.into_iter().try_fold(Self::default(), next_state)
    }

    /// Whether there is no run yet.
    pub fn is_empty(&self) -> bool {
        self.run.is_none()
    }

    /// The run's id.
    pub fn run_id(&self) -> Option<RunId> {
        self.run.as_ref().map(|(id, _)| *id)
    }

    /// What the run is to do.
    pub fn spec(&self) -> Option<&Value> {
        self.run.as_ref().map(|(_, spec)| spec)
    }

    /// The steps that were started, in that order.
    pub fn steps(&self) -> &[StepState] {
        &self.steps
    }

    /// The step `key`, if it was started.
    pub fn step(&self, key: &str) -> Option<&StepState> {
        self.steps.iter().find(|s| s.key == key)
    }

    /// Whether the run passed its commit point.
    pub fn is_committed(&self) -> bool {
        self.committed
    }

    /// Whether the run is being undone: it may not go forward again.
    pub fn is_unwinding(&self) -> bool {
        self.steps.iter().any(|s| {
            matches!(s.status, StepStatus::Undoing | StepStatus::Undone | StepStatus::Stuck(..))
        }) || (!self.committed && self.failure().is_some())
    }

    /// Why a step failed, if one did.
    pub fn failure(&self) -> Option<(&str, &str)> {
        self.steps.iter().find_map(|s| match &s.status {
            StepStatus::Failed(error) => Some((s.key.as_str(), error.as_str())),
            _ => None,
        })
    }

    /// How the run ended, if it did.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// The index of a step that was started.
    fn index(&self, key: &str) -> Result<usize> {
        self.steps
            .iter()
            .position(|s| s.key == key)
            .ok_or_else(|| disorder(&format!("step {key} was never started")))
    }
}

fn disorder(what: &str) -> Error {
    Error::new(ErrorKind::Journal, format!("the journal is out of order: {what}"))
}

/// What `entry` makes of `state`.
///
/// # Errors
/// No run writes `entry` in this state: the journal is damaged, or the runner has a defect.
///
/// ```
/// use migrate_core::RunId;
/// use migrate_core::journal::{Entry, RunState, next_state};
/// // Nothing can be committed before a run has begun.
/// assert!(next_state(RunState::default(), &Entry::Committed).is_err());
/// ```
pub fn next_state(mut state: RunState, entry: &Entry) -> Result<RunState> {
    if let Entry::RunStarted { format, run_id, spec } = entry {
        if !state.is_empty() {
            return Err(disorder("a second run begins"));
        }
        if *format != FORMAT {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the journal has format {format}, this program reads {FORMAT}: use the program that wrote it"
                ),
            ));
        }
        state.run = Some((*run_id, spec.clone()));
        return Ok(state);
    }
    if state.is_empty() {
        return Err(disorder("it does not begin with a run"));
    }
    if state.outcome.is_some() {
        return Err(disorder("it goes on after the end of the run"));
    }
    match entry {
        Entry::StepStarted { step, version, .. } => step_started(&mut state, step, *version)?,
        Entry::StepDone { step, output, seconds } => {
            let at = started(&state, step)?;
            state.steps[at].status = StepStatus::Done;
            state.steps[at].output = Some(output.clone());
            state.steps[at].seconds = *seconds;
        }
        Entry::StepFailed { step, error } => {
            let at = started(&state, step)?;
            state.steps[at].status = StepStatus::Failed(error.clone());
        }
        Entry::UndoStarted { step } => undo_started(&mut state, step)?,
        Entry::Undone { step } => {
            let at = undoing(&state, step)?;
            state.steps[at].status = StepStatus::Undone;
        }
        Entry::Stuck { step, error, leftovers } => {
            let at = undoing(&state, step)?;
            state.steps[at].status = StepStatus::Stuck(error.clone(), leftovers.clone());
        }
        Entry::Committed => {
            if state.committed || state.steps.iter().any(|s| s.status != StepStatus::Done) {
                return Err(disorder("it is committed although not all steps are done"));
            }
            state.committed = true;
        }
        Entry::RunFinished { result } => {
            if !state.committed || state.steps.iter().any(|s| s.status != StepStatus::Done) {
                return Err(disorder("the run ends although not all steps are done"));
            }
            state.outcome = Some(Outcome::Finished(result.clone()));
        }
        Entry::RunUndone { error } => {
            if state.committed || state.steps.iter().any(|s| s.status != StepStatus::Undone) {
                return Err(disorder("the run ends although not all steps are undone"));
            }
            state.outcome = Some(Outcome::Undone(error.clone()));
        }
        Entry::RunStarted { .. } => return Err(disorder("a second run begins")),
    }
    Ok(state)
}

fn step_started(state: &mut RunState, key: &str, version: u32) -> Result<()> {
    if state.is_unwinding() {
        return Err(disorder(&format!("step {key} starts while the run is undone")));
    }
    if let Ok(at) = state.index(key) {
        // A crash came between the intent and the output, or a step failed after the commit
        // point: the same step acts again.
        let again = matches!(state.steps[at].status, StepStatus::Started | StepStatus::Failed(_));
        if !again || state.steps[at].version != version {
            return Err(disorder(&format!("step {key} starts twice")));
        }
        state.steps[at].status = StepStatus::Started;
        return Ok(());
    }
    if state.steps.iter().any(|s| s.status != StepStatus::Done) {
        return Err(disorder(&format!("step {key} starts before its predecessor is done")));
    }
    state.steps.push(StepState {
        key: key.to_owned(),
        version,
        status: StepStatus::Started,
        output: None,
        seconds: 0.0,
    });
    Ok(())
}

fn started(state: &RunState, key: &str) -> Result<usize> {
    let at = state.index(key)?;
    if state.steps[at].status == StepStatus::Started {
        Ok(at)
    } else {
        Err(disorder(&format!("step {key} ends although it is not under way")))
    }
}

fn undoing(state: &RunState, key: &str) -> Result<usize> {
    let at = state.index(key)?;
    if state.steps[at].status == StepStatus::Undoing {
        Ok(at)
    } else {
        Err(disorder(&format!("step {key} was undone although no undo began")))
    }
}

fn undo_started(state: &mut RunState, key: &str) -> Result<()> {
    if state.committed {
        return Err(disorder(&format!("step {key} is undone after the commit point")));
    }
    let at = state.index(key)?;
    if state.steps[at].status == StepStatus::Undone {
        return Err(disorder(&format!("step {key} is undone twice")));
    }
    let settled = |s: &StepState| matches!(s.status, StepStatus::Undone | StepStatus::Stuck(..));
    if !state.steps[at + 1..].iter().all(settled) {
        return Err(disorder(&format!("step {key} is undone before its successors")));
    }
    state.steps[at].status = StepStatus::Undoing;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let step = prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned);
        let start = (step.clone(), 1u32..3);
        prop_oneof![
            1 => Just(Entry::RunStarted { format: 1, run_id: RunId::from_uuid(uuid::Uuid::nil()), spec: json!({}) }),
            8 => start.prop_map(|(step, version)| Entry::StepStarted { step, version, token: "t".into() }),
            8 => step.clone().prop_map(|step| Entry::StepDone { step, output: json!(1), seconds: 0.5 }),
            2 => step.clone().prop_map(|step| Entry::StepFailed { step, error: "e".into() }),
            6 => step.clone().prop_map(|step| Entry::UndoStarted { step }),
            6 => step.clone().prop_map(|step| Entry::Undone { step }),
            1 => step.prop_map(|step| Entry::Stuck { step, error: "e".into(), leftovers: vec![] }),
            1 => Just(Entry::Committed),
            1 => Just(Entry::RunFinished { result: json!(2) }),
            1 => Just(Entry::RunUndone { error: "e".into() }),
        ]
    }

    proptest! {
        /// The rules, said once more over the whole list of accepted entries instead of over the
        /// state: an independent account of the same promise.
        #[test]
        fn accepted_histories_keep_the_promises(entries in prop::collection::vec(entry(), 0..200)) {
            let mut state = RunState::default();
            let begin = Entry::RunStarted { format: 1, run_id: RunId::from_uuid(uuid::Uuid::nil()), spec: json!({}) };
            let mut accepted: Vec<Entry> = Vec::new();
            for entry in std::iter::once(begin).chain(entries) {
                if let Ok(next) = next_state(state.clone(), &entry) {
                    state = next;
                    accepted.push(entry);
                }
            }
            let at = |f: &dyn Fn(&Entry) -> bool| accepted.iter().position(f);
            let last = |f: &dyn Fn(&Entry) -> bool| accepted.iter().rposition(f);
            let undo = |e: &Entry| matches!(e, Entry::UndoStarted { .. });
            let start = |e: &Entry| matches!(e, Entry::StepStarted { .. });
            // Never forwards after the first undo, never an undo once committed.
            if let (Some(first_undo), Some(last_start)) = (at(&undo), last(&start)) {
                prop_assert!(last_start < first_undo);
            }
            if at(&|e| *e == Entry::Committed).is_some() {
                prop_assert!(at(&undo).is_none());
            }
            // The end is the end.
            let over = |e: &Entry| matches!(e, Entry::RunFinished { .. } | Entry::RunUndone { .. });
            if let Some(end) = at(&over) {
                prop_assert_eq!(end, accepted.len() - 1);
            }
            // Whatever started is done when the run finishes, gone when it is undone.
            for step in ["a", "b", "c"] {
                let of = |e: &Entry| match e {
                    Entry::StepStarted { step: s, .. } | Entry::StepDone { step: s, .. }
                    | Entry::StepFailed { step: s, .. } | Entry::UndoStarted { step: s }
                    | Entry::Undone { step: s } | Entry::Stuck { step: s, .. } => s == step,
                    _ => false,
                };
                let Some(i) = last(&of) else { continue };
                match accepted.last() {
                    Some(Entry::RunFinished { .. }) => {
                        let done = matches!(accepted[i], Entry::StepDone { .. });
                        prop_assert!(done);
                    }
                    Some(Entry::RunUndone { .. }) => {
                        let gone = matches!(accepted[i], Entry::Undone { .. });
                        prop_assert!(gone);
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(RunState::fold(&accepted).unwrap(), state);
        }
    }

    #[test]
    fn another_format_is_refused() {
        let entry = Entry::RunStarted { format: 2, run_id: RunId::random(), spec: json!({}) };
        let e = next_state(RunState::default(), &entry).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Conflict);
    }
}
