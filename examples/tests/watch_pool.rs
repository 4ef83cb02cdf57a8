//! `watch_pool` as a program: what it prints while a pool changes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use simulator::Simulator;
use xenapi::{Client, Pin, Trust, vm};

/// The built example, beside the folder of this test's own binary.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/watch_pool");
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_a_change_as_soon_as_it_happens() {
    let simulator = Simulator::builder().start().await.unwrap();
    let xen = simulator.ready().xen.clone();
    let pins = xen.pin_sha256.unwrap();
    let mut child = Command::new(program())
        .envs([("XEN_URL", &xen.url), ("XEN_USERNAME", &xen.username)])
        .envs([("XEN_PASSWORD", &xen.password), ("XEN_PIN_SHA256", &pins)])
        .args(["--json", "--class", "vm", "--seconds", "60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next =
        move || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(first["class"], "vm");
    let count = first["objects"].as_u64().unwrap();

    let trust = Trust::Pins(Pin::parse_list(&pins).unwrap());
    let client = Client::builder(&xen.url).trust(trust).build().unwrap();
    let session = client.login(&xen.username, xen.password.as_str(), "test").await.unwrap();
    let all = session.call(vm::get_all_records()).await.unwrap();
    let (guest, _) = all.iter().find(|(_, vm)| vm.name_label == "web01").unwrap();
    session.call(vm::set_name_label(guest, "web\u{1b}[2J02")).await.unwrap();
    let change = next();
    assert_eq!((&change["operation"], &change["ref"]), (&"mod".into(), &guest.as_str().into()));
    assert_eq!(change["name"], "web?[2J02", "no commands to the terminal");
    assert!(change["fields"].as_array().unwrap().contains(&"name_label".into()), "{change}");
    session.call(vm::snapshot(guest, "copy")).await.unwrap();
    let added = std::iter::repeat_with(next).find(|change| change["operation"] == "add").unwrap();
    assert_eq!(added["objects"], count + 1);
    session.logout().await.unwrap();

    child.kill().unwrap();
    child.wait().unwrap();
    simulator.stop().await;
}

#[test]
fn without_a_pool_it_shows_a_simulated_one() {
    let mut command = Command::new(program());
    for name in
        ["XEN_URL", "XEN_USERNAME", "XEN_PASSWORD", "XEN_CA_FILE", "XEN_PIN_SHA256", "XEN_INSECURE"]
    {
        command.env_remove(name);
    }
    let output = command.args(["--seconds", "4"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" vm\n") && text.contains("~ vm"), "{text}");
    assert!(text.contains("name_label: web01 → web01, round 1"), "{text}");
    assert!(text.contains("+ vm       snapshot 1"), "{text}");
}
