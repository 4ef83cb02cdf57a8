//! Zones: where templates live.

use crate::call::{Call, List};
use crate::record::record;

record! {
    /// A zone.
    Zone in "zone" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// `Basic` or `Advanced`.
    network_type: Option<String> = "networktype",
    /// `Enabled` or `Disabled`.
    allocation_state: Option<String> = "allocationstate",
}

impl Zone {
    /// Whether things can be made in it. A server that does not say so to this account means yes.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.allocation_state.as_deref().is_none_or(|state| state.eq_ignore_ascii_case("enabled"))
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
