//! Volumes as the server describes them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::call::Record;
use crate::record::{record, words};
use crate::value::Fields;

words! {
    /// What a volume is to a machine.
    VolumeKind {
        /// What it boots from.
        Root = "ROOT",
        /// Any other.
        Data = "DATADISK",
    }
}

words! {
    /// How far a volume is.
    VolumeState {
        /// It is known and nowhere yet: the first machine it is attached to decides.
        Allocated = "Allocated",
        /// It is being made.
        Creating = "Creating",
        /// It is on primary storage.
        Ready = "Ready",
        /// It is on its way to other storage.
        Migrating = "Migrating",
        /// It is being enlarged.
        Resizing = "Resizing",
        /// A snapshot of it is being made.
        Snapshotting = "Snapshotting",
        /// A snapshot is being written back.
        RevertSnapshotting = "RevertSnapshotting",
        /// It is being attached.
        Attaching = "Attaching",
        /// Its data are expected.
        NotUploaded = "NotUploaded",
        /// Its data are on their way.
        UploadInProgress = "UploadInProgress",
        /// The cloud fetches its data.
        UploadOp = "UploadOp",
        /// Its data are on secondary storage: it can be attached.
        Uploaded = "Uploaded",
        /// Its data did not come.
        UploadError = "UploadError",
        /// Nobody sent its data in time.
        UploadAbandoned = "UploadAbandoned",
        /// It was deleted, and can be recovered.
        Destroy = "Destroy",
        /// It is being deleted.
        Destroying = "Destroying",
        /// It is being removed.
        Expunging = "Expunging",
        /// It is no more.
        Expunged = "Expunged",
    }
}

record! {
    /// A volume.
    Volume in "volume" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// What it is to a machine.
    kind: Option<VolumeKind> = "type",
    /// How far it is.
    state: Option<VolumeState> = "state",
    /// The server's words about its upload.
    status: Option<String> = "status",
    /// Its size in bytes, as the guest sees it.
    size: Option<u64> = "size",
    /// What it takes on storage, in bytes.
    physical_size: Option<u64> = "physicalsize",
    /// The id of its zone.
    zone: Option<String> = "zoneid",
    /// The name of its zone.
    zone_name: Option<String> = "zonename",
    /// The id of the machine that it is attached to.
    machine: Option<String> = "virtualmachineid",
    /// The name of that machine.
    machine_name: Option<String> = "vmname",
    /// The state of that machine: `Running`, `Stopped`…
    machine_state: Option<String> = "vmstate",
    /// Its number in the machine; 0 is the root disk.
    device: Option<u64> = "deviceid",
    /// When it was attached.
    attached: Option<String> = "attached",
    /// The id of its disk offering.
    disk_offering: Option<String> = "diskofferingid",
    /// The id of the template that it was made of.
    template: Option<String> = "templateid",
    /// The id of the snapshot that it was made of.
    snapshot: Option<String> = "snapshotid",
    /// The hypervisor it is for.
    hypervisor: Option<String> = "hypervisor",
    /// The id of the primary storage where it is.
    storage: Option<String> = "storageid",
    /// The name of that storage.
    storage_name: Option<String> = "storage",
    /// Whether it may be downloaded.
    is_extractable: Option<bool> = "isextractable",
    /// When it was made.
    created: Option<String> = "created",
    /// Whose it is.
    account: Option<String> = "account",
    /// The project it belongs to.
    project: Option<String> = "projectid",
    /// Its tags.
    tags: BTreeMap<String, String> = "tags",
}

/// Where a volume, a template or an ISO can be downloaded. Who knows the URL can do it, so it has no telling `Debug`.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extracted {
    /// The id of what can be downloaded.
    pub id: String,
    /// The URL, good for some hours.
    pub url: String,
    /// The server's word for how far it is: `DOWNLOAD_URL_CREATED`.
    pub state: Option<String>,
}

impl Record for Extracted {
    // Whatever was extracted: the one object of the answer.
    const ARRAY: &'static str = "url";
    const FIELDS: &'static [&'static str] = &["id", "url", "state"];

    fn read(value: &Value) -> Option<Self> {
        let fields = Fields::of(value)?;
        Some(Self {
            id: fields.text("id").filter(|id| !id.is_empty())?,
            url: fields.text("url").filter(|url| !url.is_empty())?,
            state: fields.text("state"),
        })
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}

impl fmt::Debug for Extracted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extracted")
            .field("id", &self.id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
