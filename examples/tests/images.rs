//! `list_images` and `upload_image` as programs: what they print, what they leave, and how they fail.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use simulator::openstack::{OpenStack, OpenStackConfig};
use tempfile::TempDir;

/// A built example, beside the folder of this test's own binary.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

async fn run(name: &str, cloud: Option<&OpenStack>, args: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|variable| variable.starts_with("OS_")) {
            command.env_remove(variable);
        }
    }
    if let Some(cloud) = cloud {
        let config = cloud.config();
        command.env("OS_AUTH_URL", cloud.auth_url());
        command.env("OS_USERNAME", config.username()).env("OS_PASSWORD", config.password());
        command.env("OS_PROJECT_NAME", config.project());
        command.env("OS_USER_DOMAIN_NAME", "Default").env("OS_PROJECT_DOMAIN_NAME", "Default");
    }
    command.args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A disk of zeros, which is no format but raw.
fn disk(folder: &TempDir, name: &str, len: usize) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, vec![0; len]).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn cloud() -> OpenStack {
    OpenStack::start(OpenStackConfig::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_verified_and_listed() {
    let (cloud, folder) = (cloud().await, TempDir::new().unwrap());
    let file = disk(&folder, "web01.img", 3_000_001);
    let args = [
        file.as_str(),
        "--property",
        "hw_disk_bus=virtio",
        "--tag",
        "web",
        "--tag",
        "x",
        "--min-disk",
        "1",
    ];
    let output = run("upload_image", Some(&cloud), &args).await;
    let made = json(&output);
    assert!(text(&output.stderr).contains("3000001 bytes, sha512 verified"));
    assert_eq!((&made["name"], &made["status"]), (&"web01".into(), &"active".into()));
    let kept = &cloud.images()[0];
    assert_eq!(kept["hw_disk_bus"], "virtio");
    assert_eq!((&kept["min_disk"], &kept["visibility"]), (&1.into(), &"private".into()));
    let data = std::fs::read(cloud.image_path(made["id"].as_str().unwrap()).unwrap()).unwrap();
    assert!(data == std::fs::read(&file).unwrap());

    let other = disk(&folder, "other.raw", 100);
    json(&run("upload_image", Some(&cloud), &[&other, "--name", "a: b"]).await);
    let list = async |args: &[&str]| {
        let output = run("list_images", Some(&cloud), args).await;
        let list = json(&output);
        let names = list.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(list(&["--json", "--sort", "name"]).await, ["a: b", "web01"]);
    assert_eq!(list(&["--json", "--sort", "size", "--limit", "1"]).await, ["web01"]);
    assert_eq!(list(&["--json", "--tag", "web", "--tag", "x"]).await, ["web01"]);
    assert_eq!(list(&["--json", "--name", "a: b"]).await, ["a: b"]);
    assert_eq!(list(&["--json", "--property", "hw_disk_bus=virtio"]).await, ["web01"]);
    assert_eq!(list(&["--json", "--status", "queued"]).await, [""; 0]);
    let table = text(&run("list_images", Some(&cloud), &[]).await.stdout);
    assert!(
        table.starts_with("NAME") && table.contains("web01") && table.contains("3 M"),
        "{table}"
    );
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_stores_are_filled_from_the_stage() {
    let (cloud, folder) = (cloud().await, TempDir::new().unwrap());
    let file = disk(&folder, "disk.raw", 200_000);
    let args = [file.as_str(), "--store", "fast", "--store", "slow"];
    let output = run("upload_image", Some(&cloud), &args).await;
    assert_eq!(json(&output)["stores"], serde_json::json!(["fast", "slow"]));
    assert!(text(&output.stderr).contains("verified"));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_fetches_a_url_by_itself() {
    let (cloud, folder) = (cloud().await, TempDir::new().unwrap());
    let file = disk(&folder, "disk.raw", 200_000);
    let id =
        json(&run("upload_image", Some(&cloud), &[&file]).await)["id"].as_str().unwrap().to_owned();
    // A URL that is not there: the image that was made for it is gone again.
    let url = format!("{}/v2/images/{id}/file.raw", cloud.image_url());
    let output = run("upload_image", Some(&cloud), &[&url]).await;
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("web-download"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(cloud.images().len(), 1);
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_one_line_and_leaves_nothing() {
    let (cloud, folder) = (cloud().await, TempDir::new().unwrap());
    let file = disk(&folder, "disk.raw", 3_000_000);
    let cases =
        [("size-cap=1000", "413"), ("hash-mismatch", "differs"), ("upload-close=4096", "image")];
    for (fault, word) in cases {
        cloud.faults().set_str(fault).unwrap();
        let output = run("upload_image", Some(&cloud), &[&file, "--protected"]).await;
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(word), "{fault}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains(cloud.config().password()));
        assert_eq!(cloud.images().len(), 0, "{fault}");
        cloud.faults().clear();
    }
    // What is known before: nothing is made at all.
    let fixed = disk(&folder, "disk.vhd", 3_000_000);
    let odd = disk(&folder, "disk.odd", 10);
    for (path, word) in
        [(fixed.as_str(), "vhd"), ("/no/such.raw", "/no/such.raw"), (&odd, "--disk-format")]
    {
        let output = run("upload_image", Some(&cloud), &[path]).await;
        assert!(!output.status.success() && text(&output.stderr).contains(word), "{path}");
        assert_eq!(cloud.images().len(), 0);
    }
    let output = run("list_images", Some(&cloud), &["--visibility", "nobody"]).await;
    assert_eq!(text(&output.stderr).lines().count(), 1);
    assert!(!output.status.success());
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cloud_they_simulate_one_and_say_so() {
    let output = run("list_images", None, &["--json", "--sort", "name"]).await;
    assert_eq!(json(&output)[0]["name"], "debian-13");
    assert!(text(&output.stderr).contains("simulated"));
    let folder = TempDir::new().unwrap();
    let file = disk(&folder, "disk.raw", 1000);
    assert!(Path::new(&file).exists());
    assert_eq!(json(&run("upload_image", None, &[&file]).await)["status"], "active");
}
