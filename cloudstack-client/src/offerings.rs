//! Offerings: what an operator lets people choose of machines, disks and networks.

use crate::call::{Call, List};
use crate::record::record;

record! {
    /// A size of machines.
    ServiceOffering in "serviceoffering" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// The text for people.
    display_text: Option<String> = "displaytext",
    /// How many processors.
    cpus: Option<u64> = "cpunumber",
    /// Their speed in MHz.
    cpu_mhz: Option<u64> = "cpuspeed",
    /// Memory in MiB.
    memory_mib: Option<u64> = "memory",
    /// Whether the numbers are left open: they are given as
    /// [details](crate::virtual_machines::NewVirtualMachine::with_detail) then.
    is_customized: Option<bool> = "iscustomized",
    /// The size of its root disk in GiB, where it says so.
    root_disk_gib: Option<u64> = "rootdisksize",
    /// `local` or `shared`.
    storage_kind: Option<String> = "storagetype",
    /// What hosts must be marked with.
    host_tags: Option<String> = "hosttags",
    /// Whether its machines are started again when their host dies.
    offers_ha: Option<bool> = "offerha",
}

record! {
    /// A size of disks.
    DiskOffering in "diskoffering" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// The text for people.
    display_text: Option<String> = "displaytext",
    /// The size in GiB.
    size_gib: Option<u64> = "disksize",
    /// Whether the size is left open.
    is_customized: Option<bool> = "iscustomized",
    /// `local` or `shared`.
    storage_kind: Option<String> = "storagetype",
    /// What storage must be marked with.
    tags: Option<String> = "tags",
    /// `thin`, `sparse` or `fat`.
    provisioning: Option<String> = "provisioningtype",
}

record! {
    /// A kind of networks.
    NetworkOffering in "networkoffering" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// The text for people.
    display_text: Option<String> = "displaytext",
    /// `Isolated`, `Shared` or `L2`.
    guest_kind: Option<String> = "guestiptype",
    /// `Guest`.
    traffic: Option<String> = "traffictype",
    /// `Enabled` or `Disabled`.
    state: Option<String> = "state",
    /// `Required`, `Optional` or `Unavailable`.
    availability: Option<String> = "availability",
    /// Whether it is one of the cloud's own.
    is_default: Option<bool> = "isdefault",
    /// Whether it is for tiers of private clouds.
    for_vpc: Option<bool> = "forvpc",
    /// Whether a VLAN is to be named.
    specify_vlan: Option<bool> = "specifyvlan",
}

/// `listServiceOfferings`: the sizes of machines that this account can choose.
#[must_use]
pub fn services() -> Call<List<ServiceOffering>> {
    Call::list("service offerings: list", "listServiceOfferings")
}

/// `listDiskOfferings`: the sizes of disks that this account can choose.
#[must_use]
pub fn disks() -> Call<List<DiskOffering>> {
    Call::list("disk offerings: list", "listDiskOfferings")
}

/// `listNetworkOfferings`: the kinds of networks that can be made.
#[must_use]
pub fn networks() -> Call<List<NetworkOffering>> {
    Call::list("network offerings: list", "listNetworkOfferings").with("state", "Enabled")
}
