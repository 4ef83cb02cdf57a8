//! What a cloud has before anybody uses it: zones, types of operating systems, accounts and projects.

use md5::{Digest, Md5};
use serde_json::{Value, json};
use uuid::Builder;

/// The account that the settings' key pair is of.
pub(super) const ACCOUNT: &str = "clones";

/// The administrator's.
pub(super) const ADMIN: &str = "admin";

/// All accounts.
pub(super) const ACCOUNTS: [&str; 3] = [ACCOUNT, "others", ADMIN];

/// The projects and who is in each.
pub(super) const PROJECTS: [(&str, &[&str]); 2] =
    [("web", &[ACCOUNT, "others"]), ("night", &["others"])];

pub(super) fn project_id(name: &str) -> String {
    stable_uuid("project", name)
}

pub(super) fn is_member(project: &str, account: &str) -> bool {
    PROJECTS.iter().any(|(name, members)| *name == project && members.contains(&account))
}

pub(super) const HYPERVISORS: [&str; 3] = ["XenServer", "KVM", "Simulator"];

/// What a template may be registered for.
pub(super) const ALL_HYPERVISORS: [&str; 10] = [
    "XenServer",
    "KVM",
    "VMware",
    "Hyperv",
    "BareMetal",
    "LXC",
    "Ovm",
    "Ovm3",
    "Simulator",
    "External",
];

#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub(super) id: String,
    pub(super) name: String,
}

/// The zones, of which the second may be switched off.
pub(super) fn zones(count: usize) -> Vec<Zone> {
    let names = ["zone1", "zone2"].into_iter().take(count);
    names.map(|name| Zone { id: stable_uuid("zone", name), name: name.to_owned() }).collect()
}

impl Zone {
    pub(super) fn show(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "networktype": "Advanced",
            "type": "Core",
            "securitygroupsenabled": false,
            "allocationstate": "Enabled",
            "dhcpprovider": "VirtualRouter",
            "localstorageenabled": false,
            "zonetoken": stable_uuid("token", &self.name),
            "tags": [],
        })
    }
}

/// An id that is the same in every run, so that logs of two runs compare.
pub(super) fn stable_uuid(kind: &str, name: &str) -> String {
    let digest: [u8; 16] = Md5::digest(format!("{kind}:{name}")).into();
    Builder::from_md5_bytes(digest).into_uuid().to_string()
}

pub(super) fn domain_id() -> String {
    stable_uuid("domain", "ROOT")
}

pub(super) fn account_id(name: &str) -> String {
    stable_uuid("account", name)
}

const CATEGORIES: [&str; 8] =
    ["CentOS", "Debian", "Oracle", "RedHat", "SUSE", "Windows", "Ubuntu", "Other"];

/// Families of operating systems: category, name with `#` for the version, versions.
const FAMILIES: [(&str, &str, &[&str]); 18] = [
    ("CentOS", "CentOS # (64-bit)", &["6.0", "6.5", "6.10", "7.0", "7.9", "8.0", "8.3"]),
    ("CentOS", "CentOS Stream #", &["8", "9"]),
    ("Debian", "Debian GNU/Linux # (64-bit)", &["6", "7", "8", "9", "10", "11", "12", "13"]),
    ("Debian", "Debian GNU/Linux # (32-bit)", &["6", "7", "8", "9", "10", "11", "12"]),
    ("Oracle", "Oracle Linux #", &["7", "8", "9"]),
    ("Oracle", "Oracle Enterprise Linux # (64-bit)", &["5.0", "6.0", "6.5"]),
    ("RedHat", "Red Hat Enterprise Linux # (64-bit)", &["5.0", "6.0", "6.5", "7.0"]),
    ("RedHat", "Red Hat Enterprise Linux #", &["8.0", "8.8", "9.0", "9.4"]),
    ("Other", "Rocky Linux #", &["8", "9"]),
    ("Other", "Alma Linux #", &["8", "9"]),
    ("SUSE", "SUSE Linux Enterprise Server # (64-bit)", &["11 SP4", "12 SP5", "15", "15 SP4"]),
    ("Windows", "Windows Server # (64-bit)", &["2008 R2", "2012 R2", "2016", "2019", "2022"]),
    ("Windows", "Windows # (64-bit)", &["7", "8", "8.1", "10", "11"]),
    ("Ubuntu", "Ubuntu # LTS", &["16.04", "18.04", "20.04", "22.04", "24.04"]),
    ("Ubuntu", "Ubuntu # (64-bit)", &["10.04", "12.04", "14.04"]),
    ("Other", "Other #", &["(32-bit)", "(64-bit)"]),
    ("Other", "Other PV #", &["(32-bit)", "(64-bit)"]),
    ("Other", "Other Linux #", &["(32-bit)", "(64-bit)"]),
];

fn os_types() -> impl Iterator<Item = (&'static str, String)> {
    FAMILIES.into_iter().flat_map(|(category, pattern, versions)| {
        versions.iter().map(move |version| (category, pattern.replace('#', version)))
    })
}

pub(super) fn show_os_types() -> Vec<Value> {
    let shown = os_types().map(|(category, name)| {
        json!({
            "id": stable_uuid("ostype", &name),
            "oscategoryid": stable_uuid("oscategory", category),
            "oscategoryname": category,
            "name": name,
            "description": name,
            "isuserdefined": false,
            "fordisplay": true,
        })
    });
    shown.collect()
}

pub(super) fn show_os_categories() -> Vec<Value> {
    let shown =
        CATEGORIES.iter().map(|name| json!({"id": stable_uuid("oscategory", name), "name": name}));
    shown.collect()
}

pub(super) fn os_type_name(id: &str) -> Option<String> {
    os_types().map(|(_, name)| name).find(|name| stable_uuid("ostype", name) == id)
}

/// The id of a type of operating system that is known by its name.
pub(super) fn os_type_id(name: &str) -> String {
    stable_uuid("ostype", name)
}

/// One row of a list by its id.
pub(super) fn offering(rows: Vec<Value>, id: &str) -> Option<Value> {
    rows.into_iter().find(|row| row["id"] == id)
}

/// Sizes of machines.
pub(super) fn service_offerings() -> Vec<Value> {
    let sizes = [
        ("Small Instance", 1, 500, 512),
        ("Medium Instance", 1, 1000, 1024),
        ("Large", 4, 2000, 8192),
    ];
    let row = |(name, cpus, mhz, memory): (&str, u64, u64, u64)| {
        json!({
            "id": stable_uuid("serviceoffering", name),
            "name": name,
            "displaytext": name,
            "cpunumber": cpus,
            "cpuspeed": mhz,
            "memory": memory,
            "storagetype": "shared",
            "provisioningtype": "thin",
            "iscustomized": false,
            "offerha": false,
            "limitcpuuse": false,
            "isvolatile": false,
            "issystem": false,
            "defaultuse": false,
        })
    };
    sizes.into_iter().map(row).collect()
}

/// Sizes of disks, in GiB.
pub(super) fn disk_offerings() -> Vec<Value> {
    let sizes = [("Small", 5, false), ("Medium", 20, false), ("Custom", 0, true)];
    let row = |(name, size, custom): (&str, u64, bool)| {
        json!({
            "id": stable_uuid("diskoffering", name),
            "name": name,
            "displaytext": format!("{name} Disk"),
            "disksize": size,
            "iscustomized": custom,
            "storagetype": "shared",
            "provisioningtype": "thin",
            "displayoffering": true,
        })
    };
    sizes.into_iter().map(row).collect()
}

/// Kinds of networks.
pub(super) fn network_offerings() -> Vec<Value> {
    let name = "DefaultIsolatedNetworkOfferingWithSourceNatService";
    vec![json!({
        "id": stable_uuid("networkoffering", name),
        "name": name,
        "displaytext": "Offering for Isolated networks with Source Nat service enabled",
        "traffictype": "Guest",
        "guestiptype": "Isolated",
        "state": "Enabled",
        "availability": "Required",
        "isdefault": true,
        "forvpc": false,
        "specifyvlan": false,
        "networkrate": 200,
        "serviceofferingid": stable_uuid("serviceoffering", "router"),
        "service": [],
    })]
}
