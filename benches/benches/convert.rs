//! Conversions of a chain of three VHDs, with `cp` as the limit measured in the same run.
//!
//! The chain is made by `xtask/scripts/split-vhd-chain.py` from 256 MiB of data on a sparse 1 GiB
//! disk. Throughput counts the data, not the holes.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be prepared must stop")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use vmimage::{
    DigestSet, Disk, DiskSource, FileOptions, OpenOptions, Plan, PlanOptions, Source as _,
    StreamOptions, TargetFormat,
};

/// The chain, the raw disk that it holds, and one VHD without a parent.
struct Input {
    folder: TempDir,
    raw: PathBuf,
    chain: Arc<dyn Disk>,
    vhd: Arc<dyn Disk>,
}

fn open(path: &Path) -> Arc<dyn Disk> {
    let image = vmimage::open(path, &OpenOptions::new()).unwrap();
    Arc::clone(&image.disks()[0])
}

fn input() -> Option<Input> {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/scripts/split-vhd-chain.py");
    let made = Command::new("python3")
        .arg(script)
        .args(["--synthetic", "1G", "--data", "256M", "--no-digest"])
        .arg(folder.path())
        .output();
    match made {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(why) => {
            eprintln!("skipped: the chain is made by python3, which cannot be run: {why}");
            return None;
        }
    }
    let chain = open(&folder.path().join("child2.vhd"));
    let vhd = folder.path().join("flat.vhd");
    convert(&chain, TargetFormat::VhdDynamic, &vhd);
    let (raw, vhd) = (folder.path().join("disk.raw"), open(&vhd));
    Some(Input { folder, raw, chain, vhd })
}

fn plan(disk: &Arc<dyn Disk>, format: TargetFormat) -> Plan {
    let source = DiskSource::new(Arc::clone(disk)).unwrap();
    Plan::new(format, source.block_map(), &PlanOptions::new()).unwrap()
}

fn convert(disk: &Arc<dyn Disk>, format: TargetFormat, out: &Path) {
    let plan = plan(disk, format);
    let options = FileOptions::new().with_digests(DigestSet::NONE).with_content_root(false);
    vmimage::to_file(&plan, disk, out, &options).unwrap();
}

fn files(group: &mut BenchmarkGroup<'_, WallTime>, input: &Input) {
    let out = input.folder.path().join("out");
    group.bench_function("cp (the limit)", |b| {
        b.iter(|| {
            let copied = Command::new("cp")
                .args(["--reflink=never", "--sparse=auto"])
                .args([&input.raw, &out])
                .status();
            assert!(copied.unwrap().success());
        });
    });
    for (name, disk, format) in [
        ("chain to raw", &input.chain, TargetFormat::Raw),
        ("chain to vhd", &input.chain, TargetFormat::VhdDynamic),
        ("chain to qcow2", &input.chain, TargetFormat::Qcow2),
        ("vhd to qcow2", &input.vhd, TargetFormat::Qcow2),
    ] {
        group.bench_function(name, |b| b.iter(|| convert(disk, format, &out)));
    }
}

/// What an upload costs before the network: in order, one pass, digests beside it.
fn streams(group: &mut BenchmarkGroup<'_, WallTime>, input: &Input) {
    for (name, digests) in
        [("nothing beside it", DigestSet::NONE), ("all digests and content_root", DigestSet::ALL)]
    {
        let plan = plan(&input.chain, TargetFormat::Qcow2);
        group.bench_function(format!("chain to a qcow2 stream, {name}"), |b| {
            b.iter(|| {
                let mut source = DiskSource::new(Arc::clone(&input.chain)).unwrap();
                let options = StreamOptions::new()
                    .with_digests(digests)
                    .with_content_root(!digests.is_empty());
                vmimage::stream(
                    &plan,
                    &mut source,
                    &mut |bytes| {
                        black_box(bytes);
                        Ok(())
                    },
                    &options,
                )
                .unwrap()
            });
        });
    }
    group.bench_function("content_root of the chain", |b| {
        b.iter(|| vmimage::content_root(input.chain.as_ref()).unwrap());
    });
    group.bench_function("guest_sha256 of the chain", |b| {
        b.iter(|| vmimage::guest_sha256(input.chain.as_ref()).unwrap());
    });
}

fn all(criterion: &mut Criterion) {
    let Some(input) = input() else { return };
    let mut group = criterion.benchmark_group("convert");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(plan(&input.chain, TargetFormat::Raw).data_len()));
    files(&mut group, &input);
    streams(&mut group, &input);
    group.finish();
}

criterion_group!(benches, all);
criterion_main!(benches);
