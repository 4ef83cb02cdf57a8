//! Fixed VHD: the raw bytes and one footer.

use bytes::Bytes;

use super::{Growth, Layout, SegmentIter, vhd_meta};
use crate::plan::{PlanOptions, Segment, guest_segments};
use crate::vhd::{DiskType, Footer};
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
        let mut footer = vhd_meta::footer(DiskType::Fixed, size, map, options);
        // Hyper-V: every reader takes the size field, not the geometry, of this creator.
        footer.creator_app = *b"win ";
        footer.creator_version = 0x000a_0000;
        footer.creator_os = u32::from_be_bytes(*b"Wi2k");
        Ok(Self { size, footer: Bytes::copy_from_slice(&footer.to_bytes()) })
    }
}

impl Layout for VhdFixed {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn output_len(&self) -> u64 {
        self.size + Footer::LEN as u64
    }

    fn segments<'a>(&'a self, map: &'a BlockMap) -> SegmentIter<'a> {
        let footer = Segment::Inline(self.footer.clone());
        Box::new(guest_segments(map, 0..self.size).chain(std::iter::once(footer)))
    }

    fn growth(&self) -> Option<Growth> {
        Some(Growth::IN_PLACE)
    }
}
