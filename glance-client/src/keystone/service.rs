//! Calls of one service, with the session's token.

use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderMap, Method};
use url::Url;

use super::access::Access;
use super::exchange::{Reply, exchange, exchange_twice, within};
use super::session::Session;
use super::token::Token;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::transport::{Body, BodyStream};

const REDIRECTS: usize = 3;

/// Sends calls of one service with the session's token.
#[derive(Clone, Debug)]
pub struct ServiceClient {
    session: Session,
    base: Url,
}

impl ServiceClient {
    pub(super) fn new(session: Session, base: Url) -> Self {
        Self { session, base }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The URL that the paths of calls are below.
    #[must_use]
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The same service at another URL, such as that of one of its versions.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) if that is another host: the token is not taken there.
    pub fn at(&self, base: Url) -> Result<Self> {
        if !same_place(&self.base, &base) {
            return Err(Error::protocol(format!(
                "the service at {} points to another host",
                self.base.origin().ascii_serialization()
            )));
        }
        Ok(Self { session: self.session.clone(), base })
    }

    /// Sends `call` and reads its answer. A refused token is replaced once; a call that only reads is sent once more
    /// when its connection breaks; redirects on the same host are followed; there is no other retry.
    ///
    /// # Errors
    /// The kind that the status means; [`ErrorKind::Transport`](crate::ErrorKind::Transport); [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) after
    /// [`CloudConfig::timeout`](super::CloudConfig::timeout).
    pub async fn call<T>(&self, call: Call<T>) -> Result<T> {
        let work = async {
            let mut access = Access::of(&self.session, Duration::ZERO, true).await?;
            loop {
                let result = match self.send(&call, access.token()).await {
                    Ok(reply) => reply.read(&call).await,
                    Err(error) => Err(error),
                };
                if let Some(result) = access.settle(result).await {
                    return result;
                }
            }
        };
        // Boxed, because it is a part of nearly every future of this crate.
        within(self.session.config().timeout, call.what(), Box::pin(work)).await
    }

    pub(super) async fn send<T>(&self, call: &Call<T>, token: &Token) -> Result<Reply> {
        let mut url = call.url(&self.base)?;
        for _ in 0..=REDIRECTS {
            let transport = self.session.transport();
            let mut headers = call.headers().clone();
            headers.insert("x-auth-token", token.header()?);
            let reply = if call.method().is_safe() {
                exchange_twice(transport, call, &url, &headers).await?
            } else {
                let body = Body::Bytes(call.body().clone());
                exchange(transport, call.what(), call.method(), &url, headers, body).await?
            };
            match redirect(&reply, &url, call.method())? {
                Some(next) => url = next,
                None => return Ok(reply),
            }
        }
        Err(Error::protocol(format!("{}: the server redirects in circles", call.what())))
    }

    /// Sends one request with `token` as it is: no renewal, no redirect, no time limit. The path is relative to
    /// [`base`](Self::base). This is for bodies that are streams, on either side.
    ///
    /// # Errors
    /// What the transport says; the status is for the caller to look at.
    pub async fn send_raw(
        &self,
        what: &str,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
        token: &Token,
    ) -> Result<http::Response<BodyStream>> {
        let call = Call::new(what, method, path, |_| Ok(()));
        let url = call.url(&self.base)?;
        let mut all = call.headers().clone();
        all.extend(headers);
        all.insert("x-auth-token", token.header()?);
        let reply =
            exchange(self.session.transport(), what, call.method(), &url, all, body).await?;
        let mut answer = http::Response::new(reply.body);
        *answer.status_mut() = reply.status;
        *answer.headers_mut() = reply.headers;
        Ok(answer)
    }
}

/// Where a redirect leads, if it may be followed: only within the host that has the token already.
fn redirect(reply: &Reply, from: &Url, method: &Method) -> Result<Option<Url>> {
    let follows = match reply.status.as_u16() {
        301 | 302 => method.is_safe(),
        307 | 308 => true,
        _ => false,
    };
    if !follows {
        return Ok(None);
    }
    let to =
        reply.headers.get(LOCATION).and_then(|location| from.join(location.to_str().ok()?).ok());
    match to {
        Some(to) if same_place(from, &to) => Ok(Some(to)),
        Some(to) => Err(Error::protocol(format!(
            "{} redirects to {}: the token is not taken there; correct the endpoint in the catalogue or override it",
            from.origin().ascii_serialization(),
            to.origin().ascii_serialization()
        ))
        .with_answer(reply.status, &reply.headers)),
        None => Ok(None),
    }
}

/// The same scheme, host and port; or the same host, now with TLS.
fn same_place(from: &Url, to: &Url) -> bool {
    from.origin() == to.origin()
        || (from.scheme() == "http" && to.scheme() == "https" && from.host() == to.host())
}
