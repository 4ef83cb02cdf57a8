//! The journal: what a run intended and did, so that another process can go on or undo it.
//!
//! [`Journal`] is where entries go, [`FileJournal`] and [`MemoryJournal`] are two of them,
//! [`RunState`] is what the entries add up to: a pure fold by [`next_state`].

mod file;
mod memory;
mod state;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use file::FileJournal;
pub use memory::MemoryJournal;
pub use state::{Outcome, RunState, StepState, StepStatus, next_state};

use crate::{Leftover, Result, RunId};

/// The version of the journal's own format.
pub const FORMAT: u32 = 1;

/// Where a run keeps what it intended and did.
#[async_trait]
pub trait Journal: Send + Sync {
    /// All entries so far, the oldest first.
    ///
    /// # Errors
    /// The journal cannot be read, or is damaged somewhere else than at its very end.
    async fn load(&mut self) -> Result<Vec<Entry>>;

    /// Adds an entry; when this returns, the entry survives a crash.
    ///
    /// # Errors
    /// The entry may be lost.
    async fn append(&mut self, entry: &Entry) -> Result<()>;
}

#[async_trait]
impl<J: Journal + ?Sized> Journal for Box<J> {
    async fn load(&mut self) -> Result<Vec<Entry>> {
        (**self).load().await
    }

    async fn append(&mut self, entry: &Entry) -> Result<()> {
        (**self).append(entry).await
    }
}

/// One entry of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Entry {
    /// A run begins.
    RunStarted {
        /// The version of the journal's format.
        format: u32,
        /// The run's id.
        run_id: RunId,
        /// What the run is to do; a run is resumed only with the same. Never a secret.
        spec: Value,
    },
    /// A step is about to act.
    StepStarted {
        /// The step's key.
        step: String,
        /// The version of its code.
        version: u32,
        /// What it writes into the remote objects that it creates.
        token: String,
    },
    /// A step has acted.
    StepDone {
        /// The step's key.
        step: String,
        /// Its output.
        output: Value,
        /// How long it took.
        seconds: f64,
    },
    /// A step failed.
    StepFailed {
        /// The step's key.
        step: String,
        /// Why.
        error: String,
    },
    /// A step's effects are about to be removed.
    UndoStarted {
        /// The step's key.
        step: String,
    },
    /// A step's effects are gone.
    Undone {
        /// The step's key.
        step: String,
    },
    /// A step's effects could not be removed.
    Stuck {
        /// The step's key.
        step: String,
        /// Why.
        error: String,
        /// What is left.
        leftovers: Vec<Leftover>,
    },
    /// From here on the run goes only forward.
    Committed,
    /// The run is over, successfully.
    RunFinished {
        /// Its result.
        result: Value,
    },
    /// The run is over, and everything is undone.
    RunUndone {
        /// Why.
        error: String,
    },
}
