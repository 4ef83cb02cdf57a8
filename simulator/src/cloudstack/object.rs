//! Everything that is neither template nor job: machines, volumes, networks, addresses, rules,
//! snapshots and keys. Each is a row as lists show it.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
use super::list;
use super::owner::Owner;
use super::params::Params;
use super::state::{Shared, Tables};
use super::template::cloudstack_time;

/// What an object is; its word is the key of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Machine,
    Volume,
    Network,
    Address,
    Balancer,
    Firewall,
    Egress,
    Forward,
    Snapshot,
    MachineSnapshot,
    Key,
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) owner: Owner,
    pub(super) row: Map<String, Value>,
    /// The data of a volume or a snapshot.
    pub(super) path: Option<PathBuf>,
    /// What it is tied to and no list shows: the machines of a rule.
    pub(super) members: Vec<String>,
}

impl Object {
    /// A new one, with an id and a time.
    pub(super) fn new(kind: Kind, owner: Owner, row: Value) -> Self {
        let mut all = json!({
            "id": Uuid::new_v4().to_string(),
            "created": cloudstack_time(Timestamp::now()),
            "tags": [],
        });
        if let (Some(all), Value::Object(row)) = (all.as_object_mut(), row) {
            all.extend(owner.show());
            all.extend(row);
            // What is not there is left out.
            all.retain(|_, value| !value.is_null());
        }
        let row = all.as_object().cloned().unwrap_or_default();
        Self { kind, owner, row, path: None, members: Vec::new() }
    }

    pub(super) fn id(&self) -> &str {
        self.text("id")
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.row.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        self.row.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.row.insert(name.to_owned(), value.into());
    }

    pub(super) fn unset(&mut self, names: &[&str]) {
        for name in names {
            self.row.remove(*name);
        }
    }

    pub(super) fn show(&self) -> Value {
        Value::Object(self.row.clone())
    }
}

impl Tables {
    /// The objects of a kind.
    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(move |object| object.kind == kind)
    }

    pub(super) fn object(&mut self, kind: Kind, id: &str) -> Option<&mut Object> {
        self.objects.iter_mut().find(|object| object.kind == kind && object.id() == id)
    }

    /// The object that a parameter must name.
    pub(super) fn named(
        &mut self,
        params: &Params,
        kind: Kind,
        name: &str,
    ) -> ApiResult<&mut Object> {
        let id = params.required(name)?;
        let found = self.object(kind, id);
        let found = found.ok_or_else(|| ApiError::no_such(&params.command, name, id))?;
        params.check_use(found.owner, id).map(|()| found)
    }

    pub(super) fn remove(&mut self, kind: Kind, id: &str) -> Option<Object> {
        let at = self.objects.iter().position(|o| o.kind == kind && o.id() == id)?;
        self.removed.insert(id.to_owned());
        Some(self.objects.remove(at))
    }
}

/// The rows of a list, of which the named fields are as the parameters say.
pub(super) fn list(
    state: &Shared,
    params: &Params,
    kind: Kind,
    names: &[&str],
) -> ApiResult<Vec<Value>> {
    let sees = params.sees()?;
    let tables = state.tables();
    if let Some(id) = params.get("id") {
        // What was deleted is an empty list, what never was is an error.
        let known = tables.of(kind).any(|object| object.id() == id) || tables.removed.contains(id);
        if !known {
            return Err(ApiError::no_such(&params.command, "id", id));
        }
    }
    let wanted = params.maps("tags");
    let tagged = |object: &&Object| {
        let tags = object.row.get("tags").and_then(Value::as_array);
        let tags = tags.map(Vec::as_slice).unwrap_or_default();
        wanted.values().all(|one| {
            tags.iter().any(|tag| one.iter().all(|(name, value)| tag[name] == value.as_str()))
        })
    };
    let rows =
        tables.of(kind).filter(|one| sees(one.owner)).filter(tagged).map(Object::show).collect();
    let names: Vec<_> = ["id"].into_iter().chain(names.iter().copied()).collect();
    Ok(list::filter(params, rows, &names))
}
