//! The one error of this crate: a kind, a context and a source.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with an image, and where.
///
/// `Display` prints the kind, the object and the remedy on one line; the cause, where there is
/// one, is only in [`source()`](std::error::Error::source).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    tolerable: bool,
}

/// The classes of failure; match on these, never on the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes violate the format: a bad checksum, a table outside of the file.
    Corrupt,
    /// The input ends before the format says that it does. Trying again may help for a stream.
    Truncated,
    /// The image is sound, but uses something that this crate refuses or does not know.
    Unsupported,
    /// The image names another file (a VHD parent, a QCOW2 backing file) that was not found or
    /// that the caller did not allow.
    Reference,
    /// The target format cannot hold this disk.
    TooLarge,
    /// The caller asked for something that does not fit together.
    Usage,
    /// The operating system or the stream below failed.
    Io,
    /// The caller's cancel flag was set.
    Cancelled,
}

impl Error {
    /// An error of `kind` with a message that names the object, what happened and the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            offset: None,
            source: None,
            tolerable: false,
        }))
    }

    /// The format is violated.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// The input ends too early.
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// Sound, but refused or unknown.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// An I/O failure while doing `what`. An error of this crate that was carried by an I/O error
    /// comes out as itself.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let source = match source.downcast::<Self>() {
            Ok(own) => return own,
            Err(source) => source,
        };
        let kind = match source.kind() {
            std::io::ErrorKind::UnexpectedEof => ErrorKind::Truncated,
            _ => ErrorKind::Io,
        };
        Self::new(kind, what).with_source(source)
    }

    /// Adds the file that the error is about, unless one is named already.
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Adds the byte offset within the image file, unless one is named already.
    #[must_use]
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether a lenient reading ([`OpenOptions::lenient`](crate::OpenOptions::lenient)) goes on
    /// where this one has ended.
    pub fn is_tolerable(&self) -> bool {
        self.0.tolerable
    }

    pub(crate) fn tolerable(mut self) -> Self {
        self.0.tolerable = true;
        self
    }

    /// The file that the error is about, where it is about one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset in the image file, where the error is about one place.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&self.0.message)?;
        if let Some(offset) = self.0.offset {
            write!(f, " (at byte {offset})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("path", &self.0.path)
            .field("offset", &self.0.offset)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}
