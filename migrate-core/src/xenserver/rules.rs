//! The preflight rules of the source.

use super::facts::{Facts, is_disk, size};
use crate::artifact::total;
use crate::{Finding, Severity};

/// XAPI refuses to make a VHD stream of a larger disk, after it has said 200.
const VHD_LIMIT: u64 = 2040 << 30;
const GIB: u64 = 1 << 30;
/// SR types that reserve a snapshot's full size.
const THICK: [&str; 4] = ["lvm", "lvmoiscsi", "lvmohba", "lvmofcoe"];

/// Applies all rules.
pub(crate) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    power_state(facts, &mut findings);
    snapshot_allowed(facts, &mut findings);
    drives(facts, &mut findings);
    disk_sizes(facts, &mut findings);
    storage(facts, &mut findings);
    devices(facts, &mut findings);
    findings.push(Finding::not_checked(
        "guest-disk-contents",
        "an export stream shows no file systems: boot loader, fstab and drivers are not looked at",
    ));
    findings
}

fn power_state(facts: &Facts, findings: &mut Vec<Finding>) {
    let vm = &facts.vm;
    let state = vm.power_state.as_str();
    if vm.is_a_template || vm.is_control_domain {
        findings.push(Finding::new(
            "vm-is-a-machine",
            Severity::Critical,
            format!("{} is a template or a control domain", vm.name_label),
            "name a virtual machine",
        ));
    }
    let (severity, evidence, remedy) = match state {
        "Running" => (
            Severity::Info,
            format!("{} is running: its clone is as after a power cut", vm.name_label),
            "journalling file systems and databases recover; flush what does not",
        ),
        "Halted" => (Severity::Info, format!("{} is halted", vm.name_label), ""),
        _ => (
            Severity::Warning,
            format!("{} is {state}: what its memory holds is not cloned", vm.name_label),
            "resume it first if the clone must have it",
        ),
    };
    findings.push(Finding::new("vm-power-state", severity, evidence, remedy));
}

fn snapshot_allowed(facts: &Facts, findings: &mut Vec<Finding>) {
    let vm = &facts.vm;
    let allowed = vm.allowed_operations.iter().any(|op| op.as_str() == "snapshot");
    let blocked = vm.blocked_operations.iter().find(|(op, _)| op.as_str() == "snapshot");
    if let Some((_, reason)) = blocked {
        findings.push(Finding::new(
            "vm-snapshot-allowed",
            Severity::Critical,
            format!("snapshots of {} are blocked: {reason}", vm.name_label),
            "unblock the operation",
        ));
    } else if !allowed && vm.current_operations.is_empty() {
        let why = if vm.allowed_operations.is_empty() {
            ": the server tells no allowed operation"
        } else {
            ""
        };
        findings.push(Finding::new(
            "vm-snapshot-allowed",
            Severity::Critical,
            format!("{} cannot be snapshotted now{why}", vm.name_label),
            "look at its storage and at the operations under way",
        ));
    } else if !allowed {
        findings.push(Finding::new(
            "vm-snapshot-allowed",
            Severity::Warning,
            format!("{} has another operation under way", vm.name_label),
            "the snapshot waits for it or fails: try again later",
        ));
    }
}

fn drives(facts: &Facts, findings: &mut Vec<Finding>) {
    let others: Vec<&str> = facts
        .drives
        .iter()
        .filter(|(vbd, _)| !is_disk(vbd) && !vbd.empty)
        .map(|(vbd, vdi)| vdi.as_ref().map_or(vbd.userdevice.as_str(), |v| v.name_label.as_str()))
        .collect();
    if !others.is_empty() {
        findings.push(Finding::new(
            "drive-not-a-disk",
            Severity::Info,
            format!("not cloned: {}", others.join(", ")),
            "",
        ));
    }
    if facts.disks().is_empty() {
        findings.push(Finding::new(
            "vm-has-disks",
            Severity::Critical,
            format!("{} has no disk", facts.vm.name_label),
            "name a machine with a disk",
        ));
    }
    for (_, vdi) in facts.disks() {
        if vdi.on_boot.as_str() == "reset" {
            findings.push(Finding::new(
                "vdi-resets-on-boot",
                Severity::Warning,
                format!("disk {} is reset at each boot of the VM", vdi.name_label),
                "the clone keeps what is on it now, and does not reset",
            ));
        }
        if vdi.sharable {
            findings.push(Finding::new(
                "vdi-shared",
                Severity::Warning,
                format!("disk {} is shared with other machines", vdi.name_label),
                "the clone gets a copy of its own",
            ));
        }
        if vdi.cbt_enabled {
            findings.push(Finding::new(
                "vdi-cbt",
                Severity::Info,
                format!(
                    "disk {} has changed-block tracking, which is left as it is",
                    vdi.name_label
                ),
                "",
            ));
        }
        let kind = vdi.sm_config.get("image-format").map(String::as_str);
        if kind == Some("qcow2") {
            findings.push(Finding::new(
                "vdi-qcow2",
                Severity::Info,
                format!("disk {} is stored as QCOW2; the pool converts it", vdi.name_label),
                "",
            ));
        }
    }
}

fn disk_sizes(facts: &Facts, findings: &mut Vec<Finding>) {
    for (_, vdi) in facts.disks() {
        let bytes = size(vdi.virtual_size);
        if bytes > VHD_LIMIT {
            findings.push(Finding::new(
                "vdi-over-2040-gib",
                Severity::Critical,
                format!(
                    "disk {} has {} GiB, a VHD stream 2040 at most",
                    vdi.name_label,
                    bytes / GIB
                ),
                "shrink the disk, or detach it and move it by other means",
            ));
        }
        let depth = facts.parents.get(&vdi.uuid).map_or(1, |p| p.len() + 1);
        if depth >= 25 {
            findings.push(Finding::new(
                "vdi-chain-depth",
                Severity::Warning,
                format!("the chain of disk {} is {depth} deep, 30 is the limit", vdi.name_label),
                "let the storage coalesce: delete snapshots that nobody needs",
            ));
        }
    }
}

fn storage(facts: &Facts, findings: &mut Vec<Finding>) {
    for (reference, sr) in &facts.srs {
        let on_it: Vec<_> =
            facts.disks().into_iter().filter(|(_, vdi)| vdi.sr == *reference).collect();
        if on_it.is_empty() {
            continue;
        }
        if matches!(sr.r#type.as_str(), "iso" | "udev") {
            findings.push(Finding::new(
                "sr-can-snapshot",
                Severity::Critical,
                format!(
                    "storage {} is of type {}, which has no snapshots",
                    sr.name_label, sr.r#type
                ),
                "move the disk to another storage",
            ));
            continue;
        }
        let raw = on_it.iter().find(|(_, vdi)| {
            vdi.sm_config
                .get("vdi_type")
                .or_else(|| vdi.sm_config.get("type"))
                .is_some_and(|t| t == "aio" || t == "raw")
        });
        if let Some((_, vdi)) = raw {
            findings.push(Finding::new(
                "vdi-raw",
                Severity::Warning,
                format!(
                    "disk {} is raw on {}, which may refuse to snapshot it",
                    vdi.name_label, sr.name_label
                ),
                "if the snapshot fails, copy the disk to a VHD first",
            ));
        }
        let free = size(sr.physical_size).saturating_sub(size(sr.physical_utilisation));
        let thick = THICK.contains(&sr.r#type.as_str());
        let need = total(on_it.iter().map(|(_, vdi)| size(vdi.virtual_size)));
        if thick && size(sr.physical_size) > 0 && free < need {
            findings.push(Finding::new(
                "sr-free-space",
                Severity::Critical,
                format!(
                    "a snapshot takes up to {} GiB of {}, which has {} GiB free",
                    need.div_ceil(GIB),
                    sr.name_label,
                    free / GIB
                ),
                "free space there",
            ));
        } else if !thick && size(sr.physical_size) > 0 && free < need / 10 {
            findings.push(Finding::new(
                "sr-free-space",
                Severity::Warning,
                format!(
                    "{} has {} GiB free; while the snapshot is there, what the VM writes takes space",
                    sr.name_label,
                    free / GIB
                ),
                "free space there, or run when the VM writes little",
            ));
        }
    }
}

fn devices(facts: &Facts, findings: &mut Vec<Finding>) {
    let vm = &facts.vm;
    for (count, what) in [
        (vm.vgpus.len(), "virtual GPU"),
        (vm.attached_pcis.len(), "PCI device"),
        (vm.vtpms.len(), "virtual TPM"),
        (vm.vusbs.len(), "USB device"),
    ] {
        if count > 0 {
            findings.push(Finding::new(
                "vm-device",
                Severity::Warning,
                format!("{} has {count} {what}: the clone has none", vm.name_label),
                "check that the guest works without it",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use xenapi::Ref;

    use super::*;

    #[allow(clippy::needless_pass_by_value)] // reads as the table that it is
    fn facts(vm: Value, vdi: Value, sr: Value) -> Facts {
        let vbd = json!({"type": "Disk", "userdevice": "0", "VDI": "OpaqueRef:vdi"});
        let mut disk =
            json!({"uuid": "u", "name_label": "root", "SR": "OpaqueRef:sr", "virtual_size": GIB});
        disk.as_object_mut().unwrap().extend(vdi.as_object().unwrap().clone());
        let mut machine = json!({"name_label": "web01", "power_state": "Running", "allowed_operations": ["snapshot"]});
        machine.as_object_mut().unwrap().extend(vm.as_object().unwrap().clone());
        Facts {
            vm: serde_json::from_value(machine).unwrap(),
            drives: vec![(
                serde_json::from_value(vbd).unwrap(),
                Some(serde_json::from_value(disk).unwrap()),
            )],
            srs: [(Ref::new("OpaqueRef:sr"), serde_json::from_value(sr).unwrap())].into(),
            ..Facts::default()
        }
    }

    #[test]
    fn a_plain_running_vm_passes() {
        let findings = check(&facts(json!({}), json!({}), json!({"type": "nfs"})));
        assert!(findings.iter().all(|f| f.severity == Severity::Info), "{findings:?}");
    }

    #[test]
    fn each_rule_sees_what_it_is_for() {
        for (rule, severity, f) in [
            (
                "vm-is-a-machine",
                Severity::Critical,
                facts(json!({"is_a_template": true}), json!({}), json!({})),
            ),
            (
                "vm-power-state",
                Severity::Warning,
                facts(json!({"power_state": "Suspended"}), json!({}), json!({})),
            ),
            (
                "vm-snapshot-allowed",
                Severity::Critical,
                facts(json!({"allowed_operations": ["start"]}), json!({}), json!({})),
            ),
            (
                "vm-snapshot-allowed",
                Severity::Critical,
                facts(json!({"blocked_operations": {"snapshot": "policy"}}), json!({}), json!({})),
            ),
            (
                "vm-snapshot-allowed",
                Severity::Warning,
                facts(
                    json!({"allowed_operations": [], "current_operations": {"t": "snapshot"}}),
                    json!({}),
                    json!({}),
                ),
            ),
            (
                "vdi-over-2040-gib",
                Severity::Critical,
                facts(json!({}), json!({"virtual_size": 2041 * GIB}), json!({})),
            ),
            (
                "vdi-resets-on-boot",
                Severity::Warning,
                facts(json!({}), json!({"on_boot": "reset"}), json!({})),
            ),
            ("vdi-chain-depth", Severity::Warning, {
                let mut deep = facts(json!({}), json!({}), json!({}));
                deep.parents.insert("u".into(), vec![xenapi::vdi::Vdi::default(); 27]);
                deep
            }),
            (
                "sr-can-snapshot",
                Severity::Critical,
                facts(json!({}), json!({}), json!({"type": "iso"})),
            ),
            (
                "sr-free-space",
                Severity::Critical,
                facts(
                    json!({}),
                    json!({}),
                    json!({"type": "lvm", "physical_size": 10, "physical_utilisation": 5}),
                ),
            ),
            (
                "sr-free-space",
                Severity::Warning,
                facts(
                    json!({}),
                    json!({}),
                    json!({"type": "ext", "physical_size": 10, "physical_utilisation": 5}),
                ),
            ),
            (
                "vm-device",
                Severity::Warning,
                facts(json!({"VTPMs": ["OpaqueRef:t"]}), json!({}), json!({})),
            ),
        ] {
            let findings = check(&f);
            assert!(
                findings.iter().any(|x| x.rule == rule && x.severity == severity),
                "{rule}: {findings:?}"
            );
        }
        let none = Facts { drives: Vec::new(), ..facts(json!({}), json!({}), json!({})) };
        assert!(check(&none).iter().any(|f| f.rule == "vm-has-disks"));
    }
}
