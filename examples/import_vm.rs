//! Imports a virtual machine (an XVA archive) or a disk (raw, VHD, QCOW2) into a XenServer or
//! XCP-ng pool. What fails leaves nothing behind.
//!
//! ```sh
//! XEN_URL=https://xen1 XEN_USERNAME=root XEN_PASSWORD=… XEN_PIN_SHA256=… \
//!     cargo run --release --example import_vm -- web01.xva
//! ```
//!
//! With none of these variables set it imports into a simulated pool on loopback.

mod pool;

use std::io::{Read as _, Seek as _, SeekFrom};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use examples::{Result, ended, plain};
use indicatif::{ProgressBar, ProgressStyle};
use simulator::Simulator;
use xenapi::sr::Sr;
use xenapi::{
    Cancel, ExportFormat, ImportOptions, ImportSource, Ref, Session, Throttle, pool as pool_class,
    sr, vdi, vm,
};

use pool::Pool;

/// Import a virtual machine or a disk into a pool.
///
/// An XVA archive (compressed or not) becomes a machine with its disks, any other file a disk: a
/// VHD or QCOW2 image by its header, a raw one otherwise. The pool is named by XEN_URL,
/// XEN_USERNAME and XEN_PASSWORD, and trusted by XEN_CA_FILE, XEN_PIN_SHA256 (a comma-separated
/// list) or XEN_INSECURE=1, else by the system's authorities. Without any of them it goes into a
/// simulated pool.
#[derive(Parser)]
struct Args {
    /// The file to import
    file: PathBuf,
    /// The storage repository by name or UUID; otherwise the pool's default
    #[arg(long)]
    sr: Option<String>,
    /// The name of a new disk; otherwise the file's
    #[arg(long)]
    name: Option<String>,
    /// A disk that exists, by its UUID: it is written over, in place of making another one
    #[arg(long, value_name = "UUID", conflicts_with_all = ["sr", "name", "restore"])]
    onto: Option<String>,
    /// The machine keeps its UUID and its MAC addresses
    #[arg(long)]
    restore: bool,
    /// At most so many bytes in a second
    #[arg(long, value_name = "BYTES")]
    limit: Option<NonZeroU64>,
}

/// What a file is, by its first bytes.
enum Kind {
    Machine,
    Disk { format: ExportFormat, virtual_size: u64 },
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("import_vm", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    if let Some(pool) = Pool::from_env()? {
        return import(&pool, args).await;
    }
    eprintln!("import_vm: no XEN_* variable is set, so this is a simulated pool");
    let simulator = Simulator::builder().start().await?;
    let result = import(&Pool::of(&simulator)?, args).await;
    simulator.stop().await;
    result
}

async fn import(pool: &Pool, args: &Args) -> Result<()> {
    let kind = kind(&args.file).map_err(|e| format!("{}: {e}", args.file.display()))?;
    let session = pool.login("import_vm").await?;
    let cancel = Cancel::new();
    let importing = send(&session, args, &kind, cancel.clone());
    tokio::pin!(importing);
    let imported = tokio::select! {
        imported = &mut importing => imported,
        stopped = tokio::signal::ctrl_c() => {
            stopped?;
            // The import cleans up after itself, which takes a moment.
            cancel.cancel();
            importing.await
        }
    };
    let _ = session.logout().await;
    imported
}

async fn send(session: &Session, args: &Args, kind: &Kind, cancel: Cancel) -> Result<()> {
    let storage = storage(session, args.sr.as_deref()).await?;
    let file = tokio::fs::File::open(&args.file).await?;
    let length = file.metadata().await?.len();
    let source = ImportSource::from_reader(file, length);
    let style = "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {elapsed} {msg}";
    let bar = ProgressBar::new(length).with_style(ProgressStyle::with_template(style)?);
    let shown = bar.clone();
    let mut options = ImportOptions::new("import_vm")
        .with_sr(storage.clone())
        .with_restore(args.restore)
        .with_cancel(cancel)
        .with_progress(move |progress| {
            shown.set_position(progress.bytes);
            shown.set_message(format!("the server is at {:.0} %", progress.task * 100.0));
        });
    if let Some(limit) = args.limit {
        options = options.with_throttle(Throttle::new(limit));
    }
    match (kind, &args.onto) {
        (Kind::Machine, Some(_)) => return Err("a machine cannot be written onto a disk".into()),
        (Kind::Machine, None) => {
            for machine in session.import_vm(source, &options).await? {
                let record = session.call(vm::get_record(&machine)).await?;
                let name = plain(&record.name_label);
                eprintln!("import_vm: the machine {name} is {}", plain(&record.uuid));
            }
        }
        (Kind::Disk { format, .. }, Some(uuid)) => {
            let disk = session.call(vdi::get_by_uuid(uuid)).await?;
            session.import_raw_vdi(&disk, *format, source, &options).await?;
            eprintln!("import_vm: the disk {} is written", plain(uuid));
        }
        (Kind::Disk { format, virtual_size }, None) => {
            let file = args.file.file_stem().unwrap_or_default().to_string_lossy();
            let name = args.name.as_deref().unwrap_or(&file);
            let disk = session
                .import_new_vdi(&storage, name, *format, *virtual_size, source, &options)
                .await?;
            let record = session.call(vdi::get_record(&disk)).await?;
            eprintln!("import_vm: the disk {} is {}", plain(name), plain(&record.uuid));
        }
    }
    bar.finish();
    Ok(())
}

async fn storage(session: &Session, name: Option<&str>) -> Result<Ref<Sr>> {
    let Some(name) = name else {
        let pools = session.call(pool_class::get_all_records()).await?;
        let default = pools.into_values().find_map(|pool| pool.default_sr.non_null().cloned());
        return default.ok_or_else(|| "the pool has no default storage; name one by --sr".into());
    };
    let all = session.call(sr::get_all_records()).await?;
    let mut found = all.into_iter().filter(|(_, sr)| sr.uuid == name || sr.name_label == name);
    match (found.next(), found.next()) {
        (Some((one, _)), None) => Ok(one),
        (None, _) => Err(format!("the pool has no storage {name:?}").into()),
        _ => Err(format!("several repositories are called {name:?}; give a UUID").into()),
    }
}

fn kind(path: &Path) -> Result<Kind> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    file.by_ref().take(512).read_to_end(&mut head)?;
    let number = |at: usize| {
        let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    Ok(match head.as_slice() {
        [b'o', b'v', b'a', b'.', ..] | [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Kind::Machine
        }
        [b'Q', b'F', b'I', 0xfb, ..] => {
            Kind::Disk { format: ExportFormat::Qcow2, virtual_size: number(24) }
        }
        [b'c', b'o', b'n', b'e', b'c', b't', b'i', b'x', ..] => {
            Kind::Disk { format: ExportFormat::Vhd, virtual_size: number(48) }
        }
        _ => {
            let mut tail = [0; 8];
            file.seek(SeekFrom::Start(length.saturating_sub(512)))?;
            if file.read(&mut tail)? == 8 && tail == *b"conectix" {
                return Err("a fixed VHD is none that servers take; make it a dynamic one".into());
            }
            Kind::Disk { format: ExportFormat::Raw, virtual_size: length }
        }
    })
}
