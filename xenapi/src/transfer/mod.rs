//! What goes over a connection of its own: disks and machines as streams (`export_raw_vdi`,
//! `export`, `import_raw_vdi`, `import`), and consoles.

mod connect;
mod download;
mod ending;
mod export;
mod fetch;
mod handlers;
mod import;
mod link;
mod options;
mod pace;
mod put;
mod redirect;
mod resource;
mod sniff;
mod source;
#[cfg(feature = "console")]
mod tunnel;
mod upload;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use export::Export;
pub use handlers::MetadataExport;
pub use options::{ExportOptions, ImportOptions};
pub use pace::{Progress, Throttle};
pub use resource::{HandlerRequest, Resource};
pub use source::ImportSource;
#[cfg(feature = "console")]
pub use tunnel::ConsoleStream;

use crate::error::{Error, ErrorKind, Result};

/// A pool needs one redirect; more than this is a loop.
const MOST_REDIRECTS: usize = 4;
/// How much of an error page is read.
const LONGEST_PAGE: usize = 8 * 1024;
/// How long a cancelled task may take to end.
const ABORT_GRACE: Duration = Duration::from_secs(30);
/// The same when the transfer never began: the error is not held back for long.
const REFUSED_GRACE: Duration = Duration::from_secs(1);

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
