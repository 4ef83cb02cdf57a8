//! The pipeline that clones a running XenServer VM into a cloud image: durable steps with undo, as traits.
//!
//! (The crate documentation grows with the crate.)

mod context;
mod error;
pub mod journal;
mod observer;
mod run;
mod step;

pub use context::{CancelToken, Clock, Context, RunId, StepCx, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use observer::{Event, Observer};
pub use run::Run;
pub use step::{Leftover, Probe, Step};
