//! The listeners: the API with its signature check on one port, the upload server on another.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response};
use tokio::net::TcpListener;

use super::http::{Reply, merge};
use super::state::Shared;
use super::{api, upload};
use crate::net::{self, Hangup};

/// Where the API is, as on every server.
pub(super) const API: &str = "/client/api";

/// The largest form.
const FORM: usize = 2 << 20;

/// What listens behind a port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Api,
    Upload,
}

/// Accepts until the task that runs it is ended, which ends the connections as well.
pub(super) async fn serve(listener: TcpListener, state: Arc<Shared>, role: Role) {
    let stopped = state.stopped.clone();
    let answer = move |request| answer(Arc::clone(&state), request, role);
    net::serve(listener, http1::Builder::new(), stopped, answer).await;
}

async fn answer(
    state: Arc<Shared>,
    request: Request<Incoming>,
    role: Role,
) -> Result<Response<Full<Bytes>>, Hangup> {
    let reply = match role {
        Role::Api => command(&state, request).await,
        Role::Upload => uploaded(&state, request).await,
    };
    reply.map(Reply::into_response)
}

async fn command(state: &Arc<Shared>, request: Request<Incoming>) -> Result<Reply, Hangup> {
    let (parts, body) = request.into_parts();
    if parts.uri.path().trim_end_matches('/') != API {
        return Ok(Reply::text(404, "HTTP ERROR 404 Not Found\n"));
    }
    let post = match parts.method {
        Method::GET => false,
        Method::POST => true,
        _ => return Ok(Reply::text(405, "HTTP ERROR 405 Method Not Allowed\n")),
    };
    let media_type = parts.headers.get("content-type").and_then(|value| value.to_str().ok());
    let form = media_type.is_some_and(|value| {
        value.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded")
    });
    let body = Limited::new(body, FORM).collect().await.map_err(|_| Hangup)?.to_bytes();
    let body = String::from_utf8_lossy(&body);
    let form = if post && form { body.as_ref() } else { "" };
    let pairs = merge(parts.uri.query().unwrap_or_default(), form);
    if let Some(after) = api::delay(state, &pairs) {
        tokio::spawn(arriving(Arc::clone(state), pairs, post, after));
        return Err(Hangup);
    }
    let reply = api::handle(state, &pairs, post).await?;
    let date = state.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    Ok(reply.with_header("date", date))
}

/// A request that is on its way for longer than anybody waits.
async fn arriving(
    state: Arc<Shared>,
    pairs: Vec<(String, String)>,
    post: bool,
    after: std::time::Duration,
) {
    let mut stopped = state.stopped.clone();
    tokio::select! {
        () = tokio::time::sleep(after) => {}
        _ = stopped.wait_for(|stopped| *stopped) => return,
    }
    let _ = api::handle(&state, &pairs, post).await;
}

async fn uploaded(state: &Arc<Shared>, request: Request<Incoming>) -> Result<Reply, Hangup> {
    let (parts, mut body) = request.into_parts();
    let reply = upload::handle(state, &parts, &mut body).await?;
    if body.is_end_stream() {
        return Ok(reply);
    }
    if parts.headers.get("expect").is_none() {
        net::drain(body, state.stopped.clone());
    }
    Ok(reply.with_header("connection", "close"))
}
