//! Where things are: the workspace, its scripts and examples, the programs of the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Result;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A script of `xtask/scripts`, ready to take arguments.
pub(crate) fn script(name: &str) -> Command {
    let path = root().join("xtask/scripts").join(name);
    let interpreter = if name.ends_with(".py") { "python3" } else { "bash" };
    let mut command = Command::new(interpreter);
    command.arg(path);
    command
}

/// The full path of a program, if the machine has it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Whether we are root: the guest disk and missing packages need that.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// A run that was killed leaves its folder in memory behind: the next one removes it. The name is
/// `prefix` and the process id.
pub(crate) fn remove_stale(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another user's folder stays; it is not ours to complain about.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The programs that the runs drive.
#[derive(Debug)]
pub(crate) struct Built {
    /// The example `clone_vm`.
    pub(crate) clone_vm: PathBuf,
    /// The example `vmimg`.
    pub(crate) vmimg: PathBuf,
    /// The binary of `simulator`.
    pub(crate) simulator: PathBuf,
}

/// Builds what the runs drive, with the optimisation that a user would have.
pub(crate) fn build(release: bool) -> Result<Built> {
    let mut command = cargo_build(release);
    command.args(["--example", "clone_vm", "--example", "vmimg", "--bin", "simulator"]);
    if !crate::process::passes(&mut command)? {
        return Err("the build failed".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
        .join(if release { "release" } else { "debug" });
    let built = Built {
        clone_vm: target.join("examples/clone_vm"),
        vmimg: target.join("examples/vmimg"),
        simulator: target.join("simulator"),
    };
    for file in [&built.clone_vm, &built.vmimg, &built.simulator] {
        if !file.is_file() {
            return Err(format!("the build left no {}", file.display()));
        }
    }
    Ok(built)
}

/// The programs of the comparison of transfers.
#[derive(Debug)]
pub(crate) struct Transfers {
    pub(crate) export_vm: PathBuf,
    pub(crate) import_vm: PathBuf,
    pub(crate) simulator: PathBuf,
}

/// Builds them, with the optimisation that a user would have.
pub(crate) fn build_transfers() -> Result<Transfers> {
    let mut command = cargo_build(true);
    command.args(["--example", "export_vm", "--example", "import_vm", "--bin", "simulator"]);
    if !crate::process::passes(&mut command)? {
        return Err("the build failed".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
        .join("release");
    Ok(Transfers {
        export_vm: target.join("examples/export_vm"),
        import_vm: target.join("examples/import_vm"),
        simulator: target.join("simulator"),
    })
}

/// Builds the example `vmimg` alone, with the optimisation that a user would have.
pub(crate) fn build_vmimg() -> Result<PathBuf> {
    let mut command = cargo_build(true);
    command.args(["--example", "vmimg"]);
    if !crate::process::passes(&mut command)? {
        return Err("the build failed".to_owned());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir));
    Ok(target.join("release/examples/vmimg"))
}

fn cargo_build(release: bool) -> Command {
    let mut command = cargo("build");
    if release {
        command.arg("--release");
    }
    command
}

/// Cargo with a subcommand, in the root of the workspace.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).arg(subcommand);
    // `cargo run` described this program in the environment; build scripts that look at it, such
    // as ring's, would take that for a change and build all that depends on them again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
}
