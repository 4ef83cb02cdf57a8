//! The one error of this crate: a kind, a message, leftovers and a source.

use std::fmt;

use crate::Leftover;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with a run, what it left behind, and what to do about it.
///
/// `Display` is one line: the object, what happened, the remedy, and, where there are any, the
/// exact leftovers. The cause is only in [`source()`](std::error::Error::source). No secret is
/// ever in either.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    retryable: bool,
    leftovers: Vec<Leftover>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The classes of failure; match on these, never on the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller cancelled; what had been done was undone.
    Cancelled,
    /// What was asked for does not fit together, or is not possible.
    Usage,
    /// The preflight found something that blocks.
    Preflight,
    /// A named object does not exist.
    NotFound,
    /// A name fits several objects.
    Ambiguous,
    /// The XenServer pool, or the files that stand for it, failed.
    Source,
    /// The cloud failed.
    Target,
    /// The data on the way are not whole or not what they should be.
    Data,
    /// The journal cannot be read or written.
    Journal,
    /// Another process holds the journal.
    JournalInUse,
    /// The journal belongs to another run, or to another version of a step.
    Conflict,
    /// The run was undone, now or earlier: nothing of it is left.
    Undone,
    /// The run could not be undone, or not be tidied up, completely: see the leftovers.
    Stuck,
    /// A defect in this crate or in a step.
    Internal,
}

impl Error {
    /// An error of `kind` with a message that names the object, what happened and the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: one_line(&message.into()),
            retryable: false,
            leftovers: Vec::new(),
            source: None,
        }))
    }

    /// The caller cancelled.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
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

    /// Marks the failure as one that may pass if the same is tried again.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Adds what is left behind at either end.
    #[must_use]
    pub fn with_leftovers(mut self, leftovers: impl IntoIterator<Item = Leftover>) -> Self {
        self.0.leftovers.extend(leftovers);
        self
    }

    /// Puts `context` in front of the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = one_line(&format!("{context}: {}", self.0.message));
        self
    }

    /// Where all of several things are tried: the first failure is told, with the leftovers of all.
    pub(crate) fn merge(result: Result<()>, e: Self) -> Result<()> {
        Err(match result {
            Ok(()) => e,
            Err(first) => first.with_leftovers(e.0.leftovers),
        })
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same may succeed if it is tried again.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether the caller's cancellation is the reason.
    pub fn is_cancelled(&self) -> bool {
        self.0.kind == ErrorKind::Cancelled
    }

    /// What the run left behind, exactly.
    pub fn leftovers(&self) -> &[Leftover] {
        &self.0.leftovers
    }

    /// The message and those of all causes, on one line, each said once.
    ///
    /// ```
    /// use migrate_core::{Error, ErrorKind};
    /// let cause = std::io::Error::other("connection reset");
    /// let e = Error::new(ErrorKind::Target, "upload of web01 failed").with_source(cause);
    /// assert_eq!(e.report(), "upload of web01 failed: connection reset");
    /// ```
    pub fn report(&self) -> String {
        self.with_causes(self.to_string())
    }

    /// The same without the leftovers: for a place inside of another message.
    pub(crate) fn reason(&self) -> String {
        self.with_causes(self.0.message.clone())
    }

    fn with_causes(&self, mut text: String) -> String {
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = one_line(&error.to_string());
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        text
    }
}

/// One line of printable text: control characters become spaces.
pub(crate) fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (i, leftover) in self.0.leftovers.iter().enumerate() {
            f.write_str(if i == 0 { "; left behind: " } else { ", " })?;
            write!(f, "{leftover}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("retryable", &self.0.retryable)
            .field("leftovers", &self.0.leftovers)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}

impl From<vmimage::Error> for Error {
    fn from(e: vmimage::Error) -> Self {
        let retryable = matches!(e.kind(), vmimage::ErrorKind::Truncated | vmimage::ErrorKind::Io);
        Self::new(ErrorKind::Data, e.to_string()).with_retryable(retryable).with_source(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_and_names_the_leftovers() {
        let e =
            Error::new(ErrorKind::Stuck, "cannot undo\nsnapshot").with_leftovers([Leftover::new(
                "VM snapshot",
                "OpaqueRef:1",
            )
            .with_name("migrate-run-x")]);
        assert_eq!(
            e.to_string(),
            "cannot undo snapshot; left behind: VM snapshot OpaqueRef:1 (migrate-run-x)"
        );
    }

    #[test]
    fn a_report_says_each_cause_once() {
        let cause = std::io::Error::other("reset\nby peer");
        let e = Error::new(ErrorKind::Target, "upload: reset by peer").with_source(cause);
        assert_eq!(e.report(), "upload: reset by peer");
    }
}
