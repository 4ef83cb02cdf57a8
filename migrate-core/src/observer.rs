//! Watching a run: what a progress bar, a log or a metric needs.

use std::time::Duration;

/// Something that happened in a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step begins to act.
    #[non_exhaustive]
    StepStarted {
        /// The step's key, like `transfer/0`.
        step: &'a str,
    },
    /// A step got further.
    #[non_exhaustive]
    Progress {
        /// The step's key.
        step: &'a str,
        /// Units done, in bytes for a transfer; never less than before, but for a step that is tried
        /// again or reads its disk a second time, which begins at 0.
        done: u64,
        /// All units, if known.
        total: Option<u64>,
    },
    /// A step has its output.
    #[non_exhaustive]
    StepFinished {
        /// The step's key.
        step: &'a str,
        /// How long it took.
        elapsed: Duration,
        /// Whether an earlier process did it: its output came from the journal or a probe.
        recovered: bool,
    },
    /// A step failed.
    #[non_exhaustive]
    StepFailed {
        /// The step's key.
        step: &'a str,
        /// Why.
        error: &'a crate::Error,
    },
    /// A step's effects are being removed.
    #[non_exhaustive]
    UndoStarted {
        /// The step's key.
        step: &'a str,
    },
    /// A step's effects are gone, or could not be removed.
    #[non_exhaustive]
    UndoFinished {
        /// The step's key.
        step: &'a str,
        /// Why they could not be removed.
        error: Option<&'a crate::Error>,
    },
    /// The run passed its commit point: from here on it goes only forward.
    Committed,
}

/// Is told what happens in a run. It must return quickly, and may be called from any thread.
///
/// Every `Fn(&Event)` is one, and `()` is the one that does not look.
pub trait Observer: Send + Sync {
    /// Is told of `event`.
    fn observe(&self, event: &Event<'_>);
}

impl Observer for () {
    fn observe(&self, _: &Event<'_>) {}
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}
