//! The merge of a differencing VHD into its parent, in place, so that a kill loses nothing.

mod flat;
mod held;
mod journal;
mod merge;
mod siblings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FlockOperation;

use crate::finding::{Findings, Policy};
use crate::store::{self, Locked, Writer};
use crate::vhd::file::VhdFile;
use crate::vhd::resolve::{Chain, open_file};
use crate::vhd::{DiskType, uuid_text};
use crate::{Error, ErrorKind, OpenOptions, Result};
use flat::Flat;
use journal::Pair;
use siblings::Of;

/// How a child is [committed](commit()).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CommitOptions {
    parents: Vec<PathBuf>,
    no_other_children: bool,
    delete_child: bool,
    hooks: Hooks,
}

impl CommitOptions {
    /// Nothing is confirmed, so that a commit would be refused; the child stays.
    pub fn new() -> Self {
        Self::default()
    }

    /// The caller knows that no other image has the same parent. Such an image would read the
    /// child's sectors where it should read its parent's.
    ///
    /// Nobody but the caller can know that; what lies in the folders of the two files is looked
    /// at all the same.
    #[must_use]
    pub fn with_no_other_children(mut self, known: bool) -> Self {
        self.no_other_children = known;
        self
    }

    /// Allows `path` as a parent wherever it lies, as [`OpenOptions::with_parent`] does. May be
    /// repeated; a raw parent must be named.
    #[must_use]
    pub fn with_parent(mut self, path: impl AsRef<Path>) -> Self {
        self.parents.push(path.as_ref().to_path_buf());
        self
    }

    /// Whether the child's file is deleted once its content is safe in the parent.
    #[must_use]
    pub fn delete_child(mut self, yes: bool) -> Self {
        self.delete_child = yes;
        self
    }

    /// A flag that, once set, ends the commit with [`ErrorKind::Cancelled`] at the next block.
    /// That is as harmless as a kill: run the commit again to finish it.
    #[must_use]
    pub fn with_cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.hooks.cancel = Some(flag);
        self
    }

    /// A function that is told how many of the child's bytes have been written so far.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.hooks.progress = Some(Arc::new(progress));
        self
    }

    fn open_options(&self) -> OpenOptions {
        // Whatever an unfinished commit left is mended before it is read strictly.
        self.parents.iter().fold(OpenOptions::new().lenient(true), OpenOptions::with_parent)
    }
}

/// What a [`commit`](commit()) did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitReport {
    /// The file that holds the disk now.
    pub parent: PathBuf,
    /// How many bytes of the child were written to it.
    pub bytes: u64,
    /// How many blocks were added to it.
    pub new_blocks: u64,
    /// The size of the parent's disk before, if it had to grow.
    pub grown_from: Option<u64>,
    /// Whether an unfinished commit was finished.
    pub resumed: bool,
    /// Whether the child was deleted.
    pub child_deleted: bool,
}

/// Merges a differencing VHD into its parent, in place.
///
/// Afterwards the parent holds the disk that was seen through the child. The child is not
/// touched, unless it is [to be deleted](CommitOptions::delete_child): opened over the parent it
/// shows the same disk as before, and it is of no further use. Children of the child have to be
/// linked to the parent by whoever has made them.
///
/// The parent may be dynamic, differencing or fixed, or raw if it is [named](
/// CommitOptions::with_parent). A dynamic or differencing parent grows with a larger child, as far
/// as its tables have room; a raw one grows always.
///
/// A kill, a loss of power, a full disk or a cancellation at any moment loses nothing: the image
/// opened through the child is right all the time, and the commit, called again, finishes. A
/// journal beside the parent, `<parent>.commit`, holds what that needs; it is removed at the end.
/// In between, the parent must only be used through the child. The parent is locked (`flock`).
///
/// # Why nothing is lost
///
/// The child is never written. A sector that the child holds is read from the child, whatever the
/// parent says; so the parent may be anything there, at any moment. For every other sector the
/// parent must go on to say what it said. That is kept so:
///
/// - **Blocks that the parent has.** Only sectors that the child holds are written, and only bits
///   of such sectors are set. The order does not matter.
/// - **Blocks that it does not have** are written behind its blocks, where no entry of the BAT
///   points to: data, then the bitmap (with bits of the child's sectors only). When they are
///   durable, their entries are recorded in the journal, and when that is durable they are
///   written. A block that is seen is whole.
/// - **The footer.** Before anything is written over the one at the end, the file gets its final
///   length and the footer at that end, and both are made durable. Until then the footer's copy
///   at byte 0 serves. The copy is only written (if the disk grows) when the new one at the end
///   is durable, so one of the two is always sound.
/// - **A larger child.** First the header says that the BAT is longer, whose new entries are
///   unused; sectors behind the parent's end become zeros, as the child reads them; when all of
///   that is durable, the footers say the new size. Sectors that appear with it read as zeros,
///   as they did before, when they lay past the parent's end. A parent that hides a still larger
///   disk below it is refused.
/// - **The batmap** is last, when all bitmaps are durable: each of its new bits is true. While
///   its checksum lags behind its map, it is not believed and the bitmaps are read.
///
/// All of it assumes that a sector (512 bytes) is written whole or not at all, which disks
/// promise and page caches keep. Should a BAT entry, the header or a footer be torn within a
/// sector all the same, the parent may be unreadable until the commit is run again: the journal
/// holds what the sector should be.
///
/// Running the commit again does the recorded changes of tables again and then everything else:
/// that gives the same bytes, also if the child was written in between. Whatever the parent says
/// *in its own right* in between is neither the old nor the new disk: open it through the child.
///
/// # Errors
/// `Usage` if other children were not [excluded](CommitOptions::with_no_other_children) or one
/// was found, if the image is no differencing VHD, or if the commit of another child is
/// unfinished; `Unsupported` and `TooLarge` if the parent cannot take the child's disk, before
/// anything is written; `Reference` if a file of the chain is not found; `Corrupt` and `Truncated`
/// for damage: [repair](crate::repair()) it first; `Cancelled`, `Io`.
///
/// ```no_run
/// # fn main() -> vmimage::Result<()> {
/// let options = vmimage::CommitOptions::new().with_no_other_children(true);
/// let report = vmimage::commit("snapshot.vhd", &options)?;
/// println!("{} bytes went into {}", report.bytes, report.parent.display());
/// # Ok(())
/// # }
/// ```
pub fn commit(child: impl AsRef<Path>, options: &CommitOptions) -> Result<CommitReport> {
    let path = child.as_ref();
    if !options.no_other_children {
        let message = "its parent would be changed, which breaks every other image on that parent; \
                       confirm that there is none with --no-other-children";
        return Err(Error::new(ErrorKind::Usage, message).with_path(path));
    }
    let file = open_file(path)?;
    let child_id = store::identity(&file)
        .map_err(|e| Error::io("cannot look at the image", e).with_path(path))?;
    let file = Locked::new(file, path, FlockOperation::NonBlockingLockShared)?;
    let child = Arc::clone(&file.0);
    let child = VhdFile::open(child, Some(path), &mut Findings::new(Policy::Strict))?;
    held::Held::new(&child).map_err(|e| e.with_path(path))?;
    let target = Target::find(path, options)?;
    target.refuse_siblings(path, &child, child_id, options)?;
    let mut report = target.merge(&child, &options.hooks)?;
    if options.delete_child {
        fs::remove_file(path).map_err(|e| {
            let message = format!("the commit is done, but the child cannot be deleted: {e}");
            Error::io(message, e).with_path(path)
        })?;
        store::sync_folder(path)?;
        report.child_deleted = true;
    }
    Ok(report)
}

/// The parent, found and not yet opened for changes.
struct Target {
    path: PathBuf,
    /// `None` for a raw file.
    uuid: Option<[u8; 16]>,
    /// The size of the largest disk below it.
    below: u64,
}

impl Target {
    fn find(path: &Path, options: &CommitOptions) -> Result<Self> {
        let open = options.open_options();
        let mut findings = Findings::new(Policy::Lenient);
        let tip = VhdFile::open(Arc::new(open_file(path)?), Some(path), &mut findings)?;
        let chain = Chain::resolve(tip, path, &open, &mut findings)?;
        let raw = chain.raw.as_ref().map(|raw| (raw.path.clone(), raw.len));
        let below = chain.files.iter().skip(2).map(VhdFile::size);
        let below = match chain.files.len() {
            1 => 0,
            _ => below.chain(raw.as_ref().map(|(_, len)| *len)).max().unwrap_or(0),
        };
        let (parent, uuid) = match (chain.files.get(1), raw) {
            (Some(parent), _) => (parent.path.clone(), Some(parent.footer.uuid)),
            (None, Some((path, _))) => (Some(path), None),
            (None, None) => (None, None),
        };
        let parent = parent.ok_or_else(|| {
            Error::new(ErrorKind::Reference, "its parent was not found").with_path(path)
        })?;
        let parent = parent
            .canonicalize()
            .map_err(|e| Error::io(format!("cannot find the parent: {e}"), e).with_path(&parent))?;
        Ok(Self { path: parent, uuid, below })
    }

    fn refuse_siblings(
        &self,
        path: &Path,
        child: &VhdFile,
        child_id: (u64, u64),
        options: &CommitOptions,
    ) -> Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let of = self.uuid.as_ref().map_or(Of::Raw(&name), Of::Uuid);
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        for folder in [store::folder_of(&self.path), store::folder_of(&real)] {
            if let Some(other) = siblings::children(folder, of, child_id)?.first() {
                let message = format!(
                    "is also a child of {} and would be broken by the commit",
                    self.path.display()
                );
                return Err(Error::new(ErrorKind::Usage, message).with_path(other));
            }
            if !options.delete_child {
                continue;
            }
            let own = siblings::children(folder, Of::Uuid(&child.footer.uuid), child_id)?;
            if let Some(other) = own.first() {
                let message = "is a child of the image that is to be deleted; keep that, or link \
                               this one to the parent afterwards";
                return Err(Error::new(ErrorKind::Usage, message).with_path(other));
            }
        }
        Ok(())
    }

    fn merge(&self, child: &VhdFile, hooks: &Hooks) -> Result<CommitReport> {
        let parent = Locked::for_changes(&self.path)?;
        let journal_path = store::beside(&self.path, ".commit");
        let journal = store::open_beside(&journal_path, false).map_err(|e| {
            Error::io(format!("cannot open the journal: {e}"), e).with_path(&journal_path)
        })?;
        store::sync_folder(&journal_path)?;
        let task = Task {
            child,
            parent: parent.writer(&self.path),
            journal: Writer::new(Arc::new(journal), &journal_path),
            journal_path: &journal_path,
            below: self.below,
            hooks,
        };
        let result = task.run(self.uuid.as_ref());
        let done = result.map_err(|e| e.with_path(&self.path));
        if done.is_err() && task.journal.len().is_ok_and(|len| len == 0) {
            // Refused before it began: leave nothing behind.
            let _ = fs::remove_file(&journal_path);
        }
        let done = done?;
        fs::remove_file(&journal_path).map_err(|e| {
            let message = format!("the commit is done, but its journal cannot be removed: {e}");
            Error::io(message, e).with_path(&journal_path)
        })?;
        store::sync_folder(&journal_path)?;
        Ok(CommitReport {
            parent: self.path.clone(),
            bytes: done.bytes,
            new_blocks: done.new_blocks,
            grown_from: done.grown_from,
            resumed: done.resumed,
            child_deleted: false,
        })
    }
}

/// One commit: the files and what is known about them.
struct Task<'a> {
    child: &'a VhdFile,
    parent: Writer,
    journal: Writer,
    journal_path: &'a Path,
    below: u64,
    hooks: &'a Hooks,
}

/// What was done so far.
#[derive(Debug, Clone, Default)]
struct Done {
    bytes: u64,
    bytes_total: u64,
    new_blocks: u64,
    grown_from: Option<u64>,
    resumed: bool,
}

impl Task<'_> {
    /// Merges, where `uuid` is that of the parent; `None` for a raw one.
    fn run(&self, uuid: Option<&[u8; 16]>) -> Result<Done> {
        let pair =
            Pair { child: self.child.footer.uuid, parent: uuid.copied().unwrap_or_default() };
        let Some(uuid) = uuid else { return flat::run(self, &pair, Flat::Raw) };
        let mut findings = Findings::new(Policy::Lenient);
        let (footer, ..) = crate::vhd::file::head(&self.parent.store, &mut findings)?;
        if footer.uuid != *uuid {
            let message = format!("the parent became {} meanwhile", uuid_text(&footer.uuid));
            return Err(Error::new(ErrorKind::Usage, message));
        }
        match footer.disk_type {
            DiskType::Fixed => flat::run(self, &pair, Flat::Fixed(footer.current_size)),
            DiskType::Dynamic | DiskType::Differencing => merge::run(self, &pair),
        }
    }

    fn at_journal(&self, error: Error) -> Error {
        error.with_path(self.journal_path)
    }
}

#[derive(Clone, Default)]
struct Hooks {
    cancel: Option<Arc<AtomicBool>>,
    progress: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("cancel", &self.cancel)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

impl Hooks {
    fn check(&self) -> Result<()> {
        match &self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::new(
                ErrorKind::Cancelled,
                "the commit was cancelled; run it again to finish it",
            )),
            _ => Ok(()),
        }
    }

    fn report(&self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress(bytes);
        }
    }
}
