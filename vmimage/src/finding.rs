//! What is odd about an image, collected while it is read.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// How a parser treats a violation that it could survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Policy {
    /// A violation is an error.
    #[default]
    Strict,
    /// A violation is a finding, and the parser goes on with the most plausible reading.
    Lenient,
}

/// How grave a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Severity {
    /// Odd or against the letter of the format; the guest's bytes are not in doubt.
    Finding,
    /// The guest's bytes are in doubt, or another reader may refuse or misread the image.
    Corrupt,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finding => "finding",
            Self::Corrupt => "corrupt",
        })
    }
}

/// One oddity of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// A stable, greppable name such as `footer-mismatch`.
    pub code: &'static str,
    /// What was found, on one line.
    pub message: String,
    /// The byte offset in the image file, where it is about one place.
    pub offset: Option<u64>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.code, self.message)?;
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset})")?;
        }
        Ok(())
    }
}

/// The oddities met so far, and the policy that decides which of them end the reading.
///
/// Their number is bounded ([`Findings::LIMIT`]), so that a hostile image cannot fill the memory
/// with complaints about itself; what came after is only counted.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    policy: Policy,
    list: Vec<Finding>,
    more: u64,
    worst: Option<Severity>,
}

impl Findings {
    /// How many findings are kept.
    pub const LIMIT: usize = 100;

    /// An empty list under `policy`.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// The policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// What was found, in the order of discovery.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// How many findings were dropped because [`LIMIT`](Self::LIMIT) was reached.
    pub fn dropped(&self) -> u64 {
        self.more
    }

    /// The gravest severity met, dropped findings included.
    pub fn worst(&self) -> Option<Severity> {
        self.worst
    }

    /// Records an oddity that never ends the reading.
    pub fn note(&mut self, code: &'static str, message: impl Into<String>) {
        self.push(Severity::Finding, code, message.into(), None);
    }

    /// As [`note`](Self::note), about one place in the file.
    pub fn note_at(&mut self, code: &'static str, message: impl Into<String>, offset: u64) {
        self.push(Severity::Finding, code, message.into(), Some(offset));
    }

    /// Records that the guest's bytes are in doubt, without ending the reading.
    pub fn corrupt(&mut self, code: &'static str, message: impl Into<String>, offset: Option<u64>) {
        self.push(Severity::Corrupt, code, message.into(), offset);
    }

    /// A violation of the format: an error under [`Policy::Strict`], a finding otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] under the strict policy.
    pub fn violation(&mut self, code: &'static str, message: impl Into<String>) -> Result<()> {
        self.violation_of(ErrorKind::Corrupt, code, message)
    }

    /// As [`violation`](Self::violation) where the guest's bytes are not in doubt: an error under
    /// [`Policy::Strict`], a note otherwise.
    pub(crate) fn oddity(&mut self, code: &'static str, message: impl Into<String>) -> Result<()> {
        if self.policy == Policy::Strict {
            return Err(Error::corrupt(message).tolerable());
        }
        self.note(code, message);
        Ok(())
    }

    /// As [`violation`](Self::violation) with another kind of error.
    ///
    /// # Errors
    /// One of `kind` under the strict policy.
    pub fn violation_of(
        &mut self,
        kind: ErrorKind,
        code: &'static str,
        message: impl Into<String>,
    ) -> Result<()> {
        let message = message.into();
        if self.policy == Policy::Strict {
            return Err(Error::new(kind, message).tolerable());
        }
        self.push(Severity::Corrupt, code, message, None);
        Ok(())
    }

    /// Takes over what was found elsewhere, each message under the name of its file.
    pub fn absorb(&mut self, name: &str, other: &Self) {
        for f in &other.list {
            self.push(f.severity, f.code, format!("{name}: {}", f.message), f.offset);
        }
        self.more += other.more;
        self.worst = self.worst.max(other.worst);
    }

    fn push(&mut self, severity: Severity, code: &'static str, message: String, at: Option<u64>) {
        self.worst = self.worst.max(Some(severity));
        if self.list.len() < Self::LIMIT {
            self.list.push(Finding { severity, code, message, offset: at });
        } else {
            self.more += 1;
        }
    }
}

/// The result of [`check`](crate::check): everything found, and what it amounts to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    findings: Findings,
}

impl Report {
    /// A report of `findings`.
    pub fn new(findings: Findings) -> Self {
        Self { findings }
    }

    /// What was found; at most [`Findings::LIMIT`] entries.
    pub fn findings(&self) -> &[Finding] {
        self.findings.list()
    }

    /// How many findings were left out of [`findings`](Self::findings).
    pub fn dropped(&self) -> u64 {
        self.findings.dropped()
    }

    /// What it amounts to.
    pub fn verdict(&self) -> Verdict {
        match self.findings.worst() {
            None => Verdict::Sound,
            Some(Severity::Finding) => Verdict::Findings,
            Some(Severity::Corrupt) => Verdict::Corrupt,
        }
    }
}

/// What a [`Report`] amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing was found.
    Sound,
    /// Oddities, but the guest's bytes are not in doubt.
    Findings,
    /// The guest's bytes are in doubt, or another reader may refuse or misread the image.
    Corrupt,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sound => "sound",
            Self::Findings => "findings",
            Self::Corrupt => "corrupt",
        })
    }
}
