//! Waiting for a volume's data.

use super::get;
use super::record::{Volume, VolumeState};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result, is_quota, one_line};
use crate::wait::{WaitOptions, Waiting};

/// How often a volume may be missing before it is taken to be no more.
const LOOKS: u32 = 4;

impl Client {
    /// Waits until a volume can be attached: its data are there, or it needs none.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] as soon as its upload has failed, with the server's words; [`ErrorKind::NotFound`] if it is not
    /// there; [`ErrorKind::Timeout`] with how far it came.
    pub async fn wait_volume(&self, id: &str, options: &WaitOptions) -> Result<Volume> {
        let what = format!("volume {id}");
        let mut waiting = Waiting::new(&what, options);
        let mut missing = 0;
        loop {
            let found = match self.call_all(get(id)).await {
                Ok(rows) => rows.into_iter().find(|volume| volume.id == id),
                Err(error) if error.is_not_found() => None,
                Err(error) => {
                    waiting.bear(error).await?;
                    continue;
                }
            };
            let Some(volume) = found else {
                missing += 1;
                if missing >= LOOKS {
                    let text = format!("{what}: it is not there (any more)");
                    return Err(Error::new(ErrorKind::NotFound, text));
                }
                waiting.pause("it is not there").await?;
                continue;
            };
            missing = 0;
            match judge(&volume) {
                Ok(true) => return Ok(volume),
                Ok(false) => {
                    let state = volume.state.as_ref().map_or("no state", VolumeState::as_str);
                    let status = volume.status.as_deref().unwrap_or_default();
                    waiting.pause(format!("{state} {status}").trim()).await?;
                }
                Err(reason) => {
                    let text = format!("{what}: it failed: {reason}; delete it and begin anew");
                    let kind = if is_quota(&reason) { ErrorKind::Quota } else { ErrorKind::Failed };
                    return Err(Error::new(kind, text));
                }
            }
        }
    }
}

/// Whether it can be attached; an error if it never will be.
fn judge(volume: &Volume) -> Result<bool, String> {
    let because = |word: &str| {
        let status = one_line(volume.status.as_deref().unwrap_or_default(), 400);
        if status.is_empty() { word.to_owned() } else { format!("{word}: {status}") }
    };
    match &volume.state {
        Some(VolumeState::Uploaded | VolumeState::Ready | VolumeState::Allocated) => Ok(true),
        Some(
            state @ (VolumeState::UploadError
            | VolumeState::UploadAbandoned
            | VolumeState::Destroy
            | VolumeState::Destroying
            | VolumeState::Expunging
            | VolumeState::Expunged),
        ) => Err(because(state.as_str())),
        Some(VolumeState::Unknown(word)) if word.to_ascii_lowercase().contains("error") => {
            Err(because(word))
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Record;
    use serde_json::json;

    #[test]
    fn every_state_has_its_meaning() {
        let state = |word: &str| {
            judge(&Volume::read(&json!({"id": "v", "state": word, "status": "a\nb"})).unwrap())
        };
        for word in ["Uploaded", "Ready", "Allocated"] {
            assert_eq!(state(word), Ok(true));
        }
        for word in ["NotUploaded", "UploadInProgress", "UploadOp", "Creating", "Pondering", ""] {
            assert_eq!(state(word), Ok(false), "{word}");
        }
        for word in ["UploadError", "UploadAbandoned", "Destroy", "Expunged", "StorageError"] {
            assert_eq!(state(word), Err(format!("{word}: a b")));
        }
        assert_eq!(judge(&Volume::read(&json!({"id": "v"})).unwrap()), Ok(false));
    }
}
