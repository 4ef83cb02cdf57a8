//! The disks of the fixture pool: VHD chains of three layers, written by a builder of our own.
//!
//! Content and bitmaps follow from a seed, so that a test can say what every sector holds
//! without reading a VHD.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::vhd::geometry;

const SECTOR: usize = 512;
const BLOCK_SECTORS: u64 = 4096;

/// A chain: sizes, and which sectors each layer holds.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    seed: u64,
    sectors: u64,
    /// The base first.
    layers: Vec<Vec<Range<u64>>>,
}

impl Chain {
    /// A base and two children. Runs of odd lengths at odd places make bitmaps of mixed bytes;
    /// some blocks are in one layer only, some in all, most in none.
    pub(crate) fn fixture(seed: u64, virtual_size: u64) -> Self {
        let sectors = virtual_size / SECTOR as u64;
        let blocks = sectors.div_ceil(BLOCK_SECTORS);
        let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
        let mut layers = Vec::new();
        for layer in 0..3u64 {
            let mut runs = Vec::new();
            for block in 0..blocks {
                let first = block * BLOCK_SECTORS;
                // The first block is in every layer, the second in none, others as it comes.
                let wanted = match block {
                    0 => true,
                    1 => false,
                    _ if block == blocks - 1 => layer == 2,
                    _ => random.next().is_multiple_of(3),
                };
                let mut at = first + if block == 0 && layer == 0 { 0 } else { random.next() % 9 };
                while wanted && at < first + BLOCK_SECTORS {
                    let end = at + 1 + random.next() % 61;
                    runs.push(at..end.min(first + BLOCK_SECTORS).min(sectors));
                    at = end + 1 + random.next() % 900;
                }
            }
            layers.push(runs.into_iter().filter(|r| r.start < r.end).collect());
        }
        Self { seed, sectors, layers }
    }

    /// What a sector of the disk holds; `None` is zeros that no layer stores.
    #[cfg(test)]
    pub(crate) fn sector(&self, sector: u64) -> Option<[u8; SECTOR]> {
        let layer = self.layers.iter().rposition(|runs| {
            let next = runs.partition_point(|run| run.end <= sector);
            runs.get(next).is_some_and(|run| run.contains(&sector))
        })?;
        Some(self.content(layer, sector))
    }

    /// Writes `NAME-0.vhd` (the base) to `NAME-2.vhd`, and gives the last one's path.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> io::Result<PathBuf> {
        let mut tip = None;
        for (index, runs) in self.layers.iter().enumerate() {
            let file = format!("{name}-{index}.vhd");
            let path = folder.join(&file);
            fs::write(&path, self.layer(index, runs, tip.as_deref()))?;
            tip = Some(file);
        }
        Ok(folder.join(tip.unwrap_or_default()))
    }

    fn content(&self, layer: usize, sector: u64) -> [u8; SECTOR] {
        let mut content = [0; SECTOR];
        let mut random = Random(self.seed ^ (layer as u64) << 56 ^ sector << 8 ^ 1);
        // Every seventh stored sector is zeros: stored is not the same as not empty.
        if sector % 7 != 3 {
            for word in content.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
        }
        if sector == 0 {
            boot_record(&mut content, self.sectors);
        }
        content
    }

    /// One file: footer, header, table, locators, blocks, footer.
    fn layer(&self, index: usize, runs: &[Range<u64>], parent: Option<&str>) -> Vec<u8> {
        let blocks = self.sectors.div_ceil(BLOCK_SECTORS);
        let table_len = (blocks * 4).next_multiple_of(SECTOR as u64) as usize;
        let footer = self.footer(index, parent.is_some());
        let locators = 1536 + table_len;
        let mut file = vec![0; locators];
        fill(&mut file, 0, &footer);
        fill(&mut file, 512, &self.header(index, blocks, parent, locators as u64));
        if let Some(parent) = parent {
            for text in locator_texts(parent) {
                let mut slot = [0; SECTOR];
                fill(&mut slot, 0, &text);
                file.extend_from_slice(&slot);
            }
        }
        let mut table = vec![0xff; table_len];
        for block in 0..blocks {
            let span = block * BLOCK_SECTORS..(block + 1) * BLOCK_SECTORS;
            let inside: Vec<u64> = runs
                .iter()
                .flat_map(|run| run.start.max(span.start)..run.end.min(span.end))
                .collect();
            if inside.is_empty() {
                continue;
            }
            let at = u32::try_from(file.len() / SECTOR).unwrap_or(u32::MAX);
            fill(&mut table, block as usize * 4, &at.to_be_bytes());
            let mut bytes = vec![0; SECTOR + BLOCK_SECTORS as usize * SECTOR];
            for sector in inside {
                let within = (sector - span.start) as usize;
                if let Some(byte) = bytes.get_mut(within / 8) {
                    *byte |= 0x80 >> (within % 8);
                }
                fill(&mut bytes, SECTOR + within * SECTOR, &self.content(index, sector));
            }
            file.extend_from_slice(&bytes);
        }
        fill(&mut file, 1536, &table);
        file.extend_from_slice(&footer);
        file
    }

    fn footer(&self, index: usize, differencing: bool) -> [u8; SECTOR] {
        let size = self.sectors * SECTOR as u64;
        let (cylinders, heads, per_track) = geometry(size);
        let mut footer = [0; SECTOR];
        fill(&mut footer, 0, b"conectix");
        fill(&mut footer, 8, &2u32.to_be_bytes());
        fill(&mut footer, 12, &0x0001_0000u32.to_be_bytes());
        fill(&mut footer, 16, &512u64.to_be_bytes());
        fill(&mut footer, 24, &(700_000_000 + index as u32).to_be_bytes());
        fill(&mut footer, 28, b"win ");
        fill(&mut footer, 32, &0x000a_0000u32.to_be_bytes());
        fill(&mut footer, 36, b"Wi2k");
        fill(&mut footer, 40, &size.to_be_bytes());
        fill(&mut footer, 48, &size.to_be_bytes());
        fill(&mut footer, 56, &cylinders.to_be_bytes());
        fill(&mut footer, 58, &[heads, per_track]);
        fill(&mut footer, 60, &if differencing { 4u32 } else { 3 }.to_be_bytes());
        fill(&mut footer, 68, &self.uuid(index));
        let sum = checksum(&footer);
        fill(&mut footer, 64, &sum);
        footer
    }

    fn header(&self, index: usize, blocks: u64, parent: Option<&str>, locators: u64) -> [u8; 1024] {
        let mut header = [0; 1024];
        fill(&mut header, 0, b"cxsparse");
        fill(&mut header, 8, &u64::MAX.to_be_bytes());
        fill(&mut header, 16, &1536u64.to_be_bytes());
        fill(&mut header, 24, &0x0001_0000u32.to_be_bytes());
        fill(&mut header, 28, &(blocks as u32).to_be_bytes());
        fill(&mut header, 32, &(BLOCK_SECTORS as u32 * SECTOR as u32).to_be_bytes());
        if let Some(parent) = parent {
            fill(&mut header, 40, &self.uuid(index - 1));
            fill(&mut header, 56, &(700_000_000 + index as u32 - 1).to_be_bytes());
            let name: Vec<u8> = parent.encode_utf16().flat_map(u16::to_be_bytes).collect();
            fill(&mut header, 64, &name);
            for (slot, (code, text)) in
                [b"W2ru", b"MacX"].into_iter().zip(locator_texts(parent)).enumerate()
            {
                let at = 576 + slot * 24;
                fill(&mut header, at, code);
                fill(&mut header, at + 4, &(SECTOR as u32).to_be_bytes());
                fill(&mut header, at + 8, &(text.len() as u32).to_be_bytes());
                fill(&mut header, at + 16, &(locators + (slot * SECTOR) as u64).to_be_bytes());
            }
        }
        let sum = checksum(&header);
        fill(&mut header, 36, &sum);
        header
    }

    fn uuid(&self, index: usize) -> [u8; 16] {
        let mut random = Random(self.seed << 8 ^ index as u64 ^ 0x7575_6964);
        uuid::Builder::from_random_bytes(std::array::from_fn(|_| random.next() as u8))
            .into_uuid()
            .into_bytes()
    }
}

/// The parent's name as Windows and as a URL.
fn locator_texts(parent: &str) -> [Vec<u8>; 2] {
    let windows = format!(".\\{parent}");
    let windows = windows.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [windows, format!("file://./{parent}").into_bytes()]
}

/// A boot record with one partition, so that a reader has something to recognise.
fn boot_record(sector: &mut [u8; SECTOR], disk_sectors: u64) {
    fill(sector, 440, &[0; 72]);
    let first = 2048u32;
    let count = u32::try_from(disk_sectors).unwrap_or(u32::MAX).saturating_sub(first);
    fill(sector, 446, &[0x80, 0, 2, 0, 0x83, 0xff, 0xff, 0xff]);
    fill(sector, 454, &first.to_le_bytes());
    fill(sector, 458, &count.to_le_bytes());
    fill(sector, 510, &[0x55, 0xaa]);
}

fn fill(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = target.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    (!bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)))).to_be_bytes()
}

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_are_mixed() {
        let chain = Chain::fixture(1, 64 << 20);
        let folder = tempfile::tempdir().unwrap();
        let tip = chain.write(folder.path(), "x").unwrap();
        let bytes = fs::read(&tip).unwrap();
        assert_eq!(&bytes[..8], b"conectix");
        let first = u32::from_be_bytes(bytes[1536..1540].try_into().unwrap()) as usize;
        let bitmap = &bytes[first * SECTOR..(first + 1) * SECTOR];
        assert!(bitmap.iter().any(|b| !matches!(b, 0 | 0xff)), "bitmaps have mixed bytes");
        // The disk reads from all layers, and from none.
        let from: std::collections::BTreeSet<_> = (0..chain.sectors)
            .map(|s| chain.layers.iter().rposition(|r| r.iter().any(|r| r.contains(&s))))
            .collect();
        assert_eq!(from.len(), 4);
        assert_eq!(chain.sector(0).unwrap()[510..], [0x55, 0xaa]);
        // What is read from the files is what the builder meant.
        let disk = super::super::disk::open(&tip).unwrap();
        assert_eq!(disk.virtual_size, 64 << 20);
        let mut sector = [0; SECTOR];
        for number in 0..chain.sectors {
            disk.disk.read_exact_at(&mut sector, number * SECTOR as u64).unwrap();
            assert_eq!(sector, chain.sector(number).unwrap_or([0; SECTOR]), "sector {number}");
        }
    }
}
