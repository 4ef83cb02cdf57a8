//! Uploads a disk image as a template of CloudStack: streamed, with its exact length, to the storage VM that
//! the cloud names.
//!
//! ```sh
//! CLOUDSTACK_ENDPOINT=https://cloud/client/api CLOUDSTACK_KEY=… CLOUDSTACK_SECRET=… \
//!     cargo run --release --example upload_template -- web01.vhd.gz --os-type "Debian GNU/Linux 12 (64-bit)"
//! ```
//!
//! With none of these variables set the cloud is a simulated one on loopback.

mod cloud;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use clap::Parser;
use cloudstack_client::templates::{self, Checksum, NewTemplate, Permissions, Template};
use cloudstack_client::{Upload, UploadTicket, WaitOptions, preflight};
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::AsyncReadExt as _;

use cloud::{Cloud, format_of, or_deleted, os_type};
use examples::{Result, ended, plain};

/// Upload a disk image as a template.
///
/// The format is told by the file's name: .vhd, .qcow2, .raw, .img, also with .gz, .bz2 or .zip. A template
/// that does not become ready is deleted again. The cloud is named by CLOUDSTACK_ENDPOINT, CLOUDSTACK_KEY and
/// CLOUDSTACK_SECRET (and CLOUDSTACK_CA_FILE where its authority is not known here).
#[derive(Parser)]
struct Args {
    /// The image
    file: PathBuf,
    /// The template's name [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// Name or id of the zone [default: the only one]
    #[arg(long)]
    zone: Option<String>,
    /// Description or id of the type of operating system
    #[arg(long, default_value = "Other Linux (64-bit)")]
    os_type: String,
    /// The hypervisor: XenServer also for XCP-ng
    #[arg(long, default_value = "XenServer")]
    hypervisor: String,
    /// The file's SHA-256, which the cloud compares after it has stored the file
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Its guests take passwords from the cloud
    #[arg(long)]
    password_enabled: bool,
    /// Publish it when it is ready
    #[arg(long)]
    public: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("upload_template", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    let template = Cloud::with("upload_template", async |cloud| upload(cloud, args).await).await?;
    if args.json {
        let line =
            serde_json::json!({"id": template.id, "name": template.name, "size": template.size});
        println!("{line}");
    } else {
        println!("{} {}", template.id, plain(&template.name));
    }
    Ok(())
}

async fn upload(cloud: &Cloud, args: &Args) -> Result<Template> {
    let client = &cloud.client;
    let (file, format, stem) = format_of(&args.file)?;
    let bytes = tokio::fs::metadata(&args.file).await;
    let bytes = bytes.map_err(|e| format!("{}: {e}", args.file.display()))?.len();
    let zone = cloud.zone(args.zone.as_deref()).await?;
    let needs = preflight::Needs::new()
        .with_commands(["getUploadParamsForTemplate", "listTemplates", "deleteTemplate"])
        .with_templates(1)
        .with_secondary_storage(bytes);
    if let Some(finding) = client.preflight(&needs).await?.critical().next() {
        return Err(finding.to_string().into());
    }
    let name = args.name.as_deref().unwrap_or(stem);
    let mut new = NewTemplate::new(name, &args.hypervisor, format, &zone.id)
        .with_os_type(os_type(client, &args.os_type).await?)
        .with_password_enabled(args.password_enabled);
    if let Some(hex) = &args.sha256 {
        new = new.with_checksum(Checksum::sha256(hex));
    }
    let ticket = client.call(templates::upload_params(&new)).await?;
    let id = ticket.id().to_owned();
    or_deleted(client, &id, finish(cloud, args, ticket, file, bytes, &zone.id).await).await
}

/// Sends the data, waits, and publishes what was asked to be public.
async fn finish(
    cloud: &Cloud,
    args: &Args,
    ticket: UploadTicket,
    file: &str,
    bytes: u64,
    zone: &str,
) -> Result<Template> {
    let (client, id) = (&cloud.client, ticket.id().to_owned());
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}")?;
    let (bar, stop) = (ProgressBar::new(bytes).with_style(style), Arc::new(AtomicBool::new(false)));
    let shown = bar.clone();
    let data = Upload::new(bytes, read(args.file.clone()))
        .with_file_name(file)
        .with_progress(move |sent| shown.set_position(sent))
        .with_cancel(Arc::clone(&stop));
    let shown = bar.clone();
    let options = WaitOptions::default()
        .with_cancel(Arc::clone(&stop))
        .with_progress(move |last, _| shown.set_message(plain(last)));
    let work = async {
        client.upload(ticket, data).await?;
        client.wait_ready(&id, &[zone], &options).await
    };
    tokio::pin!(work);
    let template = tokio::select! {
        ready = &mut work => ready?,
        stopped = tokio::signal::ctrl_c() => {
            stopped?;
            stop.store(true, Ordering::Relaxed);
            work.await?
        }
    };
    bar.finish_and_clear();
    if args.public {
        client.call(templates::set_permissions(&id, &Permissions::new().with_public(true))).await?;
    }
    Ok(template)
}

fn read(path: PathBuf) -> futures_util::stream::BoxStream<'static, std::io::Result<bytes::Bytes>> {
    futures_util::stream::try_unfold(None::<tokio::fs::File>, move |file| {
        let path = path.clone();
        async move {
            let mut file = match file {
                Some(file) => file,
                None => tokio::fs::File::open(path).await?,
            };
            let mut piece = BytesMut::with_capacity(256 << 10);
            let read = file.read_buf(&mut piece).await?;
            Ok((read > 0).then(|| (piece.freeze(), Some(file))))
        }
    })
    .boxed()
}
