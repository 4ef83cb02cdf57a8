//! Hypervisors that a cloud has.

use crate::call::{Call, List};
use crate::record::record;

record! {
    /// A kind of hypervisor.
    Hypervisor in "hypervisor" by name;
    /// `XenServer` (which XCP-ng is called too), `KVM`, `VMware`, `Hyperv`, `LXC`, `Simulator`…
    name: String = "name",
}

/// `listHypervisors`: all of the cloud. This list has no pages.
#[must_use]
pub fn list() -> Call<List<Hypervisor>> {
    Call::whole_list("hypervisors: list", "listHypervisors")
}

/// `listHypervisors` of one zone.
#[must_use]
pub fn in_zone(zone: &str) -> Call<List<Hypervisor>> {
    list().with("zoneid", zone)
}
