//! `cargo xtask compare-images`: what `vmimg` costs, beside the limit and beside other tools.
//!
//! The inputs are made by code that shares nothing with `vmimage`, and each output is judged by a
//! script that does neither.

mod chart;
mod content;
mod jobs;
mod qcow2;
mod report;
mod standin;
pub(crate) mod transfers;
mod vhd;
mod workload;
mod xva;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::json;

use crate::process::{Result, passes};
use crate::tools;
use jobs::{Job, Places, jobs};
use report::About;
use workload::Workshop;

/// Begins the name of the folder of a run; its process id follows.
const PREFIX: &str = "compare-images-";
/// Seconds that one process may take.
const LIMIT: u32 = 300;
/// How much of the RAM disk is touched before each job: the first touch of memory that the
/// machine's host has taken away costs several times the later ones.
const TOUCH: u64 = 3 << 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Small inputs: to see that it works, not what it costs
    #[arg(long)]
    quick: bool,
    /// Only the jobs whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds that count, after one that does not
    #[arg(long, default_value_t = 9)]
    runs: u32,
    /// Where inputs and outputs go (default: /dev/shm, which is RAM; needs 7 GiB)
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// The disk of a real guest, raw or VHD, for the archive (default: libraries of this machine)
    #[arg(long, value_name = "FILE")]
    guest: Option<PathBuf>,
    /// Where the table, the chart and the figures go (default: benches/results, or with --quick or
    /// --only target/compare)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What one tool did in one job.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Measured {
    /// CPU seconds (user and system) of each round.
    pub(crate) cpu: Vec<f64>,
    /// Seconds of each round.
    pub(crate) wall: Vec<f64>,
    pub(crate) max_rss_kib: u64,
    /// The measuring program's own peak: a smaller one cannot be seen.
    pub(crate) floor_rss_kib: u64,
    /// The length of the output.
    pub(crate) bytes: Option<u64>,
    pub(crate) failed: Option<String>,
    pub(crate) wrong: Option<String>,
}

/// A job with its figures, in the order of its entries; the limit is the first.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) job: Job,
    pub(crate) measured: Vec<Measured>,
}

/// Measures; `false` if a tool of ours failed or wrote something wrong.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let vmimg = tools::build_vmimg()?;
    let shm = Path::new("/dev/shm");
    let parent = match &args.workdir {
        Some(dir) => dir.clone(),
        None if shm.is_dir() => shm.to_owned(),
        None => std::env::temp_dir(),
    };
    tools::remove_stale(&parent, PREFIX);
    let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let result = measure_all(args, &vmimg, &dir);
    // Gigabytes of memory, whatever happened.
    let _ = std::fs::remove_dir_all(&dir);
    let outcomes = result?;
    // Figures of a part or of small disks must not replace those of a full run unasked.
    let part = args.quick || !args.only.is_empty();
    let results = if part { "target/compare" } else { "benches/results" };
    let out = args.out.clone().unwrap_or_else(|| tools::root().join(results));
    let about = About {
        name: "images",
        title: "What conversions cost",
        command: "compare-images",
        quick: args.quick,
        runs: args.runs,
    };
    report::write(&outcomes, about, &out)?;
    println!("written: {}", out.display());
    Ok(tell_bad(&outcomes))
}

/// Says which of ours failed or were wrong; whether there were none.
fn tell_bad(outcomes: &[Outcome]) -> bool {
    let ours = |o: &Outcome| -> Vec<String> {
        let entries = o.job.entries.iter().zip(&o.measured).filter(|(e, _)| e.ours);
        let bad = entries.filter_map(|(_, m)| m.failed.clone().or_else(|| m.wrong.clone()));
        bad.map(|why| format!("{}: {why}", o.job.name)).collect()
    };
    let bad: Vec<String> = outcomes.iter().flat_map(ours).collect();
    bad.iter().for_each(|line| eprintln!("FAILED {line}"));
    bad.is_empty()
}

fn measure_all(args: &Args, vmimg: &Path, dir: &Path) -> Result<Vec<Outcome>> {
    let mut workshop = Workshop::new(dir, args.quick, args.guest.as_deref());
    let places = Places { vmimg: vmimg.to_owned(), dir: dir.to_owned() };
    let wanted = |job: &Job| {
        args.only.is_empty() || args.only.iter().any(|part| job.name.contains(part.as_str()))
    };
    let mut outcomes = Vec::new();
    for job in jobs(&workshop, &places).into_iter().filter(wanted) {
        println!("{}", job.name);
        workshop.provide(&job.inputs)?;
        touch(dir, if args.quick { TOUCH / 16 } else { TOUCH })?;
        let measured = measure(&job, args.runs, dir)?;
        let outcome = Outcome { job, measured };
        print!("{}", report::lines(&outcome));
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Writes so many zeros and forgets them.
fn touch(dir: &Path, bytes: u64) -> Result<()> {
    let path = dir.join("touch");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&path)?;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), bytes), &mut file)?;
        Ok(())
    };
    let written = write();
    let _ = std::fs::remove_file(&path);
    written.map_err(|e| format!("{}: {e}", path.display()))
}

fn measure(job: &Job, rounds: u32, dir: &Path) -> Result<Vec<Measured>> {
    let entries: Vec<_> = job
        .entries
        .iter()
        .map(|entry| {
            json!({
                "command": entry.command,
                "prepare": null,
                "stdout": entry.stdout,
                "outputs": entry.outputs,
                "check": entry.check,
            })
        })
        .collect();
    let spec = json!({ "rounds": rounds, "warmup": 1, "limit": LIMIT, "entries": entries });
    let (from, to) = (dir.join("spec.json"), dir.join("measured.json"));
    std::fs::write(&from, spec.to_string()).map_err(|e| format!("{}: {e}", from.display()))?;
    let mut script: Command = tools::script("measure-processes.py");
    if !passes(script.arg(&from).arg(&to))? {
        return Err("measure-processes.py failed".to_owned());
    }
    let text = std::fs::read_to_string(&to).map_err(|e| format!("{}: {e}", to.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", to.display()))
}
