//! Conversions from file to file beside `cp` of as many bytes, and what they cost as a disk fills.
//!
//! Read a line against `cp` of the same group: the throughput counts the data, not the holes.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be prepared must stop")]

use std::path::Path;
use std::process::Command;

use benches::{allocated, convert, folder, raw};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmimage::TargetFormat::{self, Qcow2, Raw, VhdDynamic, VhdFixed, Xva};

const DISK: u64 = 256 << 20;

/// A name for the bench, the input in which format, and the output's.
const CONVERSIONS: [(&str, TargetFormat, TargetFormat); 9] = [
    ("vhd to raw", VhdDynamic, Raw),
    ("vhd to vhd", VhdDynamic, VhdDynamic),
    ("vhd to vhd-fixed", VhdDynamic, VhdFixed),
    ("vhd to qcow2", VhdDynamic, Qcow2),
    ("vhd to xva", VhdDynamic, Xva),
    ("raw to vhd", Raw, VhdDynamic),
    ("raw to qcow2", Raw, Qcow2),
    ("qcow2 to raw", Qcow2, Raw),
    ("xva to raw, verified", Xva, Raw),
];

fn copy(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    let status = cp.args(["--reflink=never", "--sparse=never"]).arg(from).arg(to).status();
    assert!(status.unwrap().success());
    std::fs::remove_file(to).unwrap();
}

fn conversions(criterion: &mut Criterion) {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    raw(&at("raw"), DISK, 300);
    for format in [VhdDynamic, Qcow2, Xva] {
        convert(&at("raw"), format, &at(format.as_str()));
    }
    // As many bytes as hold data, one behind the other.
    raw(&at("dense"), allocated(&at("raw")), 1000);
    let mut group = criterion.benchmark_group("convert");
    group.sample_size(10).throughput(Throughput::Bytes(allocated(&at("raw"))));
    group.bench_function("cp", |b| b.iter(|| copy(&at("dense"), &at("out"))));
    for (name, from, to) in CONVERSIONS {
        let input = at(from.as_str());
        group.bench_function(name, |b| {
            b.iter(|| {
                convert(&input, to, &at("out"));
                std::fs::remove_file(at("out")).unwrap();
            });
        });
    }
    group.finish();
}

/// The cost must follow the data: the throughput of a line should not fall far as a disk empties.
fn allocation(criterion: &mut Criterion) {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let mut group = criterion.benchmark_group("allocation");
    for permille in [1, 10, 100, 500, 1000] {
        // The smallest share of a larger disk, so that it is a block at least.
        let size = if permille < 100 { 8 * DISK } else { DISK };
        raw(&at("raw"), size, permille);
        convert(&at("raw"), VhdDynamic, &at("vhd"));
        group.sample_size(10).throughput(Throughput::Bytes(allocated(&at("vhd"))));
        for format in [VhdDynamic, Qcow2] {
            let name = format!("vhd to {format}, {} %", permille as f64 / 10.0);
            group.bench_function(name, |b| {
                b.iter(|| {
                    convert(&at("vhd"), format, &at("out"));
                    std::fs::remove_file(at("out")).unwrap();
                });
            });
        }
        group.bench_function(format!("content root, {} %", permille as f64 / 10.0), |b| {
            b.iter(|| vmimage::content_root(benches::open(&at("vhd")).as_ref()).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, conversions, allocation);
criterion_main!(benches);
