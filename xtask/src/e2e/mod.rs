//! `cargo xtask e2e`: the whole job on real input, judged by tools that are not ours.

mod chains;
mod clone;
mod cloud;
mod conformance;
mod disk;
mod glance;
mod leaks;
mod report;
mod rss;
mod simulator;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::process::Result;
use crate::tools::{self, Built};
use cloud::RealCloud;
use disk::SourceDisk;
use report::{Entry, Report};

/// Options of `cargo xtask e2e`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only the scenarios whose name contains this (repeatable)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Keep the images, logs and servers of the run
    #[arg(long)]
    keep: bool,
    /// Where to work; caches the guest disk and the servers' installation
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Use this directory of `guest-disk.sh` instead of WORK/guest
    #[arg(long, value_name = "DIR")]
    guest: Option<PathBuf>,
    /// Use this directory of `openstack-up.sh` instead of WORK/openstack
    #[arg(long, value_name = "DIR")]
    openstack: Option<PathBuf>,
    /// Do not boot the images (each boot takes a minute or two without KVM)
    #[arg(long)]
    no_boot: bool,
    /// Drive an unoptimised build
    #[arg(long)]
    debug: bool,
    /// Print the names of the scenarios and stop
    #[arg(long)]
    list: bool,
}

/// Why a scenario did not pass.
#[derive(Debug, Clone)]
enum Stop {
    /// The machine lacks something.
    Skip(String),
    /// It ran and something is wrong.
    Fail(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Fail(why)
    }
}

impl From<&str> for Stop {
    fn from(why: &str) -> Self {
        Self::Fail(why.to_owned())
    }
}

/// What a scenario returns.
type Verdict = std::result::Result<(), Stop>;

/// Ensures `held`, or fails with `what`.
fn ensure(held: bool, what: impl FnOnce() -> String) -> Result<()> {
    if held { Ok(()) } else { Err(what()) }
}

/// What all scenarios share; the costly parts are made when the first one asks.
struct Context<'a> {
    args: &'a Args,
    work: PathBuf,
    built: Built,
    disk: OnceCell<std::result::Result<SourceDisk, Stop>>,
    cloud: OnceCell<std::result::Result<RealCloud, Stop>>,
}

impl Context<'_> {
    /// The disk that is migrated: a real guest's, or a synthetic one where none can be built.
    fn disk(&self) -> std::result::Result<&SourceDisk, Stop> {
        self.disk.get_or_init(|| disk::prepare(self)).as_ref().map_err(Clone::clone)
    }

    /// The real Keystone and Glance.
    fn cloud(&self) -> std::result::Result<&RealCloud, Stop> {
        self.cloud.get_or_init(|| cloud::prepare(self)).as_ref().map_err(Clone::clone)
    }

    /// An empty folder for one scenario.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.join("run").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(folder)
    }
}

type Scenario = (&'static str, &'static str, fn(&Context<'_>, &Path, &mut Entry) -> Verdict);

/// Name, what it shows, and the code.
const SCENARIOS: &[Scenario] = &[
    ("chains", "vmimg reads chains of many shapes as the splitter meant them", chains::read),
    ("glance-qcow2", "running VM to real Glance as qcow2; same disk; boots", glance::qcow2),
    ("glance-vhd", "the same as VHD", glance::vhd),
    ("glance-vhd-tgz", "the same as 0.vhd in a tgz", glance::vhd_tgz),
    ("glance-from-vhd", "straight from the three VHD files", glance::from_vhd),
    (
        "conformance",
        "every test of glance-client for a cloud, on the real servers",
        conformance::all,
    ),
    ("conformance-narrow", "the same with tokens of 2 s and a size cap", conformance::narrow),
    ("rss-20g", "peak RSS of clone_vm with a 20 GiB sparse disk, at most 96 MiB", rss::sparse),
    ("leak-success", "the pool after a clone of two disks is the pool before", leaks::success),
    ("leak-failed-upload", "the same after transfers that a server breaks", leaks::upload),
    ("leak-interrupt", "the same after SIGINT during the transfer", leaks::interrupt),
    ("leak-kill-resume", "the same after kill -9 and --resume", leaks::kill),
];

/// Runs the scenarios; true if none failed.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|(name, ..)| args.only.is_empty() || args.only.iter().any(|o| name.contains(&**o)))
        .collect();
    if args.list || chosen.is_empty() {
        for (name, what, _) in SCENARIOS {
            println!("{name:20} {what}");
        }
        return if args.list { Ok(true) } else { Err("--only matches none of these".to_owned()) };
    }
    let work = args.work.clone().unwrap_or_else(|| tools::root().join("target/e2e"));
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let work = work.canonicalize().map_err(|e| format!("{}: {e}", work.display()))?;
    eprintln!("e2e: building clone_vm and the simulator");
    let built = tools::build(!args.debug)?;
    let context = Context { args, work, built, disk: OnceCell::new(), cloud: OnceCell::new() };

    let mut report = Report::default();
    for (name, what, scenario) in chosen {
        report.push(one(&context, name, what, *scenario));
    }
    if let Some(Ok(cloud)) = context.cloud.get() {
        cloud.stop(args.keep);
    }
    let file = context.work.join("report.json");
    report.write(&file)?;
    report.print();
    println!("report: {}", file.display());
    Ok(!report.any_failed())
}

fn one(
    context: &Context<'_>,
    name: &'static str,
    what: &str,
    scenario: fn(&Context<'_>, &Path, &mut Entry) -> Verdict,
) -> Entry {
    eprintln!("e2e: {name}: {what}");
    let mut entry = Entry::new(name);
    let began = Instant::now();
    let verdict = if tools::find("python3").is_none() {
        Err(Stop::Skip("python3 is not installed".to_owned()))
    } else {
        context
            .folder(name)
            .map_err(Stop::from)
            .and_then(|folder| scenario(context, &folder, &mut entry))
    };
    entry.seconds = began.elapsed().as_secs_f64();
    entry.conclude(verdict);
    let keep = context.args.keep || entry.failed();
    if !keep {
        // A cache directory that stays is no reason to fail a run that passed.
        let _ = std::fs::remove_dir_all(context.work.join("run").join(name));
    }
    eprintln!("e2e: {name}: {}", entry.line());
    entry
}
