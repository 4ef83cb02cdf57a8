//! Glance v2: images as values, calls to make and change them, data up and down that is verified.

mod action;
mod body;
mod call;
mod digest;
mod download;
mod file;
mod import;
mod list;
mod location;
pub mod member;
mod patch;
mod preflight;
pub mod profile;
mod record;
mod store;
mod upload;
mod verify;
mod wait;
mod workers;

pub use action::{add_tag, deactivate, reactivate, remove_from_store, remove_tag};
pub use call::{ImageSchema, NewImage, create, delete, get, schema, update};
pub use download::{Download, DownloadOptions};
pub use import::{Import, ImportOptions, Imported, import};
pub use list::{Compare, ImagePage, ImageStream, ListQuery, SortDirection, SortKey, list};
pub use location::{Location, NewLocation, add_location, locations};
pub use patch::ImagePatch;
pub use preflight::{HEAD_LEN, TAIL_LEN, preflight, preflight_ends};
pub use record::{ContainerFormat, DiskFormat, Image, ImageStatus, Visibility};
pub use store::{StoreOptions, Stored};
pub use upload::{Preflight, Upload, Uploaded};
pub use verify::{Digests, verify};
pub use wait::WaitOptions;

pub(crate) use call::on_image;
pub(crate) use download::download;
pub(crate) use import::run as run_import;
pub(crate) use list::images;
pub(crate) use store::{fill, store};
pub(crate) use upload::{stage, upload};
pub(crate) use wait::wait;
