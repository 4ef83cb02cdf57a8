//! Load balancers: rules that spread what comes to a public address over machines.
//!
//! This is how a copy is put into service without an interruption: a rule exists, the copy is
//! [assigned](assign) to it, and the old machine is [removed](remove).

use crate::call::{Call, List};
use crate::job::{Job, one, success};
use crate::record::{record, words};
use crate::request::request;

words! {
    /// How a rule chooses a machine.
    Algorithm {
        /// One after the other.
        RoundRobin = "roundrobin",
        /// The one with the fewest connections.
        LeastConnections = "leastconn",
        /// Always the same for the same client.
        Source = "source",
    }
}

record! {
    /// A rule.
    LoadBalancerRule in "loadbalancerrule" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// The text for people.
    description: Option<String> = "description",
    /// How it chooses a machine.
    algorithm: Option<Algorithm> = "algorithm",
    /// The public address.
    address: Option<String> = "publicip",
    /// The id of the public address.
    address_id: Option<String> = "publicipid",
    /// The port of the public address.
    public_port: Option<u64> = "publicport",
    /// The port of the machines.
    private_port: Option<u64> = "privateport",
    /// `tcp`, `udp`, `tcp-proxy`, `ssl`.
    protocol: Option<String> = "protocol",
    /// Who may come: networks, joined by commas.
    cidrs: Vec<String> = "cidrlist",
    /// `Add` before it is in force, then `Active`.
    state: Option<String> = "state",
    /// The id of the network of its machines.
    network: Option<String> = "networkid",
    /// The id of its zone.
    zone: Option<String> = "zoneid",
    /// Whose it is.
    account: Option<String> = "account",
}

record! {
    /// A machine that a rule spreads to.
    Member in "loadbalancerruleinstance" by id;
    /// The machine's id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// What it does: `Running`…
    state: Option<String> = "state",
    /// `UP` or `DOWN`, where a health check says so.
    service_state: Option<String> = "servicestate",
}

request! {
    /// A rule to be made.
    ///
    /// ```
    /// use cloudstack_client::load_balancers::{self, Algorithm, NewLoadBalancerRule};
    /// let rule = NewLoadBalancerRule::new("web", &Algorithm::LeastConnections, 80, 8080)
    ///     .with_address("ip-1")
    ///     .with_protocol("tcp");
    /// let call = load_balancers::create(&rule);
    /// assert_eq!(call.parameter("algorithm"), Some("leastconn"));
    /// assert_eq!(call.parameter("publicipid"), Some("ip-1"));
    /// ```
    NewLoadBalancerRule {
        /// The id of the public address. Without one a network whose offering allows it gets its own.
        with_address(&str) = "publicipid",
        /// The id of the machines' network.
        with_network(&str) = "networkid",
        /// `tcp` (the server's choice), `udp`, `tcp-proxy` or `ssl`.
        with_protocol(&str) = "protocol",
        /// Who may come (4.18 and newer): networks, joined by commas.
        with_cidrs(&str) = "cidrlist",
        /// Whether the firewall is opened for it, too (it is, where there is one for addresses).
        with_open_firewall(bool) = "openfirewall",
        /// A text for people.
        with_description(&str) = "description",
    }
}

impl NewLoadBalancerRule {
    /// A rule from a port of the public address to one of the machines.
    #[must_use]
    pub fn new(name: &str, algorithm: &Algorithm, public_port: u16, private_port: u16) -> Self {
        Self::empty()
            .set("name", name)
            .set("algorithm", algorithm.as_str())
            .set("publicport", public_port.to_string())
            .set("privateport", private_port.to_string())
    }
}

/// `listLoadBalancerRules` of this account.
#[must_use]
pub fn list() -> Call<List<LoadBalancerRule>> {
    Call::list("load balancer rules: list", "listLoadBalancerRules")
}

/// `listLoadBalancerRules` of one id.
#[must_use]
pub fn get(id: &str) -> Call<List<LoadBalancerRule>> {
    Call::list(&format!("load balancer rule {id}: get"), "listLoadBalancerRules").with_id("id", id)
}

/// `createLoadBalancerRule`: a job.
#[must_use]
pub fn create(rule: &NewLoadBalancerRule) -> Call<Job<LoadBalancerRule>> {
    let what = format!("load balancer rule {}: create", rule.get("name").unwrap_or_default());
    let call = rule.describe(Call::job(what, "createLoadBalancerRule"));
    if rule.get("publicipid").is_none() && rule.get("networkid").is_none() {
        return call.with_problem("it has neither a public address nor a network");
    }
    call
}

/// `updateLoadBalancerRule` to another algorithm: a job.
#[must_use]
pub fn set_algorithm(id: &str, algorithm: &Algorithm) -> Call<Job<LoadBalancerRule>> {
    let what = format!("load balancer rule {id}: update");
    Call::start(what, "updateLoadBalancerRule", one::<LoadBalancerRule>)
        .with_id("id", id)
        .with("algorithm", algorithm.as_str())
}

/// `deleteLoadBalancerRule`: a job.
#[must_use]
pub fn delete(id: &str) -> Call<Job<()>> {
    Call::job(format!("load balancer rule {id}: delete"), "deleteLoadBalancerRule")
        .with_id("id", id)
}

/// `assignToLoadBalancerRule`: a job that adds machines, by their first address in the rule's network.
#[must_use]
pub fn assign(id: &str, machines: &[&str]) -> Call<Job<()>> {
    let what = format!("load balancer rule {id}: assign {}", machines.join(", "));
    Call::job(what, "assignToLoadBalancerRule")
        .with_id("id", id)
        .with_ids("virtualmachineids", machines)
}

/// `assignToLoadBalancerRule`: a job that adds machines (ids), each by an address of choice.
#[must_use]
pub fn assign_addresses(id: &str, members: &[(&str, &str)]) -> Call<Job<()>> {
    let what = format!("load balancer rule {id}: assign {} addresses", members.len());
    let call = Call::start(what, "assignToLoadBalancerRule", success).with_id("id", id);
    let call = if members.is_empty() { call.with_problem("no address is named") } else { call };
    members.iter().enumerate().fold(call, |call, (n, (machine, address))| {
        call.with(format!("vmidipmap[{n}].vmid"), *machine)
            .with(format!("vmidipmap[{n}].vmip"), *address)
    })
}

/// `removeFromLoadBalancerRule`: a job. Connections that exist may be cut.
#[must_use]
pub fn remove(id: &str, machines: &[&str]) -> Call<Job<()>> {
    let what = format!("load balancer rule {id}: remove {}", machines.join(", "));
    Call::job(what, "removeFromLoadBalancerRule")
        .with_id("id", id)
        .with_ids("virtualmachineids", machines)
}

/// `listLoadBalancerRuleInstances`: the machines that a rule spreads to.
#[must_use]
pub fn members(id: &str) -> Call<List<Member>> {
    Call::list(&format!("load balancer rule {id}: list members"), "listLoadBalancerRuleInstances")
        .with_id("id", id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn ports_come_as_text_and_made_rules_under_another_key() {
        let body = br#"{"listloadbalancerrulesresponse":{"count":1,"loadbalancerrule":[
            {"id":"r1","publicport":"80","privateport":8080,"algorithm":"leastconn","cidrlist":"10.0.0.0/8,::/0"}]}}"#;
        let rule = list().parse(StatusCode::OK, body).unwrap().items.remove(0);
        assert_eq!((rule.public_port, rule.private_port), (Some(80), Some(8080)));
        assert_eq!(rule.algorithm, Some(Algorithm::LeastConnections));
        assert_eq!(rule.cidrs.len(), 2);
        let content = serde_json::json!({"loadbalancer": {"id": "r1", "name": "web"}});
        let answer = crate::call::Answer { what: "x", content: &content };
        assert_eq!(one::<LoadBalancerRule>(&answer).unwrap().name, "web");
        let call = assign_addresses("r1", &[("m1", "10.0.0.5"), ("m1", "10.0.0.6")]);
        assert_eq!(call.parameter("vmidipmap[1].vmip"), Some("10.0.0.6"));
    }
}
