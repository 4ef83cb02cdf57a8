//! A double of a XenServer pool: JSON-RPC, XML-RPC, tasks, events, disks and machines out and in,
//! consoles, measurements, blobs.

mod audit;
mod blob;
mod chain;
mod console;
mod db;
mod desk;
mod disk;
mod dispatch;
mod event;
mod export;
mod fault;
mod fixture;
mod generic;
mod guest;
mod http;
mod import;
mod import_disk;
mod import_store;
mod import_xva;
mod json;
mod metrics;
mod others;
mod ova;
mod pool;
mod qcow2;
mod rfb;
mod role;
mod rrd;
mod schema;
mod serve;
mod task;
mod tls;
mod value;
mod vdi;
mod vhd;
mod vm;
mod vncsnapshot;
mod websocket;
mod wsproxy;
mod xml;
mod xva;

pub use fault::Faults;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use fixture::Guest;
use pool::{HostFacts, Pool, State};
use serve::Host;
use value::text;

/// Settings of a [`XenServer`]; every one has a default.
///
/// ```
/// use simulator::xen::XenConfig;
///
/// let config = XenConfig::new().with_plain(true).with_disk("web01", "/images/web01.vhd");
/// assert_eq!(config.username(), "root");
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct XenConfig {
    port: u16,
    plain: bool,
    second_host: bool,
    storage_at_second_host: bool,
    pv: bool,
    username: String,
    password: String,
    disks: Vec<(String, PathBuf)>,
    faults: Faults,
}

impl XenConfig {
    /// The defaults: https on a free port, user `root`, one host, the small fixture pool.
    #[must_use]
    pub fn new() -> Self {
        Self {
            port: 0,
            plain: false,
            second_host: false,
            storage_at_second_host: false,
            pv: false,
            username: "root".to_owned(),
            password: "simulated-password".to_owned(),
            disks: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// The master listens on this port of 127.0.0.1; 0 takes a free one.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Serves http in place of https.
    #[must_use]
    pub fn with_plain(mut self, plain: bool) -> Self {
        self.plain = plain;
        self
    }

    /// Adds a pool member with a port and a certificate of its own. Raw handlers of the master
    /// redirect to it while the fault `redirect` is on.
    #[must_use]
    pub fn with_second_host(mut self, second_host: bool) -> Self {
        self.second_host = second_host;
        self
    }

    /// Adds a pool member as [`with_second_host`](Self::with_second_host) does, and plugs the
    /// storage there alone: raw handlers of the master redirect to it.
    #[must_use]
    pub fn with_storage_at_second_host(mut self, only_there: bool) -> Self {
        self.storage_at_second_host = only_there;
        self.second_host |= only_there;
        self
    }

    /// Makes the guests ones without hardware emulation: their screens speak RFB 3.3 only, and each
    /// has a text console beside it.
    #[must_use]
    pub fn with_pv_guests(mut self, pv: bool) -> Self {
        self.pv = pv;
        self
    }

    /// The name of the user who may everything. Besides there is one for each lesser role, with
    /// the same password: `read-only`, `vm-operator`, `vm-admin`, `vm-power-admin`,
    /// `pool-operator`.
    #[must_use]
    pub fn with_username(mut self, name: impl Into<String>) -> Self {
        self.username = name.into();
        self
    }

    /// The user's password.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = password.into();
        self
    }

    /// Adds a disk to the running VM of that name; the first call for a name makes the VM. The
    /// fixture's own VM is left out as soon as there is one. The file may be any image that
    /// `vmimage` opens.
    #[must_use]
    pub fn with_disk(mut self, vm: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.disks.push((vm.into(), file.into()));
        self
    }

    /// Starts with these faults, and shares them.
    #[must_use]
    pub fn with_faults(mut self, faults: &Faults) -> Self {
        self.faults = faults.clone();
        self
    }

    /// The user's name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user's password. It protects nothing: the double lives on loopback.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl Default for XenConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for XenConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XenConfig")
            .field("port", &self.port)
            .field("plain", &self.plain)
            .field("second_host", &self.second_host)
            .field("pv", &self.pv)
            .field("username", &self.username)
            .field("disks", &self.disks)
            .finish_non_exhaustive()
    }
}

/// A running pool. Dropping it stops it, as [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct XenServer {
    handle: XenHandle,
    gone: Arc<watch::Sender<bool>>,
    config: XenConfig,
    /// The fixture's disk files live as long as the pool.
    _files: Option<TempDir>,
}

/// Since how many seconds before the start everything is measured.
const MEASURED_BEFORE: i64 = 30 * 60;

/// How often a running guest's heart beats.
const TICK: Duration = Duration::from_millis(10);

impl XenServer {
    /// Listens on 127.0.0.1 and serves until it is stopped.
    ///
    /// # Errors
    /// The port is taken; a disk file cannot be opened (the text names it).
    pub async fn start(config: XenConfig) -> io::Result<Self> {
        let (guests, files) = guests(&config)?;
        let mut listeners = Vec::new();
        let mut facts = Vec::new();
        for index in 0..=usize::from(config.second_host) {
            let port = if index == 0 { config.port } else { 0 };
            let listener = crate::net::listen("XenServer", port).await?;
            let name = format!("xenserver-{}", index + 1);
            let (certificate, tls) = if config.plain {
                (None, None)
            } else {
                let (certificate, tls) = tls::server(&name)?;
                (Some(certificate), Some(tls))
            };
            facts.push(HostFacts { name, port: listener.local_addr()?.port(), certificate });
            listeners.push((listener, tls));
        }
        let measured_since = jiff::Timestamp::now().as_second() - MEASURED_BEFORE;
        let mut state = State { measured_since, ..State::default() };
        fixture::fill(&mut state, &facts, guests, config.pv);
        if config.storage_at_second_host {
            fixture::unplug_storage(&mut state);
        }
        let (username, password) = (config.username.clone(), config.password.clone());
        let pool = Arc::new(Pool::new(username, password, config.faults.clone(), facts, state));
        let gone = Arc::new(watch::channel(false).0);
        serve(&pool, &gone, listeners);
        Ok(Self { handle: XenHandle { pool }, gone, config, _files: files })
    }

    /// The pool as tests see it.
    #[must_use]
    pub fn handle(&self) -> &XenHandle {
        &self.handle
    }

    /// The settings it was started with.
    #[must_use]
    pub fn config(&self) -> &XenConfig {
        &self.config
    }

    /// The URL of the master, e.g. `https://127.0.0.1:40443`.
    #[must_use]
    pub fn url(&self) -> String {
        self.handle.url(0).unwrap_or_default()
    }

    /// Stops serving and ends open connections.
    pub async fn stop(self) {
        self.gone.send_replace(true);
        tokio::task::yield_now().await;
    }
}

impl Drop for XenServer {
    fn drop(&mut self) {
        self.gone.send_replace(true);
    }
}

fn guests(config: &XenConfig) -> io::Result<(Vec<Guest>, Option<TempDir>)> {
    if config.disks.is_empty() {
        let files = TempDir::with_prefix("xen-simulator-")?;
        let guest = fixture::web01(files.path())?;
        return Ok((vec![guest], Some(files)));
    }
    let mut guests: Vec<Guest> = Vec::new();
    for (name, path) in &config.disks {
        let disk = disk::open(path)?;
        match guests.iter_mut().find(|guest| guest.name == *name) {
            Some(guest) => guest.disks.push(disk),
            None => guests.push(Guest { name: name.clone(), disks: vec![disk] }),
        }
    }
    Ok((guests, None))
}

fn serve(
    pool: &Arc<Pool>,
    gone: &Arc<watch::Sender<bool>>,
    listeners: Vec<(TcpListener, Option<TlsAcceptor>)>,
) {
    for (index, (listener, tls)) in listeners.into_iter().enumerate() {
        let host = Host { pool: Arc::clone(pool), index, gone: Arc::clone(gone) };
        tokio::spawn(host.listen(listener, tls));
    }
    let pool = Arc::clone(pool);
    let mut gone = gone.subscribe();
    tokio::spawn(async move {
        let mut clock = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = gone.wait_for(|gone| *gone) => return,
                _ = clock.tick() => {}
            }
            let plan = pool.faults.plan();
            pool.with(|state| {
                guest::come_up(state, plan);
                let State { db, ticks, .. } = state;
                for (vm, count) in ticks {
                    let running =
                        db.raw("VM", vm).is_ok_and(|r| text(r, "power_state") == "Running");
                    *count += u64::from(running);
                }
            });
        }
    });
}

/// What tests ask a running pool, past its API. Clones see the same pool.
#[derive(Clone, Debug)]
pub struct XenHandle {
    pool: Arc<Pool>,
}

impl XenHandle {
    /// Everything that exists, by class and reference, in one order: equal before and after
    /// means that nothing was left behind and nothing was changed. Tasks count, sessions
    /// do not (see [`sessions`](Self::sessions)).
    #[must_use]
    pub fn inventory(&self) -> serde_json::Value {
        self.pool.with(|state| state.db.inventory())
    }

    /// How many sessions are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.pool.with(|state| state.sessions.len())
    }

    /// The originators of the open sessions.
    #[must_use]
    pub fn originators(&self) -> Vec<String> {
        self.pool.with(|state| state.sessions.values().map(|s| s.originator.clone()).collect())
    }

    /// The names of the methods that were called and the raw handlers that were asked for, in
    /// order; never a parameter.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.pool.with(|state| state.calls.clone())
    }

    /// Every operation that stopped or paused a running guest; empty while the service lived.
    #[must_use]
    pub fn interruptions(&self) -> Vec<String> {
        self.pool.with(|state| state.interruptions.clone())
    }

    /// How often the heart of a running guest has beaten (every 10 ms); `None` if no VM with
    /// this name-label has ever run.
    #[must_use]
    pub fn ticks(&self, name_label: &str) -> Option<u64> {
        self.pool.with(|state| {
            let State { db, ticks, .. } = state;
            let mut named = ticks.iter().filter(|(vm, _)| {
                db.raw("VM", vm).is_ok_and(|r| text(r, "name_label") == name_label)
            });
            named.next().map(|(_, count)| *count)
        })
    }

    /// What was typed at a guest's console, as the guest understood it on a US keyboard: characters,
    /// a line end for Return, other keys by name (`<f2>`, `<ctrl-c>`). `None` without such a VM.
    #[must_use]
    pub fn typed(&self, name_label: &str) -> Option<String> {
        self.at_desk(name_label, |desk| desk.typed.clone())
    }

    /// Every change of a key at a guest's console: its X11 keysym, and whether it went down.
    #[must_use]
    pub fn key_events(&self, name_label: &str) -> Option<Vec<(u32, bool)>> {
        self.at_desk(name_label, |desk| desk.events.clone())
    }

    /// The text on a guest's screen, without the blanks at the ends of its 25 rows.
    #[must_use]
    pub fn screen_text(&self, name_label: &str) -> Option<String> {
        self.at_desk(name_label, |desk| desk.screen.text())
    }

    /// Writes on a guest's screen.
    pub fn show(&self, name_label: &str, text: &str) {
        self.at_desk(name_label, |desk| text.chars().for_each(|c| desk.screen.put(c)));
        self.pool.screen_changed();
    }

    fn at_desk<T>(&self, name_label: &str, work: impl FnOnce(&mut desk::Desk) -> T) -> Option<T> {
        self.pool.with(|state| {
            let State { db, ticks, .. } = &*state;
            let found = ticks
                .keys()
                .find(|vm| db.raw("VM", vm).is_ok_and(|r| text(r, "name_label") == name_label));
            let vm = found?.clone();
            Some(work(state.desk(&vm)))
        })
    }

    /// Ends every session, as a restart of a real server's toolstack may.
    pub fn drop_sessions(&self) {
        self.pool.with(|state| state.sessions.clear());
    }

    /// Makes another host the master, as `pool.designate_new_master` does or the loss of a host:
    /// every session ends, and the former master sends everyone to the new one.
    ///
    /// # Panics
    /// If the pool has no such host.
    pub fn move_master(&self, host: usize) {
        let moved = self.pool.with(|state| state.move_master(host));
        assert!(moved, "the pool has no host {host}");
    }

    /// The switches of the faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.pool.faults
    }

    /// The URL of a host; 0 is the master at first.
    #[must_use]
    pub fn url(&self, host: usize) -> Option<String> {
        let facts = self.pool.hosts.get(host)?;
        let scheme = if facts.certificate.is_some() { "https" } else { "http" };
        Some(format!("{scheme}://127.0.0.1:{}", facts.port))
    }

    /// The pin of a host's certificate: lower-case hex SHA-256 of its DER. `None` with plain http.
    #[must_use]
    pub fn pin_sha256(&self, host: usize) -> Option<String> {
        self.pool.hosts.get(host)?.certificate.as_ref().map(|c| c.sha256.clone())
    }

    /// A host's certificate as PEM. `None` with plain http.
    #[must_use]
    pub fn certificate_pem(&self, host: usize) -> Option<String> {
        self.pool.hosts.get(host)?.certificate.as_ref().map(|c| c.pem.clone())
    }

    /// A summary for a person: how much exists of what.
    #[must_use]
    pub fn summary(&self) -> serde_json::Value {
        let counts = self.pool.with(|state| state.db.counts());
        json!({ "objects": counts, "sessions": self.sessions() })
    }
}
