//! Uploads a disk as an image of an OpenStack cloud: checked before it is sent, compared when it has arrived, and
//! removed if it has not.
//!
//! ```sh
//! OS_CLOUD=mycloud cargo run --release --example upload_image -- web01.qcow2 --property os_type=linux
//! ```
//!
//! The cloud is the one of `--os-cloud`, of `OS_CLOUD` or of `OS_AUTH_URL` and its companions. With none of these the
//! image goes into a simulated cloud on loopback.

mod cloud;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use glance_client::image::{
    ContainerFormat, DiskFormat, NewImage, StoreOptions, Stored, Visibility,
};
use glance_client::{Glance, Upload};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use cloud::{Cloud, Result, ended, plain, print};

/// Upload a disk as an image.
///
/// The image is compared by the cloud's own hash with what was sent. What fails is sent again where that helps; an
/// image that does not arrive is deleted. The cloud is named by --os-cloud, OS_CLOUD (in clouds.yaml) or OS_AUTH_URL
/// and so on.
#[derive(Parser)]
struct Args {
    /// The file to send
    file: PathBuf,
    /// The image's name (default: the file's without its ending)
    #[arg(long)]
    name: Option<String>,
    /// The image's id, a UUID: a second run then finds the first one's image and fails
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// raw, qcow2, vhd, vmdk, iso… (default: by the file's ending, else raw)
    #[arg(long, value_name = "FORMAT")]
    disk_format: Option<String>,
    /// bare, ovf… (a gzipped tar with 0.vhd in it is vhd in ovf)
    #[arg(long, value_name = "FORMAT", default_value = "bare")]
    container_format: String,
    /// private, shared, community or public
    #[arg(long, default_value = "private")]
    visibility: String,
    /// The least disk, in GiB
    #[arg(long, value_name = "GIB")]
    min_disk: Option<u64>,
    /// The least memory, in MiB
    #[arg(long, value_name = "MIB")]
    min_ram: Option<u64>,
    /// A property (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    property: Vec<(String, String)>,
    /// A tag (repeatable)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Protect it from deletion, once it is there
    #[arg(long)]
    protected: bool,
    /// Put the data into this store of the cloud
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// How often the data is sent at most
    #[arg(long, default_value_t = 3)]
    attempts: u32,
    /// Keep an image whose data did not arrive
    #[arg(long)]
    keep_failed: bool,
    /// The cloud's name in clouds.yaml
    #[arg(long, value_name = "NAME")]
    os_cloud: Option<String>,
    /// Print a JSON object instead of a line
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("upload_image", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    // Before anything is asked of a cloud.
    let upload = Upload::from_file(&args.file)?;
    let cloud = Cloud::find("upload_image", args.os_cloud.as_deref()).await?;
    let stored = send(&cloud, upload, args).await;
    cloud.leave().await;
    let stored = stored?;
    print(&if args.json { as_json(&stored)? } else { as_line(&stored) })
}

async fn send(cloud: &Cloud, upload: Upload, args: &Args) -> Result<Stored> {
    let glance = cloud.glance().await?;
    let cancel = Arc::new(AtomicBool::new(false));
    let bar = bar(upload.len)?;
    let seen = bar.clone();
    let mut upload = upload
        .with_cancel(Arc::clone(&cancel))
        .with_progress(move |bytes| seen.set_position(bytes));
    if let Some(store) = &args.store {
        upload = upload.with_store(store);
    }
    let mut options =
        StoreOptions::default().with_attempts(args.attempts).with_keep_failed(args.keep_failed);
    options.wait = options.wait.with_cancel(Arc::clone(&cancel));
    let stopping = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.store(true, Ordering::Relaxed);
        }
    });
    let stored = glance.store(&image(args), upload, &options).await;
    stopping.abort();
    bar.finish_and_clear();
    let stored = stored?;
    if args.protected {
        protect(&glance, &stored.image.id).await?;
    }
    Ok(stored)
}

/// Not before: a protected image could not be removed if its data did not arrive.
async fn protect(glance: &Glance, id: &str) -> Result<()> {
    use glance_client::image::{ImagePatch, update};
    glance.call(update(id, &ImagePatch::new().with("protected", true))).await?;
    Ok(())
}

fn bar(len: Option<u64>) -> Result<ProgressBar> {
    let style = "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let bar = len.map_or_else(ProgressBar::no_length, ProgressBar::new);
    Ok(bar.with_style(ProgressStyle::with_template(style)?))
}

fn image(args: &Args) -> NewImage {
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_default();
    let disk = args.disk_format.clone().unwrap_or_else(|| by_ending(&args.file).to_owned());
    let disk = DiskFormat::from(disk.as_str());
    let mut image =
        NewImage::new(name, disk, ContainerFormat::from(args.container_format.as_str()))
            .with_visibility(Visibility::from(args.visibility.as_str()));
    image.id.clone_from(&args.id);
    (image.min_disk, image.min_ram) = (args.min_disk, args.min_ram);
    image.tags.clone_from(&args.tag);
    image.properties.extend(args.property.iter().cloned());
    image
}

/// A wrong guess is found before anything is sent.
fn by_ending(file: &Path) -> &'static str {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let known = ["iso", "qcow2", "vdi", "vhd", "vhdx", "vmdk"];
    let ending = ending.to_ascii_lowercase();
    known.into_iter().find(|known| *known == ending).unwrap_or("raw")
}

fn as_json(stored: &Stored) -> Result<String> {
    let image = &stored.image;
    let object = json!({
        "id": image.id,
        "name": image.name,
        "status": image.status.as_str(),
        "size": stored.bytes,
        "virtual_size": image.virtual_size,
        "md5": stored.digests.md5,
        "sha512": stored.digests.sha512,
        "compared": stored.compared,
        "attempts": stored.attempts,
    });
    Ok(serde_json::to_string_pretty(&object)? + "\n")
}

fn as_line(stored: &Stored) -> String {
    let name = plain(stored.image.name.as_deref().unwrap_or("-"));
    let (id, bytes, by) = (plain(&stored.image.id), stored.bytes, plain(&stored.compared));
    format!("{name} is image {id}: {bytes} bytes, compared by {by}\n")
}
