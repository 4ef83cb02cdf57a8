//! The steps at the source: snapshot, inspect, cleanup.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use xenapi::vdi::Vdi;
use xenapi::vm::{self, Vm};
use xenapi::{Ref, Session, WaitOptions};

use super::pool;
use super::pool::failed;
use crate::{Error, ErrorKind, Machine, Probe, Result, Step, StepCx};

/// Takes a snapshot of the disks of a VM; its service is not stopped.
pub(crate) struct Snapshot {
    pub(crate) session: Session,
    pub(crate) vm: Ref<Vm>,
    pub(crate) name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotMade {
    pub(crate) snapshot: Ref<Vm>,
    pub(crate) uuid: String,
    /// Its disks: others may take them from it, or it from them.
    #[serde(default)]
    pub(crate) disks: Vec<Ref<Vdi>>,
}

/// There is nothing to be cloned.
pub(crate) fn no_vm(name: &str) -> Error {
    let message = format!("the pool has no VM {name} any more: nothing can be cloned");
    Error::new(ErrorKind::NotFound, message)
}

/// Why there is no snapshot.
enum Taken {
    Cancelled(Error),
    Failed(xenapi::Error),
}

fn is_of_storage(e: &xenapi::Error) -> bool {
    e.code().is_some_and(|code| code.as_str().starts_with("SR_"))
}

impl Snapshot {
    async fn take(&self, cx: &StepCx) -> Result<Ref<Vm>, Taken> {
        // A cancellation ends the waiting, not the server's work: the undo waits for that.
        let task = self
            .session
            .start(vm::async_snapshot(&self.vm, &cx.run_id().object_name()))
            .await
            .map_err(Taken::Failed)?;
        let progress = cx.clone();
        let options = WaitOptions::new().with_progress(move |p| {
            progress.progress((p.clamp(0.0, 1.0) * 100.0) as u64, Some(100))
        });
        let wait = async { Ok(self.session.wait(&task, &options).await) };
        cx.guard(Box::pin(wait)).await.map_err(Taken::Cancelled)?.map_err(Taken::Failed)
    }

    /// Writes the run id where it survives a renaming; the name has it from the beginning.
    async fn mark(&self, cx: &StepCx, snapshot: &Ref<Vm>) -> Result<SnapshotMade> {
        let run_id = cx.run_id().to_string();
        let what = |e| failed(format_args!("snapshot of {}", self.name), e);
        let marked =
            self.session.call(vm::add_to_other_config(snapshot, pool::RUN_KEY, &run_id)).await;
        match marked {
            Err(e) if e.code().is_none_or(|c| *c != "MAP_DUPLICATE_KEY") => return Err(what(e)),
            _ => {}
        }
        let record = self.session.call(vm::get_record(snapshot)).await.map_err(what)?;
        let disks = pool::disks_of_snapshot(&self.session, &record).await?;
        let disks = disks.into_iter().map(|(disk, _)| disk).collect();
        Ok(SnapshotMade { snapshot: snapshot.clone(), uuid: record.uuid, disks })
    }
}

#[async_trait]
impl Step for Snapshot {
    const NAME: &'static str = "snapshot";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("snapshot");
    type Output = SnapshotMade;

    async fn run(&self, cx: &StepCx) -> Result<SnapshotMade> {
        if self.vm.is_null() {
            return Err(no_vm(&self.name));
        }
        let what = |e| failed(format_args!("snapshot of {}", self.name), e);
        let snapshot = match self.take(cx).await {
            Ok(snapshot) => snapshot,
            Err(Taken::Cancelled(e)) => return Err(e),
            Err(Taken::Failed(e)) if is_of_storage(&e) => {
                let storages = pool::storages(&self.session, &self.vm).await;
                return Err(failed(format_args!("snapshot of {} on {storages}", self.name), e));
            }
            Err(Taken::Failed(e)) => return Err(what(e)),
        };
        self.mark(cx, &snapshot).await
    }

    async fn probe(&self, cx: &StepCx) -> Result<Probe<SnapshotMade>> {
        // The tasks first: one that ends between the two questions has its snapshot by then.
        let pending = pool::snapshot_pending(&self.session, &self.vm).await?;
        let found = pool::snapshots_of_run(&self.session, cx.run_id(), Some(&self.vm)).await?;
        let marked = |r: &Vm| r.other_config.contains_key(pool::RUN_KEY);
        // A marked one is complete; the others may still be in the making.
        if let Some((reference, _)) = found.iter().find(|(_, r)| marked(r)) {
            return Ok(Probe::Done(self.mark(cx, reference).await?));
        }
        match found.first() {
            _ if pending => Ok(Probe::Pending),
            Some((reference, _)) => Ok(Probe::Done(self.mark(cx, reference).await?)),
            None => Ok(Probe::Absent),
        }
    }

    async fn undo(&self, cx: &StepCx, made: Option<SnapshotMade>) -> Result<()> {
        remove_all(cx, &self.session, Some(&self.vm), made.as_ref()).await
    }
}

/// Removes every snapshot of the run, however many there are, and its tasks.
async fn remove_all(
    cx: &StepCx,
    session: &Session,
    source: Option<&Ref<Vm>>,
    made: Option<&SnapshotMade>,
) -> Result<()> {
    let tasks = pool::end_tasks(session, cx.run_id()).await;
    let found = pool::snapshots_of_run(session, cx.run_id(), source).await?;
    let mut references: Vec<Ref<Vm>> = found.into_iter().map(|(r, _)| r).collect();
    if let Some(made) = made
        && !references.contains(&made.snapshot)
    {
        references.push(made.snapshot.clone());
    }
    let mut result = tasks.map(|_| ());
    if let Err(e) = pool::end_snapshot_tasks(session, &references).await {
        result = Error::merge(result, e);
    }
    for reference in &references {
        // All are tried; the first failure is told, with the leftovers of all.
        if let Err(e) = pool::destroy_snapshot(cx, session, reference).await {
            result = Error::merge(result, e);
        }
    }
    if let Some(made) = made
        && let Err(e) = pool::destroy_orphans(cx, session, &made.snapshot, &made.disks).await
    {
        result = Error::merge(result, e);
    }
    result
}

/// Reads what the snapshot is of.
pub(crate) struct Inspect {
    pub(crate) session: Session,
    pub(crate) source: Ref<Vm>,
    pub(crate) name: String,
    pub(crate) made: SnapshotMade,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Inspected {
    pub(crate) machine: Machine,
    pub(crate) disks: Vec<Ref<Vdi>>,
}

impl Inspect {
    async fn inspect(&self) -> Result<Inspected> {
        if pool::is_gone(&self.session, &self.made.snapshot).await? {
            return Err(Error::new(
                ErrorKind::Source,
                format!(
                    "the snapshot of {} is gone: somebody removed it; begin a new run",
                    self.name
                ),
            ));
        }
        let mut facts = pool::facts(&self.session, &self.made.snapshot).await?;
        // The tools' words belong to the VM that runs, not to its snapshot.
        if facts.os_version.is_empty()
            && let Ok(record) = self.session.call(vm::get_record(&self.source)).await
        {
            facts.os_version = pool::os_version(&self.session, &record).await;
        }
        facts.drives.retain(|(_, vdi)| vdi.as_ref().is_some_and(|v| v.is_a_snapshot));
        let disks: Vec<Ref<Vdi>> =
            facts.disks().into_iter().map(|(vbd, _)| vbd.vdi.clone()).collect();
        if disks.is_empty() {
            return Err(Error::new(
                ErrorKind::Source,
                format!("the snapshot of {} has no disk: nothing can be cloned", self.name),
            ));
        }
        if let Some(lost) = self.made.disks.iter().find(|disk| !disks.contains(disk)) {
            return Err(Error::new(
                ErrorKind::Source,
                format!(
                    "the snapshot of {} has lost a disk ({lost}): somebody removed it; begin a new run",
                    self.name
                ),
            ));
        }
        let mut machine = facts.machine();
        machine.name.clone_from(&self.name);
        Ok(Inspected { machine, disks })
    }
}

#[async_trait]
impl Step for Inspect {
    const NAME: &'static str = "inspect";
    const VERSION: u32 = 1;
    type Output = Inspected;

    async fn run(&self, cx: &StepCx) -> Result<Inspected> {
        cx.guard(Box::pin(self.inspect())).await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Inspected>> {
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Inspected>) -> Result<()> {
        Ok(())
    }
}

/// Removes the snapshot and the run's tasks, once the image is published.
pub(crate) struct Cleanup {
    pub(crate) session: Session,
    pub(crate) source: Ref<Vm>,
    pub(crate) made: SnapshotMade,
}

#[async_trait]
impl Step for Cleanup {
    const NAME: &'static str = "cleanup";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, cx: &StepCx) -> Result<()> {
        // There is no way back from here, so every failure is worth another try.
        for pause in [1, 3, 9] {
            if remove_all(cx, &self.session, Some(&self.source), Some(&self.made)).await.is_ok() {
                return Ok(());
            }
            cx.sleep(Duration::from_secs(pause)).await?;
        }
        remove_all(cx, &self.session, Some(&self.source), Some(&self.made)).await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        // To do it again is to ask whether it is done.
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        Ok(())
    }
}
