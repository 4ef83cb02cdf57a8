//! Broken images: what one wrong number does.

use crate::Class::{self, Clean, Corrupt, Leaks};
use crate::common::tool;
use crate::{Folder, make, ours, qemu};

const MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const CLUSTER: usize = 64 << 10;
const FAR: u64 = 1 << 40;

/// An image of clusters of 64 KiB and refcounts of 16 bits, and where its parts are.
#[derive(Clone)]
struct Parts(Vec<u8>);

impl Parts {
    fn word(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn put(&mut self, at: usize, n: usize, value: u64) {
        self.0[at..at + n].copy_from_slice(&value.to_be_bytes()[8 - n..]);
    }

    fn set(&mut self, at: usize, bits: u8) {
        self.0[at] |= bits;
    }

    fn clear(&mut self, at: usize, bits: u8) {
        self.0[at] &= !bits;
    }

    fn cut(&mut self, len: usize) {
        assert!(len < self.0.len());
        self.0.truncate(len);
    }

    fn l1(&self) -> usize {
        self.word(40) as usize
    }

    fn l2(&self) -> usize {
        (self.word(self.l1()) & MASK) as usize
    }

    /// Where the L2 entry of the nth cluster is.
    fn entry(&self, n: usize) -> usize {
        self.l2() + 8 * n
    }

    /// Where the nth cluster's data is.
    fn host(&self, n: usize) -> usize {
        (self.word(self.entry(n)) & MASK) as usize
    }

    fn table(&self) -> usize {
        self.word(48) as usize
    }

    fn block(&self) -> usize {
        self.word(self.table()) as usize
    }

    fn set_refcount(&mut self, at: usize, count: u64) {
        self.put(self.block() + 2 * (at / CLUSTER), 2, count);
    }

    fn snapshots(&self) -> usize {
        self.word(64) as usize
    }

    /// Where the first snapshot's L1 table is.
    fn snapshot_l1(&self) -> usize {
        self.word(self.snapshots()) as usize
    }

    /// Where the header extension of bitmaps has its fields.
    fn bitmaps(&self) -> usize {
        self.0.windows(4).position(|w| w == [0x23, 0x85, 0x28, 0x75]).unwrap() + 8
    }

    fn directory(&self) -> usize {
        self.word(self.bitmaps() + 16) as usize
    }

    /// Where the first bitmap's table is.
    fn bitmap(&self) -> usize {
        self.word(self.directory()) as usize
    }
}

/// What is done, what both say of it, and a code that we have for it.
type Damage = (&'static str, fn(&mut Parts), Class, &'static str);

/// Makes the image, breaks it in each way, and compares.
fn table(options: &str, commands: &[&str], damages: &[Damage]) {
    let folder = Folder::new();
    let Some(image) = make(&folder, options, "5M", commands) else { return };
    let whole = Parts(std::fs::read(&image).unwrap());
    let mut wrong = Vec::new();
    for (what, damage, expected, code) in damages {
        let mut parts = whole.clone();
        damage(&mut parts);
        std::fs::write(&image, &parts.0).unwrap();
        let (class, codes) = ours(&image);
        let Some(theirs) = qemu(&image) else { return };
        println!("| {options} | {what} | {theirs:?} | {class:?} | {codes:?} |");
        if (class, theirs) != (*expected, *expected) || !(code.is_empty() || codes.contains(code)) {
            wrong.push(format!("{what}: qemu {theirs:?}, we {class:?} {codes:?}"));
        }
    }
    assert!(wrong.is_empty(), "{options}: {wrong:#?}");
}

const DATA: &[&str] = &["io write -P 7 0 256k", "io write -P 8 1M 64k"];

#[rustfmt::skip] // A table.
const REFCOUNTS: &[Damage] = &[
    ("nothing", |_| {}, Clean, ""),
    ("data: refcount 0", |p| p.set_refcount(p.host(1), 0), Corrupt, "refcount-low"),
    ("data: refcount 2", |p| p.set_refcount(p.host(1), 2), Corrupt, "copied-flag"),
    ("header: refcount 0", |p| p.set_refcount(0, 0), Corrupt, "refcount-low"),
    ("L1: refcount 2", |p| p.set_refcount(p.l1(), 2), Leaks, "refcount-leak"),
    ("L2: refcount 0", |p| p.set_refcount(p.l2(), 0), Corrupt, "refcount-low"),
    ("refcount block: refcount 0", |p| p.set_refcount(p.block(), 0), Corrupt, "refcount-low"),
    ("an L2 entry lost", |p| p.put(p.entry(1), 8, 0), Leaks, "refcount-leak"),
    ("the L2 table lost", |p| p.put(p.l1(), 8, 0), Leaks, "refcount-leak"),
    ("free clusters behind the end", |p| p.0.resize(p.0.len() + 3 * CLUSTER, 0), Clean, ""),
    ("no refcount table", |p| p.put(56, 4, 0), Corrupt, ""),
    ("refcount table past the end", |p| p.put(48, 8, FAR), Corrupt, ""),
    ("refcount table unaligned", |p| p.put(48, 8, p.table() as u64 + 512), Corrupt, ""),
    ("refcount block 0", |p| p.put(p.table(), 8, 0), Corrupt, "refcount-low"),
    ("refcount block unaligned", |p| p.set(p.table() + 6, 2), Corrupt, "refcounts-unaligned"),
    ("refcount block past the end", |p| p.put(p.table(), 8, FAR), Corrupt, "table-outside"),
    ("refcount block: reserved bits", |p| p.set(p.table() + 7, 2), Corrupt, "table-reserved"),
    ("refcount block on its table", |p| p.put(p.table(), 8, p.table() as u64), Corrupt, "cluster-overlap"),
    ("refcount block twice", |p| p.put(p.table() + 8, 8, p.block() as u64), Corrupt, "cluster-overlap"),
    ("refcount block in data", |p| p.put(p.table() + 8, 8, p.host(0) as u64), Corrupt, "cluster-overlap"),
];

#[test]
fn refcounts() {
    for options in ["compat=1.1", "compat=0.10", "lazy_refcounts=on"] {
        table(options, DATA, REFCOUNTS);
    }
}

#[rustfmt::skip] // A table.
const TABLES: &[Damage] = &[
    ("L2 entry past the end", |p| p.put(p.entry(0), 8, FAR | COPIED), Corrupt, "cluster-outside"),
    ("L2 entry just past the end", |p| {
        let end = p.0.len().next_multiple_of(CLUSTER) as u64;
        p.put(p.entry(0), 8, end | COPIED);
    }, Corrupt, "cluster-outside"),
    ("L2 entry past the end of the disk", |p| p.put(p.entry(100), 8, FAR | COPIED), Corrupt, "cluster-outside"),
    ("L2 entry unaligned", |p| p.set(p.entry(0) + 6, 2), Corrupt, "cluster-damaged"),
    ("L2 entry: reserved bits", |p| p.set(p.entry(0) + 7, 4), Corrupt, "table-reserved"),
    ("two L2 entries, one cluster", |p| p.put(p.entry(1), 8, p.word(p.entry(0))), Corrupt, "cluster-overlap"),
    ("the same, and counted", |p| {
        let host = p.host(0);
        p.put(p.entry(0), 8, host as u64);
        p.put(p.entry(1), 8, host as u64);
        p.set_refcount(host, 2);
    }, Leaks, "refcount-leak"),
    ("L2 entry without COPIED", |p| p.clear(p.entry(1), 0x80), Corrupt, "copied-flag"),
    ("L1 entry without COPIED", |p| p.clear(p.l1(), 0x80), Corrupt, "copied-flag"),
    ("L1 entry: reserved bits", |p| p.set(p.l1() + 7, 4), Corrupt, "table-reserved"),
    ("L1 entry unaligned", |p| p.set(p.l1() + 6, 2), Corrupt, "l2-unaligned"),
    ("L1 entry past the end", |p| p.put(p.l1(), 8, FAR | COPIED), Corrupt, "l2-outside"),
    ("L2 table on the header", |p| p.put(p.l1(), 8, COPIED | 1), Corrupt, ""),
    ("L2 table on the L1 table", |p| p.put(p.l1(), 8, p.l1() as u64 | COPIED), Corrupt, "cluster-overlap"),
    ("L2 table on refcounts", |p| p.put(p.l1(), 8, p.block() as u64 | COPIED), Corrupt, "cluster-overlap"),
    ("data on the L2 table", |p| p.put(p.entry(1), 8, p.l2() as u64 | COPIED), Corrupt, "cluster-overlap"),
    ("data on the L1 table", |p| p.put(p.entry(1), 8, p.l1() as u64 | COPIED), Corrupt, "cluster-overlap"),
    ("L1 table past the end", |p| p.put(40, 8, FAR), Corrupt, ""),
    ("L1 table unaligned", |p| p.put(40, 8, p.l1() as u64 + 512), Corrupt, ""),
    ("L1 table on the refcount table", |p| p.put(40, 8, p.table() as u64), Corrupt, ""),
    ("L1 table too small", |p| p.put(36, 4, 0), Corrupt, ""),
    ("file cut in its data", |p| p.cut(p.host(2)), Corrupt, "cluster-outside"),
    ("file cut in the L2 table", |p| p.cut(p.l2() + 8), Corrupt, ""),
    ("file cut in the L1 table", |p| p.cut(p.l1() + 4), Corrupt, ""),
    ("file cut in its last cluster", |p| {
        let last = (p.0.len() - 1) / CLUSTER * CLUSTER;
        p.cut(last + CLUSTER / 2);
    }, Clean, ""),
    ("file cut in the header", |p| p.cut(100), Corrupt, ""),
];

#[test]
fn l1_and_l2_tables() {
    table("compat=1.1", DATA, TABLES);
}

#[rustfmt::skip] // A table.
const MARKS: &[Damage] = &[
    ("dirty", |p| p.set(79, 1), Clean, ""),
    ("dirty, and stale", |p| { p.set(79, 1); p.set_refcount(p.host(0), 0); }, Corrupt, "refcount-low"),
    ("corrupt", |p| p.set(79, 2), Clean, ""),
    ("corrupt, and leaking", |p| { p.set(79, 2); p.put(p.entry(0), 8, 0); }, Leaks, ""),
    ("unknown feature", |p| p.set(72, 0x40), Corrupt, "refused"),
];

#[test]
fn marks_of_the_header() {
    table("lazy_refcounts=on", DATA, MARKS);
}

#[rustfmt::skip] // A table.
const COMPRESSED: &[Damage] = &[
    ("nothing", |_| {}, Clean, ""),
    ("compressed past the end", |p| p.set(p.entry(0) + 3, 0x40), Corrupt, "cluster-outside"),
    ("compressed with COPIED", |p| p.set(p.entry(0), 0x80), Corrupt, "cluster-damaged"),
    ("compressed on the L1 table", |p| {
        let entry = p.word(p.entry(0)) & !0xffff_ffff | p.l1() as u64;
        p.put(p.entry(0), 8, entry);
    }, Corrupt, "cluster-overlap"),
    ("compressed lost", |p| p.put(p.entry(0), 8, 0), Leaks, "refcount-leak"),
];

#[test]
fn compressed_clusters() {
    table("compat=1.1", &["io write -c -P 5 0 64k", "io write -c -P 6 64k 64k"], COMPRESSED);
}

#[rustfmt::skip] // A table.
const SNAPSHOTS: &[Damage] = &[
    ("nothing", |_| {}, Clean, ""),
    ("shared data with COPIED", |p| p.set(p.entry(2), 0x80), Corrupt, "copied-flag"),
    ("shared data: refcount 1", |p| p.set_refcount(p.host(2), 1), Corrupt, "refcount-low"),
    ("shared data: refcount 5", |p| p.set_refcount(p.host(2), 5), Leaks, "refcount-leak"),
    ("a snapshot lost", |p| p.put(60, 4, 1), Leaks, "refcount-leak"),
    ("more snapshots than there are", |p| p.put(60, 4, 100), Corrupt, "snapshot-damaged"),
    ("snapshot list past the end", |p| p.put(64, 8, FAR), Corrupt, "snapshot-damaged"),
    ("snapshot list unaligned", |p| p.put(64, 8, p.snapshots() as u64 + 8), Corrupt, "snapshot-damaged"),
    ("snapshot L1 unaligned", |p| p.set(p.snapshots() + 6, 2), Corrupt, "snapshot-damaged"),
    ("snapshot L1 past the end", |p| p.set(p.snapshots() + 2, 2), Corrupt, "table-outside"),
    ("snapshot L1 too long", |p| p.put(p.snapshots() + 8, 4, 0xff_ffff), Corrupt, "snapshot-damaged"),
    ("snapshot without extra data", |p| p.put(p.snapshots() + 36, 4, 0), Corrupt, "snapshot-damaged"),
    ("snapshot L2 unaligned", |p| p.set(p.snapshot_l1() + 6, 2), Corrupt, "table-unaligned"),
    ("snapshot L2 lost", |p| p.put(p.snapshot_l1(), 8, 0), Leaks, "refcount-leak"),
];

#[test]
fn snapshots() {
    let more = [
        "snapshot -c one IMG",
        "io write -P 3 0 64k",
        "snapshot -c two IMG",
        "io write -P 4 64k 64k",
    ];
    table("compat=1.1", &[DATA, &more].concat(), SNAPSHOTS);
}

#[rustfmt::skip] // A table.
const BITMAPS: &[Damage] = &[
    ("nothing", |_| {}, Clean, ""),
    ("a leak beside bitmaps", |p| p.put(p.entry(0), 8, 0), Leaks, "refcount-leak"),
    ("bitmaps not current", |p| p.put(88, 8, 0), Leaks, "refcount-leak"),
    ("bitmap list: refcount 0", |p| p.set_refcount(p.directory(), 0), Corrupt, "refcount-low"),
    ("bitmap table unaligned", |p| p.set(p.directory() + 6, 2), Corrupt, "bitmap-damaged"),
    ("bitmap table past the end", |p| p.set(p.directory() + 2, 2), Corrupt, "table-outside"),
    ("bitmap unaligned", |p| p.put(p.bitmap(), 8, p.host(0) as u64 + 512), Corrupt, "bitmap-damaged"),
    ("bitmap on data", |p| p.put(p.bitmap(), 8, p.host(0) as u64), Corrupt, "cluster-overlap"),
    ("bitmap list past the end", |p| p.put(p.bitmaps() + 16, 8, FAR), Corrupt, "table-outside"),
    ("bitmap list unaligned", |p| p.put(p.bitmaps() + 16, 8, p.directory() as u64 + 8), Corrupt, "bitmap-damaged"),
];

#[test]
fn bitmaps() {
    table("compat=1.1", &[DATA, &["bitmap --add IMG a", "io write -P 1 3M 64k"]].concat(), BITMAPS);
}

// Entries have 16 bytes here: the second cluster's is that of index 2.
#[rustfmt::skip] // A table.
const EXTENDED: &[Damage] = &[
    ("nothing", |_| {}, Clean, ""),
    ("a part stored and zero", |p| p.set(p.entry(0) + 11, 1), Corrupt, "cluster-damaged"),
    ("parts without a cluster", |p| p.put(p.entry(2), 8, 0), Corrupt, "cluster-damaged"),
    ("entry and parts lost", |p| { p.put(p.entry(2), 8, 0); p.put(p.entry(3), 8, 0); }, Leaks, "refcount-leak"),
    ("the zero bit", |p| p.set(p.entry(2) + 7, 1), Clean, ""),
    ("entry without COPIED", |p| p.clear(p.entry(2), 0x80), Corrupt, "copied-flag"),
];

#[test]
fn extended_entries() {
    table("extended_l2=on", DATA, EXTENDED);
}

#[test]
fn zero_bits_of_version_2_are_found_where_qemu_img_passes_over_them() {
    let folder = Folder::new();
    let Some(image) = make(&folder, "compat=0.10", "5M", DATA) else { return };
    let mut parts = Parts(std::fs::read(&image).unwrap());
    parts.set(parts.entry(1) + 7, 1);
    std::fs::write(&image, &parts.0).unwrap();
    assert_eq!(ours(&image), (Corrupt, vec!["zero-in-version-2"]));
    let read = ["-r", "-f", "qcow2", "-c", "read 64k 64k", image.to_str().unwrap()];
    assert!(!tool("qemu-io", &read).unwrap().status.success(), "QEMU reads it");
}
