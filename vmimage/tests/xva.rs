//! XVA archives written by Python, against the disks that an importer would make of them.

#![allow(clippy::unwrap_used)]

mod common;

#[path = "xva/content.rs"]
mod content;
#[path = "xva/damage.rs"]
mod damage;
#[path = "xva/mutations.rs"]
mod mutations;
#[path = "xva/peers.rs"]
mod peers;
#[path = "xva/shape.rs"]
mod shape;
