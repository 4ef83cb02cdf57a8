//! Requests with many parameters, declared once: a method for each, with the server's name for it.

/// Declares a request. Its methods set parameters; `describe` adds them to a call. What `new` must be given is written
/// beside it.
macro_rules! request {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$doc:meta])* $method:ident($ty:ty) = $wire:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name {
            parameters: Vec<(String, String)>,
        }

        impl $name {
            $($(#[$doc])*
            #[must_use]
            pub fn $method(self, value: $ty) -> Self {
                self.set($wire, value.to_string())
            })*

            #[allow(dead_code, reason = "not every request has a parameter that must be there")]
            fn empty() -> Self {
                Self { parameters: Vec::new() }
            }

            #[allow(dead_code, reason = "not every request has a parameter")]
            fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
                let name = name.into();
                self.parameters.retain(|(there, _)| *there != name);
                self.parameters.push((name, value.into()));
                self
            }

            #[allow(dead_code, reason = "not every request looks at what it has")]
            pub(crate) fn get(&self, name: &str) -> Option<&str> {
                let found = self.parameters.iter().find(|(there, _)| there == name);
                found.map(|(_, value)| value.as_str())
            }

            pub(crate) fn describe<T>(&self, call: $crate::call::Call<T>) -> $crate::call::Call<T> {
                self.parameters.iter().fold(call, |call, (name, value)| call.with(name, value))
            }
        }

        /// The names of the parameters and not their values, which may be passwords.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
                f.debug_struct(stringify!($name)).field("parameters", &names).finish()
            }
        }
    };
}

pub(crate) use request;
