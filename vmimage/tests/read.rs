//! What is read, against models and writers that share no code with the readers.

#![allow(clippy::unwrap_used)]

#[path = "read/builder.rs"]
mod builder;
#[path = "read/chains.rs"]
mod chains;
#[path = "read/foreign.rs"]
mod foreign;
#[path = "read/hostile.rs"]
mod hostile;
#[path = "read/mutations.rs"]
mod mutations;
#[path = "read/oddities.rs"]
mod oddities;
#[path = "read/packed.rs"]
mod packed;
#[path = "read/parents.rs"]
mod parents;
#[path = "read/python.rs"]
mod python;
#[path = "read/qemu.rs"]
mod qemu;
#[path = "read/streams.rs"]
mod streams;
