//! The lists of internal snapshots and of persistent bitmaps, and what their entries use.

use super::Check;
use super::uses::Kind;
use crate::qcow2::disk::read;
use crate::vhd::Fields;

/// The limits of QEMU: how many entries a list has, and how much data a snapshot adds to its own.
const MAX_SNAPSHOTS: u32 = 65_536;
const MAX_BITMAPS: u32 = 65_535;
const MAX_EXTRA: u64 = 1024;
/// The longest bitmap: 512 MiB.
const MAX_BITMAP: u64 = 512 << 20;
/// What a snapshot of version 3 adds at least: two sizes.
const MIN_EXTRA: u64 = 16;
/// The longest L1 table, as in QEMU: 32 MiB.
const MAX_L1: u32 = 4 << 20;

impl Check {
    /// The list of snapshots, and the L1 table of each; `None` if that is too much to look at.
    pub(super) fn snapshots(&mut self) -> Option<()> {
        let (number, start) = (self.header.snapshots, self.header.snapshots_offset);
        if number == 0 {
            return Some(());
        }
        if number > MAX_SNAPSHOTS || !start.is_multiple_of(self.uses.cluster()) {
            self.bad_snapshot("the list of snapshots is too long or not at a cluster", start);
            return Some(());
        }
        let mut at = start;
        for _ in 0..number {
            let Some(head) = self.head::<40>(at) else {
                self.bad_snapshot("the file ends within the list of snapshots", at);
                return Some(());
            };
            let (extra, id, name) = (head.u32_at(36), head.u16_at(12), head.u16_at(14));
            let extra = u64::from(extra);
            if extra > MAX_EXTRA || self.header.version >= 3 && extra < MIN_EXTRA {
                self.bad_snapshot("a snapshot has an odd amount of extra data", at);
            }
            let (table, entries) = (head.u64_at(0), head.u32_at(8));
            if !table.is_multiple_of(self.uses.cluster()) || entries > MAX_L1 {
                self.bad_snapshot("the table of a snapshot is too long or not at a cluster", at);
            } else {
                self.l1(table, entries, Kind::TABLE)?;
            }
            let names = extra + u64::from(id) + u64::from(name);
            at = at.saturating_add((40 + names).next_multiple_of(8));
        }
        self.take(start, at - start, Kind::FIXED);
        Some(())
    }

    /// The list of bitmaps, the table and the clusters of each; `None` if that is too much to
    /// look at.
    pub(super) fn bitmaps(&mut self) -> Option<()> {
        let Some(list) = self.header.bitmap_list else { return Some(()) };
        let end = list.offset.saturating_add(list.len);
        self.take(list.offset, list.len, Kind::FIXED);
        if list.bitmaps > MAX_BITMAPS || !list.offset.is_multiple_of(self.uses.cluster()) {
            self.bad_bitmap("the list of bitmaps is too long or not at a cluster", list.offset);
            return Some(());
        }
        let mut at = list.offset;
        for _ in 0..list.bitmaps {
            let Some(head) = self.head::<24>(at).filter(|_| at + 24 <= end) else {
                self.bad_bitmap("the list of bitmaps ends early", at);
                return Some(());
            };
            self.bitmap(&head, at)?;
            let names = u64::from(head.u32_at(20)) + u64::from(head.u16_at(18));
            at = at.saturating_add((24 + names).next_multiple_of(8));
        }
        if at != end {
            self.bad_bitmap("the list of bitmaps does not end with the last of them", at);
        }
        Some(())
    }

    /// The table of one bitmap, and its clusters.
    fn bitmap(&mut self, head: &[u8], at: u64) -> Option<()> {
        const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
        const ALL_ONES: u64 = 1;
        let size = self.uses.cluster();
        let (table, entries) = (head.u64_at(0), head.u32_at(8));
        if let Some(what) = self.odd_bitmap(head) {
            self.bad_bitmap(what, at);
            return Some(());
        }
        self.take(table, u64::from(entries) * 8, Kind::FIXED);
        self.entries(table, entries.into(), &mut |check, place, entry| {
            let host = entry & OFFSET;
            let odd = entry & !(OFFSET | ALL_ONES) != 0 || host != 0 && entry & ALL_ONES != 0;
            if odd || !host.is_multiple_of(size) {
                check.bad_bitmap("an entry of a bitmap's table is none", place);
            } else if host != 0 {
                check.take(host, size, Kind::FIXED);
            }
        })
    }

    /// What is wrong with the entry of a bitmap in the list.
    fn odd_bitmap(&self, head: &[u8]) -> Option<&'static str> {
        const IN_USE: u32 = 1;
        const KNOWN: u32 = 0b11;
        const TRACKS_WRITES: u8 = 1;
        let (table, entries, flags) = (head.u64_at(0), head.u32_at(8), head.u32_at(12));
        let (grain, name, extra) = (head.u8_at(17), head.u16_at(18), head.u32_at(20));
        let size = self.uses.cluster();
        if table == 0 || !table.is_multiple_of(size) {
            return Some("the table of a bitmap does not begin at a cluster");
        }
        if flags & !KNOWN != 0 || head.u8_at(16) != TRACKS_WRITES || extra != 0 {
            return Some("a bitmap is of an unknown kind");
        }
        if !(9..=31).contains(&grain) || !(1..=1023).contains(&name) {
            return Some("a bitmap has an odd granularity or name");
        }
        let bytes = u64::from(entries) * size;
        if entries == 0 || bytes > MAX_BITMAP {
            return Some("a bitmap is empty or too long");
        }
        // One that was in use is not read, and may be of another size of the disk.
        let bits = self.header.size.div_ceil(1 << grain);
        let needed = (bits.div_ceil(64) * 8).div_ceil(size);
        (flags & IN_USE == 0 && u64::from(entries) != needed)
            .then_some("a bitmap is too short or too long for the disk")
    }

    /// The first bytes of an entry of a list.
    fn head<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut head = [0; N];
        read(&self.file, &mut head, at).ok().map(|()| head)
    }

    fn bad_snapshot(&mut self, what: &'static str, at: u64) {
        self.faults.add("snapshot-damaged", what, at);
    }

    fn bad_bitmap(&mut self, what: &'static str, at: u64) {
        self.faults.add("bitmap-damaged", what, at);
    }
}
