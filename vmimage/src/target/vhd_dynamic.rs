//! Dynamic VHD as XenServer's tapdisk writes it.
//!
//! ```text
//! 0      copy of the footer
//! 512    dynamic header
//! 1536   block allocation table, padded to sectors
//!        batmap header, one sector
//!        batmap
//!        per block in guest order: sector bitmap, then 2 MiB of data that start on a 4 KiB
//!        boundary (so a gap of 3584 bytes lies before each bitmap)
//!        footer
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::vhd_meta::{self, Kind, SECTOR};
use super::{Layout, SegmentIter};
use crate::plan::{PlanOptions, Segment, guest_segments};
use crate::{BlockMap, Result};

const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4096;
const BAT_OFFSET: u64 = 512 + 1024;
const BITMAP: u64 = BLOCK / SECTOR / 8;
const ABSENT: u32 = u32::MAX;
/// How many table entries one inline segment holds.
const ENTRIES_PER_SEGMENT: u64 = 16 * 1024;

static FULL_BITMAP: [u8; BITMAP as usize] = [0xff; BITMAP as usize];

#[derive(Debug)]
pub(super) struct VhdDynamic {
    size: u64,
    blocks: u64,
    present: u64,
    footer: Bytes,
    header: Bytes,
    batmap_header: Bytes,
    batmap_sectors: u64,
}

impl VhdDynamic {
    pub(super) fn new(map: &BlockMap, options: &PlanOptions) -> Result<Self> {
        let size = vhd_meta::rounded_size(map, BLOCK)?;
        let blocks = size / BLOCK;
        let uuid = vhd_meta::uuid(options, Kind::Dynamic, map);
        let footer =
            vhd_meta::footer(vhd_meta::TAPDISK, Kind::Dynamic, size, uuid, options.timestamp);
        // The size limit above keeps this within 32 bits by far.
        let header = vhd_meta::dynamic_header(BAT_OFFSET, blocks as u32, BLOCK as u32);
        // libvhd computes the size of the map so, rounding the bytes down first: the few blocks
        // of a last partial byte may have no bit, and are then looked up in their bitmap.
        let batmap_sectors = (blocks / 8).div_ceil(SECTOR).max(1);
        let mut this = Self {
            size,
            blocks,
            present: (0..blocks).filter(|b| present(map, *b)).count() as u64,
            footer: Bytes::copy_from_slice(&footer),
            header: Bytes::copy_from_slice(&header),
            batmap_header: Bytes::new(),
            batmap_sectors,
        };
        let sum = (0..batmap_sectors)
            .flat_map(|s| batmap_sector(map, blocks, s))
            .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(byte)));
        let map_offset = this.batmap_header_offset() + SECTOR;
        this.batmap_header = Bytes::copy_from_slice(&vhd_meta::batmap_header(
            map_offset,
            batmap_sectors as u32,
            sum,
        ));
        Ok(this)
    }

    fn batmap_header_offset(&self) -> u64 {
        BAT_OFFSET + (self.blocks * 4).next_multiple_of(SECTOR)
    }

    fn metadata_end(&self) -> u64 {
        self.batmap_header_offset() + SECTOR + self.batmap_sectors * SECTOR
    }

    /// Where the bitmap of the `n`th present block lies.
    fn bitmap_offset(&self, n: u64) -> u64 {
        let first_data = (self.metadata_end() + BITMAP).next_multiple_of(PAGE);
        first_data - BITMAP + n * (BLOCK + PAGE)
    }

    /// The table, a piece at a time.
    fn bat<'a>(&'a self, map: &'a BlockMap) -> impl Iterator<Item = Segment> + Send + 'a {
        let mut block = 0;
        let mut n = 0;
        std::iter::from_fn(move || {
            let end = (block + ENTRIES_PER_SEGMENT).min(self.blocks);
            if block >= end {
                return None;
            }
            let mut entries = BytesMut::with_capacity(((end - block) * 4 + SECTOR) as usize);
            for b in block..end {
                if present(map, b) {
                    entries.put_u32((self.bitmap_offset(n) / SECTOR) as u32);
                    n += 1;
                } else {
                    entries.put_u32(ABSENT);
                }
            }
            block = end;
            if block == self.blocks {
                let padded = entries.len().next_multiple_of(SECTOR as usize);
                entries.resize(padded, 0xff);
            }
            Some(Segment::Inline(entries.freeze()))
        })
    }

    /// The present blocks in guest order, each with the gap and the bitmap before it.
    fn blocks<'a>(&'a self, map: &'a BlockMap) -> impl Iterator<Item = Segment> + Send + 'a {
        let mut at = self.metadata_end();
        let mut n = 0;
        (0..self.blocks).filter(|b| present(map, *b)).flat_map(move |b| {
            let bitmap = self.bitmap_offset(n);
            let gap = bitmap - at;
            n += 1;
            at = bitmap + BITMAP + BLOCK;
            let gap = (gap > 0).then_some(Segment::Zero(gap));
            let bitmap = Segment::Inline(Bytes::from_static(&FULL_BITMAP));
            gap.into_iter()
                .chain(std::iter::once(bitmap))
                .chain(guest_segments(map, b * BLOCK..(b + 1) * BLOCK))
        })
    }
}

impl Layout for VhdDynamic {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn output_len(&self) -> u64 {
        let data_end = match self.present {
            0 => self.metadata_end(),
            n => self.bitmap_offset(n - 1) + BITMAP + BLOCK,
        };
        data_end + SECTOR
    }

    fn segments<'a>(&'a self, map: &'a BlockMap) -> SegmentIter<'a> {
        let head = [self.footer.clone(), self.header.clone()].map(Segment::Inline);
        let batmap = (0..self.batmap_sectors)
            .map(|s| Segment::Inline(Bytes::copy_from_slice(&batmap_sector(map, self.blocks, s))));
        Box::new(
            head.into_iter()
                .chain(self.bat(map))
                .chain(std::iter::once(Segment::Inline(self.batmap_header.clone())))
                .chain(batmap)
                .chain(self.blocks(map))
                .chain(std::iter::once(Segment::Inline(self.footer.clone()))),
        )
    }
}

fn present(map: &BlockMap, block: u64) -> bool {
    map.any(block * BLOCK..(block + 1) * BLOCK)
}

/// One sector of the batmap: every present block is fully written.
fn batmap_sector(map: &BlockMap, blocks: u64, sector: u64) -> [u8; SECTOR as usize] {
    let mut bits = [0; SECTOR as usize];
    let first = sector * SECTOR * 8;
    for block in first..(first + SECTOR * 8).min(blocks) {
        if present(map, block) {
            let bit = (block - first) as usize;
            bits[bit / 8] |= 0x80 >> (bit % 8);
        }
    }
    bits
}
