//! OpenStack Keystone v3 sessions and Glance v2 images: verified streaming upload with the size declared first.

mod call;
mod error;
mod glance;
pub mod image;
pub mod keystone;
mod secret;
mod transport;

pub use call::{Answer, Call, segment};
pub use error::{Error, ErrorKind, Result};
pub use glance::Glance;
pub use image::{Upload, WaitOptions};
pub use keystone::CloudConfig;
pub use secret::Secret;
pub use transport::{Body, BodyStream, HttpTransport, TlsOptions, Transport, body_of};
