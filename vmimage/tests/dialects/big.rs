//! Disks of 2040 GiB in sparse files: what they cost to open, to map, to convert.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vmimage::vhd::VhdDisk;
use vmimage::{
    Disk, ExtentKind, FileOptions, Findings, GRANULE, OpenOptions, Plan, PlanOptions, Policy,
    ReadAt, TargetFormat, open, to_file,
};

use crate::builder::utf16le;
use crate::forge::{DIFFERENCING, DYNAMIC, FIXED, MIB, Recipe, Text, be};

const SIZE: usize = 2040 << 30;
const BLOCK: u64 = 2 << 20;
const LAST: u64 = SIZE as u64 / BLOCK - 1;
const CHAIN: usize = 30;
/// The first block, the one in the middle, and the last one.
const SHARED: [u64; 3] = [0, LAST / 2, LAST];

/// Some sectors of one block, each filled with one byte.
struct Piece {
    block: u64,
    /// The sector of the file where the block begins.
    start: u32,
    sectors: Vec<u64>,
    fill: u8,
}

/// Where a block lies in a file whose table has all of them.
fn place_in_full(block: u64) -> u32 {
    (10_007 + block * (BLOCK / 512 + 1)) as u32
}

/// Writes a VHD of `recipe` with these pieces and holes for everything else.
fn write(path: &Path, recipe: &Recipe, pieces: &[Piece]) -> io::Result<()> {
    let bat = vec![0xff; recipe.bat_end() - recipe.bat_at];
    write_with(path, recipe, pieces, bat)
}

fn write_with(path: &Path, recipe: &Recipe, pieces: &[Piece], mut bat: Vec<u8>) -> io::Result<()> {
    let file = File::create(path)?;
    let mut end = 0;
    for piece in pieces {
        let index = piece.block as usize;
        be(&mut bat, 4 * index, u64::from(piece.start), 4);
        let start = u64::from(piece.start) * 512;
        let mut bitmap = vec![0; 512];
        for &sector in &piece.sectors {
            bitmap[sector as usize / 8] |= 0x80 >> (sector % 8);
            file.write_all_at(&[piece.fill; 512], start + 512 + sector * 512)?;
        }
        file.write_all_at(&bitmap, start)?;
        end = end.max(start + 512 + BLOCK);
    }
    // A batmap without a bit, as long as blktap makes it.
    let sectors = (recipe.size >> 24).div_ceil(512);
    let mut head = vec![0; 512];
    head[..8].copy_from_slice(b"tdbatmap");
    be(&mut head, 8, recipe.bat_end() as u64 + 512, 8);
    be(&mut head, 16, sectors as u64, 4);
    be(&mut head, 20, 0x0001_0002, 4);
    be(&mut head, 24, u64::from(u32::MAX), 4);
    let map = vec![0; sectors * 512];
    for (bytes, at) in [
        (recipe.footer(), 0),
        (recipe.header(), recipe.header_at),
        (bat, recipe.bat_at),
        (head, recipe.bat_end()),
        (map, recipe.bat_end() + 512),
    ] {
        file.write_all_at(&bytes, at as u64)?;
    }
    for text in &recipe.texts {
        file.write_all_at(&text.text, text.at as u64)?;
    }
    file.write_all_at(&recipe.footer(), end)
}

fn tap(kind: u32) -> Recipe {
    Recipe {
        os: [0; 4],
        kind,
        chs: (65535, 16, 255),
        ..Recipe::new("large", b"tap\0", 0x0001_0003, SIZE)
    }
}

/// A file that counts what is read of it.
#[derive(Debug)]
struct Counted(File, Arc<AtomicU64>);

impl ReadAt for Counted {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        ReadAt::read_exact_at(&self.0, buf, offset)
    }

    fn byte_len(&self) -> io::Result<u64> {
        self.0.byte_len()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(offset)
    }
}

/// The last entry of the BAT is the largest that there is, so that the file is over 2 TiB.
#[test]
fn a_disk_of_2040_gib_costs_what_it_stores() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.vhd");
    let sectors = vec![0, 1, 4094, 4095];
    let starts = [(0, 0x8000_0000), (LAST / 2, 20_000), (LAST, 0xFFFF_FFFE)];
    let pieces: Vec<Piece> = starts
        .iter()
        .zip(1..)
        .map(|(&(block, start), fill)| Piece { block, start, sectors: sectors.clone(), fill })
        .collect();
    if let Err(e) = write(&path, &tap(DYNAMIC), &pieces) {
        println!("skipped: the file system takes no file of 2 TiB ({e})");
        return;
    }
    let count = Arc::new(AtomicU64::new(0));
    let file = Counted(File::open(&path).unwrap(), Arc::clone(&count));
    let mut findings = Findings::new(Policy::Strict);
    let disk = VhdDisk::from_chain(vec![Arc::new(file)], &mut findings).unwrap();
    assert!(findings.list().is_empty(), "{findings:?}");
    assert_eq!(disk.virtual_size(), SIZE as u64);
    let map = disk.block_map().unwrap();
    assert_eq!(map.granules(), 6);
    let mut runs = map.runs();
    for (block, start) in starts {
        let (base, place) = (block * BLOCK, u64::from(start) * 512 + 512);
        assert_eq!(runs.next(), Some(base..base + GRANULE));
        assert_eq!(runs.next(), Some(base + BLOCK - GRANULE..base + BLOCK));
        let extent = disk.extent_at(base + 4094 * 512).unwrap();
        let data = ExtentKind::Data { layer: 0, file_offset: place + 4094 * 512 };
        assert_eq!((extent.len, extent.kind), (1024, data));
        // From the end of one piece to the next one there is one extent of zeros.
        let hole = disk.extent_at(base + 1024).unwrap();
        assert_eq!((hole.len, hole.kind), (4092 * 512, ExtentKind::Zero));
        if let Some(next) = starts.iter().find(|(other, _)| *other > block) {
            let hole = disk.extent_at(base + BLOCK).unwrap();
            assert_eq!((hole.len, hole.kind), (next.0 * BLOCK - base - BLOCK, ExtentKind::Zero));
        }
    }
    assert_eq!(runs.next(), None);
    // The table is read once or twice and a batmap once; 2 MiB are not read for each block.
    let table = 4 * (LAST + 1);
    assert!(count.load(Ordering::Relaxed) < 2 * table + MIB as u64, "{count:?}");
    for (piece, (block, _)) in pieces.iter().zip(starts) {
        let mut all = vec![0xAA; BLOCK as usize];
        disk.read_exact_at(&mut all, block * BLOCK).unwrap();
        for (sector, bytes) in all.chunks(512).enumerate() {
            let fill = if sectors.contains(&(sector as u64)) { piece.fill } else { 0 };
            assert!(bytes.iter().all(|b| *b == fill), "sector {sector} of block {block}");
        }
    }
    assert_eq!(crate::judge::codes(&path, &OpenOptions::new()), [""; 0]);
}

/// A fixed disk and a raw parent of 2040 GiB, both nearly all holes, below a child that adds two
/// sectors: the file system's holes are what is not read.
#[test]
fn holes_of_2040_gib_below_a_child_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fixed = Recipe { kind: FIXED, uuid: [7; 16], ..tap(FIXED) };
    for parent in ["fixed.vhd", "parent.raw"] {
        let is_fixed = parent == "fixed.vhd";
        let path = dir.path().join(parent);
        let file = File::create(&path).unwrap();
        let written = file
            .set_len(SIZE as u64)
            .and_then(|()| file.write_all_at(&[0xBB; 65536], 1 << 40))
            .and_then(|()| file.write_all_at(&[0xBB; 65536], SIZE as u64 - 65536));
        let footer = if is_fixed { fixed.footer() } else { Vec::new() };
        if let Err(e) = written.and_then(|()| file.write_all_at(&footer, SIZE as u64)) {
            return println!("skipped: the file system takes no file of 2 TiB ({e})");
        }
        let mut child = tap(DIFFERENCING);
        child.uuid = [8; 16];
        (child.parent_uuid, child.parent_name) =
            ([if is_fixed { 7 } else { 0 }; 16], parent.into());
        // The last sector of the disk, and one in the middle of the parent's data.
        let pieces = [(1 << 40) / BLOCK, LAST].map(|block| Piece {
            block,
            start: if block == LAST { 20_000 } else { 30_000 },
            sectors: vec![if block == LAST { 4095 } else { 5 }],
            fill: 0xCC,
        });
        let tip = dir.path().join(format!("over-{parent}.vhd"));
        write(&tip, &child, &pieces).unwrap();
        let options =
            if is_fixed { OpenOptions::new() } else { OpenOptions::new().with_parent(&path) };
        let image = open(&tip, &options).unwrap();
        let disk = &image.disks()[0];
        let Ok(Some(data)) = File::open(&path).unwrap().next_data(0) else { panic!("no data") };
        if data.start != 1 << 40 || data.end != (1 << 40) + 65536 {
            return println!("skipped: the file system does not know holes as small as 64 KiB");
        }
        let map = disk.block_map().unwrap();
        let end = SIZE as u64 - GRANULE..SIZE as u64;
        assert_eq!(map.runs().collect::<Vec<_>>(), [1 << 40..(1 << 40) + GRANULE, end]);
        let extent = disk.extent_at(0).unwrap();
        assert_eq!((extent.len, extent.kind), (1 << 40, ExtentKind::Zero));
        let mut bytes = vec![0; 65536];
        disk.read_exact_at(&mut bytes, SIZE as u64 - 65536).unwrap();
        assert!(bytes[..65024] == [0xBB; 65024] && bytes[65024..] == [0xCC; 512]);
        disk.read_exact_at(&mut bytes, 1 << 40).unwrap();
        assert!(bytes[2560..3072] == [0xCC; 512] && bytes[3072..] == [0xBB; 62464]);
        let kind = disk.extent_at((1 << 40) + 3072).unwrap().kind;
        assert_eq!(kind, ExtentKind::Data { layer: 1, file_offset: (1 << 40) + 3072 });
    }
}

/// What the youngest layer of the chain shows in the shared blocks.
fn expected(sector: u64) -> u8 {
    match sector {
        250 => 1,
        s if s < 8 * CHAIN as u64 => (s / 8) as u8 + 1,
        _ => 0,
    }
}

/// Thirty layers; with `full`, each has all blocks in its table, and nearly all of them empty.
fn write_chain(dir: &Path, full: bool) -> io::Result<()> {
    for layer in 0..CHAIN {
        let mut recipe = tap(if layer + 1 == CHAIN { DYNAMIC } else { DIFFERENCING });
        recipe.uuid = [layer as u8 + 1; 16];
        if recipe.kind == DIFFERENCING {
            recipe.parent_uuid = [layer as u8 + 2; 16];
            let text = utf16le(&format!(".\\{}.vhd", layer + 1));
            // Behind the batmap.
            let at = recipe.bat_end() + 512 + (recipe.size >> 24).next_multiple_of(512);
            recipe.texts = vec![Text { code: *b"W2ru", space: 1, at, text }];
        }
        let mut sectors: Vec<u64> = (8 * layer as u64..8 * layer as u64 + 8).collect();
        sectors.push(250);
        let pieces: Vec<Piece> = (SHARED.iter().copied())
            .chain([1000 * (layer as u64 + 1)])
            .zip(0_u32..)
            .map(|(block, n)| {
                let start = if full { place_in_full(block) } else { 10_007 + n * 5000 };
                Piece { block, start, sectors: sectors.clone(), fill: layer as u8 + 1 }
            })
            .collect();
        let path = dir.join(format!("{layer}.vhd"));
        match full {
            false => write(&path, &recipe, &pieces)?,
            true => {
                let bat = (0..=LAST).flat_map(|block| place_in_full(block).to_be_bytes());
                write_with(&path, &recipe, &pieces, bat.collect())?;
            }
        }
    }
    Ok(())
}

const FOLDER: &str = "VMIMAGE_TEST_LARGE_CHAIN";
const FULL: &str = "VMIMAGE_TEST_LARGE_CHAIN_FULL";

/// Thirty layers of 2040 GiB are opened, mapped, read and converted in a process of its own, whose
/// memory is measured.
#[test]
fn thirty_layers_of_2040_gib_fit_into_little_memory() {
    measure(false);
}

/// The tables alone would be 120 MiB.
#[test]
fn thirty_full_layers_of_2040_gib_fit_into_little_memory() {
    measure(true);
}

fn measure(full: bool) {
    let dir = tempfile::tempdir().unwrap();
    if let Err(e) = write_chain(dir.path(), full) {
        println!("skipped: the file system takes no such files ({e})");
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["big::child_of_thirty_layers", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, dir.path());
    if full {
        child.env(FULL, "1");
    }
    let child = child.output().unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    let peak = text.split("VmHWM:").nth(1).and_then(|t| t.split_whitespace().next());
    let Some(peak) = peak.and_then(|t| t.parse::<u64>().ok()) else {
        assert!(text.contains("skipped"), "{text}");
        print!("{text}");
        return;
    };
    println!("peak: {peak} KiB");
    assert!(peak <= 32 << 10, "{peak} KiB");
}

#[test]
#[ignore = "is run by the test above, in a process of its own"]
fn child_of_thirty_layers() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let dir = Path::new(&dir);
    let image = open(dir.join("0.vhd"), &OpenOptions::new()).unwrap();
    let disk = &image.disks()[0];
    assert_eq!(image.parents().len(), CHAIN - 1);
    for block in SHARED {
        for sector in (0..300).chain([4095]) {
            let mut bytes = [0xAA; 512];
            disk.read_exact_at(&mut bytes, block * BLOCK + sector * 512).unwrap();
            assert_eq!(bytes, [expected(sector); 512], "sector {sector} of block {block}");
        }
    }
    // A million empty blocks a layer would be a million bitmaps each.
    if std::env::var_os(FULL).is_none() && !convert(disk, dir) {
        return;
    }
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => print!("{status}"),
        Err(e) => println!("skipped: this system does not say how much memory was used ({e})"),
    }
}

/// Maps the disk and writes it in three formats; false if the file system takes none.
fn convert(disk: &Arc<dyn Disk>, dir: &Path) -> bool {
    let map = disk.block_map().unwrap();
    // Two granules in each shared block (sectors 0 to 239, and 250), and two or one elsewhere.
    let own = (0..CHAIN).map(|layer| if layer < 16 { 2 } else { 1 }).sum::<u64>();
    assert_eq!(map.granules(), 2 * 3 + own);
    for format in [TargetFormat::Qcow2, TargetFormat::VhdDynamic, TargetFormat::Raw] {
        let plan = Plan::new(format, &map, &PlanOptions::new()).unwrap();
        let path = dir.join(format!("out.{format}"));
        match to_file(&plan, disk, &path, &FileOptions::new()) {
            Ok(_) => {}
            Err(e) if e.kind() == vmimage::ErrorKind::Io => {
                println!("skipped: the file system takes no {format} of 2 TiB ({e:?})");
                return false;
            }
            Err(e) => panic!("{e}"),
        }
        let again = open(&path, &OpenOptions::new()).unwrap();
        assert_eq!(
            vmimage::compare(&**disk, &*again.disks()[0]).unwrap(),
            vmimage::Comparison::Same
        );
    }
    true
}
