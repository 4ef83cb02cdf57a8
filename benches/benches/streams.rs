//! What an upload costs before the network: ordered streams into nothing, digests beside them, and
//! archives. Each digest has a thread: the time of a line is that of its slowest one.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be prepared must stop")]

use std::hint::black_box;
use std::path::Path;

use benches::{allocated, convert, folder, open, plan, raw};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmimage::TargetFormat::{self, Qcow2, VhdDynamic, VhdTgz, Xva};
use vmimage::{DigestSet, DiskSource, PlanOptions, StreamOptions};

const DISK: u64 = 128 << 20;

fn send(from: &Path, format: TargetFormat, plan_options: &PlanOptions, options: &StreamOptions) {
    let disk = open(from);
    let plan = plan(&disk, format, plan_options);
    let mut source = DiskSource::for_format(disk, format).unwrap();
    let mut sink = |bytes| {
        black_box(bytes);
        Ok(())
    };
    vmimage::stream(&plan, &mut source, &mut sink, options).unwrap();
}

fn digests(criterion: &mut Criterion) {
    let folder = folder();
    let (source, vhd) = (folder.path().join("raw"), folder.path().join("vhd"));
    raw(&source, DISK, 500);
    convert(&source, VhdDynamic, &vhd);
    let mut group = criterion.benchmark_group("digests");
    group.sample_size(10).throughput(Throughput::Bytes(allocated(&vhd)));
    let none = DigestSet::NONE;
    for (name, set, root) in [
        ("none", none, false),
        ("md5", none.with_md5(true), false),
        ("sha256", none.with_sha256(true), false),
        ("sha512", none.with_sha512(true), false),
        ("content root", none, true),
        ("all", DigestSet::ALL, true),
    ] {
        let options = StreamOptions::new().with_digests(set).with_content_root(root);
        group.bench_function(name, |b| {
            b.iter(|| send(&vhd, Qcow2, &PlanOptions::new(), &options));
        });
    }
    group.bench_function("plain sha256 of the disk", |b| {
        b.iter(|| vmimage::guest_sha256(open(&vhd).as_ref()).unwrap());
    });
    group.finish();
}

fn archives(criterion: &mut Criterion) {
    let folder = folder();
    let (source, vhd) = (folder.path().join("raw"), folder.path().join("vhd"));
    raw(&source, DISK, 250);
    convert(&source, VhdDynamic, &vhd);
    let options = StreamOptions::new().with_digests(DigestSet::NONE).with_content_root(false);
    let mut group = criterion.benchmark_group("archives");
    group.sample_size(10).throughput(Throughput::Bytes(allocated(&vhd)));
    for level in [0, 1, 6] {
        let plan_options = PlanOptions::new().with_gzip_level(level);
        group.bench_function(format!("tgz, level {level}"), |b| {
            b.iter(|| send(&vhd, VhdTgz, &plan_options, &options));
        });
    }
    for checksum in ["xxhash", "sha1"] {
        let plan_options = PlanOptions::new().with_xva_checksum(checksum.parse().unwrap());
        group.bench_function(format!("xva, {checksum}"), |b| {
            b.iter(|| send(&vhd, Xva, &plan_options, &options));
        });
    }
    group.finish();
}

criterion_group!(benches, digests, archives);
criterion_main!(benches);
