//! Waiting for an image to become active.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::call::get;
use super::record::{Image, ImageStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::keystone::ServiceClient;
use crate::poll::{Limit, Pace, Seen, poll};

/// How to wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WaitOptions {
    /// How long at most (10 minutes).
    pub timeout: Duration,
    /// How often to look, and what stops it.
    pub pace: Pace,
    /// Whether `queued` is a state to wait in. It is not after an upload, where it means that the upload failed;
    /// it is before somebody else's upload.
    pub queued_is_pending: bool,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(600), pace: Pace::default(), queued_is_pending: false }
    }
}

impl WaitOptions {
    /// How long at most.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// As [`Pace::with_pauses`].
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.pace = self.pace.with_pauses(first, longest);
        self
    }

    /// Whether `queued` is a state to wait in.
    #[must_use]
    pub fn with_queued_pending(mut self, pending: bool) -> Self {
        self.queued_is_pending = pending;
        self
    }

    /// As [`Pace::with_cancel`].
    #[must_use]
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.pace = self.pace.with_cancel(cancel);
        self
    }
}

/// What a status means to somebody who waits for `active`.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Pending,
    Failed(&'static str),
}

fn judge(image: &Image, options: &WaitOptions) -> Verdict {
    match &image.status {
        // With several stores an image is active while others still import.
        ImageStatus::Active if image.importing_to().is_empty() => Verdict::Done,
        ImageStatus::Queued if !options.queued_is_pending && !image.stores.is_empty() => {
            Verdict::Failed("the data was refused: delete the image and make a new one")
        }
        ImageStatus::Queued if !options.queued_is_pending => {
            Verdict::Failed("the data was refused or lost: send it again, or delete the image")
        }
        ImageStatus::Killed => {
            Verdict::Failed("the upload failed for good: delete the image and make a new one")
        }
        ImageStatus::Deleted | ImageStatus::PendingDelete => {
            Verdict::Failed("somebody has deleted it")
        }
        ImageStatus::Deactivated => Verdict::Failed("an operator has locked it"),
        // An unknown status may well be on the way to active; the time limit is the judge.
        _ => Verdict::Pending,
    }
}

pub(crate) async fn wait(client: &ServiceClient, id: &str, options: &WaitOptions) -> Result<Image> {
    let limit = options.timeout;
    let late = |last: &str| {
        format!("image {id}: not active after {} s (last: {last})", limit.as_secs_f32())
    };
    let look = || look(client, id, options);
    poll(&options.pace, Limit::InAll(limit), &format!("image {id}"), look, late).await
}

async fn look(client: &ServiceClient, id: &str, options: &WaitOptions) -> Result<Seen<Image>> {
    let image = client.call(get(id)).await.map_err(|error| {
        if !error.is_not_found() {
            return error;
        }
        let text = format!(
            "image {id}: it has vanished; Glance deletes an image whose token expired during the upload"
        );
        Error::new(ErrorKind::Failed, text).with_source(error)
    })?;
    let failed = image.failed_stores().join(", ");
    let text = match judge(&image, options) {
        Verdict::Pending => return Ok(Seen::Pending(image.status.to_string())),
        Verdict::Done if failed.is_empty() => return Ok(Seen::Done(image)),
        Verdict::Done => format!("image {id}: the import into {failed} failed"),
        Verdict::Failed(why) => {
            let stores = match failed.as_str() {
                "" => String::new(),
                failed => format!(" (failed stores: {failed})"),
            };
            format!("image {id}: it is {} and not active{stores}: {why}", image.status)
        }
    };
    Err(Error::new(ErrorKind::Failed, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_status_has_a_verdict() {
        let options = WaitOptions::default();
        let verdict = |status: &str, more: &str| {
            let image = json!({"id": "1", "status": status, "os_glance_importing_to_stores": more});
            judge(&Image::from_json(image).unwrap(), &options)
        };
        for status in ["queued", "killed", "deleted", "pending_delete", "deactivated"] {
            assert!(matches!(verdict(status, ""), Verdict::Failed(_)), "{status}");
        }
        for status in ["saving", "uploading", "importing", "new_in_2027"] {
            assert_eq!(verdict(status, ""), Verdict::Pending, "{status}");
        }
        assert_eq!(verdict("active", ""), Verdict::Done);
        assert_eq!(verdict("active", "slow"), Verdict::Pending);
        let queued = Image::from_json(json!({"id": "1", "status": "queued"})).unwrap();
        assert_eq!(judge(&queued, &options.with_queued_pending(true)), Verdict::Pending);
    }
}
