//! Disk images of virtual machines: VHD chains, QCOW2, raw; conversion with the exact length
//! known before byte one.
//!
//! (The crate documentation grows with the crate.)

mod error;
mod finding;
mod io;
mod map;
mod source;
pub mod vhd;

pub use error::{Error, ErrorKind, Result};
pub use finding::{Finding, Findings, Policy, Report, Severity, Verdict};
pub use io::ReadAt;
pub use map::{BlockMap, GRANULE};
pub use source::{Disk, DiskSource, Extent, ExtentKind, Source};
