//! The content root against an independent model, and its promises.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{ForwardSource, MemDisk, tool_ok};
use proptest::prelude::*;
use vmimage::{
    Comparison, DigestSet, Disk, Extent, GRANULE, Plan, PlanOptions, Result, StreamOptions,
    TargetFormat, compare, content_root, guest_sha256, stream,
};

/// The root by the plain model; `None` without Python.
fn model(disk: &MemDisk) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, disk.bytes()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/content_root.py");
    Some(tool_ok("python3", &[script, raw.to_str().unwrap()])?.trim().to_owned())
}

fn root_while_streaming(disk: &MemDisk, format: TargetFormat) -> String {
    let plan = Plan::new(format, &disk.block_map().unwrap(), &PlanOptions::new()).unwrap();
    let options = StreamOptions::new().with_digests(DigestSet::NONE);
    let outcome = stream(&plan, &mut ForwardSource::new(disk), &mut |_| Ok(()), &options).unwrap();
    outcome.content_root.unwrap()
}

fn check(disk: &MemDisk) {
    let root = content_root(disk).unwrap();
    if let Some(expected) = model(disk) {
        assert_eq!(root, expected);
    }
    for format in TargetFormat::ALL {
        assert_eq!(root_while_streaming(disk, format), root, "{format}");
    }
}

#[test]
fn shapes_of_trees() {
    let leaf = 16; // granules
    check(&MemDisk::new(0));
    check(&MemDisk::new(7 << 20));
    check(&MemDisk::new(100).with_granule(0, 1));
    check(&MemDisk::full(3 << 20, 2));
    check(&MemDisk::new(9 << 20).with_granule(leaf * 4, 3));
    check(&MemDisk::new(13 << 20).with_granule(leaf * 4 + 15, 3).with_granule(leaf * 11, 3));
    check(&MemDisk::new(6 << 20).with_granule(leaf * 5 + 3, 4).with_zero_granule(2));
}

/// Guards the definition itself: this value must never change.
#[test]
fn the_empty_root_is_a_constant() {
    assert_eq!(
        content_root(&MemDisk::new(0)).unwrap(),
        "083a9af0eb812398f743ae57a9c010c65bcb6ccf370e62e505671f144adc57b5"
    );
}

#[test]
fn stored_zeros_and_longer_tails_change_nothing() {
    let disk = MemDisk::new(5 << 20).with_granule(17, 8);
    let zeros = MemDisk::new(5 << 20).with_granule(17, 8).with_zero_granule(3);
    let longer = MemDisk::new(1 << 33).with_granule(17, 8).with_zero_granule(100_000);
    let other = MemDisk::new(5 << 20).with_granule(17, 9);
    let moved = MemDisk::new(5 << 20).with_granule(18, 8);
    let root = content_root(&disk).unwrap();
    assert_eq!(content_root(&zeros).unwrap(), root);
    assert_eq!(content_root(&longer).unwrap(), root);
    assert_ne!(content_root(&other).unwrap(), root);
    assert_ne!(content_root(&moved).unwrap(), root);
    assert_eq!(compare(&disk, &longer).unwrap(), Comparison::Same);
    assert_eq!(compare(&zeros, &disk).unwrap(), Comparison::Same);
    assert_eq!(compare(&disk, &moved).unwrap(), Comparison::DifferAt(17 * GRANULE));
}

#[test]
fn guest_sha256_is_that_of_the_raw_bytes() {
    // The well-known digest of one MiB of zeros and of "no bytes".
    let zeros = guest_sha256(&MemDisk::new(1 << 20)).unwrap();
    assert_eq!(zeros, "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58");
    let none = guest_sha256(&MemDisk::new(0)).unwrap();
    assert_eq!(none, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    let disk = MemDisk::new((3 << 20) + 5).with_granule(20, 6);
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("raw");
    std::fs::write(&raw, disk.bytes()).unwrap();
    if let Some(line) = tool_ok("sha256sum", &[raw.to_str().unwrap()]) {
        assert_eq!(line.split(' ').next(), Some(guest_sha256(&disk).unwrap().as_str()));
    }
}

/// Counts what is read.
#[derive(Debug)]
struct Counting(MemDisk, AtomicU64);

impl Disk for Counting {
    fn virtual_size(&self) -> u64 {
        self.0.virtual_size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.0.extent_at(offset)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn the_cost_follows_the_allocated_bytes() {
    // One granule of a disk of 1 TiB: a run that read or hashed the rest would take an hour.
    let disk = MemDisk::new(1 << 40).with_granule(9_000_000, 1).with_zero_granule(16_000_000);
    let disk = Counting(disk, AtomicU64::new(0));
    content_root(&disk).unwrap();
    assert_eq!(disk.1.load(Ordering::Relaxed), 2 * GRANULE);
    assert_eq!(compare(&disk, &disk).unwrap(), Comparison::Same);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_disk_agrees_with_the_model(
        size in 1_u64..30_000_000,
        picks in prop::collection::vec(any::<u64>(), 0..12),
    ) {
        let granules = size.div_ceil(GRANULE);
        let disk = picks
            .into_iter()
            .fold(MemDisk::new(size), |disk, pick| disk.with_granule(pick % granules, 1));
        check(&disk);
    }
}
