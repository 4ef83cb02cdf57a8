//! Where a redirect of a raw handler may lead: to another host of the same pool, and nowhere else.

use url::Url;

use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::host::{self, Host};
use crate::live::{Session, host_url};
use crate::refs::Ref;
use crate::sr::{self, Sr};
use crate::tls::{Pin, Trust};
use crate::{pbd, pool};

/// What a query says that only we may say.
pub(super) const RESERVED: [&str; 4] = ["session_id", "task_id", "subtask_of", "pool_secret"];

/// A host that a transfer may go to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Url,
    pub(super) trust: Trust,
}

/// What is to be done at another host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand<'a> {
    /// The thing, in messages.
    pub(super) what: &'static str,
    /// The handler, the only one that it may be sent to.
    pub(super) path: &'a str,
}

/// Checks a `Location` and finds out how to trust the host that it names.
///
/// The session's cookie goes with the request, so the target must be a host of this pool as the
/// pool itself says over the session. Its certificate is learnt over the session as well, when
/// trust is by fingerprints: each host of a pool has a certificate of its own.
pub(super) async fn resolve(
    session: &Session,
    errand: Errand<'_>,
    from: &Url,
    location: &str,
) -> Result<Target> {
    let to = parse(errand, from, location)?;
    let hosts = session.call(host::get_all_records()).await?;
    let name = to.host_str().unwrap_or_default();
    // Behind NAT several hosts can have one address; the target then is any of them.
    let named: Vec<_> = hosts
        .iter()
        .filter(|(_, record)| is_named(name, &record.address, &record.hostname))
        .map(|(reference, _)| reference)
        .collect();
    if named.is_empty() {
        return Err(refuse(errand, &format!("{name} is no host of the pool")));
    }
    target(session, to.scheme(), name, to.port(), named).await
}

/// The host whose storage a transfer needs: the one of the session if it sees it, because its way
/// is known; otherwise one that does, and that lives. A body that was sent cannot be sent again, so
/// that a redirect would come too late.
pub(super) async fn host_of(session: &Session, sr: &Ref<Sr>) -> Result<Target> {
    let mut seeing = Vec::new();
    for pbd in session.call(sr::get_pbds(sr)).await? {
        match session.call(pbd::get_record(&pbd)).await {
            Ok(record) if record.currently_attached => seeing.push(record.host),
            Err(error) if !error.is_not_found() => return Err(error),
            // One that was taken away meanwhile is no way either.
            _ => {}
        }
    }
    let pools = session.call(pool::get_all_records()).await?;
    let is_master = |host: &Ref<Host>| pools.values().any(|pool| pool.master == *host);
    if seeing.is_empty() || seeing.iter().any(is_master) {
        return Ok(here(session));
    }
    let (host, record) = liveliest(session, seeing).await?;
    let scheme = session.url().scheme().to_owned();
    target(session, &scheme, &record.address, None, [&host]).await
}

/// The first of some hosts that is enabled and known to live; if there is none, the first that is
/// not known to be dead, and else the first: the pool can be wrong about it. A host that is down
/// keeps its storage attached in the pool's books.
async fn liveliest(session: &Session, hosts: Vec<Ref<Host>>) -> Result<(Ref<Host>, host::Host)> {
    let mut best: Option<(u8, Ref<Host>, host::Host)> = None;
    for host in hosts {
        let record = session.call(host::get_record(&host)).await?;
        let live = Call::<bool>::new("host_metrics.get_live").arg(&record.metrics);
        let rank = match session.call(live).await {
            Ok(false) => 1,
            Ok(true) if record.enabled => 3,
            _ => 2,
        };
        if best.as_ref().is_none_or(|(known, ..)| *known < rank) {
            best = Some((rank, host, record));
        }
        if rank == 3 {
            break;
        }
    }
    let (_, host, record) = best
        .ok_or_else(|| Error::new(ErrorKind::Protocol, "no host of the pool sees the storage"))?;
    Ok((host, record))
}

/// A host that the caller names: the master by the way that is known.
pub(super) async fn at(session: &Session, host: &Ref<Host>) -> Result<Target> {
    let pools = session.call(pool::get_all_records()).await?;
    if pools.values().any(|pool| pool.master == *host) {
        return Ok(here(session));
    }
    let record = session.call(host::get_record(host)).await?;
    let scheme = session.url().scheme().to_owned();
    target(session, &scheme, &record.address, None, [host]).await
}

/// What a redirect adds to the query: a host that has no numbers of a machine tells the master so,
/// for example. What was asked for stays as it was, because servers write it back undecoded.
pub(super) fn added(from: &Url, location: &str, pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let Ok(to) = from.join(location) else { return Vec::new() };
    to.query_pairs()
        .filter(|(key, _)| !RESERVED.contains(&&**key) && pairs.iter().all(|(own, _)| own != key))
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect()
}

/// The host that the session's calls go to.
pub(super) fn here(session: &Session) -> Target {
    let current = session.current();
    Target { url: current.endpoint.url.clone(), trust: current.endpoint.trust.clone() }
}

/// A host by its address, and how to trust it: with the certificate that the pool says it has,
/// when trust is by fingerprints.
async fn target(
    session: &Session,
    scheme: &str,
    name: &str,
    port: Option<u16>,
    hosts: impl IntoIterator<Item = &Ref<Host>>,
) -> Result<Target> {
    let current = session.current();
    let settings = &session.inner.settings;
    let mut like = current.endpoint.url.clone();
    if like.scheme() != scheme {
        // Another scheme is served at another port.
        let _ = like.set_port(None);
        let _ = like.set_scheme(scheme);
    }
    let mut url = host_url(settings, &like, bare(name))?;
    if let (Some(port), false) = (port, settings.addresses.contains_key(bare(name))) {
        let _ = url.set_port(Some(port));
    }
    let mut trust = current.endpoint.trust.clone();
    if url.scheme() == "https" && trust.is_pins() {
        for host in hosts {
            // A server that cannot tell leaves it at the pins that the caller gave.
            let told = session.call(host::get_server_certificate(host)).await;
            trust = trust.and_pin(told.ok().and_then(|pem| Pin::of_pem(&pem).ok()));
        }
    }
    Ok(Target { url, trust })
}

/// The target as a URL; never from https to http, never another handler.
fn parse(errand: Errand<'_>, from: &Url, location: &str) -> Result<Url> {
    let to = from.join(location).map_err(|_| refuse(errand, "its target is no URL"))?;
    if !matches!(to.scheme(), "http" | "https") {
        return Err(refuse(errand, "its target is no web address"));
    }
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(refuse(errand, "it leads from https to http"));
    }
    if !to.username().is_empty() || to.password().is_some() || to.host_str().is_none() {
        return Err(refuse(errand, "its target is not a plain host"));
    }
    if to.path() != errand.path {
        return Err(refuse(errand, "it leads to another handler"));
    }
    Ok(to)
}

/// The error for hosts that send us round and round.
pub(super) fn endless(errand: Errand<'_>) -> Error {
    let what = errand.what;
    let words = format!("the hosts of the pool redirect the {what} to each other without end");
    Error::new(ErrorKind::Redirect, words)
}

fn refuse(errand: Errand<'_>, why: &str) -> Error {
    let what = errand.what;
    let words = format!("the server sends the {what} elsewhere, and that is not followed: {why}");
    Error::new(ErrorKind::Redirect, words)
}

/// A host name without the brackets of an IPv6 address.
fn bare(name: &str) -> &str {
    name.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a name in a URL is this host's address or name.
fn is_named(name: &str, address: &str, hostname: &str) -> bool {
    let name = bare(name);
    let same_ip = match (name.parse::<std::net::IpAddr>(), address.parse::<std::net::IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    same_ip
        || (!address.is_empty() && name.eq_ignore_ascii_case(address))
        || (!hostname.is_empty() && name.eq_ignore_ascii_case(hostname))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORT: Errand<'_> = Errand { what: "export", path: "/export_raw_vdi" };

    fn from(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn only_the_same_handler_and_never_down_to_http() {
        let https = from("https://a/export_raw_vdi");
        assert!(parse(EXPORT, &https, "https://b/export_raw_vdi?x=1").is_ok());
        assert!(parse(EXPORT, &https, "/export_raw_vdi").is_ok());
        for bad in [
            "http://b/export_raw_vdi",
            "https://b/other",
            "https://u:p@b/export_raw_vdi",
            "ftp://b/export_raw_vdi",
            "https://",
            "file:///export_raw_vdi",
        ] {
            assert_eq!(
                parse(EXPORT, &https, bad).unwrap_err().kind(),
                ErrorKind::Redirect,
                "{bad}"
            );
        }
        let http = from("http://a/export_raw_vdi");
        assert!(parse(EXPORT, &http, "http://b/export_raw_vdi").is_ok());
        assert!(parse(EXPORT, &http, "https://b/export_raw_vdi").is_ok());
    }

    #[test]
    fn a_redirect_may_add_to_the_query_but_not_change_it() {
        let from = from("https://a/vm_rrd?uuid=1&task_id=t");
        let to = "https://b/vm_rrd?rrd_unarchive=&uuid=2&session_id=s&task_id=x&since=a b";
        let added = added(&from, to, &[("uuid", "1")]);
        let expected = [("rrd_unarchive", ""), ("since", "a b")];
        assert_eq!(added, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn hosts_are_known_by_address_or_name() {
        assert!(is_named("10.0.0.2", "10.0.0.2", "h2"));
        assert!(is_named("[fd00::2]", "fd00:0:0::2", "h2"));
        assert!(is_named("H2", "10.0.0.2", "h2"));
        assert!(!is_named("10.0.0.3", "10.0.0.2", "h2"));
        assert!(!is_named("", "", ""));
    }
}
