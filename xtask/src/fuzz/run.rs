//! The runs: several processes at once, each with a folder of its own that goes away.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{Result, Running};
use crate::tools;

/// Begins the name of the folder of a run; its process id follows.
const PREFIX: &str = "vmimage-fuzz-run-";
/// How many times its processor time a run may take, on a machine that does other work.
const SHARE: u64 = 4;
/// What a run may take longer: the seeds are read first, a slow input is let go.
const GRACE: u64 = 120;

/// What a target did.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub(super) struct Outcome {
    pub(super) target: String,
    /// Processor time.
    pub(super) cpu_seconds: u64,
    pub(super) executions: u64,
    pub(super) per_second: u64,
    /// Files of the corpus: the seeds, and with what was added.
    pub(super) seeds: u64,
    pub(super) corpus: u64,
    pub(super) peak_rss_mib: u64,
    /// The inputs that were found, below the root of the workspace.
    pub(super) artifacts: Vec<String>,
    /// What the target said of them, or why it did not run.
    pub(super) failure: Option<String>,
}

/// One target that runs.
struct Run {
    process: Running,
    began: Instant,
    outcome: Outcome,
    corpus: PathBuf,
    log: PathBuf,
    before: Vec<String>,
    /// Whether it was told to end.
    told: bool,
}

/// Runs each target for so many seconds of processor time, `jobs` at once.
pub(super) fn all(
    names: &[String],
    programs: &Path,
    seconds: u64,
    jobs: usize,
) -> Result<Vec<Outcome>> {
    let ram = Path::new("/dev/shm");
    let parent = if ram.is_dir() { ram.to_owned() } else { std::env::temp_dir() };
    tools::remove_stale(&parent, PREFIX);
    let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let done = at_once(names, programs, &folder, seconds, jobs);
    let _ = std::fs::remove_dir_all(&folder);
    done
}

fn at_once(
    names: &[String],
    programs: &Path,
    folder: &Path,
    seconds: u64,
    jobs: usize,
) -> Result<Vec<Outcome>> {
    let mut waiting = names.iter();
    let (mut running, mut done): (Vec<Run>, Vec<Outcome>) = (Vec::new(), Vec::new());
    loop {
        while running.len() < jobs {
            let Some(name) = waiting.next() else { break };
            println!("{name}: {seconds} s of processor time");
            running.push(Run::start(name, programs, folder)?);
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        let limit = Duration::from_secs(seconds * SHARE);
        running.iter_mut().for_each(|run| run.watch(seconds, limit));
        let late = limit + Duration::from_secs(GRACE);
        let over = |run: &mut Run| !run.process.is_running() || run.began.elapsed() > late;
        for mut run in running.extract_if(.., over) {
            let late = run.process.is_running();
            done.push(run.finish(late)?);
        }
    }
    done.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(done)
}

impl Run {
    fn start(name: &str, programs: &Path, folder: &Path) -> Result<Self> {
        let io = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
        let artifacts = super::folder().join("artifacts").join(name);
        let (corpus, temporary) = (folder.join(name), folder.join(format!("{name}.tmp")));
        for dir in [&artifacts, &corpus, &temporary] {
            std::fs::create_dir_all(dir).map_err(|e| io(dir, e))?;
        }
        let mut seeds = 0;
        for kind in ["corpus", "regressions"] {
            seeds += copy(&super::folder().join(kind).join(name), &corpus, kind)?;
        }
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(programs.join(name));
        command
            .arg(&corpus)
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-rss_limit_mb=512", "-malloc_limit_mb=64", "-timeout=10"])
            .args(["-max_len=1048576", "-print_final_stats=1", "-reload=0"])
            .current_dir(folder)
            .env("TMPDIR", &temporary);
        let dictionary = super::folder().join("dicts").join(format!("{name}.dict"));
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        Ok(Self {
            before: files(&artifacts),
            process: Running::start(&mut command, &log)?,
            began: Instant::now(),
            outcome: Outcome { target: name.to_owned(), seeds, ..Outcome::default() },
            corpus,
            log,
            told: false,
        })
    }

    /// Takes its time, and tells it to end when that is over.
    fn watch(&mut self, seconds: u64, limit: Duration) {
        if let Some(used) = self.process.cpu_seconds() {
            self.outcome.cpu_seconds = self.outcome.cpu_seconds.max(used as u64);
        }
        let enough = self.outcome.cpu_seconds >= seconds || self.began.elapsed() > limit;
        if enough && !self.told {
            self.told = true;
            // libFuzzer ends after the input at hand, and prints its figures.
            let _ = self.process.signal("USR1");
        }
    }

    fn finish(self, late: bool) -> Result<Outcome> {
        let Self { process, mut outcome, corpus, log, before, .. } = self;
        let succeeded = if late {
            drop(process);
            false
        } else {
            process.finish(Duration::from_secs(10))?.status.success()
        };
        let said = std::fs::read(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let said = String::from_utf8_lossy(&said);
        outcome.executions = stat(&said, "number_of_executed_units");
        outcome.per_second = stat(&said, "average_exec_per_sec");
        outcome.peak_rss_mib = stat(&said, "peak_rss_mb");
        outcome.corpus = files(&corpus).len() as u64;
        let folder = format!("vmimage/fuzz/artifacts/{}", outcome.target);
        let kept = super::folder().join("artifacts").join(&outcome.target);
        let found = files(&kept);
        // Only an empty folder goes.
        let _ = std::fs::remove_dir(kept);
        // A slow input is kept by libFuzzer as well, and the run goes on.
        let new = found.into_iter().filter(|name| !before.contains(name));
        outcome.artifacts = new.map(|name| format!("{folder}/{name}")).collect();
        if !succeeded {
            outcome.failure = Some(complaint(&said, late));
        }
        Ok(outcome)
    }
}

/// Copies the files of a folder, which need not exist, under names that begin with `kind`.
fn copy(from: &Path, to: &Path, kind: &str) -> Result<u64> {
    let mut count = 0;
    for name in files(from) {
        let (from, to) = (from.join(&name), to.join(format!("{kind}-{name}")));
        std::fs::copy(&from, to).map_err(|e| format!("{}: {e}", from.display()))?;
        count += 1;
    }
    Ok(count)
}

/// The names in a folder.
fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A figure of `-print_final_stats`.
fn stat(said: &str, name: &str) -> u64 {
    let figure = said.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
    figure.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
}

/// What was wrong, in one or two lines: the panic with its message, else the fuzzer's words.
fn complaint(said: &str, late: bool) -> String {
    let mut lines = said.lines();
    let panic = lines.by_ref().find(|line| line.contains("panicked at"));
    if let Some(line) = panic {
        let place = line.rsplit_once("panicked at ").map_or(line, |(_, place)| place);
        return format!("panic at {place} {}", lines.next().unwrap_or_default());
    }
    let refused = said.lines().find(|line| line.contains("memory allocation of"));
    let error = said.lines().find(|line| line.contains("ERROR: "));
    match refused.or(error).or_else(|| said.lines().last()) {
        Some(line) => line.trim_start_matches('=').to_owned(),
        None if late => "it did not end in its time".to_owned(),
        None => "it said nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "INFO: Seed: 1\n\
        thread '<unnamed>' (9) panicked at src/vhd/bat.rs:3:4:\nindex out of bounds\n\
        ==9== ERROR: libFuzzer: deadly signal\n\
        stat::number_of_executed_units: 20\nstat::peak_rss_mb:              101\n";

    #[test]
    fn figures_and_complaints_are_found() {
        assert_eq!(stat(SAID, "number_of_executed_units"), 20);
        assert_eq!((stat(SAID, "peak_rss_mb"), stat(SAID, "average_exec_per_sec")), (101, 0));
        assert_eq!(complaint(SAID, false), "panic at src/vhd/bat.rs:3:4: index out of bounds");
        let timeout = "a\n==9== ERROR: libFuzzer: timeout after 11 seconds\n";
        assert_eq!(complaint(timeout, false), "9== ERROR: libFuzzer: timeout after 11 seconds");
        assert_eq!(complaint("", true), "it did not end in its time");
    }
}
