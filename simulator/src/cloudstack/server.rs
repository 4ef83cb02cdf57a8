//! The listeners: the API with its signature check on one port, the upload server on another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::http::{Hangup, Reply, merge};
use super::state::Shared;
use super::{api, upload};

/// Where the API is, as on every server.
pub(super) const API: &str = "/client/api";

/// The largest form.
const FORM: usize = 2 << 20;

/// How long the body of a request that was answered early is still read, so that the client
/// finds the answer and not a reset connection.
const LINGER: Duration = Duration::from_secs(2);

/// What listens behind a port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    Api,
    Upload,
}

/// Accepts until the task that runs it is ended, which ends the connections as well.
pub(super) async fn serve(listener: TcpListener, state: Arc<Shared>, role: Role) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    drop(connections.spawn(connection(stream, Arc::clone(&state), role)));
                }
                // Out of file handles, say: try again, but do not spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<Shared>, role: Role) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(Arc::clone(&state), request, role));
    // An error here is the client's doing or a fault's.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An error makes hyper drop the connection without an answer.
async fn answer(
    state: Arc<Shared>,
    request: Request<Incoming>,
    role: Role,
) -> Result<Response<Full<Bytes>>, Dropped> {
    // In a task of its own: a command that has begun comes to its end, though the client left.
    let work = tokio::spawn(async move {
        let mut stopped = state.stopped.clone();
        let run = async {
            match role {
                Role::Api => command(&state, request).await,
                Role::Upload => uploaded(&state, request).await,
            }
        };
        tokio::select! {
            outcome = run => outcome,
            _ = stopped.wait_for(|stopped| *stopped) => Err(Hangup),
        }
    });
    match work.await {
        Ok(Ok(reply)) => Ok(reply.into_response()),
        Ok(Err(Hangup)) | Err(_) => Err(Dropped),
    }
}

#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is dropped on purpose")
    }
}

impl std::error::Error for Dropped {}

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
    let reply = api::handle(state, &pairs, post).await?;
    let date = state.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    Ok(reply.with_header("date", date))
}

async fn uploaded(state: &Arc<Shared>, request: Request<Incoming>) -> Result<Reply, Hangup> {
    let (parts, mut body) = request.into_parts();
    let reply = upload::handle(state, &parts, &mut body).await?;
    if body.is_end_stream() {
        return Ok(reply);
    }
    if parts.headers.get("expect").is_none() {
        let mut stopped = state.stopped.clone();
        tokio::spawn(async move {
            let drain = async { while let Some(Ok(_)) = body.frame().await {} };
            tokio::select! {
                () = drain => {}
                () = tokio::time::sleep(LINGER) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
    }
    Ok(reply.with_header("connection", "close"))
}
