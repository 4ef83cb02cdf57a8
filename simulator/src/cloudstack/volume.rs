//! Volumes, their snapshots, and templates made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::machine::tie;
use super::object::{Kind, Object};
use super::params::Params;
use super::state::{Shared, Tables};
use super::template::{Copy, State};
use super::{fixture, job, list, register};

/// Volumes on primary storage, and those whose data came from outside and were never attached.
pub(super) fn list(state: &Shared, params: &Params) -> ApiResult<Vec<Value>> {
    let names = ["name", "type", "state", "zoneid", "virtualmachineid"];
    let (zones, sees) = (state.zones(), params.sees()?);
    let uploaded: Vec<Value> = {
        let mut tables = state.tables();
        let volumes = tables.templates.iter_mut().filter(|one| one.is_volume() && sees(one.owner));
        let rows = volumes.flat_map(|one| {
            one.settle();
            let rows = one.copies.iter();
            rows.filter_map(|c| Some(one.show_volume(c, zones.get(c.zone)?))).collect::<Vec<_>>()
        });
        rows.collect()
    };
    if let Some(id) = params.get("id")
        && uploaded.iter().any(|row| row["id"] == id)
    {
        return Ok(list::filter(params, uploaded, &["id"]));
    }
    let mut rows = super::object::list(state, params, Kind::Volume, &names)?;
    let names: Vec<_> = ["id"].into_iter().chain(names).collect();
    rows.extend(list::filter(params, uploaded, &names));
    Ok(rows)
}

pub(super) fn create(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let (name, owner) = (params.required("name")?, params.owner()?);
    let mut tables = state.tables();
    let (size, offering, path) = match (params.get("snapshotid"), params.get("diskofferingid")) {
        (Some(_), _) => {
            let snapshot = tables.named(params, Kind::Snapshot, "snapshotid")?;
            (snapshot.number("virtualsize"), None, snapshot.path.clone())
        }
        (None, Some(id)) => {
            let offering = fixture::offering(fixture::disk_offerings(), id);
            let offering =
                offering.ok_or_else(|| ApiError::no_such(&params.command, "diskofferingid", id))?;
            let size = match (offering["iscustomized"] == true, params.number("size")?) {
                (true, Some(size)) if size > 0 => size.unsigned_abs(),
                (true, _) => {
                    let text = "This disk offering requires a custom size specified";
                    return Err(ApiError::invalid(text));
                }
                (false, Some(_)) => {
                    let text = "This disk offering does not allow custom size";
                    return Err(ApiError::invalid(text));
                }
                (false, None) => offering["disksize"].as_u64().unwrap_or(1),
            };
            (size << 30, Some(id.to_owned()), None)
        }
        (None, None) => {
            let text =
                "Either disk Offering Id or snapshot Id must be passed whilst creating volume";
            return Err(ApiError::invalid(text));
        }
    };
    drop(tables);
    let zone = list::zone(state, params, "zoneid")?.map(|(_, zone)| zone);
    let mut volume = Object::new(
        Kind::Volume,
        owner,
        json!({
            "name": name,
            "type": "DATADISK",
            "state": "Allocated",
            "size": size,
            "diskofferingid": offering,
            "snapshotid": params.get("snapshotid"),
            "zoneid": zone.as_ref().map(|zone| &zone.id),
            "zonename": zone.as_ref().map(|zone| &zone.name),
            "hypervisor": "None",
            "isextractable": true,
        }),
    );
    volume.path = path;
    let id = volume.id().to_owned();
    state.tables().objects.push(volume);
    let made = id.clone();
    job::submit_made(state, params, "Volume", &id, move |state| {
        let mut tables = state.tables();
        let volume = find(&mut tables, &made)?;
        if volume.row.contains_key("snapshotid") {
            volume.set("state", "Ready");
        }
        Ok(json!({"volume": volume.show()}))
    })
}

fn find<'a>(tables: &'a mut Tables, id: &str) -> ApiResult<&'a mut Object> {
    let gone = || ApiError::invalid(format!("Unable to find a volume with id {id}"));
    tables.object(Kind::Volume, id).ok_or_else(gone)
}

/// Makes of an uploaded volume one that machines can have.
fn adopt(state: &Shared, params: &Params, id: &str) -> ApiResult<()> {
    let zones = state.zones();
    let mut tables = state.tables();
    let Some(at) = tables.templates.iter().position(|one| one.is_volume() && one.id == id) else {
        return Ok(());
    };
    params.check_use(tables.templates[at].owner, id)?;
    tables.templates[at].settle();
    let ready = tables.templates[at].copies.iter().any(|copy| copy.state == State::Ready);
    if !ready {
        let text = format!("Volume {id} is not in state Uploaded or Ready: it cannot be attached");
        return Err(ApiError::invalid(text));
    }
    let uploaded = tables.templates.remove(at);
    if let Some(copy) = uploaded.copies.first()
        && let Some(zone) = zones.get(copy.zone)
    {
        let mut volume =
            Object::new(Kind::Volume, uploaded.owner, uploaded.show_volume(copy, zone));
        volume.set("state", "Ready");
        volume.path.clone_from(&copy.path);
        tables.objects.push(volume);
    }
    Ok(())
}

pub(super) fn attach(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = params.required("id")?.to_owned();
    let machine = {
        let mut tables = state.tables();
        let machine = tables.named(params, Kind::Machine, "virtualmachineid")?;
        if !["Running", "Stopped"].contains(&machine.text("state")) {
            return Err(ApiError::invalid(
                "Please specify a VM that is either running or stopped.",
            ));
        }
        machine.clone()
    };
    adopt(state, params, &id)?;
    let mut tables = state.tables();
    let volume = tables.named(params, Kind::Volume, "id")?;
    if !volume.text("virtualmachineid").is_empty() {
        return Err(ApiError::invalid(format!(
            "Please specify a volume that is not attached to any VM: {id}"
        )));
    }
    let taken: Vec<u64> = tables
        .of(Kind::Volume)
        .filter(|one| one.text("virtualmachineid") == machine.id())
        .map(|one| one.number("deviceid"))
        .collect();
    let device = match params.number("deviceid")? {
        Some(wanted) => {
            let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
            if taken.contains(&wanted) {
                return Err(ApiError::invalid(format!(
                    "deviceId {wanted} is used by VM {}",
                    machine.id()
                )));
            }
            wanted
        }
        // Three is the drive of ISOs.
        None => (1..).find(|n| *n != 3 && !taken.contains(n)).unwrap_or(1),
    };
    drop(tables);
    job::submit(state, params, Some(("Volume", id.clone())), move |state| {
        let mut tables = state.tables();
        let volume = find(&mut tables, &id)?;
        tie(volume, &machine);
        volume.set("deviceid", device);
        volume.set("state", "Ready");
        volume.set("attached", super::template::cloudstack_time(jiff::Timestamp::now()));
        volume.set("hypervisor", machine.text("hypervisor"));
        Ok(json!({"volume": volume.show()}))
    })
}

pub(super) fn detach(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = {
        let mut tables = state.tables();
        let volume = tables.named(params, Kind::Volume, "id")?;
        if volume.text("type") == "ROOT" && volume.text("vmstate") == "Running" {
            return Err(ApiError::invalid("Please specify a data volume, or stop the VM"));
        }
        if volume.text("virtualmachineid").is_empty() {
            return Err(ApiError::invalid("The specified volume is not attached to a VM."));
        }
        volume.id().to_owned()
    };
    job::submit(state, params, Some(("Volume", id.clone())), move |state| {
        let mut tables = state.tables();
        let volume = find(&mut tables, &id)?;
        volume.unset(&[
            "virtualmachineid",
            "vmname",
            "vmstate",
            "vmdisplayname",
            "deviceid",
            "attached",
        ]);
        Ok(json!({"volume": volume.show()}))
    })
}

pub(super) fn delete(state: &Shared, params: &Params) -> ApiResult<Value> {
    let mut tables = state.tables();
    let id = params.required("id")?;
    if let Some(at) = tables.templates.iter().position(|one| one.is_volume() && one.id == id) {
        params.check_use(tables.templates[at].owner, id)?;
        let uploaded = tables.templates.remove(at);
        for path in uploaded.copies.into_iter().filter_map(|copy| copy.path) {
            let _ = std::fs::remove_file(path);
        }
        tables.removed.insert(id.to_owned());
        return Ok(json!({"success": true}));
    }
    let volume = tables.named(params, Kind::Volume, "id")?;
    if !volume.text("virtualmachineid").is_empty() {
        let text = "Please specify a volume that is not attached to any VM.";
        return Err(ApiError::invalid(text));
    }
    tables.remove(Kind::Volume, id);
    // Old servers say it by a word, which clients of theirs expect.
    Ok(json!({"success": "true"}))
}

pub(super) fn resize(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let size = params.number("size")?.filter(|size| *size > 0).map(i64::unsigned_abs);
    let id = {
        let mut tables = state.tables();
        let volume = tables.named(params, Kind::Volume, "id")?;
        let shrinks = size.is_some_and(|size| size << 30 < volume.number("size"));
        if shrinks && params.flag("shrinkok") != Some(true) {
            let text = "Going from existing size to a smaller one would shrink the volume. Need to sign off by supplying the shrinkok parameter with value of true.";
            return Err(ApiError::invalid(text));
        }
        volume.id().to_owned()
    };
    job::submit(state, params, Some(("Volume", id.clone())), move |state| {
        let mut tables = state.tables();
        let volume = find(&mut tables, &id)?;
        if let Some(size) = size {
            volume.set("size", size << 30);
        }
        Ok(json!({"volume": volume.show()}))
    })
}

pub(super) fn migrate(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = state.tables().named(params, Kind::Volume, "volumeid")?.id().to_owned();
    let storage = params.required("storageid")?.to_owned();
    job::submit(state, params, Some(("Volume", id.clone())), move |state| {
        let mut tables = state.tables();
        let volume = find(&mut tables, &id)?;
        volume.set("storageid", storage);
        Ok(json!({"volume": volume.show()}))
    })
}

/// A URL to download a volume from, the same as long as it is good.
pub(super) fn extract(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let volume = {
        let mut tables = state.tables();
        let volume = tables.named(params, Kind::Volume, "id")?;
        if volume.text("type") == "ROOT" && volume.text("vmstate") == "Running" {
            let text = "Invalid state of the volume. It should be either detached or the VM should be in stopped state.";
            return Err(ApiError::denied(text));
        }
        volume.clone()
    };
    let id = volume.id().to_owned();
    job::submit(state, params, Some(("Volume", id.clone())), move |_| {
        let url = format!("http://127.0.0.1/userdata/{}.vhd", fixture::stable_uuid("extract", &id));
        Ok(json!({"volume": {"id": id, "name": volume.text("name"), "extractMode": "HTTP_DOWNLOAD",
            "state": "DOWNLOAD_URL_CREATED", "url": url, "storagetype": "ROOT"}}))
    })
}

pub(super) fn snapshot(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let snapshot = {
        let mut tables = state.tables();
        let volume = tables.named(params, Kind::Volume, "volumeid")?;
        if volume.text("state") != "Ready" {
            let text = format!("VolumeId: {} is not in Ready state", volume.id());
            return Err(ApiError::invalid(text));
        }
        let mut snapshot = Object::new(
            Kind::Snapshot,
            volume.owner,
            json!({
                "name": params.get("name").map_or_else(|| format!("{}_snap", volume.text("name")), str::to_owned),
                "state": "BackingUp",
                "volumeid": volume.id(),
                "volumename": volume.text("name"),
                "volumetype": volume.text("type"),
                "snapshottype": "MANUAL",
                "intervaltype": "MANUAL",
                "zoneid": volume.row.get("zoneid"),
                "virtualsize": volume.number("size"),
                "physicalsize": volume.number("size"),
                "revertable": true,
            }),
        );
        snapshot.path.clone_from(&volume.path);
        tables.objects.push(snapshot.clone());
        snapshot
    };
    let id = snapshot.id().to_owned();
    let made = id.clone();
    job::submit_made(state, params, "Snapshot", &id, move |state| {
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("Unable to find a snapshot with id {made}"));
        let snapshot = tables.object(Kind::Snapshot, &made).ok_or_else(gone)?;
        snapshot.set("state", "BackedUp");
        Ok(json!({"snapshot": snapshot.show()}))
    })
}

pub(super) fn revert(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = {
        let mut tables = state.tables();
        let (id, volume) = {
            let snapshot = tables.named(params, Kind::Snapshot, "id")?;
            (snapshot.id().to_owned(), snapshot.text("volumeid").to_owned())
        };
        if find(&mut tables, &volume)?.text("vmstate") == "Running" {
            let text = "The VM the specified disk is attached to is not in the shutdown state.";
            return Err(ApiError::invalid(text));
        }
        id
    };
    job::submit(state, params, Some(("Snapshot", id)), |_| Ok(json!({"success": true})))
}

/// `createVMSnapshot`.
pub(super) fn machine_snapshot(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let snapshot = {
        let mut tables = state.tables();
        let machine = tables.named(params, Kind::Machine, "virtualmachineid")?;
        let name = params.get("name").unwrap_or("snapshot");
        let row = json!({"name": format!("i-2-3_VS_{name}"), "displayname": name, "state": "Ready",
            "type": "Disk", "virtualmachineid": machine.id(), "current": true});
        let snapshot = Object::new(Kind::MachineSnapshot, machine.owner, row);
        tables.objects.push(snapshot.clone());
        snapshot
    };
    let id = snapshot.id().to_owned();
    job::submit_made(state, params, "VMSnapshot", &id, move |_| {
        Ok(json!({"vmsnapshot": snapshot.show()}))
    })
}

/// `createTemplate`: of a volume nobody writes to, or of a snapshot.
pub(super) fn template(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let os_type = params.required("ostypeid")?;
    if fixture::os_type_name(os_type).is_none() {
        return Err(ApiError::no_such(&params.command, "ostypeid", os_type));
    }
    let mut template = register::named(params, "VHD", "XenServer", os_type)?;
    let zones = state.zones();
    let source = {
        let mut tables = state.tables();
        match (params.get("volumeid"), params.get("snapshotid")) {
            (Some(_), None) => {
                let volume = tables.named(params, Kind::Volume, "volumeid")?;
                if !["", "Stopped"].contains(&volume.text("vmstate")) {
                    let text = format!(
                        "Unable to create private template for volume: {}; volume is attached to a non-stopped VM, please stop the VM first",
                        volume.text("name")
                    );
                    return Err(ApiError::internal(text));
                }
                volume.clone()
            }
            (None, Some(_)) => tables.named(params, Kind::Snapshot, "snapshotid")?.clone(),
            _ => {
                let text = "Failed to create private template record, neither volume ID nor snapshot ID were specified.";
                return Err(ApiError::invalid(text));
            }
        }
    };
    register::check_limits(state, 0).map_err(ApiError::allocation)?;
    let zone = zones.iter().position(|zone| zone.id == source.text("zoneid")).unwrap_or(0);
    // The row is there before anybody looks at the number of the job.
    template.copies = vec![Copy::new(zone, State::NotDownloaded)];
    let id = template.id.clone();
    state.tables().templates.push(template);
    let made = id.clone();
    job::submit_made(state, params, "Template", &id, move |state| {
        let size = source.number("size").max(source.number("virtualsize"));
        let path = copied(source.path.as_deref(), &state.dir.join(&made))?;
        let known = state.with_copy(&made, zone, |copy| {
            (copy.size, copy.physical) = (size, size);
            copy.path = path;
            state.installed(copy, State::Downloading(100), State::DownloadError);
        });
        known.ok_or_else(|| ApiError::internal("the template is not there any more"))?;
        let zones = state.zones();
        let tables = state.tables();
        let shown = tables.templates.iter().find(|one| one.id == made).and_then(|one| {
            let copy = one.copies.first()?;
            Some(one.show(copy, zones.get(copy.zone)?))
        });
        Ok(json!({"template": shown}))
    })
}

fn copied(from: Option<&Path>, to: &Path) -> ApiResult<Option<PathBuf>> {
    let Some(from) = from else { return Ok(None) };
    let done = std::fs::copy(from, to).map_err(|e| ApiError::internal(e.to_string()));
    done.map(|_| Some(to.to_owned()))
}
