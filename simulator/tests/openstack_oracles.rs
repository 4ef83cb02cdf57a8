//! Oracles for the OpenStack double that nobody here wrote: the `openstacksdk` client drives it,
//! and a real Keystone and Glance answer the same script of requests.
//!
//! Both run only with `MIGRATE_E2E_ORACLES=1`; the comparison also needs a real cloud in
//! `REAL_OS_AUTH_URL`, `REAL_OS_USERNAME`, `REAL_OS_PASSWORD`, `REAL_OS_PROJECT_NAME`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::path::{Path, PathBuf};
use std::process::Command;

use simulator::openstack::{OpenStack, OpenStackConfig};

fn enabled() -> bool {
    let on = std::env::var("MIGRATE_E2E_ORACLES").is_ok_and(|value| value == "1");
    if !on {
        println!("skipped: MIGRATE_E2E_ORACLES=1 is not set");
    }
    on
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles").join(name)
}

/// Runs a command beside the double and shows what it said when it fails.
async fn run(mut command: Command) {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{}\n{said}\n{complaint}", output.status);
}

/// A virtual environment below the target folder with `openstacksdk` in it.
async fn python_with_sdk() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let venv = target.join("openstacksdk-venv");
    let python = venv.join("bin/python");
    if !venv.join("ready").exists() {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&venv);
        run(make).await;
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check"]);
        install.arg("openstacksdk==4.22.0");
        run(install).await;
        std::fs::write(venv.join("ready"), "").unwrap();
    }
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn openstacksdk_uploads_lists_and_deletes() {
    if !enabled() {
        return;
    }
    let python = python_with_sdk().await;
    let cloud = OpenStack::start(OpenStackConfig::new()).await.unwrap();
    let mut command = Command::new(python);
    let config = cloud.config();
    command.arg(script("openstack_sdk.py"));
    command.args([&cloud.auth_url(), config.username(), config.password(), config.project()]);
    run(command).await;
    assert!(cloud.images().is_empty(), "the script deletes what it made");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_as_the_real_servers_do() {
    if !enabled() {
        return;
    }
    let name = |part: &str| std::env::var(format!("REAL_OS_{part}"));
    let (Ok(url), Ok(user), Ok(password), Ok(project)) =
        (name("AUTH_URL"), name("USERNAME"), name("PASSWORD"), name("PROJECT_NAME"))
    else {
        println!("skipped: no real cloud in REAL_OS_AUTH_URL, _USERNAME, _PASSWORD, _PROJECT_NAME");
        return;
    };
    let cloud = OpenStack::start(OpenStackConfig::new()).await.unwrap();
    let mut command = Command::new("python3");
    let config = cloud.config();
    command.arg(script("openstack_conformance.py")).args([url, user, password, project]);
    command.args([&cloud.auth_url(), config.username(), config.password(), config.project()]);
    run(command).await;
    assert!(
        cloud.images().is_empty(),
        "the script deletes what it made, so also on the real cloud"
    );
    cloud.stop().await;
}
