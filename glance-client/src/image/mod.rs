//! Glance v2: images as values, calls to make and change them, uploads that are verified.

mod body;
mod call;
mod digest;
mod file;
mod patch;
mod preflight;
pub mod profile;
mod record;
mod store;
mod upload;
mod verify;
mod wait;

pub use call::{
    ImagePage, ImageSchema, ListQuery, NewImage, create, delete, get, list, schema, update,
};
pub use patch::ImagePatch;
pub use preflight::{HEAD_LEN, TAIL_LEN, preflight, preflight_ends};
pub use record::{ContainerFormat, DiskFormat, Image, ImageStatus, Visibility};
pub use store::{StoreOptions, Stored};
pub use upload::{Download, Preflight, Upload, Uploaded};
pub use verify::{Digests, verify};
pub use wait::WaitOptions;

pub(crate) use store::{fill, store};
pub(crate) use upload::{download, upload};
pub(crate) use wait::wait;
