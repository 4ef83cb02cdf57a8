//! An image: its attributes, their schema, and how it is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::member::Member;
use super::state::glance_time;

/// What an operator's default configuration accepts; `tgz` is not among them.
pub(super) const DISK_FORMATS: [&str; 11] =
    ["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"];

pub(super) const CONTAINER_FORMATS: [&str; 8] =
    ["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"];

pub(super) const VISIBILITIES: [&str; 4] = ["community", "public", "private", "shared"];

/// Attributes that a client may never set. `id` may be chosen at the creation.
pub(super) const READ_ONLY: [&str; 13] = [
    "id",
    "created_at",
    "updated_at",
    "status",
    "checksum",
    "size",
    "virtual_size",
    "direct_url",
    "self",
    "file",
    "schema",
    "os_hash_algo",
    "os_hash_value",
];

/// Names that are neither core attributes nor free for properties.
pub(super) const RESERVED: [&str; 5] = ["deleted", "deleted_at", "stores", "locations", "backend"];

/// Core attributes that a client may set.
pub(super) const WRITABLE: [&str; 10] = [
    "name",
    "visibility",
    "protected",
    "os_hidden",
    "owner",
    "container_format",
    "disk_format",
    "min_ram",
    "min_disk",
    "tags",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    Saving,
    Uploading,
    Importing,
    Active,
    Killed,
    Deactivated,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Saving => "saving",
            Self::Uploading => "uploading",
            Self::Importing => "importing",
            Self::Active => "active",
            Self::Killed => "killed",
            Self::Deactivated => "deactivated",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) region: usize,
    pub(super) owner: String,
    pub(super) name: Option<String>,
    pub(super) disk_format: Option<String>,
    pub(super) container_format: Option<String>,
    pub(super) visibility: String,
    pub(super) protected: bool,
    pub(super) hidden: bool,
    pub(super) min_disk: u64,
    pub(super) min_ram: u64,
    pub(super) tags: Vec<String>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) status: Status,
    pub(super) size: Option<u64>,
    pub(super) virtual_size: Option<u64>,
    pub(super) checksum: Option<String>,
    /// Algorithm and value of the multihash.
    pub(super) hash: Option<(&'static str, String)>,
    /// The stores that took data, perhaps in vain.
    pub(super) stores: Vec<String>,
    /// Data that wait for their import.
    pub(super) staged: Option<PathBuf>,
    pub(super) members: Vec<Member>,
    /// The task that holds the image.
    pub(super) lock: Option<String>,
    /// The stores of the last import: those that it still has to fill, and those that failed.
    pub(super) importing: Option<Vec<String>>,
    pub(super) failed: Option<Vec<String>>,
    /// The format check refused an upload: the store keeps the object, so no other can follow.
    pub(super) refused: bool,
    pub(super) file: Option<PathBuf>,
    /// A `saving` image with data becomes active then.
    pub(super) active_at: Option<Instant>,
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
}

impl Image {
    pub(super) fn new(id: String, region: usize, owner: String) -> Self {
        let now = Timestamp::now();
        Self {
            id,
            region,
            owner,
            name: None,
            disk_format: None,
            container_format: None,
            visibility: "shared".to_owned(),
            protected: false,
            hidden: false,
            min_disk: 0,
            min_ram: 0,
            tags: Vec::new(),
            properties: BTreeMap::new(),
            status: Status::Queued,
            size: None,
            virtual_size: None,
            checksum: None,
            hash: None,
            stores: Vec::new(),
            staged: None,
            members: Vec::new(),
            lock: None,
            importing: None,
            failed: None,
            refused: false,
            file: None,
            active_at: None,
            created: now,
            updated: now,
        }
    }

    /// Lets a slow activation come true.
    pub(super) fn settle(&mut self) {
        if self.active_at.is_some_and(|at| at <= Instant::now()) {
            self.active_at = None;
            if self.status == Status::Saving {
                self.status = Status::Active;
                self.updated = Timestamp::now();
            }
        }
    }

    /// As `GET /v2/images/{id}` shows it. The links lack the service's mount, as on a real
    /// server behind a proxy: a client joins them to the endpoint by itself.
    pub(super) fn show(&self) -> Value {
        let mut shown = json!({
            "id": self.id,
            "name": self.name,
            "disk_format": self.disk_format,
            "container_format": self.container_format,
            "visibility": self.visibility,
            "size": self.size,
            "virtual_size": self.virtual_size,
            "status": self.status.as_str(),
            "checksum": self.checksum,
            "os_hash_algo": self.hash.as_ref().map(|(algorithm, _)| algorithm),
            "os_hash_value": self.hash.as_ref().map(|(_, value)| value),
            "protected": self.protected,
            "os_hidden": self.hidden,
            "min_ram": self.min_ram,
            "min_disk": self.min_disk,
            "owner": self.owner,
            "created_at": glance_time(self.created),
            "updated_at": glance_time(self.updated),
            "tags": self.tags,
            "self": format!("/v2/images/{}", self.id),
            "file": format!("/v2/images/{}/file", self.id),
            "schema": "/v2/schemas/image",
        });
        if !self.stores.is_empty() && self.status != Status::Deactivated {
            shown["stores"] = json!(self.stores.join(","));
        }
        for (key, stores) in [
            ("os_glance_importing_to_stores", &self.importing),
            ("os_glance_failed_import", &self.failed),
        ] {
            if let Some(stores) = stores {
                shown[key] = json!(stores.join(","));
            }
        }
        if let Some(task) = &self.lock {
            shown["os_glance_import_task"] = json!(task);
        }
        for (key, value) in &self.properties {
            shown[key.as_str()] = json!(value);
        }
        shown
    }

    /// Sets a writable core attribute or a property to a value that [`check`] let pass.
    pub(super) fn set(&mut self, key: &str, value: &Value) {
        let text = || value.as_str().map(str::to_owned);
        match key {
            "name" => self.name = text(),
            "visibility" => self.visibility = text().unwrap_or_default(),
            "protected" => self.protected = value == true,
            "os_hidden" => self.hidden = value == true,
            "owner" => self.owner = text().unwrap_or_default(),
            "container_format" => self.container_format = text(),
            "disk_format" => self.disk_format = text(),
            "min_ram" => self.min_ram = value.as_u64().unwrap_or_default(),
            "min_disk" => self.min_disk = value.as_u64().unwrap_or_default(),
            "tags" => {
                let tags = value.as_array().into_iter().flatten();
                self.tags.clear();
                for tag in tags.filter_map(Value::as_str) {
                    if !self.tags.iter().any(|known| known == tag) {
                        self.tags.push(tag.to_owned());
                    }
                }
            }
            property => {
                self.properties.insert(property.to_owned(), text().unwrap_or_default());
            }
        }
    }
}

/// Whether `value` fits the schema of attribute `key`; the reason when it does not.
pub(super) fn check(key: &str, value: &Value) -> Result<(), String> {
    let nullable = matches!(key, "name" | "owner" | "container_format" | "disk_format");
    if nullable && value.is_null() {
        return Ok(());
    }
    let one_of = |names: &[&str]| match value.as_str() {
        Some(text) if names.contains(&text) => Ok(()),
        _ => Err(format!("{value} is not one of [None, '{}']", names.join("', '"))),
    };
    let of_type = |fits: bool, name: &str| {
        if fits { Ok(()) } else { Err(format!("{value} is not of type '{name}'")) }
    };
    let short = |text: &str| {
        if text.chars().count() <= 255 { Ok(()) } else { Err(format!("'{text}' is too long")) }
    };
    match key {
        "disk_format" => one_of(&DISK_FORMATS),
        "container_format" => one_of(&CONTAINER_FORMATS),
        "visibility" => one_of(&VISIBILITIES),
        "protected" | "os_hidden" => of_type(value.is_boolean(), "boolean"),
        "min_ram" | "min_disk" => of_type(value.is_u64(), "integer"),
        "id" => of_type(value.as_str().is_some_and(is_uuid), "uuid"),
        "tags" => {
            of_type(value.is_array(), "array")?;
            for tag in value.as_array().into_iter().flatten() {
                of_type(tag.is_string(), "string")?;
                short(tag.as_str().unwrap_or_default())?;
            }
            Ok(())
        }
        "name" | "owner" => {
            of_type(value.is_string(), "string")?;
            short(value.as_str().unwrap_or_default())
        }
        _ => of_type(value.is_string(), "string"),
    }
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}
