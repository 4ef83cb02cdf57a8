//! Templates: made by upload, by URL, or of a volume or a snapshot of the cloud's own; waited for zone by zone, listed,
//! copied, shared, downloaded and deleted.

mod call;
mod format;
mod from_disk;
mod manage;
mod new;
mod preflight;
mod record;
mod upload;
mod wait;

pub use call::{
    Permissions, TemplateFilter, delete, delete_in, get, list, list_tagged, named, register,
    set_permissions, upload_params,
};
pub use format::{Compression, Format};
pub use from_disk::{DiskSource, TemplateFromDisk, create};
pub use manage::{
    Sharing, TemplatePermissions, TemplateUpdate, copy, extract, permissions, share, update,
};
pub use new::{Checksum, NewTemplate, Zones};
pub use preflight::{HEAD_LEN, preflight};
pub use record::{Template, merge};
pub use upload::{Preflight, Upload, UploadTicket, Uploaded};

pub use crate::zoned::{StoreState, TemplateZone, ZoneState};

pub(crate) use call::url_problem;
