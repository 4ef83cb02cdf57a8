//! What Glance says of an image.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::location::Location;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::take::Take;
use crate::words::words;

words! {
    /// Where an image is in its life.
    ImageStatus {
        /// Created, without data; also where a failed upload or import falls back to.
        Queued = "queued",
        /// Data is being received.
        Saving = "saving",
        /// Data is being staged for an import.
        Uploading = "uploading",
        /// An import is running.
        Importing = "importing",
        /// Usable.
        Active = "active",
        /// The upload failed for good.
        Killed = "killed",
        /// Deleted.
        Deleted = "deleted",
        /// Deleted, the data to follow later.
        PendingDelete = "pending_delete",
        /// Locked by an operator: its data cannot be read.
        Deactivated = "deactivated",
    }
}

words! {
    /// Who sees an image.
    Visibility {
        /// Everyone; needs a right that plain users do not have.
        Public = "public",
        /// The project alone.
        Private = "private",
        /// The project and its accepted members. Glance's default.
        Shared = "shared",
        /// Everyone, but not listed by default.
        Community = "community",
    }
}

words! {
    /// The format of the disk. Clouds can add and remove formats: see [`ImageSchema`](super::ImageSchema).
    DiskFormat {
        /// Amazon kernel.
        Aki = "aki",
        /// Amazon machine.
        Ami = "ami",
        /// Amazon ramdisk.
        Ari = "ari",
        /// A raw disk with a partition table.
        Gpt = "gpt",
        /// An optical disc.
        Iso = "iso",
        /// An encrypted volume.
        Luks = "luks",
        /// Virtuozzo.
        Ploop = "ploop",
        /// QEMU.
        Qcow2 = "qcow2",
        /// Plain bytes.
        Raw = "raw",
        /// VirtualBox.
        Vdi = "vdi",
        /// XenServer and Hyper-V.
        Vhd = "vhd",
        /// Hyper-V.
        Vhdx = "vhdx",
        /// VMware.
        Vmdk = "vmdk",
    }
}

words! {
    /// What is around the disk.
    ContainerFormat {
        /// Amazon kernel.
        Aki = "aki",
        /// Amazon machine.
        Ami = "ami",
        /// Amazon ramdisk.
        Ari = "ari",
        /// Nothing.
        Bare = "bare",
        /// Some compression.
        Compressed = "compressed",
        /// A container image.
        Docker = "docker",
        /// An OVF package as one file.
        Ova = "ova",
        /// An OVF package; with VHD: a gzipped tar of `0.vhd`, `1.vhd`…, which Nova's XenServer driver boots.
        Ovf = "ovf",
    }
}

/// An image.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Image {
    /// The id.
    pub id: String,
    /// The name; it need not be unique.
    pub name: Option<String>,
    /// The status; the only thing that tells whether an upload succeeded.
    pub status: ImageStatus,
    /// Who sees it.
    pub visibility: Option<Visibility>,
    /// The project that owns it.
    pub owner: Option<String>,
    /// The disk format.
    pub disk_format: Option<DiskFormat>,
    /// The container format.
    pub container_format: Option<ContainerFormat>,
    /// The length of the data in bytes.
    pub size: Option<u64>,
    /// The size of the disk in it, in bytes, where Glance could tell.
    pub virtual_size: Option<u64>,
    /// MD5 of the data. It may be absent, and after a *refused* upload it is stale.
    pub checksum: Option<String>,
    /// The algorithm of [`os_hash_value`](Self::os_hash_value), such as `sha512`.
    pub os_hash_algo: Option<String>,
    /// The digest of the data by that algorithm.
    pub os_hash_value: Option<String>,
    /// The least size of a disk for it, in GiB.
    pub min_disk: u64,
    /// The least memory for it, in MiB.
    pub min_ram: u64,
    /// Whether it is protected from deletion.
    pub protected: bool,
    /// Whether it is left out of lists.
    pub hidden: bool,
    /// The tags.
    pub tags: Vec<String>,
    /// The stores that hold the data.
    pub stores: Vec<String>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When it was changed.
    pub updated_at: Option<SystemTime>,
    /// Where the best store keeps the data; only some clouds show it. It may hold a password.
    pub direct_url: Option<Secret>,
    /// Where the stores keep the data; only some clouds show it.
    pub locations: Vec<Location>,
    /// All other properties: those of the user and of the services.
    pub properties: BTreeMap<String, String>,
    /// What is neither known nor a string.
    pub other: Map<String, Value>,
}

impl Default for ImageStatus {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl Image {
    /// Reads an image from Glance's JSON. Fields that are missing, null or unexpected are no error; an object
    /// without an id is.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol).
    pub fn from_json(value: Value) -> Result<Self> {
        let Value::Object(mut map) = value else {
            return Err(Error::protocol("image: the answer is not an object"));
        };
        for key in ["self", "file", "schema"] {
            map.remove(key);
        }
        let locations = Location::list(&map.remove("locations").unwrap_or_default());
        let mut take = Take(&mut map);
        let mut image = Self {
            id: take.text("id").unwrap_or_default(),
            name: take.text("name"),
            status: take
                .text("status")
                .map(|word| ImageStatus::from(word.as_str()))
                .unwrap_or_default(),
            visibility: take.text("visibility").map(|word| Visibility::from(word.as_str())),
            owner: take.text("owner"),
            disk_format: take.text("disk_format").map(|word| DiskFormat::from(word.as_str())),
            container_format: take
                .text("container_format")
                .map(|word| ContainerFormat::from(word.as_str())),
            size: take.number("size"),
            virtual_size: take.number("virtual_size"),
            checksum: take.text("checksum"),
            os_hash_algo: take.text("os_hash_algo"),
            os_hash_value: take.text("os_hash_value"),
            min_disk: take.number("min_disk").unwrap_or(0),
            min_ram: take.number("min_ram").unwrap_or(0),
            protected: take.flag("protected"),
            hidden: take.flag("os_hidden"),
            tags: take.list("tags"),
            stores: take
                .text("stores")
                .map(|list| split(&list).map(str::to_owned).collect())
                .unwrap_or_default(),
            created_at: take.time("created_at"),
            updated_at: take.time("updated_at"),
            direct_url: take.text("direct_url").map(Secret::new),
            locations,
            properties: BTreeMap::new(),
            other: Map::new(),
        };
        for (key, value) in map {
            match value {
                Value::Null => {}
                Value::String(text) => {
                    image.properties.insert(key, text);
                }
                other => {
                    image.other.insert(key, other);
                }
            }
        }
        if image.id.is_empty() {
            return Err(Error::protocol("image: the answer has no id"));
        }
        Ok(image)
    }

    /// The task that imports into the image now (`os_glance_import_task`).
    #[must_use]
    pub fn import_task(&self) -> Option<&str> {
        self.properties.get("os_glance_import_task").map(String::as_str)
    }

    /// The stores for which an import is still running (`os_glance_importing_to_stores`).
    #[must_use]
    pub fn importing_to(&self) -> Vec<&str> {
        self.store_list("os_glance_importing_to_stores")
    }

    /// The stores for which an import failed (`os_glance_failed_import`).
    #[must_use]
    pub fn failed_stores(&self) -> Vec<&str> {
        self.store_list("os_glance_failed_import")
    }

    fn store_list(&self, key: &str) -> Vec<&str> {
        let list = self.properties.get(key).map_or("", String::as_str);
        split(list).collect()
    }
}

/// The stores in a list as Glance writes it.
fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|store| !store.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_image_is_read_leniently() {
        let image = Image::from_json(json!({
            "id": "1", "name": null, "status": "frozen", "visibility": "shared", "size": 3, "virtual_size": null,
            "disk_format": "vhd", "container_format": "ovf", "min_disk": 10, "protected": true, "os_hidden": false,
            "tags": ["a", 1], "stores": "fast,slow", "created_at": "2026-11-23T09:00:00Z", "hw_disk_bus": "virtio",
            "locations": [{"url": "swift://u:pass@h/1", "metadata": {"store": "fast"}}, 1], "self": "/v2/images/1", "os_glance_failed_import": "slow,", "odd": [1]
        }))
        .unwrap();
        assert_eq!(image.status, ImageStatus::Other("frozen".into()));
        assert_eq!(image.disk_format, Some(DiskFormat::Vhd));
        assert_eq!(image.stores, ["fast", "slow"]);
        assert_eq!(image.tags, ["a"]);
        assert_eq!(image.failed_stores(), ["slow"]);
        assert_eq!(image.importing_to(), [""; 0]);
        assert_eq!(image.properties["hw_disk_bus"], "virtio");
        assert_eq!(image.other["odd"], json!([1]));
        assert!(image.created_at.is_some() && image.protected);
        assert_eq!(image.locations.len(), 1);
        assert_eq!(image.locations[0].store.as_deref(), Some("fast"));
        assert!(!format!("{image:?}").contains("pass"), "{image:?}");
        // No list of stores is one without a store: by that it is known that an image has no data.
        assert_eq!(Image::from_json(json!({"id": "1", "stores": ""})).unwrap().stores, [""; 0]);
        assert!(Image::from_json(json!({"name": "x"})).is_err());
        assert!(Image::from_json(json!([])).is_err());
    }
}
