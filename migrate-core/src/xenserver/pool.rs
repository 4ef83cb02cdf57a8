//! What the steps ask of the pool and do there. Everything here may be done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xenapi::host;
use xenapi::sr;
use xenapi::task::{self, Task};
use xenapi::vbd;
use xenapi::vdi::{self, Vdi};
use xenapi::vm::{self, Vm};
use xenapi::{Ref, Session, vm_guest_metrics};

use super::facts::Facts;
use crate::{Error, ErrorKind, Leftover, Result, RunId, StepCx};

/// The key in `other_config` that holds the run id.
pub(crate) const RUN_KEY: &str = "migrate-run-id";

/// After an export, XAPI keeps a VDI busy for some seconds; together these are 80 s.
const BUSY_PAUSES: [u64; 12] = [1, 1, 2, 3, 4, 5, 8, 8, 8, 10, 15, 15];

/// A failure of the pool, about `what`.
pub(crate) fn failed(what: impl std::fmt::Display, e: xenapi::Error) -> Error {
    let remedy = remedy(&e).map_or_else(String::new, |r| format!("; {r}"));
    Error::new(ErrorKind::Source, format!("{what}: {e}{remedy}"))
        .with_retryable(e.is_retryable())
        .with_source(e)
}

/// What to do about an answer of the pool, where that is known.
fn remedy(e: &xenapi::Error) -> Option<&'static str> {
    Some(match e.code()?.as_str() {
        "SR_BACKEND_FAILURE_44" => "its storage is full: free space there, or move a disk away",
        "SR_BACKEND_FAILURE_109" => {
            "the chain of snapshots is too long: delete snapshots, and let the storage coalesce"
        }
        "RBAC_PERMISSION_DENIED" => {
            "the user's role does not allow that: a snapshot needs vm-power-admin"
        }
        "INTERNAL_ERROR" => "try again; if it fails again, the host's log tells more",
        _ => return None,
    })
}

/// The storages of a VM's disks, for a failure that is about them and does not name them.
pub(crate) async fn storages(session: &Session, vm: &Ref<Vm>) -> String {
    let Ok(facts) = facts(session, vm).await else { return "its storage".to_owned() };
    let names: BTreeSet<&str> = facts.srs.values().map(|sr| sr.name_label.as_str()).collect();
    format!("storage {}", names.into_iter().collect::<Vec<_>>().join(", "))
}

/// `None` if the object that a call named is gone.
fn gone<T>(result: xenapi::Result<T>) -> xenapi::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads everything that the rules look at.
pub(crate) async fn facts(session: &Session, vm_ref: &Ref<Vm>) -> Result<Facts> {
    let record = session
        .call(vm::get_record(vm_ref))
        .await
        .map_err(|e| failed(format_args!("VM {vm_ref}"), e))?;
    let mut facts = Facts::default();
    for reference in &record.vbds {
        let what = |e| failed(format_args!("drives of {}", record.name_label), e);
        let Some(drive) = gone(session.call(vbd::get_record(reference)).await).map_err(what)?
        else {
            continue;
        };
        let disk = match drive.vdi.non_null() {
            Some(disk) => gone(session.call(vdi::get_record(disk)).await).map_err(what)?,
            None => None,
        };
        if let Some(disk) = &disk {
            if let Some(reference) = disk.sr.non_null()
                && !facts.srs.contains_key(reference)
                && let Some(found) =
                    gone(session.call(sr::get_record(reference)).await).map_err(what)?
            {
                facts.srs.insert(reference.clone(), found);
            }
            facts.parents.insert(disk.uuid.clone(), parents(session, disk).await);
        }
        facts.drives.push((drive, disk));
    }
    facts.os_version = os_version(session, &record).await;
    facts.vm = record;
    Ok(facts)
}

/// The layers below a VDI, as far as the pool shows them. Only an estimate hangs on them, so
/// whatever is not told ends the list.
async fn parents(session: &Session, disk: &Vdi) -> Vec<Vdi> {
    let mut parents: Vec<Vdi> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = disk.sm_config.get("vhd-parent").cloned();
    while let Some(uuid) = next.take().filter(|u| !u.is_empty() && seen.insert(u.clone())) {
        if parents.len() >= 64 {
            break;
        }
        let Ok(reference) = session.call(vdi::get_by_uuid(&uuid)).await else { break };
        let Ok(parent) = session.call(vdi::get_record(&reference)).await else { break };
        next = parent.sm_config.get("vhd-parent").cloned();
        parents.push(parent);
    }
    parents
}

/// What the guest says of itself; nothing, if it does not.
pub(crate) async fn os_version(session: &Session, record: &Vm) -> BTreeMap<String, String> {
    let Some(metrics) = record.guest_metrics.non_null() else { return BTreeMap::new() };
    match session.call(vm_guest_metrics::get_record(metrics)).await {
        Ok(metrics) => metrics.os_version,
        Err(_) => BTreeMap::new(),
    }
}

/// The snapshots that a run made: by the name given at creation, or by the key set then.
pub(crate) async fn snapshots_of_run(
    session: &Session,
    run_id: RunId,
    source: Option<&Ref<Vm>>,
) -> Result<Vec<(Ref<Vm>, Vm)>> {
    let name = run_id.object_name();
    let what = |e| failed("looking for the run's snapshots", e);
    let mut candidates: BTreeSet<Ref<Vm>> =
        session.call(vm::get_by_name_label(&name)).await.map_err(what)?.into_iter().collect();
    if let Some(source) = source
        && let Some(record) = gone(session.call(vm::get_record(source)).await).map_err(what)?
    {
        candidates.extend(record.snapshots);
    }
    let mut found = Vec::new();
    for reference in candidates {
        let record = gone(session.call(vm::get_record(&reference)).await).map_err(what)?;
        if let Some(record) = record.filter(|r| is_of_run(r, run_id)) {
            found.push((reference, record));
        }
    }
    found.sort_by(|a, b| a.1.uuid.cmp(&b.1.uuid));
    Ok(found)
}

pub(crate) fn is_of_run(record: &Vm, run_id: RunId) -> bool {
    record.is_a_snapshot
        && (record.name_label == run_id.object_name()
            || record.other_config.get(RUN_KEY).is_some_and(|v| *v == run_id.to_string()))
}

/// A snapshot's task waits for other operations on its VM before it shows there: not longer than this.
const UNSEEN: i64 = 15 * 60;

/// Whether a snapshot of `source` may still be on its way. A task does not tell whose it is: any
/// pending one counts, but for those that have been there for long and not at this VM.
pub(crate) async fn snapshot_pending(session: &Session, source: &Ref<Vm>) -> Result<bool> {
    let what = |e| failed("looking for the run's tasks", e);
    let tasks = session.call(task::get_all_records()).await.map_err(what)?;
    let pending = |t: &Task| t.name_label.contains("VM.snapshot") && is_pending(t);
    let pending: Vec<_> = tasks.into_iter().filter(|(_, task)| pending(task)).collect();
    if pending.is_empty() {
        return Ok(false);
    }
    let record = gone(session.call(vm::get_record(source)).await).map_err(what)?;
    let at_source = record.map(|r| r.current_operations).unwrap_or_default();
    let now = match session.call(host::get_all()).await.map_err(what)?.first() {
        Some(host) => session.call(host::get_servertime(host)).await.map_err(what)?.unix_seconds(),
        None => None,
    };
    Ok(pending.iter().any(|(reference, task)| {
        at_source.contains_key(reference.as_str()) || is_young(task.created.unix_seconds(), now)
    }))
}

/// By the server's clock; what cannot be told is young.
fn is_young(created: Option<i64>, now: Option<i64>) -> bool {
    created.zip(now).is_none_or(|(created, now)| now.saturating_sub(created) < UNSEEN)
}

fn is_pending(task: &Task) -> bool {
    matches!(task.status.as_str(), "pending" | "cancelling")
}

/// Cancels and removes the tasks of a run: exports of a dead process.
pub(crate) async fn end_tasks(session: &Session, run_id: RunId) -> Result<Vec<Leftover>> {
    let name = run_id.object_name();
    let tasks = session
        .call(task::get_all_records())
        .await
        .map_err(|e| failed("looking for the run's tasks", e))?;
    let mut ended = Vec::new();
    let mut result = Ok(());
    for (reference, task) in tasks {
        if !task.name_label.starts_with(&name) {
            continue;
        }
        if is_pending(&task) {
            // A task that cannot be cancelled ends with its connection.
            let _ = session.call(task::cancel(&reference)).await;
        }
        let this = Leftover::new("task", reference.as_str()).with_name(&task.name_label);
        match gone(session.call(task::destroy(&reference)).await) {
            Ok(_) => ended.push(this),
            Err(e) => {
                result = Error::merge(result, failed("removing a task", e).with_leftovers([this]));
            }
        }
    }
    result.map(|()| ended)
}

/// Removes the ended tasks that made one of `snapshots`: the process that started them died before
/// it could. Such a task does not tell whose it is but by its result.
pub(crate) async fn end_snapshot_tasks(session: &Session, snapshots: &[Ref<Vm>]) -> Result<()> {
    let what = |e| failed("removing the snapshot's task", e);
    let tasks = session.call(task::get_all_records()).await.map_err(what)?;
    for (reference, task) in tasks {
        let made_ours = task.name_label.contains("VM.snapshot")
            && !is_pending(&task)
            && snapshots.iter().any(|s| task.result.contains(s.as_str()));
        if made_ours {
            gone(session.call(task::destroy(&reference)).await).map_err(what)?;
        }
    }
    Ok(())
}

/// Removes a snapshot with its disks: the disks first, so that what is left can be found by the
/// snapshot. Disks that are no snapshots (a CD's image) are not ours.
pub(crate) async fn destroy_snapshot(
    cx: &StepCx,
    session: &Session,
    snapshot: &Ref<Vm>,
) -> Result<Vec<Leftover>> {
    let what = |e| failed(format_args!("snapshot {snapshot}"), e);
    let Some(record) = gone(session.call(vm::get_record(snapshot)).await).map_err(what)? else {
        return Ok(Vec::new());
    };
    if !record.is_a_snapshot {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("{snapshot} is not a snapshot: it is left alone"),
        ));
    }
    let this = Leftover::new("VM snapshot", &record.uuid).with_name(&record.name_label);
    let mut left = vec![this.clone()];
    let mut removed = Vec::new();
    let mut first_error = None;
    for (disk, vdi) in
        disks_of_snapshot(session, &record).await.map_err(|e| e.with_leftovers([this.clone()]))?
    {
        let item = Leftover::new("VDI", &vdi.uuid).with_name(&vdi.name_label);
        match destroy_disk(cx, session, &disk).await {
            Ok(()) => removed.push(item),
            Err(e) => {
                left.push(item);
                first_error.get_or_insert(e);
            }
        }
    }
    // The snapshot is how its disks are found again: it goes last, and only if they are gone.
    if let Some(e) = first_error {
        return Err(e.with_leftovers(left));
    }
    gone(session.call(vm::destroy(snapshot)).await).map_err(|e| {
        failed(format_args!("removing snapshot {snapshot}"), e).with_leftovers(left)
    })?;
    removed.push(this);
    Ok(removed)
}

/// The disks that a snapshot has of its own.
pub(crate) async fn disks_of_snapshot(
    session: &Session,
    snapshot: &Vm,
) -> Result<Vec<(Ref<Vdi>, Vdi)>> {
    let what = |e| failed("drives of the snapshot", e);
    let mut disks = Vec::new();
    for drive in &snapshot.vbds {
        let drive = gone(session.call(vbd::get_record(drive)).await).map_err(what)?;
        let Some(drive) = drive.filter(super::facts::is_disk) else { continue };
        let vdi = gone(session.call(vdi::get_record(&drive.vdi)).await).map_err(what)?;
        disks.extend(vdi.filter(|v| v.is_a_snapshot).map(|v| (drive.vdi.clone(), v)));
    }
    Ok(disks)
}

/// Whether a snapshot is not there any more.
pub(crate) async fn is_gone(session: &Session, snapshot: &Ref<Vm>) -> Result<bool> {
    let what = |e| failed(format_args!("snapshot {snapshot}"), e);
    Ok(gone(session.call(vm::get_uuid(snapshot)).await).map_err(what)?.is_none())
}

/// Removes the disks of a snapshot that is gone: who removes one by the pool's own tools leaves
/// them.
pub(crate) async fn destroy_orphans(
    cx: &StepCx,
    session: &Session,
    snapshot: &Ref<Vm>,
    disks: &[Ref<Vdi>],
) -> Result<()> {
    let what = |e| failed(format_args!("snapshot {snapshot}"), e);
    if !is_gone(session, snapshot).await? {
        return Ok(());
    }
    let mut result = Ok(());
    for disk in disks {
        let Some(vdi) = gone(session.call(vdi::get_record(disk)).await).map_err(what)? else {
            continue;
        };
        if let Err(e) = destroy_disk(cx, session, disk).await {
            let left = Leftover::new("VDI", &vdi.uuid).with_name(&vdi.name_label);
            result = Error::merge(result, e.with_leftovers([left]));
        }
    }
    result
}

/// Destroys a disk; waits for an export of a dead process to let go of it.
async fn destroy_disk(cx: &StepCx, session: &Session, disk: &Ref<Vdi>) -> Result<()> {
    let mut pauses = BUSY_PAUSES.iter();
    loop {
        // Not as a task: a process that dies here would leave one that nobody can tell is ours.
        match gone(session.call(vdi::destroy(disk)).await) {
            Ok(_) => return Ok(()),
            Err(e) if e.is_in_use() || e.is_retryable() => match pauses.next() {
                Some(pause) => cx.sleep(Duration::from_secs(*pause)).await?,
                None => return Err(failed(format_args!("removing VDI {disk}"), e)),
            },
            Err(e) => return Err(failed(format_args!("removing VDI {disk}"), e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_of_somebody_elses_is_not_waited_for_for_ever() {
        let now = 1_800_000_000;
        for (created, expected) in [
            (Some(now - 5), true),
            (Some(now - UNSEEN + 1), true),
            (Some(now - UNSEEN), false),
            (Some(now - 86_400), false),
            // Clocks differ, or say nothing.
            (Some(now + 500), true),
            (Some(i64::MIN), false),
            (None, true),
        ] {
            assert_eq!(is_young(created, Some(now)), expected, "{created:?}");
        }
        assert!(is_young(Some(now), None));
    }
}
