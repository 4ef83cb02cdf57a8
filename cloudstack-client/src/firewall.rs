//! Rules of the firewall, inwards and outwards, and forwarded ports.

use crate::call::{Call, List};
use crate::job::Job;
use crate::record::record;
use crate::request::request;

record! {
    /// A rule of the firewall.
    FirewallRule in "firewallrule" by id;
    /// Its id.
    id: String = "id",
    /// `tcp`, `udp`, `icmp`, `all`.
    protocol: Option<String> = "protocol",
    /// The first port.
    start_port: Option<u64> = "startport",
    /// The last port.
    end_port: Option<u64> = "endport",
    /// Who may come, or who may go: networks.
    cidrs: Vec<String> = "cidrlist",
    /// The public address.
    address: Option<String> = "ipaddress",
    /// The id of the public address.
    address_id: Option<String> = "ipaddressid",
    /// The id of the network.
    network: Option<String> = "networkid",
    /// `Add` before it is in force, then `Active`.
    state: Option<String> = "state",
}

record! {
    /// A port of a public address that leads to a machine.
    PortForwardingRule in "portforwardingrule" by id;
    /// Its id.
    id: String = "id",
    /// `tcp` or `udp`.
    protocol: Option<String> = "protocol",
    /// The first port of the public address.
    public_port: Option<u64> = "publicport",
    /// The last port of the public address.
    public_end_port: Option<u64> = "publicendport",
    /// The first port of the machine.
    private_port: Option<u64> = "privateport",
    /// The last port of the machine.
    private_end_port: Option<u64> = "privateendport",
    /// The public address.
    address: Option<String> = "ipaddress",
    /// The id of the public address.
    address_id: Option<String> = "ipaddressid",
    /// The id of the machine.
    machine: Option<String> = "virtualmachineid",
    /// The name of the machine.
    machine_name: Option<String> = "virtualmachinename",
    /// The address of the machine.
    machine_address: Option<String> = "vmguestip",
    /// The id of the network.
    network: Option<String> = "networkid",
    /// `Add` before it is in force, then `Active`.
    state: Option<String> = "state",
}

request! {
    /// A rule of the firewall to be made.
    NewFirewallRule {
        /// The networks that it is for, joined by commas; all without it.
        with_cidrs(&str) = "cidrlist",
        /// The type of ICMP; -1 is all.
        with_icmp_type(i32) = "icmptype",
        /// The code of ICMP; -1 is all.
        with_icmp_code(i32) = "icmpcode",
    }
}

impl NewFirewallRule {
    /// A rule for a protocol (`tcp`, `udp`, `icmp`).
    #[must_use]
    pub fn new(protocol: &str) -> Self {
        Self::empty().set("protocol", protocol)
    }

    /// A range of ports, both ends included.
    #[must_use]
    pub fn with_ports(self, first: u16, last: u16) -> Self {
        self.set("startport", first.to_string()).set("endport", last.to_string())
    }
}

request! {
    /// A forwarded port to be made.
    NewPortForwardingRule {
        /// Who may come: networks, joined by commas.
        with_cidrs(&str) = "cidrlist",
        /// Whether the firewall is opened for it, too.
        with_open_firewall(bool) = "openfirewall",
        /// The address of the machine, if it has several.
        with_machine_address(&str) = "vmguestip",
        /// The id of the network, for a tier of a private cloud.
        with_network(&str) = "networkid",
    }
}

impl NewPortForwardingRule {
    /// From a port of a public address (its id) to one of a machine (its id).
    #[must_use]
    pub fn new(address: &str, public: u16, machine: &str, private: u16, protocol: &str) -> Self {
        Self::empty()
            .set("ipaddressid", address)
            .set("publicport", public.to_string())
            .set("virtualmachineid", machine)
            .set("privateport", private.to_string())
            .set("protocol", protocol)
    }

    /// The last ports of a range on both sides.
    #[must_use]
    pub fn with_end_ports(self, public: u16, private: u16) -> Self {
        self.set("publicendport", public.to_string()).set("privateendport", private.to_string())
    }
}

/// `listFirewallRules` of this account.
#[must_use]
pub fn list() -> Call<List<FirewallRule>> {
    Call::list("firewall rules: list", "listFirewallRules")
}

/// `listFirewallRules` of a public address.
#[must_use]
pub fn of_address(address: &str) -> Call<List<FirewallRule>> {
    list().with_id("ipaddressid", address)
}

/// `createFirewallRule`: a job that lets something in at a public address.
#[must_use]
pub fn create(address: &str, rule: &NewFirewallRule) -> Call<Job<FirewallRule>> {
    let call = Call::job(format!("public address {address}: let in"), "createFirewallRule");
    rule.describe(call.with_id("ipaddressid", address))
}

/// `deleteFirewallRule`: a job.
#[must_use]
pub fn delete(id: &str) -> Call<Job<()>> {
    Call::job(format!("firewall rule {id}: delete"), "deleteFirewallRule").with_id("id", id)
}

/// `listEgressFirewallRules` of a network.
#[must_use]
pub fn outward(network: &str) -> Call<List<FirewallRule>> {
    let what = format!("network {network}: list what may go out");
    Call::list(&what, "listEgressFirewallRules").with_id("networkid", network)
}

/// `createEgressFirewallRule`: a job that lets something out of a network.
#[must_use]
pub fn create_outward(network: &str, rule: &NewFirewallRule) -> Call<Job<FirewallRule>> {
    let call = Call::job(format!("network {network}: let out"), "createEgressFirewallRule");
    rule.describe(call.with_id("networkid", network))
}

/// `deleteEgressFirewallRule`: a job.
#[must_use]
pub fn delete_outward(id: &str) -> Call<Job<()>> {
    Call::job(format!("egress rule {id}: delete"), "deleteEgressFirewallRule").with_id("id", id)
}

/// `listPortForwardingRules` of this account.
#[must_use]
pub fn forwarded() -> Call<List<PortForwardingRule>> {
    Call::list("forwarded ports: list", "listPortForwardingRules")
}

/// `createPortForwardingRule`: a job.
#[must_use]
pub fn forward(rule: &NewPortForwardingRule) -> Call<Job<PortForwardingRule>> {
    let port = rule.get("publicport").unwrap_or_default();
    let address = rule.get("ipaddressid").unwrap_or_default();
    let what = format!("public address {address}: forward port {port}");
    rule.describe(Call::job(what, "createPortForwardingRule"))
}

/// `deletePortForwardingRule`: a job.
#[must_use]
pub fn delete_forwarded(id: &str) -> Call<Job<()>> {
    Call::job(format!("forwarded port {id}: delete"), "deletePortForwardingRule").with_id("id", id)
}
