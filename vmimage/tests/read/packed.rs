//! A VHD in a compressed file, in an archive or in a stream is the disk that it is in a file.

use std::fs;
use std::io::{Cursor, Write};
use std::sync::Arc;

use vmimage::{
    Comparison, ErrorKind, Incoming, OpenOptions, SizePolicy, Verdict, check, compare, incoming,
    info, open,
};

use crate::builder::{Kind, Layer, seal};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A tar archive with `0.vhd`.
fn tar(vhd: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 512];
    out[..5].copy_from_slice(b"0.vhd");
    out[100..107].copy_from_slice(b"0000644");
    out[124..135].copy_from_slice(format!("{:011o}", vhd.len()).as_bytes());
    out[156] = b'0';
    out[257..265].copy_from_slice(b"ustar\x0000");
    out[148..156].fill(b' ');
    let sum: u32 = out.iter().map(|b| u32::from(*b)).sum();
    out[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.extend(vhd);
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out
}

/// A VHD of 20 KiB whose geometry says `tracks` of 512 bytes.
fn with_geometry(tracks: u8) -> Vec<u8> {
    let mut layer = crate::oddities::layer();
    layer.order.sort_unstable();
    let mut bytes = layer.build();
    let end = bytes.len() - 512;
    for at in [0, end] {
        bytes[at + 28..at + 32].copy_from_slice(b"qemu");
        bytes[at + 56..at + 60].copy_from_slice(&[0, tracks, 1, 1]);
        seal(&mut bytes[at..at + 512], 64);
    }
    bytes
}

#[test]
fn the_rule_for_the_size_holds_for_whatever_a_vhd_comes_in() {
    let folder = tempfile::tempdir().unwrap();
    // Smaller and larger than the disk, and not at the end of a block.
    for tracks in [8, 9, 31, 50] {
        let vhd = with_geometry(tracks);
        let file = folder.path().join("file");
        fs::write(&file, &vhd).unwrap();
        for policy in [SizePolicy::CurrentSize, SizePolicy::Geometry, SizePolicy::QemuCompat] {
            let options = OpenOptions::new().size_policy(policy);
            let expected = Arc::clone(&open(&file, &options).unwrap().disks()[0]);
            let size = match policy {
                SizePolicy::CurrentSize => 5 * 4096,
                _ => u64::from(tracks) * 512,
            };
            assert_eq!(expected.virtual_size(), size);
            for bytes in [gzip(&vhd), tar(&vhd), gzip(&tar(&vhd))] {
                let path = folder.path().join("packed");
                fs::write(&path, &bytes).unwrap();
                assert_eq!(info(&path, &options).unwrap().virtual_size(), size);
                let disk = Arc::clone(&open(&path, &options).unwrap().disks()[0]);
                assert_eq!(disk.virtual_size(), size, "{policy:?} {tracks}");
                let same = compare(expected.as_ref(), disk.as_ref()).unwrap();
                assert_eq!(same, Comparison::Same, "{policy:?} {tracks}");
            }
            for bytes in [vhd.clone(), gzip(&vhd), gzip(&tar(&vhd))] {
                let stream = incoming(Cursor::new(bytes), &options, None).unwrap();
                let Incoming::Source(mut source) = stream else { panic!("has a map") };
                assert_eq!(source.block_map().virtual_size(), size, "{policy:?} {tracks}");
                let (mut got, mut want) = (vec![9; size as usize], vec![7; size as usize]);
                source.read_exact_at(&mut got, 0).unwrap();
                source.finish().unwrap();
                expected.read_exact_at(&mut want, 0).unwrap();
                assert!(got == want, "{policy:?} {tracks}");
            }
        }
    }
}

#[test]
fn a_compressed_disk_of_zeros_must_be_whole_too() {
    let mut layer = Layer::new(Kind::Dynamic, 5 * 4096, 4096);
    layer.order = Vec::new();
    let vhd = layer.build();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, gzip(&vhd)).unwrap();
    assert_eq!(open(&path, &OpenOptions::new()).unwrap().disks().len(), 1);
    assert_eq!(check(&path, &OpenOptions::new()).unwrap().verdict(), Verdict::Sound);
    // Without its last footer, and cut within the compression.
    for bytes in [gzip(&vhd[..vhd.len() - 512]), gzip(&vhd)[..60].to_vec()] {
        fs::write(&path, bytes).unwrap();
        let error = open(&path, &OpenOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{error}");
        assert_eq!(check(&path, &OpenOptions::new()).unwrap().verdict(), Verdict::Corrupt);
    }
}

#[test]
fn a_compressed_disk_with_blocks_in_any_order_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, gzip(&crate::oddities::layer().build())).unwrap();
    let error = open(&path, &OpenOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("unpack it first"), "{error}");
}

#[test]
fn what_a_lenient_reading_takes_is_told_and_taken_from_streams_too() {
    let mut vhd = with_geometry(9);
    let end = vhd.len() - 512;
    for at in [0, end] {
        vhd[at + 64] ^= 1;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for bytes in [vhd.clone(), gzip(&vhd), gzip(&tar(&vhd))] {
        fs::write(&path, &bytes).unwrap();
        let stream = |options| incoming(Cursor::new(bytes.clone()), options, None).map(|_| ());
        let (strict, lenient) = (OpenOptions::new(), OpenOptions::new().lenient(true));
        for error in [open(&path, &strict).map(|_| ()).unwrap_err(), stream(&strict).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.is_tolerable(), "{error}");
        }
        stream(&lenient).unwrap();
        assert_eq!(open(&path, &lenient).unwrap().disks()[0].virtual_size(), 5 * 4096);
    }
    // Nothing helps where there is no image.
    vhd[..8].fill(0);
    vhd[end..end + 8].fill(0);
    let options = OpenOptions::new().with_format(vmimage::Format::Vhd);
    fs::write(&path, &vhd).unwrap();
    assert!(!open(&path, &options).unwrap_err().is_tolerable());
}
