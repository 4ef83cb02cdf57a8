//! `cargo xtask compare-transfers`: what an export and an import over TLS cost the client, beside
//! `curl`.
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

/// Measures; `false` if ours failed, received other bytes than curl, or sent other ones than those
/// of the file.
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
    let names = [
        ["export of a small machine", "import onto a small disk"],
        ["export of a larger one", "import onto a larger one"],
    ];
    let measured = sizes.into_iter().zip(names).map(|(mib, [out, back])| {
        let (dir, runs) = (&dir, args.runs);
        let export = export(&built, dir, runs, mib, out)?;
        Ok([export, import(&built, dir, runs, mib, back)?])
    });
    let outcomes = measured.collect::<Result<Vec<_>>>();
    // Gigabytes of memory, whatever happened.
    let _ = std::fs::remove_dir_all(&dir);
    let outcomes: Vec<_> = outcomes?.into_iter().flatten().collect();
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
    let python = tools::root().join("xtask/scripts/http-get.py").display().to_string();
    let curl =
        words(&["curl", "--silent", "--show-error", "--fail", "--insecure", "-o", "-", &url]);
    let ours = pool.program(&built.export_vm, &[&pool.uuid, "-o", "-"]);
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

/// A raw disk without a zero, sent over and over onto the first disk of a snapshot: by `PUT
/// /import_raw_vdi`, with the task that ours has and curl has not.
fn import(
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
    let at = |handler: &str| {
        let Pool { url, disk, session, .. } = &pool;
        format!("{url}/{handler}?vdi={disk}&format=raw&session_id={session}")
    };
    let (from, url) = (disk.display().to_string(), at("import_raw_vdi"));
    // The server answers without being asked whether it will take the body.
    let curl = words(&[
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--insecure",
        "-H",
        "Expect:",
        "-T",
        &from,
        &url,
    ]);
    let ours = pool.program(&built.import_vm, &[&from, "--onto", &pool.disk]);
    let job = Job {
        name,
        inputs: Vec::new(),
        target: Some(TARGET),
        size_target: None,
        entries: vec![entry("curl -T", false, curl), entry("import_vm", true, ours.clone())],
    };
    let mut measured = measure(&job, runs, dir)?;
    if let Some(measured) = measured.get_mut(1) {
        measured.wrong = arrives(&ours, &at("export_raw_vdi"), &disk, dir)?;
    }
    let outcome = Outcome { job, measured };
    print!("{}", report::lines(&outcome));
    Ok(outcome)
}

/// Writes over the disk at the server, sends with ours once more, and receives what is there; says
/// so if that is not what was sent.
fn arrives(ours: &[String], url: &str, disk: &Path, dir: &Path) -> Result<Option<String>> {
    let (zeros, back) = (dir.join("zeros.raw"), dir.join("back.raw"));
    let length = std::fs::metadata(disk).and_then(|about| {
        File::create(&zeros)?.set_len(about.len())?;
        Ok(about.len())
    });
    let length = length.map_err(|e| format!("{}: {e}", zeros.display()))?;
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        passes(command.args(["--silent", "--show-error", "--fail", "--insecure"]).args(args))
    };
    let over = url.replace("/export_raw_vdi?", "/import_raw_vdi?");
    let (program, args) = ours.split_first().ok_or("there is no command")?;
    let (from, to) = (zeros.display().to_string(), back.display().to_string());
    let received = curl(&["-H", "Expect:", "-T", &from, &over])?
        && passes(Command::new(program).args(args))?
        && curl(&["-o", &to, url])?;
    if !received {
        return Ok(Some("it cannot be seen what it sent".to_owned()));
    }
    let same = passes(Command::new("cmp").arg("-n").arg(length.to_string()).args([disk, &back]))?;
    [zeros, back].iter().try_for_each(std::fs::remove_file).map_err(|e| e.to_string())?;
    Ok((!same).then(|| "the server has other bytes than the file".to_owned()))
}

fn entry(tool: &'static str, ours: bool, command: Vec<String>) -> Entry {
    Entry { tool, ours, command, stdout: None, outputs: Vec::new(), check: None }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
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
    /// The UUID of the snapshot's disk.
    disk: String,
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
            disk: text(&made["disk"]),
            session: text(&made["session"]),
            env,
            _simulator: running,
        })
    }

    /// A program of ours with its arguments, pointed at the pool; `env` becomes the program.
    fn program(&self, program: &Path, args: &[&str]) -> Vec<String> {
        let mut command = vec!["env".to_owned()];
        command.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        command.push(program.display().to_string());
        command.extend(words(args));
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
