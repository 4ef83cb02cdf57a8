//! Messages of VM, VBD and VIF that do something.

use uuid::Uuid;

use super::console;
use super::fault::Plan;
use super::guest;
use super::pool::{State, now};
use super::value::{ApiError, ApiResult, NULL, Record, Value, map, set, text, truth};
use super::vdi;

/// What a running VM can do.
const RUNNING_OPERATIONS: [&str; 9] = [
    "snapshot",
    "checkpoint",
    "migrate_send",
    "pause",
    "suspend",
    "hard_reboot",
    "hard_shutdown",
    "clean_reboot",
    "clean_shutdown",
];

/// What a halted VM, a template or a snapshot can do.
const HALTED_OPERATIONS: [&str; 7] =
    ["snapshot", "clone", "copy", "create_template", "destroy", "export", "start"];

/// The three ways to make a VM out of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Making {
    Snapshot,
    Clone,
    Copy,
}

/// Answers a message that has an effect; `None` for anything else.
pub(crate) fn perform(
    state: &mut State,
    plan: Plan,
    class: &str,
    name: &str,
    args: &[Value],
) -> Option<ApiResult> {
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    Some(match (class, name) {
        ("VM", "snapshot") => {
            let ignored = args.get(2).map(Value::as_array).unwrap_or_default();
            make(state, plan, Making::Snapshot, arg(0), arg(1), ignored)
        }
        ("VM", "clone") => make(state, plan, Making::Clone, arg(0), arg(1), &[]),
        ("VM", "copy") => make(state, plan, Making::Copy, arg(0), arg(1), &[]),
        ("VM", "destroy") => destroy(state, arg(0)),
        ("VM", "get_boot_record") => state.db.record("VM", arg(0)).map(Value::Map),
        ("VM", "start") => power(state, arg(0), name, "Halted", "Running"),
        ("VM", "clean_shutdown" | "hard_shutdown" | "shutdown") => {
            power(state, arg(0), name, "Running", "Halted")
        }
        ("VM", "suspend") => power(state, arg(0), name, "Running", "Suspended"),
        ("VM", "pause") => power(state, arg(0), name, "Running", "Paused"),
        ("VM", "unpause") => power(state, arg(0), name, "Paused", "Running"),
        ("VM", "clean_reboot" | "hard_reboot") => power(state, arg(0), name, "Running", "Halted")
            .and_then(|_| power(state, arg(0), name, "Halted", "Running")),
        ("VBD" | "VIF", "create") => plug(state, class, args),
        ("VBD" | "VIF", "destroy") => unplug(state, class, arg(0)),
        _ => return None,
    })
}

/// The set of operations that a VM allows in a power state.
pub(crate) fn allowed(power_state: &str) -> Value {
    match power_state {
        "Running" => set(RUNNING_OPERATIONS),
        "Halted" => set(HALTED_OPERATIONS),
        "Paused" => set(["unpause", "hard_shutdown"]),
        _ => set(["resume", "destroy", "export", "snapshot"]),
    }
}

fn make(
    state: &mut State,
    plan: Plan,
    making: Making,
    source: &str,
    name: &str,
    ignored: &[Value],
) -> ApiResult {
    let original = state.db.raw("VM", source)?.clone();
    let power = text(&original, "power_state");
    if making != Making::Snapshot && !matches!(power, "Halted" | "Suspended") {
        let actual = power.to_ascii_lowercase();
        return Err(ApiError::new("VM_BAD_POWER_STATE", [source, "halted", &actual]));
    }
    if truth(&original, "is_a_snapshot") && making == Making::Snapshot {
        let reason = "A snapshot cannot be made of a snapshot";
        return Err(ApiError::new("OPERATION_NOT_ALLOWED", [reason]));
    }
    let operation = match making {
        Making::Snapshot => "snapshot",
        Making::Clone => "clone",
        Making::Copy => "copy",
    };
    if let Some(Value::Map(blocked)) = original.get("blocked_operations")
        && let Some(reason) = blocked.get(operation)
    {
        let reason = reason.as_str().unwrap_or_default();
        return Err(ApiError::new("OPERATION_BLOCKED", [source, reason]));
    }
    if plan.sr_full {
        let text = "There is insufficient space [opterr=a fault was asked for]";
        return Err(ApiError::new("SR_BACKEND_FAILURE_44", ["", text, ""]));
    }
    if plan.chain_too_long && making == Making::Snapshot {
        let text = "The snapshot chain is too long";
        return Err(ApiError::new("SR_BACKEND_FAILURE_109", ["", text, ""]));
    }
    let time = now();
    let record = new_record(&original, making, source, name, &time);
    let vm = state.db.insert("VM", record);
    copy_metrics(state, &original, &vm)?;
    for vbd in state.db.referrers("VBD", "VM", source) {
        copy_vbd(state, making, &vbd, &vm, ignored, &time)?;
    }
    for vif in state.db.referrers("VIF", "VM", source) {
        let mut record = state.db.raw("VIF", &vif)?.clone();
        forget_identity(&mut record, &vm);
        if making != Making::Snapshot {
            record.insert("MAC".to_owned(), fresh_mac().into());
        }
        state.db.insert("VIF", record);
    }
    if making == Making::Snapshot {
        state.db.set("VM", source, "parent", vm.as_str())?;
    }
    Ok(vm.into())
}

fn new_record(original: &Record, making: Making, source: &str, name: &str, time: &Value) -> Record {
    let snapshot = making == Making::Snapshot;
    let mut record = original.clone();
    for (field, value) in [
        ("uuid", "".into()),
        ("name_label", Value::from(name)),
        ("power_state", "Halted".into()),
        ("domid", Value::Int(-1)),
        ("resident_on", Value::null_ref()),
        ("allowed_operations", allowed("Halted")),
        ("current_operations", Value::Map(Record::new())),
        ("is_default_template", false.into()),
        ("snapshot_info", Value::Map(Record::new())),
        ("snapshot_metadata", "".into()),
        ("parent", Value::null_ref()),
    ] {
        record.insert(field.to_owned(), value);
    }
    if snapshot {
        let power = text(original, "power_state");
        let info = [("power-state-at-snapshot", power), ("disk-snapshot-type", "crash_consistent")];
        for (field, value) in [
            ("is_a_snapshot", Value::Bool(true)),
            ("is_a_template", true.into()),
            ("snapshot_of", source.into()),
            ("snapshot_time", time.clone()),
            ("snapshot_info", map(info)),
            ("parent", text(original, "parent").into()),
        ] {
            record.insert(field.to_owned(), value);
        }
    } else {
        for (field, value) in [
            ("is_a_snapshot", Value::Bool(false)),
            ("snapshot_of", Value::null_ref()),
            ("snapshot_time", Value::Time("19700101T00:00:00Z".to_owned())),
        ] {
            record.insert(field.to_owned(), value);
        }
        if let Some(Value::Map(config)) = record.get_mut("other_config") {
            config.insert("mac_seed".to_owned(), Uuid::new_v4().to_string().into());
        }
    }
    record
}

/// The new VM has metrics of its own, with the content of the old ones.
fn copy_metrics(state: &mut State, original: &Record, vm: &str) -> Result<(), ApiError> {
    for (field, class) in [("metrics", "VM_metrics"), ("guest_metrics", "VM_guest_metrics")] {
        let reference = text(original, field);
        let copied = match state.db.raw(class, reference) {
            Ok(record) => {
                let mut record = record.clone();
                record.insert("uuid".to_owned(), "".into());
                state.db.insert(class, record)
            }
            Err(_) => NULL.to_owned(),
        };
        state.db.set("VM", vm, field, copied)?;
    }
    Ok(())
}

fn copy_vbd(
    state: &mut State,
    making: Making,
    vbd: &str,
    vm: &str,
    ignored: &[Value],
    time: &Value,
) -> Result<(), ApiError> {
    let mut record = state.db.raw("VBD", vbd)?.clone();
    let disk = text(&record, "VDI").to_owned();
    if ignored.contains(&disk.as_str().into()) {
        return Ok(());
    }
    if text(&record, "type") == "Disk" && disk != NULL {
        let copy = match making {
            Making::Snapshot => vdi::snapshot(state, &disk, time)?,
            Making::Clone | Making::Copy => vdi::copy(state, &disk, None)?,
        };
        record.insert("VDI".to_owned(), copy.into());
    }
    forget_identity(&mut record, vm);
    state.db.insert("VBD", record);
    Ok(())
}

/// A device of a VM that has never run.
fn forget_identity(record: &mut Record, vm: &str) {
    for (field, value) in [
        ("uuid", Value::from("")),
        ("VM", vm.into()),
        ("currently_attached", false.into()),
        ("allowed_operations", set(["attach"])),
        ("status_code", Value::Int(0)),
        ("runtime_properties", Value::Map(Record::new())),
    ] {
        record.insert(field.to_owned(), value);
    }
}

fn fresh_mac() -> String {
    let bytes = Uuid::new_v4().into_bytes();
    let [a, b, c, d, e, ..] = bytes;
    // Locally administered, as the server makes them.
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

/// Removes the VM and its devices. The VDIs stay, also those of a snapshot: that is a trap.
fn destroy(state: &mut State, vm: &str) -> ApiResult {
    let record = state.db.raw("VM", vm)?.clone();
    let power = text(&record, "power_state");
    if power != "Halted" {
        let actual = power.to_ascii_lowercase();
        return Err(ApiError::new("VM_BAD_POWER_STATE", [vm, "halted", &actual]));
    }
    if truth(&record, "is_control_domain") {
        let reason = "The control domain cannot be destroyed";
        return Err(ApiError::new("OPERATION_NOT_ALLOWED", [reason]));
    }
    for child in state.db.referrers("VM", "parent", vm) {
        state.db.set("VM", &child, "parent", text(&record, "parent"))?;
    }
    for snapshot in state.db.referrers("VM", "snapshot_of", vm) {
        state.db.set("VM", &snapshot, "snapshot_of", NULL)?;
    }
    for class in ["VBD", "VIF", "console"] {
        for device in state.db.referrers(class, "VM", vm) {
            if class == "VIF" {
                release(state, &device)?;
            }
            state.db.remove(class, &device);
        }
    }
    state.db.remove("VM_metrics", text(&record, "metrics"));
    state.db.remove("VM_guest_metrics", text(&record, "guest_metrics"));
    state.db.remove("VM", vm);
    state.ticks.remove(vm);
    guest::stops(state, vm);
    Ok("".into())
}

fn power(state: &mut State, vm: &str, name: &str, from: &str, to: &str) -> ApiResult {
    let record = state.db.raw("VM", vm)?;
    let actual = text(record, "power_state").to_owned();
    if truth(record, "is_a_template") {
        return Err(ApiError::new("VM_IS_TEMPLATE", [vm]));
    }
    if actual != from {
        let (from, actual) = (from.to_ascii_lowercase(), actual.to_ascii_lowercase());
        return Err(ApiError::new("VM_BAD_POWER_STATE", [vm, &from, &actual]));
    }
    let running = to == "Running";
    if !running {
        let uuid = text(record, "uuid").to_owned();
        state.interruptions.push(format!("VM.{name} {uuid}"));
    }
    let host = state.hosts.first().cloned().unwrap_or_default();
    let resident = if matches!(to, "Running" | "Paused") { host } else { NULL.to_owned() };
    state.db.set("VM", vm, "power_state", to)?;
    state.db.set("VM", vm, "resident_on", resident)?;
    state.db.set("VM", vm, "domid", Value::Int(if to == "Halted" { -1 } else { 9 }))?;
    state.db.set("VM", vm, "allowed_operations", allowed(to))?;
    for class in ["VBD", "VIF"] {
        for device in state.db.referrers(class, "VM", vm) {
            state.db.set(class, &device, "currently_attached", running || to == "Paused")?;
        }
    }
    if to == "Halted" || to == "Suspended" {
        console::remove(state, vm);
        guest::stops(state, vm);
    }
    if running {
        if from == "Halted" {
            console::create(state, vm);
            guest::starts(state, vm)?;
        }
        state.ticks.entry(vm.to_owned()).or_insert(0);
        for device in state.db.referrers("VIF", "VM", vm) {
            lease(state, &device)?;
        }
    }
    Ok("".into())
}

/// A device on the host internal management network is given the next free address when it is
/// plugged, before the guest asks.
fn lease(state: &mut State, device: &str) -> Result<(), ApiError> {
    let network = text(state.db.raw("VIF", device)?, "network").to_owned();
    let record = state.db.raw("network", &network)?;
    let config = record.get("other_config").and_then(Value::as_map);
    let internal = config.is_some_and(|c| c.contains_key("is_host_internal_management_network"));
    let mut leases =
        record.get("assigned_ips").and_then(Value::as_map).cloned().unwrap_or_default();
    if !internal || leases.contains_key(device) {
        return Ok(());
    }
    // The first address is the host's own.
    let free = (2..=254_u8)
        .map(|n| format!("169.254.0.{n}"))
        .find(|ip| !leases.values().any(|v| v.as_str() == Some(ip)));
    if let Some(ip) = free {
        leases.insert(device.to_owned(), ip.into());
        state.db.set("network", &network, "assigned_ips", Value::Map(leases))?;
    }
    Ok(())
}

/// The address of a device that is removed is free again.
fn release(state: &mut State, device: &str) -> Result<(), ApiError> {
    let network = text(state.db.raw("VIF", device)?, "network").to_owned();
    let Ok(record) = state.db.raw("network", &network) else { return Ok(()) };
    let leases = record.get("assigned_ips").and_then(Value::as_map).cloned();
    let Some(mut leases) = leases.filter(|leases| leases.contains_key(device)) else {
        return Ok(());
    };
    leases.remove(device);
    state.db.set("network", &network, "assigned_ips", Value::Map(leases))?;
    Ok(())
}

fn plug(state: &mut State, class: &str, args: &[Value]) -> ApiResult {
    let class = if class == "VBD" { "VBD" } else { "VIF" };
    let record = args.first().and_then(Value::as_map).cloned().unwrap_or_default();
    state.db.raw("VM", text(&record, "VM"))?;
    match class {
        "VBD" if !truth(&record, "empty") => state.db.raw("VDI", text(&record, "VDI"))?,
        "VIF" => state.db.raw("network", text(&record, "network"))?,
        _ => &record,
    };
    Ok(state.db.insert(class, record).into())
}

fn unplug(state: &mut State, class: &str, device: &str) -> ApiResult {
    let class = if class == "VBD" { "VBD" } else { "VIF" };
    if truth(state.db.raw(class, device)?, "currently_attached") {
        let reason = "The device is attached";
        return Err(ApiError::new("OPERATION_NOT_ALLOWED", [reason]));
    }
    if class == "VIF" {
        release(state, device)?;
    }
    state.db.remove(class, device);
    Ok("".into())
}
