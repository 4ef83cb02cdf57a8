//! Checks of a QCOW2 image: what its tables use, against its refcounts.

use std::sync::Arc;

use super::disk::{Entry, Place, Qcow2Disk, read, read_header};
use super::header::Header;
use crate::finding::Findings;
use crate::vhd::Fields;
use crate::{Disk, ErrorKind, ReadAt, Result};

/// Uses are counted in two bytes a cluster; beyond so many clusters (1 TiB at the usual size)
/// they are not.
const MAX_CLUSTERS: u64 = 16 << 20;

/// Tables on one another multiply the work; beyond so many the guest's clusters are not visited.
const MAX_OVERLAPS: u64 = 1000;

/// Examines one image, without its backing file.
pub(crate) fn examine(file: Arc<dyn ReadAt>, findings: &mut Findings) -> Result<()> {
    let header = read_header(&file, findings)?;
    let whole = !header.external_data;
    let disk = Qcow2Disk::with_header(file, header, None, None, findings)?;
    let clusters = disk.len.div_ceil(disk.cluster_size());
    if !whole || clusters > MAX_CLUSTERS {
        findings.note("qcow2-refcounts", "the refcounts were not checked");
        return Ok(());
    }
    let mut uses = Uses::new(&disk, clusters);
    uses.tables(findings);
    if uses.overlaps < MAX_OVERLAPS {
        uses.guest(findings);
    }
    uses.compare(findings);
    Ok(())
}

struct Uses<'a> {
    disk: &'a Qcow2Disk,
    /// How often each host cluster is used.
    counts: Vec<u16>,
    /// Host clusters that hold more than one thing by design: compressed ones.
    shared: Vec<bool>,
    overlaps: u64,
}

impl<'a> Uses<'a> {
    fn new(disk: &'a Qcow2Disk, clusters: u64) -> Self {
        let n = usize::try_from(clusters).unwrap_or(0);
        Self { disk, counts: vec![0; n], shared: vec![false; n], overlaps: 0 }
    }

    fn header(&self) -> &'a Header {
        &self.disk.header
    }

    /// Counts the clusters that `len` bytes at `at` touch.
    fn count(&mut self, at: u64, len: u64, packed: bool) {
        let size = self.disk.cluster_size();
        for cluster in at / size..at.saturating_add(len).div_ceil(size) {
            let Ok(i) = usize::try_from(cluster) else { return };
            let (Some(count), Some(shared)) = (self.counts.get_mut(i), self.shared.get_mut(i))
            else {
                return;
            };
            if *count > 0 && !(packed && *shared) {
                self.overlaps += 1;
            }
            *shared |= packed;
            *count = count.saturating_add(1);
        }
    }

    /// Header, L1, L2 tables, refcount table and its blocks.
    fn tables(&mut self, findings: &mut Findings) {
        let (header, size) = (self.header(), self.disk.cluster_size());
        self.count(0, size, false);
        self.count(header.l1_offset, u64::from(header.l1_size) * 8, false);
        let table_len = u64::from(header.refcount_clusters) * size;
        self.count(header.refcount_offset, table_len, false);
        if header.refcount_offset.checked_add(table_len).is_none_or(|end| end > self.disk.len) {
            let message = "the refcount table lies past the end of the file";
            findings.corrupt("refcounts-outside", message, Some(header.refcount_offset));
        }
        for at in self.refcount_blocks() {
            self.count(at, size, false);
        }
        for i in 0..self.disk.l1.len() {
            let table = self.disk.l1.get(i).map_or(0, |e| e & 0x00ff_ffff_ffff_fe00);
            if table != 0 {
                self.count(table, size, false);
            }
        }
    }

    fn refcount_blocks(&self) -> Vec<u64> {
        let (header, size) = (self.header(), self.disk.cluster_size());
        let per_block = (size * 8) >> header.refcount_order.min(6);
        let needed = (self.counts.len() as u64).div_ceil(per_block.max(1));
        let entries = needed.min(u64::from(header.refcount_clusters) * size / 8);
        let mut raw = vec![0; usize::try_from(entries * 8).unwrap_or(0)];
        if read(&self.disk.file, &mut raw, header.refcount_offset).is_err() {
            return Vec::new();
        }
        raw.as_chunks::<8>()
            .0
            .iter()
            .map(|&e| u64::from_be_bytes(e) & !511)
            .filter(|&b| b != 0)
            .collect()
    }

    /// Every cluster of the guest's disk.
    fn guest(&mut self, findings: &mut Findings) {
        let (size, end) = (self.disk.cluster_size(), self.disk.virtual_size());
        let mut at = 0;
        let mut complaints = 0_u32;
        while at < end {
            match self.piece(at) {
                Ok(until) => at = until,
                Err(error) => {
                    let code = match error.kind() {
                        ErrorKind::Truncated => "cluster-outside",
                        _ => "cluster-damaged",
                    };
                    findings.corrupt(code, error.to_string(), error.offset());
                    complaints += 1;
                    // A damaged table complains about each of its clusters.
                    if complaints as usize > Findings::LIMIT {
                        return;
                    }
                    at = (at / size + 1) * size;
                }
            }
        }
    }

    /// Counts what the piece at guest `at` uses, and says where it ends. With extended L2 entries
    /// a cluster comes in parts; its first counts.
    fn piece(&mut self, at: u64) -> Result<u64> {
        let size = self.disk.cluster_size();
        let (entry, bits) = match self.disk.entry(at)? {
            Entry::None { until } => return Ok(until),
            Entry::Of { entry, bits } => (entry, bits),
        };
        let (place, until) = self.disk.place_of(entry, bits, at)?;
        match (place, self.disk.cluster_of(entry)) {
            (Place::Packed { at, len }, _) => self.count(at, len, true),
            (_, Some(host)) if at.is_multiple_of(size) => {
                self.count(host / size * size, size, false);
            }
            _ => {}
        }
        Ok(until)
    }

    /// The uses against the refcounts.
    fn compare(&mut self, findings: &mut Findings) {
        let header = self.header();
        if header.snapshots != 0 || header.dirty {
            findings.note("qcow2-refcounts", "the refcounts were not compared");
            return;
        }
        if self.overlaps > 0 {
            let message = format!("{} clusters are used twice", self.overlaps);
            findings.corrupt("cluster-overlap", message, None);
        }
        let (mut low, mut leaked) = (0_u64, 0_u64);
        let mut block = Block::default();
        for i in 0..self.counts.len() {
            let used = self.counts.get(i).copied().unwrap_or(0);
            let stored = block.refcount(self.disk, i as u64);
            if stored < u64::from(used) {
                low += 1;
            } else if stored > u64::from(used) {
                leaked += 1;
            }
        }
        if low > 0 {
            let message = format!("{low} clusters have a refcount below their use");
            findings.corrupt("refcount-low", message, None);
        }
        // The clusters of bitmaps are not looked for.
        if leaked > 0 && !header.bitmaps {
            findings.note("refcount-leak", format!("{leaked} clusters are leaked"));
        }
    }
}

/// The refcount block that was read last.
#[derive(Default)]
struct Block {
    index: Option<u64>,
    bytes: Vec<u8>,
}

impl Block {
    fn refcount(&mut self, disk: &Qcow2Disk, cluster: u64) -> u64 {
        let header = &disk.header;
        let order = header.refcount_order.min(6);
        let per_block = (disk.cluster_size() * 8) >> order;
        let index = cluster / per_block;
        if self.index != Some(index) {
            self.index = Some(index);
            self.bytes = Self::load(disk, index).unwrap_or_default();
        }
        let bit = (cluster % per_block) << order;
        let byte = usize::try_from(bit / 8).unwrap_or(usize::MAX);
        match order {
            // The least significant bits of a byte come first.
            0..=2 => {
                let mask = (1_u64 << (1 << order)) - 1;
                u64::from(self.bytes.u8_at(byte)) >> (bit % 8) & mask
            }
            3 => u64::from(self.bytes.u8_at(byte)),
            4 => u64::from(self.bytes.u16_at(byte)),
            5 => u64::from(self.bytes.u32_at(byte)),
            _ => self.bytes.u64_at(byte),
        }
    }

    fn load(disk: &Qcow2Disk, index: u64) -> Option<Vec<u8>> {
        let entries = u64::from(disk.header.refcount_clusters) * disk.cluster_size() / 8;
        if index >= entries {
            return None;
        }
        let mut entry = [0; 8];
        read(&disk.file, &mut entry, disk.header.refcount_offset.checked_add(index * 8)?).ok()?;
        let at = u64::from_be_bytes(entry) & !511;
        if at == 0 || at >= disk.len {
            return None;
        }
        let len = disk.cluster_size().min(disk.len - at);
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        read(&disk.file, &mut bytes, at).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Policy;

    #[test]
    fn a_header_that_lies_about_its_tables_is_reported() {
        let mut image = vec![0_u8; 4 * 65536];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        image[23] = 16;
        image[24..32].copy_from_slice(&(1_u64 << 20).to_be_bytes());
        image[39] = 1;
        image[40..48].copy_from_slice(&0x30000_u64.to_be_bytes());
        image[48..56].copy_from_slice(&0x7_0000_u64.to_be_bytes());
        image[59] = 1;
        let mut findings = Findings::new(Policy::Lenient);
        examine(Arc::new(image), &mut findings).unwrap();
        let codes: Vec<_> = findings.list().iter().map(|f| f.code).collect();
        assert!(codes.contains(&"refcounts-outside"), "{codes:?}");
        assert!(codes.contains(&"refcount-low"), "{codes:?}");
    }
}
