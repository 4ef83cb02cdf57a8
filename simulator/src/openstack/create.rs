//! `POST /v2/images`: the record, before there is any data.

use serde_json::Value;
use uuid::Uuid;

use super::Fault;
use super::glance::Caller;
use super::http::{ERRED, Reply, Req, glance_error};
use super::image::{Image, READ_ONLY, RESERVED, check};
use super::server::IMAGE;
use super::state::Shared;
use crate::net::Hangup;

/// The most properties and tags that an image may have.
pub(super) const MOST: usize = 128;

pub(super) async fn create(
    state: &Shared,
    req: &mut Req,
    caller: &Caller,
) -> Result<Reply, Hangup> {
    let wanted = match req.json().await? {
        Some(Value::Object(wanted)) => wanted,
        // Other JSON than an object trips the real server.
        Some(_) => return Ok(glance_error(req, 500, ERRED, "")),
        None => return Ok(glance_error(req, 400, "Malformed JSON in request body.", "")),
    };
    if let Err(refusal) = check_names(req, caller, &wanted) {
        return Ok(*refusal);
    }
    for (key, value) in &wanted {
        if let Err(why) = check(key, value) {
            let said = format!("Provided object does not match schema 'image': {why}");
            let detail = format!("On instance['{key}']: {value}");
            return Ok(glance_error(req, 400, &said, &detail));
        }
    }
    let id = wanted
        .get("id")
        .and_then(Value::as_str)
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let mut image = Image::new(id, req.region, caller.project.clone());
    for (key, value) in wanted.iter().filter(|(key, _)| *key != "id") {
        image.set(key, value);
    }
    if let Err(refusal) = permit(req, caller, &image) {
        return Ok(*refusal);
    }
    Ok(store(state, req, image))
}

/// Read-only and reserved names are refused before any value is looked at.
fn check_names(
    req: &Req,
    caller: &Caller,
    wanted: &serde_json::Map<String, Value>,
) -> Result<(), Box<Reply>> {
    for key in wanted.keys() {
        if key != "id" && READ_ONLY.contains(&key.as_str()) {
            let said = format!("Attribute '{key}' is read-only.");
            return Err(Box::new(glance_error(req, 403, &said, "")));
        }
        if RESERVED.contains(&key.as_str()) || is_reserved(key, caller) {
            let said = "Access was denied to this resource.";
            let detail = format!("Attribute '{key}' is reserved.");
            return Err(Box::new(glance_error(req, 403, said, &detail)));
        }
        if key.chars().count() > 255 {
            let said = "A property's name may have at most 255 characters.";
            return Err(Box::new(glance_error(req, 400, said, "")));
        }
    }
    Ok(())
}

/// Names of the service's own, and those that the operator keeps for administrators.
pub(super) fn is_reserved(key: &str, caller: &Caller) -> bool {
    key.starts_with("os_glance_") || (key.starts_with("x_locked") && !caller.admin)
}

/// What only an administrator may choose, and the limits.
pub(super) fn permit(req: &Req, caller: &Caller, image: &Image) -> Result<(), Box<Reply>> {
    let refuse = |status, said: &str| Err(Box::new(glance_error(req, status, said, "")));
    if !caller.admin && image.visibility == "public" {
        return refuse(403, "You are not authorized to complete publicize_image action.");
    }
    if !caller.admin && image.owner != caller.project {
        return refuse(403, "You are not permitted to create images owned by another project.");
    }
    if image.properties.len() > MOST || image.tags.len() > MOST {
        return refuse(
            413,
            "The limit has been exceeded on the number of allowed properties or tags.",
        );
    }
    Ok(())
}

fn store(state: &Shared, req: &Req, image: Image) -> Reply {
    let mut tables = state.tables();
    let id = image.id.clone();
    let taken = tables.images.iter().any(|other| other.id == id && other.region == req.region);
    if taken || tables.deleted.contains(&id) {
        return glance_error(req, 409, &format!("Image ID {id} already exists!"), "");
    }
    let shown = image.show();
    tables.images.push(image);
    drop(tables);
    if state.faults.strikes(&Fault::Create500AfterStore) {
        return glance_error(req, 500, ERRED, "");
    }
    let location = format!("{}{}/v2/images/{id}", req.base, IMAGE[req.region]);
    Reply::json(201, &shown)
        .with_header("location", location)
        .with_header("openstack-image-store-ids", super::store::ids().join(","))
        .with_header("openstack-image-import-methods", super::store::METHODS.join(","))
}
