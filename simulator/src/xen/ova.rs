//! `ova.xml`: machines and what belongs to them, described as an archive names them. And
//! `GET /export_metadata`, which sends nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use tokio::io::AsyncWriteExt as _;

use super::export::{authenticate, refuse, turn_away};
use super::http::{Conn, Head};
use super::pool::State;
use super::role::Role;
use super::serve::Host;
use super::value::{ApiError, Record, Value, text, truth};
use super::xml;
use super::xva;

/// Reference or uuid.
pub(super) fn find_vm(state: &State, handle: &str) -> Result<String, ApiError> {
    match state.db.raw("VM", handle) {
        Ok(_) => Ok(handle.to_owned()),
        Err(error) => state.db.by_uuid("VM", handle).ok_or(error),
    }
}

/// What is described. What an archive does not hold has no name in it.
#[derive(Debug, Default)]
pub(super) struct Members {
    objects: BTreeSet<(&'static str, String)>,
    /// Classes that were asked to be left out.
    without: Vec<&'static str>,
}

impl Members {
    /// Adds a machine with its networks, devices, disks and their storage.
    pub(super) fn add_vm(&mut self, state: &State, vm: &str) -> Result<(), ApiError> {
        self.add("VM", vm);
        for vif in self.devices(state, "VIF", vm) {
            self.add("network", text(state.db.raw("VIF", &vif)?, "network"));
            self.add("VIF", &vif);
        }
        for vbd in self.devices(state, "VBD", vm) {
            let vdi = text(state.db.raw("VBD", &vbd)?, "VDI").to_owned();
            self.add("VBD", &vbd);
            self.add_disk(state, &vdi);
        }
        Ok(())
    }

    /// Adds the disks that these disks are differences to, where the storage tells.
    fn add_vhd_parents(&mut self, state: &State) {
        let mut left: Vec<String> = self.of_class("VDI").map(str::to_owned).collect();
        while let Some(vdi) = left.pop() {
            let parent = state.db.raw("VDI", &vdi).ok().and_then(|record| {
                let uuid = record.get("sm_config")?.as_map()?.get("vhd-parent")?.as_str()?;
                state.db.by_uuid("VDI", uuid)
            });
            if let Some(parent) = parent.filter(|p| !self.objects.contains(&("VDI", p.clone()))) {
                self.add_disk(state, &parent);
                left.push(parent);
            }
        }
    }

    fn add_disk(&mut self, state: &State, vdi: &str) {
        if let Ok(disk) = state.db.raw("VDI", vdi) {
            self.add("VDI", vdi);
            self.add("SR", text(disk, "SR"));
        }
    }

    fn devices(&self, state: &State, class: &'static str, vm: &str) -> Vec<String> {
        if self.without.contains(&class) {
            return Vec::new();
        }
        state.db.referrers(class, "VM", vm)
    }

    fn add(&mut self, class: &'static str, reference: &str) {
        self.objects.insert((class, reference.to_owned()));
    }

    pub(super) fn of_class(&self, class: &'static str) -> impl Iterator<Item = &str> {
        self.objects.iter().filter(move |(c, _)| *c == class).map(|(_, r)| r.as_str())
    }

    /// What the archive calls each of them, by reference.
    pub(super) fn names(&self) -> BTreeMap<&str, String> {
        let numbered = self.objects.iter().enumerate();
        numbered.map(|(n, (_, r))| (r.as_str(), format!("Ref:{}", n + 5))).collect()
    }

    /// The text of `ova.xml`.
    pub(super) fn describe(&self, state: &State) -> Result<String, ApiError> {
        let names = self.names();
        let mut list = Vec::new();
        for (class, reference) in &self.objects {
            let record = Value::Map(state.db.record(class, reference)?);
            let name = names.get(reference.as_str()).cloned().unwrap_or_default();
            list.push(Value::Map(Record::from([
                ("class".to_owned(), (*class).into()),
                ("id".to_owned(), name.into()),
                ("snapshot".to_owned(), renamed(&record, &names)),
            ])));
        }
        let version = Record::from([
            ("hostname".to_owned(), "xen1".into()),
            ("date".to_owned(), "2026-01-05".into()),
            ("product_version".to_owned(), "8.2.0".into()),
            ("product_brand".to_owned(), "Simulated".into()),
            ("build_number".to_owned(), "1".into()),
            ("xapi_major".to_owned(), Value::Int(1)),
            ("xapi_minor".to_owned(), Value::Int(20)),
            ("export_vsn".to_owned(), Value::Int(2)),
        ]);
        let all = Record::from([
            ("version".to_owned(), Value::Map(version)),
            ("objects".to_owned(), Value::Array(list)),
        ]);
        Ok(xml::text(&Value::Map(all)))
    }
}

/// A value with the references as the archive names them.
fn renamed(value: &Value, names: &BTreeMap<&str, String>) -> Value {
    let name = |text: &str| match names.get(text) {
        Some(name) => name.clone(),
        None if text.starts_with("OpaqueRef:") => "OpaqueRef:NULL".to_owned(),
        None => text.to_owned(),
    };
    match value {
        Value::Map(fields) => {
            let all = fields.iter().map(|(key, value)| (name(key), renamed(value, names)));
            Value::Map(all.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|v| renamed(v, names)).collect()),
        other => match other.as_str() {
            Some(text) => name(text).into(),
            None => other.clone(),
        },
    }
}

/// Answers `GET /export_metadata`; the connection ends with it. A running machine may be asked
/// for, a snapshot may not.
pub(crate) async fn serve(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let pool = &host.pool;
    let task = head.task();
    if let Err(error) = authenticate(pool, head, Role::VmAdmin) {
        return turn_away(pool, conn, task, error).await;
    }
    pool.adopt_task(task);
    let described = Wishes::read(head).and_then(|wishes| pool.with(|state| wishes.look_up(state)));
    let description = match described {
        Ok(description) => description,
        Err(error) => {
            pool.finish_task(task, Err(error));
            return refuse(conn, "HTTP/1.1", "500 Internal Error", &[]).await;
        }
    };
    let mut archive = Vec::new();
    xva::member(&mut archive, "ova.xml", description.as_bytes())?;
    archive.extend_from_slice(&[0; 1024]);
    let head = format!(
        "HTTP/1.0 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\
         task-id: {task}\r\nServer: simulator\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\n\
         Content-Disposition: attachment; filename=\"export.xva\"\r\n\r\n",
        archive.len()
    );
    conn.write_all(head.as_bytes()).await?;
    conn.write_all(&archive).await?;
    conn.flush().await?;
    pool.finish_task(task, Ok("".into()));
    Ok(())
}

/// What the query of `/export_metadata` asks for.
#[derive(Debug)]
struct Wishes {
    all: bool,
    dom0: bool,
    snapshots: bool,
    vhd_parents: bool,
    without: Vec<&'static str>,
    handle: String,
}

impl Wishes {
    fn read(head: &Head) -> Result<Self, ApiError> {
        let flag = |name: &str, default: bool| match head.query(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(ApiError::new("INTERNAL_ERROR", ["bool_of_string"])),
        };
        let mut without = Vec::new();
        for device in head.query("excluded_device_types").unwrap_or_default().split(',') {
            match device {
                "vif" => without.push("VIF"),
                "vbd" => without.push("VBD"),
                // This pool has none of them.
                "" | "vgpu" | "vtpm" => {}
                other => {
                    let params = ["excluded_device_types", other];
                    return Err(ApiError::new("INVALID_VALUE", params));
                }
            }
        }
        Ok(Self {
            all: flag("all", false)?,
            dom0: flag("include_dom0", true)?,
            snapshots: flag("export_snapshots", true)?,
            vhd_parents: flag("include_vhd_parents", false)?,
            without,
            handle: head.query("ref").or_else(|| head.query("uuid")).unwrap_or_default().to_owned(),
        })
    }

    fn look_up(self, state: &mut State) -> Result<String, ApiError> {
        let machines = if self.all {
            let all = state.db.iter("VM").filter(|(_, record)| {
                !truth(record, "is_default_template")
                    && (self.dom0 || !truth(record, "is_control_domain"))
            });
            all.map(|(vm, _)| vm.to_owned()).collect()
        } else {
            let vm = find_vm(state, &self.handle)?;
            if truth(state.db.raw("VM", &vm)?, "is_a_snapshot") {
                let why = "Exporting metadata of a snapshot is not allowed";
                return Err(ApiError::new("OPERATION_NOT_ALLOWED", [why]));
            }
            vec![vm]
        };
        let mut members = Members { without: self.without, ..Members::default() };
        for vm in machines {
            members.add_vm(state, &vm)?;
            if self.snapshots {
                for snapshot in state.db.referrers("VM", "snapshot_of", &vm) {
                    members.add_vm(state, &snapshot)?;
                }
            }
        }
        if self.vhd_parents {
            members.add_vhd_parents(state);
        }
        members.describe(state)
    }
}
