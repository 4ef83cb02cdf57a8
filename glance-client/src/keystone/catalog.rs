//! The service catalogue as a value.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};
use crate::take::{each, lenient};

/// The services that a token may use. Entries that are not understood are kept out of the way, never fatal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Catalog {
    /// The services, in the server's order.
    pub services: Vec<CatalogService>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct CatalogService {
    /// The id.
    #[serde(default, deserialize_with = "lenient")]
    pub id: String,
    /// The type: `image`, `compute`, `object-store`…
    #[serde(rename = "type", default, deserialize_with = "lenient")]
    pub service_type: String,
    /// The name that the operator chose.
    #[serde(default, deserialize_with = "lenient")]
    pub name: Option<String>,
    /// Its endpoints.
    #[serde(default, deserialize_with = "each")]
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Endpoint {
    /// The id.
    #[serde(default, deserialize_with = "lenient")]
    pub id: String,
    /// `public`, `internal` or `admin`, as written by the server.
    #[serde(default, deserialize_with = "lenient")]
    pub interface: String,
    /// The region's id.
    #[serde(default, deserialize_with = "lenient")]
    pub region_id: Option<String>,
    /// The old copy of the region's id.
    #[serde(default, deserialize_with = "lenient")]
    pub region: Option<String>,
    /// The URL.
    #[serde(default, deserialize_with = "lenient")]
    pub url: String,
}

impl Endpoint {
    /// The region, by whichever of its two fields is there.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region_id.as_deref().or(self.region.as_deref())
    }
}

/// For whom an endpoint is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interface {
    /// Everyone.
    #[default]
    Public,
    /// Users inside the cloud's own network.
    Internal,
    /// Operators.
    Admin,
}

impl Interface {
    /// The catalogue's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Interface {
    type Err = Error;

    /// Reads `public`, and the old `publicURL`.
    fn from_str(text: &str) -> Result<Self> {
        match text.strip_suffix("URL").unwrap_or(text) {
            "public" => Ok(Self::Public),
            "internal" => Ok(Self::Internal),
            "admin" => Ok(Self::Admin),
            _ => {
                Err(Error::config(format!("interface {text:?} is none of public, internal, admin")))
            }
        }
    }
}

/// Which endpoint is wanted. What is left open is filled in from the [`CloudConfig`](super::CloudConfig) by
/// [`Session::endpoint`](super::Session::endpoint).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointQuery {
    /// The service type.
    pub service_type: String,
    /// Other types under which clouds list the same service, tried after the type in this order.
    pub aliases: Vec<String>,
    /// The interfaces to try, in order; empty: those of the configuration, else `public`.
    pub interfaces: Vec<Interface>,
    /// The region; `None`: that of the configuration, else the only one there is.
    pub region: Option<String>,
}

/// Official types with the others under which clouds list them, the newest first.
const ALIASES: &[(&str, &[&str])] = &[
    ("alarm", &["alarming"]),
    ("application-container", &["container"]),
    ("baremetal", &["bare-metal"]),
    ("block-storage", &["volumev3", "volumev2", "volume", "block-store"]),
    ("clustering", &["resource-cluster", "cluster"]),
    ("container-infrastructure-management", &["container-infrastructure", "container-infra"]),
    ("event", &["events"]),
    ("instance-ha", &["ha"]),
    ("message", &["messaging"]),
    ("meter", &["metering", "telemetry"]),
    ("operator-policy", &["policy"]),
    ("resource-optimization", &["infra-optim"]),
    ("root-cause-analysis", &["rca"]),
    ("shared-file-system", &["sharev2", "share"]),
    ("workflow", &["workflowv2"]),
];

/// Projects with the type of their service, for those who know it by that name.
const PROJECTS: &[(&str, &str)] = &[
    ("barbican", "key-manager"),
    ("cinder", "block-storage"),
    ("designate", "dns"),
    ("glance", "image"),
    ("heat", "orchestration"),
    ("ironic", "baremetal"),
    ("keystone", "identity"),
    ("magnum", "container-infrastructure-management"),
    ("manila", "shared-file-system"),
    ("neutron", "network"),
    ("nova", "compute"),
    ("octavia", "load-balancer"),
    ("swift", "object-store"),
    ("trove", "database"),
];

impl EndpointQuery {
    /// The service of this official type, with the aliases that clouds in the field use for it (OpenStack's Service Types
    /// Authority). The name of the project that makes the service (`glance`, `cinder`) may stand for the type.
    ///
    /// ```
    /// use glance_client::keystone::EndpointQuery;
    /// let query = EndpointQuery::new("glance");
    /// assert_eq!((query.service_type.as_str(), query.aliases.as_slice()), ("image", &["glance".to_owned()][..]));
    /// ```
    #[must_use]
    pub fn new(service_type: impl Into<String>) -> Self {
        let given = service_type.into();
        let project = PROJECTS.iter().find(|(name, official)| *name == given || *official == given);
        let service_type = project.map_or(given, |(_, official)| (*official).to_owned());
        let family = ALIASES.iter().find(|(official, _)| *official == service_type);
        let mut aliases: Vec<_> = family
            .into_iter()
            .flat_map(|(_, aliases)| *aliases)
            .map(|&alias| alias.to_owned())
            .collect();
        aliases.extend(project.map(|(name, _)| (*name).to_owned()));
        Self { service_type, aliases, interfaces: Vec::new(), region: None }
    }

    /// Adds another type under which the service may be listed.
    #[must_use]
    pub fn with_alias(mut self, alias: impl Into<String>) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// The interfaces to try, in order.
    #[must_use]
    pub fn with_interfaces(mut self, interfaces: impl IntoIterator<Item = Interface>) -> Self {
        self.interfaces = interfaces.into_iter().collect();
        self
    }

    /// The region.
    #[must_use]
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }
}

impl Catalog {
    /// A catalogue of these services.
    #[must_use]
    pub fn new(services: Vec<CatalogService>) -> Self {
        Self { services }
    }

    /// The endpoint for `query`: type, then aliases; the first interface that has one; the wanted region, or the
    /// only region.
    ///
    /// # Errors
    /// [`ErrorKind::Catalog`] with what there is instead: the service types, interfaces or regions.
    pub fn find(&self, query: &EndpointQuery) -> Result<&Endpoint> {
        let wanted = &query.service_type;
        let types = std::iter::once(wanted).chain(&query.aliases);
        let services: Vec<_> = types
            .map(|name| {
                self.services.iter().filter(|s| s.service_type == *name).collect::<Vec<_>>()
            })
            .find(|found| found.iter().any(|service| !service.endpoints.is_empty()))
            .unwrap_or_default();
        if services.is_empty() {
            let known = listed(self.services.iter().map(|service| service.service_type.as_str()));
            return Err(missing(format!(
                "the catalogue has no service of type {wanted:?}; it has {known}"
            )));
        }
        let all = services.iter().flat_map(|service| &service.endpoints);
        let all: Vec<_> = all.filter(|endpoint| !endpoint.url.is_empty()).collect();
        let in_region: Vec<_> = match &query.region {
            Some(region) => all.iter().copied().filter(|e| e.region() == Some(region)).collect(),
            None => all.clone(),
        };
        if let (Some(region), true) = (&query.region, in_region.is_empty()) {
            let known = listed(all.iter().filter_map(|endpoint| endpoint.region()));
            return Err(missing(format!(
                "service {wanted:?} has no endpoint in region {region:?}; it has {known}"
            )));
        }
        let default = [Interface::Public];
        let interfaces = if query.interfaces.is_empty() { &default[..] } else { &query.interfaces };
        for interface in interfaces {
            let fit: Vec<_> =
                in_region.iter().copied().filter(|e| e.interface == interface.as_str()).collect();
            let Some(&first) = fit.first() else { continue };
            let regions: BTreeSet<_> = fit.iter().map(|endpoint| endpoint.region()).collect();
            if regions.len() > 1 {
                let known = listed(regions.into_iter().flatten());
                return Err(missing(format!(
                    "service {wanted:?} is in several regions: name one of {known}"
                )));
            }
            return Ok(first);
        }
        let asked = listed(interfaces.iter().map(|interface| interface.as_str()));
        let known = listed(in_region.iter().map(|endpoint| endpoint.interface.as_str()));
        Err(missing(format!("service {wanted:?} has no {asked} endpoint; it has {known}")))
    }
}

fn missing(text: String) -> Error {
    Error::new(ErrorKind::Catalog, text)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<_> = names.collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.into_iter().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let endpoint = |interface: &str, region: &str, url: &str| serde_json::json!({"id": "e", "interface": interface, "region": region, "region_id": region, "url": url});
        Catalog::new(
            serde_json::from_value(serde_json::json!([
                {"id": "1", "type": "image", "name": "glance", "endpoints": [
                    endpoint("internal", "north", "http://i.north"), endpoint("public", "north", "http://p.north"),
                    endpoint("public", "south", "http://p.south")]},
                {"id": "2", "type": "volumev3", "endpoints": [endpoint("public", "north", "http://v3")], "new": 1},
                {"id": "3", "type": "empty"}
            ]))
            .unwrap(),
        )
    }

    #[test]
    fn type_alias_interface_and_region() {
        let catalog = catalog();
        let find = |query: &EndpointQuery| catalog.find(query).map(|endpoint| endpoint.url.clone());
        let image = EndpointQuery::new("image");
        assert_eq!(find(&image.clone().with_region("south")).unwrap(), "http://p.south");
        // Only one region has an internal endpoint, so that no choice is open.
        let order = [Interface::Admin, Interface::Internal, Interface::Public];
        assert_eq!(find(&image.clone().with_interfaces(order)).unwrap(), "http://i.north");
        assert_eq!(find(&EndpointQuery::new("block-storage")).unwrap(), "http://v3");
        assert_eq!(find(&EndpointQuery::new("x").with_alias("volumev3")).unwrap(), "http://v3");

        for (query, words) in [
            (image.clone(), "in several regions: name one of north, south"),
            (
                image.clone().with_region("west"),
                "no endpoint in region \"west\"; it has north, south",
            ),
            (
                image.with_interfaces([Interface::Admin]),
                "has no admin endpoint; it has internal, public",
            ),
            (
                EndpointQuery::new("dns"),
                "no service of type \"dns\"; it has empty, image, volumev3",
            ),
            (EndpointQuery::new("empty"), "no service of type"),
        ] {
            let error = find(&query).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Catalog);
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(
            Catalog::default()
                .find(&EndpointQuery::new("image"))
                .unwrap_err()
                .to_string()
                .ends_with("none")
        );
    }

    #[test]
    fn what_is_odd_does_not_hide_what_is_good() {
        let services = serde_json::json!([{"id": null, "type": "image", "name": 5, "endpoints": [
            null, 7, {"interface": "public", "url": null}, {"interface": null, "url": "http://no"},
            {"id": 1, "interface": "public", "region": 1, "region_id": null, "url": "http://good"}]},
            {"type": "dns", "endpoints": null}]);
        let catalog = Catalog::new(serde_json::from_value(services).unwrap());
        assert_eq!(catalog.find(&EndpointQuery::new("image")).unwrap().url, "http://good");
        assert!(catalog.find(&EndpointQuery::new("dns")).is_err());
    }

    #[test]
    fn old_spelling_of_interfaces() {
        assert_eq!("internalURL".parse::<Interface>().unwrap(), Interface::Internal);
        assert_eq!("admin".parse::<Interface>().unwrap(), Interface::Admin);
        assert!("Public".parse::<Interface>().is_err());
    }
}
