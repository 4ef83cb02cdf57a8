//! The pool's objects, kept as they are at the server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::events::{EventBatch, EventStream};
use crate::live::Session;
use crate::refs::{Class, Ref};
use crate::value::FromValue;

/// One object that changed.
#[derive(Clone)]
#[non_exhaustive]
pub struct Change {
    /// The class in small letters, as events spell it.
    pub class: String,
    /// The text of the object's reference.
    pub reference: String,
    /// The record before; `None` for an object that is new.
    pub before: Option<Arc<Value>>,
    /// The record after; `None` for an object that is gone.
    pub after: Option<Arc<Value>>,
}

impl Change {
    /// The object's reference, if it is of class `T`.
    #[must_use]
    pub fn of<T: Class>(&self) -> Option<Ref<T>> {
        self.class.eq_ignore_ascii_case(T::NAME).then(|| Ref::new(&self.reference))
    }

    /// The fields whose values differ, by their names; all of them for an object that came or
    /// went.
    #[must_use]
    pub fn fields(&self) -> BTreeSet<&str> {
        let [before, after] =
            [&self.before, &self.after].map(|record| record.as_deref().and_then(Value::as_object));
        let names = before.into_iter().chain(after).flat_map(|record| record.keys());
        let differs = |name: &&str| {
            before.and_then(|record| record.get(*name))
                != after.and_then(|record| record.get(*name))
        };
        names.map(String::as_str).filter(differs).collect()
    }
}

impl std::fmt::Debug for Change {
    /// Without the records, which are long and may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match (&self.before, &self.after) {
            (None, _) => "add",
            (_, None) => "del",
            _ => "mod",
        };
        write!(f, "Change({what} {} {})", self.class, self.reference)
    }
}

/// All objects of some classes, as they are at the server: made by [`Session::cache`].
///
/// It follows the pool only while [`update`](Self::update) or [`wait_for`](Self::wait_for) runs;
/// in between it stands still, and reads are consistent with one another.
///
/// ```no_run
/// # async fn run(session: xenapi::Session) -> xenapi::Result<()> {
/// use std::time::Duration;
/// use xenapi::enums::VmPowerState;
/// use xenapi::vm::Vm;
///
/// let mut cache = session.cache(["vm", "host"]).await?;
/// println!("{} machines", cache.all::<Vm>().count());
/// let halted = cache
///     .wait_for(Duration::from_secs(600), |cache| {
///         cache.all::<Vm>().find_map(|(vm, record)| {
///             let record = record.ok()?;
///             (record.power_state == VmPowerState::Halted).then_some(vm)
///         })
///     })
///     .await?;
/// println!("{halted} is halted");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Cache {
    stream: EventStream,
    objects: Objects,
    drift: Drift,
}

impl Session {
    /// Reads all objects of some classes (`"vm"`, `"*"` for all) and keeps them.
    ///
    /// # Errors
    /// Those of [`EventStream::next`].
    pub async fn cache(
        &self,
        classes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Cache> {
        let stream = self.events(classes);
        let mut cache = Cache { stream, objects: Objects::default(), drift: Drift::default() };
        cache.update().await?;
        Ok(cache)
    }
}

impl Cache {
    /// Waits for the next changes, takes them over, and tells them. Dropping it while it waits
    /// loses nothing.
    ///
    /// # Errors
    /// Those of [`EventStream::next`]; what is cached stays.
    pub async fn update(&mut self) -> Result<Vec<Change>> {
        let batch = self.stream.next().await?;
        let (complete, counts) = (batch.complete, batch.counts.clone());
        let changes = self.objects.apply(batch);
        // Of a class whose objects are followed one by one, the count says nothing.
        let counts = counts.into_iter().filter(|(class, _)| self.stream.follows(class)).collect();
        if self.drift.found(&self.objects, &counts, complete) {
            self.stream.resync();
        }
        Ok(changes)
    }

    /// One object; `None` if there is none, or if its class is not followed.
    ///
    /// # Errors
    /// Of kind [`Decode`](ErrorKind::Decode) for a record that is not of the promised shape.
    pub fn get<T: Class + FromValue>(&self, object: &Ref<T>) -> Result<Option<T>> {
        self.objects.get(T::NAME, object.as_str()).map(decode).transpose()
    }

    /// One object's record, untyped.
    #[must_use]
    pub fn get_value(&self, class: &str, reference: &str) -> Option<&Arc<Value>> {
        self.objects.get(class, reference)
    }

    /// The references of a class whose type is not at hand.
    pub fn references(&self, class: &str) -> impl Iterator<Item = &str> {
        self.objects.of(class).into_iter().flatten().map(|(reference, _)| reference.as_str())
    }

    /// All objects of a class, by their references.
    pub fn all<T: Class + FromValue>(&self) -> impl Iterator<Item = (Ref<T>, Result<T>)> {
        let of = self.objects.of(T::NAME).into_iter().flatten();
        of.map(|(reference, record)| (Ref::new(reference), decode(record)))
    }

    /// How many objects of a class there are.
    #[must_use]
    pub fn count<T: Class>(&self) -> usize {
        self.objects.of(T::NAME).map_or(0, BTreeMap::len)
    }

    /// Follows the pool until `probe` finds what it looks for, at once or after some changes.
    ///
    /// # Errors
    /// Of kind [`Timeout`](ErrorKind::Timeout) when it was not found in time, and those of
    /// [`update`](Self::update).
    pub async fn wait_for<R>(
        &mut self,
        limit: Duration,
        mut probe: impl FnMut(&Self) -> Option<R>,
    ) -> Result<R> {
        let follow = async {
            loop {
                if let Some(found) = probe(self) {
                    return Ok(found);
                }
                self.update().await?;
            }
        };
        tokio::time::timeout(limit, follow).await.unwrap_or_else(|_| {
            let words = format!("what was waited for did not come in {} s", limit.as_secs());
            Err(Error::new(ErrorKind::Timeout, words))
        })
    }
}

fn decode<T: FromValue>(record: &Arc<Value>) -> Result<T> {
    T::from_value((**record).clone()).map_err(|e| {
        let words = format!("an object has an unexpected value: {e}");
        Error::new(ErrorKind::Decode, words).with_source(e)
    })
}

/// Records by class (in small letters) and reference.
#[derive(Default)]
struct Objects(BTreeMap<String, BTreeMap<String, Arc<Value>>>);

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(class, of)| (class, of.len()))).finish()
    }
}

impl Objects {
    fn of(&self, class: &str) -> Option<&BTreeMap<String, Arc<Value>>> {
        self.0.get(&class.to_ascii_lowercase())
    }

    fn get(&self, class: &str, reference: &str) -> Option<&Arc<Value>> {
        self.of(class)?.get(reference)
    }

    /// Takes a batch over. What does not change anything, such as the heartbeat of a pool, is no
    /// change.
    fn apply(&mut self, batch: EventBatch) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut seen = BTreeSet::new();
        for event in batch.events {
            let (class, reference, record) = event.into_parts();
            if batch.complete {
                seen.insert((class.clone(), reference.clone()));
            }
            self.set(class, reference, record.map(Arc::new), &mut changes);
        }
        if batch.complete {
            let gone: Vec<(String, String)> = self
                .0
                .iter()
                .flat_map(|(class, of)| of.keys().map(move |r| (class.clone(), r.clone())))
                .filter(|object| !seen.contains(object))
                .collect();
            for (class, reference) in gone {
                self.set(class, reference, None, &mut changes);
            }
        }
        changes
    }

    fn set(
        &mut self,
        class: String,
        reference: String,
        after: Option<Arc<Value>>,
        changes: &mut Vec<Change>,
    ) {
        let of = self.0.entry(class.clone()).or_default();
        let before = match &after {
            Some(record) => of.insert(reference.clone(), Arc::clone(record)),
            None => of.remove(&reference),
        };
        if before != after {
            changes.push(Change { class, reference, before, after });
        }
    }
}

/// The server may lose the event of an object that lived for a moment only; its count of objects
/// shows that. A difference that stays over two answers costs a new beginning, once.
#[derive(Debug, Default)]
struct Drift {
    suspects: BTreeMap<String, u64>,
    /// What remained after a new beginning: counts that are of something else.
    accepted: BTreeMap<String, u64>,
}

impl Drift {
    fn found(&mut self, objects: &Objects, counts: &BTreeMap<String, u64>, complete: bool) -> bool {
        let differing: BTreeMap<String, u64> = objects
            .0
            .iter()
            .filter_map(|(class, of)| {
                let count = *counts.get(class)?;
                (count != of.len() as u64).then(|| (class.clone(), count.abs_diff(of.len() as u64)))
            })
            .collect();
        if complete {
            (self.accepted, self.suspects) = (differing, BTreeMap::new());
            return false;
        }
        let lasting = |(class, by): (&String, &u64)| {
            self.suspects.get(class) == Some(by) && self.accepted.get(class) != Some(by)
        };
        let found = differing.iter().any(lasting);
        self.suspects = differing;
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn batch(complete: bool, events: &[(&str, &str, &str, Value)]) -> EventBatch {
        let events: Vec<Value> = events
            .iter()
            .map(|(operation, class, reference, snapshot)| {
                json!({"id": "1", "timestamp": "0.0", "class": class, "operation": operation,
                       "ref": reference, "snapshot": snapshot})
            })
            .collect();
        let value = json!({"events": events, "token": "t", "valid_ref_counts": {}});
        EventBatch { complete, ..EventBatch::from_value(value).unwrap() }
    }

    #[test]
    fn a_batch_becomes_changes() {
        let mut objects = Objects::default();
        let first = [
            ("add", "vm", "a", json!({"name_label": "one", "power_state": "Running"})),
            ("add", "vm", "b", json!({"name_label": "two"})),
            ("add", "pool", "p", json!({})),
        ];
        assert_eq!(objects.apply(batch(true, &first)).len(), 3);
        let second = [
            ("mod", "pool", "p", json!({})),
            ("mod", "vm", "a", json!({"name_label": "one", "power_state": "Halted"})),
            ("del", "vm", "b", Value::Null),
            ("del", "vm", "never seen", Value::Null),
        ];
        let changes = objects.apply(batch(false, &second));
        assert_eq!(format!("{changes:?}"), "[Change(mod vm a), Change(del vm b)]");
        assert_eq!(changes[0].fields(), BTreeSet::from(["power_state"]));
        // A new beginning: what it does not have is gone, what is as before is no change.
        let third = [("add", "vm", "a", json!({"name_label": "one", "power_state": "Halted"}))];
        let changes = objects.apply(batch(true, &third));
        assert_eq!(format!("{changes:?}"), "[Change(del pool p)]");
        assert_eq!(changes[0].fields(), BTreeSet::new());
    }

    #[test]
    fn a_lasting_difference_of_counts_is_a_lost_event() {
        let mut objects = Objects::default();
        objects.apply(batch(true, &[("add", "vm", "a", json!({}))]));
        let (one, two) = (BTreeMap::from([("vm".into(), 1)]), BTreeMap::from([("vm".into(), 2)]));
        let mut drift = Drift::default();
        assert!(!drift.found(&objects, &one, true));
        assert!(!drift.found(&objects, &two, false), "it may be on its way");
        assert!(!drift.found(&objects, &one, false));
        assert!(!drift.found(&objects, &two, false));
        assert!(drift.found(&objects, &two, false));
        // The new beginning did not bring it: it is no loss.
        assert!(!drift.found(&objects, &two, true));
        assert!(!drift.found(&objects, &two, false));
        assert!(!drift.found(&objects, &two, false));
    }
}
