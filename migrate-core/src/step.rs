//! The unit of durability: a step that acts, can be asked about, and can be undone.

use std::fmt;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Result, StepCx};

/// One step of a run.
///
/// The runner writes the intent to the journal *before* [`run`](Self::run) acts. Whatever `run`
/// creates remotely must carry the run id, in the name given at creation, so that after a crash
/// [`probe`](Self::probe) and [`undo`](Self::undo) find it without an output. All three must be
/// idempotent: a step may be run, probed and undone more than once.
#[async_trait]
pub trait Step: Send + Sync {
    /// The step's name: lower-case words with dashes.
    const NAME: &'static str;

    /// Raised whenever the output or the effect changes shape; a journal with another version is
    /// refused.
    const VERSION: u32;

    /// What its undo removes, like `snapshot`, for the message of a run that was cancelled; none
    /// if nothing of it stays.
    const MAKES: Option<&'static str> = None;

    /// What later steps and the undo need to know. It goes to the journal: never a secret.
    type Output: Serialize + DeserializeOwned + Send + Sync;

    /// The key in the journal, once in a run. Steps that occur once per disk add its index:
    /// `transfer/0`.
    fn key(&self) -> String {
        Self::NAME.to_owned()
    }

    /// Acts.
    ///
    /// # Errors
    /// Any; what was done by then is undone with `None`.
    async fn run(&self, cx: &StepCx) -> Result<Self::Output>;

    /// Asks the remote end whether an earlier [`run`](Self::run) had its effect.
    ///
    /// # Errors
    /// The remote end cannot be asked.
    async fn probe(&self, cx: &StepCx) -> Result<Probe<Self::Output>>;

    /// Removes the effect; what is already gone is fine. Without an output, the run id in `cx`
    /// tells what to look for.
    ///
    /// # Errors
    /// Something is left; [`Error::leftovers`](crate::Error::leftovers) says what, exactly.
    async fn undo(&self, cx: &StepCx, output: Option<Self::Output>) -> Result<()>;
}

/// What [`Step::probe`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe<T> {
    /// There is no effect, and nothing is under way that could still have one.
    Absent,
    /// Something is under way: ask again.
    Pending,
    /// The effect is there.
    Done(T),
}

/// A remote object that a run could not remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Leftover {
    /// What it is, in the words of its own system: `VM snapshot`, `VDI`, `image`.
    pub kind: String,
    /// Its exact id there.
    pub id: String,
    /// Its name there, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Leftover {
    /// An object of `kind` with the id `id`.
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into(), name: None }
    }

    /// Adds its name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)?;
        match &self.name {
            Some(name) => write!(f, " ({})", crate::error::one_line(name)),
            None => Ok(()),
        }
    }
}
