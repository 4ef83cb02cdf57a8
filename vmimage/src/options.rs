//! What a caller may say about an image before it is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::finding::Policy;
use crate::watch::{Cancellable, cancelled};
use crate::{Error, ErrorKind, ReadAt, Result};

/// The formats of image files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The bytes of the disk, nothing else.
    Raw,
    /// VHD: fixed, dynamic, differencing.
    Vhd,
    /// QCOW2, versions 2 and 3.
    Qcow2,
    /// XVA, or the `tar` export of a VDI; plain or compressed.
    Xva,
    /// `0.vhd` and its parents in a tar archive, usually compressed.
    Tgz,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Qcow2 => "qcow2",
            Self::Xva => "xva",
            Self::Tgz => "tgz",
        })
    }
}

impl FromStr for Format {
    type Err = Error;

    /// `raw`, `vhd` (also qemu's name for it, `vpc`), `qcow2`, `xva` or `tgz`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "raw" => Ok(Self::Raw),
            "vhd" | "vpc" => Ok(Self::Vhd),
            "qcow2" => Ok(Self::Qcow2),
            "xva" => Ok(Self::Xva),
            "tgz" => Ok(Self::Tgz),
            other => Err(Error::new(
                ErrorKind::Usage,
                format!("{other:?} is not an image format; say raw, vhd, qcow2, xva or tgz"),
            )),
        }
    }
}

/// Which field of a VHD footer is the size of the disk.
///
/// The format has two, and old writers meant the geometry. Every file that Hyper-V, XenServer
/// and XAPI write means the current size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SizePolicy {
    /// The current size, always.
    #[default]
    CurrentSize,
    /// Cylinders × heads × sectors, unless that is the largest geometry there is.
    Geometry,
    /// What QEMU since 8 does: the geometry if the creator is `qemu` or `vpc `, else the size.
    QemuCompat,
}

impl FromStr for SizePolicy {
    type Err = Error;

    /// `current`, `geometry` or `qemu`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "current" => Ok(Self::CurrentSize),
            "geometry" => Ok(Self::Geometry),
            "qemu" => Ok(Self::QemuCompat),
            other => Err(Error::new(
                ErrorKind::Usage,
                format!("{other:?} is no rule for sizes; say current, geometry or qemu"),
            )),
        }
    }
}

/// How to [`open`](crate::open) an image.
///
/// ```
/// use vmimage::{Format, OpenOptions};
/// let options = OpenOptions::new().with_format(Format::Vhd).with_parent("base.vhd");
/// assert_eq!(options.parents().len(), 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    format: Option<Format>,
    parents: Vec<PathBuf>,
    policy: Policy,
    size_policy: SizePolicy,
    spare_parents: bool,
    scratch: Option<PathBuf>,
    cancel: Option<Arc<AtomicBool>>,
}

impl OpenOptions {
    /// Probe the format, be strict, follow references by the rules of [`open`](crate::open).
    pub fn new() -> Self {
        Self::default()
    }

    /// Do not probe: the file is of `format`.
    #[must_use]
    pub fn with_format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Allows `path` as a parent, backing or data file, wherever it lies. May be repeated: one
    /// for each layer, youngest first where their order matters (QCOW2, whose files have no
    /// identity: one of another name is taken unless what the image names is there).
    #[must_use]
    pub fn with_parent(mut self, path: impl AsRef<Path>) -> Self {
        self.parents.push(path.as_ref().to_path_buf());
        self
    }

    /// Whether parents may be named that a chain does not use, which else is a mistake worth an
    /// error: for several images that are opened with the same options.
    #[must_use]
    pub fn with_spare_parents(mut self, yes: bool) -> Self {
        self.spare_parents = yes;
        self
    }

    /// Whether to survive violations of the format where that is possible.
    #[must_use]
    pub fn lenient(mut self, yes: bool) -> Self {
        self.policy = if yes { Policy::Lenient } else { Policy::Strict };
        self
    }

    /// Which size of a VHD counts.
    #[must_use]
    pub fn size_policy(mut self, policy: SizePolicy) -> Self {
        self.size_policy = policy;
        self
    }

    /// Where layers go that must be unpacked before they can be read: the members of a compressed
    /// archive that holds a chain. They are files without a name, gone when they are closed. The
    /// default is the system's folder for temporary files.
    #[must_use]
    pub fn with_scratch(mut self, folder: impl AsRef<Path>) -> Self {
        self.scratch = Some(folder.as_ref().to_path_buf());
        self
    }

    /// A flag that, once set, ends the opening or the check with
    /// [`ErrorKind::Cancelled`], and every later read of the image: it is looked at whenever the
    /// file is read. Opening is quick but for archives, whose content is read for the map; a
    /// check reads all tables. A deadline is a flag that a clock sets.
    ///
    /// Conversions, which may copy without a read, have a flag of their own:
    /// [`FileOptions::with_cancel`](crate::FileOptions::with_cancel).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("disk.raw");
    /// # std::fs::write(&path, [0; 512])?;
    /// use std::sync::Arc;
    /// use std::sync::atomic::AtomicBool;
    ///
    /// let late = Arc::new(AtomicBool::new(true));
    /// let options = vmimage::OpenOptions::new().with_cancel(late);
    /// let error = vmimage::check(&path, &options).unwrap_err();
    /// assert_eq!(error.kind(), vmimage::ErrorKind::Cancelled);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
    }

    /// The format that the caller named.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// The parents that the caller named.
    pub fn parents(&self) -> &[PathBuf] {
        &self.parents
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// The file as the flag lets it be read.
    pub(crate) fn watched(&self, file: impl ReadAt + 'static) -> Arc<dyn ReadAt> {
        match &self.cancel {
            Some(flag) => Arc::new(Cancellable::new(file, Arc::clone(flag))),
            None => Arc::new(file),
        }
    }

    /// The result of reading an image; what came of a cancelled read is not one.
    pub(crate) fn unless_cancelled<T>(&self, result: Result<T>) -> Result<T> {
        match &self.cancel {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(cancelled()),
            _ => result,
        }
    }

    pub(crate) fn has_spare_parents(&self) -> bool {
        self.spare_parents
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    pub(crate) fn size(&self) -> SizePolicy {
        self.size_policy
    }

    /// Takes the named parent with the file name of `wanted`, else the first, out of the list.
    pub(crate) fn take_parent(&mut self, wanted: &str) -> Option<PathBuf> {
        let name = Path::new(wanted).file_name();
        let index = self.parents.iter().position(|p| name.is_some() && p.file_name() == name);
        (!self.parents.is_empty()).then(|| self.parents.remove(index.unwrap_or(0)))
    }

    /// The options for a QCOW2's backing file, whose format the image may name.
    pub(crate) fn for_backing(&self, format: Option<&str>) -> Self {
        Self { format: format.and_then(|f| f.parse().ok()), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names() {
        for format in [Format::Raw, Format::Vhd, Format::Qcow2, Format::Xva, Format::Tgz] {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        assert_eq!("vmdk".parse::<Format>().unwrap_err().kind(), ErrorKind::Usage);
    }
}
