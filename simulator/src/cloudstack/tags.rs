//! Tags of templates and of everything else that can have them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::job;
use super::object::{Kind, Object};
use super::owner::Caller;
use super::params::Params;
use super::state::{Shared, Tables};
use super::template::{Tag, Template};

/// Kinds of objects that can have tags, lowered, and how answers write them.
const TYPES: [(&str, &str); 6] = [
    ("template", "Template"),
    ("iso", "ISO"),
    ("volume", "Volume"),
    ("uservm", "UserVm"),
    ("snapshot", "Snapshot"),
    ("network", "Network"),
];

fn check_type(params: &Params) -> ApiResult<()> {
    let kind = params.required("resourcetype")?;
    if TYPES.iter().any(|(known, _)| kind.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(ApiError::invalid(format!("Invalid resource type: {kind}")))
}

fn kind_of(object: &Object) -> Option<&'static str> {
    Some(match object.kind {
        Kind::Machine => "UserVm",
        Kind::Volume => "Volume",
        Kind::Snapshot => "Snapshot",
        Kind::Network => "Network",
        _ => return None,
    })
}

/// Adds tags to something that is no template; `None` if there is none with this id.
fn mark(tables: &mut Tables, caller: Caller, id: &str, tags: &[Tag]) -> Option<ApiResult<()>> {
    let object = tables
        .objects
        .iter_mut()
        .find(|one| kind_of(one).is_some() && one.id() == id && caller.may_use(one.owner))?;
    let (kind, owner) = (kind_of(object)?, object.owner);
    let Some(Value::Array(known)) = object.row.get_mut("tags") else { return Some(Ok(())) };
    for tag in tags {
        if known.iter().any(|one| one["key"] == tag.key.as_str()) {
            let key = &tag.key;
            return Some(Err(ApiError::internal(format!(
                "tag {key} already on {kind} with id {id}"
            ))));
        }
        let mut row = owner.show();
        for (name, value) in [
            ("key", tag.key.as_str()),
            ("value", &tag.value),
            ("resourcetype", kind),
            ("resourceid", id),
        ] {
            row.insert(name.to_owned(), json!(value));
        }
        known.push(Value::Object(row));
    }
    Some(Ok(()))
}

fn pairs(params: &Params) -> Vec<Tag> {
    let maps = params.maps("tags").into_values();
    let pairs = maps.filter_map(|mut map| {
        Some(Tag { key: map.remove("key")?, value: map.remove("value").unwrap_or_default() })
    });
    pairs.collect()
}

fn ids(params: &Params) -> Vec<String> {
    params.list("resourceids").into_iter().map(str::to_owned).collect()
}

pub(super) fn create(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    check_type(params)?;
    let (ids, tags) = (ids(params), pairs(params));
    if tags.is_empty() {
        return Err(ApiError::missing(&params.command, "tags"));
    }
    let caller = params.caller;
    job::submit(state, params, None, move |state| {
        let mut tables = state.tables();
        for id in &ids {
            if let Some(marked) = mark(&mut tables, caller, id, &tags) {
                marked?;
                continue;
            }
            let own = tables
                .templates
                .iter_mut()
                .find(|one| one.is_own() && caller.may_use(one.owner) && one.id == *id);
            let unknown = || {
                ApiError::invalid(format!("Unable to find resource by id {id} and type Template"))
            };
            let template = own.ok_or_else(unknown)?;
            for tag in &tags {
                if template.tags.iter().any(|known| known.key == tag.key) {
                    let key = &tag.key;
                    return Err(ApiError::internal(format!(
                        "tag {key} already on Template with id {id}"
                    )));
                }
                template.tags.push(tag.clone());
            }
        }
        Ok(json!({"success": true}))
    })
}

pub(super) fn delete(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    check_type(params)?;
    let (ids, tags) = (ids(params), pairs(params));
    let caller = params.caller;
    job::submit(state, params, None, move |state| {
        let mut tables = state.tables();
        let own = |one: &&mut Template| ids.contains(&one.id) && caller.may_use(one.owner);
        for template in tables.templates.iter_mut().filter(own) {
            let named = |key: &str| tags.is_empty() || tags.iter().any(|tag| tag.key == key);
            template.tags.retain(|tag| !named(&tag.key));
        }
        for object in tables
            .objects
            .iter_mut()
            .filter(|one| caller.may_use(one.owner) && ids.iter().any(|id| id == one.id()))
        {
            let named = |key: &str| tags.is_empty() || tags.iter().any(|tag| tag.key == key);
            if let Some(Value::Array(known)) = object.row.get_mut("tags") {
                known.retain(|tag| !named(tag["key"].as_str().unwrap_or_default()));
            }
        }
        Ok(json!({"success": true}))
    })
}

pub(super) fn list(state: &Shared, params: &Params) -> ApiResult<Vec<Value>> {
    let sees = params.sees()?;
    let tables = state.tables();
    let own = tables.templates.iter().filter(|template| sees(template.owner));
    let tags = own.flat_map(|one| one.tags.iter().map(|tag| one.show_tag(tag)));
    let others = tables.objects.iter().filter(|one| kind_of(one).is_some() && sees(one.owner));
    let others = others.filter_map(|one| one.row.get("tags")?.as_array()).flatten().cloned();
    let names = ["resourceid", "resourcetype", "key", "value"];
    Ok(super::list::filter(params, tags.chain(others).collect(), &names))
}
