//! Damage of every kind to VHDs: a typed error, or the right content; never a panic, never a
//! wrong byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmimage::vhd::{VhdDisk, VhdStream};
use vmimage::{
    Disk, ErrorKind, Findings, OpenOptions, Policy, ReadAt, Result, Source, Verdict, check,
};

use crate::builder::{Block, Rng, SECTOR};
use crate::forge::{DIFFERENCING, FIXED, MIB, Made, Recipe, Tail, be};
use crate::judge;

/// The disk of these files, the youngest first.
fn disk_of(files: &[&[u8]], policy: Policy) -> Result<VhdDisk> {
    let chain = files.iter().map(|f| Arc::new(f.to_vec()) as Arc<dyn ReadAt>).collect();
    VhdDisk::from_chain(chain, &mut Findings::new(policy))
}

/// The content; of a disk whose damaged size is absurd its first bytes.
fn all_of(disk: &dyn Disk) -> Result<Vec<u8>> {
    let mut all = vec![0xAA; disk.virtual_size().min(64 << 20) as usize];
    disk.read_exact_at(&mut all, 0)?;
    disk.block_map()?;
    disk.extent_at(disk.virtual_size().saturating_sub(1))?;
    Ok(all)
}

/// Small files of the writers that differ most: 64 KiB blocks keep them small.
fn samples() -> Vec<Made> {
    let size = 9 * 65536 + 512;
    let small = |recipe: Recipe| Recipe { block_size: 65536, full_bits: false, ..recipe };
    let recipes = [
        small(Recipe {
            os: [0; 4],
            batmap: Some((0x0001_0002, None)),
            align: 4096,
            shuffled: true,
            ..Recipe::new("tap", b"tap\0", 0x0001_0003, size)
        }),
        small(Recipe { bat_at: 2048, ..Recipe::new("caml", b"caml", 1, size) }),
        small(Recipe { tail: Tail::Short, ..Recipe::new("vpc", b"vpc ", 0x0005_0000, size) }),
        small(Recipe {
            spare_entries: 300,
            shuffled: true,
            ..Recipe::new("win", b"win ", 1, size)
        }),
        Recipe { kind: FIXED, block_size: 65536, ..Recipe::new("fixed", b"win ", 1, size) },
    ];
    recipes.iter().enumerate().map(|(i, r)| r.make(&mut Rng::new(i as u64 + 1))).collect()
}

/// The places of a file that are metadata with a redundancy: sums, copies, or entries that must not
/// collide. A bitmap has none.
fn metadata(made: &Made) -> Vec<usize> {
    let end = made.bytes.len() - if made.recipe.tail == Tail::Short { 511 } else { 512 };
    let mut out: Vec<usize> = (end..made.bytes.len()).collect();
    if made.recipe.kind == FIXED {
        return out;
    }
    let header = made.recipe.header_at;
    out.extend((0..512).chain(header..header + 1024));
    out.extend(made.recipe.bat_at..made.recipe.bat_at + 4 * made.recipe.needed());
    if made.recipe.batmap.is_some() {
        out.extend(made.recipe.bat_end()..made.recipe.bat_end() + 1024);
    }
    out
}

/// Whether flipping one bit of a BAT entry moves a block to where nothing else is: no reader can
/// know of that.
fn moves_into_a_gap(made: &Made, at: usize, bit: usize) -> bool {
    let (bat, r) = (made.recipe.bat_at, &made.recipe);
    if r.kind == FIXED || at < bat || at >= bat + 4 * r.needed() {
        return false;
    }
    let index = (at - bat) / 4;
    let entry = |i: usize| {
        let at = bat + 4 * i;
        u32::from_be_bytes(made.bytes[at..at + 4].try_into().unwrap())
    };
    let moved = entry(index) ^ (1 << (31 - (at - bat - 4 * index) * 8 - 7 + bit));
    let stride = ((r.bitmap_len() + r.block_size) / SECTOR) as u32;
    let others = (0..r.needed()).filter(|&i| i != index).map(entry).filter(|&e| e != u32::MAX);
    let tables = (r.bat_end() / SECTOR) as u32;
    let end = (made.bytes.len() as u64 - 511) / 512;
    let left = (r.size - index * r.block_size).min(r.block_size) + r.bitmap_len();
    let fits = u64::from(moved) + (left / SECTOR) as u64 <= end;
    fits && moved >= tables && others.into_iter().all(|e| e.abs_diff(moved) >= stride)
}

#[test]
fn one_wrong_bit_of_the_metadata_is_an_error_or_no_matter() {
    let (mut right, mut refused, mut cases) = (0, 0, 0);
    for made in samples() {
        let view = judge::view(std::slice::from_ref(&made), None);
        let mut rng = Rng::new(made.bytes.len() as u64);
        for at in metadata(&made) {
            // Every byte, one bit of it; every bit of the BAT.
            let bat = at >= made.recipe.bat_at && at < made.recipe.bat_end();
            let one = rng.below(8);
            for bit in if bat { 0..8 } else { one..one + 1 } {
                if moves_into_a_gap(&made, at, bit) {
                    continue;
                }
                let mut bytes = made.bytes.clone();
                bytes[at] ^= 1 << bit;
                cases += 1;
                match disk_of(&[&bytes], Policy::Strict).and_then(|d| all_of(&d)) {
                    Ok(all) => {
                        assert!(all == view, "{}: byte {at}, bit {bit}", made.recipe.name);
                        right += 1;
                    }
                    Err(error) => {
                        assert!(
                            matches!(
                                error.kind(),
                                ErrorKind::Corrupt
                                    | ErrorKind::Truncated
                                    | ErrorKind::Unsupported
                                    | ErrorKind::Reference
                                    | ErrorKind::TooLarge
                            ),
                            "{error:?}"
                        );
                        refused += 1;
                    }
                }
                // Leniently there is an answer too, whatever it is.
                let _ = disk_of(&[&bytes], Policy::Lenient).and_then(|d| all_of(&d));
            }
        }
    }
    assert!(cases > 1000 && right > 500 && refused > 500, "{cases}: {right}, {refused}");
}

/// The same of a stream, which has to notice before it is over.
#[test]
fn one_wrong_bit_of_a_streams_metadata_is_an_error_or_no_matter() {
    let recipe = Recipe { bat_at: 2048, ..Recipe::new("caml", b"caml", 1, 5 * 65536 + 512) };
    let made = Recipe { block_size: 65536, ..recipe }.make(&mut Rng::new(11));
    let view = judge::view(std::slice::from_ref(&made), None);
    let (mut right, mut refused) = (0, 0);
    for at in metadata(&made).into_iter().chain(1536..2048) {
        let bit = at % 8;
        if moves_into_a_gap(&made, at, bit) {
            continue;
        }
        let mut bytes = made.bytes.clone();
        bytes[at] ^= 1 << bit;
        let read = || -> Result<Vec<u8>> {
            let mut stream = VhdStream::new(std::io::Cursor::new(bytes))?;
            let mut all = vec![0; view.len()];
            for run in stream.block_map().clone().runs() {
                let part = &mut all[run.start as usize..run.end as usize];
                stream.read_exact_at(part, run.start)?;
            }
            stream.finish()?;
            Ok(all)
        };
        match read() {
            Ok(all) => {
                assert!(all == view, "byte {at}, bit {bit}");
                right += 1;
            }
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::Io, "{error:?}");
                assert_ne!(error.kind(), ErrorKind::Usage, "{error:?}");
                refused += 1;
            }
        }
    }
    assert!(right >= 512 && refused > 1500, "{right}, {refused}");
}

#[test]
fn a_file_that_ends_anywhere_is_an_error_or_whole() {
    for made in samples() {
        let view = judge::view(std::slice::from_ref(&made), None);
        let len = made.bytes.len();
        let mut rng = Rng::new(len as u64);
        let mut points: Vec<usize> = (0..200).map(|_| rng.below(len)).collect();
        points.extend([0, 1, 511, 512, 513, 1535, 1536, 1537, len - 513, len - 512, len - 511]);
        points.extend(len - 600..len);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut");
        for (i, cut) in points.into_iter().enumerate() {
            let bytes = &made.bytes[..cut];
            match disk_of(&[bytes], Policy::Strict).and_then(|d| all_of(&d)) {
                Ok(all) => assert!(all == view, "{} cut at {cut}", made.recipe.name),
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::Truncated | ErrorKind::Corrupt),
                    "{error:?}"
                ),
            }
            let _ = disk_of(&[bytes], Policy::Lenient).and_then(|d| all_of(&d));
            if i % 20 == 0 {
                std::fs::write(&path, bytes).unwrap();
                let options = OpenOptions::new().with_format(vmimage::Format::Vhd);
                let report = check(&path, &options).unwrap();
                assert_ne!(report.verdict(), Verdict::Sound, "{} cut at {cut}", made.recipe.name);
            }
        }
    }
}

/// Entries of the BAT by hand: what strictness says, and the report.
#[test]
fn entries_that_cannot_be_are_refused() {
    for made in samples() {
        let r = &made.recipe;
        if r.kind == FIXED {
            continue;
        }
        let stored: Vec<usize> = made.places.keys().copied().collect();
        let (first, last) = (stored[0], stored[stored.len() - 1]);
        let sector_of = |index: usize| ((made.places[&index] - r.bitmap_len()) / SECTOR) as u32;
        let highest = *stored.iter().max_by_key(|&&i| sector_of(i)).unwrap();
        let end = (made.bytes.len() / SECTOR) as u32;
        let cases: Vec<(&str, usize, u32)> = vec![
            ("the end of the file", first, end),
            ("far past it", first, 0xFFFF_FFFE),
            ("half of the range", first, 0x8000_0000),
            ("the largest positive number", first, 0x7FFF_FFFF),
            ("the footer's copy", first, 0),
            ("the header", first, 1),
            ("the table", first, (r.bat_at / SECTOR) as u32),
            ("another block", first, sector_of(last)),
            ("half of another block", first, sector_of(last) + 3),
            (
                "an entry for an absent block",
                (0..r.needed()).find(|i| !stored.contains(i)).unwrap_or(first),
                sector_of(last),
            ),
            // The disk's last block may be cut short, the others' last sectors are data.
            (
                "the last footer",
                if highest == last { first } else { highest },
                end - (r.block_size / SECTOR) as u32,
            ),
        ];
        for (what, index, sector) in cases {
            let mut bytes = made.bytes.clone();
            be(&mut bytes, r.bat_at + 4 * index, u64::from(sector), 4);
            let error = disk_of(&[&bytes], Policy::Strict).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated),
                "{}: {what}: {error:?}",
                r.name
            );
            let _ = disk_of(&[&bytes], Policy::Lenient).and_then(|d| all_of(&d));
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            std::fs::write(&path, &bytes).unwrap();
            let report = check(&path, &OpenOptions::new()).unwrap();
            assert_eq!(report.verdict(), Verdict::Corrupt, "{}: {what}", r.name);
        }
    }
}

/// A block over the last footer: no other check would see it, and its last sector would be the
/// footer's bytes.
#[test]
fn a_block_over_the_last_footer_is_refused() {
    for tail in [Tail::Whole, Tail::Short] {
        let recipe = Recipe { tail, ..Recipe::new("win", b"win ", 0x000A_0000, 2 * 65536) };
        let recipe = Recipe { block_size: 65536, ..recipe };
        let made = recipe.make(&mut Rng::new(1));
        let last = made.places.iter().max_by_key(|(_, place)| **place).unwrap().0;
        let at = recipe.bat_at + 4 * last;
        let mut bytes = made.bytes.clone();
        let sector = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        be(&mut bytes, at, u64::from(sector) + 1, 4);
        let error = disk_of(&[&bytes], Policy::Strict).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{error:?}");
    }
}

/// Writers may cut the last block where the disk ends, and put the footer there.
#[test]
fn a_last_block_that_ends_with_the_disk_is_read() {
    let size = 2 * MIB + 5 * 512;
    let recipe = Recipe::new("win", b"win ", 0x000A_0000, size);
    let made = recipe.make(&mut Rng::new(1));
    let view = judge::view(std::slice::from_ref(&made), None);
    let data = made.places[&1];
    let mut bytes = made.bytes[..data + 5 * 512].to_vec();
    bytes.extend(recipe.footer());
    assert!(all_of(&disk_of(&[&bytes], Policy::Strict).unwrap()).unwrap() == view);
    bytes.drain(data + 4 * 512..data + 5 * 512);
    let error = disk_of(&[&bytes], Policy::Strict).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
}

/// What a bitmap says is believed, bit by bit, wherever the bit is.
#[test]
fn a_flipped_bit_of_a_bitmap_changes_its_sector_only() {
    let base = Recipe { block_size: 65536, ..Recipe::new("base", b"win ", 1, 5 * 65536) };
    let child = Recipe {
        kind: DIFFERENCING,
        uuid: [4; 16],
        parent_uuid: base.uuid,
        full_bits: false,
        ..base.clone()
    };
    let mut rng = Rng::new(3);
    let sectors = 65536 / SECTOR;
    let whole: BTreeMap<usize, Block> =
        (0..5).map(|i| (i, Block { held: vec![true; sectors], data: rng.bytes(65536) })).collect();
    let base = base.make_of(whole, &mut rng);
    let child = child.make(&mut rng);
    for _ in 0..300 {
        let mut changed = child.clone();
        let index = *rng.pick(&changed.places.keys().copied().collect::<Vec<_>>());
        let sector = rng.below(sectors);
        let bitmap = changed.places[&index] - 512;
        changed.bytes[bitmap + sector / 8] ^= 0x80 >> (sector % 8);
        let held = &mut changed.blocks.get_mut(&index).unwrap().held[sector];
        *held = !*held;
        let disk = disk_of(&[&changed.bytes, &base.bytes], Policy::Strict).unwrap();
        let chain = [changed, base.clone()];
        assert!(all_of(&disk).unwrap() == judge::view(&chain, None), "{index}, {sector}");
    }
}

/// Disks of no and of one sector have all operations too.
#[test]
fn the_smallest_disks_are_disks() {
    for size in [0, 512, 4096] {
        for kind in [FIXED, crate::forge::DYNAMIC] {
            let recipe = Recipe { kind, ..Recipe::new("small", b"win ", 0x000A_0000, size) };
            let made = recipe.make(&mut Rng::new(1));
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            std::fs::write(&path, &made.bytes).unwrap();
            let image = vmimage::open(&path, &OpenOptions::new()).unwrap();
            let disk = &image.disks()[0];
            assert_eq!(disk.virtual_size(), size as u64);
            let mut all = vec![0; size];
            disk.read_exact_at(&mut all, 0).unwrap();
            assert!(all == judge::view(std::slice::from_ref(&made), None));
            assert!(disk.extent_at(size as u64).is_err());
            let map = disk.block_map().unwrap();
            assert_eq!(map.granules(), u64::from(size > 0));
            judge::codes(&path, &OpenOptions::new());
            judge::conversions(disk, &all, &[vmimage::TargetFormat::Raw]);
        }
    }
}
