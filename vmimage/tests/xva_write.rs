//! XVA archives that are written, read by Python and by `xva-img`.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{ForwardSource, MemDisk, assert_same_content, tool, tool_ok};
use vmimage::{
    Disk, FileOptions, JoinedDisk, Plan, PlanOptions, StreamOptions, TargetFormat, XvaChecksum,
    compare, open, stream, to_file,
};

/// The disks that Python reads out of the archive.
fn unpack(archive: &Path, folder: &Path, disks: usize) -> Option<Vec<Vec<u8>>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_xva.py");
    let (archive, into) = (archive.to_str().unwrap(), folder.to_str().unwrap());
    let verdict = tool_ok("python3", &[script, archive, into])?;
    assert_eq!(verdict, "valid\n");
    Some((0..disks).map(|n| std::fs::read(folder.join(format!("{n}.raw"))).unwrap()).collect())
}

fn samples() -> [Vec<MemDisk>; 4] {
    [
        vec![MemDisk::new(1)],
        vec![MemDisk::new((5 << 20) + 777).with_granule(3, 1).with_granule(40, 2)],
        vec![MemDisk::full((2 << 20) + 512, 3)],
        vec![
            MemDisk::new(3 << 20).with_granule(47, 1),
            MemDisk::new(0),
            MemDisk::new(9 << 20).with_zero_granule(20).with_granule(100, 2),
        ],
    ]
}

#[test]
fn python_reads_every_disk_of_what_is_written() {
    for disks in samples() {
        for (checksum, name) in [(XvaChecksum::XxHash, "xxhash"), (XvaChecksum::Sha1, "sha1")] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("vm.xva");
            let joined = JoinedDisk::new(disks.iter().map(|d| d.clone().arc()).collect()).unwrap();
            let map = joined.block_map().unwrap();
            let options = PlanOptions::new().with_name("web <01> & co").with_xva_checksum(checksum);
            let plan = Plan::of_disks(TargetFormat::Xva, &map, joined.parts(), &options).unwrap();
            let joined: Arc<dyn Disk> = Arc::new(joined);
            let outcome = to_file(&plan, &joined, &path, &FileOptions::new()).unwrap();
            assert_eq!(plan.output_len(), Some(outcome.bytes));
            assert_eq!(std::fs::metadata(&path).unwrap().len(), outcome.bytes);
            if let Some(read) = unpack(&path, folder.path(), disks.len()) {
                for (disk, read) in disks.iter().zip(read) {
                    assert_eq!(read.len() % (1 << 20), 0);
                    assert_same_content(&disk.bytes(), &read, name);
                }
            }
            // Our own reader agrees, and has nothing to say.
            let image = open(&path, &Default::default()).unwrap();
            assert_eq!(image.info().findings(), []);
            for (ours, disk) in image.disks().iter().zip(&disks) {
                assert_eq!(compare(ours.as_ref(), disk).unwrap(), vmimage::Comparison::Same);
            }
            assert_eq!(vmimage::check(&path, &Default::default()).unwrap().findings(), []);
        }
    }
}

#[test]
fn a_stream_of_a_forward_source_is_the_same_archive() {
    let disk = MemDisk::new((7 << 20) + 1).with_granule(3, 1).with_granule(17, 2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.xva");
    let map = disk.block_map().unwrap();
    let plan = Plan::new(TargetFormat::Xva, &map, &PlanOptions::new()).unwrap();
    let mut source = ForwardSource::new(&disk);
    let mut sent = Vec::new();
    let mut sink = |bytes: bytes::Bytes| {
        sent.extend_from_slice(&bytes);
        Ok(())
    };
    let outcome = stream(&plan, &mut source, &mut sink, &StreamOptions::new()).unwrap();
    assert_eq!(outcome.content_root, Some(vmimage::content_root(&disk).unwrap()));
    to_file(&plan, &disk.clone().arc(), &path, &FileOptions::new()).unwrap();
    assert!(std::fs::read(&path).unwrap() == sent);
    assert_eq!(plan.output_len(), Some(sent.len() as u64));
}

#[test]
fn xva_img_exports_the_disk() {
    if tool("xva-img", &["--help"]).is_none() || tool("tar", &["--version"]).is_none() {
        return;
    }
    let disk = MemDisk::new(6 << 20).with_granule(3, 1).with_granule(40, 2).with_granule(95, 3);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Debian's version knows SHA-1 only.
    let options = PlanOptions::new().with_xva_checksum(XvaChecksum::Sha1);
    let plan = Plan::new(TargetFormat::Xva, &disk.block_map().unwrap(), &options).unwrap();
    to_file(&plan, &disk.clone().arc(), Path::new(&at("vm.xva")), &FileOptions::new()).unwrap();
    std::fs::create_dir(at("vm")).unwrap();
    tool_ok("tar", &["-xf", &at("vm.xva"), "-C", &at("vm")]);
    tool_ok("xva-img", &["-p", "disk-export", &at("vm/Ref:100000/"), &at("disk.raw")]);
    let read = std::fs::read(at("disk.raw")).unwrap();
    assert_same_content(&disk.bytes(), &read, "xva-img");
}
