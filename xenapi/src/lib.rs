//! Client for the XenServer and XCP-ng management API (XAPI).

#[macro_use]
mod macros;

// The longest calls of the API have more parameters than a person would give a function.
#[allow(clippy::too_many_arguments)]
mod api;
mod call;
mod client;
mod datetime;
mod error;
mod live;
mod refs;
mod secret;
mod tasks;
mod tls;
mod transfer;
mod transport;
mod value;
mod wire;

pub use api::{
    classes, console, enums, event, host, network, pbd, pif, pool, session, sr, task, vbd, vdi,
    vif, vm, vm_guest_metrics, vm_metrics,
};
pub use call::{AsyncCall, Call};
pub use client::{Client, ClientBuilder, Protocol};
pub use datetime::DateTime;
pub use error::{Error, ErrorCode, ErrorKind, Result};
pub use live::Session;
pub use refs::{Class, Ref};
pub use secret::Secret;
pub use tasks::{Cancel, TaskHandle, WaitOptions};
pub use tls::{Pin, Trust};
pub use transfer::{Export, ExportFormat, ExportOptions};
pub use transport::Transport;
pub use value::{DecodeError, FromValue};
