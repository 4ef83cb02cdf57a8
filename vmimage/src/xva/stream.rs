//! One disk of an archive that passes by.

use std::io::Read;

use super::machine::{ChunkHead, violation_at};
use super::ova::{Ova, OvaDisk};
use super::walk::{Step, Walk};
use crate::archive::shown;
use crate::exec::fill::is_zero;
use crate::finding::{Findings, Policy};
use crate::raw::MAX_DISK;
use crate::scan::Scan;
use crate::{Error, ErrorKind, Result};

/// Which disk of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DiskChoice {
    /// The only one there is.
    #[default]
    Only,
    /// By its index in the archive, from 0.
    Index(usize),
    /// By its name in the archive, such as `Ref:7`.
    Reference(String),
    /// By the place at which the machine has it, such as `0`.
    Device(String),
}

/// The forward-only reader of one disk of an XVA: plain, or compressed with gzip or Zstandard.
///
/// All that passes is verified, the other disks too: [`next_piece`](Scan::next_piece) answers
/// `None` only after the end of the archive has been proved.
///
/// ```
/// use vmimage::xva::{DiskChoice, XvaStream};
/// let error = XvaStream::new(std::io::empty(), DiskChoice::Only).unwrap_err();
/// assert_eq!(error.kind(), vmimage::ErrorKind::Truncated);
/// ```
#[derive(Debug)]
pub struct XvaStream {
    walk: Walk,
    ova: Option<Ova>,
    disks: Vec<OvaDisk>,
    which: DiskChoice,
    /// The name of the chosen disk, if a description has told it.
    reference: Option<String>,
    size: Option<u64>,
    /// The end of the chosen disk's last chunk, once it has one.
    end: Option<u64>,
    done: bool,
}

impl XvaStream {
    /// Reads up to the first chunk; `ova.xml`, if it is there, says which disks come.
    ///
    /// # Errors
    /// `Usage` if there is no such disk (the message names those that are there), `Truncated`,
    /// `Corrupt`, `Unsupported` for what is no XVA, `Io`.
    pub fn new(input: impl Read + Send + 'static, which: DiskChoice) -> Result<Self> {
        Self::with_policy(input, which, Policy::Strict)
    }

    /// As [`new`](Self::new); under the lenient policy damage becomes a
    /// [finding](Self::findings), and chunks whose checksum does not match are given out.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn with_policy(
        input: impl Read + Send + 'static,
        which: DiskChoice,
        policy: Policy,
    ) -> Result<Self> {
        let mut walk = Walk::new(Box::new(input), policy)?;
        let ova = match walk.ova()? {
            Some(text) => Some(Ova::parse(&text, &mut walk.findings)?),
            None => None,
        };
        let disks = ova.as_ref().map(Ova::disks).unwrap_or_default();
        let mut this =
            Self { walk, ova, disks, which, reference: None, size: None, end: None, done: false };
        this.choose()?;
        Ok(this)
    }

    /// The description of the machine; `None` for the export of a single disk.
    pub fn ova(&self) -> Option<&Ova> {
        self.ova.as_ref()
    }

    /// The disks that the description announces, in the order of the archive.
    pub fn disks(&self) -> &[OvaDisk] {
        &self.disks
    }

    /// The chosen disk, as the description has it.
    pub fn disk(&self) -> Option<&OvaDisk> {
        let reference = self.reference.as_deref()?;
        self.disks.iter().find(|disk| disk.reference == reference)
    }

    /// What was odd so far.
    pub fn findings(&self) -> &Findings {
        &self.walk.findings
    }

    /// How many bytes of the archive have passed, without its compression.
    pub fn position(&self) -> u64 {
        self.walk.machine.at()
    }

    fn choose(&mut self) -> Result<()> {
        if self.ova.is_none() {
            return match &self.which {
                DiskChoice::Device(device) => Err(Error::new(
                    ErrorKind::Usage,
                    format!(
                        "the archive has no ova.xml, which would tell the disk at device {device}; \
                         name the disk by its index"
                    ),
                )),
                _ => Ok(()),
            };
        }
        let main = self.ova.as_ref().and_then(Ova::vm).map(|vm| vm.reference.as_str());
        let disk = select(&self.disks, &self.which, main)?;
        if disk.virtual_size > MAX_DISK {
            return Err(too_large(disk.virtual_size));
        }
        self.reference = Some(disk.reference.clone());
        self.size = Some(disk.virtual_size);
        Ok(())
    }

    fn is_chosen(&self, head: &ChunkHead) -> Result<bool> {
        let reference = self.walk.machine.reference(head.disk);
        Ok(match (&self.reference, &self.which) {
            (Some(chosen), _) => chosen == reference,
            (None, DiskChoice::Index(index)) => head.disk == *index,
            (None, DiskChoice::Reference(chosen)) => chosen == reference,
            (None, _) if head.disk > 0 => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "the archive has several disks and no ova.xml; choose one by its index",
                ));
            }
            (None, _) => true,
        })
    }

    /// Takes a chunk of the chosen disk: how much of it belongs to the disk.
    fn accept(&mut self, head: &ChunkHead, data: &[u8]) -> Result<usize> {
        let end = head.offset.saturating_add(head.len);
        self.end = Some(end);
        let Some(size) = self.size else {
            return if end > MAX_DISK { Err(too_large(end)) } else { Ok(data.len()) };
        };
        let keep = size.saturating_sub(head.offset).min(head.len) as usize;
        if !is_zero(data.get(keep..).unwrap_or_default()) {
            let name = self.walk.machine.chunk_name(head);
            let message = format!("the {name} has data past the disk's {size} bytes");
            let (at, findings) = (self.walk.machine.at(), &mut self.walk.findings);
            violation_at(ErrorKind::Corrupt, "chunk-past-end", message, at, findings)?;
        }
        Ok(keep)
    }

    fn finish(&mut self) -> Result<()> {
        self.done = true;
        let (at, findings) = (self.walk.machine.at(), &mut self.walk.findings);
        let name = match (&self.reference, &self.which) {
            (Some(name), _) | (None, DiskChoice::Reference(name)) => name.as_str(),
            (None, _) => "that was chosen",
        };
        let end = self.end.unwrap_or(0);
        if self.end.is_none() && self.reference.is_none() {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("the archive does not hold the disk {name}"),
            ));
        }
        if self.end.is_none() && self.size != Some(0) {
            let message = format!(
                "the archive describes the disk {name} and does not hold its data; export the \
                 machine itself, not only its metadata"
            );
            violation_at(ErrorKind::Corrupt, "disk-without-data", message, at, findings)?;
        } else if self.size.is_some_and(|size| end < size) {
            let message =
                format!("the last chunk of the disk {name} is missing: it ends at byte {end}");
            violation_at(ErrorKind::Truncated, "last-chunk-missing", message, at, findings)?;
        }
        self.size.get_or_insert(end);
        Ok(())
    }
}

fn too_large(size: u64) -> Error {
    let message = format!("a disk of {size} bytes is beyond the 64 TiB that are read");
    Error::new(ErrorKind::TooLarge, message)
}

/// The chosen disk of those that are described; `main` is the machine whose devices count, because
/// its snapshots have the same.
fn select<'a>(disks: &'a [OvaDisk], which: &DiskChoice, main: Option<&str>) -> Result<&'a OvaDisk> {
    let found = match which {
        DiskChoice::Only if disks.len() == 1 => disks.first(),
        DiskChoice::Only => None,
        DiskChoice::Index(index) => disks.get(*index),
        DiskChoice::Reference(name) => disks.iter().find(|d| d.reference == *name),
        DiskChoice::Device(device) => {
            let at = |d: &&OvaDisk| d.userdevice.as_ref() == Some(device);
            let own = disks.iter().filter(at).find(|d| d.vm.as_deref() == main);
            own.or_else(|| disks.iter().find(at))
        }
    };
    found.ok_or_else(|| {
        let what = match which {
            DiskChoice::Only => "it is not said which of them".to_owned(),
            DiskChoice::Index(index) => format!("none has the index {index}"),
            DiskChoice::Reference(name) => format!("none is {}", shown(name)),
            DiskChoice::Device(device) => format!("none is at device {}", shown(device)),
        };
        let there: Vec<String> = disks.iter().take(16).map(ToString::to_string).collect();
        let message =
            format!("the archive has {} disks and {what}: {}", disks.len(), there.join(", "));
        Error::new(ErrorKind::Usage, message)
    })
}

impl Scan for XvaStream {
    fn virtual_size(&self) -> Option<u64> {
        self.size
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>> {
        while !self.done {
            match self.walk.step(buf)? {
                Step::End => self.finish()?,
                Step::Chunk(head) => {
                    if head.len > 0 && self.is_chosen(&head)? {
                        let keep = self.accept(&head, buf)?;
                        buf.truncate(keep);
                        if keep > 0 {
                            return Ok(Some(head.offset));
                        }
                    }
                }
            }
        }
        buf.clear();
        Ok(None)
    }
}
