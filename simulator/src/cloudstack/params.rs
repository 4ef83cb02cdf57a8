//! The parameters of one command, after the signature was checked.

use std::collections::BTreeMap;

use super::error::{ApiError, ApiResult};
use super::owner::Caller;

/// Names are lowered, as the server does before it looks for them; the keys in a map parameter
/// keep their case.
#[derive(Debug)]
pub(super) struct Params {
    pub(super) command: String,
    pub(super) caller: Caller,
    pairs: Vec<(String, String)>,
}

impl Params {
    pub(super) fn new(command: &str, caller: Caller, pairs: &[(String, String)]) -> Self {
        let lowered = pairs.iter().map(|(name, value)| {
            let name = match name.split_once('.') {
                Some((map, key)) => format!("{}.{key}", map.to_lowercase()),
                None => name.to_lowercase(),
            };
            (name, value.clone())
        });
        Self { command: command.to_owned(), caller, pairs: lowered.collect() }
    }

    /// Refuses control characters and the malformed names of map parameters.
    pub(super) fn check(&self) -> ApiResult<()> {
        let bad = |c: char| (c < ' ' && !"\n\r".contains(c)) || c == '\x7f';
        for (name, value) in &self.pairs {
            if value.contains(bad) {
                return Err(ApiError::parameter(format!(
                    "Received value {value:?} for parameter {name} is invalid, contains illegal \
                     ASCII non-printable characters"
                )));
            }
            let open = name.contains('[') || name.contains(']');
            if open && index(name).is_none() {
                return Err(ApiError::malformed(format!(
                    "unable to decode parameter: {name}; if specifying an object array, please \
                     use parameter[index].field=XXX, e.g. userGroupList[0].group=httpGroup"
                )));
            }
        }
        Ok(())
    }

    /// A value that is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &str) -> ApiResult<&str> {
        self.get(name).ok_or_else(|| ApiError::missing(&self.command, name))
    }

    pub(super) fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        let wrong = |value: &str| {
            let command = self.command.to_lowercase();
            ApiError::parameter(format!(
                "Unable to execute API command {command} due to invalid value {value} for \
                 parameter {name}"
            ))
        };
        self.get(name).map(|value| value.trim().parse().map_err(|_| wrong(value))).transpose()
    }

    /// Java's `Boolean.valueOf`: everything but `true` is false.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| value.eq_ignore_ascii_case("true"))
    }

    /// `a,b,c`
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let items = self.get(name).unwrap_or_default().split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).collect()
    }

    /// `name[i].key=value`: the keys of every index.
    pub(super) fn maps(&self, name: &str) -> BTreeMap<u64, BTreeMap<String, String>> {
        let mut maps = BTreeMap::<u64, BTreeMap<String, String>>::new();
        for (full, value) in &self.pairs {
            let Some((at, key)) = full.strip_prefix(name).and_then(index) else { continue };
            maps.entry(at).or_default().insert(key.to_owned(), value.clone());
        }
        maps
    }

    /// The keys of all indexes together, as commands about machines take them.
    pub(super) fn merged(&self, name: &str) -> BTreeMap<String, String> {
        self.maps(name).into_values().flatten().collect()
    }

    /// The `details` of a template: what has another index than the first is lost.
    pub(super) fn details(&self) -> BTreeMap<String, String> {
        self.maps("details").pop_first().map(|(_, map)| map).unwrap_or_default()
    }
}

/// `[3].key` at the end of a name.
fn index(name: &str) -> Option<(u64, &str)> {
    let (_, rest) = name.split_once('[')?;
    let (at, rest) = rest.split_once(']')?;
    let key = rest.strip_prefix('.').filter(|key| !key.is_empty())?;
    Some((at.parse().ok()?, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Params::new("registerTemplate", Caller { account: "clones", is_admin: false }, &pairs)
    }

    #[test]
    fn only_the_first_index_of_the_details_counts() {
        let params = params(&[
            ("Details[0].rootDiskController", "scsi"),
            ("details[1].keyboard", "de"),
            ("details[0].UEFI", "SECURE"),
        ]);
        let details = params.details();
        let keys: Vec<_> = details.keys().map(String::as_str).collect();
        assert_eq!(keys, ["UEFI", "rootDiskController"]);
        assert_eq!(params.maps("details").len(), 2);
    }

    #[test]
    fn strange_characters_and_names_are_refused() {
        assert_eq!(params(&[("name", "a\tb")]).check().unwrap_err().status, 431);
        assert_eq!(params(&[("tags[0]key", "b")]).check().unwrap_err().status, 430);
        assert!(params(&[("name", "a\nb"), ("tags[0].key", "b")]).check().is_ok());
    }
}
