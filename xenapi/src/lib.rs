//! Client for the XenServer and XCP-ng management API (XAPI): calls as values, tasks that are
//! awaited through events, and exports and imports of disks and machines that cannot pass for
//! whole when they are not.
//!
//! ```
//! # use async_trait::async_trait;
//! # use bytes::Bytes;
//! # /// Stands for a pool with one machine, so that this example runs anywhere.
//! # #[derive(Debug)]
//! # struct Double;
//! # #[async_trait]
//! # impl xenapi::Transport for Double {
//! #     async fn send(&self, request: http::Request<Bytes>) -> xenapi::Result<http::Response<Bytes>> {
//! #         let call: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
//! #         let result = match call["method"].as_str().unwrap() {
//! #             "session.login_with_password" => serde_json::json!("OpaqueRef:session"),
//! #             "VM.get_all_records" => serde_json::json!({"OpaqueRef:vm": {
//! #                 "name_label": "web01", "power_state": "Running"}}),
//! #             "Async.VM.snapshot" => serde_json::json!("OpaqueRef:task"),
//! #             "event.from" => serde_json::json!({"token": "1", "events": [{"ref": "OpaqueRef:task",
//! #                 "operation": "mod", "snapshot": {"status": "success",
//! #                 "result": "<value>OpaqueRef:snapshot</value>"}}]}),
//! #             _ => serde_json::json!(""),
//! #         };
//! #         let body = serde_json::json!({"jsonrpc": "2.0", "result": result, "id": 1}).to_string();
//! #         Ok(http::Response::new(Bytes::from(body)))
//! #     }
//! # }
//! use xenapi::enums::VmPowerState;
//! use xenapi::{Client, Pin, Trust, WaitOptions, vm};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), xenapi::Error> {
//! let pin: Pin = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92".parse()?;
//! let client = Client::builder("https://xen1.example")
//!     .trust(Trust::Pins(vec![pin]))
//! #   .transport(Double)
//!     .build()?;
//! let session = client.login("root", "password", "my-program").await?;
//!
//! for (vm, record) in session.call(vm::get_all_records()).await? {
//!     if record.power_state == VmPowerState::Running && !record.is_control_domain {
//!         let task = session.start(vm::async_snapshot(&vm, "before the update")).await?;
//!         let snapshot = session.wait(&task, &WaitOptions::new()).await?;
//!         println!("{}: {snapshot}", record.name_label);
//! #       assert_eq!(snapshot.as_str(), "OpaqueRef:snapshot");
//!     }
//! }
//! session.logout().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Overview
//!
//! - [`Client`] knows where a pool is and whom to trust ([`Trust`]: system roots, a CA file,
//!   fingerprints); it makes a [`Session`], which is cheap to clone and renews itself once when
//!   the server has forgotten it.
//! - A [`Call`] is a value: a method, its parameters, and the type of its result. The class modules
//!   ([`vm`], [`vdi`], [`sr`] …) have a function for each call that a migration needs; any other is
//!   called by name with [`Call::new`]. Their records and [`enums`] tolerate servers that are older
//!   or newer than this crate: a field that was not sent has its default, one that is unknown is
//!   ignored, a value that is unknown becomes `Other`.
//! - The `async_…` functions start a call as a task of the server: [`Session::start`] gives a
//!   [`TaskHandle`], [`Session::wait`] its result.
//! - [`Session::events`] tells what changes, and finds its thread again after a new login or on
//!   another master; [`Session::cache`] keeps the objects of some classes as they are at the
//!   server, and waits until they are as you want them.
//! - [`Session::wait_guest_addresses`] and [`Session::wait_assigned_ip`] tell where a guest can be
//!   reached, with an agent in it and without.
//! - [`Session::export_raw_vdi`] gives a disk as a stream, [`Session::export_vm`] a whole machine
//!   as an XVA archive. It is whole when the stream has ended
//!   *and* [`Export::finish`] has succeeded.
//! - [`Session::import_raw_vdi`] (onto a disk that exists), [`Session::import_new_vdi`],
//!   [`Session::import_vm`] and [`Session::import_metadata`] (a machine whose disks are there) take
//!   the other way, from any stream or reader whose length is known. A [`Throttle`] limits the rate
//!   of both, and both tell their [`Progress`].
//! - [`Session::get_resource`] and [`Session::put_resource`] reach any other raw handler of the
//!   server, with a [`HandlerRequest`]. Some have a function of their own: the [`metrics`] of a
//!   host ([`Session::rrd_updates`]), descriptions of machines ([`Session::export_metadata`]), a
//!   picture of a screen ([`Session::screenshot_jpeg`]), blobs ([`Session::read_blob`],
//!   [`Session::write_blob`]), the log of who did what ([`Session::audit_log`]).
//! - With the feature `console`, the [`console`] of a guest: what to type as Packer writes it, keys
//!   and pictures over RFB, the text of guests without hardware emulation.
//! - [`Transport`] is how calls reach the server; give a [`Client`] one of your own to test without
//!   a server, as the example above does. Exports and imports always use a connection of their own.
//!
//! # Watch a pool
//!
//! ```no_run
//! use xenapi::{Session, vm::Vm};
//!
//! async fn watch(session: &Session) -> Result<(), xenapi::Error> {
//!     // The classes to follow; "*" for all.
//!     let mut cache = session.cache(["vm", "host"]).await?;
//!     println!("{} machines", cache.count::<Vm>());
//!     loop {
//!         // Waits until something happens.
//!         for change in cache.update().await? {
//!             let Some(vm) = change.of::<Vm>() else { continue };
//!             match cache.get(&vm)? {
//!                 Some(record) => println!("{}: {:?}", record.name_label, change.fields()),
//!                 None => println!("{vm} is gone"),
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # Export of a disk
//!
//! ```no_run
//! use futures_util::TryStreamExt as _;
//! use xenapi::{ExportFormat, ExportOptions, Ref, Session, vdi::Vdi};
//!
//! async fn copy(session: &Session, snapshot_disk: &Ref<Vdi>) -> Result<u64, xenapi::Error> {
//!     let options = ExportOptions::new("my-program run 17: export of web01");
//!     let mut export = session.export_raw_vdi(snapshot_disk, ExportFormat::Vhd, &options).await?;
//!     while let Some(bytes) = export.try_next().await? {
//!         // … write them somewhere; a slow reader slows the server down …
//!         let _ = bytes;
//!     }
//!     let received = export.received();
//!     export.finish().await?;
//!     Ok(received)
//! }
//! ```
//!
//! # Import of a disk
//!
//! ```no_run
//! use std::num::NonZeroU64;
//! use xenapi::{ExportFormat, ImportOptions, ImportSource, Ref, Session, Throttle, sr::Sr, vdi::Vdi};
//!
//! async fn bring(
//!     session: &Session,
//!     sr: &Ref<Sr>,
//!     disk: impl tokio::io::AsyncRead + Send + 'static,
//!     length: u64,
//! ) -> Result<Ref<Vdi>, xenapi::Error> {
//!     let source = ImportSource::from_reader(disk, length);
//!     let options = ImportOptions::new("my-program run 17: import of web01")
//!         .with_throttle(Throttle::new(NonZeroU64::new(100_000_000).unwrap()))
//!         .with_progress(|p| println!("{} bytes, the task is at {:.0} %", p.bytes, p.task * 100.0));
//!     let format = ExportFormat::Raw;
//!     session.import_new_vdi(sr, "web01", format, length, source, &options).await
//! }
//! ```
//!
//! # Any handler of the server
//!
//! What is no call and no disk (reports, backups, logs, patches) is at a path of its own. A
//! [`HandlerRequest`] is a value; the session, its renewal, redirects within the pool, trust, rate
//! and progress are as for exports and imports.
//!
//! ```no_run
//! use xenapi::{HandlerRequest, ImportSource, Ref, Session, host::Host};
//!
//! async fn report(session: &Session, host: Ref<Host>) -> Result<bytes::Bytes, xenapi::Error> {
//!     let request = HandlerRequest::new("/system-status")
//!         .with_param("entries", "host-crashdump-logs,xenserver-logs")
//!         .with_param("output", "tar.bz2")
//!         // The master is asked unless told otherwise.
//!         .on_host(host)
//!         // Its end is awaited, and the server's reason is told if it fails.
//!         .with_task("my-program: report");
//!     session.get_resource(&request).await?.bytes(64 << 20).await
//! }
//!
//! async fn restore(session: &Session, host: Ref<Host>, backup: Vec<u8>) -> Result<(), xenapi::Error> {
//!     let request = HandlerRequest::new("/host_restore").on_host(host).with_task("my-program");
//!     session.put_resource(&request, ImportSource::from_bytes(backup)).await.map(drop)
//! }
//! ```
//!
#![cfg_attr(
    feature = "console",
    doc = r#"
# Type at a console, take a screenshot

```no_run
use std::time::Duration;
use xenapi::console::{BootCommand, RfbOptions};
use xenapi::{Ref, Session, vm::Vm};

async fn single_user(session: &Session, vm: &Ref<Vm>) -> Result<Vec<u8>, xenapi::Error> {
    // What cannot be typed is an error here, before anything is.
    let keys = BootCommand::parse_strict("<esc><wait>linux single<enter>")?;
    // The guest may only just be starting.
    let patience = Duration::from_secs(60);
    let mut console = session.open_rfb(vm, &RfbOptions::new(), patience).await?;
    console.run(&keys).await?;
    console.wait_stable(Duration::from_secs(3), patience).await?;
    console.screenshot().await?.to_png()
}
```

A guest without hardware emulation has a text console as well: [`Session::open_terminal`].
"#
)]
//! # Errors
//!
//! There is one [`Error`]. Its [`kind`](Error::kind) tells what a program may do about it, its
//! [`code`](Error::code) is what the server said ([`ErrorCode`] has a constant for each known
//! code), and its text is one line for people. Neither it nor anything else that can be printed
//! holds a password or a session reference.
//!
//! # Cancellation
//!
//! Every future may be dropped. That closes a connection, but asks nothing of the server: a call
//! that was sent may still take effect, a task goes on. [`Cancel`] and [`Export::abort`] end work
//! at the server.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `console` | no | the [`console`] of a guest: boot commands, keys and pictures over RFB, text over vt100 |
//! | `full` | no | the modules of all other classes, and of the classes that are always there the messages that a migration does not need; without it they are reached by name, with [`Call::new`] |
//! | `gzip` | no | `ExportOptions::with_gzip_check`: inflates an archive in gzip as it passes, to check all of it |
//! | `tracing` | no | an event for each call (method, duration, success) and each change of host |
//!
//! On two cores, `cargo check` of this crate alone takes about 3 s, with `full` 4 s.
//!
//! # Minimum supported Rust version
//!
//! 1.89. A rise is a minor version of this crate.

#[macro_use]
mod macros;

// The longest calls of the API have more parameters than a person would give a function; and one
// class is given out by a module of its own.
#[allow(clippy::too_many_arguments, unreachable_pub)]
mod api;
mod cache;
mod call;
mod client;
pub mod console;
mod credential;
mod datetime;
mod error;
mod events;
mod guest;
mod live;
pub mod metrics;
mod refs;
mod retry;
mod tasks;
mod tls;
mod transfer;
mod transport;
mod value;
mod wire;

pub use api::*;
pub use cache::{Cache, Change};
pub use call::{AsyncCall, Call};
pub use client::{Client, ClientBuilder, Protocol};
pub use credential::Secret;
pub use datetime::DateTime;
pub use error::{Error, ErrorCode, ErrorKind, Result};
pub use events::{Event, EventBatch, EventStream};
pub use guest::GuestAddress;
pub use live::Session;
pub use refs::{Class, Ref};
pub use tasks::{Cancel, TaskHandle, WaitOptions};
pub use tls::{Pin, Trust};
pub use transfer::{
    Export, ExportFormat, ExportOptions, HandlerRequest, ImportOptions, ImportSource,
    MetadataExport, Progress, Resource, Throttle, XvaCompression,
};
pub use transport::Transport;
pub use value::{DecodeError, FromValue};
