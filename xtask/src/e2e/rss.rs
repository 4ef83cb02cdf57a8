//! The memory of `clone_vm` does not depend on the size of the disk.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::cloud::Onlooker;
use super::report::Entry;
use super::simulator::Simulator;
use super::{Context, Verdict, clone, disk, ensure};
use crate::process;
use crate::tools::{self, script};

const LIMIT_KIB: u64 = 96 * 1024;

/// A 20 GiB sparse disk, the simulator in another process.
pub(crate) fn sparse(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let chain_folder = folder.join("chain");
    let synthetic = ["--synthetic", "20G", "--data", "512M"].map(AsRef::as_ref);
    let chain = disk::split(&synthetic, &chain_folder, "")?;
    let pool = Simulator::start(context, folder, &[&chain[2]], &[])?;
    let env = pool.xen().and(pool.openstack());

    let (usage, journal) = (folder.join("usage.json"), folder.join("journal"));
    let mut command = script("peak-rss.py");
    command.arg(&usage).arg(&context.built.clone_vm);
    command.args(["--vm", "web01", "--target", "glance", "--format", "qcow2", "--json"]);
    command.arg("--journal").arg(&journal);
    env.apply(&mut command);
    let log = folder.join("clone.log");
    let done = process::run(&mut command, &log, Duration::from_secs(1800))?.success()?;
    let image = &clone::images(&done.json()?, 1)?[0];

    let measured = std::fs::read_to_string(&usage).map_err(|e| format!("usage.json: {e}"))?;
    let measured: Value = serde_json::from_str(&measured).map_err(|e| e.to_string())?;
    let peak = measured["max_rss_kib"].as_u64().ok_or("no peak was measured")?;
    entry.figure("peak_rss_mib", (peak as f64 / 102.4).round() / 10.0);
    entry.figure("clone_vm_seconds", measured["seconds"].clone());
    entry.figure("bytes", image.bytes());
    ensure(peak <= LIMIT_KIB, || format!("peak RSS is {peak} KiB, the limit {LIMIT_KIB} KiB"))?;

    let file = folder.join("image.qcow2");
    let came = Onlooker::new(&env, folder).download(image.text("id"), &file)?;
    ensure(came["sha256"] == image.text("sha256"), || "the download differs".to_owned())?;
    if tools::find("qemu-img").is_none() {
        entry.skip("content", "qemu-img is not installed (Debian: qemu-utils)");
        return Ok(());
    }
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-q", "-f", "raw", "-F", "qcow2"]);
    compare.arg(chain_folder.join("disk.raw")).arg(&file);
    process::run(&mut compare, &folder.join("compare.log"), Duration::from_secs(600))?.success()?;
    Ok(())
}
