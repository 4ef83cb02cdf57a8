//! Reading fields of answers leniently: numbers come as text, ids as numbers, and what is empty is left out.

use serde_json::{Map, Value};

/// The fields of one object.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a Value) -> Option<Self> {
        value.as_object().map(Self)
    }

    pub(crate) fn raw(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> &'a [Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A map of texts; anything that is no text by itself is written as JSON.
    pub(crate) fn map(&self, name: &str) -> std::collections::BTreeMap<String, String> {
        let Some(Value::Object(map)) = self.0.get(name) else { return Default::default() };
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        map.iter().map(|(key, value)| (key.clone(), text(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_types_are_read_and_wrong_ones_are_absent() {
        let value: Value = serde_json::from_str(
            r#"{"id":12,"size":"34","neg":-1,"yes":"TRUE","no":false,"o":{"a":1,"b":"c"},"n":null,"big":1e300}"#,
        )
        .unwrap();
        let fields = Fields::of(&value).unwrap();
        assert_eq!(fields.text("id").as_deref(), Some("12"));
        assert_eq!(fields.number("size"), Some(34));
        assert_eq!((fields.number("neg"), fields.number("big")), (None, None));
        assert_eq!((fields.flag("yes"), fields.flag("no")), (Some(true), Some(false)));
        assert_eq!((fields.flag("id"), fields.text("o"), fields.text("n")), (None, None, None));
        assert_eq!(fields.map("o").into_iter().collect::<Vec<_>>().len(), 2);
        assert!(fields.list("o").is_empty() && fields.map("id").is_empty());
        assert!(Fields::of(&Value::Null).is_none());
    }
}
