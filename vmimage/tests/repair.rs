//! Checks and repairs of VHDs, with a judge that shares no code with the crate.

#![allow(clippy::unwrap_used)]

#[path = "read/builder.rs"]
#[allow(dead_code)]
mod builder;
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use builder::{Block, Kind, Layer, Rng, random_chain, seal, utf16le};
use common::{MemDisk, tool};
use vmimage::{
    Disk, ErrorKind, FileOptions, OpenOptions, Plan, PlanOptions, RepairOptions, RepairReport,
    Result, TargetFormat, Verdict, check, open, plan_repair, repair, to_file, undo_repair,
};

const NOW: u64 = 1_700_000_000;

struct Sample(tempfile::TempDir);

impl Sample {
    fn new(bytes: &[u8]) -> Self {
        let sample = Self(tempfile::tempdir().unwrap());
        fs::write(sample.path(), bytes).unwrap();
        sample
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("disk.vhd")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn codes(&self) -> (Verdict, Vec<&'static str>) {
        let report = check(self.path(), &OpenOptions::new()).unwrap();
        (report.verdict(), report.findings().iter().map(|f| f.code).collect())
    }

    fn content(&self) -> Vec<u8> {
        let image = open(self.path(), &OpenOptions::new()).unwrap();
        let mut all = vec![9; image.disks()[0].virtual_size() as usize];
        image.disks()[0].read_exact_at(&mut all, 0).unwrap();
        all
    }

    fn repair(&self, options: &RepairOptions) -> Result<RepairReport> {
        repair(self.path(), &options.clone().with_time(NOW))
    }

    fn names(&self) -> usize {
        fs::read_dir(self.0.path()).unwrap().count()
    }
}

fn layer() -> Layer {
    let mut layer = Layer::new(Kind::Dynamic, 5 * 4096, 4096);
    for i in [1, 3] {
        layer.blocks.insert(i, Block { held: vec![true; 8], data: vec![i as u8; 4096] });
    }
    layer.order = vec![3, 1];
    layer
}

fn tap() -> Layer {
    let mut tap = layer();
    tap.creator = (*b"tap\0", 0x0001_0003);
    tap
}

fn actions(report: &RepairReport) -> Vec<&'static str> {
    report.actions.iter().map(|a| a.code).collect()
}

/// Repairs `bytes`, which must become `want` and be undone bit by bit.
fn mends(bytes: &[u8], want: &[u8], codes: &[&str], options: &RepairOptions) {
    let sample = Sample::new(bytes);
    let options = options.clone().with_time(NOW);
    let planned = plan_repair(sample.path(), &options).unwrap();
    assert!(sample.bytes() == bytes && sample.names() == 1, "a plan writes nothing");
    let report = sample.repair(&options).unwrap();
    assert_eq!((&planned.actions, &planned.remaining), (&report.actions, &report.remaining));
    assert_eq!(actions(&report), codes);
    assert!(sample.bytes() == want, "{codes:?}: not the expected bytes");
    let undo = report.undo.unwrap();
    assert_eq!(fs::metadata(&undo).unwrap().permissions().mode() & 0o777, 0o600);
    undo_repair(sample.path(), &undo).unwrap();
    assert!(sample.bytes() == bytes, "{codes:?}: not undone");
}

#[test]
fn footers_are_rebuilt_from_one_another() {
    let bytes = layer().build();
    let end = bytes.len() - 512;
    let plain = RepairOptions::new();
    mends(&bytes[..end], &bytes, &["footer-missing", "footer"], &plain);
    mends(&bytes[..end + 100], &bytes, &["footer-missing", "footer"], &plain);
    mends(&bytes[..end + 511], &bytes, &["footer"], &plain);
    let mut damaged = bytes.clone();
    damaged[end + 50] ^= 1;
    mends(&damaged, &bytes, &["footer-damaged", "footer"], &plain);
    let mut damaged = bytes.clone();
    damaged[..512].fill(0);
    mends(&damaged, &bytes, &["footer-copy"], &plain);
    let mut damaged = bytes.clone();
    damaged[69] ^= 1;
    mends(&damaged, &bytes, &["footer-copy"], &plain);
}

#[test]
fn fields_that_only_some_readers_mind_are_mended() {
    let mut bytes = tap().build();
    let end = bytes.len() - 512;
    // The floor geometry of ten kilobytes, and the present.
    let mut good = bytes.clone();
    good[24..28].copy_from_slice(&((NOW - 946_684_800) as u32).to_be_bytes());
    good[56..60].copy_from_slice(&[0, 0, 4, 17]);
    bytes[24..28].fill(0xff);
    bytes[56..60].fill(0x10);
    for b in [&mut bytes, &mut good] {
        seal(&mut b[..512], 64);
        b.copy_within(0..512, end);
    }
    bytes[520] = 1;
    seal(&mut bytes[512..1536], 36);
    bytes[2048 + 512] ^= 0x20;
    let codes = ["geometry", "timestamp", "footer-copy", "footer", "header-data-offset", "batmap"];
    mends(&bytes, &good, &codes, &RepairOptions::new());
    // The map calls a block full that is not, with a sum that fits.
    let mut partial = tap();
    partial.blocks.get_mut(&1).unwrap().held[2] = false;
    let want = partial.build();
    let mut lie = want.clone();
    lie[2048 + 512] |= 0x40;
    let sum = builder::sum(&lie[2560..3072]);
    lie[2048 + 24..2048 + 28].copy_from_slice(&sum.to_be_bytes());
    let sample = Sample::new(&lie);
    assert_eq!(sample.codes(), (Verdict::Corrupt, vec!["batmap-bitmap", "zero-bit-over-data"]));
    mends(&lie, &want, &["batmap"], &RepairOptions::new());
}

#[test]
fn checksums_are_computed_only_if_asked_and_sensible() {
    let asked = RepairOptions::new().with_checksums(true);
    let bytes = layer().build();
    let end = bytes.len() - 512;
    let mut both = bytes.clone();
    both[64] ^= 1;
    both[end + 64] ^= 1;
    let refused = Sample::new(&both);
    assert_eq!(refused.repair(&RepairOptions::new()).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(refused.bytes() == both && refused.names() == 1);
    mends(&both, &bytes, &["footer-checksum", "footer", "footer-copy"], &asked);
    let mut header = bytes.clone();
    header[512 + 36] ^= 1;
    assert!(Sample::new(&header).repair(&RepairOptions::new()).is_err());
    mends(&header, &bytes, &["header-checksum"], &asked);
    // Two damaged footers that differ; a size that the table does not cover.
    let mut differ = both.clone();
    differ[70] ^= 1;
    assert_eq!(Sample::new(&differ).repair(&asked).unwrap_err().kind(), ErrorKind::Corrupt);
    let mut large = both.clone();
    large[50] = 1;
    large[end + 50] = 1;
    assert_eq!(Sample::new(&large).repair(&asked).unwrap_err().kind(), ErrorKind::Corrupt);
    let mut fixed = Layer::new(Kind::Fixed, 4096, 4096).build();
    let good = fixed.clone();
    fixed[4096 + 64] ^= 1;
    mends(&fixed, &good, &["footer-checksum", "footer"], &asked);
}

#[test]
fn what_cannot_be_mended_is_left_alone() {
    let bytes = layer().build();
    let refuses = |change: &dyn Fn(&mut Vec<u8>), kind| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let sample = Sample::new(&bytes);
        for options in [RepairOptions::new(), RepairOptions::new().with_checksums(true)] {
            let error = sample.repair(&options).unwrap_err();
            assert!(!error.to_string().contains('\n'));
            assert_eq!(error.kind(), kind, "{error}");
            assert!(sample.bytes() == bytes && sample.names() == 1);
        }
    };
    refuses(&|b| b.truncate(b.len() - 2000), ErrorKind::Truncated);
    refuses(&|b| b[1536 + 4] = 0x7f, ErrorKind::Corrupt);
    refuses(&|b| b[512] = 0, ErrorKind::Corrupt);
    refuses(&|b| b.fill(0), ErrorKind::Unsupported);
    let mut other = layer();
    other.size = 4 * 4096;
    refuses(&|b| b[..512].copy_from_slice(&other.footer()), ErrorKind::Corrupt);
    // Nothing to do is no error, and leaves no file.
    let sample = Sample::new(&bytes);
    let report = sample.repair(&RepairOptions::new()).unwrap();
    assert!(report.actions.is_empty() && report.undo.is_none() && sample.names() == 1);
    // An undo file is never overwritten.
    let sample = Sample::new(&bytes[..bytes.len() - 1]);
    fs::write(sample.0.path().join("disk.vhd.undo"), "mine").unwrap();
    assert_eq!(sample.repair(&RepairOptions::new()).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(sample.bytes(), bytes[..bytes.len() - 1]);
    let elsewhere = sample.0.path().join("other");
    sample.repair(&RepairOptions::new().with_undo_file(&elsewhere)).unwrap();
    assert!(sample.bytes() == bytes);
    assert!(undo_repair(sample.path(), sample.path()).is_err());
    undo_repair(sample.path(), elsewhere).unwrap();
}

#[test]
fn a_locked_image_is_not_repaired() {
    let bytes = layer().build();
    let sample = Sample::new(&bytes[..bytes.len() - 1]);
    let file = fs::File::open(sample.path()).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(sample.repair(&RepairOptions::new()).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(sample.names(), 1);
}

/// A guest that keeps VHDs: the start of its fixed disk looks like a copy of a footer.
#[test]
fn a_vhd_in_a_fixed_vhd_is_no_copy() {
    let inner = layer().build();
    let mut fixed = Layer::new(Kind::Fixed, inner.len(), 4096);
    for (i, data) in inner.chunks(4096).enumerate() {
        let mut data = data.to_vec();
        data.resize(4096, 0);
        fixed.blocks.insert(i, Block { held: vec![true; 8], data });
    }
    let good = fixed.build();
    let mut bytes = good.clone();
    let end = bytes.len() - 512;
    bytes[end + 64] ^= 1;
    let sample = Sample::new(&bytes);
    assert_eq!(sample.repair(&RepairOptions::new()).unwrap_err().kind(), ErrorKind::Corrupt);
    let asked = RepairOptions::new().with_checksums(true);
    mends(&bytes, &good, &["footer-checksum", "footer"], &asked);
}

/// Random damage: an answer, never a panic; what is repaired is readable; undo is exact.
#[test]
fn damaged_files_are_repaired_or_refused_and_never_made_worse() {
    let mut rng = Rng::new(5);
    let (mut done, mut refused) = (0, 0);
    for round in 0..1500 {
        let (layers, _) = random_chain(round % 50);
        let base = layers.last().unwrap();
        let mut bytes = base.build();
        for _ in 0..1 + rng.below(3) {
            let len = bytes.len();
            let at = match rng.below(3) {
                0 => rng.below(len),
                1 => len - 1 - rng.below(512),
                _ => rng.below(len.min(2048)),
            };
            match rng.below(4) {
                0 => bytes.truncate(len.saturating_sub(rng.below(700)).max(1024)),
                1 => bytes[at] = 0,
                _ => bytes[at] ^= 1 << rng.below(8),
            }
        }
        let sample = Sample::new(&bytes);
        match sample.repair(&RepairOptions::new().with_checksums(rng.one_in(2))) {
            Ok(report) => {
                open(sample.path(), &OpenOptions::new()).unwrap();
                if let Some(undo) = report.undo {
                    done += 1;
                    let again = plan_repair(sample.path(), &RepairOptions::new().with_time(NOW));
                    assert_eq!(again.unwrap().actions, []);
                    undo_repair(sample.path(), undo).unwrap();
                }
            }
            Err(_) => {
                refused += 1;
                assert_eq!(sample.names(), 1);
            }
        }
        assert!(sample.bytes() == bytes);
    }
    assert!(done > 300 && refused > 100, "{done} done, {refused} refused");
}

/// What the script refuses in a file of XenServer's own layout, `check` finds too; and what it
/// accepts is sound.
#[test]
fn the_check_is_as_strict_as_an_independent_script() {
    let folder = tempfile::tempdir().unwrap();
    let disk = (0..40).fold(MemDisk::new(8 << 20), |d, i| d.with_granule(i + 60, 1));
    let path = folder.path().join("disk.vhd");
    let plan = Plan::new(TargetFormat::VhdDynamic, &disk.block_map().unwrap(), &PlanOptions::new());
    let shared: Arc<dyn Disk> = Arc::new(disk);
    to_file(&plan.unwrap(), &shared, &path, &FileOptions::new()).unwrap();
    let good = fs::read(&path).unwrap();
    let end = good.len() - 512;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_tap_vhd.py");
    let judge = || {
        let output = tool("python3", &[script, path.to_str().unwrap()])?;
        Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let both = |b: &mut Vec<u8>, at: usize, value: &[u8]| {
        b[at..at + value.len()].copy_from_slice(value);
        seal(&mut b[..512], 64);
        b.copy_within(0..512, end);
    };
    let header = |b: &mut Vec<u8>, at: usize, value: &[u8]| {
        b[512 + at..512 + at + value.len()].copy_from_slice(value);
        seal(&mut b[512..1536], 36);
    };
    type Change<'a> = (&'a str, Box<dyn Fn(&mut Vec<u8>) + 'a>);
    let changes: Vec<Change<'_>> = vec![
        ("nothing", Box::new(|_| {})),
        ("footer-features", Box::new(|b| both(b, 8, &[0, 0, 0, 0]))),
        ("footer-features", Box::new(|b| both(b, 8, &[0, 0, 0, 6]))),
        ("unreadable", Box::new(|b| both(b, 16, &[0xff; 8]))),
        ("timestamp-future", Box::new(|b| both(b, 24, &[0xff; 4]))),
        ("geometry-too-large", Box::new(|b| both(b, 56, &[0, 255, 16, 63]))),
        ("footer-uuid", Box::new(|b| both(b, 68, &[0; 16]))),
        ("footer-flags", Box::new(|b| both(b, 84, &[2]))),
        ("footer-flags", Box::new(|b| both(b, 85, &[2]))),
        ("footer-reserved", Box::new(|b| both(b, 300, &[2]))),
        ("disk-type", Box::new(|b| both(b, 60, &[0, 0, 0, 5]))),
        ("footer-mismatch", Box::new(|b| b[70] ^= 1)),
        ("footer-damaged", Box::new(|b| b[end + 70] ^= 1)),
        ("header-data-offset", Box::new(|b| header(b, 8, &[0; 8]))),
        ("header-version", Box::new(|b| header(b, 24, &[0, 2, 0, 0]))),
        ("header-reserved", Box::new(|b| header(b, 900, &[1]))),
        ("header-checksum", Box::new(|b| b[512 + 36] ^= 1)),
        ("parent-unexpected", Box::new(|b| header(b, 40, &[1]))),
        ("batmap-missing", Box::new(|b| b[2048] = 0)),
        ("batmap-damaged", Box::new(|b| b[2048 + 512] ^= 0x10)),
        ("batmap-absent-block", Box::new(|b| mark(b, 0))),
        ("batmap-past-end", Box::new(|b| mark(b, 77))),
        ("batmap-damaged", Box::new(|b| b[2048 + 14] = 0x20)),
        ("block-overlap", Box::new(|b| b.copy_within(1540..1544, 1544))),
        ("block-on-tables", Box::new(|b| b[1540..1544].copy_from_slice(&[0, 0, 0, 2]))),
        ("block-on-batmap", Box::new(|b| b[1540..1544].copy_from_slice(&[0, 0, 0, 4]))),
        (
            "block-on-footer",
            Box::new(|b| {
                let entry = u32::from_be_bytes(b[1548..1552].try_into().unwrap()) + 1;
                b[1548..1552].copy_from_slice(&entry.to_be_bytes());
            }),
        ),
        ("block-outside", Box::new(|b| b[1541] = 0x10)),
        ("batmap-bitmap", Box::new(|b| b[3584 + 9] = 0)),
    ];
    for (code, change) in changes {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let report = check(&path, &OpenOptions::new()).unwrap();
        let codes: Vec<_> = report.findings().iter().map(|f| f.code).collect();
        assert_eq!(report.verdict() == Verdict::Sound, code == "nothing", "{code}: {codes:?}");
        assert!(code == "nothing" || codes.contains(&code), "{code}: {codes:?}");
        let Some((valid, text)) = judge() else { continue };
        assert_eq!(valid, code == "nothing", "{code}: the script says {text}");
    }
}

/// Sets a bit of the batmap and renews its sum.
fn mark(bytes: &mut [u8], block: usize) {
    bytes[2560 + block / 8] |= 0x80 >> (block % 8);
    let sum = builder::sum(&bytes[2560..3072]);
    bytes[2048 + 24..2048 + 28].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn parents_with_two_names_and_other_oddities_are_found() {
    let mut child = Layer::new(Kind::Differencing, 4096, 4096);
    child.parent_uuid = *b"nobody-012345678";
    child.locators = vec![
        (*b"W2ru", utf16le(".\\a.vhd")),
        (*b"MacX", b"file://./b.vhd".to_vec()),
        (*b"Zzzz", b"?".to_vec()),
    ];
    let bytes = child.build();
    let (_, codes) = Sample::new(&bytes).codes();
    for code in ["locator-names", "locator-unknown", "parent-missing"] {
        assert!(codes.contains(&code), "{codes:?}");
    }
    let with = |at: usize, value: u64| {
        let mut bytes = bytes.clone();
        bytes[512 + at..512 + at + 8].copy_from_slice(&value.to_be_bytes());
        seal(&mut bytes[512..1536], 36);
        Sample::new(&bytes).codes().1
    };
    assert!(with(576 + 16, 1 << 40).contains(&"locator-outside"));
    assert!(with(576 + 16, 1536).contains(&"tables-overlap"));
    // Entries of the BAT beyond the disk; QEMU's idea of the size; a bitmap that is full.
    let mut spare = layer();
    spare.spare_entries = 3;
    let mut bytes = spare.build();
    bytes[1536 + 24..1536 + 28].copy_from_slice(&[0, 0, 0, 9]);
    assert_eq!(Sample::new(&bytes).codes().1, ["block-past-end"]);
    let mut qemu = layer();
    qemu.creator = (*b"qemu", 1);
    assert_eq!(Sample::new(&qemu.build()).codes(), (Verdict::Findings, vec!["geometry-size"]));
    let mut bytes = tap().build();
    bytes[2560] = 0;
    let sum = builder::sum(&bytes[2560..3072]);
    bytes[2048 + 24..2048 + 28].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(Sample::new(&bytes).codes(), (Verdict::Findings, vec!["batmap-incomplete"]));
    assert_eq!(Sample::new(&bytes).content(), layer().view(&[]));
}
