//! What a transfer is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::pace::{Progress, Tell, Throttle};
use crate::call::Call;
use crate::refs::Ref;
use crate::sr::Sr;
use crate::task::{self, Task};
use crate::tasks::Cancel;
use crate::vdi::Vdi;

/// What all transfers are told.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) task_label: String,
    pub(super) task_description: String,
    pub(super) inactivity: Duration,
    pub(super) task_timeout: Duration,
    pub(super) throttle: Option<Throttle>,
    pub(super) tell: Option<Tell>,
}

impl Common {
    pub(super) fn new(task_label: String, inactivity: Duration, task_timeout: Duration) -> Self {
        Self {
            task_label,
            task_description: String::new(),
            inactivity,
            task_timeout,
            throttle: None,
            tell: None,
        }
    }

    /// The call that makes the transfer's task.
    pub(super) fn create_task(&self) -> Call<Ref<Task>> {
        task::create(&self.task_label, &self.task_description)
    }

    /// Shows it among the fields of what it is part of.
    pub(super) fn show(&self, out: &mut fmt::DebugStruct<'_, '_>) {
        out.field("task_label", &self.task_label)
            .field("inactivity", &self.inactivity)
            .field("task_timeout", &self.task_timeout)
            .field("throttle", &self.throttle);
    }
}

/// The setters that all transfers have, for a structure with a field `common`. Two of them mean
/// something else where bytes go the other way, and are described by the one who calls this.
macro_rules! common_setters {
    (inactivity: $inactivity:literal, task_timeout: $task_timeout:literal $(,)?) => {
        /// Describes the task.
        pub fn with_task_description(mut self, text: impl Into<String>) -> Self {
            self.common.task_description = text.into();
            self
        }

        #[doc = $inactivity]
        pub fn with_inactivity_timeout(mut self, timeout: Duration) -> Self {
            self.common.inactivity = timeout;
            self
        }

        #[doc = $task_timeout]
        pub fn with_task_timeout(mut self, timeout: Duration) -> Self {
            self.common.task_timeout = timeout;
            self
        }

        /// Limits the rate, together with all other transfers that have a clone of `throttle`.
        pub fn with_throttle(mut self, throttle: Throttle) -> Self {
            self.common.throttle = Some(throttle);
            self
        }

        /// Is told of progress: of the bytes, and of the server's task, which is watched for that.
        /// The transfer waits for `tell` to return.
        pub fn with_progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
            self.common.tell = Some(Arc::new(tell));
            self
        }
    };
}
pub(super) use common_setters;

/// Settings of an export.
#[derive(Clone)]
#[must_use]
#[non_exhaustive]
pub struct ExportOptions {
    pub(super) common: Common,
    pub(super) base: Option<Ref<Vdi>>,
    /// Whether an archive in gzip is inflated.
    pub(super) inflate: bool,
}

impl ExportOptions {
    /// `task_label` becomes the name of the task that the server keeps for the export. Make it one
    /// that a later run can find, to clean up after this one.
    pub fn new(task_label: impl Into<String>) -> Self {
        let quarter = Duration::from_secs(15 * 60);
        let common = Common::new(task_label.into(), quarter, quarter);
        Self { common, base: None, inflate: false }
    }

    /// Sends only what differs from `base`, an ancestor of the disk or an earlier snapshot of it.
    /// For VHD, and for QCOW2.
    pub fn with_base(mut self, base: Ref<Vdi>) -> Self {
        self.base = Some(base);
        self
    }

    /// Inflates a machine's archive in gzip as it passes: its checksums are compared, and the tar
    /// file in it must have its end. Without this only the length at the end of the stream is
    /// looked at, which one in 512 streams has that were cut anywhere.
    ///
    /// It takes no memory to speak of, but a processor for as long as `gzip -t` would.
    #[cfg(feature = "gzip")]
    pub fn with_gzip_check(mut self, check: bool) -> Self {
        self.inflate = check;
        self
    }

    common_setters! {
        inactivity: "How long nothing may come before the export counts as dead; 15 minutes unless \
            told otherwise, because a server that skips an empty region sends nothing for minutes.",
        task_timeout: "How long the task may take to end after the last byte; 15 minutes unless \
            told otherwise.",
    }
}

impl fmt::Debug for ExportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ExportOptions");
        self.common.show(&mut out);
        out.field("base", &self.base).finish_non_exhaustive()
    }
}

/// Settings of an import.
#[derive(Clone)]
#[must_use]
#[non_exhaustive]
pub struct ImportOptions {
    pub(super) common: Common,
    pub(super) sr: Option<Ref<Sr>>,
    pub(super) restore: bool,
    pub(super) force: bool,
    pub(super) cancel: Option<Cancel>,
}

impl ImportOptions {
    /// `task_label` becomes the name of the task that the server keeps for the import. Make it one
    /// that a later run can find, to clean up after this one.
    pub fn new(task_label: impl Into<String>) -> Self {
        let (quarter, hour) = (Duration::from_secs(15 * 60), Duration::from_secs(60 * 60));
        Self {
            common: Common::new(task_label.into(), quarter, hour),
            sr: None,
            restore: false,
            force: false,
            cancel: None,
        }
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

    /// Ends the import when `cancel` says so: its connection is closed, its task cancelled.
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    common_setters! {
        inactivity: "How long the source may give nothing, or the server take nothing; 15 minutes \
            unless told otherwise.",
        task_timeout: "How long the server may take to end its answer after the last byte, and \
            then the task; an hour each unless told otherwise.",
    }
}

impl fmt::Debug for ImportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ImportOptions");
        self.common.show(&mut out);
        out.field("sr", &self.sr)
            .field("restore", &self.restore)
            .field("force", &self.force)
            .finish_non_exhaustive()
    }
}
