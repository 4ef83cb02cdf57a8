//! What an OpenStack double is told before it starts.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of an [`OpenStack`](super::OpenStack) double; every one has a default.
///
/// ```
/// use simulator::openstack::OpenStackConfig;
///
/// let config = OpenStackConfig::new().with_port(0).with_username("clone").with_password("secret");
/// assert_eq!(config.username(), "clone");
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct OpenStackConfig {
    pub(crate) port: u16,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) project: String,
    pub(crate) domain: String,
    pub(crate) region: String,
    pub(crate) token_ttl: Duration,
    pub(crate) data_dir: Option<PathBuf>,
}

impl OpenStackConfig {
    /// The defaults: a free port, user `demo` of project `demo` in domain `Default`, region
    /// `RegionOne`, tokens that live an hour.
    #[must_use]
    pub fn new() -> Self {
        Self {
            port: 0,
            username: "demo".to_owned(),
            password: "simulated-password".to_owned(),
            project: "demo".to_owned(),
            domain: "Default".to_owned(),
            region: "RegionOne".to_owned(),
            token_ttl: Duration::from_secs(3600),
            data_dir: None,
        }
    }

    /// Listens on this port of 127.0.0.1; 0 takes a free one.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The name of the one plain user.
    #[must_use]
    pub fn with_username(mut self, name: impl Into<String>) -> Self {
        self.username = name.into();
        self
    }

    /// The password of the plain user.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = password.into();
        self
    }

    /// The name of the project in which the user may work, also the user's default project.
    #[must_use]
    pub fn with_project(mut self, name: impl Into<String>) -> Self {
        self.project = name.into();
        self
    }

    /// The name of the domain of user and projects; its id is always `default`.
    #[must_use]
    pub fn with_domain(mut self, name: impl Into<String>) -> Self {
        self.domain = name.into();
        self
    }

    /// The name of the (first) region in the catalogue.
    #[must_use]
    pub fn with_region(mut self, name: impl Into<String>) -> Self {
        self.region = name.into();
        self
    }

    /// How long a token lives. The fault `token-ttl` changes it while the double runs.
    #[must_use]
    pub fn with_token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = ttl;
        self
    }

    /// Keeps image data below this folder, which must exist, instead of the system's temporary
    /// folder. The double makes a sub-folder of its own there and removes it when it stops.
    #[must_use]
    pub fn with_data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// The user's name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user's password. It protects nothing: the double lives on loopback.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The project's name.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The name of the domain of user and project.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The first region's name.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }
}

impl Default for OpenStackConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for OpenStackConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenStackConfig")
            .field("port", &self.port)
            .field("username", &self.username)
            .field("project", &self.project)
            .field("domain", &self.domain)
            .field("region", &self.region)
            .field("token_ttl", &self.token_ttl)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}
