//! The preflight rules of the target.

use std::collections::BTreeMap;

use glance_client::{Call, Glance};
use http::Method;
use serde_json::Value;
use vmimage::TargetFormat;

use super::Hypervisor;
use crate::{Finding, Machine, Severity};

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
    let vhd =
        matches!(format, TargetFormat::VhdDynamic | TargetFormat::VhdFixed | TargetFormat::VhdTgz);
    for disk in machine.disks.iter().filter(|d| vhd && d.virtual_size > VHD_LIMIT) {
        findings.push(Finding::new(
            "disk-fits-format",
            Severity::Critical,
            format!("disk {} has {} GiB, a VHD 2040 at most", disk.name, disk.virtual_size / GIB),
            "choose qcow2 or raw",
        ));
    }
    if format == TargetFormat::VhdFixed {
        findings.push(Finding::new(
            "image-format-accepted",
            Severity::Critical,
            "Glance does not recognise a fixed VHD and refuses it after the upload",
            "choose vhd or vhd-tgz",
        ));
    }
    if format == TargetFormat::VhdDynamic && hypervisor == Hypervisor::Xen {
        findings.push(Finding::new(
            "image-boots-on-nova",
            Severity::Info,
            "Nova's XenServer driver boots VHDs only from an archive",
            "choose vhd-tgz if the image is for that driver",
        ));
    }
    if format == TargetFormat::Raw {
        findings.push(Finding::not_checked(
            "raw-boot-sector",
            "Glance refuses raw disks without a proper partition table; it is looked at before the upload",
        ));
    }
    let windows = machine.os_type.as_deref() == Some("windows");
    if windows && hypervisor == Hypervisor::Kvm {
        findings.push(Finding::new(
            "guest-virtio",
            Severity::Warning,
            format!("{} is Windows: it finds its disk on KVM only with drivers", machine.name),
            "install the virtio drivers first, or boot it from SATA as the image says",
        ));
    }
}

/// Whether the quota has room, where the cloud tells.
pub(super) async fn quota(glance: &Glance, machine: &Machine) -> Finding {
    const RULE: &str = "image-quota";
    let call: Call<BTreeMap<String, (i64, i64)>> =
        Call::new("image quota: get", Method::GET, "info/usage", |answer| {
            Ok(limits(&answer.json::<Value>()?))
        });
    let usage = match glance.call(call).await {
        Ok(usage) => usage,
        Err(_) => return Finding::not_checked(RULE, "the cloud tells no quota"),
    };
    judge(RULE, &usage, machine)
}

/// `usage` of the answer: limit and use by name. A limit below 0 is none.
fn limits(document: &Value) -> BTreeMap<String, (i64, i64)> {
    let entries = document["usage"].as_object().into_iter().flatten();
    entries
        .filter_map(|(name, v)| Some((name.clone(), (v["limit"].as_i64()?, v["usage"].as_i64()?))))
        .collect()
}

fn judge(rule: &str, usage: &BTreeMap<String, (i64, i64)>, machine: &Machine) -> Finding {
    let free = |name: &str| {
        usage.get(name).filter(|(limit, _)| *limit >= 0).map(|(limit, used)| limit - used)
    };
    let count = i64::try_from(machine.disks.len()).unwrap_or(i64::MAX);
    if let Some(room) = free("image_count_total").filter(|room| *room < count) {
        return Finding::new(
            rule,
            Severity::Critical,
            format!("{count} images are needed, the quota has room for {}", room.max(0)),
            "delete images or raise the quota",
        );
    }
    let bytes = machine.stored();
    let mib = i64::try_from(bytes >> 20).unwrap_or(i64::MAX);
    match free("image_size_total") {
        // Glance lets the last image pass the limit; only a full quota refuses.
        Some(room) if room <= 0 => Finding::new(
            rule,
            Severity::Critical,
            "the quota for images is used up",
            "delete images or raise the quota",
        ),
        Some(room) if room < mib => Finding::new(
            rule,
            Severity::Warning,
            format!("up to {mib} MiB may be needed, the quota has room for {room}"),
            "delete images or raise the quota",
        ),
        Some(room) => Finding::new(rule, Severity::Info, format!("{room} MiB are free"), ""),
        None => Finding::not_checked(rule, "the cloud has no quota on the size of images"),
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
    fn quotas_are_judged_as_glance_does() {
        let judged = |count: i64, limit: i64, used: i64| {
            let usage = limits(&json!({"usage": {
                "image_count_total": {"limit": count, "usage": 1},
                "image_size_total": {"limit": limit, "usage": used},
                "odd": 5,
            }}));
            judge("q", &usage, &machine(2)).severity
        };
        assert_eq!(judged(1, -1, 0), Severity::Critical);
        assert_eq!(judged(2, 10, 10), Severity::Critical);
        assert_eq!(judged(2, 1000, 10), Severity::Warning);
        assert_eq!(judged(2, 100_000, 10), Severity::Info);
        assert_eq!(judged(-1, -1, 10), Severity::Info);
    }

    #[test]
    fn formats_have_limits() {
        let found = |gib, format, hypervisor| {
            let mut findings = Vec::new();
            check(&machine(gib), format, hypervisor, &mut findings);
            findings.into_iter().filter(|f| f.severity == Severity::Critical).count()
        };
        assert_eq!(found(2041, TargetFormat::VhdTgz, Hypervisor::Xen), 1);
        assert_eq!(found(2041, TargetFormat::Qcow2, Hypervisor::Kvm), 0);
        assert_eq!(found(2040, TargetFormat::VhdDynamic, Hypervisor::Xen), 0);
        assert_eq!(found(1, TargetFormat::VhdFixed, Hypervisor::Xen), 1);
    }
}
