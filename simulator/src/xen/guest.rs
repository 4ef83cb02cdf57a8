//! What goes on in a guest after it was started: its screen comes up, its agent speaks.

use std::time::Instant;

use super::fault::Plan;
use super::pool::{State, now};
use super::value::{ApiError, NULL, Record, Value, map, text};

/// A guest starts. What its last life, or the machine that it is a copy of, had told is removed.
pub(crate) fn starts(state: &mut State, vm: &str) -> Result<(), ApiError> {
    let stale = text(state.db.raw("VM", vm)?, "guest_metrics").to_owned();
    state.db.set("VM", vm, "guest_metrics", NULL)?;
    state.db.remove("VM_guest_metrics", &stale);
    state.boots.insert(vm.to_owned(), Instant::now());
    Ok(())
}

/// A guest stops before or after it has come up.
pub(crate) fn stops(state: &mut State, vm: &str) {
    state.boots.remove(vm);
}

/// Brings up those that have booted for long enough.
pub(crate) fn come_up(state: &mut State, plan: Plan) {
    let booting = plan.slow_boot.unwrap_or_default();
    let ready = state.boots.iter().filter(|(_, since)| since.elapsed() >= booting);
    for vm in ready.map(|(vm, _)| vm.clone()).collect::<Vec<_>>() {
        state.boots.remove(&vm);
        if !plan.no_agent {
            // A guest that was destroyed meanwhile tells nothing.
            let _ = speaks(state, plan, &vm);
        }
    }
}

/// The agent tells of the system and of the addresses that its devices have got.
fn speaks(state: &mut State, plan: Plan, vm: &str) -> Result<(), ApiError> {
    state.db.raw("VM", vm)?;
    let networks = if plan.no_dhcp { Record::new() } else { addresses(state, vm)? };
    let metrics = state.db.insert(
        "VM_guest_metrics",
        Record::from([
            ("os_version".to_owned(), map([("distro", "debian"), ("major", "12")])),
            ("networks".to_owned(), Value::Map(networks)),
            ("PV_drivers_version".to_owned(), map([("major", "7"), ("minor", "30")])),
            ("PV_drivers_detected".to_owned(), true.into()),
            ("live".to_owned(), true.into()),
            ("last_updated".to_owned(), now()),
        ]),
    );
    state.db.set("VM", vm, "guest_metrics", metrics)
}

/// The host's lease for a device of its internal network; for others one that the network's own
/// server might give.
fn addresses(state: &State, vm: &str) -> Result<Record, ApiError> {
    let mut networks = Record::new();
    for vif in state.db.referrers("VIF", "VM", vm) {
        let record = state.db.raw("VIF", &vif)?;
        let device = text(record, "device").to_owned();
        let leases = state.db.raw("network", text(record, "network"))?.get("assigned_ips");
        let leased = leases.and_then(Value::as_map).and_then(|leases| leases.get(&vif));
        let address = match leased.and_then(Value::as_str) {
            Some(address) => address.to_owned(),
            None => {
                let mac = text(record, "MAC").bytes();
                let host = mac.fold(0, |sum, b| (sum * 31 + usize::from(b)) % 154);
                format!("192.0.2.{}", 100 + host)
            }
        };
        for key in ["ip", "ipv4/0"] {
            networks.insert(format!("{device}/{key}"), address.as_str().into());
        }
    }
    Ok(networks)
}
