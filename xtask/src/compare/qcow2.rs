//! Writes QCOW2 images without compression, version 3, clusters of 64 KiB, in guest order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::content::{BLOCK, Content};

const CLUSTER: u64 = 64 << 10;
/// Entries of an L2 table, and reference counts of eight bytes; twice as many 16-bit counts.
const PER_L2: u64 = CLUSTER / 8;
const PER_REFCOUNTS: u64 = CLUSTER / 2;
/// The cluster belongs to this image alone.
const COPIED: u64 = 1 << 63;

/// Writes the image: header, L1, L2 tables, data, reference counts at the end.
pub(crate) fn write(content: &dyn Content, path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    let l1_entries = content.size().div_ceil(CLUSTER * PER_L2);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let per_block = BLOCK as u64 / CLUSTER;
    let blocks = content.blocks();

    let mut l1 = vec![0u64; l1_entries as usize];
    let mut next = 1 + l1_clusters;
    for block in &blocks {
        let entry = &mut l1[(u64::from(*block) * per_block / PER_L2) as usize];
        if *entry == 0 {
            *entry = (next * CLUSTER) | COPIED;
            next += 1;
        }
    }
    let mut buf = vec![0; BLOCK];
    for block in &blocks {
        content.fill(*block, &mut buf)?;
        let first = u64::from(*block) * per_block;
        let table = l1[(first / PER_L2) as usize] & !COPIED;
        let entries = (0..per_block).map(|i| ((next + i) * CLUSTER) | COPIED);
        file.write_all_at(&words(entries), table + first % PER_L2 * 8)?;
        file.write_all_at(&buf, next * CLUSTER)?;
        next += per_block;
    }
    let (table_clusters, total) = write_refcounts(&file, next)?;
    file.write_all_at(&words(l1.iter().copied()), CLUSTER)?;
    file.write_all_at(&header(content.size(), l1_entries as u32, next, table_clusters), 0)?;
    file.set_len(total * CLUSTER)
}

/// Counts each of the clusters up to its own end once. The table comes first, at cluster `at`.
fn write_refcounts(file: &File, at: u64) -> io::Result<(u64, u64)> {
    let (mut table, mut tables) = (1, 1);
    loop {
        let total = at + table + tables;
        let blocks = total.div_ceil(PER_REFCOUNTS);
        let needed = (blocks * 8).div_ceil(CLUSTER);
        if (blocks, needed) == (tables, table) {
            break;
        }
        (tables, table) = (blocks, needed);
    }
    let total = at + table + tables;
    let offsets = (0..tables).map(|i| (at + table + i) * CLUSTER);
    file.write_all_at(&words(offsets), at * CLUSTER)?;
    let ones: Vec<u8> = (0..total).flat_map(|_| 1u16.to_be_bytes()).collect();
    file.write_all_at(&ones, (at + table) * CLUSTER)?;
    Ok((table, total))
}

fn header(size: u64, l1_entries: u32, refcounts_at: u64, table_clusters: u64) -> Vec<u8> {
    let mut out = Vec::from(*b"QFI\xfb\0\0\0\x03");
    out.extend([0; 12]); // no backing file
    out.extend(16u32.to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend([0; 4]); // no encryption
    out.extend(l1_entries.to_be_bytes());
    out.extend(CLUSTER.to_be_bytes());
    out.extend((refcounts_at * CLUSTER).to_be_bytes());
    out.extend((table_clusters as u32).to_be_bytes());
    out.extend([0; 12 + 24]); // no snapshots, no features
    out.extend(4u32.to_be_bytes());
    out.extend(104u32.to_be_bytes());
    out.extend([0; 8]); // no header extension
    out
}

fn words(words: impl Iterator<Item = u64>) -> Vec<u8> {
    words.flat_map(u64::to_be_bytes).collect()
}
