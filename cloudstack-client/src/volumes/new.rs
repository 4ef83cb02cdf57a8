//! What a volume is to be.

use crate::call::Call;
use crate::request::request;
use crate::templates::{Checksum, Format};

request! {
    /// A volume to be made: empty, of a disk offering, or of a snapshot.
    ///
    /// ```
    /// use cloudstack_client::volumes::{self, NewVolume};
    /// let volume = NewVolume::new("data01", "zone-1").with_disk_offering("custom").with_size_gib(20);
    /// let call = volumes::create(&volume);
    /// assert_eq!(call.parameter("size"), Some("20"));
    /// ```
    NewVolume {
        /// The id of the disk offering.
        with_disk_offering(&str) = "diskofferingid",
        /// The size in GiB, of an offering that leaves it open.
        with_size_gib(u64) = "size",
        /// The id of the snapshot whose data it gets, in place of an offering.
        with_snapshot(&str) = "snapshotid",
        /// The machine that it is attached to at once.
        with_machine(&str) = "virtualmachineid",
        /// The id of the project it is for.
        with_project(&str) = "projectid",
    }
}

impl NewVolume {
    /// A volume in a zone.
    #[must_use]
    pub fn new(name: &str, zone: &str) -> Self {
        Self::empty().set("name", name).set("zoneid", zone)
    }

    pub(super) fn what(&self, does: &str) -> String {
        format!("volume {}: {does}", self.get("name").unwrap_or_default())
    }

    pub(super) fn checked<T>(&self, call: Call<T>) -> Call<T> {
        let source = ["diskofferingid", "snapshotid"].iter().any(|name| self.get(name).is_some());
        if source {
            call
        } else {
            call.with_problem("it has neither a disk offering nor a snapshot")
        }
    }
}

/// A volume whose data come from outside: by [upload](super::upload_params) or by [URL](super::register).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewUploadedVolume {
    /// Its name.
    pub name: String,
    /// The id of its zone.
    pub zone: String,
    /// The format of the data; that of the hypervisor it will be used with.
    pub format: Format,
    /// The digest of the file that is sent.
    pub checksum: Option<Checksum>,
    /// The id of a disk offering, for one that leaves the size open.
    pub disk_offering: Option<String>,
    /// The id of the image store, by an administrator.
    pub image_store: Option<String>,
    /// The id of the project it is for.
    pub project: Option<String>,
    /// The account and the id of its domain that it is for, by an administrator.
    pub account: Option<(String, String)>,
}

impl NewUploadedVolume {
    /// A volume in a zone.
    pub fn new(name: impl Into<String>, format: Format, zone: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            zone: zone.into(),
            format,
            checksum: None,
            disk_offering: None,
            image_store: None,
            project: None,
            account: None,
        }
    }

    /// The digest of the file that is sent.
    #[must_use]
    pub fn with_checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = Some(checksum);
        self
    }

    /// The id of a disk offering.
    #[must_use]
    pub fn with_disk_offering(mut self, id: impl Into<String>) -> Self {
        self.disk_offering = Some(id.into());
        self
    }

    /// The id of the image store.
    #[must_use]
    pub fn with_image_store(mut self, id: impl Into<String>) -> Self {
        self.image_store = Some(id.into());
        self
    }

    /// The id of the project.
    #[must_use]
    pub fn with_project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(id.into());
        self
    }

    /// The account and the id of its domain.
    #[must_use]
    pub fn with_account(mut self, account: impl Into<String>, domain: impl Into<String>) -> Self {
        self.account = Some((account.into(), domain.into()));
        self
    }

    pub(super) fn what(&self, does: &str) -> String {
        format!("volume {}: {does}", self.name)
    }

    pub(super) fn describe<T>(&self, call: Call<T>) -> Call<T> {
        let mut call = call
            .with("name", &self.name)
            .with_id("zoneid", &self.zone)
            .with("format", self.format.as_str())
            .with_some("checksum", self.checksum.as_ref().map(Checksum::as_str))
            .with_some("diskofferingid", self.disk_offering.as_ref())
            .with_some("imagestoreuuid", self.image_store.as_ref())
            .with_some("projectid", self.project.as_ref());
        if let Some((account, domain)) = &self.account {
            call = call.with("account", account).with("domainid", domain);
        }
        if self.name.trim().is_empty() || self.name.chars().count() > 255 {
            return call.with_problem("the name must have 1 to 255 characters");
        }
        match &self.checksum {
            Some(sum) if !sum.is_sound() => {
                call.with_problem("the checksum does not have the digits of its algorithm")
            }
            _ => call,
        }
    }
}
