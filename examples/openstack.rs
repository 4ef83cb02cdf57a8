//! Where a cloud is, and who we are there: what the examples for OpenStack share.

use examples::Result;
use glance_client::keystone::{Domain, Principal, Scope, Session};
use glance_client::{CloudConfig, Glance};
use simulator::openstack::OpenStack;

/// From the environment; `None` if no OS_* variable is set.
pub(crate) fn from_env() -> Result<Option<CloudConfig>> {
    let any = std::env::vars_os().any(|(name, value)| {
        name.to_str().is_some_and(|name| name.starts_with("OS_")) && !value.is_empty()
    });
    if any { Ok(Some(CloudConfig::from_env()?)) } else { Ok(None) }
}

/// The simulated one.
pub(crate) fn of(cloud: &OpenStack) -> Result<CloudConfig> {
    let named = |name: &str| Principal::named(name, Domain::Name("Default".to_owned()));
    let (user, project) = (named(cloud.config().username()), named(cloud.config().project()));
    let config = CloudConfig::builder(cloud.auth_url())
        .with_password(user, cloud.config().password())
        .with_scope(Scope::Project(project));
    Ok(config.build()?)
}

pub(crate) async fn connect(config: &CloudConfig) -> Result<Glance> {
    Ok(Glance::connect(&Session::connect(config).await?).await?)
}
