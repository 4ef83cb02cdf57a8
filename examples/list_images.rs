//! Lists the images that a project sees in an OpenStack cloud.
//!
//! ```sh
//! OS_CLOUD=mycloud cargo run --example list_images -- --status active --json
//! ```
//!
//! The cloud is the one of `--os-cloud`, of `OS_CLOUD` or of `OS_AUTH_URL` and its companions. With none of these it
//! lists the images of a simulated cloud on loopback, which has none.

mod cloud;

use std::process::ExitCode;

use clap::Parser;
use glance_client::Glance;
use glance_client::image::{Image, ListQuery};
use serde_json::{Value, json};

use cloud::{Cloud, Result, ended, plain, print};

/// List the images that a project sees.
///
/// The cloud is named by --os-cloud, OS_CLOUD (in clouds.yaml) or OS_AUTH_URL and so on.
#[derive(Parser)]
struct Args {
    /// Only those with this name
    #[arg(long)]
    name: Option<String>,
    /// Only those with this tag (repeatable: with all of them)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only those in this status: active, queued, deactivated…
    #[arg(long)]
    status: Option<String>,
    /// Only those that are public, private, shared or community
    #[arg(long)]
    visibility: Option<String>,
    /// Only those with this property (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    property: Vec<(String, String)>,
    /// Only those that are hidden from lists
    #[arg(long)]
    hidden: bool,
    /// The cloud's name in clouds.yaml
    #[arg(long, value_name = "NAME")]
    os_cloud: Option<String>,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
}

/// More images than anybody would list.
const MOST: usize = 100_000;

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("list_images", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    let cloud = Cloud::find("list_images", args.os_cloud.as_deref()).await?;
    let listed = list(&cloud, args).await;
    cloud.leave().await;
    let listed = listed?;
    print(&if args.json { as_json(&listed)? } else { as_table(&listed) })
}

async fn list(cloud: &Cloud, args: &Args) -> Result<Vec<Image>> {
    let glance: Glance = cloud.glance().await?;
    let mut query = ListQuery::new();
    if let Some(name) = &args.name {
        query = query.with_name(name);
    }
    for tag in &args.tag {
        query = query.with_tag(tag);
    }
    let filters = [("status", &args.status), ("visibility", &args.visibility)];
    for (field, value) in filters.into_iter().filter_map(|(f, v)| Some((f, v.as_ref()?))) {
        query = query.with_filter(field, value);
    }
    for (name, value) in &args.property {
        query = query.with_filter(name, value);
    }
    if args.hidden {
        query = query.with_filter("os_hidden", "true");
    }
    let mut images = glance.list_all(&query, MOST).await?;
    images.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(images)
}

fn as_json(images: &[Image]) -> Result<String> {
    let list: Vec<Value> = images
        .iter()
        .map(|image| {
            json!({
                "id": image.id,
                "name": image.name,
                "status": image.status.as_str(),
                "visibility": image.visibility.as_ref().map(|word| word.as_str()),
                "disk_format": image.disk_format.as_ref().map(|word| word.as_str()),
                "container_format": image.container_format.as_ref().map(|word| word.as_str()),
                "size": image.size,
                "virtual_size": image.virtual_size,
                "checksum": image.checksum,
                "os_hash_algo": image.os_hash_algo,
                "os_hash_value": image.os_hash_value,
                "min_disk": image.min_disk,
                "min_ram": image.min_ram,
                "protected": image.protected,
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
    let mut text = format!("{:width$}  STATUS       FORMAT        SIZE  ID\n", "NAME");
    for image in images {
        let format = image.disk_format.as_ref().map_or("-", |format| format.as_str());
        let size = image.size.map_or_else(|| "-".to_owned(), |bytes| format!("{} M", bytes >> 20));
        text += &format!(
            "{:width$}  {:<11}  {:<6}  {:>10}  {}\n",
            name(image),
            plain(image.status.as_str()),
            plain(format),
            size,
            plain(&image.id)
        );
    }
    text
}
