//! Random chains of up to 40 layers with everything uneven that may be uneven, in files, against
//! the plain model.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use vmimage::vhd::{MAX_CHAIN, VhdDisk};
use vmimage::{Disk, Findings, OpenOptions, Policy, ReadAt, TargetFormat, open};

use crate::builder::{Block, Rng, SECTOR, utf16le};
use crate::forge::{DIFFERENCING, DYNAMIC, FIXED, MIB, Made, Recipe, Tail, Text};
use crate::judge;

/// How much a chain stores at most: the rest of its layers is empty.
const BUDGET: usize = 24 * MIB;

struct Chain {
    /// The youngest first.
    layers: Vec<Made>,
    /// The raw parent at the bottom.
    raw: Option<Vec<u8>>,
}

fn held(rng: &mut Rng, sectors: usize) -> Vec<bool> {
    match rng.below(6) {
        0 => vec![true; sectors],
        1 => (0..sectors).map(|s| 0xC9 & (0x80 >> (s % 8)) != 0).collect(),
        2 => vec![false; sectors],
        // All but one: nearly full is not full.
        3 => {
            let hole = rng.below(sectors);
            (0..sectors).map(|s| s != hole).collect()
        }
        // Runs that cross words, and end anywhere.
        4 => {
            let mut state = rng.one_in(2);
            let mut left = 0;
            (0..sectors)
                .map(|_| {
                    if left == 0 {
                        (state, left) = (!state, 1 + rng.below(300));
                    }
                    left -= 1;
                    state
                })
                .collect()
        }
        _ => (0..sectors).map(|_| rng.one_in(2)).collect(),
    }
}

/// A layer of `size` bytes in the style of some writer.
fn recipe(rng: &mut Rng, kind: u32, size: usize, block_size: usize) -> Recipe {
    let (app, version, batmap) = *rng.pick(&[
        (b"tap\0", 0x0001_0003, Some((0x0001_0002, None))),
        (b"tap\0", 0x0001_0003, None),
        (b"tap\0", 0x0001_0001, Some((0x0001_0001, None))),
        (b"win ", 0x000A_0000, None),
        (b"caml", 1, None),
        (b"xo  ", 1, None),
    ]);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&rng.bytes(16));
    Recipe {
        kind,
        block_size,
        uuid,
        batmap,
        full_bits: false,
        shuffled: true,
        spare_entries: *rng.pick(&[0, 0, 1, 5000]),
        bat_at: *rng.pick(&[1536, 2048, 8192]),
        align: *rng.pick(&[512, 4096]),
        fill: 0xEE,
        stale: rng.one_in(2),
        tail: *rng.pick(&[Tail::Whole, Tail::Whole, Tail::Short, Tail::Volume(8192)]),
        ..Recipe::new("random", app, version, size)
    }
}

/// A chain of `depth` VHDs whose sizes lie around `size`.
fn chain(rng: &mut Rng, depth: usize, size: usize) -> Chain {
    let blocks: &[usize] = match size {
        // A BAT of thousands of entries for a few sectors is of no use.
        n if n < 2 * MIB => &[4096, 4096, 32768, MIB / 2, 2 * MIB],
        _ => &[MIB / 2, MIB, 2 * MIB, 2 * MIB, 8 * MIB, 65536],
    };
    let bottom = rng.below(4);
    let raw = (bottom == 0).then(|| {
        let len = (size / 2 + rng.below(size)).min(4 * MIB) | 1;
        rng.bytes(len)
    });
    let mut left = BUDGET;
    let mut layers: Vec<Made> = Vec::new();
    for level in 0..depth {
        let kind = match (level, bottom) {
            (0, 0) => DIFFERENCING,
            (0, 1) => FIXED,
            (0, _) => DYNAMIC,
            _ => DIFFERENCING,
        };
        // Mostly the same, sometimes shorter, sometimes longer; whole sectors, not whole blocks.
        let own = match rng.below(4) {
            0 => size / 2 + rng.below(size),
            _ => size,
        };
        let own = (own / SECTOR).max(1) * SECTOR;
        let block_size = *rng.pick(blocks);
        let mut recipe = recipe(rng, kind, own, block_size);
        if kind == FIXED {
            recipe.block_size = MIB / 2;
        }
        if let Some(parent) = layers.first() {
            recipe.parent_uuid = parent.recipe.uuid;
        }
        let at = recipe.bat_end() + if recipe.batmap.is_some() { 1024 } else { 0 };
        let text = match (level, raw.is_some()) {
            (0, true) => utf16le(".\\raw.img"),
            (0, false) => Vec::new(),
            _ => utf16le(&format!(".\\{}.vhd", level - 1)),
        };
        if kind == DIFFERENCING {
            recipe.texts = vec![Text { code: *b"W2ru", space: 1, at, text }];
        }
        let mut blocks = std::collections::BTreeMap::new();
        for index in 0..recipe.needed() {
            // Young layers are sparse, so that old ones show through.
            let there = kind == FIXED || rng.one_in(if level == 0 { 2 } else { 4 });
            if there && (left >= recipe.block_size || kind == FIXED) {
                left = left.saturating_sub(recipe.block_size);
                let sectors = recipe.block_size / SECTOR;
                let held = if kind == FIXED { vec![true; sectors] } else { held(rng, sectors) };
                blocks.insert(index, Block { held, data: rng.bytes(recipe.block_size) });
            }
        }
        layers.insert(0, recipe.make_of(blocks, rng));
    }
    Chain { layers, raw }
}

/// Writes the chain into a folder; gives the name of its youngest file.
fn write(chain: &Chain, dir: &std::path::Path) -> (PathBuf, OpenOptions) {
    let depth = chain.layers.len();
    for (i, layer) in chain.layers.iter().enumerate() {
        std::fs::write(dir.join(format!("{}.vhd", depth - 1 - i)), &layer.bytes).unwrap();
    }
    let mut options = OpenOptions::new();
    if let Some(raw) = &chain.raw {
        let path = dir.join("raw.img");
        std::fs::write(&path, raw).unwrap();
        options = options.with_parent(path);
    }
    (dir.join(format!("{}.vhd", depth - 1)), options)
}

/// Whether the bottom says "zero" or "data" is up to the file system's holes: none in random data,
/// but a fixed disk ends with its file.
fn judge_chain(chain: &Chain, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (tip, options) = write(chain, dir.path());
    let image = open(&tip, &options).unwrap();
    let disk = &image.disks()[0];
    let view = judge::view(&chain.layers, chain.raw.as_deref());
    let owners = judge::owners(&chain.layers, chain.raw.as_ref().map(Vec::len));
    let mut rng = Rng::new(seed ^ 5);
    judge::reads(&**disk, &view, &mut rng, 12);
    judge::extents(&**disk, &owners, &mut rng);
    judge::threads(&**disk, &view, seed);
    if seed.is_multiple_of(4) {
        judge::conversions(disk, &view, &[TargetFormat::Raw]);
        assert!(!judge::codes(&tip, &options).contains(&"batmap-bitmap"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn short_chains_are_what_their_guest_sees(
        seed in any::<u64>(),
        depth in 1..=6_usize,
        size in 1..=10 * MIB,
    ) {
        judge_chain(&chain(&mut Rng::new(seed), depth, size), seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]

    #[test]
    fn long_chains_are_what_their_guest_sees(
        seed in any::<u64>(),
        depth in 7..=40_usize,
        size in 1..=3 * MIB,
    ) {
        judge_chain(&chain(&mut Rng::new(seed), depth, size), seed);
    }
}

/// A raw parent that ends within a sector, under a disk that is converted: what the system copies
/// must end where the file does, whether its last bytes are data or zeros.
#[test]
fn a_raw_parent_of_any_length_is_converted() {
    for (len, zeros) in [(100_001, false), (100_001, true), (65_537, true), (300_000, true)] {
        let mut rng = Rng::new(len as u64);
        let mut raw = rng.bytes(len);
        if zeros {
            // The last granule begins with zeros and ends with them.
            let from = (len - 1) / 65536 * 65536;
            raw[from..].fill(0);
        }
        for size in [len.next_multiple_of(SECTOR), 2 * MIB] {
            let recipe = Recipe {
                kind: DIFFERENCING,
                parent_name: "raw.img".into(),
                ..Recipe::new("child", b"win ", 0x000A_0000, size)
            };
            let child = recipe.make_of(std::collections::BTreeMap::new(), &mut rng);
            let chain = Chain { layers: vec![child], raw: Some(raw.clone()) };
            let dir = tempfile::tempdir().unwrap();
            let (tip, options) = write(&chain, dir.path());
            let image = open(&tip, &options).unwrap();
            let view = judge::view(&chain.layers, Some(&raw));
            judge::reads(&*image.disks()[0], &view, &mut rng, 5);
            let formats = [TargetFormat::Raw, TargetFormat::VhdFixed, TargetFormat::Qcow2];
            for format in formats {
                let same = view.len().is_multiple_of(MIB) || format != TargetFormat::VhdFixed;
                if same {
                    judge::conversions(&image.disks()[0], &view, &[format]);
                }
            }
        }
    }
}

/// The limit is the number of layers, whoever is at the bottom.
#[test]
fn chains_end_at_their_limit() {
    let layers = |depth: usize| -> Vec<Arc<dyn ReadAt>> {
        let layer = |n: usize| {
            let kind = if n == 0 { DYNAMIC } else { DIFFERENCING };
            let mut recipe =
                Recipe { kind, block_size: 4096, ..Recipe::new("l", b"win ", 0x000A_0000, 4096) };
            be_uuid(&mut recipe.uuid, n);
            be_uuid(&mut recipe.parent_uuid, n.wrapping_sub(1));
            let block = Block { held: vec![true; 8], data: vec![0x5A; 4096] };
            let blocks = if n == 0 { [(0, block)].into() } else { Default::default() };
            Arc::new(recipe.make_of(blocks, &mut Rng::new(1)).bytes) as Arc<dyn ReadAt>
        };
        (0..depth).rev().map(layer).collect()
    };
    let open = |depth| VhdDisk::from_chain(layers(depth), &mut Findings::new(Policy::Strict));
    let disk = open(MAX_CHAIN).unwrap();
    assert_eq!(disk.depth(), MAX_CHAIN);
    let mut all = [0; 4096];
    disk.read_exact_at(&mut all, 0).unwrap();
    assert_eq!(all, [0x5A; 4096]);
    assert_eq!(open(MAX_CHAIN + 1).unwrap_err().kind(), vmimage::ErrorKind::Unsupported);
}

fn be_uuid(uuid: &mut [u8; 16], n: usize) {
    *uuid = [0; 16];
    uuid[..8].copy_from_slice(&(n as u64).wrapping_add(1).to_be_bytes());
}
