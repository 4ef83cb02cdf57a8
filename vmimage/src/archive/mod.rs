//! What archives are made of: tar headers, and the compression around them.

mod decode;
mod header;
mod members;

pub(crate) use decode::{Decoded, read_error};
pub(crate) use header::tar_header;
pub(crate) use header::{BLOCK, TarHeader, padded, shown};
pub(crate) use members::{Members, Seen};
