//! Templates as the server describes them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::call::Record;
use crate::error::{masked, one_line};
use crate::record::FromField;
use crate::value::Fields;

/// A template. Lists have one for each zone; [`merge`] makes one of those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Template {
    /// Its id, the same in all zones.
    pub id: String,
    /// Its name, which need not be unique.
    pub name: String,
    /// The text for people.
    pub display_text: Option<String>,
    /// `VHD`, `QCOW2`…
    pub format: Option<String>,
    /// `XenServer`, `KVM`…
    pub hypervisor: Option<String>,
    /// The id of the type of operating system.
    pub os_type: Option<String>,
    /// The name of the type of operating system.
    pub os_type_name: Option<String>,
    /// The size of the disk in bytes.
    pub size: Option<u64>,
    /// The size of the stored file in bytes.
    pub physical_size: Option<u64>,
    /// The digest of the file, MD5 if it does not begin with a name in braces.
    pub checksum: Option<String>,
    /// When it was made.
    pub created: Option<String>,
    /// Everybody may use it.
    pub is_public: Option<bool>,
    /// It is shown first.
    pub is_featured: Option<bool>,
    /// It may be downloaded again.
    pub is_extractable: Option<bool>,
    /// CPU and memory can grow while it runs.
    pub is_dynamically_scalable: Option<bool>,
    /// The guest takes passwords from the cloud.
    pub password_enabled: Option<bool>,
    /// The guest takes SSH keys from the cloud.
    pub ssh_key_enabled: Option<bool>,
    /// Hardware virtualisation is needed.
    pub requires_hvm: Option<bool>,
    /// 32 or 64.
    pub bits: Option<u64>,
    /// `x86_64` or `aarch64`.
    pub arch: Option<String>,
    /// Whose it is.
    pub account: Option<String>,
    /// Settings of its machines.
    pub details: BTreeMap<String, String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Where it is, and how far it is there.
    pub zones: Vec<TemplateZone>,
}

/// A template in one zone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplateZone {
    /// The zone's id. Templates of the region's stores can be in no particular one.
    pub id: Option<String>,
    /// The zone's name.
    pub name: Option<String>,
    /// How far it is.
    pub state: ZoneState,
    /// The server's own word for it.
    pub status: Option<String>,
    /// The single stores, where the server tells them.
    pub stores: Vec<StoreState>,
}

/// How far a template is in a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZoneState {
    /// Machines can be made of it.
    Ready,
    /// It is on its way.
    InProgress {
        /// How much of it is there, where the server says so.
        percent: Option<u8>,
    },
    /// It will not become ready.
    Failed {
        /// Why, in the server's words.
        reason: String,
    },
}

/// A template in one image store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreState {
    /// The store's name.
    pub store: Option<String>,
    /// `DOWNLOADED`, `UPLOAD_IN_PROGRESS`, `DOWNLOAD_ERROR`…
    pub state: String,
    /// How much of it is there.
    pub percent: Option<u8>,
}

impl Template {
    /// What it is in the zone of this id.
    #[must_use]
    pub fn zone(&self, id: &str) -> Option<&TemplateZone> {
        self.zones.iter().find(|zone| zone.id.as_deref() == Some(id))
    }

    /// Whether it is ready wherever it is.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.zones.is_empty() && self.zones.iter().all(|zone| zone.state == ZoneState::Ready)
    }
}

impl Record for Template {
    const ARRAY: &'static str = "template";
    const FIELDS: &'static [&'static str] = &[
        "id",
        "name",
        "displaytext",
        "format",
        "hypervisor",
        "ostypeid",
        "ostypename",
        "size",
        "physicalsize",
        "checksum",
        "created",
        "ispublic",
        "isfeatured",
        "isextractable",
        "isdynamicallyscalable",
        "passwordenabled",
        "sshkeyenabled",
        "requireshvm",
        "bits",
        "arch",
        "account",
        "details",
        "tags",
        "zoneid",
        "zonename",
        "isready",
        "status",
        "downloaddetails",
    ];

    fn read(value: &Value) -> Option<Self> {
        let fields = Fields::of(value)?;
        Some(Self {
            id: fields.text("id").filter(|id| !id.is_empty())?,
            name: fields.text("name").unwrap_or_default(),
            display_text: fields.text("displaytext"),
            format: fields.text("format"),
            hypervisor: fields.text("hypervisor"),
            os_type: fields.text("ostypeid"),
            os_type_name: fields.text("ostypename"),
            size: fields.number("size"),
            physical_size: fields.number("physicalsize"),
            checksum: fields.text("checksum"),
            created: fields.text("created"),
            is_public: fields.flag("ispublic"),
            is_featured: fields.flag("isfeatured"),
            is_extractable: fields.flag("isextractable"),
            is_dynamically_scalable: fields.flag("isdynamicallyscalable"),
            password_enabled: fields.flag("passwordenabled"),
            ssh_key_enabled: fields.flag("sshkeyenabled"),
            requires_hvm: fields.flag("requireshvm"),
            bits: fields.number("bits"),
            arch: fields.text("arch"),
            account: fields.text("account"),
            details: fields.map("details"),
            tags: BTreeMap::from_field(fields, "tags"),
            zones: vec![zone_of(fields)],
        })
    }

    fn key(&self) -> String {
        let zones = self.zones.iter().filter_map(|zone| zone.id.as_deref());
        std::iter::once(self.id.as_str()).chain(zones).collect::<Vec<_>>().join(" ")
    }
}

/// What a row of a template or an ISO says of its zone.
pub(crate) fn zone_of(fields: Fields<'_>) -> TemplateZone {
    let percent = |fields: Fields<'_>| {
        fields.number("downloadPercent").and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= 100)
    };
    let stores: Vec<_> = fields
        .list("downloaddetails")
        .iter()
        .filter_map(Fields::of)
        .filter_map(|store| {
            Some(StoreState {
                store: store.text("datastore"),
                state: store.text("downloadState")?,
                percent: percent(store),
            })
        })
        .collect();
    let status = fields.text("status").map(|text| masked(&one_line(&text, 400)));
    TemplateZone {
        id: fields.text("zoneid"),
        name: fields.text("zonename"),
        state: judge(fields.flag("isready").unwrap_or(false), status.as_deref(), &stores),
        status,
        stores,
    }
}

/// What `isready`, the status and the stores mean together.
///
/// The status is one of a few known texts, the name of a state, or *the text of the error*, whatever that is: so an
/// unknown one is a failure, unless a store says that it is at work.
fn judge(ready: bool, status: Option<&str>, stores: &[StoreState]) -> ZoneState {
    if ready {
        return ZoneState::Ready;
    }
    let status = status.unwrap_or_default().trim();
    let squeezed: String = status
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .collect::<String>()
        .to_ascii_lowercase();
    let because = |reason: &str| ZoneState::Failed { reason: reason.to_owned() };
    let broken = |state: &str| {
        let state = state.to_ascii_uppercase();
        state.ends_with("_ERROR") || state == "ABANDONED"
    };
    let at_work = stores.iter().any(|store| {
        matches!(store.state.as_str(), "DOWNLOAD_IN_PROGRESS" | "UPLOAD_IN_PROGRESS" | "CREATING")
    });
    let percent = status
        .split_once('%')
        .and_then(|(number, _)| number.trim().parse().ok())
        .filter(|percent: &u8| *percent <= 100)
        .or_else(|| stores.iter().filter_map(|store| store.percent).max());
    let pending = ZoneState::InProgress { percent };
    match squeezed.as_str() {
        "uploaderror" | "uploadabandoned" | "abandoned" | "downloaderror" | "inactive" => {
            return because(status);
        }
        _ if at_work => return pending,
        _ => {}
    }
    if let Some(store) = stores.iter().find(|store| broken(&store.state)) {
        // The status then mostly is the reason.
        return because(if squeezed.is_empty() || is_progress(&squeezed, status) {
            &store.state
        } else {
            status
        });
    }
    if squeezed.is_empty() || is_progress(&squeezed, status) { pending } else { because(status) }
}

fn is_progress(squeezed: &str, status: &str) -> bool {
    let percent = status.split_once('%').is_some_and(|(number, rest)| {
        number.trim().parse::<u8>().is_ok() && rest.trim().eq_ignore_ascii_case("downloaded")
    });
    percent
        || matches!(
            squeezed,
            "processing"
                | "installingtemplate"
                | "downloadcomplete"
                | "successfullyinstalled"
                | "bypassedsecondarystorage"
                | "active"
                | "allocated"
                | "creating"
                | "created"
                | "unknown"
                | "notdownloaded"
                | "downloadinprogress"
                | "downloaded"
                | "notuploaded"
                | "uploadinprogress"
                | "uploaded"
                | "bypassed"
        )
}

impl fmt::Display for ZoneState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::InProgress { percent: Some(percent) } => write!(f, "in progress ({percent} %)"),
            Self::InProgress { percent: None } => f.write_str("in progress"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
        }
    }
}

/// One template for each id, with all its zones, from a list that has one for each zone.
#[must_use]
pub fn merge(rows: impl IntoIterator<Item = Template>) -> Vec<Template> {
    let mut all: Vec<Template> = Vec::new();
    for row in rows {
        match all.iter_mut().find(|there| there.id == row.id) {
            Some(there) => there.zones.extend(row.zones),
            None => all.push(row),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(value: Value) -> ZoneState {
        let mut value = value;
        value["id"] = json!("t1");
        Template::read(&value).unwrap().zones.remove(0).state
    }

    #[test]
    fn every_status_has_its_meaning() {
        for status in [
            "",
            "Processing",
            "Installing Template",
            "Download Complete",
            "Successfully Installed",
            "Bypassed Secondary Storage",
            "NotUploaded",
            "NOT_UPLOADED",
            "UploadInProgress",
            "Active",
            "Uploaded",
        ] {
            assert_eq!(
                state(json!({"status": status})),
                ZoneState::InProgress { percent: None },
                "{status}"
            );
            assert_eq!(state(json!({"status": status, "isready": "true"})), ZoneState::Ready);
        }
        assert_eq!(
            state(json!({"status": "42% Downloaded"})),
            ZoneState::InProgress { percent: Some(42) }
        );
        for status in [
            "UploadError",
            "UploadAbandoned",
            "Connection timed out",
            "Failed post download script: 12% of it",
            "142% of the quota",
            "999% Downloaded",
            "ABANDONED",
            "DOWNLOAD_ERROR",
            "Inactive",
        ] {
            assert_eq!(
                state(json!({"status": status})),
                ZoneState::Failed { reason: status.into() }
            );
        }
        assert_eq!(state(json!({})), ZoneState::InProgress { percent: None });
    }

    #[test]
    fn stores_tell_what_the_status_does_not() {
        let with = |status: &str, states: &[&str]| {
            let details: Vec<_> = states
                .iter()
                .map(|s| json!({"datastore": "s", "downloadState": s, "downloadPercent": "7"}))
                .collect();
            state(json!({"status": status, "downloaddetails": details}))
        };
        let going = ZoneState::InProgress { percent: Some(7) };
        assert_eq!(with("Starting something new", &["DOWNLOAD_IN_PROGRESS"]), going);
        assert_eq!(with("Processing", &["DOWNLOAD_ERROR", "DOWNLOAD_IN_PROGRESS"]), going);
        let failed = |reason: &str| ZoneState::Failed { reason: reason.into() };
        assert_eq!(with("Processing", &["DOWNLOAD_ERROR"]), failed("DOWNLOAD_ERROR"));
        assert_eq!(with("Connection refused", &["DOWNLOAD_ERROR"]), failed("Connection refused"));
        assert_eq!(with("", &["ABANDONED"]), failed("ABANDONED"));
        assert_eq!(with("UploadError", &["UPLOAD_IN_PROGRESS"]), failed("UploadError"));
    }

    #[test]
    fn every_state_of_a_store_has_its_meaning() {
        for (word, bad) in [
            ("UNKNOWN", false),
            ("DOWNLOAD_ERROR", true),
            ("NOT_DOWNLOADED", false),
            ("DOWNLOAD_IN_PROGRESS", false),
            ("DOWNLOADED", false),
            ("ABANDONED", true),
            ("UPLOADED", false),
            ("NOT_UPLOADED", false),
            ("UPLOAD_ERROR", true),
            ("UPLOAD_IN_PROGRESS", false),
            ("CREATING", false),
            ("CREATED", false),
            ("BYPASSED", false),
        ] {
            for status in [json!(null), json!(word), json!("Processing")] {
                let row = json!({"status": status, "downloaddetails": [{"downloadState": word}]});
                let failed = matches!(state(row), ZoneState::Failed { .. });
                assert_eq!(failed, bad, "{word} {status}");
            }
        }
    }

    #[test]
    fn rows_of_zones_become_one_template() {
        let key = "0123456789abcdef0123456789abcdef";
        let rows = json!([
            {"id": "t1", "name": "web01", "zoneid": "z1", "isready": true, "size": "1024", "ispublic": false,
             "tags": [{"key": "run", "value": "1"}, {"x": 1}], "details": {"UEFI": "SECURE"}},
            {"id": "t2", "zoneid": "z1"},
            {"id": "t1", "name": "web01", "zoneid": "z2", "status": format!("http://h/{key}/a.vhd: timed out")}]);
        let rows: Vec<_> =
            rows.as_array().unwrap().iter().map(|row| Template::read(row).unwrap()).collect();
        assert_ne!(rows[0].key(), rows[2].key());
        let all = merge(rows);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].size, all[0].is_public), (Some(1024), Some(false)));
        assert_eq!(all[0].tags["run"], "1");
        assert_eq!(all[0].zone("z1").unwrap().state, ZoneState::Ready);
        assert!(matches!(all[0].zone("z2").unwrap().state, ZoneState::Failed { .. }));
        assert!(!all[0].is_ready() && !format!("{:?}", all[0]).contains(key));
        for row in [json!(null), json!({}), json!({"id": ""}), json!({"id": []})] {
            assert!(Template::read(&row).is_none(), "{row}");
        }
    }
}
