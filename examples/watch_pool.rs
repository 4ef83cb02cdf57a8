//! Shows what changes in a XenServer or XCP-ng pool, as it changes.
//!
//! ```sh
//! XEN_URL=https://xen1 XEN_USERNAME=root XEN_PASSWORD=… XEN_PIN_SHA256=… \
//!     cargo run --example watch_pool -- --class vm --class task
//! ```
//!
//! With none of these variables set it watches a simulated pool on loopback, in which a machine is
//! renamed and snapshotted.

mod pool;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::{Result, ended, plain};
use serde_json::{Value, json};
use simulator::Simulator;
use xenapi::{Cache, Change, Session, vm};

use pool::Pool;

/// Show what changes in a pool: objects that come, go, or have other values.
///
/// First come the numbers of objects that there are, then a line for each change, until Ctrl-C.
/// The pool is named by XEN_URL, XEN_USERNAME and XEN_PASSWORD, and trusted by XEN_CA_FILE,
/// XEN_PIN_SHA256 (a comma-separated list) or XEN_INSECURE=1, else by the system's authorities.
/// Without any of them a simulated pool is watched.
#[derive(Parser)]
struct Args {
    /// A class to watch, such as vm, vdi, host, task; may be repeated. Without it: vm, vdi, sr,
    /// host and pool
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,
    /// Stop after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Print a JSON object on each line: class, reference, what happened, the fields that differ
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("watch_pool", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    if let Some(pool) = Pool::from_env()? {
        return watch(&pool, args).await;
    }
    eprintln!("watch_pool: no XEN_* variable is set, so this is a simulated pool");
    let simulator = Simulator::builder().start().await?;
    let pool = Pool::of(&simulator)?;
    let result = tokio::select! {
        watched = watch(&pool, args) => watched,
        Err(error) = live(&pool) => Err(error),
    };
    simulator.stop().await;
    result
}

/// Some life in the simulated pool.
async fn live(pool: &Pool) -> Result<std::convert::Infallible> {
    let session = pool.login("watch_pool demonstration").await?;
    let all = session.call(vm::get_all_records()).await?;
    let guest = all.iter().find(|(_, vm)| !vm.is_control_domain && !vm.is_a_template);
    let (guest, _) = guest.ok_or("the simulated pool has no machine")?;
    for round in 1.. {
        tokio::time::sleep(Duration::from_millis(500)).await;
        session.call(vm::set_name_label(guest, &format!("web01, round {round}"))).await?;
        session.call(vm::snapshot(guest, &format!("snapshot {round}"))).await?;
    }
    unreachable!("there is always another round")
}

async fn watch(pool: &Pool, args: &Args) -> Result<()> {
    let session = pool.login("watch_pool").await?;
    let limit = args.seconds.map_or(Duration::MAX, Duration::from_secs);
    let watched = tokio::select! {
        watched = follow(&session, args) => watched,
        stopped = tokio::signal::ctrl_c() => stopped.map_err(Into::into),
        () = tokio::time::sleep(limit) => Ok(()),
    };
    // What was asked for was shown; a session that could not be ended expires by itself.
    let _ = session.logout().await;
    match watched {
        // The reader has seen enough.
        Err(e) if is_broken_pipe(e.as_ref()) => Ok(()),
        other => other,
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

async fn follow(session: &Session, args: &Args) -> Result<()> {
    const USUAL: [&str; 5] = ["vm", "vdi", "sr", "host", "pool"];
    let classes = match args.class.as_slice() {
        [] => USUAL.map(str::to_owned).to_vec(),
        named => named.to_vec(),
    };
    let mut cache = session.cache(classes.iter().map(String::as_str)).await?;
    for class in &classes {
        let count = cache.references(class).count();
        show(args, &json!({"class": class, "objects": count}), &format!("{count:>6} {class}"))?;
    }
    loop {
        for change in cache.update().await? {
            let (value, line) = told(&change, &cache);
            show(args, &value, &line)?;
        }
    }
}

/// A change as JSON, and as a line.
fn told(change: &Change, cache: &Cache) -> (Value, String) {
    let record = change.after.as_deref().or(change.before.as_deref());
    let text = |field: &str| record.and_then(|record| record.get(field)?.as_str()).map(plain);
    let name = text("name_label").or_else(|| text("uuid")).unwrap_or_default();
    let (what, sign) = match (&change.before, &change.after) {
        (None, _) => ("add", '+'),
        (_, None) => ("del", '-'),
        _ => ("mod", '~'),
    };
    let mut fields = Vec::new();
    if what == "mod" {
        fields = change.fields().into_iter().collect();
    }
    let of = |record: Option<&Value>, field: &str| match record.and_then(|r| r.get(field)) {
        Some(Value::String(text)) if text.len() <= 40 => plain(text),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "…".to_owned(),
    };
    let (before, after) = (change.before.as_deref(), change.after.as_deref());
    let differences: Vec<String> = fields
        .iter()
        .map(|field| format!("{field}: {} → {}", of(before, field), of(after, field)))
        .collect();
    let count = cache.references(&change.class).count();
    let value = json!({"class": change.class, "ref": change.reference, "operation": what,
        "name": name, "fields": fields, "objects": count});
    let class = plain(&change.class);
    (value, format!("{sign} {class:<8} {name}  {}", differences.join(", ")).trim_end().to_owned())
}

/// Prints a line, at once: whoever reads it may wait for it.
fn show(args: &Args, value: &Value, line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{value}")?
    } else {
        writeln!(out, "{line}")?
    }
    out.flush()
}
