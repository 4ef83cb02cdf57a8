//! Reading objects leniently.

use std::time::SystemTime;

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::{Map, Value};

use crate::keystone::timestamp;

/// A field of another shape than expected, `null` among them, is as good as none.
pub(crate) fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    value: D,
) -> Result<T, D::Error> {
    Ok(T::deserialize(Value::deserialize(value)?).unwrap_or_default())
}

/// A list without the items that have another shape than expected.
pub(crate) fn each<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    value: D,
) -> Result<Vec<T>, D::Error> {
    Ok(match Value::deserialize(value)? {
        Value::Array(list) => {
            list.into_iter().filter_map(|item| T::deserialize(item).ok()).collect()
        }
        _ => Vec::new(),
    })
}

/// Takes fields out of an object; one of another shape than expected is as good as none.
pub(crate) struct Take<'a>(pub(crate) &'a mut Map<String, Value>);

impl Take<'_> {
    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        match self.0.remove(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number(&mut self, key: &str) -> Option<u64> {
        match self.0.remove(key)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn flag(&mut self, key: &str) -> bool {
        matches!(self.0.remove(key), Some(Value::Bool(true)))
    }

    pub(crate) fn list(&mut self, key: &str) -> Vec<String> {
        match self.0.remove(key) {
            Some(Value::Array(list)) => {
                list.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A time as Glance and Keystone write it.
    pub(crate) fn time(&mut self, key: &str) -> Option<SystemTime> {
        timestamp(&self.text(key)?)
    }

    pub(crate) fn object(&mut self, key: &str) -> Map<String, Value> {
        match self.0.remove(key) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}
