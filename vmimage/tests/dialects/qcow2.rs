//! QCOW2 as `qemu-img` writes it, over the whole range of its options, against the raw disk; both
//! executors read it.

use std::fs;
use std::path::{Path, PathBuf};

use vmimage::{
    Disk, ErrorKind, ExtentKind, GRANULE, OpenOptions, TargetFormat, Verdict, check, open,
};

use crate::builder::Rng;
use crate::common::{tool, tool_ok};
use crate::judge;

const SIZE: usize = (3 << 20) + 7 * 512;

/// Data, runs, zeros and single sectors, in pieces that fit no cluster.
fn sample(seed: u64, size: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out = vec![0; size];
    let mut at = 0;
    while at < size {
        let len = (512 * (1 + rng.below(300))).min(size - at);
        let part = &mut out[at..at + len];
        match rng.below(4) {
            0 => part.copy_from_slice(&rng.bytes(len)),
            1 => part.fill(rng.below(256) as u8),
            2 => part[..512.min(len)].fill(0x5A),
            _ => {}
        }
        at += len;
    }
    out
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn raw(&self, bytes: &[u8]) -> String {
        fs::write(self.path("disk.raw"), bytes).unwrap();
        self.text("disk.raw")
    }
}

/// Converts `raw` with these options; `None` with a word where there is no qemu-img, or where it is
/// too old for the option.
fn convert(raw: &str, out: &str, more: &[&str]) -> Option<()> {
    let args = [&["convert", "-q", "-f", "raw", "-O", "qcow2"], more, &[raw, out]].concat();
    let done = tool("qemu-img", &args)?;
    if !done.status.success() {
        println!("skipped: {more:?}: {}", String::from_utf8_lossy(&done.stderr));
        return None;
    }
    Some(())
}

fn io(image: &str, lines: &[&str]) -> Option<()> {
    let mut args = vec!["-f", "qcow2"];
    lines.iter().for_each(|line| args.extend(["-c", line]));
    args.push(image);
    tool_ok("qemu-io", &args).map(|_| ())
}

fn compare(path: &Path, options: &OpenOptions, expected: &[u8], seed: u64) {
    let image = open(path, options).unwrap();
    let disk = &image.disks()[0];
    judge::reads(&**disk, expected, &mut Rng::new(seed), 20);
    judge::threads(&**disk, expected, seed);
    zeros_are_zeros(&**disk, expected);
    judge::conversions(disk, expected, &[TargetFormat::Raw]);
}

/// What extents and the map call zero is zero, and what lies in a file is there.
fn zeros_are_zeros(disk: &dyn Disk, expected: &[u8]) {
    let mut at = 0;
    while at < expected.len() {
        let extent = disk.extent_at(at as u64).unwrap();
        let end = at + extent.len as usize;
        let part = &expected[at..end];
        match extent.kind {
            ExtentKind::Zero => assert!(part.iter().all(|b| *b == 0), "{at}..{end}"),
            ExtentKind::Data { layer, file_offset } => {
                let mut stored = vec![0; part.len()];
                disk.layer(layer).unwrap().read_exact_at(&mut stored, file_offset).unwrap();
                assert!(stored == part, "{at}..{end}");
            }
            _ => {}
        }
        at = end;
    }
    let map = disk.block_map().unwrap();
    for (i, granule) in expected.chunks(GRANULE as usize).enumerate() {
        let start = i as u64 * GRANULE;
        assert!(map.any(start..start + 1) || granule.iter().all(|b| *b == 0), "granule {i}");
    }
}

fn matrix() -> Vec<Vec<&'static str>> {
    let clusters = [
        "cluster_size=512",
        "cluster_size=1k",
        "cluster_size=4k",
        "cluster_size=64k",
        "cluster_size=1M",
        "cluster_size=2M",
    ];
    let mut out = Vec::new();
    for cluster in clusters {
        for more in [
            &[][..],
            &["-o", "compat=0.10"],
            &["-c"],
            &["-c", "-o", "compat=0.10"],
            &["-c", "-o", "compression_type=zstd"],
        ] {
            out.push([&["-o", cluster], more].concat());
        }
    }
    for more in [
        &["-o", "extended_l2=on"][..],
        &["-o", "extended_l2=on,cluster_size=16k"],
        &["-o", "extended_l2=on,cluster_size=2M"],
        &["-c", "-o", "extended_l2=on"],
        &["-c", "-o", "extended_l2=on,compression_type=zstd,cluster_size=32k"],
        &["-o", "extended_l2=on,preallocation=metadata"],
        &["-o", "preallocation=metadata"],
        &["-o", "preallocation=falloc"],
        &["-o", "preallocation=full"],
        &["-o", "preallocation=metadata,cluster_size=512"],
        &["-o", "lazy_refcounts=on"],
        &["-S", "0"],
        &["-o", "refcount_bits=1"],
        &["-o", "refcount_bits=2,cluster_size=4k"],
        &["-o", "refcount_bits=4"],
        &["-o", "refcount_bits=8,cluster_size=512"],
        &["-o", "refcount_bits=16"],
        &["-o", "refcount_bits=32"],
        &["-o", "refcount_bits=64"],
    ] {
        out.push(more.to_vec());
    }
    out
}

#[test]
fn every_option_of_qemu_img_is_read() {
    let folder = Folder::new();
    let bytes = sample(1, SIZE);
    let raw = folder.raw(&bytes);
    for (i, more) in matrix().iter().enumerate() {
        if convert(&raw, &folder.text("a.qcow2"), more).is_none() {
            continue;
        }
        println!("{more:?}");
        let path = folder.path("a.qcow2");
        compare(&path, &OpenOptions::new(), &bytes, i as u64);
        let report = check(&path, &OpenOptions::new()).unwrap();
        assert_eq!(report.verdict(), Verdict::Sound, "{more:?}: {report:?}");
    }
}

#[test]
fn internal_snapshots_do_not_show() {
    for more in [&[][..], &["-o", "compat=0.10"], &["-o", "extended_l2=on"], &["-c"]] {
        let folder = Folder::new();
        let mut bytes = sample(2, SIZE);
        let image = folder.text("a.qcow2");
        if convert(&folder.raw(&bytes), &image, more).is_none() {
            continue;
        }
        tool_ok("qemu-img", &["snapshot", "-c", "before", &image]);
        if io(&image, &["write -P 0x33 65536 200704", "write -z 1048576 65536"]).is_none() {
            return;
        }
        tool_ok("qemu-img", &["snapshot", "-c", "after", &image]);
        bytes[65536..65536 + 200_704].fill(0x33);
        bytes[1 << 20..(1 << 20) + 65536].fill(0);
        compare(&folder.path("a.qcow2"), &OpenOptions::new(), &bytes, 2);
        let report = check(folder.path("a.qcow2"), &OpenOptions::new()).unwrap();
        assert_eq!(report.verdict(), Verdict::Findings, "{report:?}");
        assert!(report.findings().iter().any(|f| f.code == "qcow2-snapshots"));
    }
}

/// Four layers of unequal sizes, each of another kind, over a raw disk.
#[test]
fn a_backing_chain_is_read_if_each_file_is_named() {
    let folder = Folder::new();
    let mut expected = sample(3, SIZE);
    let mut below = ("raw", folder.raw(&expected));
    let layers = [
        ("1.qcow2", "cluster_size=4k", 4 << 20, "write -P 0x11 4096 12288"),
        ("2.qcow2", "compat=0.10", 2 << 20, "write -P 0x22 1000448 300032"),
        ("3.qcow2", "extended_l2=on", 5 << 20, "write -P 0x33 2048 3072"),
        ("4.qcow2", "cluster_size=2M", 5 << 20, "write -z 524288 131072"),
    ];
    let mut options = OpenOptions::new();
    let mut names = vec![below.1.clone()];
    for (name, option, size, line) in layers {
        let (image, length) = (folder.text(name), size.to_string());
        let base = ["-F", below.0, "-b", &below.1];
        let args = [&["create", "-q", "-f", "qcow2", "-o", option], &base[..], &[&image, &length]];
        if tool("qemu-img", &args.concat()).is_none() || io(&image, &[line]).is_none() {
            return;
        }
        // A layer that is shorter hides what lies past its end.
        expected.resize(size, 0);
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words[words.len() - i].parse::<usize>().unwrap();
        let fill = words[2].strip_prefix("0x").map_or(0, |h| u8::from_str_radix(h, 16).unwrap());
        expected[number(2)..number(2) + number(1)].fill(fill);
        below = ("qcow2", image.clone());
        names.push(image);
    }
    let tip = folder.path("4.qcow2");
    for name in names.iter().rev().skip(1) {
        let error = open(&tip, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reference, "{error}");
        options = options.with_parent(name);
    }
    compare(&tip, &options, &expected, 3);
}

#[test]
fn a_data_file_is_read_if_it_is_named() {
    for more in [
        "",
        ",data_file_raw=on",
        ",extended_l2=on",
        ",preallocation=metadata",
        ",cluster_size=4k,preallocation=falloc",
    ] {
        let folder = Folder::new();
        let bytes = sample(4, SIZE);
        let raw = folder.raw(&bytes);
        let option = format!("data_file={}{more}", folder.text("a.data"));
        if convert(&raw, &folder.text("a.qcow2"), &["-o", &option]).is_none() {
            continue;
        }
        let path = folder.path("a.qcow2");
        assert_eq!(open(&path, &OpenOptions::new()).unwrap_err().kind(), ErrorKind::Reference);
        let options = OpenOptions::new().with_parent(folder.path("a.data"));
        compare(&path, &options, &bytes, 4);
        let report = check(&path, &options).unwrap();
        assert_ne!(report.verdict(), Verdict::Corrupt, "{more}: {report:?}");
    }
}

/// What a guest does to an image over time: writes, zeros, discards, growth.
#[test]
fn a_used_image_is_read() {
    for option in
        ["compat=1.1", "compat=0.10", "extended_l2=on", "lazy_refcounts=on", "cluster_size=1k"]
    {
        let folder = Folder::new();
        let mut bytes = sample(5, 3 << 20);
        let image = folder.text("a.qcow2");
        if convert(&folder.raw(&bytes), &image, &["-c", "-o", option]).is_none() {
            continue;
        }
        tool_ok("qemu-img", &["resize", "-q", &image, "4M"]);
        bytes.resize(4 << 20, 0);
        let lines = ["write -P 7 1000448 66048", "write -z 0 200192", "write -P 9 4193792 512"];
        if io(&image, &lines).is_none() {
            return;
        }
        bytes[1_000_448..1_066_496].fill(7);
        bytes[..200_192].fill(0);
        bytes[4_193_792..].fill(9);
        compare(&folder.path("a.qcow2"), &OpenOptions::new(), &bytes, 5);
        let report = check(folder.path("a.qcow2"), &OpenOptions::new()).unwrap();
        assert_eq!(report.verdict(), Verdict::Sound, "{option}: {report:?}");
    }
}

/// Cut anywhere, an image is refused or whole; with a wrong bit anywhere in its tables there is an
/// answer, and what `check` calls sound has the right content.
#[test]
fn damaged_images_are_errors_or_answers() {
    let folder = Folder::new();
    let bytes = sample(6, 400 << 10);
    let raw = folder.raw(&bytes);
    for more in [
        &["-o", "cluster_size=4k"][..],
        &["-c", "-o", "cluster_size=4k"],
        &["-c", "-o", "compression_type=zstd,cluster_size=16k"],
        &["-o", "extended_l2=on,cluster_size=16k"],
    ] {
        if convert(&raw, &folder.text("a.qcow2"), more).is_none() {
            continue;
        }
        let whole = fs::read(folder.path("a.qcow2")).unwrap();
        let read = |bytes: &[u8], lenient: bool| -> vmimage::Result<Vec<u8>> {
            let path = folder.path("damaged.qcow2");
            fs::write(&path, bytes).unwrap();
            let options = OpenOptions::new().lenient(lenient).with_format(vmimage::Format::Qcow2);
            let image = open(&path, &options)?;
            let disk = &image.disks()[0];
            disk.block_map()?;
            let mut all = vec![0xAA; disk.virtual_size().min(1 << 20) as usize];
            disk.read_exact_at(&mut all, 0)?;
            Ok(all)
        };
        let mut rng = Rng::new(whole.len() as u64);
        for _ in 0..200 {
            let cut = rng.below(whole.len());
            match read(&whole[..cut], false) {
                Ok(all) => assert!(all == bytes, "{more:?} cut at {cut}"),
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::Truncated | ErrorKind::Corrupt),
                    "{more:?} cut at {cut}: {error:?}"
                ),
            }
        }
        let be = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap());
        let l1 = be(40) as usize;
        let l2 = (be(l1) & 0x00ff_ffff_ffff_fe00) as usize;
        let tables = (0..112).chain(l1..l1 + 8).chain(l2..l2 + 400);
        let options = OpenOptions::new().with_format(vmimage::Format::Qcow2);
        // The size of the disk is a number like any other; that a cluster or a part of it is zero
        // is one bit, of which nothing else tells.
        let parts = more.iter().any(|m| m.contains("extended_l2"));
        let has_no_check = |at: usize| {
            let within = at.saturating_sub(l2);
            (24..32).contains(&at) || at >= l2 && (within % 8 == 7 || parts && within % 16 >= 8)
        };
        for at in tables {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << rng.below(8);
            let strict = read(&damaged, false);
            let _ = read(&damaged, true);
            // Features that are refused are no matter of a report.
            let Ok(report) = check(folder.path("damaged.qcow2"), &options) else { continue };
            match strict {
                Ok(all) if report.verdict() == Verdict::Sound && !has_no_check(at) => {
                    assert!(all == bytes, "{more:?}: byte {at}");
                }
                Err(error) if error.kind() == ErrorKind::Io => panic!("{error:?}"),
                _ => {}
            }
        }
    }
}

/// A part of a cluster cannot be stored and zero at once; qemu refuses to read it, too.
#[test]
fn a_part_that_is_stored_and_zero_is_refused() {
    let folder = Folder::new();
    let raw = folder.raw(&[7; 65536]);
    if convert(&raw, &folder.text("a.qcow2"), &["-o", "extended_l2=on"]).is_none() {
        return;
    }
    let mut bytes = fs::read(folder.path("a.qcow2")).unwrap();
    let be = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let l2 = (be(be(40) as usize) & 0x00ff_ffff_ffff_fe00) as usize;
    assert_eq!(bytes[l2 + 12..l2 + 16], [0xff; 4], "all parts are stored");
    bytes[l2 + 11] |= 1;
    fs::write(folder.path("a.qcow2"), &bytes).unwrap();
    let image = open(folder.path("a.qcow2"), &OpenOptions::new()).unwrap();
    let error = image.disks()[0].read_exact_at(&mut [0; 512], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let report = check(folder.path("a.qcow2"), &OpenOptions::new()).unwrap();
    assert_eq!(report.verdict(), Verdict::Corrupt);
    let qemu = ["-f", "qcow2", "-c", "read 0 512", &folder.text("a.qcow2")];
    if let Some(done) = tool("qemu-io", &qemu) {
        assert!(!done.status.success(), "{done:?}");
    }
}

/// Tables that name themselves, one another, or the header.
#[test]
fn tables_in_a_circle_are_refused_or_read_once() {
    let folder = Folder::new();
    let bytes = sample(7, 4 << 20);
    if convert(&folder.raw(&bytes), &folder.text("a.qcow2"), &["-o", "cluster_size=4k"]).is_none() {
        return;
    }
    let whole = fs::read(folder.path("a.qcow2")).unwrap();
    let be = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap());
    let l1 = be(40);
    let first = be(l1 as usize) & 0x00ff_ffff_ffff_fe00;
    for (what, at, value) in [
        ("the L1 table as an L2 table", l1, l1),
        ("the second L2 table is the first", l1 + 8, first),
        ("an L2 table maps itself", first, first),
        ("an L2 table maps the L1 table", first, l1),
        ("an L2 table maps its neighbour's cluster", first, be(first as usize + 8) & !(1 << 63)),
    ] {
        let mut damaged = whole.clone();
        let entry = (value | 1 << 63).to_be_bytes();
        damaged[at as usize..at as usize + 8].copy_from_slice(&entry);
        let path = folder.path("circle.qcow2");
        fs::write(&path, &damaged).unwrap();
        for lenient in [false, true] {
            let answer = open(&path, &OpenOptions::new().lenient(lenient)).and_then(|image| {
                image.disks()[0].block_map()?;
                let mut all = vec![0; image.disks()[0].virtual_size() as usize];
                image.disks()[0].read_exact_at(&mut all, 0)
            });
            if let Err(error) = answer {
                let kinds = [ErrorKind::Corrupt, ErrorKind::Truncated];
                assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
            }
        }
        let report = check(&path, &OpenOptions::new()).unwrap();
        assert_eq!(report.verdict(), Verdict::Corrupt, "{what}");
    }
}
