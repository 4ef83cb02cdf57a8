//! Where a CloudStack is and who we are: what the examples for CloudStack share.
#![allow(dead_code, reason = "none of them uses all of it")]

use std::path::Path;

use cloudstack_client::templates::{self, Format, Template};
use cloudstack_client::zones::Zone;
use cloudstack_client::{Client, Credentials, Trust, WaitOptions, os_types, zones};
use examples::{Result, plain};
use indicatif::{ProgressBar, ProgressStyle};
use simulator::cloudstack::{CloudStack, CloudStackConfig};

const NEEDED: [&str; 3] = ["CLOUDSTACK_ENDPOINT", "CLOUDSTACK_KEY", "CLOUDSTACK_SECRET"];

/// A cloud: the one that the environment names, or a simulated one.
pub(crate) struct Cloud {
    pub(crate) client: Client,
    simulated: Option<CloudStack>,
}

impl Cloud {
    /// From the environment; with nothing of it set, a simulated one, which is said in one line.
    async fn open(program: &str) -> Result<Self> {
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

    /// Does something with the cloud, and closes it whatever came of it.
    pub(crate) async fn with<T>(
        program: &str,
        work: impl AsyncFnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let cloud = Self::open(program).await?;
        let done = work(&cloud).await;
        if let Some(simulated) = cloud.simulated {
            simulated.stop().await;
        }
        done
    }

    /// The zone of this name or id, or the only one.
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
pub(crate) async fn os_type(client: &Client, wanted: &str) -> Result<String> {
    let all = client.call_all(os_types::list()).await?;
    let fits =
        |os: &&os_types::OsType| os.id == wanted || os.description.eq_ignore_ascii_case(wanted);
    let found = all.iter().find(fits).map(|os| os.id.clone());
    found.ok_or_else(|| format!("the cloud has no type of operating system {wanted:?}").into())
}

/// The name of a file, the format that it tells, and the name without its endings.
pub(crate) fn format_of(path: &Path) -> Result<(&str, Format, &str)> {
    let file = path.file_name().and_then(|name| name.to_str()).ok_or("the file has no name")?;
    let formats = [Format::Vhd, Format::Qcow2, Format::Raw];
    let known = formats.into_iter().find(|format| format.of_file(file).is_some());
    let known = known.ok_or_else(|| {
        format!(
            "{file:?}: the name must end in .vhd, .qcow2, .raw or .img, also with .gz, .bz2 or .zip"
        )
    })?;
    let plain =
        [".gz", ".bz2", ".zip"].iter().find_map(|end| file.strip_suffix(end)).unwrap_or(file);
    Ok((file, known, plain.rsplit_once('.').map_or(plain, |(stem, _)| stem)))
}

/// A wait that shows what it waits for, and the line where it does.
pub(crate) fn shown_wait() -> Result<(ProgressBar, WaitOptions)> {
    let style = ProgressStyle::with_template("{spinner} {msg}")?;
    let bar = ProgressBar::new_spinner().with_style(style);
    let shown = bar.clone();
    let options = WaitOptions::default().with_progress(move |last, _| {
        shown.set_message(plain(last));
        shown.tick();
    });
    Ok((bar, options))
}

/// The template, or the error after the template that did not become one was deleted.
pub(crate) async fn or_deleted(
    client: &Client,
    id: &str,
    made: Result<Template>,
) -> Result<Template> {
    let Err(error) = made else { return made };
    match client.run(templates::delete(id), &WaitOptions::default()).await {
        Ok(()) => Err(error),
        Err(left) => Err(format!("{error}; and template {id} is left: {left}").into()),
    }
}
