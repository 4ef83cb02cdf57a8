//! The listener: connections, mounts, request-level faults, and what happens to bodies that
//! nobody read.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::http::{
    Hangup, Outcome, Reply, ReplyBody, Req, glance_error, keystone_error, split_path, split_query,
};
use super::state::Shared;
use super::{glance, keystone};

/// Where the identity service is mounted.
pub(super) const IDENTITY: &str = "/identity";

/// Where the image services of the regions are mounted.
pub(super) const IMAGE: [&str; 2] = ["/image", "/image-two"];

/// How long the body of a request that was answered early is still read, so that the client
/// finds the answer and not a reset connection.
const LINGER: Duration = Duration::from_secs(2);

/// Accepts until the task that runs it is ended, which ends the connections as well.
pub(super) async fn serve(listener: TcpListener, state: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, Arc::clone(&state)))),
                // Out of file handles, say: try again, but do not spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(Arc::clone(&state), request));
    // An error here is the client's doing or a fault's.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .title_case_headers(true)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An error makes hyper drop the connection without an answer.
async fn answer(
    state: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Dropped> {
    // In a task of its own: when the client hangs up, hyper drops this future, but a request
    // that has begun still comes to its end, as in a server with one thread per request.
    let work = tokio::spawn(async move {
        let mut stopped = state.stopped.clone();
        tokio::select! {
            outcome = run(&state, request) => outcome,
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
        query: split_query(parts.uri.query().unwrap_or_default()),
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
    let Some(mut body) = req.body.take().filter(|body| !body.is_end_stream()) else {
        return reply;
    };
    let sends = matches!(req.method, Method::PUT | Method::POST | Method::PATCH);
    if sends && req.header("expect").is_none() {
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
    reply.with_header("connection", "close")
}
