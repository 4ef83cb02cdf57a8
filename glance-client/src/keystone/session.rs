//! A login that stays fresh, and the clients of single services that share it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use super::auth::auth_request;
use super::catalog::{Catalog, EndpointQuery};
use super::config::CloudConfig;
use super::discovery::{self, join_version, version_of, without_version};
use super::token::{self, Token};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::transport::{Body, BodyStream, HttpTransport, Transport, read_all, read_some};

/// A token with less than this left is replaced before it is used.
const MARGIN: Duration = Duration::from_secs(120);
/// More than any catalogue or page of images in the field.
const ANSWER_LIMIT: usize = 32 << 20;
const ERROR_LIMIT: usize = 64 << 10;
const REDIRECTS: usize = 3;

/// A login at one cloud: the token, the catalogue, and the way to renew them. Clones share all of it.
///
/// A token is renewed when less than two minutes of it are left, and once when a service refuses it; many
/// callers at once cause one login, whether it succeeds or fails.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

struct Shared {
    config: CloudConfig,
    identity: Url,
    transport: Arc<dyn Transport>,
    token: RwLock<Arc<Token>>,
    /// Held while logging in, so that there is one login at a time. The last one, if it failed, and when.
    login: tokio::sync::Mutex<Option<(Instant, Error)>>,
}

impl Session {
    /// Finds Keystone's v3 endpoint and logs in.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] (before anything is sent), [`ErrorKind::Unauthorized`] for wrong credentials or a scope
    /// without a role, [`ErrorKind::Transport`], [`ErrorKind::Protocol`] if there is no Keystone v3.
    pub async fn connect(config: &CloudConfig) -> Result<Self> {
        Self::connect_with(config, Arc::new(HttpTransport::of(config)?)).await
    }

    /// The same over another transport.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(config: &CloudConfig, transport: Arc<dyn Transport>) -> Result<Self> {
        let identity = find_identity(&*transport, config).await?;
        let token = log_in(&*transport, config, &identity).await?;
        Ok(Self::of(config, identity, transport, token))
    }

    /// Goes on with a token from an earlier session, which the caller has kept ([`Token::secret`]), and logs in only if
    /// Keystone no longer takes it, it has less than two minutes left, or it is not of the user and the scope of
    /// `config`. So a tool that is run often does not cause a login each time.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// ```no_run
    /// # async fn example() -> glance_client::Result<()> {
    /// use glance_client::{CloudConfig, Secret, keystone::Session};
    /// let kept = Secret::new(std::fs::read_to_string("token").unwrap_or_default().trim());
    /// let session = Session::resume(&CloudConfig::from_env()?, &kept).await?;
    /// let to_keep = session.current();
    /// // `to_keep.secret().expose()` goes into a file that only its owner can read.
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resume(config: &CloudConfig, kept: &Secret) -> Result<Self> {
        Self::resume_with(config, Arc::new(HttpTransport::of(config)?), kept).await
    }

    /// The same over another transport.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn resume_with(
        config: &CloudConfig,
        transport: Arc<dyn Transport>,
        kept: &Secret,
    ) -> Result<Self> {
        let identity = find_identity(&*transport, config).await?;
        let found = look_up(&*transport, config, &identity, kept).await?;
        let token = match found {
            Some(token) if token.is_for(config) && !is_old(&token, Duration::ZERO) => token,
            _ => log_in(&*transport, config, &identity).await?,
        };
        Ok(Self::of(config, identity, transport, token))
    }

    fn of(
        config: &CloudConfig,
        identity: Url,
        transport: Arc<dyn Transport>,
        token: Token,
    ) -> Self {
        Self(Arc::new(Shared {
            config: config.clone(),
            identity,
            transport,
            token: RwLock::new(Arc::new(token)),
            login: tokio::sync::Mutex::new(None),
        }))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &CloudConfig {
        &self.0.config
    }

    /// Keystone's v3 endpoint, as it was discovered.
    #[must_use]
    pub fn identity_url(&self) -> &Url {
        &self.0.identity
    }

    /// The catalogue of the newest token.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        self.current().catalog.clone()
    }

    /// The token as it is, fresh or not.
    #[must_use]
    pub fn current(&self) -> Arc<Token> {
        Arc::clone(&self.0.token.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A token with at least two minutes left, if Keystone gives such; one with less while it gives none.
    ///
    /// # Errors
    /// What the login says; [`ErrorKind::Unauthorized`] if a given token has expired, which nothing can renew.
    pub async fn token(&self) -> Result<Arc<Token>> {
        self.token_for(Duration::ZERO).await
    }

    /// A token with at least `needed` left, and two minutes at least; where the cloud's tokens do not live that long, one
    /// that has lost at most a tenth of its life (for two minutes: half of it).
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub async fn token_for(&self, needed: Duration) -> Result<Arc<Token>> {
        let token = self.current();
        if !is_old(&token, needed) {
            return Ok(token);
        }
        if self.0.config.auth.is_renewable() {
            return match self.renew(&token).await {
                // While Keystone fails, what is left of the token will do if it is enough.
                Err(error)
                    if error.is_retryable()
                        && !token.remaining().is_zero()
                        && token.remaining() >= needed =>
                {
                    Ok(token)
                }
                result => result,
            };
        }
        if token.remaining().is_zero() {
            return Err(cannot_renew("the token has expired"));
        }
        Ok(token)
    }

    /// Logs in again unless somebody else has done so since `stale` was handed out, or has failed since this began: a few
    /// failures lock a user.
    async fn renew(&self, stale: &Arc<Token>) -> Result<Arc<Token>> {
        let began = Instant::now();
        let mut last = self.0.login.lock().await;
        let current = self.current();
        if !Arc::ptr_eq(&current, stale) {
            return Ok(current);
        }
        if let Some((ended, error)) = &*last
            && *ended >= began
        {
            return Err(error.again());
        }
        match log_in(&*self.0.transport, &self.0.config, &self.0.identity).await {
            Ok(token) => {
                *last = None;
                let token = Arc::new(token);
                *self.0.token.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&token);
                Ok(token)
            }
            Err(error) => {
                *last = Some((Instant::now(), error.again()));
                Err(error)
            }
        }
    }

    /// Replaces a token that a service has refused.
    ///
    /// # Errors
    /// What the login says; [`ErrorKind::Unauthorized`] if the session lives from a given token.
    pub async fn replace(&self, refused: &Arc<Token>) -> Result<Arc<Token>> {
        if !self.0.config.auth.is_renewable() {
            return Err(cannot_renew("the given token was refused"));
        }
        self.renew(refused).await
    }

    /// The URL of a service: the configuration's override, else the catalogue's endpoint. What `query` leaves open comes
    /// from the configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Catalog`] with what there is instead.
    pub fn endpoint(&self, query: &EndpointQuery) -> Result<Url> {
        let config = &self.0.config;
        let service = &query.service_type;
        // `glance_endpoint_override` is as good as `image_endpoint_override`.
        let mut names = std::iter::once(service).chain(&query.aliases);
        if let Some(url) = names.clone().find_map(|name| config.endpoint_overrides.get(name)) {
            return Ok(url.clone());
        }
        let mut query = query.clone();
        if query.interfaces.is_empty() {
            let own = names.find_map(|name| config.service_interfaces.get(name));
            query.interfaces = own.unwrap_or(&config.interfaces).clone();
        }
        if query.region.is_none() {
            query.region.clone_from(&config.region);
        }
        let service = service.clone();
        if let Some(other) = config.service_types.get(&service) {
            query.service_type.clone_from(other);
        }
        let token = self.current();
        if token.catalog.services.is_empty() {
            return Err(Error::new(
                ErrorKind::Catalog,
                format!(
                    "the token has no catalogue, so {service:?} cannot be found: log in with a project (project_name)"
                ),
            ));
        }
        let endpoint = token.catalog.find(&query)?;
        Url::parse(&endpoint.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Catalog,
                    format!(
                        "the catalogue's endpoint for {service:?} is not an http URL, or one with a password"
                    ),
                )
            })
    }

    /// A client for the service of `query`, at the URL that the catalogue gives.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint).
    pub fn service(&self, query: &EndpointQuery) -> Result<ServiceClient> {
        Ok(self.service_at(self.endpoint(query)?))
    }

    /// A client for a service at this URL, which will get the token: it must be one of the cloud's own.
    #[must_use]
    pub fn service_at(&self, base: Url) -> ServiceClient {
        ServiceClient { session: self.clone(), base }
    }

    /// Revokes the token. The session cannot be used afterwards other than by logging in again.
    ///
    /// # Errors
    /// What Keystone says.
    pub async fn revoke(&self) -> Result<()> {
        let token = self.current();
        let call = Call::new("revoke the token", Method::DELETE, "auth/tokens", |_| Ok(()))
            .with_header("x-subject-token", token.secret().expose());
        let service = self.service_at(self.0.identity.clone());
        service
            .limited(&call, async { service.send(&call, &token).await?.read(&call).await })
            .await
            .map_err(|error| error.without(token.secret()))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("identity", &self.0.identity.as_str())
            .finish_non_exhaustive()
    }
}

/// Sends calls of one service with the session's token.
#[derive(Clone, Debug)]
pub struct ServiceClient {
    session: Session,
    base: Url,
}

impl ServiceClient {
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
    /// [`ErrorKind::Protocol`] if that is another host: the token is not taken there.
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
    /// The kind that the status means; [`ErrorKind::Transport`]; [`ErrorKind::Timeout`] after
    /// [`CloudConfig::timeout`].
    pub async fn call<T>(&self, call: Call<T>) -> Result<T> {
        let work = async {
            let token = self.session.token().await?;
            let answer = self.send(&call, &token).await?;
            let is_refused = answer.status == StatusCode::UNAUTHORIZED;
            let result = answer.read(&call).await.map_err(|error| error.without(token.secret()));
            if !is_refused {
                return result;
            }
            let Ok(token) = self.session.replace(&token).await else { return result };
            let answer = self.send(&call, &token).await?;
            answer.read(&call).await.map_err(|error| error.without(token.secret()))
        };
        self.limited(&call, work).await
    }

    /// Runs `work` under the configuration's time limit.
    async fn limited<T, R>(
        &self,
        call: &Call<T>,
        work: impl Future<Output = Result<R>>,
    ) -> Result<R> {
        let limit = self.session.config().timeout;
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("{}: no answer within {} s", call.what(), limit.as_secs_f32()),
            )),
        }
    }

    async fn send<T>(&self, call: &Call<T>, token: &Token) -> Result<Reply> {
        let mut url = call.url(&self.base)?;
        for _ in 0..=REDIRECTS {
            let transport = &*self.session.0.transport;
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
            exchange(&*self.session.0.transport, what, call.method(), &url, all, body).await?;
        let mut answer = http::Response::new(reply.body);
        *answer.status_mut() = reply.status;
        *answer.headers_mut() = reply.headers;
        Ok(answer)
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: BodyStream,
}

impl Reply {
    async fn read<T>(self, call: &Call<T>) -> Result<T> {
        let success = self.status.is_success() || self.status.is_redirection();
        let body: Bytes = if success {
            read_all(call.what(), self.body, ANSWER_LIMIT).await?
        } else {
            read_some(self.body, ERROR_LIMIT).await
        };
        call.parse(self.status, &self.headers, &body)
    }
}

async fn exchange(
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

/// Whether a token should be replaced before it is used for so long. Where tokens live for seconds, one of half its age
/// will do for a call: otherwise each would cause a login.
fn is_old(token: &Token, needed: Duration) -> bool {
    let life = token.lifetime();
    token.remaining() < needed.min(life * 9 / 10).max(MARGIN.min(life / 2))
}

fn cannot_renew(why: &str) -> Error {
    Error::new(
        ErrorKind::Unauthorized,
        format!(
            "{why} and cannot renew itself: log in with a password or an application credential"
        ),
    )
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

/// Keystone's v3 URL: what `auth_url` says if it names v3, else what its root says, else the usual place.
async fn find_identity(transport: &dyn Transport, config: &CloudConfig) -> Result<Url> {
    let root = without_version(&config.auth_url);
    let last = config.auth_url.path().trim_end_matches('/').rsplit('/').next();
    let mut usual = root.clone();
    usual.set_path(&format!("{}/v3", root.path().trim_end_matches('/')));
    if last.and_then(version_of) == Some(3) {
        return Ok(usual);
    }
    let call = discovery::versions();
    let ask = async {
        let url = call.url(&root)?;
        exchange_twice(transport, &call, &url, call.headers()).await?.read(&call).await
    };
    let versions = match tokio::time::timeout(config.timeout, ask).await {
        Ok(Ok(versions)) => versions,
        // Some proxies show nothing at the root.
        Ok(Err(error)) if error.status().is_some() => return Ok(usual),
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            return Err(Error::new(
                ErrorKind::Timeout,
                "discover versions: Keystone does not answer",
            ));
        }
    };
    match versions.iter().filter(|version| version.major == 3).max_by_key(|version| version.minor) {
        Some(version) => join_version(&root, version),
        None if versions.is_empty() => Ok(usual),
        None => Err(Error::protocol("Keystone at auth_url has no v3 API")),
    }
}

/// Sends a call that changes nothing that matters: once more if the connection broke, because a pooled one may be closed
/// by the server at the moment of its use.
async fn exchange_twice<T>(
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

/// What Keystone says of a token; `None` if it is not valid.
async fn look_up(
    transport: &dyn Transport,
    config: &CloudConfig,
    identity: &Url,
    kept: &Secret,
) -> Result<Option<Token>> {
    let call = token::look_up(kept);
    // A text that cannot be a token is as good as none.
    let Ok(url) = call.url(identity) else { return Ok(None) };
    if kept.is_empty() {
        return Ok(None);
    }
    let ask =
        async { exchange_twice(transport, &call, &url, call.headers()).await?.read(&call).await };
    match tokio::time::timeout(config.timeout, ask).await {
        Ok(Ok(token)) => Ok(Some(token)),
        Ok(Err(error)) if error.status().is_some_and(|status| status.is_client_error()) => Ok(None),
        Ok(Err(error)) => Err(error.without(kept)),
        Err(_) => {
            Err(Error::new(ErrorKind::Timeout, "look the token up: Keystone does not answer"))
        }
    }
}

async fn log_in(transport: &dyn Transport, config: &CloudConfig, identity: &Url) -> Result<Token> {
    let call = auth_request(&config.auth, &config.scope)?;
    let work = async {
        let url = call.url(identity)?;
        let reply = exchange_twice(transport, &call, &url, call.headers()).await?;
        if reply.status.is_redirection() {
            return Err(Error::protocol(
                "log in: Keystone redirects, and a password is not sent after a redirect: correct auth_url",
            )
            .with_answer(reply.status, &reply.headers));
        }
        reply.read(&call).await
    };
    let result = match tokio::time::timeout(config.timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Timeout, "log in: Keystone does not answer")),
    };
    result.map_err(|error| {
        let error = error.without(config.auth.secret());
        match error.kind() {
            ErrorKind::Unauthorized => {
                error.with_hint("check user, password, project and their domains")
            }
            ErrorKind::NotFound => error.with_hint(
                "is auth_url that of a Keystone with v3, and does the application credential (if it is one) still exist?",
            ),
            _ => error,
        }
    })
}
