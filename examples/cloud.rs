//! Where a CloudStack is and who we are: what the examples for CloudStack share.

use std::error::Error;
use std::process::ExitCode;

use cloudstack_client::zones::Zone;
use cloudstack_client::{Client, Credentials, Trust, os_types, zones};
use simulator::cloudstack::{CloudStack, CloudStackConfig};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const NEEDED: [&str; 3] = ["CLOUDSTACK_ENDPOINT", "CLOUDSTACK_KEY", "CLOUDSTACK_SECRET"];

/// A cloud: the one that the environment names, or a simulated one.
pub(crate) struct Cloud {
    pub(crate) client: Client,
    simulated: Option<CloudStack>,
}

impl Cloud {
    /// From the environment; with nothing of it set, a simulated one, which is said in one line.
    pub(crate) async fn open(program: &str) -> Result<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let trust = var("CLOUDSTACK_CA_FILE").map(|file| Trust::CaFile(file.into()));
        if NEEDED.iter().all(|name| var(name).is_none()) && trust.is_none() {
            eprintln!("{program}: no CLOUDSTACK_* variable is set, so this is a simulated cloud");
            let cloud = CloudStack::start(CloudStackConfig::new()).await?;
            let keys = Credentials::new(cloud.config().key(), cloud.config().secret());
            let client = Client::builder(cloud.endpoint()).credentials(keys).build()?;
            return Ok(Self { client, simulated: Some(cloud) });
        }
        let [Some(endpoint), Some(key), Some(secret)] = NEEDED.map(var) else {
            let missing: Vec<_> = NEEDED.into_iter().filter(|name| var(name).is_none()).collect();
            return Err(
                format!("the cloud is named only in part; set {}", missing.join(", ")).into()
            );
        };
        let client = Client::builder(endpoint).credentials(Credentials::new(key, secret));
        let client = client.trust(trust.unwrap_or_default()).build()?;
        Ok(Self { client, simulated: None })
    }

    pub(crate) async fn close(self) {
        if let Some(cloud) = self.simulated {
            cloud.stop().await;
        }
    }

    /// The zone of this name or id, or the only one.
    #[allow(dead_code, reason = "what is registered can be in many")]
    pub(crate) async fn zone(&self, wanted: Option<&str>) -> Result<Zone> {
        let all = self.client.call_all(zones::list()).await?;
        pick(all, wanted, "zone", |zone| (&zone.id, &zone.name))
    }
}

/// The one of this name or id, or the only one.
pub(crate) fn pick<T>(
    all: Vec<T>,
    wanted: Option<&str>,
    kind: &str,
    names: impl Fn(&T) -> (&str, &str),
) -> Result<T> {
    let listed: Vec<_> = all.iter().map(|one| plain(names(one).1)).collect();
    let fits =
        |one: &T| wanted.is_none_or(|wanted| names(one).0 == wanted || names(one).1 == wanted);
    let mut found = all.into_iter().filter(fits);
    match (found.next(), found.next(), wanted) {
        (Some(one), None, _) => Ok(one),
        (None, _, Some(wanted)) => {
            Err(format!("the cloud has no {kind} {wanted:?}; it has {}", listed.join(", ")).into())
        }
        (None, _, None) => Err(format!("the cloud has no {kind}").into()),
        _ => Err(format!("choose a {kind}: {}", listed.join(", ")).into()),
    }
}

/// The id of the type of operating system of this description or id.
#[allow(dead_code, reason = "what is deployed has a type already")]
pub(crate) async fn os_type(client: &Client, wanted: &str) -> Result<String> {
    let all = client.call_all(os_types::list()).await?;
    let fits =
        |os: &&os_types::OsType| os.id == wanted || os.description.eq_ignore_ascii_case(wanted);
    let found = all.iter().find(fits).map(|os| os.id.clone());
    found.ok_or_else(|| format!("the cloud has no type of operating system {wanted:?}").into())
}

/// The end of a program: a failure is one line on standard error.
pub(crate) fn ended(name: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Text of a server, without commands to the terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
