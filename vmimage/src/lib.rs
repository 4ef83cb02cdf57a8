//! Disk images of virtual machines: VHD chains, XVA, QCOW2, raw; conversion with the exact length
//! known before byte one.
//!
//! - **Read**: VHD (fixed, dynamic, and chains of differencing disks, collapsed sector by sector),
//!   XVA with every checksum verified, QCOW2, raw, `0.vhd` in a tar; the streams that XenServer
//!   exports; gzip and Zstandard around archives and VHDs.
//! - **Write**: raw, VHD as XenServer's own tools write it (differencing, too), fixed VHD, QCOW2,
//!   XVA, and `0.vhd` or a chain of them in a gzipped tar; to a file, or in order to a stream.
//! - **Know**: the length of the output before its first byte, its digests and the
//!   [content root](content_root()) of the disk from the same pass.
//! - **Doubt**: images come from strangers. Arithmetic is checked, memory is bounded by what is
//!   asked for and not by what an image claims, files that an image names are followed only by
//!   the rules of [`open()`].
//!
//! There is no async runtime, no HTTP and no C code in here, and no `unsafe`.
//!
//! # Example
//!
//! A disk becomes a QCOW2 image, in one pass, with what a cloud wants to know about it:
//!
//! ```
//! use vmimage::{DiskSource, OpenOptions, Plan, PlanOptions, Source, StreamOptions, TargetFormat};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("web01.raw");
//! # std::fs::write(&path, vec![0x5a; 3 << 20])?;
//! # let mut upload: Vec<u8> = Vec::new();
//! let image = vmimage::open(&path, &OpenOptions::new())?;
//! let mut source = DiskSource::new(image.disks()[0].clone())?;
//!
//! let plan = Plan::new(TargetFormat::Qcow2, source.block_map(), &PlanOptions::new())?;
//! println!("Content-Length: {}", plan.output_len().unwrap_or_default());
//!
//! let outcome = vmimage::stream(
//!     &plan,
//!     &mut source,
//!     &mut |bytes| {
//!         upload.extend_from_slice(&bytes);
//!         Ok(())
//!     },
//!     &StreamOptions::new(),
//! )?;
//! assert_eq!(Some(outcome.bytes), plan.output_len());
//! println!("sha512 {}", outcome.digests.sha512.unwrap_or_default());
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//!
//! | what | with |
//! |---|---|
//! | open a file by its content, with its parents | [`open()`], [`OpenOptions`], [`info()`] |
//! | open a stream by what it begins with | [`incoming()`]: a [`Source`] with its map, or a [`Scan`] without |
//! | read a disk anywhere, or once and forwards | [`Disk`], [`Source`], [`DiskSource`], [`vhd::VhdStream`] |
//! | several disks, or the layers of a chain | [`JoinedDisk`], [`Image::layers`], [`Plan::of_disks`] |
//! | lay out an output | [`Plan`], [`TargetFormat`], [`BlockMap`] |
//! | write it | [`stream()`], [`reader()`] for a client that pulls, [`to_file`], [`stream_to_file`], [`scan_to_file`] |
//! | look at the content | [`content_root()`], [`guest_sha256`], [`compare()`] |
//! | watch and stop what takes long | [`Watch`] |
//! | look for damage, and mend it | [`check()`], [`plan_repair`], [`repair()`], [`undo_repair`] |
//! | merge a differencing disk into its parent | [`commit()`] |
//!
//! Parse a chain that is not in files (an SR, an HTTP range client) by implementing [`ReadAt`]
//! and handing it to [`vhd::VhdDisk`].
//!
//! # Recipes
//!
//! The second disk of an exported VM becomes a VHD, whatever the archive is compressed with:
//!
//! ```no_run
//! use vmimage::{DiskSource, FileOptions, OpenOptions, Plan, PlanOptions, Source, TargetFormat};
//!
//! # fn main() -> vmimage::Result<()> {
//! let image = vmimage::open("web01.xva.zst", &OpenOptions::new())?;
//! let source = DiskSource::for_format(image.disks()[1].clone(), TargetFormat::VhdDynamic)?;
//! let plan = Plan::new(TargetFormat::VhdDynamic, source.block_map(), &PlanOptions::new())?;
//! vmimage::to_file(&plan, source.disk(), "disk2.vhd".as_ref(), &FileOptions::new())?;
//! # Ok(())
//! # }
//! ```
//!
//! What arrives on standard input becomes a file; formats that begin with tables are written as
//! well, because a file can be written out of order:
//!
//! ```no_run
//! use vmimage::{FileOptions, Incoming, OpenOptions, Plan, PlanOptions, TargetFormat};
//!
//! # fn main() -> vmimage::Result<()> {
//! let (format, path) = (TargetFormat::Qcow2, "disk.qcow2".as_ref());
//! let options = FileOptions::new();
//! match vmimage::incoming(std::io::stdin(), &OpenOptions::new(), None)? {
//!     Incoming::Source(mut source) => {
//!         let plan = Plan::new(format, source.block_map(), &PlanOptions::new())?;
//!         vmimage::stream_to_file(&plan, source.as_mut(), path, &options)?;
//!     }
//!     Incoming::Scan(mut scan) => {
//!         vmimage::scan_to_file(scan.as_mut(), format, path, &PlanOptions::new(), &options)?;
//!     }
//!     _ => unreachable!("there are two kinds of streams"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What a disk has that its base has not becomes a differencing VHD:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use vmimage::{DiskSource, FileOptions, OpenOptions, Plan, PlanOptions, Source, TargetFormat, VhdParent};
//! # let folder = tempfile::tempdir()?;
//! # let path = |name: &str| folder.path().join(name);
//! # std::fs::write(path("old.raw"), vec![1; 4 << 20])?;
//! # let mut new = vec![1; 4 << 20];
//! # new[3 << 20..].fill(2);
//! # std::fs::write(path("new.raw"), new)?;
//! # let open = |name: &str| -> vmimage::Result<_> {
//! #     Ok(vmimage::open(path(name), &OpenOptions::new())?.disks()[0].clone())
//! # };
//! # let vhd = TargetFormat::VhdDynamic;
//! # let base = DiskSource::new(open("old.raw")?)?;
//! let uuid = *b"an identity, ok?";
//! let plan = Plan::new(vhd, base.block_map(), &PlanOptions::new().with_uuid(uuid))?;
//! vmimage::to_file(&plan, base.disk(), &path("base.vhd"), &FileOptions::new())?;
//!
//! let delta = DiskSource::difference(open("new.raw")?, base.disk().as_ref())?;
//! let options = PlanOptions::new().with_parent(VhdParent::new(uuid, "base.vhd"));
//! let plan = Plan::new(vhd, delta.block_map(), &options)?;
//! vmimage::to_file(&plan, delta.disk(), &path("child.vhd"), &FileOptions::new())?;
//!
//! let chain = vmimage::open(path("child.vhd"), &OpenOptions::new())?;
//! assert_eq!(chain.parents().len(), 1);
//! # let same = vmimage::compare(chain.disks()[0].as_ref(), open("new.raw")?.as_ref())?;
//! # assert_eq!(same, vmimage::Comparison::Same);
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! All functions fail with one [`Error`]: match on its [`kind()`](Error::kind), print it for
//! people. [`ErrorKind::Truncated`] and [`ErrorKind::Io`] may go away when the transfer is tried
//! again; the others will not.
//!
//! # Features and versions
//!
//! No optional features. Rust 1.89 or newer; Unix only.

mod archive;
mod archived;
#[cfg(test)]
#[path = "../tests/read/builder.rs"]
#[allow(dead_code)]
mod builder;
mod check;
mod commit;
mod compare;
mod content_root;
mod error;
mod exec;
mod finding;
mod image;
mod incoming;
mod io;
mod joined;
mod map;
mod open;
mod options;
mod plan;
pub mod qcow2;
mod raw;
mod repair;
mod replay;
mod scan;
mod source;
mod store;
mod target;
pub mod tgz;
pub mod vhd;
mod watch;
pub mod xva;

pub use check::check;
pub use commit::{CommitOptions, CommitReport, commit};
pub use compare::{Comparison, compare, compare_watched, guest_sha256, guest_sha256_watched};
pub use content_root::{content_root, content_root_watched};
pub use error::{Error, ErrorKind, Result};
pub use exec::{
    DigestSet, Digests, FileOptions, Outcome, OutputReader, StreamOptions, reader, scan_to_file,
    stream, stream_to_file, to_file,
};
pub use finding::{Finding, Findings, Policy, Report, Severity, Verdict};
pub use image::{DiskInfo, Image, ImageInfo, ParentInfo, Subformat};
pub use incoming::{Incoming, incoming};
pub use io::ReadAt;
pub use joined::JoinedDisk;
pub use map::{BlockMap, GRANULE};
pub use open::{info, open, probe};
pub use options::{Format, OpenOptions, SizePolicy};
pub use plan::{Plan, PlanOptions, Segment, Segments};
pub use raw::{MAX_DISK, RawDisk};
pub use repair::{RepairAction, RepairOptions, RepairReport, plan_repair, repair, undo_repair};
pub use scan::{Scan, ScanSource, scan_map};
pub use source::{Disk, DiskSource, Extent, ExtentKind, Source};
pub use target::{TargetFormat, VhdParent, XvaChecksum, XvaChunk};
pub use watch::Watch;
