//! The pipeline that clones a *running* XenServer VM into a cloud image: durable steps with undo,
//! as traits.
//!
//! A snapshot is taken, its disks are exported as streams, converted on the way, shipped to a
//! cloud and verified there; then the snapshot is removed. The service of the VM is never
//! stopped. Whatever happens on the way, a failure, Ctrl-C or a crash, both ends are as they were
//! or the clone is whole; if that cannot be had, the exact leftovers are named.
//!
//! # Example
//!
//! Clones the VM `web01` of a pool into Glance. (It runs: both ends are doubles on loopback.)
//!
//! ```
//! # #[cfg(all(feature = "openstack", feature = "xenserver"))]
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use glance_client::keystone::{self, Domain, Principal, Scope};
//! # use glance_client::{CloudConfig, Glance};
//! # use xenapi::{Client, Pin, Trust};
//! # let sim = simulator::Simulator::builder().start().await?;
//! # let (x, o) = (&sim.ready().xen, &sim.ready().openstack);
//! # let pins = Pin::parse_list(x.pin_sha256.as_deref().unwrap_or_default())?;
//! # let client = Client::builder(&x.url).trust(Trust::Pins(pins)).build()?;
//! # let session = client.login(&x.username, x.password.as_str(), "doc").await?;
//! # let cloud = CloudConfig::builder(&o.auth_url)
//! #     .with_password(Principal::named(&o.username, Domain::default()), o.password.as_str())
//! #     .with_scope(Scope::Project(Principal::named(&o.project, Domain::default())))
//! #     .build()?;
//! # let glance = Glance::connect(&keystone::Session::connect(&cloud).await?).await?;
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("web01.journal");
//! use migrate_core::journal::FileJournal;
//! use migrate_core::openstack::OpenStackXenServer;
//! use migrate_core::{Context, Pipeline, RunId, XenServerVm};
//! use vmimage::TargetFormat;
//!
//! let vm = XenServerVm::find(&session, "web01").await?;
//! let target = OpenStackXenServer::new(&glance, TargetFormat::Qcow2).with_name("web01-clone");
//! let pipeline = Pipeline::new(vm, target);
//!
//! // What would be done, and what speaks against it. Changes nothing.
//! let plan = pipeline.plan().await?;
//! plan.check()?;
//!
//! // Does it. After a crash, the same call goes on where the journal ends.
//! let journal = FileJournal::open(&path)?;
//! let report = pipeline.run(journal, Context::new(RunId::random())).await?;
//! for image in &report.images {
//!     println!("{} {} {} bytes, sha256 {}", image.id, image.name, image.bytes, image.sha256);
//! }
//! # assert_eq!(report.images[0].name, "web01-clone");
//! # sim.stop().await;
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "openstack", feature = "xenserver")))]
//! # fn main() {}
//! ```
//!
//! # The parts
//!
//! | trait | does | given here |
//! |---|---|---|
//! | [`Builder`] | makes an [`Artifact`] of a source | `XenServerVm` (a VM of a pool), [`VhdFiles`] (a chain of files) |
//! | [`Artifact`] | describes a [`Machine`], opens its disks as often as needed | that of each builder |
//! | [`Provisioner`] | changes the guest of the clone | none yet |
//! | [`PostProcessor`] | ships the artifact, verifies and publishes it | `OpenStackXenServer` (Glance), `CloudStackTemplate`, [`LocalDirectory`] (files and a manifest) |
//! | [`Step`] | acts, can be asked about, can be undone | those of the builders and post-processors |
//! | [`Journal`](journal::Journal) | keeps what was intended and done | [`FileJournal`](journal::FileJournal), [`MemoryJournal`](journal::MemoryJournal) |
//! | [`Observer`] | is told what happens | every closure |
//!
//! A [`Pipeline`] puts them into one [`Run`]. Users with other plans than ours write steps and
//! call [`Run::step`] themselves: see its example.
//!
//! # Recipes
//!
//! - *Cancel*: give a [`CancelToken`] to the [`Context`] and cancel it from anywhere. The run is
//!   undone; the undo itself does not hear it.
//! - *Watch*: [`Context::with_observer`] with a closure over [`Event`]s.
//! - *Give up* a run that a crash left: [`Pipeline::undo`] with its journal, or
//!   [`Pipeline::sweep`] with nothing but its id.
//! - *Send one disk elsewhere*: [`transfer::send`] with any sink.
//! - *A source or target of your own*: implement [`Builder`] and [`Artifact`], or
//!   [`PostProcessor`], and their [`Step`]s. What you create bears [`RunId::object_name`] or an id
//!   [derived](RunId::derive) from the run from its first moment, so that `probe`, `undo` and
//!   `sweep` find it without an output; a step for each disk has a [key](Step::key) for each disk;
//!   `spec` says all that decides what is made, and nothing secret. `tests/external.rs` of this
//!   crate is a whole one, in memory, over what is public. A single step is tested with a
//!   [`StepCx`] of your own.
//!
//! # Invariants
//!
//! - The intent of a step is on the disk before the step acts, and that the run goes back before
//!   anything is undone: a run whose journal cannot be written stays as it is, and says so.
//! - Every remote object bears the run id in what it is created with: the snapshot in its name,
//!   an export in its task's name, an image in a property and, derived, as its own id, a template
//!   in its name until it is published and in a tag for good.
//! - A step that a crash cut short is probed before it is run again; a probe says absent only when
//!   nothing is under way that could still have the effect.
//! - Before the commit point a failure undoes every step, the last one first, however many of the
//!   undos fail. After it the run goes only forward. An image is private and marked until the
//!   step that publishes it, which is the last one before that point. What is published is deleted
//!   only by a journal that knows of it.
//! - A transfer is whole only if the stream was complete, its task at the pool succeeded, and the
//!   cloud's own digest is that of the bytes that were sent.
//! - Steps have no clock, no randomness and no state of their own: all of it comes from their
//!   [`StepCx`]. Dropping a run does no remote work; it is a crash, and can be resumed.
//! - Nothing blocks the asynchronous runtime: decoding and hashing have their own threads, with
//!   short bounded queues on both sides. The memory of a transfer does not depend on the disk.
//! - Neither journal nor error holds a credential.
//!
//! # The journal
//!
//! A file of mode 0600, locked with `flock`. Each line is a record with a CRC-32 and a sequence
//! number, synced before the run goes on; the space for them is reserved. A torn last line is what
//! a crash leaves, and ignored; damage anywhere else is an error, and so is a whole record that
//! this version does not know. What the records add up to is a pure function,
//! [`next_state`](journal::next_state). A run is resumed only to do the same as before, by the
//! same versions of its steps; one of another version can only be undone.
//!
//! # Errors
//!
//! There is one [`Error`]. [`Error::kind`] tells what to do, [`Error::leftovers`] what is left
//! behind, [`Error::report`] everything on one line.
//!
//! # Features
//!
//! | feature | default | what |
//! |---|---|---|
//! | `cloudstack` | yes | the post-processor for CloudStack |
//! | `openstack` | yes | the post-processor for Glance |
//! | `tracing` | no | events of the crate `tracing` for steps and undos |
//! | `xenserver` | yes | the builder for VMs of a pool |
//!
//! Without any, the steps, the journal, the data plane, [`VhdFiles`] and
//! [`LocalDirectory`] are left.

mod artifact;
#[cfg(feature = "cloudstack")]
pub mod cloudstack;
mod context;
mod error;
mod files;
mod finding;
pub mod journal;
mod local;
mod observer;
#[cfg(feature = "openstack")]
pub mod openstack;
mod pipeline;
mod run;
mod step;
pub mod transfer;
#[cfg(feature = "xenserver")]
mod xenserver;

pub use artifact::{Artifact, ArtifactFormat, DiskInfo, Firmware, Machine, Virtualization};
pub use context::{CancelToken, Clock, Context, RunId, StepCx, SystemClock};
pub use error::{Error, ErrorKind, Result};
pub use files::VhdFiles;
pub use finding::{Finding, Severity};
pub use local::LocalDirectory;
pub use observer::{Event, Observer};
pub use pipeline::{
    Builder, ImageReport, MigrationPlan, Pipeline, PlannedImage, PostProcessor, Provisioner,
    Report, Review, StepTime, Survey, finished,
};
pub use run::Run;
pub use step::{Leftover, Probe, Step};
#[cfg(feature = "xenserver")]
pub use xenserver::XenServerVm;
