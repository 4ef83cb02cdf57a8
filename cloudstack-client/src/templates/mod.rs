//! Templates: made by upload or by URL, waited for zone by zone, listed, shared and deleted.

mod call;
mod format;
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
pub use new::{Checksum, NewTemplate, Zones};
pub use preflight::{HEAD_LEN, preflight};
pub use record::{StoreState, Template, TemplateZone, ZoneState, merge};
pub use upload::{Preflight, Upload, UploadTicket, Uploaded};
