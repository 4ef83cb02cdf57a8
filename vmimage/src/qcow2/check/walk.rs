//! The L2 tables, and the clusters that they name.

use std::sync::Arc;

use super::uses::{Kind, Uses};
use super::{Check, Faults, each_entry, skip_hole, take};
use crate::ReadAt;
use crate::qcow2::header::Header;

pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const RESERVED: u64 = 0x3f00_0000_0000_01fe;
const ZERO: u64 = 1;

/// What is needed to look at one entry of one table.
struct Table<'a> {
    header: &'a Header,
    uses: &'a mut Uses,
    faults: &'a mut Faults,
    /// The length of the file.
    len: u64,
    active: bool,
    /// How many L1 entries name the table: each cluster is used so often.
    times: u16,
}

impl Check {
    /// Each L2 table once, however many snapshots share it.
    pub(super) fn l2_tables(&mut self) {
        let size = self.uses.cluster();
        let file = Arc::clone(&self.file);
        for cluster in 0..self.uses.len() {
            let (kind, at) = (self.uses.kind(cluster), cluster * size);
            // What lies on something else is reported anyway, and its bytes mean nothing.
            if !kind.has(Kind::TABLE) || self.uses.collides(cluster) {
                continue;
            }
            if skip_hole(&file, at).is_none_or(|data| data >= at + size) {
                continue;
            }
            let times = self.uses.count(cluster);
            let mut table = Table {
                header: &self.header,
                uses: &mut self.uses,
                faults: &mut self.faults,
                len: self.len,
                active: kind.has(Kind::ACTIVE),
                times,
            };
            table.visit(&file, at);
        }
    }
}

impl Table<'_> {
    fn visit(&mut self, file: &dyn ReadAt, table: u64) {
        let (end, words) = (self.len, (1 << self.header.cluster_bits) / 8);
        if !self.header.extended_l2 {
            each_entry(file, end, table, words, &mut |at, entry| self.entry(entry, 0, at));
            return;
        }
        // Pairs of words. A hole may end between the two: the first one is zero then.
        let mut first = (u64::MAX, 0);
        each_entry(file, end, table, words, &mut |at, word| {
            if (at - table).is_multiple_of(16) {
                first = (at, word);
            } else {
                let entry = if first.0 == at - 8 { first.1 } else { 0 };
                self.entry(entry, word, at - 8);
            }
        });
    }

    fn entry(&mut self, entry: u64, bits: u64, at: u64) {
        if entry & COMPRESSED != 0 {
            self.packed(entry, bits, at);
            return;
        }
        // Bit zero says that the cluster is zero; but QEMU does not look at it in extended entries,
        // and in version 2 it refuses to read the cluster, of which its own check says nothing.
        if entry & ZERO != 0 && self.header.version < 3 {
            self.faults.add("zero-in-version-2", "an L2 entry of version 2 has bit 0 set", at);
        } else if entry & ZERO != 0 && self.header.extended_l2 {
            self.faults.odd(at);
        }
        if entry & RESERVED != 0 {
            let what = "an entry of an L2 table has bits that are reserved";
            self.faults.add("table-reserved", what, at);
        }
        let (host, external) = (entry & OFFSET, self.header.external_data);
        if host == 0 && !(external && entry & COPIED != 0) {
            if bits & 0xffff_ffff != 0 {
                self.damaged("an L2 entry has parts but no cluster", at);
            }
            return;
        }
        if bits >> 32 & bits != 0 {
            self.damaged("an L2 entry has parts that are both stored and zero", at);
        }
        let size = self.uses.cluster();
        if !host.is_multiple_of(size) {
            self.damaged("an L2 entry is not aligned to a cluster", at);
        } else if !external {
            take(self.uses, self.faults, self.len, (host, size), Kind::DATA, self.times);
        }
        let one = external || self.uses.has(host, Kind::ONE);
        if self.active && one != (entry & COPIED != 0) {
            let what = "an L2 entry is wrong about whether its cluster may be written";
            self.faults.add("copied-flag", what, at);
        }
    }

    fn packed(&mut self, entry: u64, bits: u64, at: u64) {
        if entry & COPIED != 0 {
            self.damaged("a compressed cluster claims that it may be written", at);
        }
        if bits != 0 || self.header.external_data {
            self.damaged("a compressed cluster is where none may be", at);
        }
        let split = 62 - (self.header.cluster_bits - 8);
        let host = entry & ((1 << split) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> split;
        let len = (sectors + 1) * 512 - host % 512;
        take(self.uses, self.faults, self.len, (host, len), Kind::DATA, self.times);
    }

    fn damaged(&mut self, what: &'static str, at: u64) {
        self.faults.add("cluster-damaged", what, at);
    }
}
