//! A double of Keystone v3 and Glance v2 on one loopback port.

mod config;
mod fault;

pub use config::OpenStackConfig;
pub use fault::Faults;

use std::path::PathBuf;

use serde_json::Value;
use tokio::net::TcpListener;

/// A running double of Keystone and Glance. Dropping it stops it, as [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct OpenStack {
    config: OpenStackConfig,
    port: u16,
    faults: Faults,
}

impl OpenStack {
    /// Listens on 127.0.0.1 and serves until it is stopped.
    ///
    /// # Errors
    ///
    /// The port is taken, or the data folder cannot be made.
    pub async fn start(config: OpenStackConfig) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", config.port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { config, port, faults: Faults::default() })
    }

    /// The URL for `OS_AUTH_URL`, e.g. `http://127.0.0.1:40123/identity/v3`.
    #[must_use]
    pub fn auth_url(&self) -> String {
        format!("http://127.0.0.1:{}/identity/v3", self.port)
    }

    /// The settings it was started with: user, password, project, region for a client.
    #[must_use]
    pub fn config(&self) -> &OpenStackConfig {
        &self.config
    }

    /// Every image that exists, as `GET /v2/images/{id}` shows it, oldest first.
    #[must_use]
    pub fn images(&self) -> Vec<Value> {
        Vec::new()
    }

    /// Where the data of an image lies while the double runs; `None` without data.
    #[must_use]
    pub fn image_path(&self, id: &str) -> Option<PathBuf> {
        let _ = id;
        None
    }

    /// The switches of the faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Stops serving, ends open connections and removes the image data.
    pub async fn stop(self) {}
}
