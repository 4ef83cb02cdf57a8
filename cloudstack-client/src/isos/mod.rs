//! ISOs: images of installation media, and of whatever a machine is to find in its drive.

mod call;
mod record;

pub use call::{
    NewIso, attach, copy, delete, delete_in, detach, extract, get, list, register, set_permissions,
    upload_params,
};
pub use record::{Iso, merge};
