//! A journal without a file.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Entry, Journal};
use crate::Result;

/// A journal in memory: for tests, and for runs that need not survive their process. Clones
/// share one list of entries.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal(Arc<Mutex<Vec<Entry>>>);

impl MemoryJournal {
    /// An empty journal.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A journal that already holds `entries`.
    pub fn with_entries(entries: Vec<Entry>) -> Self {
        Self(Arc::new(Mutex::new(entries)))
    }

    /// All entries so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn load(&mut self) -> Result<Vec<Entry>> {
        Ok(self.entries())
    }

    async fn append(&mut self, entry: &Entry) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry.clone());
        Ok(())
    }
}
