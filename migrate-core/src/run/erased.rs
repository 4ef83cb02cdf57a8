//! Steps of any output behind one trait, for the way back.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::{Error, ErrorKind, Probe, Result, Step, StepCx};

#[async_trait]
pub(super) trait ErasedStep: Send + Sync {
    fn key(&self) -> String;
    fn makes(&self) -> Option<&'static str>;
    async fn probe(&self, cx: &StepCx) -> Result<Probe<Value>>;
    async fn undo(&self, cx: &StepCx, output: Option<Value>) -> Result<()>;

    /// Asks until the step is over; see [`super::settle`].
    async fn settle(&self, cx: &StepCx) -> Result<super::Settled>;
}

pub(super) struct Erased<S>(S);

impl<S: Step> Erased<S> {
    pub(super) fn new(step: S) -> Arc<Self> {
        Arc::new(Self(step))
    }

    pub(super) fn inner(&self) -> &S {
        &self.0
    }

    pub(super) fn parse(&self, output: Value) -> Result<S::Output> {
        serde_json::from_value(output).map_err(|e| {
            Error::new(
                ErrorKind::Conflict,
                format!("the output of step {} in the journal has another shape", self.0.key()),
            )
            .with_source(e)
        })
    }
}

#[async_trait]
impl<S: Step> ErasedStep for Erased<S> {
    fn key(&self) -> String {
        self.0.key()
    }

    fn makes(&self) -> Option<&'static str> {
        S::MAKES
    }

    async fn probe(&self, cx: &StepCx) -> Result<Probe<Value>> {
        Ok(match self.0.probe(cx).await? {
            Probe::Absent => Probe::Absent,
            Probe::Pending => Probe::Pending,
            Probe::Done(output) => Probe::Done(serde_json::to_value(output).map_err(|e| {
                Error::new(ErrorKind::Internal, "a step's output is not JSON").with_source(e)
            })?),
        })
    }

    async fn undo(&self, cx: &StepCx, output: Option<Value>) -> Result<()> {
        // An output that this code cannot read is as good as none: the run id tells the rest.
        let output = output.and_then(|o| self.parse(o).ok());
        self.0.undo(cx, output).await
    }

    async fn settle(&self, cx: &StepCx) -> Result<super::Settled> {
        super::settle(self, cx).await
    }
}
