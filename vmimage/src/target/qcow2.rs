//! QCOW2 version 3, all metadata before the data, so that it can be streamed.
//!
//! ```text
//! cluster 0    header
//!              refcount table, refcount blocks
//!              L1 table
//!              L2 tables that are needed, in guest order
//!              data clusters in guest order
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::{Growth, Layout, SegmentIter};
use crate::plan::{Segment, guest_segments};
use crate::{BlockMap, Error, ErrorKind, GRANULE, Result};

/// 64 KiB, QEMU's default, and the grain of the block map.
const CLUSTER: u64 = GRANULE;
const CLUSTER_BITS: u32 = 16;
/// 16-bit reference counts.
const REFCOUNT_ORDER: u32 = 4;
const REFCOUNTS_PER_BLOCK: u64 = CLUSTER / 2;
const ENTRIES_PER_TABLE: u64 = CLUSTER / 8;
/// What one L2 table covers.
const L2_SPAN: u64 = ENTRIES_PER_TABLE * CLUSTER;
/// QEMU refuses a larger L1 table.
const MAX_L1_BYTES: u64 = 32 << 20;
/// The reference count of the target is one: writable without a copy.
const COPIED: u64 = 1 << 63;
const HEADER_LENGTH: u32 = 104;

#[derive(Debug)]
pub(super) struct Qcow2 {
    size: u64,
    table_clusters: u64,
    refcount_blocks: u64,
    l1_entries: u64,
    l1_clusters: u64,
    l2_tables: u64,
    data_clusters: u64,
    /// Whether there is a table for every L1 entry, needed or not.
    reserve: bool,
}

impl Qcow2 {
    /// With `reserve`, the data begins where it would if all of the disk were data.
    pub(super) fn new(map: &BlockMap, reserve: bool) -> Result<Self> {
        // QEMU counts in sectors and would cut a partial one off.
        let size = map.virtual_size().checked_next_multiple_of(512).unwrap_or(u64::MAX);
        let l1_entries = size.div_ceil(L2_SPAN).max(1);
        if l1_entries * 8 > MAX_L1_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a disk of {size} bytes does not fit into a qcow2 image with clusters of \
                     64 KiB, which holds at most 2 PiB: convert to raw"
                ),
            ));
        }
        let mut this = Self {
            size,
            table_clusters: 1,
            refcount_blocks: 1,
            l1_entries,
            l1_clusters: (l1_entries * 8).div_ceil(CLUSTER),
            l2_tables: l1_entries,
            data_clusters: size.div_ceil(CLUSTER),
            reserve,
        };
        if !reserve {
            this.l2_tables = map.blocks(L2_SPAN).count() as u64;
            this.data_clusters = map.granules();
        }
        // The reference counts count themselves: grow until they cover everything.
        loop {
            let blocks = this.clusters().div_ceil(REFCOUNTS_PER_BLOCK);
            let tables = (blocks * 8).div_ceil(CLUSTER);
            if blocks <= this.refcount_blocks && tables <= this.table_clusters {
                this.data_clusters = map.granules();
                return Ok(this);
            }
            this.refcount_blocks = this.refcount_blocks.max(blocks);
            this.table_clusters = this.table_clusters.max(tables);
        }
    }

    fn clusters(&self) -> u64 {
        self.first_data() + self.data_clusters
    }

    fn first_refcount_block(&self) -> u64 {
        1 + self.table_clusters
    }

    fn l1(&self) -> u64 {
        self.first_refcount_block() + self.refcount_blocks
    }

    fn first_l2(&self) -> u64 {
        self.l1() + self.l1_clusters
    }

    fn first_data(&self) -> u64 {
        self.first_l2() + self.l2_tables
    }

    fn header(&self) -> Segment {
        let mut h = BytesMut::with_capacity(CLUSTER as usize);
        h.put_slice(b"QFI\xfb");
        h.put_u32(3);
        h.put_u64(0); // no backing file
        h.put_u32(0);
        h.put_u32(CLUSTER_BITS);
        h.put_u64(self.size);
        h.put_u32(0); // no encryption
        h.put_u32(self.l1_entries as u32);
        h.put_u64(self.l1() * CLUSTER);
        h.put_u64(CLUSTER); // the refcount table
        h.put_u32(self.table_clusters as u32);
        h.put_u32(0); // no snapshots
        h.put_u64(0);
        h.put_u64(0); // incompatible features
        h.put_u64(0); // compatible features
        h.put_u64(0); // autoclear features
        h.put_u32(REFCOUNT_ORDER);
        h.put_u32(HEADER_LENGTH);
        // The rest of the cluster is zero: also the end marker of the header extensions.
        h.resize(CLUSTER as usize, 0);
        Segment::Inline(h.freeze())
    }

    /// The table of the refcount blocks, a cluster at a time.
    fn refcount_table(&self) -> impl Iterator<Item = Segment> + Send + '_ {
        (0..self.table_clusters).map(|c| {
            table(|i| {
                let block = c * ENTRIES_PER_TABLE + i;
                let used = block < self.refcount_blocks;
                used.then(|| (self.first_refcount_block() + block) * CLUSTER)
            })
        })
    }

    /// One for each cluster of the file, zero after the last.
    fn refcounts(&self) -> impl Iterator<Item = Segment> + Send + '_ {
        (0..self.refcount_blocks).map(|block| {
            let first = block * REFCOUNTS_PER_BLOCK;
            let used = self.clusters().saturating_sub(first).min(REFCOUNTS_PER_BLOCK);
            let mut counts = BytesMut::zeroed(CLUSTER as usize);
            for low_byte in counts.iter_mut().skip(1).step_by(2).take(used as usize) {
                *low_byte = 1;
            }
            Segment::Inline(counts.freeze())
        })
    }

    fn has_l2(&self, map: &BlockMap, index: u64) -> bool {
        self.reserve || map.any(index * L2_SPAN..(index + 1) * L2_SPAN)
    }

    fn l1_table<'a>(&'a self, map: &'a BlockMap) -> impl Iterator<Item = Segment> + Send + 'a {
        let mut next = self.first_l2();
        (0..self.l1_clusters).map(move |c| {
            table(|i| {
                let index = c * ENTRIES_PER_TABLE + i;
                (index < self.l1_entries && self.has_l2(map, index)).then(|| {
                    next += 1;
                    ((next - 1) * CLUSTER) | COPIED
                })
            })
        })
    }

    fn l2_tables<'a>(&'a self, map: &'a BlockMap) -> impl Iterator<Item = Segment> + Send + 'a {
        let mut next = self.first_data();
        (0..self.l1_entries).filter(|i| self.has_l2(map, *i)).map(move |index| {
            table(|i| {
                let guest = index * L2_SPAN + i * CLUSTER;
                map.any(guest..guest + CLUSTER).then(|| {
                    next += 1;
                    ((next - 1) * CLUSTER) | COPIED
                })
            })
        })
    }
}

impl Layout for Qcow2 {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn output_len(&self) -> u64 {
        self.clusters() * CLUSTER
    }

    fn segments<'a>(&'a self, map: &'a BlockMap) -> SegmentIter<'a> {
        // A run ends on a cluster or with the disk; the last cluster is filled up with zeros.
        let data = map
            .runs()
            .flat_map(|run| guest_segments(map, run.start..run.end.next_multiple_of(CLUSTER)));
        Box::new(
            std::iter::once_with(|| self.header())
                .chain(self.refcount_table())
                .chain(self.refcounts())
                .chain(self.l1_table(map))
                .chain(self.l2_tables(map))
                .chain(data),
        )
    }

    fn growth(&self) -> Option<Growth> {
        let first = self.first_data() * CLUSTER;
        Some(Growth { unit: CLUSTER, first, stride: CLUSTER })
    }
}

/// A cluster of 64-bit entries.
fn table(mut entry: impl FnMut(u64) -> Option<u64>) -> Segment {
    let mut bytes = BytesMut::with_capacity(CLUSTER as usize);
    for i in 0..ENTRIES_PER_TABLE {
        bytes.put_u64(entry(i).unwrap_or(0));
    }
    Segment::Inline(Bytes::from(bytes))
}
