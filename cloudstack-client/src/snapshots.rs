//! Snapshots of volumes and of whole machines.

use std::collections::BTreeMap;

use crate::call::{Call, List};
use crate::job::Job;
use crate::record::{record, words};
use crate::request::request;

words! {
    /// How far a snapshot of a volume is.
    SnapshotState {
        /// It is known.
        Allocated = "Allocated",
        /// It is being made.
        Creating = "Creating",
        /// It is on primary storage.
        CreatedOnPrimary = "CreatedOnPrimary",
        /// It is on its way to secondary storage.
        BackingUp = "BackingUp",
        /// It is on secondary storage.
        BackedUp = "BackedUp",
        /// It is being copied.
        Copying = "Copying",
        /// It is being removed.
        Destroying = "Destroying",
        /// It is no more.
        Destroyed = "Destroyed",
        /// It could not be made.
        Error = "Error",
    }
}

record! {
    /// A snapshot of a volume.
    Snapshot in "snapshot" by id;
    /// Its id.
    id: String = "id",
    /// Its name.
    name: String = "name",
    /// How far it is.
    state: Option<SnapshotState> = "state",
    /// The id of its volume.
    volume: Option<String> = "volumeid",
    /// The name of its volume.
    volume_name: Option<String> = "volumename",
    /// `ROOT` or `DATADISK`.
    volume_kind: Option<String> = "volumetype",
    /// `MANUAL`, or the schedule that made it.
    kind: Option<String> = "snapshottype",
    /// The id of its zone.
    zone: Option<String> = "zoneid",
    /// What it takes on storage, in bytes.
    physical_size: Option<u64> = "physicalsize",
    /// The size of its volume in bytes.
    virtual_size: Option<u64> = "virtualsize",
    /// Whether the volume can be set back to it.
    is_revertable: Option<bool> = "revertable",
    /// When it was made.
    created: Option<String> = "created",
    /// Whose it is.
    account: Option<String> = "account",
    /// Its tags.
    tags: BTreeMap<String, String> = "tags",
}

record! {
    /// A snapshot of a whole machine.
    VmSnapshot in "vmsnapshot" by id;
    /// Its id.
    id: String = "id",
    /// Its name at the hypervisor.
    name: String = "name",
    /// Its name for people.
    display_name: Option<String> = "displayname",
    /// `Creating`, `Ready`, `Error`…
    state: Option<String> = "state",
    /// `Disk`, or `DiskAndMemory`.
    kind: Option<String> = "type",
    /// The id of its machine.
    machine: Option<String> = "virtualmachineid",
    /// Whether the machine goes on from it.
    is_current: Option<bool> = "current",
    /// The id of the one before it.
    parent: Option<String> = "parent",
    /// When it was made.
    created: Option<String> = "created",
}

request! {
    /// A snapshot of a volume to be made.
    NewSnapshot {
        /// Its name.
        with_name(&str) = "name",
        /// Whether the guest's file systems are held for the moment, on hypervisors that can.
        with_quiesce(bool) = "quiescevm",
        /// Whether the job ends before it is on secondary storage.
        with_async_backup(bool) = "asyncbackup",
    }
}

impl NewSnapshot {
    /// A snapshot of a volume.
    #[must_use]
    pub fn of(volume: &str) -> Self {
        Self::empty().set("volumeid", volume)
    }
}

/// `listSnapshots` of this account.
#[must_use]
pub fn list() -> Call<List<Snapshot>> {
    Call::list("snapshots: list", "listSnapshots")
}

/// `listSnapshots` of one volume.
#[must_use]
pub fn of_volume(volume: &str) -> Call<List<Snapshot>> {
    list().with_id("volumeid", volume)
}

/// `listSnapshots` of one id.
#[must_use]
pub fn get(id: &str) -> Call<List<Snapshot>> {
    Call::list(&format!("snapshot {id}: get"), "listSnapshots").with_id("id", id)
}

/// `createSnapshot`: a job.
#[must_use]
pub fn create(snapshot: &NewSnapshot) -> Call<Job<Snapshot>> {
    let volume = snapshot.get("volumeid").unwrap_or_default();
    let call = Call::job(format!("volume {volume}: snapshot"), "createSnapshot");
    snapshot.describe(call.with_id("volumeid", volume))
}

/// `deleteSnapshot`: a job.
#[must_use]
pub fn delete(id: &str) -> Call<Job<()>> {
    Call::job(format!("snapshot {id}: delete"), "deleteSnapshot").with_id("id", id)
}

/// `revertSnapshot`: a job that sets the volume back; its machine must be stopped.
#[must_use]
pub fn revert(id: &str) -> Call<Job<()>> {
    Call::job(format!("snapshot {id}: revert"), "revertSnapshot").with_id("id", id)
}

/// `listVMSnapshot` of one machine.
#[must_use]
pub fn of_machine(machine: &str) -> Call<List<VmSnapshot>> {
    let what = format!("virtual machine {machine}: list its snapshots");
    Call::list(&what, "listVMSnapshot").with_id("virtualmachineid", machine)
}

/// `createVMSnapshot`: a job.
#[must_use]
pub fn create_of_machine(machine: &str, name: &str) -> Call<Job<VmSnapshot>> {
    Call::job(format!("virtual machine {machine}: snapshot"), "createVMSnapshot")
        .with_id("virtualmachineid", machine)
        .with("name", name)
}

/// `deleteVMSnapshot`: a job.
#[must_use]
pub fn delete_of_machine(id: &str) -> Call<Job<()>> {
    Call::job(format!("machine snapshot {id}: delete"), "deleteVMSnapshot")
        .with_id("vmsnapshotid", id)
}
