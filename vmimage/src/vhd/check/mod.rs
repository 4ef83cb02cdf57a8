//! Checks of a VHD that need more than its tables: bitmaps, and what lies under them.

mod layout;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::file::{Sparse, VhdFile};
use super::{
    Batmap, Bitmap, DiskType, DynamicHeader, Fields, Footer, Geometry, Locator, MAX_VIRTUAL_SIZE,
    PlatformCode, SECTOR,
};
use crate::finding::Findings;
use crate::raw::Holes;
use crate::{ReadAt, Result};

/// Version 1.0 of the format, the only one that vhd-util takes.
const VERSION: u32 = 0x0001_0000;
/// How far a clock may be ahead before vhd-util calls a time stamp wrong, in seconds.
const CLOCK_SKEW: u64 = 1800;

/// Examines one file whose tables were read already (which examines them).
pub(crate) fn examine(file: &VhdFile, findings: &mut Findings) -> Result<()> {
    footer(&file.footer, findings);
    let Some(sparse) = &file.sparse else { return Ok(()) };
    header(&sparse.header, findings);
    parent(file, sparse, findings);
    layout::examine(file, sparse, findings)?;
    batmap(file, sparse, findings)?;
    if file.tangled {
        // Blocks on one another would be read over and over again.
        return Ok(());
    }
    bitmaps(file, sparse, findings)
}

/// Whether the footer at the end names a type of disk that is not read at all; that is a finding
/// of its own, as no more can be said.
pub(crate) fn unknown_type(file: &dyn ReadAt, findings: &mut Findings) -> bool {
    let mut raw = [0; Footer::LEN];
    let Ok(len) = file.byte_len() else { return false };
    let Some(at) = len.checked_sub(Footer::LEN as u64) else { return false };
    if file.read_exact_at(&mut raw, at).is_err() || !raw.starts_with(Footer::COOKIE) {
        return false;
    }
    let code = raw.as_slice().u32_at(60);
    let unknown = !(2..=4).contains(&code);
    if unknown {
        let message = format!("disk type {code} is not fixed (2), dynamic (3) or differencing (4)");
        findings.corrupt("disk-type", message, Some(at));
    }
    unknown
}

/// What vhd-util refuses though the table can be found.
fn header(header: &DynamicHeader, findings: &mut Findings) {
    if header.version >> 16 == 1 && header.version != VERSION {
        let message = format!("the header's version is {:#010x}, not 1.0", header.version);
        findings.note("header-version", message);
    }
    if !header.table_offset.is_multiple_of(SECTOR) {
        let message = "the BAT does not begin at a sector";
        findings.note_at("table-unaligned", message, header.table_offset);
    }
}

fn footer(footer: &Footer, findings: &mut Findings) {
    // Another major version was reported when the footer was read.
    if footer.version >> 16 == 1 && footer.version != VERSION {
        let message = format!("the footer's version is {:#010x}, not 1.0", footer.version);
        findings.note("footer-version", message);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |d| d.as_secs());
    if footer.unix_time() > now.saturating_add(CLOCK_SKEW) {
        findings.note("timestamp-future", "the VHD was created in the future");
    }
    if footer.current_size > MAX_VIRTUAL_SIZE {
        findings.note("size-limit", "XenServer refuses disks of more than 2040 GiB");
    }
    if footer.disk_type != DiskType::Fixed && footer.data_offset != Footer::LEN as u64 {
        findings.note("header-place", "the header is not right behind the footer's copy");
    }
    if footer.disk_type == DiskType::Fixed && footer.data_offset != u64::MAX {
        findings.note("footer-data-offset", "the data offset of a fixed disk is not all ones");
    }
    // Of these writers QEMU takes the geometry for the size; floor geometry is a little smaller.
    if matches!(&footer.creator_app, b"vpc " | b"qemu")
        && footer.geometry != Geometry::MAX
        && footer.geometry.bytes() != footer.current_size
    {
        let message = format!(
            "the geometry says {} bytes and the size {}: QEMU takes the former",
            footer.geometry.bytes(),
            footer.current_size
        );
        findings.note("geometry-size", message);
    }
}

fn parent(file: &VhdFile, sparse: &Sparse, findings: &mut Findings) {
    let header = &sparse.header;
    if !file.is_differencing() {
        if header.parent_uuid != [0; 16] {
            findings.note("parent-unexpected", "the disk has no parent, but names one's UUID");
        }
        return;
    }
    if header.locators.is_empty() && header.parent_name.is_empty() {
        findings.note("parent-nameless", "the disk does not say where its parent is");
    }
    names(file, findings);
    for locator in &header.locators {
        if locator.data_offset.checked_add(u64::from(locator.data_len)).is_none_or(|e| e > file.len)
        {
            let message = format!("locator {} lies past the end of the file", locator.code);
            findings.note_at("locator-outside", message, locator.data_offset);
            continue;
        }
        if !is_known(locator.code) {
            let message = format!("the platform code {} of a locator is unknown", locator.code);
            findings.note("locator-unknown", message);
        }
        let known = [PlatformCode::W2RU, PlatformCode::W2KU, PlatformCode::MACX];
        if known.contains(&locator.code) && file.locator_path(locator).is_none() {
            let message = format!("the text of locator {} cannot be read", locator.code);
            findings.note_at("locator-damaged", message, locator.data_offset);
        }
        if u64::from(locator.data_len) > locator.space_bytes()
            || locator.data_len > Locator::MAX_TEXT
        {
            let message = format!("locator {} is longer than its room", locator.code);
            findings.note_at("locator-room", message, locator.data_offset);
        }
    }
}

/// The codes of the specification, and blktap's.
fn is_known(code: PlatformCode) -> bool {
    [b"W2ru", b"W2ku", b"MacX", b"Mac ", b"Wi2r", b"Wi2k"].contains(&&code.bytes())
}

/// Locators and header that call the parent by different names: readers would open different
/// files.
fn names(file: &VhdFile, findings: &mut Findings) {
    let names = super::resolve::parent_names(file);
    if let Some(first) = names.first()
        && let Some(other) = names.iter().find(|name| *name != first)
    {
        let message = format!("the parent is called both {first:?} and {other:?}");
        findings.note("locator-names", message);
    }
}

/// Bits of the batmap without a block.
fn batmap(file: &VhdFile, sparse: &Sparse, findings: &mut Findings) -> Result<()> {
    let (Some(batmap), Some(at)) = (&sparse.batmap, sparse.header.bat_end()) else {
        return Ok(());
    };
    if batmap.map_offset != at.saturating_add(Batmap::LEN as u64) {
        findings.note_at("batmap-place", "the batmap is not right behind its header", at);
    }
    if u64::from(batmap.sectors) < Batmap::tap_sectors(file.size()) {
        findings.note_at("batmap-size", "the batmap is shorter than vhd-util expects", at);
    }
    let blocks = sparse.header.blocks_for(file.size());
    let (mut absent, mut beyond) = (0_u64, 0_u64);
    for (i, &byte) in batmap.map_bytes().iter().enumerate().filter(|(_, b)| **b != 0) {
        for bit in (0..8).filter(|bit| byte & (0x80 >> bit) != 0) {
            let index = i as u64 * 8 + bit;
            if index >= blocks {
                beyond += 1;
            } else if sparse.bat.block(index).map_err(|e| file.named(e))?.is_none() {
                absent += 1;
            }
        }
    }
    if absent > 0 {
        let message = format!("{absent} blocks are full by the batmap, but not stored");
        findings.corrupt("batmap-absent-block", message, Some(batmap.map_offset));
    }
    if beyond > 0 {
        let message = format!("{beyond} bits of the batmap are past the end of the disk");
        findings.note_at("batmap-past-end", message, batmap.map_offset);
    }
    Ok(())
}

/// The bitmaps against the batmap and, in dynamic disks, against the data below their zeros:
/// other readers take those sectors for data.
fn bitmaps(file: &VhdFile, sparse: &Sparse, findings: &mut Findings) -> Result<()> {
    let block_size = u64::from(sparse.header.block_size);
    let sectors = block_size / SECTOR;
    let mut buf = vec![0; 64 * 1024];
    let holes = Holes::new(Arc::clone(&file.file));
    let (mut disagree, mut unmarked, mut hidden) =
        (Tally::default(), Tally::default(), Tally::default());
    for block in sparse.bat.stored() {
        let (index, start) = block.map_err(|e| file.named(e))?;
        let left = file.size().saturating_sub(index * block_size).div_ceil(SECTOR);
        let data = start + sparse.header.bitmap_len();
        if data.saturating_add(left.min(sectors) * SECTOR) > file.len {
            continue;
        }
        let bitmap = load_bitmap(file, &sparse.header, start)?;
        let marked = sparse.batmap.as_ref().map(|b| b.get(index));
        match (marked, bitmap.is_full()) {
            (Some(true), false) => disagree.add(index, start),
            (Some(false), true) => unmarked.add(index, start),
            _ => {}
        }
        if file.is_differencing() || bitmap.is_full() {
            continue;
        }
        let mut at = 0;
        while at < left.min(sectors) {
            let (held, end) = bitmap.run(at);
            let end = end.min(left);
            if !held && !is_zero(file, &holes, data + at * SECTOR, (end - at) * SECTOR, &mut buf)? {
                hidden.add(index, data + at * SECTOR);
                break;
            }
            at = end;
        }
    }
    if let Some((count, index, at)) = disagree.first {
        let message = format!(
            "{count} blocks (first {index}) are full by the batmap, but not by their bitmap"
        );
        findings.corrupt("batmap-bitmap", message, Some(at));
    }
    if let Some((count, index, at)) = unmarked.first {
        let message = format!(
            "{count} blocks (first {index}) are full by their bitmap, but not by the batmap"
        );
        findings.note_at("batmap-incomplete", message, at);
    }
    if let Some((count, index, at)) = hidden.first {
        let message = format!(
            "{count} blocks (first {index}) have data under zero bits: tapdisk reads zeros there, \
             qemu the data"
        );
        findings.note_at("zero-bit-over-data", message, at);
    }
    Ok(())
}

/// The bitmap of the block that begins at `start`.
fn load_bitmap(file: &VhdFile, header: &DynamicHeader, start: u64) -> Result<Bitmap> {
    let mut raw = vec![0; usize::try_from(header.bitmap_len()).unwrap_or(0)];
    file.read(&mut raw, start)?;
    Ok(Bitmap::parse(&raw, u64::from(header.block_size) / SECTOR))
}

/// How many blocks, the first one's index and place.
#[derive(Default)]
struct Tally {
    first: Option<(u64, u64, u64)>,
}

impl Tally {
    fn add(&mut self, index: u64, at: u64) {
        self.first.get_or_insert((0, index, at)).0 += 1;
    }
}

fn is_zero(
    file: &VhdFile,
    holes: &Holes,
    mut at: u64,
    mut len: u64,
    buf: &mut [u8],
) -> Result<bool> {
    let (data, end) = holes.look(at, file.len)?;
    if !data && end >= at.saturating_add(len) {
        return Ok(true);
    }
    while len > 0 {
        let n = len.min(buf.len() as u64);
        let part = buf.get_mut(..n as usize).unwrap_or_default();
        file.read(part, at)?;
        if part.iter().any(|&b| b != 0) {
            return Ok(false);
        }
        at += n;
        len -= n;
    }
    Ok(true)
}
