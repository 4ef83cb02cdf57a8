//! What is no image that is read must never pass for a raw disk, nor be refused without a word
//! about what to do.

use std::fs;
use std::io::Cursor;

use vmimage::{ErrorKind, Format, OpenOptions, incoming, open, probe};

/// The first bytes by the documents of each format, and the word that the message must have.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"\x04\x22\x4d\x18\x64\x40\xa7", "lz4"),
    (b"\x02\x21\x4c\x18\x00\x00", "lz4"),
    (b"\x89LZO\x00\x0d\x0a\x1a\x0a", "lzop"),
    (b"LZIP\x01", "lzip"),
    (b"\x1f\x9d\x90", "compress"),
    (b"Rar!\x1a\x07\x00", "rar"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh9", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x1f\x8b\x08\x00junk", "gzip"),
    (b"\x50\x2a\x4d\x18\x04\x00\x00\x00junk", "zstd"),
    (b"COWD\x01", "VMDK"),
    (b"WithouFreSpacExt", "Parallels"),
    (b"<!DOCTYPE html>", "HTML"),
];

#[test]
fn what_is_compressed_or_foreign_is_no_raw_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for (start, word) in FOREIGN {
        let bytes = [*start, &[0x55; 4096]].concat();
        fs::write(&path, &bytes).unwrap();
        let error = open(&path, &OpenOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{word}");
        assert!(error.to_string().contains(word), "{word}: {error}");
        // By the caller's word it is the content of a disk.
        let raw = OpenOptions::new().with_format(Format::Raw);
        assert_eq!(open(&path, &raw).unwrap().disks()[0].virtual_size(), bytes.len() as u64);
    }
    let mut vdi = vec![0x20; 4096];
    vdi[..24].copy_from_slice(b"<<< innotek VirtualBox D");
    vdi[64..68].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
    let error = probe(&vdi).unwrap_err();
    assert!(error.to_string().contains("VDI"), "{error}");
}

/// `pzstd` writes a frame to be skipped before each frame with content.
#[test]
fn a_file_of_zstd_may_begin_with_a_frame_to_be_skipped() {
    let mut layer = crate::oddities::layer();
    // A stream wants its blocks in order.
    layer.order.sort_unstable();
    let vhd = layer.build();
    let content =
        ruzstd::encoding::compress_to_vec(&*vhd, ruzstd::encoding::CompressionLevel::Fastest);
    let skip = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], &[1, 2, 3, 4]].concat();
    let folder = tempfile::tempdir().unwrap();
    let (plain, packed) = (folder.path().join("plain"), folder.path().join("packed"));
    fs::write(&plain, &vhd).unwrap();
    fs::write(&packed, [skip, content].concat()).unwrap();
    let disk = |path| std::sync::Arc::clone(&open(path, &OpenOptions::new()).unwrap().disks()[0]);
    let same = vmimage::compare(&*disk(&plain), &*disk(&packed)).unwrap();
    assert_eq!(same, vmimage::Comparison::Same);
}

#[test]
fn a_stream_that_cannot_be_read_says_what_to_do() {
    let say = |bytes: &[u8]| {
        let bytes = Cursor::new(bytes.to_vec());
        let error = incoming(bytes, &OpenOptions::new(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        error.to_string()
    };
    let qcow2 = say(&[&b"QFI\xfb\0\0\0\x03"[..], &[0; 600]].concat());
    assert!(qcow2.contains("QCOW2") && qcow2.contains("from a file"), "{qcow2}");
    let named = OpenOptions::new().with_format(Format::Qcow2);
    let error = incoming(Cursor::new(vec![0; 600]), &named, None).unwrap_err();
    assert!(error.to_string().contains("QCOW2"), "{error}");
    let raw = say(&[0x55; 600]);
    assert!(raw.contains("the format raw"), "{raw}");
    assert!(say(b"KDMV\x01\0\0\0").contains("VMDK"));
    assert!(say(b"\x04\x22\x4d\x18\x64\x40\xa7").contains("lz4"));
}

/// Nothing but its name tells a QCOW2 image's backing file: the next one down must not be taken
/// for a layer that was forgotten.
#[test]
fn a_forgotten_layer_of_qcow2_is_not_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, backing: &str| {
        let mut image = vec![0; 4 << 16];
        image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        image[15] = 200;
        image[19] = backing.len() as u8;
        image[23] = 16;
        image[29] = 16;
        image[39] = 1;
        image[45] = 3;
        image[53] = 1;
        image[59] = 1;
        image[200..200 + backing.len()].copy_from_slice(backing.as_bytes());
        fs::write(at(name), image).unwrap();
    };
    fs::write(at("base"), vec![1; 1 << 20]).unwrap();
    write("middle", "base");
    write("top", "middle");
    let look = |parents: &[&str]| {
        let options = parents.iter().fold(OpenOptions::new(), |o, p| o.with_parent(at(p)));
        open(at("top"), &options)?.disks()[0].read_exact_at(&mut [0], 5)
    };
    look(&["middle", "base"]).unwrap();
    look(&["base", "middle"]).unwrap();
    let error = look(&["base"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reference);
    assert!(error.to_string().contains("middle"), "{error}");
    // Where it was moved and renamed, it is the first that is named.
    fs::rename(at("middle"), at("moved")).unwrap();
    look(&["moved", "base"]).unwrap();
}
