//! The build of the targets with the instrumentation that libFuzzer needs.

use std::path::PathBuf;
use std::process::Command;

use crate::process::{Result, passes};
use crate::tools;

/// What `cargo fuzz` gives to the compiler, but for the sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1";

/// Builds the targets; gives the folder of the programs.
pub(super) fn build(names: &[String]) -> Result<PathBuf> {
    let triple = host()?;
    let base = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| tools::root().join("target"), |dir| tools::root().join(dir))
        .join("fuzz");
    let cargo_fuzz = tools::find("cargo-fuzz").is_some();
    let mut command = if cargo_fuzz {
        // It builds one target, or all.
        let one = if let [name] = names { Some(name) } else { None };
        let mut command = tools::cargo("fuzz");
        command.args(["build", "--sanitizer", "none", "--fuzz-dir"]).arg(super::folder());
        command.args(["--target", &triple, "--target-dir"]).arg(&base).args(one);
        command
    } else {
        let mut command = tools::cargo("build");
        // With an explicit target, build scripts and macros are not instrumented.
        command.args(["--release", "--locked", "--target", &triple, "--target-dir"]).arg(&base);
        command.arg("--manifest-path").arg(super::folder().join("Cargo.toml"));
        command.args(names.iter().flat_map(|name| ["--bin", name]));
        // The encoded form would win over ours.
        command.env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    };
    // The passes and flags of the compiler that are used are not called stable.
    if !passes(command.env("RUSTC_BOOTSTRAP", "1"))? {
        return Err("the build of the fuzz targets failed".to_owned());
    }
    let programs = base.join(triple).join("release");
    match names.iter().find(|name| !programs.join(name).is_file()) {
        Some(name) => Err(format!("the build left no {}", programs.join(name).display())),
        None => Ok(programs),
    }
}

/// The triple of this machine, as the compiler calls it.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output();
    let output = output.map_err(|e| format!("cannot start rustc: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}
