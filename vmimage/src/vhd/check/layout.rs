//! What lies where in a file: blocks on the tables that only some readers know, and tables on
//! one another.

use std::ops::Range;

use super::super::file::{Sparse, VhdFile};
use super::super::{Bat, Batmap, DynamicHeader, Footer, MAX_BAT_ENTRIES, SECTOR};
use crate::Result;
use crate::finding::Findings;

/// A part of the file that is no block.
struct Area {
    name: &'static str,
    code: &'static str,
    bytes: Range<u64>,
}

/// Every area against every other, and the blocks against all of them.
pub(super) fn examine(file: &VhdFile, sparse: &Sparse, findings: &mut Findings) -> Result<()> {
    let mut areas = areas(file, sparse)?;
    areas.sort_by_key(|a| a.bytes.start);
    for pair in areas.windows(2) {
        let [a, b] = pair else { continue };
        if a.bytes.end > b.bytes.start {
            let message = format!("{} lies on {}", b.name, a.name);
            findings.corrupt("tables-overlap", message, Some(b.bytes.start));
        }
    }
    let block_size = u64::from(sparse.header.block_size);
    let mut short: Option<u64> = None;
    for block in sparse.bat.stored() {
        let (index, start) = block.map_err(|e| file.named(e))?;
        let data = start + sparse.header.bitmap_len();
        let end = data + block_size;
        let left = file.size().saturating_sub(index * block_size).min(block_size);
        // Of a last block, what lies past the end of the disk may be missing.
        if end > file.len && data + left <= file.len {
            short.get_or_insert(start);
        }
        // The ones that a reader refuses anyway have been reported already.
        for area in areas.iter().filter(|a| !a.code.is_empty()) {
            if start < area.bytes.end && end > area.bytes.start {
                if data + left <= area.bytes.start {
                    short.get_or_insert(start);
                    continue;
                }
                let message = format!("block {index} of the VHD lies on {}", area.name);
                findings.corrupt(area.code, message, Some(start));
            }
        }
    }
    if let Some(start) = short {
        let message = "the last block is not stored as a whole; vhd-util may refuse it";
        findings.note_at("block-short", message, start);
    }
    past_the_end(file, &sparse.header, findings)
}

fn areas(file: &VhdFile, sparse: &Sparse) -> Result<Vec<Area>> {
    let header = &sparse.header;
    let area = |name, code, start: u64, len: u64| Area {
        name,
        code,
        bytes: start..start.saturating_add(len),
    };
    let mut areas = vec![
        area("the copy of the footer", "", 0, Footer::LEN as u64),
        area("the header", "", file.footer.data_offset, DynamicHeader::LEN as u64),
        area("the block allocation table", "", header.table_offset, header.bat_len()),
    ];
    if let (Some(batmap), Some(at)) = (&sparse.batmap, header.bat_end()) {
        let len = u64::from(batmap.sectors) * SECTOR;
        areas.push(area("the batmap's header", "block-on-batmap", at, Batmap::LEN as u64));
        areas.push(area("the batmap", "block-on-batmap", batmap.map_offset, len));
    }
    for locator in header.locators.iter().filter(|l| l.data_len > 0) {
        let len = u64::from(locator.data_len);
        areas.push(area("a parent locator", "block-on-locator", locator.data_offset, len));
    }
    if let Some(at) = end_footer(file)? {
        areas.push(area("the footer", "block-on-footer", at, Footer::LEN as u64));
    }
    Ok(areas)
}

/// Where the footer at the end of the file is, if there is one.
fn end_footer(file: &VhdFile) -> Result<Option<u64>> {
    for len in [Footer::LEN as u64, Footer::LEN as u64 - 1] {
        let mut cookie = [0; 8];
        let Some(at) = file.len.checked_sub(len) else { continue };
        file.read(&mut cookie, at)?;
        if Footer::probe(&cookie) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Entries of the BAT beyond those that the disk needs: preallocated, so they must be unused.
fn past_the_end(file: &VhdFile, header: &DynamicHeader, findings: &mut Findings) -> Result<()> {
    let from = header.blocks_for(file.size());
    let room = file.len.saturating_sub(header.table_offset) / 4;
    let until = u64::from(header.max_table_entries.min(MAX_BAT_ENTRIES)).min(room);
    let mut buf = vec![0; 64 * 1024];
    let (mut at, mut used) = (from, 0);
    while at < until {
        let n = (until - at).min(buf.len() as u64 / 4);
        let part = buf.get_mut(..n as usize * 4).unwrap_or_default();
        file.read(part, header.table_offset + at * 4)?;
        used += Bat::parse(part).allocated().count();
        at += n;
    }
    if used > 0 {
        let message = format!("{used} blocks past the end of the disk are stored");
        findings.note_at("block-past-end", message, header.table_offset + from * 4);
    }
    Ok(())
}
