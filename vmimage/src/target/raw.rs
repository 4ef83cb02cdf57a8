//! Raw: the guest-visible bytes and nothing else.

use super::{Growth, Layout, SegmentIter};
use crate::BlockMap;
use crate::plan::guest_segments;

#[derive(Debug)]
pub(super) struct Raw {
    size: u64,
}

impl Raw {
    pub(super) fn new(map: &BlockMap) -> Self {
        Self { size: map.virtual_size() }
    }
}

impl Layout for Raw {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn output_len(&self) -> u64 {
        self.size
    }

    fn segments<'a>(&'a self, map: &'a BlockMap) -> SegmentIter<'a> {
        Box::new(guest_segments(map, 0..self.size))
    }

    fn growth(&self) -> Option<Growth> {
        Some(Growth::IN_PLACE)
    }
}
