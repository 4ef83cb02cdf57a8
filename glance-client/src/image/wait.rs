//! Waiting for an image to become active.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::call::get;
use super::record::{Image, ImageStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::keystone::ServiceClient;

/// How to wait.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WaitOptions {
    /// How long at most (10 minutes).
    pub timeout: Duration,
    /// The first pause between two looks (200 ms); it grows by half each time, up to `longest_pause`.
    pub first_pause: Duration,
    /// The longest pause (5 s).
    pub longest_pause: Duration,
    /// Whether `queued` is a state to wait in. It is not after an upload, where it means that the upload failed;
    /// it is before somebody else's upload.
    pub queued_is_pending: bool,
    /// Set it to stop waiting.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
            queued_is_pending: false,
            cancel: None,
        }
    }
}

impl WaitOptions {
    /// How long at most.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The pauses between two looks: the first, and the longest.
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// Whether `queued` is a state to wait in.
    #[must_use]
    pub fn with_queued_pending(mut self, pending: bool) -> Self {
        self.queued_is_pending = pending;
        self
    }

    /// A flag that stops waiting.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.cancel = Some(cancel);
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
    let start = Instant::now();
    let mut pause = options.first_pause;
    loop {
        let last = match client.call(get(id)).await {
            Ok(image) => {
                let failed = image.failed_stores().join(", ");
                match judge(&image, options) {
                    Verdict::Done if failed.is_empty() => return Ok(image),
                    Verdict::Done => {
                        let text = format!("image {id}: the import into {failed} failed");
                        return Err(Error::new(ErrorKind::Failed, text));
                    }
                    Verdict::Failed(why) => {
                        let stores = if failed.is_empty() {
                            failed
                        } else {
                            format!(" (failed stores: {failed})")
                        };
                        let text = format!(
                            "image {id}: it is {} and not active{stores}: {why}",
                            image.status
                        );
                        return Err(Error::new(ErrorKind::Failed, text));
                    }
                    Verdict::Pending => image.status.to_string(),
                }
            }
            Err(error) if error.is_not_found() => {
                return Err(Error::new(
                    ErrorKind::Failed,
                    format!("image {id}: it has vanished; Glance deletes an image whose token expired during the upload"),
                )
                .with_source(error));
            }
            // A server that is restarted for a moment has not lost the image.
            Err(error) if error.is_retryable() && start.elapsed() < options.timeout => {
                error.to_string()
            }
            Err(error) => return Err(error),
        };
        let left = options.timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            let limit = options.timeout.as_secs_f32();
            let text = format!("image {id}: not active after {limit} s (last: {last})");
            return Err(Error::new(ErrorKind::Timeout, text));
        }
        sleep(pause.min(left), options.cancel.as_deref(), id).await?;
        pause = (pause.saturating_mul(3) / 2).min(options.longest_pause);
    }
}

/// Sleeps, but not through a cancellation.
pub(super) async fn sleep(pause: Duration, cancel: Option<&AtomicBool>, id: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        if cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                format!("image {id}: waiting was cancelled"),
            ));
        }
        let left = pause.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(left.min(Duration::from_millis(200))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn any_pause_can_be_cancelled() {
        let cancel = AtomicBool::new(true);
        let error = sleep(Duration::MAX, Some(&cancel), "1").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }

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
