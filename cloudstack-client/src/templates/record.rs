//! Templates as the server describes them.

use std::collections::BTreeMap;

use crate::record::record;
use crate::zoned::{TemplateZone, zoned};

record! {
    /// A template. Lists have one for each zone; [`merge`] makes one of those.
    Template in "template" with "zonename", "isready", "status", "downloaddetails" by id, zones;
    /// Its id, the same in all zones.
    id: String = "id",
    /// Its name, which need not be unique.
    name: String = "name",
    /// The text for people.
    display_text: Option<String> = "displaytext",
    /// `VHD`, `QCOW2`…
    format: Option<String> = "format",
    /// `XenServer`, `KVM`…
    hypervisor: Option<String> = "hypervisor",
    /// The id of the type of operating system.
    os_type: Option<String> = "ostypeid",
    /// The name of the type of operating system.
    os_type_name: Option<String> = "ostypename",
    /// The size of the disk in bytes.
    size: Option<u64> = "size",
    /// The size of the stored file in bytes.
    physical_size: Option<u64> = "physicalsize",
    /// The digest of the file, MD5 if it does not begin with a name in braces.
    checksum: Option<String> = "checksum",
    /// When it was made.
    created: Option<String> = "created",
    /// Everybody may use it.
    is_public: Option<bool> = "ispublic",
    /// It is shown first.
    is_featured: Option<bool> = "isfeatured",
    /// It may be downloaded again.
    is_extractable: Option<bool> = "isextractable",
    /// CPU and memory can grow while it runs.
    is_dynamically_scalable: Option<bool> = "isdynamicallyscalable",
    /// The guest takes passwords from the cloud.
    password_enabled: Option<bool> = "passwordenabled",
    /// The guest takes SSH keys from the cloud.
    ssh_key_enabled: Option<bool> = "sshkeyenabled",
    /// Hardware virtualisation is needed.
    requires_hvm: Option<bool> = "requireshvm",
    /// 32 or 64.
    bits: Option<u64> = "bits",
    /// `x86_64` or `aarch64`.
    arch: Option<String> = "arch",
    /// Whose it is.
    account: Option<String> = "account",
    /// Settings of its machines.
    details: BTreeMap<String, String> = "details",
    /// Its tags.
    tags: BTreeMap<String, String> = "tags",
    /// Where it is, and how far it is there.
    zones: Vec<TemplateZone> = "zoneid",
}

zoned!(Template);

/// One template for each id, with all its zones, from a list that has one for each zone.
#[must_use]
pub fn merge(rows: impl IntoIterator<Item = Template>) -> Vec<Template> {
    crate::zoned::merge(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Record;
    use crate::zoned::ZoneState;
    use serde_json::json;

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
