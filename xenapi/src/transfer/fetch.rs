//! A GET of a raw handler: its task, its redirects, its answer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{COOKIE, HOST, LOCATION, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::connect::{self, Body, url_authority};
use super::options::Common;
use super::redirect::{self, Errand, Target};
use super::{LONGEST_PAGE, MOST_REDIRECTS, REFUSED_GRACE, upload};
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::refs::Ref;
use crate::task::{self, Task};
use crate::tasks::{WaitOptions, outcome};

/// A GET, as a value.
pub(super) struct Get<'a> {
    pub(super) errand: Errand<'a>,
    /// Where it goes first.
    pub(super) target: Target,
    /// The handler's own part of the query.
    pub(super) pairs: &'a [(&'a str, &'a str)],
    pub(super) common: &'a Common,
    /// Whether a task carries it.
    pub(super) with_task: bool,
    /// Whether a redirect may add to the query.
    pub(super) query_grows: bool,
}

/// What an answer came to.
enum Opened {
    Body(Response<Body>),
    /// The host does not know the session.
    Unauthorised(Error),
}

impl Session {
    /// Makes the task, sends the request, and gives the answer if it is a 200. A session that has
    /// died is renewed, once.
    pub(super) async fn get_raw(
        &self,
        get: &Get<'_>,
    ) -> Result<(Option<Ref<Task>>, Response<Body>)> {
        let mut renewed = false;
        loop {
            let task = match get.with_task {
                true => Some(self.call(get.common.create_task()).await?),
                false => None,
            };
            let login = self.logins();
            let error = match self.send_get(get, task.as_ref()).await {
                Ok(Opened::Body(response)) => return Ok((task, response)),
                Ok(Opened::Unauthorised(_)) if !renewed && self.is_renewed(login).await => {
                    renewed = true;
                    // Servers fail the task as well.
                    if let Some(task) = &task {
                        let _ = self.discard(task, REFUSED_GRACE).await;
                    }
                    continue;
                }
                Ok(Opened::Unauthorised(error)) | Err(error) => error,
            };
            let Some(task) = &task else { return Err(self.redact(error)) };
            // Pages of servers may repeat what they were asked with.
            let error = self.redact(self.explain(task, error).await);
            // The first error is the one to tell.
            let _ = self.discard(task, REFUSED_GRACE).await;
            return Err(error);
        }
    }

    /// Sends the request and follows redirects.
    async fn send_get(&self, get: &Get<'_>, task: Option<&Ref<Task>>) -> Result<Opened> {
        let errand = get.errand;
        let mut target = get.target.clone();
        let mut added = Vec::new();
        for _ in 0..=MOST_REDIRECTS {
            target.url.set_path(errand.path);
            let request = self.get_request(&target.url, &query(get.pairs, &added, task))?;
            let (connect, patience) = (self.inner.settings.connect_timeout, get.common.inactivity);
            let opening = connect::open(&target.url, &target.trust, request, connect, patience);
            let response = opening.await?;
            let status = response.status();
            if status == StatusCode::OK {
                return Ok(Opened::Body(response));
            }
            if !status.is_redirection() {
                let error = refusal(&target.url, response).await;
                return match status {
                    StatusCode::UNAUTHORIZED => Ok(Opened::Unauthorised(error)),
                    _ => Err(error),
                };
            }
            let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let Some(location) = location else {
                let what = errand.what;
                let words = format!("the server redirects the {what} without saying where to");
                return Err(Error::new(ErrorKind::Redirect, words));
            };
            if get.query_grows {
                added = redirect::added(&target.url, location, get.pairs);
            }
            target = redirect::resolve(self, errand, &target.url, location).await?;
            #[cfg(feature = "tracing")]
            tracing::debug!(host = target.url.host_str(), "the {} is at another host", errand.what);
        }
        Err(redirect::endless(errand))
    }

    /// The request. The session is in a cookie, the only one, and never in the URL: URLs are
    /// logged, and the server does not trim a second cookie's name.
    fn get_request(&self, url: &Url, query: &str) -> Result<Request<Empty<Bytes>>> {
        let bad = |_| Error::new(ErrorKind::Protocol, "the server's session has an unusable name");
        let current = self.current();
        let cookie = format!("session_id={}", current.handle.expose());
        let mut cookie = HeaderValue::from_str(&cookie).map_err(|_| bad(()))?;
        cookie.set_sensitive(true);
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Request::get(path_and_query(url.path(), query))
            .header(HOST, host)
            .header(USER_AGENT, self.inner.settings.user_agent.clone())
            .header(COOKIE, cookie)
            .body(Empty::new())
            .map_err(|_| bad(()))
    }

    /// Prefers what the task says to what the connection looked like.
    pub(super) async fn explain(&self, task: &Ref<Task>, error: Error) -> Error {
        if matches!(error.kind(), ErrorKind::Connect | ErrorKind::Tls | ErrorKind::Redirect) {
            return error;
        }
        match self.call(task::get_record(task)).await {
            Ok(record) if !record.error_info.is_empty() => match outcome::<Value>(task, &record) {
                Err(said) => said.with_source(error),
                Ok(_) => error,
            },
            _ => error,
        }
    }

    /// Ends a task that nobody needs and removes it.
    pub(super) async fn discard(&self, task: &Ref<Task>, grace: Duration) -> Result<()> {
        self.cancel_task(task).await?;
        let ended = self.wait_ended(task, &WaitOptions::new().with_timeout(grace)).await;
        let destroyed = match self.call(task::destroy(task)).await {
            Err(e) if e.is_not_found() => Ok(()),
            other => other,
        };
        match ended {
            Err(e) if e.kind() == ErrorKind::TaskVanished => Ok(()),
            Err(e) => Err(e),
            Ok(_) => destroyed,
        }
    }
}

/// Query of the request. References hold no characters that need escaping, but they come from
/// outside.
pub(super) fn query(
    pairs: &[(&str, &str)],
    added: &[(String, String)],
    task: Option<&Ref<Task>>,
) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs).extend_pairs(added);
    if let Some(task) = task {
        query.append_pair("task_id", task.as_str());
    }
    query.finish()
}

/// The target of a request.
pub(super) fn path_and_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// The error for an answer that is neither a 200 nor a redirect.
async fn refusal(url: &Url, response: Response<Body>) -> Error {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut page = BytesMut::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            page.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
            if page.len() > LONGEST_PAGE {
                break;
            }
        }
    };
    // The page is a nicety; a server that does not end it must not hold us.
    let _ = tokio::time::timeout(Duration::from_secs(10), reading).await;
    upload::refused(&url_authority(url), status, &page)
}
