//! What goes over a connection of its own: disks and machines as streams (`export_raw_vdi`,
//! `export`, `import_raw_vdi`, `import`), and consoles.

mod connect;
mod ending;
mod export;
mod import;
mod link;
mod pace;
mod redirect;
mod sniff;
mod source;
#[cfg(feature = "console")]
mod tunnel;
mod upload;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use export::Export;
pub use pace::{Progress, Throttle};
pub use source::ImportSource;
#[cfg(feature = "console")]
pub use tunnel::ConsoleStream;

use pace::Tell;

use crate::error::{Error, ErrorKind, Result};
use crate::refs::Ref;
use crate::sr::Sr;
use crate::tasks::Cancel;
use crate::vdi::Vdi;

/// The form in which the server sends or takes a disk.
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
#[derive(Clone)]
#[must_use]
#[non_exhaustive]
pub struct ExportOptions {
    pub(crate) task_label: String,
    pub(crate) task_description: String,
    pub(crate) base: Option<Ref<Vdi>>,
    pub(crate) inactivity: Duration,
    pub(crate) task_timeout: Duration,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) tell: Option<Tell>,
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
            throttle: None,
            tell: None,
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

    /// Limits the rate, together with all other transfers that have a clone of `throttle`.
    pub fn with_throttle(mut self, throttle: Throttle) -> Self {
        self.throttle = Some(throttle);
        self
    }

    /// Is told of progress: of the bytes, and of the server's task, which is watched for that.
    /// The transfer waits for `tell` to return.
    pub fn with_progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.tell = Some(Arc::new(tell));
        self
    }
}

impl fmt::Debug for ExportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportOptions")
            .field("task_label", &self.task_label)
            .field("base", &self.base)
            .field("inactivity", &self.inactivity)
            .field("task_timeout", &self.task_timeout)
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}

/// Settings of an import.
#[derive(Clone)]
#[must_use]
#[non_exhaustive]
pub struct ImportOptions {
    pub(crate) task_label: String,
    pub(crate) task_description: String,
    pub(crate) sr: Option<Ref<Sr>>,
    pub(crate) restore: bool,
    pub(crate) force: bool,
    pub(crate) inactivity: Duration,
    pub(crate) task_timeout: Duration,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) tell: Option<Tell>,
    pub(crate) cancel: Option<Cancel>,
}

impl ImportOptions {
    /// `task_label` becomes the name of the task that the server keeps for the import. Make it one
    /// that a later run can find, to clean up after this one.
    pub fn new(task_label: impl Into<String>) -> Self {
        Self {
            task_label: task_label.into(),
            task_description: String::new(),
            sr: None,
            restore: false,
            force: false,
            inactivity: Duration::from_secs(15 * 60),
            task_timeout: Duration::from_secs(60 * 60),
            throttle: None,
            tell: None,
            cancel: None,
        }
    }

    /// Describes the task.
    pub fn with_task_description(mut self, text: impl Into<String>) -> Self {
        self.task_description = text.into();
        self
    }

    /// Where the disks of a machine go, in place of the pool's default storage.
    pub fn with_sr(mut self, sr: Ref<Sr>) -> Self {
        self.sr = Some(sr);
        self
    }

    /// Whether a machine is the one that was exported (it keeps its UUID and its MAC addresses),
    /// and not a copy of it.
    pub fn with_restore(mut self, restore: bool) -> Self {
        self.restore = restore;
        self
    }

    /// Whether the server passes over what does not fit: checksums that are wrong, disks that are
    /// missing, a processor that differs.
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// How long the source may give nothing, or the server take nothing; 15 minutes unless told
    /// otherwise.
    pub fn with_inactivity_timeout(mut self, timeout: Duration) -> Self {
        self.inactivity = timeout;
        self
    }

    /// How long the server may take to end its answer after the last byte, and then the task; an
    /// hour each unless told otherwise.
    pub fn with_task_timeout(mut self, timeout: Duration) -> Self {
        self.task_timeout = timeout;
        self
    }

    /// Limits the rate, together with all other transfers that have a clone of `throttle`.
    pub fn with_throttle(mut self, throttle: Throttle) -> Self {
        self.throttle = Some(throttle);
        self
    }

    /// Is told of progress: of the bytes, and of the server's task, which is watched for that.
    /// The transfer waits for `tell` to return.
    pub fn with_progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.tell = Some(Arc::new(tell));
        self
    }

    /// Ends the import when `cancel` says so: its connection is closed, its task cancelled.
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }
}

impl fmt::Debug for ImportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportOptions")
            .field("task_label", &self.task_label)
            .field("sr", &self.sr)
            .field("restore", &self.restore)
            .field("force", &self.force)
            .field("inactivity", &self.inactivity)
            .field("task_timeout", &self.task_timeout)
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}
