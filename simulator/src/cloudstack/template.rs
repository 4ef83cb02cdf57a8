//! A template: what was said of it, its copy in each zone, and how it is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fixture::{self, Zone};
use super::owner::{Caller, Owner};

/// Formats and the ends of a URL's path or of a file's name that go with them.
pub(super) const FORMATS: [(&str, &[&str]); 9] = [
    ("VHD", &["vhd"]),
    ("VHDX", &["vhdx"]),
    ("QCOW2", &["qcow2", "img"]),
    ("RAW", &["raw", "img"]),
    ("OVA", &["ova"]),
    ("VMDK", &["vmdk"]),
    ("ISO", &["iso"]),
    ("TAR", &["tar"]),
    ("VDI", &["vdi"]),
];

/// True when this format may be at a place that ends like `path`: plain or, but for an OVA, an ISO and a
/// VDI, compressed.
pub(super) fn extension_fits(format: &str, path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let packed = [".gz", ".bz2", ".zip"].iter().find_map(|end| path.strip_suffix(end));
    let plain = match packed {
        Some(_) if ["OVA", "ISO", "VDI"].contains(&format) => return false,
        Some(plain) => plain,
        None => &path,
    };
    let ends = |end: &&str| plain.strip_suffix(end).is_some_and(|stem| stem.ends_with('.'));
    FORMATS.iter().any(|(name, all)| *name == format && all.iter().any(ends))
}

/// How far the copy of a template in one zone is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    NotUploaded,
    Uploading(u64),
    UploadError(String),
    NotDownloaded,
    Downloading(u64),
    DownloadError(String),
    Ready,
}

impl State {
    /// `status`, `downloadState` and `downloadPercent`.
    fn words(&self) -> (String, &'static str, u64) {
        match self {
            Self::NotUploaded => ("NotUploaded".to_owned(), "NOT_UPLOADED", 0),
            Self::Uploading(percent) => {
                ("UploadInProgress".to_owned(), "UPLOAD_IN_PROGRESS", *percent)
            }
            Self::UploadError(text) => (text.clone(), "UPLOAD_ERROR", 0),
            Self::NotDownloaded => ("Processing".to_owned(), "NOT_DOWNLOADED", 0),
            Self::Downloading(100) => {
                ("Installing Template".to_owned(), "DOWNLOAD_IN_PROGRESS", 100)
            }
            Self::Downloading(percent) => {
                (format!("{percent}% Downloaded"), "DOWNLOAD_IN_PROGRESS", *percent)
            }
            Self::DownloadError(text) => (text.clone(), "DOWNLOAD_ERROR", 0),
            Self::Ready => ("Download Complete".to_owned(), "DOWNLOADED", 100),
        }
    }
}

/// The copy in one zone.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) zone: usize,
    pub(super) state: State,
    /// Ready from then on.
    pub(super) ready_at: Option<Instant>,
    pub(super) path: Option<PathBuf>,
    /// What the footer says, or the length of the file.
    pub(super) size: u64,
    /// The length of the file.
    pub(super) physical: u64,
}

impl Copy {
    pub(super) fn new(zone: usize, state: State) -> Self {
        Self { zone, state, ready_at: None, path: None, size: 0, physical: 0 }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Tag {
    pub(super) key: String,
    pub(super) value: String,
}

/// What the data are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Template,
    Iso,
    Volume,
}

#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) what: What,
    pub(super) id: String,
    pub(super) owner: Owner,
    pub(super) name: String,
    pub(super) displaytext: String,
    pub(super) format: String,
    pub(super) hypervisor: String,
    pub(super) ostypeid: String,
    pub(super) arch: String,
    pub(super) bits: u64,
    pub(super) flags: BTreeMap<&'static str, bool>,
    pub(super) details: BTreeMap<String, String>,
    pub(super) tags: Vec<Tag>,
    /// The accounts that it is shared with.
    pub(super) shared: std::collections::BTreeSet<String>,
    pub(super) templatetag: Option<String>,
    pub(super) url: Option<String>,
    pub(super) checksum: Option<String>,
    pub(super) created: Timestamp,
    pub(super) copies: Vec<Copy>,
    pub(super) ticket: Option<Ticket>,
}

/// What allows one upload.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    pub(super) metadata: String,
    /// An upload has begun: no second one may.
    pub(super) used: bool,
}

/// The switches of a template and what each is without a word.
pub(super) const FLAGS: [(&str, bool); 8] = [
    ("passwordenabled", false),
    ("sshkeyenabled", false),
    ("requireshvm", true),
    ("isdynamicallyscalable", false),
    ("isextractable", false),
    ("isfeatured", false),
    ("ispublic", false),
    ("directdownload", false),
];

impl Template {
    /// Copies whose time of installation is over become ready.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        for copy in &mut self.copies {
            if copy.ready_at.is_some_and(|at| at <= now) {
                copy.ready_at = None;
                copy.state = State::Ready;
            }
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.flags.get(name).copied().unwrap_or_default()
    }

    /// One row of `listTemplates`: the template as one zone has it.
    pub(super) fn show(&self, copy: &Copy, zone: &Zone) -> Value {
        let (status, download_state, percent) = copy.state.words();
        let ready = copy.state == State::Ready;
        let tags = self.tags.iter().map(|tag| self.show_tag(tag));
        let mut row = json!({
            "id": self.id,
            "name": self.name,
            "displaytext": self.displaytext,
            "created": cloudstack_time(self.created),
            "isready": ready,
            "status": status,
            "format": self.format,
            "hypervisor": self.hypervisor,
            "ostypeid": self.ostypeid,
            "ostypename": fixture::os_type_name(&self.ostypeid).unwrap_or_default(),
            "zoneid": zone.id,
            "zonename": zone.name,
            "crossZones": false,
            "templatetype": if self.is_own() { "USER" } else { "BUILTIN" },
            "arch": self.arch,
            "bits": self.bits,
            "deployasis": false,
            "forcks": false,
            "hasannotations": false,
            "details": self.details,
            "tags": tags.collect::<Vec<_>>(),
            "downloaddetails": [{
                "datastore": format!("secondary-{}", zone.name),
                "datastoreId": fixture::stable_uuid("store", &zone.name),
                "downloadPercent": percent.to_string(),
                "downloadState": download_state,
            }],
        });
        if let Some(row) = row.as_object_mut() {
            row.extend(self.owner.show());
            for (name, on) in &self.flags {
                row.insert((*name).to_owned(), json!(on));
            }
            if ready {
                row.insert("size".to_owned(), json!(copy.size));
                row.insert("physicalsize".to_owned(), json!(copy.physical));
            }
            let optional = [
                ("templatetag", &self.templatetag),
                ("url", &self.url),
                ("checksum", &self.checksum),
            ];
            for (name, value) in optional {
                if let Some(value) = value {
                    row.insert(name.to_owned(), json!(value));
                }
            }
        }
        row
    }

    /// False for what came with the server.
    pub(super) fn is_own(&self) -> bool {
        self.owner != Owner::System
    }

    /// Whether machines can be made of it: by its owner, by those whom it is shared with, or by all.
    pub(super) fn is_usable(&self, caller: Caller) -> bool {
        self.flag("ispublic") || self.shared.contains(caller.account) || caller.may_use(self.owner)
    }

    pub(super) fn is_volume(&self) -> bool {
        self.what == What::Volume
    }

    /// A volume whose data came from outside and that no machine has had yet.
    pub(super) fn show_volume(&self, copy: &Copy, zone: &Zone) -> Value {
        let (status, ..) = copy.state.words();
        let state = match &copy.state {
            State::NotUploaded => "NotUploaded",
            State::Uploading(_) => "UploadInProgress",
            State::NotDownloaded | State::Downloading(_) => "UploadOp",
            State::UploadError(_) | State::DownloadError(_) => "UploadError",
            State::Ready => "Uploaded",
        };
        let mut row = json!({
            "id": self.id,
            "name": self.name,
            "type": "DATADISK",
            "state": state,
            "status": status,
            "created": cloudstack_time(self.created),
            "zoneid": zone.id,
            "zonename": zone.name,
            "hypervisor": "None",
            "isextractable": true,
            "tags": self.tags.iter().map(|tag| self.show_tag(tag)).collect::<Vec<_>>(),
        });
        if let Some(row) = row.as_object_mut() {
            row.extend(self.owner.show());
        }
        if copy.state == State::Ready {
            row["size"] = json!(copy.size);
            row["physicalsize"] = json!(copy.physical);
        }
        row
    }

    pub(super) fn show_tag(&self, tag: &Tag) -> Value {
        let mut shown = json!({
            "key": tag.key,
            "value": tag.value,
            "resourcetype": match self.what {
                What::Template => "Template",
                What::Iso => "ISO",
                What::Volume => "Volume",
            },
            "resourceid": self.id,
        });
        if let Some(shown) = shown.as_object_mut() {
            shown.extend(self.owner.show());
        }
        shown
    }
}

/// CloudStack's way to write a time.
pub(super) fn cloudstack_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S+0000").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions() {
        assert!(extension_fits("VHD", "/images/web01.VHD.gz"));
        assert!(extension_fits("QCOW2", "a.img"));
        assert!(extension_fits("VHD", "a.vhd.zip") && extension_fits("RAW", "a.raw.zip"));
        assert!(!extension_fits("ISO", "a.iso.zip") && !extension_fits("VHD", "a.zip"));
        assert!(!extension_fits("VHD", "/images/web01.vhdx"));
        assert!(!extension_fits("VHD", "/images/web01"));
    }
}
