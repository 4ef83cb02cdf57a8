//! From the parameters of a request to the answer of a command: who asks, may he, what is asked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::http::{Reply, VERSION};
use super::object::Kind;
use super::owner::{Caller, Owner};
use super::params::Params;
use super::state::Shared;
use super::template::What;
use super::{
    Fault, fixture, image, job, list, machine, network, register, sign, tags, ticket, update,
    volume,
};
use crate::net::Hangup;

/// A command that exists: its name, whether it is asynchronous, and what it must be given.
struct Command {
    name: &'static str,
    is_async: bool,
    required: &'static [&'static str],
}

const fn sync(name: &'static str, required: &'static [&'static str]) -> Command {
    Command { name, is_async: false, required }
}

const fn later(name: &'static str, required: &'static [&'static str]) -> Command {
    Command { name, is_async: true, required }
}

const COMMANDS: [Command; 96] = [
    later("assignToLoadBalancerRule", &["id"]),
    later("associateIpAddress", &[]),
    later("attachIso", &["id", "virtualmachineid"]),
    later("attachVolume", &["id", "virtualmachineid"]),
    later("copyIso", &["id"]),
    later("copyTemplate", &["id"]),
    later("createEgressFirewallRule", &["networkid", "protocol"]),
    later("createFirewallRule", &["ipaddressid", "protocol"]),
    later("createLoadBalancerRule", &["algorithm", "name", "privateport", "publicport"]),
    sync("createNetwork", &["name", "networkofferingid", "zoneid"]),
    later(
        "createPortForwardingRule",
        &["ipaddressid", "privateport", "protocol", "publicport", "virtualmachineid"],
    ),
    sync("createSSHKeyPair", &["name"]),
    later("createSnapshot", &["volumeid"]),
    later("createTags", &["resourceids", "resourcetype", "tags"]),
    later("createTemplate", &["name", "ostypeid"]),
    later("createVMSnapshot", &["virtualmachineid"]),
    later("createVolume", &[]),
    later("deleteEgressFirewallRule", &["id"]),
    later("deleteFirewallRule", &["id"]),
    later("deleteIso", &["id"]),
    later("deleteLoadBalancerRule", &["id"]),
    later("deleteNetwork", &["id"]),
    later("deletePortForwardingRule", &["id"]),
    sync("deleteSSHKeyPair", &["name"]),
    later("deleteSnapshot", &["id"]),
    later("deleteTags", &["resourceids", "resourcetype"]),
    later("deleteTemplate", &["id"]),
    later("deleteVMSnapshot", &["vmsnapshotid"]),
    sync("deleteVolume", &["id"]),
    later("deployVirtualMachine", &["serviceofferingid", "templateid", "zoneid"]),
    later("destroyVirtualMachine", &["id"]),
    later("detachIso", &["virtualmachineid"]),
    later("detachVolume", &["id"]),
    later("disableStaticNat", &["ipaddressid"]),
    later("disassociateIpAddress", &["id"]),
    sync("enableStaticNat", &["ipaddressid", "virtualmachineid"]),
    later("expungeVirtualMachine", &["id"]),
    later("extractIso", &["id", "mode"]),
    later("extractTemplate", &["id", "mode"]),
    later("extractVolume", &["id", "mode", "zoneid"]),
    sync("getUploadParamsForIso", &["format", "name", "zoneid"]),
    sync("getUploadParamsForTemplate", &["format", "hypervisor", "name", "zoneid"]),
    sync("getUploadParamsForVolume", &["format", "name", "zoneid"]),
    sync("listAccounts", &[]),
    sync("listApis", &[]),
    sync("listAsyncJobs", &[]),
    sync("listCapabilities", &[]),
    sync("listConfigurations", &[]),
    sync("listDiskOfferings", &[]),
    sync("listEgressFirewallRules", &[]),
    sync("listFirewallRules", &[]),
    sync("listHypervisors", &[]),
    sync("listIpForwardingRules", &[]),
    sync("listIsos", &[]),
    sync("listLoadBalancerRuleInstances", &["id"]),
    sync("listLoadBalancerRules", &[]),
    sync("listNetworkOfferings", &[]),
    sync("listNetworks", &[]),
    sync("listOsCategories", &[]),
    sync("listOsTypes", &[]),
    sync("listPortForwardingRules", &[]),
    sync("listProjects", &[]),
    sync("listPublicIpAddresses", &[]),
    sync("listResourceLimits", &[]),
    sync("listSSHKeyPairs", &[]),
    sync("listServiceOfferings", &[]),
    sync("listSnapshots", &[]),
    sync("listTags", &[]),
    sync("listTemplatePermissions", &["id"]),
    sync("listTemplates", &["templatefilter"]),
    sync("listVMSnapshot", &[]),
    sync("listVirtualMachines", &[]),
    sync("listVolumes", &[]),
    sync("listZones", &[]),
    later("migrateVolume", &["storageid", "volumeid"]),
    sync("queryAsyncJobResult", &["jobid"]),
    later("rebootVirtualMachine", &["id"]),
    sync("recoverVirtualMachine", &["id"]),
    sync("registerIso", &["name", "url", "zoneid"]),
    sync("registerSSHKeyPair", &["name", "publickey"]),
    sync("registerTemplate", &["format", "hypervisor", "name", "url"]),
    later("removeFromLoadBalancerRule", &["id"]),
    later("resetPasswordForVirtualMachine", &["id"]),
    later("resetSSHKeyForVirtualMachine", &["id"]),
    later("resizeVolume", &["id"]),
    later("restartNetwork", &["id"]),
    later("revertSnapshot", &["id"]),
    later("scaleVirtualMachine", &["id", "serviceofferingid"]),
    later("startVirtualMachine", &["id"]),
    later("stopVirtualMachine", &["id"]),
    later("updateLoadBalancerRule", &["id"]),
    sync("updateIsoPermissions", &["id"]),
    sync("updateTemplate", &["id"]),
    sync("updateTemplatePermissions", &["id"]),
    sync("updateVirtualMachine", &["id"]),
    later("uploadVolume", &["format", "name", "url", "zoneid"]),
];

pub(super) async fn handle(
    state: &Arc<Shared>,
    pairs: &[(String, String)],
    post: bool,
) -> Result<Reply, Hangup> {
    let name = value(pairs, "command").unwrap_or_default();
    let json = value(pairs, "response").is_some_and(|form| form.eq_ignore_ascii_case("json"));
    let command = COMMANDS.iter().find(|command| allowed(state, command) && command.name == name);
    let root = root_key(command);
    let struck = state.faults.count(name);
    let checked = || {
        let caller = authorize(state, pairs, struck.key_expired)?;
        let command = command.ok_or_else(|| ApiError::unknown_command(name))?;
        let params = Params::new(name, caller, pairs);
        if let Some(status) = struck.fails {
            return Err(ApiError::on_purpose(status));
        }
        check_method(state, name, post)?;
        params.check()?;
        for required in command.required.iter().filter(|one| **one != "tags") {
            params.required(required)?;
        }
        Ok(params)
    };
    // An error of nothing is a connection that is dropped.
    let outcome = async {
        let params = checked().map_err(Some)?;
        if let Some(after) = late(state, name) {
            tokio::spawn(afterwards(Arc::clone(state), params, after));
            return Err(None);
        }
        run(state, &params).await.map_err(Some)
    };
    let outcome = match outcome.await {
        Ok(mut value) => {
            if state.faults.on(&Fault::Stringly) {
                stringly(&mut value);
            }
            Ok(value)
        }
        Err(Some(error)) => Err(error),
        Err(None) => return Err(Hangup),
    };
    if struck.drops {
        return Err(Hangup);
    }
    Ok(match outcome {
        Ok(value) => Reply::command(json, &root, &value),
        Err(error) => Reply::refusal(json, &root, &error),
    })
}

/// The one key around an answer, which is not always made of the command's name.
fn root_key(command: Option<&Command>) -> String {
    match command.map(|command| command.name) {
        None => "errorresponse".to_owned(),
        Some("getUploadParamsForTemplate") => "postuploadtemplateresponse".to_owned(),
        Some("getUploadParamsForVolume") => "postuploadvolumeresponse".to_owned(),
        Some("getUploadParamsForIso") => "postuploadisoresponse".to_owned(),
        Some(name) => format!("{}response", name.to_lowercase()),
    }
}

/// Whether the account may give a command. Settings are for administrators, unless one is set.
fn allowed(state: &Shared, command: &Command) -> bool {
    let denied = state.faults.peek(|fault| match fault {
        Fault::Denied(name) if name == command.name => Some(()),
        _ => None,
    });
    let sites = state.faults.peek(|fault| match fault {
        Fault::AllowedSites(_) => Some(()),
        _ => None,
    });
    denied.is_none() && (command.name != "listConfigurations" || sites.is_some())
}

/// How much later than it was sent a request arrives.
pub(super) fn delay(state: &Shared, pairs: &[(String, String)]) -> Option<Duration> {
    let name = value(pairs, "command").unwrap_or_default();
    state.faults.take(|fault| match fault {
        Fault::LateArrival { after, command } if command == name => Some(*after),
        _ => None,
    })
}

/// How much later than its request a command takes effect.
fn late(state: &Shared, name: &str) -> Option<Duration> {
    state.faults.take(|fault| match fault {
        Fault::LateEffect { after, command } if command == name => Some(*after),
        _ => None,
    })
}

async fn afterwards(state: Arc<Shared>, params: Params, after: Duration) {
    tokio::time::sleep(after).await;
    let stopped = *state.stopped.borrow();
    if !stopped {
        let _ = run(&state, &params).await;
    }
}

/// As other releases write it: everything is text, and there is something new.
fn stringly(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(stringly);
            map.insert("somethingnew".to_owned(), json!({"of": ["tomorrow"]}));
        }
        Value::Array(items) => items.iter_mut().for_each(stringly),
        Value::Number(_) | Value::Bool(_) => *value = json!(value.to_string()),
        _ => {}
    }
}

/// `command` and `response` are looked for as they are written here.
fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The check of key, signature and time. Whatever fails, the answer is the same.
fn authorize(state: &Shared, pairs: &[(String, String)], key_expired: bool) -> ApiResult<Caller> {
    let find = |name: &str| {
        let found = pairs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).ok_or_else(ApiError::unauthorized)
    };
    let enforced = state.faults.on(&Fault::EnforcePost);
    let (key, signature) = (find("apikey")?, find("signature")?);
    let versioned = find("signatureversion").is_ok_and(|version| version == "3");
    let readable = |expires: &str| !state.faults.on(&Fault::OldExpires) || expires.contains('Z');
    let timely = if versioned {
        let expires = find("expires")?;
        readable(expires) && sign::in_time(expires, state.now(), enforced)
    } else {
        !enforced
    };
    let text = sign::string_to_sign(pairs);
    let keys = fixture::ACCOUNTS.map(|account| (account, state.config.keys_of(account)));
    let known = keys.iter().find(|(_, keys)| keys.0 == key);
    let known = known.filter(|(_, keys)| sign::verify(&keys.1, &text, signature));
    let expired = key_expired || state.faults.strikes(&Fault::ExpiredKey);
    match known {
        Some((account, _)) if timely && !expired && find("command").is_ok() => {
            Ok(Caller { account, is_admin: *account == fixture::ADMIN })
        }
        _ => Err(ApiError::unauthorized()),
    }
}

/// With the setting on, what changes something must come by POST.
fn check_method(state: &Shared, name: &str, post: bool) -> ApiResult<()> {
    let reads = ["get", "list", "query", "find"].iter().any(|verb| name.starts_with(verb));
    if post || reads || !state.faults.on(&Fault::EnforcePost) {
        return Ok(());
    }
    let text = format!("{name} command must be made using POST request");
    Err(ApiError { status: 400, cs: None, text })
}

async fn run(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let paged = |key: &str, rows: Vec<Value>| list::page(state, params, key, rows);
    match params.command.as_str() {
        "createTags" => tags::create(state, params),
        "deleteTags" => tags::delete(state, params),
        "deleteTemplate" => update::delete(state, params),
        "getUploadParamsForTemplate" => ticket::issue(state, params),
        "listAccounts" => paged("account", accounts(state, params)?),
        "listApis" => Ok(list::whole("api", &apis(state, params)?)),
        "listAsyncJobs" => paged("asyncjobs", job::list(state, params)?),
        "listCapabilities" => Ok(json!({"capability": {
            "cloudstackversion": VERSION,
            "securitygroupsenabled": false,
            "dynamicrolesenabled": true,
            "userpublictemplateenabled": true,
            "supportELB": "false",
            "kvmsnapshotenabled": true,
            "defaultuipagesize": 20,
        }})),
        "listHypervisors" => {
            list::zone(state, params, "zoneid")?;
            let rows = fixture::HYPERVISORS.iter().map(|name| json!({"name": name}));
            Ok(list::whole("hypervisor", &rows.collect::<Vec<_>>()))
        }
        "listOsCategories" => paged(
            "oscategory",
            list::filter(params, fixture::show_os_categories(), &["id", "name"]),
        ),
        "listOsTypes" => {
            let names = ["id", "oscategoryid", "description"];
            paged("ostype", list::filter(params, fixture::show_os_types(), &names))
        }
        "listResourceLimits" => paged("resourcelimit", limits(state, params.caller.account)),
        "listTags" => paged("tag", tags::list(state, params)?),
        "listTemplatePermissions" => update::permissions(state, params),
        "listTemplates" => paged("template", list::templates(state, params, What::Template)?),
        "listIsos" => paged("iso", list::templates(state, params, What::Iso)?),
        "listZones" => {
            let rows = state.zones().iter().map(fixture::Zone::show).collect();
            paged("zone", list::filter(params, rows, &["id", "name"]))
        }
        "queryAsyncJobResult" => job::query(state, params),
        "registerTemplate" => register::register(state, params).await,
        "updateTemplate" => update::update(state, params),
        "updateTemplatePermissions" => update::set_permissions(state, params),
        _ => infrastructure(state, params).await,
    }
}

/// The commands about machines, disks and networks.
async fn infrastructure(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    match params.command.as_str() {
        "deployVirtualMachine" => machine::deploy(state, params),
        "startVirtualMachine" => machine::start(state, params),
        "stopVirtualMachine" => machine::stop(state, params),
        "rebootVirtualMachine" => machine::reboot(state, params),
        "destroyVirtualMachine" => machine::destroy(state, params),
        "expungeVirtualMachine" => machine::expunge(state, params),
        "recoverVirtualMachine" => machine::recover(state, params),
        "updateVirtualMachine" => machine::update(state, params),
        "scaleVirtualMachine"
        | "resetPasswordForVirtualMachine"
        | "resetSSHKeyForVirtualMachine" => machine::change(state, params),
        "createVolume" => volume::create(state, params),
        "uploadVolume" => image::upload_volume(state, params).await,
        "attachVolume" => volume::attach(state, params),
        "detachVolume" => volume::detach(state, params),
        "deleteVolume" => volume::delete(state, params),
        "resizeVolume" => volume::resize(state, params),
        "migrateVolume" => volume::migrate(state, params),
        "extractVolume" => volume::extract(state, params),
        "createSnapshot" => volume::snapshot(state, params),
        "revertSnapshot" => volume::revert(state, params),
        "createVMSnapshot" => volume::machine_snapshot(state, params),
        "createTemplate" => volume::template(state, params),
        "copyTemplate" | "copyIso" => image::copy(state, params),
        "extractTemplate" | "extractIso" => image::extract(state, params),
        "deleteIso" => update::delete(state, params),
        "updateIsoPermissions" => update::set_permissions(state, params),
        "registerIso" => image::register_iso(state, params).await,
        "getUploadParamsForIso" | "getUploadParamsForVolume" => image::ticket(state, params),
        "attachIso" | "detachIso" => image::drive(state, params),
        "createNetwork" => network::create(state, params),
        "deleteNetwork" => network::delete(state, params),
        "restartNetwork" => network::restart(state, params),
        "associateIpAddress" => network::associate(state, params),
        "disassociateIpAddress" => network::disassociate(state, params),
        "enableStaticNat" => network::enable_static_nat(state, params),
        "disableStaticNat" => network::disable_static_nat(state, params),
        "createLoadBalancerRule" => network::balance(state, params),
        "updateLoadBalancerRule" => network::rebalance(state, params),
        "assignToLoadBalancerRule" => network::assign(state, params),
        "removeFromLoadBalancerRule" => network::unassign(state, params),
        "createFirewallRule" | "createEgressFirewallRule" => network::open(state, params),
        "createPortForwardingRule" => network::forward(state, params),
        "createSSHKeyPair" | "registerSSHKeyPair" => network::key(state, params),
        "deleteSSHKeyPair" => network::delete_key(state, params),
        "deleteLoadBalancerRule" => network::remove(state, params, Kind::Balancer, "id"),
        "deleteFirewallRule" => network::remove(state, params, Kind::Firewall, "id"),
        "deleteEgressFirewallRule" => network::remove(state, params, Kind::Egress, "id"),
        "deletePortForwardingRule" => network::remove(state, params, Kind::Forward, "id"),
        "deleteSnapshot" => network::remove(state, params, Kind::Snapshot, "id"),
        "deleteVMSnapshot" => network::remove(state, params, Kind::MachineSnapshot, "vmsnapshotid"),
        _ => lists(state, params),
    }
}

/// The lists of machines, disks and networks.
fn lists(state: &Shared, params: &Params) -> ApiResult<Value> {
    let of = |kind: Kind, names: &[&str]| network::rows(state, params, kind, names);
    let filter = |rows: Vec<Value>| list::filter(params, rows, &["id", "name"]);
    let (key, rows) = match params.command.as_str() {
        "listVirtualMachines" => ("virtualmachine", machine::list(state, params)?),
        "listVolumes" => ("volume", volume::list(state, params)?),
        "listNetworks" => ("network", of(Kind::Network, &["zoneid", "type"])?),
        "listPublicIpAddresses" => {
            ("publicipaddress", of(Kind::Address, &["zoneid", "associatednetworkid", "ipaddress"])?)
        }
        "listLoadBalancerRules" => {
            ("loadbalancerrule", of(Kind::Balancer, &["name", "publicipid", "networkid"])?)
        }
        "listLoadBalancerRuleInstances" => {
            ("loadbalancerruleinstance", network::balanced(state, params)?)
        }
        "listFirewallRules" => ("firewallrule", of(Kind::Firewall, &["ipaddressid"])?),
        "listEgressFirewallRules" => ("firewallrule", of(Kind::Egress, &["networkid"])?),
        "listPortForwardingRules" => ("portforwardingrule", of(Kind::Forward, &["ipaddressid"])?),
        "listIpForwardingRules" => ("ipforwardingrule", Vec::new()),
        "listSnapshots" => ("snapshot", of(Kind::Snapshot, &["volumeid", "name"])?),
        "listVMSnapshot" => ("vmsnapshot", of(Kind::MachineSnapshot, &["virtualmachineid"])?),
        "listSSHKeyPairs" => ("sshkeypair", of(Kind::Key, &["name"])?),
        "listServiceOfferings" => ("serviceoffering", filter(fixture::service_offerings())),
        "listDiskOfferings" => ("diskoffering", filter(fixture::disk_offerings())),
        "listNetworkOfferings" => ("networkoffering", filter(fixture::network_offerings())),
        "listProjects" => ("project", filter(projects(params))),
        "listConfigurations" => ("configuration", filter(settings(state))),
        other => return Err(ApiError::unknown_command(other)),
    };
    list::page(state, params, key, rows)
}

fn settings(state: &Shared) -> Vec<Value> {
    let sites = state.faults.peek(|fault| match fault {
        Fault::AllowedSites(sites) => Some(sites.clone()),
        _ => None,
    });
    let all = [
        ("secstorage.allowed.internal.sites", sites.unwrap_or_default()),
        ("default.page.size", state.page_size().to_string()),
    ];
    let row = |(name, value)| json!({"name": name, "value": value, "category": "Advanced"});
    all.into_iter().map(row).collect()
}

/// What this user may call.
fn apis(state: &Shared, params: &Params) -> ApiResult<Vec<Value>> {
    let wanted = params.get("name");
    let fits = |command: &&Command| wanted.is_none_or(|name| name == command.name);
    let may = |command: &&Command| allowed(state, command);
    let shown = COMMANDS.iter().filter(may).filter(fits).map(|command| {
        let required = command.required.iter().map(|name| {
            json!({"name": name, "description": "", "type": "string", "length": 255,
                   "required": true})
        });
        json!({
            "name": command.name,
            "description": "",
            "isasync": command.is_async,
            "related": "",
            "params": required.collect::<Vec<_>>(),
            "response": [],
        })
    });
    let shown: Vec<_> = shown.collect();
    if let (Some(name), true) = (wanted, shown.is_empty()) {
        return Err(ApiError::parameter(format!("API command '{name}' does not exist.")));
    }
    Ok(shown)
}

fn limit(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn unlimited() -> String {
    "Unlimited".to_owned()
}

/// The caller's account; to an administrator who asks for them, all.
fn accounts(state: &Shared, params: &Params) -> ApiResult<Vec<Value>> {
    let sees = params.sees()?;
    let seen = fixture::ACCOUNTS.into_iter().filter(|name| sees(Owner::Account(name)));
    let rows = seen.map(|name| account(state, name)).collect();
    Ok(list::filter(params, rows, &["id", "name"]))
}

/// Those that the caller is in; to an administrator who asks for them, all.
fn projects(params: &Params) -> Vec<Value> {
    let caller = params.caller;
    let all = caller.is_admin && params.flag("listall") == Some(true);
    let seen = fixture::PROJECTS.iter().filter(|one| all || one.1.contains(&caller.account));
    let row = |(name, members): &(&str, &[&str])| {
        let accounts = members.iter().map(|name| json!({"account": name}));
        json!({"id": fixture::project_id(name), "name": name, "displaytext": name, "state": "Active",
            "domainid": fixture::domain_id(), "domain": "ROOT", "owner": accounts.collect::<Vec<_>>()})
    };
    seen.map(row).collect()
}

fn account(state: &Shared, name: &str) -> Value {
    let shown = |room: u64| limit(room).map_or_else(unlimited, |room| room.to_string());
    let own = state.own_templates();
    let admin = name == fixture::ADMIN;
    let role = if admin { "Admin" } else { "User" };
    json!({
        "id": fixture::account_id(name),
        "name": name,
        "accounttype": u8::from(admin),
        "roletype": role,
        "rolename": role,
        "domainid": fixture::domain_id(),
        "domain": "ROOT",
        "domainpath": "ROOT",
        "state": "enabled",
        "templatetotal": own,
        "templateavailable": shown(state.template_room()),
        "secondarystorageavailable": limit(state.room())
            .map_or_else(unlimited, |room| (room >> 30).to_string()),
        "user": [{"id": fixture::stable_uuid("user", name), "username": name}],
    })
}

/// Resource types 4 (templates, a number) and 11 (secondary storage, GiB); -1 is no limit.
fn limits(state: &Shared, account: &str) -> Vec<Value> {
    let own = state.own_templates();
    let templates = limit(state.template_room()).map_or(-1, |room| (room + own).cast_signed());
    let quota = state.faults.peek(|fault| match fault {
        Fault::Quota(bytes) => Some((bytes >> 30).cast_signed()),
        _ => None,
    });
    let rows = [("4", "template", templates), ("11", "secondary_storage", quota.unwrap_or(-1))];
    let shown = rows.map(|(kind, name, max)| {
        json!({
            "account": account,
            "domainid": fixture::domain_id(),
            "domain": "ROOT",
            "resourcetype": kind,
            "resourcetypename": name,
            "max": max,
        })
    });
    shown.to_vec()
}
