//! Decoders of what is written, by the specifications and without any of the crate's code. They
//! insist on what a strict reader could stumble over, and give the bytes of the disk.

use std::io::Read as _;

use sha1::Digest as _;
use vmimage::TargetFormat;

use crate::builder::sum;
use crate::forge::MIB;
use crate::qcow2::qcow2;

pub(crate) fn be(file: &[u8], at: usize, n: usize) -> usize {
    file[at..at + n].iter().fold(0, |v, b| v << 8 | usize::from(*b))
}

/// The disk in a file of `format`, which may be longer than what was written: a format rounds.
pub(crate) fn disk(format: TargetFormat, file: &[u8]) -> Vec<u8> {
    match format {
        TargetFormat::Raw => file.to_vec(),
        TargetFormat::VhdDynamic | TargetFormat::VhdFixed => vhd(file, None),
        TargetFormat::Qcow2 => qcow2(file),
        TargetFormat::VhdTgz => tgz(file),
        TargetFormat::Xva => xva(file).remove(0),
        other => panic!("no decoder for {other}"),
    }
}

/// By how much the size of a disk is rounded up.
pub(crate) fn step(format: TargetFormat) -> usize {
    match format {
        TargetFormat::Raw => 1,
        TargetFormat::Qcow2 => 512,
        TargetFormat::VhdFixed | TargetFormat::Xva => MIB,
        _ => 2 * MIB,
    }
}

/// The disk in `file` must be `want`, and zeros up to the size that the format rounds to.
pub(crate) fn assert_disk(format: TargetFormat, file: &[u8], want: &[u8], what: &str) {
    let seen = disk(format, file);
    assert_eq!(seen.len(), want.len().max(1).next_multiple_of(step(format)), "{what}: the size");
    if let Some(at) = (0..seen.len()).find(|&i| seen[i] != want.get(i).copied().unwrap_or(0)) {
        panic!("{what}: byte {at} of {} is {:#x}", want.len(), seen[at]);
    }
}

/// A structure whose checksum lies at `at` of it.
fn assert_sum(bytes: &[u8], at: usize, what: &str) {
    let mut blank = bytes.to_vec();
    blank[at..at + 4].fill(0);
    assert_eq!(be(bytes, at, 4), sum(&blank) as usize, "the checksum of the {what}");
}

/// What a VHD makes of the bytes below it; without any it must be no differencing one.
pub(crate) fn vhd(file: &[u8], below: Option<&[u8]>) -> Vec<u8> {
    let footer = &file[file.len() - 512..];
    assert_eq!(&footer[..8], b"conectix");
    assert_sum(footer, 64, "footer");
    let (size, kind) = (be(footer, 48, 8), be(footer, 60, 4));
    if kind == 2 {
        assert_eq!(file.len(), size + 512, "a fixed VHD is its disk and a footer");
        assert_eq!(be(footer, 16, 8), usize::MAX);
        return file[..size].to_vec();
    }
    assert_eq!(kind, if below.is_some() { 4 } else { 3 });
    assert_eq!(footer, &file[..512], "the footer's copy");
    let mut disk = below.unwrap_or_default().to_vec();
    disk.resize(size, 0);
    sparse(file, &mut disk);
    disk
}

/// Puts the blocks of a dynamic VHD over `disk`.
fn sparse(file: &[u8], disk: &mut [u8]) {
    let header = &file[be(file, 16, 8)..][..1024];
    assert_eq!(&header[..8], b"cxsparse");
    assert_sum(header, 36, "header");
    let (table, entries, block) = (be(header, 16, 8), be(header, 28, 4), be(header, 32, 4));
    assert!(entries >= disk.len().div_ceil(block), "a table for the whole disk");
    let bitmap_len = (block / 4096).next_multiple_of(512);
    let full = batmap(file, table + (entries * 4).next_multiple_of(512));
    let mut places = vec![(table + entries * 4, 0), (file.len() - 512, 0)];
    for index in 0..entries {
        let entry = be(file, table + 4 * index, 4);
        if entry == 0xffff_ffff {
            continue;
        }
        let (bitmap, data) = (entry * 512, entry * 512 + bitmap_len);
        places.push((bitmap, bitmap_len + block));
        for sector in 0..block / 512 {
            let held = file[bitmap + sector / 8] & (0x80 >> (sector % 8)) != 0;
            let at = index * block + sector * 512;
            // A full block is so to its end, unless the disk ends before.
            assert!(held || !full.contains(&index) || at >= disk.len(), "the batmap lies: {index}");
            if held && at < disk.len() {
                disk[at..at + 512].copy_from_slice(&file[data + sector * 512..][..512]);
            }
        }
    }
    places.sort_unstable();
    for pair in places.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "parts of the VHD overlap: {pair:?}");
    }
}

/// The blocks that the batmap behind the table calls full.
fn batmap(file: &[u8], at: usize) -> Vec<usize> {
    let head = &file[at..at + 512];
    assert_eq!(&head[..8], b"tdbatmap");
    let map = &file[be(head, 8, 8)..][..be(head, 16, 4) * 512];
    assert_eq!(be(head, 24, 4), sum(map) as usize, "the checksum of the batmap");
    (0..map.len() * 8).filter(|i| map[i / 8] & (0x80 >> (i % 8)) != 0).collect()
}

/// The members of a tar archive, which must end with two blocks of zeros and nothing behind.
pub(crate) fn tar(mut rest: &[u8]) -> Vec<(String, &[u8])> {
    let octal = |field: &[u8]| {
        let text = String::from_utf8_lossy(field);
        usize::from_str_radix(text.trim_matches([' ', '\0']), 8).unwrap()
    };
    let mut members = Vec::new();
    while rest[0] != 0 {
        let (header, content) = rest.split_at(512);
        let blank: u32 = header.iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        let own: u32 = header[148..156].iter().map(|b| u32::from(*b)).sum();
        assert_eq!(octal(&header[148..156]), (blank - own) as usize, "the sum of a tar header");
        let name = header[..100].split(|b| *b == 0).next().unwrap();
        let len = octal(&header[124..136]);
        members.push((String::from_utf8(name.to_vec()).unwrap(), &content[..len]));
        let (padding, next) = content[len..].split_at(len.next_multiple_of(512) - len);
        assert!(padding.iter().all(|b| *b == 0));
        rest = next;
    }
    assert!(rest.len() == 1024 && rest.iter().all(|b| *b == 0), "the end of the archive");
    members
}

/// The disk of an archive of layers, from its base up.
pub(crate) fn tgz(file: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut gzip = flate2::bufread::GzDecoder::new(file);
    gzip.read_to_end(&mut plain).unwrap();
    assert!(gzip.into_inner().is_empty(), "one member, and nothing behind it");
    let members = tar(&plain);
    let mut below: Option<Vec<u8>> = None;
    let mut parent = [0; 16];
    for (i, (name, content)) in members.iter().enumerate().rev() {
        assert_eq!(*name, format!("{i}.vhd"));
        let named = &content[be(content, 16, 8) + 40..][..16];
        assert!(named == parent, "{name} names its parent");
        parent.copy_from_slice(&content[68..84]);
        below = Some(vhd(content, below.as_deref()));
    }
    below.unwrap()
}

/// The disks of an XVA, whose chunks must match their checksums.
pub(crate) fn xva(file: &[u8]) -> Vec<Vec<u8>> {
    let members = tar(file);
    let (name, ova) = &members[0];
    assert_eq!(name, "ova.xml");
    let ova = std::str::from_utf8(ova).unwrap();
    let sizes = ova.split("<name>virtual_size</name>").skip(1).map(|rest| {
        let from = rest.find(|c: char| c.is_ascii_digit()).unwrap();
        rest[from..].split('<').next().unwrap().parse().unwrap()
    });
    let mut disks: Vec<Vec<u8>> = sizes.map(|size: usize| vec![0; size]).collect();
    let mut numbers: Vec<Vec<usize>> = vec![Vec::new(); disks.len()];
    for pair in members[1..].chunks(2) {
        let ((name, data), (sum_name, sum)) = (&pair[0], &pair[1]);
        let (reference, number) = name.split_once('/').unwrap();
        let index: usize = reference.strip_prefix("Ref:").unwrap().parse().unwrap();
        let (index, number): (usize, usize) = (index - 100_000, number.parse().unwrap());
        assert_chunk(name, data, sum_name, sum);
        assert!(numbers[index].last().is_none_or(|last| *last < number), "{name} is out of order");
        numbers[index].push(number);
        assert_eq!(data.len(), MIB.min(disks[index].len() - number * MIB));
        disks[index][number * MIB..][..data.len()].copy_from_slice(data);
    }
    for (disk, numbers) in disks.iter().zip(numbers) {
        // An importer takes the last chunk for the end, and its sum must be there.
        assert_eq!((numbers[0], *numbers.last().unwrap()), (0, (disk.len() - 1) / MIB));
    }
    disks
}

fn assert_chunk(name: &str, data: &[u8], sum_name: &str, sum: &[u8]) {
    let real = match sum_name.strip_prefix(name).unwrap() {
        ".xxhash" => format!("{:016X}", twox_hash::XxHash64::oneshot(0, data)),
        ".checksum" => sha1::Sha1::digest(data).iter().map(|b| format!("{b:02x}")).collect(),
        other => panic!("the checksum {other} of {name}"),
    };
    assert_eq!(sum, real.as_bytes(), "{sum_name}");
}

/// The content root by its definition, recursively.
pub(crate) fn content_root(bytes: &[u8]) -> String {
    let tagged = |tag: &str, parts: &[&[u8]]| -> Vec<u8> {
        let mut hash = sha2::Sha256::new();
        let mut field = [0; 64];
        field[..tag.len()].copy_from_slice(tag.as_bytes());
        hash.update(field);
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize().to_vec()
    };
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let n = end.div_ceil(MIB);
    let mut level: Vec<Vec<u8>> = (0..n.max(1).next_power_of_two())
        .map(|i| {
            let mut leaf = bytes.get(i * MIB..).unwrap_or_default().to_vec();
            leaf.resize(MIB, 0);
            tagged("vmimage content-root 1 leaf", &[&leaf])
        })
        .collect();
    while level.len() > 1 {
        let node = |pair: &[Vec<u8>]| tagged("vmimage content-root 1 node", &[&pair[0], &pair[1]]);
        level = level.chunks(2).map(node).collect();
    }
    let root = tagged("vmimage content-root 1 root", &[&(n as u64).to_be_bytes(), &level[0]]);
    root.iter().map(|b| format!("{b:02x}")).collect()
}
