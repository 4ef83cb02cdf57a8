//! `PATCH /v2/images/{id}`: JSON patch, in the dialect of the image service.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::create::{is_reserved, permit};
use super::glance::{Caller, find};
use super::http::{Reply, Req, glance_error};
use super::image::{Image, READ_ONLY, RESERVED, Status, WRITABLE, check};
use super::state::Shared;
use crate::net::Hangup;

const V21: &str = "application/openstack-images-v2.1-json-patch";
const V20: &str = "application/openstack-images-v2.0-json-patch";

struct Change {
    op: String,
    key: String,
    value: Value,
}

/// A refusal: status, sentence, and whether the sentence is the detail of a general one.
type Refused = (u16, String, bool);

pub(super) async fn patch(
    state: &Shared,
    req: &mut Req,
    caller: &Caller,
    id: &str,
) -> Result<Reply, Hangup> {
    let media_type = req.media_type().unwrap_or_default();
    if media_type != V20 && media_type != V21 {
        let said = format!("The request media type {media_type} is not supported by this server.");
        let detail = format!("Image PATCH expects Content-Type one of: {V20}, {V21}");
        return Ok(glance_error(req, 415, &said, &detail)
            .with_header("accept-patch", format!("{V20}, {V21}")));
    }
    let Some(Value::Array(operations)) = req.json().await? else {
        let said = "Request body must be a JSON array of operation objects.";
        return Ok(glance_error(req, 400, said, ""));
    };
    let mut tables = state.tables();
    let image = match find(&mut tables, req, caller, id) {
        Ok(image) => image,
        Err(refusal) => return Ok(*refusal),
    };
    if !caller.admin && image.owner != caller.project {
        let said = "You are not authorized to complete modify_image action.";
        return Ok(glance_error(req, 403, said, ""));
    }
    // All or nothing: the changes go to a copy first.
    let mut changed = image.clone();
    if let Err((status, said, is_detail)) = apply(&mut changed, caller, &operations, &media_type) {
        let general = match status {
            403 => "Access was denied to this resource.",
            _ => "There was a conflict when trying to complete your request.",
        };
        let (said, detail) = if is_detail { (general, said.as_str()) } else { (said.as_str(), "") };
        return Ok(glance_error(req, status, said, detail));
    }
    if let Err(refusal) = permit(req, caller, &changed) {
        return Ok(*refusal);
    }
    changed.updated = Timestamp::now();
    *image = changed;
    Ok(Reply::json(200, &image.show()))
}

fn apply(
    image: &mut Image,
    caller: &Caller,
    operations: &[Value],
    media_type: &str,
) -> Result<(), Refused> {
    let mut changes = Vec::new();
    for operation in operations {
        changes.push(read(operation, caller, media_type)?);
    }
    for change in changes {
        carry_out(image, caller, &change)?;
    }
    Ok(())
}

/// Reads one operation and refuses what no image allows.
fn read(operation: &Value, caller: &Caller, media_type: &str) -> Result<Change, Refused> {
    let bad = |said: String| Err((400, said, false));
    if !operation.is_object() {
        return bad("Operations must be JSON objects.".to_owned());
    }
    // The old dialect writes {"add": "/name", "value": …}.
    let known = ["add", "remove", "replace"];
    let op = if media_type == V20 {
        known.iter().find(|op| operation.get(**op).is_some()).map(|op| json!(op))
    } else {
        operation.get("op").cloned()
    };
    let available = known.join(", ");
    let Some(op) = op.and_then(|op| op.as_str().map(str::to_owned)) else {
        return bad(format!(
            "Unable to find '{}' in JSON Schema change. It must be one of the following: {available}.",
            "op"
        ));
    };
    if !known.contains(&op.as_str()) {
        return bad(format!(
            "Invalid operation: `{op}`. It must be one of the following: {available}."
        ));
    }
    let pointer = if media_type == V20 { &operation[op.as_str()] } else { &operation["path"] };
    let Some(pointer) = pointer.as_str() else {
        return bad("Unable to find 'path' in JSON Schema change".to_owned());
    };
    let Some(key) = unescape(pointer) else {
        return bad(format!("Invalid JSON pointer for this resource: '{pointer}'"));
    };
    if READ_ONLY.contains(&key.as_str()) {
        return Err((403, format!("Attribute '{key}' is read-only."), false));
    }
    if RESERVED.contains(&key.as_str()) || is_reserved(&key, caller) {
        return Err((403, format!("Attribute '{key}' is reserved."), false));
    }
    let value = match (op.as_str(), operation.get("value")) {
        ("remove", _) => Value::Null,
        (_, None) => {
            return bad(format!("Operation \"{op}\" requires a member named \"value\"."));
        }
        (_, Some(value)) => {
            if let Err(why) = check(&key, value) {
                return bad(format!("Provided object does not match schema 'image': {why}"));
            }
            value.clone()
        }
    };
    Ok(Change { op, key, value })
}

fn carry_out(image: &mut Image, caller: &Caller, change: &Change) -> Result<(), Refused> {
    let key = change.key.as_str();
    let core = WRITABLE.contains(&key);
    let missing = || Err((409, format!("Property {key} does not exist."), true));
    match change.op.as_str() {
        "remove" if core => return Err((403, format!("Property {key} may not be removed."), true)),
        "remove" => return if image.properties.remove(key).is_some() { Ok(()) } else { missing() },
        "replace" if !core && !image.properties.contains_key(key) => return missing(),
        _ => {}
    }
    if key == "owner" && !caller.admin {
        return Err((403, "Owner can't be updated by non admin.".to_owned(), true));
    }
    if matches!(key, "disk_format" | "container_format") && image.status != Status::Queued {
        let said = format!("Attribute {key} can be only replaced for a queued image.");
        return Err((403, said, false));
    }
    image.set(key, &change.value);
    Ok(())
}

/// A pointer to a top-level key, with `~0` and `~1` undone.
fn unescape(pointer: &str) -> Option<String> {
    let key = pointer.strip_prefix('/')?;
    let whole = key.strip_suffix('/').unwrap_or(key);
    if whole.contains('/') {
        return None;
    }
    let rest = whole.replace("~0", "").replace("~1", "");
    (!rest.contains('~')).then(|| whole.replace("~1", "/").replace("~0", "~"))
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn pointers_name_one_key() {
        assert_eq!(unescape("/a").as_deref(), Some("a"));
        assert_eq!(unescape("/a~1b~0c").as_deref(), Some("a/b~c"));
        assert_eq!(unescape("/~01").as_deref(), Some("~1"));
        assert_eq!(unescape("/").as_deref(), Some(""));
        for bad in ["", "a", "/a/b", "/a~2", "/a~"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
