//! Chains of random layers against the model: reads, extents and the block map.

use std::sync::Arc;

use proptest::prelude::*;
use vmimage::vhd::VhdDisk;
use vmimage::{Disk, ExtentKind, Findings, Policy, ReadAt};

use crate::builder::{Block, Kind, Layer, Rng, SECTOR, random_chain};

pub(crate) fn disk_of(files: &[Vec<u8>]) -> VhdDisk {
    let chain = files.iter().map(|f| Arc::new(f.clone()) as Arc<dyn ReadAt>).collect();
    VhdDisk::from_chain(chain, &mut Findings::new(Policy::Strict)).unwrap()
}

/// Reads, extents and map of `disk` against what the guest sees.
pub(crate) fn compare(disk: &dyn Disk, files: &[Vec<u8>], view: &[u8], rng: &mut Rng) {
    assert_eq!(disk.virtual_size(), view.len() as u64);
    let mut all = vec![0xAA; view.len()];
    disk.read_exact_at(&mut all, 0).unwrap();
    assert!(all == view, "the whole disk");
    for _ in 0..20 {
        let from = rng.below(view.len());
        let to = from + rng.below(view.len() - from + 1);
        let mut part = vec![0xAA; to - from];
        disk.read_exact_at(&mut part, from as u64).unwrap();
        assert!(part == view[from..to], "{from}..{to}");
    }
    let mut at = 0;
    while at < view.len() {
        let extent = disk.extent_at(at as u64).unwrap();
        assert_eq!(extent.offset, at as u64);
        let len = extent.len as usize;
        assert!(len > 0 && at + len <= view.len());
        match extent.kind {
            ExtentKind::Zero => assert!(view[at..at + len].iter().all(|b| *b == 0), "zero at {at}"),
            ExtentKind::Data { layer, file_offset } => {
                let from = file_offset as usize;
                assert!(files[layer as usize][from..from + len] == view[at..at + len]);
            }
            other => panic!("{other:?} in a VHD"),
        }
        at += len;
    }
    let map = disk.block_map().unwrap();
    for (i, granule) in view.chunks(vmimage::GRANULE as usize).enumerate() {
        let start = i as u64 * vmimage::GRANULE;
        let any = map.any(start..start + granule.len() as u64);
        assert!(any || granule.iter().all(|b| *b == 0), "granule {i} is missing in the map");
    }
    assert!(disk.read_exact_at(&mut [0; 2], view.len() as u64 - 1).is_err());
    assert!(disk.extent_at(view.len() as u64).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_chain_is_what_its_guest_sees(seed in any::<u64>()) {
        let (layers, view) = random_chain(seed);
        let files: Vec<Vec<u8>> = layers.iter().map(Layer::build).collect();
        compare(&disk_of(&files), &files, &view, &mut Rng::new(seed ^ 1));
    }
}

/// The case that byte-wise bitmap readers get wrong: 0xC9 has ones after zeros in one byte.
#[test]
fn mixed_bytes_resolve_bit_by_bit() {
    let block_size = 2 << 20;
    let mut base = Layer::new(Kind::Dynamic, block_size, block_size);
    let sectors = block_size / SECTOR;
    let full = Block { held: vec![true; sectors], data: vec![0xBB; block_size] };
    base.blocks.insert(0, full);
    let mut child = Layer::new(Kind::Differencing, block_size, block_size);
    child.uuid = *b"child-0123456789";
    child.parent_uuid = base.uuid;
    let held = (0..sectors).map(|s| 0xC9 >> (7 - s % 8) & 1 == 1).collect();
    child.blocks.insert(0, Block { held, data: vec![0xCC; block_size] });
    (base.order, child.order) = (vec![0], vec![0]);
    let files = [child.build(), base.build()];
    let disk = disk_of(&files);
    let mut sector = [0; 8 * 512];
    disk.read_exact_at(&mut sector, 8 * 512).unwrap();
    let seen: Vec<u8> = sector.chunks(512).map(|s| s[0]).collect();
    assert_eq!(seen, [0xCC, 0xCC, 0xBB, 0xBB, 0xCC, 0xBB, 0xBB, 0xCC]);
    assert!(sector.chunks(512).all(|s| s.iter().all(|b| *b == s[0])));
}

/// tapdisk's rule: past a layer's own end is zero, even where an older layer is larger.
#[test]
fn a_short_layer_hides_what_lies_past_its_end() {
    let mut base = Layer::new(Kind::Dynamic, 8 * 4096, 4096);
    for i in 0..8 {
        base.blocks.insert(i, Block { held: vec![true; 8], data: vec![0xBB; 4096] });
    }
    base.order = (0..8).collect();
    let mut middle = Layer::new(Kind::Differencing, 2 * 4096, 4096);
    (middle.uuid, middle.parent_uuid) = (*b"middle-012345678", base.uuid);
    let mut tip = Layer::new(Kind::Differencing, 8 * 4096, 4096);
    (tip.uuid, tip.parent_uuid) = (*b"tip-012345678901", middle.uuid);
    let files = [tip.build(), middle.build(), base.build()];
    let disk = disk_of(&files);
    let mut all = vec![1; 8 * 4096];
    disk.read_exact_at(&mut all, 0).unwrap();
    assert!(all[..2 * 4096].iter().all(|b| *b == 0xBB));
    assert!(all[2 * 4096..].iter().all(|b| *b == 0));
    let extent = disk.extent_at(2 * 4096).unwrap();
    assert_eq!((extent.kind, extent.len), (ExtentKind::Zero, 6 * 4096));
}

#[test]
fn strangers_are_no_parents() {
    let mut child = Layer::new(Kind::Differencing, 4096, 4096);
    child.parent_uuid = *b"somebody-else-01";
    let base = Layer::new(Kind::Dynamic, 4096, 4096);
    let open = |files: &[&Layer]| {
        let chain = files.iter().map(|l| Arc::new(l.build()) as Arc<dyn ReadAt>).collect();
        VhdDisk::from_chain(chain, &mut Findings::new(Policy::Strict)).unwrap_err().kind()
    };
    assert_eq!(open(&[&child, &base]), vmimage::ErrorKind::Reference);
    assert_eq!(open(&[&child]), vmimage::ErrorKind::Reference);
    assert_eq!(open(&[]), vmimage::ErrorKind::Usage);
}

/// Several threads read one chain; the caches below are shared.
#[test]
fn threads_see_the_same_disk() {
    for seed in 0..10 {
        let (layers, view) = random_chain(seed);
        let files: Vec<Vec<u8>> = layers.iter().map(Layer::build).collect();
        let disk = disk_of(&files);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (disk, view) = (&disk, &view);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed * 4 + thread);
                    for _ in 0..50 {
                        let from = rng.below(view.len());
                        let to = from + rng.below(view.len() - from + 1);
                        let mut part = vec![0xAA; to - from];
                        disk.read_exact_at(&mut part, from as u64).unwrap();
                        assert!(part == view[from..to], "{from}..{to}");
                    }
                });
            }
        });
    }
}
