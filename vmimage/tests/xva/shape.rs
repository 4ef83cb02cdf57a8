//! Archives to test with: Python's, and ones put together here for what Python would not write.

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use vmimage::xva::{DiskChoice, XvaFile, XvaStream};
use vmimage::{Findings, Policy, ReadAt, Result, Scan};

use crate::common::tool_ok;

/// The folder that Python has filled; `None` without Python.
pub(crate) fn samples() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<tempfile::TempDir>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/make_xva.py");
        tool_ok("python3", &[script, folder.path().to_str().unwrap()])?;
        Some(folder)
    });
    folder.as_ref().map(tempfile::TempDir::path)
}

/// One disk of a sample: the archive, the disk's name, what a guest sees.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) reference: String,
    pub(crate) size: u64,
    pub(crate) archive: PathBuf,
    pub(crate) raw: PathBuf,
}

pub(crate) fn all() -> Vec<Sample> {
    let Some(folder) = samples() else { return Vec::new() };
    let list = std::fs::read_to_string(folder.join("list.txt")).unwrap();
    list.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            Sample {
                name: words[0].to_owned(),
                reference: words[1].to_owned(),
                size: words[2].parse().unwrap(),
                archive: folder.join(format!("{}.xva", words[0])),
                raw: folder.join(format!("{}-{}.raw", words[0], words[1])),
            }
        })
        .collect()
}

pub(crate) fn sample(name: &str) -> Option<Vec<u8>> {
    Some(std::fs::read(samples()?.join(format!("{name}.xva"))).unwrap())
}

/// Reads a stream to its end. Pieces must ascend, and what lies between them must be zeros in
/// `expected`, as must be what they hold.
pub(crate) fn drain(stream: &mut XvaStream, expected: &File) -> Result<u64> {
    let (mut buf, mut end, mut bytes) = (Vec::new(), 0, 0);
    while let Some(offset) = stream.next_piece(&mut buf)? {
        assert!(offset >= end && !buf.is_empty() && buf.len() <= 4 << 20);
        assert_no_data(expected, end, offset);
        let mut there = vec![0; buf.len()];
        expected.read_exact_at(&mut there, offset).unwrap();
        assert!(there == buf, "the piece at {offset} differs");
        end = offset + buf.len() as u64;
        bytes += buf.len() as u64;
    }
    let size = stream.virtual_size().unwrap();
    assert_eq!(size, expected.metadata().unwrap().len());
    assert_no_data(expected, end, size);
    assert_eq!(stream.next_piece(&mut buf).unwrap(), None);
    Ok(bytes)
}

/// That a file holds only zeros in a range.
pub(crate) fn assert_no_data(file: &File, mut at: u64, end: u64) {
    while at < end {
        let Some(run) = file.next_data(at).unwrap().filter(|run| run.start < end) else { return };
        at = run.start.max(at);
        let mut bytes = vec![0; (run.end.min(end) - at).min(1 << 20) as usize];
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes.iter().all(|&b| b == 0), "data at {at} were lost");
        at += bytes.len() as u64;
    }
}

pub(crate) fn stream(bytes: Vec<u8>, which: DiskChoice, policy: Policy) -> Result<XvaStream> {
    XvaStream::with_policy(Cursor::new(bytes), which, policy)
}

/// Reads one disk of an archive as far as it goes, without a model.
pub(crate) fn swallow(bytes: Vec<u8>, which: DiskChoice, policy: Policy) -> Result<Vec<u8>> {
    let mut stream = stream(bytes, which, policy)?;
    let (mut buf, mut all) = (Vec::new(), Vec::new());
    while let Some(offset) = stream.next_piece(&mut buf)? {
        if offset < 64 << 20 {
            all.resize(offset as usize, 0);
            all.extend(&buf);
        }
    }
    Ok(all)
}

pub(crate) fn open(bytes: Vec<u8>, policy: Policy) -> Result<(XvaFile, Findings)> {
    let mut findings = Findings::new(policy);
    let file: Arc<dyn ReadAt> = Arc::new(bytes);
    let xva = XvaFile::open(file, &mut findings)?;
    Ok((xva, findings))
}

/// A member with any header.
pub(crate) fn member(name: &str, size: &[u8; 12], data: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(size);
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// A member as it should be.
pub(crate) fn plain(name: &str, data: &[u8]) -> Vec<u8> {
    let size: [u8; 12] = format!("{:011o}\0", data.len()).into_bytes().try_into().unwrap();
    member(name, &size, data)
}

/// The two blocks that end an archive.
pub(crate) fn end() -> Vec<u8> {
    vec![0; 1024]
}
