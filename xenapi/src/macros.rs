//! The two shapes that generated code repeats: a lenient record and an open enumeration.

/// Makes a struct decodable: unknown fields are ignored, missing ones stay at their default, of a
/// duplicated one the last wins. `create` names the fields that a `create` call sends.
macro_rules! record {
    ($class:literal, $secret:literal, $record:ident { $($field:ident : $name:literal),* $(,)? }) => {
        impl $crate::refs::Class for $record {
            const NAME: &'static str = $class;
            const SECRET: bool = $secret;
        }

        impl $crate::value::FromValue for $record {
            // Some classes have messages only.
            #[allow(unused_mut, unused_variables)]
            fn from_value(
                value: serde_json::Value,
            ) -> Result<Self, $crate::value::DecodeError> {
                let serde_json::Value::Object(fields) = value else {
                    return Err($crate::value::DecodeError::new(
                        concat!("a ", $class, " record"),
                        &value,
                    ));
                };
                let mut record = Self::default();
                for (name, value) in fields {
                    match name.as_str() {
                        $($name => {
                            record.$field = $crate::value::field($class, $name, value)?;
                        })*
                        _ => {}
                    }
                }
                Ok(record)
            }
        }

        impl<'de> serde::Deserialize<'de> for $record {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                let value = <serde_json::Value as serde::Deserialize>::deserialize(deserializer)?;
                $crate::value::FromValue::from_value(value).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Lists what of a record a `create` call sends: the constructor's fields, as their API names.
macro_rules! creatable {
    ($record:ident { $($field:ident : $name:literal),* $(,)? }) => {
        impl $record {
            /// The fields that the class's constructor takes. Enumerations that were left unset
            /// are omitted, so that the server's default applies.
            pub(crate) fn constructor_args(&self) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $(
                    $crate::call::put_field(&mut map, $name, &self.$field);
                )*
                serde_json::Value::Object(map)
            }
        }
    };
}

/// An enumeration of the API that newer servers may extend.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$vmeta])* $variant,)*
            /// A value that this crate does not know; empty when the server said nothing.
            Other(String),
        }

        impl $name {
            /// The value as the API spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::value::FromValue for $name {
            fn from_value(
                value: serde_json::Value,
            ) -> Result<Self, $crate::value::DecodeError> {
                match value {
                    serde_json::Value::String(text) => Ok(Self::from(text.as_str())),
                    other => Err($crate::value::DecodeError::new(
                        concat!("a value of ", stringify!($name)),
                        &other,
                    )),
                }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Ok(Self::from(text.as_str()))
            }
        }
    };
}
