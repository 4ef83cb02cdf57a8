//! The simulator in a process of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::Context;
use super::clone::Environment;
use crate::process::{self, Result, Running};
use crate::tools::script;

/// A running simulator and what its ready line said.
#[derive(Debug)]
pub(crate) struct Simulator {
    process: Running,
    ready: Value,
}

impl Simulator {
    /// Starts one that serves `disks` as the running VM `web01`.
    pub(crate) fn start(
        context: &Context<'_>,
        folder: &Path,
        disks: &[&Path],
        faults: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new(&context.built.simulator);
        command.args(["--xen-port", "0", "--cloudstack-port", "0", "--openstack-port", "0"]);
        for disk in disks {
            command.arg("--disk").arg(format!("web01={}", disk.display()));
        }
        for fault in faults {
            command.args(["--fault", fault]);
        }
        let mut process = Running::start(&mut command, &folder.join("simulator.log"))?;
        let line = process.first_line(Duration::from_secs(60))?;
        let ready = serde_json::from_str(&line)
            .map_err(|e| format!("the simulator's ready line is not JSON ({e}): {line}"))?;
        Ok(Self { process, ready })
    }

    /// The variables that point a client at the simulated pool.
    pub(crate) fn xen(&self) -> Environment {
        let xen = &self.ready["xen"];
        let mut env = Environment::default();
        env.set("XEN_URL", &xen["url"]);
        env.set("XEN_USERNAME", &xen["username"]);
        env.set("XEN_PASSWORD", &xen["password"]);
        env.set("XEN_PIN_SHA256", &xen["pin_sha256"]);
        env
    }

    /// The variables that point a client at the simulated cloud.
    pub(crate) fn openstack(&self) -> Environment {
        let os = &self.ready["openstack"];
        let mut env = Environment::default();
        env.set("OS_AUTH_URL", &os["auth_url"]);
        env.set("OS_USERNAME", &os["username"]);
        env.set("OS_PASSWORD", &os["password"]);
        env.set("OS_PROJECT_NAME", &os["project"]);
        env.domains();
        env
    }

    /// Everything in the pool that a clone could leave behind, by XML-RPC.
    pub(crate) fn inventory(&self, folder: &Path) -> Result<Value> {
        let mut command = script("xen-inventory.py");
        self.xen().apply(&mut command);
        process::run(&mut command, &folder.join("inventory.log"), Duration::from_secs(60))?
            .success()?
            .json()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

/// What differs between two inventories; nothing if they are equal.
pub(crate) fn difference(before: &Value, after: &Value) -> Option<String> {
    if before == after {
        return None;
    }
    let mut found = Vec::new();
    let classes = before.as_object().into_iter().chain(after.as_object());
    let mut classes: Vec<_> = classes.flat_map(|map| map.keys()).collect();
    classes.sort();
    classes.dedup();
    for class in classes {
        let (old, new) = (by_uuid(&before[class]), by_uuid(&after[class]));
        for (uuid, record) in &old {
            match new.iter().find(|(other, _)| other == uuid) {
                None => found.push(format!("{class} {uuid} is gone")),
                Some((_, other)) if other != record => {
                    found.push(format!("{class} {uuid} changed: {}", changed(record, other)));
                }
                Some(_) => {}
            }
        }
        for (uuid, record) in &new {
            if !old.iter().any(|(other, _)| other == uuid) {
                found.push(format!("{class} {uuid} is new ({})", record["name_label"]));
            }
        }
    }
    Some(found.join("; "))
}

fn by_uuid(records: &Value) -> Vec<(&str, &Value)> {
    let records = records.as_array().map(Vec::as_slice).unwrap_or_default();
    records.iter().map(|r| (r["uuid"].as_str().unwrap_or_default(), r)).collect()
}

fn changed(old: &Value, new: &Value) -> String {
    let Some(fields) = old.as_object() else { return String::new() };
    let fields = fields.iter().filter(|(name, value)| new[name.as_str()] != **value);
    let fields: Vec<_> =
        fields.map(|(name, value)| format!("{name} {value} -> {}", new[name.as_str()])).collect();
    fields.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::difference;

    #[test]
    fn equal_inventories_do_not_differ() {
        let pool = json!({"VM": [{"uuid": "a", "name_label": "web01"}]});
        assert_eq!(difference(&pool, &pool.clone()), None);
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let before = json!({"VDI": [{"uuid": "a", "snapshots": []}, {"uuid": "b"}]});
        let after = json!({
            "VDI": [{"uuid": "a", "snapshots": ["s"]}, {"uuid": "c", "name_label": "left"}],
            "task": [{"uuid": "t", "name_label": "export"}],
        });
        let said = difference(&before, &after).unwrap();
        for part in [
            "VDI a changed: snapshots [] -> [\"s\"]",
            "VDI b is gone",
            "VDI c is new (\"left\")",
            "task t is new (\"export\")",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
