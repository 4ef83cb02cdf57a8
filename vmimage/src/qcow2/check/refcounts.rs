//! The refcounts that the image stores.

use super::uses::{Kind, Uses};
use super::{Faults, each_entry, take};
use crate::ReadAt;
use crate::qcow2::disk::read;
use crate::qcow2::header::Header;
use crate::vhd::Fields;

/// The longest refcount table, as in QEMU: 8 MiB.
const MAX_ENTRIES: u64 = 1 << 20;
const RESERVED: u64 = 511;

pub(super) struct Refcounts<'a> {
    file: &'a dyn ReadAt,
    header: &'a Header,
    /// The length of the file.
    len: u64,
}

impl<'a> Refcounts<'a> {
    pub(super) fn new(file: &'a dyn ReadAt, header: &'a Header, len: u64) -> Self {
        Self { file, header, len }
    }

    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// How many entries the table has.
    fn entries(&self) -> u64 {
        u64::from(self.header.refcount_clusters).saturating_mul(self.cluster() / 8)
    }

    /// Counts the clusters of table and blocks, and marks those whose refcount is one.
    pub(super) fn mark(&self, uses: &mut Uses, faults: &mut Faults) {
        let (at, size) = (self.header.refcount_offset, self.cluster());
        let len = self.entries().saturating_mul(8);
        if self.entries() > MAX_ENTRIES || at.checked_add(len).is_none_or(|end| end > self.len) {
            let what = "the refcount table is too long or lies past the end of the file";
            faults.add("refcounts-outside", what, at);
        }
        uses.add(at, len, Kind::FIXED, 1);
        let entries = self.entries().min(MAX_ENTRIES);
        each_entry(self.file, self.len, at, entries, &mut |place, entry| {
            let block = entry & !RESERVED;
            if entry & RESERVED != 0 {
                let what = "an entry of the refcount table has bits that are reserved";
                faults.add("table-reserved", what, place);
            }
            if !block.is_multiple_of(size) {
                let what = "a block of refcounts does not begin at a cluster";
                faults.add("refcounts-unaligned", what, place);
            } else if block != 0 {
                take(uses, faults, self.len, (block, size), Kind::FIXED, 1);
            }
        });
        self.each(uses.len(), &mut |cluster, stored| {
            if stored == 1 {
                uses.mark(cluster, Kind::ONE);
            }
        });
    }

    /// Hands over the refcounts of the first so many clusters, in order.
    pub(super) fn each(&self, clusters: u64, visit: &mut dyn FnMut(u64, u64)) {
        let per_block = (self.cluster() * 8) >> self.header.refcount_order.min(6);
        let (mut index, mut block) = (None, Vec::new());
        for cluster in 0..clusters {
            if index != Some(cluster / per_block) {
                index = Some(cluster / per_block);
                block = self.block(cluster / per_block).unwrap_or_default();
            }
            visit(cluster, self.refcount(&block, cluster % per_block));
        }
    }

    /// A block of refcounts, as far as the file has it.
    fn block(&self, index: u64) -> Option<Vec<u8>> {
        if index >= self.entries().min(MAX_ENTRIES) {
            return None;
        }
        let mut entry = [0; 8];
        read(self.file, &mut entry, self.header.refcount_offset.checked_add(index * 8)?).ok()?;
        let at = u64::from_be_bytes(entry) & !RESERVED;
        if at == 0 || at >= self.len || !at.is_multiple_of(self.cluster()) {
            return None;
        }
        let len = self.cluster().min(self.len - at);
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        read(self.file, &mut bytes, at).ok()?;
        Some(bytes)
    }

    fn refcount(&self, block: &[u8], index: u64) -> u64 {
        let order = self.header.refcount_order.min(6);
        let bit = index << order;
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        match order {
            // The least significant bits of a byte come first.
            0..=2 => {
                let mask = (1_u64 << (1 << order)) - 1;
                u64::from(block.u8_at(byte)) >> (bit % 8) & mask
            }
            3 => u64::from(block.u8_at(byte)),
            4 => u64::from(block.u16_at(byte)),
            5 => u64::from(block.u32_at(byte)),
            _ => block.u64_at(byte),
        }
    }
}
