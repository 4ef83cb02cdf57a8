//! What a cloud's Glance offers: stores, import methods, quotas, schemas.
//!
//! ```
//! use glance_client::info;
//! let call = info::usage();
//! let body = br#"{"usage": {"image_size_total": {"usage": 900, "limit": 1000}}}"#;
//! let usage = call.parse(http::StatusCode::OK, &http::HeaderMap::new(), body).unwrap();
//! assert!(usage.image_size_mib().unwrap().has_room_for(100));
//! ```

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value};

use crate::call::{Answer, Call, segment};
use crate::error::{Error, Result};
use crate::take::Take;
use crate::words::words;

words! {
    /// A way to import data into an image.
    ImportMethod {
        /// From another store of the same image.
        CopyImage = "copy-image",
        /// From what was staged.
        GlanceDirect = "glance-direct",
        /// From the Glance of another region.
        GlanceDownload = "glance-download",
        /// From a URL.
        WebDownload = "web-download",
    }
}

/// A store of the cloud.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Store {
    /// The id, which uploads and imports name.
    pub id: String,
    /// What the operator says of it.
    pub description: Option<String>,
    /// Whether it takes what names no store.
    pub is_default: bool,
    /// Whether it takes no data, only locations.
    pub read_only: bool,
    /// `file`, `rbd`, `swift`…; only in [`store_details`].
    pub kind: Option<String>,
    /// The heaviest is read from first; only in [`store_details`].
    pub weight: Option<i64>,
    /// Settings of that kind of store; only in [`store_details`].
    pub properties: Map<String, Value>,
}

/// How much of something a project uses, and how much it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limit {
    /// What is used.
    pub usage: u64,
    /// What may be used; `None`: as much as there is (-1).
    pub limit: Option<u64>,
}

impl Limit {
    /// Whether `more` would still be within it.
    #[must_use]
    pub fn has_room_for(&self, more: u64) -> bool {
        self.limit.is_none_or(|limit| self.usage.saturating_add(more) <= limit)
    }
}

/// The quotas of the token's project. One that the cloud does not keep is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// By name: `image_size_total` and `image_stage_total` in MiB, `image_count_total`, `image_count_uploading`.
    pub limits: BTreeMap<String, Limit>,
}

impl Usage {
    /// The data of all images, in MiB.
    #[must_use]
    pub fn image_size_mib(&self) -> Option<Limit> {
        self.limits.get("image_size_total").copied()
    }

    /// The data that is staged, in MiB.
    #[must_use]
    pub fn staged_mib(&self) -> Option<Limit> {
        self.limits.get("image_stage_total").copied()
    }

    /// The number of images.
    #[must_use]
    pub fn images(&self) -> Option<Limit> {
        self.limits.get("image_count_total").copied()
    }

    /// The number of images that are being uploaded.
    #[must_use]
    pub fn uploading(&self) -> Option<Limit> {
        self.limits.get("image_count_uploading").copied()
    }
}

/// The import methods: `GET /v2/info/import` (API 2.6). None: uploads only.
#[must_use]
pub fn import_methods() -> Call<Vec<ImportMethod>> {
    Call::new("import methods: get", Method::GET, "info/import", |answer| {
        let document: Value = answer.json()?;
        let list = document["import-methods"]["value"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(list.iter().filter_map(Value::as_str).map(ImportMethod::from).collect())
    })
}

/// The stores: `GET /v2/info/stores` (API 2.8); [`NotFound`](crate::ErrorKind::NotFound) where there is only one.
#[must_use]
pub fn stores() -> Call<Vec<Store>> {
    Call::new("stores: list", Method::GET, "info/stores", store_list)
}

/// The stores with what only administrators see: `GET /v2/info/stores/detail` (API 2.15).
#[must_use]
pub fn store_details() -> Call<Vec<Store>> {
    Call::new("stores: list with details", Method::GET, "info/stores/detail", store_list)
}

fn store_list(answer: &Answer<'_>) -> Result<Vec<Store>> {
    let document: Value = answer.json()?;
    let list = document["stores"].as_array().ok_or_else(|| {
        Error::protocol(format!("{}: the answer has no list", answer.what))
            .with_answer(answer.status, answer.headers)
    })?;
    Ok(list.iter().filter_map(store).collect())
}

fn store(value: &Value) -> Option<Store> {
    let mut map = value.as_object()?.clone();
    // The flags are texts: "true".
    let flag = |value: Option<Value>| {
        matches!(value, Some(Value::Bool(true))) || value.is_some_and(|word| word == "true")
    };
    let (is_default, read_only) = (flag(map.remove("default")), flag(map.remove("read-only")));
    let weight = map.get("weight").and_then(Value::as_i64);
    let mut take = Take(&mut map);
    Some(Store {
        id: take.text("id")?,
        description: take.text("description"),
        is_default,
        read_only,
        kind: take.text("type"),
        weight,
        properties: take.object("properties"),
    })
}

/// The project's quotas and what it uses of them: `GET /v2/info/usage` (API 2.13).
#[must_use]
pub fn usage() -> Call<Usage> {
    Call::new("usage: get", Method::GET, "info/usage", |answer| {
        let document: Value = answer.json()?;
        let mut limits = BTreeMap::new();
        for (name, value) in document["usage"].as_object().into_iter().flatten() {
            if let Some(usage) = value["usage"].as_u64() {
                limits.insert(name.clone(), Limit { usage, limit: value["limit"].as_u64() });
            }
        }
        Ok(Usage { limits })
    })
}

words! {
    /// A kind of record that Glance has a JSON schema for.
    Schema {
        /// An image.
        Image = "image",
        /// A page of images.
        Images = "images",
        /// A member of an image.
        Member = "member",
        /// The members of an image.
        Members = "members",
        /// A task.
        Task = "task",
        /// A page of tasks.
        Tasks = "tasks",
    }
}

/// A JSON schema as it is: `GET /v2/schemas/{name}`. The formats in that of an image are read by
/// [`image::schema`](crate::image::schema).
#[must_use]
pub fn schema(of: &Schema) -> Call<Value> {
    schema_as(of, |answer| answer.json())
}

/// A schema, read by `parse`.
pub(crate) fn schema_as<T>(of: &Schema, parse: fn(&Answer<'_>) -> Result<T>) -> Call<T> {
    let what = format!("{of} schema: get");
    match segment(of.as_str()) {
        Some(name) => Call::new(what, Method::GET, format!("schemas/{name}"), parse),
        None => Call::new(what, Method::GET, "schemas", parse).with_problem("a schema has a name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    fn parse<T>(call: &Call<T>, body: &[u8]) -> Result<T> {
        call.parse(StatusCode::OK, &HeaderMap::new(), body)
    }

    #[test]
    fn stores_have_flags_that_are_texts() {
        let body = br#"{"stores": [
            {"id": "fast", "description": "x", "default": "true", "type": "file", "weight": -1,
             "properties": {"data_dir": "/v"}},
            {"id": "web", "read-only": "true"}, {"no": "id"}, 3]}"#;
        let stores = parse(&store_details(), body).unwrap();
        assert_eq!(stores.len(), 2);
        assert!(stores[0].is_default && !stores[0].read_only);
        assert_eq!((stores[0].kind.as_deref(), stores[0].weight), (Some("file"), Some(-1)));
        assert_eq!(stores[0].properties["data_dir"], "/v");
        assert!(!stores[1].is_default && stores[1].read_only);
        assert!(parse(&super::stores(), b"{}").is_err());
    }

    #[test]
    fn quotas_may_be_without_end_and_absent() {
        let body = br#"{"usage": {"image_size_total": {"usage": 7, "limit": 10},
            "image_count_total": {"usage": 3, "limit": -1}, "odd": {"usage": "x"}}}"#;
        let usage = parse(&usage(), body).unwrap();
        let size = usage.image_size_mib().unwrap();
        assert!(size.has_room_for(3) && !size.has_room_for(4));
        assert!(usage.images().unwrap().has_room_for(u64::MAX));
        assert_eq!((usage.staged_mib(), usage.limits.len()), (None, 2));
    }

    #[test]
    fn methods_and_schemas() {
        let methods =
            parse(&import_methods(), br#"{"import-methods": {"value": ["web-download", "new"]}}"#);
        assert_eq!(
            methods.unwrap(),
            [ImportMethod::WebDownload, ImportMethod::Other("new".into())]
        );
        assert_eq!(parse(&import_methods(), b"{}").unwrap(), []);
        assert_eq!(schema(&Schema::Members).path(), "schemas/members");
        assert_eq!(schema(&"a/b".into()).path(), "schemas/a%2Fb");
    }
}
