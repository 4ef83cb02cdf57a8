//! What every disk is held against: a list of sectors with their owners, made without a window, a
//! bitmap word or a cache.

use std::path::Path;
use std::sync::Arc;

use vmimage::{
    Disk, DiskSource, ExtentKind, FileOptions, GRANULE, OpenOptions, Plan, PlanOptions,
    StreamOptions, TargetFormat, Verdict, check, open, stream, to_file,
};

use crate::builder::{Rng, SECTOR};
use crate::common::{assert_same_content, qemu_read};
use crate::forge::{DIFFERENCING, Made};

/// Who has a sector, and where in its file.
pub(crate) type Owner = Option<(u32, usize)>;

/// The owners of all sectors of the chain, the youngest layer first, over a raw parent of so many
/// bytes.
pub(crate) fn owners(chain: &[Made], raw: Option<usize>) -> Vec<Owner> {
    (0..chain[0].recipe.size / SECTOR)
        .map(|sector| {
            let at = sector * SECTOR;
            for (number, layer) in chain.iter().enumerate() {
                if at >= layer.recipe.size {
                    return None;
                }
                if let Some(place) = layer.place(at) {
                    return Some((number as u32, place));
                }
                if layer.recipe.kind != DIFFERENCING {
                    return None;
                }
            }
            (at < raw?).then_some((chain.len() as u32, at))
        })
        .collect()
}

/// What the guest sees of the chain.
pub(crate) fn view(chain: &[Made], raw: Option<&[u8]>) -> Vec<u8> {
    let below = raw.unwrap_or_default().to_vec();
    chain.iter().rev().fold(below, |below, layer| layer.view(&below))
}

/// Reads of everything and of random pieces.
pub(crate) fn reads(disk: &dyn Disk, view: &[u8], rng: &mut Rng, rounds: usize) {
    assert_eq!(disk.virtual_size(), view.len() as u64);
    for round in 0..rounds {
        let from = rng.below(view.len());
        let most = if rng.one_in(2) { 5000.min(view.len() - from) } else { view.len() - from };
        let (from, to) =
            if round == 0 { (0, view.len()) } else { (from, from + rng.below(most + 1)) };
        let mut part = vec![0xAA; to - from];
        disk.read_exact_at(&mut part, from as u64).unwrap();
        assert!(part == view[from..to], "{from}..{to}");
    }
    assert!(disk.read_exact_at(&mut [0; 2], view.len() as u64 - 1).is_err());
    assert!(disk.extent_at(view.len() as u64).is_err());
}

/// Extents and the map, sector by sector.
pub(crate) fn extents(disk: &dyn Disk, owners: &[Owner], rng: &mut Rng) {
    let size = owners.len() * SECTOR;
    let owner_of = |kind: ExtentKind, by: usize| match kind {
        ExtentKind::Zero => None,
        ExtentKind::Data { layer, file_offset } => Some((layer, file_offset as usize + by)),
        other => panic!("{other:?} in a VHD"),
    };
    let mut at = 0;
    while at < size {
        let extent = disk.extent_at(at as u64).unwrap();
        let len = extent.len as usize;
        assert_eq!((extent.offset, len % SECTOR), (at as u64, 0));
        assert!(len > 0 && at + len <= size);
        for by in (0..len).step_by(SECTOR) {
            let owner = owners[(at + by) / SECTOR];
            assert_eq!(owner_of(extent.kind, by), owner, "at {at} + {by}");
        }
        // Merged: the next sector belongs to another run, or this was a long look.
        let next = owners.get((at + len) / SECTOR);
        let joins = next.is_some_and(|next| *next == owner_of(extent.kind, len));
        assert!(!joins || len >= 2 << 20, "the extent {at}+{len} goes on");
        at += len;
    }
    // In the middle of a sector too.
    for _ in 0..20 {
        let at = rng.below(size);
        let extent = disk.extent_at(at as u64).unwrap();
        let owner = owners[at / SECTOR].map(|(layer, place)| (layer, place + at % SECTOR));
        assert_eq!((extent.offset, owner_of(extent.kind, 0)), (at as u64, owner));
    }
    let map = disk.block_map().unwrap();
    let granule = GRANULE as usize / SECTOR;
    for (i, sectors) in owners.chunks(granule).enumerate() {
        let start = i as u64 * GRANULE;
        let any = sectors.iter().any(Option::is_some);
        assert_eq!(map.any(start..start + 1), any, "granule {i}");
    }
}

/// Two threads read pieces of one disk at once.
pub(crate) fn threads(disk: &dyn Disk, view: &[u8], seed: u64) {
    std::thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn(move || reads(disk, view, &mut Rng::new(seed ^ (thread + 1)), 12));
        }
    });
}

/// Converts by both executors, which must agree, and reads the results.
pub(crate) fn conversions(disk: &Arc<dyn Disk>, view: &[u8], formats: &[TargetFormat]) {
    let dir = tempfile::tempdir().unwrap();
    for &format in formats {
        let map = disk.block_map().unwrap();
        let plan = Plan::new(format, &map, &PlanOptions::new()).unwrap();
        let path = dir.path().join(format!("out.{format}"));
        to_file(&plan, disk, &path, &FileOptions::new()).unwrap();
        let written = std::fs::read(&path).unwrap();
        let mut streamed = Vec::new();
        let mut source = DiskSource::new(Arc::clone(disk)).unwrap();
        let mut sink = |bytes: bytes::Bytes| {
            streamed.extend_from_slice(&bytes);
            Ok(())
        };
        stream(&plan, &mut source, &mut sink, &StreamOptions::new()).unwrap();
        assert!(written == streamed, "{format}: the executors disagree");
        assert_eq!(plan.output_len(), Some(written.len() as u64));
        if format == TargetFormat::Raw {
            assert!(written == view, "raw");
            continue;
        }
        let again = open(&path, &OpenOptions::new()).unwrap();
        let again = &again.disks()[0];
        let mut all = vec![0xAA; again.virtual_size() as usize];
        again.read_exact_at(&mut all, 0).unwrap();
        assert!(all.len() >= view.len(), "{format}");
        assert_same_content(view, &all, &format.to_string());
        let report = check(&path, &OpenOptions::new()).unwrap();
        assert_eq!(report.verdict(), Verdict::Sound, "{format}: {report:?}");
        // How qemu-img reads the VHDs is judged where they are written.
        if format == TargetFormat::Qcow2
            && let Some(read) = qemu_read("qcow2", &path)
        {
            assert_eq!(read.len(), all.len(), "{format}");
            assert_same_content(view, &read, "qemu-img");
        }
    }
}

/// The codes of all findings of `check`, which must not be about doubtful bytes.
pub(crate) fn codes(path: &Path, options: &OpenOptions) -> Vec<&'static str> {
    let report = check(path, options).unwrap();
    assert_ne!(report.verdict(), Verdict::Corrupt, "{report:?}");
    report.findings().iter().map(|f| f.code).collect()
}
