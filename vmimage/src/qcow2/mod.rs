//! QCOW2, versions 2 and 3, for reading.
//!
//! Compressed clusters and extended L2 entries are read; encryption and
//! unknown incompatible features are refused. Backing and data files are used only if the caller
//! named them.

pub(crate) mod check;
mod disk;
mod header;

pub use disk::Qcow2Disk;
pub(crate) use disk::read_header;
pub use header::{Compression, Header};
