//! Whatever happens to a clone, the pool that it read is left as it was.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clone::{self, Environment, Image};
use super::cloud::Onlooker;
use super::report::Entry;
use super::simulator::{self, Simulator};
use super::{Context, Stop, Verdict, disk, ensure};
use crate::process::{Result, Running};

/// A pool with one VM, a Glance, and the pool's inventory before anything happened.
struct Stage {
    folder: PathBuf,
    pool: Simulator,
    env: Environment,
    before: Value,
    journal: String,
}

impl Stage {
    fn new(context: &Context<'_>, folder: &Path, disks: usize, faults: &[&str]) -> Result<Self> {
        let mut tips = Vec::new();
        for number in 0..disks {
            let chain = folder.join(format!("chain{number}"));
            let size = if number == 0 { "2G" } else { "100M" };
            let synthetic = ["--synthetic", size, "--data", "96M"].map(AsRef::as_ref);
            let [.., tip] = disk::split(&synthetic, &chain, "")?;
            tips.push(tip);
        }
        let tips: Vec<&Path> = tips.iter().map(PathBuf::as_path).collect();
        let pool = Simulator::start(context, folder, &tips, faults)?;
        let env = pool.xen().and(pool.openstack());
        let before = pool.inventory(folder)?;
        for class in ["VM", "VDI", "VBD"] {
            let some = before[class].as_array().is_some_and(|records| !records.is_empty());
            ensure(some, || format!("the pool has no {class}, so the comparison is void"))?;
        }
        let journal = folder.join("journal").display().to_string();
        Ok(Self { folder: folder.to_owned(), pool, env, before, journal })
    }

    fn command(&self, context: &Context<'_>, more: &[&str]) -> std::process::Command {
        let mut command = clone::command(context, &self.env, &["--vm", "web01"]);
        command.args(["--target", "glance", "--format", "qcow2", "--journal", &self.journal]);
        command.args(more);
        command
    }

    fn difference(&self) -> Result<Option<String>> {
        Ok(simulator::difference(&self.before, &self.pool.inventory(&self.folder)?))
    }

    fn unchanged(&self) -> Result<()> {
        match self.difference()? {
            None => Ok(()),
            Some(what) => Err(format!("the pool is not as before: {what}")),
        }
    }

    fn images(&self) -> Result<Vec<Value>> {
        Onlooker::new(&self.env, &self.folder).list()
    }

    fn no_image(&self) -> Result<()> {
        let left = self.images()?;
        let name = |image: &Value| format!("{} ({})", image["id"], image["status"]);
        let names: Vec<_> = left.iter().map(name).collect();
        ensure(left.is_empty(), || format!("Glance still has {}", names.join(", ")))
    }

    /// The images that Glance has are exactly these, whole and active.
    fn has_images(&self, due: &[Image]) -> Result<()> {
        let onlooker = Onlooker::new(&self.env, &self.folder);
        let found = onlooker.list()?;
        ensure(found.len() == due.len(), || {
            format!("Glance has {} images, {} were made", found.len(), due.len())
        })?;
        for image in due {
            let file = self.folder.join("image.bin");
            let came = onlooker.download(image.text("id"), &file)?;
            ensure(came["sha512"] == image.text("sha512"), || {
                format!("image {} is not what clone_vm sent", image.text("id"))
            })?;
        }
        Ok(())
    }

    /// Waits until the data of an image is on its way.
    fn transfer_begun(&self, clone: &mut Running) -> Result<()> {
        let began = Instant::now();
        while clone.is_running() && began.elapsed() < Duration::from_secs(120) {
            if self.images()?.iter().any(|image| image["status"] == "saving") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("clone_vm was not seen in its transfer".to_owned())
    }
}

/// A failure says what is wrong in exactly one line.
fn one_line(stderr: &Path) -> Result<String> {
    let text = std::fs::read_to_string(stderr).map_err(|e| format!("{}: {e}", stderr.display()))?;
    ensure(text.lines().count() == 1 && text.len() > 10, || {
        format!("stderr should be one line and is {text:?}")
    })?;
    Ok(text.trim().to_owned())
}

/// A clone that works, of a VM with two disks.
pub(crate) fn success(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let stage = Stage::new(context, folder, 2, &[])?;
    let done = clone::run(stage.command(context, &[]), folder)?.success()?;
    let answer = done.json()?;
    let images = clone::images(&answer, 2)?;
    entry.figure("steps", answer["steps"].clone());
    stage.unchanged()?;
    stage.has_images(&images)?;
    // The same run asked for again answers the same and makes nothing.
    let again = clone::run(stage.command(context, &["--resume"]), folder)?.success()?.json()?;
    ensure(again["images"] == answer["images"], || {
        "--resume of a finished run prints other images".to_owned()
    })?;
    stage.has_images(&images)?;
    Ok(stage.unchanged()?)
}

/// What a server can do to a transfer, for good.
const FAULTS: &[&str] = &[
    "upload-fails=500:1048576",
    "upload-close=1048576",
    "image-killed",
    "hash-mismatch",
    "export-truncate=8388608",
    "export-task-fails",
];

/// The transfer breaks, on either side: the upload, the stored image, the export.
pub(crate) fn upload(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    for fault in FAULTS {
        let folder = folder.join(fault.replace(['=', ':'], "-"));
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let stage = Stage::new(context, &folder, 1, &[fault])?;
        let done = clone::run(stage.command(context, &[]), &folder)?;
        if done.status.success() {
            return Err(Stop::Fail(format!("clone_vm succeeded under {fault}")));
        }
        let said = one_line(&done.stderr).map_err(|why| format!("{fault}: {why}"))?;
        entry.figure(fault, said);
        stage.no_image().map_err(|why| format!("{fault}: {why}"))?;
        stage.unchanged().map_err(|why| format!("{fault}: {why}"))?;
        let _ = std::fs::remove_dir_all(&folder);
    }
    Ok(())
}

/// A pace that leaves time to interrupt: 16 MiB/s of some 200 MiB.
const SLOW: &str = "slow-export=16777216";

/// Ctrl-C while the data moves.
pub(crate) fn interrupt(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let stage = Stage::new(context, folder, 1, &[SLOW])?;
    let mut running = clone::start(stage.command(context, &[]), folder)?;
    stage.transfer_begun(&mut running)?;
    running.signal("INT")?;
    let asked = Instant::now();
    let done = running.finish(Duration::from_secs(60))?;
    entry.figure("seconds_to_undo", (asked.elapsed().as_secs_f64() * 10.0).round() / 10.0);
    if done.status.success() {
        return Err(Stop::Fail("clone_vm succeeded although it was interrupted".to_owned()));
    }
    entry.figure("said", one_line(&done.stderr)?);
    stage.no_image()?;
    Ok(stage.unchanged()?)
}

/// A crash while the data moves, then `--resume`.
pub(crate) fn kill(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let stage = Stage::new(context, folder, 1, &[SLOW])?;
    let mut running = clone::start(stage.command(context, &[]), folder)?;
    stage.transfer_begun(&mut running)?;
    running.signal("KILL")?;
    running.finish(Duration::from_secs(60))?;
    let left = stage.difference()?;
    let left = left.ok_or("the crash left nothing in the pool, so it proves nothing")?;
    entry.figure("left_by_the_crash", left);
    let done = clone::run(stage.command(context, &["--resume"]), folder)?.success()?;
    let images = clone::images(&done.json()?, 1)?;
    stage.has_images(&images)?;
    Ok(stage.unchanged()?)
}
