//! The machine dies at every write of a commit, in every way: the disk seen through the child
//! stays what it was, and another run finishes.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::builder::{Block, Kind, Layer, Rng, SECTOR};
use crate::store::double::{Double, World};
use crate::vhd::VhdDisk;
use crate::{Disk, ReadAt, Verdict};

/// A chain: child, parent, and what may be below; and what a guest sees through the child.
struct Case {
    child: Vec<u8>,
    parent: Vec<u8>,
    below: Vec<Layer>,
    uuid: Option<[u8; 16]>,
    view: Vec<u8>,
}

impl Case {
    fn new(child: &Layer, parent: &Layer, below: Vec<Layer>) -> Self {
        let deep = below.iter().rev().fold(Vec::new(), |view, layer| layer.view(&view));
        let view = child.view(&parent.view(&deep));
        let uuid = Some(parent.uuid);
        Self { child: child.build(), parent: parent.build(), below, uuid, view }
    }

    fn raw(child: &Layer, parent: &[u8]) -> Self {
        let view = child.view(parent);
        let below = Vec::new();
        Self { child: child.build(), parent: parent.to_vec(), below, uuid: None, view }
    }

    fn below(&self) -> u64 {
        self.below.iter().map(|l| l.size as u64).max().unwrap_or(0)
    }

    fn commit(&self, parent: Double, journal: Double) -> Result<Done> {
        let mut strict = Findings::new(Policy::Strict);
        let child = VhdFile::open(Arc::new(self.child.clone()), None, &mut strict)?;
        let task = Task {
            child: &child,
            parent: Writer::new(Arc::new(parent), Path::new("parent")),
            journal: Writer::new(Arc::new(journal), Path::new("journal")),
            journal_path: Path::new("journal"),
            below: self.below(),
            hooks: &Hooks::default(),
        };
        task.run(self.uuid.as_ref())
    }

    /// Everything the chain `files` shows, the parent's file being `parent`.
    fn read(&self, parent: &[u8], with_child: bool) -> Result<Vec<u8>> {
        let mut files: Vec<Vec<u8>> = Vec::new();
        if with_child {
            files.push(self.child.clone());
        }
        let mut raw = None;
        match self.uuid {
            Some(_) => files.push(parent.to_vec()),
            None if !with_child => return Ok(parent.to_vec()),
            None => {
                let len = parent.len() as u64;
                raw = Some(crate::vhd::raw_parent(Arc::new(parent.to_vec()), len));
            }
        }
        files.extend(self.below.iter().map(Layer::build));
        let mut strict = Findings::new(Policy::Strict);
        let open = |f: Vec<u8>, strict: &mut Findings| VhdFile::open(Arc::new(f), None, strict);
        let files = files.into_iter().map(|f| open(f, &mut strict)).collect::<Result<_>>()?;
        let disk = VhdDisk::new(files, raw, crate::SizePolicy::CurrentSize)?;
        let mut all = vec![0; disk.virtual_size() as usize];
        disk.read_exact_at(&mut all, 0)?;
        Ok(all)
    }

    fn assert_through_child(&self, parent: &[u8], when: &str) {
        match self.read(parent, true) {
            Ok(seen) => assert!(seen == self.view, "{when}: another disk through the child"),
            Err(e) => panic!("{when}: cannot be read through the child: {e}"),
        }
    }

    /// The finished parent alone.
    fn assert_done(&self, parent: &[u8], when: &str) {
        let alone = self.read(parent, false).unwrap();
        assert!(alone.len() >= self.view.len(), "{when}: {} bytes", alone.len());
        assert!(alone[..self.view.len()] == self.view, "{when}: another disk in the parent");
        self.assert_through_child(parent, when);
        if self.uuid.is_some() {
            let report = check_bytes(parent);
            assert_ne!(report.verdict(), Verdict::Corrupt, "{when}: {report:?}");
            let codes: Vec<_> = report.findings().iter().map(|f| f.code).collect();
            for code in ["footer-mismatch", "footer-missing", "footer-damaged", "batmap-damaged"] {
                assert!(!codes.contains(&code), "{when}: {codes:?}");
            }
        }
    }
}

fn check_bytes(bytes: &[u8]) -> crate::Report {
    let mut findings = Findings::new(Policy::Lenient);
    let file: Arc<dyn ReadAt> = Arc::new(bytes.to_vec());
    let file = VhdFile::open(file, None, &mut findings).unwrap();
    crate::vhd::check::examine(&file, &mut findings).unwrap();
    crate::Report::new(findings)
}

/// A chain of random layers that can be committed.
fn random(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let sizes = [4096, 8192, 32768];
    let mut size = (1 + rng.below(200)) * SECTOR;
    let mut below = Vec::new();
    let mut kind = *rng.pick(&[Kind::Dynamic, Kind::Dynamic, Kind::Differencing, Kind::Fixed]);
    if kind == Kind::Differencing {
        let block = *rng.pick(&sizes);
        below.push(Layer::random(&mut rng, Kind::Dynamic, size, block));
        // Sometimes the base is the larger one, and hidden in part.
        size = match rng.below(3) {
            0 => size,
            1 => size + rng.below(50) * SECTOR,
            _ => (1 + rng.below(200)) * SECTOR,
        };
    }
    let raw = kind == Kind::Fixed && rng.one_in(2);
    let block = *rng.pick(&sizes);
    let mut parent = Layer::random(&mut rng, kind, size, block);
    parent.spare_entries = *rng.pick(&[0, 0, 1, 200]);
    if let Some(base) = below.first() {
        parent.parent_uuid = base.uuid;
    }
    if raw {
        kind = Kind::Dynamic;
    }
    if kind != Kind::Fixed && rng.one_in(2) {
        let room = block / SECTOR * *rng.pick(&[2, 10, 150]);
        size += rng.below(room) * SECTOR;
    }
    let block = if rng.one_in(3) { *rng.pick(&sizes) } else { block };
    let mut child = Layer::random(&mut rng, Kind::Differencing, size, block);
    if rng.one_in(3) {
        // A guest whose files are VHDs: each of its sectors is the sound footer of another disk.
        let footer = Layer::new(Kind::Dynamic, 4096, 4096).footer();
        for block in child.blocks.values_mut() {
            block.data = footer.repeat(child.block_size / SECTOR);
        }
    }
    if !raw {
        child.parent_uuid = parent.uuid;
    }
    CHILD.with(|last| *last.borrow_mut() = Some(child.clone()));
    if raw {
        return Case::raw(&child, &parent.view(&[]));
    }
    Case::new(&child, &parent, below)
}

/// Commits without a fault; gives the number of changes and the parent, or the refusal.
fn whole(case: &Case) -> Result<(u64, Vec<u8>)> {
    let world = World::new(1);
    let (parent, journal) = (world.file(&case.parent), world.file(&[]));
    case.commit(parent, journal)?;
    Ok((world.ops(), world.killed().swap_remove(0)))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Death {
    /// The process is killed; a write is torn at a sector.
    Kill,
    /// The process is killed, and a write is torn anywhere.
    Tear,
    /// What was not synced is lost in part, sector by sector.
    Power,
    /// What was not synced is lost in part, in pieces of a few bytes.
    PowerTear,
}

impl Death {
    fn grain(self) -> usize {
        match self {
            Self::Kill | Self::Power => SECTOR,
            Self::Tear => 1,
            Self::PowerTear => 7,
        }
    }
}

/// Dies at the change `op`, looks, dies `again` times while it finishes, and finishes.
fn die(case: &Case, op: u64, death: Death, again: u32, seed: u64) {
    let when = format!("{death:?} at {op}, seed {seed}");
    let mut files = vec![case.parent.clone(), Vec::new()];
    let mut op = op;
    for round in 0..=again {
        let world = World::new(seed + u64::from(round));
        world.die_at(op, death.grain());
        let (parent, journal) = (world.file(&files[0]), world.file(&files[1]));
        let result = case.commit(parent, journal);
        files = match death {
            Death::Kill | Death::Tear => world.killed(),
            Death::Power | Death::PowerTear => world.powerless(death.grain()),
        };
        if result.is_ok() {
            files = world.killed();
            break;
        }
        if death.grain() == SECTOR {
            case.assert_through_child(&files[0], &when);
        }
        op = 1 + (op * 7 + seed) % op.max(2);
    }
    let world = World::new(seed);
    let (parent, journal) = (world.file(&files[0]), world.file(&files[1]));
    if let Err(e) = case.commit(parent, journal) {
        panic!("{when}: cannot be finished: {e}");
    }
    case.assert_done(&world.killed()[0], &when);
}

#[test]
fn a_commit_gives_the_parent_what_was_seen_through_the_child() {
    let (mut done, mut refused) = (0, 0);
    for seed in 0..600 {
        let case = random(seed);
        case.assert_through_child(&case.parent, "before");
        match whole(&case) {
            Ok((_, parent)) => {
                case.assert_done(&parent, &format!("seed {seed}"));
                done += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Unsupported, "seed {seed}: {e}");
                refused += 1;
            }
        }
    }
    assert!(done > 400 && refused > 10, "{done} done, {refused} refused");
}

#[test]
fn a_refused_commit_has_written_nothing() {
    let mut refused = 0;
    for seed in 0..600 {
        let case = random(seed);
        let world = World::new(1);
        if case.commit(world.file(&case.parent), world.file(&[])).is_err() {
            assert_eq!(world.ops(), 0);
            refused += 1;
        }
    }
    assert!(refused > 10);
}

#[test]
fn a_death_at_any_write_loses_nothing() {
    let (mut deaths, mut grown) = (0, 0);
    for seed in 0..60 {
        let case = random(seed);
        let Ok((ops, parent)) = whole(&case) else { continue };
        grown += u32::from(case.uuid.is_some() && parent.len() > case.parent.len());
        // All of a short commit, and a sample of a long one with all of its beginning and end.
        for op in 1..=ops {
            if ops > 60 && op > 20 && op + 25 < ops && op % 7 != seed % 7 {
                continue;
            }
            for death in [Death::Kill, Death::Tear, Death::Power, Death::PowerTear] {
                die(&case, op, death, u32::from(op % 3 == 0) * 2, seed * 1000 + op);
                deaths += 1;
            }
        }
    }
    println!("{deaths} deaths, {grown} parents got longer");
    assert!(deaths > 3000 && grown > 20, "{deaths} deaths, {grown} grown");
}

/// The last changes of a commit into a growing parent (footers, batmap), and what was not synced
/// of them.
#[test]
fn a_death_at_the_end_of_a_growing_commit_loses_nothing() {
    let mut deaths = 0;
    for seed in 0..300 {
        let case = random(seed);
        let grows =
            case.uuid.is_some() && case.read(&case.parent, false).unwrap().len() < case.view.len();
        let Some(ops) = grows.then(|| whole(&case).ok()).flatten().map(|(ops, _)| ops) else {
            continue;
        };
        for op in ops.saturating_sub(7).max(1)..=ops {
            for chance in 0..4 {
                let death = [Death::Power, Death::PowerTear][chance % 2];
                die(&case, op, death, 3, seed * 100 + op * 4 + chance as u64);
                deaths += 1;
            }
        }
    }
    assert!(deaths > 1000, "{deaths}");
}

/// Where the first new block's bitmap comes to lie on the old footer, whose bytes would be bits.
#[test]
fn a_block_is_not_seen_before_its_bitmap_is_durable() {
    let size = 12 * 4096;
    let full = |n: u8| Block { held: vec![true; 8], data: vec![n; 4096] };
    let mut base = Layer::new(Kind::Dynamic, size, 4096);
    (0..12).for_each(|i| drop(base.blocks.insert(i, full(i as u8 + 1))));
    base.order = (0..12).collect();
    let mut parent = Layer::new(Kind::Differencing, size, 4096);
    (parent.uuid, parent.parent_uuid) = (*b"parent-012345678", base.uuid);
    parent.gap = 4096 - (parent.build().len() % 4096);
    assert!(parent.build().len().is_multiple_of(4096));
    let mut child = Layer::new(Kind::Differencing, size, 4096);
    (child.uuid, child.parent_uuid) = (*b"child-0123456789", parent.uuid);
    for i in 0..12 {
        let held = (0..8).map(|s| s % 2 == 0).collect();
        child.blocks.insert(i, Block { held, data: vec![0xCC; 4096] });
    }
    child.order = (0..12).collect();
    let case = Case::new(&child, &parent, vec![base]);
    let (ops, _) = whole(&case).unwrap();
    for op in 1..=ops {
        for seed in 0..20 {
            die(&case, op, Death::Power, 1, seed);
        }
    }
}

/// The machine dies, the guest goes on to write to the child, and the commit is finished then.
#[test]
fn a_child_that_was_written_in_between_is_committed_as_it_is() {
    for seed in 0..120 {
        let case = random(seed);
        let Ok((ops, _)) = whole(&case) else { continue };
        let mut rng = Rng::new(seed);
        for round in 0..8 {
            // The end of a commit is where most can go wrong.
            let back = rng.below(if round % 2 == 0 { ops.min(6) } else { ops } as usize);
            let world = World::new(seed);
            world.die_at(ops - back as u64, SECTOR);
            let result = case.commit(world.file(&case.parent), world.file(&[]));
            assert!(result.is_err());
            let files = world.killed();
            let later = written_on(&case, seed);
            later.assert_through_child(&files[0], "after the guest's writes");
            // And once more it dies on the way.
            let world = World::new(seed);
            world.die_at(1 + rng.below(2 * ops as usize) as u64, SECTOR);
            let _ = later.commit(world.file(&files[0]), world.file(&files[1]));
            let files = world.killed();
            later.assert_through_child(&files[0], "after the second death");
            let world = World::new(seed);
            later.commit(world.file(&files[0]), world.file(&files[1])).unwrap();
            later.assert_done(&world.killed()[0], &format!("seed {seed}, round {round}"));
        }
    }
}

/// A block of an earlier attempt may lie where another one is put: nothing of it stays.
#[test]
fn no_data_of_an_earlier_attempt_is_left_under_zero_bits() {
    let mut parent = Layer::new(Kind::Dynamic, 12 * 4096, 4096);
    parent.order = Vec::new();
    let mut child = Layer::new(Kind::Differencing, 12 * 4096, 4096);
    (child.uuid, child.parent_uuid) = (*b"child-0123456789", parent.uuid);
    let half =
        |n: usize| Block { held: (0..8).map(|s| s % 2 == n % 2).collect(), data: vec![7; 4096] };
    (3..10).for_each(|i| drop(child.blocks.insert(i, half(i))));
    child.order = (3..10).collect();
    let case = Case::new(&child, &parent, Vec::new());
    (0..3).for_each(|i| drop(child.blocks.insert(i, half(i + 1))));
    child.order = (0..10).collect();
    let later = Case::new(&child, &parent, Vec::new());
    let (ops, _) = whole(&case).unwrap();
    for op in 1..=ops {
        let world = World::new(1);
        world.die_at(op, SECTOR);
        case.commit(world.file(&case.parent), world.file(&[])).unwrap_err();
        let files = world.killed();
        let world = World::new(1);
        later.commit(world.file(&files[0]), world.file(&files[1])).unwrap();
        let report = check_bytes(&world.killed()[0]);
        assert_eq!(report.verdict(), Verdict::Sound, "{op}: {report:?}");
    }
}

/// The case with more in its child: every block that it did not have.
fn written_on(case: &Case, seed: u64) -> Case {
    let mut child = rebuilt(seed);
    let mut rng = Rng::new(seed + 99);
    for index in 0..child.size.div_ceil(child.block_size) {
        let sectors = child.block_size / SECTOR;
        child.blocks.entry(index).or_insert_with(|| Block {
            held: (0..sectors).map(|_| rng.one_in(2)).collect(),
            data: rng.bytes(sectors * SECTOR),
        });
    }
    child.order = child.blocks.keys().copied().collect();
    let mut later = Case {
        child: child.build(),
        parent: case.parent.clone(),
        below: case.below.clone(),
        uuid: case.uuid,
        view: Vec::new(),
    };
    later.view = later.read(&case.parent, true).unwrap();
    later
}

/// The child of `random(seed)` as a layer.
fn rebuilt(seed: u64) -> Layer {
    CHILD.with(|child| child.borrow_mut().take());
    let _ = random(seed);
    CHILD.with(|child| child.borrow_mut().take()).unwrap()
}

thread_local! {
    static CHILD: std::cell::RefCell<Option<Layer>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn the_journal_of_another_commit_is_respected() {
    let case = random(3);
    let (ops, _) = whole(&case).unwrap();
    let world = World::new(1);
    world.die_at(ops / 2, SECTOR);
    case.commit(world.file(&case.parent), world.file(&[])).unwrap_err();
    let files = world.killed();
    let mut other = random(3);
    let at = other.child.len() - 512;
    for at in [0, at] {
        other.child[at + 70] ^= 1;
        crate::builder::seal(&mut other.child[at..at + 512], 64);
    }
    let world = World::new(1);
    let error = other.commit(world.file(&files[0]), world.file(&files[1])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let error =
        case.commit(world.file(&files[0]), world.file(b"a letter to a friend")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(world.ops(), 0);
}

#[test]
fn a_parent_that_was_written_to_in_between_is_refused() {
    let mut parent = Layer::new(Kind::Dynamic, 8 * 4096, 4096);
    parent.order = Vec::new();
    let mut child = Layer::new(Kind::Differencing, 8 * 4096, 4096);
    (child.uuid, child.parent_uuid) = (*b"child-0123456789", parent.uuid);
    for i in 0..8 {
        child.blocks.insert(i, Block { held: vec![true; 8], data: vec![i as u8 + 1; 4096] });
    }
    child.order = (0..8).collect();
    let case = Case::new(&child, &parent, Vec::new());
    let (ops, _) = whole(&case).unwrap();
    let world = World::new(1);
    // The last change but none is that of the BAT.
    world.die_at(ops, SECTOR);
    case.commit(world.file(&case.parent), world.file(&[])).unwrap_err();
    let mut files = world.killed();
    files[0][1536..1540].copy_from_slice(&9_u32.to_be_bytes());
    let error = case.commit(world.file(&files[0]), world.file(&files[1])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
