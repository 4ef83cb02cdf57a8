//! An opened image and what is known about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::vhd::{DiskType, VhdDisk};
use crate::{Disk, Finding, Format};

/// An opened image: its disks and its description.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Image {
    info: ImageInfo,
    disks: Vec<Arc<dyn Disk>>,
    parents: Vec<PathBuf>,
    /// The disk once more, if it is a chain of VHDs.
    chain: Option<Arc<VhdDisk>>,
}

impl Image {
    pub(crate) fn new(info: ImageInfo, disks: Vec<Arc<dyn Disk>>) -> Self {
        Self { info, disks, parents: Vec::new(), chain: None }
    }

    /// Remembers the files that were opened below the image itself.
    pub(crate) fn with_parents(mut self, parents: Vec<PathBuf>) -> Self {
        self.parents = parents;
        self
    }

    /// Remembers that the disk is a chain.
    pub(crate) fn with_chain(mut self, chain: Arc<VhdDisk>) -> Self {
        self.chain = Some(chain);
        self
    }

    /// The layers of a VHD or of a chain of VHDs, the youngest first: each shows the disk as it
    /// was then, with a map of only what the layer stores itself (see
    /// [`VhdDisk::layer_view`]). Empty for other formats.
    pub fn layers(&self) -> Vec<Arc<dyn Disk>> {
        let Some(chain) = &self.chain else { return Vec::new() };
        let views = (0..chain.depth()).filter_map(|index| chain.layer_view(index));
        views.map(|view| Arc::new(view) as Arc<dyn Disk>).collect()
    }

    /// The disks, in the order of [`ImageInfo::disks`]. Every format but an archive of several
    /// has one.
    pub fn disks(&self) -> &[Arc<dyn Disk>] {
        &self.disks
    }

    /// The description.
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// The parents that were found by the rules of [`open`](crate::open), youngest first: files
    /// that must not be written while the image is read.
    pub fn parents(&self) -> &[PathBuf] {
        &self.parents
    }

    /// The disk with this reference, or at this index.
    pub fn disk(&self, reference: &str) -> Option<&Arc<dyn Disk>> {
        let by_ref = self.info.disks.iter().position(|d| d.reference == reference);
        let index = by_ref.or_else(|| reference.parse().ok())?;
        self.disks.get(index)
    }
}

/// The kinds of VHD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subformat {
    /// All bytes in place.
    Fixed,
    /// Blocks on demand.
    Dynamic,
    /// Differences to a parent.
    Differencing,
}

impl From<DiskType> for Subformat {
    fn from(kind: DiskType) -> Self {
        match kind {
            DiskType::Fixed => Self::Fixed,
            DiskType::Dynamic => Self::Dynamic,
            DiskType::Differencing => Self::Differencing,
        }
    }
}

impl fmt::Display for Subformat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        })
    }
}

/// What is known about an image from its metadata.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageInfo {
    pub(crate) format: Format,
    pub(crate) subformat: Option<Subformat>,
    pub(crate) virtual_size: u64,
    pub(crate) current_size: Option<u64>,
    pub(crate) geometry_size: Option<u64>,
    pub(crate) creator: Option<String>,
    pub(crate) block_size: Option<u64>,
    pub(crate) parent: Option<ParentInfo>,
    pub(crate) disks: Vec<DiskInfo>,
    pub(crate) findings: Vec<Finding>,
}

impl ImageInfo {
    pub(crate) fn of_disk(format: Format, virtual_size: u64) -> Self {
        Self {
            format,
            subformat: None,
            virtual_size,
            current_size: None,
            geometry_size: None,
            creator: None,
            block_size: None,
            parent: None,
            disks: vec![DiskInfo { reference: "0".into(), virtual_size }],
            findings: Vec::new(),
        }
    }

    /// The format of the file.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Fixed, dynamic or differencing; VHD only.
    pub fn subformat(&self) -> Option<Subformat> {
        self.subformat
    }

    /// The guest-visible size in bytes, by the size policy of the options.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// The footer's current size in bytes; VHD only.
    pub fn current_size(&self) -> Option<u64> {
        self.current_size
    }

    /// The size in bytes by cylinders, heads and sectors, to which some readers cut the disk;
    /// VHD only.
    pub fn geometry_size(&self) -> Option<u64> {
        self.geometry_size
    }

    /// Who wrote the file, such as `tap`; VHD only.
    pub fn creator(&self) -> Option<&str> {
        self.creator.as_deref()
    }

    /// The unit of allocation in bytes: VHD's block, QCOW2's cluster.
    pub fn block_size(&self) -> Option<u64> {
        self.block_size
    }

    /// The parent or backing file that the image names.
    pub fn parent(&self) -> Option<&ParentInfo> {
        self.parent.as_ref()
    }

    /// The disks in the image.
    pub fn disks(&self) -> &[DiskInfo] {
        &self.disks
    }

    /// Oddities that were met while the image was opened, the parents' included.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

/// One disk of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskInfo {
    pub(crate) reference: String,
    pub(crate) virtual_size: u64,
}

impl DiskInfo {
    /// How the image calls the disk; its index where it has no name.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The guest-visible size in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }
}

/// The parent that an image names, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentInfo {
    pub(crate) name: String,
    pub(crate) uuid: Option<String>,
    pub(crate) path: Option<PathBuf>,
}

impl ParentInfo {
    /// The name in the image; outside data, for people only.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parent's UUID in its usual text form; `None` for a raw parent and for QCOW2.
    pub fn uuid(&self) -> Option<&str> {
        self.uuid.as_deref()
    }

    /// The file that was taken for the parent; `None` from [`info`](crate::info), which looks
    /// for none.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}
