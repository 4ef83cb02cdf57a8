//! The pipeline that clones a running XenServer VM into a cloud image: durable steps with undo, as traits.
//!
//! (The crate documentation grows with the crate.)

mod artifact;
mod context;
mod error;
mod finding;
pub mod journal;
mod observer;
mod pipeline;
mod run;
mod step;
pub mod transfer;

pub use artifact::{Artifact, ArtifactFormat, DiskInfo, Firmware, Machine, Virtualization};
pub use context::{CancelToken, Clock, Context, RunId, StepCx, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use finding::{Finding, Severity};
pub use observer::{Event, Observer};
pub use pipeline::{
    Builder, ImageReport, MigrationPlan, Pipeline, PlannedImage, PostProcessor, Provisioner,
    Report, Review, StepTime, Survey, finished,
};
pub use run::Run;
pub use step::{Leftover, Probe, Step};
