//! The model: a guest that writes to its disk while snapshots are taken and the disk is resized.
//! What it must read is kept in one vector of bytes. The same writes, sector by sector, become a
//! chain of VHDs, by a writer that is not the crate's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vmimage::OpenOptions;

use crate::builder::{Block, Rng, SECTOR, utf16le};
use crate::forge::{DIFFERENCING, DYNAMIC, FIXED, MIB, Made, Recipe, Tail, Text};

/// The sectors of a granule of the block map.
const GRANULE: usize = vmimage::GRANULE as usize / SECTOR;
/// The largest disk.
const MOST: usize = 12 * MIB / SECTOR;

/// What a write leaves behind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fill {
    Noise,
    Zeros,
    /// The same byte all over, and the first ones zero: it must not be taken for a hole.
    Late(u8),
}

#[derive(Debug, Clone)]
pub(crate) struct Write {
    /// In 65536ths of the disk.
    at: u16,
    sectors: usize,
    /// Whether it begins where a granule does.
    aligned: bool,
    fill: Fill,
}

/// What lies at the bottom of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bottom {
    Raw,
    Fixed,
    Dynamic,
}

/// From one snapshot to the next.
#[derive(Debug, Clone)]
pub(crate) struct Chapter {
    /// The new size in percent of the old one.
    resize: u64,
    /// Which of the block sizes its file has.
    block: usize,
    writes: Vec<Write>,
}

/// How a disk became what it is.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) sectors: usize,
    pub(crate) bottom: Bottom,
    pub(crate) chapters: Vec<Chapter>,
    /// For all that is not worth a name.
    pub(crate) seed: u64,
}

prop_compose! {
    fn write()(
        at in any::<u16>(),
        (sectors, aligned) in prop_oneof![
            3 => (1..200_usize, Just(false)),
            3 => ((1..24_usize).prop_map(|n| n * GRANULE), Just(true)),
            1 => (1..64_usize, Just(true)),
        ],
        fill in prop_oneof![
            4 => Just(Fill::Noise),
            2 => Just(Fill::Zeros),
            1 => (1..=u8::MAX).prop_map(Fill::Late),
        ],
    ) -> Write {
        Write { at, sectors, aligned, fill }
    }
}

prop_compose! {
    fn chapter()(
        resize in prop_oneof![4 => Just(100_u64), 1 => 30..200_u64],
        block in 0..6_usize,
        writes in prop::collection::vec(write(), 0..7),
    ) -> Chapter {
        Chapter { resize, block, writes }
    }
}

prop_compose! {
    /// Disks of up to so many sectors.
    pub(crate) fn stories(most: usize)(
        sectors in prop_oneof![1..=128_usize, 1..=most.min(4096), most.div_ceil(3)..=most],
        bottom in prop_oneof![Just(Bottom::Dynamic), Just(Bottom::Fixed), Just(Bottom::Raw)],
        chapters in prop::collection::vec(chapter(), 1..=6),
        seed in any::<u64>(),
    ) -> Story {
        Story { sectors, bottom, chapters, seed }
    }
}

/// Disks of any size.
pub(crate) fn any_story() -> impl Strategy<Value = Story> {
    stories(MOST)
}

/// The story as files, and what the guest reads.
pub(crate) struct Chain {
    /// The youngest first.
    pub(crate) layers: Vec<Made>,
    /// The raw parent at the bottom.
    pub(crate) raw: Option<Vec<u8>>,
    pub(crate) view: Vec<u8>,
}

/// Bytes without a pattern.
pub(crate) fn noise(rng: &mut Rng, out: &mut [u8]) {
    for word in out.chunks_mut(8) {
        word.copy_from_slice(&rng.next().to_le_bytes()[..word.len()]);
    }
}

impl Write {
    /// Does the write, and says which sectors it was.
    fn apply(&self, disk: &mut [u8], rng: &mut Rng) -> std::ops::Range<usize> {
        let all = disk.len() / SECTOR;
        let mut from = all * usize::from(self.at) / 65536;
        if self.aligned {
            from = from / GRANULE * GRANULE;
        }
        let range = from..all.min(from + self.sectors);
        let bytes = &mut disk[range.start * SECTOR..range.end * SECTOR];
        match self.fill {
            Fill::Noise => noise(rng, bytes),
            Fill::Zeros => bytes.fill(0),
            Fill::Late(byte) => {
                bytes.fill(byte);
                let zeros = bytes.len().min(300);
                bytes[..zeros].fill(0);
            }
        }
        range
    }
}

impl Story {
    /// Without a raw parent, which only files have.
    pub(crate) fn without_raw(mut self) -> Self {
        if self.bottom == Bottom::Raw {
            self.bottom = Bottom::Dynamic;
        }
        self
    }

    /// A disk to which nobody has written.
    pub(crate) fn blank(mut self) -> Self {
        self.chapters.iter_mut().for_each(|chapter| chapter.writes.clear());
        self
    }

    /// The size after a chapter.
    fn grown(sectors: usize, chapter: &Chapter) -> usize {
        (sectors * chapter.resize as usize / 100).clamp(1, MOST)
    }

    pub(crate) fn tell(&self) -> Chain {
        let mut rng = Rng::new(self.seed);
        let mut chain = Chain { layers: Vec::new(), raw: None, view: Vec::new() };
        let mut sectors = self.sectors;
        for (level, chapter) in self.chapters.iter().enumerate() {
            sectors = Self::grown(sectors, chapter);
            chain.view.resize(sectors * SECTOR, 0);
            let mut written = vec![false; sectors];
            for write in &chapter.writes {
                written[write.apply(&mut chain.view, &mut rng)].fill(true);
            }
            let raw = self.bottom == Bottom::Raw && self.chapters.len() > 1;
            if level == 0 && raw {
                chain.raw = Some(cut_within_a_sector(&mut chain.view, &mut rng));
                continue;
            }
            let fixed = level == 0 && self.bottom == Bottom::Fixed;
            let recipe = self.recipe(&chain, fixed, chapter.block, &mut rng);
            if fixed {
                written.fill(true);
            }
            let blocks = blocks(&recipe, &chain.view, &written, &mut rng);
            chain.layers.insert(0, recipe.make_of(blocks, &mut rng));
        }
        chain
    }

    /// The next layer's file.
    fn recipe(&self, chain: &Chain, fixed: bool, block: usize, rng: &mut Rng) -> Recipe {
        let mut recipe = random_recipe(chain.view.len(), block, rng);
        (recipe.shuffled, recipe.stale) = (true, rng.one_in(2));
        recipe.tail = *rng.pick(&[Tail::Whole, Tail::Whole, Tail::Short, Tail::Volume(8192)]);
        if fixed {
            (recipe.kind, recipe.block_size, recipe.tail) = (FIXED, MIB / 2, Tail::Whole);
        }
        let parent = match (chain.layers.first(), &chain.raw) {
            (Some(below), _) => {
                recipe.parent_uuid = below.recipe.uuid;
                format!("{}.vhd", chain.layers.len() - 1)
            }
            (None, Some(_)) => "raw.img".to_owned(),
            (None, None) => return recipe,
        };
        recipe.kind = DIFFERENCING;
        let at = recipe.bat_end() + if recipe.batmap.is_some() { 1024 } else { 0 };
        let text = utf16le(&format!(".\\{parent}"));
        recipe.texts = vec![Text { code: *b"W2ru", space: 1, at, text }];
        recipe
    }
}

/// A raw file need not end with a sector: the rest of its last one reads as zeros.
fn cut_within_a_sector(view: &mut [u8], rng: &mut Rng) -> Vec<u8> {
    let cut = if rng.one_in(2) { rng.below(SECTOR) } else { 0 };
    let end = view.len() - cut;
    view[end..].fill(0);
    view[..end].to_vec()
}

/// A dynamic disk in the style of some writer.
fn random_recipe(size: usize, block: usize, rng: &mut Rng) -> Recipe {
    let sizes = match size {
        n if n < 2 * MIB => [4096, 4096, 32768, 65536, MIB / 2, 2 * MIB],
        _ => [65536, MIB / 2, MIB, 2 * MIB, 2 * MIB, 8 * MIB],
    };
    let (app, version, batmap) = *rng.pick(&[
        (b"tap\0", 0x0001_0003, Some((0x0001_0002, None))),
        (b"tap\0", 0x0001_0001, Some((0x0001_0001, None))),
        (b"win ", 0x000A_0000, None),
        (b"caml", 1, None),
    ]);
    let mut uuid = [0; 16];
    noise(rng, &mut uuid);
    Recipe {
        kind: DYNAMIC,
        block_size: sizes[block],
        uuid,
        batmap,
        full_bits: false,
        spare_entries: *rng.pick(&[0, 0, 1, 500]),
        bat_at: *rng.pick(&[1536, 2048, 8192]),
        align: *rng.pick(&[512, 4096]),
        fill: 0xEE,
        ..Recipe::new("random", app, version, size)
    }
}

/// The blocks that hold what was written. Where nothing was, and behind the end of the disk, they
/// hold noise, which nobody may read.
fn blocks(recipe: &Recipe, view: &[u8], written: &[bool], rng: &mut Rng) -> BTreeMap<usize, Block> {
    let sectors = recipe.block_size / SECTOR;
    let mut out = BTreeMap::new();
    for (index, own) in written.chunks(sectors).enumerate() {
        // Some blocks are there and empty.
        if !own.contains(&true) && !rng.one_in(8) {
            continue;
        }
        let mut block = Block { held: own.to_vec(), data: vec![0; recipe.block_size] };
        noise(rng, &mut block.data);
        for (s, _) in own.iter().enumerate().filter(|(_, held)| **held) {
            let from = index * recipe.block_size + s * SECTOR;
            block.data[s * SECTOR..][..SECTOR].copy_from_slice(&view[from..from + SECTOR]);
        }
        let beyond = rng.one_in(2);
        block.held.resize(sectors, beyond);
        out.insert(index, block);
    }
    out
}

/// The content as one dynamic VHD whose blocks are in order, as a server exports it.
pub(crate) fn export(view: &[u8], rng: &mut Rng) -> Made {
    let block = rng.below(6);
    let recipe = random_recipe(view.len(), block, rng);
    let zeros_too = rng.one_in(2);
    let written: Vec<bool> =
        view.chunks(SECTOR).map(|s| zeros_too || s.iter().any(|b| *b != 0)).collect();
    let blocks = blocks(&recipe, view, &written, rng);
    recipe.make_of(blocks, rng)
}

impl Chain {
    /// Writes the chain into a folder: the name of its youngest file, and how to open it.
    pub(crate) fn save(&self, folder: &Path) -> (PathBuf, OpenOptions) {
        let depth = self.layers.len();
        for (i, layer) in self.layers.iter().enumerate() {
            std::fs::write(folder.join(format!("{}.vhd", depth - 1 - i)), &layer.bytes).unwrap();
        }
        let mut options = OpenOptions::new();
        if let Some(raw) = &self.raw {
            let path = folder.join("raw.img");
            save_sparse(&path, raw);
            options = options.with_parent(path);
        }
        (folder.join(format!("{}.vhd", depth - 1)), options)
    }
}

/// Writes a file whose zeros are holes, where the file system has such.
pub(crate) fn save_sparse(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (i, page) in bytes.chunks(4096).enumerate() {
        if page.iter().any(|b| *b != 0) {
            file.write_all_at(page, i as u64 * 4096).unwrap();
        }
    }
}
