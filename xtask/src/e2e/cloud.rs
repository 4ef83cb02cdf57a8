//! The real Keystone and Glance, and a view of any Glance that is not ours.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::clone::Environment;
use super::{Context, Stop};
use crate::process::{self, Result};
use crate::tools::script;

/// Keystone and Glance from PyPI on loopback.
#[derive(Debug)]
pub(crate) struct RealCloud {
    dir: PathBuf,
    log: PathBuf,
    ports: (String, String),
    /// It ran before we came, so it runs after we have gone.
    found: bool,
}

/// Starts them, or finds them running.
pub(crate) fn prepare(context: &Context<'_>) -> std::result::Result<RealCloud, Stop> {
    let dir = context.args.openstack.clone().unwrap_or_else(|| context.work.join("openstack"));
    let log = context.work.join("openstack.log");
    let old = ports_of(&dir);
    let mut cloud = RealCloud { dir, log, ports: old.clone().unwrap_or_default(), found: true };
    if old.is_some() && cloud.call("status").is_ok() {
        return Ok(cloud);
    }
    cloud.found = false;
    // The catalogue in the database names the ports: with other ports it starts afresh.
    let usable = old.is_some_and(|(a, b)| [a, b].iter().all(|port| is_free(port)));
    if !usable {
        cloud.ports = free_ports()?;
        if cloud.dir.join("clouds.yaml").exists() {
            cloud.call("wipe")?;
        }
    }
    eprintln!("e2e: starting Keystone and Glance in {} (a minute, once)", cloud.dir.display());
    cloud
        .call("install")
        .map_err(|why| Stop::Skip(format!("Keystone and Glance could not be installed: {why}")))?;
    cloud.call("up")?;
    Ok(cloud)
}

impl RealCloud {
    fn call(&self, verb: &str) -> Result<()> {
        self.call_with(verb, &[])
    }

    fn call_with(&self, verb: &str, settings: &[(&str, &str)]) -> Result<()> {
        let mut command = script("openstack-up.sh");
        command.arg(&self.dir).arg(verb).envs(settings.iter().copied());
        command.env("KEYSTONE_PORT", &self.ports.0).env("GLANCE_PORT", &self.ports.1);
        process::run(&mut command, &self.log, Duration::from_secs(900))?.success().map(drop)
    }

    /// Whether it is ours to stop and start.
    pub(crate) fn is_ours(&self) -> bool {
        !self.found
    }

    /// Starts it anew with these variables of `openstack-up.sh`. What it stores stays.
    pub(crate) fn restart(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.call("stop")?;
        self.call_with("up", settings)
    }

    /// The `clouds.yaml` with `demo`, `other` and `admin`.
    pub(crate) fn clouds(&self) -> PathBuf {
        self.dir.join("clouds.yaml")
    }

    /// The variables of a plain tenant.
    pub(crate) fn environment(&self) -> Environment {
        let mut env = Environment::default();
        env.set("OS_AUTH_URL", &json!(format!("http://127.0.0.1:{}/v3", self.ports.0)));
        for name in ["OS_USERNAME", "OS_PROJECT_NAME"] {
            env.set(name, &json!("demo"));
        }
        env.set("OS_PASSWORD", &json!("secret"));
        env.domains();
        env
    }

    /// Stops what we started.
    pub(crate) fn stop(&self, keep: bool) {
        if !self.found
            && !keep
            && let Err(why) = self.call("stop")
        {
            eprintln!("e2e: Keystone and Glance did not stop: {why}");
        }
    }
}

/// The ports of an earlier `up`.
fn ports_of(dir: &Path) -> Option<(String, String)> {
    let clouds = std::fs::read_to_string(dir.join("clouds.yaml")).ok()?;
    let config = std::fs::read_to_string(dir.join("etc/glance/gunicorn.py")).ok()?;
    let digits = |text: &str, mark: &str| {
        let rest = text.split(mark).nth(1)?;
        Some(rest.chars().take_while(char::is_ascii_digit).collect::<String>())
    };
    Some((digits(&clouds, "http://127.0.0.1:")?, digits(&config, "127.0.0.1:")?))
}

fn is_free(port: &str) -> bool {
    port.parse().is_ok_and(|port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

fn free_ports() -> Result<(String, String)> {
    let bind = || TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"));
    let (one, two) = (bind()?, bind()?); // both held, so that they differ
    let port = |listener: &TcpListener| match listener.local_addr() {
        Ok(address) => Ok(address.port().to_string()),
        Err(e) => Err(e.to_string()),
    };
    Ok((port(&one)?, port(&two)?))
}

/// A Glance seen through Python's standard library.
#[derive(Debug)]
pub(crate) struct Onlooker<'a> {
    env: &'a Environment,
    log: PathBuf,
}

impl<'a> Onlooker<'a> {
    /// Looks at the Glance that `env` names.
    pub(crate) fn new(env: &'a Environment, folder: &Path) -> Self {
        Self { env, log: folder.join("glance-image.log") }
    }

    fn ask(&self, args: &[&OsStr]) -> Result<Value> {
        let mut command = script("glance-image.py");
        command.args(args);
        self.env.apply(&mut command);
        process::run(&mut command, &self.log, Duration::from_secs(900))?.success()?.json()
    }

    /// All images of the tenant.
    pub(crate) fn list(&self) -> Result<Vec<Value>> {
        let list = self.ask(&["list".as_ref()])?;
        Ok(list.as_array().cloned().unwrap_or_default())
    }

    /// One image.
    pub(crate) fn show(&self, id: &str) -> Result<Value> {
        self.ask(&["show".as_ref(), id.as_ref()])
    }

    /// Its data into `file`; the digests of what came.
    pub(crate) fn download(&self, id: &str, file: &Path) -> Result<Value> {
        self.ask(&["download".as_ref(), id.as_ref(), file.as_ref()])
    }

    /// Removes it.
    pub(crate) fn delete(&self, id: &str) -> Result<()> {
        self.ask(&["delete".as_ref(), id.as_ref()]).map(drop)
    }
}
