//! The OpenStack double over plain sockets: its traps and each of its faults.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod client;
mod data;
mod faults;
mod identity;
mod imports;
mod records;
mod sharing;
