//! How much memory a streamed upload takes. On its own, because it looks at the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::process::Command;

use bytes::Bytes;
use cloudstack_client::templates::{self, Format, NewTemplate};
use cloudstack_client::{Client, Credentials, Upload, os_types, zones};
use futures_util::{StreamExt, stream};
use simulator::cloudstack::{CloudStack, CloudStackConfig};

/// Far more than the limit, so that whoever kept the data would be seen.
const MIB: u64 = 256;
/// Over what the idle process has, in KiB.
const LIMIT: u64 = 32 << 10;

/// A number of `/proc/self/status` in KiB.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// The process that uploads; the cloud is in the other one.
#[tokio::test]
async fn child_that_uploads() {
    let Ok(place) = std::env::var("MEMORY_TEST_CLOUD") else { return };
    let [endpoint, key, secret] = place.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{place}")
    };
    let client =
        Client::builder(endpoint).credentials(Credentials::new(key, secret)).build().unwrap();
    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let os = client.call_all(os_types::list()).await.unwrap().remove(0).id;
    let new = NewTemplate::new("large", "KVM", Format::Raw, &zone).with_os_type(&os);
    let ticket = client.call(templates::upload_params(&new)).await.unwrap();
    let idle = status("VmRSS");
    let data = stream::iter(0..MIB).map(|n| Ok(Bytes::from(vec![n as u8; 1 << 20]))).boxed();
    let done = client.upload(ticket, Upload::new(MIB << 20, data)).await.unwrap();
    assert_eq!(done.bytes, MIB << 20);
    println!("\npeak: {}", status("VmHWM") - idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_upload_keeps_little_in_memory() {
    let cloud = CloudStack::start(CloudStackConfig::new()).await.unwrap();
    let place = [&cloud.endpoint(), cloud.config().key(), cloud.config().secret()].join(" ");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child_that_uploads", "--nocapture"]).env("MEMORY_TEST_CLOUD", place);
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let peak = said.lines().find_map(|line| line.strip_prefix("peak: ")).unwrap();
    let peak: u64 = peak.parse().unwrap();
    println!("{peak} KiB over idle for {MIB} MiB");
    assert!(peak < LIMIT, "{peak} KiB over idle");
    assert_eq!(cloud.templates()[0]["size"], MIB << 20);
}
