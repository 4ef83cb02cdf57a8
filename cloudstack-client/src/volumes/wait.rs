//! Waiting for a volume's data.

use super::get;
use super::record::{Volume, VolumeState};
use crate::client::Client;
use crate::error::{Result, one_line};
use crate::wait::{Seen, WaitOptions, gone};

impl Client {
    /// Waits until a volume can be attached: its data are there, or it needs none. It may also be a project's.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`](crate::ErrorKind::Failed) as soon as its upload has failed, with the server's words;
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if it is not there;
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) with how far it came.
    pub async fn wait_volume(&self, id: &str, options: &WaitOptions) -> Result<Volume> {
        let what = format!("volume {id}");
        let look = || async {
            let rows = self.rows_by_id(&get(id)).await?;
            Ok(match rows.into_iter().find(|volume| volume.id == id) {
                None => Seen::Absent,
                Some(volume) => match judge(&volume) {
                    Ok(true) => Seen::Done(volume),
                    Ok(false) => {
                        let state = volume.state.as_ref().map_or("no state", VolumeState::as_str);
                        let status = volume.status.as_deref().unwrap_or_default();
                        Seen::Pending(format!("{state} {status}").trim().to_owned())
                    }
                    Err(reason) => Seen::failed(&what, &format!(": {reason}")),
                },
            })
        };
        options.until(&what, look).await?.ok_or_else(|| gone(&what))
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
