//! Logins of every kind for every scope: against the simulator always, and against a real Keystone and Glance where
//! `MIGRATE_E2E_OPENSTACK=1` (or `E2E_OPENSTACK=1`) is set and `OS_CLOUD` or `OS_*` names a plain user with a password.
//! Scopes that only an administrator has are tried as the cloud `admin` of the same `clouds.yaml`
//! (`E2E_OPENSTACK_ADMIN` names another).

#![allow(clippy::unwrap_used)]

mod kit;

use glance_client::CloudConfig;
use glance_client::keystone::{Domain, Principal, Scope};
use simulator::openstack::{OpenStack, OpenStackConfig};

/// A plain user and an administrator of one cloud.
pub(crate) struct Users {
    pub(crate) plain: CloudConfig,
    /// `None`: nobody told who that is.
    pub(crate) admin: Option<CloudConfig>,
}

fn named(name: &str) -> Principal {
    Principal::named(name, Domain::Name("Default".to_owned()))
}

async fn simulated(config: OpenStackConfig) -> (OpenStack, Users) {
    let cloud = OpenStack::start(config).await.unwrap();
    let user = |name: &str, project: &str| {
        CloudConfig::builder(cloud.auth_url())
            .with_password(named(name), cloud.config().password())
            .with_scope(Scope::Project(named(project)))
            .build()
            .unwrap()
    };
    let plain = user(cloud.config().username(), cloud.config().project());
    let users = Users { plain, admin: Some(user("admin", "admin")) };
    (cloud, users)
}

/// The real cloud, or `None` with a word about it.
fn real() -> Option<Users> {
    let on = |name| std::env::var_os(name).is_some_and(|flag| flag == "1");
    if !on("MIGRATE_E2E_OPENSTACK") && !on("E2E_OPENSTACK") {
        eprintln!("skipped: MIGRATE_E2E_OPENSTACK=1 and OS_* would run this against a real cloud");
        return None;
    }
    let admin = std::env::var("E2E_OPENSTACK_ADMIN").unwrap_or_else(|_| "admin".to_owned());
    let admin = CloudConfig::named(&admin).inspect_err(|error| eprintln!("no admin: {error}"));
    Some(Users { plain: CloudConfig::from_env().unwrap(), admin: admin.ok() })
}

macro_rules! everywhere {
    ($($name:ident),* $(,)?) => {
        mod simulator_cloud {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (cloud, users) = super::simulated(super::OpenStackConfig::new()).await;
                super::kit::$name(&users).await;
                cloud.stop().await;
            })*
        }

        mod real_cloud {
            /// One at a time: databases of files answer 500 to writes that meet.
            static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(users) = super::real() {
                    let _alone = ALONE.lock().await;
                    super::kit::$name(&users).await;
                }
            })*
        }
    };
}

everywhere! {
    a_password_gives_every_scope,
    a_token_is_scoped_anew,
    an_application_credential_by_id_and_by_name,
    a_kept_token_is_used_again_and_replaced_when_it_is_gone,
    a_kept_token_of_another_scope_or_user_is_not_used,
    callers_whose_token_was_revoked_share_one_login,
    the_catalogue_is_asked_by_alias_interface_and_region,
    a_polling_loop_outlives_its_tokens,
    errors_hold_no_secret,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_two_seconds_of_the_simulator() {
    let config = OpenStackConfig::new().with_token_ttl(std::time::Duration::from_secs(2));
    let (cloud, users) = simulated(config).await;
    kit::a_polling_loop_outlives_its_tokens(&users).await;
    cloud.stop().await;
}
