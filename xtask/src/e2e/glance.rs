//! A running VM becomes an image in a real Glance: the same disk, and it boots.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::clone::{self, Environment, Image};
use super::cloud::Onlooker;
use super::disk::{self, Guest, SourceDisk};
use super::report::Entry;
use super::simulator::{self, Simulator};
use super::{Context, Stop, Verdict, ensure};
use crate::process::{self, Result};
use crate::tools::{self, script};

/// What is asked of `clone_vm`, and what must lie in Glance.
struct Target {
    /// The value of `--format`.
    format: &'static str,
    /// Glance's `disk_format` and `container_format`.
    glance: (&'static str, &'static str),
    /// QEMU's name of the format.
    qemu: &'static str,
}

const QCOW2: Target = Target { format: "qcow2", glance: ("qcow2", "bare"), qemu: "qcow2" };
const VHD: Target = Target { format: "vhd", glance: ("vhd", "bare"), qemu: "vpc" };
const VHD_TGZ: Target = Target { format: "vhd-tgz", glance: ("vhd", "ovf"), qemu: "vpc" };

/// `--format qcow2` from a running VM.
pub(crate) fn qcow2(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    from_pool(context, folder, entry, &QCOW2)
}

/// `--format vhd` from a running VM.
pub(crate) fn vhd(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    from_pool(context, folder, entry, &VHD)
}

/// `--format vhd-tgz` from a running VM.
pub(crate) fn vhd_tgz(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    from_pool(context, folder, entry, &VHD_TGZ)
}

/// `--from-vhd`: the chain straight from its files.
pub(crate) fn from_vhd(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let disk = context.disk()?;
    let tip = disk.tip().display().to_string();
    migrate(context, folder, entry, &QCOW2, &Environment::default(), &["--from-vhd", &tip])
}

fn from_pool(context: &Context<'_>, folder: &Path, entry: &mut Entry, target: &Target) -> Verdict {
    let disk = context.disk()?;
    let mut pool = Simulator::start(context, folder, &[disk.tip()], &[])?;
    let before = pool.inventory(folder)?;
    migrate(context, folder, entry, target, &pool.xen(), &["--vm", "web01"])?;
    ensure(pool.is_running(), || "the simulator died".to_owned())?;
    match simulator::difference(&before, &pool.inventory(folder)?) {
        None => Ok(()),
        Some(what) => Err(Stop::Fail(format!("the pool is not as before: {what}"))),
    }
}

fn migrate(
    context: &Context<'_>,
    folder: &Path,
    entry: &mut Entry,
    target: &Target,
    source: &Environment,
    args: &[&str],
) -> Verdict {
    let (disk, cloud) = (context.disk()?, context.cloud()?);
    let os = cloud.environment();
    let journal = folder.join("journal").display().to_string();
    let name = format!("e2e-{}-{}", target.format, std::process::id());
    let mut command = clone::command(context, &source.clone().and(os.clone()), args);
    command.args(["--target", "glance", "--format", target.format, "--name", &name]);
    command.args(["--journal", &journal]);
    let began = Instant::now();
    let done = clone::run(command, folder)?.success()?;
    entry.figure("clone_vm_seconds", seconds(began));
    let image = &clone::images(&done.json()?, 1)?[0];
    entry.figure("bytes", image.bytes());
    entry.figure("sha256", image.text("sha256"));
    entry.figure("content_root", image.text("content_root"));

    let glance = Onlooker::new(&os, folder);
    let file = folder.join("image.bin");
    as_announced(&glance, image, target, &name, &file)?;
    let checked = same_disk(disk, target, folder, &file, entry)
        .map_err(Stop::from)
        .and_then(|bootable| boot(context, disk, target, folder, &bootable, entry));
    if !context.args.keep {
        glance.delete(image.text("id"))?;
    }
    checked
}

/// Glance's record and the downloaded bytes are what `clone_vm` said.
fn as_announced(
    glance: &Onlooker<'_>,
    image: &Image,
    target: &Target,
    name: &str,
    file: &Path,
) -> Result<()> {
    let shown = glance.show(image.text("id"))?;
    let formats = (target.glance.0, target.glance.1);
    let (disk, container) = (&shown["disk_format"], &shown["container_format"]);
    ensure(shown["status"] == "active", || format!("the image is {}", shown["status"]))?;
    ensure(shown["name"] == name, || format!("the image is called {}", shown["name"]))?;
    ensure(disk == formats.0 && container == formats.1, || {
        format!("Glance has {disk} in {container}, not {formats:?}")
    })?;
    ensure(shown["size"].as_u64() == image.bytes(), || {
        format!("Glance has {} bytes, clone_vm sent {:?}", shown["size"], image.bytes())
    })?;
    ensure(shown["os_hash_value"] == image.text("sha512"), || {
        format!("Glance's hash is {}, clone_vm's {}", shown["os_hash_value"], image.text("sha512"))
    })?;
    let came = glance.download(image.text("id"), file)?;
    for digest in ["md5", "sha256", "sha512"] {
        ensure(came[digest] == image.text(digest), || {
            format!(
                "the download's {digest} is {}, clone_vm's {}",
                came[digest],
                image.text(digest)
            )
        })?;
    }
    Ok(())
}

/// The image holds the disk as it was before the split; returns the file to boot.
fn same_disk(
    disk: &SourceDisk,
    target: &Target,
    folder: &Path,
    file: &Path,
    entry: &mut Entry,
) -> Result<PathBuf> {
    let bootable = if target.format == "vhd-tgz" { unpack(folder, file)? } else { file.to_owned() };
    let log = folder.join("check.log");
    let minute = Duration::from_secs(600);
    if target.qemu == "vpc" {
        let vhd_util = tools::find("vhd-util");
        let mut check = script("check-tap-vhd.py");
        process::run(check.arg(&bootable), &log, minute)?.success()?;
        if let Some(vhd_util) = vhd_util {
            let mut check = Command::new(vhd_util);
            process::run(check.arg("check").arg("-n").arg(&bootable), &log, minute)?.success()?;
        }
    }
    if tools::find("qemu-img").is_none() {
        entry.skip("content", "qemu-img is not installed (Debian: qemu-utils)");
        return Ok(bootable);
    }
    if target.qemu == "qcow2" {
        let mut check = Command::new("qemu-img");
        check.args(["check", "-q", "-f", "qcow2"]).arg(&bootable);
        process::run(&mut check, &log, minute)?.success()?;
    }
    let raw = folder.join("image.raw");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", target.qemu, "-O", "raw"]).arg(&bootable).arg(&raw);
    process::run(&mut convert, &log, minute)?.success()?;
    let sha256 = disk::sha256(&raw)?;
    ensure(sha256 == disk.sha256, || {
        format!("the image's disk has SHA-256 {sha256}, before the split it had {}", disk.sha256)
    })?;
    entry.figure("disk_sha256", sha256);
    let _ = std::fs::remove_file(raw);
    Ok(bootable)
}

/// The one member of the archive.
fn unpack(folder: &Path, archive: &Path) -> Result<PathBuf> {
    let (out, log) = (folder.join("unpacked"), folder.join("tar.log"));
    std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let mut tar = Command::new("tar");
    let tar = tar.arg("-xzvf").arg(archive).arg("-C").arg(&out);
    let listed = process::run(tar, &log, Duration::from_secs(600))?.success()?.stdout;
    ensure(listed.trim() == "0.vhd", || format!("the archive holds {:?}", listed.trim()))?;
    Ok(out.join("0.vhd"))
}

/// Boots the image: SSH answers, and the page has its token.
fn boot(
    context: &Context<'_>,
    disk: &SourceDisk,
    target: &Target,
    folder: &Path,
    image: &Path,
    entry: &mut Entry,
) -> Verdict {
    let guest = match &disk.guest {
        _ if context.args.no_boot => {
            entry.skip("boot", "--no-boot");
            return Ok(());
        }
        Err(why) => {
            entry.skip("boot", &format!("no guest disk: {why}"));
            return Ok(());
        }
        Ok(guest) => guest,
    };
    if tools::find("qemu-system-x86_64").is_none() && !tools::is_root() {
        entry.skip("boot", "qemu-system-x86_64 is not installed, and installing needs root");
        return Ok(());
    }
    let booted = power_on(target, folder, image, guest)?;
    for figure in ["seconds_to_ssh", "seconds_to_http", "accel"] {
        entry.figure(figure, booted[figure].clone());
    }
    Ok(())
}

fn power_on(
    target: &Target,
    folder: &Path,
    image: &Path,
    guest: &Guest,
) -> Result<serde_json::Value> {
    let mut command = script("guest-boot.sh");
    command.arg(image).args(["--format", target.qemu, "--snapshot", "--token", &guest.token]);
    command.arg("--key").arg(&guest.key).arg("--work").arg(folder.join("boot"));
    // A login, and a file system that survived the journey.
    command.args(["--check", "test -f /var/www/html/index.html && dmesg | grep -c EXT4-fs"]);
    let log = folder.join("boot.log");
    process::run(&mut command, &log, Duration::from_secs(900))?.success()?.json()
}

fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10.0).round() / 10.0
}
