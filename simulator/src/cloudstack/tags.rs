//! Tags of templates.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::job;
use super::params::Params;
use super::state::Shared;
use super::template::Tag;

fn check_type(params: &Params) -> ApiResult<()> {
    let kind = params.required("resourcetype")?;
    if kind.eq_ignore_ascii_case("template") {
        return Ok(());
    }
    Err(ApiError::invalid(format!("Invalid resource type: {kind}")))
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
    job::submit(state, params, None, move |state| {
        let mut tables = state.tables();
        for id in &ids {
            let own = tables.templates.iter_mut().find(|one| one.own && one.id == *id);
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
    job::submit(state, params, None, move |state| {
        let mut tables = state.tables();
        for template in tables.templates.iter_mut().filter(|one| ids.contains(&one.id)) {
            let named = |key: &str| tags.is_empty() || tags.iter().any(|tag| tag.key == key);
            template.tags.retain(|tag| !named(&tag.key));
        }
        Ok(json!({"success": true}))
    })
}

pub(super) fn list(state: &Shared, params: &Params) -> Vec<Value> {
    let tables = state.tables();
    let own = tables.templates.iter().filter(|template| template.own);
    let tags = own.flat_map(|one| one.tags.iter().map(|tag| one.show_tag(tag)));
    let names = ["resourceid", "resourcetype", "key", "value"];
    super::list::filter(params, tags.collect(), &names)
}
