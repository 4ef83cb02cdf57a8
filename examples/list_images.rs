//! Lists the images of an OpenStack cloud, page by page as they come.
//!
//! ```sh
//! OS_CLOUD=mycloud cargo run --example list_images -- --status active --sort size --json
//! ```
//!
//! With no OS_* variable set it starts a simulated cloud on loopback and lists that.

mod openstack;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use examples::{Result, ended, plain};
use futures_util::TryStreamExt as _;
use glance_client::image::{ContainerFormat, DiskFormat};
use glance_client::image::{
    Image, ImageStatus, ListQuery, NewImage, SortDirection, SortKey, Visibility,
};
use glance_client::{CloudConfig, Glance, Upload};
use serde_json::{Value, json};
use simulator::openstack::{OpenStack, OpenStackConfig};

use openstack::connect;

/// List the images of an OpenStack cloud.
///
/// The cloud is named by OS_CLOUD and clouds.yaml, or by OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME and so on.
#[derive(Parser)]
struct Args {
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Only images with this name
    #[arg(long)]
    name: Option<String>,
    /// Only images in this status, such as active
    #[arg(long)]
    status: Option<String>,
    /// Only images that are public, private, shared or community
    #[arg(long)]
    visibility: Option<String>,
    /// Only images with this tag (repeatable: with all of them)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only images with this property, as NAME=VALUE (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    property: Vec<(String, String)>,
    /// The hidden images instead of the others
    #[arg(long)]
    hidden: bool,
    /// What comes first: the newest, the largest, or by name
    #[arg(long, value_enum, default_value_t = Sort::Newest)]
    sort: Sort,
    /// At most so many images
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sort {
    Newest,
    Size,
    Name,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("list_images", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    if let Some(config) = openstack::from_env()? {
        return list(&config, args).await;
    }
    eprintln!("list_images: no OS_* variable is set, so this is a simulated cloud");
    let simulated = OpenStack::start(OpenStackConfig::new()).await?;
    let config = openstack::of(&simulated)?;
    fill(&connect(&config).await?).await?;
    let result = list(&config, args).await;
    simulated.stop().await;
    result
}

/// Something to be listed.
async fn fill(glance: &Glance) -> Result<()> {
    for (name, data) in [("debian-13", Some("a disk")), ("empty", None)] {
        let image = NewImage::new(name, DiskFormat::Raw, ContainerFormat::Bare);
        let image = glance.create(&image).await?;
        if let Some(data) = data {
            glance.upload(&image.id, Upload::from_bytes(data)).await?;
        }
    }
    Ok(())
}

async fn list(config: &CloudConfig, args: &Args) -> Result<()> {
    let glance = connect(config).await?;
    let mut images = glance.images(&query(args));
    let mut found: Vec<Image> = Vec::new();
    // The stream asks for a page only when the one before it is used up.
    while args.limit.is_none_or(|limit| found.len() < limit) {
        match images.try_next().await? {
            Some(image) => found.push(image),
            None => break,
        }
    }
    let text = if args.json { as_json(&found)? } else { as_table(&found) };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn query(args: &Args) -> ListQuery {
    let mut query = ListQuery::new();
    if let Some(name) = &args.name {
        query = query.with_name(name);
    }
    if let Some(status) = &args.status {
        query = query.with_status(&ImageStatus::from(status.as_str()));
    }
    if let Some(visibility) = &args.visibility {
        query = query.with_visibility(&Visibility::from(visibility.as_str()));
    }
    for tag in &args.tag {
        query = query.with_tag(tag);
    }
    for (name, value) in &args.property {
        query = query.with_filter(name, value);
    }
    if args.hidden {
        query = query.with_hidden(true);
    }
    match args.sort {
        Sort::Newest => query.with_sort(SortKey::CreatedAt, SortDirection::Descending),
        Sort::Size => query.with_sort(SortKey::Size, SortDirection::Descending),
        Sort::Name => query.with_sort(SortKey::Name, SortDirection::Ascending),
    }
}

fn as_json(images: &[Image]) -> Result<String> {
    let list: Vec<Value> = images
        .iter()
        .map(|image| {
            json!({
                "id": image.id,
                "name": image.name,
                "status": image.status.as_str(),
                "visibility": image.visibility.as_ref().map(Visibility::as_str),
                "disk_format": image.disk_format.as_ref().map(DiskFormat::as_str),
                "container_format": image.container_format.as_ref().map(ContainerFormat::as_str),
                "size": image.size,
                "os_hash_algo": image.os_hash_algo,
                "os_hash_value": image.os_hash_value,
                "stores": image.stores,
                "tags": image.tags,
                "properties": image.properties,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn as_table(images: &[Image]) -> String {
    let name = |image: &Image| plain(image.name.as_deref().unwrap_or("-"));
    let width = images.iter().map(|image| name(image).chars().count()).max().unwrap_or(0).max(4);
    let mut text =
        format!("{:width$}  {:<11}  {:<6}  {:>8}  ID\n", "NAME", "STATUS", "FORMAT", "SIZE");
    for image in images {
        let status = plain(image.status.as_str());
        let format = plain(image.disk_format.as_ref().map_or("-", DiskFormat::as_str));
        let size = image
            .size
            .map_or_else(|| "-".to_owned(), |size| format!("{} M", size.div_ceil(1 << 20)));
        let (name, id) = (name(image), plain(&image.id));
        text += &format!("{name:width$}  {status:<11}  {format:<6}  {size:>8}  {id}\n");
    }
    text
}
