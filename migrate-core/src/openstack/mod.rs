//! The post-processor `openstack-xenserver`: one Glance image a disk.

mod rules;
mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use glance_client::Glance;
use glance_client::image::{
    self, ContainerFormat, DiskFormat, ListQuery, NewImage, Visibility, profile,
};
use serde_json::{Value, json};
use vmimage::TargetFormat;

use self::steps::{CreateImage, Publish, Transfer, Verify, failed};
use crate::transfer::planned;
use crate::{
    Artifact, Error, ErrorKind, Finding, Firmware, ImageReport, Leftover, Machine, PostProcessor,
    Result, Review, Run, RunId, Severity, Virtualization,
};

/// The property that marks an image of a run until it is published.
const RUN_PROPERTY: &str = "migrate_run_id";
/// More images than one run makes.
const MANY: usize = 1000;

/// What the image is to boot on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hypervisor {
    /// Nova's XenServer driver.
    Xen,
    /// KVM.
    Kvm,
}

impl Hypervisor {
    fn as_str(self) -> &'static str {
        match self {
            Self::Xen => "xen",
            Self::Kvm => "kvm",
        }
    }
}

/// Ships each disk of a machine as a Glance image.
///
/// The first image has the machine's name or the one that is given, the others that name with
/// `-disk2`, `-disk3`, … behind it. Until it is published, an image is private and bears the run
/// id; its own id follows from the run id, so that making it twice makes one image.
#[derive(Clone)]
pub struct OpenStackXenServer {
    glance: Glance,
    format: TargetFormat,
    hypervisor: Hypervisor,
    name: Option<String>,
    os_type: Option<String>,
    visibility: Visibility,
    properties: BTreeMap<String, String>,
}

impl std::fmt::Debug for OpenStackXenServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenStackXenServer")
            .field("url", &self.glance.url().as_str())
            .field("format", &self.format)
            .field("hypervisor", &self.hypervisor)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl OpenStackXenServer {
    /// Images of `format`: the VHD formats for Xen, the others for KVM, unless
    /// [told otherwise](Self::with_hypervisor).
    pub fn new(glance: &Glance, format: TargetFormat) -> Self {
        let hypervisor = match format {
            TargetFormat::VhdDynamic | TargetFormat::VhdFixed | TargetFormat::VhdTgz => {
                Hypervisor::Xen
            }
            _ => Hypervisor::Kvm,
        };
        Self {
            glance: glance.clone(),
            format,
            hypervisor,
            name: None,
            os_type: None,
            visibility: Visibility::Private,
            properties: BTreeMap::new(),
        }
    }

    /// Names the image; the machine's name otherwise.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What the image is to boot on.
    #[must_use]
    pub fn with_hypervisor(mut self, hypervisor: Hypervisor) -> Self {
        self.hypervisor = hypervisor;
        self
    }

    /// The kind of operating system, `linux` or `windows`, where the source does not tell it.
    #[must_use]
    pub fn with_os_type(mut self, os_type: impl Into<String>) -> Self {
        self.os_type = Some(os_type.into());
        self
    }

    /// Who may see the image once it is published; only its project otherwise.
    #[must_use]
    pub fn with_visibility(mut self, visibility: Visibility) -> Self {
        self.visibility = visibility;
        self
    }

    /// Sets a property of the images, also in place of one that we would set.
    #[must_use]
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// The name of the image of disk `index`.
    fn image_name(&self, machine: &Machine, index: usize) -> String {
        machine.image_name(self.name.as_ref(), index)
    }

    /// How Glance is to be told of the format.
    fn formats(&self) -> (DiskFormat, ContainerFormat) {
        match self.format {
            TargetFormat::VhdTgz => (DiskFormat::Vhd, ContainerFormat::Ovf),
            TargetFormat::VhdDynamic | TargetFormat::VhdFixed => {
                (DiskFormat::Vhd, ContainerFormat::Bare)
            }
            TargetFormat::Raw => (DiskFormat::Raw, ContainerFormat::Bare),
            _ => (DiskFormat::Qcow2, ContainerFormat::Bare),
        }
    }

    fn os_type<'a>(&'a self, machine: &'a Machine) -> Option<&'a str> {
        self.os_type.as_deref().or(machine.os_type.as_deref())
    }

    /// What Nova must know of the machine.
    fn profile(&self, machine: &Machine, index: usize) -> profile::Profile {
        let mode = match machine.virtualization {
            Virtualization::Pv => profile::VirtMode::Pv,
            _ => profile::VirtMode::Hvm,
        };
        let mut guest = profile::Guest::new(mode)
            .with_secure_boot(machine.secure_boot)
            .with_architecture("x86_64");
        if machine.firmware == Firmware::Uefi {
            guest = guest.with_firmware(profile::Firmware::Uefi);
        }
        match self.os_type(machine) {
            Some("windows") => guest = guest.with_os_type(profile::OsType::Windows),
            Some("linux") => guest = guest.with_os_type(profile::OsType::Linux),
            _ => {}
        }
        if let Some(disk) = machine.disks.get(index) {
            guest = guest.with_disk_bytes(disk.virtual_size);
        }
        if index == 0 && machine.memory > 0 {
            guest = guest.with_min_ram(machine.memory >> 20);
        }
        match self.hypervisor {
            Hypervisor::Xen => profile::xen(&guest),
            Hypervisor::Kvm => profile::kvm(&guest),
        }
    }

    /// The image of disk `index` as it is created.
    fn new_image(&self, machine: &Machine, index: usize, run_id: RunId) -> NewImage {
        let (disk, container) = self.formats();
        let mut image = NewImage::new(self.image_name(machine, index), disk, container)
            .with_id(image_id(run_id, index))
            .with_profile(&self.profile(machine, index));
        for (name, value) in
            [("os_distro", &machine.os_distro), ("os_version", &machine.os_version)]
        {
            if let Some(value) = value {
                image = image.with_property(name, value);
            }
        }
        for (name, value) in &self.properties {
            image = image.with_property(name, value);
        }
        // Last, in place of what anybody else may have set: by it the image is found again.
        image.with_property(RUN_PROPERTY, run_id.to_string())
    }
}

/// The id of the image of disk `index`: chosen by us, so that a repeated creation is a conflict
/// and not a second image.
fn image_id(run_id: RunId, index: usize) -> String {
    run_id.derive(&format!("image/{index}")).to_string()
}

#[async_trait]
impl PostProcessor for OpenStackXenServer {
    fn kind(&self) -> &str {
        "glance"
    }

    fn spec(&self) -> Value {
        json!({
            "url": self.glance.url().as_str(),
            "format": self.format.as_str(),
            "hypervisor": self.hypervisor.as_str(),
            "name": self.name,
            "os_type": self.os_type,
            "visibility": self.visibility.as_str(),
            "properties": self.properties,
        })
    }

    async fn review(&self, machine: &Machine) -> Result<Review> {
        let schema = self.glance.schema().await.map_err(|e| failed("schema of images", e))?;
        let mut findings = Vec::new();
        let run_id = RunId::from_uuid(uuid::Uuid::nil());
        for index in 0..machine.disks.len().max(1) {
            if let Err(e) = schema.check(&self.new_image(machine, index, run_id)) {
                findings.push(Finding::new(
                    "image-format-accepted",
                    Severity::Critical,
                    e.to_string(),
                    "choose another format",
                ));
                break;
            }
        }
        for warning in self.profile(machine, 0).warnings {
            findings.push(Finding::new(
                "guest-fits-hypervisor",
                Severity::Warning,
                warning,
                "check that the guest boots there",
            ));
        }
        rules::check(machine, self.format, self.hypervisor, &mut findings);
        if self.os_type(machine).is_none() {
            findings.push(Finding::new(
                "guest-os-type",
                Severity::Info,
                "the source does not tell whether the guest is Linux or Windows",
                "give it, if the target needs it",
            ));
        }
        findings.push(rules::quota(&self.glance, machine).await);
        self.taken_name(machine, &mut findings).await?;
        let images = planned(machine, self.format, |index| self.image_name(machine, index));
        Ok(Review::new(images, findings))
    }

    async fn ship(&self, run: &mut Run, artifact: Arc<dyn Artifact>) -> Result<Vec<ImageReport>> {
        let machine = artifact.machine().clone();
        let mut reports = Vec::new();
        for index in 0..machine.disks.len() {
            let image = self.new_image(&machine, index, run.run_id());
            let name = image.name.clone();
            let id = image_id(run.run_id(), index);
            let created =
                run.step(CreateImage { glance: self.glance.clone(), image, index }).await?;
            let sent = run
                .step(Transfer {
                    glance: self.glance.clone(),
                    artifact: Arc::clone(&artifact),
                    id: created.id.clone(),
                    name: name.clone(),
                    index,
                    format: self.format,
                })
                .await?;
            run.step(Verify {
                glance: self.glance.clone(),
                id: created.id,
                index,
                sent: sent.clone(),
            })
            .await?;
            reports.push(ImageReport::new(id, name, self.format.as_str(), &sent));
        }
        Ok(reports)
    }

    async fn publish(&self, run: &mut Run, images: &[ImageReport]) -> Result<()> {
        run.step(Publish {
            glance: self.glance.clone(),
            ids: images.iter().map(|i| i.id.clone()).collect(),
            visibility: self.visibility.clone(),
        })
        .await
    }

    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        // A published image has lost the property, so it cannot be swept.
        let query = ListQuery::new().with_filter(RUN_PROPERTY, run_id.to_string());
        let found = self
            .glance
            .list_all(&query, MANY)
            .await
            .map_err(|e| failed("looking for the run's images", e))?;
        let mut removed = Vec::new();
        let mut result = Ok(());
        // The filter is the server's word; what is deleted is checked by our own eyes.
        let ours = found
            .into_iter()
            .filter(|i| i.properties.get(RUN_PROPERTY).is_some_and(|v| *v == run_id.to_string()));
        for image in ours {
            let item =
                Leftover::new("image", &image.id).with_name(image.name.clone().unwrap_or_default());
            match self.glance.call(image::delete(&image.id)).await {
                Err(e) if !e.is_not_found() => {
                    let e = failed(format_args!("image {}", image.id), e).with_leftovers([item]);
                    result = Error::merge(result, e);
                }
                _ => removed.push(item),
            }
        }
        result.map(|()| removed)
    }
}

impl OpenStackXenServer {
    /// Glance does not mind two images of one name; people do.
    async fn taken_name(&self, machine: &Machine, findings: &mut Vec<Finding>) -> Result<()> {
        let name = self.image_name(machine, 0);
        if name.is_empty() || name.chars().count() > 240 {
            findings.push(Finding::new(
                "image-name",
                Severity::Critical,
                format!("{name:?} cannot be the name of an image"),
                "give another name of at most 240 characters",
            ));
            return Ok(());
        }
        let query = ListQuery::new().with_name(&name).with_limit(10);
        let page = self
            .glance
            .call(image::list(&query))
            .await
            .map_err(|e| failed("looking for images of the same name", e))?;
        if let Some(other) = page.images.first() {
            findings.push(Finding::new(
                "image-name-taken",
                Severity::Info,
                format!("there is an image {name:?} already: {}", other.id),
                "names need not be unique; give another one to tell them apart",
            ));
        }
        Ok(())
    }
}

impl From<glance_client::Error> for Error {
    fn from(e: glance_client::Error) -> Self {
        let mut text = e.to_string();
        let told = text.contains("check ") || text.contains("send the data again");
        if e.kind() == glance_client::ErrorKind::Unauthorized && !told {
            text += "; the token is not accepted any more: log in anew, with a user of the project";
        }
        if text.contains("cannot connect to") {
            text += "; check the address, and that the server is up";
        }
        Self::new(ErrorKind::Target, text).with_retryable(e.is_retryable()).with_source(e)
    }
}
