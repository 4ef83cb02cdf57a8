//! The writers, one by one: files as they really lay them out, alone and as parent and child.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use vmimage::vhd::VhdStream;
use vmimage::{ErrorKind, OpenOptions, SizePolicy, Source, Subformat, TargetFormat, open};

use crate::builder::{Rng, utf16le};
use crate::forge::{
    Chs, DIFFERENCING, DYNAMIC, FIXED, MIB, Made, Recipe, Tail, Text, ceil_chs, floor_chs,
};
use crate::judge;

/// The geometry that says "look at the size".
const CHS_MAX: Chs = (65535, 16, 255);
const TAP_1_3: u32 = 0x0001_0003;

/// tapdisk and vhd-util 1.3: batmap, aligned data in the order of allocation, an old footer where
/// it once was the last sector.
fn tap(size: usize) -> Recipe {
    Recipe {
        os: [0; 4],
        batmap: Some((0x0001_0002, None)),
        align: 4096,
        shuffled: true,
        full_bits: false,
        stale: true,
        codes: &["zero-bit-over-data"],
        ..Recipe::new("tap", b"tap\0", TAP_1_3, size)
    }
}

/// XAPI's stream: one zero sector, the BAT at 2048, ascending blocks with all bits.
fn caml(size: usize) -> Recipe {
    Recipe { os: [0; 4], bat_at: 2048, ..Recipe::new("caml", b"caml", 1, size) }
}

/// Windows from Vista on.
fn win(name: &'static str, version: u32, size: usize) -> Recipe {
    Recipe { align: 4096, full_bits: false, ..Recipe::new(name, b"win ", version, size) }
}

fn roots() -> Vec<Recipe> {
    let odd = 5 * MIB + 3 * 512;
    let zero_bits: &[&str] = &["zero-bit-over-data"];
    let chs_exact = |(c, h, s): Chs| usize::from(c) * usize::from(h) * usize::from(s) * 512;
    let qemu_size = chs_exact(floor_chs(7 * MIB));
    vec![
        tap(8 * MIB),
        Recipe { name: "tap grown", original: 4 * MIB, ..tap(6 * MIB) },
        // The SR preallocates BAT and batmap up to the size that the disk may grow to: 2040 GiB.
        Recipe { name: "tap -S", spare_entries: 1_044_480 - 4, ..tap(8 * MIB) },
        Recipe {
            name: "tap -S, long map",
            spare_entries: 1_044_480 - 4,
            batmap: Some((0x0001_0002, Some(255))),
            ..tap(8 * MIB)
        },
        Recipe {
            name: "tap 1.1 hidden",
            version: 0x0001_0001,
            batmap: Some((0x0001_0001, None)),
            hidden: 1,
            hidden_later: true,
            codes: &["batmap-version", "zero-bit-over-data"],
            ..tap(4 * MIB)
        },
        Recipe { name: "tap 1.1, no map", version: 0x0001_0001, batmap: None, ..tap(4 * MIB) },
        Recipe { name: "tap 1.3 hidden", hidden: 1, ..tap(4 * MIB) },
        Recipe { name: "lvhd", tail: Tail::Volume(3 * MIB), fill: 0xEE, ..tap(8 * MIB) },
        // XO keeps the creator of what it copies, and writes no batmap.
        Recipe {
            name: "tap copied by xo",
            batmap: None,
            full_bits: true,
            codes: &["batmap-missing"],
            ..tap(4 * MIB)
        },
        caml(odd),
        Recipe { name: "caml, 2 MiB rounded", ..caml(6 * MIB) },
        Recipe {
            name: "xo",
            os: [0; 4],
            chs: floor_chs(odd),
            ..Recipe::new("xo", b"xo  ", 1, odd)
        },
        Recipe {
            name: "xo with vhd-lib's geometry",
            chs: ceil_chs(odd),
            codes: &["geometry-too-large"],
            ..Recipe::new("xo", b"xo  ", 1, odd)
        },
        Recipe { codes: zero_bits, ..win("Windows 10", 0x000A_0000, odd) },
        // Hyper-V's geometry ends some cylinders before the disk.
        Recipe { chs: (4, 4, 17), codes: zero_bits, ..win("Hyper-V 2012r2", 0x0006_0003, odd) },
        Recipe { block_size: MIB / 2, codes: zero_bits, ..win("512 KiB blocks", 0x0006_0001, odd) },
        Recipe { chs: CHS_MAX, ..Recipe::new("disk2vhd", b"d2v\0", 0x0001_0000, odd) },
        Recipe {
            tail: Tail::Short,
            codes: &["footer-short"],
            ..Recipe::new("Virtual PC", b"vpc ", 0x0005_0000, odd)
        },
        Recipe {
            os: *b"Mac ",
            block_size: MIB / 2,
            ..Recipe::new("Virtual PC for Mac", b"vpc ", 0x0005_0000, qemu_size)
        },
        Recipe { ..Recipe::new("Virtual Server", b"vs  ", 0x0001_0000, odd) },
        Recipe::new("qemu", b"qemu", 0x0005_0003, qemu_size),
        Recipe::new("qemu force_size", b"qem2", 0x0005_0003, odd),
        // VirtualBox leaves room for locators between header and BAT, and rounds nothing.
        Recipe {
            bat_at: 1536 + 2 * 512,
            blocks_at: 5 * 512,
            shuffled: true,
            ..Recipe::new("VirtualBox", b"vbox", 0x0004_0003, odd)
        },
        Recipe {
            header_at: 1024,
            bat_at: 4096,
            codes: &["header-place"],
            ..Recipe::new("a header of its own", b"win ", 0x0006_0001, odd)
        },
        Recipe {
            features: 3,
            bat_at: 8192,
            header_at: 512,
            block_size: MIB,
            shuffled: true,
            ..Recipe::new("1 MiB blocks", b"CTXS", 0x0001_0000, odd)
        },
    ]
}

fn fixed_roots() -> Vec<Recipe> {
    let odd = 3 * MIB + 512;
    let fixed = |name, app: &[u8; 4], size| Recipe {
        kind: FIXED,
        block_size: MIB,
        ..Recipe::new(name, app, 0x0006_0001, size)
    };
    vec![
        fixed("fixed by Windows", b"win ", 3 * MIB),
        fixed("fixed by XenConvert", b"CTXS", odd),
        Recipe { os: [0; 4], version: TAP_1_3, ..fixed("fixed by tapdisk", b"tap\0", 4 * MIB) },
        Recipe {
            tail: Tail::Short,
            codes: &["footer-short"],
            ..fixed("fixed by Virtual PC", b"vpc ", odd)
        },
        Recipe { chs: CHS_MAX, ..fixed("fixed, largest geometry", b"d2v\0", odd) },
        // A fixed disk on a volume ends with the volume, too.
        Recipe {
            tail: Tail::Volume(MIB),
            codes: &["fixed-long"],
            ..fixed("fixed on a volume", b"win ", odd)
        },
    ]
}

/// How children name `base.vhd` in their own folder.
fn children() -> Vec<Recipe> {
    let text = |code: &[u8; 4], space, at, text: Vec<u8>| Text { code: *code, space, at, text };
    let near = ".\\base.vhd";
    let odd = 5 * MIB + 512;
    let child = |recipe: Recipe| Recipe {
        kind: DIFFERENCING,
        uuid: *b"child-0123456789",
        // Zero bits are the parent's sectors here.
        codes: if recipe.codes == ["zero-bit-over-data"] { &[] } else { recipe.codes },
        ..recipe
    };
    vec![
        // Three locators behind the batmap.
        child(Recipe {
            parent_name: "base.vhd".into(),
            parent_time: 500_000_000,
            texts: vec![
                text(b"MacX", 1, 3072, b"file://./base.vhd".to_vec()),
                text(b"W2ku", 1, 3584, utf16le(near)),
                text(b"W2ru", 1, 4096, utf16le(near)),
            ],
            ..tap(8 * MIB)
        }),
        child(Recipe {
            name: "lvhd child",
            parent_name: "VHD-base.vhd".into(),
            texts: vec![text(b"MacX", 512, 3072, b"file://./base.vhd".to_vec())],
            tail: Tail::Volume(MIB),
            fill: 0xEE,
            ..tap(6 * MIB)
        }),
        // Locators around the BAT, their room in bytes, no time of the parent.
        child(Recipe {
            bat_at: 8192,
            blocks_at: 12288 + 65536,
            parent_name: "C:\\Users\\Public\\Hyper-V\\Virtual Hard Disks\\base.vhd".into(),
            texts: vec![
                text(b"W2ku", 4096, 4096, utf16le("C:\\Users\\Public\\Hyper-V\\base.vhd")),
                text(b"W2ru", 65536, 12288, utf16le(near)),
            ],
            ..win("Windows 10", 0x000A_0000, odd)
        }),
        child(Recipe {
            parent_name: "C:\\disks\\base.vhd".into(),
            block_size: MIB / 2,
            texts: vec![text(b"W2ku", 1, 2048, utf16le("C:\\disks\\base.vhd"))],
            ..win("Vista", 0x0006_0000, odd)
        }),
        // XAPI's delta: the locator in the zero sector.
        child(Recipe {
            texts: vec![text(b"MacX", 1, 1536, b"file://./base.vhd".to_vec())],
            ..caml(odd)
        }),
        child(Recipe {
            parent_name: "base.vhd".into(),
            chs: ceil_chs(odd),
            codes: &["geometry-too-large"],
            ..Recipe::new("xo", b"xo  ", 1, odd)
        }),
        child(Recipe {
            bat_at: 1536 + 2 * 512,
            parent_name: "/vms/VirtualBox VMs/base.vhd".into(),
            texts: vec![
                text(b"W2ru", 512, 1536, utf16le("base.vhd")),
                text(b"W2ku", 512, 2048, utf16le("/vms/VirtualBox VMs/base.vhd")),
            ],
            full_bits: false,
            ..Recipe::new("VirtualBox", b"vbox", 0x0004_0003, odd)
        }),
        child(Recipe {
            tail: Tail::Short,
            os: *b"Mac ",
            full_bits: false,
            texts: vec![text(b"MacX", 1, 2048, b"file://localhost/Users/me/base.vhd".to_vec())],
            ..Recipe::new("Virtual PC for Mac", b"vpc ", 0x0005_0000, odd)
        }),
    ]
}

fn write(dir: &Path, name: &str, made: &Made) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, &made.bytes).unwrap();
    path
}

fn creator(recipe: &Recipe) -> String {
    String::from_utf8_lossy(&recipe.app).trim_end_matches([' ', '\0']).to_owned()
}

/// Both sizes, by each policy.
fn judge_info(path: &Path, options: &OpenOptions, recipe: &Recipe) {
    let image = open(path, options).unwrap();
    let info = image.info();
    assert_eq!(info.current_size(), Some(recipe.size as u64));
    assert_eq!(info.geometry_size(), Some(recipe.geometry_bytes()));
    assert_eq!(info.creator(), Some(creator(recipe).as_str()));
    let block_size = (recipe.kind != FIXED).then_some(recipe.block_size as u64);
    assert_eq!(info.block_size(), block_size);
    let subformat = match recipe.kind {
        FIXED => Subformat::Fixed,
        DYNAMIC => Subformat::Dynamic,
        _ => Subformat::Differencing,
    };
    assert_eq!(info.subformat(), Some(subformat));
    assert_eq!(info.virtual_size(), recipe.size as u64);
    let by_geometry = match recipe.chs {
        CHS_MAX => recipe.size as u64,
        _ => recipe.geometry_bytes(),
    };
    let as_qemu = match &recipe.app {
        b"qemu" | b"vpc " => by_geometry,
        _ => recipe.size as u64,
    };
    for (policy, size) in [(SizePolicy::Geometry, by_geometry), (SizePolicy::QemuCompat, as_qemu)] {
        let image = open(path, &options.clone().size_policy(policy)).unwrap();
        assert_eq!((image.info().virtual_size(), image.disks()[0].virtual_size()), (size, size));
        let mut last = [1; 512];
        image.disks()[0].read_exact_at(&mut last, size - 512).unwrap();
        image.disks()[0].block_map().unwrap();
    }
}

fn judge_root(recipe: &Recipe, seed: u64) {
    let made = recipe.make(&mut Rng::new(seed));
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "image", &made);
    let options = OpenOptions::new();
    let view = judge::view(std::slice::from_ref(&made), None);
    let owners = judge::owners(std::slice::from_ref(&made), None);
    let image = open(&path, &options).unwrap();
    let disk = &image.disks()[0];
    judge::reads(&**disk, &view, &mut Rng::new(seed), 20);
    if recipe.kind == FIXED {
        // The file system decides how long the runs of a fixed disk are.
        let extent = disk.extent_at(512).unwrap();
        assert_eq!(extent.kind, vmimage::ExtentKind::Data { layer: 0, file_offset: 512 });
    } else {
        judge::extents(&**disk, &owners, &mut Rng::new(seed));
    }
    assert_eq!(judge::codes(&path, &options), expected_codes(recipe));
    judge_info(&path, &options, recipe);
    let formats = [TargetFormat::Raw, TargetFormat::VhdDynamic, TargetFormat::Qcow2];
    judge::conversions(disk, &view, &formats);
}

/// What `check` says of a recipe: its own codes, and a word where QEMU would cut the disk.
fn expected_codes(recipe: &Recipe) -> Vec<&'static str> {
    let mut codes = recipe.codes.to_vec();
    let by_qemu = matches!(&recipe.app, b"qemu" | b"vpc ") && recipe.chs != CHS_MAX;
    if by_qemu && recipe.geometry_bytes() != recipe.size as u64 {
        codes.push("geometry-size");
    }
    codes
}

/// Runs `each` for every recipe and says which one it was that failed.
fn for_each(recipes: &[Recipe], each: impl Fn(&Recipe, u64) + std::panic::RefUnwindSafe) {
    for (i, recipe) in recipes.iter().enumerate() {
        let done = std::panic::catch_unwind(|| each(recipe, i as u64 + 1));
        assert!(done.is_ok(), "{} (see above)", recipe.name);
    }
}

#[test]
fn each_dynamic_disk_by_xenserver_is_read_and_converted() {
    let (xen, _): (Vec<_>, Vec<_>) = roots().into_iter().partition(|r| r.os == [0; 4]);
    assert!(xen.len() > 10);
    for_each(&xen, judge_root);
}

#[test]
fn each_dynamic_disk_by_others_is_read_and_converted() {
    let (_, others): (Vec<_>, Vec<_>) = roots().into_iter().partition(|r| r.os == [0; 4]);
    assert!(others.len() > 10);
    for_each(&others, judge_root);
}

/// Forwards only, whoever wrote it, if its blocks ascend and its footer is whole.
#[test]
fn each_writers_ascending_disk_is_a_stream() {
    let whole = |r: &Recipe| r.tail == Tail::Whole;
    let mut recipes: Vec<Recipe> = roots().into_iter().filter(whole).collect();
    recipes.iter_mut().for_each(|r| r.shuffled = false);
    for_each(&recipes, |recipe, seed| {
        let made = recipe.make(&mut Rng::new(seed));
        let view = judge::view(std::slice::from_ref(&made), None);
        let len = made.bytes.len();
        let mut stream = VhdStream::new(std::io::Cursor::new(made.bytes.clone())).unwrap();
        assert_eq!(stream.stream_len(), len as u64);
        let mut all = vec![0; view.len()];
        for run in stream.block_map().clone().runs() {
            let part = &mut all[run.start as usize..run.end as usize];
            stream.read_exact_at(part, run.start).unwrap();
        }
        stream.finish().unwrap();
        assert!(all == view);
        // Without its last sector it is no whole one.
        let cut = made.bytes[..len - 512].to_vec();
        let mut stream = VhdStream::new(std::io::Cursor::new(cut)).unwrap();
        assert_eq!(stream.finish().unwrap_err().kind(), ErrorKind::Truncated);
    });
}

#[test]
fn each_writers_fixed_disk_is_read_and_converted() {
    for_each(&fixed_roots(), judge_root);
}

/// Every child over every kind of parent, found by what the child says about it.
#[test]
fn each_writers_child_is_resolved_over_anyones_parent() {
    let parents: Vec<Recipe> = roots()
        .into_iter()
        .chain(fixed_roots())
        .filter(|r| {
            ["tap", "lvhd", "caml", "Windows 10", "512 KiB blocks", "Virtual PC", "VirtualBox"]
                .contains(&r.name)
                || r.name == "fixed by Virtual PC"
        })
        .collect();
    let parents: Vec<(Made, tempfile::TempDir)> = parents
        .iter()
        .enumerate()
        .map(|(i, recipe)| {
            let dir = tempfile::tempdir().unwrap();
            let made = recipe.make(&mut Rng::new(100 + i as u64));
            write(dir.path(), "base.vhd", &made);
            (made, dir)
        })
        .collect();
    for_each(&children(), |recipe, seed| {
        let mut made = None;
        for (number, (parent, dir)) in parents.iter().enumerate() {
            let mut recipe = recipe.clone();
            recipe.parent_uuid = parent.recipe.uuid;
            let made: &mut Made = made.get_or_insert_with(|| recipe.make(&mut Rng::new(seed)));
            let path = write(dir.path(), "child.vhd", made);
            let chain = [made.clone(), parent.clone()];
            let image = open(&path, &OpenOptions::new()).unwrap();
            let base = dir.path().join("base.vhd").canonicalize().unwrap();
            assert_eq!(image.info().parent().unwrap().path(), Some(&*base));
            assert_eq!(image.parents(), [base]);
            let disk: Arc<dyn vmimage::Disk> = Arc::clone(&image.disks()[0]);
            let view = judge::view(&chain, None);
            let mut rng = Rng::new(seed * 7 + number as u64);
            judge::reads(&*disk, &view, &mut rng, 8);
            if parent.recipe.kind != FIXED {
                judge::extents(&*disk, &judge::owners(&chain, None), &mut rng);
            }
            let all = [expected_codes(&recipe), expected_codes(&parent.recipe)].concat();
            let mut found = judge::codes(&path, &OpenOptions::new());
            // Some samples name the parent differently here and there, as moved files do.
            found.retain(|code| !matches!(*code, "footer-short" | "locator-names"));
            let expected: Vec<_> = all.into_iter().filter(|c| *c != "footer-short").collect();
            assert_eq!(found, expected, "over {}", parent.recipe.name);
            if number % 3 == 0 {
                judge::conversions(&disk, &view, &[TargetFormat::Raw, TargetFormat::VhdDynamic]);
            }
        }
    });
}
