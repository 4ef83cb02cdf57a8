//! A management server's address, and sending calls to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::pages::PAGE;
use crate::random::spread;
use crate::sign::{Credentials, Expires, Spelling, VALIDITY};
use crate::transport::{Body, HttpTransport, Transport, Trust, read_all};
use crate::wait::Waiting;

/// The largest answer that is read.
const LARGEST_ANSWER: usize = 32 << 20;
/// How long a signature is valid at most of a call that makes an object and has a job id of ours: before it is sent again
/// it is waited until the first one can no longer arrive.
const BRIEF: Duration = Duration::from_secs(120);
/// The longest pause that a server can ask for before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Sends calls to one CloudStack as one account. Cheap to clone.
///
/// Every call travels by `POST`, so that neither key nor signature gets into an access log.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoint: Url,
    credentials: Credentials,
    validity: Duration,
    spelling: Spelling,
    call_timeout: Duration,
    retries: u32,
    clock: Clock,
    follow_clock: bool,
    /// By how many seconds the server's clock was found to be ahead, if it is followed.
    ahead: AtomicI64,
    /// By how many seconds the server's clock was ahead when it last answered; the least number before that.
    skew: AtomicI64,
    /// The largest page that the server is known to give.
    page: AtomicU64,
    transport: Arc<dyn Transport>,
    uploads: Arc<dyn Transport>,
}

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The settings of a [`Client`].
pub struct ClientBuilder {
    endpoint: String,
    credentials: Option<Credentials>,
    trust: Trust,
    upload_trust: Option<Trust>,
    connect_timeout: Duration,
    call_timeout: Duration,
    validity: Duration,
    spelling: Spelling,
    retries: u32,
    clock: Clock,
    follow_clock: bool,
    transport: Option<Arc<dyn Transport>>,
}

impl Client {
    /// Starts with the URL of the API, which mostly ends in `/client/api`.
    ///
    /// The secret key is never sent, but over plain `http` all the rest can be read on the way: the passwords of new
    /// machines, data for guests, tickets for uploads, and each signed call, which is good until its signature expires.
    pub fn builder(endpoint: impl AsRef<str>) -> ClientBuilder {
        ClientBuilder {
            endpoint: endpoint.as_ref().trim().to_owned(),
            credentials: None,
            trust: Trust::default(),
            upload_trust: None,
            connect_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(300),
            validity: VALIDITY,
            spelling: Spelling::default(),
            retries: 4,
            clock: Arc::new(SystemTime::now),
            follow_clock: false,
            transport: None,
        }
    }

    /// The URL of the API.
    #[must_use]
    pub fn endpoint(&self) -> &Url {
        &self.0.endpoint
    }

    /// The largest page that the server is known to give, which all lists learn.
    pub(crate) fn page(&self) -> &AtomicU64 {
        &self.0.page
    }

    pub(crate) fn uploads(&self) -> &dyn Transport {
        &*self.0.uploads
    }

    /// Sends a call and reads its answer.
    ///
    /// A call that the server refuses because it limits the rate of calls, or because it is being stopped, is tried again after
    /// a while (the one that the server names, if it does), and a call that only looks also when its connection breaks or
    /// something before the server is not ready; each time it is signed anew.
    ///
    /// # Errors
    /// What the call cannot send, [`ErrorKind::Transport`], and what the server answers. After a
    /// [retryable](Error::is_retryable) error of a call that changes something, it may have taken effect.
    pub async fn call<T>(&self, call: Call<T>) -> Result<T> {
        self.send(&call).await
    }

    pub(crate) async fn send<T>(&self, call: &Call<T>) -> Result<T> {
        self.send_as(call, self.0.validity, None).await.result
    }

    /// Sends a call whose signature is valid for so long; the pauses before further tries end with the wait.
    pub(crate) async fn send_as<T>(
        &self,
        call: &Call<T>,
        validity: Duration,
        waiting: Option<&Waiting<'_>>,
    ) -> Sent<T> {
        let mut expires = SystemTime::UNIX_EPOCH;
        let result = self.tried(call, validity, waiting, &mut expires).await;
        Sent { result, expires }
    }

    async fn tried<T>(
        &self,
        call: &Call<T>,
        validity: Duration,
        waiting: Option<&Waiting<'_>>,
        expires: &mut SystemTime,
    ) -> Result<T> {
        let mut pause = Duration::from_millis(250);
        let (mut left, mut followed) = (self.0.retries, false);
        loop {
            let ahead = self.0.ahead.load(Ordering::Relaxed);
            *expires = self.now().checked_add(validity).ok_or_else(|| {
                let text = format!("{}: no signature can be valid for so long", call.what());
                Error::new(ErrorKind::Expires, text)
            })?;
            let error = match self.once(call, *expires).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // Refused before anything was done, and the time is right now.
            if !followed && self.0.ahead.load(Ordering::Relaxed) != ahead {
                followed = true;
                continue;
            }
            let again = match error.kind() {
                // Refused before anything was done: too many calls, or (in the server's own words, and not those of a
                // proxy that may have lost it) no new jobs because it is being stopped.
                ErrorKind::Busy if error.status() == Some(StatusCode::TOO_MANY_REQUESTS) => true,
                ErrorKind::Busy => call.is_read() || error.cs_code().is_some(),
                // One more try is enough for a connection that was closed while it lay idle.
                ErrorKind::Transport => call.is_read() && left == self.0.retries,
                _ => false,
            };
            if !again || left == 0 {
                return Err(error);
            }
            left -= 1;
            let asked = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
            let rest = spread(pause).max(asked);
            match waiting {
                Some(waiting) if !waiting.rest(rest).await? => return Err(error),
                Some(_) => {}
                None => tokio::time::sleep(rest).await,
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn once<T>(&self, call: &Call<T>, expires: SystemTime) -> Result<T> {
        let form = call.sign(&self.0.credentials, Expires::at(expires).spelled(self.0.spelling))?;
        let signature = form.signature();
        let mut request = http::Request::new(Body::Bytes(Bytes::from(form.into_string())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri(&self.0.endpoint)?;
        let headers = request.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"),
        );
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let exchange = async {
            let answer = self.0.transport.send(request).await?;
            let (parts, body) = answer.into_parts();
            let body = read_all(body, LARGEST_ANSWER).await?;
            Ok((parts, body))
        };
        let late = || {
            let limit = self.0.call_timeout.as_secs_f32();
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "{}: no answer of {} within {limit} s",
                    call.what(),
                    place(&self.0.endpoint)
                ),
            )
        };
        let (parts, body) = tokio::time::timeout(self.0.call_timeout, exchange)
            .await
            .map_err(|_| late())?
            // The transport knows the place and not what was wanted of it.
            .map_err(|error: Error| {
                let text = format!("{}: {error}", call.what());
                Error::new(error.kind(), text).with_source(error)
            })?;
        #[cfg(feature = "tracing")]
        tracing::debug!(
            command = call.command(),
            status = parts.status.as_u16(),
            bytes = body.len(),
            "cloudstack call"
        );
        if let Some(there) = date(&parts.headers)
            && let Ok(here) = jiff::Timestamp::try_from((self.0.clock)())
        {
            self.0.skew.store(there.as_second() - here.as_second(), Ordering::Relaxed);
        }
        call.parse(parts.status, &body).map_err(|error| {
            let error = if error.kind() == ErrorKind::Unauthorized {
                self.explain(error, &parts.headers)
            } else {
                error
            };
            let error = error.without(self.0.credentials.secret()).without(&signature);
            call.redact(error).with_retry_after(pause(&parts.headers))
        })
    }

    /// The time, by the server's clock if that is followed.
    pub(crate) fn now(&self) -> SystemTime {
        moved((self.0.clock)(), self.0.ahead.load(Ordering::Relaxed))
    }

    pub(crate) fn validity(&self) -> Duration {
        self.0.validity
    }

    /// The time at the server, as far as its last answer told.
    pub(crate) fn server_now(&self) -> SystemTime {
        match self.0.skew.load(Ordering::Relaxed) {
            i64::MIN => self.now(),
            skew => moved((self.0.clock)(), skew),
        }
    }

    /// How long the signature of a call should be valid that may have to be sent again; as long as usual where clocks
    /// differ, so that it is accepted at all.
    pub(crate) fn brief(&self) -> Duration {
        let (here, there) = (self.now(), self.server_now());
        let apart = here.duration_since(there).or_else(|_| there.duration_since(here));
        let close = apart.unwrap_or_default() <= BRIEF / 2;
        if close { self.0.validity.min(BRIEF) } else { self.0.validity }
    }

    /// The server answers every doubt about a signature with the same words; its clock may tell which it is.
    fn explain(&self, error: Error, headers: &HeaderMap) -> Error {
        if error.code() != Some(401) {
            return error;
        }
        let date = date(headers);
        let than = |time: SystemTime| {
            let (there, here) = date.zip(jiff::Timestamp::try_from(time).ok())?;
            Some(there.as_second() - here.as_second())
        };
        // Beside the time that it was signed by, which is not this computer's if the server's is followed.
        let behind = than(self.now());
        if self.0.follow_clock
            && behind.is_some_and(|seconds| seconds.abs() >= 60)
            && let Some(ahead) = than((self.0.clock)())
        {
            self.0.ahead.store(ahead, Ordering::Relaxed);
        }
        let told = behind.map(|seconds| {
            let way = if seconds > 0 { "behind" } else { "ahead of" };
            let minutes = seconds.unsigned_abs() / 60;
            format!(
                "this computer's clock is {minutes} min {way} the server's, and signatures are valid for a short time \
                 only: correct it"
            )
        });
        const KEYS: &str = "check the API key and its secret, that its user is enabled and may use the API from this \
                            address, and that the endpoint is the right CloudStack";
        let validity = i64::try_from(self.0.validity.as_secs()).unwrap_or(i64::MAX);
        // A minute less, for what the answer took.
        match (behind, told) {
            // It had expired when it arrived.
            (Some(seconds), Some(told)) if seconds > validity.saturating_sub(60) => {
                error.with_hint(&told)
            }
            // Servers can be set to refuse what is valid for more than a quarter of an hour by their clock.
            (Some(seconds), Some(told)) if validity.saturating_sub(seconds) > 14 * 60 => {
                error.with_hint(&format!("{told}; if it is right, {KEYS}"))
            }
            _ => error.with_hint(KEYS),
        }
    }
}

/// What a call came to, and until when it would be taken by the server: should it still be on its way.
pub(crate) struct Sent<T> {
    pub(crate) result: Result<T>,
    pub(crate) expires: SystemTime,
}

/// A time so many seconds later, or earlier.
fn moved(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let right = if seconds < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    right.unwrap_or(time)
}

/// The server's time when it answered.
fn date(headers: &HeaderMap) -> Option<jiff::Timestamp> {
    let date = headers.get(DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()
}

/// The pause that an answer asks for, in seconds or as a time beside the server's own.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let wanted = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = |text: &str| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    let (then, now) = (time(wanted)?, time(text(DATE)?)?);
    Some(Duration::from_secs(u64::try_from(then.as_second() - now.as_second()).unwrap_or(0)))
}

fn uri(url: &Url) -> Result<http::Uri> {
    url.as_str().parse().map_err(|error: http::uri::InvalidUri| {
        Error::config("the endpoint is no usable URL").with_source(error)
    })
}

/// Scheme, host and port: what an error may say of a URL.
pub(crate) fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.0.endpoint.as_str())
            .field("credentials", &self.0.credentials)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// The account's keys.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Whom to trust.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Whom to trust when data is uploaded, if not the same: the secondary storage VM that takes uploads has a certificate of its
    /// own, which often comes from CloudStack's own authority.
    #[must_use]
    pub fn upload_trust(mut self, trust: Trust) -> Self {
        self.upload_trust = Some(trust);
        self
    }

    /// How long making a connection may take (15 s).
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long one call may take, from its start to the end of its answer (5 min).
    #[must_use]
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit;
        self
    }

    /// How long a signature is valid ([`VALIDITY`], 10 min). Servers can be set to refuse more than 15 minutes.
    #[must_use]
    pub fn validity(mut self, validity: Duration) -> Self {
        self.validity = validity;
        self
    }

    /// How the time of expiry is written, for servers before 4.11.
    #[must_use]
    pub fn expires_spelling(mut self, spelling: Spelling) -> Self {
        self.spelling = spelling;
        self
    }

    /// How often a call that the server was too busy for is tried again (4 times).
    #[must_use]
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Another clock than the system's, for a computer whose clock cannot be corrected, and for tests.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Signs by the server's clock if this computer's is found to be wrong: a call that is refused for it is sent
    /// once more, later ones are right at once. Without it (the default) the refusal says which clock to correct.
    #[must_use]
    pub fn follow_server_clock(mut self, follow: bool) -> Self {
        self.follow_clock = follow;
        self
    }

    /// A transport of the caller's own, for calls and uploads; it decides whom to trust.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with what is missing or unusable.
    pub fn build(self) -> Result<Client> {
        let endpoint = endpoint(&self.endpoint)?;
        let credentials = self.credentials.ok_or_else(|| {
            Error::config("no credentials are given: an API key and its secret are needed")
        })?;
        if credentials.api_key().is_empty() || credentials.secret().is_empty() {
            return Err(Error::config("the API key or its secret is empty"));
        }
        let (transport, uploads) = match self.transport {
            Some(own) => (Arc::clone(&own), own),
            None => {
                let make = |trust: &Trust| -> Result<Arc<dyn Transport>> {
                    Ok(Arc::new(HttpTransport::new(trust, self.connect_timeout)?))
                };
                let calls = make(&self.trust)?;
                let uploads = match &self.upload_trust {
                    Some(trust) => make(trust)?,
                    None => Arc::clone(&calls),
                };
                (calls, uploads)
            }
        };
        Ok(Client(Arc::new(Inner {
            endpoint,
            credentials,
            validity: self.validity,
            spelling: self.spelling,
            call_timeout: self.call_timeout,
            retries: self.retries,
            clock: self.clock,
            follow_clock: self.follow_clock,
            ahead: AtomicI64::new(0),
            skew: AtomicI64::new(i64::MIN),
            page: AtomicU64::new(PAGE),
            transport,
            uploads,
        })))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("credentials", &self.credentials)
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// The text itself stays out of the errors: people put passwords into URLs.
fn endpoint(text: &str) -> Result<Url> {
    let mut url = Url::parse(text).map_err(|error| {
        Error::config(format!(
            "the endpoint is no URL ({error}); expected is something like https://cloud.example/client/api"
        ))
    })?;
    let there = |part: Option<&str>| part.is_some_and(|part| !part.is_empty());
    let problem = if !["http", "https"].contains(&url.scheme()) {
        "is neither http nor https"
    } else if !url.has_host() {
        "names no host"
    } else if !url.username().is_empty() || url.password().is_some() {
        "holds a user name or password, which CloudStack's API does not take"
    } else if there(url.query()) || there(url.fragment()) {
        "has a query or a fragment, which would get into every call"
    } else {
        // As other clients want it, with a question mark at its end.
        url.set_query(None);
        url.set_fragment(None);
        return Ok(url);
    };
    Err(Error::config(format!("the endpoint {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_told_before_anything_is_sent() {
        let build = |endpoint: &str, credentials: Option<Credentials>| {
            let mut builder = Client::builder(endpoint);
            builder.credentials = credentials;
            builder.build().unwrap_err()
        };
        let keys = || Some(Credentials::new("key", "hunter2secret"));
        for url in
            ["", "cloud", "ftp://h/", "http://u:hunter2secret@h/", "http://h/?a=b", "http://h/#x"]
        {
            let error = build(url, keys());
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for credentials in [None, Some(Credentials::new("", "x")), Some(Credentials::new("x", " "))]
        {
            assert_eq!(build("http://h/client/api", credentials).kind(), ErrorKind::Config);
        }
        let client = Client::builder("http://h:8080/client/api")
            .credentials(keys().unwrap())
            .build()
            .unwrap();
        assert!(!format!("{client:?}").contains("hunter2"));
        let missing = Client::builder("https://h/")
            .credentials(keys().unwrap())
            .trust(Trust::CaFile("/nonexistent/ca.pem".into()));
        assert_eq!(missing.build().unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn the_server_can_ask_for_a_pause() {
        let asked = |after: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static("Wed, 02 Jan 2030 03:04:05 GMT"));
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
            pause(&headers).map(|pause| pause.as_secs())
        };
        assert_eq!(asked("7"), Some(7));
        assert_eq!(asked("Wed, 02 Jan 2030 03:04:17 GMT"), Some(12));
        assert_eq!(asked("Wed, 02 Jan 2030 03:04:00 GMT"), Some(0));
        assert_eq!((asked("soon"), asked("-1"), pause(&HeaderMap::new())), (None, None, None));
    }
}
