//! The archives of the Nova driver: written by this crate and by tar, read back.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{MemDisk, tool_ok};
use vmimage::vhd::{VhdDisk, VhdStream};
use vmimage::{
    Disk, DiskSource, ErrorKind, FileOptions, Findings, GRANULE, Plan, PlanOptions, ReadAt, Result,
    Source, TargetFormat, tgz, to_file,
};

/// The disk of an archive, unpacked into `folder`.
fn unpacked(bytes: Vec<u8>, folder: &Path) -> Result<Vec<u8>> {
    let files = tgz::unpack(Cursor::new(bytes), folder)?;
    let chain = files.into_iter().map(|file| Arc::new(file) as Arc<dyn ReadAt>).collect();
    let disk = VhdDisk::from_chain(chain, &mut Findings::default())?;
    let mut all = vec![0; disk.virtual_size() as usize];
    disk.read_exact_at(&mut all, 0)?;
    Ok(all)
}

/// The disk of an archive in one pass.
fn streamed(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut stream = VhdStream::new(tgz::SingleVhd::new(Cursor::new(bytes))?)?;
    let mut all = vec![0; stream.block_map().virtual_size() as usize];
    stream.read_exact_at(&mut all, 0)?;
    stream.finish()?;
    Ok(all)
}

#[test]
fn what_this_crate_writes_is_read_spilled_or_in_one_pass() {
    let folder = tempfile::tempdir().unwrap();
    let disk = MemDisk::new(10 << 20).with_granule(3, 1).with_granule(159, 2).arc();
    let path = folder.path().join("image.tgz");
    let source = DiskSource::new(Arc::clone(&disk)).unwrap();
    let plan = Plan::new(TargetFormat::VhdTgz, source.block_map(), &PlanOptions::new()).unwrap();
    to_file(&plan, source.disk(), &path, &FileOptions::new()).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let mut want = vec![0; 10 << 20];
    disk.read_exact_at(&mut want, 0).unwrap();
    assert!(unpacked(bytes.clone(), folder.path()).unwrap() == want);
    assert!(streamed(bytes.clone()).unwrap() == want);
    for cut in [bytes.len() - 1, bytes.len() - 30, bytes.len() / 2, 30] {
        for error in [
            unpacked(bytes[..cut].to_vec(), folder.path()).unwrap_err(),
            streamed(bytes[..cut].to_vec()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Truncated, "{cut}: {error:?}");
        }
    }
    assert!(want[3 * GRANULE as usize..][..100].iter().any(|&b| b != 0));
}

/// Its batmap lies between the table and the footer, with no block before it.
#[test]
fn a_disk_without_data_is_read_in_one_pass() {
    let source = DiskSource::new(MemDisk::new(5 << 20).arc()).unwrap();
    for format in [TargetFormat::VhdDynamic, TargetFormat::VhdTgz] {
        let plan = Plan::new(format, source.block_map(), &PlanOptions::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        to_file(&plan, source.disk(), &path, &FileOptions::new()).unwrap();
        let bytes = std::fs::read(path).unwrap();
        if format == TargetFormat::VhdTgz {
            assert!(streamed(bytes).unwrap() == vec![0; 6 << 20]);
            continue;
        }
        let mut stream = VhdStream::new(Cursor::new(bytes.clone())).unwrap();
        assert_eq!(stream.stream_len(), bytes.len() as u64);
        stream.finish().unwrap();
        for cut in [bytes.len() - 1, bytes.len() - 600, bytes.len() - 1100] {
            let cut = bytes[..cut].to_vec();
            let read = VhdStream::new(Cursor::new(cut)).and_then(|mut stream| stream.finish());
            assert_eq!(read.unwrap_err().kind(), ErrorKind::Truncated);
        }
    }
}

#[test]
fn a_chain_packed_by_tar_is_what_its_guest_sees() {
    let folder = tempfile::tempdir().unwrap();
    let (path, script) = (folder.path().to_str().unwrap(), "/tests/make_chain.py");
    let script = format!("{}{script}", env!("CARGO_MANIFEST_DIR"));
    if tool_ok("python3", &[&script, path, "4", "11", "3", "20", "4096"]).is_none() {
        return;
    }
    let want = std::fs::read(folder.path().join("expected.raw")).unwrap();
    for (flag, order) in
        [("-c", ["0.vhd", "1.vhd", "2.vhd"]), ("-cz", ["./2.vhd", "./0.vhd", "./1.vhd"])]
    {
        let out =
            Command::new("tar").current_dir(&folder).args([flag, "-f", "-"]).args(order).output();
        let Ok(out) = out else {
            println!("skipped: no tar on this machine");
            return;
        };
        assert!(out.status.success());
        assert!(unpacked(out.stdout.clone(), folder.path()).unwrap() == want);
        // One pass cannot collapse a chain, and says so.
        let error = tgz::SingleVhd::new(Cursor::new(out.stdout)).map(VhdStream::new);
        let error = match error {
            Err(error) | Ok(Err(error)) => error,
            Ok(Ok(_)) => panic!("a leaf without its parents was read"),
        };
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::Unsupported | ErrorKind::Reference), "{error:?}");
    }
}

/// An archive may hold a terabyte; its description is at its start.
#[test]
fn an_archive_is_described_by_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let disk = MemDisk::new(40 << 20).with_granule(3, 1).with_granule(600, 2).arc();
    let path = folder.path().join("image.tgz");
    let source = DiskSource::new(disk).unwrap();
    let plan = Plan::new(TargetFormat::VhdTgz, source.block_map(), &PlanOptions::new()).unwrap();
    to_file(&plan, source.disk(), &path, &FileOptions::new()).unwrap();
    let options = vmimage::OpenOptions::new();
    let whole = vmimage::info(&path, &options).unwrap();
    assert_eq!((whole.virtual_size(), whole.block_size()), (40 << 20, Some(2 << 20)));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(vmimage::info(&path, &options).unwrap().creator(), whole.creator());
    assert_eq!(vmimage::open(&path, &options).unwrap_err().kind(), ErrorKind::Truncated);
}
