//! Doubles of a XenServer pool, CloudStack and OpenStack on loopback, with the traps of the real servers.
//!
//! The doubles are for tests, examples and trials: they speak the real protocols on 127.0.0.1,
//! serve real disk images, and break in every way that has been seen in the field, when told to.
//! They share no code with the clients of this workspace, and are themselves checked by clients
//! that others wrote.
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use simulator::Simulator;
//!
//! let simulator = Simulator::builder().xen_plain(true).start().await?;
//! let ready = simulator.ready();
//! assert!(ready.xen.url.starts_with("http://127.0.0.1:"));
//!
//! // .. a client works with the pool, then nothing may be left behind:
//! let before = simulator.xen().inventory();
//! assert_eq!(simulator.xen().inventory(), before);
//! assert!(simulator.xen().interruptions().is_empty());
//!
//! // The next export breaks after 4 KiB.
//! simulator.xen().faults().set_str("export-truncate=4096")?;
//! simulator.stop().await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is there
//! - [`xen`]: a pool of one or two hosts; JSON-RPC 1.0 and 2.0, XML-RPC, tasks, `event.from`,
//!   snapshots, `GET` and `PUT` of disks and machines. Without a disk of yours it holds a running VM `web01` with
//!   two small chains of VHDs, a control domain, a template and the host internal management network.
//! - [`openstack`]: Keystone v3 and Glance v2.
//! - [`cloudstack`]: the commands for templates, with signatures, uploads and downloads.
//! - [`fault`]: the switches of both clouds' faults; the pool's, [`xen::Faults`], are settings.
//!
//! The program `simulator` is the same in a process of its own.
//!
//! # Where the pool differs from a real one
//! - Its certificates have ECDSA keys on P-384; real hosts have RSA keys.
//! - All hosts share the address 127.0.0.1, so the port tells them apart: `HOST_IS_SLAVE` and the
//!   `Location` of a redirect carry it. `host.address` is an address, as always.
//! - A snapshot makes no hidden base copy, and nothing coalesces.
//! - Guests are fake: their disks never change, and a heart beats while they run.
//! - Disks go out and in as raw, vhd and qcow2, not as tar; a difference in qcow2 names no base.
//! - An import whose length was not announced is read to the end of the connection.

pub mod cloudstack;
pub mod fault;
mod net;
pub mod openstack;
mod sim;
pub mod xen;

pub use sim::{Ready, ReadyCloudStack, ReadyOpenStack, ReadyXen, Simulator, SimulatorBuilder};
