//! Processes that always end: each is ours, known by its pid, and limited in time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// An error is one line for a person.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// How a finished process ended and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// All of its standard output.
    pub(crate) stdout: String,
    /// Where its standard error went.
    pub(crate) stderr: PathBuf,
}

impl Finished {
    /// Itself if the process succeeded, else a line with the end of its standard error.
    pub(crate) fn success(self) -> Result<Self> {
        if self.status.success() { Ok(self) } else { Err(self.complaint()) }
    }

    /// What a person should read about its failure.
    pub(crate) fn complaint(&self) -> String {
        let said = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        format!("{} ({}; all of it: {})", last.trim(), self.status, self.stderr.display())
    }

    /// The last line of its output as JSON.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        let line = self.stdout.lines().rev().find(|line| !line.trim().is_empty());
        let line = line.ok_or_else(|| "the process printed nothing".to_owned())?;
        serde_json::from_str(line).map_err(|e| format!("its last line is not JSON ({e}): {line}"))
    }
}

/// A running process that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Running {
    /// Starts `command`; standard error goes to `log`, standard input is empty.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let what = Path::new(command.get_program())
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let file = File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(|e| format!("cannot start {what}: {e}"))?;
        Ok(Self { child, what, log: log.to_owned() })
    }

    /// How many seconds of processor time it has used, where the system tells.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        // The name in the second field may hold anything; the times are in hundredths.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / 100.0)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The first line that it prints; the rest of its output is read and dropped.
    pub(crate) fn first_line(&mut self, limit: Duration) -> Result<String> {
        let stdout = self.child.stdout.take().ok_or("its output was read before")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                // Nobody listens after the first line, and the pipe must not fill up.
                let _ = sender.send(line);
            }
        });
        receiver.recv_timeout(limit).map_err(|_| {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last = said.lines().last().unwrap_or("no message");
            format!("{} did not become ready: {last}", self.what)
        })
    }

    /// Sends it a signal by name, such as `INT`.
    pub(crate) fn signal(&mut self, name: &str) -> Result<()> {
        if !self.is_running() {
            return Err(format!("{} ended before it could be sent SIG{name}", self.what));
        }
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        match sent {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("could not send SIG{name} to {}", self.what)),
        }
    }

    /// Waits for its end; after `limit` it is killed and that is the error.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Finished> {
        let reader = self.child.stdout.take().map(|mut stdout| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = stdout.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if began.elapsed() < limit => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(None) => return Err(format!("{} took over {} s", self.what, limit.as_secs())),
                Err(e) => return Err(format!("{}: {e}", self.what)),
            }
        };
        let stdout = reader.and_then(|thread| thread.join().ok()).unwrap_or_default();
        Ok(Finished { status, stdout, stderr: self.log.clone() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            // A server gets the chance to end in order before it is killed.
            let _ = self.signal("TERM");
            let began = Instant::now();
            while self.is_running() && began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end within `limit`.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<Finished> {
    Running::start(command, log)?.finish(limit)
}

/// Runs `command` with our own output; true if it succeeded.
pub(crate) fn passes(command: &mut Command) -> Result<bool> {
    let what = command.get_program().to_string_lossy().into_owned();
    Ok(command.status().map_err(|e| format!("cannot start {what}: {e}"))?.success())
}
