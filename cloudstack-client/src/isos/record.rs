//! ISOs as the server describes them.

use std::collections::BTreeMap;

use crate::record::record;
use crate::zoned::{TemplateZone, zoned};

record! {
    /// An ISO. Lists have one for each zone; [`merge`] makes one of those.
    Iso in "iso" with "zonename", "isready", "status", "downloaddetails" by id, zones;
    /// Its id, the same in all zones.
    id: String = "id",
    /// Its name, which need not be unique.
    name: String = "name",
    /// The text for people.
    display_text: Option<String> = "displaytext",
    /// Whether a machine can start from it.
    is_bootable: Option<bool> = "bootable",
    /// Its size in bytes.
    size: Option<u64> = "size",
    /// The digest of the file, MD5 if it does not begin with a name in braces.
    checksum: Option<String> = "checksum",
    /// The id of the type of operating system.
    os_type: Option<String> = "ostypeid",
    /// The name of the type of operating system.
    os_type_name: Option<String> = "ostypename",
    /// Everybody may use it.
    is_public: Option<bool> = "ispublic",
    /// It is shown first.
    is_featured: Option<bool> = "isfeatured",
    /// It may be downloaded again.
    is_extractable: Option<bool> = "isextractable",
    /// `x86_64` or `aarch64`.
    arch: Option<String> = "arch",
    /// When it was made.
    created: Option<String> = "created",
    /// Whose it is.
    account: Option<String> = "account",
    /// Its tags.
    tags: BTreeMap<String, String> = "tags",
    /// Where it is, and how far it is there.
    zones: Vec<TemplateZone> = "zoneid",
}

zoned!(Iso);

/// One ISO for each id, with all its zones, from a list that has one for each zone.
#[must_use]
pub fn merge(rows: impl IntoIterator<Item = Iso>) -> Vec<Iso> {
    crate::zoned::merge(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Record;
    use crate::zoned::ZoneState;
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
