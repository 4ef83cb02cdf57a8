//! `list_vms` as a program: what it prints, and how it fails.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use simulator::Simulator;

/// The built example, beside the folder of this test's own binary.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/list_vms");
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

async fn run(variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(program());
    for name in
        ["XEN_URL", "XEN_USERNAME", "XEN_PASSWORD", "XEN_CA_FILE", "XEN_PIN_SHA256", "XEN_INSECURE"]
    {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_lists_a_pool_over_either_protocol() {
    for fault in [None, Some("no-json")] {
        let simulator = Simulator::builder().start().await.unwrap();
        if let Some(fault) = fault {
            simulator.xen().faults().set_str(fault).unwrap();
        }
        let xen = simulator.ready().xen.clone();
        let pins = format!("{}, {}", "00".repeat(32), xen.pin_sha256.unwrap());
        let variables = [
            ("XEN_URL", xen.url.as_str()),
            ("XEN_USERNAME", xen.username.as_str()),
            ("XEN_PASSWORD", xen.password.as_str()),
            ("XEN_PIN_SHA256", pins.as_str()),
        ];
        let output = run(&variables, &["--json"]).await;
        assert!(output.status.success(), "{fault:?}: {}", text(&output.stderr));
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let [vm] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
        assert_eq!(vm["name_label"], "web01");
        assert_eq!(vm["power_state"], "Running");
        assert_eq!(vm["uuid"].as_str().unwrap().len(), 36);
        let table = text(&run(&variables, &[]).await.stdout);
        assert!(table.starts_with("NAME") && table.contains("web01"), "{table}");
        assert_eq!(simulator.xen().sessions(), 0, "it logged out");
        simulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pool_it_simulates_one_and_says_so() {
    let output = run(&[], &["--json"]).await;
    assert!(output.status.success());
    assert_eq!(text(&output.stderr).lines().count(), 1);
    assert!(text(&output.stderr).contains("simulated"));
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_one_line() {
    let simulator = Simulator::builder().start().await.unwrap();
    let xen = simulator.ready().xen.clone();
    let url = ("XEN_URL", xen.url.as_str());
    let user = ("XEN_USERNAME", "root");
    let password = ("XEN_PASSWORD", "hunter2hunter2");
    let wrong_pin = "11".repeat(32);
    for (variables, word) in [
        (vec![url], "XEN_USERNAME, XEN_PASSWORD"),
        (vec![url, user, password], "authorit"),
        (vec![url, user, password, ("XEN_PIN_SHA256", wrong_pin.as_str())], "pinned"),
        (vec![url, user, password, ("XEN_PIN_SHA256", "abc")], "64 hexadecimal digits"),
        (vec![url, user, password, ("XEN_CA_FILE", "/nowhere")], "/nowhere"),
        (vec![url, user, password, ("XEN_INSECURE", "yes")], "XEN_INSECURE"),
        (
            vec![("XEN_URL", "https://127.0.0.1:1"), user, password, ("XEN_INSECURE", "1")],
            "127.0.0.1:1",
        ),
    ] {
        let output = run(&variables, &[]).await;
        assert_eq!(output.status.code(), Some(1), "{word}");
        let said = text(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(word), "{word}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(output.stdout.is_empty());
    }
    simulator.stop().await;
}
