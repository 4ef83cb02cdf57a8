//! Chains of differencing VHDs: by depth, and by how the children overwrite what is below.
//!
//! A chain is resolved by asking each layer, never by reading through it: a line of depth 30 should
//! stay near that of depth 1, and random overwrites of pages cost what their reads cost.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be prepared must stop")]

use benches::{Overwrite, allocated, chain, convert, folder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmimage::TargetFormat::{Raw, VhdDynamic};

const BLOCKS: u64 = 48;

fn chains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chain");
    for overwrite in [Overwrite::Random, Overwrite::Clustered] {
        for depth in [1, 5, 30] {
            let folder = folder();
            let out = folder.path().join("out");
            let tip = chain(folder.path(), BLOCKS, depth, overwrite);
            group.sample_size(10).throughput(Throughput::Bytes(allocated(&tip)));
            for format in [Raw, VhdDynamic] {
                let name = format!("{depth} layers, {overwrite:?} overwrites, to {format}");
                group.bench_function(name, |b| {
                    b.iter(|| {
                        convert(&tip, format, &out);
                        std::fs::remove_file(&out).unwrap();
                    });
                });
            }
            let name = format!("{depth} layers, {overwrite:?} overwrites, block map");
            group.bench_function(name, |b| b.iter(|| allocated(&tip)));
        }
    }
    group.finish();
}

criterion_group!(benches, chains);
criterion_main!(benches);
