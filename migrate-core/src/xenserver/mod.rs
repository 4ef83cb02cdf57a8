//! The builder `xenserver-vm`: a running VM, by a snapshot that the pool exports.

mod export;
mod facts;
mod pool;
mod rules;
mod steps;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use xenapi::vm::{self, Vm};
use xenapi::{Ref, Session};

use self::export::SnapshotArtifact;
use self::pool::failed;
use self::steps::{Cleanup, Inspect, Snapshot, SnapshotMade};
use crate::{
    Artifact, Builder, Context, Error, ErrorKind, Leftover, Result, Run, RunId, Step, StepCx,
    Survey,
};

/// Clones a VM of a pool while it runs: snapshot, read what it is of, export its disks, remove
/// the snapshot.
///
/// The snapshot is named after the run and holds the run id in its `other_config`, so that it is
/// found whatever happens. Nothing else at the source is changed.
pub struct XenServerVm {
    session: Session,
    vm: Ref<Vm>,
    uuid: String,
    name: String,
}

impl std::fmt::Debug for XenServerVm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XenServerVm")
            .field("uuid", &self.uuid)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl XenServerVm {
    /// The VM with this name or UUID.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Ambiguous`] with the UUIDs if several VMs have the
    /// name; those of the pool.
    pub async fn find(session: &Session, name_or_uuid: &str) -> Result<Self> {
        let what = |e| failed(format_args!("VM {name_or_uuid}"), e);
        let mut candidates = Vec::new();
        if uuid::Uuid::parse_str(name_or_uuid).is_ok() {
            match session.call(vm::get_by_uuid(name_or_uuid)).await {
                Ok(reference) => candidates.push(reference),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(what(e)),
            }
        }
        if candidates.is_empty() {
            candidates = session.call(vm::get_by_name_label(name_or_uuid)).await.map_err(what)?;
        }
        let mut found = Vec::new();
        for reference in candidates {
            match session.call(vm::get_record(&reference)).await {
                Ok(record) if is_machine(&record) => found.push((reference, record)),
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(what(e)),
            }
        }
        match found.len() {
            0 => Err(Error::new(
                ErrorKind::NotFound,
                format!("the pool has no VM {name_or_uuid:?}: give its name or UUID"),
            )),
            1 => Ok(Self::of(session, found.remove(0))),
            _ => Err(Error::new(
                ErrorKind::Ambiguous,
                format!("several VMs are named {name_or_uuid:?}: give a UUID: {}", list(&found)),
            )),
        }
    }

    /// The VM with this UUID for a run that began earlier, also if it is gone since: its snapshot is
    /// then what is left, to be cloned or to be removed. A new run needs a VM: see
    /// [`find`](Self::find).
    ///
    /// # Errors
    /// Those of the pool.
    pub async fn of_run(session: &Session, uuid: &str) -> Result<Self> {
        match Self::find(session, uuid).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self {
                session: session.clone(),
                vm: Ref::null(),
                uuid: uuid.to_owned(),
                // Nobody knows it any more.
                name: uuid.to_owned(),
            }),
            other => other,
        }
    }

    /// The only VM of the pool that runs.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if none runs; [`ErrorKind::Ambiguous`] with all of them if
    /// several do; those of the pool.
    pub async fn only_running(session: &Session) -> Result<Self> {
        let records =
            session.call(vm::get_all_records()).await.map_err(|e| failed("listing the VMs", e))?;
        let mut machines: Vec<_> = records.into_iter().filter(|(_, r)| is_machine(r)).collect();
        machines.sort_by(|a, b| a.1.name_label.cmp(&b.1.name_label));
        let mut running: Vec<_> =
            machines.iter().filter(|(_, r)| r.power_state.as_str() == "Running").cloned().collect();
        match running.len() {
            1 => Ok(Self::of(session, running.remove(0))),
            0 => Err(Error::new(
                ErrorKind::NotFound,
                format!("no VM is running: name one of: {}", list(&machines)),
            )),
            _ => Err(Error::new(
                ErrorKind::Ambiguous,
                format!("several VMs are running: name one of: {}", list(&running)),
            )),
        }
    }

    fn of(session: &Session, (vm, record): (Ref<Vm>, Vm)) -> Self {
        Self { session: session.clone(), vm, uuid: record.uuid, name: record.name_label }
    }

    /// The VM's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The VM's UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }
}

/// Whether a record is a virtual machine, and not a template, snapshot or control domain.
fn is_machine(record: &Vm) -> bool {
    !record.is_a_template && !record.is_a_snapshot && !record.is_control_domain
}

fn list(found: &[(Ref<Vm>, Vm)]) -> String {
    if found.is_empty() {
        return "(the pool has none)".to_owned();
    }
    let names: Vec<String> =
        found.iter().map(|(_, r)| format!("{} ({})", r.name_label, r.uuid)).collect();
    names.join(", ")
}

#[async_trait]
impl Builder for XenServerVm {
    fn kind(&self) -> &str {
        "xenserver-vm"
    }

    fn spec(&self) -> Value {
        json!({"vm": self.uuid})
    }

    async fn survey(&self) -> Result<Survey> {
        if self.vm.is_null() {
            return Err(steps::no_vm(&self.name));
        }
        let facts = pool::facts(&self.session, &self.vm).await?;
        Ok(Survey::new(facts.machine(), rules::check(&facts)))
    }

    async fn build(&self, run: &mut Run) -> Result<Arc<dyn Artifact>> {
        let made = run
            .step(Snapshot {
                session: self.session.clone(),
                vm: self.vm.clone(),
                name: self.name.clone(),
            })
            .await?;
        let inspected = run
            .step(Inspect {
                session: self.session.clone(),
                source: self.vm.clone(),
                name: self.name.clone(),
                made,
            })
            .await?;
        Ok(Arc::new(SnapshotArtifact {
            session: self.session.clone(),
            machine: inspected.machine,
            disks: inspected.disks,
            run_id: run.run_id(),
            pumps: Mutex::default(),
        }))
    }

    async fn clean(&self, run: &mut Run) -> Result<()> {
        let made: SnapshotMade = run.output(Snapshot::NAME)?;
        let step = Cleanup { session: self.session.clone(), source: self.vm.clone(), made };
        run.step(step).await
    }

    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        let cx = StepCx::new(&Context::new(run_id), "sweep");
        let records = self
            .session
            .call(vm::get_all_records())
            .await
            .map_err(|e| failed("listing the snapshots", e))?;
        let ours = records.into_iter().filter(|(_, record)| pool::is_of_run(record, run_id));
        let ours: Vec<Ref<Vm>> = ours.map(|(reference, _)| reference).collect();
        let mut removed = Vec::new();
        let mut result = Ok(());
        match pool::end_tasks(&self.session, run_id).await {
            Ok(tasks) => removed.extend(tasks),
            Err(e) => result = Error::merge(result, e),
        }
        if let Err(e) = pool::end_snapshot_tasks(&self.session, &ours).await {
            result = Error::merge(result, e);
        }
        for reference in &ours {
            match pool::destroy_snapshot(&cx, &self.session, reference).await {
                Ok(objects) => removed.extend(objects),
                Err(e) => result = Error::merge(result, e),
            }
        }
        result.map(|()| removed)
    }
}
