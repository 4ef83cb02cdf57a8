//! The preflight rules of the target.

use cloudstack_client::{Call, Client};
use serde_json::Value;
use vmimage::TargetFormat;

use super::Hypervisor;
use crate::{Finding, Firmware, Machine, Severity};

const GIB: u64 = 1 << 30;
/// No VHD is larger.
const VHD_LIMIT: u64 = 2040 * GIB;

/// The rules that need no server.
pub(super) fn check(
    machine: &Machine,
    format: TargetFormat,
    hypervisor: Hypervisor,
    findings: &mut Vec<Finding>,
) {
    format_fits(format, hypervisor, findings);
    if matches!(format, TargetFormat::VhdDynamic | TargetFormat::VhdFixed) {
        for disk in machine.disks.iter().filter(|d| d.virtual_size > VHD_LIMIT) {
            findings.push(Finding::new(
                "disk-fits-format",
                Severity::Critical,
                format!(
                    "disk {} has {} GiB, a VHD 2040 at most",
                    disk.name,
                    disk.virtual_size / GIB
                ),
                "make it smaller, or clone to KVM as qcow2",
            ));
        }
    }
    if machine.disks.len() > 1 {
        findings.push(Finding::new(
            "template-data-disks",
            Severity::Warning,
            format!(
                "a CloudStack template has one disk, {} has {}: each becomes a template",
                machine.name,
                machine.disks.len()
            ),
            "machines of the first template lack the others: give them volumes yourself",
        ));
    }
    let windows = machine.os_type.as_deref() == Some("windows");
    if windows && hypervisor == Hypervisor::Kvm {
        findings.push(Finding::new(
            "guest-virtio",
            Severity::Warning,
            format!("{} is Windows: it finds its disk on KVM only with drivers", machine.name),
            "install the virtio drivers first",
        ));
    }
    if machine.firmware == Firmware::Uefi && hypervisor == Hypervisor::XenServer {
        findings.push(Finding::new(
            "guest-firmware",
            Severity::Warning,
            format!("{} boots by UEFI, which CloudStack may not offer on XenServer", machine.name),
            "check that a machine of the template boots",
        ));
    }
}

fn format_fits(format: TargetFormat, hypervisor: Hypervisor, findings: &mut Vec<Finding>) {
    let (evidence, remedy) = match (format, hypervisor) {
        (TargetFormat::VhdFixed, _) => {
            ("CloudStack would record a wrong size of a fixed VHD", "choose vhd")
        }
        (TargetFormat::VhdTgz, _) => ("CloudStack takes no vhd-tgz", "choose vhd"),
        (TargetFormat::Qcow2 | TargetFormat::Raw, Hypervisor::XenServer) => {
            ("CloudStack takes only VHD for XenServer", "choose vhd, or --hypervisor kvm")
        }
        _ => return,
    };
    findings.push(Finding::new("image-format-accepted", Severity::Critical, evidence, remedy));
}

/// What the account may still have, where the cloud tells; unlimited is none.
#[derive(Debug, Default, PartialEq)]
struct Limits {
    templates: Option<u64>,
    storage_gib: Option<f64>,
}

/// Whether the account's limits have room.
pub(super) async fn limits(client: &Client, machine: &Machine) -> Finding {
    const RULE: &str = "template-quota";
    let call =
        Call::read("account: limits", "listAccounts", |answer| Ok(limits_of(answer.content)));
    match client.call(call).await {
        Ok(Some(limits)) => judge(RULE, &limits, machine),
        _ => Finding::not_checked(RULE, "the cloud does not tell the account's limits"),
    }
}

/// The limits, if the answer is about one account only.
fn limits_of(content: &Value) -> Option<Limits> {
    let [account] = content["account"].as_array()?.as_slice() else { return None };
    let number = |field: &str| match &account[field] {
        Value::String(text) => text.parse::<f64>().ok(),
        other => other.as_f64(),
    };
    let templates = number("templateavailable").filter(|n| *n >= 0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count
    Some(Limits {
        templates: templates.map(|n| n as u64),
        storage_gib: number("secondarystorageavailable").filter(|n| *n >= 0.0),
    })
}

fn judge(rule: &str, limits: &Limits, machine: &Machine) -> Finding {
    let count = machine.disks.len() as u64;
    if let Some(room) = limits.templates.filter(|room| *room < count) {
        return Finding::new(
            rule,
            Severity::Critical,
            format!("{count} templates are needed, the account may have {room} more"),
            "delete templates, or have an operator raise the limit",
        );
    }
    let bytes = machine.stored();
    #[allow(clippy::cast_precision_loss)] // a rough comparison
    let need = bytes as f64 / GIB as f64;
    match limits.storage_gib {
        Some(room) if room < need => Finding::new(
            rule,
            Severity::Warning,
            format!(
                "up to {need:.1} GiB may be needed, the account has {room:.1} GiB of secondary storage left"
            ),
            "delete templates, or have an operator raise the limit",
        ),
        _ => Finding::new(rule, Severity::Info, "the account's limits have room", ""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::DiskInfo;

    fn machine(gib: u64) -> Machine {
        Machine::new("web01").with_disk(DiskInfo::new("root", "u", gib * GIB))
    }

    #[test]
    fn limits_are_read_and_judged() {
        for (account, severity) in [
            (json!({"templateavailable": "Unlimited"}), Severity::Info),
            (json!({"templateavailable": "0"}), Severity::Critical),
            (json!({"templateavailable": 0}), Severity::Critical),
            (
                json!({"templateavailable": "5", "secondarystorageavailable": "1.5"}),
                Severity::Warning,
            ),
            (json!({"secondarystorageavailable": "Unlimited"}), Severity::Info),
        ] {
            let limits = limits_of(&json!({"count": 1, "account": [account]})).unwrap();
            assert_eq!(judge("q", &limits, &machine(2)).severity, severity, "{account}");
        }
        assert_eq!(limits_of(&json!({"account": [{}, {}]})), None);
        assert_eq!(limits_of(&json!({})), None);
    }

    #[test]
    fn formats_have_limits() {
        let worst = |machine: &Machine, format, hypervisor| {
            let mut findings = Vec::new();
            check(machine, format, hypervisor, &mut findings);
            findings.into_iter().map(|f| f.severity).max()
        };
        let (xen, kvm) = (Hypervisor::XenServer, Hypervisor::Kvm);
        assert_eq!(worst(&machine(2040), TargetFormat::VhdDynamic, xen), None);
        assert_eq!(worst(&machine(2041), TargetFormat::VhdDynamic, xen), Some(Severity::Critical));
        assert_eq!(worst(&machine(2041), TargetFormat::Qcow2, kvm), None);
        assert_eq!(worst(&machine(1), TargetFormat::Qcow2, xen), Some(Severity::Critical));
        assert_eq!(worst(&machine(1), TargetFormat::VhdFixed, xen), Some(Severity::Critical));
        assert_eq!(worst(&machine(1), TargetFormat::VhdTgz, kvm), Some(Severity::Critical));
        let two = machine(1).with_disk(DiskInfo::new("data", "v", GIB));
        assert_eq!(worst(&two, TargetFormat::VhdDynamic, xen), Some(Severity::Warning));
    }
}
