//! `registerTemplate`, and what it has in common with tickets for uploads.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
use super::params::Params;
use super::state::Shared;
use super::template::{Copy, FLAGS, FORMATS, State, Template, What, extension_fits};
use super::{Fault, download, fixture};

/// A template as the parameters describe it, in no zone yet.
pub(super) fn describe(params: &Params) -> ApiResult<Template> {
    let format = params.required("format")?.to_uppercase();
    known_format(&format)?;
    let wanted = params.required("hypervisor")?;
    let known = fixture::ALL_HYPERVISORS.iter().find(|name| name.eq_ignore_ascii_case(wanted));
    let unknown = || ApiError::invalid(format!("Hypervisor Type: {wanted} is invalid."));
    let hypervisor = (*known.ok_or_else(unknown)?).to_owned();
    let bits = params.number("bits")?.unwrap_or(64);
    if ![32, 64].contains(&bits) {
        return Err(ApiError::invalid(format!("Bits {bits} is neither 32 nor 64")));
    }
    let arch = params.get("arch").unwrap_or("x86_64");
    if !["x86_64", "aarch64"].contains(&arch) {
        return Err(ApiError::invalid(format!("Please specify a valid CPU arch, {arch} is none")));
    }
    if params.get("templatetag").is_some() || params.flag("isrouting") == Some(true) {
        let text = "Parameters templatetag and isrouting can only be set by a Root Admin";
        return Err(ApiError::denied(text));
    }
    let mut template = named(params, &format, &hypervisor, &os_type(params)?)?;
    arch.clone_into(&mut template.arch);
    template.bits = bits.unsigned_abs();
    Ok(template)
}

pub(super) fn known_format(format: &str) -> ApiResult<()> {
    if FORMATS.iter().any(|(known, _)| *known == format) {
        return Ok(());
    }
    let all = FORMATS.map(|(name, _)| name).join(", ");
    let text = format!("Image format is incorrect {format}. Supported formats are {all}");
    Err(ApiError::invalid(text))
}

/// A template with this name and what else can be said of everything that has data.
pub(super) fn named(
    params: &Params,
    format: &str,
    hypervisor: &str,
    os_type: &str,
) -> ApiResult<Template> {
    let name = params.required("name")?.to_owned();
    let limits = [("name", 255), ("displaytext", 4096), ("url", 2048)];
    for (name, most) in limits {
        if params.get(name).is_some_and(|value| value.chars().count() > most) {
            return Err(ApiError::parameter(format!(
                "Value greater than max allowed length {most} for param: {name}"
            )));
        }
    }
    let flags = FLAGS.iter().map(|(name, plain)| (*name, params.flag(name).unwrap_or(*plain)));
    Ok(Template {
        what: What::Template,
        id: Uuid::new_v4().to_string(),
        owner: params.owner()?,
        displaytext: params.get("displaytext").unwrap_or(&name).to_owned(),
        name,
        format: format.to_owned(),
        hypervisor: hypervisor.to_owned(),
        ostypeid: os_type.to_owned(),
        arch: "x86_64".to_owned(),
        bits: 64,
        flags: flags.collect(),
        details: params.details(),
        tags: Vec::new(),
        shared: Default::default(),
        templatetag: None,
        url: None,
        checksum: params.get("checksum").map(str::to_owned),
        created: Timestamp::now(),
        copies: Vec::new(),
        ticket: None,
    })
}

fn os_type(params: &Params) -> ApiResult<String> {
    let id = params.required("ostypeid")?;
    match fixture::os_type_name(id) {
        Some(_) => Ok(id.to_owned()),
        None => Err(ApiError::no_such(&params.command, "ostypeid", id)),
    }
}

/// The sentence of a limit that is reached.
pub(super) fn exceeded(kind: &str, limit: u64, current: u64, requested: u64) -> String {
    format!(
        "Maximum amount of resources of Type = '{kind}' for Account Name = {} in Domain Id = {} \
         is exceeded: Account Resource Limit = {limit}, Current Account Resource Amount = \
         {current}, Requested Resource Amount = {requested}.",
        fixture::ACCOUNT,
        fixture::domain_id()
    )
}

/// Refuses what the account has no room for.
pub(super) fn check_limits(state: &Shared, bytes: u64) -> Result<(), String> {
    if state.template_room() == 0 {
        let own = state.own_templates();
        return Err(exceeded("template", own, own, 1));
    }
    let room = state.room();
    if room == 0 || bytes > room {
        let quota = |fault: &Fault| match fault {
            Fault::Quota(bytes) => Some(*bytes),
            _ => None,
        };
        let limit = state.faults.peek(quota).unwrap_or(room);
        return Err(exceeded("secondary_storage", limit, limit - room.min(limit), bytes));
    }
    Ok(())
}

pub(super) async fn register(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let template = describe(params)?;
    let id = template.id.clone();
    begin(state, params, template).await?;
    let names = state.zones();
    let tables = state.tables();
    let template = tables.templates.iter().find(|one| one.id == id);
    let rows: Vec<_> = template
        .into_iter()
        .flat_map(|one| one.copies.iter().map(|copy| one.show(copy, &names[copy.zone])))
        .collect();
    Ok(json!({"count": rows.len(), "template": rows}))
}

/// Keeps what is described, and begins to download it into its zones.
pub(super) async fn begin(
    state: &Arc<Shared>,
    params: &Params,
    mut template: Template,
) -> ApiResult<()> {
    let zones = zones(state, params)?;
    let url = params.required("url")?;
    let place = check_url(state, &template.format, url)?;
    // A server that cannot be asked does not matter here: the download will tell.
    let asking = download::remote_size(&place);
    let size = tokio::time::timeout(Duration::from_secs(7), asking).await;
    let size = size.unwrap_or_default().unwrap_or_default();
    check_limits(state, size.saturating_mul(zones.len() as u64)).map_err(ApiError::allocation)?;
    template.url = Some(url.to_owned());
    template.copies = zones.iter().map(|zone| Copy::new(*zone, State::NotDownloaded)).collect();
    let id = template.id.clone();
    state.tables().templates.push(template);
    for zone in zones {
        tokio::spawn(download::fetch(Arc::clone(state), id.clone(), zone, place.clone()));
    }
    Ok(())
}

/// The numbers of the zones: `zoneid`, `zoneids`, or all for -1.
fn zones(state: &Shared, params: &Params) -> ApiResult<Vec<usize>> {
    let (one, several) = (params.get("zoneid"), params.list("zoneids"));
    let wanted = match one {
        Some(_) if !several.is_empty() => {
            return Err(ApiError::invalid("Both zoneid and zoneids cannot be specified"));
        }
        Some(one) => vec![one],
        None => several,
    };
    let zones = state.zones();
    if wanted == ["-1"] {
        return Ok((0..zones.len()).collect());
    }
    let find = |id: &&str| zones.iter().position(|zone| zone.id == **id);
    let found: Result<Vec<_>, _> = wanted
        .iter()
        .map(|id| find(id).ok_or_else(|| ApiError::no_such(&params.command, "zoneid", id)))
        .collect();
    let mut found = found?;
    if found.is_empty() {
        return Err(ApiError::parameter("Please specify at least one zone"));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// A place to download from.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `host:port`, as it stands in the `Host` header.
    pub(super) authority: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path_and_query: String,
    pub(super) path: String,
    pub(super) tls: bool,
}

fn check_url(state: &Shared, format: &str, url: &str) -> ApiResult<Place> {
    let uri: Option<hyper::Uri> = url.parse().ok();
    let parts = uri.as_ref().and_then(|uri| {
        let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
        Some((uri, scheme == "https", uri.host()?, uri.authority()?))
    });
    let Some((uri, tls, host, authority)) = parts else {
        return Err(ApiError::invalid(format!("Unsupported scheme for url: {url}")));
    };
    if !extension_fits(format, uri.path()) {
        return Err(ApiError::invalid(format!("Please specify a valid {}", format.to_lowercase())));
    }
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let unresolved = || ApiError::invalid(format!("Unable to resolve {host}"));
    let address = (host.as_str(), port).to_socket_addrs().ok().and_then(|mut all| all.next());
    let address = address.ok_or_else(unresolved)?.ip();
    let refused = match address {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_link_local() || ip.is_multicast(),
        IpAddr::V6(_) => {
            let text = format!("IPV6 addresses not supported ({host})");
            return Err(ApiError::invalid(text));
        }
    };
    if refused || (address.is_loopback() && state.faults.on(&Fault::RefuseLoopback)) {
        return Err(ApiError::invalid("Illegal host specified in url"));
    }
    Ok(Place {
        authority: authority.as_str().rsplit('@').next().unwrap_or_default().to_owned(),
        port,
        path_and_query: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        path: uri.path().to_owned(),
        host,
        tls,
    })
}
