//! What the pool says of a VM, and what that means: pure functions over records.

use std::collections::BTreeMap;

use xenapi::Ref;
use xenapi::sr::Sr;
use xenapi::vbd::Vbd;
use xenapi::vdi::Vdi;
use xenapi::vm::Vm;

use crate::{DiskInfo, Firmware, Machine, Virtualization};

/// The records that the rules look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) vm: Vm,
    /// The VBDs of the VM, each with its VDI if it has one.
    pub(crate) drives: Vec<(Vbd, Option<Vdi>)>,
    pub(crate) srs: BTreeMap<Ref<Sr>, Sr>,
    pub(crate) os_version: BTreeMap<String, String>,
    /// The parents of a VDI, by its UUID, as far as the pool shows them.
    pub(crate) parents: BTreeMap<String, Vec<Vdi>>,
}

impl Facts {
    /// The drives that are disks of the VM's own, in the order of their positions.
    pub(crate) fn disks(&self) -> Vec<(&Vbd, &Vdi)> {
        let mut disks: Vec<_> = self
            .drives
            .iter()
            .filter(|(vbd, _)| is_disk(vbd))
            .filter_map(|(vbd, vdi)| Some((vbd, vdi.as_ref()?)))
            .collect();
        disks.sort_by_key(|(vbd, _)| position(vbd));
        disks
    }

    /// The machine as its clone will be.
    pub(crate) fn machine(&self) -> Machine {
        let mut machine = describe(&self.vm, &self.os_version);
        machine.disks = self
            .disks()
            .into_iter()
            .map(|(_, vdi)| disk_info(vdi, self.parents.get(&vdi.uuid).map_or(&[], Vec::as_slice)))
            .collect();
        machine
    }
}

pub(crate) fn is_disk(vbd: &Vbd) -> bool {
    vbd.r#type.as_str() == "Disk" && !vbd.empty && !vbd.vdi.is_null()
}

/// The position of a drive: `userdevice` is a number as text, on old servers a device name.
pub(crate) fn position(vbd: &Vbd) -> (u32, String) {
    (vbd.userdevice.parse().unwrap_or(u32::MAX), vbd.userdevice.clone())
}

pub(crate) fn size(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

/// A disk with its chain: what its layers take together bounds what is stored of it.
pub(crate) fn disk_info(vdi: &Vdi, parents: &[Vdi]) -> DiskInfo {
    let mut info = DiskInfo::new(&vdi.name_label, &vdi.uuid, size(vdi.virtual_size));
    let told = !vdi.sm_config.contains_key("vhd-parent") || !parents.is_empty();
    let stored = std::iter::once(vdi)
        .chain(parents)
        .map(|v| size(v.physical_utilisation))
        .fold(0_u64, u64::saturating_add);
    if told && stored > 0 {
        info.allocated = Some(stored.min(info.virtual_size));
    }
    info
}

/// The machine without its disks.
pub(crate) fn describe(vm: &Vm, os_version: &BTreeMap<String, String>) -> Machine {
    let mut machine = Machine::new(&vm.name_label);
    machine.uuid = Some(vm.uuid.clone());
    machine.virtualization = virtualization(vm);
    let hvm = machine.virtualization == Virtualization::Hvm;
    machine.firmware = match vm.hvm_boot_params.get("firmware").map(String::as_str) {
        Some("uefi") if hvm => Firmware::Uefi,
        _ if hvm => Firmware::Bios,
        _ => Firmware::Unknown,
    };
    machine.secure_boot = machine.firmware == Firmware::Uefi
        && vm.platform.get("secureboot").is_some_and(|v| v == "true");
    machine.memory = size(vm.memory_static_max);
    machine.vcpus = u32::try_from(vm.vcpus_max).unwrap_or(0);
    let text = |key: &str| os_version.get(key).filter(|v| !v.is_empty()).cloned();
    machine.os_distro = text("distro").map(|d| d.to_lowercase());
    machine.os_version = match (text("major"), text("minor")) {
        (Some(major), Some(minor)) => Some(format!("{major}.{minor}")),
        (major, _) => major,
    };
    // Only they tell the version.
    machine.tools = !os_version.is_empty();
    machine.os_type = os_type(vm, os_version);
    machine
}

/// PV or HVM. `domain_type` came with XenServer 7.4; before that an empty boot policy meant PV.
fn virtualization(vm: &Vm) -> Virtualization {
    match vm.domain_type.as_str() {
        "hvm" => Virtualization::Hvm,
        "pv" | "pv_in_pvh" | "pvh" => Virtualization::Pv,
        _ if vm.hvm_boot_policy.is_empty() => Virtualization::Pv,
        _ => Virtualization::Hvm,
    }
}

/// `windows` or `linux`, by what the guest says, else by what the VM was made from.
fn os_type(vm: &Vm, os_version: &BTreeMap<String, String>) -> Option<String> {
    let said = ["distro", "name", "uname"]
        .iter()
        .filter_map(|k| os_version.get(*k))
        .chain([&vm.reference_label])
        .map(|v| v.to_lowercase())
        .collect::<Vec<_>>()
        .join(" ");
    if said.contains("windows") || vm.platform.get("viridian").is_some_and(|v| v == "true") {
        return Some("windows".to_owned());
    }
    const LINUX: [&str; 10] = [
        "linux", "debian", "ubuntu", "centos", "rhel", "red hat", "rocky", "alma", "sles", "oracle",
    ];
    let linux = LINUX.iter().any(|name| said.contains(name))
        || !vm.pv_bootloader.is_empty()
        || os_version.contains_key("uname");
    linux.then(|| "linux".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn vm(fields: serde_json::Value) -> Vm {
        serde_json::from_value(fields).unwrap()
    }

    #[test]
    fn hardware_is_told_from_new_and_old_fields() {
        for (fields, expected) in [
            (json!({"domain_type": "hvm"}), (Virtualization::Hvm, Firmware::Bios, false)),
            (
                json!({"HVM_boot_policy": "BIOS order", "domain_type": "unspecified"}),
                (Virtualization::Hvm, Firmware::Bios, false),
            ),
            (json!({"HVM_boot_policy": ""}), (Virtualization::Pv, Firmware::Unknown, false)),
            (json!({"domain_type": "pv_in_pvh"}), (Virtualization::Pv, Firmware::Unknown, false)),
            (
                json!({"domain_type": "hvm", "HVM_boot_params": {"firmware": "uefi"},
                       "platform": {"secureboot": "true"}}),
                (Virtualization::Hvm, Firmware::Uefi, true),
            ),
            (
                json!({"domain_type": "hvm", "platform": {"secureboot": "true"}}),
                (Virtualization::Hvm, Firmware::Bios, false),
            ),
        ] {
            let m = describe(&vm(fields.clone()), &BTreeMap::new());
            assert_eq!((m.virtualization, m.firmware, m.secure_boot), expected, "{fields}");
        }
    }

    #[test]
    fn the_guest_is_believed_before_the_template() {
        let os = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let m = describe(
            &vm(json!({"domain_type": "hvm"})),
            &os(&[("distro", "Debian"), ("major", "12"), ("minor", "5"), ("uname", "6.1.0")]),
        );
        assert_eq!(m.os_type.as_deref(), Some("linux"));
        assert_eq!(m.os_distro.as_deref(), Some("debian"));
        assert_eq!(m.os_version.as_deref(), Some("12.5"));
        let m = describe(
            &vm(json!({"domain_type": "hvm", "platform": {"viridian": "true"}})),
            &BTreeMap::new(),
        );
        assert_eq!(m.os_type.as_deref(), Some("windows"));
        assert_eq!(describe(&vm(json!({"domain_type": "hvm"})), &os(&[])).os_type, None);
    }

    #[test]
    fn disks_are_ordered_by_position_and_only_disks() {
        let drive = |fields: serde_json::Value, uuid: &str| {
            let vbd: Vbd = serde_json::from_value(fields).unwrap();
            let vdi: Vdi =
                serde_json::from_value(json!({"uuid": uuid, "virtual_size": 5})).unwrap();
            (vbd, Some(vdi))
        };
        let facts = Facts {
            drives: vec![
                drive(json!({"type": "Disk", "userdevice": "10", "VDI": "OpaqueRef:a"}), "ten"),
                drive(json!({"type": "CD", "userdevice": "3", "VDI": "OpaqueRef:b"}), "iso"),
                drive(json!({"type": "Disk", "userdevice": "2", "VDI": "OpaqueRef:c"}), "two"),
                drive(json!({"type": "Disk", "userdevice": "1", "empty": true}), "none"),
            ],
            ..Facts::default()
        };
        let ids: Vec<String> = facts.machine().disks.into_iter().map(|d| d.id).collect();
        assert_eq!(ids, ["two", "ten"]);
    }
}
