//! The formats that can be written: each target is a layout of ordered segments.

use std::fmt;
use std::str::FromStr;

use crate::plan::{PlanOptions, Segment};
use crate::{BlockMap, Error, ErrorKind, Result};

mod qcow2;
mod raw;
mod tgz;
mod vhd_dynamic;
mod vhd_fixed;
mod vhd_meta;

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
}

impl TargetFormat {
    /// All formats, in the order of this documentation.
    pub const ALL: [Self; 5] =
        [Self::Raw, Self::VhdDynamic, Self::VhdFixed, Self::Qcow2, Self::VhdTgz];

    /// The name that [`FromStr`] reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::VhdDynamic => "vhd",
            Self::VhdFixed => "vhd-fixed",
            Self::Qcow2 => "qcow2",
            Self::VhdTgz => "vhd-tgz",
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
            _ => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!(
                        "{:?} is not a target format: use raw, vhd, vhd-fixed, qcow2 or vhd-tgz",
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
}

/// The layout of `map` in `format`.
pub(crate) fn layout(
    format: TargetFormat,
    map: &BlockMap,
    options: &PlanOptions,
) -> Result<Box<dyn Layout>> {
    Ok(match format {
        TargetFormat::Raw => Box::new(raw::Raw::new(map)),
        TargetFormat::VhdDynamic => Box::new(vhd_dynamic::VhdDynamic::new(map, options)?),
        TargetFormat::VhdFixed => Box::new(vhd_fixed::VhdFixed::new(map, options)?),
        TargetFormat::Qcow2 => Box::new(qcow2::Qcow2::new(map)?),
        TargetFormat::VhdTgz => Box::new(tgz::VhdTgz::new(map, options)?),
    })
}
