//! One request and its answer, whoever asks.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{Body, BodyStream, Transport, read_all, read_error};

/// More than any catalogue or page of images in the field.
const ANSWER_LIMIT: usize = 32 << 20;

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: BodyStream,
}

impl Reply {
    pub(super) async fn read<T>(self, call: &Call<T>) -> Result<T> {
        let success = self.status.is_success() || self.status.is_redirection();
        let body: Bytes = if success {
            read_all(call.what(), self.body, ANSWER_LIMIT).await?
        } else {
            read_error(self.body).await
        };
        call.parse(self.status, &self.headers, &body)
    }
}

pub(super) async fn exchange(
    transport: &dyn Transport,
    what: &str,
    method: &Method,
    url: &Url,
    headers: HeaderMap,
    body: Body,
) -> Result<Reply> {
    let mut request = http::Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = url
        .as_str()
        .parse()
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("{what}: the URL cannot be sent")))?;
    *request.headers_mut() = headers;
    let answer = transport.send(request).await.map_err(|error| error.during(what))?;
    let (parts, body) = answer.into_parts();
    #[cfg(feature = "tracing")]
    tracing::debug!(
        what,
        %method,
        path = url.path(),
        status = parts.status.as_u16(),
        request_id = parts.headers.get("x-openstack-request-id").and_then(|id| id.to_str().ok()),
        "openstack call"
    );
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

/// Runs `work` under a time limit; `what` is for its error.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("{what}: no answer within {} s", limit.as_secs_f32());
        Err(Error::new(ErrorKind::Timeout, text))
    })
}

/// Sends a call that changes nothing that matters: once more if the connection broke, because a pooled one may be closed
/// by the server at the moment of its use.
pub(super) async fn exchange_twice<T>(
    transport: &dyn Transport,
    call: &Call<T>,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Reply> {
    let once = || {
        let body = Body::Bytes(call.body().clone());
        exchange(transport, call.what(), call.method(), url, headers.clone(), body)
    };
    match once().await {
        Err(error) if error.kind() == ErrorKind::Transport => once().await,
        result => result,
    }
}
