//! The stores of the cloud, and what `GET /v2/info/…` tells.

use serde_json::{Value, json};

use super::glance::Caller;
use super::http::{Reply, Req, glance_error};
use super::image::{Image, Status};
use super::state::Shared;
use super::{Fault, task};

/// Id, kind, description. The first one is the default.
const STORES: [(&str, &str, &str); 3] = [
    ("fast", "file", "first file store"),
    ("slow", "file", "second file store"),
    ("web", "http", "locations elsewhere, no uploads"),
];

/// The store that takes what names none.
pub(super) const DEFAULT: &str = STORES[0].0;

/// The store of data that stay elsewhere.
pub(super) const WEB: &str = STORES[2].0;

/// Every store's id.
pub(super) fn ids() -> Vec<&'static str> {
    STORES.iter().map(|(id, ..)| *id).collect()
}

/// Those that take data.
pub(super) fn writable() -> Vec<&'static str> {
    STORES.iter().filter(|(_, kind, _)| *kind == "file").map(|(id, ..)| *id).collect()
}

pub(super) const METHODS: [&str; 4] =
    ["glance-direct", "web-download", "copy-image", "glance-download"];

/// Whether the cloud imports at all.
pub(super) fn imports(state: &Shared) -> bool {
    !state.faults.on(&Fault::NoImport)
}

pub(super) fn info(state: &Shared, req: &Req, caller: &Caller, topic: &[&str]) -> Reply {
    let single = || {
        let said = "Multi backend is not supported at this site.";
        glance_error(req, 404, said, "")
    };
    match topic {
        ["import"] => {
            let methods: &[&str] = if imports(state) { &METHODS } else { &[] };
            Reply::json(
                200,
                &json!({"import-methods": {
                    "description": "Import methods available.", "type": "array", "value": methods,
                }}),
            )
        }
        ["stores"] if state.faults.on(&Fault::OneStore) => single(),
        ["stores"] => Reply::json(200, &json!({"stores": STORES.map(|store| show(store, false))})),
        ["stores", "detail"] if !caller.admin => {
            let said = "You are not authorized to complete stores_info_detail action.";
            glance_error(req, 403, said, "")
        }
        ["stores", "detail"] if state.faults.on(&Fault::OneStore) => single(),
        ["stores", "detail"] => {
            Reply::json(200, &json!({"stores": STORES.map(|store| show(store, true))}))
        }
        ["usage"] => Reply::json(200, &json!({"usage": usage(state, caller)})),
        _ => glance_error(req, 404, "The resource could not be found.", ""),
    }
}

/// The flags are texts, and there only if they are true.
fn show((id, kind, description): (&str, &str, &str), detail: bool) -> Value {
    let mut shown = json!({"id": id, "description": description});
    if id == DEFAULT {
        shown["default"] = json!("true");
    }
    if kind == "http" {
        shown["read-only"] = json!("true");
    }
    if detail {
        shown["type"] = json!(kind);
        shown["weight"] = json!(0);
        shown["properties"] = match kind {
            "file" => json!({
                "data_dir": format!("/var/lib/glance/{id}"),
                "chunk_size": 65_536,
                "thin_provisioning": false,
            }),
            _ => json!({}),
        };
    }
    shown
}

fn usage(state: &Shared, caller: &Caller) -> Value {
    let tables = state.tables();
    let own = || tables.images.iter().filter(|image| image.owner == caller.project);
    let mib = |bytes: u64| bytes >> 20;
    let staged = own().filter(|image| image.staged.is_some()).filter_map(|image| image.size);
    let busy = own().filter(|image| matches!(image.status, Status::Saving | Status::Uploading));
    json!({
        "image_size_total": {
            "usage": mib(own().map(used).sum()), "limit": mib(super::glance::quota(state)),
        },
        "image_stage_total": {"usage": mib(staged.sum()), "limit": 1_048_576},
        "image_count_total": {"usage": own().count(), "limit": 10_000},
        "image_count_uploading": {"usage": busy.count(), "limit": 100},
    })
}

/// What an image counts for: every store's copy, but not what is only staged.
pub(super) fn used(image: &Image) -> u64 {
    let copies = if image.file.is_some() { image.stores.len() as u64 } else { 0 };
    image.size.unwrap_or(0).saturating_mul(copies)
}

/// `DELETE /v2/stores/{store}/{id}`.
pub(super) fn remove(state: &Shared, req: &Req, caller: &Caller, store: &str, id: &str) -> Reply {
    if !ids().contains(&store) {
        let said = format!("The selected store {store} is not available on this node.");
        return glance_error(req, 409, &said, "");
    }
    let mut tables = state.tables();
    let image = match super::glance::find(&mut tables, req, caller, id) {
        Ok(image) => image,
        Err(refusal) => return *refusal,
    };
    if !caller.admin {
        let said = "You are not authorized to complete delete_image_location action.";
        return glance_error(req, 403, said, "");
    }
    if image.status != Status::Active {
        let said =
            "It's not allowed to remove image data from store if image status is not 'active'";
        return glance_error(req, 409, said, "");
    }
    if image.stores.len() == 1 {
        let said = "Cannot delete image data from the only store containing it. Consider deleting \
                    the image instead.";
        return glance_error(req, 403, said, "");
    }
    let Some(at) = image.stores.iter().position(|known| known == store) else {
        let said = format!("Image {id} is not stored in store {store}.");
        return glance_error(req, 404, &said, "");
    };
    image.stores.remove(at);
    Reply::empty(204)
}

/// The schemas beside those of images.
pub(super) fn schema(name: &str) -> Option<Value> {
    let text = || json!({"type": "string"});
    let one = |kind: &str| match kind {
        "member" => json!({
            "name": "member",
            "properties": {
                "member_id": text(), "image_id": text(), "created_at": text(), "updated_at": text(),
                "status": {"type": "string", "enum": super::member::STATUSES}, "schema": text(),
            },
        }),
        _ => json!({
            "name": "task",
            "properties": {
                "id": text(), "type": {"type": "string", "enum": [task::IMPORT, task::LOCATION]},
                "status": {"type": "string", "enum": ["pending", "processing", "success", "failure"]},
                "input": {"type": ["null", "object"]}, "result": {"type": ["null", "object"]},
                "owner": text(), "message": text(), "expires_at": text(), "created_at": text(),
                "updated_at": text(), "self": text(), "schema": text(),
            },
        }),
    };
    let many = |kind: &str| {
        let plural = format!("{kind}s");
        let mut properties = json!({"schema": text()});
        properties[plural.as_str()] = json!({"type": "array", "items": one(kind)});
        json!({"name": plural, "properties": properties})
    };
    match name {
        "member" | "task" => Some(one(name)),
        "members" => Some(many("member")),
        "tasks" => Some(many("task")),
        _ => None,
    }
}
