//! Changes of an image.

use serde_json::{Value, json};

use super::call::is_core;

/// Changes to fields and properties of an image, in order.
///
/// ```
/// use glance_client::image::{ImagePatch, update};
/// let call = update("9b4b", &ImagePatch::new().with("visibility", "shared").without("staging"));
/// assert_eq!(
///     call.body().as_ref(),
///     br#"[{"op":"replace","path":"/visibility","value":"shared"},{"op":"remove","path":"/staging"}]"#
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImagePatch {
    changes: Vec<(String, Option<Value>)>,
}

impl ImagePatch {
    /// No change yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field of Glance's, or sets or replaces a property.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.changes.push((name.into(), Some(value.into())));
        self
    }

    /// Removes a property. It is a [conflict](crate::ErrorKind::Conflict) if there is none.
    #[must_use]
    pub fn without(mut self, name: impl Into<String>) -> Self {
        self.changes.push((name.into(), None));
        self
    }

    pub(super) fn operations(&self) -> Vec<Value> {
        let operation = |(name, value): &(String, Option<Value>)| {
            let path = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            match value {
                // A property that exists is overwritten by `add`, where `replace` fails on one that does not exist.
                Some(value) if is_core(name) => {
                    json!({ "op": "replace", "path": path, "value": value })
                }
                Some(value) => json!({ "op": "add", "path": path, "value": value }),
                None => json!({ "op": "remove", "path": path }),
            }
        };
        self.changes.iter().map(operation).collect()
    }

    pub(super) fn problem(&self) -> Option<String> {
        if self.changes.is_empty() {
            return Some("there is nothing to change".to_owned());
        }
        let (name, _) = self.changes.iter().find(|(name, value)| {
            !is_core(name) && value.as_ref().is_some_and(|value| !value.is_string())
        })?;
        Some(format!("property {name:?} must be text: Glance takes nothing else"))
    }
}
