//! The disk that is migrated, and its split into a chain of three VHDs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Context, Stop, ensure};
use crate::process::{self, Result};
use crate::tools::{self, script};

/// The chain made of a raw disk, and the digest that the disk had.
#[derive(Debug)]
pub(crate) struct SourceDisk {
    /// SHA-256 of the raw disk before the split.
    pub(crate) sha256: String,
    /// base, child1, child2.
    pub(crate) chain: [PathBuf; 3],
    /// What a boot of it must show; or why there is none.
    pub(crate) guest: std::result::Result<Guest, String>,
}

impl SourceDisk {
    /// The youngest file of the chain.
    pub(crate) fn tip(&self) -> &Path {
        &self.chain[2]
    }
}

/// How to recognise the guest.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The text that its web page contains.
    pub(crate) token: String,
    /// The private key that it accepts.
    pub(crate) key: PathBuf,
}

/// The guest's disk and its chain; a synthetic disk where no guest can be built.
pub(crate) fn prepare(context: &Context<'_>) -> std::result::Result<SourceDisk, Stop> {
    let folder = context.work.join("chain");
    match guest_folder(context) {
        Ok(dir) => {
            let manifest = std::fs::read_to_string(dir.join("manifest.json"))
                .map_err(|e| format!("manifest.json of the guest: {e}"))?;
            let manifest: Value = serde_json::from_str(&manifest)
                .map_err(|e| format!("manifest.json of the guest: {e}"))?;
            let text = |key: &str| manifest[key].as_str().unwrap_or_default().to_owned();
            let guest = Guest { token: text("token"), key: dir.join("id_ed25519") };
            let raw = dir.join("disk.raw");
            let sha256 = sha256(&raw)?;
            ensure(sha256 == text("disk_sha256"), || {
                format!("{} is not the disk that its manifest describes", raw.display())
            })?;
            let chain = split(&[raw.as_os_str()], &folder, &sha256)?;
            Ok(SourceDisk { sha256, chain, guest: Ok(guest) })
        }
        Err(Stop::Skip(why)) => {
            let sizes = ["--synthetic".as_ref(), "1G".as_ref(), "--data".as_ref(), "300M".as_ref()];
            let raw = folder.join("disk.raw");
            let chain = split(&sizes, &folder, "")?;
            let sha256 = sha256(&raw)?;
            Ok(SourceDisk { sha256, chain, guest: Err(why) })
        }
        Err(fail) => Err(fail),
    }
}

fn guest_folder(context: &Context<'_>) -> std::result::Result<PathBuf, Stop> {
    let dir = context.args.guest.clone().unwrap_or_else(|| context.work.join("guest"));
    if dir.join("manifest.json").is_file() && dir.join("disk.raw").is_file() {
        return dir.canonicalize().map_err(|e| Stop::Fail(format!("{}: {e}", dir.display())));
    }
    if !tools::is_root() || tools::find("apt-get").is_none() {
        return Err(Stop::Skip("a guest disk is built by root on Debian only".to_owned()));
    }
    eprintln!("e2e: building the guest disk in {} (a few minutes, once)", dir.display());
    let log = context.work.join("guest-disk.log");
    let built = process::run(script("guest-disk.sh").arg(&dir), &log, Duration::from_secs(1800))?;
    if built.status.success() {
        return Ok(dir);
    }
    let why = built.complaint();
    // What only says that the machine is another one, or that it has no network.
    let lacks = ["could not install", "mmdebstrap failed", "apt-get update", "needs "];
    if lacks.iter().any(|word| why.contains(word)) { Err(Stop::Skip(why)) } else { Err(why.into()) }
}

/// Runs the splitter; checks that it saw the disk that we know.
pub(crate) fn split(
    what: &[&std::ffi::OsStr],
    folder: &Path,
    sha256: &str,
) -> Result<[PathBuf; 3]> {
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut command = script("split-vhd-chain.py");
    command.args(what).arg(folder).args(["--seed", "2015"]);
    if sha256.is_empty() {
        command.arg("--no-digest");
    }
    let made = process::run(&mut command, &folder.join("split.log"), Duration::from_secs(900))?
        .success()?
        .json()?;
    ensure(sha256.is_empty() || made["sha256"] == sha256, || {
        format!("the splitter read {} where the disk is {sha256}", made["sha256"])
    })?;
    // In a disk of a few blocks the layers need not overlap.
    let hides = made["overridden_sectors"].as_u64().is_some_and(|n| n > 0);
    ensure(hides || made["bytes"].as_u64().is_some_and(|n| n < 32 << 20), || {
        "the chain hides no old data and so could prove nothing".to_owned()
    })?;
    Ok(["base.vhd", "child1.vhd", "child2.vhd"].map(|name| folder.join(name)))
}

/// SHA-256 of a file, by coreutils.
pub(crate) fn sha256(file: &Path) -> Result<String> {
    let log = file.with_extension("sha256.log");
    let mut command = std::process::Command::new("sha256sum");
    let done = process::run(command.arg(file), &log, Duration::from_secs(600))?.success()?;
    let _ = std::fs::remove_file(log);
    Ok(done.stdout.split_whitespace().next().unwrap_or_default().to_owned())
}
