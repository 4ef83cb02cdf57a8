//! What every CloudStack must do with the calls of this crate.
//!
//! The functions run against the double, in several moods, and against a real cloud if `CLOUDSTACK_CONFORMANCE=1`,
//! `CLOUDSTACK_ENDPOINT`, `CLOUDSTACK_KEY` and `CLOUDSTACK_SECRET` are set (and `CLOUDSTACK_CA_FILE` where it is needed).
//! There they make small objects called `conformance-…` and delete them; the account must be allowed to upload.

#![allow(clippy::unwrap_used)]

mod kit;

use cloudstack_client::{Client, Credentials, Trust};
use simulator::cloudstack::{CloudStack, CloudStackConfig};

/// The moods of a server that a client must not mind.
const MOODS: [&[&str]; 4] =
    [&[], &["stringly"], &["page-size=2", "two-zones"], &["enforce-post", "slow-job=20"]];

async fn everywhere(name: &str, test: impl AsyncFn(&Client)) {
    for faults in MOODS {
        let cloud = CloudStack::start(CloudStackConfig::new()).await.unwrap();
        faults.iter().for_each(|fault| cloud.faults().set_str(fault).unwrap());
        let credentials = Credentials::new(cloud.config().key(), cloud.config().secret());
        let client = Client::builder(cloud.endpoint()).credentials(credentials).build().unwrap();
        let before = (cloud.templates().len(), cloud.objects().len());
        test(&client).await;
        assert_eq!((cloud.templates().len(), cloud.objects().len()), before, "{name}: {faults:?}");
        cloud.stop().await;
    }
    if let Some(client) = real() {
        test(&client).await;
    }
}

/// The cloud that the environment names, if it is to be used.
fn real() -> Option<Client> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if var("CLOUDSTACK_CONFORMANCE")? != "1" {
        return None;
    }
    let [endpoint, key, secret] = ["CLOUDSTACK_ENDPOINT", "CLOUDSTACK_KEY", "CLOUDSTACK_SECRET"]
        .map(|name| var(name).unwrap());
    let mut client = Client::builder(endpoint).credentials(Credentials::new(key, secret));
    if let Some(file) = var("CLOUDSTACK_CA_FILE") {
        client = client.trust(Trust::CaFile(file.into()));
    }
    Some(client.build().unwrap())
}

#[tokio::test]
async fn the_cloud_tells_what_it_has() {
    everywhere("inventory", kit::inventory).await;
}

#[tokio::test]
async fn templates_are_uploaded_changed_shared_extracted_and_deleted() {
    everywhere("templates", kit::templates).await;
}

#[tokio::test]
async fn machines_are_deployed_stopped_changed_and_destroyed() {
    everywhere("machines", kit::machines).await;
}

#[tokio::test]
async fn data_disks_are_uploaded_and_attached() {
    everywhere("volumes", kit::volumes).await;
}

#[tokio::test]
async fn templates_are_made_of_a_stopped_machine_and_of_a_snapshot() {
    everywhere("templates of disks", kit::templates_of_disks).await;
}

#[tokio::test]
async fn a_copy_is_put_behind_a_load_balancer() {
    everywhere("load balancers", kit::load_balancers).await;
}

#[tokio::test]
async fn rules_and_addresses_come_and_go() {
    everywhere("rules", kit::rules).await;
}

#[tokio::test]
async fn isos_are_uploaded_and_put_into_a_drive() {
    everywhere("ISOs", kit::isos).await;
}

#[tokio::test]
async fn networks_and_keys_come_and_go() {
    everywhere("networks and keys", kit::networks_and_keys).await;
}
