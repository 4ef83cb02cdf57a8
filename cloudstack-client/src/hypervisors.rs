//! Hypervisors that a cloud has.

use serde_json::Value;

use crate::call::{Call, List, Record};
use crate::value::Fields;

/// A kind of hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hypervisor {
    /// `XenServer` (which XCP-ng is called too), `KVM`, `VMware`, `Hyperv`, `LXC`, `Simulator`…
    pub name: String,
}

impl Record for Hypervisor {
    const ARRAY: &'static str = "hypervisor";

    fn read(value: &Value) -> Option<Self> {
        Some(Self { name: Fields::of(value)?.text("name")? })
    }

    fn key(&self) -> String {
        self.name.clone()
    }
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
