//! Faults that a test or `--fault NAME=ARG` switches on.

use std::sync::{Arc, Mutex, PoisonError};

/// The faults of one [`OpenStack`](super::OpenStack) double; clones share one set.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    set: Arc<Mutex<Vec<String>>>,
}

impl Faults {
    /// Switches a fault on from its text `NAME` or `NAME=ARG`, as `--fault` gives it.
    ///
    /// # Errors
    ///
    /// A sentence when the name is unknown or the argument does not fit.
    pub fn set_str(&self, text: &str) -> Result<(), String> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
        Ok(())
    }

    /// Switches every fault off.
    pub fn clear(&self) {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
