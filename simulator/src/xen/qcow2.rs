//! The QCOW2 stream as the server sends it: every table before the data, so that it can be made
//! without seeking. By an encoder of our own.

use std::ops::ControlFlow;

use bytes::Bytes;
use vmimage::{BlockMap, Disk, Result};

use super::vhd::{Sink, read_at};

const CLUSTER: u64 = 64 * 1024;
/// Entries of a table of one cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Counts in a block of reference counts, of 16 bits each.
const COUNTS: u64 = CLUSTER / 2;
/// The bit of an entry that says that its cluster is used once.
const ONCE: u64 = 1 << 63;

/// Where everything is: known before the first byte.
#[derive(Debug)]
pub(crate) struct Layout {
    virtual_size: u64,
    /// Which clusters of the disk are in the stream.
    present: Vec<bool>,
    count_table: u64,
    count_blocks: u64,
    first_table: u64,
    second_tables: u64,
}

impl Layout {
    /// The whole disk.
    pub(crate) fn whole(virtual_size: u64, map: &BlockMap) -> Self {
        let clusters = 0..virtual_size.div_ceil(CLUSTER);
        let present = clusters.map(|c| map.any(c * CLUSTER..(c + 1) * CLUSTER)).collect();
        Self::new(virtual_size, present)
    }

    /// The clusters in which the disk differs from its base.
    pub(crate) fn difference(
        virtual_size: u64,
        (disk, map): (&dyn Disk, &BlockMap),
        (base, base_map): (&dyn Disk, &BlockMap),
    ) -> Result<Self> {
        let mut present = Vec::new();
        for cluster in 0..virtual_size.div_ceil(CLUSTER) {
            let at = cluster * CLUSTER;
            let held = map.any(at..at + CLUSTER) || base_map.any(at..at + CLUSTER);
            present.push(held && read_at(disk, at, CLUSTER)? != read_at(base, at, CLUSTER)?);
        }
        Ok(Self::new(virtual_size, present))
    }

    fn new(virtual_size: u64, present: Vec<bool>) -> Self {
        let first_table = (present.len() as u64).div_ceil(ENTRIES * ENTRIES).max(1);
        let tables = present.chunks(ENTRIES as usize);
        let second_tables = tables.filter(|t| t.contains(&true)).count() as u64;
        let data = present.iter().filter(|p| **p).count() as u64;
        // The counts count themselves: their number grows until it fits.
        let (mut count_table, mut count_blocks) = (1, 1);
        loop {
            let all = 1 + count_table + count_blocks + first_table + second_tables + data;
            let blocks = all.div_ceil(COUNTS);
            let table = blocks.div_ceil(ENTRIES);
            if (table, blocks) == (count_table, count_blocks) {
                break;
            }
            (count_table, count_blocks) = (table, blocks);
        }
        Self { virtual_size, present, count_table, count_blocks, first_table, second_tables }
    }

    fn first_table_at(&self) -> u64 {
        1 + self.count_table + self.count_blocks
    }

    fn data_at(&self) -> u64 {
        self.first_table_at() + self.first_table + self.second_tables
    }

    fn clusters(&self) -> u64 {
        self.data_at() + self.present.iter().filter(|p| **p).count() as u64
    }

    /// How many bytes the stream has.
    pub(crate) fn len(&self) -> u64 {
        self.clusters() * CLUSTER
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(CLUSTER as usize);
        header.extend_from_slice(b"QFI\xfb");
        header.extend_from_slice(&3_u32.to_be_bytes());
        // No backing file: its name would mean nothing where the stream goes.
        header.extend_from_slice(&[0; 12]);
        header.extend_from_slice(&16_u32.to_be_bytes());
        header.extend_from_slice(&self.virtual_size.to_be_bytes());
        header.extend_from_slice(&[0; 4]);
        let entries = (self.present.len() as u64).div_ceil(ENTRIES) as u32;
        header.extend_from_slice(&entries.to_be_bytes());
        header.extend_from_slice(&(self.first_table_at() * CLUSTER).to_be_bytes());
        header.extend_from_slice(&CLUSTER.to_be_bytes());
        header.extend_from_slice(&(self.count_table as u32).to_be_bytes());
        // No internal snapshots, no features.
        header.extend_from_slice(&[0; 4 + 8 + 3 * 8]);
        header.extend_from_slice(&4_u32.to_be_bytes());
        header.extend_from_slice(&104_u32.to_be_bytes());
        header.resize(CLUSTER as usize, 0);
        header
    }

    /// Everything before the data, table by table.
    fn tables(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let count_table = (0..self.count_blocks).map(|n| (1 + self.count_table + n) * CLUSTER);
        let counts = (0..self.count_blocks).map(|block| {
            let used = self.clusters().saturating_sub(block * COUNTS).min(COUNTS);
            let ones = (0..used).flat_map(|_| 1_u16.to_be_bytes());
            padded(ones.collect(), 1)
        });
        let mut next_table = self.first_table_at() + self.first_table;
        let first = self.present.chunks(ENTRIES as usize).map(move |table| {
            let at = next_table;
            next_table += u64::from(table.contains(&true));
            if table.contains(&true) { (at * CLUSTER) | ONCE } else { 0 }
        });
        let mut next = self.data_at();
        let tables = self.present.chunks(ENTRIES as usize).filter(|t| t.contains(&true));
        let second = tables.map(move |table| {
            let mut entry = |present: &bool| {
                let at = next;
                next += u64::from(*present);
                if *present { (at * CLUSTER) | ONCE } else { 0 }
            };
            padded(table.iter().flat_map(|p| entry(p).to_be_bytes()).collect(), 1)
        });
        let count_table =
            padded(count_table.flat_map(u64::to_be_bytes).collect(), self.count_table);
        let first = padded(first.flat_map(u64::to_be_bytes).collect(), self.first_table);
        [self.header(), count_table].into_iter().chain(counts).chain([first]).chain(second)
    }
}

fn padded(mut table: Vec<u8>, clusters: u64) -> Vec<u8> {
    table.resize((clusters * CLUSTER) as usize, 0);
    table
}

/// Sends the clusters that the layout names.
pub(crate) fn send(disk: &dyn Disk, layout: &Layout, sink: Sink<'_>) -> Result<()> {
    for table in layout.tables() {
        if sink(Bytes::from(table)).is_break() {
            return Ok(());
        }
    }
    for (cluster, _) in (0_u64..).zip(&layout.present).filter(|(_, present)| **present) {
        let data = read_at(disk, cluster * CLUSTER, CLUSTER)?;
        if let ControlFlow::Break(()) = sink(Bytes::from(data)) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_fill_the_place_that_the_layout_gives_them() {
        for (size, every) in [(CLUSTER, 1), (3 << 30, 7), (2_u64 << 40, 100_000), (512, 1)] {
            let clusters = size.div_ceil(CLUSTER);
            let layout = Layout::new(size, (0..clusters).map(|n| n % every == 0).collect());
            let tables: u64 = layout.tables().map(|t| t.len() as u64).sum();
            assert_eq!(tables, layout.data_at() * CLUSTER, "{size}");
            assert!(layout.count_blocks * COUNTS >= layout.clusters());
        }
    }
}
