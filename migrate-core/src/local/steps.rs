//! The steps in a folder: create it, write, verify, describe, publish.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use vmimage::{TargetFormat, Watch};

use super::names::{failed, give_name, remove, sync, take_name};
use crate::files::blocking;
use crate::transfer::{self, Outgoing, Sent};
use crate::{Artifact, Error, ErrorKind, Leftover, Probe, Result, Step, StepCx};

/// Makes the folder, unless it is there.
pub(super) struct CreateFolder {
    pub(super) folder: PathBuf,
}

#[async_trait]
impl Step for CreateFolder {
    const NAME: &'static str = "create-folder";
    const VERSION: u32 = 1;
    /// Whether it is ours to remove.
    type Output = bool;

    async fn run(&self, _: &StepCx) -> Result<bool> {
        let folder = self.folder.clone();
        blocking(move || match std::fs::create_dir(&folder) {
            Ok(()) => {
                // Only a comfort: without it a power cut may take the folder with what is in it.
                let _ = folder.parent().map(sync);
                Ok(true)
            }
            Err(_) if folder.is_dir() => Ok(false),
            Err(e) => Err(failed(&folder, e)),
        })
        .await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<bool>> {
        // A folder of somebody else's is hardly ever empty, and an empty one is soon made again.
        let folder = self.folder.clone();
        let empty = blocking(move || Ok(is_empty(&folder))).await?;
        Ok(empty.map_or(Probe::Absent, Probe::Done))
    }

    async fn undo(&self, _: &StepCx, made: Option<bool>) -> Result<()> {
        if made == Some(false) {
            return Ok(());
        }
        let folder = self.folder.clone();
        blocking(move || match std::fs::remove_dir(&folder) {
            // What others have put into it meanwhile stays.
            Err(e) if is_empty(&folder) == Some(true) => Err(failed(&folder, e)
                .with_leftovers([Leftover::new("folder", folder.display().to_string())])),
            _ => Ok(()),
        })
        .await
    }
}

/// Whether nothing is in a folder; `None` if there is no such folder.
fn is_empty(folder: &Path) -> Option<bool> {
    std::fs::read_dir(folder).ok().map(|mut entries| entries.next().is_none())
}

/// Writes the image of a disk under its hidden name.
pub(super) struct WriteFile {
    pub(super) artifact: Arc<dyn Artifact>,
    pub(super) part: PathBuf,
    pub(super) index: usize,
    pub(super) format: TargetFormat,
}

impl WriteFile {
    /// Takes the bytes into the file; zeros become holes.
    async fn write(part: PathBuf, mut outgoing: Outgoing) -> Result<()> {
        let path = part.clone();
        let open = move || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&path).map_err(|e| failed(&path, e))
        };
        let mut file = blocking(open).await?;
        let mut len = 0;
        while let Some(piece) = outgoing.body.next().await {
            let piece = piece.map_err(|e| Error::new(ErrorKind::Data, e.to_string()))?;
            len += piece.len() as u64;
            let path = part.clone();
            file = blocking(move || put(file, &piece).map_err(|e| failed(&path, e))).await?;
        }
        blocking(move || {
            file.set_len(len).and_then(|()| file.sync_all()).map_err(|e| failed(&part, e))
        })
        .await
    }
}

fn put(mut file: File, piece: &[u8]) -> io::Result<File> {
    if piece.iter().all(|b| *b == 0) {
        file.seek(SeekFrom::Current(i64::try_from(piece.len()).map_err(io::Error::other)?))?;
    } else {
        file.write_all(piece)?;
    }
    Ok(file)
}

#[async_trait]
impl Step for WriteFile {
    const NAME: &'static str = "transfer";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("file");
    type Output = Sent;

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<Sent> {
        let part = self.part.clone();
        transfer::send(cx, &self.artifact, self.index, self.format, |outgoing| {
            Self::write(part, outgoing)
        })
        .await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Sent>> {
        // Half a file is written anew, a whole one as well: its digests are not known.
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Sent>) -> Result<()> {
        let part = self.part.clone();
        blocking(move || remove(&part)).await
    }
}

/// Reads back what was written.
pub(super) struct VerifyFile {
    pub(super) part: PathBuf,
    pub(super) index: usize,
    pub(super) format: TargetFormat,
    pub(super) sent: Sent,
}

#[async_trait]
impl Step for VerifyFile {
    const NAME: &'static str = "verify";
    const VERSION: u32 = 1;
    type Output = ();

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<()> {
        let (part, format, sent) = (self.part.clone(), self.format, self.sent.clone());
        // The thread hears the cancellation itself: the end of the process would wait for it.
        let watch = Watch::new().with_cancel(cx.cancel().flag());
        let verify = move || {
            let wrong = |what: &str| {
                Error::new(
                    ErrorKind::Data,
                    format!(
                        "{}: {what} is not what was written: check the storage",
                        part.display()
                    ),
                )
            };
            if std::fs::metadata(&part).map_err(|e| failed(&part, e))?.len() != sent.bytes {
                return Err(wrong("the size"));
            }
            let readable = match format {
                TargetFormat::Qcow2 => vmimage::Format::Qcow2,
                TargetFormat::VhdDynamic | TargetFormat::VhdFixed => vmimage::Format::Vhd,
                _ => vmimage::Format::Raw,
            };
            let options = vmimage::OpenOptions::new().with_format(readable);
            let image = vmimage::open(&part, &options)?;
            let disk = image.disks().first().ok_or_else(|| wrong("the content"))?.as_ref();
            let same = match format {
                // To look into an archive takes room for all of it: its own bytes are compared.
                TargetFormat::VhdTgz => vmimage::guest_sha256_watched(disk, &watch)? == sent.sha256,
                _ => vmimage::content_root_watched(disk, &watch)? == sent.content_root,
            };
            if same { Ok(()) } else { Err(wrong("the content")) }
        };
        let verified = blocking(verify).await;
        cx.check()?;
        verified
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        Ok(())
    }
}

/// Writes the manifest under its hidden name.
pub(super) struct WriteManifest {
    pub(super) part: PathBuf,
    pub(super) text: String,
    /// The name that it will have.
    pub(super) name: String,
}

#[async_trait]
impl Step for WriteManifest {
    const NAME: &'static str = "manifest";
    const VERSION: u32 = 1;
    type Output = String;

    async fn run(&self, _: &StepCx) -> Result<String> {
        let (part, text) = (self.part.clone(), self.text.clone());
        blocking(move || {
            let written = File::create(&part)
                .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()));
            written.map_err(|e| failed(&part, e))
        })
        .await?;
        Ok(self.name.clone())
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<String>> {
        // To do it again is to ask whether it is done.
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<String>) -> Result<()> {
        let part = self.part.clone();
        blocking(move || remove(&part)).await
    }
}

/// Gives the files their names.
pub(super) struct Publish {
    pub(super) folder: PathBuf,
    /// The hidden name and the one to be, of the images and then of the manifest.
    pub(super) files: Vec<(PathBuf, PathBuf)>,
}

#[async_trait]
impl Step for Publish {
    const NAME: &'static str = "publish";
    const VERSION: u32 = 2;
    type Output = ();

    async fn run(&self, _: &StepCx) -> Result<()> {
        let (folder, files) = (self.folder.clone(), self.files.clone());
        blocking(move || {
            for (part, path) in &files {
                give_name(part, path)?;
            }
            // The journal will say that they are there.
            sync(&folder)
        })
        .await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        // To do it again is to ask whether it is done.
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        let files = self.files.clone();
        blocking(move || files.iter().try_for_each(|(part, path)| take_name(part, path))).await
    }
}
