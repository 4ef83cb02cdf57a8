//! The composition: one value that starts and stops all servers.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use crate::cloudstack::{CloudStack, CloudStackConfig};
use crate::openstack::{OpenStack, OpenStackConfig};
use crate::xen::{Faults, XenConfig, XenHandle, XenServer};

/// What a client needs to reach the servers: the line that the binary prints when it is ready.
#[derive(Clone, Serialize)]
#[non_exhaustive]
pub struct Ready {
    /// The XenServer pool.
    pub xen: ReadyXen,
    /// CloudStack.
    pub cloudstack: ReadyCloudStack,
    /// Keystone and Glance.
    pub openstack: ReadyOpenStack,
}

/// How to reach the pool.
#[derive(Clone, Serialize)]
#[non_exhaustive]
pub struct ReadyXen {
    /// The master's URL.
    pub url: String,
    /// The one user.
    pub username: String,
    /// The user's password; it protects nothing.
    pub password: String,
    /// Lower-case hex SHA-256 of the master's certificate; `None` with plain http.
    pub pin_sha256: Option<String>,
}

/// How to reach CloudStack.
#[derive(Clone, Serialize)]
#[non_exhaustive]
pub struct ReadyCloudStack {
    /// The API's URL.
    pub endpoint: String,
    /// The API key.
    pub key: String,
    /// The secret key; it protects nothing.
    pub secret: String,
}

/// How to reach Keystone.
#[derive(Clone, Serialize)]
#[non_exhaustive]
pub struct ReadyOpenStack {
    /// Keystone's URL, for `OS_AUTH_URL`.
    pub auth_url: String,
    /// The one user.
    pub username: String,
    /// The user's password; it protects nothing.
    pub password: String,
    /// The user's project.
    pub project: String,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("xen", &self.xen)
            .field("cloudstack", &self.cloudstack)
            .field("openstack", &self.openstack)
            .finish()
    }
}

impl std::fmt::Debug for ReadyXen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadyXen").field("url", &self.url).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ReadyCloudStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadyCloudStack").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ReadyOpenStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadyOpenStack").field("auth_url", &self.auth_url).finish_non_exhaustive()
    }
}

/// Settings of a [`Simulator`].
#[derive(Clone, Debug, Default)]
pub struct SimulatorBuilder {
    xen: XenConfig,
    cloudstack: CloudStackConfig,
    openstack: OpenStackConfig,
}

impl SimulatorBuilder {
    /// A disk of a running VM of that name; a repeated name adds a disk. Without any, the pool
    /// has its own running VM, `web01`.
    #[must_use]
    pub fn disk(mut self, vm: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.xen = self.xen.with_disk(vm, file);
        self
    }

    /// Serves the pool over http in place of https.
    #[must_use]
    pub fn xen_plain(mut self, plain: bool) -> Self {
        self.xen = self.xen.with_plain(plain);
        self
    }

    /// The port of the pool's master; 0, the default, takes a free one.
    #[must_use]
    pub fn xen_port(mut self, port: u16) -> Self {
        self.xen = self.xen.with_port(port);
        self
    }

    /// The port of CloudStack's API; 0, the default, takes a free one.
    #[must_use]
    pub fn cloudstack_port(mut self, port: u16) -> Self {
        self.cloudstack = self.cloudstack.with_port(port);
        self
    }

    /// The port of Keystone and Glance; 0, the default, takes a free one.
    #[must_use]
    pub fn openstack_port(mut self, port: u16) -> Self {
        self.openstack = self.openstack.with_port(port);
        self
    }

    /// A second host in the pool, with a port and a certificate of its own.
    #[must_use]
    pub fn second_host(mut self, second_host: bool) -> Self {
        self.xen = self.xen.with_second_host(second_host);
        self
    }

    /// Shares these faults with the pool.
    #[must_use]
    pub fn xen_faults(mut self, faults: &Faults) -> Self {
        self.xen = self.xen.with_faults(faults);
        self
    }

    /// All settings of the pool.
    #[must_use]
    pub fn xen(mut self, config: XenConfig) -> Self {
        self.xen = config;
        self
    }

    /// All settings of CloudStack.
    #[must_use]
    pub fn cloudstack(mut self, config: CloudStackConfig) -> Self {
        self.cloudstack = config;
        self
    }

    /// All settings of Keystone and Glance.
    #[must_use]
    pub fn openstack(mut self, config: OpenStackConfig) -> Self {
        self.openstack = config;
        self
    }

    /// Starts the servers.
    ///
    /// # Errors
    /// A port is taken, or a disk file cannot be opened (the text names it).
    pub async fn start(self) -> io::Result<Simulator> {
        let xen = XenServer::start(self.xen).await?;
        let cloudstack = CloudStack::start(self.cloudstack).await?;
        let openstack = OpenStack::start(self.openstack).await?;
        let ready = Ready {
            xen: ReadyXen {
                url: xen.url(),
                username: xen.config().username().to_owned(),
                password: xen.config().password().to_owned(),
                pin_sha256: xen.handle().pin_sha256(0),
            },
            cloudstack: ReadyCloudStack {
                endpoint: cloudstack.endpoint(),
                key: cloudstack.config().key().to_owned(),
                secret: cloudstack.config().secret().to_owned(),
            },
            openstack: ReadyOpenStack {
                auth_url: openstack.auth_url(),
                username: openstack.config().username().to_owned(),
                password: openstack.config().password().to_owned(),
                project: openstack.config().project().to_owned(),
            },
        };
        Ok(Simulator { xen, cloudstack, openstack, ready })
    }
}

/// A XenServer pool, a CloudStack and an OpenStack on loopback. Dropping it stops them.
#[derive(Debug)]
pub struct Simulator {
    xen: XenServer,
    cloudstack: CloudStack,
    openstack: OpenStack,
    ready: Ready,
}

impl Simulator {
    /// Settings with their defaults.
    #[must_use]
    pub fn builder() -> SimulatorBuilder {
        SimulatorBuilder::default()
    }

    /// How to reach the servers.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The pool as tests see it.
    #[must_use]
    pub fn xen(&self) -> &XenHandle {
        self.xen.handle()
    }

    /// CloudStack as tests see it.
    #[must_use]
    pub fn cloudstack(&self) -> &CloudStack {
        &self.cloudstack
    }

    /// Keystone and Glance as tests see them.
    #[must_use]
    pub fn openstack(&self) -> &OpenStack {
        &self.openstack
    }

    /// Stops the servers and removes their files.
    pub async fn stop(self) {
        self.cloudstack.stop().await;
        self.openstack.stop().await;
        self.xen.stop().await;
    }
}
