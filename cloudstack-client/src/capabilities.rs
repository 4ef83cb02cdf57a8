//! What a server says of itself.

use crate::call::Call;
use crate::value::Fields;

/// The part of the capabilities that says what can be asked of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The version: `4.22.0.0`.
    pub version: Option<String>,
    /// The size of a page of the user interface.
    pub page_size: Option<u64>,
    /// How many calls are allowed in an interval, where that is limited.
    pub calls: Option<u64>,
    /// That interval in seconds.
    pub interval: Option<u64>,
}

/// `listCapabilities`: also the cheapest way to see whether key and secret are good.
#[must_use]
pub fn get() -> Call<Capabilities> {
    Call::read("capabilities: get", "listCapabilities", |answer| {
        let inner = answer.fields()?.raw("capability").and_then(Fields::of);
        let fields = inner.ok_or_else(|| answer.wrong("the answer has no capabilities"))?;
        Ok(Capabilities {
            version: fields.text("cloudstackversion"),
            page_size: fields.number("defaultuipagesize"),
            calls: fields.number("apilimitmax"),
            interval: fields.number("apilimitinterval"),
        })
    })
}
