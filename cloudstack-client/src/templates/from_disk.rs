//! Templates of disks that the cloud has already.

use super::record::Template;
use crate::call::Call;
use crate::job::Job;
use crate::request::request;

request! {
    /// A template to be made of a volume or a snapshot.
    ///
    /// ```
    /// use cloudstack_client::templates::{self, DiskSource, TemplateFromDisk};
    /// let template = TemplateFromDisk::new("golden", "os-1", DiskSource::Snapshot("s1"))
    ///     .with_password_enabled(true)
    ///     .with_detail("rootDiskController", "scsi");
    /// let call = templates::create(&template);
    /// assert_eq!(call.parameter("snapshotid"), Some("s1"));
    /// ```
    TemplateFromDisk {
        /// A text for people; the name if there is none.
        with_display_text(&str) = "displaytext",
        /// 32 or 64.
        with_bits(u8) = "bits",
        /// Whether hardware virtualisation is needed.
        with_hvm(bool) = "requireshvm",
        /// Whether the guest takes passwords from the cloud.
        with_password_enabled(bool) = "passwordenabled",
        /// Whether the guest takes SSH keys from the cloud.
        with_ssh_key_enabled(bool) = "sshkeyenabled",
        /// Whether CPU and memory can grow while it runs.
        with_dynamically_scalable(bool) = "isdynamicallyscalable",
        /// Whether everybody may use it.
        with_public(bool) = "ispublic",
        /// Whether it is shown first.
        with_featured(bool) = "isfeatured",
        /// `x86_64` or `aarch64` (4.20.2 and newer).
        with_arch(&str) = "arch",
        /// The id of the project it is for.
        with_project(&str) = "projectid",
    }
}

/// What the template's data are taken from, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskSource<'a> {
    /// A volume: of a root disk, the machine must be stopped. [`volumes::root_of`](crate::volumes::root_of) finds it.
    Volume(&'a str),
    /// A snapshot, whatever the machine does.
    Snapshot(&'a str),
}

impl TemplateFromDisk {
    /// A template of this name and type of operating system.
    #[must_use]
    pub fn new(name: &str, os_type: &str, source: DiskSource<'_>) -> Self {
        let (parameter, id) = match source {
            DiskSource::Volume(id) => ("volumeid", id),
            DiskSource::Snapshot(id) => ("snapshotid", id),
        };
        // The text was required until 4.18.
        let empty = Self::empty().set("name", name).set("displaytext", name);
        empty.set("ostypeid", os_type).set(parameter, id)
    }

    /// One setting of its machines.
    #[must_use]
    pub fn with_detail(self, key: &str, value: &str) -> Self {
        // Below index 0: servers lose the others.
        self.set(format!("details[0].{key}"), value)
    }
}

/// `createTemplate`: a job. With a [job id of ours](Call::with_new_job_id) a lost answer makes no second template.
#[must_use]
pub fn create(template: &TemplateFromDisk) -> Call<Job<Template>> {
    let given = |name| template.get(name).is_some_and(|value| !value.trim().is_empty());
    let what = format!("template {}: create", template.get("name").unwrap_or_default());
    let call = template.describe(Call::job(what, "createTemplate"));
    if !given("name") || !given("ostypeid") || !(given("volumeid") || given("snapshotid")) {
        return call.with_problem("the name, the type of operating system or the source is empty");
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_needs_a_source() {
        let keys = crate::Credentials::new("k", "s");
        let sign = |source| {
            let template = TemplateFromDisk::new("golden", "os", source);
            create(&template).sign(&keys, std::time::SystemTime::UNIX_EPOCH)
        };
        sign(DiskSource::Volume("v1")).unwrap();
        sign(DiskSource::Snapshot(" ")).unwrap_err();
    }
}
