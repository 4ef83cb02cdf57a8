//! Exports a virtual machine of a XenServer or XCP-ng pool as an XVA archive. A running machine
//! goes on running: a snapshot is exported, and removed afterwards.
//!
//! ```sh
//! XEN_URL=https://xen1 XEN_USERNAME=root XEN_PASSWORD=… XEN_PIN_SHA256=… \
//!     cargo run --release --example export_vm -- web01 -o web01.xva
//! ```
//!
//! `-o -` writes to standard output, for a pipe into something else.
//!
//! With none of these variables set it exports the machine of a simulated pool on loopback.

mod pool;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use examples::{Result, ended, plain};
use indicatif::{ProgressBar, ProgressStyle};
use simulator::Simulator;
use xenapi::enums::VmPowerState;
use xenapi::vdi::Vdi;
use xenapi::vm::Vm;
use xenapi::{Export, ExportOptions, Ref, Session, WaitOptions, XvaCompression, vbd, vdi, vm};

use pool::Pool;

/// Export a virtual machine as an XVA archive, without stopping it.
///
/// A file has its name only when it is whole; what reads standard output must ask for the exit
/// status. The pool is named by XEN_URL, XEN_USERNAME and
/// XEN_PASSWORD, and trusted by XEN_CA_FILE, XEN_PIN_SHA256 (a comma-separated list) or
/// XEN_INSECURE=1, else by the system's authorities. Without any of them the machine web01 of a
/// simulated pool is exported.
#[derive(Parser)]
struct Args {
    /// The machine's name or UUID
    vm: String,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How the server compresses the archive
    #[arg(long, value_enum, default_value_t = Compress::None)]
    compress: Compress,
}

#[derive(Clone, Copy, ValueEnum)]
enum Compress {
    None,
    Gzip,
    Zstd,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("export_vm", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    if let Some(pool) = Pool::from_env()? {
        return export(&pool, args).await;
    }
    eprintln!("export_vm: no XEN_* variable is set, so this is a simulated pool");
    let simulator = Simulator::builder().start().await?;
    let result = export(&Pool::of(&simulator)?, args).await;
    simulator.stop().await;
    result
}

async fn export(pool: &Pool, args: &Args) -> Result<()> {
    let session = pool.login("export_vm").await?;
    let exported = tokio::select! {
        exported = export_named(&session, args) => exported,
        stopped = tokio::signal::ctrl_c() => {
            stopped?;
            Err("stopped; what this run has made at the server is called \"export_vm\"".into())
        }
    };
    let _ = session.logout().await;
    exported
}

async fn export_named(session: &Session, args: &Args) -> Result<()> {
    let (machine, record) = find(session, &args.vm).await?;
    let name = plain(&record.name_label);
    if record.power_state == VmPowerState::Halted {
        return save(session, &machine, &name, args).await;
    }
    let task = session.start(vm::async_snapshot(&machine, "export_vm")).await?;
    let snapshot = session.wait(&task, &WaitOptions::new()).await?;
    let saved = save(session, &snapshot, &name, args).await;
    let removed = remove(session, &snapshot).await;
    // What went wrong first is what there is to tell.
    saved.and(removed)
}

async fn find(session: &Session, name: &str) -> Result<(Ref<Vm>, Vm)> {
    let all = session.call(vm::get_all_records()).await?;
    let wanted = |vm: &Vm| vm.uuid == name || (vm.name_label == name && !vm.is_a_snapshot);
    let mut found = all.into_iter().filter(|(_, vm)| wanted(vm));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("the pool has no machine {name:?}").into()),
        _ => Err(format!("several machines are called {name:?}; give a UUID").into()),
    }
}

/// Exports into a file beside the output, which becomes the output when it is whole; or to standard
/// output, whose reader learns at the end whether it was.
async fn save(session: &Session, machine: &Ref<Vm>, name: &str, args: &Args) -> Result<()> {
    if args.output.as_os_str() == "-" {
        // Rust's own standard output looks for line ends.
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let bytes = receive(session, machine, args.compress, stdout).await?;
        eprintln!("export_vm: {name} was written, {bytes} bytes");
        return Ok(());
    }
    let folder = args.output.parent().filter(|p| !p.as_os_str().is_empty());
    let partial = tempfile::NamedTempFile::new_in(folder.unwrap_or_else(|| Path::new(".")))?;
    let bytes = receive(session, machine, args.compress, partial.reopen()?).await?;
    partial.as_file().sync_all()?;
    partial.persist(&args.output)?;
    eprintln!("export_vm: {name} is in {}, {bytes} bytes", args.output.display());
    Ok(())
}

/// Exports into a file or a pipe; gives the number of bytes once the server has said that they are all.
async fn receive(
    session: &Session,
    machine: &Ref<Vm>,
    compress: Compress,
    file: File,
) -> Result<u64> {
    let compression = match compress {
        Compress::Gzip => XvaCompression::Gzip,
        Compress::Zstd => XvaCompression::Zstd,
        Compress::None => XvaCompression::None,
    };
    let options = ExportOptions::new("export_vm");
    let mut export = session.export_vm(machine, compression, &options).await?;
    let copied = copy(&mut export, file).await;
    let bytes = export.received();
    match copied {
        // The trouble is ours: nothing that the server could say explains it.
        Err(error) if error.is::<io::Error>() => {
            let _ = export.abort().await;
            Err(error)
        }
        // It ends the task in any case, and it knows best why a stream broke.
        copied => {
            export.finish().await?;
            copied.map(|()| bytes)
        }
    }
}

async fn copy(export: &mut Export, mut file: File) -> Result<()> {
    use futures_util::TryStreamExt as _;
    let style = "{spinner} {bytes} {binary_bytes_per_sec} {elapsed}";
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(style)?);
    // Pieces are some kilobytes; a hundred of them are worth a change of threads.
    let (mut pieces, mut held) = (Vec::<Bytes>::new(), 0);
    while let Some(piece) = export.try_next().await? {
        held += piece.len();
        pieces.push(piece);
        if held >= 1 << 20 {
            write(&mut file, &mut pieces)?;
            bar.inc(std::mem::take(&mut held) as u64);
        }
    }
    write(&mut file, &mut pieces)?;
    bar.finish();
    Ok(())
}

fn write(file: &mut File, pieces: &mut Vec<Bytes>) -> io::Result<()> {
    tokio::task::block_in_place(|| pieces.drain(..).try_for_each(|piece| file.write_all(&piece)))
}

/// Removes a snapshot with its disks: the server leaves the disks of a machine that is destroyed.
async fn remove(session: &Session, snapshot: &Ref<Vm>) -> Result<()> {
    let mut disks: Vec<Ref<Vdi>> = Vec::new();
    for device in session.call(vm::get_vbds(snapshot)).await? {
        let device = session.call(vbd::get_record(&device)).await?;
        disks.extend(device.vdi.non_null().cloned());
    }
    session.call(vm::destroy(snapshot)).await?;
    for disk in disks {
        session.call(vdi::destroy(&disk)).await?;
    }
    Ok(())
}
