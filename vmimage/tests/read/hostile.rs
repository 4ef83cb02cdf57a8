//! QCOW2 images made to keep a reader busy.

use std::path::{Path, PathBuf};

use vmimage::{Disk, ErrorKind, OpenOptions, Verdict, check, open};

const CLUSTER: u64 = 64 << 10;
const TABLE: u64 = 512 << 20;

/// An image whose L1 table names `tables` L2 tables, which follow one another at 1 MiB.
fn image(folder: &Path, tables: u64, entry: u64) -> PathBuf {
    let mut bytes = vec![0_u8; 1 << 20];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[23] = 16;
    bytes[24..32].copy_from_slice(&(tables * TABLE).to_be_bytes());
    bytes[36..40].copy_from_slice(&(tables as u32).to_be_bytes());
    bytes[40..48].copy_from_slice(&(2 * CLUSTER).to_be_bytes());
    bytes[48..56].copy_from_slice(&CLUSTER.to_be_bytes());
    bytes[59] = 1;
    bytes[99] = 4;
    bytes[103] = 104;
    for i in 0..tables {
        let at = (2 * CLUSTER + 8 * i) as usize;
        let table = (1 << 20) + i * CLUSTER;
        bytes[at..at + 8].copy_from_slice(&(table | (1 << 63)).to_be_bytes());
    }
    if entry != 0 {
        for _ in 0..tables * CLUSTER / 8 {
            bytes.extend(entry.to_be_bytes());
        }
    }
    let path = folder.join("hostile.qcow2");
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len((1 << 20) + tables * CLUSTER).unwrap();
    path
}

fn disk(path: &Path, options: &OpenOptions) -> std::sync::Arc<dyn Disk> {
    std::sync::Arc::clone(&open(path, options).unwrap().disks()[0])
}

#[test]
fn tables_in_holes_are_passed_in_strides() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 1000, 0);
    let disk = disk(&path, &OpenOptions::new());
    // Cluster by cluster this would be one answer of thousands.
    assert!(disk.extent_at(3 * CLUSTER).unwrap().len >= TABLE);
    assert_eq!(disk.block_map().unwrap().granules(), 0);
}

#[test]
fn a_disk_of_one_cluster_again_and_again_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), 4, (3 * CLUSTER) | (1 << 63));
    let strict = disk(&path, &OpenOptions::new());
    assert_eq!(strict.block_map().unwrap_err().kind(), ErrorKind::Corrupt);
    let lenient = disk(&path, &OpenOptions::new().lenient(true));
    assert_eq!(lenient.block_map().unwrap().allocated(), 4 * TABLE);
    assert_eq!(check(&path, &OpenOptions::new()).unwrap().verdict(), Verdict::Corrupt);
}
