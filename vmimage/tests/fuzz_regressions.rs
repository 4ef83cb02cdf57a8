//! The inputs of the fuzzer without the fuzzer: every seed of the corpus and everything that was
//! found goes through the bodies of the fuzz targets. See `fuzz/` and CONTRIBUTING.md.

// The bodies' panics are what a fuzzer takes for a finding.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../fuzz/src/bodies/mod.rs"]
mod bodies;
#[path = "../fuzz/src/mutate/mod.rs"]
mod mutate;

use std::path::{Path, PathBuf};

/// The files of `fuzz/<what>/<target>`, in order.
fn inputs(what: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(what).join(target);
    let entries = std::fs::read_dir(&folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// A body whose panic names the input.
fn run(body: bodies::Body, path: &Path, data: &[u8]) -> bool {
    let result = std::panic::catch_unwind(|| body(data));
    result.unwrap_or_else(|_| panic!("the input was {}", path.display()))
}

#[test]
fn every_seed_is_taken_by_its_target() {
    for (target, body) in bodies::ALL {
        let seeds = inputs("corpus", target);
        assert!(!seeds.is_empty(), "no seeds for {target}: run fuzz/seeds.py");
        for (path, data) in seeds {
            assert!(run(body, &path, &data), "{} is not read", path.display());
        }
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    for (target, body) in bodies::ALL {
        for (path, data) in inputs("regressions", target) {
            run(body, &path, &data);
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = name.contains('.') || bodies::ALL.iter().any(|(target, _)| *target == name);
        assert!(known, "regressions/{name} belongs to no target");
    }
}

/// The mutators see every length that the fuzzer gives them, and stay within it.
#[test]
fn the_mutators_stand_every_input() {
    let untouched = |_: &mut [u8], size: usize, max: usize| size.min(max);
    for (target, body) in bodies::ALL {
        for (path, seed) in inputs("corpus", target) {
            let lens = [0, 1, 4, 11, 100, 511, 512, 513, 1536, seed.len()];
            for (round, len) in lens.into_iter().cycle().take(60).enumerate() {
                let len = len.min(seed.len());
                let mut data = seed[..len].to_vec();
                data.resize(len + 700 * (round % 3), 0);
                let max = if round % 7 == 0 { len / 2 } else { data.len() };
                let new = mutate::mutate(&mut data, len, max, round as u32, untouched);
                assert!(new <= max, "{new} of {max}");
                if round < 4 {
                    run(body, &path, &data[..new]);
                }
            }
        }
    }
}
