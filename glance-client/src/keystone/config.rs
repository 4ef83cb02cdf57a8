//! Which cloud, as whom.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::auth::{Auth, Domain, Principal, Scope};
use super::catalog::Interface;
use super::environment::Environment;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::transport::{Proxy, TlsOptions};

/// Where a cloud's Keystone is, who logs in, and which region and interface to use.
///
/// From `clouds.yaml` ([`named`](Self::named)), from the environment ([`from_env`](Self::from_env)), or from code
/// ([`builder`](Self::builder)). The secrets in it have no `Debug` content.
///
/// ```
/// use glance_client::keystone::{CloudConfig, Domain, Principal, Scope};
/// let cloud = CloudConfig::builder("https://cloud.example:5000/v3")
///     .with_password(Principal::named("demo", Domain::default()), "secret")
///     .with_scope(Scope::Project(Principal::named("demo", Domain::default())))
///     .with_region("RegionOne")
///     .build()?;
/// assert!(!format!("{cloud:?}").contains("secret\""));
/// # Ok::<(), glance_client::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CloudConfig {
    /// Keystone's URL, with or without a version.
    pub auth_url: Url,
    /// Who logs in.
    pub auth: Auth,
    /// For what.
    pub scope: Scope,
    /// The region, if one was named.
    pub region: Option<String>,
    /// The interfaces to try, in order. Empty: public.
    pub interfaces: Vec<Interface>,
    /// Interfaces of single services, by service type.
    pub service_interfaces: BTreeMap<String, Vec<Interface>>,
    /// URLs that replace the catalogue's, by service type.
    pub endpoint_overrides: BTreeMap<String, Url>,
    /// Other types under which to look services up, by service type.
    pub service_types: BTreeMap<String, String>,
    /// Whether the token may go to an endpoint of the catalogue that has no TLS, although Keystone has: see
    /// [`Session::endpoint`](super::Session::endpoint).
    pub danger_token_in_clear: bool,
    /// Whom to trust.
    pub tls: TlsOptions,
    /// Which proxy to use.
    pub proxy: Proxy,
    /// How long one call may take; uploads have limits of their own.
    pub timeout: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
}

impl CloudConfig {
    /// A configuration from code. Keystone's URL may end with `/v3`, with `/v2.0`, or with no version.
    pub fn builder(auth_url: impl Into<String>) -> CloudConfigBuilder {
        CloudConfigBuilder {
            auth_url: auth_url.into(),
            auth: None,
            scope: Scope::default(),
            region: None,
            interfaces: Vec::new(),
            overrides: Vec::new(),
            token_in_clear: false,
            tls: TlsOptions::default(),
            proxy: Proxy::default(),
            timeout: None,
        }
    }

    /// What the process's environment says: the cloud that `OS_CLOUD` names in `clouds.yaml`, else the variables
    /// `OS_AUTH_URL` and so on, else the only cloud of `clouds.yaml`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) with what is missing.
    pub fn from_env() -> Result<Self> {
        Environment::of_process().load(None)
    }

    /// The cloud of this name in `clouds.yaml`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) with the names that there are.
    pub fn named(name: &str) -> Result<Self> {
        Environment::of_process().load(Some(name))
    }

    /// Reads one entry of `clouds.yaml`'s `clouds`. `name` is for errors.
    pub(super) fn from_entry(name: &str, entry: &Map<String, Value>) -> Result<Self> {
        Entry { name, entry, auth: entry.get("auth").and_then(Value::as_object) }.read()
    }
}

/// Makes a [`CloudConfig`].
#[derive(Clone)]
pub struct CloudConfigBuilder {
    auth_url: String,
    auth: Option<Auth>,
    scope: Scope,
    region: Option<String>,
    interfaces: Vec<Interface>,
    overrides: Vec<(String, String)>,
    token_in_clear: bool,
    tls: TlsOptions,
    proxy: Proxy,
    timeout: Option<Duration>,
}

impl fmt::Debug for CloudConfigBuilder {
    /// Without the URLs: [`build`](Self::build) refuses those with a password in them, but not before.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudConfigBuilder")
            .field("auth", &self.auth)
            .field("scope", &self.scope)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl CloudConfigBuilder {
    /// Logs in with a password.
    #[must_use]
    pub fn with_password(mut self, user: Principal, password: impl Into<Secret>) -> Self {
        self.auth = Some(Auth::Password { user, password: password.into() });
        self
    }

    /// Logs in with an application credential, by its id. It brings its own project: no scope may be set.
    #[must_use]
    pub fn with_application_credential(
        mut self,
        id: impl Into<String>,
        secret: impl Into<Secret>,
    ) -> Self {
        self.auth = Some(Auth::ApplicationCredential { id: id.into(), secret: secret.into() });
        self
    }

    /// Logs in by any [`Auth`].
    #[must_use]
    pub fn with_auth(mut self, auth: Auth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// What the token is to be valid for.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// The interfaces to try, in order.
    #[must_use]
    pub fn with_interfaces(mut self, interfaces: impl IntoIterator<Item = Interface>) -> Self {
        self.interfaces = interfaces.into_iter().collect();
        self
    }

    /// A URL in place of what the catalogue says for a service type.
    #[must_use]
    pub fn with_endpoint_override(
        mut self,
        service_type: impl Into<String>,
        url: impl Into<String>,
    ) -> Self {
        self.overrides.push((service_type.into(), url.into()));
        self
    }

    /// Trusts the certificates of this PEM file in place of the system's.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca_file = Some(path.into());
        self
    }

    /// Sends the token also to endpoints of the catalogue that have no TLS although Keystone has: everyone on the way can
    /// then read it, and use it for as long as it lives. An
    /// [endpoint of one's own](Self::with_endpoint_override) does the same for a single service.
    #[must_use]
    pub fn danger_send_token_in_clear(mut self) -> Self {
        self.token_in_clear = true;
        self
    }

    /// Accepts any certificate: everyone on the way can then read the password.
    #[must_use]
    pub fn danger_accept_any_certificate(mut self) -> Self {
        self.tls.danger_accept_any = true;
        self
    }

    /// Shows this certificate (PEM, with its chain) to servers that ask for one; the key is in `key`, or in the same file.
    #[must_use]
    pub fn with_client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: Option<PathBuf>,
    ) -> Self {
        (self.tls.client_cert, self.tls.client_key) = (Some(certificate.into()), key);
        self
    }

    /// The proxy; without this, that of the environment.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }

    /// How long one call may take (60 s). Uploads have limits of their own.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if there is no way to log in, a URL is none, or an application
    /// credential has a scope.
    pub fn build(self) -> Result<CloudConfig> {
        let auth = self.auth.ok_or_else(|| {
            Error::config("no way to log in: give a password, an application credential or a token")
        })?;
        let overrides = self.overrides.into_iter().map(|(service, url)| {
            let url = parse_url(&format!("the endpoint of {service}"), &url)?;
            Ok((service, url))
        });
        check(CloudConfig {
            auth_url: parse_url("auth_url", &self.auth_url)?,
            auth,
            scope: self.scope,
            region: self.region,
            interfaces: self.interfaces,
            service_interfaces: BTreeMap::new(),
            endpoint_overrides: overrides.collect::<Result<_>>()?,
            service_types: BTreeMap::new(),
            danger_token_in_clear: self.token_in_clear,
            tls: self.tls,
            proxy: self.proxy,
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            connect_timeout: CONNECT_TIMEOUT,
        })
    }
}

/// The name that errors give to the cloud of the variables.
pub(super) const ENVIRONMENT: &str = "environment";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

fn check(config: CloudConfig) -> Result<CloudConfig> {
    super::auth::auth_request(&config.auth, &config.scope)?;
    if config.auth.secret().is_empty() {
        return Err(Error::config("the password, secret or token is empty"));
    }
    Ok(config)
}

/// A URL that can be connected to and in which nobody has hidden a password.
fn parse_url(what: &str, text: &str) -> Result<Url> {
    let url = Url::parse(text.trim())
        .map_err(|error| Error::config(format!("{what} is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Error::config(format!("{what} must be an http or https URL")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::config(format!("{what} must not hold a user or password")));
    }
    Ok(url)
}

/// One cloud as it stands in a file, or as the environment spells it.
struct Entry<'a> {
    name: &'a str,
    entry: &'a Map<String, Value>,
    auth: Option<&'a Map<String, Value>>,
}

impl Entry<'_> {
    fn read(&self) -> Result<CloudConfig> {
        let url = self.auth("auth_url").ok_or_else(|| self.missing(&["auth_url"]))?;
        let auth = self.read_auth()?;
        let mut scope = self.read_scope();
        if let (
            Auth::ApplicationCredential { .. } | Auth::NamedApplicationCredential { .. },
            Scope::Domain(_),
        ) = (&auth, &scope)
            && self.auth("domain_id").is_none()
        {
            // `domain_name` next to a credential's user name is the domain of that user, as the other clients take it.
            scope = Scope::Unspecified;
        }
        let config = CloudConfig {
            auth_url: parse_url("auth_url", &url).map_err(|error| self.wrong(error.to_string()))?,
            auth,
            scope,
            region: self.region()?,
            interfaces: self.interfaces(
                self.entry.get("interface").or_else(|| self.entry.get("endpoint_type")),
            )?,
            service_interfaces: self
                .per_service("_interface")
                .map(|(service, value)| Ok((service, self.interfaces(Some(value))?)))
                .collect::<Result<_>>()?,
            endpoint_overrides: self
                .per_service("_endpoint_override")
                .filter_map(|(service, value)| Some((service, text(value)?)))
                .map(|(service, url)| {
                    let url = parse_url(&format!("{service}_endpoint_override"), &url)?;
                    Ok((service, url))
                })
                .collect::<Result<_>>()?,
            service_types: self
                .per_service("_service_type")
                .filter_map(|(service, value)| Some((service, text(value)?)))
                .collect(),
            danger_token_in_clear: false,
            tls: self.tls()?,
            proxy: Proxy::default(),
            timeout: self.timeout()?,
            connect_timeout: CONNECT_TIMEOUT,
        };
        check(config).map_err(|error| self.wrong(error.to_string()))
    }

    fn wrong(&self, text: impl AsRef<str>) -> Error {
        Error::config(format!("cloud {:?}: {}", self.name, text.as_ref()))
    }

    /// Names what is missing as its source spells it, and what would do in its place.
    fn missing(&self, keys: &[&str]) -> Error {
        let of_variables = self.name == ENVIRONMENT && self.auth.is_none();
        let spell = |key: &&str| {
            if of_variables {
                format!("OS_{}", key.to_ascii_uppercase())
            } else {
                (*key).to_owned()
            }
        };
        let names: Vec<_> = keys.iter().map(spell).collect();
        let others = names.get(1..).unwrap_or_default().join(" or ");
        let others = if others.is_empty() { others } else { format!(" (or {others})") };
        self.wrong(format!("{}{others} is missing", names.first().map_or("", String::as_str)))
    }

    /// A value of the `auth` part; some people put it beside, which the other clients accept too.
    fn auth(&self, key: &str) -> Option<String> {
        self.auth.and_then(|auth| auth.get(key)).or_else(|| self.entry.get(key)).and_then(text)
    }

    fn first(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.auth(key))
    }

    fn domain(&self, id: &str, name: &str) -> Option<Domain> {
        self.auth(id).map(Domain::Id).or_else(|| self.auth(name).map(Domain::Name))
    }

    fn default_domain(&self) -> Domain {
        // The one setting that means an id although it does not say so.
        self.first(&["default_domain_id", "default_domain"])
            .map(Domain::Id)
            .or_else(|| self.auth("default_domain_name").map(Domain::Name))
            .unwrap_or_default()
    }

    fn user(&self) -> Option<Principal> {
        if let Some(id) = self.auth("user_id") {
            return Some(Principal::Id(id));
        }
        let name = self.first(&["username", "user_name"])?;
        let domain = self.domain("user_domain_id", "user_domain_name");
        let domain = domain.or_else(|| self.domain("domain_id", "domain_name"));
        Some(Principal::Named { name, domain: domain.unwrap_or_else(|| self.default_domain()) })
    }

    fn read_auth(&self) -> Result<Auth> {
        let secret = |key: &str| self.auth(key).map(Secret::new);
        let kind = self.first(&["auth_type", "auth_plugin"]);
        let kind = match kind.as_deref() {
            Some(kind) => kind,
            None if self
                .first(&["application_credential_id", "application_credential_name"])
                .is_some() =>
            {
                "v3applicationcredential"
            }
            None if self.auth("token").is_some() && self.auth("password").is_none() => "token",
            None => "password",
        };
        match kind {
            "password" | "v3password" => Ok(Auth::Password {
                user: self.user().ok_or_else(|| self.missing(&["username", "user_id"]))?,
                password: secret("password").ok_or_else(|| self.missing(&["password"]))?,
            }),
            "token" | "v3token" => {
                Ok(Auth::Token(secret("token").ok_or_else(|| self.missing(&["token"]))?))
            }
            "v3applicationcredential" => {
                let secret = secret("application_credential_secret")
                    .ok_or_else(|| self.missing(&["application_credential_secret"]))?;
                if let Some(id) = self.auth("application_credential_id") {
                    return Ok(Auth::ApplicationCredential { id, secret });
                }
                let name = self.auth("application_credential_name").ok_or_else(|| {
                    self.missing(&["application_credential_id", "application_credential_name"])
                })?;
                let user = self.user().ok_or_else(|| {
                    let user = self.missing(&["username", "user_id"]);
                    user.with_hint("an application credential by name needs its user")
                })?;
                Ok(Auth::NamedApplicationCredential { name, user, secret })
            }
            other => Err(self.wrong(format!(
                "auth_type {other:?} is not supported; use password, v3applicationcredential or token"
            ))),
        }
    }

    fn read_scope(&self) -> Scope {
        if let Some(trust) = self.auth("trust_id") {
            return Scope::Trust(trust);
        }
        if self.auth("system_scope").is_some() {
            return Scope::System;
        }
        if let Some(id) = self.first(&["project_id", "tenant_id"]) {
            return Scope::Project(Principal::Id(id));
        }
        if let Some(name) = self.first(&["project_name", "tenant_name"]) {
            let domain = self.domain("project_domain_id", "project_domain_name");
            let domain = domain.or_else(|| self.domain("domain_id", "domain_name"));
            let domain = domain.unwrap_or_else(|| self.default_domain());
            return Scope::Project(Principal::Named { name, domain });
        }
        match self.domain("domain_id", "domain_name") {
            Some(domain) => Scope::Domain(domain),
            None if self.flag("unscoped") == Some(true) => Scope::Unscoped,
            None => Scope::Unspecified,
        }
    }

    fn region(&self) -> Result<Option<String>> {
        if let Some(region) = self.auth("region_name") {
            return Ok(Some(region));
        }
        let names: Vec<_> = match self.entry.get("regions").and_then(Value::as_array) {
            Some(list) => {
                list.iter().filter_map(|r| text(r).or_else(|| text(r.get("name")?))).collect()
            }
            None => Vec::new(),
        };
        match names.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            several => Err(self.wrong(format!(
                "there are several regions: set region_name (OS_REGION_NAME) to one of {}",
                several.join(", ")
            ))),
        }
    }

    fn interfaces(&self, value: Option<&Value>) -> Result<Vec<Interface>> {
        let words: Vec<String> = match value {
            Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        };
        words
            .iter()
            .map(|word| word.parse().map_err(|error: Error| self.wrong(error.to_string())))
            .collect()
    }

    /// The settings of single services: `image_endpoint_override`, by the service type with its dashes.
    fn per_service<'s>(&'s self, suffix: &'s str) -> impl Iterator<Item = (String, &'s Value)> {
        self.entry.iter().filter_map(move |(key, value)| {
            let service = key.strip_suffix(suffix).filter(|service| !service.is_empty())?;
            Some((service.replace('_', "-"), value))
        })
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match text(self.entry.get(key)?)?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    fn tls(&self) -> Result<TlsOptions> {
        for key in ["verify", "insecure"] {
            if self.entry.get(key).is_some_and(|value| !value.is_null()) && self.flag(key).is_none()
            {
                return Err(self.wrong(format!("{key} must be true or false")));
            }
        }
        let off = self.flag("verify") == Some(false) || self.flag("insecure") == Some(true);
        let path = |key: &str| self.entry.get(key).and_then(text).map(expand_home);
        Ok(TlsOptions {
            ca_file: path("cacert"),
            danger_accept_any: off,
            client_cert: path("cert"),
            client_key: path("key"),
        })
    }

    fn timeout(&self) -> Result<Duration> {
        let Some(value) = self.entry.get("api_timeout").and_then(text) else {
            return Ok(DEFAULT_TIMEOUT);
        };
        value
            .parse::<f64>()
            .ok()
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| self.wrong("api_timeout must be a number of seconds"))
    }
}

/// A path whose `~` is the user's home, as a shell would have it.
fn expand_home(path: String) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

/// A text; the scalars of files [are texts](super::environment), too. Empty is as good as absent.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}
