//! The steps at Glance: create, transfer, verify, publish.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use glance_client::image::{self, Digests, Image, ImagePatch, ImageStatus, NewImage, Visibility};
use glance_client::{Glance, Upload, WaitOptions};
use serde::{Deserialize, Serialize};
use vmimage::TargetFormat;

use super::RUN_PROPERTY;
use crate::transfer::{self, Sent};
use crate::{Artifact, Error, ErrorKind, Leftover, Probe, Result, Step, StepCx};

/// A pool may send nothing for minutes while it passes over empty space.
const STALL: Duration = Duration::from_secs(1800);
/// How long an upload of a dead process may stay in `saving`: 10 minutes.
const SAVING_LOOKS: u32 = 200;

/// A failure of Glance, about `what`.
pub(super) fn failed(what: impl std::fmt::Display, e: glance_client::Error) -> Error {
    Error::from(e).context(what)
}

async fn find(glance: &Glance, id: &str) -> Result<Option<Image>> {
    match glance.call(image::get(id)).await {
        Ok(image) => Ok(Some(image)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn is_of_run(image: &Image, cx: &StepCx) -> bool {
    image.properties.get(RUN_PROPERTY).is_some_and(|v| *v == cx.run_id().to_string())
}

/// Makes the private, empty image of a disk.
pub(super) struct CreateImage {
    pub(super) glance: Glance,
    pub(super) image: NewImage,
    pub(super) index: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Created {
    pub(super) id: String,
}

impl CreateImage {
    fn id(&self) -> Result<&str> {
        self.image
            .id
            .as_deref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an image without an id of ours"))
    }
}

#[async_trait]
impl Step for CreateImage {
    const NAME: &'static str = "create-image";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("image");
    type Output = Created;

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<Created> {
        let id = self.id()?.to_owned();
        match self.glance.create(&self.image).await {
            Ok(_) => Ok(Created { id }),
            // An earlier attempt of this run made it; nobody else can have this id.
            Err(e) if e.is_conflict() => match find(&self.glance, &id).await? {
                Some(image) if is_of_run(&image, cx) => Ok(Created { id }),
                _ => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Created>> {
        let id = self.id()?;
        Ok(match find(&self.glance, id).await? {
            Some(_) => Probe::Done(Created { id: id.to_owned() }),
            None => Probe::Absent,
        })
    }

    async fn undo(&self, cx: &StepCx, _: Option<Created>) -> Result<()> {
        let id = self.id()?;
        let left = |kind: &str| [Leftover::new(kind, id).with_name(&self.image.name)];
        let found = find(&self.glance, id).await.map_err(|e| e.with_leftovers(left("image")))?;
        let Some(image) = found else { return Ok(()) };
        if !is_of_run(&image, cx) {
            // A journal that knows of the publishing has put the mark back by now.
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "image {id} is published, and the journal does not know of it: delete it by hand if nobody uses it"
                ),
            )
            .with_leftovers(left("published image")));
        }
        match self.glance.call(image::delete(id)).await {
            Err(e) if !e.is_not_found() => Err(Error::from(e).with_leftovers(left("image"))),
            _ => Ok(()),
        }
    }
}

/// Sends a disk into its image.
pub(super) struct Transfer {
    pub(super) glance: Glance,
    pub(super) artifact: Arc<dyn Artifact>,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) format: TargetFormat,
}

impl Transfer {
    /// The state of the image, once no upload of a dead process is under way any more.
    async fn settled(&self, cx: &StepCx) -> Result<Image> {
        for _ in 0..SAVING_LOOKS {
            let image = cx.guard(find(&self.glance, &self.id)).await?.ok_or_else(|| {
                Error::new(
                    ErrorKind::Target,
                    format!("image {} ({}) is gone: somebody deleted it", self.name, self.id),
                )
            })?;
            match image.status {
                ImageStatus::Saving | ImageStatus::Uploading | ImageStatus::Importing => {
                    cx.sleep(Duration::from_secs(3)).await?;
                }
                _ => return Ok(image),
            }
        }
        Err(Error::new(
            ErrorKind::Target,
            format!("image {} ({}) is still saving data that nobody sends", self.name, self.id),
        ))
    }
}

#[async_trait]
impl Step for Transfer {
    const NAME: &'static str = "transfer";
    const VERSION: u32 = 1;
    type Output = Sent;

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<Sent> {
        let image = self.settled(cx).await?;
        if image.status == ImageStatus::Active {
            // The data are there, but who sent them died before the digests were written down.
            let sent = transfer::digest(cx, &self.artifact, self.index, self.format).await?;
            compare(&image, &sent)?;
            return Ok(sent);
        }
        transfer::send(cx, &self.artifact, self.index, self.format, |outgoing| async move {
            let upload = Upload::new(outgoing.len, outgoing.body)
                .with_stall_timeout(STALL)
                .with_cancel(cx.cancel().flag());
            self.glance.upload(&self.id, upload).await.map_err(|e| {
                // A token that ends on the way is renewed for the next attempt, which sends again.
                let again = e.is_retryable() || e.kind() == glance_client::ErrorKind::Unauthorized;
                Error::from(e).with_retryable(again)
            })?;
            Ok(())
        })
        .await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Sent>> {
        // What is in the image is seen when it is sent again.
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Sent>) -> Result<()> {
        // The data go with their image.
        Ok(())
    }
}

fn compare(image: &Image, sent: &Sent) -> Result<String> {
    let digests =
        Digests::new().with_md5(&sent.md5).with_sha256(&sent.sha256).with_sha512(&sent.sha512);
    image::verify(image, &digests, sent.bytes)
        .map_err(|e| Error::new(ErrorKind::Data, e.to_string()).with_source(e))
}

/// Waits until the image is active, and compares what the cloud has with what was sent.
pub(super) struct Verify {
    pub(super) glance: Glance,
    pub(super) id: String,
    pub(super) index: usize,
    pub(super) sent: Sent,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Verified {
    /// The name of the digest that was compared.
    by: String,
}

#[async_trait]
impl Step for Verify {
    const NAME: &'static str = "verify";
    const VERSION: u32 = 1;
    type Output = Verified;

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<Verified> {
        let options = WaitOptions::default().with_cancel(cx.cancel().flag());
        let image = cx.guard(async { Ok(self.glance.wait(&self.id, &options).await?) }).await?;
        Ok(Verified { by: compare(&image, &self.sent)? })
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Verified>> {
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Verified>) -> Result<()> {
        Ok(())
    }
}

/// Takes the run's mark from the images and shows them: the last step before the commit point.
pub(super) struct Publish {
    pub(super) glance: Glance,
    pub(super) ids: Vec<String>,
    pub(super) visibility: Visibility,
}

impl Publish {
    fn is_published(&self, image: &Image) -> bool {
        !image.properties.contains_key(RUN_PROPERTY)
            && image.visibility.as_ref().is_none_or(|v| *v == self.visibility)
    }

    async fn image(&self, id: &str) -> Result<Image> {
        find(&self.glance, id).await?.ok_or_else(|| {
            Error::new(ErrorKind::Target, format!("image {id} is gone: somebody deleted it"))
        })
    }
}

#[async_trait]
impl Step for Publish {
    const NAME: &'static str = "publish";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, cx: &StepCx) -> Result<()> {
        for id in &self.ids {
            cx.check()?;
            let image = self.image(id).await?;
            let mut patch = ImagePatch::new();
            if image.visibility.as_ref().is_some_and(|v| *v != self.visibility) {
                patch = patch.with("visibility", self.visibility.as_str());
            }
            // Removed in the same request: it is the last thing that tells the image is ours.
            if image.properties.contains_key(RUN_PROPERTY) {
                patch = patch.without(RUN_PROPERTY);
            }
            if patch != ImagePatch::new() {
                self.glance.call(image::update(id, &patch)).await?;
            }
        }
        Ok(())
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        for id in &self.ids {
            match find(&self.glance, id).await? {
                Some(image) if self.is_published(&image) => {}
                _ => return Ok(Probe::Absent),
            }
        }
        Ok(Probe::Done(()))
    }

    async fn undo(&self, cx: &StepCx, _: Option<()>) -> Result<()> {
        for id in &self.ids {
            let Some(image) = find(&self.glance, id).await? else { continue };
            let mut patch = ImagePatch::new();
            if image.visibility.as_ref().is_some_and(|v| *v != Visibility::Private) {
                patch = patch.with("visibility", Visibility::Private.as_str());
            }
            if !image.properties.contains_key(RUN_PROPERTY) {
                patch = patch.with(RUN_PROPERTY, cx.run_id().to_string());
            }
            if patch != ImagePatch::new() {
                let left = Leftover::new("image", id);
                self.glance
                    .call(image::update(id, &patch))
                    .await
                    .map_err(|e| Error::from(e).with_leftovers([left]))?;
            }
        }
        Ok(())
    }
}
