//! Images that qemu-img wrote, against the raw disk from which it wrote them.

use std::fs;
use std::path::Path;
use std::process::Command;

use vmimage::{ErrorKind, OpenOptions, Verdict, check, open};

use crate::builder::Rng;

const SIZE: usize = 9 << 20;

fn qemu_img(args: &[&str]) -> bool {
    match Command::new("qemu-img").args(args).output() {
        Ok(out) => {
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            true
        }
        Err(e) => {
            println!("skipped: qemu-img cannot be run ({e})");
            false
        }
    }
}

/// Data, zeros, compressible text and single sectors.
fn sample(seed: u64, size: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut out = vec![0; size];
    for chunk in out.chunks_mut(64 << 10) {
        match rng.below(5) {
            0 => chunk.copy_from_slice(&rng.bytes(chunk.len())),
            1 => chunk.fill(rng.below(256) as u8),
            2 => {
                let at = rng.below(chunk.len() / 512) * 512;
                chunk[at..at + 512].fill(0x5A);
            }
            _ => {}
        }
    }
    out
}

/// The content, and the zeros of extents and map, against `raw`; longer by zeros is equal.
fn compare(path: &Path, options: &OpenOptions, raw: &[u8]) {
    let image = open(path, options).unwrap();
    let disk = &image.disks()[0];
    let size = disk.virtual_size() as usize;
    assert!(size >= raw.len() && size < raw.len() + (2 << 20), "{size}");
    let mut all = vec![1; size];
    disk.read_exact_at(&mut all, 0).unwrap();
    assert!(all[..raw.len()] == *raw, "{}", path.display());
    assert!(all[raw.len()..].iter().all(|b| *b == 0));
    // In pieces that fit nothing.
    let mut at = 0;
    for n in [1, 511, 70_001, 4095].iter().cycle() {
        let n = (*n).min(size - at);
        if n == 0 {
            break;
        }
        let mut part = vec![1; n];
        disk.read_exact_at(&mut part, at as u64).unwrap();
        assert!(part == all[at..at + n], "{at}");
        at += n + 40_000.min(size - at - n);
    }
    let mut at = 0;
    while at < size {
        let extent = disk.extent_at(at as u64).unwrap();
        let end = at + extent.len as usize;
        if extent.kind == vmimage::ExtentKind::Zero {
            assert!(all[at..end].iter().all(|b| *b == 0), "{at}..{end}");
        }
        at = end;
    }
    let map = disk.block_map().unwrap();
    for (i, granule) in all.chunks(vmimage::GRANULE as usize).enumerate() {
        let start = i as u64 * vmimage::GRANULE;
        assert!(map.any(start..start + 1) || granule.iter().all(|b| *b == 0), "granule {i}");
    }
}

#[test]
fn what_qemu_img_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let bytes = sample(1, SIZE + 512 * 7);
    fs::write(&raw, &bytes).unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("vpc", &["-o", "subformat=dynamic,force_size=on"]),
        ("vpc", &["-o", "subformat=fixed,force_size=on"]),
        ("vpc", &["-o", "subformat=dynamic"]),
        ("qcow2", &[]),
        ("qcow2", &["-c"]),
        ("qcow2", &["-o", "compat=0.10"]),
        ("qcow2", &["-c", "-o", "compat=0.10"]),
        ("qcow2", &["-o", "cluster_size=512"]),
        ("qcow2", &["-c", "-o", "cluster_size=512"]),
        ("qcow2", &["-c", "-o", "cluster_size=2M"]),
        ("qcow2", &["-o", "extended_l2=on"]),
        ("qcow2", &["-c", "-o", "extended_l2=on,cluster_size=16k"]),
        ("qcow2", &["-o", "preallocation=metadata"]),
        ("qcow2", &["-o", "refcount_bits=1"]),
        ("qcow2", &["-o", "refcount_bits=64,lazy_refcounts=on"]),
        ("qcow2", &["-c", "-o", "compression_type=zstd"]),
    ];
    for (i, (format, more)) in cases.iter().enumerate() {
        let out = dir.path().join(format!("{i}.img"));
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        args.extend(*more);
        args.extend([raw.to_str().unwrap(), out.to_str().unwrap()]);
        if !qemu_img(&args) {
            return;
        }
        compare(&out, &OpenOptions::new(), &bytes);
        let report = check(&out, &OpenOptions::new()).unwrap();
        let expected = if *format == "qcow2" { Verdict::Sound } else { Verdict::Findings };
        assert!(
            report.verdict() == Verdict::Sound || report.verdict() == expected,
            "{more:?}: {report:?}"
        );
    }
}

#[test]
fn a_backing_file_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, mid) = (dir.path().join("disk.raw"), dir.path().join("mid.qcow2"));
    let tip = dir.path().join("tip.qcow2");
    let bytes = sample(2, SIZE);
    fs::write(&raw, &bytes).unwrap();
    let text = |p: &Path| p.to_str().unwrap().to_owned();
    let larger = (SIZE + (1 << 20)).to_string();
    let ok =
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &text(&raw), &text(&mid)]);
    if !ok {
        return;
    }
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "extended_l2=on",
        "-F",
        "qcow2",
        "-b",
        &text(&mid),
        &text(&tip),
        &larger,
    ]);
    let io = |line: &str| {
        let out = Command::new("qemu-io").args(["-c", line, &text(&tip)]).output();
        out.is_ok_and(|o| o.status.success())
    };
    let mut expected = bytes;
    expected.resize(SIZE + (1 << 20), 0);
    if io("write -P 0x77 3145728 12288") && io("write -z 4194304 8192") {
        expected[3145728..3145728 + 12288].fill(0x77);
        expected[4194304..4194304 + 8192].fill(0);
    }
    let error = open(&tip, &OpenOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reference);
    assert!(error.to_string().contains("mid.qcow2"), "{error}");
    let half = OpenOptions::new().with_parent(&mid);
    assert_eq!(open(&tip, &half).unwrap_err().kind(), ErrorKind::Reference);
    compare(&tip, &half.with_parent(&raw), &expected);
    let info = vmimage::info(&tip, &OpenOptions::new()).unwrap();
    assert!(info.parent().unwrap().name().ends_with("mid.qcow2"));
}

#[test]
fn a_data_file_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let bytes = sample(3, SIZE);
    fs::write(&raw, &bytes).unwrap();
    let (out, data) = (dir.path().join("out.qcow2"), dir.path().join("out.data"));
    let option = format!("data_file={}", data.display());
    let ok = qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        &option,
        raw.to_str().unwrap(),
        out.to_str().unwrap(),
    ]);
    if !ok {
        return;
    }
    let error = open(&out, &OpenOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reference);
    compare(&out, &OpenOptions::new().with_parent(&data), &bytes);
}

#[test]
fn bitmaps_of_changes_are_no_leak() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let name = path.to_str().unwrap();
    if !qemu_img(&["create", "-q", "-f", "qcow2", name, "9M"]) {
        return;
    }
    assert!(qemu_img(&["bitmap", "--add", name, "changes"]));
    assert_eq!(check(&path, &OpenOptions::new()).unwrap().verdict(), Verdict::Sound);
}

#[test]
fn damage_to_a_qcow2_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("disk.raw"), dir.path().join("out.qcow2"));
    fs::write(&raw, sample(4, SIZE)).unwrap();
    if !qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        raw.to_str().unwrap(),
        out.to_str().unwrap(),
    ]) {
        return;
    }
    let sound = fs::read(&out).unwrap();
    let be = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap());
    let l1 = be(40) as usize;
    let l2 = (be(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let used: Vec<usize> = (0..144).map(|i| l2 + 8 * i).filter(|&at| be(at) > 1).collect();
    let verdict = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        fs::write(&out, bytes).unwrap();
        let report = check(&out, &OpenOptions::new()).unwrap();
        (report.verdict(), report.findings().first().map(|f| f.code))
    };
    assert_eq!(verdict(&|_| {}), (Verdict::Sound, None));
    let twice = verdict(&|b| b.copy_within(used[0]..used[0] + 8, used[1]));
    assert_eq!(twice, (Verdict::Corrupt, Some("cluster-overlap")));
    let leak = verdict(&|b| b[used[0]..used[0] + 8].fill(0));
    assert_eq!(leak, (Verdict::Findings, Some("refcount-leak")));
    let far = verdict(&|b| b[used[0] + 2] = 0x7f);
    assert_eq!(far, (Verdict::Corrupt, Some("cluster-outside")));
    let odd = verdict(&|b| b[used[0] + 6] |= 2);
    assert_eq!(odd, (Verdict::Corrupt, Some("cluster-damaged")));
    let cut = verdict(&|b| b.truncate(l1 + 4));
    assert_eq!(cut.0, Verdict::Corrupt);
    let marked = verdict(&|b| b[79] |= 2);
    // The mark is no damage, and qemu-img check passes over it: the tables tell.
    assert_eq!(marked, (Verdict::Findings, Some("qcow2-corrupt")));
}
