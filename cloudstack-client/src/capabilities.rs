//! What a server says of itself, what it lets this account do, and how it is set.

use crate::call::{Call, List};
use crate::record::record;
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

impl Capabilities {
    /// Whether the server is of this release or a newer one. A server that does not tell is none.
    ///
    /// ```
    /// # let body = br#"{"r":{"capability":{"cloudstackversion":"4.18.2.1-SNAPSHOT"}}}"#;
    /// let capabilities = cloudstack_client::capabilities::get().parse(http::StatusCode::OK, body)?;
    /// assert!(capabilities.is_at_least(4, 18) && !capabilities.is_at_least(4, 19));
    /// # Ok::<(), cloudstack_client::Error>(())
    /// ```
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers =
            self.version.as_deref().unwrap_or_default().split('.').map_while(|part| {
                let digits = part.split(|c: char| !c.is_ascii_digit()).next()?;
                digits.parse::<u32>().ok()
            });
        let found = (numbers.next(), numbers.next());
        matches!(found, (Some(one), Some(two)) if (one, two) >= (major, minor))
    }
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

record! {
    /// A command that this account may give.
    Api in "api" by name;
    /// The command.
    name: String = "name",
    /// Whether it starts a job.
    is_async: Option<bool> = "isasync",
    /// The release in which it came, where the server knows it.
    since: Option<String> = "since",
}

/// `listApis`: the commands that this account may give, some hundreds. This list has no pages.
#[must_use]
pub fn apis() -> Call<List<Api>> {
    Call::whole_list("APIs: list", "listApis")
}

record! {
    /// A setting of the server.
    Configuration in "configuration" by name;
    /// Its name: `secstorage.allowed.internal.sites`.
    name: String = "name",
    /// Its value.
    value: Option<String> = "value",
    /// What it is about.
    category: Option<String> = "category",
    /// What it does.
    description: Option<String> = "description",
}

/// `listConfigurations` with exactly this name; for administrators.
#[must_use]
pub fn configuration(name: &str) -> Call<List<Configuration>> {
    Call::list(&format!("setting {name}: get"), "listConfigurations").with_id("name", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let with = |version: Option<&str>| Capabilities {
            version: version.map(str::to_owned),
            page_size: None,
            calls: None,
            interval: None,
        };
        assert!(with(Some("4.9.3.0")).is_at_least(4, 9));
        assert!(!with(Some("4.9.3.0")).is_at_least(4, 18), "9 is less than 18");
        assert!(with(Some("5.0")).is_at_least(4, 22));
        assert!(with(Some("4.23.0.0-SNAPSHOT")).is_at_least(4, 23));
        for version in [None, Some(""), Some("4"), Some("four.two")] {
            assert!(!with(version).is_at_least(0, 0), "{version:?}");
        }
    }
}
