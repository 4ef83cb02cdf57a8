//! `clone_vm` clones a running VM of a XenServer pool into a cloud image, while it runs.
//!
//! `cargo run --release --example clone_vm` shows the whole way on simulated servers;
//! `-- --help` teaches the rest.

#[path = "clone_vm/ends.rs"]
mod ends;
#[path = "clone_vm/recall.rs"]
mod recall;
#[path = "clone_vm/show.rs"]
mod show;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use clap::error::ErrorKind as UsageError;
use migrate_core::cloudstack::{self, CloudStackTemplate, Via};
use migrate_core::journal::{FileJournal, Journal, MemoryJournal, RunState};
use migrate_core::openstack::{self, OpenStackXenServer};
use migrate_core::{
    Builder, CancelToken, Context, Error, ErrorKind, LocalDirectory, Pipeline, PostProcessor,
    Report, Result, RunId, VhdFiles, XenServerVm, finished,
};
use tokio::signal::unix::{SignalKind, signal};
use vmimage::TargetFormat;

use crate::ends::{Cloud, Ends, SimDisk};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130;

/// Clone a running XenServer VM into a cloud image; its service is not stopped.
#[derive(Debug, Parser)]
#[command(name = "clone_vm", version, after_help = HELP)]
struct Cli {
    /// The VM; without it, the only one that runs
    #[arg(long, value_name = "NAME|UUID", conflicts_with = "from_vhd")]
    vm: Option<String>,
    /// Where to: glance, cloudstack, or dir:PATH for files in a folder [default: glance]
    #[arg(long, value_name = "TARGET")]
    target: Option<Target>,
    /// The image's format: qcow2, vhd, raw or vhd-tgz [default: qcow2; vhd for CloudStack]
    #[arg(long, value_name = "FORMAT")]
    format: Option<TargetFormat>,
    /// Clone this VHD and its parents in place of a VM; once for each disk
    #[arg(long, value_name = "FILE")]
    from_vhd: Vec<PathBuf>,
    /// A running VM of the simulated pool and its disk; a repeated NAME adds a disk
    #[arg(long, value_name = "NAME=FILE")]
    sim_disk: Vec<SimDisk>,
    /// Print what would be done and what speaks against it; change nothing
    #[arg(long)]
    plan: bool,
    /// Keep the run's journal in this file, so that it survives this process
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Go on with the run in the journal, or undo it; begin one if there is none
    #[arg(long, requires = "journal")]
    resume: bool,
    /// Undo the run in the journal, also one that another version of this program began
    #[arg(long, requires = "journal", conflicts_with_all = ["resume", "plan"])]
    undo: bool,
    /// Remove what a dead run left unpublished at both ends, by its id alone: it is in the names of
    /// the snapshot (migrate-run-ID) and in the image's property or name
    #[arg(long, value_name = "ID", conflicts_with_all = ["journal", "plan"])]
    sweep: Option<RunId>,
    /// Print the result as JSON on the last line of standard output
    #[arg(long)]
    json: bool,
    /// The image's name; the VM's otherwise
    #[arg(long)]
    name: Option<String>,
    /// The zone, by name or id; the only one otherwise (CloudStack)
    #[arg(long)]
    zone: Option<String>,
    /// linux or windows, where the source does not tell it; for CloudStack also the type's id, its
    /// description or words of it, as "debian 12"
    #[arg(long, value_name = "TYPE")]
    os_type: Option<String>,
    /// How the data get into CloudStack: upload sends them, url lets it fetch them from here
    #[arg(long, value_name = "upload|url", value_parser = ["upload", "url"])]
    via: Option<String>,
    /// Where to serve the data for --via url; the cloud must reach this address [default:
    /// 127.0.0.1:0]
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Option<SocketAddr>,
    /// The name or address by which the cloud reaches --bind, if it is another
    #[arg(long, value_name = "HOST")]
    public_host: Option<String>,
    /// The guest takes its password from the cloud (CloudStack)
    #[arg(long)]
    password_enabled: bool,
    /// The guest takes SSH keys from the cloud (CloudStack)
    #[arg(long)]
    ssh_key_enabled: bool,
    /// xen or kvm; by the format otherwise: xen for the VHD formats
    #[arg(long, value_name = "xen|kvm", value_parser = ["xen", "xenserver", "kvm"], ignore_case = true)]
    hypervisor: Option<String>,
    /// Whether the VM is the one of the run in the journal.
    #[arg(skip)]
    recalled: bool,
}

/// Where an image goes.
#[derive(Debug, Clone)]
enum Target {
    CloudStack,
    Glance,
    Dir(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("dir:")) {
            ("glance", _) => Ok(Self::Glance),
            (_, Some(folder)) if !folder.is_empty() => Ok(Self::Dir(folder.into())),
            ("cloudstack", _) => Ok(Self::CloudStack),
            _ => Err("it must be glance, cloudstack or dir:PATH".to_owned()),
        }
    }
}

const HELP: &str = "\
Environment:
  the pool    XEN_URL, XEN_USERNAME, XEN_PASSWORD, and XEN_CA_FILE or XEN_PIN_SHA256 or
              XEN_INSECURE=1 (otherwise the system's authorities are trusted)
  Glance      OS_CLOUD, or OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME, ...
  CloudStack  CLOUDSTACK_ENDPOINT, CLOUDSTACK_KEY, CLOUDSTACK_SECRET, and CLOUDSTACK_CA_FILE if the
              system's authorities do not know the servers' certificates
  Only the pool and the target that is chosen are looked at. With none of their variables set, simulated servers are started in this process, for this run.

Examples:
  clone_vm                                          the simulated VM into the simulated Glance
  clone_vm --vm web01 --plan                        what would be done
  clone_vm --vm web01 --journal web01.journal       a run that can be resumed
  clone_vm --vm web01 --journal web01.journal --resume
  clone_vm --from-vhd leaf.vhd --name web01         no pool: the chain straight from files
  clone_vm --vm web01 --target cloudstack --zone one
  clone_vm --vm web01 --target cloudstack --via url --bind 192.0.2.7:8080
  clone_vm --vm web01 --target dir:/images          no cloud: image files and a manifest

Ctrl-C, SIGTERM and a closed terminal (SIGHUP, unless nohup ignores it) undo the run: image and snapshot
are removed. Asking again does not end that sooner; kill -9 does, and leaves the rest to --resume or --undo.
Without --journal the journal is kept in memory only, and what a killed run left needs --sweep.

Exit codes: 0 success, also of a --resume of a finished run; 1 failure: all is undone, or what is
left behind is named; 2 a command line that cannot be read; 130 cancelled, undone. A failure prints
one line on standard error.";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), UsageError::DisplayHelp | UsageError::DisplayVersion) => {
            let _ = show::print(&e.to_string());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            // The first paragraph says it; usage and hints come behind.
            let text = e.to_string();
            let first = text.split("\n\n").next().unwrap_or_default();
            show::complain(&first.split_whitespace().collect::<Vec<_>>().join(" "));
            return ExitCode::from(USAGE);
        }
    };
    // Few threads: every one of them has its own pool of memory.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(e) => Err(Error::new(ErrorKind::Internal, "no runtime").with_source(e)),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    show::complain(&format!("error: {}", error.report()));
    ExitCode::from(match error.kind() {
        ErrorKind::Cancelled => INTERRUPTED,
        _ => FAILED,
    })
}

async fn run(mut cli: Cli) -> Result<()> {
    let journal: Box<dyn Journal> = match &cli.journal {
        // What only looks makes no file.
        Some(path) if (cli.plan || cli.undo) && !path.exists() => {
            if cli.undo {
                return Err(usage(format!("there is no journal {}", path.display())));
            }
            Box::new(MemoryJournal::new())
        }
        Some(path) => {
            let mut journal = FileJournal::open(path)?;
            let state = RunState::fold(&journal.entries())?;
            let report = finished(&mut journal).await?;
            cli.recall(&state, report.as_ref())?;
            if let Some(report) = report.filter(|_| cli.resume) {
                return show::report(&report, cli.json);
            }
            Box::new(journal)
        }
        None => Box::new(MemoryJournal::new()),
    };
    let cloud = match cli.target() {
        Target::CloudStack => Some(Cloud::CloudStack),
        Target::Glance => Some(Cloud::Glance),
        Target::Dir(_) => None,
    };
    let ends = Ends::connect(cli.from_vhd.is_empty(), cloud, &cli.sim_disk).await?;
    let result = clone(&cli, &ends, journal).await;
    ends.close().await;
    match result? {
        Some(report) => show::report(&report, cli.json),
        None => Ok(()),
    }
}

async fn clone(cli: &Cli, ends: &Ends, journal: Box<dyn Journal>) -> Result<Option<Report>> {
    let pipeline = Pipeline::boxed(cli.builder(ends).await?, cli.post_processor(ends)?);
    if cli.plan {
        let plan = pipeline.plan().await?;
        show::plan(&plan, cli.json)?;
        return plan.check().map(|()| None);
    }
    if let Some(run_id) = cli.sweep {
        let removed = pipeline.sweep(run_id).await?;
        return show::removed(run_id, &removed, cli.json).map(|()| None);
    }
    let progress = show::Progress::new();
    let context = Context::new(RunId::random()).with_observer(progress.observer());
    if cli.undo {
        let undone = pipeline.undo(journal, context).await;
        progress.clear();
        undone?;
        return show::undone(cli.json).map(|()| None);
    }
    let context = context.with_cancel(cancelled_by_signals()?);
    let result = pipeline.run(journal, context).await;
    progress.clear();
    result.map(Some)
}

impl Cli {
    /// What to clone.
    async fn builder(&self, ends: &Ends) -> Result<Box<dyn Builder>> {
        if let Some((first, others)) = self.from_vhd.split_first() {
            let files = others.iter().fold(VhdFiles::new(first), |f, disk| f.with_disk(disk));
            return Ok(Box::new(match &self.name {
                Some(name) => files.with_name(name),
                None => files,
            }));
        }
        let session = ends.xen.as_ref().ok_or_else(|| usage("there is no pool".to_owned()))?;
        Ok(Box::new(match (&self.vm, self.sweep) {
            // Of a run that began earlier: the VM may be gone.
            (Some(vm), _) if self.recalled => XenServerVm::of_run(session, vm).await?,
            (Some(vm), _) => XenServerVm::find(session, vm).await?,
            // To tidy up it need not be known.
            (None, Some(run_id)) => XenServerVm::of_run(session, &run_id.to_string()).await?,
            (None, None) => XenServerVm::only_running(session).await?,
        }))
    }

    fn target(&self) -> &Target {
        self.target.as_ref().unwrap_or(&Target::Glance)
    }

    /// What to make of it.
    fn post_processor(&self, ends: &Ends) -> Result<Box<dyn PostProcessor>> {
        match self.target() {
            Target::CloudStack => self.template(ends),
            Target::Glance => self.image(ends),
            Target::Dir(folder) => {
                let target =
                    LocalDirectory::new(folder, self.format.unwrap_or(TargetFormat::Qcow2));
                Ok(Box::new(match &self.name {
                    Some(name) => target.with_name(name),
                    None => target,
                }))
            }
        }
    }

    /// Whether `--hypervisor` names KVM; none if it is not given.
    fn kvm(&self) -> Option<bool> {
        self.hypervisor.as_ref().map(|h| h.eq_ignore_ascii_case("kvm"))
    }

    fn image(&self, ends: &Ends) -> Result<Box<dyn PostProcessor>> {
        let format = self.format.unwrap_or(TargetFormat::Qcow2);
        let glance = ends.glance.as_ref().ok_or_else(|| usage("there is no cloud".to_owned()))?;
        let mut target = OpenStackXenServer::new(glance, format);
        if let Some(name) = &self.name {
            target = target.with_name(name);
        }
        if let Some(os_type) = &self.os_type {
            target = target.with_os_type(os_type);
        }
        Ok(Box::new(match self.kvm() {
            None => target,
            Some(false) => target.with_hypervisor(openstack::Hypervisor::Xen),
            Some(true) => target.with_hypervisor(openstack::Hypervisor::Kvm),
        }))
    }

    fn template(&self, ends: &Ends) -> Result<Box<dyn PostProcessor>> {
        let format = self.format.unwrap_or(TargetFormat::VhdDynamic);
        let client =
            ends.cloudstack.as_ref().ok_or_else(|| usage("there is no cloud".to_owned()))?;
        let mut target = CloudStackTemplate::new(client, format)
            .with_password_enabled(self.password_enabled)
            .with_ssh_key_enabled(self.ssh_key_enabled);
        if let Some(zone) = &self.zone {
            target = target.with_zone(zone);
        }
        if let Some(name) = &self.name {
            target = target.with_name(name);
        }
        if let Some(os_type) = &self.os_type {
            target = target.with_os_type(os_type);
        }
        if self.via.as_deref() == Some("url") {
            let bind = self.bind.unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
            target = target.with_via(Via::Url { bind, host: self.public_host.clone() });
        }
        Ok(Box::new(match self.kvm() {
            None => target,
            Some(false) => target.with_hypervisor(cloudstack::Hypervisor::XenServer),
            Some(true) => target.with_hypervisor(cloudstack::Hypervisor::Kvm),
        }))
    }
}

/// A token that Ctrl-C, SIGTERM and a closed terminal cancel. Once the undo is under way they change
/// nothing.
fn cancelled_by_signals() -> Result<CancelToken> {
    let cancel = CancelToken::new();
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    if !hangup_is_ignored() {
        kinds.push(SignalKind::hangup());
    }
    for kind in kinds {
        let mut signals = signal(kind).map_err(|e| {
            Error::new(ErrorKind::Internal, "signals cannot be caught").with_source(e)
        })?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if cancel.is_cancelled() && std::io::stderr().is_terminal() {
                    show::complain("still undoing; the snapshot and the image are being removed");
                }
                cancel.cancel();
            }
        });
    }
    Ok(cancel)
}

/// Whether the caller (`nohup`) wants the run to survive its terminal.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|m| m & 1 == 1)
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}
