//! `GET /v2/images`: filters, order and pages.

use std::cmp::Ordering;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::glance::{Caller, lists, sees};
use super::http::{Reply, Req, glance_error};
use super::image::{Image, VISIBILITIES};
use super::state::Shared;

const SORT_KEYS: [&str; 8] =
    ["name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"];

/// What Python's `urlencode` escapes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Page sizes: what a client gets that does not ask, and what it gets at most.
const USUAL: usize = 25;
const LARGEST: usize = 1000;

/// A page of the images that the caller sees and that fit all filters.
pub(super) fn list(state: &Shared, req: &Req, caller: &Caller) -> Reply {
    match page(state, req, caller) {
        Ok(reply) => reply,
        Err(why) => glance_error(req, 400, &why, ""),
    }
}

fn page(state: &Shared, req: &Req, caller: &Caller) -> Result<Reply, String> {
    let limit = limit(req)?;
    let order = order(req)?;
    let filters = filters(req)?;
    let mut tables = state.tables();
    let mut found: Vec<&Image> = Vec::new();
    for image in &mut tables.images {
        image.settle();
    }
    for image in &tables.images {
        if sees(req, caller, image) && lists(req, caller, image) && fits(image, &filters) {
            found.push(image);
        }
    }
    found.sort_by(|a, b| compare(a, b, &order));
    let start = match req.query("marker") {
        None => 0,
        Some(marker) => {
            // Also a marker that the filters hide is good: the page starts where it would stand.
            let marker = tables
                .images
                .iter()
                .find(|image| image.id == marker && sees(req, caller, image))
                .ok_or_else(|| format!("No image found with ID {marker}"))?;
            found.partition_point(|image| compare(image, marker, &order) != Ordering::Greater)
        }
    };
    let images: Vec<&Image> = found.into_iter().skip(start).take(limit).collect();
    Ok(Reply::json(200, &show(req, &images, limit)))
}

fn show(req: &Req, images: &[&Image], limit: usize) -> Value {
    // Of a repeated parameter only the last value survives in the links: who follows `next`
    // after asking for two tags gets the images with the second one.
    let mut params: Vec<(&str, &str)> = Vec::new();
    for (key, value) in req.query.iter().filter(|(key, _)| key != "marker") {
        match params.iter_mut().find(|(known, _)| known == key) {
            Some(known) => known.1 = value,
            None => params.push((key, value)),
        }
    }
    let list: Vec<Value> = images.iter().map(|image| image.show()).collect();
    let mut body = json!({"images": list, "first": link(&params), "schema": "/v2/schemas/images"});
    // A page that is just full has a `next` even if nothing follows it.
    if let Some(last) = images.last().filter(|_| images.len() == limit) {
        let mut next = params;
        next.push(("marker", &last.id));
        body["next"] = json!(link(&next));
    }
    body
}

/// A path relative to the host, without the service's mount.
fn link(params: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    let query: Vec<String> =
        params.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/v2/images{mark}{}", query.join("&"))
}

fn limit(req: &Req) -> Result<usize, String> {
    let Some(text) = req.query("limit") else { return Ok(USUAL) };
    let limit: i64 = text.parse().map_err(|_| "limit param must be an integer".to_owned())?;
    let limit = usize::try_from(limit).map_err(|_| "limit param must be positive".to_owned())?;
    Ok(limit.min(LARGEST))
}

/// Keys with "ascending?", always ended by the creation and the id so that pages never overlap.
fn order(req: &Req) -> Result<Vec<(String, bool)>, String> {
    let mut order = Vec::new();
    let mut push = |key: &str, direction: &str| {
        if !SORT_KEYS.contains(&key) {
            return Err(format!(
                "Invalid sort key: {key}. It must be one of the following: {}.",
                SORT_KEYS.join(", ")
            ));
        }
        let ascending = match direction {
            "asc" => true,
            "desc" => false,
            _ => return Err(format!("Invalid sort direction: {direction}")),
        };
        order.push((key.to_owned(), ascending));
        Ok(())
    };
    let many = |name: &str| -> Vec<String> {
        req.query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    };
    let old = req.query("sort_key").is_some() || req.query("sort_dir").is_some();
    if req.query("sort").is_some() && old {
        return Err("Old and new sorting syntax cannot be combined".to_owned());
    }
    if let Some(sort) = req.query("sort") {
        for part in sort.split(',') {
            let (key, direction) = part.split_once(':').unwrap_or((part, "desc"));
            push(key.trim(), direction.trim())?;
        }
    } else {
        let (keys, directions) = (many("sort_key"), many("sort_dir"));
        let direction = |at: usize| {
            directions.get(at).or_else(|| directions.first()).map_or("desc", String::as_str)
        };
        for (at, key) in keys.iter().enumerate() {
            push(key, direction(at))?;
        }
        if keys.is_empty() {
            push("created_at", direction(0))?;
        }
    }
    let ascending = order.first().is_some_and(|(_, ascending)| *ascending);
    order.push(("created_at".to_owned(), ascending));
    order.push(("id".to_owned(), ascending));
    Ok(order)
}

fn compare(a: &Image, b: &Image, order: &[(String, bool)]) -> Ordering {
    for (key, ascending) in order {
        let by_key = match key.as_str() {
            "name" => a.name.cmp(&b.name),
            "status" => a.status.as_str().cmp(b.status.as_str()),
            "container_format" => a.container_format.cmp(&b.container_format),
            "disk_format" => a.disk_format.cmp(&b.disk_format),
            "size" => a.size.cmp(&b.size),
            "created_at" => a.created.cmp(&b.created),
            "updated_at" => a.updated.cmp(&b.updated),
            _ => a.id.cmp(&b.id),
        };
        let by_key = if *ascending { by_key } else { by_key.reverse() };
        if by_key != Ordering::Equal {
            return by_key;
        }
    }
    Ordering::Equal
}

/// One condition of the query.
enum Filter {
    Tag(String),
    SizeMin(u64),
    SizeMax(u64),
    Flag(&'static str, bool),
    Time(&'static str, String, Timestamp),
    /// Attribute or property: any of these values.
    Any(String, Vec<String>),
}

fn filters(req: &Req) -> Result<Vec<Filter>, String> {
    let mut filters = Vec::new();
    let mut hidden = false;
    for (key, value) in &req.query {
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| "Unable to filter on a range with a non-numeric value.".to_owned())
        };
        let flag = || match value.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("Invalid value '{value}' for '{key}' filter.")),
        };
        match key.as_str() {
            "limit" | "marker" | "sort" | "sort_key" | "sort_dir" | "member_status" => {}
            "tag" => filters.push(Filter::Tag(value.clone())),
            "size_min" => filters.push(Filter::SizeMin(number()?)),
            "size_max" => filters.push(Filter::SizeMax(number()?)),
            "protected" => filters.push(Filter::Flag("protected", flag()?)),
            "os_hidden" => hidden = flag()?,
            "created_at" | "updated_at" => filters.push(time_filter(key, value)?),
            "visibility" if value == "all" => {}
            "visibility" if !VISIBILITIES.contains(&value.as_str()) => {
                return Err(format!("Invalid visibility value: {value}"));
            }
            _ => filters.push(Filter::Any(key.clone(), alternatives(key, value)?)),
        }
    }
    filters.push(Filter::Flag("os_hidden", hidden));
    Ok(filters)
}

/// `in:a,b` or `eq:a` where the attribute knows operators: there every colon ends one. A value with a comma may stand in
/// quotes.
fn alternatives(key: &str, value: &str) -> Result<Vec<String>, String> {
    let knows = matches!(key, "id" | "name" | "status" | "container_format" | "disk_format");
    match value.split_once(':').filter(|_| knows) {
        Some(("in", list)) => {
            Ok(list.split(',').map(|one| one.trim_matches('"').to_owned()).collect())
        }
        Some(("eq", exact)) => Ok(vec![exact.to_owned()]),
        Some(_) if value.parse::<Timestamp>().is_ok() => Ok(vec![value.to_owned()]),
        Some((operator, _)) => Err(format!("Unable to filter by unknown operator '{operator}'.")),
        None => Ok(vec![value.to_owned()]),
    }
}

fn time_filter(key: &str, value: &str) -> Result<Filter, String> {
    let operators = ["gt", "gte", "lt", "lte", "eq", "neq"];
    let (operator, time) = match value.split_once(':') {
        Some((operator, time)) if operators.contains(&operator) => (operator, time),
        _ => ("eq", value),
    };
    let time = time.parse().or_else(|_| format!("{time}Z").parse());
    let time = time.map_err(|_| format!("Unable to filter by unknown time format '{value}'."))?;
    let key = if key == "created_at" { "created_at" } else { "updated_at" };
    Ok(Filter::Time(key, operator.to_owned(), time))
}

fn fits(image: &Image, filters: &[Filter]) -> bool {
    filters.iter().all(|filter| match filter {
        Filter::Tag(tag) => image.tags.contains(tag),
        Filter::SizeMin(size) => image.size.is_some_and(|have| have >= *size),
        Filter::SizeMax(size) => image.size.is_some_and(|have| have <= *size),
        Filter::Flag("protected", wanted) => image.protected == *wanted,
        Filter::Flag(_, wanted) => image.hidden == *wanted,
        Filter::Time(key, operator, time) => {
            let have = if *key == "created_at" { image.created } else { image.updated };
            // The table keeps whole seconds.
            let ordering = have.as_second().cmp(&time.as_second());
            match operator.as_str() {
                "gt" => ordering == Ordering::Greater,
                "gte" => ordering != Ordering::Less,
                "lt" => ordering == Ordering::Less,
                "lte" => ordering != Ordering::Greater,
                "neq" => ordering != Ordering::Equal,
                _ => ordering == Ordering::Equal,
            }
        }
        Filter::Any(key, values) => {
            let shown = image.show();
            let have = match &shown[key.as_str()] {
                Value::String(text) => text.clone(),
                Value::Null | Value::Array(_) | Value::Object(_) => return false,
                other => other.to_string(),
            };
            values.contains(&have)
        }
    })
}
