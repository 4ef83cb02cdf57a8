//! The state that all hosts of the pool share, behind one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use vmimage::Disk;

use super::audit::Audit;
use super::db::{Db, fresh_ref};
use super::desk::Desk;
use super::fault::Faults;
use super::role::Role;
use super::value::{ApiError, Record, Value, text};
use super::xml;

/// The pool: database, sessions, disks, and what the tests ask about.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) faults: Faults,
    pub(crate) hosts: Vec<HostFacts>,
    state: Mutex<State>,
    /// The database's generation and the number of sessions: those who wait look again.
    news: watch::Sender<(u64, usize)>,
    /// Moves when a guest's screen may show something else.
    screens: watch::Sender<()>,
}

/// What a host knows about itself before the pool exists.
#[derive(Debug, Clone)]
pub(crate) struct HostFacts {
    pub(crate) name: String,
    pub(crate) port: u16,
    /// The certificate, unless the host serves plain HTTP.
    pub(crate) certificate: Option<super::tls::Certificate>,
}

/// An open session.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) originator: String,
    pub(crate) role: Role,
}

/// What the lock protects.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) db: Db,
    pub(crate) sessions: BTreeMap<String, Login>,
    pub(crate) disks: BTreeMap<String, Arc<dyn Disk>>,
    /// How many exports read a VDI at the moment.
    pub(crate) exports: BTreeMap<String, usize>,
    /// Tasks that something works on; the others are only records.
    pub(crate) running: BTreeSet<String>,
    /// Tasks that go away as soon as nothing works on them.
    pub(crate) doomed: BTreeSet<String>,
    /// Guests that are booting, by VM, and since when.
    pub(crate) boots: BTreeMap<String, Instant>,
    /// When a key last changed at a guest's keyboard, by VM.
    pub(crate) last_keys: BTreeMap<String, Instant>,
    /// Heartbeats of the running guests, by VM.
    pub(crate) ticks: BTreeMap<String, u64>,
    /// Every operation that stopped or paused a running guest.
    pub(crate) interruptions: Vec<String>,
    /// Names of the methods and raw handlers that were called, in order.
    pub(crate) calls: Vec<String>,
    /// Which of the hosts is the master.
    pub(crate) master: usize,
    /// The references of the hosts, in the order of [`Pool::hosts`].
    pub(crate) hosts: Vec<String>,
    /// Their URLs.
    pub(crate) urls: Vec<String>,
    /// Keyboards and screens of guests, by VM.
    pub(crate) desks: BTreeMap<String, Desk>,
    /// What blobs hold, once something was written to them.
    pub(crate) blobs: BTreeMap<String, File>,
    pub(crate) audit: Audit,
    /// Before this moment nothing was measured, in seconds since 1970.
    pub(crate) measured_since: i64,
}

impl Pool {
    pub(crate) fn new(
        username: String,
        password: String,
        faults: Faults,
        hosts: Vec<HostFacts>,
        state: State,
    ) -> Self {
        let (news, _) = watch::channel((state.db.generation(), 0));
        Self {
            username,
            password,
            faults,
            hosts,
            state: Mutex::new(state),
            news,
            screens: watch::channel(()).0,
        }
    }

    /// Works on the state; those who wait for events learn of changes.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let now = (state.db.generation(), state.sessions.len());
        drop(state);
        self.news.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        result
    }

    /// A receiver that learns of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<(u64, usize)> {
        self.news.subscribe()
    }

    /// A receiver that learns when a guest's screen may show something else.
    pub(crate) fn screens(&self) -> watch::Receiver<()> {
        self.screens.subscribe()
    }

    pub(crate) fn screen_changed(&self) {
        self.screens.send_replace(());
    }

    /// The role of those who know the password: the pool's own account may everything, and there
    /// is one for each role, of that name.
    pub(crate) fn role_of(&self, username: &str, password: &str) -> Option<Role> {
        if password != self.password {
            return None;
        }
        if username == self.username { Some(Role::PoolAdmin) } else { Role::from_name(username) }
    }

    /// Opens a session for `originator`.
    pub(crate) fn open_session(&self, originator: &str, role: Role) -> String {
        let session = fresh_ref();
        let login = Login { originator: originator.to_owned(), role };
        self.with(|state| state.sessions.insert(session.clone(), login));
        session
    }

    /// The role of an open session.
    pub(crate) fn session_role(&self, session: &str) -> Result<Role, ApiError> {
        let role = self.with(|state| state.sessions.get(session).map(|login| login.role));
        role.ok_or_else(|| ApiError::new("SESSION_INVALID", [session]))
    }

    pub(crate) fn check_session(&self, session: &str) -> Result<(), ApiError> {
        self.session_role(session).map(drop)
    }

    /// Marks a pending task as worked on, so that a cancellation reaches the worker.
    pub(crate) fn adopt_task(&self, task: &str) {
        self.with(|state| {
            if state.db.raw("task", task).is_ok() {
                state.running.insert(task.to_owned());
            }
        });
    }

    /// Whether the client has asked to cancel the task.
    pub(crate) fn is_cancelled(&self, task: &str) -> bool {
        self.with(|state| match state.db.raw("task", task) {
            Ok(record) => matches!(text(record, "status"), "cancelling" | "cancelled"),
            Err(_) => false,
        })
    }

    /// Moves a task's progress on, never back.
    pub(crate) fn progress(&self, task: &str, to: f64) {
        self.with(|state| {
            let now = state.db.raw("task", task).ok().and_then(|r| r.get("progress")?.as_float());
            if now.is_some_and(|now| now < to) {
                let _ = state.db.set("task", task, "progress", Value::Float(to));
            }
        });
    }

    /// Ends a task; one that is gone or has ended is left alone.
    pub(crate) fn finish_task(&self, task: &str, result: Result<Value, ApiError>) {
        self.with(|state| state.finish_task(task, result));
    }
}

impl State {
    /// Makes another host the master: every session ends. False if there is no such host.
    pub(crate) fn move_master(&mut self, host: usize) -> bool {
        let Some(reference) = self.hosts.get(host).cloned() else { return false };
        let pools: Vec<String> = self.db.iter("pool").map(|(r, _)| r.to_owned()).collect();
        for pool in pools {
            // It is there: its reference was just read.
            let _ = self.db.set("pool", &pool, "master", reference.as_str());
        }
        self.master = host;
        self.sessions.clear();
        true
    }

    /// The keyboard and the screen of a guest.
    pub(crate) fn desk(&mut self, vm: &str) -> &mut Desk {
        self.desks.entry(vm.to_owned()).or_default()
    }

    /// A pending task on the first host.
    pub(crate) fn new_task(&mut self, label: &str, description: &str) -> String {
        let host = self.hosts.first().cloned().unwrap_or_default();
        self.db.insert(
            "task",
            Record::from([
                ("name_label".to_owned(), label.into()),
                ("name_description".to_owned(), description.into()),
                ("created".to_owned(), now()),
                ("finished".to_owned(), Value::Time("19700101T00:00:00Z".to_owned())),
                ("status".to_owned(), "pending".into()),
                ("type".to_owned(), "<none/>".into()),
                ("resident_on".to_owned(), host.into()),
                ("allowed_operations".to_owned(), super::value::set(["cancel", "destroy"])),
            ]),
        )
    }

    pub(crate) fn finish_task(&mut self, task: &str, result: Result<Value, ApiError>) {
        self.running.remove(task);
        let Ok(record) = self.db.raw("task", task) else { return };
        let cancelled = match text(record, "status") {
            "pending" => false,
            "cancelling" => true,
            _ => return,
        };
        let result = match result {
            Err(_) if cancelled => Err(ApiError::new("TASK_CANCELLED", [task])),
            other => other,
        };
        let status = match &result {
            Ok(_) => "success",
            Err(_) if cancelled => "cancelled",
            Err(_) => "failure",
        };
        let (answer, error) = match result {
            // A void result is an empty text, not an empty value.
            Ok(Value::Str(s)) if s.is_empty() => (String::new(), Vec::new()),
            Ok(value) => (xml::text(&value), Vec::new()),
            Err(error) => (String::new(), error.description()),
        };
        for (field, value) in [
            ("result", Value::Str(answer)),
            ("error_info", Value::Array(error)),
            ("progress", Value::Float(1.0)),
            ("finished", now()),
            ("allowed_operations", super::value::set(["destroy"])),
            ("status", status.into()),
        ] {
            let _ = self.db.set("task", task, field, value);
        }
        if self.doomed.remove(task) {
            self.db.remove("task", task);
        }
    }

    /// Why this VDI cannot be destroyed or read by another, if it cannot.
    pub(crate) fn vdi_user(&self, vdi: &str) -> Option<&'static str> {
        if self.exports.get(vdi).is_some_and(|n| *n > 0) {
            return Some("export");
        }
        let attached = self.db.referrers("VBD", "VDI", vdi).iter().any(|vbd| {
            self.db.raw("VBD", vbd).is_ok_and(|r| super::value::truth(r, "currently_attached"))
        });
        attached.then_some("attached")
    }
}

/// The time in the server's spelling.
pub(crate) fn now() -> Value {
    Value::Time(jiff::Timestamp::now().strftime("%Y%m%dT%H:%M:%SZ").to_string())
}
