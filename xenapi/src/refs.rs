//! References to objects of the server.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::value::{DecodeError, FromValue};

/// The reference that stands for "no object".
const NULL: &str = "OpaqueRef:NULL";

/// A class of the API: what a [`Ref`] points at. Implemented by the generated record types.
pub trait Class: 'static {
    /// The class name as the API spells it, such as `VM` or `VM_guest_metrics`.
    const NAME: &'static str;
    /// Whether a reference to this class is itself a credential (a session's is).
    const SECRET: bool = false;
}

/// A reference to an object of class `T`, such as `Ref<Vm>`.
///
/// Opaque text that the server made up: compare it, store it, send it back, but read nothing into
/// it. It stays valid over a restart of the server, but not over a change of the pool. A null
/// reference is a value like any other: ask [`is_null`](Self::is_null), or turn it into an
/// `Option` with [`non_null`](Self::non_null).
pub struct Ref<T> {
    text: String,
    class: PhantomData<fn() -> T>,
}

impl<T> Ref<T> {
    /// Takes the text of a reference, for example from a journal of an earlier run.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), class: PhantomData }
    }

    /// The reference that stands for "no object", `OpaqueRef:NULL`.
    #[must_use]
    pub fn null() -> Self {
        Self::new(NULL)
    }

    /// The text of the reference.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this stands for "no object". Servers write that as `OpaqueRef:NULL`, as an empty
    /// text, and through an old defect as `Ref:*`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.text.as_str(), NULL | "" | "Ref:*" | "NULL")
    }

    /// The reference, unless it stands for "no object".
    #[must_use]
    pub fn non_null(&self) -> Option<&Self> {
        (!self.is_null()).then_some(self)
    }
}

impl<T> Clone for Ref<T> {
    fn clone(&self) -> Self {
        Self::new(self.text.clone())
    }
}

impl<T> Default for Ref<T> {
    fn default() -> Self {
        Self::null()
    }
}

impl<T> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> Eq for Ref<T> {}

impl<T> PartialOrd for Ref<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ref<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl<T> Hash for Ref<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl<T: Class> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", T::NAME)
    }
}

impl<T: Class> fmt::Display for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if T::SECRET { "<redacted>" } else { &self.text })
    }
}

impl<T> FromValue for Ref<T> {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::String(s) => Ok(Self::new(s)),
            Value::Null => Ok(Self::null()),
            other => Err(DecodeError::new("a reference", &other)),
        }
    }
}

impl<T> Serialize for Ref<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de, T> Deserialize<'de> for Ref<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::session::SessionRecord;
    use crate::vm::Vm;

    #[test]
    fn every_spelling_of_null_is_null() {
        for text in ["OpaqueRef:NULL", "", "Ref:*"] {
            assert!(Ref::<Vm>::from_value(json!(text)).unwrap().is_null(), "{text}");
        }
        assert!(Ref::<Vm>::from_value(json!(null)).unwrap().is_null());
        let real = Ref::<Vm>::new("OpaqueRef:1");
        assert_eq!(real.non_null(), Some(&real));
        // In-memory tasks have this form; it is a reference like any other.
        assert!(!Ref::<Vm>::new("DummyRef:|5b2e|name").is_null());
    }

    #[test]
    fn a_session_reference_is_a_secret() {
        let r = Ref::<SessionRecord>::new("OpaqueRef:hijack-me");
        assert!(!format!("{r} {r:?}").contains("hijack"));
        assert_eq!(format!("{:?}", Ref::<Vm>::new("OpaqueRef:1")), "VM OpaqueRef:1");
    }
}
