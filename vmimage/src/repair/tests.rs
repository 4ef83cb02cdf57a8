//! The machine dies at every write of a repair, and of taking it back.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::builder::{Block, Kind, Layer, seal};
use crate::store::double::{Double, World};
use crate::vhd::MAX_VIRTUAL_SIZE;

const NOW: u64 = 1_700_000_000;

fn sound() -> Vec<u8> {
    let mut layer = Layer::new(Kind::Dynamic, 5 * 4096, 4096);
    layer.creator = (*b"tap\0", 0x0001_0003);
    for i in [1, 3] {
        layer.blocks.insert(i, Block { held: vec![i == 1; 8], data: vec![i as u8 % 3; 4096] });
    }
    layer.order = vec![3, 1];
    layer.build()
}

/// Files that need a repair of more than one write, or of a longer file.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let with = |name, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound();
        change(&mut bytes);
        (name, bytes)
    };
    vec![
        with("no end", &|b| b.truncate(b.len() - 512)),
        with("half an end", &|b| b.truncate(b.len() - 300)),
        with("short end", &|b| b.truncate(b.len() - 1)),
        with("damaged end", &|b| {
            let at = b.len() - 400;
            b[at] ^= 1;
        }),
        with("no copy", &|b| b[..512].fill(0)),
        with("future, large geometry, batmap gone", &|b| {
            let end = b.len() - 512;
            b[24..28].fill(0xff);
            b[56..60].fill(0x10);
            seal(&mut b[..512], 64);
            b.copy_within(0..512, end);
            b[2048..2600].fill(0);
            b[520] = 1;
            seal(&mut b[512..1536], 36);
        }),
    ]
}

fn writer(file: Double) -> Writer {
    Writer::new(Arc::new(file), Path::new("image"))
}

fn run(file: &Double, undo: &Double) -> Result<()> {
    let options = RepairOptions::new().with_time(NOW);
    let plan = plan::plan(Arc::new(file.clone()), &options)?;
    assert!(!plan.patches.is_empty() && plan.remaining.is_empty(), "{:?}", plan.remaining);
    let writer = writer(file.clone());
    keep(&writer, &Writer::new(Arc::new(undo.clone()), Path::new("undo")), &plan.patches)?;
    apply(&writer, &plan.patches)
}

fn take_back(file: &Double, undo: &Double) -> Result<()> {
    Undo::load(&writer(undo.clone()))?.apply(&writer(file.clone()))
}

#[test]
fn a_death_at_any_write_is_undone_bit_by_bit() {
    let mut deaths = 0;
    for (name, bytes) in samples() {
        let world = World::new(1);
        let (file, undo) = (world.file(&bytes), world.file(&[]));
        run(&file, &undo).unwrap();
        let ops = world.ops();
        take_back(&file, &undo).unwrap();
        assert!(world.killed()[0] == bytes, "{name}");
        let both = world.ops();
        for op in 1..=both {
            for seed in 0..12 {
                let (grain, power) = ([1, 7, 512][seed as usize % 3], seed % 2 == 0);
                let world = World::new(seed);
                world.die_at(op, grain);
                let (file, undo) = (world.file(&bytes), world.file(&[]));
                let result = run(&file, &undo).and_then(|()| take_back(&file, &undo));
                assert!(result.is_err());
                let files = if power { world.powerless(grain) } else { world.killed() };
                let world = World::new(seed);
                let (file, undo) = (world.file(&files[0]), world.file(&files[1]));
                match take_back(&file, &undo) {
                    Ok(()) => {}
                    // Only before the undo file was whole, and then the image was not touched.
                    Err(e) => assert!(op == 1, "{name} {op} of {ops}: {e}"),
                }
                assert!(world.killed()[0] == bytes, "{name}: not restored after {op} of {ops}");
                deaths += 1;
            }
        }
    }
    assert!(deaths > 300, "{deaths}");
}

#[test]
fn one_footer_is_sound_at_any_moment() {
    for (name, bytes) in samples() {
        for op in 1..9 {
            for seed in 0..24 {
                let world = World::new(seed);
                let grain = [1, 7, 512][seed as usize % 3];
                world.die_at(op, grain);
                if run(&world.file(&bytes), &world.file(&[])).is_ok() {
                    continue;
                }
                let power = seed % 2 == 0;
                let mut files = if power { world.powerless(grain) } else { world.killed() };
                let half: Arc<dyn crate::ReadAt> = Arc::new(files.swap_remove(0));
                let mut findings = crate::Findings::new(crate::Policy::Lenient);
                let file = crate::vhd::file::VhdFile::open(half, None, &mut findings).unwrap();
                assert_eq!(file.footer.current_size, 5 * 4096, "{name} {op}");
                assert!(file.footer.current_size < MAX_VIRTUAL_SIZE);
                assert!(
                    findings.list().iter().all(|f| f.code != "footer-checksum"),
                    "{findings:?}"
                );
            }
        }
    }
}

#[test]
fn what_was_written_to_since_is_not_undone() {
    let (_, bytes) = samples().swap_remove(5);
    let world = World::new(1);
    let (file, undo) = (world.file(&bytes), world.file(&[]));
    run(&file, &undo).unwrap();
    let mut files = world.killed();
    let at = files[0].len() - 512 + 26;
    files[0][at] ^= 0x40;
    let world = World::new(1);
    let (file, undo) = (world.file(&files[0]), world.file(&files[1]));
    assert_eq!(take_back(&file, &undo).unwrap_err().kind(), ErrorKind::Usage);
    files[0].extend([0; 9]);
    let file = world.file(&files[0]);
    assert_eq!(take_back(&file, &undo).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(world.ops(), 0);
}
