//! `upload_template`, `register_template` and `deploy_from_template` as programs.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use simulator::cloudstack::{CloudStack, CloudStackConfig};

/// A built example, beside the folder of this test's own binary.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

async fn run(cloud: Option<&CloudStack>, name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLOUDSTACK_") {
            command.env_remove(&name);
        }
    }
    if let Some(cloud) = cloud {
        command.env("CLOUDSTACK_ENDPOINT", cloud.endpoint());
        command.env("CLOUDSTACK_KEY", cloud.config().key());
        command.env("CLOUDSTACK_SECRET", cloud.config().secret());
    }
    command.args(args).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A failure is one line that says what is wrong, and no secret.
fn refused(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.lines().count() == 1, "{said}");
    assert!(said.contains(words) && !said.contains("secret-key"), "{said}");
}

fn image(folder: &Path) -> PathBuf {
    let mut vhd = vec![0; 300_000];
    vhd[..8].copy_from_slice(b"conectix");
    vhd[48..56].copy_from_slice(&(64u64 << 20).to_be_bytes());
    vhd[63] = 3;
    let path = folder.join("web01.vhd");
    std::fs::write(&path, vhd).unwrap();
    path
}

async fn cloud() -> CloudStack {
    CloudStack::start(CloudStackConfig::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_uploaded_and_nothing_is_left_of_a_failure() {
    let (folder, cloud) = (tempfile::tempdir().unwrap(), cloud().await);
    let file = image(folder.path());
    let file = file.to_str().unwrap();
    let made = json(&run(Some(&cloud), "upload_template", &[file, "--public", "--json"]).await);
    assert_eq!((&made["name"], &made["size"]), (&"web01".into(), &(64u64 << 20).into()));
    assert_eq!(cloud.templates()[0]["ispublic"], true);
    let stored = cloud.template_path(made["id"].as_str().unwrap()).unwrap();
    assert_eq!(std::fs::read(stored).unwrap(), std::fs::read(file).unwrap());

    for (fault, words) in [
        ("upload-fails=500", "500"),
        ("template-error=Failed to scan it", "Failed to scan it"),
        ("template-quota=0", "limit: templates"),
        ("denied=getUploadParamsForTemplate", "permission: getUploadParamsForTemplate"),
    ] {
        cloud.faults().set_str(fault).unwrap();
        refused(&run(Some(&cloud), "upload_template", &[file]).await, words);
        assert_eq!(cloud.templates().len(), 1, "{fault}");
        cloud.faults().clear();
    }
    let wrong = [file, "--sha256", &"00".repeat(32)];
    refused(&run(Some(&cloud), "upload_template", &wrong).await, "Checksum mismatch");
    assert_eq!(cloud.templates().len(), 1);
    refused(&run(Some(&cloud), "upload_template", &["/no/such.vhd"]).await, "/no/such.vhd");
    refused(&run(Some(&cloud), "upload_template", &[file, "--zone", "x"]).await, "no zone \"x\"");
    let text = folder.path().join("a.txt");
    std::fs::write(&text, "x").unwrap();
    refused(&run(Some(&cloud), "upload_template", &[text.to_str().unwrap()]).await, "a.txt");
    // Without any cloud it is a simulated one.
    let alone = run(None, "upload_template", &[file, "--json"]).await;
    assert!(String::from_utf8_lossy(&alone.stderr).contains("simulated"));
    assert_eq!(json(&alone)["name"], "web01");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_by_the_cloud_into_its_zones() {
    let (folder, cloud) = (tempfile::tempdir().unwrap(), cloud().await);
    cloud.faults().set_str("two-zones").unwrap();
    let file = image(folder.path());
    let file = file.to_str().unwrap();
    let made = json(&run(Some(&cloud), "register_template", &[file, "--json"]).await);
    assert_eq!((&made["name"], made["zones"].as_array().unwrap().len()), (&"web01".into(), 2));
    let args = [file, "--zone", "zone2", "--name", "second", "--json"];
    let one = json(&run(Some(&cloud), "register_template", &args).await);
    assert_eq!(one["zones"], serde_json::json!(["zone2"]));
    let before = cloud.templates().len();
    cloud.faults().set_str("template-error=Failed to unpack").unwrap();
    refused(&run(Some(&cloud), "register_template", &[file]).await, "Failed to unpack");
    assert_eq!(cloud.templates().len(), before);
    cloud.faults().clear();
    cloud.faults().set_str("refuse-loopback").unwrap();
    refused(&run(Some(&cloud), "register_template", &[file]).await, "Illegal host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_deployed_once_and_put_into_service() {
    let (folder, cloud) = (tempfile::tempdir().unwrap(), cloud().await);
    let (file, job) = (image(folder.path()), folder.path().join("job"));
    let args = [file.to_str().unwrap(), "--password-enabled", "--json"];
    json(&run(Some(&cloud), "upload_template", &args).await);
    let machines = || {
        let all = cloud.objects().into_iter();
        all.filter(|one| one["kind"] == "Machine").collect::<Vec<_>>()
    };
    let old = ["web01", "--name", "old", "--network", "guest1", "--show-password", "--json"];
    let old = json(&run(Some(&cloud), "deploy_from_template", &old).await);
    assert!(old["password"].is_string() && old["address"].is_string());

    let keys = cloudstack_client::Credentials::new(cloud.config().key(), cloud.config().secret());
    let client = cloudstack_client::Client::builder(cloud.endpoint()).credentials(keys);
    let (client, wait) = (client.build().unwrap(), cloudstack_client::WaitOptions::default());
    use cloudstack_client::{addresses, load_balancers};
    let address = client.call_all(addresses::list()).await.unwrap().remove(0).id;
    let algorithm = load_balancers::Algorithm::RoundRobin;
    let rule = load_balancers::NewLoadBalancerRule::new("web", &algorithm, 80, 80);
    let rule = load_balancers::create(&rule.with_address(&address));
    let rule = client.run(rule, &wait).await.unwrap().id;
    let id = old["id"].as_str().unwrap();
    client.run(load_balancers::assign(&rule, &[id]), &wait).await.unwrap();

    // The answer is lost and the program is ended; it finds its machine again.
    cloud.faults().set_str("drop-after-effect=deployVirtualMachine@1").unwrap();
    let path = job.to_str().unwrap();
    let new =
        ["web01", "--name", "new", "--rule", "web", "--replace", "old", "--job", path, "--json"];
    let made = json(&run(Some(&cloud), "deploy_from_template", &new).await);
    assert_eq!(made["password"], Value::Null, "it is shown only if asked for");
    let members = client.call_all(load_balancers::members(&rule)).await.unwrap();
    assert_eq!(members.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["new"]);
    let again = ["web01", "--name", "new", "--job", path, "--json"];
    assert_eq!(json(&run(Some(&cloud), "deploy_from_template", &again).await)["id"], made["id"]);
    assert_eq!(machines().len(), 2);

    cloud.faults().set_str("no-capacity@1").unwrap();
    refused(&run(Some(&cloud), "deploy_from_template", &["web01"]).await, "deploy (job ");
    let nobody = run(Some(&cloud), "deploy_from_template", &["nothing"]).await;
    refused(&nobody, "no template that is ready \"nothing\"");
}
