//! QCOW2 by its specification: two levels of tables, and a count for each cluster.

use std::collections::BTreeMap;

use crate::decode::be;

/// Where the host's cluster lies in a table's entry.
const OFFSET: usize = 0x00ff_ffff_ffff_fe00;
const COPIED: usize = 1 << 63;

/// The clusters that something refers to, with what that is.
struct Used {
    bits: usize,
    clusters: BTreeMap<usize, &'static str>,
}

impl Used {
    fn add(&mut self, at: usize, len: usize, what: &'static str) {
        assert_eq!(at % (1 << self.bits), 0, "{what} begins within a cluster");
        for cluster in at >> self.bits..(at + len).div_ceil(1 << self.bits) {
            let other = self.clusters.insert(cluster, what);
            assert_eq!(other, None, "cluster {cluster} is used twice, for {what}");
        }
    }
}

/// Bytes of the file; behind its end there are zeros.
fn bytes(file: &[u8], at: usize, len: usize) -> Vec<u8> {
    let end = file.len().min(at + len);
    let mut out = file.get(at..end).unwrap_or_default().to_vec();
    out.resize(len, 0);
    out
}

/// The disk of an image without a backing file and without snapshots.
pub(crate) fn qcow2(file: &[u8]) -> Vec<u8> {
    assert_eq!((&file[..4], be(file, 4, 4)), (&b"QFI\xfb"[..], 3));
    let (bits, size) = (be(file, 20, 4), be(file, 24, 8));
    let (l1_size, l1_at) = (be(file, 36, 4), be(file, 40, 8));
    assert!(be(file, 8, 8) == 0 && be(file, 60, 4) == 0, "no backing file, no snapshots");
    assert_eq!(be(file, 72, 8), 0, "no incompatible features");
    let cluster = 1 << bits;
    let mut used = Used { bits, clusters: BTreeMap::new() };
    used.add(0, 1, "the header");
    used.add(l1_at, l1_size * 8, "the L1 table");
    let mut disk = vec![0; size];
    assert!(l1_size >= size.div_ceil(cluster * cluster / 8), "an L1 table for the whole disk");
    for l1 in 0..l1_size {
        let table = entry(file, l1_at + 8 * l1);
        if table == 0 {
            continue;
        }
        used.add(table, cluster, "an L2 table");
        for l2 in 0..cluster / 8 {
            let data = entry(file, table + 8 * l2);
            if data != 0 {
                used.add(data, cluster, "data");
                let at = (l1 * cluster / 8 + l2) << bits;
                let n = cluster.min(size.checked_sub(at).unwrap());
                disk[at..at + n].copy_from_slice(&bytes(file, data, n));
            }
        }
    }
    assert_counts(file, used);
    disk
}

/// Where an entry of a table points to; 0 for nowhere. Every target has one user.
fn entry(file: &[u8], at: usize) -> usize {
    let entry = be(&bytes(file, at, 8), 0, 8);
    assert_eq!(entry & !(OFFSET | COPIED), 0, "flags that nobody sets");
    assert_eq!(entry & COPIED != 0, entry & OFFSET != 0, "the flag of a single user");
    entry & OFFSET
}

/// Each cluster is counted once if it is used, and not at all if it is not.
fn assert_counts(file: &[u8], mut used: Used) {
    assert_eq!(be(file, 96, 4), 4, "counts of 16 bits");
    let cluster = 1 << used.bits;
    let (table, len) = (be(file, 48, 8), be(file, 56, 4) * cluster);
    used.add(table, len, "the refcount table");
    let blocks: Vec<usize> =
        (0..len / 8).map(|i| be(&bytes(file, table + 8 * i, 8), 0, 8)).collect();
    for block in blocks.iter().filter(|block| **block != 0) {
        used.add(*block, cluster, "a refcount block");
    }
    let last = *used.clusters.keys().next_back().unwrap();
    for number in 0..(last + 1).max(file.len().div_ceil(cluster)) {
        let count = match blocks[number / (cluster / 2)] {
            0 => 0,
            block => be(&bytes(file, block + number % (cluster / 2) * 2, 2), 0, 2),
        };
        let what = used.clusters.get(&number);
        assert_eq!(count, usize::from(what.is_some()), "the count of cluster {number}: {what:?}");
    }
}
