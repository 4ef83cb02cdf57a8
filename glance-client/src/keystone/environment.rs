//! Finding `clouds.yaml` and reading `OS_*`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use super::config::{CloudConfig, ENVIRONMENT};
use crate::error::{Error, Result};

/// The variables and folders that a configuration comes from. [`of_process`](Self::of_process) is the usual one; one
/// of one's own makes the search testable.
///
/// The search is that of the other OpenStack clients: the file that `OS_CLIENT_CONFIG_FILE` names, else `clouds.yaml`,
/// `clouds.yml` or `clouds.json` in the current folder, the user's and the system's configuration folder. `secure.yaml`
/// (`OS_CLIENT_SECURE_FILE`) is found the same way and merged over it, entry by entry. A cloud with a `profile` is laid
/// over that entry of `public-clouds` in `clouds-public.yaml`, which is searched in the same folders; no vendor is built in.
///
/// ```
/// use glance_client::keystone::Environment;
/// let cloud = Environment::new([
///     ("OS_AUTH_URL", "http://127.0.0.1:5000/v3"),
///     ("OS_USERNAME", "demo"),
///     ("OS_PASSWORD", "secret"),
///     ("OS_TENANT_NAME", "demo"),
/// ])
/// .load(None)?;
/// assert_eq!(cloud.auth_url.port(), Some(5000));
/// # Ok::<(), glance_client::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    folders: Vec<PathBuf>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some of the values are passwords.
        let names: Vec<_> = self.variables.keys().collect();
        f.debug_struct("Environment")
            .field("variables", &names)
            .field("folders", &self.folders)
            .finish()
    }
}

impl Environment {
    /// These variables and no folder.
    pub fn new<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, folders: Vec::new() }
    }

    /// The process's own.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let mut this = Self::new(variables.filter(|(name, _)| name.starts_with("OS_")));
        this.folders.extend(std::env::current_dir());
        let home = std::env::home_dir().map(|home| home.join(".config"));
        let user = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
        this.folders.extend(user.map(|folder| folder.join("openstack")));
        this.folders.push(PathBuf::from("/etc/openstack"));
        this
    }

    /// Adds a folder to search, after the others.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// The cloud `name`; without a name the one of `OS_CLOUD`, else the variables, else the only one in the file. `envvars`
    /// names the variables.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) with what is missing or which clouds there are.
    pub fn load(&self, name: Option<&str>) -> Result<CloudConfig> {
        let name = name.or_else(|| self.variable("OS_CLOUD"));
        // The other clients call the cloud of the variables so.
        if name == Some("envvars") || (name.is_none() && self.variable("OS_AUTH_URL").is_some()) {
            return CloudConfig::from_entry(ENVIRONMENT, &self.entry_of_variables());
        }
        let (path, mut clouds) = match self.file("OS_CLIENT_CONFIG_FILE", "clouds")? {
            Some((path, document)) => (path, clouds_of(document)),
            None => return Err(self.nothing_found(name)),
        };
        if let Some((_, secure)) = self.file("OS_CLIENT_SECURE_FILE", "secure")? {
            merge(&mut clouds, clouds_of(secure));
        }
        let known = || match clouds.keys().map(String::as_str).collect::<Vec<_>>().join(", ") {
            names if names.is_empty() => "none".to_owned(),
            names => names,
        };
        let name = match (name, clouds.len()) {
            (Some(name), _) => name.to_owned(),
            (None, 1) => clouds.keys().next().cloned().unwrap_or_default(),
            (None, 0) => {
                return Err(Error::config(format!("there are no clouds in {}", path.display())));
            }
            (None, _) => {
                let text = format!(
                    "several clouds in {}: set OS_CLOUD to one of {}",
                    path.display(),
                    known()
                );
                return Err(Error::config(text));
            }
        };
        if let Some(entry) = clouds.get(&name)
            && !entry.is_object()
        {
            let text = format!("cloud {name:?} in {} has no settings", path.display());
            return Err(Error::config(text));
        }
        let Some(Value::Object(entry)) = clouds.get(&name) else {
            return Err(Error::config(format!(
                "no cloud {name:?} in {}; it has {}",
                path.display(),
                known()
            )));
        };
        let mut entry = self.with_profile(&name, entry.clone())?;
        if let Some(region) = self.variable("OS_REGION_NAME") {
            entry.insert("region_name".to_owned(), region.into());
        }
        let entry = with_region_values(entry);
        CloudConfig::from_entry(&name, &entry)
    }

    /// The entry over its vendor profile from `clouds-public.yaml`.
    fn with_profile(&self, name: &str, entry: Map<String, Value>) -> Result<Map<String, Value>> {
        // `cloud` is the old word.
        let profile = entry.get("profile").or_else(|| entry.get("cloud")).and_then(Value::as_str);
        let Some(profile) = profile.map(str::to_owned) else { return Ok(entry) };
        let public = self.search("clouds-public")?;
        let known = public.and_then(|(_, mut document)| {
            match document.get_mut("public-clouds")?.get_mut(&profile)?.take() {
                Value::Object(found) => Some(found),
                _ => None,
            }
        });
        match known {
            Some(mut below) => {
                merge(&mut below, entry);
                Ok(below)
            }
            None if entry.get("auth").and_then(|auth| auth.get("auth_url")).is_some() => Ok(entry),
            None => Err(Error::config(format!(
                "cloud {name:?}: the profile {profile:?} is in no clouds-public.yaml, and none is built in: write its \
                 auth_url into clouds.yaml"
            ))),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `OS_*` spelt as an entry of `clouds.yaml`: the names are the same in lower case.
    fn entry_of_variables(&self) -> Map<String, Value> {
        let taken = self.variables.iter().filter(|(_, value)| !value.is_empty());
        taken
            .filter_map(|(name, value)| {
                let key = name.strip_prefix("OS_")?.to_ascii_lowercase();
                let ignored =
                    key.starts_with("test") || key.starts_with("std") || key.starts_with("log");
                (!ignored).then(|| (key, Value::String(value.clone())))
            })
            .collect()
    }

    fn nothing_found(&self, name: Option<&str>) -> Error {
        let searched = self
            .folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        match name {
            Some(name) => Error::config(format!(
                "cloud {name:?} is wanted, but no clouds.yaml is in {searched}"
            )),
            None => Error::config(format!(
                "no cloud is configured: set OS_CLOUD, or OS_AUTH_URL and the other OS_* variables, or put a clouds.yaml \
                 into one of {searched}"
            )),
        }
    }

    fn file(&self, variable: &str, stem: &str) -> Result<Option<(PathBuf, Value)>> {
        if let Some(path) = self.variable(variable) {
            let path = PathBuf::from(path);
            let document = read(&path)?.ok_or_else(|| {
                Error::config(format!("{variable} names {}, which does not exist", path.display()))
            })?;
            return Ok(Some((path, document)));
        }
        self.search(stem)
    }

    fn search(&self, stem: &str) -> Result<Option<(PathBuf, Value)>> {
        for folder in &self.folders {
            for ending in ["yaml", "yml", "json"] {
                let path = folder.join(format!("{stem}.{ending}"));
                if let Some(document) = read(&path)? {
                    return Ok(Some((path, document)));
                }
            }
        }
        Ok(None)
    }
}

/// Reads a YAML file (JSON is YAML). Its content never gets into an error: there are passwords in it.
fn read(path: &Path) -> Result<Option<Value>> {
    const LIMIT: u64 = 4 << 20;
    let cannot = |error: std::io::Error| {
        Error::config(format!("{} cannot be read: {error}", path.display())).with_source(error)
    };
    match std::fs::metadata(path) {
        Ok(found) if found.len() > LIMIT => {
            return Err(Error::config(format!(
                "{} is too large to be a clouds.yaml",
                path.display()
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot(error)),
    }
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(cannot)?);
    parse(&text)
        .map(Some)
        .map_err(|place| Error::config(format!("{} is not valid YAML{place}", path.display())))
}

fn parse(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    // A region called `no` is a name, whatever YAML 1.1 thought of it.
    let options = || serde_saphyr::options! { strict_booleans: true };
    let wrong = |error: serde_saphyr::Error| {
        let place = error.without_snippet().location();
        place.map_or_else(String::new, |place| {
            format!(" at line {} column {}", place.line(), place.column())
        })
    };
    let mut document = serde_saphyr::from_str_with_options(text, options()).map_err(wrong)?;
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |reader| {
        Texts(&mut document).deserialize(reader)
    })
    .map_err(wrong)?;
    Ok(document)
}

/// Puts the text of unquoted scalars back where YAML made something else of them: the password `0123` is not `123`. The
/// document is read a second time, along what it was found to be.
struct Texts<'v>(&'v mut Value);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.0 {
            Value::Object(_) => reader.deserialize_map(self),
            Value::Array(_) => reader.deserialize_seq(self),
            Value::String(_) => IgnoredAny::deserialize(reader).map(drop),
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                *self.0 = Option::<String>::deserialize(reader)?.into();
                Ok(())
            }
        }
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what it was at first")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.0.get_mut(&key) {
                Some(value) => map.next_value_seed(Texts(value))?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for value in self.0.as_array_mut().into_iter().flatten() {
            list.next_element_seed(Texts(value))?;
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

fn clouds_of(mut document: Value) -> Map<String, Value> {
    match document.get_mut("clouds").map(Value::take) {
        Some(Value::Object(clouds)) => clouds,
        _ => Map::new(),
    }
}

/// An entry with what it says for its region alone (`regions: [{name: …, values: {…}}]`).
fn with_region_values(mut entry: Map<String, Value>) -> Map<String, Value> {
    let chosen = entry.get("region_name").and_then(Value::as_str).map(str::to_owned);
    let regions = entry.get("regions").and_then(Value::as_array).cloned().unwrap_or_default();
    let only = regions.len() == 1;
    let found = regions.into_iter().find(|region| {
        let name = region.get("name").and_then(Value::as_str);
        name.is_some() && (name == chosen.as_deref() || (only && chosen.is_none()))
    });
    if let Some(Value::Object(values)) =
        found.and_then(|mut region| Some(region.get_mut("values")?.take()))
    {
        merge(&mut entry, values);
    }
    entry
}

/// Lays `over` upon `base`: objects key by key, everything else as a whole.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
