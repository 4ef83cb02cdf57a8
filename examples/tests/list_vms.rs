//! `list_vms` as a program: what it prints, and how it fails.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

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

/// A server in Python, which ends with this.
struct Python {
    child: Child,
    url: String,
}

impl Python {
    /// Starts a script of `oracles`; `None` if there is no such interpreter.
    fn start(interpreter: impl AsRef<Path>, script: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles").join(script);
        let mut command = Command::new(interpreter.as_ref());
        let mut child = command.arg(script).stdout(Stdio::piped()).spawn().ok()?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let url = format!("http://127.0.0.1:{}", port.trim());
        Some(Self { child, url })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn listed(server: &Python) -> Vec<Value> {
    let variables =
        [("XEN_URL", server.url.as_str()), ("XEN_USERNAME", "root"), ("XEN_PASSWORD", "any")];
    let output = run(&variables, &["--json"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_xml_alone_with_sparse_records_and_bare_uuids() {
    let Some(server) = Python::start("python3", "sparse_server.py") else {
        println!("skipped: there is no python3 here");
        return;
    };
    let list = listed(&server).await;
    let names: Vec<_> = list.iter().map(|vm| vm["name_label"].as_str().unwrap()).collect();
    assert_eq!(names, ["", "no uuid", "web01 <&>"]);
    assert_eq!(list[1]["vcpus"], 2);
    assert_eq!(list[1]["memory_bytes"], 1 << 30);
    assert_eq!(list[2]["uuid"], "0d9aa0e5-4a4f-4a92-8d3c-7d5a1c1b8c01");
    assert_eq!(list[2]["power_state"], "Running");
}

/// The pool of OpenStack's own tests is of 2021 and knows nothing of us. It is installed into a
/// temporary folder, so the test runs only with `MIGRATE_E2E_ORACLES=1`.
#[tokio::test(flavor = "multi_thread")]
async fn the_pool_of_novas_tests_is_listed() {
    if std::env::var("MIGRATE_E2E_ORACLES").as_deref() != Ok("1") {
        println!("skipped: set MIGRATE_E2E_ORACLES=1 to install and run foreign servers");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let succeeds = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    };
    succeeds(Command::new("python3").args(["-m", "venv"]).arg(folder.path()));
    let pip = folder.path().join("bin/pip");
    let install = ["install", "--quiet", "--no-deps", "nova==21.2.4", "os-xenapi==0.3.4"];
    succeeds(Command::new(&pip).args(install));
    let oslo = ["log", "utils", "serialization", "i18n", "concurrency", "config"];
    let oslo = oslo.map(|name| format!("oslo.{name}"));
    let others = ["six", "webob", "eventlet", "XenAPI", "setuptools<70"];
    succeeds(Command::new(&pip).args(["install", "--quiet"]).args(oslo).args(others));
    let server = Python::start(folder.path().join("bin/python"), "nova_fake.py").unwrap();
    let list = listed(&server).await;
    let seen: Vec<_> = list.iter().map(|vm| (&vm["name_label"], &vm["power_state"])).collect();
    assert_eq!(
        format!("{seen:?}"),
        r#"[(String("db01"), String("Halted")), (String("web01"), String("Running"))]"#
    );
    assert!(list.iter().all(|vm| vm["uuid"].as_str().unwrap().len() == 36));
}
