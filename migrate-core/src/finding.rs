//! What a preflight found.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Severity {
    /// Good to know.
    Info,
    /// The clone may not be what is expected.
    Warning,
    /// The run would fail, or its result be of no use: it does not begin.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// One finding of a preflight rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The rule, for good: words with dashes, like `vdi-over-2040-gib`.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen, with the names of the objects.
    pub evidence: String,
    /// What to do about it; empty where nothing need be done.
    pub remedy: String,
}

impl Finding {
    /// A finding of `rule`.
    pub fn new(
        rule: impl Into<String>,
        severity: Severity,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            rule: rule.into(),
            severity,
            evidence: crate::error::one_line(&evidence.into()),
            remedy: remedy.into(),
        }
    }

    /// Says that `rule` could not be checked, and why.
    pub fn not_checked(rule: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(rule, Severity::Info, format!("not checked: {why}"), "")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.rule, self.evidence)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
