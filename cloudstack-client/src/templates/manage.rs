//! What can be done with a template that is there.

use serde_json::Value;

use super::record::Template;
use crate::call::{Call, Record};
use crate::job::{Job, one, success};
use crate::record::FromField;
use crate::request::request;
use crate::value::Fields;
use crate::volumes::Extracted;

request! {
    /// A change of a template.
    TemplateUpdate {
        /// Its name.
        with_name(&str) = "name",
        /// Its text for people.
        with_display_text(&str) = "displaytext",
        /// The id of its type of operating system.
        with_os_type(&str) = "ostypeid",
        /// Whether hardware virtualisation is needed.
        with_hvm(bool) = "requireshvm",
        /// Whether the guest takes passwords from the cloud.
        with_password_enabled(bool) = "passwordenabled",
        /// Whether the guest takes SSH keys from the cloud.
        with_ssh_key_enabled(bool) = "sshkeyenabled",
        /// Whether CPU and memory can grow while it runs.
        with_dynamically_scalable(bool) = "isdynamicallyscalable",
        /// `x86_64` or `aarch64` (4.20 and newer).
        with_arch(&str) = "arch",
        /// Its place in lists.
        with_sort_key(i32) = "sortkey",
        /// Drops all settings of its machines; none can be given with it.
        with_details_dropped(bool) = "cleanupdetails",
    }
}

impl TemplateUpdate {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::empty()
    }

    /// One setting of its machines. All settings are replaced by those that are given.
    #[must_use]
    pub fn with_detail(self, key: &str, value: &str) -> Self {
        // Below index 0: servers lose the others.
        self.set(format!("details[0].{key}"), value)
    }
}

impl Default for TemplateUpdate {
    fn default() -> Self {
        Self::new()
    }
}

/// `updateTemplate`.
#[must_use]
pub fn update(id: &str, update: &TemplateUpdate) -> Call<Template> {
    let call = Call::change(format!("template {id}: update"), "updateTemplate", one);
    update.describe(call.with_id("id", id))
}

/// `copyTemplate` from a zone to others: a job that ends when the copies are under way in all of them;
/// [`wait_ready`](crate::Client::wait_ready) tells when they are there.
#[must_use]
pub fn copy(id: &str, from: &str, to: &[&str]) -> Call<Job<Template>> {
    Call::job(format!("template {id}: copy"), "copyTemplate")
        .with_id("id", id)
        .with_id("sourcezoneid", from)
        .with_ids("destzoneids", to)
}

/// `extractTemplate`: a job that makes a URL to download it from, which is good for some hours. Made anew while it
/// is good, it is the same.
#[must_use]
pub fn extract(id: &str, zone: &str) -> Call<Job<Extracted>> {
    Call::job(format!("template {id}: extract"), "extractTemplate")
        .with_id("id", id)
        .with_id("zoneid", zone)
        .with("mode", "HTTP_DOWNLOAD")
}

/// Whether accounts are given a template or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// They may use it, too.
    Add,
    /// They may not use it any more.
    Remove,
}

/// `updateTemplatePermissions` for accounts of the same domain, by their names.
#[must_use]
pub fn share(id: &str, sharing: Sharing, accounts: &[&str]) -> Call<()> {
    let op = match sharing {
        Sharing::Add => "add",
        Sharing::Remove => "remove",
    };
    Call::change(format!("template {id}: share"), "updateTemplatePermissions", success)
        .with_id("id", id)
        .with("op", op)
        .with_ids("accounts", accounts)
}

/// Who may use a template.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplatePermissions {
    /// The template's id.
    pub id: String,
    /// Everybody may use it.
    pub is_public: Option<bool>,
    /// The names of the accounts that it is shared with.
    pub accounts: Vec<String>,
    /// The ids of the projects that it is shared with.
    pub projects: Vec<String>,
}

impl Record for TemplatePermissions {
    const ARRAY: &'static str = "templatepermission";
    const FIELDS: &'static [&'static str] = &["id", "ispublic", "account", "projectids"];

    fn read(value: &Value) -> Option<Self> {
        let fields = Fields::of(value)?;
        Some(Self {
            id: fields.text("id").filter(|id| !id.is_empty())?,
            is_public: fields.flag("ispublic"),
            accounts: Vec::from_field(fields, "account"),
            projects: Vec::from_field(fields, "projectids"),
        })
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// `listTemplatePermissions`: who may use a template.
#[must_use]
pub fn permissions(id: &str) -> Call<TemplatePermissions> {
    Call::read(format!("template {id}: get permissions"), "listTemplatePermissions", one)
        .with_id("id", id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn calls_have_their_parameters_and_answers_are_read() {
        let copy = copy("t1", "z1", &["z2", "z3"]);
        assert_eq!(copy.parameter("destzoneids"), Some("z2,z3"));
        let update =
            update("t1", &TemplateUpdate::new().with_name("x").with_detail("UEFI", "LEGACY"));
        assert_eq!(update.parameter("details[0].UEFI"), Some("LEGACY"));
        let body = br#"{"updatetemplateresponse":{"template":{"id":"t1","name":"x"}}}"#;
        assert_eq!(update.parse(StatusCode::OK, body).unwrap().name, "x");
        assert_eq!(share("t1", Sharing::Remove, &["a"]).parameter("op"), Some("remove"));
        let body =
            br#"{"r":{"templatepermission":{"id":"t1","ispublic":"false","account":["a","b"]}}}"#;
        let who = permissions("t1").parse(StatusCode::OK, body).unwrap();
        assert_eq!((who.is_public, who.accounts.len(), who.projects.len()), (Some(false), 2, 0));
    }

    #[test]
    fn the_place_of_a_download_is_told_to_the_caller_only() {
        let content = serde_json::json!({"template": {"id": "t1", "url": "http://ssvm/userdata/0f.vhd",
            "state": "DOWNLOAD_URL_CREATED"}});
        let answer = crate::call::Answer { what: "x", content: &content };
        let extracted: Extracted = one(&answer).unwrap();
        assert_eq!(extracted.url, "http://ssvm/userdata/0f.vhd");
        assert!(!format!("{extracted:?}").contains("ssvm"));
    }
}
