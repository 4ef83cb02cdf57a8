//! Makes an image of a disk file, or of one on the web, in an OpenStack cloud; checks that what was stored is what was sent.
//!
//! ```sh
//! OS_CLOUD=mycloud cargo run --release --example upload_image -- web01.qcow2 \
//!     --name web01 --property hw_disk_bus=virtio --tag web
//! ```
//!
//! With no OS_* variable set the image goes to a simulated cloud on loopback.

mod openstack;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use examples::{Result, ended, plain};
use futures_util::{StreamExt as _, stream};
use glance_client::image::{
    self, ContainerFormat, Digests, DiskFormat, Image, Import, ImportOptions, NewImage, Visibility,
};
use glance_client::{CloudConfig, Glance, Upload, WaitOptions};
use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest as _, Md5};
use serde_json::json;
use sha2::{Sha256, Sha512};
use simulator::openstack::{OpenStack, OpenStackConfig};
use tokio::io::AsyncReadExt as _;

use openstack::connect;

/// Make an image of a disk file, or of one on the web.
///
/// The cloud is named by OS_CLOUD and clouds.yaml, or by OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME and so on. A
/// file is sent and compared with the cloud's digest; a URL is fetched by the cloud itself. An image that cannot be
/// completed is removed. What was made is printed as JSON.
#[derive(Parser)]
struct Args {
    /// The disk: a file, or a URL that begins with http:// or https://
    source: String,
    /// The image's name; that of the file without its ending if it is not given
    #[arg(long)]
    name: Option<String>,
    /// The image's id, a UUID: a second run with it makes no second image
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// raw, qcow2, vhd, vmdk…; by the ending of the file if it is not given
    #[arg(long, value_name = "FORMAT")]
    disk_format: Option<String>,
    /// What is around the disk
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
    /// Protect it from deletion
    #[arg(long)]
    protected: bool,
    /// A tag (repeatable)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// A property, as NAME=VALUE (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    property: Vec<(String, String)>,
    /// The store for the data (repeatable: the cloud then copies by itself from its stage into each of them)
    #[arg(long, value_name = "STORE")]
    store: Vec<String>,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Args {
    fn is_url(&self) -> bool {
        ["http://", "https://"].iter().any(|scheme| self.source.starts_with(scheme))
    }

    /// The part of a path or URL that names the disk.
    fn file(&self) -> PathBuf {
        let text = if self.is_url() {
            self.source.split(['?', '#']).next().unwrap_or_default()
        } else {
            &self.source
        };
        PathBuf::from(Path::new(text).file_name().unwrap_or_default())
    }

    fn image(&self) -> Result<NewImage> {
        let file = self.file();
        let name = match &self.name {
            Some(name) => name.clone(),
            None => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let ending = file.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let format = match (&self.disk_format, ending.as_str()) {
            (Some(format), _) => format,
            (None, "img") => "raw",
            (None, known @ ("raw" | "qcow2" | "vhd" | "vhdx" | "vmdk" | "vdi" | "iso")) => known,
            (None, _) => return Err("give a --disk-format: the ending does not tell it".into()),
        };
        let container = ContainerFormat::from(self.container_format.as_str());
        let mut image = NewImage::new(name, DiskFormat::from(format), container)
            .with_visibility(Visibility::from(self.visibility.as_str()))
            .with_protected(self.protected);
        image.id.clone_from(&self.id);
        (image.min_disk, image.min_ram) = (self.min_disk, self.min_ram);
        image.tags.clone_from(&self.tag);
        image.properties.extend(self.property.iter().cloned());
        Ok(image)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("upload_image", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    if let Some(config) = openstack::from_env()? {
        return make(&config, args).await;
    }
    eprintln!("upload_image: no OS_* variable is set, so this is a simulated cloud");
    let simulated = OpenStack::start(OpenStackConfig::new()).await?;
    let result = make(&openstack::of(&simulated)?, args).await;
    simulated.stop().await;
    result
}

async fn make(config: &CloudConfig, args: &Args) -> Result<()> {
    let new = args.image()?;
    // A file that cannot be read is found before anything is made.
    let disk = if args.is_url() { None } else { Some(Disk::open(&args.source).await?) };
    let glance = connect(config).await?;
    let id = glance.create(&new).await?.id;
    let filled = tokio::select! {
        filled = fill(&glance, &id, args, disk) => filled,
        stopped = tokio::signal::ctrl_c() => {
            stopped?;
            Err("stopped".into())
        }
    };
    let image = match filled {
        Ok(image) => image,
        Err(error) => return Err(remove(&glance, &id, args.protected, error).await),
    };
    let made = json!({
        "id": image.id,
        "name": image.name,
        "status": image.status.as_str(),
        "size": image.size,
        "os_hash_algo": image.os_hash_algo,
        "os_hash_value": image.os_hash_value,
        "stores": image.stores,
    });
    println!("{}", serde_json::to_string_pretty(&made)?);
    Ok(())
}

/// Removes an image that could not be completed; the error that there is to tell.
async fn remove(
    glance: &Glance,
    id: &str,
    protected: bool,
    error: Box<dyn std::error::Error + Send + Sync>,
) -> Box<dyn std::error::Error + Send + Sync> {
    if protected {
        let _ = glance
            .call(image::update(id, &image::ImagePatch::new().with("protected", false)))
            .await;
    }
    match glance.call(image::delete(id)).await {
        Ok(()) => error,
        Err(again) => format!("{error}; and it stays in the cloud: {again}").into(),
    }
}

async fn fill(glance: &Glance, id: &str, args: &Args, disk: Option<Disk>) -> Result<Image> {
    let Some(disk) = disk else {
        let import = args.store.iter().fold(Import::web(&args.source), Import::with_store);
        return Ok(glance.import(id, &import, &ImportOptions::default()).await?.image);
    };
    let (len, sums) = (disk.len, Arc::clone(&disk.sums));
    let style = "{spinner} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let bar = ProgressBar::new(len).with_style(ProgressStyle::with_template(style)?);
    let progress = bar.clone();
    let upload = Upload::new(Some(len), disk.stream())
        .with_progress(move |bytes| progress.set_position(bytes));
    let stored = match args.store.as_slice() {
        [] | [_] => {
            let upload = args.store.iter().fold(upload, Upload::with_store);
            glance.upload(id, upload).await?;
            glance.wait(id, &WaitOptions::default()).await?
        }
        several => {
            glance.stage(id, upload).await?;
            let import = several.iter().fold(Import::staged(), Import::with_store);
            glance.import(id, &import, &ImportOptions::default()).await?.image
        }
    };
    bar.finish_and_clear();
    let digests = sums.lock().unwrap_or_else(PoisonError::into_inner).clone().digests();
    let compared = image::verify(&stored, &digests, len)?;
    eprintln!("upload_image: {} bytes, {} verified", len, plain(&compared));
    Ok(stored)
}

/// A file, read once: for the wire and for the digests.
struct Disk {
    file: tokio::fs::File,
    len: u64,
    sums: Arc<Mutex<Sums>>,
}

/// What clouds compute: one of the SHA-2 by the operator's choice, and MD5.
#[derive(Clone, Default)]
struct Sums {
    md5: Md5,
    sha256: Sha256,
    sha512: Sha512,
}

impl Sums {
    fn update(&mut self, piece: &[u8]) {
        self.md5.update(piece);
        self.sha256.update(piece);
        self.sha512.update(piece);
    }

    fn digests(self) -> Digests {
        Digests::new()
            .with_md5(hex::encode(self.md5.finalize()))
            .with_sha256(hex::encode(self.sha256.finalize()))
            .with_sha512(hex::encode(self.sha512.finalize()))
    }
}

impl Disk {
    async fn open(path: &str) -> Result<Self> {
        let failed = |error: std::io::Error| format!("{path}: {error}");
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let meta = file.metadata().await.map_err(failed)?;
        if !meta.is_file() {
            return Err(format!("{path} is no file").into());
        }
        Ok(Self { file, len: meta.len(), sums: Arc::default() })
    }

    fn stream(self) -> stream::BoxStream<'static, std::io::Result<Bytes>> {
        let Self { file, sums, .. } = self;
        stream::try_unfold((file, sums), |(mut file, sums)| async move {
            let mut piece = BytesMut::with_capacity(1 << 18);
            if file.read_buf(&mut piece).await? == 0 {
                return Ok(None);
            }
            sums.lock().unwrap_or_else(PoisonError::into_inner).update(&piece);
            Ok(Some((piece.freeze(), (file, sums))))
        })
        .boxed()
    }
}
