//! Disk images of virtual machines: VHD chains, QCOW2, raw; conversion with the exact length
//! known before byte one.
//!
//! (The crate documentation grows with the crate.)

mod compare;
mod content_root;
mod error;
mod exec;
mod finding;
mod io;
mod map;
mod plan;
mod source;
mod target;
pub mod vhd;

pub use compare::{Comparison, compare, guest_sha256};
pub use content_root::content_root;
pub use error::{Error, ErrorKind, Result};
pub use exec::{
    DigestSet, Digests, FileOptions, Outcome, StreamOptions, stream, stream_to_file, to_file,
};
pub use finding::{Finding, Findings, Policy, Report, Severity, Verdict};
pub use io::ReadAt;
pub use map::{BlockMap, GRANULE};
pub use plan::{Plan, PlanOptions, Segment, Segments};
pub use source::{Disk, DiskSource, Extent, ExtentKind, Source};
pub use target::TargetFormat;
