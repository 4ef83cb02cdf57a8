//! The end of a QCOW2 image: every cluster that its tables name must be there.

use std::collections::HashMap;
use std::ops::Range;

/// The header, as far as it matters here.
const HEADER: usize = 72;
/// The part of an entry that is an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// A first-level table of more bytes is not looked into: none of a disk below 2 PiB has it.
const LONGEST_TABLE: u64 = 32 << 20;

/// Reads the tables while they pass; they come before the data in what servers send.
#[derive(Debug, Default)]
pub(super) struct Qcow2 {
    header: Vec<u8>,
    sizes: Option<Sizes>,
    first: Vec<u8>,
    /// Which entry of the first table names the second table in a cluster.
    second: HashMap<u64, u64>,
    /// The second table that is passing.
    table: Vec<u8>,
    /// Where the last cluster that is named ends.
    end: u64,
}

#[derive(Clone, Debug)]
struct Sizes {
    cluster: u64,
    disk: u64,
    first: Range<u64>,
}

impl Qcow2 {
    pub(super) fn see(&mut self, at: u64, bytes: &[u8]) {
        if self.header.len() < HEADER {
            let wanted = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
            if self.header.len() == HEADER {
                self.begin();
            }
        }
        let Some(sizes) = self.sizes.clone() else { return };
        let first = part(at, bytes, &sizes.first);
        if !first.is_empty() {
            self.first.extend_from_slice(first);
            if self.first.len() as u64 == sizes.first.end - sizes.first.start {
                self.first_is_whole(&sizes);
            }
        }
        if self.second.is_empty() {
            return;
        }
        let end = at + bytes.len() as u64;
        for cluster in at / sizes.cluster..end.div_ceil(sizes.cluster) {
            let Some(entry) = self.second.get(&cluster).copied() else { continue };
            let place = cluster * sizes.cluster..(cluster + 1) * sizes.cluster;
            // One that began to pass before it was known is not read.
            if self.table.len() as u64 == at.saturating_sub(place.start) {
                self.table.extend_from_slice(part(at, bytes, &place));
            }
            if self.table.len() as u64 == sizes.cluster {
                self.second_is_whole(&sizes, entry);
            }
        }
    }

    fn number(&self, range: Range<usize>) -> u64 {
        let field = self.header.get(range).unwrap_or_default();
        field.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    fn begin(&mut self) {
        let bits = self.number(20..24);
        if !self.header.starts_with(b"QFI\xfb") || !(9..=21).contains(&bits) {
            return;
        }
        let cluster = 1_u64 << bits;
        let at = self.number(40..48);
        let length = self.number(36..40) * 8;
        let counts = self.number(48..56).saturating_add(self.number(56..60) * cluster);
        self.end = counts.max(at.saturating_add(length)).max(HEADER as u64);
        let length = if length <= LONGEST_TABLE { length } else { 0 };
        let first = at..at.saturating_add(length);
        self.sizes = Some(Sizes { cluster, disk: self.number(24..32), first });
    }

    fn first_is_whole(&mut self, sizes: &Sizes) {
        for (number, entry) in (0..).zip(entries(&self.first)) {
            let table = entry & OFFSET;
            if table != 0 {
                self.end = self.end.max(table.saturating_add(sizes.cluster));
                self.second.insert(table / sizes.cluster, number);
            }
        }
        self.first = Vec::new();
    }

    fn second_is_whole(&mut self, sizes: &Sizes, number: u64) {
        let per_table = sizes.cluster / 8;
        for (index, entry) in (0_u64..).zip(entries(&self.table)) {
            if entry & COMPRESSED != 0 {
                // Its offset is in fewer bits the larger the clusters are; its length is in sectors.
                let bits = 70 - u64::from(sizes.cluster.trailing_zeros());
                self.end = self.end.max((entry & ((1 << bits) - 1)).saturating_add(1));
            } else if entry & OFFSET != 0 {
                let guest = (number * per_table + index).saturating_mul(sizes.cluster);
                // The last cluster of a file may end where the disk does.
                let length = sizes.disk.saturating_sub(guest).min(sizes.cluster);
                self.end = self.end.max((entry & OFFSET).saturating_add(length));
            }
        }
        self.table = Vec::new();
    }

    pub(super) fn verdict(&self, received: u64) -> Result<(), String> {
        match &self.sizes {
            None => Err(format!("{received} bytes are no QCOW2 image")),
            Some(_) if received >= self.end => Ok(()),
            Some(_) => {
                let end = self.end;
                Err(format!("{received} bytes came of a QCOW2 image that has at least {end}"))
            }
        }
    }
}

/// The part of `bytes`, which are at `at`, that lies in `range`.
fn part<'a>(at: u64, bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    let from = range.start.saturating_sub(at).min(bytes.len() as u64);
    let to = range.end.saturating_sub(at).min(bytes.len() as u64);
    match (usize::try_from(from), usize::try_from(to)) {
        (Ok(from), Ok(to)) => bytes.get(from..to).unwrap_or_default(),
        _ => &[],
    }
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> + '_ {
    table.chunks_exact(8).filter_map(|entry| Some(u64::from_be_bytes(entry.try_into().ok()?)))
}
