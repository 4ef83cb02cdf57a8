//! Every dialect of VHD as its writer really lays it out, long and uneven chains, disks of 2040
//! GiB, QCOW2 as `qemu-img` writes it, and what hostile files get for an answer.

#![allow(clippy::unwrap_used)]

#[path = "dialects/big.rs"]
mod big;
#[allow(dead_code)] // Used in part: its layers are too uniform for this.
#[path = "read/builder.rs"]
mod builder;
#[path = "dialects/chains.rs"]
mod chains;
mod common;
#[path = "dialects/forge.rs"]
mod forge;
#[path = "dialects/hostile.rs"]
mod hostile;
#[path = "dialects/judge.rs"]
mod judge;
#[path = "dialects/qcow2.rs"]
mod qcow2;
#[path = "dialects/refusals.rs"]
mod refusals;
#[path = "dialects/writers.rs"]
mod writers;
