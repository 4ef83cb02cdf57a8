//! What came out: a table for people, JSON for machines.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Stop, Verdict};
use crate::process::Result;

/// The outcome of one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    name: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Parts that this machine could not run.
    skipped: Vec<String>,
    /// How long it took.
    pub(crate) seconds: f64,
    figures: Map<String, Value>,
}

impl Entry {
    /// An entry that has shown nothing yet.
    pub(crate) fn new(name: &'static str) -> Self {
        let (outcome, why, skipped) = ("running", None, Vec::new());
        Self { name, outcome, why, skipped, seconds: 0.0, figures: Map::new() }
    }

    /// Records a measured or observed value.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Says that a part could not run here.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        eprintln!("e2e: {}: skipped: {what}: {why}", self.name);
        self.skipped.push(format!("{what}: {why}"));
    }

    /// Fixes the outcome.
    pub(crate) fn conclude(&mut self, verdict: Verdict) {
        (self.outcome, self.why) = match verdict {
            Ok(()) => ("passed", None),
            Err(Stop::Skip(why)) => ("skipped", Some(why)),
            Err(Stop::Fail(why)) => ("FAILED", Some(why)),
        };
    }

    /// Whether something is wrong.
    pub(crate) fn failed(&self) -> bool {
        self.outcome == "FAILED"
    }

    /// The outcome in one line.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{} in {:.1} s", self.outcome, self.seconds);
        if let Some(why) = &self.why {
            line += &format!(": {why}");
        }
        if !self.skipped.is_empty() {
            line += &format!(" (skipped: {})", self.skipped.join("; "));
        }
        line
    }
}

/// The outcomes of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    scenarios: Vec<Entry>,
}

impl Report {
    /// Adds an outcome.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.scenarios.push(entry);
    }

    /// Whether any scenario failed; a skipped one did not.
    pub(crate) fn any_failed(&self) -> bool {
        self.scenarios.iter().any(Entry::failed)
    }

    /// Writes all of it as JSON.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        std::fs::write(file, text + "\n").map_err(|e| format!("{}: {e}", file.display()))
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        println!();
        for entry in &self.scenarios {
            println!("{:20} {}", entry.name, entry.line());
            for (name, value) in &entry.figures {
                println!("{:20}   {name}: {value}", "");
            }
        }
        let count = |outcome| self.scenarios.iter().filter(|e| e.outcome == outcome).count();
        let (passed, failed, skipped) = (count("passed"), count("FAILED"), count("skipped"));
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    }
}
