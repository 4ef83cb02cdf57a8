//! What is on the disks of the workloads: data that does not compress, known for every page.
//!
//! A page's bytes follow from its number and its layer, so that any file of a workload can be
//! written, and judged, without another one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// The block of a dynamic VHD, and the piece in which all content is made.
pub(crate) const BLOCK: usize = 2 << 20;
/// The grain of the data: what a file system writes, and where `tapdisk` aligns.
pub(crate) const PAGE: usize = 4096;
/// Pages of a block.
pub(crate) const PAGES: usize = BLOCK / PAGE;

/// Which pages of a block a layer owns: page `p` is bit `p % 64` of word `p / 64`.
pub(crate) type Owned = [u64; PAGES / 64];
/// A whole block.
pub(crate) const ALL: Owned = [u64::MAX; PAGES / 64];

/// A disk, or one layer of it, that can be written in any format.
pub(crate) trait Content {
    /// The size of the disk in bytes.
    fn size(&self) -> u64;

    /// The numbers of the blocks that hold data, ascending.
    fn blocks(&self) -> Vec<u32>;

    /// Fills `buf`, which has the length of a block, with a block's bytes, zeros where nothing
    /// is owned; tells what is.
    fn fill(&self, block: u32, buf: &mut [u8]) -> io::Result<Owned>;
}

/// The runs of owned pages as byte ranges of the block.
pub(crate) fn runs(owned: &Owned) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for page in (0..PAGES).filter(|page| owned[page / 64] >> (page % 64) & 1 == 1) {
        let at = page * PAGE;
        match runs.last_mut() {
            Some(last) if last.end == at => last.end = at + PAGE,
            _ => runs.push(at..at + PAGE),
        }
    }
    runs
}

/// Numbers that look random and are the same on every machine (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`; the slight bias does not matter here.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Puts a list into another order.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// So many different numbers below `end`, ascending.
    pub(crate) fn choose(&mut self, count: usize, end: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..end).collect();
        self.shuffle(&mut all);
        all.truncate(count);
        all.sort_unstable();
        all
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random bytes from which pages are cut: copying is faster than making, and `xtask` is not
/// optimised. No compressor looks back as far as a piece repeats.
#[derive(Debug)]
pub(crate) struct Pool(Vec<u8>);

impl Pool {
    const LEN: usize = 32 << 20;

    /// The pool of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut bytes = Vec::with_capacity(Self::LEN);
        while bytes.len() < Self::LEN {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        Self(bytes)
    }

    /// The bytes of a page. Its number and its layer stand in it: no two pages are the same, and
    /// none is zero (layers count from 1).
    fn page(&self, layer: u64, page: u64, out: &mut [u8]) {
        let start = mix(page ^ layer << 48) as usize % (Self::LEN - PAGE);
        out.copy_from_slice(&self.0[start..start + PAGE]);
        out[..8].copy_from_slice(&layer.to_le_bytes());
        out[8..16].copy_from_slice(&page.to_le_bytes());
    }
}

/// One layer: what it owns of which block.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Its number, from 1.
    pub(crate) id: u64,
    /// Its blocks.
    pub(crate) blocks: BTreeMap<u32, Owned>,
}

impl Layer {
    /// A layer of whole blocks.
    pub(crate) fn whole(id: u64, blocks: impl IntoIterator<Item = u32>) -> Self {
        Self { id, blocks: blocks.into_iter().map(|block| (block, ALL)).collect() }
    }

    /// A layer that owns `percent` of the pages of each of the first `blocks` blocks, here and
    /// there.
    pub(crate) fn scattered(id: u64, blocks: u32, percent: u64, random: &mut Random) -> Self {
        let mut owned = || {
            let mut mask = Owned::default();
            for page in 0..PAGES {
                mask[page / 64] |= u64::from(random.below(100) < percent) << (page % 64);
            }
            mask
        };
        Self { id, blocks: (0..blocks).map(|block| (block, owned())).collect() }
    }
}

/// A disk made of layers, the oldest first.
#[derive(Debug, Clone)]
pub(crate) struct Layered {
    /// The size in bytes, a whole number of blocks.
    pub(crate) size: u64,
    /// Where the bytes come from.
    pub(crate) pool: Rc<Pool>,
    /// The layers.
    pub(crate) layers: Vec<Layer>,
}

impl Layered {
    /// One layer alone, as its file holds it.
    pub(crate) fn layer(&self, index: usize) -> Self {
        Self { layers: vec![self.layers[index].clone()], ..self.clone() }
    }
}

impl Content for Layered {
    fn size(&self) -> u64 {
        self.size
    }

    fn blocks(&self) -> Vec<u32> {
        let mut all: Vec<u32> =
            self.layers.iter().flat_map(|layer| layer.blocks.keys().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn fill(&self, block: u32, buf: &mut [u8]) -> io::Result<Owned> {
        let mut owned = Owned::default();
        buf.fill(0);
        for layer in &self.layers {
            let Some(mask) = layer.blocks.get(&block) else { continue };
            for at in runs(mask).into_iter().flat_map(|run| run.step_by(PAGE)) {
                let page = u64::from(block) * PAGES as u64 + (at / PAGE) as u64;
                self.pool.page(layer.id, page, &mut buf[at..at + PAGE]);
            }
            for (all, new) in owned.iter_mut().zip(mask) {
                *all |= new;
            }
        }
        Ok(owned)
    }
}

/// A raw file that is there already, such as a real guest's disk.
#[derive(Debug)]
pub(crate) struct RawFile {
    file: File,
    size: u64,
    blocks: Vec<u32>,
}

impl RawFile {
    /// Reads the file once to learn which blocks hold data.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut this = Self { file, size: size.next_multiple_of(BLOCK as u64), blocks: Vec::new() };
        let (mut buf, zeros) = (vec![0; BLOCK], vec![0; BLOCK]);
        for block in 0..(this.size / BLOCK as u64) as u32 {
            this.fill(block, &mut buf)?;
            if buf != zeros {
                this.blocks.push(block);
            }
        }
        Ok(this)
    }
}

impl Content for RawFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn blocks(&self) -> Vec<u32> {
        self.blocks.clone()
    }

    fn fill(&self, block: u32, buf: &mut [u8]) -> io::Result<Owned> {
        let (start, mut len) = (u64::from(block) * BLOCK as u64, 0);
        while len < buf.len() {
            match self.file.read_at(&mut buf[len..], start + len as u64)? {
                0 => break,
                n => len += n,
            }
        }
        buf[len..].fill(0);
        Ok(ALL)
    }
}

/// Writes the raw disk, with holes where nothing is owned.
pub(crate) fn write_raw(content: &dyn Content, path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_len(content.size())?;
    let mut buf = vec![0; BLOCK];
    for block in content.blocks() {
        let owned = content.fill(block, &mut buf)?;
        let start = u64::from(block) * BLOCK as u64;
        for run in runs(&owned) {
            file.write_all_at(&buf[run.clone()], start + run.start as u64)?;
        }
    }
    Ok(())
}

/// Writes the blocks that hold data one behind the other, without holes, and fills up to `len`
/// bytes: what a copy that knows nothing of disks must move for the same content.
pub(crate) fn write_dense(content: &dyn Content, len: u64, path: &Path) -> io::Result<()> {
    let file = File::create(path)?;
    let mut buf = vec![0; BLOCK];
    let (mut at, blocks) = (0, content.blocks());
    for block in blocks.iter().cycle() {
        if at >= len || blocks.is_empty() {
            break;
        }
        content.fill(*block, &mut buf)?;
        let piece = (len - at).min(BLOCK as u64) as usize;
        file.write_all_at(&buf[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_layers() -> Layered {
        let mut random = Random::new(1);
        let layers = vec![Layer::whole(1, [0, 3]), Layer::scattered(2, 2, 10, &mut random)];
        Layered { size: 4 * BLOCK as u64, pool: Rc::new(Pool::new(1)), layers }
    }

    #[test]
    fn the_younger_layer_wins() {
        let disk = two_layers();
        let mut buf = vec![0; BLOCK];
        assert_eq!(disk.blocks(), [0, 1, 3]);
        assert_eq!(disk.fill(0, &mut buf).unwrap(), ALL);
        for page in 0..PAGES {
            let young = disk.layers[1].blocks[&0][page / 64] >> (page % 64) & 1;
            assert_eq!(u64::from(buf[page * PAGE]), 1 + young);
        }
        assert_eq!(disk.fill(2, &mut buf).unwrap(), Owned::default());
        assert!(buf.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn runs_join_and_cover_what_is_owned() {
        let mut owned = Owned::default();
        owned[0] = 0b1011;
        owned[7] = 1 << 63;
        assert_eq!(runs(&owned), [0..2 * PAGE, 3 * PAGE..4 * PAGE, BLOCK - PAGE..BLOCK]);
        assert!(runs(&ALL).into_iter().eq(std::iter::once(0..BLOCK)));
    }
}
