//! Fixed VHD: the raw bytes and one footer.

use bytes::Bytes;

use super::vhd_meta::{self, Kind, SECTOR};
use super::{Layout, SegmentIter};
use crate::plan::{PlanOptions, Segment, guest_segments};
use crate::{BlockMap, Result};

/// Azure takes whole MiB only.
const ROUND: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct VhdFixed {
    size: u64,
    footer: Bytes,
}

impl VhdFixed {
    pub(super) fn new(map: &BlockMap, options: &PlanOptions) -> Result<Self> {
        let size = vhd_meta::rounded_size(map, ROUND)?;
        let uuid = vhd_meta::uuid(options, Kind::Fixed, map);
        let footer =
            vhd_meta::footer(vhd_meta::WINDOWS, Kind::Fixed, size, uuid, options.timestamp);
        Ok(Self { size, footer: Bytes::copy_from_slice(&footer) })
    }
}

impl Layout for VhdFixed {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn output_len(&self) -> u64 {
        self.size + SECTOR
    }

    fn segments<'a>(&'a self, map: &'a BlockMap) -> SegmentIter<'a> {
        let footer = Segment::Inline(self.footer.clone());
        Box::new(guest_segments(map, 0..self.size).chain(std::iter::once(footer)))
    }
}
