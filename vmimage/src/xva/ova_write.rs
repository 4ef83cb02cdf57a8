//! From records to `ova.xml`, with all fields that XAPI's importer asks for.
//!
//! The fields are those of `ocaml/idl/datamodel*.ml`: the importer reads each record whole, and
//! takes defaults only for fields that are younger than the archive's version.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::ova::{Ova, OvaObject, OvaVersion, Vbd, Vdi, Vm};
use super::xml::XmlWriter;
use crate::vhd::uuid_text;

/// A reference to nothing.
const NULL: &str = "OpaqueRef:NULL";

/// 1970-01-01, as XAPI writes it for "never".
const NEVER: &str = "19700101T00:00:00Z";

const GIB: u64 = 1 << 30;

/// See [`Ova::minimal`].
pub(super) fn minimal(name: &str, disks: &[(&str, u64)]) -> Ova {
    let mut free = (0_u64..)
        .map(|n| format!("Ref:{n}"))
        .filter(|id| disks.iter().all(|(reference, _)| reference != id));
    let mut next = || free.next().unwrap_or_default();
    let uuid = |what: &str| derived_uuid(name, what);
    let (vm, sr) = (next(), next());
    let mut ova = Ova { version: OvaVersion::current(), ..Ova::default() };
    ova.vms.push(Vm {
        reference: vm.clone(),
        uuid: uuid("vm"),
        name_label: name.to_owned(),
        power_state: "Halted".to_owned(),
        domain_type: "hvm".to_owned(),
        memory_static_max: 2 * GIB,
        memory_static_min: GIB,
        memory_dynamic_max: 2 * GIB,
        memory_dynamic_min: 2 * GIB,
        vcpus_max: 2,
        vcpus_at_startup: 2,
        hvm_boot_policy: "BIOS order".to_owned(),
        hvm_boot_params: map(&[("firmware", "bios"), ("order", "cdn")]),
        platform: map(&[
            ("acpi", "1"),
            ("apic", "true"),
            ("device-model", "qemu-upstream-compat"),
            ("hpet", "true"),
            ("nx", "true"),
            ("pae", "true"),
            ("secureboot", "false"),
            ("timeoffset", "0"),
            ("viridian", "true"),
        ]),
        ..Vm::default()
    });
    for (i, &(reference, virtual_size)) in disks.iter().enumerate() {
        ova.vdis.push(Vdi {
            reference: reference.to_owned(),
            uuid: uuid(&format!("vdi {i}")),
            name_label: format!("{name} {i}"),
            virtual_size,
            sr: sr.clone(),
            kind: "user".to_owned(),
            ..Vdi::default()
        });
        ova.vbds.push(Vbd {
            reference: next(),
            vm: vm.clone(),
            vdi: Some(reference.to_owned()),
            userdevice: i.to_string(),
            bootable: i == 0,
            mode: "RW".to_owned(),
            kind: "Disk".to_owned(),
            empty: false,
        });
    }
    ova.others.push(OvaObject { class: "SR".to_owned(), id: sr });
    ova
}

impl OvaVersion {
    /// What a recent XenServer says.
    fn current() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            date: "2024-01-01".to_owned(),
            product_version: "8.3.0".to_owned(),
            product_brand: "XCP-ng".to_owned(),
            build_number: "cloud".to_owned(),
            xapi_major: 24,
            xapi_minor: 11,
            export_vsn: 2,
        }
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A UUID (version 4 by its form) that is the same for the same words.
fn derived_uuid(name: &str, what: &str) -> String {
    let hash = Sha256::digest(format!("vmimage ova.xml\0{name}\0{what}"));
    let mut uuid: [u8; 16] = std::array::from_fn(|i| hash.get(i).copied().unwrap_or(0));
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid_text(&uuid)
}

/// See [`Ova::to_xml`].
pub(super) fn write(ova: &Ova) -> String {
    let mut w = XmlWriter("<?xml version='1.0'?>\n".to_owned());
    w.structure(|w| {
        w.member("version", |w| version(w, &ova.version));
        w.member("objects", |w| {
            w.array(|w| {
                for vm in &ova.vms {
                    object(w, "VM", &vm.reference, |r| vm_fields(r, vm, ova));
                }
                for vbd in &ova.vbds {
                    object(w, "VBD", &vbd.reference, |r| vbd_fields(r, vbd));
                }
                for vif in &ova.vifs {
                    object(w, "VIF", &vif.reference, |r| vif_fields(r, vif));
                }
                for vdi in &ova.vdis {
                    object(w, "VDI", &vdi.reference, |r| vdi_fields(r, vdi, ova));
                }
                for other in &ova.others {
                    object(w, &other.class, &other.id, |r| match other.class.as_str() {
                        "SR" => sr_fields(r, &other.id, ova),
                        "network" => network_fields(r, &other.id, ova),
                        _ => r.text("uuid", &derived_uuid(&other.class, &other.id)),
                    });
                }
            });
        });
    });
    w.0
}

fn version(w: &mut XmlWriter, v: &OvaVersion) {
    w.structure(|w| {
        let mut r = Record(w);
        r.text("hostname", &v.hostname);
        r.text("date", &v.date);
        r.text("product_version", &v.product_version);
        r.text("product_brand", &v.product_brand);
        r.text("build_number", &v.build_number);
        r.text("xapi_major", &v.xapi_major.to_string());
        r.text("xapi_minor", &v.xapi_minor.to_string());
        r.text("export_vsn", &v.export_vsn.to_string());
    });
}

fn object(w: &mut XmlWriter, class: &str, id: &str, fields: impl FnOnce(&mut Record<'_>)) {
    w.structure(|w| {
        w.member("class", |w| w.text(class));
        w.member("id", |w| w.text(id));
        w.member("snapshot", |w| w.structure(|w| fields(&mut Record(w))));
    });
}

/// The members of a record.
struct Record<'a>(&'a mut XmlWriter);

impl Record<'_> {
    fn text(&mut self, name: &str, text: &str) {
        self.0.member(name, |w| w.text(text));
    }

    fn texts(&mut self, names: &[&str], text: &str) {
        names.iter().for_each(|name| self.text(name, text));
    }

    fn number(&mut self, name: &str, number: u64) {
        self.text(name, &number.to_string());
    }

    fn bool(&mut self, name: &str, yes: bool) {
        self.0.member(name, |w| w.bool(yes));
    }

    fn bools(&mut self, names: &[&str], yes: bool) {
        names.iter().for_each(|name| self.bool(name, yes));
    }

    fn typed(&mut self, name: &str, tag: &str, text: &str) {
        self.0.member(name, |w| w.typed(tag, text));
    }

    fn map(&mut self, name: &str, map: &BTreeMap<String, String>) {
        self.0.member(name, |w| {
            w.structure(|w| map.iter().for_each(|(k, v)| w.member(k, |w| w.text(v))));
        });
    }

    fn empty_maps(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.map(name, &BTreeMap::new()));
    }

    fn list<'a>(&mut self, name: &str, items: impl Iterator<Item = &'a str>) {
        self.0.member(name, |w| w.array(|w| items.for_each(|item| w.text(item))));
    }

    fn empty_lists(&mut self, names: &[&str]) {
        names.iter().for_each(|name| self.list(name, std::iter::empty()));
    }
}

fn vm_fields(r: &mut Record<'_>, vm: &Vm, ova: &Ova) {
    r.text("uuid", &vm.uuid);
    r.text("name_label", &vm.name_label);
    r.text("name_description", &vm.name_description);
    r.text("power_state", &vm.power_state);
    r.text("domain_type", &vm.domain_type);
    r.number("memory_static_max", vm.memory_static_max);
    r.number("memory_static_min", vm.memory_static_min);
    r.number("memory_dynamic_max", vm.memory_dynamic_max);
    r.number("memory_dynamic_min", vm.memory_dynamic_min);
    r.texts(&["memory_target", "memory_overhead"], "0");
    r.number("VCPUs_max", vm.vcpus_max);
    r.number("VCPUs_at_startup", vm.vcpus_at_startup);
    r.text("HVM_boot_policy", &vm.hvm_boot_policy);
    r.map("HVM_boot_params", &vm.hvm_boot_params);
    r.typed("HVM_shadow_multiplier", "double", "1");
    r.text("PV_bootloader", &vm.pv_bootloader);
    r.text("PV_bootloader_args", &vm.pv_bootloader_args);
    r.text("PV_kernel", &vm.pv_kernel);
    r.text("PV_ramdisk", &vm.pv_ramdisk);
    r.text("PV_args", &vm.pv_args);
    r.map("platform", &vm.platform);
    r.bool("is_a_template", vm.is_a_template);
    r.bool("is_a_snapshot", vm.is_a_snapshot);
    r.bool("is_control_domain", vm.is_control_domain);
    r.text("suspend_VDI", vm.suspend_vdi.as_deref().unwrap_or(NULL));
    let own = |of: &str| *of == vm.reference;
    let vbds = ova.vbds.iter().filter(|v| own(&v.vm)).map(|v| v.reference.as_str());
    r.list("VBDs", vbds);
    let vifs = ova.vifs.iter().filter(|v| own(&v.vm)).map(|v| v.reference.as_str());
    r.list("VIFs", vifs);
    vm_defaults(r);
}

/// The fields of a machine that has nothing special.
fn vm_defaults(r: &mut Record<'_>) {
    r.text("actions_after_shutdown", "destroy");
    r.texts(
        &["actions_after_reboot", "actions_after_crash", "actions_after_softreboot"],
        "restart",
    );
    r.texts(
        &[
            "affinity",
            "appliance",
            "guest_metrics",
            "metrics",
            "parent",
            "protection_policy",
            "resident_on",
            "scheduled_to_be_resident_on",
            "snapshot_of",
            "snapshot_schedule",
            "suspend_SR",
        ],
        NULL,
    );
    r.texts(
        &[
            "domarch",
            "generation_id",
            "ha_restart_priority",
            "last_booted_record",
            "PCI_bus",
            "PV_legacy_args",
            "recommendations",
            "reference_label",
            "snapshot_metadata",
            "transportable_snapshot_id",
        ],
        "",
    );
    r.texts(
        &["hardware_platform_version", "order", "shutdown_delay", "start_delay", "version"],
        "0",
    );
    r.text("domid", "-1");
    r.text("user_version", "1");
    r.bools(
        &[
            "ha_always_run",
            "has_vendor_device",
            "is_default_template",
            "is_snapshot_from_vmpp",
            "is_vmss_snapshot",
            "requires_reboot",
        ],
        false,
    );
    r.empty_lists(&[
        "allowed_operations",
        "attached_PCIs",
        "children",
        "consoles",
        "crash_dumps",
        "pending_guidances",
        "snapshots",
        "tags",
        "VGPUs",
        "VTPMs",
        "VUSBs",
    ]);
    r.empty_maps(&[
        "bios_strings",
        "blobs",
        "blocked_operations",
        "current_operations",
        "last_boot_CPU_flags",
        "NVRAM",
        "other_config",
        "snapshot_info",
        "VCPUs_params",
        "xenstore_data",
    ]);
    r.typed("snapshot_time", "dateTime.iso8601", NEVER);
}

fn vbd_fields(r: &mut Record<'_>, vbd: &Vbd) {
    r.text("uuid", &derived_uuid(&vbd.vm, &vbd.reference));
    r.text("VM", &vbd.vm);
    r.text("VDI", vbd.vdi.as_deref().unwrap_or(NULL));
    r.text("userdevice", &vbd.userdevice);
    r.bool("bootable", vbd.bootable);
    r.text("mode", &vbd.mode);
    r.text("type", &vbd.kind);
    r.bool("empty", vbd.empty);
    r.texts(&["device", "qos_algorithm_type", "status_detail"], "");
    r.text("metrics", NULL);
    r.text("status_code", "0");
    r.bools(&["currently_attached", "storage_lock"], false);
    r.bool("unpluggable", true);
    r.empty_lists(&["allowed_operations", "qos_supported_algorithms"]);
    r.empty_maps(&[
        "current_operations",
        "other_config",
        "qos_algorithm_params",
        "runtime_properties",
    ]);
}

fn vif_fields(r: &mut Record<'_>, vif: &super::ova::Vif) {
    r.text("uuid", &derived_uuid(&vif.vm, &vif.reference));
    r.text("VM", &vif.vm);
    r.text("network", &vif.network);
    r.text("device", &vif.device);
    r.text("MAC", &vif.mac);
    r.text("MTU", "1500");
    r.text("metrics", NULL);
    r.text("status_code", "0");
    r.text("locking_mode", "network_default");
    r.texts(&["ipv4_configuration_mode", "ipv6_configuration_mode"], "None");
    r.texts(&["ipv4_gateway", "ipv6_gateway", "qos_algorithm_type", "status_detail"], "");
    r.bools(&["currently_attached", "MAC_autogenerated"], false);
    r.empty_lists(&[
        "allowed_operations",
        "ipv4_addresses",
        "ipv4_allowed",
        "ipv6_addresses",
        "ipv6_allowed",
        "qos_supported_algorithms",
    ]);
    r.empty_maps(&[
        "current_operations",
        "other_config",
        "qos_algorithm_params",
        "runtime_properties",
    ]);
}

fn vdi_fields(r: &mut Record<'_>, vdi: &Vdi, ova: &Ova) {
    r.text("uuid", &vdi.uuid);
    r.text("name_label", &vdi.name_label);
    r.text("name_description", &vdi.name_description);
    r.number("virtual_size", vdi.virtual_size);
    r.number("physical_utilisation", vdi.virtual_size);
    r.text("SR", &vdi.sr);
    r.text("type", &vdi.kind);
    r.bool("read_only", vdi.read_only);
    r.bool("is_a_snapshot", vdi.is_a_snapshot);
    r.text("location", &vdi.uuid);
    r.text("on_boot", "persist");
    r.texts(&["metadata_of_pool", "parent", "snapshot_of"], NULL);
    r.bools(
        &[
            "allow_caching",
            "cbt_enabled",
            "is_tools_iso",
            "metadata_latest",
            "missing",
            "sharable",
            "storage_lock",
        ],
        false,
    );
    r.bool("managed", true);
    let plugs = ova.vbds.iter().filter(|v| v.vdi.as_ref() == Some(&vdi.reference));
    r.list("VBDs", plugs.map(|v| v.reference.as_str()));
    r.empty_lists(&["allowed_operations", "crash_dumps", "snapshots", "tags"]);
    r.empty_maps(&["current_operations", "other_config", "sm_config", "xenstore_data"]);
    r.typed("snapshot_time", "dateTime.iso8601", NEVER);
}

fn sr_fields(r: &mut Record<'_>, id: &str, ova: &Ova) {
    let iso = ova.iso_srs.iter().any(|sr| sr == id);
    r.text("uuid", &derived_uuid("SR", id));
    r.text("name_label", "exported");
    r.text("name_description", "");
    r.text("type", if iso { "iso" } else { "ext" });
    r.text("content_type", if iso { "iso" } else { "user" });
    r.texts(&["virtual_allocation", "physical_utilisation", "physical_size"], "0");
    r.text("introduced_by", NULL);
    r.bools(&["clustered", "is_tools_sr", "local_cache_enabled", "shared"], false);
    let vdis = ova.vdis.iter().filter(|v| v.sr == id);
    r.list("VDIs", vdis.map(|v| v.reference.as_str()));
    r.empty_lists(&["allowed_operations", "PBDs", "tags"]);
    r.empty_maps(&["blobs", "current_operations", "other_config", "sm_config"]);
}

fn network_fields(r: &mut Record<'_>, id: &str, ova: &Ova) {
    r.text("uuid", &derived_uuid("network", id));
    r.text("name_label", "exported");
    r.texts(&["name_description", "bridge"], "");
    r.text("MTU", "1500");
    r.text("default_locking_mode", "unlocked");
    r.bool("managed", true);
    let vifs = ova.vifs.iter().filter(|v| v.network == id);
    r.list("VIFs", vifs.map(|v| v.reference.as_str()));
    r.empty_lists(&["allowed_operations", "PIFs", "purpose", "tags"]);
    r.empty_maps(&["assigned_ips", "blobs", "current_operations", "other_config"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Findings;

    #[test]
    fn what_is_written_is_read() {
        let ova = minimal("a <&\"' \u{e9}\u{1} b", &[("Ref:1", 5 << 30), ("Ref:0", 1 << 20)]);
        let xml = ova.to_xml();
        let again = Ova::parse(xml.as_bytes(), &mut Findings::default()).unwrap();
        assert_eq!(again.to_xml(), ova.to_xml());
        assert_eq!(again.vms[0].name_label, "a <&\"' \u{e9}\u{fffd} b");
        let disks = again.disks();
        assert_eq!(disks[0].reference, "Ref:0");
        assert_eq!((disks[1].virtual_size, disks[1].bootable), (5 << 30, true));
        assert_eq!(disks[1].userdevice.as_deref(), Some("0"));
        assert!(again.vm().unwrap().is_hvm() && !again.vm().unwrap().is_uefi());
    }

    #[test]
    fn no_id_is_given_twice() {
        let ova = minimal("x", &[("Ref:0", 1), ("Ref:2", 1), ("Ref:3", 1)]);
        let mut ids: Vec<_> = ova.vms.iter().map(|v| &v.reference).collect();
        ids.extend(ova.vbds.iter().map(|v| &v.reference));
        ids.extend(ova.vdis.iter().map(|v| &v.reference));
        ids.extend(ova.others.iter().map(|v| &v.id));
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert_eq!(ova, minimal("x", &[("Ref:0", 1), ("Ref:2", 1), ("Ref:3", 1)]));
    }
}
