//! Lists the virtual machines of a XenServer or XCP-ng pool: no templates, snapshots or control
//! domains.
//!
//! ```sh
//! XEN_URL=https://xen1 XEN_USERNAME=root XEN_PASSWORD=… XEN_PIN_SHA256=… \
//!     cargo run --example list_vms -- --json
//! ```
//!
//! With none of these variables set it starts a simulated pool on loopback and lists that.

mod pool;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;
use examples::{Result, ended, plain};
use serde_json::json;
use simulator::Simulator;
use xenapi::vm::Vm;
use xenapi::{Session, vm};

use pool::Pool;

/// List the virtual machines of a pool.
///
/// The pool is named by XEN_URL, XEN_USERNAME and XEN_PASSWORD, and trusted by XEN_CA_FILE,
/// XEN_PIN_SHA256 (a comma-separated list) or XEN_INSECURE=1, else by the system's authorities.
#[derive(Parser)]
struct Args {
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("list_vms", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    let pool = match Pool::from_env()? {
        Some(pool) => pool,
        None => {
            let told = "list_vms: no XEN_* variable is set, so this is a simulated pool";
            let _ = writeln!(io::stderr(), "{told}");
            let simulator = Simulator::builder().start().await?;
            let result = list(&Pool::of(&simulator)?, args.json).await;
            simulator.stop().await;
            return result;
        }
    };
    list(&pool, args.json).await
}

async fn list(pool: &Pool, json: bool) -> Result<()> {
    let session = pool.login("list_vms").await?;
    let listed = machines(&session).await;
    // The list is what was asked for; a session that could not be ended expires by itself.
    let _ = session.logout().await;
    let listed = listed?;
    let text = if json { as_json(&listed)? } else { as_table(&listed) };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

async fn machines(session: &Session) -> Result<Vec<Vm>> {
    let all = session.call(vm::get_all_records()).await?;
    let mut machines: Vec<Vm> = all
        .into_values()
        .filter(|vm| !vm.is_a_template && !vm.is_a_snapshot && !vm.is_control_domain)
        .collect();
    machines.sort_by(|a, b| (&a.name_label, &a.uuid).cmp(&(&b.name_label, &b.uuid)));
    Ok(machines)
}

fn as_json(machines: &[Vm]) -> Result<String> {
    let list: Vec<_> = machines
        .iter()
        .map(|vm| {
            json!({
                "uuid": vm.uuid,
                "name_label": vm.name_label,
                "name_description": vm.name_description,
                "power_state": vm.power_state,
                "vcpus": vm.vcpus_max,
                "memory_bytes": vm.memory_static_max,
                "tags": vm.tags,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn as_table(machines: &[Vm]) -> String {
    let rows: Vec<(String, &Vm)> = machines.iter().map(|vm| (plain(&vm.name_label), vm)).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:<9}  VCPUS   MEMORY  UUID\n", "NAME", "STATE");
    for (name, vm) in rows {
        let (state, mib) = (plain(vm.power_state.as_str()), vm.memory_static_max >> 20);
        let (vcpus, uuid) = (vm.vcpus_max, plain(&vm.uuid));
        text += &format!("{name:width$}  {state:<9}  {vcpus:>5}  {mib:>5} M  {uuid}\n");
    }
    text
}
