//! The listener: connections, mounts, request-level faults, and what happens to bodies that
//! nobody read.

use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::http::{Outcome, Reply, ReplyBody, Req, glance_error, keystone_error, split_path};
use super::state::Shared;
use super::{glance, keystone};
use crate::net::{self, Hangup, pairs};

/// Where the identity service is mounted.
pub(super) const IDENTITY: &str = "/identity";

/// Where the image services of the regions are mounted.
pub(super) const IMAGE: [&str; 2] = ["/image", "/image-two"];

/// Accepts until the task that runs it is ended, which ends the connections as well.
pub(super) async fn serve(listener: TcpListener, state: Arc<Shared>) {
    let stopped = state.stopped.clone();
    let mut http = http1::Builder::new();
    http.title_case_headers(true);
    net::serve(listener, http, stopped, move |request| answer(Arc::clone(&state), request)).await;
}

async fn answer(
    state: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Hangup> {
    run(&state, request).await.map(Reply::into_response)
}

async fn run(state: &Arc<Shared>, request: Request<Incoming>) -> Outcome {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let (fails, drops) = state.faults.count(method.as_str(), &path);
    let Some((mut req, service)) = take_apart(request) else {
        return Ok(Reply::text(404, "text/plain", format!("nothing is mounted at {path}\n")));
    };
    let reply = match (fails, service) {
        (Some(status), Service::Identity) => keystone_error(
            status,
            "An unexpected error prevented the server from fulfilling your request.",
        )
        .with_header("x-openstack-request-id", req.id.clone()),
        (Some(status), Service::Image) => {
            glance_error(&req, status, "The server has failed on purpose.", "")
                .with_header("x-openstack-request-id", req.id.clone())
        }
        (None, Service::Identity) => keystone::handle(state, &mut req).await?,
        (None, Service::Image) => glance::handle(state, &mut req).await?,
    };
    if drops {
        return Err(Hangup);
    }
    Ok(linger(state, req, reply))
}

#[derive(Clone, Copy)]
enum Service {
    Identity,
    Image,
}

fn take_apart(request: Request<Incoming>) -> Option<(Req, Service)> {
    let (parts, body) = request.into_parts();
    let mut segments = split_path(parts.uri.path());
    let mount = (!segments.is_empty()).then(|| format!("/{}", segments.remove(0)))?;
    let (service, region) = match mount.as_str() {
        IDENTITY => (Service::Identity, 0),
        mount => (Service::Image, IMAGE.iter().position(|image| *image == mount)?),
    };
    let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1");
    let req = Req {
        base: format!("http://{host}"),
        query: pairs(parts.uri.query().unwrap_or_default()),
        method: parts.method,
        headers: parts.headers,
        slash: parts.uri.path().ends_with('/'),
        segments,
        body: Some(body),
        region,
        id: format!("req-{}", Uuid::new_v4()),
    };
    Some((req, service))
}

/// Reads what is left of the body for a while behind the answer, and announces the end of the
/// connection. A client that waits for `100 Continue` sends nothing, so nothing is read.
fn linger(state: &Shared, mut req: Req, reply: Reply) -> Reply {
    let Some(body) = req.body.take().filter(|body| !body.is_end_stream()) else {
        return reply;
    };
    let sends = matches!(req.method, Method::PUT | Method::POST | Method::PATCH);
    if sends && req.header("expect").is_none() {
        net::drain(body, state.stopped.clone());
    }
    reply.with_header("connection", "close")
}
