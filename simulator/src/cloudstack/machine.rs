//! Virtual machines.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
use super::object::{Kind, Object};
use super::owner::Owner;
use super::params::Params;
use super::state::{Shared, Tables};
use super::template::State;
use super::{Fault, fixture, job, list, network};

/// What is put into every new machine.
struct Plan {
    id: String,
    zone: (usize, fixture::Zone),
    template: String,
    disk: Option<String>,
    disk_size: u64,
    start: bool,
    password: Option<String>,
}

pub(super) fn deploy(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let zone = list::zone(state, params, "zoneid")?
        .ok_or_else(|| ApiError::missing(&params.command, "zoneid"))?;
    let owner = params.owner()?;
    let offering = offering(params)?;
    let template = template(state, params, zone.0)?;
    check_details(params)?;
    let disk = params.get("diskofferingid").map(str::to_owned);
    let disk_size = match &disk {
        Some(id) => {
            let offering = fixture::offering(fixture::disk_offerings(), id);
            let offering =
                offering.ok_or_else(|| ApiError::no_such(&params.command, "diskofferingid", id))?;
            offering["disksize"].as_u64().unwrap_or(1)
        }
        None => 0,
    };
    let password = template.password.then(|| Uuid::new_v4().simple().to_string()[..8].to_owned());
    let mut tables = state.tables();
    let nics = nics(&mut tables, params, owner, &zone.1)?;
    let keys = params.get("keypairs").or_else(|| params.get("keypair"));
    if let Some(name) = keys
        .filter(|name| !tables.of(Kind::Key).any(|k| k.owner == owner && k.text("name") == *name))
    {
        let text = format!("A key pair with name '{name}' was not found.");
        return Err(ApiError::invalid(text));
    }
    let name = params.get("name").map_or_else(|| format!("VM-{}", Uuid::new_v4()), str::to_owned);
    if tables.of(Kind::Machine).any(|m| m.text("name") == name) {
        let text = format!("There already exists a VM by the name: {name}.");
        return Err(ApiError::invalid(text));
    }
    let machine = Object::new(
        Kind::Machine,
        owner,
        json!({
            "name": name,
            "displayname": params.get("displayname").unwrap_or(&name),
            "state": "Starting",
            "zoneid": zone.1.id,
            "zonename": zone.1.name,
            "hypervisor": template.hypervisor,
            "templateid": template.id,
            "templatename": template.name,
            "ostypeid": template.os_type,
            "passwordenabled": template.password,
            "serviceofferingid": offering["id"],
            "serviceofferingname": offering["name"],
            "cpunumber": offering["cpunumber"],
            "cpuspeed": offering["cpuspeed"],
            "memory": offering["memory"],
            "haenable": false,
            "rootdeviceid": 0,
            "rootdevicetype": "ROOT",
            "keypairs": keys,
            "userdata": params.get("userdata"),
            "group": params.get("group"),
            "securitygroup": [],
            "affinitygroup": [],
            // Of a machine all indexes are taken.
            "details": params.merged("details"),
            "nic": nics,
        }),
    );
    let plan = Plan {
        id: machine.id().to_owned(),
        zone,
        template: template.id,
        disk,
        disk_size,
        start: params.flag("startvm") != Some(false),
        password,
    };
    tables.objects.push(machine);
    drop(tables);
    let id = plan.id.clone();
    job::submit_made(state, params, "VirtualMachine", &id, move |state| deployed(state, &plan))
}

fn deployed(state: &Shared, plan: &Plan) -> ApiResult<Value> {
    let full = state.faults.strikes(&Fault::NoCapacity);
    let mut tables = state.tables();
    let data = tables.templates.iter().find(|one| one.id == plan.template).and_then(|template| {
        let copy = template.copies.iter().find(|copy| copy.zone == plan.zone.0)?;
        Some((copy.size, copy.path.clone()))
    });
    let gone = || ApiError::internal("The machine is not there any more");
    let machine = tables.object(Kind::Machine, &plan.id).ok_or_else(gone)?;
    if full {
        machine.set("state", "Error");
        let name = machine.text("name").to_owned();
        return Err(ApiError::capacity(format!("Unable to create a deployment for VM {name}")));
    }
    machine.set("state", if plan.start { "Running" } else { "Stopped" });
    let (size, path) = data.unwrap_or_default();
    let root = volume_of(machine, &plan.zone.1, ("ROOT", 0), size, path);
    let disk = plan.disk.as_ref().map(|offering| {
        let mut disk =
            volume_of(machine, &plan.zone.1, ("DATADISK", 1), plan.disk_size << 30, None);
        disk.set("diskofferingid", offering.as_str());
        disk
    });
    let mut shown = machine.show();
    if let Some(password) = &plan.password {
        shown["password"] = json!(password);
    }
    tables.objects.extend(std::iter::once(root).chain(disk));
    Ok(json!({"virtualmachine": shown}))
}

fn volume_of(
    machine: &Object,
    zone: &fixture::Zone,
    (kind, device): (&str, u64),
    size: u64,
    path: Option<std::path::PathBuf>,
) -> Object {
    let mut volume = Object::new(
        Kind::Volume,
        machine.owner,
        json!({
            "name": format!("{}-{}", if device == 0 { "ROOT" } else { "DATA" }, machine.text("name")),
            "type": kind,
            "state": "Ready",
            "size": size,
            "deviceid": device,
            "zoneid": zone.id,
            "zonename": zone.name,
            "hypervisor": machine.text("hypervisor"),
            "storage": "primary1",
            "isextractable": true,
        }),
    );
    tie(&mut volume, machine);
    volume.path = path;
    volume
}

/// Ties a volume to a machine.
pub(super) fn tie(volume: &mut Object, machine: &Object) {
    for (name, from) in [
        ("virtualmachineid", "id"),
        ("vmname", "name"),
        ("vmdisplayname", "displayname"),
        ("vmstate", "state"),
    ] {
        volume.set(name, machine.text(from));
    }
}

fn offering(params: &Params) -> ApiResult<Value> {
    let id = params.required("serviceofferingid")?;
    let found = fixture::offering(fixture::service_offerings(), id);
    found.ok_or_else(|| ApiError::no_such(&params.command, "serviceofferingid", id))
}

struct Source {
    id: String,
    name: String,
    hypervisor: String,
    os_type: String,
    password: bool,
}

fn template(state: &Shared, params: &Params, zone: usize) -> ApiResult<Source> {
    let id = params.required("templateid")?;
    let mut tables = state.tables();
    let template = tables.templates.iter_mut().find(|one| one.id == id && !one.is_volume());
    let template = template.ok_or_else(|| ApiError::no_such(&params.command, "templateid", id))?;
    template.settle();
    if !template.is_usable(params.caller) {
        params.check_use(template.owner, id)?;
    }
    let ready = |copy: &super::template::Copy| copy.zone == zone && copy.state == State::Ready;
    if !template.copies.iter().any(ready) {
        let text = format!("Template {id} has not been completely downloaded to the zone");
        return Err(ApiError::invalid(text));
    }
    Ok(Source {
        id: template.id.clone(),
        name: template.name.clone(),
        hypervisor: template.hypervisor.clone(),
        os_type: template.ostypeid.clone(),
        password: template.flag("passwordenabled"),
    })
}

fn check_details(params: &Params) -> ApiResult<()> {
    if let Some(data) = params.get("userdata") {
        let decoded = STANDARD.decode(data);
        if decoded.is_err() {
            return Err(ApiError::invalid("User data is not base64 encoded"));
        }
    }
    if params.get("networkids").is_some() && !params.maps("iptonetworklist").is_empty() {
        let text = "ipToNetworkMap can't be specified along with networkIds or ipAddress";
        return Err(ApiError::invalid(text));
    }
    Ok(())
}

/// The interfaces of a new machine: in the networks that are named, or in the owner's first of the zone.
fn nics(
    tables: &mut Tables,
    params: &Params,
    owner: Owner,
    zone: &fixture::Zone,
) -> ApiResult<Vec<Value>> {
    let mut wanted: Vec<(String, Option<String>)> = params
        .maps("iptonetworklist")
        .into_values()
        .filter_map(|mut map| Some((map.remove("networkid")?, map.remove("ip"))))
        .collect();
    wanted.extend(params.list("networkids").into_iter().map(|id| (id.to_owned(), None)));
    if wanted.is_empty() {
        wanted.push((network::first_of(tables, owner, zone), None));
    }
    let mut nics = Vec::new();
    for (at, (id, address)) in wanted.iter().enumerate() {
        let network =
            tables.of(Kind::Network).find(|one| one.id() == id && one.text("zoneid") == zone.id);
        let network =
            network.ok_or_else(|| ApiError::no_such(&params.command, "networkids", id))?;
        params.check_use(network.owner, id)?;
        let prefix = network.text("gateway").rsplit_once('.').map_or("10.1.1", |(start, _)| start);
        let taken: Vec<&str> = tables
            .of(Kind::Machine)
            .flat_map(|one| one.row["nic"].as_array().into_iter().flatten())
            .filter_map(|nic| nic["ipaddress"].as_str())
            .collect();
        let free = || {
            let all = (2..255).map(|n| format!("{prefix}.{n}"));
            let mut free = all.filter(|address| !taken.contains(&address.as_str()));
            free.next().ok_or_else(|| ApiError::capacity("Insufficient address capacity"))
        };
        let address = match address {
            Some(address) if taken.contains(&address.as_str()) => {
                return Err(ApiError::invalid(format!("The address {address} is not free")));
            }
            Some(address) => address.clone(),
            None => free()?,
        };
        nics.push(json!({
            "id": Uuid::new_v4().to_string(),
            "networkid": id,
            "networkname": network.text("name"),
            "ipaddress": address,
            "gateway": network.text("gateway"),
            "netmask": "255.255.255.0",
            "macaddress": format!("02:00:5e:00:00:{:02x}", (taken.len() + at + 1) & 0xff),
            "traffictype": "Guest",
            "type": "Isolated",
            "isdefault": at == 0,
        }));
    }
    Ok(nics)
}

/// The list: what was destroyed is shown to administrators only.
pub(super) fn list(state: &Shared, params: &Params) -> ApiResult<Vec<Value>> {
    let names = ["name", "state", "zoneid", "templateid", "hypervisor"];
    let mut rows = super::object::list(state, params, Kind::Machine, &names)?;
    rows.retain(|row| row["state"] != "Destroyed");
    if let Some(network) = params.get("networkid") {
        let nics = |row: &Value| row["nic"].as_array().cloned().unwrap_or_default();
        rows.retain(|row| nics(row).iter().any(|nic| nic["networkid"] == network));
    }
    Ok(rows)
}

/// A job that brings a machine from one of some states to another one.
fn to(state: &Arc<Shared>, params: &Params, from: &[&str], to: &'static str) -> ApiResult<Value> {
    let id = {
        let mut tables = state.tables();
        let machine = tables.named(params, Kind::Machine, "id")?;
        check_state(machine, from)?;
        machine.id().to_owned()
    };
    job::submit(state, params, Some(("VirtualMachine", id.clone())), move |state| {
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("Unable to find a virtual machine with id {id}"));
        let machine = tables.object(Kind::Machine, &id).ok_or_else(gone)?;
        machine.set("state", to);
        let shown = machine.show();
        for volume in tables.objects.iter_mut().filter(|o| o.text("virtualmachineid") == id) {
            volume.set("vmstate", to);
        }
        Ok(json!({"virtualmachine": shown}))
    })
}

fn check_state(machine: &Object, allowed: &[&str]) -> ApiResult<()> {
    let now = machine.text("state");
    if allowed.contains(&now) {
        return Ok(());
    }
    let (id, wanted) = (machine.id(), allowed.join(" or "));
    Err(ApiError::invalid(format!(
        "Vm with id {id} is {now}; it is not in the right state: {wanted}"
    )))
}

pub(super) fn start(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    to(state, params, &["Stopped", "Running"], "Running")
}

pub(super) fn stop(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    to(state, params, &["Running", "Stopped"], "Stopped")
}

pub(super) fn reboot(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    to(state, params, &["Running"], "Running")
}

pub(super) fn destroy(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let for_good = params.flag("expunge") == Some(true);
    if !for_good {
        return to(state, params, &["Running", "Stopped", "Error"], "Destroyed");
    }
    let volumes: Vec<String> = params.list("volumeids").into_iter().map(str::to_owned).collect();
    end(state, params, volumes)
}

pub(super) fn expunge(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    check_state(state.tables().named(params, Kind::Machine, "id")?, &["Destroyed", "Error"])?;
    end(state, params, Vec::new())
}

/// Removes a machine for good, with its root disk and the volumes that are named.
fn end(state: &Arc<Shared>, params: &Params, volumes: Vec<String>) -> ApiResult<Value> {
    let id = state.tables().named(params, Kind::Machine, "id")?.id().to_owned();
    let expunged = params.command == "expungeVirtualMachine";
    job::submit(state, params, Some(("VirtualMachine", id.clone())), move |state| {
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("Unable to find a virtual machine with id {id}"));
        let mut machine = tables.remove(Kind::Machine, &id).ok_or_else(gone)?;
        machine.set("state", "Expunging");
        let own = |o: &Object| o.kind == Kind::Volume && o.text("virtualmachineid") == id;
        let doomed: Vec<String> = tables
            .objects
            .iter()
            .filter(|o| own(o) && (o.text("type") == "ROOT" || volumes.iter().any(|v| v == o.id())))
            .map(|o| o.id().to_owned())
            .collect();
        for volume in doomed {
            tables.remove(Kind::Volume, &volume);
        }
        for object in &mut tables.objects {
            object.members.retain(|member| *member != id);
            if object.text("virtualmachineid") == id {
                object.unset(&[
                    "virtualmachineid",
                    "vmname",
                    "vmstate",
                    "vmdisplayname",
                    "deviceid",
                ]);
            }
        }
        if expunged {
            Ok(json!({"success": true}))
        } else {
            Ok(json!({"virtualmachine": machine.show()}))
        }
    })
}

pub(super) fn recover(state: &Shared, params: &Params) -> ApiResult<Value> {
    let mut tables = state.tables();
    let machine = tables.named(params, Kind::Machine, "id")?;
    check_state(machine, &["Destroyed"])?;
    machine.set("state", "Stopped");
    Ok(json!({"virtualmachine": machine.show()}))
}

pub(super) fn update(state: &Shared, params: &Params) -> ApiResult<Value> {
    if let Some(id) = params.get("ostypeid").filter(|id| fixture::os_type_name(id).is_none()) {
        return Err(ApiError::no_such(&params.command, "ostypeid", id));
    }
    let mut tables = state.tables();
    let machine = tables.named(params, Kind::Machine, "id")?;
    if params.get("ostypeid").is_some() || params.get("isdynamicallyscalable").is_some() {
        check_state(machine, &["Stopped"])?;
    }
    for name in ["name", "displayname", "ostypeid", "group"] {
        if let Some(value) = params.get(name) {
            machine.set(name, value);
        }
    }
    if let Some(on) = params.flag("haenable") {
        machine.set("haenable", on);
    }
    let details = params.merged("details");
    if !details.is_empty() {
        machine.set("details", json!(details));
    }
    Ok(json!({"virtualmachine": machine.show()}))
}

/// `scaleVirtualMachine`, `resetPasswordForVirtualMachine`, `resetSSHKeyForVirtualMachine`.
pub(super) fn change(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let command = params.command.clone();
    let offering = if command == "scaleVirtualMachine" { Some(offering(params)?) } else { None };
    let key = params.get("keypair").map(str::to_owned);
    let id = {
        let mut tables = state.tables();
        let machine = tables.named(params, Kind::Machine, "id")?;
        check_state(
            machine,
            if offering.is_some() { &["Stopped", "Running"] } else { &["Stopped"] },
        )?;
        if command == "resetPasswordForVirtualMachine" && machine.row["passwordenabled"] != true {
            return Err(ApiError::invalid(
                "Fail to reset password for the virtual machine, the template is not password enabled",
            ));
        }
        machine.id().to_owned()
    };
    job::submit(state, params, Some(("VirtualMachine", id.clone())), move |state| {
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("Unable to find a virtual machine with id {id}"));
        let machine = tables.object(Kind::Machine, &id).ok_or_else(gone)?;
        if let Some(offering) = offering {
            for (name, from) in [
                ("serviceofferingid", "id"),
                ("serviceofferingname", "name"),
                ("cpunumber", "cpunumber"),
                ("memory", "memory"),
            ] {
                machine.set(name, offering[from].clone());
            }
            return Ok(json!({"success": true}));
        }
        let mut shown = machine.show();
        if let Some(key) = key {
            machine.set("keypairs", key);
            shown = machine.show();
        }
        if machine.row["passwordenabled"] == true {
            shown["password"] = json!(Uuid::new_v4().simple().to_string()[..8]);
        }
        Ok(json!({"virtualmachine": shown}))
    })
}
