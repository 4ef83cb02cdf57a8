//! Faults that a test or `--fault NAME[=ARG]` switches on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The faults of one [`XenServer`](super::XenServer); clones share one set.
///
/// ```
/// use simulator::xen::Faults;
///
/// let faults = Faults::default();
/// faults.set_str("export-truncate=4096")?;
/// assert!(faults.set_str("export-trunkate=4096").is_err());
/// faults.clear();
/// # Ok::<(), String>(())
/// ```
///
/// | name | what happens |
/// |---|---|
/// | `session-invalid=N` | the N-th call with a session from now on finds that session gone, once |
/// | `task-fails=METHOD` | tasks of `Async.METHOD` are accepted and then fail, without effect |
/// | `fail-nth=N:METHOD` | the N-th call of METHOD (`*`: of any) from now on fails, once, without effect |
/// | `drop-after-effect=METHOD` | the next call of METHOD takes effect; the connection closes without an answer |
/// | `drop-before-effect=METHOD` | the connection closes at the next call of METHOD, without effect |
/// | `slow-task=MS` | every `Async` call takes this long before its effect |
/// | `login-delay=MS` | a wrong password is answered after this time (5,000 on a real server) |
/// | `task-cancelled=METHOD` | tasks of `Async.METHOD` are cancelled by somebody else, without effect |
/// | `shutdown-ignored=MS` | a guest does not react to a clean shutdown or reboot, which fails after this time |
/// | `slow-boot=MS` | a guest that starts has no screen and tells nothing for so long; without it, it is up at once |
/// | `no-agent` | guests that start have no agent: `guest_metrics` stays null |
/// | `no-dhcp` | the agents of guests that start tell no address: nothing in them asks for one |
/// | `key-loss=MS` | a change of a key within this time of the one before is lost |
/// | `master-moves=N` | the N-th call with a session from now on finds that the other host has become the master, once |
/// | `sr-full` | snapshots, clones and copies fail with `SR_BACKEND_FAILURE_44` |
/// | `chain-too-long` | snapshots fail with `SR_BACKEND_FAILURE_109` |
/// | `export-truncate=BYTES` | the export's body ends early and cleanly; the task fails |
/// | `export-500-in-body=BYTES` | after so many bytes, or at its end, the body goes on with a second status line and a page; the task fails |
/// | `export-task-fails` | the body is whole, the task fails |
/// | `export-unclean-close` | the body is whole, TLS ends without close_notify |
/// | `host-gone=BYTES` | the connection is reset after so many bytes of an export or import, and every port closes |
/// | `slow-export=BYTES_PER_SEC` | exports are paced |
/// | `import-forbidden` | imports answer 403, as to a user without the role; the task fails |
/// | `import-late-200` | an import is answered after its body, not before |
/// | `import-500-in-body=BYTES` | after so many bytes of an import its answer goes on with a second status line and a page; the task fails |
/// | `import-task-fails` | the import is taken whole, the task fails |
/// | `import-stall=BYTES` | after so many bytes of an import nothing more is read until its task is cancelled |
/// | `slow-import=BYTES_PER_SEC` | imports are paced |
/// | `slow-unplug=MS` | a VDI stays in use for this long after the end of its export |
/// | `bare-array-error` | JSON errors are bare arrays with id 0, as in emergency mode |
/// | `nan-floats` | records hold `NaN` and `Infinity` |
/// | `duplicate-keys` | the host's `license_params` repeats a key (JSON) |
/// | `unknown-enum` | records hold enum values and a field of the future, events of all classes one of a class of the future |
/// | `no-json` | `/jsonrpc` answers in XML, as the oldest servers do |
/// | `old-metrics` | `/rrd_updates` answers `json` as the oldest servers do: names without quotes, bare numbers |
/// | `old-arity` | parameters that later releases added are refused |
/// | `console-limit` | consoles answer 503, as while another viewer uses the only place |
/// | `console-eof=N` | the next N consoles answer 200 (a WebSocket: 101) and end; a snapshot of the screen is 500 |
/// | `console-reboot=N` | with the N-th change of a key from now on the guest reboots: its consoles end, and it has new ones |
/// | `console-absurd=KIND` | screens draw what they must not: `outside`, `huge`, `resize`, `encoding`, `copy` |
/// | `console-raw-frames` | consoles over WebSockets treat frames as the server's proxy does: pings and unmasked frames are data, 64 KiB is misread, there is no pong and no close frame |
/// | `redirect` | raw handlers of the first host redirect to the second one, if there is one |
#[derive(Clone, Debug, Default)]
pub struct Faults {
    set: Arc<Mutex<Set>>,
}

#[derive(Clone, Debug, Default)]
struct Set {
    session_invalid: Option<u64>,
    task_fails: Vec<String>,
    task_cancelled: Vec<String>,
    master_moves: Option<u64>,
    fail_nth: Vec<(u64, String)>,
    drop_after_effect: Vec<String>,
    drop_before_effect: Vec<String>,
    console_eof: u64,
    console_reboot: Option<u64>,
    plan: Plan,
}

/// What a screen draws that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absurd {
    /// A rectangle that ends outside the screen.
    Outside,
    /// One that is larger than anything.
    Huge,
    /// A screen that is larger than anything.
    Resize,
    /// In an encoding that nobody asked for.
    Encoding,
    /// A copy from outside the screen.
    Copy,
}

/// The faults that are plain settings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) slow_task: Option<Duration>,
    pub(crate) login_delay: Option<Duration>,
    pub(crate) slow_unplug: Option<Duration>,
    pub(crate) shutdown_ignored: Option<Duration>,
    pub(crate) slow_boot: Option<Duration>,
    pub(crate) key_loss: Option<Duration>,
    pub(crate) no_agent: bool,
    pub(crate) no_dhcp: bool,
    pub(crate) sr_full: bool,
    pub(crate) chain_too_long: bool,
    pub(crate) export_truncate: Option<u64>,
    pub(crate) export_500_in_body: Option<u64>,
    pub(crate) export_task_fails: bool,
    pub(crate) export_unclean_close: bool,
    pub(crate) host_gone: Option<u64>,
    pub(crate) slow_export: Option<u64>,
    pub(crate) import_forbidden: bool,
    pub(crate) import_late_200: bool,
    pub(crate) import_500_in_body: Option<u64>,
    pub(crate) import_task_fails: bool,
    pub(crate) import_stall: Option<u64>,
    pub(crate) slow_import: Option<u64>,
    pub(crate) bare_array_error: bool,
    pub(crate) nan_floats: bool,
    pub(crate) duplicate_keys: bool,
    pub(crate) unknown_enum: bool,
    pub(crate) no_json: bool,
    pub(crate) old_arity: bool,
    pub(crate) old_metrics: bool,
    pub(crate) redirect: bool,
    pub(crate) console_limit: bool,
    pub(crate) console_absurd: Option<Absurd>,
    pub(crate) console_raw_frames: bool,
}

impl Faults {
    /// Switches a fault on from its text `NAME` or `NAME=ARG`, as `--fault` gives it.
    ///
    /// # Errors
    /// A sentence when the name is unknown or the argument does not fit.
    pub fn set_str(&self, text: &str) -> Result<(), String> {
        let (name, arg) = match text.split_once('=') {
            Some((name, arg)) => (name, Some(arg)),
            None => (text, None),
        };
        let mut set = self.lock();
        let Set { plan, .. } = &mut *set;
        match name {
            "slow-task" => plan.slow_task = Some(millis(name, arg)?),
            "login-delay" => plan.login_delay = Some(millis(name, arg)?),
            "slow-unplug" => plan.slow_unplug = Some(millis(name, arg)?),
            "shutdown-ignored" => plan.shutdown_ignored = Some(millis(name, arg)?),
            "slow-boot" => plan.slow_boot = Some(millis(name, arg)?),
            "key-loss" => plan.key_loss = Some(millis(name, arg)?),
            "no-agent" => plan.no_agent = no_arg(name, arg)?,
            "no-dhcp" => plan.no_dhcp = no_arg(name, arg)?,
            "master-moves" => set.master_moves = Some(number(name, arg)?.max(1)),
            "task-cancelled" => set.task_cancelled.push(method(name, arg)?),
            "sr-full" => plan.sr_full = no_arg(name, arg)?,
            "chain-too-long" => plan.chain_too_long = no_arg(name, arg)?,
            "export-truncate" => plan.export_truncate = Some(number(name, arg)?),
            "export-500-in-body" => plan.export_500_in_body = Some(number(name, arg)?),
            "export-task-fails" => plan.export_task_fails = no_arg(name, arg)?,
            "export-unclean-close" => plan.export_unclean_close = no_arg(name, arg)?,
            "host-gone" => plan.host_gone = Some(number(name, arg)?),
            "slow-export" => plan.slow_export = Some(number(name, arg)?.max(1)),
            "import-forbidden" => plan.import_forbidden = no_arg(name, arg)?,
            "import-late-200" => plan.import_late_200 = no_arg(name, arg)?,
            "import-500-in-body" => plan.import_500_in_body = Some(number(name, arg)?),
            "import-task-fails" => plan.import_task_fails = no_arg(name, arg)?,
            "import-stall" => plan.import_stall = Some(number(name, arg)?),
            "slow-import" => plan.slow_import = Some(number(name, arg)?.max(1)),
            "bare-array-error" => plan.bare_array_error = no_arg(name, arg)?,
            "nan-floats" => plan.nan_floats = no_arg(name, arg)?,
            "duplicate-keys" => plan.duplicate_keys = no_arg(name, arg)?,
            "unknown-enum" => plan.unknown_enum = no_arg(name, arg)?,
            "no-json" => plan.no_json = no_arg(name, arg)?,
            "old-metrics" => plan.old_metrics = no_arg(name, arg)?,
            "old-arity" => plan.old_arity = no_arg(name, arg)?,
            "redirect" => plan.redirect = no_arg(name, arg)?,
            "console-limit" => plan.console_limit = no_arg(name, arg)?,
            "console-absurd" => plan.console_absurd = Some(absurd(name, arg)?),
            "console-raw-frames" => plan.console_raw_frames = no_arg(name, arg)?,
            "console-eof" => set.console_eof = number(name, arg)?,
            "console-reboot" => set.console_reboot = Some(number(name, arg)?.max(1)),
            "session-invalid" => set.session_invalid = Some(number(name, arg)?.max(1)),
            "task-fails" => set.task_fails.push(method(name, arg)?),
            "drop-before-effect" => set.drop_before_effect.push(method(name, arg)?),
            "drop-after-effect" => set.drop_after_effect.push(method(name, arg)?),
            "fail-nth" => {
                let parts = arg.and_then(|arg| arg.split_once(':'));
                let (n, what) = parts.ok_or_else(|| format!("fault {name} needs =N:METHOD"))?;
                set.fail_nth.push((number(name, Some(n))?.max(1), method(name, Some(what))?));
            }
            _ => return Err(format!("there is no fault named {name:?}; see --help for the list")),
        }
        Ok(())
    }

    /// Switches every fault off.
    pub fn clear(&self) {
        *self.lock() = Set::default();
    }

    /// Whether a fault that happens once (`session-invalid`, `fail-nth`, `drop-..`) is still to
    /// come: a test that puts it at every call in turn ends when it was not reached any more.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        let set = self.lock();
        set.session_invalid.is_some()
            || set.master_moves.is_some()
            || set.console_eof > 0
            || set.console_reboot.is_some()
            || !set.fail_nth.is_empty()
            || !set.drop_after_effect.is_empty()
            || !set.drop_before_effect.is_empty()
    }

    /// Whether a fault that is on needs a pool of two hosts.
    #[must_use]
    pub fn wants_second_host(&self) -> bool {
        let set = self.lock();
        set.plan.redirect || set.master_moves.is_some()
    }

    pub(crate) fn plan(&self) -> Plan {
        self.lock().plan
    }

    /// Counts a call with a session; true when that session is to be gone.
    pub(crate) fn session_dies(&self) -> bool {
        count_down(&mut self.lock().session_invalid)
    }

    /// Counts a call with a session; true when the master is to move.
    pub(crate) fn master_moves(&self) -> bool {
        count_down(&mut self.lock().master_moves)
    }

    /// Whether the console that is opened now is to end at once.
    pub(crate) fn console_is_empty(&self) -> bool {
        let mut set = self.lock();
        let empty = set.console_eof > 0;
        set.console_eof = set.console_eof.saturating_sub(1);
        empty
    }

    /// Counts a change of a key; true when the guest is to reboot with it.
    pub(crate) fn guest_reboots(&self) -> bool {
        count_down(&mut self.lock().console_reboot)
    }

    /// Counts a call of `method`; true when it is to fail.
    pub(crate) fn fails_now(&self, method: &str) -> bool {
        let mut set = self.lock();
        let mut hit = false;
        for (n, what) in &mut set.fail_nth {
            if matches(what, method) {
                *n -= 1;
                hit |= *n == 0;
            }
        }
        set.fail_nth.retain(|(n, _)| *n > 0);
        hit
    }

    pub(crate) fn task_is_cancelled(&self, method: &str) -> bool {
        self.lock().task_cancelled.iter().any(|what| matches(what, method))
    }

    pub(crate) fn task_fails(&self, method: &str) -> bool {
        self.lock().task_fails.iter().any(|what| matches(what, method))
    }

    /// Whether this call is to lose its answer; once.
    pub(crate) fn drops_answer(&self, method: &str) -> bool {
        take(&mut self.lock().drop_after_effect, method)
    }

    /// Whether this call is to be lost on its way; once.
    pub(crate) fn drops_call(&self, method: &str) -> bool {
        take(&mut self.lock().drop_before_effect, method)
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what is left; true at the last one.
fn count_down(left: &mut Option<u64>) -> bool {
    let now = left.map(|n| n - 1);
    *left = now.filter(|n| *n > 0);
    now == Some(0)
}

fn take(wanted: &mut Vec<String>, method: &str) -> bool {
    let hit = wanted.iter().position(|what| matches(what, method));
    hit.map(|i| wanted.remove(i)).is_some()
}

/// `what` without `Async.` means the method in both forms.
fn matches(what: &str, method: &str) -> bool {
    what == "*" || what == method || method.strip_prefix("Async.") == Some(what)
}

fn number(name: &str, arg: Option<&str>) -> Result<u64, String> {
    let arg = arg.ok_or_else(|| format!("fault {name} needs a number, as {name}=4096"))?;
    arg.parse().map_err(|_| format!("fault {name} needs a number, not {arg:?}"))
}

fn millis(name: &str, arg: Option<&str>) -> Result<Duration, String> {
    number(name, arg).map(Duration::from_millis)
}

fn method(name: &str, arg: Option<&str>) -> Result<String, String> {
    // `PUT /v2/images`, say, is another server's.
    let is_method = |arg: &&str| *arg == "*" || (arg.contains('.') && !arg.contains([' ', '/']));
    arg.filter(is_method)
        .map(str::to_owned)
        .ok_or_else(|| format!("fault {name} needs a method, as VM.snapshot"))
}

fn absurd(name: &str, arg: Option<&str>) -> Result<Absurd, String> {
    match arg {
        Some("outside") => Ok(Absurd::Outside),
        Some("huge") => Ok(Absurd::Huge),
        Some("resize") => Ok(Absurd::Resize),
        Some("encoding") => Ok(Absurd::Encoding),
        Some("copy") => Ok(Absurd::Copy),
        _ => Err(format!("fault {name} needs outside, huge, resize, encoding or copy")),
    }
}

fn no_arg(name: &str, arg: Option<&str>) -> Result<bool, String> {
    match arg {
        None => Ok(true),
        Some(_) => Err(format!("fault {name} takes no argument")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_faults_fire_once() {
        let faults = Faults::default();
        faults.set_str("fail-nth=2:VM.snapshot").unwrap();
        let hits: Vec<_> = ["VM.snapshot", "VM.clone", "Async.VM.snapshot", "VM.snapshot"]
            .map(|m| faults.fails_now(m))
            .into();
        assert_eq!(hits, [false, false, true, false]);
        faults.set_str("session-invalid=2").unwrap();
        assert_eq!([(); 3].map(|()| faults.session_dies()), [false, true, false]);
        faults.set_str("drop-after-effect=VM.snapshot").unwrap();
        assert!(faults.drops_answer("Async.VM.snapshot"));
        assert!(!faults.drops_answer("VM.snapshot"));
        assert!(!faults.is_pending());
    }

    #[test]
    fn bad_texts_are_refused_in_words() {
        let faults = Faults::default();
        for text in [
            "nope",
            "sr-full=1",
            "slow-task",
            "slow-task=x",
            "fail-nth=3",
            "fail-nth=1:PUT /v2/images",
        ] {
            assert!(faults.set_str(text).is_err(), "{text}");
        }
    }
}
