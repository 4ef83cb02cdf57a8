//! The formats that can be written: each target is a layout of ordered segments.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::plan::{PlanOptions, Segment};
use crate::vhd::DynamicHeader;
use crate::{BlockMap, Error, ErrorKind, GRANULE, Result};

mod qcow2;
mod raw;
mod tgz;
mod vhd_dynamic;
mod vhd_fixed;
mod vhd_meta;
mod vhd_parent;
mod xva;

pub use vhd_parent::VhdParent;
pub use xva::{XvaChecksum, XvaChunk};

/// A format that [`Plan`](crate::Plan) can lay out.
///
/// ```
/// use vmimage::TargetFormat;
/// assert_eq!("vhd".parse::<TargetFormat>()?, TargetFormat::VhdDynamic);
/// assert_eq!(TargetFormat::VhdTgz.to_string(), "vhd-tgz");
/// # Ok::<(), vmimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetFormat {
    /// `raw`: the guest-visible bytes, of the exact size. Zeros become holes in a file.
    Raw,
    /// `vhd`: dynamic VHD in the dialect of XenServer's own tools (creator `tap`, with a batmap
    /// and page-aligned data). The size is rounded up to 2 MiB; at most 2040 GiB.
    VhdDynamic,
    /// `vhd-fixed`: the raw bytes and a footer, as Azure and Hyper-V take it. The size is
    /// rounded up to 1 MiB; at most 2040 GiB.
    VhdFixed,
    /// `qcow2`: version 3 with 64 KiB clusters, no backing file. The size is exact (rounded up
    /// to 512 where the disk is not a whole number of sectors, which QEMU cannot represent).
    Qcow2,
    /// `vhd-tgz` (or `tgz`): `0.vhd` in a gzipped tar archive, the form that the XenServer
    /// drivers of OpenStack took.
    VhdTgz,
    /// `xva`: an archive that XenServer imports as a halted VM, with checksums. The size is
    /// rounded up to 1 MiB; chunks of zeros are left out.
    Xva,
}

impl TargetFormat {
    /// All formats, in the order of this documentation.
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::VhdDynamic, Self::VhdFixed, Self::Qcow2, Self::VhdTgz, Self::Xva];

    /// The unit in which stored zeros can be left out, in bytes; 0 where all are stored.
    pub(crate) fn grain(self) -> u64 {
        match self {
            Self::Raw | Self::VhdFixed => 0,
            Self::VhdDynamic | Self::VhdTgz => u64::from(DynamicHeader::DEFAULT_BLOCK_SIZE),
            Self::Qcow2 => GRANULE,
            Self::Xva => 1 << 20,
        }
    }

    /// The name that [`FromStr`] reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::VhdDynamic => "vhd",
            Self::VhdFixed => "vhd-fixed",
            Self::Qcow2 => "qcow2",
            Self::VhdTgz => "vhd-tgz",
            Self::Xva => "xva",
        }
    }
}

impl fmt::Display for TargetFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TargetFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "raw" => Self::Raw,
            "vhd" => Self::VhdDynamic,
            "vhd-fixed" => Self::VhdFixed,
            "qcow2" => Self::Qcow2,
            "vhd-tgz" | "tgz" => Self::VhdTgz,
            "xva" => Self::Xva,
            _ => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!(
                        "{:?} is not a target format: use raw, vhd, vhd-fixed, qcow2, xva or vhd-tgz",
                        name.chars().take(40).collect::<String>()
                    ),
                ));
            }
        })
    }
}

/// The segments of a layout, made while they are consumed.
pub(crate) type SegmentIter<'a> = Box<dyn Iterator<Item = Segment> + Send + 'a>;

/// How one format arranges its bytes. The segments add up to `output_len` exactly.
pub(crate) trait Layout: Send + Sync + fmt::Debug {
    /// The size of the disk that the image will show, in bytes.
    fn virtual_size(&self) -> u64;

    /// The length of all segments, in bytes.
    fn output_len(&self) -> u64;

    /// All segments in the order of the output.
    fn segments<'a>(&'a self, map: &'a BlockMap) -> SegmentIter<'a>;

    /// Where data goes before the map is known, if the format lets that be told.
    fn growth(&self) -> Option<Growth> {
        None
    }
}

/// How a file of a format grows with the data: the `n`th unit that is allocated, in guest order,
/// lies at `first + n * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    /// The unit of allocation in bytes; 0 if all data lies where it is in the disk.
    pub(crate) unit: u64,
    pub(crate) first: u64,
    pub(crate) stride: u64,
}

impl Growth {
    const IN_PLACE: Self = Self { unit: 0, first: 0, stride: 0 };
}

/// One disk of a plan: where it lies in the plan's map, and a map of its own.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) base: u64,
    pub(crate) map: BlockMap,
}

impl Part {
    fn of(map: &BlockMap, range: &Range<u64>) -> Self {
        if *range == (0..map.virtual_size()) {
            return Self { base: 0, map: map.clone() };
        }
        let mut own = BlockMap::empty(range.end - range.start);
        let mut at = range.start;
        while let Some(run) = map.first_run(at..range.end) {
            own.insert(run.start - range.start..run.end - range.start);
            at = run.end;
        }
        Self { base: range.start, map: own }
    }

    /// A segment of this disk's layout as one of the plan.
    fn shift(&self, segment: Segment) -> Segment {
        match segment {
            Segment::Guest { offset, len } => Segment::Guest { offset: offset + self.base, len },
            other => other,
        }
    }
}

/// The layout of the disks of `map` that lie at `parts`, in `format`.
pub(crate) fn layout(
    format: TargetFormat,
    map: &BlockMap,
    parts: &[Range<u64>],
    options: &PlanOptions,
) -> Result<Box<dyn Layout>> {
    let archive = matches!(format, TargetFormat::VhdTgz | TargetFormat::Xva);
    if parts.is_empty() || (parts.len() > 1 && !archive) {
        let message = format!("{format} holds one disk, not {}: choose one", parts.len());
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let parts = || parts.iter().map(|range| Part::of(map, range)).collect::<Vec<_>>();
    Ok(match format {
        TargetFormat::Raw => Box::new(raw::Raw::new(map)),
        TargetFormat::VhdDynamic => Box::new(vhd_dynamic::VhdDynamic::new(map, options)?),
        TargetFormat::VhdFixed => Box::new(vhd_fixed::VhdFixed::new(map, options)?),
        TargetFormat::Qcow2 => Box::new(qcow2::Qcow2::new(map, options.reserve)?),
        TargetFormat::VhdTgz => Box::new(tgz::VhdTgz::new(parts(), options)?),
        TargetFormat::Xva => Box::new(xva::Xva::new(parts(), options)?),
    })
}
