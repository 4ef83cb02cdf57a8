//! The calls of the Image API v2, as values. Paths are below the endpoint of version 2.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value, json};

use super::patch::ImagePatch;
use super::record::{ContainerFormat, DiskFormat, Image, Visibility};
use crate::call::{Answer, Call, segment};
use crate::error::{Error, Result};
use crate::info::{Schema, schema_as};

/// An image to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewImage {
    /// The name, at most 255 characters. Glance does not care whether it is unique.
    pub name: String,
    /// The disk format.
    pub disk_format: DiskFormat,
    /// The container format.
    pub container_format: ContainerFormat,
    /// The id, a UUID chosen by the caller: then making it twice is a [conflict](crate::ErrorKind::Conflict) and not a
    /// second image.
    pub id: Option<String>,
    /// Who sees it. Glance's own default would be `shared`.
    pub visibility: Visibility,
    /// The id of the project that is to own it; only administrators may name another than their own.
    pub owner: Option<String>,
    /// The least disk, in GiB.
    pub min_disk: Option<u64>,
    /// The least memory, in MiB.
    pub min_ram: Option<u64>,
    /// Whether it is protected from deletion.
    pub protected: bool,
    /// Whether it is left out of lists.
    pub hidden: bool,
    /// The tags.
    pub tags: Vec<String>,
    /// Further properties. Glance takes only text.
    pub properties: BTreeMap<String, String>,
}

impl NewImage {
    /// A private image without properties.
    pub fn new(
        name: impl Into<String>,
        disk_format: DiskFormat,
        container_format: ContainerFormat,
    ) -> Self {
        Self {
            name: name.into(),
            disk_format,
            container_format,
            id: None,
            visibility: Visibility::Private,
            owner: None,
            min_disk: None,
            min_ram: None,
            protected: false,
            hidden: false,
            tags: Vec::new(),
            properties: BTreeMap::new(),
        }
    }

    /// The id, a UUID.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Who sees it.
    #[must_use]
    pub fn with_visibility(mut self, visibility: Visibility) -> Self {
        self.visibility = visibility;
        self
    }

    /// The id of the project that is to own it.
    #[must_use]
    pub fn with_owner(mut self, project: impl Into<String>) -> Self {
        self.owner = Some(project.into());
        self
    }

    /// The least disk, in GiB.
    #[must_use]
    pub fn with_min_disk(mut self, gib: u64) -> Self {
        self.min_disk = Some(gib);
        self
    }

    /// The least memory, in MiB.
    #[must_use]
    pub fn with_min_ram(mut self, mib: u64) -> Self {
        self.min_ram = Some(mib);
        self
    }

    /// Protects it from deletion.
    #[must_use]
    pub fn with_protected(mut self, protected: bool) -> Self {
        self.protected = protected;
        self
    }

    /// Leaves it out of lists.
    #[must_use]
    pub fn with_hidden(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Sets a property.
    #[must_use]
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Sets what a [profile](super::profile) says: properties, owner, the least disk and memory.
    #[must_use]
    pub fn with_profile(mut self, profile: &super::profile::Profile) -> Self {
        self.properties.extend(profile.properties.clone());
        self.owner = profile.owner.clone().or(self.owner);
        self.min_disk = profile.min_disk.or(self.min_disk);
        self.min_ram = profile.min_ram.or(self.min_ram);
        self
    }

    fn json(&self) -> Value {
        let mut map = Map::new();
        for (name, value) in &self.properties {
            map.insert(name.clone(), value.clone().into());
        }
        map.insert("name".into(), self.name.clone().into());
        map.insert("disk_format".into(), self.disk_format.as_str().into());
        map.insert("container_format".into(), self.container_format.as_str().into());
        map.insert("visibility".into(), self.visibility.as_str().into());
        let optional = [
            ("id", self.id.clone().map(Value::from)),
            ("owner", self.owner.clone().map(Value::from)),
            ("min_disk", self.min_disk.map(Value::from)),
            ("min_ram", self.min_ram.map(Value::from)),
            ("protected", self.protected.then_some(true.into())),
            ("os_hidden", self.hidden.then_some(true.into())),
            ("tags", (!self.tags.is_empty()).then(|| json!(self.tags))),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                map.insert(name.into(), value);
            }
        }
        Value::Object(map)
    }

    fn problem(&self) -> Option<String> {
        if self.name.chars().count() > 255 {
            return Some("the name is longer than 255 characters".to_owned());
        }
        let core =
            self.properties.keys().find(|name| is_core(name) || name.starts_with("os_glance_"))?;
        Some(format!("{core:?} is a field of Glance's own and cannot be set as a property"))
    }
}

/// The fields that are no free properties.
pub(super) fn is_core(name: &str) -> bool {
    const CORE: [&str; 26] = [
        "checksum",
        "container_format",
        "created_at",
        "direct_url",
        "disk_format",
        "file",
        "id",
        "locations",
        "min_disk",
        "min_ram",
        "name",
        "os_hash_algo",
        "os_hash_value",
        "os_hidden",
        "owner",
        "protected",
        "schema",
        "self",
        "size",
        "status",
        "stores",
        "tags",
        "updated_at",
        "virtual_size",
        "visibility",
        "deleted",
    ];
    CORE.contains(&name)
}

fn one(answer: &Answer<'_>) -> Result<Image> {
    Image::from_json(answer.json()?)
        .map_err(|error| error.with_answer(answer.status, answer.headers))
}

/// A call about one image, or about what is below it (`rest`: `/members`).
pub(crate) fn on_image<T>(
    verb: &str,
    id: &str,
    rest: &str,
    method: Method,
    parse: fn(&Answer<'_>) -> Result<T>,
) -> Call<T> {
    let what = format!("image {id}: {verb}");
    match segment(id) {
        Some(id) => Call::new(what, method, format!("images/{id}{rest}"), parse),
        None => Call::new(what, method, "images", parse)
            .with_problem(format!("{id:?} is not an image id")),
    }
}

/// Makes an image without data: `POST /v2/images`, 201.
///
/// Errors: [`Conflict`](crate::ErrorKind::Conflict) if the id is taken, [`TooLarge`](crate::ErrorKind::TooLarge) if the
/// number of images is at its quota, [`Forbidden`](crate::ErrorKind::Forbidden) for a visibility or a protected
/// property that is not ours to set, [`Invalid`](crate::ErrorKind::Invalid) for a format that the cloud does not take.
#[must_use]
pub fn create(image: &NewImage) -> Call<Image> {
    let what = format!("image {:?}: create", image.name);
    let call = Call::new(what, Method::POST, "images", one).with_json(&image.json());
    match image.problem() {
        Some(problem) => call.with_problem(problem),
        None => call,
    }
}

/// Gets an image: `GET /v2/images/{id}`.
#[must_use]
pub fn get(id: &str) -> Call<Image> {
    on_image("get", id, "", Method::GET, one)
}

/// Deletes an image: `DELETE /v2/images/{id}`, 204. A protected image is
/// [`Forbidden`](crate::ErrorKind::Forbidden), one in use [`Conflict`](crate::ErrorKind::Conflict).
#[must_use]
pub fn delete(id: &str) -> Call<()> {
    on_image("delete", id, "", Method::DELETE, |_| Ok(()))
}

/// Changes fields and properties: `PATCH /v2/images/{id}` with a JSON patch of Glance's version 2.1.
#[must_use]
pub fn update(id: &str, patch: &ImagePatch) -> Call<Image> {
    const TYPE: &str = "application/openstack-images-v2.1-json-patch";
    let call =
        on_image("update", id, "", Method::PATCH, one).with_json_as(TYPE, &patch.operations());
    match patch.problem() {
        Some(problem) => call.with_problem(problem),
        None => call,
    }
}

/// What this cloud's Glance accepts.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImageSchema {
    /// The disk formats. Empty: the schema does not tell.
    pub disk_formats: Vec<DiskFormat>,
    /// The container formats. Empty: the schema does not tell.
    pub container_formats: Vec<ContainerFormat>,
    /// The visibilities. Empty: the schema does not tell.
    pub visibilities: Vec<Visibility>,
}

impl ImageSchema {
    /// Refuses what the cloud would refuse, with the formats that it takes.
    ///
    /// # Errors
    /// [`UnsupportedFormat`](crate::ErrorKind::UnsupportedFormat).
    pub fn check(&self, image: &NewImage) -> Result<()> {
        let refuse = |what: &str, word: &str, known: Vec<&str>| {
            Error::new(
                crate::ErrorKind::UnsupportedFormat,
                format!(
                    "image {:?}: this cloud takes no {what} {word:?}, only {}",
                    image.name,
                    known.join(", ")
                ),
            )
        };
        if !self.disk_formats.is_empty() && !self.disk_formats.contains(&image.disk_format) {
            let known = self.disk_formats.iter().map(DiskFormat::as_str).collect();
            return Err(refuse("disk format", image.disk_format.as_str(), known));
        }
        if !self.container_formats.is_empty()
            && !self.container_formats.contains(&image.container_format)
        {
            let known = self.container_formats.iter().map(ContainerFormat::as_str).collect();
            return Err(refuse("container format", image.container_format.as_str(), known));
        }
        Ok(())
    }
}

/// Gets the schema of images: `GET /v2/schemas/image`.
#[must_use]
pub fn schema() -> Call<ImageSchema> {
    schema_as(&Schema::Image, |answer| {
        let document: Value = answer.json()?;
        let words = |field: &str| -> Vec<String> {
            let list =
                document["properties"][field]["enum"].as_array().map_or(&[][..], Vec::as_slice);
            list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
        };
        Ok(ImageSchema {
            disk_formats: words("disk_format")
                .iter()
                .map(|w| DiskFormat::from(w.as_str()))
                .collect(),
            container_formats: words("container_format")
                .iter()
                .map(|w| ContainerFormat::from(w.as_str()))
                .collect(),
            visibilities: words("visibility")
                .iter()
                .map(|w| Visibility::from(w.as_str()))
                .collect(),
        })
    })
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
