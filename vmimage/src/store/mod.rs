//! Positioned writes: the one door through which an existing image is changed in place.
//!
//! Only [`repair`](crate::repair()) and [`commit`](crate::commit()) go through it. It is a trait
//! so that the tests can cut the power at any write.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::{Error, ErrorKind, ReadAt, Result};

#[cfg(test)]
pub(crate) mod double;

/// Bytes that can be changed at any position.
pub(crate) trait Store: ReadAt {
    /// Writes all of `bytes` at `offset`; the bytes grow where they must.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts off what is behind `len`, or adds zeros up to it.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns once everything written so far survives a loss of power.
    fn sync(&self) -> io::Result<()>;
}

impl Store for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The writes of one operation, with errors that name the file.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) store: Arc<dyn Store>,
    path: PathBuf,
}

impl Writer {
    pub(crate) fn new(store: Arc<dyn Store>, path: &Path) -> Self {
        Self { store, path: path.to_path_buf() }
    }

    pub(crate) fn len(&self) -> Result<u64> {
        self.store.byte_len().map_err(|e| self.error("cannot learn the file's length", e))
    }

    pub(crate) fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        let result = self.store.read_exact_at(buf, at);
        result.map_err(|e| self.error("cannot read the file", e).with_offset(at))
    }

    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let result = self.store.write_all_at(bytes, at);
        result.map_err(|e| self.error("cannot write the file", e).with_offset(at))
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        self.store.set_len(len).map_err(|e| self.error("cannot set the file's length", e))
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.store.sync().map_err(|e| self.error("cannot sync the file", e))
    }

    /// `e` with its text on the line: what the system says is what a person can act on here.
    fn error(&self, what: &str, e: io::Error) -> Error {
        Error::io(format!("{what}: {e}"), e).with_path(&self.path)
    }
}

/// An open file with an advisory lock, which ends with this value.
///
/// Closing the file would not do: a process that is just being started by another thread shares
/// it for a moment.
#[derive(Debug)]
pub(crate) struct Locked(pub(crate) Arc<File>);

impl Locked {
    /// Locks `file` without waiting.
    pub(crate) fn new(file: File, path: &Path, how: FlockOperation) -> Result<Self> {
        flock(&file, how).map_err(|e| {
            let message = match e {
                rustix::io::Errno::WOULDBLOCK => {
                    "is locked by another process; wait for it or stop it".to_owned()
                }
                e => format!("cannot lock the image: {e}"),
            };
            Error::new(ErrorKind::Io, message).with_source(io::Error::from(e)).with_path(path)
        })?;
        Ok(Self(Arc::new(file)))
    }

    /// Opens a regular file for changes and locks it: whoever changes an image in place must be
    /// alone.
    pub(crate) fn for_changes(path: &Path) -> Result<Self> {
        let io =
            |e| Error::io(format!("cannot open the image for changes: {e}"), e).with_path(path);
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            let message = "is no regular file; only those are changed in place";
            return Err(Error::new(ErrorKind::Usage, message).with_path(path));
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io)?;
        Self::new(file, path, FlockOperation::NonBlockingLockExclusive)
    }

    pub(crate) fn writer(&self, path: &Path) -> Writer {
        Writer::new(Arc::clone(&self.0) as _, path)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = flock(&*self.0, FlockOperation::Unlock);
    }
}

/// Opens a file of ours beside an image, mode 0600, without following a link.
pub(crate) fn open_beside(path: &Path, create_new: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    // The constants of both crates are those of the system; only the integer types differ.
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    if create_new {
        options.create_new(true)
    } else {
        options.create(true)
    };
    options.open(path)
}

/// `path` with `suffix` at the end of its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the names in the folder of `path` survive a loss of power.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::io(format!("cannot sync the folder: {e}"), e).with_path(folder))
}

/// The folder in which `path` names something.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// The device and inode of an open file.
pub(crate) fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|m| (m.dev(), m.ino()))
}
