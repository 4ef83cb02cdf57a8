//! A session with a pool: log in once, call often, log out.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use crate::call::{AsyncCall, Call};
use crate::client::{Client, Endpoint, NoJson, Protocol, Settings};
use crate::credential::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::retry;
use crate::tasks::TaskHandle;
use crate::tls::Pin;
use crate::value::FromValue;
use crate::wire::Codec;

/// Asks a member, when it sends us to its master, for the fingerprint of the master's certificate.
const ASK_THUMBPRINT: (&str, &str) =
    ("x-xenapi-request-host-certificate-thumbprint", "sha-256:master");
/// Where the answer to that is.
const THUMBPRINT: &str = "x-xenapi-response-host-certificate-thumbprint";
/// A pool has one master, so that one step should do; a second is for a change of master meanwhile.
const MOST_STEPS: usize = 3;

/// A session with a pool, shared by its clones.
///
/// When the server forgets the session (it does so after a day without calls, after a restart, and
/// when too many sessions are open), or the pool has another master by now, the next call logs in
/// again, once for all who wait, and is sent once more. Dropping a session does nothing at the server: call
/// [`logout`](Self::logout).
#[derive(Clone)]
pub struct Session {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) settings: Arc<Settings>,
    user: String,
    password: Secret,
    originator: String,
    current: RwLock<Arc<LoggedIn>>,
    /// Held while logging in; remembers that the server refused the password, because asking
    /// again would only lock the account.
    renewal: Mutex<Option<Error>>,
    closed: AtomicBool,
}

/// The result of one login.
pub(crate) struct LoggedIn {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) handle: Secret,
    /// The reference before it: what was sent with that may still come back.
    before: Option<Secret>,
    codec: Codec,
    /// Counts logins, so that of many callers with the same dead session only one renews it.
    generation: u64,
}

impl Session {
    pub(crate) async fn open(
        client: Client,
        user: String,
        password: Secret,
        originator: String,
    ) -> Result<Self> {
        let words = Words { user: &user, password: &password, originator: &originator };
        let codec = match client.settings.protocol {
            Protocol::XmlRpc => Codec::Xml,
            Protocol::JsonRpc1 => Codec::Json1,
            Protocol::Auto | Protocol::JsonRpc => Codec::Json,
        };
        let first = log_in(&client.settings, client.start, codec, &words, 1).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings: client.settings,
                user,
                password,
                originator,
                current: RwLock::new(Arc::new(first)),
                renewal: Mutex::new(None),
                closed: AtomicBool::new(false),
            }),
        })
    }

    /// Sends a call and gives its result. After a failure that may pass it is sent again: see
    /// [`ClientBuilder::retries`](crate::ClientBuilder::retries).
    ///
    /// # Errors
    /// Of kind [`Api`](ErrorKind::Api) when the server says no, and of the kinds for broken
    /// connections, timeouts and answers that make no sense. A timeout does not undo the call.
    pub async fn call<T: FromValue>(&self, call: Call<T>) -> Result<T> {
        let timeout = self.inner.settings.call_timeout;
        self.call_within(&call, timeout).await
    }

    /// As [`call_within`](Self::call_within), but sent only once: for those who have a patience of
    /// their own with connections that break.
    pub(crate) async fn ask<T: FromValue>(&self, call: &Call<T>, limit: Duration) -> Result<T> {
        let value = self.send(call.method(), call.params(), limit).await?;
        read(call, value)
    }

    /// As [`call`](Self::call), with a time limit for each time that this call is sent.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_within<T: FromValue>(&self, call: &Call<T>, limit: Duration) -> Result<T> {
        let mut repeated = 0;
        loop {
            match self.send(call.method(), call.params(), limit).await {
                Ok(value) => return read(call, value),
                Err(e)
                    if repeated < self.inner.settings.retries
                        && retry::is_worth_it(&e, call.may_repeat()) =>
                {
                    tokio::time::sleep(retry::pause(repeated)).await;
                    repeated += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Starts a call in the background; [`wait`](Self::wait) gives its result.
    ///
    /// # Errors
    /// As [`call`](Self::call). After a timeout or a broken connection the task may run all the
    /// same: look for it among the server's tasks before you start it again.
    pub async fn start<T: FromValue>(&self, call: AsyncCall<T>) -> Result<TaskHandle<T>> {
        let task = self.call(call.as_call().clone()).await?;
        Ok(TaskHandle::new(task))
    }

    /// Ends the session at the server. Later calls fail, also those of clones. A session that the
    /// server no longer knows counts as ended.
    ///
    /// # Errors
    /// As [`call`](Self::call); the session is unusable in any case.
    pub async fn logout(&self) -> Result<()> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let current = self.current();
        match self.once(&current, "session.logout", &[], Duration::from_secs(30)).await {
            Err(e) if e.is_session_invalid() => Ok(()),
            other => other.map(drop),
        }
    }

    /// The URL of the host that the calls go to: the pool's master.
    #[must_use]
    pub fn url(&self) -> Url {
        self.current().endpoint.url.clone()
    }

    /// How often this session logged in.
    #[must_use]
    pub fn logins(&self) -> u64 {
        self.current().generation
    }

    /// Takes the session's reference out of what the server repeated of it.
    pub(crate) fn redact(&self, error: Error) -> Error {
        let current = self.current();
        let handles = [Some(&current.handle), current.before.as_ref()];
        handles.into_iter().flatten().fold(error, |error, handle| error.redact(handle.expose()))
    }

    /// Whether the session of that login was dead, and is another one now. The server is asked with
    /// a call, because what else refuses a session is not always right.
    pub(crate) async fn is_renewed(&self, login: u64) -> bool {
        if self.logins() == login {
            let _ = self.call(Call::<Value>::new("pool.get_all")).await;
        }
        self.logins() != login
    }

    pub(crate) fn current(&self) -> Arc<LoggedIn> {
        Arc::clone(&self.inner.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends; if the session turns out to be dead, renews it and sends once more.
    async fn send(&self, method: &str, params: &[Value], limit: Duration) -> Result<Value> {
        if self.inner.closed.load(Ordering::Acquire) {
            let words = format!("{method}: the session was logged out");
            return Err(Error::new(ErrorKind::Config, words));
        }
        let current = self.current();
        match self.unredacted(&current, method, params, limit).await {
            // A host that has become a member of the pool knows no session; a login leads on.
            Err(e) if is_dead(&e, &current.handle) || master_of(&e).is_some() => {
                self.renew(current.generation).await?;
                self.once(&self.current(), method, params, limit).await
            }
            other => other.map_err(|e| e.redact(current.handle.expose())),
        }
    }

    /// Sends once, with the session reference in front.
    async fn once(
        &self,
        current: &LoggedIn,
        method: &str,
        params: &[Value],
        limit: Duration,
    ) -> Result<Value> {
        let result = self.unredacted(current, method, params, limit).await;
        result.map_err(|e| e.redact(current.handle.expose()))
    }

    /// As [`once`](Self::once), with an error that may repeat the session reference.
    async fn unredacted(
        &self,
        current: &LoggedIn,
        method: &str,
        params: &[Value],
        limit: Duration,
    ) -> Result<Value> {
        let mut all = Vec::with_capacity(params.len() + 1);
        all.push(Value::from(current.handle.expose()));
        all.extend_from_slice(params);
        let settings = &self.inner.settings;
        #[cfg(feature = "tracing")]
        let begin = std::time::Instant::now();
        let (result, _) =
            settings.exchange(&current.endpoint, current.codec, method, &all, None, limit).await;
        #[cfg(feature = "tracing")]
        tracing::debug!(method, ok = result.is_ok(), elapsed = ?begin.elapsed(), "call");
        result
    }

    /// Logs in again, unless someone else did since `dead` was the generation.
    async fn renew(&self, dead: u64) -> Result<()> {
        let inner = &self.inner;
        let mut refused = inner.renewal.lock().await;
        let current = self.current();
        if current.generation != dead {
            return Ok(());
        }
        if let Some(error) = &*refused {
            return Err(error.clone());
        }
        let words =
            Words { user: &inner.user, password: &inner.password, originator: &inner.originator };
        let endpoint = Arc::clone(&current.endpoint);
        match log_in(&inner.settings, endpoint, current.codec, &words, dead + 1).await {
            Ok(mut fresh) => {
                fresh.before = Some(current.handle.clone());
                *inner.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                Ok(())
            }
            Err(error) => {
                if error.kind() == ErrorKind::Authentication {
                    *refused = Some(error.clone());
                }
                Err(error)
            }
        }
    }
}

/// Whether an error says that this session is not valid. A call may name another one, that of a
/// second pool that a machine moves to, say: when that is dead, ours is not.
fn is_dead(error: &Error, handle: &Secret) -> bool {
    let named = error.params().first().map_or("", |named| named.trim());
    error.is_session_invalid() && (!named.starts_with("OpaqueRef:") || named == handle.expose())
}

/// The result of a call from the value of its answer.
fn read<T: FromValue>(call: &Call<T>, value: Value) -> Result<T> {
    call.parse(value).map_err(|e| {
        let words = format!("{}: the answer has an unexpected value: {e}", call.method());
        Error::new(ErrorKind::Decode, words).with_source(e)
    })
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("url", &self.current().endpoint.url.as_str())
            .field("user", &self.inner.user)
            .finish_non_exhaustive()
    }
}

/// What a login says.
struct Words<'a> {
    user: &'a str,
    password: &'a Secret,
    originator: &'a str,
}

/// Logs in at `endpoint`, or where that sends us.
async fn log_in(
    settings: &Settings,
    mut endpoint: Arc<Endpoint>,
    mut codec: Codec,
    words: &Words<'_>,
    generation: u64,
) -> Result<LoggedIn> {
    // The version is ignored by servers; "1.0" is what the first clients sent.
    let params: Vec<Value> = [words.user, words.password.expose(), "1.0", words.originator]
        .into_iter()
        .map(Value::from)
        .collect();
    let mut steps = 0;
    loop {
        let (result, headers) = settings
            .exchange(
                &endpoint,
                codec,
                "session.login_with_password",
                &params,
                Some(ASK_THUMBPRINT),
                settings.call_timeout,
            )
            .await;
        let error = match result.map_err(|e| e.redact(words.password.expose())) {
            Ok(Value::String(handle)) if !handle.is_empty() => {
                let handle = Secret::new(handle);
                return Ok(LoggedIn { endpoint, handle, before: None, codec, generation });
            }
            Ok(_) => {
                let words = "session.login_with_password: the answer is no session";
                return Err(Error::new(ErrorKind::Protocol, words));
            }
            Err(error) => error,
        };
        if settings.protocol == Protocol::Auto && codec == Codec::Json && has_no_json(&error) {
            codec = Codec::Xml;
            // On new connections: a server that refuses a path may leave the body unread, and take
            // it for the next request.
            endpoint = settings.endpoint(endpoint.url.clone(), endpoint.trust.clone())?;
            continue;
        }
        let Some(master) = master_of(&error) else { return Err(error) };
        steps += 1;
        if steps >= MOST_STEPS {
            return Err(error.with_kind(ErrorKind::Redirect).context("the hosts name each other"));
        }
        let thumbprint = headers.get(THUMBPRINT).and_then(|v| v.to_str().ok());
        endpoint = follow(settings, &endpoint, master, thumbprint)?;
    }
}

fn has_no_json(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|s| s.is::<NoJson>())
}

/// The address in `HOST_IS_SLAVE`.
fn master_of(error: &Error) -> Option<&str> {
    let slave = error.code().is_some_and(|c| c == "HOST_IS_SLAVE");
    error.params().first().filter(|_| slave).map(String::as_str)
}

/// The endpoint of the master. With pins, its certificate may be one that the member told us of:
/// only a fingerprint that came over a verified connection is worth anything.
fn follow(
    settings: &Settings,
    member: &Endpoint,
    address: &str,
    thumbprint: Option<&str>,
) -> Result<Arc<Endpoint>> {
    let url = host_url(settings, &member.url, address)?;
    let verified = member.url.scheme() == "https" && member.trust.is_pins();
    let learnt = thumbprint.filter(|_| verified).and_then(|t| t.parse::<Pin>().ok());
    #[cfg(feature = "tracing")]
    tracing::debug!(master = url.as_str(), "the host is a pool member; following to its master");
    settings.endpoint(url, member.trust.and_pin(learnt))
}

/// The URL of another host of the pool, by the address that the pool knows it by: scheme and port
/// are those that were used so far.
pub(crate) fn host_url(settings: &Settings, like: &Url, address: &str) -> Result<Url> {
    let bad = || Error::new(ErrorKind::Redirect, "the pool names a host that is no address");
    let mapped = settings.addresses.get(address);
    let target = mapped.map_or(address, String::as_str);
    let is_v6 = target.parse::<std::net::Ipv6Addr>().is_ok();
    let target = if is_v6 { format!("[{target}]") } else { target.to_owned() };
    let parsed = Url::parse(&format!("{}://{target}/", like.scheme())).map_err(|_| bad())?;
    let host = parsed.host_str().filter(|h| !h.is_empty()).ok_or_else(bad)?;
    let odd = !parsed.username().is_empty() || parsed.password().is_some() || parsed.path() != "/";
    if odd {
        return Err(bad());
    }
    let mut url = like.clone();
    url.set_host(Some(host)).map_err(|_| bad())?;
    // A port that was named wins; a bare address is reached at the port used so far.
    let port = parsed.port().or_else(|| like.port());
    url.set_port(port).map_err(|()| bad())?;
    Ok(url)
}
