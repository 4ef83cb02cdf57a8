//! Which proxy stands between us and a host, and the tunnel through it.

use std::io;

use http::HeaderValue;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::{Error, Result};
use crate::secret::Secret;

/// The proxy to use.
///
/// ```
/// use glance_client::Proxy;
/// let proxy = Proxy::through("http://user:secret@proxy.example:3128").except("10.0.0.0/8,.internal");
/// assert!(!format!("{proxy:?}").contains("secret"));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say, in upper or lower case.
    #[default]
    Environment,
    /// None, whatever the environment says.
    Direct,
    /// This one, for every host but the excepted.
    Through {
        /// Its URL, `http` or `https`, which may hold a user and a password.
        url: Secret,
        /// Hosts, domains with their sub-domains, addresses and networks (`10.0.0.0/8`) that are reached directly, separated
        /// by commas.
        except: String,
    },
}

impl Proxy {
    /// The proxy at this URL.
    pub fn through(url: impl Into<Secret>) -> Self {
        Self::Through { url: url.into(), except: String::new() }
    }

    /// Reaches these directly: see [`Proxy::Through`].
    #[must_use]
    pub fn except(self, hosts: impl Into<String>) -> Self {
        match self {
            Self::Through { url, .. } => Self::Through { url, except: hosts.into() },
            other => other,
        }
    }

    pub(super) fn matcher(&self) -> Result<Matcher> {
        Ok(match self {
            Self::Environment => Matcher::from_env(),
            Self::Direct => Matcher::builder().build(),
            Self::Through { url, except } => {
                self.checked()?;
                Matcher::builder().all(url.expose().to_owned()).no(except.clone()).build()
            }
        })
    }

    pub(super) fn set_up(&self, client: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder> {
        Ok(match self {
            Self::Environment => client,
            Self::Direct => client.no_proxy(),
            Self::Through { except, .. } => {
                let proxy = reqwest::Proxy::all(self.checked()?).map_err(|_| unusable())?;
                let except = reqwest::NoProxy::from_string(except);
                client.no_proxy().proxy(proxy.no_proxy(except))
            }
        })
    }

    fn checked(&self) -> Result<url::Url> {
        let Self::Through { url, .. } = self else { return Err(unusable()) };
        let url = url::Url::parse(url.expose()).map_err(|_| unusable())?;
        let good = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if good { Ok(url) } else { Err(unusable()) }
    }
}

fn unusable() -> Error {
    Error::config("the proxy must be an http or https URL")
}

/// The proxy on the way of one request.
pub(super) struct Via {
    /// Where it listens; without user and password.
    pub(super) url: url::Url,
    authorization: Option<HeaderValue>,
}

impl Via {
    pub(super) fn of(found: &Intercept) -> Result<Self> {
        let url = url::Url::parse(&found.uri().to_string()).map_err(|_| unusable())?;
        if !matches!(url.scheme(), "http" | "https") {
            let text =
                format!("a proxy that speaks {} is not supported: use http or https", url.scheme());
            return Err(Error::config(text));
        }
        let authorization = found.basic_auth().cloned().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Ok(Self { url, authorization })
    }

    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Asks the proxy for a tunnel to `authority` (host and port): CONNECT, RFC 9110 section 9.3.6.
    pub(super) async fn tunnel(
        &self,
        io: &mut (impl AsyncRead + AsyncWrite + Unpin),
        authority: &str,
    ) -> io::Result<()> {
        const HEAD_LIMIT: usize = 16 << 10;
        let mut request =
            format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        io.write_all(&request).await?;
        io.flush().await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            // Byte by byte: what follows the head belongs to the tunnel.
            head.push(io.read_u8().await?);
            if head.len() > HEAD_LIMIT {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the proxy's answer does not end",
                ));
            }
        }
        let line = String::from_utf8_lossy(&head);
        let mut words = line.lines().next().unwrap_or_default().split(' ').skip(1);
        match words.next() {
            Some(status) if status.len() == 3 && status.starts_with('2') => Ok(()),
            Some("407") => Err(io::Error::other(
                "the proxy wants a user and a password (407), or others than these",
            )),
            status => Err(io::Error::other(format!(
                "the proxy refuses a tunnel to {authority} ({})",
                status.unwrap_or("no HTTP")
            ))),
        }
    }
}
