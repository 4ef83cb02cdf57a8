//! Zones: where templates live.

use serde_json::Value;

use crate::call::{Call, List, Record};
use crate::value::Fields;

/// A zone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Zone {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `Basic` or `Advanced`.
    pub network_type: Option<String>,
    /// `Enabled` or `Disabled`.
    pub allocation_state: Option<String>,
}

impl Zone {
    /// Whether things can be made in it. A server that does not say so to this account means yes.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.allocation_state.as_deref().is_none_or(|state| state.eq_ignore_ascii_case("enabled"))
    }
}

impl Record for Zone {
    const ARRAY: &'static str = "zone";

    fn read(value: &Value) -> Option<Self> {
        let fields = Fields::of(value)?;
        Some(Self {
            id: fields.text("id")?,
            name: fields.text("name").unwrap_or_default(),
            network_type: fields.text("networktype"),
            allocation_state: fields.text("allocationstate"),
        })
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// `listZones`: the zones that this account can use.
#[must_use]
pub fn list() -> Call<List<Zone>> {
    Call::list("zones: list", "listZones").with("available", "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read() {
        let body = br#"{"listzonesresponse":{"count":2,"zone":[
            {"id":"z1","name":"one","networktype":"Advanced","allocationstate":"Enabled","new":[1]},
            {"id":2,"allocationstate":"Disabled"}]}}"#;
        let zones = list().parse(http::StatusCode::OK, body).unwrap();
        assert_eq!(zones.count, Some(2));
        assert!(zones.items[0].is_enabled() && !zones.items[1].is_enabled());
        assert_eq!(zones.items[1].id, "2");
        for body in [&br#"{"r":{"zone":[{}]}}"#[..], br#"{"r":{"zone":{}}}"#, br#"{"r":[]}"#] {
            assert!(list().parse(http::StatusCode::OK, body).is_err());
        }
    }
}
