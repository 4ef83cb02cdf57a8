//! `PUT /v2/images/{id}/file`: the data, taken in as a stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use http_body_util::BodyExt;
use jiff::Timestamp;

use super::glance::{Caller, find, quota};
use super::http::{ERRED, Outcome, Reply, Req, glance_error};
use super::image::{Image, Status};
use super::inspect::judge;
use super::sink::{Sink, Stored};
use super::state::Shared;
use super::store::{DEFAULT, imports, writable};
use super::{Fault, inspect};
use crate::net::Hangup;

pub(super) async fn upload(
    state: &Arc<Shared>,
    req: &mut Req,
    caller: &Caller,
    id: &str,
) -> Outcome {
    let named = req.header("x-image-meta-store").unwrap_or(DEFAULT).to_owned();
    if !writable().contains(&named.as_str()) {
        return Ok(glance_error(req, 400, &format!("Unknown scheme '{named}'"), ""));
    }
    take(state, req, caller, id, Goal::Store(named)).await
}

/// `PUT /v2/images/{id}/stage`.
pub(super) async fn stage(
    state: &Arc<Shared>,
    req: &mut Req,
    caller: &Caller,
    id: &str,
) -> Outcome {
    if !imports(state) {
        let said = "'glance-direct' method is not available at this site.";
        return Ok(glance_error(req, 404, said, ""));
    }
    take(state, req, caller, id, Goal::Stage).await
}

/// Where the data go.
enum Goal {
    Store(String),
    Stage,
}

async fn take(
    state: &Arc<Shared>,
    req: &mut Req,
    caller: &Caller,
    id: &str,
    goal: Goal,
) -> Outcome {
    let declared = match check_headers(state, req) {
        Ok(declared) => declared,
        Err(refusal) => return Ok(*refusal),
    };
    let room = room(state, caller);
    if declared.unwrap_or(0) > room {
        return Ok(too_large(req, "the quota of the project"));
    }
    let mut saving = match begin(state, req, caller, id, goal) {
        Ok(saving) => saving,
        Err(refusal) => return Ok(*refusal),
    };
    let limits = Limits::of(state, room);
    if declared.unwrap_or(0) > limits.cap {
        return Ok(too_large(req, "the size cap of an image"));
    }
    let sink = Sink::start(saving.path.clone(), state.faults.on(&Fault::Sha256Multihash));
    let taken = take_body(req, &sink, &limits).await;
    let stored = sink.finish().await;
    // Returning from here on lets `saving` put the image back to `queued`, unless told not to.
    taken.map_or_else(|refused| refused, |size| saving.complete(req, declared, size, stored))
}

/// The size that the client declares, if any.
fn check_headers(state: &Shared, req: &Req) -> Result<Option<u64>, Box<Reply>> {
    let media_type = req.media_type().unwrap_or_default();
    if media_type != "application/octet-stream" {
        let said = format!("The request media type {media_type} is not supported by this server.");
        let detail = format!("Invalid content type {media_type}");
        return Err(Box::new(glance_error(req, 415, &said, &detail)));
    }
    let header = req.header("x-openstack-image-size");
    let size = match header.filter(|_| !state.faults.on(&Fault::NoSizeHeader)) {
        Some(text) => text.trim().parse().map(Some),
        // Zero means unknown there.
        None => Ok(req.header("content-length").and_then(|n| n.parse().ok()).filter(|n| *n > 0)),
    };
    size.map_err(|_| {
        Box::new(glance_error(req, 400, "Invalid or missing image size in request headers.", ""))
    })
}

fn too_large(req: &Req, limit: &str) -> Reply {
    glance_error(req, 413, &format!("The incoming image is too large: it exceeds {limit}."), "")
}

/// The bytes that the project may still store.
pub(super) fn room(state: &Shared, caller: &Caller) -> u64 {
    let tables = state.tables();
    let own = tables.images.iter().filter(|image| image.owner == caller.project);
    quota(state).saturating_sub(own.map(super::store::used).sum())
}

impl Goal {
    /// The status of an image on the way.
    fn status(&self) -> Status {
        match self {
            Self::Store(_) => Status::Saving,
            Self::Stage => Status::Uploading,
        }
    }
}

/// What ends an upload before its body does.
struct Limits {
    cap: u64,
    room: u64,
    fails: Option<(u16, u64)>,
    close: Option<u64>,
}

impl Limits {
    fn of(state: &Shared, room: u64) -> Self {
        let cap = state.faults.peek(|fault| match fault {
            Fault::SizeCap(bytes) => Some(*bytes),
            _ => None,
        });
        let fails = state.faults.take(|fault| match fault {
            Fault::UploadFails { status, after } => Some((*status, *after)),
            _ => None,
        });
        let close = state.faults.take(|fault| match fault {
            Fault::UploadClose(after) => Some(*after),
            _ => None,
        });
        Self { cap: cap.unwrap_or(1 << 40), room, fails, close }
    }

    /// What happens once `taken` bytes are in.
    fn reached(&self, req: &Req, taken: u64) -> Option<Outcome> {
        if self.close.is_some_and(|after| taken >= after) {
            return Some(Err(Hangup));
        }
        if let Some((status, _)) = self.fails.filter(|(_, after)| taken >= *after) {
            return Some(Ok(glance_error(req, status, "The upload has failed on purpose.", "")));
        }
        if taken > self.cap {
            return Some(Ok(too_large(req, "the size cap of an image")));
        }
        (taken > self.room).then(|| Ok(too_large(req, "the quota of the project")))
    }
}

/// Feeds the sink to the end of the body. What is left of the body stays with the request.
async fn take_body(req: &mut Req, sink: &Sink, limits: &Limits) -> Result<u64, Outcome> {
    let mut taken = 0;
    if let Some(end) = limits.reached(req, taken) {
        return Err(end);
    }
    let Some(mut body) = req.body.take() else { return Ok(0) };
    while let Some(frame) = body.frame().await {
        // The client went away in the middle.
        let Ok(frame) = frame else { return Err(Err(Hangup)) };
        let Ok(block) = frame.into_data() else { continue };
        taken += block.len() as u64;
        if let Some(end) = limits.reached(req, taken) {
            req.body = Some(body);
            return Err(end);
        }
        if !sink.write(block).await {
            req.body = Some(body);
            let said = "Image storage media cannot be written.";
            return Err(Ok(glance_error(req, 503, said, "")));
        }
    }
    Ok(taken)
}

/// An image in status `saving`, which goes back to `queued` when this is dropped.
struct Saving {
    state: Arc<Shared>,
    id: String,
    region: usize,
    path: PathBuf,
    goal: Goal,
    done: bool,
}

/// Takes the image from `queued` to `saving`: only one upload can do that.
fn begin(
    state: &Arc<Shared>,
    req: &Req,
    caller: &Caller,
    id: &str,
    goal: Goal,
) -> Result<Saving, Box<Reply>> {
    let mut tables = state.tables();
    let image = find(&mut tables, req, caller, id)?;
    if !caller.admin && image.owner != caller.project {
        let said = format!("Not allowed to upload image data for image {id}");
        return Err(Box::new(glance_error(req, 403, &said, "")));
    }
    if image.status != Status::Queued {
        let status = image.status.as_str();
        let to = goal.status().as_str();
        let said = format!("Image status transition from {status} to {to} is not allowed");
        return Err(Box::new(glance_error(req, 409, &said, "")));
    }
    let formats = image.disk_format.is_some() && image.container_format.is_some();
    if !formats && matches!(goal, Goal::Store(_)) {
        let said = "Properties disk_format, container_format must be set prior to saving data.";
        return Err(Box::new(glance_error(req, 400, said, "")));
    }
    if image.refused {
        // The store still knows the data that were refused: the id is burnt for uploads.
        return Err(Box::new(glance_error(req, 500, ERRED, "")));
    }
    image.status = goal.status();
    image.updated = Timestamp::now();
    let ending = if matches!(goal, Goal::Stage) { ".staged" } else { "" };
    let path = state.dir.join(format!("{}-{id}{ending}", image.region));
    Ok(Saving {
        state: Arc::clone(state),
        id: id.to_owned(),
        region: req.region,
        path,
        goal,
        done: false,
    })
}

impl Drop for Saving {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let _ = std::fs::remove_file(&self.path);
        let (id, region) = (self.id.as_str(), self.region);
        let mut tables = self.state.tables();
        let own = |image: &&mut Image| image.id == id && image.region == region;
        let Some(image) = tables.images.iter_mut().find(own) else { return };
        if image.status == self.goal.status() {
            image.status = Status::Queued;
            image.updated = Timestamp::now();
        }
    }
}

impl Saving {
    fn complete(
        &mut self,
        req: &Req,
        declared: Option<u64>,
        size: u64,
        stored: std::io::Result<Stored>,
    ) -> Outcome {
        let Ok(stored) = stored else { return Ok(glance_error(req, 500, ERRED, "")) };
        if let Some(declared) = declared.filter(|declared| *declared != size) {
            let said = format!("The size {declared} was declared, {size} bytes were uploaded.");
            return Ok(glance_error(req, 400, &said, ""));
        }
        let state = Arc::clone(&self.state);
        let mut tables = state.tables();
        let (id, region) = (self.id.as_str(), self.region);
        let own = |image: &&mut Image| image.id == id && image.region == region;
        let Some(image) = tables.images.iter_mut().find(own) else {
            let said = format!(
                "Image {id} could not be found after upload. The image may have been deleted \
                 during the upload, cleaning up the chunks uploaded."
            );
            return Ok(glance_error(req, 410, &said, ""));
        };
        let Goal::Store(store) = &self.goal else {
            // What it is will be looked at by the import.
            image.size = Some(size);
            image.staged = Some(self.path.clone());
            image.updated = Timestamp::now();
            self.done = true;
            return Ok(Reply::empty(204));
        };
        let checked = record(&state, image, &stored, store);
        let verdict = match checked {
            Ok(passed) => passed,
            Err(why) => {
                image.refused = true;
                drop(tables);
                let said = "The request media type application/octet-stream is not supported by \
                            this server.";
                return Ok(glance_error(req, 415, said, &why));
            }
        };
        image.size = Some(size);
        image.virtual_size = verdict.virtual_size;
        self.done = settle(&state, image, &self.path);
        if !self.done {
            image.size = None;
            image.virtual_size = None;
        }
        drop(tables);
        Ok(Reply::empty(204))
    }
}

/// Notes the digests, which stay even when the data are then refused, and judges the data.
pub(super) fn record(
    state: &Shared,
    image: &mut Image,
    stored: &Stored,
    store: &str,
) -> Result<inspect::Passed, String> {
    let wrong = |digest: &str| {
        // Another first digit: still a digest, but not of these data.
        let first = if digest.starts_with('0') { '1' } else { '0' };
        format!("{first}{}", digest.get(1..).unwrap_or_default())
    };
    let (mut md5, (algorithm, mut hash)) = (stored.md5.clone(), stored.hash.clone());
    if state.faults.strikes(&Fault::HashMismatch) {
        (md5, hash) = (wrong(&md5), wrong(&hash));
    }
    image.checksum = Some(md5).filter(|_| !state.faults.on(&Fault::NoChecksum));
    image.hash = Some((algorithm, hash));
    image.stores = vec![store.to_owned()];
    let bare = image.container_format.as_deref() == Some("bare");
    if bare && !state.faults.on(&Fault::NoFormatCheck) {
        judge(&stored.head, stored.size, image.disk_format.as_deref())
    } else {
        Ok(inspect::Passed { virtual_size: None })
    }
}

/// Where a good upload ends: `active`, unless a fault says otherwise. False when the data are
/// given up.
fn settle(state: &Shared, image: &mut Image, path: &Path) -> bool {
    let slow = state.faults.take(|fault| match fault {
        Fault::SlowActivate(delay) => Some(*delay),
        _ => None,
    });
    image.updated = Timestamp::now();
    if state.faults.strikes(&Fault::ImageKilled) {
        image.status = Status::Killed;
        return false;
    }
    if state.faults.strikes(&Fault::ImageBackToQueued) {
        return false;
    }
    image.file = Some(path.to_owned());
    if state.faults.strikes(&Fault::StuckSaving) {
        return true;
    }
    match slow {
        Some(delay) => image.active_at = Some(Instant::now() + delay),
        None => image.status = Status::Active,
    }
    true
}
