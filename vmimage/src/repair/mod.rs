//! The repair of a VHD's metadata, in place, with an undo file.

mod plan;
#[cfg(test)]
mod tests;
mod undo;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::finding::Finding;
use crate::open::door;
use crate::options::Format;
use crate::store::{self, Locked, Writer};
use crate::vhd::resolve::open_file;
use crate::{Error, ErrorKind, OpenOptions, Result};
use plan::Plan;
use undo::Undo;

/// How a VHD is [repaired](repair()).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RepairOptions {
    checksums: bool,
    undo: Option<PathBuf>,
    now: u64,
}

impl Default for RepairOptions {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self { checksums: false, undo: None, now }
    }
}

impl RepairOptions {
    /// Only what follows from sound parts of the file; the time is that of the system.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to compute the checksum of a footer or header anew where there is no sound copy
    /// and the fields make sense. A wrong checksum says that some byte is wrong: nobody can tell
    /// whether it is one that matters.
    #[must_use]
    pub fn with_checksums(mut self, yes: bool) -> Self {
        self.checksums = yes;
        self
    }

    /// Where the undo file goes; beside the image as `<image>.undo` unless said otherwise.
    #[must_use]
    pub fn with_undo_file(mut self, path: impl AsRef<Path>) -> Self {
        self.undo = Some(path.as_ref().to_path_buf());
        self
    }

    /// The present time in seconds since the Unix epoch, which a creation time in the future
    /// becomes.
    #[must_use]
    pub fn with_time(mut self, now: u64) -> Self {
        self.now = now;
        self
    }
}

/// One thing that a repair does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairAction {
    /// A stable, greppable name such as `geometry`.
    pub code: &'static str,
    /// What is done, on one line.
    pub message: String,
    /// The byte offset in the image, or in the footer for one of its fields.
    pub offset: u64,
}

impl std::fmt::Display for RepairAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (at byte {})", self.code, self.message, self.offset)
    }
}

/// What a repair did, or [would do](plan_repair).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was done; empty if there was nothing to do, or nothing that a repair does.
    pub actions: Vec<RepairAction>,
    /// What [`check`](crate::check()) says about the file itself afterwards.
    pub remaining: Vec<Finding>,
    /// The undo file; `None` if nothing was written.
    pub undo: Option<PathBuf>,
}

/// Bytes to write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Patch {
    at: u64,
    bytes: Vec<u8>,
}

impl Patch {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.bytes.len() as u64)
    }
}

/// What [`repair()`] would do to the VHD at `path`; nothing is written.
///
/// # Errors
/// Those of [`repair()`], but for writing.
pub fn plan_repair(path: impl AsRef<Path>, options: &RepairOptions) -> Result<RepairReport> {
    let path = path.as_ref();
    ensure_vhd(path)?;
    let file = open_file(path)?;
    let plan = plan::plan(Arc::new(file), options).map_err(|e| e.with_path(path))?;
    Ok(RepairReport { actions: plan.actions, remaining: plan.remaining, undo: None })
}

/// Mends the metadata of a VHD in place; its blocks and bitmaps are never written.
///
/// - A missing, damaged or short (511 bytes) footer at the end is rebuilt from the sound copy at
///   the start, and the copy from a sound footer; a file that was cut off behind its last block
///   gets its footer back.
/// - A geometry larger than the disk becomes the floor geometry, a creation time in the future
///   becomes [the present](RepairOptions::with_time), the header's data offset all ones.
/// - A batmap that is missing (where tapdisk demands one), damaged or contradicted by the bitmaps
///   is rebuilt from those. Where it called a block full that is not, the bitmap wins: sectors
///   that only the batmap vouched for read as zeros, or as the parent's, from then on.
/// - Checksums of footer and header are computed anew [if asked](
///   RepairOptions::with_checksums).
///
/// The UUID never changes, so children still find their parent. Before the first write, everything
/// that is overwritten goes to an undo file of mode 0600, which is synced;
/// [`undo_repair`] restores the image bit by bit, also after a kill in the middle. The image is
/// locked (`flock`).
///
/// # Errors
/// `Unsupported` for other formats, `Corrupt` and `Truncated` for damage that cannot be repaired,
/// before anything is written; `Usage` if the undo file exists; `Io`.
///
/// ```no_run
/// # fn main() -> vmimage::Result<()> {
/// let report = vmimage::repair("disk.vhd", &vmimage::RepairOptions::new())?;
/// for action in &report.actions {
///     println!("{action}");
/// }
/// # Ok(())
/// # }
/// ```
pub fn repair(path: impl AsRef<Path>, options: &RepairOptions) -> Result<RepairReport> {
    let path = path.as_ref();
    ensure_vhd(path)?;
    if store::beside(path, ".commit").exists() {
        let message = "a commit into this image is unfinished; run that again first";
        return Err(Error::new(ErrorKind::Usage, message).with_path(path));
    }
    let locked = Locked::for_changes(path)?;
    let file = locked.writer(path);
    let Plan { actions, patches, remaining } =
        plan::plan(Arc::clone(&file.store) as _, options).map_err(|e| e.with_path(path))?;
    if patches.is_empty() {
        return Ok(RepairReport { actions, remaining, undo: None });
    }
    let undo_path = options.undo.clone().unwrap_or_else(|| store::beside(path, ".undo"));
    let undo = store::open_beside(&undo_path, true).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let message = "exists: it belongs to an earlier repair; move it, or name another file";
            Error::new(ErrorKind::Usage, message).with_path(&undo_path)
        }
        _ => Error::io(format!("cannot create the undo file: {e}"), e).with_path(&undo_path),
    })?;
    let undo = Writer::new(Arc::new(undo), &undo_path);
    let kept = keep(&file, &undo, &patches).and_then(|()| store::sync_folder(&undo_path));
    if kept.is_err() {
        // Nothing was changed, and an incomplete undo file would be in the way of the next try.
        let _ = std::fs::remove_file(&undo_path);
    }
    kept?;
    apply(&file, &patches)?;
    Ok(RepairReport { actions, remaining, undo: Some(undo_path) })
}

/// Writes the undo file.
fn keep(file: &Writer, undo: &Writer, patches: &[Patch]) -> Result<()> {
    undo.write(&Undo::of(file, patches)?.to_bytes(), 0)?;
    undo.sync()
}

/// Writes the patches one at a time: of the two footers, one is sound at any moment.
fn apply(file: &Writer, patches: &[Patch]) -> Result<()> {
    for patch in patches {
        file.write(&patch.bytes, patch.at)?;
        file.sync()?;
    }
    Ok(())
}

/// Takes a [repair](repair()) back, whole or half done: the image is what it was, bit by bit.
///
/// The undo file stays; remove it when it is no longer wanted.
///
/// # Errors
/// `Usage` if `undo` is no undo file, or if the image was written to since; `Corrupt` if the undo
/// file is damaged; `Io`.
pub fn undo_repair(path: impl AsRef<Path>, undo: impl AsRef<Path>) -> Result<()> {
    let (path, undo) = (path.as_ref(), undo.as_ref());
    let loaded = Writer::new(Arc::new(open_file(undo)?), undo);
    let loaded = Undo::load(&loaded).map_err(|e| e.with_path(undo))?;
    let locked = Locked::for_changes(path)?;
    loaded.apply(&locked.writer(path)).map_err(|e| e.with_path(path))
}

/// Only VHDs are repaired. A file whose footers are all gone is no VHD to the probe.
fn ensure_vhd(path: &Path) -> Result<()> {
    match door(path, &OpenOptions::new())?.1 {
        Format::Vhd => Ok(()),
        format => {
            let message = format!("is {format}, and only VHDs are repaired");
            Err(Error::unsupported(message).with_path(path))
        }
    }
}
