//! Over a thousand malformed files of every format, through the doors that users have: a typed
//! error or an answer within seconds, and little memory.
//!
//! One test in a process of its own: the peak of memory that the system sees is that of the case.

#![allow(clippy::unwrap_used)]

#[path = "malformed/bombs.rs"]
mod bombs;
#[path = "malformed/damage.rs"]
mod damage;
#[path = "../fuzz/src/mutate/mod.rs"]
mod mutate;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use vmimage::{
    DiskSource, ErrorKind, Incoming, OpenOptions, Plan, PlanOptions, Result, Source, StreamOptions,
    TargetFormat, check, incoming, stream,
};

/// How long a case may take, in a debug build on a busy machine.
const SECONDS: u64 = 10;
/// How much memory a case may take.
const MEMORY_KIB: u64 = 64 << 10;
/// A disk up to this size is read as a whole; larger ones at their ends.
const SMALL: u64 = 64 << 20;

/// What came of the cases.
#[derive(Debug, Default)]
struct Tally {
    cases: u64,
    refused: u64,
    accepted: u64,
    slowest: Duration,
    slowest_case: String,
    most_kib: u64,
    most_case: String,
}

impl Tally {
    /// Tries one file by every door.
    fn try_file(&mut self, path: &Path, what: &str) {
        // The peak is now what is there now.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let before = memory_kib("VmRSS");
        let start = Instant::now();
        let mut answers = Vec::new();
        for lenient in [false, true] {
            let options = OpenOptions::new().lenient(lenient);
            answers.push(read_all(path, &options));
            answers.push(vmimage::info(path, &options).map(|_| ()));
            answers.push(take_in(path, &options));
        }
        answers.push(check(path, &OpenOptions::new()).map(|report| {
            assert!(report.findings().iter().all(|f| !f.message.contains('\n')), "{what}");
        }));
        let taken = start.elapsed();
        let kib = memory_kib("VmHWM").saturating_sub(before);
        assert!(kib < MEMORY_KIB, "{what}: {kib} KiB");
        if kib > self.most_kib {
            (self.most_kib, self.most_case) = (kib, what.to_owned());
        }
        assert!(taken.as_secs() < SECONDS, "{what}: {taken:?}");
        if taken > self.slowest {
            (self.slowest, self.slowest_case) = (taken, what.to_owned());
        }
        self.cases += 1;
        for answer in answers {
            match answer {
                Ok(()) => self.accepted += 1,
                Err(error) => {
                    self.refused += 1;
                    assert!(!error.to_string().contains('\n'), "{what}: {error}");
                    // A file that can be read has no failures of the system.
                    let typed = !matches!(error.kind(), ErrorKind::Io | ErrorKind::Cancelled);
                    assert!(typed, "{what}: {error:?}");
                }
            }
        }
    }
}

/// Opens an image and converts it, or a part of what is too large for that.
fn read_all(path: &Path, options: &OpenOptions) -> Result<()> {
    let image = vmimage::open(path, options)?;
    for disk in image.disks() {
        let size = disk.virtual_size();
        if size > SMALL {
            let mut buf = vec![0; 65_536];
            disk.read_exact_at(&mut buf, 0)?;
            disk.read_exact_at(&mut buf, size - 65_536)?;
            disk.extent_at(size / 2)?;
            continue;
        }
        let mut source = DiskSource::new(std::sync::Arc::clone(disk))?;
        let plan = Plan::new(TargetFormat::Qcow2, source.block_map(), &PlanOptions::new())?;
        let mut len = 0;
        let mut sink = |bytes: bytes::Bytes| {
            len += bytes.len() as u64;
            Ok(())
        };
        stream(&plan, &mut source, &mut sink, &StreamOptions::new())?;
        assert_eq!(Some(len), plan.output_len());
    }
    Ok(())
}

/// The file as it would arrive from a pipe.
fn take_in(path: &Path, options: &OpenOptions) -> Result<()> {
    match incoming(File::open(path).unwrap(), options, Some("0"))? {
        Incoming::Source(mut source) => {
            let mut buf = vec![0; 65_536];
            let runs: Vec<_> = source.block_map().runs().take(200).collect();
            for run in runs {
                let n = (run.end - run.start).min(65_536) as usize;
                source.read_exact_at(&mut buf[..n], run.start)?;
            }
            source.finish()
        }
        Incoming::Scan(mut scan) => {
            let mut piece = Vec::new();
            while scan.next_piece(&mut piece)?.is_some() {
                assert!(piece.len() <= 4 << 20);
            }
            Ok(())
        }
        _ => unreachable!(),
    }
}

/// The memory that this process has (`VmRSS`) or has had (`VmHWM`), in KiB.
fn memory_kib(which: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn malformed_files_are_refused_by_type_soon_and_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    let inside = folder.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let (mut cases, mut refused) = (0, 0);
    for (name, seed) in damage::seeds() {
        let mut tally = Tally::default();
        damage::each(&name, &seed, &mut |bytes, what| {
            let path = inside.join("image");
            std::fs::write(&path, bytes).unwrap();
            tally.try_file(&path, what);
        });
        println!("{name:22} {tally:?}");
        assert!(tally.refused > 0 && tally.accepted > 0, "{name}: {tally:?}");
        cases += tally.cases;
        refused += tally.refused;
    }
    let mut tally = Tally::default();
    bombs::each(&inside, &mut |path, what| tally.try_file(path, what));
    println!("{:22} {tally:?}", "bombs");
    cases += tally.cases;
    refused += tally.refused;
    println!("{cases} cases, {refused} refusals");
    assert!(!outside.exists(), "a name of an archive became a path");
    assert!(cases >= 1000 && refused >= 1000);
}
