//! The value model: how XAPI's values become Rust values, whichever codec carried them.
//!
//! Both codecs (JSON-RPC and XML-RPC) are parsed into [`serde_json::Value`] first. That one step
//! makes a duplicated key harmless (the last one wins) and lets every leaf type be as lenient as
//! real servers need: integers arrive as numbers or as strings, a reference may be an empty
//! string, a float may be `NaN`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// A value that a server sent could not be understood as the type that the call promises.
///
/// The text names the place (`VM.VCPUs_max`, `[3].name_label`) and what was found there, cut
/// short; it becomes the source of an [`Error`](crate::Error) of kind
/// [`Decode`](crate::ErrorKind::Decode).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecodeError {
    path: String,
    expected: &'static str,
    found: String,
}

impl DecodeError {
    /// Says that `expected` was promised and `found` was sent.
    #[must_use]
    pub fn new(expected: &'static str, found: &Value) -> Self {
        Self { path: String::new(), expected, found: excerpt(found) }
    }

    /// Puts `segment` in front of the path, on the way out of a nested value.
    #[must_use]
    pub fn within(mut self, segment: &str) -> Self {
        self.path = if self.path.is_empty() {
            segment.to_owned()
        } else if self.path.starts_with('[') {
            format!("{segment}{}", self.path)
        } else {
            format!("{segment}.{}", self.path)
        };
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

impl std::error::Error for DecodeError {}

/// Describes a value without repeating much of it: an answer may be megabytes, and one line is
/// all that an error message has.
fn excerpt(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => {
            let cut: String = s.chars().take(40).collect();
            format!("the text {cut:?}")
        }
        Value::Array(a) => format!("a list of {}", a.len()),
        Value::Object(o) => format!("a structure of {}", o.len()),
    }
}

/// Types that can be read from an answer.
///
/// Implemented for the leaf types of the API, lists, maps and the generated records and
/// enumerations. Implement it for a type of your own to give
/// [`Call::new`](crate::Call::new) a typed result.
pub trait FromValue: Sized {
    /// Reads the value.
    ///
    /// # Errors
    /// [`DecodeError`] when the value is of another shape.
    fn from_value(value: Value) -> Result<Self, DecodeError>;

    /// What a field holds that the server did not send, or sent as null. `None` makes the
    /// absence an error.
    #[must_use]
    fn absent() -> Option<Self> {
        None
    }
}

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        Ok(value)
    }
}

impl FromValue for () {
    /// Whatever came: `void` is an empty string, and an older server may say more.
    fn from_value(_: Value) -> Result<Self, DecodeError> {
        Ok(())
    }

    fn absent() -> Option<Self> {
        Some(())
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::String(s) => Ok(s),
            // Numbers in string fields are seen where a server's codec guessed from the content.
            Value::Number(n) => Ok(n.to_string()),
            Value::Null => Ok(Self::new()),
            other => Err(DecodeError::new("text", &other)),
        }
    }
}

impl FromValue for i64 {
    /// A number, a number with a zero fraction, or text: XML-RPC sends 64-bit integers untagged.
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        let parsed = match &value {
            Value::Number(n) => n.as_i64().or_else(|| n.as_f64().and_then(whole)),
            Value::String(s) => {
                let s = s.trim();
                s.parse().ok().or_else(|| s.parse::<f64>().ok().and_then(whole))
            }
            _ => None,
        };
        parsed.ok_or_else(|| DecodeError::new("an integer", &value))
    }
}

/// The integer that a float stands for, if it stands for one.
fn whole(f: f64) -> Option<i64> {
    // 2^53: beyond it a float does not say which integer it meant.
    #[allow(clippy::cast_possible_truncation)]
    (f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0).then_some(f as i64)
}

impl FromValue for f64 {
    /// A number or text; `NaN`, `Infinity`, `inf` and their negatives are floats here.
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        let parsed = match &value {
            Value::Number(n) => n.as_f64(),
            Value::String(s) => s.trim().parse().ok(),
            _ => None,
        };
        parsed.ok_or_else(|| DecodeError::new("a number", &value))
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        match &value {
            Value::Bool(b) => Ok(*b),
            Value::String(s) if s == "true" || s == "1" => Ok(true),
            Value::String(s) if s == "false" || s == "0" => Ok(false),
            Value::Number(n) if n.as_i64() == Some(1) => Ok(true),
            Value::Number(n) if n.as_i64() == Some(0) => Ok(false),
            _ => Err(DecodeError::new("a boolean", &value)),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    /// Null, an empty list and an empty string are `None`; a list of one is its element.
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::Null => Ok(None),
            Value::String(s) if s.is_empty() => Ok(None),
            Value::Array(mut a) if a.len() <= 1 => a.pop().map(T::from_value).transpose(),
            other => T::from_value(other).map(Some),
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(i, v)| T::from_value(v).map_err(|e| e.within(&format!("[{i}]"))))
                .collect(),
            Value::Null => Ok(Self::new()),
            // An empty set in an untagged place.
            Value::String(s) if s.is_empty() => Ok(Self::new()),
            other => Err(DecodeError::new("a list", &other)),
        }
    }
}

impl<K: FromValue + Ord, V: FromValue> FromValue for BTreeMap<K, V> {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::Object(map) => map
                .into_iter()
                .map(|(k, v)| {
                    let item = V::from_value(v).map_err(|e| e.within(&k))?;
                    Ok((K::from_value(Value::String(k))?, item))
                })
                .collect(),
            Value::Null => Ok(Self::new()),
            Value::String(s) if s.is_empty() => Ok(Self::new()),
            other => Err(DecodeError::new("a map", &other)),
        }
    }
}

/// Reads one field of a record: null means "not said", which every field tolerates.
pub(crate) fn field<T: FromValue + Default>(
    class: &str,
    name: &str,
    value: Value,
) -> Result<T, DecodeError> {
    if value.is_null() {
        return Ok(T::absent().unwrap_or_default());
    }
    T::from_value(value).map_err(|e| e.within(name).within(class))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integers_come_as_numbers_and_as_text() {
        assert_eq!(i64::from_value(json!(42)).unwrap(), 42);
        assert_eq!(i64::from_value(json!("42")).unwrap(), 42);
        assert_eq!(i64::from_value(json!("-9223372036854775808")).unwrap(), i64::MIN);
        assert_eq!(i64::from_value(json!(2.0)).unwrap(), 2);
        assert!(i64::from_value(json!(2.5)).is_err());
        assert!(i64::from_value(json!("9223372036854775808")).is_err(), "does not wrap");
        assert!(i64::from_value(json!("two")).is_err());
        assert!(i64::from_value(json!(null)).is_err());
    }

    #[test]
    fn floats_may_be_no_number() {
        assert!(f64::from_value(json!("NaN")).unwrap().is_nan());
        assert_eq!(f64::from_value(json!("-Infinity")).unwrap(), f64::NEG_INFINITY);
        assert_eq!(f64::from_value(json!("inf")).unwrap(), f64::INFINITY);
        assert_eq!(f64::from_value(json!(1)).unwrap(), 1.0, "old servers send progress as int");
    }

    #[test]
    fn options_and_booleans() {
        assert_eq!(Option::<String>::from_value(json!([])).unwrap(), None);
        assert_eq!(Option::<String>::from_value(json!(["a"])).unwrap(), Some("a".to_owned()));
        assert_eq!(Option::<i64>::from_value(json!(null)).unwrap(), None);
        assert!(bool::from_value(json!("1")).unwrap());
        assert!(bool::from_value(json!("yes")).is_err());
    }

    #[test]
    fn maps_have_any_key_type_and_errors_name_the_place() {
        let m = BTreeMap::<i64, f64>::from_value(json!({"0": 0.5, "1": "0.25"})).unwrap();
        assert_eq!(m[&1], 0.25);
        let e = BTreeMap::<String, Vec<i64>>::from_value(json!({"a": [1, "x"]})).unwrap_err();
        assert_eq!(e.to_string(), "a[1]: expected an integer, found the text \"x\"");
    }

    #[test]
    fn an_error_never_repeats_a_long_answer() {
        let e = i64::from_value(Value::String("x".repeat(100_000))).unwrap_err();
        assert!(e.to_string().len() < 100);
    }
}
