//! What comes from outside like a template and is none: ISOs, and volumes before a machine has them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::object::Kind;
use super::params::Params;
use super::state::Shared;
use super::template::{Copy, State, Template, What};
use super::{fixture, job, list, register, ticket};

/// An ISO as the parameters describe it.
pub(super) fn iso(params: &Params) -> ApiResult<Template> {
    let bootable = params.flag("bootable") != Some(false);
    let none = fixture::os_type_id("Other (64-bit)");
    let os_type = match params.get("ostypeid") {
        Some(id) if fixture::os_type_name(id).is_none() => {
            return Err(ApiError::no_such(&params.command, "ostypeid", id));
        }
        Some(id) => id.to_owned(),
        None if bootable => {
            return Err(ApiError::invalid("Please pass a OS Type Id for a bootable ISO"));
        }
        None => none,
    };
    let mut iso = register::named(params, "ISO", "None", &os_type)?;
    iso.what = What::Iso;
    iso.flags.insert("bootable", bootable);
    Ok(iso)
}

/// A volume as the parameters describe it.
pub(super) fn volume(params: &Params) -> ApiResult<Template> {
    let format = params.required("format")?.to_uppercase();
    register::known_format(&format)?;
    let none = fixture::os_type_id("Other (64-bit)");
    let mut volume = register::named(params, &format, "None", &none)?;
    volume.what = What::Volume;
    Ok(volume)
}

/// `getUploadParamsForIso` and `getUploadParamsForVolume`.
pub(super) fn ticket(state: &Shared, params: &Params) -> ApiResult<Value> {
    let made = if params.command.ends_with("Iso") { iso(params)? } else { volume(params)? };
    ticket::give(state, params, made)
}

pub(super) async fn register_iso(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let iso = iso(params)?;
    let id = iso.id.clone();
    register::begin(state, params, iso).await?;
    let rows = rows(state, &id);
    Ok(json!({"count": rows.len(), "iso": rows}))
}

/// `uploadVolume`: the job ends when the download has begun.
pub(super) async fn upload_volume(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let volume = volume(params)?;
    let id = volume.id.clone();
    register::begin(state, params, volume).await?;
    let made = id.clone();
    job::submit_made(state, params, "Volume", &id, move |state| {
        let zones = state.zones();
        let tables = state.tables();
        let shown = tables.templates.iter().find(|one| one.id == made).and_then(|one| {
            let copy = one.copies.first()?;
            Some(one.show_volume(copy, zones.get(copy.zone)?))
        });
        Ok(json!({"volume": shown}))
    })
}

fn rows(state: &Shared, id: &str) -> Vec<Value> {
    let zones = state.zones();
    let tables = state.tables();
    let found = tables.templates.iter().find(|one| one.id == id);
    let copies = found.into_iter().flat_map(|one| one.copies.iter().map(move |copy| (one, copy)));
    copies.filter_map(|(one, copy)| Some(one.show(copy, zones.get(copy.zone)?))).collect()
}

fn find(state: &Shared, params: &Params, name: &str) -> ApiResult<String> {
    let id = params.required(name)?;
    let tables = state.tables();
    let known = tables.templates.iter().find(|one| one.what == What::Iso && one.id == id);
    let known = known.ok_or_else(|| ApiError::no_such(&params.command, name, id))?;
    if !known.is_usable(params.caller) {
        params.check_use(known.owner, id)?;
    }
    Ok(id.to_owned())
}

/// `attachIso` and `detachIso`.
pub(super) fn drive(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let iso = match params.command.as_str() {
        "attachIso" => Some(find(state, params, "id")?),
        _ => None,
    };
    let machine = {
        let mut tables = state.tables();
        let machine = tables.named(params, Kind::Machine, "virtualmachineid")?;
        match (&iso, machine.text("isoid").is_empty()) {
            (Some(_), false) => {
                return Err(ApiError::invalid("Unable to attach ISO: the VM has one already"));
            }
            (None, true) => {
                return Err(ApiError::invalid("The specified VM has no ISO attached to it."));
            }
            _ => machine.id().to_owned(),
        }
    };
    if let Some(iso) = &iso {
        let tables = state.tables();
        let ready = |one: &Template| one.copies.iter().any(|copy| copy.state == State::Ready);
        if !tables.templates.iter().any(|one| one.id == *iso && ready(one)) {
            return Err(ApiError::invalid("Unable to find the ISO: it is not ready"));
        }
    }
    job::submit(state, params, Some(("VirtualMachine", machine.clone())), move |state| {
        let mut tables = state.tables();
        let gone =
            || ApiError::invalid(format!("Unable to find a virtual machine with id {machine}"));
        let machine = tables.object(Kind::Machine, &machine).ok_or_else(gone)?;
        match iso {
            Some(iso) => machine.set("isoid", iso),
            None => machine.unset(&["isoid"]),
        }
        Ok(json!({"virtualmachine": machine.show()}))
    })
}

/// `copyTemplate` and `copyIso`: to other zones.
pub(super) fn copy(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = params.required("id")?.to_owned();
    let from = list::zone(state, params, "sourcezoneid")?.map(|(number, _)| number);
    let mut to = params.list("destzoneids");
    to.extend(params.get("destzoneid"));
    let zones = state.zones();
    let find = |wanted: &&str| zones.iter().position(|zone| zone.id == **wanted);
    let to: Result<Vec<_>, _> = to
        .iter()
        .map(|one| find(one).ok_or_else(|| ApiError::no_such(&params.command, "destzoneids", one)))
        .collect();
    let to = to?;
    if to.is_empty() {
        let text = "Either destzoneid or destzoneids parameters have to be specified.";
        return Err(ApiError::invalid(text));
    }
    let source = {
        let mut tables = state.tables();
        let found = tables.templates.iter_mut().find(|one| one.id == id && !one.is_volume());
        let found = found.ok_or_else(|| ApiError::no_such(&params.command, "id", &id))?;
        params.check_use(found.owner, &id)?;
        found.settle();
        let ready =
            |copy: &&Copy| copy.state == State::Ready && from.is_none_or(|from| copy.zone == from);
        let source = found.copies.iter().find(ready).cloned();
        source.ok_or_else(|| {
            ApiError::invalid(format!(
                "Please specify a template or ISO that is ready in zone {from:?}"
            ))
        })?
    };
    let instance = Some(("Template", id.clone()));
    job::submit(state, params, instance, move |state| {
        let zones = state.zones();
        let mut tables = state.tables();
        let gone = || ApiError::invalid(format!("unable to find template with id {id}"));
        let template = tables.templates.iter_mut().find(|one| one.id == id).ok_or_else(gone)?;
        for zone in to {
            if template.copies.iter().all(|copy| copy.zone != zone) {
                let mut copy = Copy { zone, ..source.clone() };
                state.installed(&mut copy, State::Downloading(100), State::DownloadError);
                // The file belongs to the first copy.
                copy.path = None;
                template.copies.push(copy);
            }
        }
        let key = if template.what == What::Iso { "iso" } else { "template" };
        let shown = template
            .copies
            .last()
            .and_then(|copy| Some(template.show(copy, zones.get(copy.zone)?)));
        Ok(json!({key: shown}))
    })
}

/// `extractTemplate` and `extractIso`.
pub(super) fn extract(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let id = params.required("id")?.to_owned();
    let mode = params.required("mode")?.to_uppercase();
    if !["HTTP_DOWNLOAD", "FTP_UPLOAD"].contains(&mode.as_str()) {
        return Err(ApiError::invalid(
            "Please specify a valid extract mode. Supported modes: FTP_UPLOAD, HTTP_DOWNLOAD",
        ));
    }
    let (key, name, format) = {
        let tables = state.tables();
        let found = tables.templates.iter().find(|one| one.id == id && !one.is_volume());
        let found = found.ok_or_else(|| ApiError::no_such(&params.command, "id", &id))?;
        if !found.is_usable(params.caller) {
            params.check_use(found.owner, &id)?;
        }
        if !found.flag("isextractable") {
            return Err(ApiError::denied("The template is not allowed to be extracted"));
        }
        let key = if found.what == What::Iso { "iso" } else { "template" };
        (key, found.name.clone(), found.format.to_lowercase())
    };
    job::submit(state, params, Some(("Template", id.clone())), move |_| {
        // The same as long as it is good.
        let place = fixture::stable_uuid("extract", &id);
        let url = format!("http://127.0.0.1/userdata/{place}.{format}");
        Ok(json!({key: {"id": id, "name": name, "extractMode": "HTTP_DOWNLOAD",
            "state": "DOWNLOAD_URL_CREATED", "status": "Completed", "url": url}}))
    })
}
