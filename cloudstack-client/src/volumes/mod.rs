//! Volumes: the disks of machines, and disks that wait to be attached to one.
//!
//! The data disks of a machine that moves into the cloud go this way: each is uploaded with a
//! [ticket](upload_params), [waited for](crate::Client::wait_volume), and [attached](attach) to the machine that was made of
//! the root disk's template. An uploaded volume lies on secondary storage; attaching it moves it to the machine's.

mod new;
mod record;
mod wait;

pub use new::{NewUploadedVolume, NewVolume};
pub use record::{Extracted, Volume, VolumeKind, VolumeState};

use crate::call::{Call, List};
use crate::job::{Job, one, success};
use crate::templates::{Format, UploadTicket};

/// `listVolumes` of this account.
#[must_use]
pub fn list() -> Call<List<Volume>> {
    Call::list("volumes: list", "listVolumes")
}

/// `listVolumes` of one id. A volume that is gone is an empty list, or an error that says so.
#[must_use]
pub fn get(id: &str) -> Call<List<Volume>> {
    Call::list(&format!("volume {id}: get"), "listVolumes").with_id("id", id)
}

/// `listVolumes` of one machine.
#[must_use]
pub fn of_machine(machine: &str) -> Call<List<Volume>> {
    let what = format!("virtual machine {machine}: list its volumes");
    Call::list(&what, "listVolumes").with_id("virtualmachineid", machine)
}

/// `listVolumes` of one machine: only the one that it boots from.
#[must_use]
pub fn root_of(machine: &str) -> Call<List<Volume>> {
    of_machine(machine).with("type", "ROOT")
}

/// `createVolume`: a job.
#[must_use]
pub fn create(volume: &NewVolume) -> Call<Job<Volume>> {
    volume.checked(volume.describe(Call::job(volume.what("create"), "createVolume")))
}

/// `uploadVolume`: the cloud fetches the file from `url`, by the rules of
/// [templates](crate::templates::register()): a job that ends when the download has begun.
#[must_use]
pub fn register(volume: &NewUploadedVolume, url: &str) -> Call<Job<Volume>> {
    let call = Call::job(volume.what("register"), "uploadVolume").with("url", url);
    let call = match crate::templates::url_problem(&volume.format, url) {
        Some(problem) => call.with_problem(problem),
        None => call,
    };
    volume.describe(call)
}

/// `getUploadParamsForVolume`: makes a volume without data, and a ticket to
/// [send the data once](crate::Client::upload).
#[must_use]
pub fn upload_params(volume: &NewUploadedVolume) -> Call<UploadTicket> {
    let (name, format): (String, Format) = (volume.name.clone(), volume.format.clone());
    let call =
        Call::change(volume.what("ask for an upload"), "getUploadParamsForVolume", move |answer| {
            UploadTicket::read(answer, "volume", &name, &format)
        });
    volume.describe(call)
}

/// `attachVolume`: a job. The machine may run.
#[must_use]
pub fn attach(id: &str, machine: &str) -> Call<Job<Volume>> {
    Call::job(format!("volume {id}: attach to {machine}"), "attachVolume")
        .with_id("id", id)
        .with_id("virtualmachineid", machine)
}

/// `attachVolume` under a device number: 0 is the root disk, 3 is left for an ISO on XenServer.
#[must_use]
pub fn attach_at(id: &str, machine: &str, device: u32) -> Call<Job<Volume>> {
    attach(id, machine).with("deviceid", device.to_string())
}

/// `detachVolume`: a job.
#[must_use]
pub fn detach(id: &str) -> Call<Job<Volume>> {
    Call::job(format!("volume {id}: detach"), "detachVolume").with_id("id", id)
}

/// `deleteVolume`, which must be attached to nothing.
#[must_use]
pub fn delete(id: &str) -> Call<()> {
    Call::change(format!("volume {id}: delete"), "deleteVolume", success).with_id("id", id)
}

/// `resizeVolume` to so many GiB: a job.
#[must_use]
pub fn resize(id: &str, gib: u64) -> Call<Job<Volume>> {
    Call::job(format!("volume {id}: resize"), "resizeVolume")
        .with_id("id", id)
        .with("size", gib.to_string())
}

/// `migrateVolume` to another primary storage: a job.
#[must_use]
pub fn migrate(id: &str, storage: &str) -> Call<Job<Volume>> {
    Call::job(format!("volume {id}: migrate"), "migrateVolume")
        .with_id("volumeid", id)
        .with_id("storageid", storage)
}

/// `extractVolume`: a job that makes a URL to download the volume from. Of a root disk the machine must be stopped.
#[must_use]
pub fn extract(id: &str, zone: &str) -> Call<Job<Extracted>> {
    Call::start(format!("volume {id}: extract"), "extractVolume", one::<Extracted>)
        .with_id("id", id)
        .with_id("zoneid", zone)
        .with("mode", "HTTP_DOWNLOAD")
}
