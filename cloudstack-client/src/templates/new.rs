//! What a template is to be.

use std::collections::BTreeMap;

use super::format::Format;
use crate::call::Call;

/// A template to be made, with every attribute that registration and upload know. What is not set
/// is left to the server.
///
/// ```
/// use cloudstack_client::templates::{Checksum, Format, NewTemplate};
/// let template = NewTemplate::new("web01", "XenServer", Format::Vhd, "zone-1")
///     .with_os_type("os-1")
///     .with_password_enabled(true)
///     .with_ssh_key_enabled(true)
///     .with_dynamically_scalable(true)
///     .with_hvm(true)
///     .with_detail("hypervisortoolsversion", "xenserver61")
///     .with_checksum(Checksum::sha256("0b".repeat(32)));
/// let call = cloudstack_client::templates::upload_params(&template);
/// assert_eq!(call.parameter("zoneid"), Some("zone-1"));
/// assert_eq!(call.parameter("details[0].hypervisortoolsversion"), Some("xenserver61"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewTemplate {
    /// The name, at most 255 characters.
    pub name: String,
    /// The hypervisor (`XenServer` also for XCP-ng).
    pub hypervisor: String,
    /// The format of the disk.
    pub format: Format,
    /// Where it is to be.
    pub zones: Zones,
    /// A text for people; the name if there is none.
    pub display_text: Option<String>,
    /// The id of the type of operating system.
    pub os_type: Option<String>,
    /// 32 or 64.
    pub bits: Option<u8>,
    /// Hardware virtualisation is needed (the server's default).
    pub hvm: Option<bool>,
    /// The guest takes passwords from the cloud.
    pub password_enabled: Option<bool>,
    /// The guest takes SSH keys from the cloud.
    pub ssh_key_enabled: Option<bool>,
    /// CPU and memory can grow while it runs: the hypervisor's tools are in it.
    pub dynamically_scalable: Option<bool>,
    /// Everybody may use it.
    pub public: Option<bool>,
    /// It is shown first.
    pub featured: Option<bool>,
    /// It may be downloaded again.
    pub extractable: Option<bool>,
    /// The digest of the file that is sent.
    pub checksum: Option<Checksum>,
    /// Settings of its machines (`rootDiskController`, `UEFI`, `platform`…).
    pub details: BTreeMap<String, String>,
    /// `x86_64` or `aarch64` (4.20 and newer).
    pub arch: Option<String>,
    /// A tag that ties it to hosts; for root administrators.
    pub template_tag: Option<String>,
    /// The project that it is for.
    pub project: Option<String>,
    /// The account and its domain that it is for, by an administrator.
    pub account: Option<(String, String)>,
}

/// The zones of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Zones {
    /// One, by its id. Uploads take only this.
    One(String),
    /// Several.
    Many(Vec<String>),
    /// All, also later ones.
    All,
}

/// The digest of a template's file, which the server compares after it has stored the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum(String);

impl Checksum {
    /// A SHA-256 in hex.
    #[must_use]
    pub fn sha256(hex: impl AsRef<str>) -> Self {
        Self::named("SHA-256", hex)
    }

    /// A SHA-512 in hex.
    #[must_use]
    pub fn sha512(hex: impl AsRef<str>) -> Self {
        Self::named("SHA-512", hex)
    }

    /// A SHA-1 in hex.
    #[must_use]
    pub fn sha1(hex: impl AsRef<str>) -> Self {
        Self::named("SHA-1", hex)
    }

    /// A SHA-224 in hex.
    #[must_use]
    pub fn sha224(hex: impl AsRef<str>) -> Self {
        Self::named("SHA-224", hex)
    }

    /// A SHA-384 in hex.
    #[must_use]
    pub fn sha384(hex: impl AsRef<str>) -> Self {
        Self::named("SHA-384", hex)
    }

    /// An MD5 in hex.
    #[must_use]
    pub fn md5(hex: impl AsRef<str>) -> Self {
        Self::named("MD5", hex)
    }

    fn named(name: &str, hex: impl AsRef<str>) -> Self {
        Self(format!("{{{name}}}{}", hex.as_ref().to_ascii_lowercase()))
    }

    /// As the server takes it: `{SHA-256}0b0b…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_sound(&self) -> bool {
        let Some((name, hex)) = self.0[1..].split_once('}') else { return false };
        let len = match name {
            "MD5" => 32,
            "SHA-1" => 40,
            "SHA-224" => 56,
            "SHA-384" => 96,
            "SHA-512" => 128,
            _ => 64,
        };
        hex.len() == len && hex.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

macro_rules! flags {
    ($($(#[$doc:meta])* $method:ident => $field:ident;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $method(mut self, yes: bool) -> Self {
            self.$field = Some(yes);
            self
        })*
    };
}

impl NewTemplate {
    /// A template in one zone.
    pub fn new(
        name: impl Into<String>,
        hypervisor: impl Into<String>,
        format: Format,
        zone: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            hypervisor: hypervisor.into(),
            format,
            zones: Zones::One(zone.into()),
            display_text: None,
            os_type: None,
            bits: None,
            hvm: None,
            password_enabled: None,
            ssh_key_enabled: None,
            dynamically_scalable: None,
            public: None,
            featured: None,
            extractable: None,
            checksum: None,
            details: BTreeMap::new(),
            arch: None,
            template_tag: None,
            project: None,
            account: None,
        }
    }

    flags! {
        /// Whether hardware virtualisation is needed.
        with_hvm => hvm;
        /// Whether the guest takes passwords from the cloud.
        with_password_enabled => password_enabled;
        /// Whether the guest takes SSH keys from the cloud.
        with_ssh_key_enabled => ssh_key_enabled;
        /// Whether CPU and memory can grow while it runs.
        with_dynamically_scalable => dynamically_scalable;
        /// Whether everybody may use it. It can be made public [later](super::set_permissions), once it is verified.
        with_public => public;
        /// Whether it is shown first.
        with_featured => featured;
        /// Whether it may be downloaded again.
        with_extractable => extractable;
    }

    /// Other zones. Uploads take one only.
    #[must_use]
    pub fn with_zones(mut self, zones: Zones) -> Self {
        self.zones = zones;
        self
    }

    /// A text for people.
    #[must_use]
    pub fn with_display_text(mut self, text: impl Into<String>) -> Self {
        self.display_text = Some(text.into());
        self
    }

    /// The id of the type of operating system. Many servers do not take a template without it.
    #[must_use]
    pub fn with_os_type(mut self, id: impl Into<String>) -> Self {
        self.os_type = Some(id.into());
        self
    }

    /// 32 or 64.
    #[must_use]
    pub fn with_bits(mut self, bits: u8) -> Self {
        self.bits = Some(bits);
        self
    }

    /// The digest of the file that is sent.
    #[must_use]
    pub fn with_checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = Some(checksum);
        self
    }

    /// One setting of its machines.
    #[must_use]
    pub fn with_detail(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.insert(key.into(), value.into());
        self
    }

    /// `x86_64` or `aarch64`.
    #[must_use]
    pub fn with_arch(mut self, arch: impl Into<String>) -> Self {
        self.arch = Some(arch.into());
        self
    }

    /// A tag that ties it to hosts; for root administrators.
    #[must_use]
    pub fn with_template_tag(mut self, tag: impl Into<String>) -> Self {
        self.template_tag = Some(tag.into());
        self
    }

    /// The project that it is for.
    #[must_use]
    pub fn with_project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(id.into());
        self
    }

    /// The account and the id of its domain that it is for.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<String>, domain: impl Into<String>) -> Self {
        self.account = Some((account.into(), domain.into()));
        self
    }

    fn problem(&self) -> Option<String> {
        let long = |text: &str, limit: usize| text.chars().count() > limit;
        if self.name.trim().is_empty() || long(&self.name, 255) {
            return Some("the name must have 1 to 255 characters".into());
        }
        if self.display_text.as_ref().is_some_and(|text| long(text, 4096)) {
            return Some("the display text is longer than 4096 characters".into());
        }
        if self.hypervisor.is_empty() {
            return Some("no hypervisor is named".into());
        }
        if self.bits.is_some_and(|bits| bits != 32 && bits != 64) {
            return Some("bits must be 32 or 64".into());
        }
        if self.checksum.as_ref().is_some_and(|sum| !sum.is_sound()) {
            return Some("the checksum does not have the digits of its algorithm".into());
        }
        let sound = |id: &String| !id.is_empty() && !id.contains(',');
        let zones = match &self.zones {
            Zones::One(id) => sound(id),
            Zones::Many(ids) => !ids.is_empty() && ids.iter().all(sound),
            Zones::All => true,
        };
        (!zones).then(|| "no zone is given, or its id is empty or holds a comma".into())
    }

    /// Adds all attributes but the zones.
    pub(super) fn describe<T>(&self, call: Call<T>) -> Call<T> {
        let text = self.display_text.as_ref().filter(|text| !text.is_empty());
        let mut call = call
            .with("name", &self.name)
            // Required until 4.18.
            .with("displaytext", text.unwrap_or(&self.name))
            .with("hypervisor", &self.hypervisor)
            .with("format", self.format.as_str())
            .with_some("ostypeid", self.os_type.as_ref())
            .with_some("bits", self.bits)
            .with_some("requireshvm", self.hvm)
            .with_some("passwordenabled", self.password_enabled)
            .with_some("sshkeyenabled", self.ssh_key_enabled)
            .with_some("isdynamicallyscalable", self.dynamically_scalable)
            .with_some("ispublic", self.public)
            .with_some("isfeatured", self.featured)
            .with_some("isextractable", self.extractable)
            .with_some("checksum", self.checksum.as_ref().map(Checksum::as_str))
            .with_some("arch", self.arch.as_ref())
            .with_some("templatetag", self.template_tag.as_ref())
            .with_some("projectid", self.project.as_ref());
        if let Some((account, domain)) = &self.account {
            call = call.with("account", account).with("domainid", domain);
        }
        // All below index 0: servers lose the others.
        for (key, value) in &self.details {
            call = call.with(format!("details[0].{key}"), value);
        }
        match self.problem() {
            Some(problem) => call.with_problem(problem),
            None => call,
        }
    }
}
