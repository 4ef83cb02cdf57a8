//! The CloudStack double over plain sockets: its traps and each of its faults.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod access;
mod client;
mod faults;
mod lists;
mod machines;
mod owners;
mod register;
mod upload;
