//! Small sound images, and what is done to them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::mutate;

/// The fuzzer's seeds: small images of every format and of all writers, by their names.
pub(crate) fn seeds() -> BTreeMap<String, Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut seeds = BTreeMap::new();
    for target in ["check", "decode", "qcow2", "tgz"] {
        for entry in std::fs::read_dir(corpus.join(target)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            // Those that begin with a number for their format are for the fuzzer only.
            if !bytes.starts_with(&[1]) {
                seeds.insert(name, bytes);
            }
        }
    }
    seeds
}

/// Hands over each damaged file, and what was done to it.
pub(crate) fn each(name: &str, seed: &[u8], visit: &mut dyn FnMut(&[u8], &str)) {
    visit(seed, &format!("{name} as it is"));
    let len = seed.len();
    for cut in [
        0,
        1,
        3,
        4,
        511,
        512,
        513,
        1023,
        1536,
        len / 2,
        len.saturating_sub(513),
        len - len.min(512),
        len - 1,
    ] {
        if cut < len {
            visit(&seed[..cut], &format!("{name} cut at {cut}"));
        }
    }
    let mut long = seed.to_vec();
    long.extend([0xa5; 700]);
    visit(&long, &format!("{name} with a tail"));
    let places = places(seed);
    for (i, &at) in places.iter().enumerate() {
        let mut bytes = seed.to_vec();
        bytes[at] ^= 1 << (i % 8);
        visit(&bytes, &format!("{name}: bit {} of byte {at}", i % 8));
        numbers(name, seed, at, i, visit);
    }
    // Changes by the format, with the checksums right again.
    for round in 0..60 {
        let mut bytes = seed.to_vec();
        bytes.resize(len + 1024, 0);
        let untouched = |_: &mut [u8], size: usize, max: usize| size.min(max);
        let max = bytes.len();
        let new = mutate::mutate(&mut bytes, len, max, round, untouched);
        visit(&bytes[..new], &format!("{name}, changed by its format, round {round}"));
    }
}

/// Where the file says something: up to 40 places, spread over the bytes that are not zero.
fn places(seed: &[u8]) -> Vec<usize> {
    let set: Vec<usize> = (0..seed.len()).filter(|&at| seed[at] != 0).collect();
    let step = (set.len() / 40).max(1);
    set.into_iter().step_by(step).take(40).collect()
}

/// A number where the place is: what overflows, and what points to the end or to itself.
fn numbers(name: &str, seed: &[u8], at: usize, i: usize, visit: &mut dyn FnMut(&[u8], &str)) {
    let values = [u64::MAX, 1 << 63, (1 << 63) - 1, 0, 1, seed.len() as u64, at as u64];
    let value = values[i % values.len()];
    let width = if i.is_multiple_of(2) { 8 } else { 4 };
    let at = at / width * width;
    if at + width > seed.len() {
        return;
    }
    let mut bytes = seed.to_vec();
    bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
    visit(&bytes, &format!("{name}: {value:#x} at {at}"));
}
