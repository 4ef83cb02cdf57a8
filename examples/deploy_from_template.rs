//! Deploys a machine of a template of CloudStack, and can put it into service behind a load balancer in place
//! of another machine.
//!
//! ```sh
//! CLOUDSTACK_ENDPOINT=https://cloud/client/api CLOUDSTACK_KEY=… CLOUDSTACK_SECRET=… \
//!     cargo run --release --example deploy_from_template -- web01 --name web02 --rule web --replace web01-old
//! ```
//!
//! With none of these variables set the cloud is a simulated one on loopback.

mod cloud;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cloudstack_client::templates::{self, Template, TemplateFilter};
use cloudstack_client::virtual_machines::{self, NewVirtualMachine, VirtualMachine};
use cloudstack_client::{Client, WaitOptions, load_balancers, networks, offerings};

use cloud::{Cloud, pick, shown_wait};
use examples::{Result, ended, plain};

/// Deploy a machine of a template.
///
/// With --job the id of the deployment is kept in a file before it is sent: started again with the same file,
/// the program waits for that deployment in place of making a second machine. The cloud is named by
/// CLOUDSTACK_ENDPOINT, CLOUDSTACK_KEY and CLOUDSTACK_SECRET (and CLOUDSTACK_CA_FILE where its authority is
/// not known here).
#[derive(Parser)]
struct Args {
    /// Name or id of the template
    template: String,
    /// The machine's name
    #[arg(long)]
    name: Option<String>,
    /// Name or id of the zone [default: the only one]
    #[arg(long)]
    zone: Option<String>,
    /// Name or id of the service offering [default: the smallest]
    #[arg(long)]
    offering: Option<String>,
    /// Name or id of a network; can be repeated [default: the cloud's choice]
    #[arg(long)]
    network: Vec<String>,
    /// Name of an SSH key
    #[arg(long)]
    key_pair: Option<String>,
    /// File with data for the guest, as cloud-init reads them
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Name or id of a load balancer's rule, which the machine is assigned to
    #[arg(long)]
    rule: Option<String>,
    /// Name or id of the machine that leaves the rule then
    #[arg(long, value_name = "MACHINE", requires = "rule")]
    replace: Option<String>,
    /// File in which the job's id is kept
    #[arg(long, value_name = "FILE")]
    job: Option<PathBuf>,
    /// Print the machine's password, which the cloud tells only now
    #[arg(long)]
    show_password: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("deploy_from_template", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    let work = async |cloud: &Cloud| {
        tokio::select! {
            done = deploy(cloud, args) => done,
            stopped = tokio::signal::ctrl_c() => stopped.map_err(Into::into)
                .and(Err("stopped; a deployment that was sent goes on at the cloud".into())),
        }
    };
    let machine = Cloud::with("deploy_from_template", work).await?;
    let address = machine.address().unwrap_or_default();
    let password = machine.password.as_ref().filter(|_| args.show_password);
    let password = password.map(cloudstack_client::Password::reveal);
    if args.json {
        let (id, name) = (&machine.id, &machine.name);
        let line =
            serde_json::json!({"id": id, "name": name, "address": address, "password": password});
        println!("{line}");
    } else {
        println!("{} {} {address}", machine.id, plain(&machine.name));
        if let Some(password) = password {
            println!("password {password}");
        }
    }
    Ok(())
}

async fn deploy(cloud: &Cloud, args: &Args) -> Result<VirtualMachine> {
    let client = &cloud.client;
    let zone = cloud.zone(args.zone.as_deref()).await?;
    let template = template(client, &args.template).await?;
    let sizes = client.call_all(offerings::services()).await?;
    let size = match &args.offering {
        Some(name) => pick(sizes, Some(name), "service offering", |one| (&one.id, &one.name))?,
        None => sizes
            .into_iter()
            .filter(|size| size.is_customized != Some(true))
            .min_by_key(|size| (size.memory_mib, size.cpus))
            .ok_or("the cloud has no service offering of a fixed size: choose one")?,
    };
    let mut new = NewVirtualMachine::new(&zone.id, &size.id, &template.id);
    if let Some(name) = &args.name {
        new = new.with_name(name);
    }
    if let Some(key) = &args.key_pair {
        new = new.with_key_pair(key);
    }
    if let Some(file) = &args.user_data {
        let data = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        new = new.with_user_data(data);
    }
    if !args.network.is_empty() {
        let all = client.call_all(networks::usable_in(&zone.id)).await?;
        let find = |name: &String| {
            Ok(pick(all.clone(), Some(name), "network", |one| (&one.id, &one.name))?.id)
        };
        let ids = args.network.iter().map(find).collect::<Result<Vec<_>>>()?;
        new = new.with_networks(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let rule = match &args.rule {
        Some(name) => {
            let all = client.call_all(load_balancers::list()).await?;
            Some(pick(all, Some(name), "load balancer rule", |one| (&one.id, &one.name))?)
        }
        None => None,
    };
    let machine = started(client, args, &new).await?;
    if let Some(rule) = rule {
        into_service(client, &rule.id, &machine, args.replace.as_deref()).await?;
    }
    Ok(machine)
}

/// The template of this id, or the only one of this name.
async fn template(client: &Client, wanted: &str) -> Result<Template> {
    let rows = client.call_all(templates::list(TemplateFilter::Executable)).await?;
    let all = templates::merge(rows);
    pick(all, Some(wanted), "template that is ready", |one| (&one.id, &one.name))
}

/// Deploys, or waits for what the kept job deploys.
async fn started(client: &Client, args: &Args, new: &NewVirtualMachine) -> Result<VirtualMachine> {
    let (bar, options) = shown_wait()?;
    let call = virtual_machines::deploy(new);
    let machine = match &args.job {
        None => client.run(call.with_new_job_id()?, &options).await?,
        Some(file) => match std::fs::read_to_string(file) {
            Ok(line) => {
                let kept: cloudstack_client::job::StoredJob = line.parse()?;
                client.resume(call.with_job_id(kept.id), &options).await?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let call = call.with_new_job_id()?;
                let kept = call.stored().ok_or("the call has no job id")?;
                // On the disk before it is sent, so that it cannot be forgotten.
                let written = std::fs::write(file, format!("{kept}\n"))
                    .and_then(|()| std::fs::File::open(file)?.sync_all());
                written.map_err(|e| format!("{}: {e}", file.display()))?;
                client.run(call, &options).await?
            }
            Err(error) => return Err(format!("{}: {error}", file.display()).into()),
        },
    };
    bar.finish_and_clear();
    Ok(machine)
}

/// The new machine comes first, so that the rule is never without one.
async fn into_service(
    client: &Client,
    rule: &str,
    machine: &VirtualMachine,
    old: Option<&str>,
) -> Result<()> {
    let options = WaitOptions::default();
    client.run(load_balancers::assign(rule, &[&machine.id]), &options).await?;
    if let Some(old) = old {
        let members = client.call_all(load_balancers::members(rule)).await?;
        let old = pick(members, Some(old), "member of the rule", |one| (&one.id, &one.name))?;
        client.run(load_balancers::remove(rule, &[&old.id]), &options).await?;
    }
    Ok(())
}
