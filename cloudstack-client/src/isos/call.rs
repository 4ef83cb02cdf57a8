//! The calls about ISOs.

use super::record::Iso;
use crate::call::{Call, List};
use crate::job::{Job, one, success};
use crate::request::request;
use crate::templates::{Checksum, Format, Permissions, TemplateFilter, UploadTicket, url_problem};
use crate::virtual_machines::VirtualMachine;
use crate::volumes::Extracted;

request! {
    /// An ISO to be made.
    NewIso {
        /// A text for people; the name if there is none.
        with_display_text(&str) = "displaytext",
        /// The id of the type of operating system, which a bootable one must have.
        with_os_type(&str) = "ostypeid",
        /// Whether a machine can start from it (the server takes it for bootable).
        with_bootable(bool) = "bootable",
        /// Whether everybody may use it.
        with_public(bool) = "ispublic",
        /// Whether it is shown first.
        with_featured(bool) = "isfeatured",
        /// Whether it may be downloaded again.
        with_extractable(bool) = "isextractable",
        /// `x86_64` or `aarch64` (4.20 and newer).
        with_arch(&str) = "arch",
        /// The id of the project it is for.
        with_project(&str) = "projectid",
    }
}

impl NewIso {
    /// An ISO in one zone.
    #[must_use]
    pub fn new(name: &str, zone: &str) -> Self {
        // The text was required until 4.18.
        Self::empty().set("name", name).set("displaytext", name).set("zoneid", zone)
    }

    /// The digest of the file that is sent.
    #[must_use]
    pub fn with_checksum(self, checksum: &Checksum) -> Self {
        self.set("checksum", checksum.as_str())
    }

    fn what(&self, does: &str) -> String {
        format!("ISO {}: {does}", self.get("name").unwrap_or_default())
    }

    fn checked<T>(&self, call: Call<T>) -> Call<T> {
        let given = |name| self.get(name).is_some_and(|value| !value.trim().is_empty());
        if !given("name") || !given("zoneid") {
            call.with_problem("it has no name, or no zone")
        } else if self.get("bootable") != Some("false") && !given("ostypeid") {
            call.with_problem("a bootable one needs a type of operating system")
        } else {
            call
        }
    }
}

/// `listIsos`. An ISO is there once for each of its zones.
#[must_use]
pub fn list(filter: TemplateFilter) -> Call<List<Iso>> {
    Call::list("ISOs: list", "listIsos").with("isofilter", filter.as_str())
}

/// `listIsos` of one id: its rows, one for each zone.
#[must_use]
pub fn get(id: &str) -> Call<List<Iso>> {
    Call::list(&format!("ISO {id}: get"), "listIsos")
        .with("isofilter", TemplateFilter::Self_.as_str())
        .with_id("id", id)
}

/// `registerIso`: the cloud fetches the file from `url`, by the rules of
/// [templates](crate::templates::register()).
#[must_use]
pub fn register(iso: &NewIso, url: &str) -> Call<Iso> {
    let call = Call::change(iso.what("register"), "registerIso", one);
    let call = iso.checked(iso.describe(call)).with("url", url);
    match url_problem(&Format::Iso, url) {
        Some(problem) => call.with_problem(problem),
        None => call,
    }
}

/// `getUploadParamsForIso`: makes an ISO without data, and a ticket to [send the data once](crate::Client::upload).
#[must_use]
pub fn upload_params(iso: &NewIso) -> Call<UploadTicket> {
    let name = iso.get("name").unwrap_or_default().to_owned();
    let call =
        Call::change(iso.what("ask for an upload"), "getUploadParamsForIso", move |answer| {
            UploadTicket::read(answer, "ISO", &name, &Format::Iso)
        });
    // An upload knows no architecture.
    iso.checked(iso.describe(call)).with("format", "ISO").without("arch")
}

/// `attachIso`: a job that puts an ISO into a machine's drive.
#[must_use]
pub fn attach(id: &str, machine: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("ISO {id}: attach to {machine}"), "attachIso")
        .with_id("id", id)
        .with_id("virtualmachineid", machine)
}

/// `detachIso`: a job that empties a machine's drive.
#[must_use]
pub fn detach(machine: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("virtual machine {machine}: detach its ISO"), "detachIso")
        .with_id("virtualmachineid", machine)
}

/// `copyIso` from a zone to others: a job.
#[must_use]
pub fn copy(id: &str, from: &str, to: &[&str]) -> Call<Job<Iso>> {
    Call::job(format!("ISO {id}: copy"), "copyIso")
        .with_id("id", id)
        .with_id("sourcezoneid", from)
        .with_ids("destzoneids", to)
}

/// `extractIso`: a job that makes a URL to download it from.
#[must_use]
pub fn extract(id: &str, zone: &str) -> Call<Job<Extracted>> {
    Call::job(format!("ISO {id}: extract"), "extractIso")
        .with_id("id", id)
        .with_id("zoneid", zone)
        .with("mode", "HTTP_DOWNLOAD")
}

/// `updateIsoPermissions`.
#[must_use]
pub fn set_permissions(id: &str, permissions: &Permissions) -> Call<()> {
    let call = Call::change(format!("ISO {id}: set permissions"), "updateIsoPermissions", success);
    permissions.describe(call.with_id("id", id))
}

/// `deleteIso` in all zones: a job.
#[must_use]
pub fn delete(id: &str) -> Call<Job<()>> {
    Call::job(format!("ISO {id}: delete"), "deleteIso").with_id("id", id)
}

/// `deleteIso` in one zone: a job.
#[must_use]
pub fn delete_in(id: &str, zone: &str) -> Call<Job<()>> {
    delete(id).with_id("zoneid", zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_would_refuse_is_refused_here() {
        let sign = |call: &Call<Iso>| {
            let keys = crate::Credentials::new("k", "s");
            call.sign(&keys, std::time::SystemTime::UNIX_EPOCH).map(|_| ())
        };
        let iso = NewIso::new("tools", "z1").with_bootable(false);
        sign(&register(&iso, "http://h/tools.iso")).unwrap();
        sign(&register(&iso, "http://h/tools.ISO")).unwrap();
        sign(&register(&iso, "http://h/tools.iso.gz")).unwrap_err();
        sign(&register(&iso, "http://h/tools.vhd")).unwrap_err();
        sign(&register(&NewIso::new("debian", "z1"), "http://h/a.iso")).unwrap_err();
        sign(&register(&NewIso::new("debian", "").with_os_type("o"), "http://h/a.iso"))
            .unwrap_err();
        let bootable = NewIso::new("debian", "z1").with_os_type("o");
        sign(&register(&bootable, "http://h/a.iso")).unwrap();
        assert_eq!(upload_params(&bootable).parameter("format"), Some("ISO"));
    }
}
