//! Public addresses.

use std::collections::BTreeMap;

use crate::call::{Call, List};
use crate::job::{Job, success};
use crate::record::{record, words};
use crate::request::request;

words! {
    /// Who has an address.
    AddressState {
        /// Nobody.
        Free = "Free",
        /// It is being given to somebody.
        Allocating = "Allocating",
        /// Somebody.
        Allocated = "Allocated",
        /// It is being given back.
        Releasing = "Releasing",
        /// It is kept for somebody.
        Reserved = "Reserved",
    }
}

record! {
    /// A public address.
    PublicAddress in "publicipaddress" by id;
    /// Its id.
    id: String = "id",
    /// The address.
    address: Option<String> = "ipaddress",
    /// Who has it.
    state: Option<AddressState> = "state",
    /// The id of its zone.
    zone: Option<String> = "zoneid",
    /// The name of its zone.
    zone_name: Option<String> = "zonename",
    /// The id of the network it serves.
    network: Option<String> = "associatednetworkid",
    /// The name of that network.
    network_name: Option<String> = "associatednetworkname",
    /// The private cloud it serves.
    vpc: Option<String> = "vpcid",
    /// Whether what leaves the network has it.
    is_source_nat: Option<bool> = "issourcenat",
    /// Whether it leads to one machine alone.
    is_static_nat: Option<bool> = "isstaticnat",
    /// The id of that machine.
    machine: Option<String> = "virtualmachineid",
    /// Since when it is taken.
    allocated: Option<String> = "allocated",
    /// Whose it is.
    account: Option<String> = "account",
    /// The project it belongs to.
    project: Option<String> = "projectid",
    /// Its tags.
    tags: BTreeMap<String, String> = "tags",
}

request! {
    /// A public address to be taken.
    NewAddress {
        /// The address of choice.
        with_address(&str) = "ipaddress",
        /// The id of the project it is for.
        with_project(&str) = "projectid",
    }
}

impl NewAddress {
    /// An address for a network.
    #[must_use]
    pub fn for_network(network: &str) -> Self {
        Self::empty().set("networkid", network)
    }

    /// An address for a private cloud.
    #[must_use]
    pub fn for_vpc(vpc: &str) -> Self {
        Self::empty().set("vpcid", vpc)
    }

    /// An address in a zone; the cloud chooses the network.
    #[must_use]
    pub fn in_zone(zone: &str) -> Self {
        Self::empty().set("zoneid", zone)
    }
}

/// `listPublicIpAddresses` that this account has.
#[must_use]
pub fn list() -> Call<List<PublicAddress>> {
    Call::list("public addresses: list", "listPublicIpAddresses")
}

/// `listPublicIpAddresses` of one network.
#[must_use]
pub fn of_network(network: &str) -> Call<List<PublicAddress>> {
    list().with_id("associatednetworkid", network)
}

/// `listPublicIpAddresses` of one id.
#[must_use]
pub fn get(id: &str) -> Call<List<PublicAddress>> {
    Call::list(&format!("public address {id}: get"), "listPublicIpAddresses").with_id("id", id)
}

/// `associateIpAddress`: a job that takes an address.
#[must_use]
pub fn associate(address: &NewAddress) -> Call<Job<PublicAddress>> {
    address.describe(Call::job("public address: associate", "associateIpAddress"))
}

/// `disassociateIpAddress`: a job that gives an address back, with all its rules.
#[must_use]
pub fn release(id: &str) -> Call<Job<()>> {
    Call::job(format!("public address {id}: release"), "disassociateIpAddress").with_id("id", id)
}

/// `enableStaticNat`: an address leads to one machine alone.
#[must_use]
pub fn enable_static_nat(id: &str, machine: &str) -> Call<()> {
    Call::change(format!("public address {id}: lead to {machine}"), "enableStaticNat", success)
        .with_id("ipaddressid", id)
        .with_id("virtualmachineid", machine)
}

/// `disableStaticNat`: a job.
#[must_use]
pub fn disable_static_nat(id: &str) -> Call<Job<()>> {
    Call::job(format!("public address {id}: lead nowhere"), "disableStaticNat")
        .with_id("ipaddressid", id)
}
