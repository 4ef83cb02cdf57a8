//! Members of a tar archive, of an XVA, of an archive of VHDs.

use std::ops::Range;

use super::{Rng, interesting, vhd};

const BLOCK: usize = 512;
/// Names that the readers know, and some that they must not like.
const NAMES: [&[u8]; 14] = [
    b"ova.xml",
    b"0.vhd",
    b"1.vhd",
    b"swap.vhd",
    b"Ref:3/00000000",
    b"Ref:3/00000001",
    b"Ref:3/00000000.xxhash",
    b"Ref:3/00000000.checksum",
    b"Ref:4/99999999",
    b"checksum.xml",
    b"../0.vhd",
    b"",
    b"vdi/00000000",
    b"Ref:3/4294967296",
];

pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.len() >= BLOCK && &bytes[257..262] == b"ustar"
}

/// The blocks of a member: its header and its content.
fn members(bytes: &[u8]) -> Vec<Range<usize>> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(head) = bytes.get(at..at + BLOCK).filter(|head| is_tar(head)) {
        let size = octal(&head[124..136]).min(bytes.len());
        let end = (at + BLOCK + size.next_multiple_of(BLOCK)).min(bytes.len());
        out.push(at..end);
        at = end;
    }
    out
}

fn octal(field: &[u8]) -> usize {
    let digits = field.iter().take_while(|b| (b'0'..=b'7').contains(b));
    digits.fold(0, |n: usize, &b| n.saturating_mul(8).saturating_add(usize::from(b - b'0')))
}

pub(super) fn change(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        let members = members(bytes);
        let Some(member) = members.get(rng.below(members.len())).cloned() else { break };
        let other = members[rng.below(members.len())].clone();
        match rng.below(9) {
            0 => name(rng, &mut bytes[member]),
            1 => size(rng, &mut bytes[member]),
            2 => bytes[member.start + 156] = rng.pick(b"0\x005LxgKSV127"),
            3 => drop(bytes.drain(member)),
            4 => {
                let copy = bytes[other].to_vec();
                bytes.splice(member.start..member.start, copy);
            }
            5 => {
                // The content gets longer or shorter, and the header says so.
                let old = member.len() - BLOCK;
                let new = rng.below(4) * BLOCK + rng.pick(&[0, 1, 511]);
                let content = vec![b'c'; new.next_multiple_of(BLOCK)];
                bytes.splice(member.end - old..member.end, content);
                write_octal(&mut bytes[member.start + 124..], new as u64);
            }
            6 => bytes.truncate(member.start + rng.below(member.len() + 1)),
            _ => content(rng, &mut bytes[member.start + BLOCK..member.end]),
        }
    }
    seal(rng, bytes);
}

fn name(rng: &mut Rng, head: &mut [u8]) {
    if rng.one_in(2) {
        let name = rng.pick(&NAMES);
        head[..100].fill(0);
        head[..name.len()].copy_from_slice(name);
    } else {
        head[rng.below(30)] = rng.pick(b"0123456789./Rv\0");
    }
}

fn size(rng: &mut Rng, head: &mut [u8]) {
    let own = octal(&head[124..136]) as u64;
    let value = interesting(rng, own, own);
    if rng.one_in(3) {
        // As GNU tar writes what has no room in octal digits.
        head[124] = 0x80;
        head[125..128].fill(0);
        head[128..136].copy_from_slice(&value.to_be_bytes());
    } else {
        write_octal(&mut head[124..], value & 0o777_7777_7777);
    }
}

fn write_octal(field: &mut [u8], value: u64) {
    field[..12].copy_from_slice(format!("{value:011o}\0").as_bytes());
}

fn content(rng: &mut Rng, content: &mut [u8]) {
    if vhd::is_vhd(content) {
        vhd::change(rng, content);
    } else if !content.is_empty() {
        let at = rng.below(content.len());
        content[at] = rng.pick(b"<>&;/\"0127R\0x\xff");
    }
}

/// Puts the checksums of the headers right, and most of the time those of the chunks.
pub(super) fn seal(rng: &mut Rng, bytes: &mut [u8]) {
    let members = members(bytes);
    if !rng.one_in(4) {
        for pair in members.windows(2) {
            digest(bytes, &pair[0], &pair[1]);
        }
    }
    for member in members {
        let head = &mut bytes[member][..BLOCK];
        head[148..156].fill(b' ');
        let sum: u32 = head.iter().map(|&b| u32::from(b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Writes the XXH64 of a chunk into the member behind it, if that is for it.
fn digest(bytes: &mut [u8], chunk: &Range<usize>, sum: &Range<usize>) {
    let head = &bytes[sum.clone()][..BLOCK];
    let is_sum = head[..100].windows(7).any(|part| part == b".xxhash");
    let size = octal(&bytes[chunk.clone()][124..136]);
    let data = bytes[chunk.clone()].get(BLOCK..BLOCK.saturating_add(size));
    let Some(data) = data.filter(|_| is_sum) else { return };
    let text = format!("{:016X}", twox_hash::XxHash64::oneshot(0, data));
    // The archive may have been cut within the member.
    if let Some(place) = bytes.get_mut(sum.start + BLOCK..sum.start + BLOCK + 16) {
        place.copy_from_slice(text.as_bytes());
    }
}
