//! Lists and what they hold.

use serde_json::Value;

use super::{Answer, Call};
use crate::error::Result;

/// One page of a list, or all of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct List<T> {
    /// What came.
    pub items: Vec<T>,
    /// How many there are in all, as the server counts them.
    pub count: Option<u64>,
}

/// A record that lists can hold.
pub trait Record: Sized {
    /// The name of the array in the answer.
    const ARRAY: &'static str;
    /// The fields that are read, by the server's names.
    const FIELDS: &'static [&'static str] = &[];

    /// Reads one element; `None` if it lacks what makes it usable (its id).
    fn read(value: &Value) -> Option<Self>;

    /// What tells two elements apart: pages can overlap.
    fn key(&self) -> String;
}

impl<R: Record> Call<List<R>> {
    /// A list that is given in pages.
    pub(crate) fn list(what: &str, command: &str) -> Self {
        Self { paged: true, ..Self::whole_list(what, command) }
    }

    /// A list that the server always gives whole, so that it must not be asked for pages.
    pub(crate) fn whole_list(what: &str, command: &str) -> Self {
        Self::read(what, command, |answer| read_list(answer, Some(R::ARRAY)))
    }

    /// Those of all accounts that the caller sees, also below its domain: what administrators and domain administrators
    /// mean, who get only their own without it (`listall`, `isrecursive`).
    #[must_use]
    pub fn of_all_accounts(self) -> Self {
        self.with("listall", "true").with("isrecursive", "true")
    }

    /// Those of a project, or of all projects that the caller is in for `-1`.
    #[must_use]
    pub fn of_project(self, id: &str) -> Self {
        self.with_id("projectid", id)
    }

    /// One page: numbers start at 1. Servers refuse one of the two without the other.
    #[must_use]
    pub fn with_page(self, page: u64, size: u64) -> Self {
        self.with("page", page.to_string()).with("pagesize", size.to_string())
    }

    pub(crate) fn is_paged(&self) -> bool {
        self.paged
    }
}

/// The elements below a key, or below whatever key holds the one array.
pub(super) fn read_list<R: Record>(answer: &Answer<'_>, key: Option<&str>) -> Result<List<R>> {
    let fields = answer.fields()?;
    let raw = match key {
        Some(key) => fields.raw_in_any_case(key).map(|raw| (key, raw)),
        None => fields.only_array(),
    };
    let items = match raw {
        None | Some((_, Value::Null)) => &[],
        Some((_, Value::Array(items))) => items.as_slice(),
        Some((key, _)) => return Err(answer.wrong(&format!("{key:?} is no array"))),
    };
    let items = items
        .iter()
        .map(|item| {
            R::read(item)
                .ok_or_else(|| answer.wrong("an element of the list has no id or is no object"))
        })
        .collect::<Result<_>>()?;
    Ok(List { items, count: fields.number("count") })
}
