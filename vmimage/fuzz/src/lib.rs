//! What the fuzz targets share: a body and a mutator for each, and a limit on allocations.
//!
//! The bodies and the mutators are also compiled into `tests/fuzz_regressions.rs` of the library,
//! where they run on the committed inputs without a fuzzer.

mod bodies;
mod limit;
mod mutate;

/// Runs the body of the target `name`.
///
/// # Panics
/// On a defect of the library, which is what the fuzzer looks for.
pub fn run(name: &str, data: &[u8]) {
    let (_, body) = bodies::ALL.iter().find(|(known, _)| *known == name).expect("a known target");
    body(data);
}

/// The mutator of all targets: libFuzzer's own, or one that knows the format that `data` begins
/// with. Gives the new length.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    mutate::mutate(data, size, max_size, seed, libfuzzer_sys::fuzzer_mutate)
}
