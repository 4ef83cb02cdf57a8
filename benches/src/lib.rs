//! What the benchmarks read: disks made of numbers, on a RAM disk where there is one.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be prepared must stop")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use vmimage::{
    Disk, DiskSource, FileOptions, OpenOptions, Plan, PlanOptions, Source as _, TargetFormat,
};

const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4096;
const PAGES: u64 = BLOCK / PAGE;

/// Numbers that look random and are the same each time (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Bytes; half of them text-like, so that compression has something to do.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for (n, chunk) in bytes.chunks_mut(8).enumerate() {
            let mut word = self.draw();
            if n % 2 == 0 {
                word &= 0x0707_0707_0707_0707;
            }
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A folder for files that are read and written over and over: in RAM, if `/dev/shm` is there.
pub fn folder() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()
}

/// A sparse raw file of `size` bytes in which `permille` of the blocks of 2 MiB hold data, spread
/// evenly; at least one.
pub fn raw(path: &Path, size: u64, permille: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let blocks = size / BLOCK;
    let count = (blocks * permille / 1000).max(1);
    let mut bytes = vec![0; BLOCK as usize];
    let mut random = Random::new(size ^ permille);
    for n in 0..count {
        random.fill(&mut bytes);
        file.write_all_at(&bytes, n * blocks / count * BLOCK).unwrap();
    }
}

/// How a child overwrites what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overwrite {
    /// A tenth of the pages of 4 KiB, anywhere: what a database does. The worst case of a chain.
    Random,
    /// A tenth of the blocks of 2 MiB, each as a whole: what an installation does.
    Clustered,
}

/// A chain of `depth` VHDs over a disk of `blocks` blocks whose base is full. Gives its tip.
/// Written by hand, because no writer of `vmimage` makes blocks with mixed bitmaps.
pub fn chain(folder: &Path, blocks: u64, depth: u64, overwrite: Overwrite) -> PathBuf {
    let mut random = Random::new(depth);
    let name = |n: u64| folder.join(format!("{overwrite:?}-{depth}-{n}.vhd"));
    for n in 0..depth {
        let mut pages: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for block in 0..blocks {
            let of = |chosen: &mut dyn FnMut(u64) -> bool| {
                (0..PAGES).filter(|page| chosen(*page)).collect::<Vec<_>>()
            };
            let held = match overwrite {
                _ if n == 0 => of(&mut |_| true),
                Overwrite::Random => of(&mut |_| random.draw().is_multiple_of(10)),
                Overwrite::Clustered if random.draw().is_multiple_of(10) => of(&mut |_| true),
                Overwrite::Clustered => Vec::new(),
            };
            if !held.is_empty() {
                pages.insert(block, held);
            }
        }
        write_layer(&name(n), blocks, n, name(n.saturating_sub(1)).file_name(), &pages);
    }
    name(depth - 1)
}

fn write_layer(
    path: &Path,
    blocks: u64,
    number: u64,
    parent: Option<&std::ffi::OsStr>,
    pages: &BTreeMap<u64, Vec<u64>>,
) {
    let file = File::create(path).unwrap();
    let uuid = |n: u64| [n as u8 + 1; 16];
    let mut footer = [0; 512];
    let put =
        |at: usize, bytes: &[u8], to: &mut [u8]| to[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix\0\0\0\x02\0\x01\0\0", &mut footer);
    put(16, &512_u64.to_be_bytes(), &mut footer);
    put(28, b"win \0\x0a\0\0", &mut footer);
    put(40, &(blocks * BLOCK).to_be_bytes(), &mut footer);
    put(48, &(blocks * BLOCK).to_be_bytes(), &mut footer);
    put(60, &(if number == 0 { 3_u32 } else { 4 }).to_be_bytes(), &mut footer);
    put(68, &uuid(number), &mut footer);
    seal(&mut footer, 64);
    let mut header = [0; 1024];
    put(0, b"cxsparse\xff\xff\xff\xff\xff\xff\xff\xff", &mut header);
    put(16, &1536_u64.to_be_bytes(), &mut header);
    put(24, &0x0001_0000_u32.to_be_bytes(), &mut header);
    put(28, &(blocks as u32).to_be_bytes(), &mut header);
    put(32, &(BLOCK as u32).to_be_bytes(), &mut header);
    if number > 0 {
        put(40, &uuid(number - 1), &mut header);
        let name = parent.and_then(|p| p.to_str()).unwrap_or_default();
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        put(64, &name, &mut header);
    }
    seal(&mut header, 36);
    let mut table = vec![0xff; (blocks * 4).next_multiple_of(512) as usize];
    let first = (1536 + table.len() as u64 + 512).next_multiple_of(PAGE) - 512;
    let (mut random, mut page_bytes) = (Random::new(number), vec![0; PAGE as usize]);
    for (n, (block, held)) in (0..).zip(pages) {
        let at = first + n * (BLOCK + PAGE);
        put(*block as usize * 4, &((at / 512) as u32).to_be_bytes(), &mut table);
        let mut bitmap = [0; 512];
        for page in held {
            bitmap[*page as usize] = 0xff;
            random.fill(&mut page_bytes);
            file.write_all_at(&page_bytes, at + 512 + page * PAGE).unwrap();
        }
        file.write_all_at(&bitmap, at).unwrap();
    }
    let end = first + pages.len() as u64 * (BLOCK + PAGE);
    for (at, bytes) in [(0, &footer[..]), (512, &header), (1536, &table), (end, &footer)] {
        file.write_all_at(bytes, at).unwrap();
    }
}

fn seal(bytes: &mut [u8], at: usize) {
    let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// Opens the only disk of an image.
pub fn open(path: &Path) -> Arc<dyn Disk> {
    let image = vmimage::open(path, &OpenOptions::new()).unwrap();
    Arc::clone(&image.disks()[0])
}

/// A plan as `vmimg` makes it: the map is made, and looked through for zeros.
pub fn plan(disk: &Arc<dyn Disk>, format: TargetFormat, options: &PlanOptions) -> Plan {
    let source = DiskSource::for_format(Arc::clone(disk), format).unwrap();
    Plan::new(format, source.block_map(), options).unwrap()
}

/// A conversion from file to file, the opening included.
pub fn convert(from: &Path, format: TargetFormat, to: &Path) {
    let disk = open(from);
    let plan = plan(&disk, format, &PlanOptions::new());
    vmimage::to_file(&plan, &disk, to, &FileOptions::new()).unwrap();
}

/// How many bytes of an image's disk may hold data.
pub fn allocated(path: &Path) -> u64 {
    open(path).block_map().unwrap().allocated()
}
