//! A login that stays fresh.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::Method;
use url::{Host, Position, Url};

use super::catalog::{Catalog, EndpointQuery};
use super::config::CloudConfig;
use super::exchange::within;
use super::login::{find_identity, log_in, look_up};
use super::service::ServiceClient;
use super::token::Token;
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::transport::{HttpTransport, Transport};

/// A token with less than this left is replaced before it is used.
const MARGIN: Duration = Duration::from_secs(120);

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
    /// Where Keystone itself is reached by TLS, an endpoint of the catalogue without it is refused: whoever listens on the
    /// way could use the token. An override is taken as it is, because the user has written it; so is an address of this
    /// machine (`localhost`, `127.0.0.0/8`, `::1`), on the way to which nobody listens; and
    /// [`danger_send_token_in_clear`](super::CloudConfigBuilder::danger_send_token_in_clear) allows all.
    ///
    /// # Errors
    /// [`ErrorKind::Catalog`] with what there is instead, or why it is not used.
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
        let url = Url::parse(&endpoint.url)
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
            })?;
        let is_secret = self.0.identity.scheme() == "https" && !config.danger_token_in_clear;
        if is_secret && url.scheme() == "http" && !is_here(&url) {
            let place = &url[..Position::AfterPath];
            let key = format!("{}_endpoint_override", service.replace('-', "_"));
            let text = format!(
                "the catalogue's endpoint for {service:?} is {place}, without TLS although Keystone has it, and the token is \
                 not sent there for all to read: name its https URL as {key} (OS_{}), or this URL if you trust the network",
                key.to_ascii_uppercase()
            );
            return Err(Error::new(ErrorKind::Catalog, text));
        }
        Ok(url)
    }

    /// A client for the service of `query`, at the URL that the catalogue gives.
    ///
    /// # Errors
    /// As [`endpoint`](Self::endpoint).
    pub fn service(&self, query: &EndpointQuery) -> Result<ServiceClient> {
        Ok(self.service_at(self.endpoint(query)?))
    }

    /// A client for a service at this URL, which will get the token: it must be one of the cloud's own, and with `http` the
    /// token goes there in the clear.
    #[must_use]
    pub fn service_at(&self, base: Url) -> ServiceClient {
        ServiceClient::new(self.clone(), base)
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.0.transport
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
        let work = async { service.send(&call, &token).await?.read(&call).await };
        within(self.0.config.timeout, call.what(), work)
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

/// Whether a token should be replaced before it is used for so long. Where tokens live for seconds, one of half its age
/// will do for a call: otherwise each would cause a login.
fn is_old(token: &Token, needed: Duration) -> bool {
    let life = token.lifetime();
    token.remaining() < needed.min(life * 9 / 10).max(MARGIN.min(life / 2))
}

/// Whether a URL is one of this machine.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn cannot_renew(why: &str) -> Error {
    Error::new(
        ErrorKind::Unauthorized,
        format!(
            "{why} and cannot renew itself: log in with a password or an application credential"
        ),
    )
}
