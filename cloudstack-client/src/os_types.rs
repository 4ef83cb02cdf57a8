//! Types of guest operating systems, by which a hypervisor chooses virtual hardware.

use serde_json::Value;

use crate::call::{Call, List, Record};
use crate::record::record;
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
    const FIELDS: &'static [&'static str] =
        &["id", "description", "name", "oscategoryid", "oscategoryname"];

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

record! {
    /// A category of operating systems.
    OsCategory in "oscategory" by id;
    /// Its id.
    id: String = "id",
    /// Its name: `Debian`.
    name: String = "name",
}

/// `listOsCategories`.
#[must_use]
pub fn categories() -> Call<List<OsCategory>> {
    Call::list("OS categories: list", "listOsCategories")
}

record! {
    /// What a hypervisor calls a type of operating system.
    GuestOsMapping in "guestosmapping" by id;
    /// Its id.
    id: String = "id",
    /// The hypervisor.
    hypervisor: Option<String> = "hypervisor",
    /// The version of the hypervisor.
    hypervisor_version: Option<String> = "hypervisorversion",
    /// The id of the type of operating system.
    os_type: Option<String> = "ostypeid",
    /// What people read: `Debian GNU/Linux 12 (64-bit)`.
    os_name: Option<String> = "osdisplayname",
    /// The hypervisor's name for it: on XenServer that of the machine's built-in template.
    name_for_hypervisor: Option<String> = "osnameforhypervisor",
}

/// `listGuestOsMapping` of one hypervisor; for administrators.
#[must_use]
pub fn mappings(hypervisor: &str) -> Call<List<GuestOsMapping>> {
    Call::list(&format!("OS mappings of {hypervisor}: list"), "listGuestOsMapping")
        .with_id("hypervisor", hypervisor)
}
