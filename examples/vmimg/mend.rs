//! The commands that write to an image that is there: never without being asked.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use vmimage::{CommitOptions, RepairOptions};

use crate::streams::progress_bar;
use crate::{Result, one_line, print, size_text};

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Write; without it the command only tells what it would do
    #[arg(long, conflicts_with = "undo")]
    write: bool,
    /// Also make checksums right where all else fits
    #[arg(long)]
    checksums: bool,
    /// Keep what is overwritten in this file (default: FILE.undo)
    #[arg(long, value_name = "FILE")]
    undo_file: Option<PathBuf>,
    /// Put back what a repair has overwritten
    #[arg(long, conflicts_with = "checksums")]
    undo: bool,
    /// The VHD
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// The parent, if it is not found in the child's folder
    #[arg(long, value_name = "FILE")]
    parent: Vec<PathBuf>,
    /// Confirm that no other disk has the same parent: it would be lost
    #[arg(long)]
    no_other_children: bool,
    /// Delete the child afterwards
    #[arg(long)]
    delete_child: bool,
    /// The differencing VHD
    child: PathBuf,
}

/// Exit code 0: nothing to do, or done; 1: there is something to do and --write was not given.
pub(crate) fn repair(args: &RepairArgs) -> Result<ExitCode> {
    let default = || {
        let mut name = args.file.clone().into_os_string();
        name.push(".undo");
        PathBuf::from(name)
    };
    let undo_file = args.undo_file.clone().unwrap_or_else(default);
    if args.undo {
        vmimage::undo_repair(&args.file, &undo_file)?;
        return print("restored\n");
    }
    let options = RepairOptions::new().with_checksums(args.checksums).with_undo_file(&undo_file);
    let report = match args.write {
        true => vmimage::repair(&args.file, &options)?,
        false => vmimage::plan_repair(&args.file, &options)?,
    };
    let mut text = String::new();
    for action in &report.actions {
        text += &format!("{}\n", one_line(&action.to_string()));
    }
    for finding in &report.remaining {
        text += &format!("stays: {}\n", one_line(&finding.to_string()));
    }
    text += match (report.actions.is_empty(), args.write) {
        (true, _) => "nothing to repair\n",
        (false, true) => "repaired\n",
        (false, false) => "not written: say --write\n",
    };
    if let Some(undo) = &report.undo {
        text += &format!("undo with: vmimg repair --undo --undo-file {} ...\n", undo.display());
    }
    print(&text)?;
    let waiting = !report.actions.is_empty() && !args.write;
    Ok(ExitCode::from(u8::from(waiting)))
}

pub(crate) fn commit(args: &CommitArgs, cancel: &Arc<AtomicBool>) -> Result<ExitCode> {
    let bar = progress_bar(None);
    let watched = bar.clone();
    let options = args.parent.iter().fold(CommitOptions::new(), |o, p| o.with_parent(p));
    let options = options
        .with_no_other_children(args.no_other_children)
        .delete_child(args.delete_child)
        .with_cancel(Arc::clone(cancel))
        .with_progress(move |bytes| watched.set_position(bytes));
    let report = vmimage::commit(&args.child, &options)?;
    bar.finish_and_clear();
    let parent = one_line(&report.parent.display().to_string());
    let resumed = if report.resumed { ", after an earlier attempt" } else { "" };
    print(&format!("committed {} into {parent}{resumed}\n", size_text(report.bytes)))
}
