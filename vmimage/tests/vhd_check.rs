//! `check` of a VHD against the rules of `vhd-util check`, as a script has them that knows nothing
//! of the crate: on VHDs with random wrong bytes in what describes the disk.

#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::tool_ok;
use vmimage::{Format, OpenOptions, Verdict, check};

/// How many images are broken of each kind; `VHD_CASES` asks for more.
fn cases() -> u64 {
    std::env::var("VHD_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

/// What is corrupt for us and no matter for vhd-util: a fixed disk that the file cannot hold, a
/// size that is no disk's, bits of the batmap without a block, an encrypted disk.
const STRICTER: [&str; 5] =
    ["fixed-short", "size-unaligned", "unreadable", "batmap-absent-block", "refused"];

/// Numbers without end, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

fn be(bytes: &[u8], at: usize, n: usize) -> usize {
    bytes[at..at + n].iter().fold(0, |v, b| v << 8 | usize::from(*b))
}

/// Makes a checksum right: the complement of the sum of all bytes but its own.
fn seal(part: &mut [u8], at: usize) {
    part[at..at + 4].fill(0);
    let sum = !part.iter().map(|b| u32::from(*b)).sum::<u32>();
    part[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// An image with one wrong number in its footers, header, BAT or batmap; the sums are right again
/// in three cases of four, and the footers are alike in most.
fn harm(sound: &[u8], dice: &mut Dice) -> (Vec<u8>, String) {
    let mut image = sound.to_vec();
    let end = image.len() - 512;
    let dynamic = be(sound, end + 60, 4) != 2;
    let (table, entries) = (be(sound, 512 + 16, 8), be(sound, 512 + 28, 4));
    let batmap = (table + 4 * entries).next_multiple_of(512);
    let (start, len) = match dice.below(if dynamic { 5 } else { 1 }) {
        0 => (end, 128),
        1 => (512, 64),
        2 => (table, 4 * entries),
        3 => (batmap, 40),
        _ => (512 + 700, 324),
    };
    let width = [1, 2, 4, 8][dice.below(4)];
    let at = start + dice.below(len.saturating_sub(width).max(1)) / width * width;
    let old = be(&image, at, width);
    let new = match dice.below(6) {
        0..3 => old ^ 1 << dice.below(8 * width),
        3 => old.wrapping_add(1 + dice.below(40)),
        4 => 0,
        _ => usize::MAX,
    };
    image[at..at + width].copy_from_slice(&new.to_be_bytes()[8 - width..]);
    if dice.below(4) > 0 {
        seal(&mut image[end..], 64);
        if dynamic {
            seal(&mut image[512..1536], 36);
        }
    }
    if dynamic && dice.below(8) > 0 {
        image.copy_within(end.., 0);
    }
    (image, format!("{at} (+{width}): {old:#x} -> {new:#x}"))
}

/// What we say of it: the verdict, and the codes.
fn ours(path: &Path) -> (Verdict, Vec<&'static str>) {
    match check(path, &OpenOptions::new().with_format(Format::Vhd)) {
        Ok(report) => (report.verdict(), report.findings().iter().map(|f| f.code).collect()),
        Err(_) => (Verdict::Corrupt, vec!["refused"]),
    }
}

#[test]
fn what_breaks_a_rule_of_vhd_util_is_reported() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/check");
    let folder = tempfile::tempdir().unwrap();
    let (path, all) = (folder.path().join("image"), folder.path().join("all"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vhd_rules.py");
    let mut wrong = String::new();
    let mut seen = [0; 3];
    for name in ["tap.vhd", "dynamic.vhd", "shuffled.vhd", "fixed.vhd"] {
        let sound = std::fs::read(corpus.join(name)).unwrap();
        let mut dice = Dice(sound.len() as u64);
        let images: Vec<_> =
            (0..cases())
                .map(|n| {
                    if n == 0 {
                        (sound.clone(), "as it is".into())
                    } else {
                        harm(&sound, &mut dice)
                    }
                })
                .collect();
        let bytes: Vec<&[u8]> = images.iter().map(|(image, _)| image.as_slice()).collect();
        std::fs::write(&all, bytes.concat()).unwrap();
        let args = [script, all.to_str().unwrap(), &sound.len().to_string()];
        let Some(theirs) = tool_ok("python3", &args) else { return };
        assert_eq!(theirs.lines().count(), images.len());
        for ((image, what), rules) in images.iter().zip(theirs.lines()) {
            std::fs::write(&path, image).unwrap();
            let (verdict, codes) = ours(&path);
            seen[verdict as usize] += 1;
            let agree = match (rules, verdict) {
                ("valid", Verdict::Corrupt) => codes.iter().any(|code| STRICTER.contains(code)),
                ("valid", _) => true,
                (_, verdict) => verdict != Verdict::Sound,
            };
            if !agree {
                writeln!(wrong, "{name} {what}: rules {rules:?}, we {verdict} {codes:?}").unwrap();
            }
        }
    }
    println!("sound, findings, corrupt: {seen:?}");
    assert!(wrong.is_empty(), "{} differ:\n{wrong}", wrong.lines().count());
}
