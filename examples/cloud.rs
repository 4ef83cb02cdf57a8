//! Which OpenStack, and as whom: what the examples for Glance share.

use std::error::Error;
use std::process::ExitCode;

use glance_client::keystone::{Domain, Principal, Scope, Session};
use glance_client::{CloudConfig, Glance};
use simulator::openstack::{OpenStack, OpenStackConfig};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A cloud, and the double that plays it where none is named.
pub(crate) struct Cloud {
    config: CloudConfig,
    double: Option<OpenStack>,
}

impl Cloud {
    /// The cloud of this name in `clouds.yaml`, else that of the environment, else a simulated one.
    pub(crate) async fn find(program: &str, name: Option<&str>) -> Result<Self> {
        let named = |variable: &&str| std::env::var(variable).is_ok_and(|value| !value.is_empty());
        let config = match name {
            Some(name) => CloudConfig::named(name)?,
            None if ["OS_CLOUD", "OS_AUTH_URL", "OS_CLIENT_CONFIG_FILE"].iter().any(named) => {
                CloudConfig::from_env()?
            }
            None => {
                eprintln!("{program}: no OS_* variable is set, so this is a simulated cloud");
                return Self::simulated().await;
            }
        };
        Ok(Self { config, double: None })
    }

    async fn simulated() -> Result<Self> {
        let double = OpenStack::start(OpenStackConfig::new()).await?;
        let named = |name: &str| Principal::named(name, Domain::default());
        let config = CloudConfig::builder(double.auth_url())
            .with_password(named(double.config().username()), double.config().password())
            .with_scope(Scope::Project(named(double.config().project())))
            .build()?;
        Ok(Self { config, double: Some(double) })
    }

    pub(crate) async fn glance(&self) -> Result<Glance> {
        Ok(Glance::connect(&Session::connect(&self.config).await?).await?)
    }

    /// Ends the double.
    pub(crate) async fn leave(self) {
        if let Some(double) = self.double {
            double.stop().await;
        }
    }
}

/// The end of a program: a failure is one line on standard error. It may quote the server.
pub(crate) fn ended(name: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", plain(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Text of a server, without commands to the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Prints what was asked for; a reader that has seen enough is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::{self, Write as _};
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
