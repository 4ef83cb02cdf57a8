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

    /// As [`raw`](Self::raw), but releases differ in how some keys of lists are written (`vmSnapshot`).
    pub(crate) fn raw_in_any_case(&self, name: &str) -> Option<&'a Value> {
        let same = || self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        self.raw(name).or_else(|| same().map(|(_, value)| value))
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
            Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
            Value::String(text) => {
                let text = text.trim();
                text.parse().ok().or_else(|| whole(text.parse().ok()?))
            }
            _ => None,
        }
    }

    pub(crate) fn signed(&self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> &'a [Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.0.values()
    }

    /// The array that is there, if there is but one.
    pub(crate) fn only_array(&self) -> Option<(&'a str, &'a Value)> {
        let mut arrays = self.0.iter().filter(|(_, value)| value.is_array());
        let first = arrays.next()?;
        arrays.next().is_none().then_some((first.0.as_str(), first.1))
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

/// A number with a fraction of nothing, as `12.0`.
fn whole(number: f64) -> Option<u64> {
    // Beyond this a double no longer holds every number.
    let exact = (0.0..9_007_199_254_740_992.0).contains(&number) && number.fract() == 0.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    exact.then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_types_are_read_and_wrong_ones_are_absent() {
        let value: Value = serde_json::from_str(
            r#"{"id":12,"size":"34","neg":-1,"yes":"TRUE","no":false,"o":{"a":1,"b":"c"},"n":null,"big":1e300,
            "float":12.0,"half":"0.5","floattext":"7.0"}"#,
        )
        .unwrap();
        let fields = Fields::of(&value).unwrap();
        assert_eq!(fields.text("id").as_deref(), Some("12"));
        assert_eq!(fields.number("size"), Some(34));
        assert_eq!((fields.number("float"), fields.number("half")), (Some(12), None));
        assert_eq!(fields.number("floattext"), Some(7));
        assert_eq!((fields.signed("neg"), fields.signed("size")), (Some(-1), Some(34)));
        assert_eq!((fields.number("neg"), fields.number("big")), (None, None));
        assert_eq!((fields.flag("yes"), fields.flag("no")), (Some(true), Some(false)));
        assert_eq!((fields.flag("id"), fields.text("o"), fields.text("n")), (None, None, None));
        assert_eq!(fields.map("o").into_iter().collect::<Vec<_>>().len(), 2);
        assert!(fields.list("o").is_empty() && fields.map("id").is_empty());
        assert!(Fields::of(&Value::Null).is_none());
    }
}
