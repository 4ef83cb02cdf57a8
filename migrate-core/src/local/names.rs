//! Files that get another name, or lose theirs, for good.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, ErrorKind, Leftover, Result};

pub(super) fn failed(path: &Path, e: io::Error) -> Error {
    Error::new(ErrorKind::Target, format!("{}: {e}", path.display())).with_source(e)
}

/// Removes a file; one that is gone is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, e).with_leftovers([Leftover::new("file", path.display().to_string())]))
        }
        _ => Ok(()),
    }
}

/// Gives the file `part` the name `path`, if that is free; again is fine.
pub(super) fn give_name(part: &Path, path: &Path) -> Result<()> {
    match std::fs::hard_link(part, path) {
        Ok(()) => remove(part),
        // An earlier attempt did it.
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.exists() => Ok(()),
        Err(_) if is_one_file(part, path) => remove(part),
        Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
            Err(failed(path, e))
        }
        // Not every file system has second names: FAT and many network shares do not.
        Err(_) => rename_new(part, path).map_err(|e| failed(path, e)),
    }
}

/// Takes the name `path` from a file again, which is `part` then. What others have put there stays.
pub(super) fn take_name(part: &Path, path: &Path) -> Result<()> {
    // Only what had our hidden name is ours; it gets it back and goes with it.
    if !part.exists() && path.exists() {
        std::fs::rename(path, part).map_err(|e| failed(path, e))
    } else if is_one_file(part, path) {
        remove(path)
    } else {
        Ok(())
    }
}

/// A rename that replaces nothing.
#[cfg(target_os = "linux")]
fn rename_new(part: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE)?)
}

/// The same where the system has no such call. Nobody else may write into the folder meanwhile.
#[cfg(not(target_os = "linux"))]
fn rename_new(part: &Path, path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        Err(_) => std::fs::rename(part, path),
    }
}

/// Whether both names are of one file: a crash came between the new name and the old one's end.
fn is_one_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    id(one).is_some() && id(one) == id(other)
}

/// Makes the names in a folder survive a power cut, where its file system can.
pub(super) fn sync(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other.map_err(|e| failed(folder, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_taken_back() {
        type Give = fn(&Path, &Path) -> io::Result<()>;
        let linked: Give = |part, path| give_name(part, path).map_err(io::Error::other);
        for give in [linked, rename_new] {
            let dir = tempfile::tempdir().unwrap();
            let (part, path) = (dir.path().join(".part"), dir.path().join("image"));
            std::fs::write(&part, "ours").unwrap();
            std::fs::write(&path, "theirs").unwrap();
            give(&part, &path).unwrap_err();
            take_name(&part, &path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs");
            std::fs::remove_file(&path).unwrap();
            give(&part, &path).unwrap();
            assert!(!part.exists());
            give_name(&part, &path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "ours");
            take_name(&part, &path).unwrap();
            assert!(part.exists() && !path.exists());
            sync(dir.path()).unwrap();
        }
    }
}
