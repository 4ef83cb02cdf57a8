//! Disk images of virtual machines: VHD chains, QCOW2, raw; conversion with the exact length
//! known before byte one.
//!
//! (The crate documentation grows with the crate.)

mod check;
mod compare;
mod content_root;
mod error;
mod exec;
mod finding;
mod image;
mod io;
mod map;
mod open;
mod options;
mod plan;
pub mod qcow2;
mod raw;
mod source;
mod target;
pub mod vhd;

pub use check::check;
pub use compare::{Comparison, compare, guest_sha256};
pub use content_root::content_root;
pub use error::{Error, ErrorKind, Result};
pub use exec::{
    DigestSet, Digests, FileOptions, Outcome, StreamOptions, stream, stream_to_file, to_file,
};
pub use finding::{Finding, Findings, Policy, Report, Severity, Verdict};
pub use image::{DiskInfo, Image, ImageInfo, ParentInfo, Subformat};
pub use io::ReadAt;
pub use map::{BlockMap, GRANULE};
pub use open::{info, open, probe};
pub use options::{Format, OpenOptions, SizePolicy};
pub use plan::{Plan, PlanOptions, Segment, Segments};
pub use raw::{MAX_DISK, RawDisk};
pub use source::{Disk, DiskSource, Extent, ExtentKind, Source};
pub use target::TargetFormat;
