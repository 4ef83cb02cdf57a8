//! Virtual machines: deployed of a template, started, stopped, watched, destroyed.

mod new;
mod record;

pub use new::{BootMode, MachineUpdate, NewVirtualMachine};
pub use record::{Nic, VirtualMachine, VirtualMachineState};

use crate::call::{Call, List};
use crate::job::{Job, one};

/// `listVirtualMachines` of this account.
#[must_use]
pub fn list() -> Call<List<VirtualMachine>> {
    Call::list("virtual machines: list", "listVirtualMachines")
}

/// `listVirtualMachines` with only what every list of machines needs, which large clouds answer much sooner: no
/// statistics, no addresses.
#[must_use]
pub fn list_short() -> Call<List<VirtualMachine>> {
    list().with("details", "min")
}

/// `listVirtualMachines` of one id.
#[must_use]
pub fn get(id: &str) -> Call<List<VirtualMachine>> {
    Call::list(&format!("virtual machine {id}: get"), "listVirtualMachines").with_id("id", id)
}

/// `listVirtualMachines` with this name, or a name that begins so.
#[must_use]
pub fn named(name: &str) -> Call<List<VirtualMachine>> {
    list().with("name", name)
}

/// `deployVirtualMachine`: a job. Where the template is enabled for passwords, its result is the only place where
/// the machine's first [password](VirtualMachine::password) ever stands.
#[must_use]
pub fn deploy(machine: &NewVirtualMachine) -> Call<Job<VirtualMachine>> {
    let what =
        format!("virtual machine {}: deploy", machine.get("name").unwrap_or("without a name"));
    machine.checked(machine.describe(Call::job(what, "deployVirtualMachine")))
}

/// `startVirtualMachine`: a job.
#[must_use]
pub fn start(id: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("virtual machine {id}: start"), "startVirtualMachine").with_id("id", id)
}

/// `stopVirtualMachine`: a job. The guest is asked to shut down.
#[must_use]
pub fn stop(id: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("virtual machine {id}: stop"), "stopVirtualMachine").with_id("id", id)
}

/// `stopVirtualMachine` by force: the power is cut, and the machine counts as stopped even if its host does not answer.
#[must_use]
pub fn stop_by_force(id: &str) -> Call<Job<VirtualMachine>> {
    stop(id).with("forced", "true")
}

/// `rebootVirtualMachine`: a job.
#[must_use]
pub fn reboot(id: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("virtual machine {id}: reboot"), "rebootVirtualMachine").with_id("id", id)
}

/// `destroyVirtualMachine`: a job. It can be [recovered](recover) until the cloud removes it for good, after a day by default.
#[must_use]
pub fn destroy(id: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("virtual machine {id}: destroy"), "destroyVirtualMachine").with_id("id", id)
}

/// `destroyVirtualMachine` for good, with the volumes of these ids. Roles can be without the right to do so.
#[must_use]
pub fn destroy_for_good(id: &str, volumes: &[&str]) -> Call<Job<VirtualMachine>> {
    let call = Call::start(
        format!("virtual machine {id}: destroy for good"),
        "destroyVirtualMachine",
        one::<VirtualMachine>,
    );
    let call = call.with_id("id", id).with("expunge", "true");
    if volumes.is_empty() { call } else { call.with_ids("volumeids", volumes) }
}

/// `expungeVirtualMachine`: a job that removes a destroyed machine for good.
#[must_use]
pub fn expunge(id: &str) -> Call<Job<()>> {
    Call::job(format!("virtual machine {id}: expunge"), "expungeVirtualMachine").with_id("id", id)
}

/// `recoverVirtualMachine`: a destroyed machine is a stopped one again.
#[must_use]
pub fn recover(id: &str) -> Call<VirtualMachine> {
    Call::change(format!("virtual machine {id}: recover"), "recoverVirtualMachine", one)
        .with_id("id", id)
}

/// `updateVirtualMachine`: what can be changed at once. Some changes want a stopped machine.
#[must_use]
pub fn update(id: &str, update: &MachineUpdate) -> Call<VirtualMachine> {
    let call = Call::change(format!("virtual machine {id}: update"), "updateVirtualMachine", one);
    update.describe(call.with_id("id", id))
}

/// `scaleVirtualMachine` to another offering: a job. A running machine can only grow, and only if its template says that it
/// is dynamically scalable.
#[must_use]
pub fn scale(id: &str, service_offering: &str) -> Call<Job<()>> {
    Call::job(format!("virtual machine {id}: scale"), "scaleVirtualMachine")
        .with_id("id", id)
        .with_id("serviceofferingid", service_offering)
}

/// `resetPasswordForVirtualMachine`: a job; the machine must be stopped, and gets the new
/// [password](VirtualMachine::password) when it starts.
#[must_use]
pub fn reset_password(id: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("virtual machine {id}: reset its password"), "resetPasswordForVirtualMachine")
        .with_id("id", id)
}

/// `resetSSHKeyForVirtualMachine`: a job; the machine must be stopped.
#[must_use]
pub fn reset_ssh_key(id: &str, key_pair: &str) -> Call<Job<VirtualMachine>> {
    Call::job(format!("virtual machine {id}: reset its SSH key"), "resetSSHKeyForVirtualMachine")
        .with_id("id", id)
        .with_id("keypair", key_pair)
}
