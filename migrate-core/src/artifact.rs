//! What a builder makes: the description of a machine, and its disks to be read.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{CancelToken, Error, ErrorKind, Result};

/// The form in which an artifact holds a machine.
///
/// The names that the original tooling knew are accepted as aliases:
///
/// ```
/// use migrate_core::ArtifactFormat;
/// for (text, format) in [
///     ("xva", ArtifactFormat::Xva),
///     ("vdi_raw", ArtifactFormat::Raw),
///     ("vhd_raw", ArtifactFormat::Raw),
///     ("vhd", ArtifactFormat::Vhd),
///     ("vdi_vhd", ArtifactFormat::Vhd),
/// ] {
///     assert_eq!(text.parse::<ArtifactFormat>()?, format);
/// }
/// assert!("none".parse::<ArtifactFormat>().is_err());
/// # Ok::<(), migrate_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArtifactFormat {
    /// `xva`: the whole machine in one archive.
    Xva,
    /// `vdi_raw`, `vhd_raw`: each disk as its plain bytes.
    Raw,
    /// `vhd`, `vdi_vhd`: each disk as a VHD, streamed by the pool or read from its files.
    Vhd,
}

impl fmt::Display for ArtifactFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xva => "xva",
            Self::Raw => "vdi_raw",
            Self::Vhd => "vhd",
        })
    }
}

impl FromStr for ArtifactFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "xva" => Ok(Self::Xva),
            "raw" | "vdi_raw" | "vhd_raw" => Ok(Self::Raw),
            "vhd" | "vdi_vhd" => Ok(Self::Vhd),
            _ => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "{text:?} is no artifact format: use xva, vdi_raw, vhd, vhd_raw or vdi_vhd"
                ),
            )),
        }
    }
}

/// How a machine is virtualised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Virtualization {
    /// Paravirtualised: the guest's kernel talks to Xen.
    Pv,
    /// A full virtual machine, with a firmware of its own.
    Hvm,
    /// Not known.
    Unknown,
}

/// What a machine boots by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Firmware {
    /// A PC BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// None (a PV guest), or not known.
    Unknown,
}

/// What is known of a machine, of its clone's point of view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its UUID at the source, if it has one there.
    pub uuid: Option<String>,
    /// How it is virtualised.
    pub virtualization: Virtualization,
    /// What it boots by.
    pub firmware: Firmware,
    /// Whether it boots only what is signed.
    pub secure_boot: bool,
    /// Its memory in bytes, 0 if not known.
    pub memory: u64,
    /// How many virtual CPUs it has, 0 if not known.
    pub vcpus: u32,
    /// `linux` or `windows`, if that is known.
    pub os_type: Option<String>,
    /// The distribution as the guest calls it, like `debian`.
    pub os_distro: Option<String>,
    /// The version of the distribution as the guest calls it.
    pub os_version: Option<String>,
    /// Whether the hypervisor's tools have been seen to run in it.
    #[serde(default)]
    pub tools: bool,
    /// Its disks in the order of their positions; the first one boots.
    pub disks: Vec<DiskInfo>,
}

impl Machine {
    /// A machine of which only the name is known.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            uuid: None,
            virtualization: Virtualization::Unknown,
            firmware: Firmware::Unknown,
            secure_boot: false,
            memory: 0,
            vcpus: 0,
            os_type: None,
            os_distro: None,
            os_version: None,
            tools: false,
            disks: Vec::new(),
        }
    }

    /// Adds a disk behind those that are there.
    #[must_use]
    pub fn with_disk(mut self, disk: DiskInfo) -> Self {
        self.disks.push(disk);
        self
    }

    /// The name of the image of disk `index`: `name` or the machine's own, and for the disks behind
    /// the first one their number.
    pub(crate) fn image_name(&self, name: Option<&String>, index: usize) -> String {
        let name = name.unwrap_or(&self.name);
        if index == 0 { name.clone() } else { format!("{name}-disk{}", index + 1) }
    }

    /// About how many bytes its disks store.
    #[cfg(any(feature = "cloudstack", feature = "openstack"))]
    pub(crate) fn stored(&self) -> u64 {
        total(self.disks.iter().map(|d| d.allocated.unwrap_or(d.virtual_size)))
    }
}

/// A sum of sizes that a stranger told: it may be beyond all bounds.
pub(crate) fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// What is known of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DiskInfo {
    /// Its name.
    pub name: String,
    /// Its id at the source: the UUID of a VDI, the path of a file.
    pub id: String,
    /// Its guest-visible size in bytes.
    pub virtual_size: u64,
    /// About how many bytes of it are stored, if that is known.
    pub allocated: Option<u64>,
}

impl DiskInfo {
    /// A disk of `virtual_size` bytes.
    pub fn new(name: impl Into<String>, id: impl Into<String>, virtual_size: u64) -> Self {
        Self { name: name.into(), id: id.into(), virtual_size, allocated: None }
    }
}

/// What a builder made: a machine at one moment, readable as often as needed until the builder
/// tidies up.
#[async_trait]
pub trait Artifact: Send + Sync {
    /// The machine.
    fn machine(&self) -> &Machine;

    /// The form in which the disks are held.
    fn format(&self) -> ArtifactFormat;

    /// Opens disk `index` from its beginning; it may be opened again, and gives the same content.
    ///
    /// Read it from a thread that may block ([`tokio::task::spawn_blocking`]): the data may come
    /// over a network. `cancel` ends it early, also while a read waits.
    ///
    /// # Errors
    /// There is no such disk, or it cannot be read.
    async fn open(&self, index: usize, cancel: &CancelToken) -> Result<Box<dyn vmimage::Source>>;

    /// Waits until nothing is under way any more for the disks that were opened and dropped.
    async fn settle(&self) {}
}
