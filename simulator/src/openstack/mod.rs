//! A double of Keystone v3 and Glance v2 on one loopback port.
//!
//! It speaks plain HTTP: the identity service below `/identity`, the image service below
//! `/image`; the catalogue has the URLs. It is written from the services' observed behaviour,
//! with the traps that cost clients their images: errors as HTML pages, links without the
//! service's mount, a full last page with a `next`, stale checksums after a refused upload, a
//! token exchange that renews nothing, a format check that refuses after the whole body. What a
//! well-behaved cloud does not show is switched on by [`Faults`].
//!
//! Left out: metadata definitions, signatures, the cache, downloads by https, and the tables of VHDX
//! (such images show no `virtual_size`).
//!
//! ```
//! use simulator::openstack::{OpenStack, OpenStackConfig};
//!
//! # fn main() -> std::io::Result<()> {
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! runtime.block_on(async {
//!     let cloud = OpenStack::start(OpenStackConfig::new()).await?;
//!     assert!(cloud.auth_url().ends_with("/identity/v3"));
//!     assert!(cloud.images().is_empty());
//!     cloud.faults().set_str("size-cap=1048576").expect("a fault with a fitting argument");
//!     cloud.stop().await;
//!     Ok(())
//! })
//! # }
//! ```

mod auth;
mod catalog;
mod config;
mod create;
mod download;
mod fault;
mod glance;
mod http;
mod image;
mod import;
mod inspect;
mod keystone;
mod list;
mod member;
mod patch;
mod schema;
mod server;
mod sink;
mod state;
mod store;
mod task;
mod upload;

pub use crate::fault::ParseFaultError;
pub use config::OpenStackConfig;
pub use fault::{Fault, Faults, Nth};

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::state::Shared;

/// A running double of Keystone and Glance. Dropping it stops it, as [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct OpenStack {
    state: Arc<Shared>,
    port: u16,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    /// Removed, with the image data, when the double is dropped.
    _dir: TempDir,
}

impl OpenStack {
    /// Listens on 127.0.0.1 and serves until it is stopped.
    ///
    /// # Errors
    ///
    /// The port is taken, or the folder for image data cannot be made.
    pub async fn start(config: OpenStackConfig) -> std::io::Result<Self> {
        let listener = crate::net::listen("OpenStack", config.port).await?;
        let port = listener.local_addr()?.port();
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("simulated-glance-");
        let dir = match &config.data_dir {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        let (stop, stopped) = watch::channel(false);
        let state = Arc::new(Shared::new(config, dir.path().to_owned(), stopped));
        let server = tokio::spawn(server::serve(listener, Arc::clone(&state)));
        Ok(Self { state, port, stop, server, _dir: dir })
    }

    /// The URL for `OS_AUTH_URL`, e.g. `http://127.0.0.1:40123/identity/v3`.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("http://127.0.0.1:{}{}/v3", self.port, server::IDENTITY)
    }

    /// The image endpoint of the first region, as the catalogue has it without faults.
    #[must_use]
    pub fn image_url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, server::IMAGE[0])
    }

    /// The settings it was started with: user, password, project, region for a client.
    #[must_use]
    pub fn config(&self) -> &OpenStackConfig {
        &self.state.config
    }

    /// Every image that exists, as `GET /v2/images/{id}` shows it, oldest first.
    #[must_use]
    pub fn images(&self) -> Vec<Value> {
        let mut tables = self.state.tables();
        let shown = tables.images.iter_mut().map(|image| {
            image.settle();
            image.show()
        });
        shown.collect()
    }

    /// Where the data of an image lie while the double runs; `None` without data.
    #[must_use]
    pub fn image_path(&self, id: &str) -> Option<PathBuf> {
        let tables = self.state.tables();
        tables.images.iter().find(|image| image.id == id)?.file.clone()
    }

    /// The switches of the faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }

    /// Takes every token back, as an operator's revocation does: the next use is a 401.
    pub fn revoke_tokens(&self) {
        self.state.tables().tokens.clear();
    }

    /// Stops serving, ends open connections and removes the image data.
    pub async fn stop(mut self) {
        self.end();
        // Only to know that the port is free again.
        let _ = (&mut self.server).await;
    }

    fn end(&self) {
        let _ = self.stop.send(true);
        self.server.abort();
    }
}

impl Drop for OpenStack {
    fn drop(&mut self) {
        self.end();
    }
}
