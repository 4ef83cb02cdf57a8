//! Which versions a service speaks, and where: the document at the root of every OpenStack service.

use http::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use crate::call::{Answer, Call};
use crate::error::{Error, Result};

/// One version of a service's API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiVersion {
    /// The major number.
    pub major: u32,
    /// The minor number; 0 where the id has none.
    pub minor: u32,
    /// `CURRENT`, `SUPPORTED`, `stable`, `DEPRECATED`…, as the server writes it.
    pub status: String,
    /// The link of the version. Behind a proxy its scheme, host and prefix are often wrong: see [`join_version`].
    pub href: Option<String>,
}

impl ApiVersion {
    /// A version without link.
    #[must_use]
    pub fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, status: String::new(), href: None }
    }
}

/// Asks the root of a service for its versions (`200` or `300`).
pub(crate) fn versions() -> Call<Vec<ApiVersion>> {
    Call::new("discover versions", Method::GET, "", |answer: &Answer<'_>| {
        Ok(parse_versions(&answer.json()?))
    })
    .with_accepted(StatusCode::MULTIPLE_CHOICES)
}

/// Reads the three shapes in use: Keystone's `{"versions":{"values":[…]}}`, everyone's `{"versions":[…]}`, and
/// `{"version":{…}}` of a URL that names a version already. What is no version is left out.
#[must_use]
pub fn parse_versions(document: &Value) -> Vec<ApiVersion> {
    let versions = &document["versions"];
    let list = match (versions.as_array(), versions["values"].as_array()) {
        (Some(list), _) | (None, Some(list)) => list.as_slice(),
        (None, None) => std::slice::from_ref(&document["version"]),
    };
    list.iter().filter_map(parse_version).collect()
}

fn parse_version(value: &Value) -> Option<ApiVersion> {
    let mut numbers = value["id"].as_str()?.strip_prefix('v')?.splitn(2, '.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().map_or(Some(0), |minor| minor.parse().ok())?;
    let links = value["links"].as_array().map_or(&[][..], Vec::as_slice);
    let href =
        links.iter().find(|link| link["rel"] == "self").and_then(|link| link["href"].as_str());
    Some(ApiVersion {
        major,
        minor,
        status: value["status"].as_str().unwrap_or_default().to_owned(),
        href: href.map(str::to_owned),
    })
}

/// The URL without a version at its end and without its last slash: what discovery starts from.
///
/// ```
/// let url = |text| url::Url::parse(text).unwrap();
/// let root = glance_client::keystone::without_version(&url("https://cloud.example/identity/v2.0/"));
/// assert_eq!(root.as_str(), "https://cloud.example/identity");
/// ```
#[must_use]
pub fn without_version(url: &Url) -> Url {
    let mut root = url.clone();
    root.set_query(None);
    root.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = match path.rsplit_once('/') {
        Some((parent, last)) if version_of(last).is_some() => parent,
        _ => path,
    };
    root.set_path(path);
    root
}

/// The major number of a path segment such as `v3` or `v2.0`.
pub(crate) fn version_of(segment: &str) -> Option<u32> {
    let mut numbers = segment.strip_prefix('v')?.splitn(2, '.');
    let major = numbers.next()?.parse().ok()?;
    match numbers.next() {
        Some(minor) => minor.parse::<u32>().ok().map(|_| major),
        None => Some(major),
    }
}

/// The URL of a version below `root`: scheme, host and port are those of `root`, and only the path comes from the
/// link, under the prefix of `root` (a proxy may have added it, and the service behind it does not know).
///
/// # Errors
/// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol) if the link's path cannot be put into a URL.
pub fn join_version(root: &Url, version: &ApiVersion) -> Result<Url> {
    let fallback = format!("v{}", version.major);
    let path = match &version.href {
        Some(href) => root
            .join(href)
            .map(|url| url.path().trim_end_matches('/').to_owned())
            .unwrap_or_default(),
        None => String::new(),
    };
    let prefix = root.path().trim_end_matches('/');
    let last = path.rsplit('/').next().filter(|last| version_of(last) == Some(version.major));
    let inside = path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    let path = match last {
        Some(_) if inside => path.clone(),
        Some(last) => format!("{prefix}/{last}"),
        None => format!("{prefix}/{fallback}"),
    };
    let mut url = root.clone();
    url.set_path(&path);
    if url.origin() != root.origin() {
        return Err(Error::protocol("a version's link leads to another host"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn three_shapes_of_the_document() {
        let version = |id: &str| json!({"id": id, "status": "CURRENT", "links": [{"rel": "self", "href": "http://x/v2/"}]});
        let majors =
            |value| parse_versions(&value).iter().map(|v| (v.major, v.minor)).collect::<Vec<_>>();
        assert_eq!(
            majors(json!({"versions": {"values": [version("v3.14"), version("v2.0")]}})),
            [(3, 14), (2, 0)]
        );
        assert_eq!(
            majors(json!({"versions": [version("v2.9"), {"id": "x"}, 5, version("v2.17")]})),
            [(2, 9), (2, 17)]
        );
        assert_eq!(majors(json!({"version": version("v3")})), [(3, 0)]);
        assert_eq!(majors(json!("no")), []);
    }

    #[test]
    fn links_are_joined_below_the_root_that_answered() {
        for (root, href, expected) in [
            ("http://h:9292", Some("http://h:9292/v2/"), "http://h:9292/v2"),
            ("https://h", Some("http://10.0.0.1:9292/v2/"), "https://h/v2"),
            ("https://h/image", Some("http://10.0.0.1:9292/v2/"), "https://h/image/v2"),
            ("https://h/image", Some("http://other/image/v2/"), "https://h/image/v2"),
            ("https://h/image", Some("https://h/image2/v2"), "https://h/image/v2"),
            ("https://h", Some("/x/v2"), "https://h/x/v2"),
            ("https://h", Some("//evil/v2"), "https://h/v2"),
            ("https://h", Some("http://h/elsewhere"), "https://h/v2"),
            ("https://h", None, "https://h/v2"),
        ] {
            let version = ApiVersion {
                major: 2,
                minor: 9,
                status: String::new(),
                href: href.map(str::to_owned),
            };
            assert_eq!(
                join_version(&url(root), &version).unwrap().as_str(),
                expected,
                "{root} {href:?}"
            );
        }
    }

    #[test]
    fn versions_are_cut_off() {
        for (with, without) in [
            ("http://h:5000/v3", "http://h:5000/"),
            ("http://h:5000/v3/", "http://h:5000/"),
            ("http://h:5000", "http://h:5000/"),
            ("http://h/identity/", "http://h/identity"),
            ("http://h/identity/v2.0/?x=1", "http://h/identity"),
            ("http://h/vault", "http://h/vault"),
        ] {
            assert_eq!(without_version(&url(with)).as_str(), without);
        }
    }
}
