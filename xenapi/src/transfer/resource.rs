//! Any raw handler of the server, with what the exports and imports have: `GET` as a stream, `PUT`
//! of a body of known length.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::HeaderMap;
use serde_json::Value;

use super::download::{self, Download, Nature};
use super::ending::Ending;
use super::fetch::Get;
use super::options::{Common, common_setters};
use super::pace::{Progress, Throttle};
use super::put::Put;
use super::redirect::{self, Errand, RESERVED, Target};
use super::source::ImportSource;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::live::Session;
use crate::refs::Ref;
use crate::task::Task;
use crate::tasks::Cancel;

/// A request to one of the server's raw handlers (`/host_backup`, `/system-status` …), as a value:
/// [`Session::get_resource`] and [`Session::put_resource`] send it.
///
/// The session goes with it in a cookie and is never part of the URL. Servers refuse more than
/// 1024 bytes of request line and headers, so that parameters must be short.
///
/// ```
/// use xenapi::HandlerRequest;
///
/// let request = HandlerRequest::new("/system-status")
///     .with_param("entries", "xenserver-logs")
///     .with_param("output", "tar")
///     .with_task("my-program: status report");
/// assert_eq!(request.path(), "/system-status");
/// ```
#[derive(Clone)]
#[must_use]
pub struct HandlerRequest {
    path: String,
    params: Vec<(String, String)>,
    host: Option<Ref<Host>>,
    with_task: bool,
    cancel: Option<Cancel>,
    pub(super) common: Common,
}

impl HandlerRequest {
    /// A request to the handler at `path`, such as `/audit_log`, at the pool's master and without
    /// a task.
    pub fn new(path: impl Into<String>) -> Self {
        let (quarter, hour) = (Duration::from_secs(15 * 60), Duration::from_secs(60 * 60));
        Self {
            path: path.into(),
            params: Vec::new(),
            host: None,
            with_task: false,
            cancel: None,
            common: Common::new(String::new(), quarter, hour),
        }
    }

    /// Adds a parameter to the query. Of two with the same name servers take the first. The names
    /// `session_id`, `task_id`, `subtask_of` and `pool_secret` are refused when the request is
    /// sent: what they say is ours to say.
    pub fn with_param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((name.into(), value.into()));
        self
    }

    /// Asks this host in place of the pool's master, with the same session: the logs, the metrics
    /// and the backup of a host are its own. The host is found by the address that the pool knows,
    /// and trusted as a redirect to it would be.
    pub fn on_host(mut self, host: Ref<Host>) -> Self {
        self.host = Some(host);
        self
    }

    /// Lets a task carry the request; it is made first, awaited at the end, and removed.
    ///
    /// With it failures come with the server's own code, and one that comes late does not go
    /// unnoticed. Leave it out where the answer says all (metrics), and for what is read without a
    /// session (public blobs): nobody ends a task there. `label` becomes its name; make it one that
    /// a later run can find.
    pub fn with_task(mut self, label: impl Into<String>) -> Self {
        self.common.task_label = label.into();
        self.with_task = true;
        self
    }

    /// Ends a PUT when `cancel` says so: its connection is closed, its task cancelled. A GET is
    /// ended by dropping it, or with [`Resource::abort`].
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    common_setters! {
        inactivity: "How long nothing may come of an answer before it counts as dead, or of a \
            source before a PUT does; 15 minutes unless told otherwise.",
        task_timeout: "How long the server may take to end its answer to a PUT after the last \
            byte, and the task to end after that; an hour each unless told otherwise.",
    }

    /// The handler's path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The parameters.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Refuses what cannot be sent as it is meant.
    fn check(&self) -> Result<()> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~+,:=@".contains(&byte);
        let dots = self.path.split('/').any(|part| matches!(part, "." | ".."));
        if !self.path.starts_with('/') || !self.path.bytes().all(plain) || dots {
            let words = "the path of a handler starts with / and has letters, digits and -_.~+,:=@";
            return Err(Error::new(ErrorKind::Config, words));
        }
        let reserved = self.params.iter().find(|(name, _)| RESERVED.contains(&name.as_str()));
        if let Some((name, _)) = reserved {
            let words = format!("{name} is no parameter of a caller; the session says it itself");
            return Err(Error::new(ErrorKind::Config, words));
        }
        Ok(())
    }

    fn errand(&self) -> Errand<'_> {
        Errand { what: "request", path: &self.path }
    }
}

impl fmt::Debug for HandlerRequest {
    /// Without the values of parameters: one may be a secret of its handler.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.params().map(|(name, _)| name).collect();
        let mut out = f.debug_struct("HandlerRequest");
        out.field("path", &self.path).field("params", &names).field("host", &self.host);
        self.common.show(&mut out);
        out.finish_non_exhaustive()
    }
}

impl Session {
    /// Asks a raw handler for what it has (`GET`), on a connection of its own.
    ///
    /// A redirect is followed to a host of this pool and to no other, and to the same handler. A
    /// session that has died is renewed, once. Of an answer with a length an early end is an error
    /// of the stream; of one without, the two ways in which servers put a failure into their data
    /// are looked for: a second answer, `HTTP/1.1 500 …`, in the place of the data, and one behind
    /// it. What came is whole when the stream has ended *and* [`Resource::finish`] has succeeded;
    /// [`Resource::bytes`] does both.
    ///
    /// ```no_run
    /// use xenapi::{HandlerRequest, Ref, Session, host::Host};
    ///
    /// async fn backup(session: &Session, host: Ref<Host>) -> Result<u64, xenapi::Error> {
    ///     use futures_util::TryStreamExt as _;
    ///
    ///     let request = HandlerRequest::new("/host_backup")
    ///         .on_host(host)
    ///         .with_task("my-program: backup of a host");
    ///     let mut resource = session.get_resource(&request).await?;
    ///     while let Some(bytes) = resource.try_next().await? {
    ///         // … write them somewhere …
    ///         let _ = bytes;
    ///     }
    ///     let received = resource.received();
    ///     resource.finish().await?;
    ///     Ok(received)
    /// }
    /// ```
    ///
    /// # Errors
    /// Of kind [`Config`](ErrorKind::Config) for a path or a parameter that cannot be sent,
    /// [`Api`](ErrorKind::Api) or [`TaskFailed`](ErrorKind::TaskFailed) with the server's code when
    /// there is a task, [`Authentication`](ErrorKind::Authentication) for 401 and 403,
    /// [`Protocol`](ErrorKind::Protocol) for any other status, [`Redirect`](ErrorKind::Redirect),
    /// [`TooLarge`](ErrorKind::TooLarge) for a request that servers refuse for its length, and the
    /// kinds for connections and trust. The task is removed again then.
    pub async fn get_resource(&self, request: &HandlerRequest) -> Result<Resource> {
        let opened = self.open_resource(request, "answer", None).await;
        opened.map_err(|error| error.context(format!("GET {}", request.path)))
    }

    /// Opens a resource whose end must look like `ending`, if it is known what it looks like.
    pub(super) async fn open_resource(
        &self,
        request: &HandlerRequest,
        what: &'static str,
        ending: Option<Ending>,
    ) -> Result<Resource> {
        request.check()?;
        let target = self.target_of(request).await?;
        let pairs: Vec<_> = request.params().collect();
        let get = Get {
            errand: request.errand(),
            target,
            pairs: &pairs,
            common: &request.common,
            with_task: request.with_task,
            query_grows: true,
        };
        let (task, response) = self.get_raw(&get).await?;
        let framed = download::is_framed(&response);
        let unknown = || if framed { Ending::raw(None) } else { Ending::unknown() };
        let ending = ending.unwrap_or_else(unknown);
        // What has its whole length is data, whatever it starts with.
        let nature = Nature { what, ending, sniffed: !framed };
        let headers = response.headers().clone();
        let download = Download::new(self.clone(), task.clone(), response, nature, &request.common);
        Ok(Resource { task, headers, download })
    }

    /// Gives a raw handler a body (`PUT`), and the value that its task comes to: null if there is
    /// no task, or if it has no value.
    ///
    /// Redirects are followed and a session that has died is renewed as long as nothing of the
    /// body is out: the server's answer is waited for a moment before it begins. Success means that
    /// the body went out whole, the answer was read to its end, *and* the task, if there is one,
    /// has succeeded: servers answer 200 before they read the first byte.
    ///
    /// # Errors
    /// Those of [`get_resource`](Self::get_resource), and [`Source`](ErrorKind::Source) when the
    /// source fails or has another length than it said, [`Timeout`](ErrorKind::Timeout),
    /// [`Transport`](ErrorKind::Transport) and [`Cancelled`](ErrorKind::Cancelled). If this future
    /// is dropped, the connection is closed; a task stays, findable by its label.
    pub async fn put_resource(
        &self,
        request: &HandlerRequest,
        source: ImportSource,
    ) -> Result<Value> {
        let sent = async {
            request.check()?;
            let target = self.target_of(request).await?;
            let pairs: Vec<_> = request.params().collect();
            let put = Put {
                errand: request.errand(),
                target,
                pairs: &pairs,
                common: &request.common,
                cancel: request.cancel.as_ref(),
                with_task: request.with_task,
                spare: None,
            };
            self.put_raw(&put, source).await
        };
        sent.await.map_err(|error| error.context(format!("PUT {}", request.path)))
    }

    async fn target_of(&self, request: &HandlerRequest) -> Result<Target> {
        match &request.host {
            Some(host) => redirect::at(self, host).await,
            None => Ok(redirect::here(self)),
        }
    }
}

/// What a raw handler sends, as it comes: a `Stream` of `Result<Bytes>`.
///
/// Nothing is read ahead beyond one buffer of the connection. End it with
/// [`finish`](Self::finish), [`bytes`](Self::bytes) or [`abort`](Self::abort). Dropping it closes
/// the connection and nothing else: a task stays at the server, findable by its label.
pub struct Resource {
    task: Option<Ref<Task>>,
    headers: HeaderMap,
    download: Download,
}

impl Resource {
    /// The task that carries the request, if one was asked for.
    #[must_use]
    pub fn task(&self) -> Option<&Ref<Task>> {
        self.task.as_ref()
    }

    /// The headers of the answer.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Bytes given out so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.download.received()
    }

    /// How many bytes are still to come, where the server told it.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.download.content_length()
    }

    /// The rest of it in memory, if it has at most `limit` bytes, and all that
    /// [`finish`](Self::finish) does.
    ///
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge) if there is more, and those of `finish`.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        let mut more = self.content_length().is_some_and(|length| length > limit as u64);
        while !more {
            // What broke the stream is told by `finish`.
            let Some(Ok(bytes)) = poll_fn(|cx| self.download.poll_bytes(cx)).await else { break };
            more = all.len().saturating_add(bytes.len()) > limit;
            if !more {
                all.extend_from_slice(&bytes);
            }
        }
        if more {
            // The first error is the one to tell.
            let _ = self.abort().await;
            let words = format!("the answer has more than the {limit} bytes allowed");
            return Err(Error::new(ErrorKind::TooLarge, words));
        }
        self.finish().await?;
        Ok(all.freeze())
    }

    /// Waits for the task, if there is one, and removes it: the answer is whole if this succeeds.
    /// Call it when the stream has given `None`.
    ///
    /// # Errors
    /// - [`Truncated`](ErrorKind::Truncated) if the stream was not read to its end, or if there is
    ///   a second answer behind the data;
    /// - the stream's own error, or what the server says about it;
    /// - [`TaskFailed`](ErrorKind::TaskFailed) when the server says so, even though the stream
    ///   looked whole;
    /// - [`Timeout`](ErrorKind::Timeout) when the task does not end.
    ///
    /// After an error the task is cancelled and removed as by [`abort`](Self::abort).
    pub async fn finish(self) -> Result<()> {
        self.download.finish().await
    }

    /// Closes the connection; cancels the task, if there is one, and removes it.
    ///
    /// # Errors
    /// What the calls meet, and [`Timeout`](ErrorKind::Timeout) when the cancelled task does not
    /// end within 30 s; it is marked for removal then.
    pub async fn abort(self) -> Result<()> {
        self.download.abort().await
    }
}

impl Stream for Resource {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.download.poll_bytes(cx)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.download.show("Resource", f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_sent_as_it_is_meant_is_refused() {
        for path in ["/audit_log", "/update/a-b/libstdc++.rpm", "/pool/xmldbdump", "/"] {
            HandlerRequest::new(path).check().unwrap();
        }
        let bad =
            ["", "x", "/a?b=c", "/a#b", "/a b", "/a\r\nX: y", "/a/../b", "/./a", "/%61", "/ä"];
        for path in bad {
            let error = HandlerRequest::new(path).check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{path}");
        }
        for name in RESERVED {
            let error = HandlerRequest::new("/x").with_param(name, "hunter2").check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{name}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn debug_shows_no_value_of_a_parameter() {
        let request = HandlerRequest::new("/x").with_param("key", "hunter2").with_task("t");
        let shown = format!("{request:?}");
        assert!(shown.contains("key") && !shown.contains("hunter2"), "{shown}");
    }
}
