//! A stand-in for a guest's disk: libraries of this machine, one behind the other.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::content::{BLOCK, PAGE};

/// Where libraries lie.
const FOLDERS: [&str; 2] = ["/usr/lib", "/usr/bin"];

/// Writes a raw disk with files of [`FOLDERS`] of together at most `limit` bytes, each from a
/// page boundary on, as in a file system; the second half of the disk is empty.
pub(crate) fn write(limit: u64, path: &Path) -> io::Result<()> {
    let disk = File::create(path)?;
    let mut at = 0;
    for file in files() {
        let len = fs::metadata(&file).map_or(0, |meta| meta.len());
        if len == 0 || at + len > limit {
            continue;
        }
        // A file that cannot be read is no part of the disk.
        let Ok(bytes) = fs::read(&file) else { continue };
        disk.write_all_at(&bytes, at)?;
        at = (at + bytes.len() as u64).next_multiple_of(PAGE as u64);
    }
    if at == 0 {
        return Err(io::Error::other(format!(
            "no files in {}: name a --guest",
            FOLDERS.join(", ")
        )));
    }
    disk.set_len((2 * at).next_multiple_of(BLOCK as u64))
}

/// All regular files below the folders, in an order that does not depend on the file system.
fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}
