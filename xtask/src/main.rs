//! Chores of this workspace: `cargo xtask e2e`, `cargo xtask codegen`, `cargo xtask compare-images`,
//! `cargo xtask compare-transfers`, `cargo xtask fuzz`,
//! `cargo xtask oracles`, `cargo xtask ci`.
//!
//! Nothing here links the crates of the workspace. The end-to-end runs drive the built examples as
//! processes, the way a user does, and judge them by tools that share no code with them.

mod codegen;
mod compare;
mod e2e;
mod fuzz;
mod oracles;
mod process;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about, disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole job on real input: a Debian guest, Keystone, Glance, QEMU
    E2e(e2e::Args),
    /// Write the class modules of xenapi and the commands of cloudstack-client from the facts, or check them
    Codegen(codegen::Args),
    /// Measure vmimg beside cp, qemu-img and others, on a RAM disk; write a table and a chart
    CompareImages(compare::Args),
    /// Measure an export over TLS beside curl; write a table and a chart
    CompareTransfers(compare::transfers::Args),
    /// Run the fuzz targets of vmimage, each for a while, and keep what they find
    Fuzz(fuzz::Args),
    /// Run clients and servers that we did not write against ours
    Oracles(oracles::Args),
    /// Run every check that a change must pass (the script `.ci/run`)
    Ci,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::E2e(args) => e2e::run(&args),
        Command::CompareImages(args) => compare::run(&args),
        Command::CompareTransfers(args) => compare::transfers::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Oracles(args) => oracles::run(&args),
        Command::Codegen(args) => codegen::run(&args).map(|()| true),
        Command::Ci => {
            process::passes(std::process::Command::new("bash").arg(tools::root().join(".ci/run")))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
