//! Dynamic and differencing VHD as XenServer's tapdisk writes it.
//!
//! ```text
//! 0      copy of the footer
//! 512    dynamic header
//! 1536   block allocation table, padded to sectors
//!        batmap header, one sector
//!        batmap
//!        the parent's locators, one sector each (differencing only)
//!        per block in guest order: sector bitmap, then 2 MiB of data that start on a 4 KiB
//!        boundary (so a gap of 3584 bytes lies before each bitmap)
//!        footer
//! ```

use bytes::Bytes;

use super::{Growth, Layout, SegmentIter, vhd_meta};
use crate::plan::{PlanOptions, Segment, guest_segments};
use crate::vhd::{Batmap, DiskType, DynamicHeader, Footer, SECTOR};
use crate::{BlockMap, GRANULE, Result};

const BLOCK: u64 = DynamicHeader::DEFAULT_BLOCK_SIZE as u64;
const PAGE: u64 = 4096;
const BAT_OFFSET: u64 = (Footer::LEN + DynamicHeader::LEN) as u64;
const BITMAP: u64 = BLOCK / SECTOR / 8;
/// How many table entries one inline segment holds.
const ENTRIES_PER_SEGMENT: u64 = 16 * 1024;

static FULL_BITMAP: [u8; BITMAP as usize] = [0xff; BITMAP as usize];

#[derive(Debug)]
pub(super) struct VhdDynamic {
    size: u64,
    blocks: u64,
    present: u64,
    /// Whether what the rounding adds must be stored as zeros, because the parent is longer.
    cut: bool,
    /// The last block, if only that makes it necessary.
    end_block: Option<u64>,
    uuid: [u8; 16],
    footer: Bytes,
    header: Bytes,
    batmap_header: Bytes,
    batmap: Bytes,
    /// The sectors of the locators; empty without a parent.
    locators: Bytes,
}

impl VhdDynamic {
    pub(super) fn new(map: &BlockMap, options: &PlanOptions) -> Result<Self> {
        let size = vhd_meta::rounded_size(map, BLOCK)?;
        let blocks = size / BLOCK;
        let kind =
            if options.parent.is_some() { DiskType::Differencing } else { DiskType::Dynamic };
        let footer = vhd_meta::footer(kind, size, map, options);
        // The size limit above keeps these within 32 bits by far.
        let mut header = DynamicHeader::new(BAT_OFFSET, blocks as u32);
        // libvhd computes the length of the map by rounding down to whole bytes first: the blocks
        // of a last partial byte may have no bit, and are then looked up in their bitmaps.
        let map_offset = bat_end(blocks) + Batmap::LEN as u64;
        let mut batmap = Batmap::new(map_offset, (blocks / 8 * 8) as u32);
        let parent_size = options.parent.as_ref().and_then(|parent| parent.size);
        let cut = parent_size.is_some_and(|theirs| theirs > map.virtual_size());
        let end = (blocks - 1) * BLOCK..size;
        let extra = cut && map.virtual_size() < size && !map.any(end);
        let end_block = extra.then_some(blocks - 1);
        let mut count = u64::from(end_block.is_some());
        for block in map.blocks(BLOCK) {
            // A part of a block that is not in the map is the parent's.
            if options.parent.is_none() || is_full(map, block) {
                batmap.set(block);
            }
            count += 1;
        }
        let locators_at = map_offset + batmap.map_bytes().len() as u64;
        let locators = match &options.parent {
            Some(parent) => parent.write_into(&mut header, locators_at),
            None => Bytes::new(),
        };
        Ok(Self {
            size,
            blocks,
            present: count,
            cut,
            end_block,
            uuid: footer.uuid,
            footer: Bytes::copy_from_slice(&footer.to_bytes()),
            header: Bytes::copy_from_slice(&header.to_bytes()),
            batmap_header: Bytes::copy_from_slice(&batmap.header_bytes()),
            batmap: Bytes::copy_from_slice(batmap.map_bytes()),
            locators,
        })
    }

    /// By which a child would name this disk.
    pub(super) fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    fn metadata_end(&self) -> u64 {
        let after = self.batmap_header.len() + self.batmap.len() + self.locators.len();
        bat_end(self.blocks) + after as u64
    }

    /// Where the bitmap of the `n`th present block lies.
    fn bitmap_offset(&self, n: u64) -> u64 {
        let first_data = (self.metadata_end() + BITMAP).next_multiple_of(PAGE);
        first_data - BITMAP + n * (BLOCK + PAGE)
    }

    /// The blocks that are in the file, each with its number there.
    fn present<'a>(&self, map: &'a BlockMap) -> impl Iterator<Item = (u64, u64)> + Send + 'a {
        map.blocks(BLOCK).chain(self.end_block).zip(0..)
    }

    /// The table, a piece at a time.
    fn bat<'a>(&'a self, map: &'a BlockMap) -> impl Iterator<Item = Segment> + Send + 'a {
        let mut present = self.present(map).peekable();
        (0..self.blocks).step_by(ENTRIES_PER_SEGMENT as usize).map(move |first| {
            let end = (first + ENTRIES_PER_SEGMENT).min(self.blocks);
            // The table's padding reads as unused, too. `BAT_UNUSED` is all ones.
            let padded = ((end - first) * 4).next_multiple_of(SECTOR);
            let mut entries = vec![0xff; padded as usize];
            while let Some((block, n)) = present.next_if(|(block, _)| *block < end) {
                let at = ((block - first) * 4) as usize;
                let sector = (self.bitmap_offset(n) / SECTOR) as u32;
                entries[at..at + 4].copy_from_slice(&sector.to_be_bytes());
            }
            Segment::Inline(Bytes::from(entries))
        })
    }

    /// Which sectors of block `b` are here. Without a parent all are, zeros included.
    fn bitmap(&self, map: &BlockMap, b: u64) -> Bytes {
        if self.locators.is_empty() || is_full(map, b) {
            return Bytes::from_static(&FULL_BITMAP);
        }
        let mut bitmap = vec![0; BITMAP as usize];
        // One bit a sector: a granule is 16 bytes of the bitmap.
        let bytes_per_granule = GRANULE / SECTOR / 8;
        for (granule, bits) in bitmap.chunks_mut(bytes_per_granule as usize).enumerate() {
            let at = b * BLOCK + granule as u64 * GRANULE;
            if map.any(at..at + GRANULE) {
                bits.fill(0xff);
            }
        }
        if self.cut {
            let end = map.virtual_size().saturating_sub(b * BLOCK).div_ceil(SECTOR);
            for sector in end..BLOCK / SECTOR {
                bitmap[(sector / 8) as usize] |= 0x80 >> (sector % 8);
            }
        }
        Bytes::from(bitmap)
    }

    /// The present blocks in guest order, each with the gap and the bitmap before it.
    fn blocks<'a>(&'a self, map: &'a BlockMap) -> impl Iterator<Item = Segment> + Send + 'a {
        let mut at = self.metadata_end();
        self.present(map).flat_map(move |(b, n)| {
            let bitmap = self.bitmap_offset(n);
            let gap = bitmap - at;
            at = bitmap + BITMAP + BLOCK;
            let gap = (gap > 0).then_some(Segment::Zero(gap));
            let bitmap = Segment::Inline(self.bitmap(map, b));
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
        let batmap = [&self.batmap_header, &self.batmap, &self.locators];
        let batmap = batmap.map(|bytes| Segment::Inline(bytes.clone()));
        let tail = Segment::Inline(self.footer.clone());
        Box::new(
            head.into_iter()
                .chain(self.bat(map))
                .chain(batmap)
                .chain(self.blocks(map))
                .chain(std::iter::once(tail)),
        )
    }

    fn growth(&self) -> Option<Growth> {
        // A part of a block that did not come would have to be the parent's.
        let whole = self.locators.is_empty();
        let first = self.bitmap_offset(0) + BITMAP;
        whole.then_some(Growth { unit: BLOCK, first, stride: BLOCK + PAGE })
    }
}

/// Whether the whole of a block is in the map, as far as the disk reaches.
fn is_full(map: &BlockMap, block: u64) -> bool {
    let end = ((block + 1) * BLOCK).min(map.virtual_size());
    map.first_run(block * BLOCK..end) == Some(block * BLOCK..end)
}

/// Where the table ends, and the batmap begins.
fn bat_end(blocks: u64) -> u64 {
    BAT_OFFSET + (blocks * 4).next_multiple_of(SECTOR)
}
