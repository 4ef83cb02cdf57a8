//! Changes of a template and its end.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::{Shared, Tables};
use super::template::{State, Template, What};
use super::{fixture, job, list};

/// The flags that `updateTemplate` takes; the others are permissions.
const FLAGS: [&str; 4] =
    ["passwordenabled", "sshkeyenabled", "requireshvm", "isdynamicallyscalable"];

fn find<'a>(tables: &'a mut Tables, params: &Params) -> ApiResult<&'a mut Template> {
    let id = params.required("id")?;
    let what = if params.command.contains("Iso") { What::Iso } else { What::Template };
    let found = tables.templates.iter_mut().find(|one| one.id == id && one.what == what);
    if found.is_none() && tables.removed.contains(id) {
        return Err(ApiError::invalid(format!("unable to find template with id {id}")));
    }
    let template = found.ok_or_else(|| ApiError::no_such(&params.command, "id", id))?;
    params.check_use(template.owner, id).map(|()| template)
}

pub(super) fn update(state: &Shared, params: &Params) -> ApiResult<Value> {
    let zones = state.zones();
    if let Some(id) = params.get("ostypeid").filter(|id| fixture::os_type_name(id).is_none()) {
        return Err(ApiError::no_such(&params.command, "ostypeid", id));
    }
    let mut tables = state.tables();
    let template = find(&mut tables, params)?;
    let take = |field: &mut String, name: &str| {
        if let Some(value) = params.get(name) {
            value.clone_into(field);
        }
    };
    take(&mut template.name, "name");
    take(&mut template.displaytext, "displaytext");
    take(&mut template.ostypeid, "ostypeid");
    for name in FLAGS {
        if let Some(on) = params.flag(name) {
            template.flags.insert(name, on);
        }
    }
    let details = params.details();
    if params.flag("cleanupdetails") == Some(true) {
        template.details.clear();
    } else if !details.is_empty() {
        template.details = details;
    }
    let shown = template
        .copies
        .first()
        .and_then(|copy| zones.get(copy.zone).map(|zone| template.show(copy, zone)));
    Ok(json!({"template": shown}))
}

pub(super) fn set_permissions(state: &Shared, params: &Params) -> ApiResult<Value> {
    let mut tables = state.tables();
    let template = find(&mut tables, params)?;
    for name in ["ispublic", "isfeatured", "isextractable"] {
        if let Some(on) = params.flag(name) {
            template.flags.insert(name, on);
        }
    }
    let accounts = params.list("accounts").into_iter().map(str::to_owned);
    match params.get("op") {
        None if params.get("accounts").is_some() => {
            return Err(ApiError::invalid("Invalid operation on accounts: op is missing"));
        }
        None => {}
        Some("add") => template.shared.extend(accounts),
        Some("remove") => {
            let gone: Vec<_> = accounts.collect();
            template.shared.retain(|account| !gone.contains(account));
        }
        Some("reset") => template.shared.clear(),
        Some(other) => {
            let text =
                format!("Invalid operation; must be one of 'add', 'remove' or 'reset': {other}");
            return Err(ApiError::invalid(text));
        }
    }
    Ok(json!({"success": true}))
}

pub(super) fn permissions(state: &Shared, params: &Params) -> ApiResult<Value> {
    let mut tables = state.tables();
    let template = find(&mut tables, params)?;
    Ok(json!({"templatepermission": {
        "id": template.id,
        "ispublic": template.flag("ispublic"),
        "domainid": fixture::domain_id(),
        "account": template.shared,
    }}))
}

pub(super) fn delete(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let zone = list::zone(state, params, "zoneid")?.map(|(number, _)| number);
    let id = find(&mut state.tables(), params)?.id.clone();
    let instance = Some(("Template", id.clone()));
    job::submit(state, params, instance, move |state| {
        let mut tables = state.tables();
        let Some(at) = tables.templates.iter().position(|template| template.id == id) else {
            return Err(ApiError::invalid(format!("unable to find template with id {id}")));
        };
        let template = &mut tables.templates[at];
        let doomed = |copy: &super::template::Copy| zone.is_none_or(|zone| copy.zone == zone);
        let busy = |state: &State| matches!(state, State::Downloading(_));
        if template.copies.iter().any(|copy| doomed(copy) && busy(&copy.state)) {
            let text = "Please specify a template that is not currently being downloaded.";
            return Err(ApiError::internal(text));
        }
        for copy in template.copies.extract_if(.., |copy| doomed(copy)) {
            if let Some(path) = copy.path {
                let _ = std::fs::remove_file(path);
            }
        }
        if template.copies.is_empty() {
            tables.templates.remove(at);
            tables.removed.insert(id);
        }
        Ok(json!({"success": true}))
    })
}
