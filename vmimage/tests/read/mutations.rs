//! Thousands of damaged images: whatever the bytes say, there is an answer, and never a panic.

use std::io::Cursor;
use std::process::Command;
use std::sync::Arc;

use vmimage::qcow2::Qcow2Disk;
use vmimage::vhd::{VhdDisk, VhdStream};
use vmimage::{Disk, Findings, OpenOptions, Policy, ReadAt, Result, Source, check, open};

use crate::builder::{Layer, Rng, random_chain, seal};

/// Damages a few fields, mostly where the tables are, and sometimes renews the checksums so that
/// the damage is believed.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, vhd: bool) {
    for _ in 0..1 + rng.below(4) {
        let len = bytes.len();
        if len < 600 {
            return;
        }
        let at = match rng.below(4) {
            0 => rng.below(len),
            1 => len - 1 - rng.below(512),
            _ => rng.below(len.min(4096)),
        };
        match rng.below(5) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            2 => {
                let end = (at + 8).min(len);
                bytes[at..end].fill(*rng.pick(&[0, 0xff]));
            }
            3 => {
                let value =
                    *rng.pick(&[0, 1, 511, 4096, 1 << 31, u64::MAX, u64::MAX / 2, len as u64]);
                let at = at & !7;
                let end = (at + 8).min(len);
                bytes[at..end].copy_from_slice(&value.to_be_bytes()[..end - at]);
            }
            _ => bytes.truncate(rng.below(len)),
        }
    }
    if vhd && bytes.len() > 2048 && !rng.one_in(3) {
        let end = bytes.len() - 512;
        seal(&mut bytes[..512], 64);
        seal(&mut bytes[512..1536], 36);
        seal(&mut bytes[end..], 64);
    }
}

/// Everything that can be asked of a disk, in bounded amounts.
fn ask(disk: &dyn Disk) -> Result<()> {
    let size = disk.virtual_size();
    let mut buf = vec![0; size.min(300_000) as usize];
    disk.read_exact_at(&mut buf, 0)?;
    let tail = size.min(10_000);
    disk.read_exact_at(&mut buf[..tail as usize], size - tail)?;
    if size < 1 << 30 {
        disk.block_map()?;
    } else {
        disk.extent_at(size / 2)?;
    }
    Ok(())
}

fn drain(bytes: Vec<u8>) -> Result<()> {
    let mut stream = VhdStream::new(Cursor::new(bytes))?;
    let mut buf = vec![0; 100_000];
    let runs: Vec<_> = stream.block_map().runs().take(5).collect();
    for run in runs {
        let n = (run.end - run.start).min(buf.len() as u64) as usize;
        stream.read_exact_at(&mut buf[..n], run.start)?;
    }
    stream.finish()
}

#[test]
fn damaged_vhds_have_an_answer() {
    let mut rng = Rng::new(7);
    let (mut good, mut bad) = (0, 0);
    for round in 0..6000 {
        let (layers, _) = random_chain(round % 40);
        let layers: Vec<Layer> = match round % 3 {
            0 => layers.into_iter().map(Layer::like_xapi).collect(),
            _ => layers,
        };
        let mut files: Vec<Vec<u8>> = layers.iter().map(Layer::build).collect();
        let victim = rng.below(files.len());
        mutate(&mut rng, &mut files[victim], true);
        let policy = if rng.one_in(2) { Policy::Strict } else { Policy::Lenient };
        let stream = files[0].clone();
        let chain = files.into_iter().map(|f| Arc::new(f) as Arc<dyn ReadAt>).collect();
        let answer = VhdDisk::from_chain(chain, &mut Findings::new(policy)).and_then(|d| ask(&d));
        *(if answer.is_ok() { &mut good } else { &mut bad }) += 1;
        let _ = drain(stream);
    }
    // Both must happen, or the damage is too light or too heavy to show anything.
    assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
}

fn qcow2_samples() -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let mut bytes = vec![0; 400 << 10];
    bytes[100_000..200_000].copy_from_slice(&Rng::new(3).bytes(100_000));
    bytes[300_000..320_000].fill(7);
    std::fs::write(&raw, bytes).unwrap();
    let mut out = Vec::new();
    for options in [
        &["-o", "cluster_size=4k"][..],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "extended_l2=on"],
    ] {
        let path = dir.path().join("out.qcow2");
        let done = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args(options)
            .args([&raw, &path])
            .output();
        match done {
            Ok(done) if done.status.success() => out.push(std::fs::read(&path).unwrap()),
            other => println!("skipped: qemu-img {options:?}: {other:?}"),
        }
    }
    out
}

#[test]
fn damaged_qcow2s_have_an_answer() {
    let samples = qcow2_samples();
    let mut rng = Rng::new(11);
    let (mut good, mut bad) = (0, 0);
    for round in 0..1500 * samples.len() {
        let mut bytes = samples[round % samples.len()].clone();
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
        mutate(&mut rng, &mut bytes, false);
        // The tables are small and far apart: aim at them too.
        if let Some(byte) = bytes.get_mut(l1 + rng.below(64)).filter(|_| rng.one_in(2)) {
            *byte = rng.below(256) as u8;
        }
        let policy = if rng.one_in(2) { Policy::Strict } else { Policy::Lenient };
        let file: Arc<dyn ReadAt> = Arc::new(bytes);
        let mut findings = Findings::new(policy);
        let answer = Qcow2Disk::open(file, None, None, &mut findings).and_then(|d| ask(&d));
        *(if answer.is_ok() { &mut good } else { &mut bad }) += 1;
    }
    assert!(samples.is_empty() || good > 200 && bad > 200, "{good} good, {bad} bad");
}

#[test]
fn damaged_files_are_opened_and_checked_without_panic() {
    let mut rng = Rng::new(13);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut samples: Vec<(Vec<u8>, bool)> =
        qcow2_samples().into_iter().map(|s| (s, false)).collect();
    for seed in 0..10 {
        samples.extend(random_chain(seed).0.iter().map(|l| (l.build(), true)));
    }
    for round in 0..1500 {
        let (sample, vhd) = &samples[round % samples.len()];
        let mut bytes = sample.clone();
        mutate(&mut rng, &mut bytes, *vhd);
        std::fs::write(&path, &bytes).unwrap();
        let options = OpenOptions::new().lenient(rng.one_in(2));
        for answer in [
            open(&path, &options).map(|_| ()),
            check(&path, &options).map(|_| ()),
            vmimage::info(&path, &options).map(|_| ()),
        ] {
            if let Err(error) = answer {
                assert!(!error.to_string().contains('\n'), "{error:?}");
            }
        }
    }
}
