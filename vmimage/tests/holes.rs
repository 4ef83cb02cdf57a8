//! What a file takes on its file system: pages of zeros between pages of data take nothing.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use vmimage::{
    DiskSource, FileOptions, Incoming, OpenOptions, Plan, PlanOptions, Source, TargetFormat,
    incoming, open, scan_to_file, stream_to_file, to_file,
};

const SIZE: u64 = 8 << 20;
const PAGE: u64 = 4096;
/// One page with data of each so many bytes.
const EVERY: u64 = 64 << 10;

/// How much a file takes that has data in one page of sixteen, and holes between.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

fn page(at: u64) -> Vec<u8> {
    vec![(at / EVERY % 251) as u8 + 1; PAGE as usize]
}

/// Where the data page of the granule at `at` is: at its start, or somewhere else.
fn place(at: u64) -> u64 {
    at + at / EVERY % 3 * 5 * PAGE
}

fn disk() -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    for at in (0..SIZE).step_by(EVERY as usize) {
        let start = place(at) as usize;
        bytes[start..start + PAGE as usize].copy_from_slice(&page(at));
    }
    bytes
}

#[test]
fn a_page_of_data_does_not_make_data_of_the_zeros_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // With holes as the guest left them, and as a copy without them.
    let sparse = File::create(path("sparse")).unwrap();
    sparse.set_len(SIZE).unwrap();
    for at in (0..SIZE).step_by(EVERY as usize) {
        sparse.write_all_at(&page(at), place(at)).unwrap();
    }
    sparse.sync_all().unwrap();
    let least = taken(&path("sparse"));
    if least > SIZE / 4 {
        eprintln!("skipped: the file system knows no small holes");
        return;
    }
    fs::write(path("dense"), disk()).unwrap();
    let convert = |from: &str, to: &str, format| {
        let image = open(path(from), &OpenOptions::new()).unwrap();
        let source = DiskSource::for_format(Arc::clone(&image.disks()[0]), format).unwrap();
        let plan = Plan::new(format, source.block_map(), &PlanOptions::new()).unwrap();
        to_file(&plan, source.disk(), &path(to), &FileOptions::new()).unwrap();
    };
    convert("dense", "vhd", TargetFormat::VhdDynamic);
    let vhd = fs::read(path("vhd")).unwrap();
    fs::write(path("dense-vhd"), &vhd).unwrap();
    for from in ["sparse", "dense", "vhd", "dense-vhd"] {
        for format in [TargetFormat::Raw, TargetFormat::VhdFixed, TargetFormat::VhdDynamic] {
            convert(from, "out", format);
            File::open(path("out")).unwrap().sync_all().unwrap();
            let out = taken(&path("out"));
            assert!(out <= 2 * least, "{from} to {format}: {out} bytes for {least} of data");
        }
        convert(from, "out", TargetFormat::Raw);
        assert!(fs::read(path("out")).unwrap() == disk(), "{from}");
    }

    let stream = incoming(std::io::Cursor::new(vhd), &OpenOptions::new(), None).unwrap();
    let Incoming::Source(mut source) = stream else { panic!("has a map") };
    let plan = Plan::new(TargetFormat::Raw, source.block_map(), &PlanOptions::new()).unwrap();
    stream_to_file(&plan, source.as_mut(), &path("out"), &FileOptions::new()).unwrap();
    File::open(path("out")).unwrap().sync_all().unwrap();
    assert!(taken(&path("out")) <= 2 * least, "from a stream");

    let raw = OpenOptions::new().with_format(vmimage::Format::Raw);
    let Incoming::Scan(mut scan) = incoming(std::io::Cursor::new(disk()), &raw, None).unwrap()
    else {
        panic!("has no map")
    };
    let (plan, options) = (PlanOptions::new(), FileOptions::new());
    scan_to_file(scan.as_mut(), TargetFormat::Raw, &path("out"), &plan, &options).unwrap();
    File::open(path("out")).unwrap().sync_all().unwrap();
    assert!(taken(&path("out")) <= 2 * least, "from a scan");
    assert!(fs::read(path("out")).unwrap() == disk());
}
