//! The program that the README shows. Both ends come from the environment.

use glance_client::{CloudConfig, Glance, keystone};
use migrate_core::journal::FileJournal;
use migrate_core::openstack::OpenStackXenServer;
use migrate_core::{Context, Pipeline, RunId, XenServerVm};
use xenapi::{Client, Pin, Trust};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let trust = Trust::Pins(Pin::parse_list(&std::env::var("XEN_PIN_SHA256")?)?);
    let client = Client::builder(&std::env::var("XEN_URL")?).trust(trust).build()?;
    let pool = client.login("root", std::env::var("XEN_PASSWORD")?, "readme").await?;
    let cloud = keystone::Session::connect(&CloudConfig::from_env()?).await?;
    let glance = Glance::connect(&cloud).await?;

    let vm = XenServerVm::find(&pool, "web01").await?;
    let target = OpenStackXenServer::new(&glance, vmimage::TargetFormat::Qcow2);
    let pipeline = Pipeline::new(vm, target);
    pipeline.plan().await?.check()?; // what speaks against it, before anything is touched
    let journal = FileJournal::open("web01.journal")?; // after a crash the same call goes on
    let report = pipeline.run(journal, Context::new(RunId::random())).await?;
    for image in &report.images {
        println!("{} {} bytes, sha256 {}", image.id, image.bytes, image.sha256);
    }
    pool.logout().await?;
    Ok(())
}
