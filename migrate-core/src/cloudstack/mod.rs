//! The post-processor `cloudstack-xenserver`: one CloudStack template a disk.

mod choose;
mod publish;
mod rules;
mod steps;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use cloudstack_client::templates::{self, Format, NewTemplate};
use cloudstack_client::{Client, hypervisors, os_types, zones};
use serde_json::{Value, json};
use vmimage::TargetFormat;

use self::publish::Publish;
use self::steps::{Choose, Chosen, Shipped, Transfer, Verify, failed};
use crate::transfer::planned;
use crate::{
    Artifact, Context, Error, ErrorKind, Finding, Firmware, ImageReport, Leftover, Machine,
    PostProcessor, Result, Review, Run, RunId, Severity, StepCx, Virtualization,
};

/// The tag that tells which run made a template.
const RUN_TAG: &str = "migrate_run_id";

/// What machines of the template are to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hypervisor {
    /// XenServer, also XCP-ng.
    XenServer,
    /// KVM.
    Kvm,
}

impl Hypervisor {
    /// CloudStack's name.
    fn as_str(self) -> &'static str {
        match self {
            Self::XenServer => "XenServer",
            Self::Kvm => "KVM",
        }
    }
}

/// How the data get into CloudStack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Via {
    /// We send them to a secondary storage VM: needs a way from here to there. In one pass.
    #[default]
    Upload,
    /// CloudStack fetches them from a small server that we open while the template is made: needs a
    /// way from the cloud to here. The disk is read twice, because the cloud is told the
    /// checksum first: the way is plain HTTP.
    Url {
        /// Where the server listens.
        bind: SocketAddr,
        /// The name or address by which the cloud reaches it, if not that of `bind`.
        host: Option<String>,
    },
}

impl Via {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Url { .. } => "url",
        }
    }
}

/// Ships each disk of a machine as a CloudStack template.
///
/// The first template has the machine's name or the one that is given, the others that name with
/// `-disk2`, `-disk3`, … behind it: CloudStack has no template of several disks that could be
/// registered, so the other disks are templates of their own, and a preflight finding says so.
///
/// Until it is published, a template is private and is named after the run; a tag tells the run
/// for good. CloudStack chooses the id.
#[derive(Clone)]
pub struct CloudStackTemplate {
    client: Client,
    format: TargetFormat,
    hypervisor: Hypervisor,
    zone: Option<String>,
    name: Option<String>,
    os_type: Option<String>,
    via: Via,
    public: bool,
    password_enabled: bool,
    ssh_key_enabled: bool,
    details: BTreeMap<String, String>,
}

impl std::fmt::Debug for CloudStackTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudStackTemplate")
            .field("endpoint", &self.client.endpoint().as_str())
            .field("format", &self.format)
            .field("hypervisor", &self.hypervisor)
            .field("zone", &self.zone)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl CloudStackTemplate {
    /// Templates of `format`: VHD for XenServer, the others for KVM, unless
    /// [told otherwise](Self::with_hypervisor).
    pub fn new(client: &Client, format: TargetFormat) -> Self {
        let hypervisor = match format {
            TargetFormat::Qcow2 | TargetFormat::Raw => Hypervisor::Kvm,
            _ => Hypervisor::XenServer,
        };
        Self {
            client: client.clone(),
            format,
            hypervisor,
            zone: None,
            name: None,
            os_type: None,
            via: Via::Upload,
            public: false,
            password_enabled: false,
            ssh_key_enabled: false,
            details: BTreeMap::new(),
        }
    }

    /// The zone, by name or id; the only one otherwise.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Names the template; after the machine otherwise.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What machines of the template are to run on.
    #[must_use]
    pub fn with_hypervisor(mut self, hypervisor: Hypervisor) -> Self {
        self.hypervisor = hypervisor;
        self
    }

    /// The type of operating system, by id, description or words of it (`debian 12`), or only
    /// `linux` or `windows`; otherwise what fits the guest best.
    #[must_use]
    pub fn with_os_type(mut self, os_type: impl Into<String>) -> Self {
        self.os_type = Some(os_type.into());
        self
    }

    /// How the data get there; by upload otherwise.
    #[must_use]
    pub fn with_via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }

    /// Whether everybody may use the template once it is published; only its account otherwise.
    #[must_use]
    pub fn with_public(mut self, public: bool) -> Self {
        self.public = public;
        self
    }

    /// Whether the guest takes its password from the cloud; CloudStack's scripts or cloud-init
    /// must be in it.
    #[must_use]
    pub fn with_password_enabled(mut self, enabled: bool) -> Self {
        self.password_enabled = enabled;
        self
    }

    /// Whether the guest takes SSH keys from the cloud.
    #[must_use]
    pub fn with_ssh_key_enabled(mut self, enabled: bool) -> Self {
        self.ssh_key_enabled = enabled;
        self
    }

    /// Sets a detail of the templates, also in place of one that we would set.
    #[must_use]
    pub fn with_detail(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.insert(name.into(), value.into());
        self
    }

    /// The name of the template of disk `index`, once it is published.
    fn template_name(&self, machine: &Machine, index: usize) -> String {
        machine.image_name(self.name.as_ref(), index)
    }

    /// CloudStack's word for the format.
    fn format(&self) -> Format {
        match self.format {
            TargetFormat::Qcow2 => Format::Qcow2,
            TargetFormat::Raw => Format::Raw,
            _ => Format::Vhd,
        }
    }

    /// The template of disk `index` as it is created.
    fn new_template(
        &self,
        machine: &Machine,
        index: usize,
        run_id: RunId,
        chosen: &Chosen,
    ) -> NewTemplate {
        let name = run_name(run_id, index);
        let text = format!("clone of {}, not verified yet", machine.name);
        let text: String = text.chars().take(4000).collect();
        let mut template =
            NewTemplate::new(name, self.hypervisor.as_str(), self.format(), &chosen.zone_id)
                .with_display_text(text)
                .with_os_type(&chosen.os_type_id)
                .with_bits(64)
                .with_hvm(machine.virtualization != Virtualization::Pv)
                .with_password_enabled(self.password_enabled)
                .with_ssh_key_enabled(self.ssh_key_enabled)
                .with_dynamically_scalable(machine.tools)
                .with_public(false);
        for (name, value) in self.all_details(machine) {
            template = template.with_detail(name, value);
        }
        template
    }

    fn all_details(&self, machine: &Machine) -> BTreeMap<String, String> {
        let mut details = BTreeMap::new();
        if machine.firmware == Firmware::Uefi {
            let mode = if machine.secure_boot { "SECURE" } else { "LEGACY" };
            details.insert("UEFI".to_owned(), mode.to_owned());
        }
        let windows = machine.os_type.as_deref() == Some("windows");
        if windows && machine.tools && self.hypervisor == Hypervisor::XenServer {
            // Its drivers look for another device than those before 6.1.
            details.insert("hypervisortoolsversion".to_owned(), "xenserver61".to_owned());
        }
        details.extend(self.details.clone());
        details
    }
}

/// The name of a template of a run until it is published.
fn run_name(run_id: RunId, index: usize) -> String {
    format!("{}-{index}", run_id.object_name())
}

#[async_trait]
impl PostProcessor for CloudStackTemplate {
    fn kind(&self) -> &str {
        "cloudstack"
    }

    fn spec(&self) -> Value {
        json!({
            "endpoint": self.client.endpoint().as_str(),
            "format": self.format.as_str(),
            "hypervisor": self.hypervisor.as_str(),
            "zone": self.zone,
            "name": self.name,
            "os_type": self.os_type,
            "via": self.via.as_str(),
            "public": self.public,
            "password_enabled": self.password_enabled,
            "ssh_key_enabled": self.ssh_key_enabled,
            "details": self.details,
        })
    }

    async fn review(&self, machine: &Machine) -> Result<Review> {
        let mut findings = Vec::new();
        self.places(machine, &mut findings).await?;
        rules::check(machine, self.format, self.hypervisor, &mut findings);
        findings.push(rules::limits(&self.client, machine).await);
        self.taken_name(machine, &mut findings).await?;
        let images = planned(machine, self.format, |index| self.template_name(machine, index));
        Ok(Review::new(images, findings))
    }

    async fn ship(&self, run: &mut Run, artifact: Arc<dyn Artifact>) -> Result<Vec<ImageReport>> {
        let machine = artifact.machine().clone();
        let chosen = run.step(Choose { target: self.clone(), machine: machine.clone() }).await?;
        let mut reports = Vec::new();
        for (index, disk) in machine.disks.iter().enumerate() {
            let name = self.template_name(&machine, index);
            let shipped: Shipped = run
                .step(Transfer {
                    client: self.client.clone(),
                    artifact: Arc::clone(&artifact),
                    template: self.new_template(&machine, index, run.run_id(), &chosen),
                    zone: chosen.zone_id.clone(),
                    name: name.clone(),
                    index,
                    format: self.format,
                    via: self.via.clone(),
                })
                .await?;
            run.step(Verify {
                client: self.client.clone(),
                zone: chosen.zone_id.clone(),
                name: name.clone(),
                index,
                virtual_size: disk.virtual_size,
                shipped: shipped.clone(),
            })
            .await?;
            let format = self.format.as_str();
            reports.push(ImageReport::new(shipped.id, name, format, &shipped.sent));
        }
        Ok(reports)
    }

    async fn publish(&self, run: &mut Run, images: &[ImageReport]) -> Result<()> {
        run.step(Publish {
            client: self.client.clone(),
            templates: images.iter().map(|i| (i.id.clone(), i.name.clone())).collect(),
            public: self.public,
        })
        .await
    }

    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        // A published template has lost the run's name, so it cannot be swept.
        let cx = StepCx::new(&Context::new(run_id), "sweep");
        let found = steps::of_run(&self.client, run_id).await?;
        let mut removed = Vec::new();
        let mut result = Ok(());
        for template in found {
            match steps::delete(&cx, &self.client, &template.id, &template.name).await {
                Ok(()) => {
                    removed.push(Leftover::new("template", template.id).with_name(template.name));
                }
                Err(e) => result = Error::merge(result, e),
            }
        }
        result.map(|()| removed)
    }
}

impl CloudStackTemplate {
    /// Zone, hypervisor and OS type.
    async fn places(&self, machine: &Machine, findings: &mut Vec<Finding>) -> Result<()> {
        let critical = |rule: &str, evidence: String, remedy: &str| {
            Finding::new(rule, Severity::Critical, evidence, remedy)
        };
        let zones = self.client.call_all(zones::list()).await;
        let zones = zones.map_err(|e| failed("listing the zones", e))?;
        match choose::zone(&zones, self.zone.as_deref()) {
            Err(why) => findings.push(critical("zone-known", why, "name one with --zone")),
            Ok(zone) => {
                let known = self.client.call_all(hypervisors::in_zone(&zone.id)).await;
                let known = known.map_err(|e| failed("listing the hypervisors", e))?;
                if !known.iter().any(|h| h.name.eq_ignore_ascii_case(self.hypervisor.as_str())) {
                    let names: Vec<_> = known.iter().map(|h| h.name.as_str()).collect();
                    let names = names.join(", ");
                    let which = self.hypervisor.as_str();
                    findings.push(critical(
                        "zone-has-hypervisor",
                        format!("zone {} has no {which}; it has: {names}", zone.name),
                        "choose another zone or --hypervisor",
                    ));
                }
            }
        }
        let types = self.client.call_all(os_types::list()).await;
        let types = types.map_err(|e| failed("listing the OS types", e))?;
        let wanted = self.os_type.as_deref();
        match choose::os_type(&types, wanted, machine, self.hypervisor) {
            Err(why) => findings.push(critical("os-type-known", why, "name one with --os-type")),
            Ok(found) => findings.push(Finding::new(
                "os-type-known",
                Severity::Info,
                format!("the template's OS type is {}", found.description),
                "",
            )),
        }
        Ok(())
    }

    /// CloudStack does not mind two templates of one name; people do.
    async fn taken_name(&self, machine: &Machine, findings: &mut Vec<Finding>) -> Result<()> {
        let name = self.template_name(machine, 0);
        if name.trim().is_empty() || name.chars().count() > 240 {
            findings.push(Finding::new(
                "template-name",
                Severity::Critical,
                format!("{name:?} cannot be the name of a template"),
                "give another name of at most 240 characters",
            ));
            return Ok(());
        }
        let found = self.client.call_all(templates::named(&name)).await;
        let found = found.map_err(|e| failed("looking for templates of the same name", e))?;
        if let Some(other) = found.iter().find(|t| t.name == name) {
            findings.push(Finding::new(
                "template-name-taken",
                Severity::Info,
                format!("there is a template {name:?} already: {}", other.id),
                "it is left alone; give another name to tell them apart",
            ));
        }
        Ok(())
    }
}

impl From<cloudstack_client::Error> for Error {
    fn from(e: cloudstack_client::Error) -> Self {
        if e.kind() == cloudstack_client::ErrorKind::Cancelled {
            return Self::cancelled();
        }
        let mut text = e.to_string();
        if text.contains("cannot connect to") && !text.contains('?') {
            text += "; check the address, and that the server is up";
        }
        // A limit of the account is told as a failure of the server by some commands.
        let limit = text.contains("Maximum amount of resources");
        let remedy = "delete templates, or have an operator raise the account's limit";
        let said = if limit { format!("{text}; {remedy}") } else { text };
        Self::new(ErrorKind::Target, said).with_retryable(e.is_retryable() && !limit).with_source(e)
    }
}
