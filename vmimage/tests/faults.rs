//! Whatever fails, and wherever: an error, and no file.

#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{ForwardSource, MemDisk, tool_ok};
use vmimage::{
    BlockMap, DigestSet, Disk, Error, ErrorKind, Extent, FileOptions, GRANULE, Plan, PlanOptions,
    Result, StreamOptions, TargetFormat, stream, stream_to_file, to_file,
};

fn disk() -> MemDisk {
    (0..100).fold(MemDisk::new(9 << 20), |d, i| d.with_granule(i, i))
}

fn plan(disk: &dyn Disk, format: TargetFormat) -> Plan {
    Plan::new(format, &disk.block_map().unwrap(), &PlanOptions::new()).unwrap()
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn digests_are_those_of_the_output() {
    let disk = disk();
    let folder = tempfile::tempdir().unwrap();
    for format in TargetFormat::ALL {
        let path = folder.path().join("image");
        let options = FileOptions::new().with_digests(DigestSet::ALL).with_content_root(true);
        let outcome = to_file(&plan(&disk, format), &disk.clone().arc(), &path, &options).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), outcome.bytes);
        assert_eq!(outcome.content_root, Some(vmimage::content_root(&disk).unwrap()));
        let digests = outcome.digests;
        for (tool, digest) in
            [("md5sum", digests.md5), ("sha256sum", digests.sha256), ("sha512sum", digests.sha512)]
        {
            let Some(line) = tool_ok(tool, &[path.to_str().unwrap()]) else { continue };
            assert_eq!(line.split(' ').next(), digest.as_deref(), "{format} {tool}");
        }
    }
}

#[test]
fn a_source_that_fails_anywhere_leaves_no_file() {
    let disk = disk();
    for format in TargetFormat::ALL {
        for fail_at in [1, GRANULE * 17, GRANULE * 99] {
            let folder = tempfile::tempdir().unwrap();
            let mut source = ForwardSource::new(&disk);
            source.fail_at = Some(fail_at);
            let path = folder.path().join("image");
            let options = FileOptions::new().with_digests(DigestSet::ALL);
            let error =
                stream_to_file(&plan(&disk, format), &mut source, &path, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Truncated, "{format}: {error}");
            assert!(is_empty(folder.path()), "{format}");
        }
    }
}

#[test]
fn a_source_that_was_not_whole_never_gives_a_whole_output() {
    let disk = disk();
    for format in TargetFormat::ALL {
        let plan = plan(&disk, format);
        let mut source = ForwardSource::new(&disk);
        source.fail_finish = true;
        let mut got = 0;
        let mut sink = |bytes: bytes::Bytes| {
            got += bytes.len() as u64;
            Ok(())
        };
        let error = stream(&plan, &mut source, &mut sink, &StreamOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated);
        let mut whole = 0;
        let mut sink = |bytes: bytes::Bytes| {
            whole += bytes.len() as u64;
            Ok(())
        };
        let mut source = ForwardSource::new(&disk);
        stream(&plan, &mut source, &mut sink, &StreamOptions::new()).unwrap();
        assert!(got < whole, "{format}: the sink got all of a truncated source");
    }
}

#[test]
fn a_sink_that_fails_anywhere_is_the_error() {
    let disk = disk();
    for format in TargetFormat::ALL {
        for nth in [0, 1, 4] {
            let mut calls = 0;
            let mut sink = |_: bytes::Bytes| {
                calls += 1;
                match calls > nth {
                    true => Err(io::Error::other("the disk is full")),
                    false => Ok(()),
                }
            };
            let mut source = ForwardSource::new(&disk);
            let plan = plan(&disk, format);
            let error = stream(&plan, &mut source, &mut sink, &StreamOptions::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(cause, "the disk is full");
            assert_eq!(calls, nth + 1, "nothing is sent after a failure");
        }
    }
}

/// Fails the nth read.
#[derive(Debug)]
struct FailingDisk(MemDisk, u64, AtomicU64);

impl Disk for FailingDisk {
    fn virtual_size(&self) -> u64 {
        self.0.virtual_size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.0.extent_at(offset)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if self.2.fetch_add(1, Ordering::Relaxed) == self.1 {
            return Err(Error::corrupt("a bad sector"));
        }
        self.0.read_exact_at(buf, offset)
    }
}

#[test]
fn a_disk_that_fails_under_the_workers_leaves_what_was_there() {
    for format in TargetFormat::ALL {
        for nth in [0, 3, 6] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("image");
            std::fs::write(&path, "precious").unwrap();
            let disk: Arc<dyn Disk> = Arc::new(FailingDisk(disk(), nth, AtomicU64::new(0)));
            let plan = plan(disk.as_ref(), format);
            let error = to_file(&plan, &disk, &path, &FileOptions::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{format}: {error}");
            assert_eq!(std::fs::read(&path).unwrap(), b"precious");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}

#[test]
fn a_set_flag_cancels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let options = FileOptions::new()
        .with_cancel(Arc::clone(&flag))
        .with_progress(move |_| seen.store(true, Ordering::Relaxed));
    let disk = disk();
    for format in TargetFormat::ALL {
        flag.store(false, Ordering::Relaxed);
        let error =
            to_file(&plan(&disk, format), &disk.clone().arc(), &path, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{format}: {error}");
        assert!(is_empty(folder.path()));
    }
}

#[test]
fn an_output_replaces_a_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, plan) = (disk(), plan(&disk(), TargetFormat::Raw));
    let path = folder.path().join("image");
    std::fs::write(&path, "old").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    to_file(&plan, &disk.clone().arc(), &link, &FileOptions::new()).unwrap();
    assert!(std::fs::read(&path).unwrap() == disk.bytes());
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);

    let odd = [Path::new("/dev/null"), folder.path(), Path::new("/")];
    for target in odd {
        let error = to_file(&plan, &disk.clone().arc(), target, &FileOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
    let nowhere = folder.path().join("missing/image");
    let error = to_file(&plan, &disk.arc(), &nowhere, &FileOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("missing/image"), "{error}");
}

#[test]
fn a_plan_of_another_disk_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let other = plan(&MemDisk::new(1 << 20), TargetFormat::Raw);
    let error = to_file(&other, &disk().arc(), &path, &FileOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let mut source = ForwardSource::new(&disk());
    let error = stream_to_file(&other, &mut source, &path, &FileOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(is_empty(folder.path()));
}

#[test]
fn sizes_that_a_format_cannot_hold_are_refused_with_the_remedy() {
    let limit = 2040_u64 << 30;
    for format in [TargetFormat::VhdDynamic, TargetFormat::VhdFixed, TargetFormat::VhdTgz] {
        Plan::new(format, &BlockMap::empty(limit), &PlanOptions::new()).unwrap();
        let error =
            Plan::new(format, &BlockMap::empty(limit + 1), &PlanOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.to_string().contains("convert to qcow2 or raw"), "{error}");
    }
    let options = PlanOptions::new().with_uuid([0; 16]);
    let error = Plan::new(TargetFormat::VhdDynamic, &BlockMap::empty(1), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}
