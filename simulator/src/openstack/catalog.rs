//! The service catalogue that a scoped token carries.

use serde_json::{Value, json};

use super::state::{Shared, stable_id};
use super::{Fault, server};

/// The second region's name under the fault `two-regions`.
pub(super) const SECOND_REGION: &str = "RegionTwo";

/// The `catalog` array: identity, image and compute, each with three interfaces per region. An
/// endpoint whose URL holds a project's id is left out of tokens that have none.
pub(super) fn catalog(state: &Shared, base: &str, project_id: Option<&str>) -> Value {
    let mut regions = vec![state.config.region.as_str()];
    if state.faults.on(&Fault::TwoRegions) {
        regions.push(SECOND_REGION);
    }
    let identity = vec![format!("{base}{}/v3", server::IDENTITY); regions.len()];
    let image = server::IMAGE.map(|mount| format!("{base}{mount}{}", image_suffix(state)));
    let compute = project_id
        .map(|id| vec![format!("{base}/compute/v2.1/{id}"); regions.len()])
        .unwrap_or_default();
    let mut services = vec![service("identity", "keystone", &regions, &identity)];
    if !state.faults.on(&Fault::NoImageEndpoint) {
        services.push(service("image", "glance", &regions, &image));
    }
    services.push(service("compute", "nova", &regions, &compute));
    Value::Array(services)
}

fn image_suffix(state: &Shared) -> String {
    let version = if state.faults.on(&Fault::CatalogueV2Suffix) { "/v2" } else { "" };
    let slash = if state.faults.on(&Fault::CatalogueSlash) { "/" } else { "" };
    format!("{version}{slash}")
}

fn service(kind: &str, name: &str, regions: &[&str], urls: &[String]) -> Value {
    let mut endpoints = Vec::new();
    for (region, url) in regions.iter().zip(urls) {
        for interface in ["public", "internal", "admin"] {
            endpoints.push(json!({
                "id": stable_id("endpoint", &format!("{kind}/{region}/{interface}")),
                "interface": interface,
                "region_id": region,
                "region": region,
                "url": url,
            }));
        }
    }
    json!({"endpoints": endpoints, "id": stable_id("service", kind), "type": kind, "name": name})
}
