//! A server's address and how to speak to it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use serde_json::Value;
use url::Url;

use crate::credential::Secret;
use crate::error::{Error, ErrorKind, Result};
use crate::live::Session;
use crate::tls::Trust;
use crate::transport::{Http, Transport};
use crate::wire::{self, Codec};

/// Which of the two protocols the calls use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// JSON-RPC 2.0, and XML-RPC where a server turns out to have no JSON-RPC.
    #[default]
    Auto,
    /// JSON-RPC 2.0 only (XenServer 7.3 and later answer in it; older ones answer in 1.0, which
    /// is understood).
    JsonRpc,
    /// JSON-RPC 1.0 only: for what stands between us and the server and knows no other.
    JsonRpc1,
    /// XML-RPC only.
    XmlRpc,
}

/// How to reach a pool: its URL, whom to trust, and the limits. Made by [`Client::builder`];
/// [`login`](Self::login) gives a [`Session`]. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) settings: Arc<Settings>,
    pub(crate) start: Arc<Endpoint>,
}

/// Everything that does not change while a client lives.
pub(crate) struct Settings {
    pub(crate) protocol: Protocol,
    pub(crate) user_agent: HeaderValue,
    pub(crate) connect_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) largest_answer: usize,
    pub(crate) addresses: BTreeMap<String, String>,
    /// A transport that the caller gave; it serves every host.
    pub(crate) own_transport: Option<Arc<dyn Transport>>,
}

/// One host: where it is, whom to trust there, and the connections to it.
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    pub(crate) trust: Trust,
    pub(crate) transport: Arc<dyn Transport>,
}

impl Client {
    /// Starts with the URL of a pool's master: `https://host`, or a bare host name or address,
    /// which means https. The path is ignored.
    pub fn builder(url: impl AsRef<str>) -> ClientBuilder {
        ClientBuilder {
            url: url.as_ref().trim().to_owned(),
            trust: Trust::default(),
            protocol: Protocol::default(),
            user_agent: concat!("xenapi-rs/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(300),
            retries: 3,
            largest_answer: 256 << 20,
            addresses: BTreeMap::new(),
            transport: None,
        }
    }

    /// Logs in. `originator` names the program to the server, which keeps only so many sessions
    /// for each: always give the same short name.
    ///
    /// A pool member sends us to its master, and we follow: with authorities as
    /// [`Trust`], the master's certificate is checked as any other; with pins, the master's must
    /// be among them, or the member must have told its fingerprint over the trusted connection.
    ///
    /// # Errors
    /// Of kind [`Authentication`](ErrorKind::Authentication) when the server refuses the words
    /// (it takes 5 s to say so), and whatever else a call can meet.
    pub async fn login(
        &self,
        user: impl Into<String>,
        password: impl Into<Secret>,
        originator: impl Into<String>,
    ) -> Result<Session> {
        Session::open(self.clone(), user.into(), password.into(), originator.into()).await
    }

    /// The URL that the client was made with.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.start.url
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.start.url.as_str())
            .field("trust", &self.start.trust)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Makes the connections to another host of the pool.
    pub(crate) fn endpoint(&self, url: Url, trust: Trust) -> Result<Arc<Endpoint>> {
        let transport: Arc<dyn Transport> = match &self.own_transport {
            Some(transport) => Arc::clone(transport),
            None => {
                // Over plain http there is nothing to trust, and nothing to load for it: a
                // machine without any authorities still reaches such a server.
                let nobody = Trust::Pins(Vec::new());
                let trust = if url.scheme() == "http" { &nobody } else { &trust };
                Arc::new(Http::new(trust, self.connect_timeout, self.largest_answer)?)
            }
        };
        Ok(Arc::new(Endpoint { url, trust, transport }))
    }

    /// Sends one call to a host; gives what it answered, and the answer's headers.
    pub(crate) async fn exchange(
        &self,
        endpoint: &Endpoint,
        codec: Codec,
        method: &str,
        params: &[Value],
        extra: Option<(&'static str, &'static str)>,
        timeout: Duration,
    ) -> (Result<Value>, HeaderMap) {
        let request = match self.request(endpoint, codec, method, params, extra) {
            Ok(request) => request,
            Err(e) => return (Err(e), HeaderMap::new()),
        };
        let sent = tokio::time::timeout(timeout, endpoint.transport.send(request)).await;
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => return (Err(e.context(method)), HeaderMap::new()),
            Err(_) => {
                let words = format!("{method}: no answer within {} s", timeout.as_secs());
                return (Err(Error::new(ErrorKind::Timeout, words)), HeaderMap::new());
            }
        };
        let (head, body) = answer.into_parts();
        (read_answer(codec, &head, &body).map_err(|e| e.context(method)), head.headers)
    }

    fn request(
        &self,
        endpoint: &Endpoint,
        codec: Codec,
        method: &str,
        params: &[Value],
        extra: Option<(&'static str, &'static str)>,
    ) -> Result<Request<Bytes>> {
        let body = codec.encode(method, params)?;
        let mut url = endpoint.url.clone();
        url.set_path(codec.path());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(url.as_str())
            .header(CONTENT_TYPE, codec.content_type())
            .header(ACCEPT, codec.content_type())
            .header(USER_AGENT, self.user_agent.clone())
            // Servers answer 500 to a chunked request, so the length is said in every case.
            .header(CONTENT_LENGTH, body.len());
        if let Some((name, value)) = extra {
            request = request.header(name, value);
        }
        request
            .body(Bytes::from(body))
            .map_err(|e| Error::new(ErrorKind::Config, "no request can be made").with_source(e))
    }
}

/// The value in an answer. API errors come with status 200; another status is not from the API.
fn read_answer(codec: Codec, head: &http::response::Parts, body: &[u8]) -> Result<Value> {
    let kind = head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_xml = kind.contains("xml") || body.trim_ascii_start().starts_with(b"<?xml");
    if codec.is_json() && (is_xml || matches!(head.status.as_u16(), 403..=405 | 501)) {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("the server has no JSON-RPC (status {}, {kind:?})", head.status.as_u16()),
        )
        .with_source(NoJson));
    }
    if head.status.is_redirection()
        && let Some(to) = head.headers.get(LOCATION).and_then(|v| v.to_str().ok())
    {
        // Newer hosts send everyone from http to https so.
        let to =
            Url::parse(to).map_or_else(|_| to.to_owned(), |u| u.origin().ascii_serialization());
        let words = format!("the server redirects to {to}, and calls do not follow: use that URL");
        return Err(Error::new(ErrorKind::Redirect, words));
    }
    if !head.status.is_success() {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!(
                "the server answered with status {} and {}; is the URL that of a XenServer?",
                head.status.as_u16(),
                wire::excerpt(body)
            ),
        ));
    }
    codec.decode(body)
}

/// Marks the error that XML-RPC may be tried after.
#[derive(Debug)]
pub(crate) struct NoJson;

impl fmt::Display for NoJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this server may speak XML-RPC")
    }
}

impl std::error::Error for NoJson {}

/// Settings of a [`Client`].
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    url: String,
    trust: Trust,
    protocol: Protocol,
    user_agent: String,
    connect_timeout: Duration,
    call_timeout: Duration,
    retries: u32,
    largest_answer: usize,
    addresses: BTreeMap<String, String>,
    transport: Option<Arc<dyn Transport>>,
}

impl fmt::Debug for ClientBuilder {
    /// Without the URL: [`build`](Self::build) refuses one with a password in it, but not before.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("trust", &self.trust)
            .field("protocol", &self.protocol)
            .field("user_agent", &self.user_agent)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Whom to trust; the system's authorities unless told otherwise. Without meaning for http.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Which protocol to speak; [`Protocol::Auto`] unless told otherwise.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// The name sent as User-Agent. Servers limit rates by it, so make it distinct; they refuse
    /// long headers, so keep it short (at most 64 characters).
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = name.into();
        self
    }

    /// How long making a connection may take; 15 s unless told otherwise.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call may take; 5 minutes unless told otherwise, because some calls do their work
    /// before they answer, and because a server that limits the rate of calls (XenServer from
    /// 26.17, by user agent and address) does not refuse what is too much, but delays it.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How often a call is sent again after a failure that may pass, with pauses of 0.2 s, 0.4 s,
    /// 0.8 s …; 3 times unless told otherwise. Every call is, when no connection could be made or
    /// the server has too many tasks to take another; a call whose connection broke before the
    /// answer is only if it [may be repeated](crate::Call::may_repeat). Logins are not.
    pub fn retries(mut self, most: u32) -> Self {
        self.retries = most;
        self
    }

    /// The largest answer that is read into memory, in bytes; 256 MiB unless told otherwise.
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.largest_answer = bytes;
        self
    }

    /// Reaches the host with address `inside` (as the pool knows it) at `outside` (`host` or
    /// `host:port`): for pools behind NAT, when a member or a redirect names an inside address.
    pub fn host_address(mut self, inside: impl Into<String>, outside: impl Into<String>) -> Self {
        self.addresses.insert(inside.into(), outside.into());
        self
    }

    /// Sends calls through a transport of one's own, for every host. Raw transfers do not use it.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Makes the client; connects to nothing.
    ///
    /// # Errors
    /// Of kind [`Config`](ErrorKind::Config): the URL, the user agent or the trust is not usable.
    pub fn build(self) -> Result<Client> {
        let url = parse_url(&self.url)?;
        let short = self.user_agent.len() <= 64 && !self.user_agent.is_empty();
        let user_agent =
            HeaderValue::from_str(&self.user_agent).ok().filter(|_| short).ok_or_else(|| {
                Error::new(ErrorKind::Config, "a user agent is 1 to 64 printable ASCII characters")
            })?;
        let settings = Settings {
            protocol: self.protocol,
            user_agent,
            connect_timeout: self.connect_timeout,
            call_timeout: self.call_timeout,
            retries: self.retries,
            largest_answer: self.largest_answer,
            addresses: self.addresses,
            own_transport: self.transport,
        };
        let start = settings.endpoint(url, self.trust)?;
        Ok(Client { settings: Arc::new(settings), start })
    }
}

/// Reads a URL or a bare host. The text is not repeated in errors: it may hold a password.
fn parse_url(text: &str) -> Result<Url> {
    let bad = |why: &str| Error::new(ErrorKind::Config, format!("the server's URL {why}"));
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&text).map_err(|e| bad("cannot be read").with_source(e))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("holds a user or a password; give them to login"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("names no host"));
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, expected) in [
            ("https://xen1/", "https://xen1/"),
            ("xen1", "https://xen1/"),
            ("xen1:8443", "https://xen1:8443/"),
            ("http://10.0.0.1/jsonrpc?x=1", "http://10.0.0.1/"),
            ("[fd00::1]", "https://[fd00::1]/"),
        ] {
            assert_eq!(parse_url(text).unwrap().as_str(), expected);
        }
        for bad in ["", "ftp://x", "https://", "https://root:hunter2@xen1", "http://[::1"] {
            let e = parse_url(bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Config, "{bad}");
            let builder = Client::builder(bad);
            assert!(!format!("{e} {e:?} {builder:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_long_user_agent_is_refused_here_not_there() {
        let e = Client::builder("xen1")
            .trust(Trust::DangerAcceptAny)
            .user_agent("x".repeat(65))
            .build()
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config);
    }
}
