//! Footer, header, batmap, BAT and bitmaps of a VHD.

use super::{Rng, be, interesting, put};

const SECTOR: usize = 512;
/// Place and length of the footer's fields but for its checksum.
const FOOTER: [(usize, usize); 13] = [
    (8, 4),
    (12, 4),
    (16, 8),
    (24, 4),
    (28, 4),
    (32, 4),
    (40, 8),
    (48, 8),
    (56, 2),
    (58, 1),
    (59, 1),
    (60, 4),
    (85, 1),
];
/// The same of the header, and of its first locators.
const HEADER: [(usize, usize); 14] = [
    (8, 8),
    (16, 8),
    (24, 4),
    (28, 4),
    (32, 4),
    (40, 8),
    (56, 4),
    (64, 2),
    (576, 4),
    (580, 4),
    (584, 4),
    (592, 8),
    (604, 4),
    (616, 8),
];
const BATMAP: [(usize, usize); 4] = [(8, 8), (16, 4), (20, 4), (24, 4)];

pub(super) fn is_vhd(bytes: &[u8]) -> bool {
    bytes.len() >= SECTOR
        && (bytes.starts_with(b"conectix")
            || bytes[bytes.len() - SECTOR..].starts_with(b"conectix"))
}

/// Where the tables are, as far as the file says.
struct Places {
    footer: usize,
    header: Option<usize>,
    bat: usize,
    entries: usize,
    block: usize,
    batmap: Option<usize>,
}

fn places(bytes: &[u8]) -> Places {
    let footer = if bytes.starts_with(b"conectix") { 0 } else { bytes.len() - SECTOR };
    let fits = |at: &usize| bytes.get(*at..).is_some_and(|b| b.starts_with(b"cxsparse"));
    let header = be(bytes, footer + 16, 8).map(|at| at as usize).filter(fits);
    let field = |at: usize, len| header.and_then(|h| be(bytes, h + at, len)).unwrap_or(0) as usize;
    let (bat, entries, block) = (field(16, 8), field(28, 4), field(32, 4));
    let batmap = (0..bytes.len()).step_by(SECTOR).find(|&at| bytes[at..].starts_with(b"tdbatmap"));
    Places { footer, header, bat, entries: entries.min(bytes.len() / 4), block, batmap }
}

pub(super) fn change(rng: &mut Rng, bytes: &mut [u8]) {
    for _ in 0..=rng.below(3) {
        one(rng, bytes);
    }
    seal(bytes);
}

fn one(rng: &mut Rng, bytes: &mut [u8]) {
    if !is_vhd(bytes) {
        return;
    }
    let p = places(bytes);
    match (rng.below(7), p.header, p.batmap) {
        (0, ..) => set(rng, bytes, p.footer, &FOOTER),
        (1, Some(at), _) => set(rng, bytes, at, &HEADER),
        (2, _, Some(at)) => set(rng, bytes, at, &BATMAP),
        (3, Some(_), _) => bitmap(rng, bytes, &p),
        (4, ..) => {
            // The two footers differ.
            let at = bytes.len() - SECTOR;
            set(rng, bytes, at, &FOOTER);
        }
        (_, Some(_), _) => entry(rng, bytes, &p),
        _ => set(rng, bytes, p.footer, &FOOTER),
    }
}

fn set(rng: &mut Rng, bytes: &mut [u8], base: usize, fields: &[(usize, usize)]) {
    let (at, len) = rng.pick(fields);
    let own = be(bytes, base + at, len).unwrap_or(0);
    let value = interesting(rng, own, bytes.len() as u64);
    put(bytes, base + at, value, len);
}

/// A BAT entry: free, its own index, another's place, over the tables, behind the end.
fn entry(rng: &mut Rng, bytes: &mut [u8], p: &Places) {
    let index = rng.below(p.entries);
    let at = |index: usize| p.bat.saturating_add(4 * index);
    let own = be(bytes, at(index), 4).unwrap_or(0);
    let other = be(bytes, at(rng.below(p.entries)), 4).unwrap_or(0);
    let value = match rng.below(6) {
        0 => u64::from(u32::MAX),
        1 => index as u64,
        2 => other,
        3 => other.wrapping_add(1 + rng.below(p.block / SECTOR + 1) as u64),
        4 => p.bat as u64 / 512,
        _ => interesting(rng, own, bytes.len() as u64),
    };
    put(bytes, at(index), value, 4);
}

/// A byte of a block's bitmap, or the block it is for.
fn bitmap(rng: &mut Rng, bytes: &mut [u8], p: &Places) {
    let entry = be(bytes, p.bat.saturating_add(4 * rng.below(p.entries)), 4).unwrap_or(0);
    let at = entry as usize * SECTOR + rng.below((p.block / SECTOR / 8).clamp(1, 4096));
    let value = rng.pick(&[0, 0xff, 0x80, 1, 0x7f, 0xaa]);
    put(bytes, at, value, 1);
}

/// Puts the checksums of footers, header and batmap right.
pub(super) fn seal(bytes: &mut [u8]) {
    if !is_vhd(bytes) {
        return;
    }
    let p = places(bytes);
    for at in [p.footer, bytes.len() - SECTOR] {
        if bytes[at..].starts_with(b"conectix") {
            sum(bytes, at, SECTOR, at + 64);
        }
    }
    if let Some(at) = p.header {
        sum(bytes, at, 1024, at + 36);
    }
    let Some(at) = p.batmap else { return };
    let from = be(bytes, at + 8, 8).unwrap_or(0) as usize;
    let len = (be(bytes, at + 16, 4).unwrap_or(0) as usize).saturating_mul(SECTOR);
    if let Some(map) = from.checked_add(len).and_then(|end| bytes.get(from..end)) {
        let total = map.iter().fold(0_u32, |n, &b| n.wrapping_add(u32::from(b)));
        put(bytes, at + 24, u64::from(!total), 4);
    }
}

/// The ones' complement of the sum of `len` bytes, in four bytes within them.
fn sum(bytes: &mut [u8], start: usize, len: usize, at: usize) {
    put(bytes, at, 0, 4);
    let Some(table) = bytes.get(start..start + len) else { return };
    let total = table.iter().fold(0_u32, |n, &b| n.wrapping_add(u32::from(b)));
    put(bytes, at, u64::from(!total), 4);
}
