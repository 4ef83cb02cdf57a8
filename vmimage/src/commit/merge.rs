//! The merge into a dynamic or differencing parent, block by block.

use std::sync::Arc;

use super::held::{Held, Run};
use super::journal::{Journal, Kind, Pair};
use super::{Done, Task};
use crate::finding::{Findings, Policy};
use crate::store::Writer;
use crate::vhd::file::VhdFile;
use crate::vhd::table::Table;
use crate::vhd::{Batmap, DynamicHeader, Footer, Geometry, MAX_BAT_ENTRIES, SECTOR, checksum, put};
use crate::{Error, ErrorKind, Result};

/// How many new blocks share two syncs. Few in tests, whose disks are small.
const BATCH: usize = if cfg!(test) { 3 } else { 64 };
/// How much is copied at once.
const PIECE: usize = 256 * 1024;
/// New blocks begin so that their data is aligned to this, as tapdisk aligns it.
const PAGE: u64 = 4096;

/// The parent while it is changed.
pub(super) struct Merge<'a> {
    task: &'a Task<'a>,
    held: Held<'a>,
    parent: &'a Writer,
    header: DynamicHeader,
    header_at: u64,
    /// The footer's bytes as they are now.
    footer: [u8; Footer::LEN],
    /// The parent's size when this run began, and the size that it will have.
    old_size: u64,
    size: u64,
    bat: Table,
    /// Entries from here on lie in the padding of the BAT and mean nothing yet.
    valid: u64,
    batmap: Option<Batmap>,
    batmap_changed: bool,
    /// Where the next new block may begin.
    cursor: u64,
    resumed: bool,
    journal: Option<Journal>,
    /// New blocks whose BAT entries are not written yet.
    queue: Vec<(u64, u32)>,
    buf: Vec<u8>,
    done: Done,
}

/// What is to be done, counted before anything is written.
struct Survey {
    new_blocks: u64,
    cursor: u64,
}

/// Merges the child of `task` into its sparse parent, whose file is `task.parent`.
pub(super) fn run(task: &Task<'_>, pair: &Pair) -> Result<Done> {
    let mut journal = Journal::resume(&task.journal, pair).map_err(|e| task.at_journal(e))?;
    if let Some(journal) = &mut journal {
        journal.replay(&task.parent)?;
    }
    let mut merge = Merge::load(task, journal)?;
    let survey = merge.survey()?;
    merge.begin(pair, &survey)?;
    merge.widen()?;
    let mut at = 0;
    while let Some(block) = merge.next_block(at)? {
        task.hooks.check()?;
        merge.block(block)?;
        at = block + 1;
    }
    merge.flush()?;
    merge.parent.sync()?;
    merge.grow()?;
    merge.write_batmap()?;
    merge.parent.sync()?;
    Ok(merge.done)
}

impl<'a> Merge<'a> {
    fn load(task: &'a Task<'a>, journal: Option<Journal>) -> Result<Self> {
        let parent = &task.parent;
        let mut findings = Findings::new(Policy::Strict);
        let file = VhdFile::open(Arc::clone(&parent.store) as _, None, &mut findings)?;
        let old_size = file.size();
        let header_at = file.footer.data_offset;
        let Some(sparse) = file.sparse else {
            return Err(Error::new(ErrorKind::Usage, "the parent changed its type"));
        };
        let footer = footer_bytes(parent, journal.is_some())?;
        let header = sparse.header;
        let size = task.child.size();
        let needed = entries(&header, size.max(old_size))?;
        let bat = Table::new(Arc::clone(&parent.store) as _, header.table_offset, needed);
        let resumed = journal.is_some();
        Ok(Self {
            task,
            held: Held::new(task.child)?,
            parent,
            valid: u64::from(header.max_table_entries),
            header,
            header_at,
            footer,
            old_size,
            size,
            bat,
            batmap: sparse.batmap,
            batmap_changed: false,
            cursor: 0,
            resumed,
            journal,
            queue: Vec::new(),
            buf: vec![0; PIECE],
            done: Done { resumed, ..Done::default() },
        })
    }

    fn block_size(&self) -> u64 {
        u64::from(self.header.block_size)
    }

    fn growing(&self) -> bool {
        self.size > self.old_size
    }

    /// Where the parent stores `block`, if it does.
    fn stored(&self, block: u64) -> Result<Option<u64>> {
        if block >= self.valid { Ok(None) } else { self.bat.block(block) }
    }

    /// The first block at or after `from` that may have to change: the child stores something of
    /// it, or it reaches past the end of a parent that grows.
    fn next_block(&self, from: u64) -> Result<Option<u64>> {
        let size = self.block_size();
        let next = self.held.next_stored(from * size)?.map(|at| at / size);
        let tail = (self.growing() && !self.old_size.is_multiple_of(size))
            .then(|| self.old_size / size)
            .filter(|&tail| tail >= from);
        let next = next.into_iter().chain(tail).min();
        Ok(next.filter(|&block| block * size < self.size))
    }

    /// Refuses what cannot be done, and counts, before anything is written.
    fn survey(&mut self) -> Result<Survey> {
        self.ensure_room()?;
        let stride = self.header.bitmap_len() + self.block_size();
        let floor = match &self.journal {
            Some(journal) => journal.floor,
            None => self.parent.len()?.saturating_sub(Footer::LEN as u64),
        };
        let mut cursor = floor.max(self.header.bat_end().unwrap_or(u64::MAX));
        let first_new = self.header.blocks_for(self.old_size);
        for block in self.bat.stored() {
            let (index, start) = block?;
            if index >= self.valid {
                break;
            }
            if index >= first_new && start < floor {
                return Err(Error::unsupported(
                    "the parent cannot grow: its allocation table has entries past its end; repair \
                     it, or flatten the chain into a new image instead",
                ));
            }
            cursor = cursor.max(start.saturating_add(stride));
        }
        let (mut new_blocks, mut at) = (0, 0);
        while let Some(block) = self.next_block(at)? {
            self.task.hooks.check()?;
            let end = ((block + 1) * self.block_size()).min(self.size);
            let runs = self.held.runs(block * self.block_size(), end)?;
            self.done.bytes_total += runs.iter().map(|r| r.end - r.start).sum::<u64>();
            new_blocks += u64::from(!runs.is_empty() && self.stored(block)?.is_none());
            at = block + 1;
        }
        Ok(Survey { new_blocks, cursor })
    }

    fn ensure_room(&self) -> Result<()> {
        let no = |why: &str| {
            Err(Error::unsupported(format!("{why}; flatten the chain into a new image instead")))
        };
        if self.size < self.old_size {
            return no("the child is smaller than its parent");
        }
        if !self.growing() {
            return Ok(());
        }
        if self.task.below > self.old_size {
            // The parent's end hides what lies below; grown, it would not any more.
            return no("the child is larger than its parent, below which is a larger disk");
        }
        let needed = self.header.blocks_for(self.size);
        if needed * 4 > self.header.bat_len() {
            return no("the child is larger than its parent, whose block allocation table is full");
        }
        let room = self.batmap.as_ref().map_or(u64::MAX, |b| u64::from(b.sectors));
        if Batmap::tap_sectors(self.size) > room {
            return no("the child is larger than its parent, whose batmap is full");
        }
        Ok(())
    }

    /// Where a new block begins that may not begin before `at`.
    fn place(&self, at: u64) -> u64 {
        let bitmap = self.header.bitmap_len();
        (at + bitmap).next_multiple_of(PAGE) - bitmap
    }

    /// Starts the journal and makes the file as long as it will be, its footer at the new end
    /// before anything lies on the old one.
    fn begin(&mut self, pair: &Pair, survey: &Survey) -> Result<()> {
        let stride = self.header.bitmap_len() + self.block_size();
        let mut end = survey.cursor;
        // Each new block ends where the next one is placed; all are placed alike.
        for _ in 0..survey.new_blocks {
            end = self.place(end) + stride;
        }
        if end.saturating_sub(stride) / SECTOR >= u64::from(u32::MAX) {
            let message = "the parent would grow beyond the 2 TiB of a VHD file; flatten the chain \
                           into a new image instead";
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        self.cursor = survey.cursor;
        if self.journal.is_none() {
            let floor = self.parent.len()? - Footer::LEN as u64;
            let journal = Journal::begin(&self.task.journal, pair, floor);
            self.journal = Some(journal.map_err(|e| self.task.at_journal(e))?);
        }
        let len = self.parent.len()?;
        let new_len = (end + Footer::LEN as u64).next_multiple_of(SECTOR);
        let new_len = new_len.max(len.next_multiple_of(SECTOR));
        let mut there = [0; Footer::LEN];
        if len == new_len {
            self.parent.read(&mut there, new_len - Footer::LEN as u64)?;
        } else {
            self.parent.set_len(new_len)?;
        }
        if there != self.footer || self.resumed {
            self.parent.write(&self.footer, new_len - Footer::LEN as u64)?;
            self.parent.sync()?;
        }
        Ok(())
    }

    /// Makes entries of the BAT's padding, where the grown disk needs them.
    fn widen(&mut self) -> Result<()> {
        let needed = self.header.blocks_for(self.size);
        if needed <= self.valid {
            return Ok(());
        }
        let unused = vec![0xff; ((needed - self.valid) * 4) as usize];
        self.parent.write(&unused, self.header.table_offset + self.valid * 4)?;
        self.parent.sync()?;
        // The field and the checksum are in the first of the header's two sectors.
        let mut raw = [0; DynamicHeader::LEN];
        self.parent.read(&mut raw, self.header_at)?;
        put(&mut raw, 28, &u32::try_from(needed).unwrap_or(u32::MAX).to_be_bytes());
        let sum = checksum(&[&raw[..36], &raw[40..]]);
        put(&mut raw, 36, &sum.to_be_bytes());
        self.change(&[(self.header_at, &raw[..SECTOR as usize])])?;
        self.parent.sync()?;
        self.valid = needed;
        Ok(())
    }

    /// Records changes of tables, and then does them in their order.
    fn change(&mut self, changes: &[(u64, &[u8])]) -> Result<()> {
        self.record(Kind::Table, changes)?;
        changes.iter().try_for_each(|(at, data)| self.parent.write(data, *at))
    }

    fn record(&mut self, kind: Kind, changes: &[(u64, &[u8])]) -> Result<()> {
        let Some(journal) = &mut self.journal else {
            return Err(Error::new(ErrorKind::Usage, "the commit has no journal"));
        };
        journal.record(kind, changes).map_err(|e| self.task.at_journal(e))
    }

    fn block(&mut self, block: u64) -> Result<()> {
        let base = block * self.block_size();
        let end = (base + self.block_size()).min(self.size);
        let runs = self.held.runs(base, end)?;
        match self.stored(block)? {
            Some(start) => self.overwrite(block, start, &runs, end),
            None if runs.is_empty() => Ok(()),
            None => self.append(block, &runs, end),
        }
    }

    /// A block that the parent stores: only sectors that the child holds are written, so that
    /// whatever becomes of them, the child's are read.
    fn overwrite(&mut self, block: u64, start: u64, runs: &[Run], end: u64) -> Result<()> {
        let base = block * self.block_size();
        let data = start + self.header.bitmap_len();
        let mut bits = self.bitmap(block, start)?;
        let old = bits.clone();
        for run in runs {
            self.copy(run, data + (run.start - base))?;
            set_bits(&mut bits, (run.start - base) / SECTOR, (run.end - base) / SECTOR);
        }
        // What lay past the parent's end was zero, whatever its block has there.
        for gap in gaps(runs, self.old_size.max(base), end) {
            self.zero(data + (gap.start - base), gap.end - gap.start)?;
            set_bits(&mut bits, (gap.start - base) / SECTOR, (gap.end - base) / SECTOR);
        }
        if bits != old {
            self.parent.write(&bits, start)?;
        }
        self.note_full(block, &bits);
        Ok(())
    }

    /// A block that the parent does not store yet: it is written where no entry points to.
    fn append(&mut self, block: u64, runs: &[Run], end: u64) -> Result<()> {
        let base = block * self.block_size();
        let start = self.place(self.cursor);
        let data = start + self.header.bitmap_len();
        // The old footer, or what an earlier attempt left.
        self.zero(self.cursor, start - self.cursor)?;
        self.cursor = data + self.block_size();
        if self.resumed {
            // An earlier attempt may have left another block's data here.
            for gap in gaps(runs, base, base + self.block_size()) {
                self.zero(data + (gap.start - base), gap.end - gap.start)?;
            }
        }
        let mut bits = vec![0; usize::try_from(self.header.bitmap_len()).unwrap_or(0)];
        for run in runs {
            self.copy(run, data + (run.start - base))?;
            set_bits(&mut bits, (run.start - base) / SECTOR, (run.end - base) / SECTOR);
        }
        // A last block that is held up to the end of the disk is full: past it there is nothing.
        if end < base + self.block_size() && is_full(&bits, (end - base) / SECTOR) {
            set_bits(&mut bits, (end - base) / SECTOR, self.block_size() / SECTOR);
        }
        self.parent.write(&bits, start)?;
        self.note_full(block, &bits);
        self.done.new_blocks += 1;
        self.queue.push((block, u32::try_from(start / SECTOR).unwrap_or(u32::MAX)));
        if self.queue.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Puts the new blocks into the BAT, once they are whole on the disk.
    fn flush(&mut self) -> Result<()> {
        if self.queue.is_empty() {
            return Ok(());
        }
        self.parent.sync()?;
        let mut changes: Vec<(u64, Vec<u8>)> = Vec::new();
        for (block, entry) in std::mem::take(&mut self.queue) {
            let at = self.header.table_offset + block * 4;
            match changes.last_mut() {
                Some((from, data)) if *from + data.len() as u64 == at => {
                    data.extend(entry.to_be_bytes());
                }
                _ => changes.push((at, entry.to_be_bytes().to_vec())),
            }
        }
        let changes: Vec<_> = changes.iter().map(|(at, data)| (*at, data.as_slice())).collect();
        self.record(Kind::Entries, &changes)?;
        changes.iter().try_for_each(|(at, data)| self.parent.write(data, *at))
    }

    /// The grown size: the footer at the end first, its copy once that is durable.
    fn grow(&mut self) -> Result<()> {
        if !self.growing() {
            return Ok(());
        }
        let mut raw = self.footer;
        let geometry = Geometry::from_sectors(self.size / SECTOR);
        put(&mut raw, 48, &self.size.to_be_bytes());
        put(&mut raw, 56, &geometry.cylinders.to_be_bytes());
        put(&mut raw, 58, &[geometry.heads, geometry.sectors]);
        let sum = checksum(&[&raw[..64], &raw[68..]]);
        put(&mut raw, 64, &sum.to_be_bytes());
        let end = self.parent.len()? - Footer::LEN as u64;
        self.record(Kind::Table, &[(end, &raw), (0, &raw)])?;
        self.parent.write(&raw, end)?;
        self.parent.sync()?;
        self.parent.write(&raw, 0)?;
        self.parent.sync()?;
        self.done.grown_from = Some(self.old_size);
        Ok(())
    }

    /// The batmap last: a bit of it may only be seen when its block's bitmap is durable.
    fn write_batmap(&mut self) -> Result<()> {
        let (Some(batmap), Some(at)) = (&self.batmap, self.header.bat_end()) else {
            return Ok(());
        };
        if !self.batmap_changed {
            return Ok(());
        }
        let (map, sum) = (batmap.map_bytes().to_vec(), batmap.checksum.to_be_bytes());
        let place = batmap.map_offset;
        self.change(&[(place, &map), (at + Batmap::CHECKSUM_AT, &sum)])
    }

    fn note_full(&mut self, block: u64, bits: &[u8]) {
        let fits = block / 8 < Batmap::tap_sectors(self.size) * SECTOR;
        if let Some(batmap) = &mut self.batmap
            && fits
            && is_full(bits, u64::from(self.header.block_size) / SECTOR)
            && !batmap.get(block)
        {
            batmap.set(block);
            self.batmap_changed |= batmap.get(block);
        }
    }

    /// The bitmap of a stored block; all ones if the batmap says so, as readers take it.
    fn bitmap(&self, block: u64, start: u64) -> Result<Vec<u8>> {
        let mut bits = vec![0xff; usize::try_from(self.header.bitmap_len()).unwrap_or(0)];
        if !self.batmap.as_ref().is_some_and(|b| b.get(block)) {
            self.parent.read(&mut bits, start)?;
        }
        Ok(bits)
    }

    fn copy(&mut self, run: &Run, to: u64) -> Result<()> {
        copy(self.task, &mut self.buf, run, to, &mut self.done)
    }

    fn zero(&self, mut at: u64, mut len: u64) -> Result<()> {
        let zeros = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
        while len > 0 {
            let n = len.min(zeros.len() as u64);
            self.parent.write(zeros.get(..n as usize).unwrap_or_default(), at)?;
            (at, len) = (at + n, len - n);
        }
        Ok(())
    }
}

/// The number of entries for a disk of `size` bytes, which may be more than the BAT has.
fn entries(header: &DynamicHeader, size: u64) -> Result<u32> {
    match u32::try_from(header.blocks_for(size)) {
        Ok(n) if n <= MAX_BAT_ENTRIES => Ok(n),
        _ => Err(Error::new(ErrorKind::TooLarge, "the child's disk is too large for its parent")),
    }
}

/// Copies a run of the child to `to` in the parent.
pub(super) fn copy(
    task: &Task<'_>,
    buf: &mut [u8],
    run: &Run,
    to: u64,
    done: &mut Done,
) -> Result<()> {
    let mut at = run.start;
    while at < run.end {
        let n = (run.end - at).min(buf.len() as u64);
        let part = buf.get_mut(..n as usize).unwrap_or_default();
        task.child.read(part, run.place + (at - run.start))?;
        task.parent.write(part, to + (at - run.start))?;
        at += n;
        done.bytes += n;
        task.hooks.report(done.bytes);
    }
    Ok(())
}

/// The footer's bytes. A fresh commit wants both of them sound and equal; a resumed one takes
/// the copy, which is sound whenever the one at the end is in doubt.
fn footer_bytes(parent: &Writer, resumed: bool) -> Result<[u8; Footer::LEN]> {
    let len = parent.len()?;
    let (mut copy, mut end) = ([0; Footer::LEN], [0; Footer::LEN]);
    parent.read(&mut copy, 0)?;
    parent.read(&mut end, len.saturating_sub(Footer::LEN as u64))?;
    let sound = |raw: &[u8]| Footer::parse(raw, &mut Findings::new(Policy::Strict)).is_ok();
    if sound(&copy) && (resumed || copy == end && len.is_multiple_of(SECTOR)) {
        return Ok(copy);
    }
    if resumed && sound(&end) {
        return Ok(end);
    }
    Err(Error::corrupt(
        "the parent's footer and its copy are not both sound and equal; repair it first",
    ))
}

/// What lies in `from..to` between runs.
fn gaps(runs: &[Run], from: u64, to: u64) -> Vec<std::ops::Range<u64>> {
    let mut out = Vec::new();
    let mut at = from;
    for run in runs.iter().filter(|run| run.end > from) {
        if run.start > at {
            out.push(at..run.start.min(to));
        }
        at = at.max(run.end);
    }
    if at < to {
        out.push(at..to);
    }
    out
}

fn set_bits(bits: &mut [u8], from: u64, to: u64) {
    for sector in from..to {
        if let Some(byte) = bits.get_mut((sector / 8) as usize) {
            *byte |= 0x80 >> (sector % 8);
        }
    }
}

fn is_full(bits: &[u8], sectors: u64) -> bool {
    (0..sectors).all(|s| bits.get((s / 8) as usize).is_some_and(|b| b & (0x80 >> (s % 8)) != 0))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn gaps_are_what_runs_leave() {
        let run = |start, end| Run { start, end, place: 0 };
        assert_eq!(gaps(&[], 5, 9), vec![5..9; 1]);
        assert_eq!(gaps(&[], 9, 5), []);
        assert_eq!(gaps(&[run(0, 4), run(6, 8)], 2, 10), [4..6, 8..10]);
        assert_eq!(gaps(&[run(0, 4), run(6, 8)], 7, 8), []);
        assert_eq!(gaps(&[run(6, 8)], 0, 8), vec![0..6; 1]);
    }
}
