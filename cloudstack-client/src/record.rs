//! Records and words of the server, declared once: what is read of them, under which names.
//!
//! Every field is read leniently, unknown ones are ignored, and a word that is not known is kept as it came.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::call::Record;
use crate::error::{masked, one_line};
use crate::value::Fields;

/// What a field of a record can be made of.
pub(crate) trait FromField: Sized {
    fn from_field(fields: Fields<'_>, name: &str) -> Self;
}

/// A field that tells one record from another.
pub(crate) trait Telling {
    fn text(&self) -> &str;
}

impl Telling for String {
    fn text(&self) -> &str {
        self
    }
}

impl Telling for Option<String> {
    fn text(&self) -> &str {
        self.as_deref().unwrap_or_default()
    }
}

/// Declares a record: its name, the key of its lists, the fields that tell one from another, and every field with the
/// server's name for it. The first of the telling fields must not be empty. What is read under further names for one
/// of the fields is named after `with`.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $name:ident in $array:literal $(with $($also:literal),+)? by $($key:ident),+;
        $($(#[$doc:meta])* $field:ident: $ty:ty = $wire:literal,)+
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $field: $ty,)+
        }

        impl $crate::call::Record for $name {
            const ARRAY: &'static str = $array;
            const FIELDS: &'static [&'static str] = &[$($wire,)+ $($($also),+)?];

            fn read(value: &serde_json::Value) -> Option<Self> {
                let fields = $crate::value::Fields::of(value)?;
                let record = Self {
                    $($field: $crate::record::FromField::from_field(fields, $wire),)+
                };
                let telling = [$($crate::record::Telling::text(&record.$key)),+];
                (!telling[0].is_empty()).then_some(record)
            }

            fn key(&self) -> String {
                [$($crate::record::Telling::text(&self.$key)),+].join(" ")
            }
        }
    };
}

/// Declares an enumeration of the server's words, whose case is of no importance.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)+
            /// Any other, as the server wrote it.
            Unknown(String),
        }

        impl $name {
            /// The server's word.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                $(if word.eq_ignore_ascii_case($word) {
                    return Self::$variant;
                })+
                Self::Unknown(word.to_owned())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::record::FromField for Option<$name> {
            fn from_field(fields: $crate::value::Fields<'_>, name: &str) -> Self {
                fields.text(name).map(|word| $name::from(word.as_str()))
            }
        }
    };
}

pub(crate) use {record, words};

/// A password that the server made. It has no telling `Debug` and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The password itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}

/// A row of a list as it came, for lists that have no record of their own here: see [`rows`](crate::rows).
///
/// Its `Debug` shows the names of the fields and not their values, which may be secrets.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// What the server sent.
    pub value: Value,
}

impl Row {
    /// A field as text. Numbers and truth values are written out, as other servers send them.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        Fields::of(&self.value)?.text(name)
    }

    /// A field as a number, which some servers send as text.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        Fields::of(&self.value)?.number(name)
    }

    /// A field as a truth value, which some servers send as text.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        Fields::of(&self.value)?.flag(name)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("fields", &names(&self.value)).finish()
    }
}

/// The names of an object's fields: what may be shown of it.
pub(crate) fn names(value: &Value) -> Vec<&str> {
    value.as_object().into_iter().flat_map(|map| map.keys().map(String::as_str)).collect()
}

impl Record for Row {
    // The commands' own keys differ: `rows` has them from the table.
    const ARRAY: &'static str = "";

    fn read(value: &Value) -> Option<Self> {
        Some(Self { value: value.clone() })
    }

    fn key(&self) -> String {
        // Rows of templates are there once for each zone.
        let fields = ["id", "zoneid"].map(|name| self.text(name).unwrap_or_default());
        if fields[0].is_empty() { self.value.to_string() } else { fields.join(" ") }
    }
}

impl FromField for String {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        fields.text(name).unwrap_or_default()
    }
}

impl FromField for Option<String> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        let text = fields.text(name).filter(|text| !text.is_empty());
        // The server's words about a download may hold the address of the file, which opens it.
        if name == "status" { text.map(|text| masked(&one_line(&text, 400))) } else { text }
    }
}

impl FromField for Option<u64> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        fields.number(name)
    }
}

impl FromField for Option<i64> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        fields.signed(name)
    }
}

impl FromField for Option<bool> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        fields.flag(name)
    }
}

impl FromField for Option<Password> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        let text = fields.text(name).filter(|text| !text.is_empty());
        text.map(|text| Password(Zeroizing::new(text)))
    }
}

/// An array, or its elements joined by commas.
impl FromField for Vec<String> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        match fields.raw(name) {
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(|item| match item {
                    Value::String(text) => Some(text.clone()),
                    Value::Number(number) => Some(number.to_string()),
                    _ => None,
                })
                .collect(),
            Some(Value::String(text)) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(str::to_owned).collect()
            }
            Some(Value::Number(number)) => vec![number.to_string()],
            _ => Self::new(),
        }
    }
}

/// The records that can be used; one that stands there alone is a list of one.
impl<R: Record> FromField for Vec<R> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        match fields.raw(name) {
            Some(Value::Array(items)) => items.iter().filter_map(R::read).collect(),
            Some(one) => R::read(one).into_iter().collect(),
            None => Self::new(),
        }
    }
}

/// A map, or a list of tags.
impl FromField for BTreeMap<String, String> {
    fn from_field(fields: Fields<'_>, name: &str) -> Self {
        let tag = |tag: &Value| {
            let tag = Fields::of(tag)?;
            Some((tag.text("key")?, tag.text("value").unwrap_or_default()))
        };
        match fields.raw(name) {
            Some(Value::Array(items)) => items.iter().filter_map(tag).collect(),
            _ => fields.map(name),
        }
    }
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "what is declared is public where it is used")]
mod tests {
    use super::*;
    use serde_json::json;

    words! {
        /// Where a toy is.
        Place {
            /// On the shelf.
            Shelf = "Shelf",
            /// With a child.
            InUse = "InUse",
        }
    }

    record! {
        /// A toy.
        Toy in "toy" by id, owner;
        /// Id.
        id: String = "id",
        /// Owner.
        owner: String = "owner",
        /// Place.
        place: Option<Place> = "state",
        /// Price.
        price: Option<u64> = "price",
        /// Balance.
        balance: Option<i64> = "balance",
        /// Sold.
        sold: Option<bool> = "sold",
        /// Colours.
        colours: Vec<String> = "colours",
        /// Tags.
        tags: BTreeMap<String, String> = "tags",
        /// Parts.
        parts: Vec<Toy> = "part",
        /// Code.
        code: Option<Password> = "password",
    }

    #[test]
    fn everything_may_be_missing_but_what_tells_it_from_others() {
        let toy = Toy::read(&json!({"id": 7})).unwrap();
        assert_eq!((toy.id.as_str(), toy.key().as_str()), ("7", "7 "));
        assert!(toy.place.is_none() && toy.price.is_none() && toy.tags.is_empty());
        for value in [json!({}), json!({"id": ""}), json!({"id": null}), json!([]), json!(null)] {
            assert_eq!(Toy::read(&value), None, "{value}");
        }
    }

    #[test]
    fn text_numbers_lists_and_unknown_words_are_read() {
        let toy = Toy::read(&json!({
            "id": "t", "owner": "me", "state": "inuse", "price": "12", "balance": "-1", "sold": "TRUE",
            "colours": "red, blue,", "tags": [{"key": "a", "value": 1}, {"x": 2}, 3],
            "part": {"id": "p", "colours": ["red", 7, {}], "state": "Lost", "tags": {"b": true}},
            "password": "hunter2", "new": {"x": [1]},
        }))
        .unwrap();
        assert_eq!((&toy.place, toy.price), (&Some(Place::InUse), Some(12)));
        assert_eq!((toy.balance, toy.sold), (Some(-1), Some(true)));
        assert_eq!(toy.colours, ["red", "blue"]);
        assert_eq!(toy.tags["a"], "1");
        let part = &toy.parts[0];
        assert_eq!(part.place.as_ref().unwrap().to_string(), "Lost");
        assert_eq!((part.colours.len(), part.tags["b"].as_str()), (2, "true"));
        assert_eq!(toy.code.as_ref().unwrap().reveal(), "hunter2");
        assert!(!format!("{toy:?}").contains("hunter2"));
        // The wrong type in every field is the same as none.
        let odd = json!({"id": "t", "state": [], "price": {}, "balance": true, "sold": 3, "colours": {}, "tags": 7,
            "part": "x", "password": []});
        let odd = Toy::read(&odd).unwrap();
        assert!(
            odd.place.is_none()
                && odd.price.is_none()
                && odd.sold.is_none()
                && odd.parts.is_empty()
        );
    }
}
