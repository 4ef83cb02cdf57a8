//! ISOs as the server describes them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::call::Record;
use crate::record::FromField;
use crate::templates::{TemplateZone, ZoneState, zone_of};
use crate::value::Fields;

/// An ISO. Lists have one for each zone; [`merge`] makes one of those.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Iso {
    /// Its id, the same in all zones.
    pub id: String,
    /// Its name, which need not be unique.
    pub name: String,
    /// The text for people.
    pub display_text: Option<String>,
    /// Whether a machine can start from it.
    pub is_bootable: Option<bool>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// The digest of the file, MD5 if it does not begin with a name in braces.
    pub checksum: Option<String>,
    /// The id of the type of operating system.
    pub os_type: Option<String>,
    /// The name of the type of operating system.
    pub os_type_name: Option<String>,
    /// Everybody may use it.
    pub is_public: Option<bool>,
    /// It is shown first.
    pub is_featured: Option<bool>,
    /// It may be downloaded again.
    pub is_extractable: Option<bool>,
    /// `x86_64` or `aarch64`.
    pub arch: Option<String>,
    /// When it was made.
    pub created: Option<String>,
    /// Whose it is.
    pub account: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Where it is, and how far it is there.
    pub zones: Vec<TemplateZone>,
}

impl Iso {
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

impl Record for Iso {
    const ARRAY: &'static str = "iso";
    const FIELDS: &'static [&'static str] = &[
        "id",
        "name",
        "displaytext",
        "bootable",
        "size",
        "checksum",
        "ostypeid",
        "ostypename",
        "ispublic",
        "isfeatured",
        "isextractable",
        "arch",
        "created",
        "account",
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
            is_bootable: fields.flag("bootable"),
            size: fields.number("size"),
            checksum: fields.text("checksum"),
            os_type: fields.text("ostypeid"),
            os_type_name: fields.text("ostypename"),
            is_public: fields.flag("ispublic"),
            is_featured: fields.flag("isfeatured"),
            is_extractable: fields.flag("isextractable"),
            arch: fields.text("arch"),
            created: fields.text("created"),
            account: fields.text("account"),
            tags: BTreeMap::from_field(fields, "tags"),
            zones: vec![zone_of(fields)],
        })
    }

    fn key(&self) -> String {
        let zones = self.zones.iter().filter_map(|zone| zone.id.as_deref());
        std::iter::once(self.id.as_str()).chain(zones).collect::<Vec<_>>().join(" ")
    }
}

/// One ISO for each id, with all its zones, from a list that has one for each zone.
#[must_use]
pub fn merge(rows: impl IntoIterator<Item = Iso>) -> Vec<Iso> {
    let mut all: Vec<Iso> = Vec::new();
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

    #[test]
    fn rows_of_zones_become_one_iso() {
        let row = |zone: &str, ready: bool| {
            Iso::read(&json!({"id": "i1", "name": "tools", "zoneid": zone, "isready": ready,
                "bootable": "true", "size": "7", "status": "Connection refused"}))
            .unwrap()
        };
        let all = merge([row("z1", true), row("z2", false)]);
        assert_eq!((all.len(), all[0].zones.len(), all[0].size), (1, 2, Some(7)));
        assert_eq!(all[0].zone("z1").unwrap().state, ZoneState::Ready);
        assert!(matches!(all[0].zone("z2").unwrap().state, ZoneState::Failed { .. }));
        assert!(!all[0].is_ready() && all[0].is_bootable == Some(true));
        assert!(Iso::read(&json!({"id": ""})).is_none());
    }
}
