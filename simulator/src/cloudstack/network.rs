//! Networks, public addresses, and the rules on them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::object::{Kind, Object};
use super::owner::Owner;
use super::params::Params;
use super::state::{Shared, Tables};
use super::{fixture, job, list};

/// What every account finds: a network in each zone, with the address that its traffic has.
pub(super) fn builtin() -> Vec<Object> {
    let zones = fixture::zones(2);
    let owner = Owner::Account(fixture::ACCOUNT);
    let made = |(number, zone)| made("guest1", owner, zone, number, None);
    zones.iter().enumerate().flat_map(made).collect()
}

/// The first network of an owner in a zone, which is made if there is none.
pub(super) fn first_of(tables: &mut Tables, owner: Owner, zone: &fixture::Zone) -> String {
    let own = |one: &&Object| one.owner == owner && one.text("zoneid") == zone.id;
    if let Some(first) = tables.of(Kind::Network).find(own) {
        return first.id().to_owned();
    }
    let number = tables.of(Kind::Network).count();
    let both = made("guest1", owner, zone, number, None);
    let id = both[0].id().to_owned();
    tables.objects.extend(both);
    id
}

fn made(
    name: &str,
    owner: Owner,
    zone: &fixture::Zone,
    number: usize,
    offering: Option<&Value>,
) -> [Object; 2] {
    let prefix = format!("10.{}.1", number + 1);
    let own = fixture::network_offerings().swap_remove(0);
    let offering = offering.unwrap_or(&own);
    let network = Object::new(
        Kind::Network,
        owner,
        json!({
            "name": name,
            "displaytext": name,
            "type": "Isolated",
            "state": "Allocated",
            "zoneid": zone.id,
            "zonename": zone.name,
            "cidr": format!("{prefix}.0/24"),
            "gateway": format!("{prefix}.1"),
            "netmask": "255.255.255.0",
            "networkdomain": "cs1cloud.internal",
            "traffictype": "Guest",
            "networkofferingid": offering["id"],
            "networkofferingname": offering["name"],
            "canusefordeploy": true,
            "restartrequired": false,
            "issystem": false,
            "service": [],
        }),
    );
    let mut address = address(&network, zone, &format!("192.0.2.{}", number + 1));
    address.set("issourcenat", true);
    [network, address]
}

fn address(network: &Object, zone: &fixture::Zone, ip: &str) -> Object {
    Object::new(
        Kind::Address,
        network.owner,
        json!({
            "ipaddress": ip,
            "state": "Allocated",
            "zoneid": zone.id,
            "zonename": zone.name,
            "associatednetworkid": network.id(),
            "associatednetworkname": network.text("name"),
            "issourcenat": false,
            "isstaticnat": false,
            "allocated": network.text("created"),
        }),
    )
}

/// Rows in which the zone is one that there is.
pub(super) fn rows(
    state: &Shared,
    params: &Params,
    kind: Kind,
    names: &[&str],
) -> ApiResult<Vec<Value>> {
    let zones: Vec<_> = state.zones().into_iter().map(|zone| zone.id).collect();
    let mut rows = super::object::list(state, params, kind, names)?;
    rows.retain(|row| row["zoneid"].as_str().is_none_or(|id| zones.iter().any(|zone| zone == id)));
    Ok(rows)
}

pub(super) fn create(state: &Shared, params: &Params) -> ApiResult<Value> {
    let offering = params.required("networkofferingid")?;
    let offering = fixture::offering(fixture::network_offerings(), offering)
        .ok_or_else(|| ApiError::no_such(&params.command, "networkofferingid", offering))?;
    let (_, zone) = list::zone(state, params, "zoneid")?
        .ok_or_else(|| ApiError::missing(&params.command, "zoneid"))?;
    let (name, owner) = (params.required("name")?, params.owner()?);
    let mut tables = state.tables();
    let number = tables.of(Kind::Network).count();
    let [mut network, mut address] = made(name, owner, &zone, number, Some(&offering));
    if let Some(text) = params.get("displaytext") {
        network.set("displaytext", text);
    }
    address.set("associatednetworkname", name);
    let shown = network.show();
    tables.objects.extend([network, address]);
    Ok(json!({"network": shown}))
}

pub(super) fn delete(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = state.tables().named(params, Kind::Network, "id")?.id().to_owned();
    job::submit(state, params, Some(("Network", id.clone())), move |state| {
        let mut tables = state.tables();
        let used = |m: &Object| {
            m.row["nic"]
                .as_array()
                .is_some_and(|nics| nics.iter().any(|nic| nic["networkid"] == id.as_str()))
        };
        if tables.of(Kind::Machine).any(used) {
            return Err(ApiError::internal(format!(
                "Failed to delete network {id}: there are machines in it"
            )));
        }
        tables.remove(Kind::Network, &id);
        tables.objects.retain(|o| o.text("associatednetworkid") != id && o.text("networkid") != id);
        Ok(json!({"success": true}))
    })
}

pub(super) fn restart(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = state.tables().named(params, Kind::Network, "id")?.id().to_owned();
    job::submit(state, params, Some(("Network", id)), |_| Ok(json!({"success": true})))
}

pub(super) fn associate(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let zone = list::zone(state, params, "zoneid")?.map(|(_, zone)| zone.id);
    let mut tables = state.tables();
    let network = match params.get("networkid") {
        Some(_) => tables.named(params, Kind::Network, "networkid")?.clone(),
        None => {
            let owner = params.owner()?;
            let there =
                |one: &&Object| zone.as_deref().is_none_or(|zone| one.text("zoneid") == zone);
            let fits = |one: &&Object| one.owner == owner && there(one);
            let first = tables.of(Kind::Network).find(fits).cloned();
            first.ok_or_else(|| ApiError::invalid("Please specify a network or a zone with one"))?
        }
    };
    let zone = fixture::Zone {
        id: network.text("zoneid").to_owned(),
        name: network.text("zonename").to_owned(),
    };
    let taken: Vec<&str> = tables.of(Kind::Address).map(|one| one.text("ipaddress")).collect();
    let free = (11..255).map(|n| format!("192.0.2.{n}")).find(|ip| !taken.contains(&ip.as_str()));
    let wanted =
        params.get("ipaddress").map(str::to_owned).filter(|ip| !taken.contains(&ip.as_str()));
    let ip = wanted.or(free);
    let ip = ip.ok_or_else(|| ApiError::capacity("Insufficient address capacity"))?;
    let address = address(&network, &zone, &ip);
    tables.objects.push(address.clone());
    drop(tables);
    let id = address.id().to_owned();
    // Another key than that of the list.
    job::submit_made(state, params, "IpAddress", &id, move |_| {
        Ok(json!({"ipaddress": address.show()}))
    })
}

pub(super) fn disassociate(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = {
        let mut tables = state.tables();
        let address = tables.named(params, Kind::Address, "id")?;
        if address.row["issourcenat"] == true {
            let text = "ip address is used for source nat purposes and can not be disassociated.";
            return Err(ApiError::invalid(text));
        }
        address.id().to_owned()
    };
    job::submit(state, params, Some(("IpAddress", id.clone())), move |state| {
        let mut tables = state.tables();
        tables.remove(Kind::Address, &id);
        tables.objects.retain(|o| o.text("publicipid") != id && o.text("ipaddressid") != id);
        Ok(json!({"success": true}))
    })
}

pub(super) fn enable_static_nat(state: &Shared, params: &Params) -> ApiResult<Value> {
    let mut tables = state.tables();
    let machine = tables.named(params, Kind::Machine, "virtualmachineid")?.clone();
    let address = tables.named(params, Kind::Address, "ipaddressid")?;
    if address.row["issourcenat"] == true
        || !["", machine.id()].contains(&address.text("virtualmachineid"))
    {
        return Err(ApiError::conflict("the address is in use for something else"));
    }
    address.set("isstaticnat", true);
    address.set("virtualmachineid", machine.id());
    address.set("virtualmachinename", machine.text("name"));
    Ok(json!({"success": "true"}))
}

pub(super) fn disable_static_nat(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = state.tables().named(params, Kind::Address, "ipaddressid")?.id().to_owned();
    job::submit(state, params, Some(("IpAddress", id.clone())), move |state| {
        let mut tables = state.tables();
        if let Some(address) = tables.object(Kind::Address, &id) {
            address.set("isstaticnat", false);
            address.unset(&["virtualmachineid", "virtualmachinename"]);
        }
        Ok(json!({"success": true}))
    })
}

/// A rule that has a port of an address already, of whatever kind.
fn conflict(tables: &Tables, address: &str, port: &str, kinds: &[Kind]) -> ApiResult<()> {
    let same = |o: &&Object| {
        let at = ["publicipid", "ipaddressid"].iter().any(|name| o.text(name) == address);
        let ports = ["publicport", "startport"].iter().any(|name| o.text(name) == port);
        kinds.contains(&o.kind) && at && ports
    };
    match tables.objects.iter().find(same) {
        Some(other) => Err(ApiError::conflict(format!(
            "The range specified, {port}-{port}, conflicts with rule {} which has {port}-{port}",
            other.id()
        ))),
        None => Ok(()),
    }
}

fn port<'a>(params: &'a Params, name: &str) -> ApiResult<&'a str> {
    let text = params.required(name)?;
    let sound = text.parse::<u16>().is_ok_and(|port| port > 0);
    if sound {
        Ok(text)
    } else {
        Err(ApiError::invalid(format!("{name} is an invalid value: {text}")))
    }
}

pub(super) fn balance(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let algorithm = params.required("algorithm")?.to_lowercase();
    if !["roundrobin", "leastconn", "source"].contains(&algorithm.as_str()) {
        return Err(ApiError::invalid(format!("Invalid algorithm: {algorithm}")));
    }
    let (public, private) = (port(params, "publicport")?, port(params, "privateport")?);
    let mut tables = state.tables();
    let address = tables.named(params, Kind::Address, "publicipid")?.clone();
    conflict(&tables, address.id(), public, &[Kind::Balancer, Kind::Forward])?;
    let rule = Object::new(
        Kind::Balancer,
        address.owner,
        json!({
            "name": params.required("name")?,
            "description": params.get("description"),
            "algorithm": algorithm,
            "publicipid": address.id(),
            "publicip": address.text("ipaddress"),
            // Ports are texts here.
            "publicport": public,
            "privateport": private,
            "protocol": params.get("protocol").unwrap_or("tcp"),
            "cidrlist": params.get("cidrlist").unwrap_or_default(),
            "networkid": address.text("associatednetworkid"),
            "zoneid": address.text("zoneid"),
            "state": "Add",
        }),
    );
    tables.objects.push(rule.clone());
    drop(tables);
    let id = rule.id().to_owned();
    let made = id.clone();
    job::submit_made(state, params, "FirewallRule", &id, move |state| {
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("Unable to find rule {made}"));
        let rule = tables.object(Kind::Balancer, &made).ok_or_else(gone)?;
        rule.set("state", "Active");
        // Another key than that of the list.
        Ok(json!({"loadbalancer": rule.show()}))
    })
}

pub(super) fn rebalance(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = state.tables().named(params, Kind::Balancer, "id")?.id().to_owned();
    let changes: Vec<_> = ["algorithm", "name", "description"]
        .into_iter()
        .filter_map(|name| Some((name, params.get(name)?.to_owned())))
        .collect();
    job::submit(state, params, Some(("FirewallRule", id.clone())), move |state| {
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("Unable to find rule {id}"));
        let rule = tables.object(Kind::Balancer, &id).ok_or_else(gone)?;
        changes.into_iter().for_each(|(name, value)| rule.set(name, value));
        Ok(json!({"loadbalancer": rule.show()}))
    })
}

/// The machines that a request names, by their ids or with an address each.
fn named_machines(params: &Params) -> ApiResult<Vec<String>> {
    let mut all: Vec<String> =
        params.list("virtualmachineids").into_iter().map(str::to_owned).collect();
    all.extend(params.maps("vmidipmap").into_values().filter_map(|mut map| map.remove("vmid")));
    if all.is_empty() {
        return Err(ApiError::invalid("No virtual machines (or addresses) were given"));
    }
    Ok(all)
}

pub(super) fn assign(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let machines = named_machines(params)?;
    let mut tables = state.tables();
    let rule = tables.named(params, Kind::Balancer, "id")?.clone();
    for id in &machines {
        let machine = tables.object(Kind::Machine, id);
        let machine =
            machine.ok_or_else(|| ApiError::no_such(&params.command, "virtualmachineids", id))?;
        let there = machine.row["nic"]
            .as_array()
            .is_some_and(|nics| nics.iter().any(|nic| nic["networkid"] == rule.text("networkid")));
        if !there || !["Running", "Starting", "Stopped"].contains(&machine.text("state")) {
            let text =
                format!("Unable to add virtual machine {id} to the rule: it is not in its network");
            return Err(ApiError::invalid(text));
        }
        if rule.members.contains(id) {
            let text = format!("VM {id} is already mapped to load balancer.");
            return Err(ApiError::invalid(text));
        }
    }
    drop(tables);
    members(state, params, rule.id(), move |members| members.extend(machines))
}

pub(super) fn unassign(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let machines = named_machines(params)?;
    let rule = state.tables().named(params, Kind::Balancer, "id")?.clone();
    if let Some(id) = machines.iter().find(|id| !rule.members.contains(id)) {
        return Err(ApiError::invalid(format!("Invalid VM for the rule: {id}")));
    }
    members(state, params, rule.id(), move |members| members.retain(|id| !machines.contains(id)))
}

fn members(
    state: &Arc<Shared>,
    params: &Params,
    rule: &str,
    change: impl FnOnce(&mut Vec<String>) + Send + 'static,
) -> ApiResult<Value> {
    let rule = rule.to_owned();
    job::submit(state, params, Some(("FirewallRule", rule.clone())), move |state| {
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("Unable to find rule {rule}"));
        change(&mut tables.object(Kind::Balancer, &rule).ok_or_else(gone)?.members);
        Ok(json!({"success": true}))
    })
}

pub(super) fn balanced(state: &Shared, params: &Params) -> ApiResult<Vec<Value>> {
    let mut tables = state.tables();
    let members = tables.named(params, Kind::Balancer, "id")?.members.clone();
    let machines = tables.of(Kind::Machine).filter(|one| members.iter().any(|id| id == one.id()));
    Ok(machines.map(Object::show).collect())
}

/// `createFirewallRule` and `createEgressFirewallRule`.
pub(super) fn open(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let protocol = params.required("protocol")?.to_lowercase();
    if !["tcp", "udp", "icmp", "all"].contains(&protocol.as_str()) {
        return Err(ApiError::invalid(format!("Protocol {protocol} is invalid")));
    }
    let egress = params.command == "createEgressFirewallRule";
    let mut tables = state.tables();
    let mut row = json!({
        "protocol": protocol,
        "startport": params.get("startport"),
        "endport": params.get("endport").or_else(|| params.get("startport")),
        "icmptype": params.number("icmptype")?,
        "icmpcode": params.number("icmpcode")?,
        "cidrlist": params.get("cidrlist").unwrap_or("0.0.0.0/0"),
        "state": "Active",
    });
    let owner = if egress {
        let network = tables.named(params, Kind::Network, "networkid")?;
        row["networkid"] = json!(network.id());
        network.owner
    } else {
        let address = tables.named(params, Kind::Address, "ipaddressid")?.clone();
        if let Some(port) = params.get("startport") {
            conflict(&tables, address.id(), port, &[Kind::Firewall])?;
        }
        row["ipaddressid"] = json!(address.id());
        row["ipaddress"] = json!(address.text("ipaddress"));
        row["networkid"] = json!(address.text("associatednetworkid"));
        address.owner
    };
    let rule = Object::new(if egress { Kind::Egress } else { Kind::Firewall }, owner, row);
    tables.objects.push(rule.clone());
    drop(tables);
    let id = rule.id().to_owned();
    job::submit_made(state, params, "FirewallRule", &id, move |_| {
        Ok(json!({"firewallrule": rule.show()}))
    })
}

pub(super) fn forward(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let (public, private) = (port(params, "publicport")?, port(params, "privateport")?);
    let protocol = params.required("protocol")?;
    let mut tables = state.tables();
    let address = tables.named(params, Kind::Address, "ipaddressid")?.clone();
    let machine = tables.named(params, Kind::Machine, "virtualmachineid")?.clone();
    conflict(&tables, address.id(), public, &[Kind::Balancer, Kind::Forward])?;
    let nic =
        machine.row["nic"].as_array().and_then(|nics| nics.first()).cloned().unwrap_or_default();
    let rule = Object::new(
        Kind::Forward,
        address.owner,
        json!({
            "protocol": protocol,
            "publicport": public,
            "publicendport": params.get("publicendport").unwrap_or(public),
            "privateport": private,
            "privateendport": params.get("privateendport").unwrap_or(private),
            "ipaddressid": address.id(),
            "ipaddress": address.text("ipaddress"),
            "virtualmachineid": machine.id(),
            "virtualmachinename": machine.text("name"),
            "vmguestip": params.get("vmguestip").map_or_else(|| nic["ipaddress"].clone(), |ip| json!(ip)),
            "networkid": address.text("associatednetworkid"),
            "state": "Active",
        }),
    );
    tables.objects.push(rule.clone());
    drop(tables);
    let id = rule.id().to_owned();
    let effect = move |_: &Shared| Ok(json!({"portforwardingrule": rule.show()}));
    job::submit_made(state, params, "FirewallRule", &id, effect)
}

/// A job that removes an object.
pub(super) fn remove(
    state: &Arc<Shared>,
    params: &Params,
    kind: Kind,
    name: &str,
) -> ApiResult<Value> {
    let id = state.tables().named(params, kind, name)?.id().to_owned();
    job::submit(state, params, Some(("FirewallRule", id.clone())), move |state| {
        let removed = state.tables().remove(kind, &id);
        let gone = || ApiError::invalid(format!("Unable to find the object with id {id}"));
        removed.map(|_| json!({"success": true})).ok_or_else(gone)
    })
}

/// Keys: registered by their public half, or made here.
pub(super) fn key(state: &Shared, params: &Params) -> ApiResult<Value> {
    let (name, owner) = (params.required("name")?, params.owner()?);
    let mut tables = state.tables();
    if tables.of(Kind::Key).any(|one| one.owner == owner && one.text("name") == name) {
        return Err(ApiError::invalid(format!("A key pair with name '{name}' already exists.")));
    }
    let mut row =
        json!({"name": name, "fingerprint": "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"});
    if params.command == "registerSSHKeyPair" {
        let public = params.required("publickey")?;
        if !["ssh-", "ecdsa-"].iter().any(|start| public.starts_with(start)) {
            return Err(ApiError::invalid("Public key is invalid"));
        }
    }
    let key = Object::new(Kind::Key, owner, row.clone());
    tables.objects.push(key);
    if params.command == "createSSHKeyPair" {
        row["privatekey"] = json!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\nsimulated\n-----END OPENSSH PRIVATE KEY-----\n"
        );
    }
    Ok(json!({"keypair": row}))
}

pub(super) fn delete_key(state: &Shared, params: &Params) -> ApiResult<Value> {
    let (name, owner) = (params.required("name")?, params.owner()?);
    let mut tables = state.tables();
    let before = tables.objects.len();
    tables
        .objects
        .retain(|one| one.kind != Kind::Key || one.owner != owner || one.text("name") != name);
    if tables.objects.len() == before {
        return Err(ApiError::invalid(format!(
            "A key pair with name '{name}' does not exist for account {}",
            params.caller.account
        )));
    }
    Ok(json!({"success": "true"}))
}
