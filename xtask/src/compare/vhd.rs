//! Writes VHDs the way XenServer's tools do, from the format's description alone: nothing of the
//! crate that is measured is used to make its input.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::content::{ALL, BLOCK, Content, Owned, PAGE, Random, runs};

const SECTOR: u64 = 512;
const BAT_AT: u64 = 1536;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
/// 2024-01-01 in seconds since 2000: a fixed day, so that the files are always the same.
const MADE_AT: u32 = 757_382_400;

/// The parent of a differencing disk.
#[derive(Debug, Clone)]
pub(crate) struct Parent {
    /// Its UUID.
    pub(crate) uuid: [u8; 16],
    /// Its file name; it lies beside the child.
    pub(crate) name: String,
}

/// What a VHD says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vhd {
    /// Its UUID.
    pub(crate) uuid: [u8; 16],
    /// Its parent, if it is a differencing disk.
    pub(crate) parent: Option<Parent>,
    /// Whether XenServer would hide it: true for all but the youngest of a chain.
    pub(crate) hidden: bool,
    /// Blocks lie in the file in a random order of this seed, as a guest's writes leave them.
    pub(crate) order: Option<u64>,
}

impl Vhd {
    /// Writes a dynamic or differencing VHD as `tapdisk` does: a batmap, locators, data on 4 KiB
    /// boundaries with the bitmap in the sector before. What is not owned stays a hole.
    pub(crate) fn write(&self, content: &dyn Content, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        let mut blocks = content.blocks();
        if let Some(seed) = self.order {
            Random::new(seed).shuffle(&mut blocks);
        }
        let entries = content.size().div_ceil(BLOCK as u64) as u32;
        let batmap_at = (BAT_AT + u64::from(entries) * 4).next_multiple_of(SECTOR);
        let map_sectors = u64::from(entries).div_ceil(8).div_ceil(SECTOR);
        let locators_at = batmap_at + SECTOR + map_sectors * SECTOR;
        let header_end = locators_at + 3 * SECTOR;

        let mut bat = vec![0xff; (batmap_at - BAT_AT) as usize];
        let mut map = vec![0; (map_sectors * SECTOR) as usize];
        let mut buf = vec![0; BLOCK];
        let mut end = header_end;
        for block in blocks {
            let data = (end + SECTOR).next_multiple_of(PAGE as u64);
            let at = block as usize;
            let sector = ((data - SECTOR) / SECTOR) as u32;
            bat[at * 4..at * 4 + 4].copy_from_slice(&sector.to_be_bytes());
            let owned = content.fill(block, &mut buf)?;
            if owned == ALL {
                map[at / 8] |= 0x80 >> (at % 8);
            }
            file.write_all_at(&bitmap(&owned), data - SECTOR)?;
            for run in runs(&owned) {
                file.write_all_at(&buf[run.clone()], data + run.start as u64)?;
            }
            end = data + BLOCK as u64;
        }
        let kind = if self.parent.is_some() { DIFFERENCING } else { DYNAMIC };
        let footer = self.footer(content.size(), kind);
        file.write_all_at(&footer, 0)?;
        file.write_all_at(&self.header(entries, locators_at), SECTOR)?;
        file.write_all_at(&bat, BAT_AT)?;
        file.write_all_at(&batmap_header(batmap_at, &map), batmap_at)?;
        file.write_all_at(&map, batmap_at + SECTOR)?;
        for (i, (_, text)) in self.locators().iter().enumerate() {
            file.write_all_at(text, locators_at + i as u64 * SECTOR)?;
        }
        file.write_all_at(&footer, end)
    }

    /// Writes a fixed VHD: the raw disk, with holes, and a footer.
    pub(crate) fn write_fixed(&self, content: &dyn Content, path: &Path) -> io::Result<()> {
        super::content::write_raw(content, path)?;
        let file = File::options().write(true).open(path)?;
        file.write_all_at(&self.footer(content.size(), FIXED), content.size())
    }

    fn footer(&self, size: u64, kind: u32) -> [u8; 512] {
        let mut out = [0; 512];
        put(&mut out, 0, b"conectix");
        put(&mut out, 8, &2u32.to_be_bytes());
        put(&mut out, 12, &0x0001_0000u32.to_be_bytes());
        let header_at = if kind == FIXED { u64::MAX } else { SECTOR };
        put(&mut out, 16, &header_at.to_be_bytes());
        put(&mut out, 24, &MADE_AT.to_be_bytes());
        put(&mut out, 28, b"tap\0");
        put(&mut out, 32, &0x0001_0003u32.to_be_bytes());
        put(&mut out, 40, &size.to_be_bytes());
        put(&mut out, 48, &size.to_be_bytes());
        put(&mut out, 56, &geometry(size));
        put(&mut out, 60, &kind.to_be_bytes());
        put(&mut out, 68, &self.uuid);
        out[85] = u8::from(self.hidden);
        let sum = checksum(&out);
        put(&mut out, 64, &sum);
        out
    }

    fn header(&self, entries: u32, locators_at: u64) -> [u8; 1024] {
        let mut out = [0; 1024];
        put(&mut out, 0, b"cxsparse");
        put(&mut out, 8, &u64::MAX.to_be_bytes());
        put(&mut out, 16, &BAT_AT.to_be_bytes());
        put(&mut out, 24, &0x0001_0000u32.to_be_bytes());
        put(&mut out, 28, &entries.to_be_bytes());
        put(&mut out, 32, &(BLOCK as u32).to_be_bytes());
        if let Some(parent) = &self.parent {
            put(&mut out, 40, &parent.uuid);
            put(&mut out, 56, &MADE_AT.to_be_bytes());
            let name: Vec<u8> = parent.name.encode_utf16().flat_map(u16::to_be_bytes).collect();
            put(&mut out, 64, &name);
        }
        for (i, (code, text)) in self.locators().iter().enumerate() {
            let entry = 576 + 24 * i;
            put(&mut out, entry, *code);
            put(&mut out, entry + 4, &512u32.to_be_bytes());
            put(&mut out, entry + 8, &(text.len() as u32).to_be_bytes());
            put(&mut out, entry + 16, &(locators_at + i as u64 * SECTOR).to_be_bytes());
        }
        let sum = checksum(&out);
        put(&mut out, 36, &sum);
        out
    }

    /// The locators in the order of `vhd-util`; none without a parent.
    fn locators(&self) -> Vec<(&'static [u8; 4], Vec<u8>)> {
        let Some(parent) = &self.parent else { return Vec::new() };
        let windows: Vec<u8> =
            format!(".\\{}", parent.name).encode_utf16().flat_map(u16::to_le_bytes).collect();
        let url = format!("file://./{}", parent.name).into_bytes();
        vec![(b"MacX", url), (b"W2ku", windows.clone()), (b"W2ru", windows)]
    }
}

fn batmap_header(at: u64, map: &[u8]) -> [u8; 512] {
    let mut out = [0; 512];
    put(&mut out, 0, b"tdbatmap");
    put(&mut out, 8, &(at + SECTOR).to_be_bytes());
    put(&mut out, 16, &((map.len() as u64 / SECTOR) as u32).to_be_bytes());
    put(&mut out, 20, &0x0001_0002u32.to_be_bytes());
    put(&mut out, 24, &checksum(map));
    out
}

/// The sector bitmap, the first sector in the highest bit: a page is one byte of it.
fn bitmap(owned: &Owned) -> [u8; 512] {
    let mut out = [0; 512];
    for run in runs(owned) {
        out[run.start / PAGE..run.end / PAGE].fill(0xff);
    }
    out
}

/// Cylinders, heads, sectors by the specification's algorithm, all rounded down.
fn geometry(size: u64) -> [u8; 4] {
    let total = (size / SECTOR).min(65535 * 16 * 255);
    let (mut heads, mut spt);
    let mut tracks;
    if total >= 65535 * 16 * 63 {
        (heads, spt) = (16, 255);
        tracks = total / spt;
    } else {
        spt = 17;
        tracks = total / spt;
        heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (heads, spt) = (16, 31);
            tracks = total / spt;
        }
        if tracks >= heads * 1024 {
            spt = 63;
            tracks = total / spt;
        }
    }
    let cylinders = ((tracks / heads) as u16).to_be_bytes();
    [cylinders[0], cylinders[1], heads as u8, spt as u8]
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let sum = bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    (!sum).to_be_bytes()
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_of_known_disks() {
        // As Hyper-V and vhd-util write them.
        assert_eq!(geometry(1 << 30), [0x08, 0x20, 16, 63]);
        assert_eq!(geometry(2040 << 30), [0xff, 0xff, 16, 255]);
    }

    #[test]
    fn a_footer_sums_to_its_complement() {
        let footer = Vhd::default().footer(1 << 30, DYNAMIC);
        let mut zeroed = footer;
        zeroed[64..68].fill(0);
        assert_eq!(footer[64..68], checksum(&zeroed));
    }
}
