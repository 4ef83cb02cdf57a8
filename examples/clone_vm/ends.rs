//! Both ends by the environment: real servers, or simulated ones in this process.

use std::path::PathBuf;
use std::str::FromStr;

use cloudstack_client::Credentials;
use glance_client::keystone::{self, Domain, Principal, Scope};
use glance_client::{CloudConfig, Glance};
use migrate_core::{Error, ErrorKind, Result};
use simulator::{Ready, Simulator};
use xenapi::{Client, Pin, Secret, Session, Trust};

use crate::show::print;

/// The name by which the pool knows this program.
const ORIGINATOR: &str = "clone_vm";
const XEN: [&str; 6] =
    ["XEN_URL", "XEN_USERNAME", "XEN_PASSWORD", "XEN_CA_FILE", "XEN_PIN_SHA256", "XEN_INSECURE"];

const CLOUDSTACK: [&str; 4] =
    ["CLOUDSTACK_ENDPOINT", "CLOUDSTACK_KEY", "CLOUDSTACK_SECRET", "CLOUDSTACK_CA_FILE"];

/// The clouds that can be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cloud {
    CloudStack,
    Glance,
}

/// A disk of the simulated pool.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    vm: String,
    file: PathBuf,
}

impl FromStr for SimDisk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((vm, file)) if !vm.is_empty() && !file.is_empty() => {
                Ok(Self { vm: vm.to_owned(), file: PathBuf::from(file) })
            }
            _ => Err("it must be NAME=FILE".to_owned()),
        }
    }
}

/// Connections to both ends.
pub(crate) struct Ends {
    pub(crate) xen: Option<Session>,
    pub(crate) glance: Option<Glance>,
    pub(crate) cloudstack: Option<cloudstack_client::Client>,
    simulator: Option<Simulator>,
}

impl Ends {
    /// Connects by the environment, to the ends that are needed.
    pub(crate) async fn connect(
        pool: bool,
        cloud: Option<Cloud>,
        sim_disks: &[SimDisk],
    ) -> Result<Self> {
        let mut ends = Self { xen: None, glance: None, cloudstack: None, simulator: None };
        if !pool && cloud.is_none() {
            return Ok(ends);
        }
        let pool_set = pool && XEN.iter().any(|name| var(name).is_some());
        let cloud_set = match cloud {
            Some(Cloud::CloudStack) => CLOUDSTACK.iter().any(|name| var(name).is_some()),
            Some(Cloud::Glance) => openstack_is_set(),
            None => false,
        };
        if !pool_set && !cloud_set {
            return Self::simulate(pool, cloud, sim_disks).await;
        }
        if !sim_disks.is_empty() {
            return Err(config(
                "--sim-disk is for simulated servers: unset XEN_*, OS_* and CLOUDSTACK_*",
            ));
        }
        let mut missing = Vec::new();
        if pool {
            missing.extend(XEN[..3].iter().copied().filter(|name| var(name).is_none()));
        }
        match cloud {
            Some(Cloud::CloudStack) => {
                missing.extend(CLOUDSTACK[..3].iter().copied().filter(|name| var(name).is_none()));
            }
            Some(Cloud::Glance) if !cloud_set => {
                missing.push("OS_CLOUD (or OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME)")
            }
            _ => {}
        }
        if !missing.is_empty() {
            return Err(config(format!(
                "the servers are configured only in part: set {}, or unset all for simulated ones",
                missing.join(", ")
            )));
        }
        match cloud {
            Some(Cloud::CloudStack) => ends.cloudstack = Some(cloudstack_of_environment()?),
            Some(Cloud::Glance) => {
                let cloud = CloudConfig::from_env()
                    .map_err(|e| config(format!("{e}; set what OpenStack needs, see --help")))?;
                ends.glance = Some(glance(&cloud).await?);
            }
            None => {}
        }
        if pool {
            ends.xen = Some(pool_of_environment().await?);
        }
        Ok(ends)
    }

    async fn simulate(pool: bool, cloud: Option<Cloud>, disks: &[SimDisk]) -> Result<Self> {
        print("no server is configured: simulated ones are used, in this process\n")?;
        let simulator = disks
            .iter()
            .fold(Simulator::builder(), |b, d| b.disk(&d.vm, &d.file))
            .start()
            .await
            .map_err(|e| config(format!("the simulated servers do not start: {e}")))?;
        let ready = simulator.ready();
        let mut ends = Self { xen: None, glance: None, cloudstack: None, simulator: None };
        match cloud {
            Some(Cloud::CloudStack) => {
                let cloud = &ready.cloudstack;
                ends.cloudstack =
                    Some(cloudstack(&cloud.endpoint, &cloud.key, &cloud.secret, None)?);
            }
            Some(Cloud::Glance) => ends.glance = Some(glance(&simulated_cloud(ready)?).await?),
            None => {}
        }
        if pool {
            ends.xen = Some(simulated_pool(ready).await?);
        }
        ends.simulator = Some(simulator);
        Ok(ends)
    }

    /// Logs out, and stops what was started here.
    pub(crate) async fn close(self) {
        if let Some(session) = self.xen {
            let _ = session.logout().await;
        }
        if let Some(simulator) = self.simulator {
            simulator.stop().await;
        }
    }
}

fn openstack_is_set() -> bool {
    std::env::vars_os().any(|(name, value)| {
        let name = name.to_string_lossy();
        let other = ["OS_TEST", "OS_STD", "OS_LOG"].iter().any(|p| name.starts_with(p));
        name.starts_with("OS_") && !other && !value.is_empty()
    })
}

fn cloudstack_of_environment() -> Result<cloudstack_client::Client> {
    let get = |name: &str| var(name).unwrap_or_default();
    let [endpoint, key, secret] = [CLOUDSTACK[0], CLOUDSTACK[1], CLOUDSTACK[2]].map(get);
    cloudstack(&endpoint, &key, &secret, var(CLOUDSTACK[3]))
}

fn cloudstack(
    endpoint: &str,
    key: &str,
    secret: &str,
    ca: Option<String>,
) -> Result<cloudstack_client::Client> {
    let mut client =
        cloudstack_client::Client::builder(endpoint).credentials(Credentials::new(key, secret));
    if let Some(path) = ca {
        client = client.trust(cloudstack_client::Trust::CaFile(path.into()));
    }
    client.build().map_err(|e| config(e.to_string()))
}

fn simulated_cloud(ready: &Ready) -> Result<CloudConfig> {
    let cloud = &ready.openstack;
    CloudConfig::builder(&cloud.auth_url)
        .with_password(
            Principal::named(&cloud.username, Domain::default()),
            cloud.password.as_str(),
        )
        .with_scope(Scope::Project(Principal::named(&cloud.project, Domain::default())))
        .build()
        .map_err(|e| config(e.to_string()))
}

async fn simulated_pool(ready: &Ready) -> Result<Session> {
    let pin = ready.xen.pin_sha256.as_deref().unwrap_or_default();
    let trust = Trust::Pins(Pin::parse_list(pin).map_err(pool_failed)?);
    let password = Secret::new(ready.xen.password.as_str());
    login(&ready.xen.url, trust, &ready.xen.username, password).await
}

async fn pool_of_environment() -> Result<Session> {
    let trust = match (var("XEN_CA_FILE"), var("XEN_PIN_SHA256"), var("XEN_INSECURE")) {
        (Some(path), None, None) => Trust::CaFile(path.into()),
        (None, Some(pins), None) => Trust::Pins(Pin::parse_list(&pins).map_err(pool_failed)?),
        (None, None, Some(yes)) if yes == "1" => Trust::DangerAcceptAny,
        (None, None, None) => Trust::SystemRoots,
        (None, None, Some(_)) => return Err(config("XEN_INSECURE can only be 1")),
        _ => return Err(config("set only one of XEN_CA_FILE, XEN_PIN_SHA256 and XEN_INSECURE")),
    };
    let get = |name: &str| var(name).unwrap_or_default();
    let password = Secret::new(get("XEN_PASSWORD"));
    login(&get("XEN_URL"), trust, &get("XEN_USERNAME"), password).await
}

async fn login(url: &str, trust: Trust, user: &str, password: Secret) -> Result<Session> {
    let client = Client::builder(url)
        .trust(trust)
        .user_agent(concat!("clone_vm/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(pool_failed)?;
    client.login(user, password, ORIGINATOR).await.map_err(|e| {
        let refused = e.code().is_some_and(|c| *c == "SESSION_AUTHENTICATION_FAILED");
        let remedy = if refused { "; check XEN_USERNAME and XEN_PASSWORD" } else { "" };
        Error::new(ErrorKind::Source, format!("pool {url}: {e}{remedy}")).with_source(e)
    })
}

async fn glance(cloud: &CloudConfig) -> Result<Glance> {
    let session = keystone::Session::connect(cloud).await?;
    Ok(Glance::connect(&session).await?)
}

fn pool_failed(e: xenapi::Error) -> Error {
    Error::new(ErrorKind::Source, e.to_string()).with_source(e)
}

fn config(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}
