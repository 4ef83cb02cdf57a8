//! Oracles for the CloudStack double that nobody here wrote: the PyPI packages `cs` and
//! `apache-libcloud` drive it. They run only with `MIGRATE_E2E_ORACLES=1`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::path::{Path, PathBuf};
use std::process::Command;

use simulator::cloudstack::{CloudStack, CloudStackConfig};

/// Runs a command beside the double and shows what it said when it fails.
async fn run(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{}\n{said}\n{complaint}", output.status);
}

/// A virtual environment below the target folder with both clients in it.
async fn python_with_clients() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cloudstack-venv");
    let python = venv.join("bin/python");
    if !venv.join("ready").exists() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&venv);
        run(make).await;
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
        install.args(["cs==5.2.0", "apache-libcloud==3.9.1"]);
        run(install).await;
        std::fs::write(venv.join("ready"), "").unwrap();
    }
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn cs_and_libcloud_drive_it_from_listing_to_deletion() {
    if !std::env::var("MIGRATE_E2E_ORACLES").is_ok_and(|value| value == "1") {
        println!("skipped: MIGRATE_E2E_ORACLES=1 is not set");
        return;
    }
    let python = python_with_clients().await;
    let cloud = CloudStack::start(CloudStackConfig::new()).await.unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/cloudstack_clients.py");
    let mut command = Command::new(python);
    command.arg(script).arg(cloud.endpoint());
    command.args([cloud.config().key(), cloud.config().secret()]);
    run(command).await;
    assert!(cloud.templates().is_empty(), "the script deletes what it made");
    cloud.stop().await;
}
