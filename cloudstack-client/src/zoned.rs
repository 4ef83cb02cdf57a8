//! What is there once for each zone: templates and ISOs, of which lists have a row for each.

use std::fmt;

use crate::error::{masked, one_line};
use crate::record::{FromField, Telling};
use crate::value::Fields;

/// What is there once for each zone.
pub(crate) trait Zoned {
    fn id(&self) -> &str;
    fn zones(&self) -> &[TemplateZone];
    fn zones_mut(&mut self) -> &mut Vec<TemplateZone>;
}

/// What it is in the zone of this id.
pub(crate) fn zone<'a>(zones: &'a [TemplateZone], id: &str) -> Option<&'a TemplateZone> {
    zones.iter().find(|zone| zone.id.as_deref() == Some(id))
}

/// Whether it is ready wherever it is.
pub(crate) fn is_ready(zones: &[TemplateZone]) -> bool {
    !zones.is_empty() && zones.iter().all(|zone| zone.state == ZoneState::Ready)
}

/// One for each id, with all its zones.
pub(crate) fn merge<T: Zoned>(rows: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = Vec::new();
    for mut row in rows {
        match all.iter_mut().find(|there| there.id() == row.id()) {
            Some(there) => there.zones_mut().append(row.zones_mut()),
            None => all.push(row),
        }
    }
    all
}

/// Declares what a record with `id` and `zones` has of its zones.
macro_rules! zoned {
    ($name:ident) => {
        impl $name {
            /// What it is in the zone of this id.
            #[must_use]
            pub fn zone(&self, id: &str) -> Option<&$crate::zoned::TemplateZone> {
                $crate::zoned::zone(&self.zones, id)
            }

            /// Whether it is ready wherever it is.
            #[must_use]
            pub fn is_ready(&self) -> bool {
                $crate::zoned::is_ready(&self.zones)
            }
        }

        impl $crate::zoned::Zoned for $name {
            fn id(&self) -> &str {
                &self.id
            }

            fn zones(&self) -> &[$crate::zoned::TemplateZone] {
                &self.zones
            }

            fn zones_mut(&mut self) -> &mut Vec<$crate::zoned::TemplateZone> {
                &mut self.zones
            }
        }
    };
}

pub(crate) use zoned;

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

/// The one zone that a row is about.
impl FromField for Vec<TemplateZone> {
    fn from_field(fields: Fields<'_>, _: &str) -> Self {
        vec![zone_of(fields)]
    }
}

/// A row is told from another by its zone as well.
impl Telling for Vec<TemplateZone> {
    fn text(&self) -> &str {
        self.first().and_then(|zone| zone.id.as_deref()).unwrap_or_default()
    }
}

/// What a row of a template or an ISO says of its zone.
fn zone_of(fields: Fields<'_>) -> TemplateZone {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn state(value: &Value) -> ZoneState {
        zone_of(Fields::of(value).unwrap()).state
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
                state(&json!({"status": status})),
                ZoneState::InProgress { percent: None },
                "{status}"
            );
            assert_eq!(state(&json!({"status": status, "isready": "true"})), ZoneState::Ready);
        }
        assert_eq!(
            state(&json!({"status": "42% Downloaded"})),
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
                state(&json!({"status": status})),
                ZoneState::Failed { reason: status.into() }
            );
        }
        assert_eq!(state(&json!({})), ZoneState::InProgress { percent: None });
    }

    #[test]
    fn stores_tell_what_the_status_does_not() {
        let with = |status: &str, states: &[&str]| {
            let details: Vec<_> = states
                .iter()
                .map(|s| json!({"datastore": "s", "downloadState": s, "downloadPercent": "7"}))
                .collect();
            state(&json!({"status": status, "downloaddetails": details}))
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
                let failed = matches!(state(&row), ZoneState::Failed { .. });
                assert_eq!(failed, bad, "{word} {status}");
            }
        }
    }
}
