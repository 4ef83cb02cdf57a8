//! Whether a plan can work, before anything is made: permissions, release, limits, and whether the cloud may fetch from us.
//!
//! What is needed is a value; what is known of the cloud is another; [`Needs::judge`] compares them without a socket, and
//! [`Client::preflight`] asks the cloud.
//!
//! ```
//! # use simulator::cloudstack::{CloudStack, CloudStackConfig};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let server = CloudStack::start(CloudStackConfig::new()).await?;
//! # server.faults().set_str("denied=copyTemplate")?;
//! # let keys = cloudstack_client::Credentials::new(server.config().key(), server.config().secret());
//! # let client = cloudstack_client::Client::builder(server.endpoint()).credentials(keys).build()?;
//! use cloudstack_client::preflight::Needs;
//!
//! let needs = Needs::new()
//!     .with_release(4, 11)
//!     .with_commands(["registerTemplate", "copyTemplate"])
//!     .with_templates(1)
//!     .with_secondary_storage(8 << 30)
//!     .with_served_from([192, 0, 2, 9].into());
//! let report = client.preflight(&needs).await?;
//! assert!(!report.is_clear());
//! let found: Vec<_> = report.critical().map(ToString::to_string).collect();
//! assert_eq!(found.len(), 1);
//! assert!(found[0].starts_with("permission: copyTemplate: this account may not give it; "));
//! # Ok(())
//! # })
//! # }
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::accounts::{self, Account};
use crate::capabilities::{self, Capabilities};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};

/// What a plan needs of the cloud and of the account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// The commands that will be given.
    pub commands: BTreeSet<String>,
    /// The oldest release that will do.
    pub release: Option<(u32, u32)>,
    /// How many templates and ISOs will be made.
    pub templates: u64,
    /// How many volumes will be made.
    pub volumes: u64,
    /// How many machines will be deployed.
    pub machines: u64,
    /// How many bytes will go to secondary storage.
    pub secondary_storage: u64,
    /// The address that the cloud is to fetch a file from, if it is.
    pub served_from: Option<IpAddr>,
}

/// What is known of a cloud. What could not be learnt is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Known {
    /// What the server says of itself.
    pub capabilities: Option<Capabilities>,
    /// The commands that the account may give.
    pub commands: Option<BTreeSet<String>>,
    /// The account.
    pub account: Option<Account>,
    /// The setting `secstorage.allowed.internal.sites`, which only administrators can read.
    pub allowed_sites: Option<String>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// The plan cannot work.
    Critical,
    /// It could not be checked; the plan may fail for it.
    NotChecked,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The rule: `permission`, `release`, `limit`, `served-from`, `allowed-sites`.
    pub rule: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: a command, a resource, an address.
    pub subject: String,
    /// What was seen.
    pub evidence: String,
    /// What to do.
    pub remedy: &'static str,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The findings, by rule.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing stands in the way of the plan, as far as could be checked.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.critical().next().is_none()
    }

    /// What stands in the way.
    pub fn critical(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Critical)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.rule, self.subject, self.evidence, self.remedy)
    }
}

impl Needs {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Commands that will be given.
    #[must_use]
    pub fn with_commands<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.commands.extend(names.into_iter().map(Into::into));
        self
    }

    /// The oldest release that will do.
    #[must_use]
    pub fn with_release(mut self, major: u32, minor: u32) -> Self {
        self.release = Some((major, minor));
        self
    }

    /// How many templates and ISOs will be made.
    #[must_use]
    pub fn with_templates(mut self, count: u64) -> Self {
        self.templates = count;
        self
    }

    /// How many volumes will be made.
    #[must_use]
    pub fn with_volumes(mut self, count: u64) -> Self {
        self.volumes = count;
        self
    }

    /// How many machines will be deployed.
    #[must_use]
    pub fn with_machines(mut self, count: u64) -> Self {
        self.machines = count;
        self
    }

    /// How many bytes will go to secondary storage.
    #[must_use]
    pub fn with_secondary_storage(mut self, bytes: u64) -> Self {
        self.secondary_storage = bytes;
        self
    }

    /// The address of our HTTP server, which the cloud is to fetch from: that of its
    /// [URL](crate::serve::Server::url).
    #[must_use]
    pub fn with_served_from(mut self, address: IpAddr) -> Self {
        self.served_from = Some(address);
        self
    }

    /// Compares what is needed with what is known.
    #[must_use]
    pub fn judge(&self, known: &Known) -> Report {
        let mut findings = Vec::new();
        self.judge_commands(known, &mut findings);
        self.judge_limits(known, &mut findings);
        self.judge_address(known, &mut findings);
        Report { findings }
    }

    fn judge_commands(&self, known: &Known, findings: &mut Vec<Finding>) {
        let remedy = "have an operator allow it to the role of this account";
        match &known.commands {
            Some(may) => findings.extend(self.commands.difference(may).map(|command| Finding {
                rule: "permission",
                severity: Severity::Critical,
                subject: command.clone(),
                evidence: "this account may not give it".to_owned(),
                remedy,
            })),
            None if !self.commands.is_empty() => findings.push(Finding {
                rule: "permission",
                severity: Severity::NotChecked,
                subject: "listApis".to_owned(),
                evidence: "the server does not tell what this account may do".to_owned(),
                remedy,
            }),
            None => {}
        }
        let Some((major, minor)) = self.release else { return };
        let version = known.capabilities.as_ref().and_then(|one| one.version.as_deref());
        let new = known.capabilities.as_ref().is_some_and(|one| one.is_at_least(major, minor));
        if !new {
            let unknown = version.is_none();
            findings.push(Finding {
                rule: "release",
                severity: if unknown { Severity::NotChecked } else { Severity::Critical },
                subject: format!("{major}.{minor}"),
                evidence: format!(
                    "the server is {}",
                    version.unwrap_or("silent about its version")
                ),
                remedy: "use a newer CloudStack, or a way that old ones know",
            });
        }
    }

    fn judge_limits(&self, known: &Known, findings: &mut Vec<Finding>) {
        const GIB: u64 = 1 << 30;
        let available = |of: fn(&Account) -> &Option<String>| {
            known.account.as_ref().map_or(Room::Unknown, |account| room(of(account).as_deref()))
        };
        let storage = match available(|account| &account.secondary_storage_available) {
            Room::Of(gib) => Room::Of(gib.saturating_mul(GIB)),
            other => other,
        };
        for (subject, needed, room) in [
            ("templates", self.templates, available(|account| &account.templates_available)),
            ("volumes", self.volumes, available(|account| &account.volumes_available)),
            ("virtual machines", self.machines, available(|account| &account.machines_available)),
            ("bytes of secondary storage", self.secondary_storage, storage),
        ] {
            let (severity, evidence) = match room {
                _ if needed == 0 => continue,
                Room::Of(left) if left < needed => {
                    (Severity::Critical, format!("{needed} are needed and {left} are left"))
                }
                Room::Unknown => {
                    (Severity::NotChecked, "the server does not tell what is left".to_owned())
                }
                _ => continue,
            };
            findings.push(Finding {
                rule: "limit",
                severity,
                subject: subject.to_owned(),
                evidence,
                remedy: "delete what is no longer needed, or have an operator raise the account's limit",
            });
        }
    }

    fn judge_address(&self, known: &Known, findings: &mut Vec<Finding>) {
        let Some(address) = self.served_from else { return };
        let finding = |rule, severity, evidence: &str, remedy| Finding {
            rule,
            severity,
            subject: address.to_string(),
            evidence: evidence.to_owned(),
            remedy,
        };
        let IpAddr::V4(v4) = address.to_canonical() else {
            let evidence =
                "servers fetch from IPv6 addresses only what goes past secondary storage";
            let remedy = "serve from an IPv4 address, or upload the data";
            return findings.push(finding("served-from", Severity::Critical, evidence, remedy));
        };
        if v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() {
            let evidence = "the server refuses URLs with such an address";
            let remedy = "serve from an address that the storage VMs reach, or upload the data";
            findings.push(finding("served-from", Severity::Critical, evidence, remedy));
            return;
        }
        let remedy = "have an operator add this address to secstorage.allowed.internal.sites, or upload the data";
        match &known.allowed_sites {
            Some(sites) if covers(sites, v4) => {}
            Some(sites) => {
                let evidence = format!("secstorage.allowed.internal.sites is {sites:?}");
                findings.push(finding("allowed-sites", Severity::Critical, &evidence, remedy));
            }
            None => {
                let evidence =
                    "only an administrator can see whether storage VMs may fetch from it";
                findings.push(finding("allowed-sites", Severity::NotChecked, evidence, remedy));
            }
        }
    }
}

/// How much is left of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Unlimited,
    Of(u64),
    Unknown,
}

fn room(text: Option<&str>) -> Room {
    match text.map(str::trim) {
        Some(text) if text.eq_ignore_ascii_case("unlimited") || text == "-1" => Room::Unlimited,
        Some(text) => text.parse().map_or(Room::Unknown, Room::Of),
        None => Room::Unknown,
    }
}

/// Whether a list of networks (`10.0.0.0/8,192.0.2.7`) has an address in it.
fn covers(sites: &str, address: Ipv4Addr) -> bool {
    sites.split(',').any(|site| {
        let (net, bits) = site.trim().split_once('/').unwrap_or_else(|| (site.trim(), "32"));
        let (Ok(net), Ok(bits)) = (net.parse::<Ipv4Addr>(), bits.parse::<u32>()) else {
            return false;
        };
        let mask = match bits {
            0 => 0,
            1..=32 => u32::MAX << (32 - bits),
            _ => return false,
        };
        net.to_bits() & mask == address.to_bits() & mask
    })
}

impl Client {
    /// Asks the cloud what is [known](Known) of it and the account: four calls that only look. What the account may not ask
    /// is left out.
    ///
    /// # Errors
    /// What keeps the client from asking at all: refused keys, a server that cannot be reached.
    pub async fn known(&self) -> Result<Known> {
        let capabilities = asked(self.call(capabilities::get()).await)?;
        let commands = asked(self.call_all(capabilities::apis()).await)?;
        let commands: Option<BTreeSet<String>> =
            commands.map(|all| all.into_iter().map(|api| api.name).collect());
        let accounts = asked(self.call_all(accounts::list()).await)?;
        // An administrator sees many, and none is told to be the own one.
        let account = accounts.filter(|all| all.len() == 1).and_then(|mut all| all.pop());
        let setting = "secstorage.allowed.internal.sites";
        let may = commands.as_ref().is_none_or(|may| may.contains("listConfigurations"));
        let sites = match may {
            true => asked(self.call_all(capabilities::configuration(setting)).await)?,
            false => None,
        };
        let site = sites.and_then(|all| all.into_iter().find(|one| one.name == setting));
        let allowed_sites = site.map(|one| one.value.unwrap_or_default());
        Ok(Known { capabilities, commands, account, allowed_sites })
    }

    /// Asks the cloud, and tells what stands in the way of a plan.
    ///
    /// # Errors
    /// As [`known`](Self::known).
    pub async fn preflight(&self, needs: &Needs) -> Result<Report> {
        Ok(needs.judge(&self.known().await?))
    }
}

/// What was asked; nothing if the account may not ask it, or the server does not know the question.
fn asked<T>(answer: Result<T>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Unsupported) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Record;
    use serde_json::json;

    fn known(sites: Option<&str>, left: &str) -> Known {
        let body = br#"{"r":{"capability":{"cloudstackversion":"4.18.0.0"}}}"#;
        Known {
            capabilities: Some(capabilities::get().parse(http::StatusCode::OK, body).unwrap()),
            commands: Some(["listZones".to_owned()].into()),
            account: Account::read(
                &json!({"id": "a", "templateavailable": left, "volumeavailable": "Unlimited",
                "secondarystorageavailable": left}),
            ),
            allowed_sites: sites.map(str::to_owned),
        }
    }

    fn found(needs: &Needs, known: &Known) -> Vec<String> {
        let mut all: Vec<_> = needs
            .judge(known)
            .findings
            .iter()
            .map(|one| format!("{} {} {:?}", one.rule, one.subject, one.severity))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn what_is_missing_is_critical_and_what_is_unknown_is_told() {
        let needs = Needs::new()
            .with_commands(["listZones", "registerTemplate"])
            .with_release(4, 19)
            .with_templates(2)
            .with_volumes(3)
            .with_machines(1)
            .with_secondary_storage((1 << 30) + 1);
        assert_eq!(
            found(&needs, &known(None, "1")),
            [
                "limit bytes of secondary storage Critical",
                "limit templates Critical",
                "limit virtual machines NotChecked",
                "permission registerTemplate Critical",
                "release 4.19 Critical",
            ]
        );
        let fits = needs.clone().with_release(4, 18);
        assert_eq!(
            found(&fits, &known(None, "2")),
            ["limit virtual machines NotChecked", "permission registerTemplate Critical"]
        );
        let nothing = needs.judge(&Known::default());
        assert!(nothing.is_clear() && nothing.findings.len() == 6, "{nothing:?}");
        assert!(Needs::new().judge(&Known::default()).findings.is_empty());
    }

    #[test]
    fn the_address_of_our_server_must_be_one_that_the_cloud_may_use() {
        let at = |address: &str, sites: Option<&str>| {
            let needs = Needs::new().with_served_from(address.parse().unwrap());
            found(&needs, &known(sites, "1"))
        };
        for bad in [
            "127.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "224.0.0.1",
            "2001:db8::1",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(at(bad, Some("0.0.0.0/0"))[0], format!("served-from {bad} Critical"));
        }
        assert_eq!(at("10.1.2.3", None), ["allowed-sites 10.1.2.3 NotChecked"]);
        for (sites, good) in [
            ("10.0.0.0/8", true),
            ("192.0.2.0/24, 10.1.2.3", true),
            ("0.0.0.0/0", true),
            ("10.1.2.4/32", false),
            ("10.1.2.3/33", false),
            ("", false),
            ("everything", false),
        ] {
            assert_eq!(at("10.1.2.3", Some(sites)).is_empty(), good, "{sites}");
        }
    }
}
