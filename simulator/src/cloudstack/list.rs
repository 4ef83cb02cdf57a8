//! Lists: filters, zones, pages.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::{ApiError, ApiResult};
use super::fixture::Zone;
use super::owner::{Caller, Owner};
use super::params::Params;
use super::state::Shared;
use super::template::{Template, What};

/// The page that was asked for, under its key; a list of nothing is an empty object.
///
/// Without a page a list is cut off at `default.page.size`, though `count` tells the whole.
pub(super) fn page(
    state: &Shared,
    params: &Params,
    key: &str,
    rows: Vec<Value>,
) -> ApiResult<Value> {
    let most = state.page_size();
    let (page, size) = (params.number("page")?, params.number("pagesize")?);
    let (page, size) = match (page, size) {
        (None, None) => (1, most),
        (None, Some(-1)) => {
            let text = format!("Page size can not exceed max allowed page size value: {most}");
            return Err(ApiError::invalid(text));
        }
        (Some(_), None) => {
            let text = "\"pagesize\" parameter is required when \"page\" is specified";
            return Err(ApiError::parameter(text));
        }
        (None, Some(_)) => {
            let text = "\"page\" parameter is required when \"pagesize\" is specified";
            return Err(ApiError::parameter(text));
        }
        (Some(_), Some(-1)) => {
            let text = "\"page\" parameter cannot be specified when \"pagesize\" is -1";
            return Err(ApiError::parameter(text));
        }
        (Some(page), Some(size)) => {
            let positive = |number: i64| u64::try_from(number).ok().filter(|n| *n > 0);
            match (positive(page), positive(size)) {
                (_, Some(size)) if size > most => {
                    let text =
                        format!("Page size can not exceed max allowed page size value: {most}");
                    return Err(ApiError::invalid(text));
                }
                (Some(page), Some(size)) => (page, size),
                _ => return Err(ApiError::parameter("page and pagesize must be positive")),
            }
        }
    };
    let count = rows.len();
    let skip = usize::try_from((page - 1).saturating_mul(size)).unwrap_or(usize::MAX);
    let take = usize::try_from(size).unwrap_or(usize::MAX);
    let rows: Vec<_> = rows.into_iter().skip(skip).take(take).collect();
    let mut answer = Map::new();
    if count > 0 {
        answer.insert("count".to_owned(), json!(count));
    }
    if !rows.is_empty() {
        answer.insert(key.to_owned(), Value::Array(rows));
    }
    Ok(Value::Object(answer))
}

/// A list that knows no pages and is never cut off.
pub(super) fn whole(key: &str, rows: &[Value]) -> Value {
    if rows.is_empty() { json!({}) } else { json!({"count": rows.len(), key: rows}) }
}

/// Rows in which the named fields are as the parameters of the same names say; `keyword` is a
/// part of the name.
pub(super) fn filter(params: &Params, rows: Vec<Value>, names: &[&str]) -> Vec<Value> {
    let lowered = |text: &str| text.to_lowercase();
    let keyword = params.get("keyword").map(lowered);
    let ids = params.list("ids");
    let fits = |row: &Value| {
        let equal = names.iter().all(|name| {
            let field = row[*name].as_str().map(lowered);
            params.get(name).map(lowered).is_none_or(|wanted| field == Some(wanted))
        });
        let named = row["name"].as_str().map(lowered).unwrap_or_default();
        let known = ids.is_empty() || ids.iter().any(|id| row["id"].as_str() == Some(id));
        equal && known && keyword.as_ref().is_none_or(|word| named.contains(word))
    };
    rows.into_iter().filter(fits).collect()
}

/// The zone that a parameter names, with its number.
pub(super) fn zone(
    state: &Shared,
    params: &Params,
    name: &str,
) -> ApiResult<Option<(usize, Zone)>> {
    let Some(id) = params.get(name) else { return Ok(None) };
    let found = state.zones().into_iter().enumerate().find(|(_, zone)| zone.id == id);
    found.map(Some).ok_or_else(|| ApiError::no_such(&params.command, name, id))
}

/// The rows of `listTemplates` or `listIsos`: one for each zone of a template.
pub(super) fn templates(state: &Shared, params: &Params, what: What) -> ApiResult<Vec<Value>> {
    let filter = match what {
        What::Iso => params.get("isofilter").unwrap_or("selfexecutable"),
        _ => params.required("templatefilter")?,
    };
    let filter = filter.to_lowercase();
    let known = [
        "featured",
        "self",
        "selfexecutable",
        "sharedexecutable",
        "executable",
        "community",
        "shared",
        "all",
    ];
    if !known.contains(&filter.as_str()) {
        return Err(ApiError::invalid(format!("Please specify a valid template filter {filter}")));
    }
    if filter == "all" && !params.caller.is_admin {
        return Err(ApiError::invalid("Filter all can be specified by admin only"));
    }
    let wanted = zone(state, params, "zoneid")?.map(|(number, _)| number);
    if let Some(id) = params.get("id") {
        let tables = state.tables();
        // What was deleted is an empty list, what never was is an error.
        if !tables.templates.iter().any(|one| one.id == id) && !tables.removed.contains(id) {
            return Err(ApiError::no_such(&params.command, "id", id));
        }
    }
    let (tags, sees) = (params.maps("tags"), params.sees()?);
    let zones = state.zones();
    let mut rows = Vec::new();
    for template in &mut state.tables().templates {
        template.settle();
        if template.what != what {
            continue;
        }
        if !passes(template, &filter, params.caller, &sees) || !tagged(template, &tags) {
            continue;
        }
        for copy in &template.copies {
            if let Some(zone) = zones.get(copy.zone)
                && wanted.is_none_or(|wanted| wanted == copy.zone)
            {
                rows.push(template.show(copy, zone));
            }
        }
    }
    let ready = params.flag("isready");
    rows.retain(|row| ready.is_none_or(|ready| row["isready"] == ready));
    if matches!(filter.as_str(), "executable" | "selfexecutable" | "featured" | "community") {
        rows.retain(|row| row["isready"] == true);
    }
    Ok(self::filter(params, rows, &["id", "name", "hypervisor", "templatetype", "arch"]))
}

fn passes(
    template: &Template,
    filter: &str,
    caller: Caller,
    sees: &impl Fn(Owner) -> bool,
) -> bool {
    let shared = template.shared.contains(caller.account);
    match filter {
        "all" => true,
        "self" | "selfexecutable" => sees(template.owner),
        "featured" => template.flag("ispublic") && template.flag("isfeatured"),
        "community" => template.flag("ispublic") && !template.flag("isfeatured"),
        "sharedexecutable" | "shared" => shared,
        _ => sees(template.owner) || shared || template.flag("ispublic"),
    }
}

fn tagged(template: &Template, wanted: &BTreeMap<u64, BTreeMap<String, String>>) -> bool {
    wanted.values().all(|one| {
        let fits = |name: &str, value: &str| one.get(name).is_none_or(|wanted| wanted == value);
        template.tags.iter().any(|tag| fits("key", &tag.key) && fits("value", &tag.value))
    })
}
