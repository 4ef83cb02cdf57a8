//! The upload server: `POST /upload/{id}` with a ticket in three headers and the data as the one
//! file of a form.

use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use jiff::Timestamp;

use super::fault::UPLOAD;
use super::http::Reply;
use super::multipart::{Multipart, boundary};
use super::state::Shared;
use super::store::{self, Sink};
use super::template::State;
use super::{Fault, sign};
use crate::net::Hangup;

/// Said to the client and noted at the template.
struct Refused {
    status: u16,
    text: String,
}

impl Refused {
    fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

/// An upload that passed the checks of its ticket.
struct Accepted {
    id: String,
    zone: usize,
    format: String,
    checksum: Option<String>,
    length: u64,
}

pub(super) async fn handle(
    state: &Arc<Shared>,
    parts: &Parts,
    body: &mut Incoming,
) -> Result<Reply, Hangup> {
    let Some(id) = parts.uri.path().strip_prefix("/upload/") else {
        return Ok(Reply::text(404, "Not Found\n"));
    };
    if parts.method != Method::POST {
        return Ok(Reply::text(400, "only post requests are allowed"));
    }
    let struck = state.faults.count(UPLOAD);
    let accepted = match check(state, parts, id) {
        Ok(accepted) => accepted,
        Err(refused) => return Ok(Reply::text(refused.status, refused.text)),
    };
    let limits = Limits::of(state, struck.fails);
    let path = state.dir.join(id);
    let taken = take(state, &accepted, parts, body, &limits, path.clone()).await;
    let outcome = match taken {
        Ok(name) => settle(state, &accepted, &name, path.clone()).await,
        Err(end) => end.map_or(Err(None), |refused| Err(Some(refused))),
    };
    let reply = match outcome {
        Ok(()) => Ok(Reply::text(200, "upload successful.")),
        Err(refused) => {
            let _ = std::fs::remove_file(&path);
            let text = refused
                .as_ref()
                .map_or("file receive failed or connection closed prematurely.", |refused| {
                    refused.text.as_str()
                });
            fail(state, &accepted.id, text);
            refused.map(|refused| Reply::text(refused.status, refused.text)).ok_or(Hangup)
        }
    };
    if struck.drops { Err(Hangup) } else { reply }
}

/// Notes an error at a template, whose upload is over with it.
fn fail(state: &Shared, id: &str, text: &str) {
    let mut tables = state.tables();
    let Some(template) = tables.templates.iter_mut().find(|one| one.id == id) else { return };
    for copy in template.copies.iter_mut().filter(|copy| copy.state != State::Ready) {
        copy.state = State::UploadError(text.to_owned());
        copy.path = None;
        copy.physical = 0;
    }
}

/// The ticket, in the order in which the real server looks at it.
fn check(state: &Shared, parts: &Parts, id: &str) -> Result<Accepted, Refused> {
    let header = |name: &str| {
        let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
        value.filter(|value| !value.is_empty())
    };
    let noted = |text: &str| {
        fail_unused(state, id, text);
        Refused::new(400, text)
    };
    let ticket = (header("x-signature"), header("x-metadata"), header("x-expires"));
    let (Some(signature), Some(metadata), Some(expires)) = ticket else {
        return Err(noted("signature, metadata and expires are compulsory fields."));
    };
    let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
    let Some(length) = length.filter(|length| *length > 0) else {
        let text = "content length is not set in the request or has invalid value.";
        return Err(Refused::new(400, text));
    };
    // As the proxy in front of the server passes it on.
    let host = header("host").unwrap_or_default();
    let signed = format!("{metadata}http://{host}/upload/{id}{expires}");
    if !sign::verify(&state.psk, &signed, signature) {
        return Err(noted("signature validation failed."));
    }
    let expires: Option<Timestamp> = expires.parse().ok();
    if expires.is_none_or(|expires| expires < state.now()) {
        return Err(noted("request not valid anymore."));
    }
    accept(state, id, metadata, length)
}

/// Marks the template as being uploaded, which can be done once.
fn accept(state: &Shared, id: &str, metadata: &str, length: u64) -> Result<Accepted, Refused> {
    let cap = state.faults.peek(|fault| match fault {
        Fault::SizeCap(bytes) => Some(*bytes),
        _ => None,
    });
    let room = state.room();
    let mut tables = state.tables();
    let template = tables.templates.iter_mut().find(|one| one.id == id && one.is_own());
    let template =
        template.filter(|one| one.ticket.as_ref().is_some_and(|t| t.metadata == metadata));
    let Some(template) = template else {
        return Err(Refused::new(500, "Internal Server Error"));
    };
    let used =
        template.ticket.as_mut().is_none_or(|ticket| std::mem::replace(&mut ticket.used, true));
    if used {
        let text = format!("The one time post url for {id} has been used already.");
        return Err(Refused::new(400, text));
    }
    let (format, checksum) = (template.format.clone(), template.checksum.clone());
    let Some(copy) = template.copies.first_mut() else {
        return Err(Refused::new(500, "Internal Server Error"));
    };
    let most = cap.unwrap_or(50 << 30).min(room);
    if length > most {
        let text = format!(
            "Maximum file upload size exceeded. Content Length received: {length}B. Maximum \
             allowed size: {most}B."
        );
        copy.state = State::UploadError(text.clone());
        return Err(Refused::new(400, text));
    }
    copy.state = State::Uploading(0);
    copy.physical = length;
    Ok(Accepted { id: id.to_owned(), zone: copy.zone, format, checksum, length })
}

/// As [`fail`], but a wrong request does no harm to an upload that is under way.
fn fail_unused(state: &Shared, id: &str, text: &str) {
    let unused = {
        let tables = state.tables();
        let template = tables.templates.iter().find(|template| template.id == id);
        template.and_then(|one| one.ticket.as_ref()).is_some_and(|ticket| !ticket.used)
    };
    if unused {
        fail(state, id, text);
    }
}

/// What ends an upload before its body does.
struct Limits {
    fails: Option<(u16, u64)>,
    close: Option<u64>,
}

impl Limits {
    fn of(state: &Shared, struck: Option<u16>) -> Self {
        let fails = state.faults.take(|fault| match fault {
            Fault::UploadFails { status, after } => Some((*status, *after)),
            _ => None,
        });
        let close = state.faults.take(|fault| match fault {
            Fault::UploadClose(after) => Some(*after),
            _ => None,
        });
        Self { fails: struck.map(|status| (status, 0)).or(fails), close }
    }

    /// What happens once `taken` bytes are in; `None` in it is a closed connection.
    fn reached(&self, taken: u64) -> Option<Option<Refused>> {
        if self.close.is_some_and(|after| taken >= after) {
            return Some(None);
        }
        let (status, _) = self.fails.filter(|(_, after)| taken >= *after)?;
        Some(Some(Refused::new(status, "The upload has failed on purpose.")))
    }
}

/// Stores the file of the form; gives its name.
async fn take(
    state: &Arc<Shared>,
    accepted: &Accepted,
    parts: &Parts,
    body: &mut Incoming,
    limits: &Limits,
    path: PathBuf,
) -> Result<String, Option<Refused>> {
    if let Some(end) = limits.reached(0) {
        return Err(end);
    }
    let content_type = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
    let boundary = content_type.and_then(boundary);
    let boundary = boundary.ok_or_else(|| Some(Refused::new(500, "Needs a boundary value")))?;
    let mut form = Multipart::new(&boundary);
    let sink = Sink::start(path);
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        // The client went away in the middle.
        let Ok(frame) = frame else { return Err(None) };
        let Ok(block) = frame.into_data() else { continue };
        taken += block.len() as u64;
        if let Some(end) = limits.reached(taken) {
            return Err(end);
        }
        let blocks = form.feed(&block).map_err(|text| Some(Refused::new(500, text)))?;
        for block in blocks {
            if !sink.write(block).await {
                return Err(Some(Refused::new(500, "the file cannot be written")));
            }
        }
        let percent = taken.saturating_mul(100) / accepted.length.max(1);
        state.with_copy(&accepted.id, accepted.zone, |copy| {
            if matches!(copy.state, State::Uploading(_)) {
                copy.state = State::Uploading(percent.min(100));
            }
        });
    }
    sink.finish().await.map_err(|e| Some(Refused::new(500, e.to_string())))?;
    match form.file_name() {
        Some(name) if form.is_complete() => Ok(name.to_owned()),
        _ => Err(Some(Refused::new(422, "received entity is not a file"))),
    }
}

/// The checks of the whole file, inside the request.
async fn settle(
    state: &Arc<Shared>,
    accepted: &Accepted,
    name: &str,
    path: PathBuf,
) -> Result<(), Option<Refused>> {
    let (name, format) = (name.to_owned(), accepted.format.clone());
    let (checksum, place) = (accepted.checksum.clone(), path.clone());
    let work = tokio::task::spawn_blocking(move || {
        let fits = super::template::extension_fits(&format, &name);
        if !fits || !store::content_fits(&place, &name) {
            let text = format!(
                "File type mismatch between the sent file and the actual content. Received: {name}"
            );
            return Err(Refused::new(400, text));
        }
        let stored = store::install(&place, &name, &format, checksum.as_deref());
        stored.map_err(|text| Refused::new(500, text))
    });
    let stored = work.await.map_err(|_| Some(Refused::new(500, "Internal Server Error")))??;
    let known = state.with_copy(&accepted.id, accepted.zone, |copy| {
        (copy.size, copy.physical) = (stored.size, stored.physical);
        copy.path = Some(path);
        state.installed(copy, State::Uploading(100), State::UploadError);
    });
    // Deleted in the meantime.
    known.ok_or_else(|| Some(Refused::new(500, "Internal Server Error")))
}
