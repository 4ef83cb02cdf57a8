//! Files that are small and claim to be large, that refer to themselves, or that make a reader
//! work for nothing.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

const MIB: u64 = 1 << 20;

/// Hands over each file.
pub(crate) fn each(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    archives(folder, visit);
    compressed(folder, visit);
    descriptions(folder, visit);
    loops(folder, visit);
    tables(folder, visit);
}

/// A header of a tar member; a size beyond eleven octal digits is written in base 256.
fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut h = vec![0; 512];
    h[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    h[100..108].copy_from_slice(b"0000644\0");
    if size < 1 << 33 {
        h[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        h[124] = 0x80;
        h[128..136].copy_from_slice(&size.to_be_bytes());
    }
    h[156] = kind;
    h[257..265].copy_from_slice(b"ustar\x0000");
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|&b| u32::from(b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    h
}

fn put(folder: &Path, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join("image");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Sizes, numbers and names of members.
fn archives(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    let huge = [1 << 33, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX];
    for name in ["ova.xml", "0.vhd", "Ref:1/00000000", "swap.vhd", "unknown"] {
        for kind in [b'0', b'x', b'g', b'L', b'K', b'S', b'5', b'2', 0] {
            for size in huge {
                let mut bytes = header(name, kind, size);
                bytes.extend([0; 2048]);
                visit(&put(folder, &bytes), &format!("{name}, kind {kind}, of {size} bytes"));
            }
        }
    }
    for name in ["../outside", "../../outside", "/tmp/outside", "0.vhd/../../outside"] {
        let mut bytes = [header("ova.xml", b'0', 0), header(name, b'0', 0)].concat();
        bytes.extend([0; 1024]);
        visit(&put(folder, &bytes), name);
        let mut bytes = [header("0.vhd", b'0', 0), header(name, b'2', 0)].concat();
        bytes.extend([0; 1024]);
        visit(&put(folder, &bytes), name);
    }
    for name in ["0.vhd", "600.vhd", "18446744073709551616.vhd", "unknown"] {
        let bytes = header(name, b'0', 0).repeat(20_000);
        visit(&put(folder, &bytes), &format!("20,000 members {name}"));
    }
    let many: Vec<u8> = (0..2000).flat_map(|n| header(&format!("{n}.vhd"), b'0', 0)).collect();
    visit(&put(folder, &many), "2,000 layers");
}

/// What unpacks to far more than it is.
fn compressed(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    let zeros = vec![0; MIB as usize];
    for (name, size) in [("0.vhd", 256 * MIB), ("ova.xml", 256 * MIB), ("Ref:1/00000000", 1 << 40)]
    {
        let path = folder.join("image");
        let mut gzip = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
        gzip.write_all(&header(name, b'0', size)).unwrap();
        for _ in 0..256 {
            gzip.write_all(&zeros).unwrap();
        }
        gzip.finish().unwrap();
        visit(&path, &format!("gzip: {name} of {size} bytes"));
        visit(&put(folder, &zstd_of(&header(name, b'0', size), 2048)), &format!("zstd: {name}"));
    }
    // Windows of 2 TiB, of 256 MiB, and a frame that says it has 2^63 bytes.
    for head in [&[0x00, 0xf8][..], &[0x00, 0x90], &[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80]] {
        let mut bytes = b"\x28\xb5\x2f\xfd".to_vec();
        bytes.extend(head);
        bytes.extend([0x02, 0x00, 0x40, 0]);
        visit(&put(folder, &bytes), &format!("zstd: header {head:x?}"));
    }
    // Frames without content, one after the other.
    let empty = b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00".repeat(20_000);
    visit(&put(folder, &empty), "zstd: 20,000 empty frames");
    let skip = b"\x50\x2a\x4d\x18\xff\xff\xff\xff".to_vec();
    visit(&put(folder, &skip), "zstd: a skippable frame of 4 GiB");
    let mut empty = Vec::new();
    for _ in 0..20_000 {
        empty.extend(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0");
    }
    visit(&put(folder, &empty), "gzip: 20,000 empty members");
}

/// A frame with `start` and then blocks of 128 KiB of zeros, four bytes each.
fn zstd_of(start: &[u8], blocks: usize) -> Vec<u8> {
    let mut out = b"\x28\xb5\x2f\xfd\x00\x58".to_vec();
    let mut block = |last: u32, kind: u32, len: usize| {
        out.extend(&(last | kind << 1 | (len as u32) << 3).to_le_bytes()[..3]);
        if kind == 0 { out.extend(start) } else { out.push(0) }
    };
    block(0, 0, start.len());
    for n in 1..=blocks {
        block(u32::from(n == blocks), 1, 128 << 10);
    }
    out
}

/// Descriptions of a machine that are no such thing.
fn descriptions(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    let laughs: String =
        (1..30).map(|n| format!("<!ENTITY l{n} \"&l{};&l{};\">", n - 1, n - 1)).collect();
    let bomb = format!("<!DOCTYPE x [<!ENTITY l0 \"ha\">{laughs}]><value>&l29;</value>");
    let texts = [
        ("entities", bomb),
        (
            "an entity from a file",
            "<!DOCTYPE x [<!ENTITY f SYSTEM \"/etc/passwd\">]><value>&f;</value>".into(),
        ),
        ("depth", "<value><struct><member>".repeat(200_000)),
        ("values", format!("<value><array>{}", "<value>1</value>".repeat(400_000))),
        ("one long name", format!("<{}/>", "a".repeat(8 << 20))),
        ("one long text", format!("<value>{}", "&amp;".repeat(1 << 20))),
        ("attributes", format!("<value {}>", "a='b' ".repeat(300_000))),
        ("nothing", String::new()),
    ];
    for (what, text) in texts {
        let mut bytes = header("ova.xml", b'0', text.len() as u64);
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        visit(&put(folder, &bytes), &format!("ova.xml: {what}"));
    }
}

fn put_be(bytes: &mut [u8], at: usize, value: u64, len: usize) {
    bytes[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
}

fn sum(bytes: &mut [u8], at: usize) {
    put_be(bytes, at, 0, 4);
    let sum = !bytes.iter().fold(0_u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    put_be(bytes, at, sum.into(), 4);
}

/// Footer, header and footer of a VHD: `size` in blocks of `block`, its table at byte 1536.
fn vhd(kind: u64, size: u64, block: u64, entries: u64) -> (Vec<u8>, Vec<u8>) {
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    put_be(&mut footer, 8, 2, 4);
    put_be(&mut footer, 12, 0x10000, 4);
    put_be(&mut footer, 16, 512, 8);
    footer[28..36].copy_from_slice(b"win \0\x0a\0\0");
    put_be(&mut footer, 40, size, 8);
    put_be(&mut footer, 48, size, 8);
    put_be(&mut footer, 60, kind, 4);
    footer[68..84].copy_from_slice(b"a loop of a UUID");
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    put_be(&mut header, 8, u64::MAX, 8);
    put_be(&mut header, 16, 1536, 8);
    put_be(&mut header, 24, 0x10000, 4);
    put_be(&mut header, 28, entries, 4);
    put_be(&mut header, 32, block, 4);
    if kind == 4 {
        header[40..56].copy_from_slice(b"a loop of a UUID");
        for (i, unit) in "image".encode_utf16().enumerate() {
            put_be(&mut header, 64 + 2 * i, unit.into(), 2);
        }
    }
    sum(&mut header, 36);
    sum(&mut footer, 64);
    (footer, header)
}

/// A sparse file with these pieces and this length.
fn sparse(folder: &Path, len: u64, pieces: &[(u64, &[u8])]) -> std::path::PathBuf {
    let path = folder.join("image");
    let file = File::create(&path).unwrap();
    file.set_len(len).unwrap();
    for (at, bytes) in pieces {
        file.write_all_at(bytes, *at).unwrap();
    }
    path
}

/// Images that are their own parents.
fn loops(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    let (footer, header) = vhd(4, 4 * MIB, 2 * MIB, 2);
    let table = [0xff; 512];
    let pieces = [(0, &footer[..]), (512, &header), (1536, &table), (2048, &footer)];
    visit(&sparse(folder, 2560, &pieces), "a VHD that is its own parent");
    let mut qcow2 = qcow2_header(16, MIB, 1, 0x30000, 0x10000);
    put_be(&mut qcow2, 8, 200, 8);
    put_be(&mut qcow2, 16, 5, 4);
    qcow2.resize(65536, 0);
    qcow2[200..205].copy_from_slice(b"image");
    visit(&sparse(folder, 0x50000, &[(0, &qcow2)]), "a QCOW2 image that is its own backing file");
    // An L1 entry that names the L1 table, an L2 entry that names its table.
    for entry in [0x30000_u64, 0x8000_0000_0003_0000, 0x4000_0000_0003_0000] {
        let qcow2 = qcow2_header(16, 1 << 40, 2048, 0x30000, 0x10000);
        let table = entry.to_be_bytes().repeat(2048);
        let what = format!("a QCOW2 image whose tables are one, {entry:#x}");
        visit(&sparse(folder, 0x50000, &[(0, &qcow2), (0x30000, &table)]), &what);
    }
}

fn qcow2_header(bits: u64, size: u64, l1: u64, l1_at: u64, refcounts: u64) -> Vec<u8> {
    let mut h = vec![0; 104];
    h[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    put_be(&mut h, 20, bits, 4);
    put_be(&mut h, 24, size, 8);
    put_be(&mut h, 36, l1, 4);
    put_be(&mut h, 40, l1_at, 8);
    put_be(&mut h, 48, refcounts, 8);
    put_be(&mut h, 56, 1, 4);
    put_be(&mut h, 96, 4, 4);
    put_be(&mut h, 100, 104, 4);
    h
}

/// Tables that are as large as can be, in files of holes.
fn tables(folder: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    let tib = 1_u64 << 40;
    let sizes = [2040 << 30, 64 * tib, 1 << 63, u64::MAX, u64::MAX - 511, 513];
    for size in sizes {
        for (block, entries) in [
            (512, u64::from(u32::MAX)),
            (4096, 8 << 20),
            (2 * MIB, 1_044_480),
            (1 << 31, 1020),
            (0, 1),
            (3 * MIB, 100),
        ] {
            let (footer, header) = vhd(3, size, block, entries);
            let len = 64 << 30;
            let pieces = [(0, &footer[..]), (512, &header), (len - 512, &footer)];
            let what = format!("a VHD of {size} bytes in {entries} blocks of {block}");
            visit(&sparse(folder, len, &pieces), &what);
        }
        for bits in [9, 12, 16, 21] {
            for l1 in [1, 4 << 20, u64::from(u32::MAX)] {
                let header = qcow2_header(bits, size, l1, 1 << 21, 1 << 22);
                let what = format!("a QCOW2 disk of {size} bytes, 2^{bits}, {l1} L1 entries");
                visit(&sparse(folder, 32 << 30, &[(0, &header)]), &what);
            }
        }
    }
    // Every L1 entry its own L2 table in holes; and lists of snapshots as long as can be.
    let header = qcow2_header(9, 256 * MIB, 8192, 1 << 21, 1 << 22);
    let l1: Vec<u8> = (0..8192_u64).flat_map(|n| ((n + 16384) << 9).to_be_bytes()).collect();
    visit(&sparse(folder, 32 << 20, &[(0, &header), (1 << 21, &l1)]), "8,192 L2 tables in holes");
    let mut header = qcow2_header(16, MIB, 1, 1 << 21, 1 << 22);
    put_be(&mut header, 60, 65_536, 4);
    put_be(&mut header, 64, 1 << 23, 8);
    let mut snapshot = vec![0; 56];
    put_be(&mut snapshot, 0, 1 << 24, 8);
    put_be(&mut snapshot, 8, 4 << 20, 4);
    put_be(&mut snapshot, 36, 16, 4);
    let list = snapshot.repeat(65_536);
    visit(&sparse(folder, 1 << 30, &[(0, &header), (1 << 23, &list)]), "65,536 snapshots");
}
