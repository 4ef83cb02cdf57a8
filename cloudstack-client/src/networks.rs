//! Networks of guests.

use std::collections::BTreeMap;

use crate::call::{Call, List};
use crate::job::{Job, one};
use crate::record::{record, words};
use crate::request::request;

words! {
    /// What a network is.
    NetworkKind {
        /// Of one account, behind a virtual router.
        Isolated = "Isolated",
        /// Of many accounts.
        Shared = "Shared",
        /// Of one account, without services.
        L2 = "L2",
    }
}

words! {
    /// How far a network is.
    NetworkState {
        /// Known, and made when the first machine comes.
        Allocated = "Allocated",
        /// Described, and not made yet.
        Setup = "Setup",
        /// Being made.
        Implementing = "Implementing",
        /// In use.
        Implemented = "Implemented",
        /// Being taken down.
        Shutdown = "Shutdown",
        /// Removed.
        Destroy = "Destroy",
    }
}

record! {
    /// A network.
    Network in "network" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// The text for people.
    display_text: Option<String> = "displaytext",
    /// What it is.
    kind: Option<NetworkKind> = "type",
    /// How far it is.
    state: Option<NetworkState> = "state",
    /// The id of its zone.
    zone: Option<String> = "zoneid",
    /// The name of its zone.
    zone_name: Option<String> = "zonename",
    /// Its addresses: `10.1.1.0/24`.
    cidr: Option<String> = "cidr",
    /// Its gateway.
    gateway: Option<String> = "gateway",
    /// Its mask.
    netmask: Option<String> = "netmask",
    /// Its domain name.
    domain_name: Option<String> = "networkdomain",
    /// Its first name server.
    dns: Option<String> = "dns1",
    /// What runs in it: `Guest`.
    traffic: Option<String> = "traffictype",
    /// The id of its offering.
    offering: Option<String> = "networkofferingid",
    /// The name of its offering.
    offering_name: Option<String> = "networkofferingname",
    /// The private cloud that it is a tier of.
    vpc: Option<String> = "vpcid",
    /// Whether machines can be deployed in it.
    can_use_for_deploy: Option<bool> = "canusefordeploy",
    /// Whether a change waits for a restart of it.
    restart_required: Option<bool> = "restartrequired",
    /// Whose it is.
    account: Option<String> = "account",
    /// The project it belongs to.
    project: Option<String> = "projectid",
    /// Its tags.
    tags: BTreeMap<String, String> = "tags",
}

request! {
    /// A network to be made.
    NewNetwork {
        /// A text for people; the name if there is none.
        with_display_text(&str) = "displaytext",
        /// Its gateway.
        with_gateway(&str) = "gateway",
        /// Its mask.
        with_netmask(&str) = "netmask",
        /// The first address of a shared one.
        with_start_address(&str) = "startip",
        /// The last address of a shared one.
        with_end_address(&str) = "endip",
        /// The VLAN of a shared one, by an administrator.
        with_vlan(&str) = "vlan",
        /// Its domain name.
        with_domain_name(&str) = "networkdomain",
        /// The private cloud that it becomes a tier of.
        with_vpc(&str) = "vpcid",
        /// The id of the project it is for.
        with_project(&str) = "projectid",
    }
}

impl NewNetwork {
    /// A network of an offering, in a zone.
    #[must_use]
    pub fn new(name: &str, offering: &str, zone: &str) -> Self {
        // The text was required until 4.18.
        let empty = Self::empty().set("name", name).set("displaytext", name);
        empty.set("networkofferingid", offering).set("zoneid", zone)
    }
}

/// `listNetworks` of this account.
#[must_use]
pub fn list() -> Call<List<Network>> {
    Call::list("networks: list", "listNetworks")
}

/// `listNetworks` of one zone in which machines can be deployed.
#[must_use]
pub fn usable_in(zone: &str) -> Call<List<Network>> {
    list().with_id("zoneid", zone).with("canusefordeploy", "true")
}

/// `listNetworks` of one id.
#[must_use]
pub fn get(id: &str) -> Call<List<Network>> {
    Call::list(&format!("network {id}: get"), "listNetworks").with_id("id", id)
}

/// `createNetwork`.
#[must_use]
pub fn create(network: &NewNetwork) -> Call<Network> {
    let what = format!("network {}: create", network.get("name").unwrap_or_default());
    let call = network.describe(Call::change(what, "createNetwork", one));
    let given = |name| network.get(name).is_some_and(|value| !value.trim().is_empty());
    if given("name") && given("networkofferingid") && given("zoneid") {
        call
    } else {
        call.with_problem("the name, the offering or the zone is empty")
    }
}

/// `restartNetwork`: a job. `cleanup` makes its virtual router anew, which ends what runs through it for minutes.
#[must_use]
pub fn restart(id: &str, cleanup: bool) -> Call<Job<()>> {
    Call::job(format!("network {id}: restart"), "restartNetwork")
        .with_id("id", id)
        .with("cleanup", cleanup.to_string())
}

/// `deleteNetwork`: a job.
#[must_use]
pub fn delete(id: &str) -> Call<Job<()>> {
    Call::job(format!("network {id}: delete"), "deleteNetwork").with_id("id", id)
}
