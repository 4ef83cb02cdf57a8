//! Images with random wrong bytes in what describes the disk: the same class as `qemu-img check`.

use std::path::Path;

use crate::{Folder, make, ours, qemu};

/// How many images are broken of each kind; `QCOW2_CASES` asks for more.
fn cases() -> u64 {
    std::env::var("QCOW2_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(25)
}

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

/// The places of all words of the file that are not zero, but for the guest's data: what is
/// written there is one byte all over.
fn words(image: &[u8]) -> Vec<usize> {
    let tables = |at: &usize| {
        let word = &image[*at..at + 8];
        *at >= 24 && word.iter().any(|b| *b != 0) && !word.iter().all(|b| *b == word[0])
    };
    (0..image.len() - 7).step_by(8).filter(tables).collect()
}

/// One wrong word: another bit, another number, or another word's value.
fn harm(image: &mut [u8], places: &[usize], dice: &mut Dice) -> String {
    let at = places[dice.below(places.len())];
    let old = u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let new = match dice.below(8) {
        0..4 => old ^ 1 << dice.below(64),
        4 => {
            let other = places[dice.below(places.len())];
            u64::from_be_bytes(image[other..other + 8].try_into().unwrap())
        }
        5 => old.wrapping_add(0x200 << dice.below(10)),
        6 => 0,
        _ => old ^ (dice.below(1 << 16) as u64) << (16 * dice.below(4)),
    };
    image[at..at + 8].copy_from_slice(&new.to_be_bytes());
    format!("{at:#x}: {old:#x} -> {new:#x}")
}

fn differ(image: &Path, what: &str) -> Option<String> {
    let theirs = qemu(image)?;
    let (class, codes) = ours(image);
    // `qemu-img check` passes over what QEMU then refuses to read; a test of its own shows it.
    let unreadable = codes.contains(&"zero-in-version-2");
    (class != theirs && !unreadable)
        .then(|| format!("{what}: qemu {theirs:?}, we {class:?} {codes:?}"))
}

#[test]
fn random_damage_is_judged_alike() {
    let snapshots = ["io write -P 7 0 256k", "snapshot -c one IMG", "io write -P 3 64k 320k"];
    let bitmaps = ["io write -P 7 0 256k", "bitmap --add IMG a", "io write -P 1 3M 64k"];
    let packed = ["io write -c -P 5 0 64k", "io write -c -P 6 64k 64k", "io write -P 4 1M 64k"];
    let kinds: [(&str, &[&str]); 7] = [
        ("compat=1.1", &snapshots),
        ("compat=0.10", &snapshots),
        ("cluster_size=4k,refcount_bits=1", &bitmaps[..1]),
        ("cluster_size=512,refcount_bits=8", &snapshots),
        ("compat=1.1", &bitmaps),
        ("compat=1.1", &packed),
        ("extended_l2=on", &snapshots),
    ];
    let mut wrong = Vec::new();
    let mut seen = [0; 3];
    for (options, commands) in kinds {
        let folder = Folder::new();
        let Some(image) = make(&folder, options, "5M", commands) else { continue };
        let whole = std::fs::read(&image).unwrap();
        let places = words(&whole);
        for seed in 1..=cases() {
            let mut dice = Dice((seed + places.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut bytes = whole.clone();
            let what = harm(&mut bytes, &places, &mut dice);
            std::fs::write(&image, &bytes).unwrap();
            wrong.extend(differ(&image, &format!("{options} {what}")));
            seen[ours(&image).0 as usize] += 1;
        }
    }
    println!("clean, leaks, corrupt: {seen:?}");
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
}
