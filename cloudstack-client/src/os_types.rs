//! Types of guest operating systems, by which a hypervisor chooses virtual hardware.

use serde_json::Value;

use crate::call::{Call, List, Record};
use crate::value::Fields;

/// A type of guest operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OsType {
    /// Its id.
    pub id: String,
    /// What people read: `Debian GNU/Linux 12 (64-bit)`.
    pub description: String,
    /// The id of its category.
    pub category_id: Option<String>,
    /// The name of its category: `Debian`.
    pub category: Option<String>,
}

impl Record for OsType {
    const ARRAY: &'static str = "ostype";

    fn read(value: &Value) -> Option<Self> {
        let fields = Fields::of(value)?;
        Some(Self {
            id: fields.text("id")?,
            description: fields
                .text("description")
                .or_else(|| fields.text("name"))
                .unwrap_or_default(),
            category_id: fields.text("oscategoryid"),
            category: fields.text("oscategoryname"),
        })
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}

/// `listOsTypes`: all of them, some hundreds.
#[must_use]
pub fn list() -> Call<List<OsType>> {
    Call::list("OS types: list", "listOsTypes")
}

/// `listOsTypes` with exactly this description.
#[must_use]
pub fn described(description: &str) -> Call<List<OsType>> {
    list().with("description", description)
}
