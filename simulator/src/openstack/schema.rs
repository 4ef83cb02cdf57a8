//! `GET /v2/schemas/image`: what a client reads to learn the formats of this cloud.

use serde_json::{Value, json};

use super::image::{CONTAINER_FORMATS, DISK_FORMATS, VISIBILITIES};

/// The schema of one image.
pub(super) fn image() -> Value {
    json!({
        "name": "image",
        "properties": properties(),
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

/// The schema of a page of images.
pub(super) fn images() -> Value {
    json!({
        "name": "images",
        "properties": {
            "images": {"type": "array", "items": image()},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

fn properties() -> Value {
    let with_null = |names: &[&str]| {
        let mut all = vec![Value::Null];
        all.extend(names.iter().map(|name| json!(name)));
        Value::Array(all)
    };
    let text = |longest: u32, about: &str| json!({"type": ["null", "string"], "description": about, "maxLength": longest});
    let fixed =
        |kind: Value, about: &str| json!({"type": kind, "readOnly": true, "description": about});
    let hash = |longest: u32, about: &str| {
        let mut shape = text(longest, about);
        shape["readOnly"] = json!(true);
        shape
    };
    let states = [
        "queued",
        "saving",
        "active",
        "killed",
        "deleted",
        "uploading",
        "importing",
        "pending_delete",
        "deactivated",
    ];
    let mut status = fixed(json!("string"), "Status of the image");
    status["enum"] = json!(states);
    json!({
        "id": {
            "type": "string",
            "description": "An identifier for the image",
            "pattern": "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$",
        },
        "name": text(255, "Descriptive name for the image"),
        "status": status,
        "visibility": {"type": "string", "description": "Who may see it", "enum": VISIBILITIES},
        "protected": {"type": "boolean", "description": "If true, it cannot be deleted."},
        "os_hidden": {"type": "boolean", "description": "If true, lists leave it out."},
        "checksum": hash(32, "MD5 of the data"),
        "os_hash_algo": hash(64, "Algorithm of os_hash_value"),
        "os_hash_value": hash(128, "Digest of the data, hexadecimal"),
        "owner": text(255, "The project that owns it"),
        "size": fixed(json!(["null", "integer"]), "Size of the data in bytes"),
        "virtual_size": fixed(json!(["null", "integer"]), "Size of the disk in bytes"),
        "container_format": {
            "type": ["null", "string"],
            "description": "Format of the container",
            "enum": with_null(&CONTAINER_FORMATS),
        },
        "disk_format": {
            "type": ["null", "string"],
            "description": "Format of the disk",
            "enum": with_null(&DISK_FORMATS),
        },
        "created_at": fixed(json!("string"), "When it was registered"),
        "updated_at": fixed(json!("string"), "When it was changed last"),
        "tags": {
            "type": "array",
            "description": "Words that go with it",
            "items": {"type": "string", "maxLength": 255},
        },
        "direct_url": fixed(json!("string"), "Where the store keeps the data"),
        "min_ram": {"type": "integer", "description": "MiB of memory to boot it"},
        "min_disk": {"type": "integer", "description": "GiB of disk to boot it"},
        "self": fixed(json!("string"), "Its URL"),
        "file": fixed(json!("string"), "The URL of its data"),
        "stores": fixed(json!("string"), "The stores that hold the data, comma separated"),
        "schema": fixed(json!("string"), "The URL of its schema"),
        "locations": {
            "type": "array",
            "description": "Where stores keep the data",
            "items": {
                "type": "object",
                "properties": {
                    "url": {"type": "string", "maxLength": 255},
                    "metadata": {"type": "object"},
                },
                "required": ["url", "metadata"],
            },
        },
    })
}
