//! The one value model of both codecs, and the API's failure.

use std::collections::BTreeMap;

/// The null reference of XenAPI.
pub(crate) const NULL: &str = "OpaqueRef:NULL";

/// A record: field name to value, in the order in which it is sent.
pub(crate) type Record = BTreeMap<String, Value>;

/// What travels in a call or a reply.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Nil,
    Str(String),
    Int(i64),
    /// The only integers with a tag in XML: the counts of `event.from`.
    I4(i32),
    Float(f64),
    Bool(bool),
    /// A date in the server's spelling, `YYYYMMDDTHH:MM:SSZ`.
    Time(String),
    Array(Vec<Self>),
    Map(Record),
}

impl Value {
    pub(crate) fn null_ref() -> Self {
        Self::Str(NULL.to_owned())
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(s) | Self::Time(s) => Some(s),
            _ => None,
        }
    }

    /// An integer, also in its XML-RPC spelling as a string.
    pub(crate) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Str(s) => s.trim().parse().ok(),
            _ => None,
        }
    }

    /// A float; integers and strings are accepted in its place, as the server accepts them.
    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(f) => Some(*f),
            Self::Int(i) => Some(*i as f64),
            Self::Str(s) => s.trim().parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> &[Self] {
        match self {
            Self::Array(a) => a,
            _ => &[],
        }
    }

    pub(crate) fn as_map(&self) -> Option<&Record> {
        match self {
            Self::Map(m) => Some(m),
            _ => None,
        }
    }

    /// Strict JSON for the inventory; floats that JSON does not know become null.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Nil => serde_json::Value::Null,
            Self::Str(s) | Self::Time(s) => s.as_str().into(),
            Self::Int(i) => (*i).into(),
            Self::I4(i) => (*i).into(),
            Self::Float(f) => (*f).into(),
            Self::Bool(b) => (*b).into(),
            Self::Array(a) => a.iter().map(Self::to_json).collect(),
            Self::Map(m) => m.iter().map(|(k, v)| (k.clone(), v.to_json())).collect(),
        }
    }

    pub(crate) fn from_json(json: &serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Self::Int(i),
                None => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Self::Str(s.clone()),
            serde_json::Value::Array(a) => Self::Array(a.iter().map(Self::from_json).collect()),
            serde_json::Value::Object(o) => {
                Self::Map(o.iter().map(|(k, v)| (k.clone(), Self::from_json(v))).collect())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::Str(s.to_owned())
    }
}

impl From<String> for Value {
    fn from(s: String) -> Self {
        Self::Str(s)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(i: i64) -> Self {
        Self::Int(i)
    }
}

/// A map of strings, as most `other_config`s are.
pub(crate) fn map<const N: usize>(pairs: [(&str, &str); N]) -> Value {
    Value::Map(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect())
}

/// A set of strings.
pub(crate) fn set<const N: usize>(items: [&str; N]) -> Value {
    Value::Array(items.into_iter().map(Value::from).collect())
}

/// The text of a string field, empty when the field is missing.
pub(crate) fn text<'a>(record: &'a Record, field: &str) -> &'a str {
    record.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The truth of a bool field, false when it is missing.
pub(crate) fn truth(record: &Record, field: &str) -> bool {
    record.get(field).and_then(Value::as_bool).unwrap_or_default()
}

/// A failure of the API: a code and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: String,
    pub(crate) params: Vec<String>,
}

impl ApiError {
    pub(crate) fn new<const N: usize>(code: &str, params: [&str; N]) -> Self {
        Self { code: code.to_owned(), params: params.map(str::to_owned).into() }
    }

    pub(crate) fn handle(class: &str, handle: &str) -> Self {
        Self::new("HANDLE_INVALID", [class, handle])
    }

    /// Code and parameters as one list: XML-RPC's ErrorDescription, a task's `error_info`.
    pub(crate) fn description(&self) -> Vec<Value> {
        std::iter::once(&self.code).chain(&self.params).map(|s| s.as_str().into()).collect()
    }
}

pub(crate) type ApiResult = Result<Value, ApiError>;
