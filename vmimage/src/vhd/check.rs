//! Checks of a VHD that need more than its tables: bitmaps, and what lies under them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::file::{Sparse, VhdFile};
use super::{
    Bitmap, DiskType, DynamicHeader, Footer, Locator, MAX_VIRTUAL_SIZE, PlatformCode, SECTOR,
};
use crate::Result;
use crate::finding::Findings;
use crate::raw::Holes;

/// How far a clock may be ahead before vhd-util calls a time stamp wrong, in seconds.
const CLOCK_SKEW: u64 = 1800;

/// Examines one file whose tables were read already (which examines them).
pub(crate) fn examine(file: &VhdFile, findings: &mut Findings) -> Result<()> {
    footer(&file.footer, findings);
    let Some(sparse) = &file.sparse else { return Ok(()) };
    parent(file, sparse, findings);
    if file.tangled {
        // Blocks on one another would be read over and over again.
        return Ok(());
    }
    bitmaps(file, sparse, findings)
}

fn footer(footer: &Footer, findings: &mut Findings) {
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
    for locator in &header.locators {
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

/// The bitmaps against the batmap and, in dynamic disks, against the data below their zeros:
/// other readers take those sectors for data.
fn bitmaps(file: &VhdFile, sparse: &Sparse, findings: &mut Findings) -> Result<()> {
    let block_size = u64::from(sparse.header.block_size);
    let sectors = block_size / SECTOR;
    let mut buf = vec![0; 64 * 1024];
    let holes = Holes::new(Arc::clone(&file.file));
    let (mut disagree, mut hidden) = (Tally::default(), Tally::default());
    for block in sparse.bat.stored() {
        let (index, start) = block.map_err(|e| file.named(e))?;
        let left = file.size().saturating_sub(index * block_size).div_ceil(SECTOR);
        let data = start + sparse.header.bitmap_len();
        if data.saturating_add(left.min(sectors) * SECTOR) > file.len {
            continue;
        }
        let bitmap = load_bitmap(file, &sparse.header, start)?;
        if sparse.batmap.as_ref().is_some_and(|b| b.get(index)) && !bitmap.is_full() {
            disagree.add(index, start);
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
