//! Bytes as an XVA: by the parser, as a stream (packed or not), by index.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| {
    vmimage_fuzz::run("xva", data);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    vmimage_fuzz::mutate(data, size, max_size, seed)
});
