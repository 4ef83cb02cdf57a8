//! The output file before it is whole: without a name where the system can, so that not even a
//! killed process leaves a part of it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, ErrorKind, Result};

/// A file in the folder of its target, that becomes the target or vanishes.
#[derive(Debug)]
pub(super) struct Temporary {
    file: File,
    target: PathBuf,
    /// Its name, where it has one.
    name: Option<PathBuf>,
    /// The owner and the mode of the file that it replaces.
    replaced: Option<fs::Metadata>,
}

impl Temporary {
    /// An empty file that will become `target`.
    pub(super) fn create(target: &Path) -> Result<Self> {
        Self::create_by(target, open)
    }

    fn create_by(target: &Path, open: Open) -> Result<Self> {
        let target = real(target);
        let replaced = match fs::metadata(&target) {
            Ok(meta) if meta.is_file() => Some(meta),
            Ok(meta) if meta.is_dir() => {
                let error = Error::new(ErrorKind::Usage, "the output is a folder: name a file");
                return Err(error.with_path(&target));
            }
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "the output exists and is not a regular file: stream to it instead",
                )
                .with_path(&target));
            }
            Err(_) => None,
        };
        if target.file_name().is_none() {
            let error = Error::new(ErrorKind::Usage, "the output must name a file");
            return Err(error.with_path(&target));
        }
        let (file, name) = open(&target)
            .map_err(|e| Error::io("cannot create the output", e).with_path(&target))?;
        Ok(Self { file, target, name, replaced })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, in place of whatever had it.
    pub(super) fn persist(mut self) -> Result<()> {
        let result = self.try_persist();
        result.map_err(|e| Error::io("cannot put the output in place", e).with_path(&self.target))
    }

    fn try_persist(&mut self) -> io::Result<()> {
        if let Some(replaced) = self.replaced.take() {
            // Only root may give files away; whoever else replaces a file owns it afterwards.
            let _ = fchown(&self.file, Some(replaced.uid()), Some(replaced.gid()));
            self.file.set_permissions(replaced.permissions())?;
        }
        if self.name.is_none() {
            match link(&self.file, &self.target) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            // A link cannot replace a file, but a rename can.
            let name = sibling(&self.target);
            link(&self.file, &name)?;
            self.name = Some(name);
        }
        if let Some(name) = &self.name {
            fs::rename(name, &self.target)?;
            self.name = None;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = fs::remove_file(name);
        }
    }
}

/// The file that is meant: what a link points to, there or not yet, and not the link.
fn real(target: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(target) {
        return real;
    }
    // As many as the system follows; whoever makes a circle has their link replaced.
    const LINKS: usize = 40;
    let mut real = target.to_path_buf();
    for _ in 0..LINKS {
        let Ok(next) = fs::read_link(&real) else { return real };
        real = folder(&real).join(next);
    }
    target.to_path_buf()
}

fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name beside the target that nobody else uses.
fn sibling(target: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{counter}.partial", std::process::id()));
    folder(target).join(name)
}

/// Creates a file for a target, with a name or without.
type Open = fn(&Path) -> io::Result<(File, Option<PathBuf>)>;

fn open(target: &Path) -> io::Result<(File, Option<PathBuf>)> {
    match open_nameless(folder(target)) {
        Some(file) => Ok((file, None)),
        None => open_named(target),
    }
}

fn open_named(target: &Path) -> io::Result<(File, Option<PathBuf>)> {
    let name = sibling(target);
    let file = OpenOptions::new().write(true).create_new(true).open(&name)?;
    Ok((file, Some(name)))
}

/// A file without a name, if the file system knows such and `/proc` is there to name it later.
#[cfg(target_os = "linux")]
fn open_nameless(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    if !Path::new("/proc/self/fd").is_dir() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn open_nameless(_folder: &Path) -> Option<File> {
    None
}

#[cfg(target_os = "linux")]
fn link(file: &File, name: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD};
    use std::os::fd::AsRawFd;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, from, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn link(_file: &File, _name: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_with_or_without_a_name_becomes_the_target_or_vanishes() {
        for (kind, open) in [("system's choice", open as Open), ("named", open_named)] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("out");
            let names = || std::fs::read_dir(folder.path()).unwrap().count();
            for old in [false, true] {
                if old {
                    fs::write(&target, "old").unwrap();
                }
                drop(Temporary::create_by(&target, open).unwrap());
                assert_eq!(names(), usize::from(old), "{kind}");
                let new = Temporary::create_by(&target, open).unwrap();
                new.file().write_all(b"new").unwrap();
                assert_eq!(target.exists(), old, "{kind}");
                new.persist().unwrap();
                assert_eq!(fs::read(&target).unwrap(), b"new", "{kind}");
                assert_eq!(names(), 1, "{kind}");
            }
        }
    }

    #[test]
    fn a_link_to_a_file_that_is_not_there_yet_stays() {
        use std::os::unix::fs::symlink;
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = folder.path().join("link");
        symlink("again", &link).unwrap();
        symlink(other.path().join("file"), folder.path().join("again")).unwrap();
        let new = Temporary::create(&link).unwrap();
        new.file().write_all(b"new").unwrap();
        new.persist().unwrap();
        assert!(link.is_symlink() && folder.path().join("again").is_symlink());
        assert_eq!(fs::read(other.path().join("file")).unwrap(), b"new");
        // A circle ends.
        fs::remove_file(&link).unwrap();
        symlink("link", &link).unwrap();
        drop(Temporary::create(&link));
    }

    #[test]
    fn the_mode_and_the_owner_of_a_replaced_file_stay() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        // As root it is another's file.
        let _ = std::os::unix::fs::chown(&target, Some(1234), Some(4321));
        let old = fs::metadata(&target).unwrap();
        Temporary::create(&target).unwrap().persist().unwrap();
        let new = fs::metadata(&target).unwrap();
        assert_ne!(new.ino(), old.ino());
        assert_eq!(new.permissions().mode() & 0o777, 0o640);
        assert_eq!((new.uid(), new.gid()), (old.uid(), old.gid()));
    }
}
