//! The journal as a file: one checksummed JSON line a record.
//!
//! A line is `{"crc32":"xxxxxxxx","seq":n,"entry":{...}}`. The checksum covers everything
//! behind its own comma, so that it can be checked before the JSON is parsed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Entry, Journal};
use crate::{Error, ErrorKind, Result};

const HEAD: &[u8] = b"{\"crc32\":\"";
/// A journal holds a few records a disk; more than this is not one.
const MAX_LEN: u64 = 64 << 20;
/// More than what a crash leaves of one write.
const MAX_TORN: usize = 1 << 20;
/// Space that is taken at once, so that a disk which others fill does not silence the journal: room
/// for the records of dozens of disks, and of their undo.
const RESERVE: u64 = 256 << 10;

/// A journal in a file of mode 0600, locked for this process with `flock`.
///
/// Each record is on the disk before [`append`](Journal::append) returns. A torn record at the
/// end, as a crash leaves it, is ignored and overwritten; if it is the first one, the file starts
/// anew. Space for what is to come is reserved, where the file system can. The lock goes with the process, however it ends: there is no pid file to be stale.
#[derive(Debug)]
pub struct FileJournal(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    entries: Vec<Entry>,
    len: u64,
}

#[derive(Serialize)]
struct RecordRef<'a> {
    seq: u64,
    entry: &'a Entry,
}

#[derive(Deserialize)]
struct Record {
    seq: u64,
    entry: Entry,
}

impl FileJournal {
    /// Opens the journal at `path`, or begins one there.
    ///
    /// # Errors
    /// [`ErrorKind::JournalInUse`] if another process has it open; [`ErrorKind::Conflict`] if a
    /// newer program wrote it; [`ErrorKind::Journal`] if the file is something else, damaged before
    /// its end, or cannot be opened.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let fail = |what: &str, e: io::Error| {
            Error::new(
                ErrorKind::Journal,
                format!("journal {}: cannot {what}: {e}", path.display()),
            )
            .with_source(e)
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| fail("open it", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::JournalInUse,
                    format!(
                        "journal {} is in use by another run: wait for it to end, or name another file",
                        path.display()
                    ),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(fail("lock it", e)),
        }
        let meta = file.metadata().map_err(|e| fail("read it", e))?;
        if !meta.is_file() || meta.len() > MAX_LEN {
            return Err(not_a_journal(&path));
        }
        let mut bytes = Vec::new();
        (&file).take(MAX_LEN).read_to_end(&mut bytes).map_err(|e| fail("read it", e))?;
        let (entries, len) = parse(&bytes, &path)?;
        let inner = Inner { file, path: path.clone(), entries, len };
        inner.prepare().map_err(|e| fail("write to it", e))?;
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// The entries so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.clone()
    }
}

impl Inner {
    /// Makes the file private and durable by name, and cuts off what a crash left at its end.
    fn prepare(&self) -> io::Result<()> {
        self.file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        if self.file.metadata()?.len() != self.len {
            self.file.set_len(self.len)?;
        }
        // Not every file system can.
        let _ = reserve(&self.file, self.len + RESERVE);
        self.file.sync_all()?;
        let folder = match self.path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        let line = line(self.entries.len() as u64, entry)?;
        let written = self
            .file
            .seek(SeekFrom::Start(self.len))
            .and_then(|_| self.file.write_all(&line))
            .and_then(|()| self.file.sync_data());
        if let Err(e) = written {
            // Half a line would join the next one.
            let _ = self.file.set_len(self.len);
            return Err(Error::new(
                ErrorKind::Journal,
                format!("journal {}: cannot write to it: {e}", self.path.display()),
            )
            .with_source(e));
        }
        self.len += line.len() as u64;
        self.entries.push(entry.clone());
        Ok(())
    }
}

#[async_trait]
impl Journal for FileJournal {
    async fn load(&mut self) -> Result<Vec<Entry>> {
        Ok(self.entries())
    }

    async fn append(&mut self, entry: &Entry) -> Result<()> {
        let inner = Arc::clone(&self.0);
        let entry = entry.clone();
        tokio::task::spawn_blocking(move || {
            inner.lock().unwrap_or_else(PoisonError::into_inner).append(&entry)
        })
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "the journal's writer died").with_source(e))?
    }
}

/// Takes space up to `len`, beyond the file's end: it looks as before.
#[cfg(target_os = "linux")]
fn reserve(file: &File, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len)?)
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// One line of the file.
fn line(seq: u64, entry: &Entry) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(&RecordRef { seq, entry }).map_err(|e| {
        Error::new(ErrorKind::Internal, "an entry does not fit into JSON").with_source(e)
    })?;
    // The opening brace is replaced by the head.
    let body = &json[1..];
    let mut line = Vec::with_capacity(HEAD.len() + 10 + json.len());
    line.extend_from_slice(HEAD);
    line.extend_from_slice(format!("{:08x}\",", crc32fast::hash(body)).as_bytes());
    line.extend_from_slice(body);
    line.push(b'\n');
    Ok(line)
}

/// The JSON of one line without its line feed; `None` if it is damaged.
fn checked(line: &[u8]) -> Option<Vec<u8>> {
    let rest = line.strip_prefix(HEAD)?;
    let (crc, rest) = rest.split_at_checked(8)?;
    let body = rest.strip_prefix(b"\",")?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    if crc32fast::hash(body) != crc {
        return None;
    }
    let mut json = Vec::with_capacity(body.len() + 1);
    json.push(b'{');
    json.extend_from_slice(body);
    Some(json)
}

/// The entries of a file and how many of its bytes hold them.
fn parse(bytes: &[u8], path: &Path) -> Result<(Vec<Entry>, u64)> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = rest.iter().position(|b| *b == b'\n');
        match end.and_then(|end| Some((end, checked(&rest[..end])?))) {
            // Written whole: whatever is wrong with it, no crash did it.
            Some((end, json)) => {
                let record: Record = serde_json::from_slice(&json)
                    .map_err(|e| not_of_this_program(path, entries.len()).with_source(e))?;
                if record.seq != entries.len() as u64 {
                    return Err(damaged(path, entries.len()));
                }
                entries.push(record.entry);
                at += end + 1;
            }
            None if torn(rest, end) => break,
            None if entries.is_empty() => return Err(not_a_journal(path)),
            None => return Err(damaged(path, entries.len())),
        }
    }
    Ok((entries, at as u64))
}

/// Whether what cannot be read can be the trace of a write that a crash cut short: the beginning
/// of a line, or space that was never filled, and nothing behind it.
fn torn(rest: &[u8], end: Option<usize>) -> bool {
    let line = &rest[..end.unwrap_or(rest.len())];
    let filled = line.iter().position(|b| *b == 0).unwrap_or(line.len());
    let head = filled.min(HEAD.len());
    let begins = line[..head] == HEAD[..head] && !(line.is_empty() && end.is_some());
    let last = end.is_none_or(|end| end + 1 == rest.len());
    begins && last && rest.len() <= MAX_TORN
}

fn damaged(path: &Path, at: usize) -> Error {
    Error::new(
        ErrorKind::Journal,
        format!(
            "journal {}: record {at} is damaged: restore the file, or sweep the run by its id",
            path.display()
        ),
    )
}

fn not_of_this_program(path: &Path, at: usize) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "journal {}: record {at} is whole, but unknown here: use the program that wrote it",
            path.display()
        ),
    )
}

fn not_a_journal(path: &Path) -> Error {
    Error::new(
        ErrorKind::Journal,
        format!("{} is not a journal: name another file", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::RunId;

    fn begin() -> Entry {
        Entry::RunStarted {
            format: 1,
            run_id: RunId::from_uuid(uuid::Uuid::nil()),
            spec: json!({"vm": "web01"}),
        }
    }

    fn history() -> Vec<Entry> {
        let step = || "snapshot".to_owned();
        vec![
            begin(),
            Entry::StepStarted { step: step(), version: 1, token: "t".into() },
            Entry::StepDone { step: step(), output: json!({"ref": "OpaqueRef:1"}), seconds: 0.25 },
            Entry::UndoStarted { step: step() },
            Entry::Undone { step: step() },
            Entry::RunUndone { error: "cancelled".into() },
        ]
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        entries.iter().enumerate().flat_map(|(i, e)| line(i as u64, e).unwrap()).collect()
    }

    /// The format is a promise to journals that exist: this text may change only with `FORMAT`.
    #[test]
    fn the_lines_are_golden() {
        let text = String::from_utf8(written(&history())).unwrap();
        let golden = include_str!("golden.jsonl");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/journal/golden.jsonl");
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(text, golden);
    }

    #[tokio::test]
    async fn entries_survive_and_the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut journal = FileJournal::open(&path).unwrap();
        for entry in history() {
            journal.append(&entry).await.unwrap();
        }
        drop(journal);
        let mut again = FileJournal::open(&path).unwrap();
        assert_eq!(again.load().await.unwrap(), history());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), written(&history()));
    }

    #[test]
    fn a_second_opener_is_told_that_it_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let first = FileJournal::open(dir.path().join("j")).unwrap();
        let e = FileJournal::open(dir.path().join("j")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::JournalInUse);
        drop(first);
        FileJournal::open(dir.path().join("j")).unwrap();
    }

    #[test]
    fn strange_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["root:x:0:0\n", "no line feed", "{\"a\":1}\n", "\n"] {
            let path = dir.path().join("other");
            std::fs::write(&path, text).unwrap();
            assert_eq!(FileJournal::open(&path).unwrap_err().kind(), ErrorKind::Journal);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert!(FileJournal::open(dir.path()).is_err());
    }

    #[test]
    fn damage_before_the_end_is_refused() {
        let mut bytes = written(&history());
        bytes[60] ^= 1;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(FileJournal::open(&path).unwrap_err().kind(), ErrorKind::Journal);
        // A record that is missing is damage, too.
        let all = history();
        let mut gap = line(0, &all[0]).unwrap();
        gap.extend(line(2, &all[2]).unwrap());
        gap.extend(line(3, &all[3]).unwrap());
        std::fs::write(&path, &gap).unwrap();
        assert_eq!(FileJournal::open(&path).unwrap_err().kind(), ErrorKind::Journal);
    }

    /// A line whose checksum is right was written whole: no crash left it. Whatever is wrong with
    /// it, it is not to be cut off.
    #[test]
    fn a_whole_record_is_never_taken_for_a_torn_one() {
        let later = |seq: u64, entry: serde_json::Value| {
            let json = json!({"seq": seq, "entry": entry}).to_string();
            let body = &json[1..];
            format!("{{\"crc32\":\"{:08x}\",{body}\n", crc32fast::hash(body.as_bytes()))
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let begun = written(&history()[..3]);
        let all = history();
        let cases = [
            // Of a newer program, at the end and as the only one.
            (later(3, json!({"event": "paused", "step": "snapshot"})), true, ErrorKind::Conflict),
            (later(0, json!({"event": "run_started", "format": 2})), false, ErrorKind::Conflict),
            // One before it is missing.
            (String::from_utf8(line(4, &all[4]).unwrap()).unwrap(), true, ErrorKind::Journal),
            (String::from_utf8(line(2, &all[2]).unwrap()).unwrap(), true, ErrorKind::Journal),
        ];
        for (last, behind, kind) in cases {
            let mut bytes = if behind { begun.clone() } else { Vec::new() };
            bytes.extend(last.as_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let e = FileJournal::open(&path).map(|j| j.entries()).expect_err(&last);
            assert_eq!(e.kind(), kind, "{last}: {e}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{last}: the file was changed");
        }
    }

    /// What others do to the disk meanwhile does not silence a journal that is under way.
    #[test]
    fn space_is_reserved_and_not_seen() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let other = File::create(dir.path().join("other")).unwrap();
        if reserve(&other, 4096).is_err() {
            eprintln!("skipped: this file system reserves nothing");
            return;
        }
        let path = dir.path().join("j");
        std::fs::write(&path, written(&history()[..3])).unwrap();
        drop(FileJournal::open(&path).unwrap());
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), written(&history()[..3]).len() as u64);
        assert!(meta.blocks() * 512 >= RESERVE, "{} blocks", meta.blocks());
    }

    /// Space that was never filled is the end of a journal; a blank disk image is none.
    #[test]
    fn a_blank_image_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blank.img");
        File::create(&path).unwrap().set_len(20 << 20).unwrap();
        assert_eq!(FileJournal::open(&path).unwrap_err().kind(), ErrorKind::Journal);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 20 << 20);
    }

    proptest! {
        /// Whatever a crash leaves of the last write, the whole records are read, the rest is
        /// overwritten, and the run goes on.
        #[test]
        fn any_cut_leaves_the_whole_records(cut in 0usize..900, zeros in 0usize..20) {
            let all = history();
            let bytes = written(&all);
            let cut = cut.min(bytes.len());
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("j");
            let mut file = bytes[..cut].to_vec();
            file.resize(cut + zeros, 0);
            std::fs::write(&path, &file).unwrap();
            let whole = bytes[..cut].iter().filter(|b| **b == b'\n').count();
            let journal = FileJournal::open(&path).unwrap();
            prop_assert_eq!(journal.entries(), &all[..whole]);
            let mut inner = journal.0.lock().unwrap();
            for entry in &all[whole..] {
                inner.append(entry).unwrap();
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }
}
