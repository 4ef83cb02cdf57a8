//! The small HTTP vocabulary of the double: a request that was taken apart, an answer that is
//! being built, and the error shapes of Keystone and Glance.

use std::fs::File;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Method, Response};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::net::Hangup;

pub(super) type Outcome = Result<Reply, Hangup>;

/// A request whose path lies below a service's mount.
#[derive(Debug)]
pub(super) struct Req {
    pub(super) method: Method,
    /// The decoded segments below the mount; a trailing slash leaves no segment.
    pub(super) segments: Vec<String>,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    /// Taken by whoever reads it; what nobody took is drained after the answer.
    pub(super) body: Option<Incoming>,
    /// `http://host:port` as the client addressed it.
    pub(super) base: String,
    /// Which region's image service was addressed.
    pub(super) region: usize,
    pub(super) id: String,
    /// The path ended in a slash.
    pub(super) slash: bool,
}

impl Req {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The media type without parameters, lower case.
    pub(super) fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }

    /// The body as JSON, at most 1 MiB. `None` when it is something else.
    pub(super) async fn json(&mut self) -> Result<Option<Value>, Hangup> {
        let Some(body) = self.body.take() else { return Ok(None) };
        let bytes = Limited::new(body, 1 << 20).collect().await.map_err(|_| Hangup)?.to_bytes();
        Ok(serde_json::from_slice(&bytes).ok())
    }
}

/// Splits a raw path into decoded segments.
pub(super) fn split_path(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty()).map(decoded).collect()
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// An answer under construction.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: ReplyBody,
    crash: bool,
}

impl Reply {
    pub(super) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: ReplyBody::bytes(Bytes::new()), crash: false }
    }

    /// The page of the web server below the service, when the service itself crashed.
    pub(super) fn crash() -> Self {
        let page = "<html>\n  <head>\n    <title>Internal Server Error</title>\n  </head>\n  <body>\n    \
                    <h1><p>Internal Server Error</p></h1>\n    \n  </body>\n</html>\n";
        let mut reply = Self::text(500, "text/html", page.to_owned());
        reply.crash = true;
        reply
    }

    pub(super) fn is_crash(&self) -> bool {
        self.crash
    }

    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::text(status, "application/json", value.to_string())
    }

    /// The same answer with another JSON body.
    pub(super) fn with_json(mut self, value: &Value) -> Self {
        self.body = ReplyBody::bytes(Bytes::from(value.to_string()));
        self
    }

    pub(super) fn text(status: u16, media_type: &str, text: String) -> Self {
        let mut reply = Self::empty(status).with_header("content-type", media_type);
        reply.body = ReplyBody::bytes(Bytes::from(text));
        reply
    }

    /// `len` bytes of a file from where it stands; the connection is dropped after `close` of them.
    pub(super) fn file(status: u16, file: File, len: u64, close: Option<u64>) -> Self {
        let mut reply = Self::empty(status).with_header("content-type", "application/octet-stream");
        reply.body = ReplyBody::file(file, len, close);
        reply
    }

    pub(super) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn into_response(self) -> Response<ReplyBody> {
        let mut builder = Response::builder().status(self.status);
        // A 204 carries neither a length nor a type.
        for (name, value) in &self.headers {
            builder = builder.header(*name, value);
        }
        builder.body(self.body).unwrap_or_else(|_| Response::new(ReplyBody::bytes(Bytes::new())))
    }
}

/// The bytes of an answer: held in memory, or read from a file by another thread.
#[derive(Debug)]
pub(super) struct ReplyBody {
    first: Option<Bytes>,
    rest: Option<mpsc::Receiver<std::io::Result<Bytes>>>,
    /// The error that comes next: hyper throws away what it has not written when it sees one.
    failure: Option<std::io::Error>,
    left: u64,
}

impl ReplyBody {
    fn bytes(bytes: Bytes) -> Self {
        let left = bytes.len() as u64;
        Self {
            first: Some(bytes).filter(|bytes| !bytes.is_empty()),
            rest: None,
            failure: None,
            left,
        }
    }

    fn file(file: File, len: u64, close: Option<u64>) -> Self {
        let (send, receive) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let mut file = file.take(close.map_or(len, |close| len.min(close)));
            loop {
                let mut block = vec![0; 1 << 18];
                let item = match file.read(&mut block) {
                    // An error ends the connection, where an end would leave it to the client to wait.
                    Ok(0) if close.is_some_and(|close| close < len) => {
                        // What has been read so far is to leave first.
                        std::thread::sleep(std::time::Duration::from_millis(50));
                        Err(std::io::Error::other("the connection is dropped on purpose"))
                    }
                    Ok(0) => return,
                    Ok(count) => {
                        block.truncate(count);
                        Ok(Bytes::from(block))
                    }
                    Err(e) => Err(e),
                };
                let failed = item.is_err();
                if send.blocking_send(item).is_err() || failed {
                    return;
                }
            }
        });
        Self { first: None, rest: Some(receive), failure: None, left: len }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        let item = match (self.first.take(), &mut self.rest) {
            (Some(bytes), _) => Some(Ok(bytes)),
            (None, Some(rest)) => std::task::ready!(rest.poll_recv(cx)),
            (None, None) => None,
        };
        if let Some(Err(failure)) = item {
            // Now it writes what it has, and asks again.
            self.failure = Some(failure);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(Ok(bytes)) = &item {
            self.left = self.left.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(item.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The sentence of an internal error.
pub(super) const ERRED: &str =
    "The server has either erred or is incapable of performing the requested operation.";

/// The reason phrase that titles an error page.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        413 => "Request Entity Too Large",
        416 => "Requested Range Not Satisfiable",
        _ => hyper::StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Unknown"),
    }
}

/// Keystone's error: always JSON.
pub(super) fn keystone_error(status: u16, message: &str) -> Reply {
    let body = json!({"error": {"code": status, "message": message, "title": reason(status)}});
    Reply::json(status, &body)
}

/// Glance's error: an HTML page for a client that accepts anything, JSON for one that accepts only
/// that, plain text for one that says nothing.
pub(super) fn glance_error(req: &Req, status: u16, explanation: &str, detail: &str) -> Reply {
    let title = format!("{status} {}", reason(status));
    let accepts = req.header("accept").unwrap_or_default().to_ascii_lowercase();
    let takes = |kind: &str| accepts.split(',').any(|one| one.trim().starts_with(kind));
    if takes("*/*") || takes("text/html") || takes("text/*") {
        let (explanation, detail) = (escape(explanation), escape(detail));
        let page = format!(
            "<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n  \
             {explanation}<br /><br />\n{detail}\n\n\n </body>\n</html>"
        );
        Reply::text(status, "text/html; charset=UTF-8", page)
    } else if takes("application/json") || takes("application/*") {
        let message = format!("{explanation}<br /><br />\n{detail}\n\n");
        let body = json!({"message": message, "code": title, "title": reason(status)});
        Reply::json(status, &body)
    } else {
        let text = format!("{title}\n\n{explanation}\n\n{detail}   ");
        Reply::text(status, "text/plain; charset=UTF-8", text)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#x27;")
}
