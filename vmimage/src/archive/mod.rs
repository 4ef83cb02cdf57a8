//! What archives are made of: tar headers, and the compression around them.

mod decode;
mod header;
mod magic;
mod members;

pub(crate) use decode::{Decoded, read_error};
pub(crate) use header::tar_header;
pub(crate) use header::{BLOCK, TarHeader, padded, shown};
pub(crate) use magic::{is_compressed, is_gzip, unread_compression};
pub(crate) use members::{Members, Seen};
