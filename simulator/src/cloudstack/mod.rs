//! A double of CloudStack: its API on one loopback port, its upload server on another.
//!
//! It speaks plain HTTP and checks every signature by its own code. Templates come by upload
//! with a ticket or by URL, which it really downloads. It is written from the rules and answers
//! of the real server (4.22), with the traps that cost clients their templates: root keys that
//! are not made of the command's name, empty lists without their key, plain lists that are cut
//! off, tickets that are good for one attempt, the first index of `details` only, a status in
//! place of an error, limits with different statuses. What a well-behaved cloud does not show is
//! switched on by [`Faults`].
//!
//! Virtual machines, volumes, networks, public addresses, rules of load balancers and firewalls,
//! snapshots and keys are rows with the states and the refusals that clients have to know.
//!
//! There are three accounts in one domain: that of the settings' key pair, another user, and an administrator
//! ([`CloudStackConfig::keys_of`]); and two projects, of which the first user is in one. Lists show what is the
//! caller's own unless they are asked for more.
//!
//! Left out: sessions with passwords, more domains, making projects, private clouds; downloads by https.
//!
//! ```
//! use simulator::cloudstack::{CloudStack, CloudStackConfig};
//!
//! # fn main() -> std::io::Result<()> {
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! runtime.block_on(async {
//!     let cloud = CloudStack::start(CloudStackConfig::new()).await?;
//!     assert!(cloud.endpoint().ends_with("/client/api"));
//!     assert!(cloud.templates().is_empty());
//!     cloud.faults().set_str("template-quota=3").expect("a fault with a fitting argument");
//!     cloud.stop().await;
//!     Ok(())
//! })
//! # }
//! ```

mod api;
mod config;
mod download;
mod error;
mod fault;
mod fixture;
mod http;
mod image;
mod job;
mod list;
mod machine;
mod multipart;
mod network;
mod object;
mod owner;
mod params;
mod register;
mod server;
mod sign;
mod state;
mod store;
mod tags;
mod template;
mod ticket;
mod update;
mod upload;
mod volume;

pub use crate::fault::ParseFaultError;
pub use config::CloudStackConfig;
pub use fault::{Fault, Faults, Nth};

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::server::Role;
use self::state::Shared;
use self::template::{State, What};

/// A running double of CloudStack. Dropping it stops it, as [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct CloudStack {
    state: Arc<Shared>,
    port: u16,
    stop: watch::Sender<bool>,
    servers: [JoinHandle<()>; 2],
    /// Removed, with the templates' data, when the double is dropped.
    _dir: TempDir,
}

impl CloudStack {
    /// Listens on two ports of 127.0.0.1 and serves until it is stopped.
    ///
    /// # Errors
    ///
    /// The port is taken, or the folder for templates cannot be made.
    pub async fn start(config: CloudStackConfig) -> std::io::Result<Self> {
        let api = crate::net::listen("CloudStack", config.port).await?;
        let upload = crate::net::listen("CloudStack", 0).await?;
        let port = api.local_addr()?.port();
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("simulated-cloudstack-");
        let dir = match &config.data_dir {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        let (stop, stopped) = watch::channel(false);
        let upload_port = upload.local_addr()?.port();
        let state = Arc::new(Shared::new(config, dir.path().to_owned(), upload_port, stopped));
        let servers = [(api, Role::Api), (upload, Role::Upload)].map(|(listener, role)| {
            tokio::spawn(server::serve(listener, Arc::clone(&state), role))
        });
        Ok(Self { state, port, stop, servers, _dir: dir })
    }

    /// The API's URL, e.g. `http://127.0.0.1:40123/client/api`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, server::API)
    }

    /// The settings it was started with: the key pair for a client.
    #[must_use]
    pub fn config(&self) -> &CloudStackConfig {
        &self.state.config
    }

    /// The templates of all accounts as `listTemplates` shows them, oldest first: one row for each
    /// zone, so one for each template while there is one zone. What came with the cloud is not
    /// among them.
    #[must_use]
    pub fn templates(&self) -> Vec<Value> {
        let zones = fixture::zones(2);
        let mut tables = self.state.tables();
        let own =
            tables.templates.iter_mut().filter(|one| one.is_own() && one.what == What::Template);
        let rows = own.flat_map(|template| {
            template.settle();
            let rows = template.copies.iter().map(|copy| template.show(copy, &zones[copy.zone]));
            rows.collect::<Vec<_>>()
        });
        rows.collect()
    }

    /// The machines, volumes, networks, addresses, rules, snapshots and keys of all accounts, as
    /// lists show them, oldest first: for comparing before and after. Each has `kind` beside its own
    /// fields; uploaded volumes and ISOs are among them.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        let zones = fixture::zones(2);
        let mut tables = self.state.tables();
        let images = tables.templates.iter_mut().filter(|one| one.what != What::Template);
        let mut rows: Vec<Value> = images
            .flat_map(|one| {
                one.settle();
                let (volume, kind) = (one.is_volume(), format!("{:?}", one.what));
                let rows = one.copies.iter().map(|copy| {
                    let zone = &zones[copy.zone];
                    let row =
                        if volume { one.show_volume(copy, zone) } else { one.show(copy, zone) };
                    with_kind(row, &kind)
                });
                rows.collect::<Vec<_>>()
            })
            .collect();
        let others = tables.objects.iter();
        rows.extend(others.map(|one| with_kind(one.show(), &format!("{:?}", one.kind))));
        rows
    }

    /// Whether a request has the signature of this secret key, by the double's own reading of the
    /// server's rules; `query` is a query string or a form.
    #[must_use]
    pub fn is_genuine(secret: &str, query: &str) -> bool {
        let pairs = http::merge(query, "");
        let signature = pairs.iter().find(|(name, _)| name.eq_ignore_ascii_case("signature"));
        let text = sign::string_to_sign(&pairs);
        signature.is_some_and(|(_, signature)| sign::verify(secret, &text, signature))
    }

    /// Where the data of a template that is ready lie while the double runs, decompressed; in
    /// the first zone that has it. `None` without data.
    #[must_use]
    pub fn template_path(&self, id: &str) -> Option<PathBuf> {
        let mut tables = self.state.tables();
        let template = tables.templates.iter_mut().find(|template| template.id == id)?;
        template.settle();
        let ready = template.copies.iter().find(|copy| copy.state == State::Ready);
        ready.and_then(|copy| copy.path.clone())
    }

    /// The switches of the faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Stops serving, ends open connections and removes the templates' data.
    pub async fn stop(mut self) {
        self.end();
        // Only to know that the ports are free again.
        for server in &mut self.servers {
            let _ = server.await;
        }
    }

    fn end(&self) {
        let _ = self.stop.send(true);
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

fn with_kind(mut row: Value, kind: &str) -> Value {
    row["kind"] = kind.into();
    row
}

impl Drop for CloudStack {
    fn drop(&mut self) {
        self.end();
    }
}
