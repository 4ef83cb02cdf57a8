//! Bytes as a stream, plain or packed by gzip or Zstandard.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| {
    vmimage_fuzz::run("decode", data);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    vmimage_fuzz::mutate(data, size, max_size, seed)
});
