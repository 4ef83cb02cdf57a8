//! Readers that fail, break off, stall or have the work cancelled at a chosen call; the folder in
//! which an output would appear; and a dog that barks if nothing comes back.

use std::io::{self, Cursor, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use vmimage::{Disk, Error, Extent, ReadAt, Result};

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    /// An error of this kind, once.
    Fail(io::ErrorKind),
    /// The input ends there.
    Cut,
    /// The work is cancelled, and the call goes on.
    Cancel,
    /// The call waits until the work is cancelled, and goes on then.
    Stall,
}

/// Counts calls, and springs the trap at one of them.
#[derive(Debug)]
pub(crate) struct Fuse {
    at: usize,
    trap: Trap,
    calls: AtomicUsize,
    blown: AtomicBool,
    pub(crate) flag: Arc<AtomicBool>,
    /// How many bytes were asked for after the flag was set.
    late: AtomicU64,
    /// How many bytes a pipe gave.
    given: AtomicU64,
}

impl Fuse {
    pub(crate) fn new(at: usize, trap: Trap) -> Arc<Self> {
        let (calls, blown, late, given) = Default::default();
        Arc::new(Self { at, trap, calls, blown, flag: Arc::default(), late, given })
    }

    /// One that never blows.
    pub(crate) fn none() -> Arc<Self> {
        Self::new(usize::MAX, Trap::Cancel)
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.blown.load(SeqCst)
    }

    pub(crate) fn late(&self) -> u64 {
        self.late.load(SeqCst)
    }

    pub(crate) fn given(&self) -> u64 {
        self.given.load(SeqCst)
    }

    /// A call for so many bytes; `false` if there are no more.
    fn call(&self, bytes: usize) -> io::Result<bool> {
        if self.flag.load(SeqCst) {
            self.late.fetch_add(bytes as u64, SeqCst);
        }
        let call = self.calls.fetch_add(1, SeqCst);
        if call < self.at || (call > self.at && self.trap != Trap::Cut) {
            return Ok(true);
        }
        self.blown.store(true, SeqCst);
        match self.trap {
            Trap::Fail(kind) => return Err(io::Error::new(kind, "the trap")),
            Trap::Cut => return Ok(false),
            Trap::Cancel => self.flag.store(true, SeqCst),
            Trap::Stall => self.stall(),
        }
        Ok(true)
    }

    fn stall(&self) {
        let flag = Arc::clone(&self.flag);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(3));
            flag.store(true, SeqCst);
        });
        while !self.flag.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A disk with a fuse in its reads.
#[derive(Debug)]
pub(crate) struct TrapDisk(pub(crate) Arc<dyn Disk>, pub(crate) Arc<Fuse>);

impl Disk for TrapDisk {
    fn virtual_size(&self) -> u64 {
        self.0.virtual_size()
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.0.extent_at(offset)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.1.call(buf.len()) {
            Ok(true) => self.0.read_exact_at(buf, offset),
            Ok(false) => Err(Error::truncated("the disk ends here")),
            Err(e) => Err(Error::io("cannot read the disk", e)),
        }
    }
}

/// A file with a fuse in its reads.
#[derive(Debug)]
pub(crate) struct TrapFile(pub(crate) Vec<u8>, pub(crate) Arc<Fuse>);

impl ReadAt for TrapFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.1.call(buf.len())? {
            true => self.0.read_exact_at(buf, offset),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn byte_len(&self) -> io::Result<u64> {
        self.0.byte_len()
    }
}

/// A pipe with a fuse that gives a few bytes at a time.
pub(crate) struct TrapPipe {
    bytes: Cursor<Arc<Vec<u8>>>,
    most: usize,
    fuse: Arc<Fuse>,
}

impl TrapPipe {
    pub(crate) fn new(bytes: &Arc<Vec<u8>>, most: usize, fuse: &Arc<Fuse>) -> Self {
        Self { bytes: Cursor::new(Arc::clone(bytes)), most, fuse: Arc::clone(fuse) }
    }
}

impl Read for TrapPipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // From one byte to the most, and not always the same.
        let n = buf.len().min(1 + self.fuse.calls() * 7919 % self.most);
        let (at, bytes) = (self.bytes.position() as usize, self.bytes.get_ref());
        let left = bytes.len() - at;
        // Where the input ends anyway, nothing can be cut.
        if (left == 0 && self.fuse.trap == Trap::Cut) || !self.fuse.call(n)? {
            return Ok(0);
        }
        let n = n.min(left);
        buf[..n].copy_from_slice(&bytes[at..at + n]);
        self.bytes.set_position((at + n) as u64);
        self.fuse.given.fetch_add(n as u64, SeqCst);
        Ok(n)
    }
}

/// The folder of an output, perhaps with an older file in its place.
pub(crate) struct Room {
    folder: tempfile::TempDir,
    old: bool,
}

impl Room {
    const OLD: &[u8] = b"precious";

    pub(crate) fn new(old: bool) -> Self {
        let room = Self { folder: tempfile::tempdir().unwrap(), old };
        if old {
            std::fs::write(room.path(), Self::OLD).unwrap();
        }
        room
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// What was there is there, and nothing else.
    pub(crate) fn assert_untouched(&self, what: &str) {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), usize::from(self.old), "{what}: {names:?}");
        if self.old {
            assert_eq!(std::fs::read(self.path()).unwrap(), Self::OLD, "{what}");
        }
    }

    /// The output, which must be alone in the folder.
    pub(crate) fn output(&self) -> Vec<u8> {
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 1);
        std::fs::read(self.path()).unwrap()
    }
}

/// Ends the process if it is not dropped within minutes, which no case needs on any machine.
pub(crate) struct Dog(#[allow(dead_code)] Sender<()>);

impl Dog {
    pub(crate) fn watch(what: String) -> Self {
        let (held, dropped) = channel();
        thread::spawn(move || {
            if dropped.recv_timeout(Duration::from_secs(300)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{what}: hangs");
                std::process::exit(101);
            }
        });
        Self(held)
    }
}
