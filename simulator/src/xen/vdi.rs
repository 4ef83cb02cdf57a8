//! Messages of VDI that do something.

use std::sync::Arc;

use vmimage::Disk;

use super::disk;
use super::fault::Plan;
use super::import_store::Stored;
use super::pool::{State, now};
use super::value::{ApiError, ApiResult, NULL, Record, Value, set, text};

/// Answers a message that has an effect; `None` for anything else.
pub(crate) fn perform(
    state: &mut State,
    plan: Plan,
    class: &str,
    name: &str,
    args: &[Value],
) -> Option<ApiResult> {
    if class != "VDI" {
        return None;
    }
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    if plan.sr_full && matches!(name, "snapshot" | "clone" | "copy" | "create") {
        let text = "There is insufficient space [opterr=a fault was asked for]";
        return Some(Err(ApiError::new("SR_BACKEND_FAILURE_44", ["", text, ""])));
    }
    Some(match name {
        "snapshot" => snapshot(state, arg(0), &now()).map(Value::Str),
        "clone" => copy(state, arg(0), None).map(Value::Str),
        "copy" => {
            let sr = Some(arg(1)).filter(|sr| !sr.is_empty() && *sr != NULL);
            copy(state, arg(0), sr).map(Value::Str)
        }
        "create" => create(state, args.first()).map(Value::Str),
        "destroy" => destroy(state, arg(0)),
        _ => return None,
    })
}

/// A disk of zeros.
fn create(state: &mut State, given: Option<&Value>) -> Result<String, ApiError> {
    let mut record = given.and_then(Value::as_map).cloned().unwrap_or_default();
    state.db.raw("SR", text(&record, "SR"))?;
    let size = record.get("virtual_size").and_then(Value::as_int).unwrap_or_default();
    let size = u64::try_from(size).ok().filter(|size| *size > 0);
    let size =
        size.ok_or_else(|| ApiError::new("SR_BACKEND_FAILURE_79", ["", "VDI Invalid size", ""]))?;
    blank(state, &mut record, size)
}

/// A disk of zeros as `record` describes it, with its size rounded up as storage does it.
pub(crate) fn blank(state: &mut State, record: &mut Record, size: u64) -> Result<String, ApiError> {
    let failed = |_| ApiError::new("VDI_IO_ERROR", ["Device I/O errors"]);
    let size = disk::rounded(size);
    fresh(record);
    record.insert("virtual_size".to_owned(), Value::Int(i64::try_from(size).unwrap_or(i64::MAX)));
    record.insert("managed".to_owned(), Value::Bool(true));
    let stored = Stored::new(size, None).map_err(failed)?;
    Ok(add(state, record.clone(), Arc::new(stored)))
}

/// Adds a VDI with its content.
pub(crate) fn add(state: &mut State, record: Record, disk: Arc<dyn Disk>) -> String {
    let vdi = state.db.insert("VDI", record);
    let uuid = state.db.raw("VDI", &vdi).map(|r| text(r, "uuid").to_owned()).unwrap_or_default();
    let _ = state.db.set("VDI", &vdi, "location", uuid);
    state.disks.insert(vdi.clone(), disk);
    vdi
}

/// Freezes a VDI: the snapshot reads what the disk holds now.
pub(crate) fn snapshot(state: &mut State, vdi: &str, time: &Value) -> Result<String, ApiError> {
    let mut record = state.db.raw("VDI", vdi)?.clone();
    fresh(&mut record);
    for (field, value) in [
        ("is_a_snapshot", Value::Bool(true)),
        ("snapshot_of", vdi.into()),
        ("snapshot_time", time.clone()),
    ] {
        record.insert(field.to_owned(), value);
    }
    Ok(insert(state, vdi, record))
}

/// A disk of its own with the same content, in another SR if one is named.
pub(crate) fn copy(state: &mut State, vdi: &str, sr: Option<&str>) -> Result<String, ApiError> {
    let mut record = state.db.raw("VDI", vdi)?.clone();
    if let Some(sr) = sr {
        state.db.raw("SR", sr)?;
        record.insert("SR".to_owned(), sr.into());
    }
    fresh(&mut record);
    for (field, value) in [
        ("is_a_snapshot", Value::Bool(false)),
        ("snapshot_of", Value::null_ref()),
        ("snapshot_time", Value::Time("19700101T00:00:00Z".to_owned())),
    ] {
        record.insert(field.to_owned(), value);
    }
    Ok(insert(state, vdi, record))
}

fn fresh(record: &mut Record) {
    for (field, value) in [
        ("uuid", Value::from("")),
        ("location", "".into()),
        ("allowed_operations", set(["clone", "copy", "destroy", "snapshot", "update"])),
        ("current_operations", Value::Map(Record::new())),
    ] {
        record.insert(field.to_owned(), value);
    }
}

fn insert(state: &mut State, source: &str, record: Record) -> String {
    let vdi = state.db.insert("VDI", record);
    let uuid = state.db.raw("VDI", &vdi).map(|r| text(r, "uuid").to_owned()).unwrap_or_default();
    let _ = state.db.set("VDI", &vdi, "location", uuid);
    if let Some(disk) = state.disks.get(source).cloned() {
        state.disks.insert(vdi.clone(), disk);
    }
    vdi
}

fn destroy(state: &mut State, vdi: &str) -> ApiResult {
    state.db.raw("VDI", vdi)?;
    if state.vdi_user(vdi).is_some() {
        return Err(ApiError::new("VDI_IN_USE", [vdi, "destroy"]));
    }
    for vbd in state.db.referrers("VBD", "VDI", vdi) {
        state.db.remove("VBD", &vbd);
    }
    for snapshot in state.db.referrers("VDI", "snapshot_of", vdi) {
        state.db.set("VDI", &snapshot, "snapshot_of", NULL)?;
    }
    state.db.remove("VDI", vdi);
    state.disks.remove(vdi);
    Ok("".into())
}
