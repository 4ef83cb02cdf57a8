//! What a CloudStack double is told before it starts.

use std::path::PathBuf;

/// Settings of a [`CloudStack`](super::CloudStack) double; every one has a default.
///
/// ```
/// use simulator::cloudstack::CloudStackConfig;
///
/// let config = CloudStackConfig::new().with_port(0).with_credentials("key", "secret");
/// assert_eq!(config.key(), "key");
/// assert!(!format!("{config:?}").contains("secret\""));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct CloudStackConfig {
    pub(crate) port: u16,
    pub(crate) key: String,
    pub(crate) secret: String,
    pub(crate) page_size: u64,
    pub(crate) data_dir: Option<PathBuf>,
}

impl CloudStackConfig {
    /// The defaults: free ports, key pairs that are the same in every run, pages of at most 500 objects.
    #[must_use]
    pub fn new() -> Self {
        Self {
            port: 0,
            key: "simulated-api-key-6pKzV4cWq0-cloudstack".to_owned(),
            secret: "simulated-secret-key-Jm3bT8xYw1-cloudstack".to_owned(),
            page_size: 500,
            data_dir: None,
        }
    }

    /// The API listens on this port of 127.0.0.1; 0 takes a free one. The upload server always
    /// takes a free one.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The key pair of the user of the account `clones`.
    #[must_use]
    pub fn with_credentials(mut self, key: impl Into<String>, secret: impl Into<String>) -> Self {
        self.key = key.into();
        self.secret = secret.into();
        self
    }

    /// The setting `default.page.size`: the largest page, and where a plain list is cut off.
    #[must_use]
    pub fn with_page_size(mut self, objects: u64) -> Self {
        self.page_size = objects.max(1);
        self
    }

    /// Templates go to a fresh folder in this one; the system's folder for temporary files
    /// otherwise.
    #[must_use]
    pub fn with_data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(folder.into());
        self
    }

    /// The API key and the secret key of an account: `clones` has those of the settings, `others` is another user,
    /// `admin` the administrator. Those of others are not accepted.
    #[must_use]
    pub fn keys_of(&self, account: &str) -> (String, String) {
        match account {
            "clones" => (self.key.clone(), self.secret.clone()),
            other => (format!("{}-of-{other}", self.key), format!("{}-of-{other}", self.secret)),
        }
    }

    /// The user's API key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The user's secret key; it protects nothing.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl Default for CloudStackConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for CloudStackConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudStackConfig")
            .field("port", &self.port)
            .field("page_size", &self.page_size)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}
