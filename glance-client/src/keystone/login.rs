//! Finding Keystone, and getting a token from it.

use url::Url;

use super::auth::auth_request;
use super::config::CloudConfig;
use super::discovery::{self, join_version, version_of, without_version};
use super::exchange::{exchange_twice, within};
use super::token::{self, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::transport::Transport;

/// Keystone's v3 URL: what `auth_url` says if it names v3, else what its root says, else the usual place.
pub(super) async fn find_identity(transport: &dyn Transport, config: &CloudConfig) -> Result<Url> {
    let root = without_version(&config.auth_url);
    let last = config.auth_url.path().trim_end_matches('/').rsplit('/').next();
    let mut usual = root.clone();
    usual.set_path(&format!("{}/v3", root.path().trim_end_matches('/')));
    if last.and_then(version_of) == Some(3) {
        return Ok(usual);
    }
    let call = discovery::versions();
    let ask = async {
        let url = call.url(&root)?;
        exchange_twice(transport, &call, &url, call.headers()).await?.read(&call).await
    };
    let versions = match within(config.timeout, call.what(), ask).await {
        Ok(versions) => versions,
        // Some proxies show nothing at the root.
        Err(error) if error.status().is_some() => return Ok(usual),
        Err(error) => return Err(error),
    };
    match versions.iter().filter(|version| version.major == 3).max_by_key(|version| version.minor) {
        Some(version) => join_version(&root, version),
        None if versions.is_empty() => Ok(usual),
        None => Err(Error::protocol("Keystone at auth_url has no v3 API")),
    }
}

/// What Keystone says of a token; `None` if it is not valid.
pub(super) async fn look_up(
    transport: &dyn Transport,
    config: &CloudConfig,
    identity: &Url,
    kept: &Secret,
) -> Result<Option<Token>> {
    let call = token::look_up(kept);
    // A text that cannot be a token is as good as none.
    let Ok(url) = call.url(identity) else { return Ok(None) };
    if kept.is_empty() {
        return Ok(None);
    }
    let ask =
        async { exchange_twice(transport, &call, &url, call.headers()).await?.read(&call).await };
    match within(config.timeout, call.what(), ask).await {
        Ok(token) => Ok(Some(token)),
        // What may pass says nothing of the token.
        Err(error) if error.is_retryable() => Err(error.without(kept)),
        Err(error) if error.status().is_some_and(|status| status.is_client_error()) => Ok(None),
        Err(error) => Err(error.without(kept)),
    }
}

pub(super) async fn log_in(
    transport: &dyn Transport,
    config: &CloudConfig,
    identity: &Url,
) -> Result<Token> {
    let call = auth_request(&config.auth, &config.scope)?;
    let work = async {
        let url = call.url(identity)?;
        let reply = exchange_twice(transport, &call, &url, call.headers()).await?;
        if reply.status.is_redirection() {
            return Err(Error::protocol(
                "log in: Keystone redirects, and a password is not sent after a redirect: correct auth_url",
            )
            .with_answer(reply.status, &reply.headers));
        }
        reply.read(&call).await
    };
    within(config.timeout, call.what(), work).await.map_err(|error| {
        let error = error.without(config.auth.secret());
        match error.kind() {
            ErrorKind::Unauthorized => {
                error.with_hint("check user, password, project and their domains")
            }
            ErrorKind::NotFound => error.with_hint(
                "is auth_url that of a Keystone with v3, and does the application credential (if it is one) still exist?",
            ),
            _ => error,
        }
    })
}
