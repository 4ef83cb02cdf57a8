//! Checks of a QCOW2 image: what its tables use, against its refcounts. The verdicts are those of
//! `qemu-img check`.

mod refcounts;
mod snapshots;
mod uses;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use self::refcounts::Refcounts;
use self::uses::{Kind, Uses};
use super::disk::{Qcow2Disk, read, read_header};
use super::header::Header;
use crate::finding::Findings;
use crate::{Error, ReadAt, Result};

/// Three bytes are kept for a cluster of the file; beyond so many (1 TiB at the usual size) the
/// refcounts are not checked.
const MAX_CLUSTERS: u64 = 16 << 20;

/// How many entries the L1 tables of all snapshots and the tables of all bitmaps may have
/// together: they can lie on one another, and a small file would keep us busy for days.
const MAX_ENTRIES: u64 = 64 << 20;

/// How many bytes of a table are read at once.
const PIECE: u64 = 64 << 10;

/// Examines one image, without its backing file.
///
/// A table that cannot be read is passed over here and there; the report would be of an image that
/// is not there, and the error comes in its place.
pub(crate) fn examine(file: Arc<dyn ReadAt>, findings: &mut Findings) -> Result<()> {
    let file = Arc::new(Remembering { file, failure: OnceLock::new() });
    let result = examine_tables(Arc::clone(&file) as Arc<dyn ReadAt>, findings);
    match file.failure.get() {
        Some((kind, text)) => {
            let failure = io::Error::new(*kind, text.clone());
            Err(Error::io("cannot read the QCOW2 image", failure))
        }
        None => result,
    }
}

/// Keeps the first failure that is not about the end of the file.
#[derive(Debug)]
struct Remembering {
    file: Arc<dyn ReadAt>,
    failure: OnceLock<(io::ErrorKind, String)>,
}

impl ReadAt for Remembering {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset).inspect_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                self.failure.get_or_init(|| (error.kind(), error.to_string()));
            }
        })
    }

    fn byte_len(&self) -> io::Result<u64> {
        self.file.byte_len()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(offset)
    }
}

fn examine_tables(file: Arc<dyn ReadAt>, findings: &mut Findings) -> Result<()> {
    let header = read_header(&file, findings)?;
    let disk = Qcow2Disk::with_header(Arc::clone(&file), header, None, None, findings)?;
    let (header, len) = (disk.header().clone(), disk.len);
    // The L1 table is read again, in pieces: it may have entries beyond those of the disk.
    drop(disk);
    let clusters = len.div_ceil(1 << header.cluster_bits);
    if clusters > MAX_CLUSTERS {
        findings.note("qcow2-refcounts", "the file is too long: its refcounts were not checked");
        return Ok(());
    }
    let mut check = Check {
        uses: Uses::new(1 << header.cluster_bits, clusters),
        file,
        header,
        len,
        faults: Faults::default(),
        budget: MAX_ENTRIES,
    };
    let whole = check.all();
    check.faults.report(findings);
    if whole.is_none() {
        findings.note("qcow2-refcounts", "too many tables: the refcounts were not checked");
    }
    Ok(())
}

struct Check {
    file: Arc<dyn ReadAt>,
    header: Header,
    /// The length of the file.
    len: u64,
    uses: Uses,
    faults: Faults,
    /// How many entries of tables may still be looked at.
    budget: u64,
}

impl Check {
    /// Everything; `None` if there is more than is looked at.
    fn all(&mut self) -> Option<()> {
        let (size, header) = (self.uses.cluster(), self.header.clone());
        self.take(0, size, Kind::FIXED);
        Refcounts::new(&self.file, &header, self.len).mark(&mut self.uses, &mut self.faults);
        self.l1(header.l1_offset, header.l1_size, Kind::TABLE | Kind::ACTIVE)?;
        self.snapshots()?;
        self.bitmaps()?;
        self.l2_tables();
        self.compare();
        Some(())
    }

    /// Counts a use of the `len` bytes at `at`, once.
    fn take(&mut self, at: u64, len: u64, kind: Kind) {
        take(&mut self.uses, &mut self.faults, self.len, (at, len), kind, 1);
    }

    /// Hands over the entries of a table; what lies past the end of the file is not handed over.
    /// `None` if there are more entries than are looked at.
    fn entries(
        &mut self,
        at: u64,
        count: u64,
        visit: &mut dyn FnMut(&mut Self, u64, u64),
    ) -> Option<()> {
        self.budget = self.budget.checked_sub(count)?;
        let file = Arc::clone(&self.file);
        each_entry(&file, self.len, at, count, &mut |place, entry| visit(self, place, entry));
        Some(())
    }

    /// An L1 table and the clusters of the L2 tables that it names.
    fn l1(&mut self, at: u64, entries: u32, kind: Kind) -> Option<()> {
        const RESERVED: u64 = 0x7f00_0000_0000_01ff;
        self.take(at, u64::from(entries) * 8, Kind::FIXED);
        self.entries(at, entries.into(), &mut |check, place, entry| {
            let (table, size) = (entry & walk::OFFSET, check.uses.cluster());
            if entry & RESERVED != 0 {
                let what = "an entry of an L1 table has bits that are reserved";
                check.faults.add("table-reserved", what, place);
            }
            if entry == 0 {
                return;
            }
            if table == 0 {
                let what = "an entry of an L1 table is not zero, and names no table";
                check.faults.add("table-reserved", what, place);
                return;
            }
            if !table.is_multiple_of(size) {
                let what = "an L2 table does not begin at a cluster";
                check.faults.add("table-unaligned", what, place);
                return;
            }
            check.take(table, size, kind);
            let copied = entry & walk::COPIED != 0;
            if kind.has(Kind::ACTIVE) && copied != check.uses.has(table, Kind::ONE) {
                let what = "an L1 entry is wrong about whether its table may be written";
                check.faults.add("copied-flag", what, place);
            }
        })
    }

    /// The uses against the refcounts.
    fn compare(&mut self) {
        let Self { file, header, uses, faults, .. } = self;
        let refcounts = Refcounts::new(file, header, self.len);
        refcounts.each(uses.len(), &mut |cluster, stored| {
            let (used, at) = (uses.count(cluster), cluster << header.cluster_bits);
            let enough = stored >= u64::from(used);
            if used > 1 && !enough || uses.collides(cluster) {
                faults.add("cluster-overlap", "a cluster is used for two things", at);
            }
            if !enough {
                faults.add("refcount-low", "a cluster has a refcount below its use", at);
            } else if stored > u64::from(used) && used < u16::MAX {
                faults.leak(at);
            }
        });
    }
}

/// Counts `times` uses of the `range` (its start, its length) for `kind`.
fn take(uses: &mut Uses, faults: &mut Faults, end: u64, range: (u64, u64), kind: Kind, times: u16) {
    let (at, len) = range;
    // The last cluster of a file may be cut.
    let limit = end.saturating_add(uses.cluster() - 1);
    if at >= end || at.checked_add(len).is_none_or(|until| until > limit) {
        let (code, what) = if kind.has(Kind::DATA) {
            ("cluster-outside", "a cluster lies past the end of the file")
        } else {
            ("table-outside", "a table lies past the end of the file")
        };
        faults.add(code, what, at);
    }
    uses.add(at, len, kind, times);
}

/// Hands over place and value of each entry of the table at `at`, as far as the file has it.
/// Entries in holes of the file are zero, and may be left out.
fn each_entry(
    file: &dyn ReadAt,
    end: u64,
    mut at: u64,
    count: u64,
    visit: &mut dyn FnMut(u64, u64),
) {
    let end = at.saturating_add(count.saturating_mul(8)).min(end);
    let mut piece = Vec::new();
    while at < end {
        let Some(from) = skip_hole(file, at) else { return };
        // Entries begin where the table does, whatever the hole is aligned to.
        at += from.saturating_sub(at) / 8 * 8;
        let len = end.saturating_sub(at).min(PIECE) / 8 * 8;
        if len == 0 {
            return;
        }
        piece.resize(usize::try_from(len).unwrap_or(0), 0);
        if read(file, &mut piece, at).is_err() {
            return;
        }
        for (place, entry) in (at..).step_by(8).zip(piece.as_chunks::<8>().0) {
            visit(place, u64::from_be_bytes(*entry));
        }
        at += len;
    }
}

/// Where the file has data, at or after `at`; `None` for nowhere.
fn skip_hole(file: &dyn ReadAt, at: u64) -> Option<u64> {
    file.next_data(at).map_or(Some(at), |data| data.map(|range| range.start.max(at)))
}

/// What is wrong, by its code: one finding for each, or a damaged table would fill the report.
#[derive(Default)]
struct Faults {
    list: BTreeMap<&'static str, Fault>,
    leaked: Option<(u64, u64)>,
    /// Entries with a bit that has no meaning there, and no effect.
    odd: Option<(u64, u64)>,
}

struct Fault {
    what: &'static str,
    times: u64,
    /// Where it was met first.
    at: u64,
}

impl Faults {
    fn add(&mut self, code: &'static str, what: &'static str, at: u64) {
        self.list.entry(code).or_insert(Fault { what, times: 0, at }).times += 1;
    }

    /// A cluster with a refcount that nothing uses, or not so often.
    fn leak(&mut self, at: u64) {
        self.leaked = Some(self.leaked.map_or((1, at), |(times, first)| (times + 1, first)));
    }

    /// An extended entry whose bit zero is set: reserved, and nobody looks at it.
    fn odd(&mut self, at: u64) {
        self.odd = Some(self.odd.map_or((1, at), |(times, first)| (times + 1, first)));
    }

    fn report(&self, findings: &mut Findings) {
        for (code, fault) in &self.list {
            let more = match fault.times {
                1 => String::new(),
                times => format!(", the first of {times} such"),
            };
            findings.corrupt(code, format!("{}{more}", fault.what), Some(fault.at));
        }
        if let Some((leaked, at)) = self.leaked {
            findings.note_at("refcount-leak", format!("{leaked} clusters are leaked"), at);
        }
        if let Some((times, at)) = self.odd {
            let message = format!("{times} extended L2 entries have bit 0 set, which is reserved");
            findings.note_at("zero-bit", message, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::finding::Policy;

    /// Fails where data would be.
    #[derive(Debug)]
    struct BadSector(Vec<u8>, u64);

    impl ReadAt for BadSector {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            if (offset..offset + buf.len() as u64).contains(&self.1) {
                return Err(io::Error::other("a bad sector"));
            }
            self.0.read_exact_at(buf, offset)
        }

        fn byte_len(&self) -> io::Result<u64> {
            self.0.byte_len()
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_is_no_clean_image() {
        let mut image = vec![0_u8; 6 * 65536];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        image[23] = 16;
        image[24..32].copy_from_slice(&(1_u64 << 20).to_be_bytes());
        image[39] = 1;
        image[40..48].copy_from_slice(&0x30000_u64.to_be_bytes());
        image[48..56].copy_from_slice(&0x10000_u64.to_be_bytes());
        image[59] = 1;
        image[0x10000..0x10008].copy_from_slice(&0x20000_u64.to_be_bytes());
        for cluster in 0..5 {
            image[0x20000 + 2 * cluster + 1] = 1;
        }
        image[0x30000..0x30008].copy_from_slice(&0x8000_0000_0004_0000_u64.to_be_bytes());
        let mut findings = Findings::new(Policy::Lenient);
        examine(Arc::new(image.clone()), &mut findings).unwrap();
        assert_eq!(findings.list(), []);
        for at in [0x10000, 0x20000, 0x30000, 0x40000] {
            let file = Arc::new(BadSector(image.clone(), at));
            let error = examine(file, &mut Findings::new(Policy::Lenient)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{at:#x}");
        }
    }

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
