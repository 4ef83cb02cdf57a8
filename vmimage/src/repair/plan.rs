//! What a repair would write, worked out without writing anything.

use std::io;
use std::sync::Arc;

use super::{Patch, RepairAction, RepairOptions};
use crate::finding::{Finding, Findings, Policy};
use crate::vhd::file::VhdFile;
use crate::vhd::{
    Batmap, Bitmap, DiskType, DynamicHeader, Fields, Footer, Geometry, SECTOR, checksum, put,
};
use crate::{Error, ErrorKind, ReadAt, Result};

const FOOTER: u64 = Footer::LEN as u64;
/// How far a clock may be ahead, as `check` allows it.
const CLOCK_SKEW: u64 = 1800;

/// The actions, the bytes to write in their order, and what stays.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<RepairAction>,
    pub(super) patches: Vec<Patch>,
    pub(super) remaining: Vec<Finding>,
}

/// Works out the repair of `file`.
pub(super) fn plan(file: Arc<dyn ReadAt>, options: &RepairOptions) -> Result<Plan> {
    let len = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let mut planner = Planner {
        file: Overlay { below: file, len, patches: Vec::new() },
        options,
        actions: Vec::new(),
    };
    planner.footers()?;
    planner.header()?;
    planner.batmap()?;
    planner.finish()
}

/// The file as it would be after the patches.
#[derive(Debug, Clone)]
struct Overlay {
    below: Arc<dyn ReadAt>,
    len: u64,
    patches: Vec<Patch>,
}

impl ReadAt for Overlay {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.byte_len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.fill(0);
        let there = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        if there > 0 {
            let part = buf.get_mut(..there).unwrap_or_default();
            self.below.read_exact_at(part, offset)?;
        }
        for patch in &self.patches {
            let (from, to) = (patch.at.max(offset), patch.end().min(end));
            if from < to {
                let new = patch.bytes.get((from - patch.at) as usize..(to - patch.at) as usize);
                put(buf, (from - offset) as usize, new.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.patches.iter().map(Patch::end).fold(self.len, u64::max))
    }
}

struct Planner<'a> {
    file: Overlay,
    options: &'a RepairOptions,
    actions: Vec<RepairAction>,
}

/// A footer where one may be.
struct Candidate {
    at: u64,
    raw: [u8; Footer::LEN],
    sound: bool,
}

impl Planner<'_> {
    fn read<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut raw = [0; N];
        self.file
            .read_exact_at(&mut raw, at)
            .map_err(|e| Error::io("cannot read the VHD", e).with_offset(at))?;
        Ok(raw)
    }

    fn act(&mut self, code: &'static str, message: impl Into<String>, at: u64) {
        self.actions.push(RepairAction { code, message: message.into(), offset: at });
    }

    /// The footer at `at`, of which the file may lack the last byte.
    fn candidate(&self, at: u64) -> Result<Option<Candidate>> {
        let mut raw = [0; Footer::LEN];
        let n = self.file.len.saturating_sub(at).min(FOOTER) as usize;
        if n < Footer::LEN - 1 {
            return Ok(None);
        }
        let part = raw.get_mut(..n).unwrap_or_default();
        let read = self.file.read_exact_at(part, at);
        read.map_err(|e| Error::io("cannot read the VHD", e).with_offset(at))?;
        if raw.starts_with(Footer::POISON) {
            return Err(Error::unsupported(
                "the VHD is disabled (its footer is poisoned by tapdisk); repair it on its host",
            ));
        }
        let sound = sound(&raw).is_some();
        Ok(raw.starts_with(Footer::COOKIE).then_some(Candidate { at, raw, sound }))
    }

    /// One sound footer is chosen, mended, and put at the end and at the start.
    fn footers(&mut self) -> Result<()> {
        let len = self.file.len;
        let mut end = match len.checked_sub(FOOTER) {
            Some(at) => self.candidate(at)?,
            None => None,
        };
        if end.is_none() && len % SECTOR == FOOTER - 1 {
            end = self.candidate(len + 1 - FOOTER)?;
        }
        // A file of nothing but a footer has no copy.
        let copy = if len > FOOTER { self.candidate(0)? } else { None };
        let (base, end_at) = self.choose(end, copy)?;
        let uuid = base.as_slice().array_at::<16>(68);
        let mended = self.mend(base)?;
        if mended.as_slice().array_at::<16>(68) != uuid {
            return Err(Error::unsupported("a repair must not change the UUID"));
        }
        let sparse = mended.as_slice().u32_at(60) != DiskType::Fixed.code();
        let end_at = match end_at {
            Some(at) => at,
            None => self.tail(&mended)?,
        };
        let mut places = [(end_at, "at the end"), (0, "at the start")];
        if !self.copy_is_base() {
            // The sound one is written last.
            places.reverse();
        }
        for (at, name) in places {
            if (at == 0 && !sparse) || self.holds(at, &mended) {
                continue;
            }
            let code = if at == 0 { "footer-copy" } else { "footer" };
            self.act(code, format!("write the footer {name} of the file"), at);
            self.file.patches.push(Patch { at, bytes: mended.to_vec() });
        }
        Ok(())
    }

    /// Whether the footer at the start is the only sound one.
    fn copy_is_base(&self) -> bool {
        let end = self.file.len.checked_sub(FOOTER).and_then(|at| self.read::<512>(at).ok());
        end.is_none_or(|raw| sound(&raw).is_none())
    }

    fn holds(&self, at: u64, raw: &[u8; Footer::LEN]) -> bool {
        at + FOOTER <= self.file.len && self.read::<512>(at).is_ok_and(|now| now == *raw)
    }

    /// The footer that is believed, and where the one at the end is.
    fn choose(
        &mut self,
        end: Option<Candidate>,
        copy: Option<Candidate>,
    ) -> Result<([u8; Footer::LEN], Option<u64>)> {
        let sparse = |c: &Candidate| c.raw.as_slice().u32_at(60) != DiskType::Fixed.code();
        let copy = copy.filter(|c| sparse(c) || !c.sound);
        // A fixed disk has no copy; what looks like one is a VHD of its guest.
        let copy = copy.filter(|_| end.as_ref().is_none_or(sparse));
        let end_at = end.as_ref().map(|c| c.at);
        match (end, copy) {
            (Some(end), Some(copy)) if end.sound && copy.sound && sparse(&end) => {
                if same_disk(&end.raw, &copy.raw) {
                    return Ok((end.raw, end_at));
                }
                Err(Error::corrupt(
                    "footer and copy are both sound, but describe different disks; which one is \
                     right cannot be told",
                ))
            }
            (Some(end), _) if end.sound => Ok((end.raw, end_at)),
            (end, Some(copy)) if copy.sound => {
                let code = if end.is_some() { "footer-damaged" } else { "footer-missing" };
                self.act(code, "take the sound copy of the footer", 0);
                Ok((copy.raw, end_at))
            }
            (Some(end), copy) => {
                if copy.is_some_and(|copy| copy.raw != end.raw) {
                    return Err(Error::corrupt(
                        "footer and copy are both damaged and differ; restore the image from a \
                         backup",
                    ));
                }
                Ok((self.reseal(&end)?, end_at))
            }
            (None, Some(copy)) => Ok((self.reseal(&copy)?, None)),
            (None, None) => Err(Error::corrupt("the file has no VHD footer that could be mended")),
        }
    }

    /// A footer with nothing wrong but its checksum.
    fn reseal(&mut self, footer: &Candidate) -> Result<[u8; Footer::LEN]> {
        self.ensure_checksums("footer", footer.at)?;
        let mut raw = footer.raw;
        seal(&mut raw, 64);
        let fixed = |f: &Footer| f.disk_type == DiskType::Fixed;
        let fits = sound(&raw).is_some_and(|f| {
            let data = self.file.len.saturating_sub(FOOTER - 1) / SECTOR * SECTOR;
            f.features & 2 != 0
                && f.current_size > 0
                && if fixed(&f) {
                    f.current_size == data && f.data_offset == u64::MAX
                } else {
                    self.read::<8>(f.data_offset).is_ok_and(|c| &c == DynamicHeader::COOKIE)
                }
        });
        if !fits {
            return Err(Error::corrupt(
                "more than its checksum is wrong with the footer; restore the image from a backup",
            )
            .with_offset(footer.at));
        }
        self.act("footer-checksum", "compute the checksum of the footer", footer.at);
        Ok(raw)
    }

    fn ensure_checksums(&self, what: &str, at: u64) -> Result<()> {
        if self.options.checksums {
            return Ok(());
        }
        let message = format!(
            "the checksum of the {what} is wrong and there is no sound copy of it; compute it \
             with --checksums if its fields are right"
        );
        Err(Error::corrupt(message).with_offset(at))
    }

    /// Geometry and time stamp.
    fn mend(&mut self, mut raw: [u8; Footer::LEN]) -> Result<[u8; Footer::LEN]> {
        let Some(footer) = sound(&raw) else {
            return Err(Error::corrupt("the chosen footer is not sound"));
        };
        let mut changed = false;
        if footer.geometry.bytes() > footer.current_size && footer.geometry != Geometry::MAX {
            let floor = Geometry::from_sectors(footer.current_size / SECTOR);
            put(&mut raw, 56, &floor.cylinders.to_be_bytes());
            put(&mut raw, 58, &[floor.heads, floor.sectors]);
            let message = format!("lower the geometry to {} bytes", floor.bytes());
            self.act("geometry", message, 56);
            changed = true;
        }
        if footer.unix_time() > self.options.now.saturating_add(CLOCK_SKEW) {
            let now = Footer::timestamp_from_unix(self.options.now);
            put(&mut raw, 24, &now.to_be_bytes());
            self.act("timestamp", "set the creation time to now", 24);
            changed = true;
        }
        if changed {
            seal(&mut raw, 64);
        }
        Ok(raw)
    }

    /// Where a missing footer belongs: behind the last block, if that is whole.
    fn tail(&self, footer: &[u8; Footer::LEN]) -> Result<u64> {
        let len = self.file.len;
        // With a footer far behind, the strict reader judges the rest.
        let mut whole = self.file.clone();
        whole.patches.push(Patch { at: len.next_multiple_of(SECTOR), bytes: footer.to_vec() });
        let mut findings = Findings::new(Policy::Lenient);
        let file = VhdFile::open(Arc::new(whole), None, &mut findings)?;
        let Some(sparse) = &file.sparse else {
            return Err(Error::truncated("the fixed VHD has no footer at its end"));
        };
        let mut end = sparse.header.bat_end().unwrap_or(u64::MAX);
        let size = u64::from(sparse.header.block_size);
        for block in sparse.bat.stored() {
            let (index, start) = block?;
            let left = file.size().saturating_sub(index * size).min(size);
            let data = start + sparse.header.bitmap_len();
            if data + left > len {
                let message = format!(
                    "block {index} is cut off at the end of the file: data is lost; copy the \
                     image again or restore it from a backup"
                );
                return Err(Error::truncated(message).with_offset(start));
            }
            end = end.max((data + size).min(len.next_multiple_of(SECTOR)));
        }
        // A footer that was cut off is completed where it began.
        let rest = len.saturating_sub(end);
        if rest > 0 && rest < FOOTER && end.is_multiple_of(SECTOR) {
            let mut part = vec![0; rest as usize];
            let read = self.file.read_exact_at(&mut part, end);
            if read.is_ok() && footer.starts_with(&part) {
                return Ok(end);
            }
        }
        Ok(len.next_multiple_of(SECTOR))
    }

    /// The header's data offset, and its checksum if that was asked for.
    fn header(&mut self) -> Result<()> {
        let footer = self.footer()?;
        if footer.disk_type == DiskType::Fixed {
            return Ok(());
        }
        let at = footer.data_offset;
        let old: [u8; DynamicHeader::LEN] = self.read(at)?;
        let mut raw = old;
        if !raw.starts_with(DynamicHeader::COOKIE) {
            return Err(Error::corrupt("the VHD's dynamic header is missing").with_offset(at));
        }
        let stored = raw.as_slice().u32_at(36);
        if stored != checksum(&[&raw[..36], &raw[40..]]) {
            self.ensure_checksums("header", at)?;
            self.act("header-checksum", "compute the checksum of the header", at);
        }
        if raw.as_slice().u64_at(8) != u64::MAX {
            put(&mut raw, 8, &u64::MAX.to_be_bytes());
            self.act("header-data-offset", "set the header's data offset to all ones", at + 8);
        }
        seal(&mut raw, 36);
        if raw != old {
            self.file.patches.push(Patch { at, bytes: raw.to_vec() });
        }
        Ok(())
    }

    fn footer(&self) -> Result<Footer> {
        let len = self.file.byte_len().unwrap_or(0);
        let raw = self.read::<512>(len.saturating_sub(FOOTER))?;
        sound(&raw).ok_or_else(|| Error::corrupt("the footer is not sound"))
    }

    /// The batmap, made of the bitmaps where it is missing, damaged or wrong.
    fn batmap(&mut self) -> Result<()> {
        let mut findings = Findings::new(Policy::Lenient);
        let file = VhdFile::open(Arc::new(self.file.clone()), None, &mut findings)?;
        let (Some(sparse), Some(true)) = (&file.sparse, file.footer.batmap_rule()) else {
            return Ok(());
        };
        if file.tangled {
            return Ok(());
        }
        let Some(at) = sparse.header.bat_end() else { return Ok(()) };
        let mut fresh = rebuilt(&file)?;
        let reason = match &sparse.batmap {
            None => "the batmap is missing or damaged",
            Some(old) if lies(old, &fresh) => "the batmap contradicts the bitmaps",
            Some(_) => return Ok(()),
        };
        let raw: [u8; Batmap::LEN] = self.read(at)?;
        if let Some(old) = Batmap::parse_header(&raw)
            && old.map_offset >= at + Batmap::LEN as u64
            && u64::from(old.sectors) == u64::from(fresh.sectors)
        {
            fresh.map_offset = old.map_offset;
        }
        let parts =
            [(at, fresh.header_bytes().to_vec()), (fresh.map_offset, fresh.map_bytes().to_vec())];
        for (at, bytes) in &parts {
            self.ensure_free(&file, *at, bytes.len() as u64)?;
        }
        self.act("batmap", format!("{reason}: rebuild it from the bitmaps"), at);
        // The map first: without a header that fits, it is not believed.
        self.file.patches.extend(parts.into_iter().rev().map(|(at, bytes)| Patch { at, bytes }));
        Ok(())
    }

    /// Nothing but the batmap may lie there.
    fn ensure_free(&self, file: &VhdFile, at: u64, len: u64) -> Result<()> {
        let Some(sparse) = &file.sparse else { return Ok(()) };
        let end = at.saturating_add(len);
        let stride = sparse.header.bitmap_len() + u64::from(sparse.header.block_size);
        let mut free = end <= file.len.saturating_sub(FOOTER) && at >= FOOTER;
        for block in sparse.bat.stored() {
            let (_, start) = block?;
            free &= end <= start || at >= start + stride;
        }
        for locator in &sparse.header.locators {
            let from = locator.data_offset;
            free &= end <= from || at >= from.saturating_add(locator.space_bytes());
        }
        if free {
            return Ok(());
        }
        Err(Error::unsupported(
            "the VHD has no room for the batmap that its creator promises; convert it into a new \
             image",
        )
        .with_offset(at))
    }

    /// The strict reader must take what comes out.
    fn finish(self) -> Result<Plan> {
        let after: Arc<dyn ReadAt> = Arc::new(self.file.clone());
        let strict = VhdFile::open(Arc::clone(&after), None, &mut Findings::new(Policy::Strict));
        strict.map_err(|e| {
            let message = format!("the image cannot be repaired: {e}");
            Error::new(ErrorKind::Corrupt, message)
        })?;
        let mut findings = Findings::new(Policy::Lenient);
        let file = VhdFile::open(after, None, &mut findings)?;
        crate::vhd::check::examine(&file, &mut findings)?;
        Ok(Plan {
            actions: self.actions,
            patches: self.file.patches,
            remaining: findings.list().to_vec(),
        })
    }
}

fn sound(raw: &[u8]) -> Option<Footer> {
    Footer::parse(raw, &mut Findings::new(Policy::Strict)).ok()
}

/// Whether two sound footers are of one disk: UUID, size, type, place of the header.
fn same_disk(a: &[u8; Footer::LEN], b: &[u8; Footer::LEN]) -> bool {
    let id = |raw: &[u8; Footer::LEN]| {
        let raw = raw.as_slice();
        (raw.array_at::<16>(68), raw.u64_at(48), raw.u32_at(60), raw.u64_at(16))
    };
    id(a) == id(b)
}

fn seal(raw: &mut [u8], at: usize) {
    put(raw, at, &[0; 4]);
    let sum = checksum(&[raw]);
    put(raw, at, &sum.to_be_bytes());
}

/// The batmap that the bitmaps make.
fn rebuilt(file: &VhdFile) -> Result<Batmap> {
    let Some(sparse) = &file.sparse else {
        return Err(Error::new(ErrorKind::Usage, "a fixed disk has no batmap"));
    };
    let header = &sparse.header;
    let at = header.bat_end().unwrap_or(u64::MAX).saturating_add(Batmap::LEN as u64);
    let blocks = u32::try_from(header.blocks_for(file.size())).unwrap_or(u32::MAX);
    let mut batmap = Batmap::new(at, blocks);
    let mut raw = vec![0; usize::try_from(header.bitmap_len()).unwrap_or(0)];
    let promised = Batmap::tap_sectors(file.size()) * SECTOR * 8;
    for block in sparse.bat.stored() {
        let (index, start) = block?;
        if index >= promised || start.saturating_add(header.bitmap_len()) > file.len {
            continue;
        }
        file.read(&mut raw, start)?;
        if Bitmap::parse(&raw, u64::from(header.block_size) / SECTOR).is_full() {
            batmap.set(index);
        }
    }
    Ok(batmap)
}

/// Whether `old` calls a block full that is not.
fn lies(old: &Batmap, fresh: &Batmap) -> bool {
    let fresh = fresh.map_bytes().iter().chain(std::iter::repeat(&0));
    old.map_bytes().iter().zip(fresh).any(|(old, fresh)| old & !fresh != 0)
}
