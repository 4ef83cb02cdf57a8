//! Streams against flate2's inflate. What other programs make of them is tested with the members
//! that contain them.

use flate2::{Decompress, FlushDecompress, Status};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::exec::deflate::block::BLOCK;

fn deflate(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new().compress(input, &mut out);
    out
}

fn inflate(stream: &[u8], len: usize) -> Vec<u8> {
    let mut inflate = Decompress::new(false);
    let mut back = vec![0; len + 1];
    let status = inflate.decompress(stream, &mut back, FlushDecompress::Finish).unwrap();
    assert_eq!(status, Status::StreamEnd);
    assert_eq!(inflate.total_in(), stream.len() as u64, "bytes after the stream");
    back.truncate(inflate.total_out() as usize);
    back
}

/// The stream's length, after the checks that all streams must pass.
fn check(input: &[u8]) -> usize {
    let stream = deflate(input);
    assert!(inflate(&stream, input.len()) == input, "another content");
    // What a stored block costs, and what its first byte may have to be filled up with.
    let most = input.len() + 6 * input.len().div_ceil(BLOCK) + 5 + END.len();
    assert!(stream.len() <= most, "{} bytes became {}", input.len(), stream.len());
    stream.len()
}

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()
    });
    words.flatten().take(len).collect()
}

/// Lines with a few words each.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = ["disk", "block", "migration of the", "\n", "guest", "0x", "started at", ", "];
    let picks = noise(seed, len).into_iter();
    let mut text = picks.flat_map(|n| words[usize::from(n % 8)].bytes()).collect::<Vec<_>>();
    text.truncate(len);
    text
}

#[test]
fn nothing_and_next_to_nothing() {
    assert_eq!(check(&[]), 2);
    for len in 1..40 {
        check(&vec![0; len]);
        check(&vec![255; len]);
        check(&noise(len as u64, len));
        check(&text(len as u64, len));
    }
}

#[test]
fn every_byte_once() {
    let all: Vec<_> = (0..=255).collect();
    assert_eq!(check(&all), 256 + 5 + END.len());
    check(&all.repeat(3));
    for byte in 0..=255 {
        check(&[byte]);
    }
}

#[test]
fn lengths_around_a_block() {
    for len in [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 4, 2 * BLOCK, 2 * BLOCK + 7] {
        check(&vec![0; len]);
        check(&text(1, len));
        // What is over may be packed, and then needs an empty block to end with a whole byte.
        assert!(check(&noise(1, len)) <= len + 5 * (len.div_ceil(BLOCK) + 1) + END.len());
    }
}

#[test]
fn long_runs_are_next_to_nothing() {
    // Four thousand matches of 258 bytes, each of them two bits, and 17 headers.
    let len = 1 << 20;
    for byte in [0, 7, 255] {
        assert!(check(&vec![byte; len]) < 1300);
    }
    assert!(check(&b"ab".repeat(len / 2)) < 1400);
    assert!(check(&[&noise(1, 200)[..], &vec![0; len]].concat()) < 200 + 1400);
}

#[test]
fn matches_reach_as_far_as_the_window() {
    for (distance, found) in [(258, true), (32767, true), (32768, true), (32769, false)] {
        let once = noise(3, 258);
        let input = [&once[..], &vec![0; distance - once.len()], &once].concat();
        let len = check(&input);
        assert_eq!(len < once.len() * 3 / 2 + 100, found, "distance {distance}: {len} bytes");
    }
}

#[test]
fn all_lengths_and_distances() {
    let fill = noise(5, 40_000);
    for length in (4..=300).chain([515, 516, 517, 518, 519, 520, 1000]) {
        let pattern = &fill[..length];
        check(&[pattern, &fill[20_000..20_010], pattern, &fill[10_000..10_009]].concat());
        // The match ends with the input.
        check(&[pattern, pattern].concat());
    }
    for distance in (1..70).chain((6..15).flat_map(|n| (1 << n) - 1..=(1 << n) + 1)) {
        let mut input = fill[..distance].to_vec();
        for n in 0..40 {
            input.push(input[n]);
        }
        check(&input);
    }
}

#[test]
fn codes_that_would_be_too_deep() {
    // As often as Fibonacci's numbers, and no repetitions that would take them away.
    let (mut a, mut b) = (1, 1);
    let mut bytes = Vec::new();
    for byte in 0..22 {
        bytes.extend(std::iter::repeat_n(byte, a));
        (a, b) = (b, a + b);
    }
    for (n, random) in noise(9, 8 * bytes.len()).chunks(8).enumerate().rev() {
        let other = u64::from_le_bytes(random.try_into().unwrap()) % (n as u64 + 1);
        bytes.swap(n, other as usize);
    }
    assert!(check(&bytes) < bytes.len() / 2);
}

#[test]
fn text_shrinks_and_noise_does_not_grow() {
    let len = 300_000;
    assert!(check(&text(1, len)) < len / 5);
    assert_eq!(check(&noise(1, len)), len + 5 * len.div_ceil(BLOCK) + END.len());
    // Compressible data after noise is still found.
    assert!(check(&[noise(1, len), text(1, len)].concat()) < len + len / 4);
    // Sixteen symbols without repetitions: four bits each.
    let nibbles: Vec<_> = noise(2, len).iter().map(|byte| byte & 15).collect();
    assert!(check(&nibbles) < len * 51 / 100);
}

#[test]
fn what_came_before_changes_nothing() {
    let mut used = Deflater::new();
    used.compress(&text(1, 200_000), &mut Vec::new());
    for input in samples() {
        let mut out = b"before".to_vec();
        used.compress(&input, &mut out);
        assert!(out.strip_prefix(b"before").unwrap() == deflate(&input), "another stream");
    }
}

/// What inputs are made of.
#[derive(Debug, Clone)]
enum Part {
    Noise(u64, usize),
    Text(u64, usize),
    Run(u8, usize),
    /// From so far back, modulo what there is.
    Copy(usize, usize),
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let len = || prop_oneof![6 => 1..40_usize, 3 => 1..5_000_usize, 1 => 1..100_000_usize];
    let back = prop_oneof![1..20_usize, 1..40_000_usize, 32_760..32_775_usize];
    let part = prop_oneof![
        2 => (any::<u64>(), len()).prop_map(|(seed, len)| Part::Noise(seed, len)),
        2 => (any::<u64>(), len()).prop_map(|(seed, len)| Part::Text(seed, len)),
        1 => (any::<u8>(), len()).prop_map(|(byte, len)| Part::Run(byte, len)),
        4 => (back, len()).prop_map(|(back, len)| Part::Copy(back, len)),
    ];
    prop::collection::vec(part, 0..60)
}

fn build(parts: &[Part]) -> Vec<u8> {
    let mut input = Vec::new();
    for part in parts {
        match *part {
            Part::Noise(seed, len) => input.extend(noise(seed, len)),
            Part::Text(seed, len) => input.extend(text(seed, len)),
            Part::Run(byte, len) => input.extend(std::iter::repeat_n(byte, len)),
            Part::Copy(back, len) if !input.is_empty() => {
                let from = input.len() - 1 - (back - 1) % input.len();
                for n in from..from + len {
                    input.push(input[n]);
                }
            }
            Part::Copy(..) => {}
        }
    }
    input
}

/// The same mixtures each time, for tests that start a program.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let mut sample = || build(&parts().new_tree(&mut runner).unwrap().current());
    (0..30).map(|_| sample()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mixtures_come_back(parts in parts()) {
        check(&build(&parts));
    }
}
