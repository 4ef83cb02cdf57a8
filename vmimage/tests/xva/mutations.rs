//! Random damage with the tar checksums put right again, so that it gets past the headers.

use std::sync::Arc;

use vmimage::xva::{DiskChoice, Ova, XvaEvent, XvaParser, examine};
use vmimage::{Disk, ErrorKind, Findings, Policy, tgz};

use crate::shape::{open, sample, swallow};

/// xorshift64*
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % n as u64) as usize
    }
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        let blocks = bytes.len() / 512;
        let block = rng.below(blocks) * 512;
        match rng.below(6) {
            0 => bytes[block + rng.below(512)] ^= 1 << rng.below(8),
            // The size, the type, the name of a header.
            1 => bytes[block + 124 + rng.below(12)] = b'0' + rng.below(10) as u8,
            2 => bytes[block + 156] = *b"0L5xgKS\0".get(rng.below(8)).unwrap(),
            3 => bytes[block + rng.below(24)] = b"0123456789./Rv\0"[rng.below(15)],
            4 => {
                let other = rng.below(blocks) * 512;
                let copy = bytes[other..other + 512].to_vec();
                bytes.splice(block..block, copy);
            }
            _ => {
                bytes.drain(block..(block + 512 * (1 + rng.below(4))).min(bytes.len()));
                if bytes.len() < 1024 {
                    bytes.resize(1024, 0);
                }
            }
        }
    }
    for block in bytes.chunks_mut(512).filter(|b| b.len() == 512 && &b[257..262] == b"ustar") {
        seal(block);
    }
}

#[test]
fn mended_damage_has_an_answer_and_never_wrong_data() {
    let Some(good) = sample("small") else { return };
    let mut rng = Rng(9);
    let (mut fine, mut bad) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = good.clone();
        mutate(&mut rng, &mut bytes);
        for policy in [Policy::Strict, Policy::Lenient] {
            let read = swallow(bytes.clone(), DiskChoice::Reference("Ref:4".into()), policy);
            match &read {
                Ok(data) if policy == Policy::Strict => {
                    fine += 1;
                    // Sizes may have been changed in the description; letters may not.
                    assert!(data.iter().all(|b| matches!(b, 0 | b'r' | b'q')));
                }
                Ok(_) => {}
                Err(error) => {
                    bad += 1;
                    assert_ne!(error.kind(), ErrorKind::Io, "{error:?}");
                }
            }
            if let Ok((xva, _)) = open(bytes.clone(), policy) {
                for disk in xva.disks() {
                    let n = disk.virtual_size().min(10_000);
                    let _ = disk.read_exact_at(&mut vec![0; n as usize], 0);
                    let _ = disk.extent_at(disk.virtual_size() / 2);
                }
            }
            let mut parser = XvaParser::new(Findings::new(policy));
            let _ = parser.push(&bytes, &mut |_: XvaEvent<'_>| Ok(()));
        }
        let _ = examine(Arc::new(bytes.clone()), &mut Findings::new(Policy::Lenient));
        let _ = tgz::SingleVhd::new(std::io::Cursor::new(bytes));
    }
    // Both must happen, or the damage is too light or too heavy to show anything.
    assert!(fine > 100 && bad > 100, "{fine} fine, {bad} bad");
}

#[test]
fn a_damaged_description_has_an_answer() {
    let good = Ova::minimal("web01", &[("Ref:7", 1 << 30)]).to_xml().into_bytes();
    let mut rng = Rng(4);
    let (mut fine, mut bad) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..=rng.below(2) {
            let at = rng.below(bytes.len());
            match rng.below(4) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = b"<>&/;\"x0"[rng.below(8)],
                2 => drop(bytes.drain(at..(at + rng.below(40)).min(good.len() / 2).max(at))),
                _ => bytes.truncate(at.max(1)),
            }
        }
        for policy in [Policy::Strict, Policy::Lenient] {
            match Ova::parse(&bytes, &mut Findings::new(policy)) {
                Ok(ova) => {
                    fine += 1;
                    let _ = ova.disks();
                }
                Err(error) => {
                    bad += 1;
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
    }
    assert!(fine > 100 && bad > 100, "{fine} fine, {bad} bad");
}
