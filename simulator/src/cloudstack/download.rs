//! The download of a registered URL: once to learn its length, then once for every zone.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::register::Place;
use super::state::Shared;
use super::store::{self, Sink};
use super::template::State;

/// One request on a connection of its own. Dropping the answer's body ends the connection.
async fn request(place: &Place, method: &str) -> Result<Response<Incoming>, String> {
    if place.tls {
        return Err("this double downloads by http only".to_owned());
    }
    let refused = |e: std::io::Error| format!("Connection to {} failed: {e}", place.authority);
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await.map_err(refused)?;
    let failed = |e: hyper::Error| format!("Download from {} failed: {e}", place.authority);
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(&place.path_and_query)
        .header("host", &place.authority)
        .header("user-agent", "Apache-HttpClient (simulated)")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    send.send_request(request).await.map_err(failed)
}

fn length(response: &Response<Incoming>) -> Option<u64> {
    response.headers().get("content-length")?.to_str().ok()?.parse().ok()
}

/// What the management server asks before it accepts a URL: HEAD, and GET where that tells no
/// length. The body of the latter is not read.
pub(super) async fn remote_size(place: &Place) -> Option<u64> {
    for method in ["HEAD", "GET"] {
        if let Ok(response) = request(place, method).await
            && response.status().is_success()
            && let Some(length) = length(&response)
        {
            return Some(length);
        }
    }
    None
}

/// Downloads a template into one zone.
pub(super) async fn fetch(state: Arc<Shared>, id: String, zone: usize, place: Place) {
    let mut stopped = state.stopped.clone();
    let work = download(&state, &id, zone, &place);
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = stopped.wait_for(|stopped| *stopped) => return,
    };
    if let Err(text) = outcome {
        let _ = std::fs::remove_file(path(&state, &id, zone));
        state.with_copy(&id, zone, |copy| copy.state = State::DownloadError(text));
    }
}

fn path(state: &Shared, id: &str, zone: usize) -> std::path::PathBuf {
    state.dir.join(format!("{id}-{zone}"))
}

async fn download(state: &Shared, id: &str, zone: usize, place: &Place) -> Result<(), String> {
    let progress =
        |percent: u64| state.with_copy(id, zone, |copy| copy.state = State::Downloading(percent));
    if !state.may_fetch_from(&place.host) {
        // The route out of the storage VM does not lead there.
        return Err(format!("Connection to {} timed out", place.authority));
    }
    let response = request(place, "GET").await?;
    if response.status() != 200 {
        return Err(format!("HTTP Server returned {} (expected 200 OK)", response.status()));
    }
    let total = length(&response);
    let path = path(state, id, zone);
    let (sink, mut taken, mut body) = (Sink::start(path.clone()), 0_u64, response.into_body());
    progress(0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| format!("Download failed after {taken} bytes: {e}"))?;
        let Ok(block) = frame.into_data() else { continue };
        taken += block.len() as u64;
        if taken > state.room() {
            return Err("The download exceeds the secondary storage of the account".to_owned());
        }
        if !sink.write(block).await {
            break;
        }
        if let Some(total) = total {
            progress((taken.saturating_mul(100) / total.max(1)).min(99));
        }
    }
    sink.finish().await.map_err(|e| e.to_string())?;
    if total.is_some_and(|total| total != taken) {
        return Err(format!("Downloaded {taken} bytes, but {total:?} were announced"));
    }
    progress(100);
    let described = {
        let tables = state.tables();
        let template = tables.templates.iter().find(|template| template.id == id);
        template.map(|one| (one.format.clone(), one.checksum.clone()))
    };
    let Some((format, checksum)) = described else {
        let _ = std::fs::remove_file(&path);
        return Ok(());
    };
    let (name, file) = (place.path.clone(), path.clone());
    let work = tokio::task::spawn_blocking(move || {
        store::install(&file, &name, &format, checksum.as_deref())
    });
    let stored = work.await.map_err(|e| e.to_string())??;
    state.with_copy(id, zone, |copy| {
        (copy.size, copy.physical) = (stored.size, stored.physical);
        copy.path = Some(path);
        state.installed(copy, State::Downloading(100), State::DownloadError);
    });
    Ok(())
}
