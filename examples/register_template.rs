//! Registers a disk image as a template of CloudStack by URL: a small server in this process hands it out, and
//! the cloud fetches it.
//!
//! ```sh
//! CLOUDSTACK_ENDPOINT=https://cloud/client/api CLOUDSTACK_KEY=… CLOUDSTACK_SECRET=… \
//!     cargo run --release --example register_template -- web01.vhd --bind 192.0.2.9:8000
//! ```
//!
//! With none of these variables set the cloud is a simulated one on loopback.

mod cloud;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cloudstack_client::serve::{Content, Server};
use cloudstack_client::templates::{self, Checksum, NewTemplate, Template, Zones};
use cloudstack_client::{preflight, zones};

use cloud::{Cloud, format_of, or_deleted, os_type, pick, shown_wait};
use examples::{Result, ended, plain};

/// Register a disk image as a template: the cloud fetches it from here.
///
/// The format is told by the file's name: .vhd, .qcow2, .raw, .img, also with .gz, .bz2 or .zip. The file
/// is served under an address that cannot be guessed, until the template is ready in its zones; a template
/// that does not become ready is deleted again. The cloud is named by CLOUDSTACK_ENDPOINT, CLOUDSTACK_KEY and
/// CLOUDSTACK_SECRET (and CLOUDSTACK_CA_FILE where its authority is not known here).
#[derive(Parser)]
struct Args {
    /// The image
    file: PathBuf,
    /// The address to serve it from, which the cloud's servers must reach
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    bind: SocketAddr,
    /// The template's name [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// Name or id of a zone; can be repeated [default: all]
    #[arg(long)]
    zone: Vec<String>,
    /// Description or id of the type of operating system
    #[arg(long, default_value = "Other Linux (64-bit)")]
    os_type: String,
    /// The hypervisor: XenServer also for XCP-ng
    #[arg(long, default_value = "XenServer")]
    hypervisor: String,
    /// The file's SHA-256, which the cloud compares after it has fetched the file
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("register_template", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    let work = async |cloud: &Cloud| register(cloud, args).await;
    let template = Cloud::with("register_template", work).await?;
    if args.json {
        let zones: Vec<_> = template.zones.iter().filter_map(|zone| zone.name.as_deref()).collect();
        let (id, name, size) = (&template.id, &template.name, template.size);
        println!("{}", serde_json::json!({"id": id, "name": name, "size": size, "zones": zones}));
    } else {
        println!("{} {}", template.id, plain(&template.name));
    }
    Ok(())
}

async fn register(cloud: &Cloud, args: &Args) -> Result<Template> {
    let client = &cloud.client;
    let (file, format, stem) = format_of(&args.file)?;
    let content = Content::file(&args.file).await?;
    let mut needs = preflight::Needs::new()
        .with_commands(["registerTemplate", "listTemplates", "deleteTemplate"])
        .with_templates(1)
        .with_secondary_storage(content.len());
    // A simulated cloud is on loopback, too.
    if !args.bind.ip().is_loopback() {
        needs = needs.with_served_from(args.bind.ip());
    }
    if let Some(finding) = client.preflight(&needs).await?.critical().next() {
        return Err(finding.to_string().into());
    }
    let wanted = zone_ids(cloud, args).await?;
    let name = args.name.as_deref().unwrap_or(stem);
    let mut new = NewTemplate::new(name, &args.hypervisor, format, "")
        .with_zones(if wanted.is_empty() { Zones::All } else { Zones::Many(wanted.clone()) })
        .with_os_type(os_type(client, &args.os_type).await?);
    if let Some(hex) = &args.sha256 {
        new = new.with_checksum(Checksum::sha256(hex));
    }
    let server = Server::builder(file, content).bind(args.bind).start().await?;
    let made = client.call(templates::register(&new, server.url().as_str())).await?;
    let ids: Vec<_> = wanted.iter().map(String::as_str).collect();
    let ready = tokio::select! {
        ready = wait(cloud, &made.id, &ids) => ready,
        stopped = tokio::signal::ctrl_c() => stopped.map_err(Into::into).and(Err("stopped".into())),
    };
    let served = server.failure();
    server.stop().await;
    let ready = ready.map_err(|error| match served {
        Some(why) => format!("{error} ({why})").into(),
        None => error,
    });
    or_deleted(client, &made.id, ready).await
}

async fn zone_ids(cloud: &Cloud, args: &Args) -> Result<Vec<String>> {
    let all = cloud.client.call_all(zones::list()).await?;
    let find = |name: &String| {
        Ok(pick(all.clone(), Some(name), "zone", |zone| (&zone.id, &zone.name))?.id)
    };
    args.zone.iter().map(find).collect()
}

async fn wait(cloud: &Cloud, id: &str, zones: &[&str]) -> Result<Template> {
    let (bar, options) = shown_wait()?;
    let ready = cloud.client.wait_ready(id, zones, &options).await?;
    bar.finish_and_clear();
    Ok(ready)
}
