//! Clients that this project did not write, against the pool: PyPI `XenAPI` and npm `xen-api`; for
//! a guest's screen `websockets`, `websocket-client` and Pillow.
//!
//! They are installed from their registries into a temporary folder, so the tests run only with
//! `MIGRATE_E2E_ORACLES=1`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use simulator::Simulator;
use tempfile::TempDir;

/// A folder with the ready line of a running simulator, or `None` with a word about why not.
async fn start(tool: &str) -> Option<(Simulator, TempDir, PathBuf)> {
    if std::env::var("MIGRATE_E2E_ORACLES").as_deref() != Ok("1") {
        println!("skipped: set MIGRATE_E2E_ORACLES=1 to install and run foreign clients");
        return None;
    }
    if Command::new(tool).arg("--version").output().is_err() {
        println!("skipped: there is no {tool} here");
        return None;
    }
    let simulator = Simulator::builder().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready.json");
    std::fs::write(&ready, serde_json::to_string(simulator.ready()).unwrap()).unwrap();
    Some((simulator, folder, ready))
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles").join(name)
}

/// Runs a command; a client that waits for what never comes is ended, and what it wrote is shown.
async fn run(mut command: Command) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = tokio::select! {
        output = &mut ended => output,
        () = tokio::time::sleep(LIMIT) => {
            Command::new("kill").arg(pid.to_string()).status().unwrap();
            ended.await
        }
    };
    let output = output.unwrap().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// How long one step may take: installing is the longest.
const LIMIT: Duration = Duration::from_secs(300);

/// An interpreter that has these packages.
async fn python(folder: &Path, packages: &[&str]) -> PathBuf {
    let venv = folder.join("venv");
    let mut create = Command::new("python3");
    create.args(["-m", "venv"]).arg(&venv);
    run(create).await;
    let mut install = Command::new(venv.join("bin/pip"));
    install.args(["install", "--quiet"]).args(packages);
    run(install).await;
    venv.join("bin/python")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_takes_the_pool_for_a_real_one() {
    let Some((simulator, folder, ready)) = start("python3").await else { return };
    let before = simulator.xen().inventory();
    let mut client = Command::new(python(folder.path(), &["XenAPI"]).await);
    client.arg(script("xenapi_client.py")).arg(ready);
    run(client).await;
    assert_eq!(simulator.xen().inventory(), before);
    assert_eq!(simulator.xen().sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_clients_and_an_image_library_see_one_screen() {
    let Some((simulator, folder, ready)) = start("python3").await else { return };
    let certificate = folder.path().join("master.pem");
    std::fs::write(&certificate, simulator.xen().certificate_pem(0).unwrap()).unwrap();
    let packages = ["XenAPI", "websockets", "websocket-client", "Pillow"];
    let mut client = Command::new(python(folder.path(), &packages).await);
    client.arg(script("console_websocket.py")).arg(ready).arg(certificate);
    run(client).await;
    // Once by each.
    assert_eq!(simulator.xen().typed("web01").as_deref(), Some("uname\nuname\n"));
    assert_eq!(simulator.xen().sessions(), 0);
    assert!(simulator.xen().interruptions().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_takes_the_pool_for_a_real_one() {
    let Some((simulator, folder, ready)) = start("npm").await else { return };
    std::fs::write(folder.path().join("package.json"), "{}").unwrap();
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--silent", "xen-api"]);
    install.current_dir(folder.path());
    run(install).await;
    // Node looks for packages beside the script.
    let copy = folder.path().join("client.mjs");
    std::fs::copy(script("xen_api_client.mjs"), &copy).unwrap();
    let mut client = Command::new("node");
    client.arg(copy).arg(ready);
    run(client).await;
    assert!(simulator.xen().interruptions().is_empty());
}
