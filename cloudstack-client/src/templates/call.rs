//! The calls about templates.

use http::Uri;

use super::format::Format;
use super::new::{NewTemplate, Zones};
use super::record::{Template, merge};
use super::upload::UploadTicket;
use crate::call::{Answer, Call, List, Record};
use crate::error::Result;
use crate::job::{Job, success};
use crate::tags::with_tags;

/// Which templates a list shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateFilter {
    /// Those of this account, in whatever state.
    #[default]
    Self_,
    /// Those of this account that are ready.
    SelfExecutable,
    /// Those that others share with this account.
    SharedExecutable,
    /// All that this account can make machines of.
    Executable,
    /// Public ones that are not featured.
    Community,
    /// Public ones that are shown first.
    Featured,
    /// All; for administrators.
    All,
}

impl TemplateFilter {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Self_ => "self",
            Self::SelfExecutable => "selfexecutable",
            Self::SharedExecutable => "sharedexecutable",
            Self::Executable => "executable",
            Self::Community => "community",
            Self::Featured => "featured",
            Self::All => "all",
        }
    }
}

/// `listTemplates`. A template is there once for each of its zones.
#[must_use]
pub fn list(filter: TemplateFilter) -> Call<List<Template>> {
    Call::list("templates: list", "listTemplates").with("templatefilter", filter.as_str())
}

/// `listTemplates` of this account with exactly this name.
#[must_use]
pub fn named(name: &str) -> Call<List<Template>> {
    list(TemplateFilter::Self_).with("name", name)
}

/// `listTemplates` of this account that have these tags.
#[must_use]
pub fn list_tagged<'a>(tags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Call<List<Template>> {
    with_tags(list(TemplateFilter::Self_), tags)
}

/// `listTemplates` of one id: its rows, one for each zone.
#[must_use]
pub fn get(id: &str) -> Call<List<Template>> {
    let what = format!("template {id}: get");
    Call::list(&what, "listTemplates")
        .with("templatefilter", TemplateFilter::Self_.as_str())
        .with_id("id", id)
}

/// `registerTemplate`: the cloud fetches the file from `url`, whose path must end as the format's files do, plain or
/// with `.gz`, `.bz2` or `.zip`. [`serve`](crate::serve) makes such a URL.
///
/// The server itself asks for the file's length before it answers. It refuses addresses that only it could reach
/// (loopback, link-local) and, mostly, IPv6.
#[must_use]
pub fn register(template: &NewTemplate, url: &str) -> Call<Template> {
    let call = Call::change(
        format!("template {}: register", template.name),
        "registerTemplate",
        one_template,
    );
    let call = template.describe(call).with("url", url);
    let call = match &template.zones {
        Zones::One(id) => call.with("zoneid", id),
        Zones::Many(ids) => call.with("zoneids", ids.join(",")),
        Zones::All => call.with("zoneids", "-1"),
    };
    match url_problem(&template.format, url) {
        Some(problem) => call.with_problem(problem),
        None => call,
    }
}

/// Why the server would not fetch a file of this format from a URL.
pub(crate) fn url_problem(format: &Format, url: &str) -> Option<String> {
    if url.len() > 2048 {
        return Some("the URL is longer than 2048 characters".into());
    }
    let uri = url.parse::<Uri>().ok();
    let Some(uri) = uri.filter(|uri| uri.host().is_some_and(|host| !host.is_empty())) else {
        return Some("the URL cannot be read".into());
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Some("the URL is neither http nor https".into());
    }
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    if format.of_file(name).is_none() {
        return Some(format!(
            "the path of the URL ends in {name:?}, which the server does not take for {format}"
        ));
    }
    None
}

fn one_template(answer: &Answer<'_>) -> Result<Template> {
    let fields = answer.fields()?;
    // Newer servers give an array with a row for each zone, old ones may give the object.
    let rows = match fields.raw("template") {
        Some(serde_json::Value::Array(rows)) => rows.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let rows: Option<Vec<_>> = rows.iter().map(Template::read).collect();
    let one = rows.and_then(|rows| merge(rows).into_iter().next());
    one.ok_or_else(|| answer.wrong("the answer holds no template"))
}

/// `getUploadParamsForTemplate`: makes a template without data, and a ticket to
/// [send the data once](crate::Client::upload). Takes one zone.
#[must_use]
pub fn upload_params(template: &NewTemplate) -> Call<UploadTicket> {
    let (name, format) = (template.name.clone(), template.format.clone());
    let call = Call::change(
        format!("template {name}: ask for an upload"),
        "getUploadParamsForTemplate",
        move |answer| UploadTicket::read(answer, "template", &name, &format),
    );
    let call = template.describe(call);
    match &template.zones {
        Zones::One(id) => call.with("zoneid", id),
        _ => call.with_problem(
            "an upload takes one zone: register by URL for several, or copy it afterwards",
        ),
    }
}

/// Who may do what with a template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permissions {
    /// Everybody may use it.
    pub public: Option<bool>,
    /// It is shown first.
    pub featured: Option<bool>,
    /// It may be downloaded.
    pub extractable: Option<bool>,
}

impl Permissions {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether everybody may use it.
    #[must_use]
    pub fn with_public(mut self, yes: bool) -> Self {
        self.public = Some(yes);
        self
    }

    /// Whether it is shown first.
    #[must_use]
    pub fn with_featured(mut self, yes: bool) -> Self {
        self.featured = Some(yes);
        self
    }

    /// Whether it may be downloaded.
    #[must_use]
    pub fn with_extractable(mut self, yes: bool) -> Self {
        self.extractable = Some(yes);
        self
    }

    pub(crate) fn describe<T>(&self, call: Call<T>) -> Call<T> {
        call.with_some("ispublic", self.public)
            .with_some("isfeatured", self.featured)
            .with_some("isextractable", self.extractable)
    }
}

/// `updateTemplatePermissions`: publishes a template that has been verified.
#[must_use]
pub fn set_permissions(id: &str, permissions: &Permissions) -> Call<()> {
    let what = format!("template {id}: set permissions");
    let call = Call::change(what, "updateTemplatePermissions", success);
    permissions.describe(call.with_id("id", id))
}

/// `deleteTemplate` in all zones: a job.
#[must_use]
pub fn delete(id: &str) -> Call<Job<()>> {
    Call::job(format!("template {id}: delete"), "deleteTemplate").with_id("id", id)
}

/// `deleteTemplate` in one zone: a job.
#[must_use]
pub fn delete_in(id: &str, zone: &str) -> Call<Job<()>> {
    delete(id).with_id("zoneid", zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::sign::Credentials;
    use crate::templates::Checksum;
    use http::StatusCode;
    use std::time::SystemTime;

    fn new() -> NewTemplate {
        NewTemplate::new("web01", "XenServer", Format::Vhd, "z1")
    }

    fn problem<T>(call: &Call<T>) -> Option<String> {
        let keys = Credentials::new("k", "s");
        let error = call.sign(&keys, SystemTime::UNIX_EPOCH).err()?;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        Some(error.to_string())
    }

    #[test]
    fn a_registration_has_every_attribute() {
        let template = new()
            .with_display_text("the web")
            .with_os_type("os1")
            .with_bits(64)
            .with_hvm(true)
            .with_password_enabled(true)
            .with_ssh_key_enabled(false)
            .with_dynamically_scalable(true)
            .with_public(false)
            .with_featured(false)
            .with_extractable(true)
            .with_checksum(Checksum::sha256("AB".repeat(32)))
            .with_detail("rootDiskController", "scsi")
            .with_detail("UEFI", "SECURE")
            .with_arch("x86_64")
            .with_project("p1");
        let call = register(&template, "http://10.0.0.5:8000/x/web01.vhd.gz");
        let expected = [
            ("name", "web01"),
            ("displaytext", "the web"),
            ("hypervisor", "XenServer"),
            ("format", "VHD"),
            ("ostypeid", "os1"),
            ("bits", "64"),
            ("requireshvm", "true"),
            ("passwordenabled", "true"),
            ("sshkeyenabled", "false"),
            ("isdynamicallyscalable", "true"),
            ("ispublic", "false"),
            ("isfeatured", "false"),
            ("isextractable", "true"),
            ("arch", "x86_64"),
            ("projectid", "p1"),
            ("details[0].UEFI", "SECURE"),
            ("details[0].rootDiskController", "scsi"),
            ("url", "http://10.0.0.5:8000/x/web01.vhd.gz"),
            ("zoneid", "z1"),
        ];
        for (name, value) in expected {
            assert_eq!(call.parameter(name), Some(value), "{name}");
        }
        assert!(call.parameter("checksum").unwrap().starts_with("{SHA-256}abab"));
        assert_eq!(call.parameters().len(), expected.len() + 1);
        assert_eq!(problem(&call), None);
        assert!(!format!("{call:?}").contains("10.0.0.5"), "the address opens the file");

        let plain = register(
            &new().with_zones(Zones::Many(vec!["a".into(), "b".into()])),
            "http://h/a.vhd",
        );
        assert_eq!(
            (plain.parameter("zoneids"), plain.parameter("displaytext")),
            (Some("a,b"), Some("web01"))
        );
        let all = register(&new().with_zones(Zones::All), "http://h/a.vhd");
        assert_eq!((all.parameter("zoneids"), all.parameter("zoneid")), (Some("-1"), None));
    }

    #[test]
    fn what_the_server_would_refuse_is_refused_here() {
        let url = "http://h/a.vhd";
        for (template, url) in [
            (new(), "http://h/a.qcow2"),
            (new(), "http://h/a.vhd/"),
            (new(), "http://h/?a.vhd"),
            (new(), "ftp://h/a.vhd"),
            (new(), "/a.vhd"),
            (new(), ""),
            (new().with_bits(16), url),
            (new().with_checksum(Checksum::md5("xyz")), url),
            (new().with_zones(Zones::Many(vec![])), url),
            (NewTemplate::new(" ", "KVM", Format::Raw, "z"), "http://h/a.raw"),
            (NewTemplate::new("a".repeat(256), "KVM", Format::Raw, "z"), "http://h/a.raw"),
            (NewTemplate::new("a", "", Format::Raw, "z"), "http://h/a.raw"),
            (NewTemplate::new("a", "KVM", Format::Raw, ""), "http://h/a.raw"),
        ] {
            let call = register(&template, url);
            assert!(problem(&call).is_some(), "{template:?} {url}");
        }
        assert!(
            problem(&register(&new(), &format!("http://h/{}.vhd", "a".repeat(2050)))).is_some()
        );
        assert!(
            problem(&upload_params(&new().with_zones(Zones::All))).unwrap().contains("one zone")
        );
        assert!(problem(&delete(" ")).is_some() && problem(&get("")).is_some());
    }

    #[test]
    fn answers_of_a_registration_are_read() {
        let call = register(&new(), "http://h/a.vhd");
        let parse = |body: &str| call.parse(StatusCode::OK, body.as_bytes());
        let template = parse(
            r#"{"registertemplateresponse":{"count":2,"template":[{"id":"t","zoneid":"a"},{"id":"t","zoneid":"b"}]}}"#,
        )
        .unwrap();
        assert_eq!((template.id.as_str(), template.zones.len()), ("t", 2));
        assert_eq!(parse(r#"{"r":{"template":{"id":"t"}}}"#).unwrap().id, "t");
        for body in [
            r#"{"r":{}}"#,
            r#"{"r":{"template":[]}}"#,
            r#"{"r":{"template":[{}]}}"#,
            r#"{"r":{"template":7}}"#,
        ] {
            assert_eq!(parse(body).unwrap_err().kind(), ErrorKind::Protocol, "{body}");
        }
    }

    #[test]
    fn small_calls_have_their_parameters() {
        assert_eq!(
            list(TemplateFilter::Executable).parameter("templatefilter"),
            Some("executable")
        );
        assert_eq!(named("web01").parameter("name"), Some("web01"));
        assert_eq!(list_tagged([("run", "7")]).parameter("tags[0].value"), Some("7"));
        let delete = delete_in("t1", "z1").with_job_id("j1");
        assert_eq!((delete.parameter("id"), delete.parameter("zoneid")), (Some("t1"), Some("z1")));
        assert_eq!(delete.parameter("customjobid"), Some("j1"));
        assert!(!delete.is_read() && get("t1").is_read());
        let publish = set_permissions("t1", &Permissions::new().with_public(true));
        assert_eq!(
            (publish.parameter("ispublic"), publish.parameter("isfeatured")),
            (Some("true"), None)
        );
        publish.parse(StatusCode::OK, br#"{"r":{"success":"true"}}"#).unwrap();
    }
}
