//! The pool's database: objects by class and reference, with a log for `event.from`.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::schema;
use super::value::{ApiError, Record, Value, text};

/// Back references: field `.1` of class `.0` lists every `.2` whose field `.3` names it.
const BACK_REFERENCES: &[(&str, &str, &str, &str)] = &[
    ("VM", "VBDs", "VBD", "VM"),
    ("VM", "VIFs", "VIF", "VM"),
    ("VM", "consoles", "console", "VM"),
    ("VM", "snapshots", "VM", "snapshot_of"),
    ("VM", "children", "VM", "parent"),
    ("VDI", "VBDs", "VBD", "VDI"),
    ("VDI", "snapshots", "VDI", "snapshot_of"),
    ("SR", "VDIs", "VDI", "SR"),
    ("SR", "PBDs", "PBD", "SR"),
    ("host", "PBDs", "PBD", "host"),
    ("host", "PIFs", "PIF", "host"),
    ("host", "resident_VMs", "VM", "resident_on"),
    ("network", "VIFs", "VIF", "network"),
    ("network", "PIFs", "PIF", "network"),
    ("task", "subtasks", "task", "subtask_of"),
];

/// One object of the database.
#[derive(Debug)]
struct Object {
    record: Record,
    created: u64,
    changed: u64,
}

/// What happened to an object since a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    Add,
    Mod,
    Del,
}

/// Objects by class and reference. Every change moves the generation on.
#[derive(Debug, Default)]
pub(crate) struct Db {
    generation: u64,
    classes: BTreeMap<&'static str, BTreeMap<String, Object>>,
    deleted: Vec<(u64, u64, &'static str, String)>,
}

/// A fresh reference.
pub(crate) fn fresh_ref() -> String {
    format!("OpaqueRef:{}", Uuid::new_v4())
}

impl Db {
    /// The number of changes so far.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds an object; fields that `record` lacks get their default, also `uuid` a fresh value.
    pub(crate) fn insert(&mut self, class: &'static str, record: Record) -> String {
        let reference = fresh_ref();
        let mut full = schema::blank(class);
        full.extend(record);
        if text(&full, "uuid").is_empty() {
            full.insert("uuid".to_owned(), Uuid::new_v4().to_string().into());
        }
        self.generation += 1;
        let object = Object { record: full, created: self.generation, changed: self.generation };
        self.touch_referenced(class, &object.record);
        self.classes.entry(class).or_default().insert(reference.clone(), object);
        reference
    }

    /// Removes an object; `false` if there is none.
    pub(crate) fn remove(&mut self, class: &'static str, reference: &str) -> bool {
        let Some(object) = self.classes.get_mut(class).and_then(|o| o.remove(reference)) else {
            return false;
        };
        self.generation += 1;
        self.deleted.push((self.generation, object.created, class, reference.to_owned()));
        self.touch_referenced(class, &object.record);
        true
    }

    /// The stored record, without its back references.
    pub(crate) fn raw(&self, class: &str, reference: &str) -> Result<&Record, ApiError> {
        self.classes
            .get(class)
            .and_then(|objects| objects.get(reference))
            .map(|object| &object.record)
            .ok_or_else(|| ApiError::handle(class, reference))
    }

    /// The record as a client sees it.
    pub(crate) fn record(&self, class: &str, reference: &str) -> Result<Record, ApiError> {
        let mut record = self.raw(class, reference)?.clone();
        for (owner, field, other, via) in BACK_REFERENCES {
            if *owner == class {
                let refs = self.referrers(other, via, reference).into_iter().map(Value::Str);
                record.insert((*field).to_owned(), Value::Array(refs.collect()));
            }
        }
        Ok(record)
    }

    /// All objects of `class` whose `field` names `reference`.
    pub(crate) fn referrers(&self, class: &str, field: &str, reference: &str) -> Vec<String> {
        self.iter(class)
            .filter(|(_, record)| text(record, field) == reference)
            .map(|(r, _)| r.to_owned())
            .collect()
    }

    /// All objects of a class in the order of their references.
    pub(crate) fn iter(&self, class: &str) -> impl Iterator<Item = (&str, &Record)> {
        self.classes.get(class).into_iter().flatten().map(|(r, o)| (r.as_str(), &o.record))
    }

    /// Sets one field.
    pub(crate) fn set(
        &mut self,
        class: &'static str,
        reference: &str,
        field: &str,
        value: impl Into<Value>,
    ) -> Result<(), ApiError> {
        let value = value.into();
        self.generation += 1;
        let generation = self.generation;
        let object = self
            .classes
            .get_mut(class)
            .and_then(|objects| objects.get_mut(reference))
            .ok_or_else(|| ApiError::handle(class, reference))?;
        object.changed = generation;
        let before = object.record.insert(field.to_owned(), value);
        let mut touched = vec![object.record.clone()];
        if let Some(before) = before {
            touched.push(Record::from([(field.to_owned(), before)]));
        }
        for record in &touched {
            self.touch_referenced(class, record);
        }
        Ok(())
    }

    /// Marks an object as changed; nothing happens if it is gone.
    pub(crate) fn touch(&mut self, class: &str, reference: &str) {
        self.generation += 1;
        let generation = self.generation;
        if let Some(object) = self.classes.get_mut(class).and_then(|o| o.get_mut(reference)) {
            object.changed = generation;
        }
    }

    /// The object with this uuid.
    pub(crate) fn by_uuid(&self, class: &str, uuid: &str) -> Option<String> {
        self.iter(class).find(|(_, r)| text(r, "uuid") == uuid).map(|(r, _)| r.to_owned())
    }

    /// Every change after generation `since`, oldest kind of knowledge first: what exists and
    /// changed, then what was deleted although the client had seen it.
    pub(crate) fn changes(&self, since: u64) -> Vec<(u64, Change, &'static str, String)> {
        let mut found = Vec::new();
        for (class, objects) in &self.classes {
            for (reference, object) in objects {
                if object.changed > since {
                    let change = if object.created > since { Change::Add } else { Change::Mod };
                    found.push((object.changed, change, *class, reference.clone()));
                }
            }
        }
        for (at, created, class, reference) in &self.deleted {
            if *at > since && *created <= since {
                found.push((*at, Change::Del, class, reference.clone()));
            }
        }
        found.sort();
        found
    }

    /// How many objects of each class exist, by lower-case name.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.classes.iter().map(|(c, o)| (c.to_ascii_lowercase(), o.len())).collect()
    }

    /// Everything that exists, references included; only empty classes are left out.
    pub(crate) fn inventory(&self) -> serde_json::Value {
        let classes = self.classes.iter().filter(|(_, objects)| !objects.is_empty());
        classes
            .map(|(class, objects)| {
                let objects: serde_json::Map<_, _> = objects
                    .keys()
                    .filter_map(|r| Some((r.clone(), self.record(class, r).ok()?)))
                    .map(|(r, record)| (r, Value::Map(record).to_json()))
                    .collect();
                ((*class).to_owned(), serde_json::Value::Object(objects))
            })
            .collect()
    }

    /// Objects that list `record` in a back reference have changed with it.
    fn touch_referenced(&mut self, class: &str, record: &Record) {
        for (owner, _, other, via) in BACK_REFERENCES {
            if *other == class {
                let target = text(record, via).to_owned();
                let generation = self.generation;
                if let Some(object) = self.classes.get_mut(owner).and_then(|o| o.get_mut(&target)) {
                    object.changed = generation;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Record {
        Record::from([("name_label".to_owned(), name.into())])
    }

    #[test]
    fn back_references_are_computed_and_touch_their_owner() {
        let mut db = Db::default();
        let vm = db.insert("VM", named("web01"));
        let seen = db.generation();
        let vbd = db.insert("VBD", Record::from([("VM".to_owned(), vm.as_str().into())]));
        assert_eq!(db.record("VM", &vm).unwrap()["VBDs"], Value::Array(vec![vbd.as_str().into()]));
        let kinds: Vec<_> =
            db.changes(seen).into_iter().map(|(_, c, class, _)| (c, class)).collect();
        assert_eq!(kinds, [(Change::Add, "VBD"), (Change::Mod, "VM")]);
        assert!(db.remove("VBD", &vbd));
        assert_eq!(db.record("VM", &vm).unwrap()["VBDs"], Value::Array(vec![]));
    }

    #[test]
    fn deletions_are_told_only_to_those_who_saw_the_object() {
        let mut db = Db::default();
        let before = db.generation();
        let vm = db.insert("VM", named("short"));
        let seen = db.generation();
        db.remove("VM", &vm);
        assert!(db.changes(before).is_empty());
        assert_eq!(db.changes(seen)[0].1, Change::Del);
        assert_eq!(db.raw("VM", &vm).unwrap_err(), ApiError::handle("VM", &vm));
    }
}
