//! What goes over a connection of its own: disks and machines as streams (`export_raw_vdi`,
//! `export`), and consoles.

mod connect;
mod export;
mod redirect;
mod sniff;
#[cfg(feature = "console")]
mod tunnel;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use export::Export;
#[cfg(feature = "console")]
pub use tunnel::ConsoleStream;

use crate::error::{Error, ErrorKind, Result};
use crate::refs::Ref;
use crate::vdi::Vdi;

/// The form in which the server sends a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExportFormat {
    /// Every byte of the disk, zeros included.
    Raw,
    /// A dynamic VHD of what the disk's chain holds, or with a base of the difference to it.
    /// Servers refuse it for disks of more than 2040 GiB.
    #[default]
    Vhd,
    /// A QCOW2 image; servers since XAPI 25.27.
    Qcow2,
    /// A tar file of 1 MiB pieces with their checksums.
    Tar,
}

impl ExportFormat {
    /// The name that the server knows the format by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Qcow2 => "qcow2",
            Self::Tar => "tar",
        }
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ExportFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Raw, Self::Vhd, Self::Qcow2, Self::Tar]
            .into_iter()
            .find(|f| f.as_str() == text)
            .ok_or_else(|| {
                Error::new(ErrorKind::Config, "an export format is raw, vhd, qcow2 or tar")
            })
    }
}

/// How the server compresses the archive of a machine. Its processor is often the bottleneck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XvaCompression {
    /// Not at all; regions of zeros are left out anyway.
    #[default]
    None,
    /// gzip, which all servers know.
    Gzip,
    /// Zstandard, several times as fast; since Citrix Hypervisor 8.0 and XCP-ng 8.0. An older
    /// server sends the archive without compression instead.
    Zstd,
}

impl XvaCompression {
    /// The name that the server knows it by; none for none.
    #[must_use]
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Settings of an export.
#[derive(Clone, Debug)]
#[must_use]
#[non_exhaustive]
pub struct ExportOptions {
    pub(crate) task_label: String,
    pub(crate) task_description: String,
    pub(crate) base: Option<Ref<Vdi>>,
    pub(crate) inactivity: Duration,
    pub(crate) task_timeout: Duration,
}

impl ExportOptions {
    /// `task_label` becomes the name of the task that the server keeps for the export. Make it one
    /// that a later run can find, to clean up after this one.
    pub fn new(task_label: impl Into<String>) -> Self {
        Self {
            task_label: task_label.into(),
            task_description: String::new(),
            base: None,
            inactivity: Duration::from_secs(15 * 60),
            task_timeout: Duration::from_secs(15 * 60),
        }
    }

    /// Describes the task.
    pub fn with_task_description(mut self, text: impl Into<String>) -> Self {
        self.task_description = text.into();
        self
    }

    /// Sends only what differs from `base`, an ancestor of the disk or an earlier snapshot of it.
    /// For VHD, and for QCOW2.
    pub fn with_base(mut self, base: Ref<Vdi>) -> Self {
        self.base = Some(base);
        self
    }

    /// How long nothing may come before the export counts as dead; 15 minutes unless told
    /// otherwise, because a server that skips an empty region sends nothing for minutes.
    pub fn with_inactivity_timeout(mut self, timeout: Duration) -> Self {
        self.inactivity = timeout;
        self
    }

    /// How long the task may take to end after the last byte; 15 minutes unless told otherwise.
    pub fn with_task_timeout(mut self, timeout: Duration) -> Self {
        self.task_timeout = timeout;
        self
    }
}
