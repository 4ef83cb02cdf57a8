//! `cargo xtask compare-transfers`: what an export over TLS costs the client, beside `curl`.
//!
//! The server is the simulator in a process of its own, whose time does not count.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::jobs::{Entry, Job};
use super::report::{self, About};
use super::{Outcome, measure, tell_bad};
use crate::process::{self, Result, Running, passes};
use crate::tools;

/// Begins the name of the folder of a run; its process id follows.
const PREFIX: &str = "compare-transfers-";
/// What our CPU time may be, as a multiple of curl's.
const TARGET: f64 = 1.1;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Small disks: to see that it works, not what it costs
    #[arg(long)]
    quick: bool,
    /// Rounds that count, after one that does not
    #[arg(long, default_value_t = 9)]
    runs: u32,
    /// Where the table, the chart and the figures go (default: benches/results, or with --quick
    /// target/compare)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Measures; `false` if ours failed or received other bytes than curl.
pub(crate) fn run(args: &Args) -> Result<bool> {
    if tools::find("curl").is_none() {
        return Err("there is no curl here, which is what ours is measured against".to_owned());
    }
    let built = tools::build_transfers()?;
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    tools::remove_stale(&parent, PREFIX);
    let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let sizes = if args.quick { [16, 64] } else { [256, 2048] };
    let names = ["export of a small machine", "export of a larger one"];
    let outcomes: Result<Vec<_>> = sizes
        .into_iter()
        .zip(names)
        .map(|(mib, name)| export(&built, &dir, args.runs, mib, name))
        .collect();
    // Gigabytes of memory, whatever happened.
    let _ = std::fs::remove_dir_all(&dir);
    let outcomes = outcomes?;
    let results = if args.quick { "target/compare" } else { "benches/results" };
    let out = args.out.clone().unwrap_or_else(|| tools::root().join(results));
    let about = About {
        name: "transfers",
        title: "What transfers cost",
        command: "compare-transfers",
        quick: args.quick,
        runs: args.runs,
    };
    report::write(&outcomes, about, &out)?;
    println!("written: {}", out.display());
    Ok(tell_bad(&outcomes))
}

/// A machine whose disk has so many MiB without a zero, exported over and over.
fn export(
    built: &tools::Transfers,
    dir: &Path,
    runs: u32,
    mib: u64,
    name: &'static str,
) -> Result<Outcome> {
    println!("{name}: {mib} MiB");
    let disk = dir.join("disk.raw");
    write_noise(&disk, mib).map_err(|e| format!("{}: {e}", disk.display()))?;
    let pool = Pool::start(&built.simulator, &disk, dir)?;
    let url = format!("{}/export?uuid={}&session_id={}", pool.url, pool.uuid, pool.session);
    let entry = |tool, ours, command: Vec<String>| Entry {
        tool,
        ours,
        command,
        stdout: None,
        outputs: Vec::new(),
        check: None,
    };
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let python = tools::root().join("xtask/scripts/http-get.py").display().to_string();
    let curl =
        words(&["curl", "--silent", "--show-error", "--fail", "--insecure", "-o", "-", &url]);
    let ours = pool.exporting(&built.export_vm);
    let job = Job {
        name,
        inputs: Vec::new(),
        target: Some(TARGET),
        size_target: None,
        entries: vec![
            entry("curl", false, curl.clone()),
            entry("export_vm", true, ours.clone()),
            entry("Python urllib", false, words(&["python3", &python, &url])),
        ],
    };
    let mut measured = measure(&job, runs, dir)?;
    if let Some(measured) = measured.get_mut(1) {
        measured.wrong = differ(&curl, &ours, dir)?;
    }
    let outcome = Outcome { job, measured };
    print!("{}", report::lines(&outcome));
    Ok(outcome)
}

/// Receives once more with both, into files; says so if these differ.
fn differ(curl: &[String], ours: &[String], dir: &Path) -> Result<Option<String>> {
    let files = [dir.join("curl.xva"), dir.join("ours.xva")];
    for (command, file) in [curl, ours].into_iter().zip(&files) {
        let (program, args) = command.split_first().ok_or("there is no command")?;
        let stdout = File::create(file).map_err(|e| format!("{}: {e}", file.display()))?;
        if !passes(Command::new(program).args(args).stdout(stdout))? {
            return Ok(Some(format!("{program} failed")));
        }
    }
    let same = passes(Command::new("cmp").args(&files))?;
    files.iter().try_for_each(std::fs::remove_file).map_err(|e| e.to_string())?;
    Ok((!same).then(|| "it received other bytes than curl".to_owned()))
}

/// A simulated pool in another process, with a snapshot to export.
struct Pool {
    url: String,
    /// Variables that point our programs at it.
    env: Vec<(String, String)>,
    uuid: String,
    session: String,
    /// Ends with this.
    _simulator: Running,
}

impl Pool {
    fn start(simulator: &Path, disk: &Path, dir: &Path) -> Result<Self> {
        let mut command = Command::new(simulator);
        command.args(["--xen-port", "0", "--cloudstack-port", "0", "--openstack-port", "0"]);
        command.arg("--disk").arg(format!("web01={}", disk.display()));
        let mut running = Running::start(&mut command, &dir.join("simulator.log"))?;
        let line = running.first_line(Duration::from_secs(60))?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).map_err(|e| format!("the simulator's ready line: {e}"))?;
        let env: Vec<(String, String)> = ["url", "username", "password", "pin_sha256"]
            .into_iter()
            .filter_map(|name| {
                let value = ready["xen"][name].as_str()?.to_owned();
                Some((format!("XEN_{}", name.to_uppercase()), value))
            })
            .collect();
        let mut script = tools::script("snapshot-vm.py");
        script.envs(env.iter().cloned());
        let limit = Duration::from_secs(60);
        let made =
            process::run(&mut script, &dir.join("snapshot.log"), limit)?.success()?.json()?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            url: text(&ready["xen"]["url"]),
            uuid: text(&made["uuid"]),
            session: text(&made["session"]),
            env,
            _simulator: running,
        })
    }

    /// `export_vm` of the snapshot; `env` becomes the program that it names.
    fn exporting(&self, export_vm: &Path) -> Vec<String> {
        let mut command = vec!["env".to_owned()];
        command.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        command.push(export_vm.display().to_string());
        command.extend([&self.uuid, "-o", "-"].map(str::to_owned));
        command
    }
}

/// Numbers that look random and are the same each time: nothing in them is zero for long.
fn write_noise(path: &Path, mib: u64) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..mib << 17 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()
}
