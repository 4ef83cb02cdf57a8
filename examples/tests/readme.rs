//! The README shows a program; it is this one, and it works.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use simulator::Simulator;

/// The program, which Cargo builds with the tests of this package.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    path.join("readme")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_readme_shows_the_program() {
    let shown = text("readme.rs");
    let code = shown.split_once("\n\n").unwrap().1;
    assert!(text("../README.md").contains(code), "copy examples/readme.rs into README.md");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_clones_the_vm_of_a_simulated_pool() {
    let simulator = Simulator::builder().start().await.unwrap();
    let (xen, openstack) = (&simulator.ready().xen, &simulator.ready().openstack);
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program());
    command.current_dir(folder.path()).env_clear();
    command.env("XEN_URL", &xen.url).env("XEN_PASSWORD", xen.password.as_str());
    command.env("XEN_PIN_SHA256", xen.pin_sha256.as_deref().unwrap());
    command.env("OS_AUTH_URL", &openstack.auth_url);
    command.env("OS_USERNAME", &openstack.username);
    command.env("OS_PASSWORD", openstack.password.as_str());
    command.env("OS_PROJECT_NAME", &openstack.project);
    command.env("OS_USER_DOMAIN_NAME", "Default").env("OS_PROJECT_DOMAIN_NAME", "Default");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout).unwrap();
    let images = simulator.openstack().images();
    assert_eq!(said.lines().count(), images.len());
    for image in &images {
        assert!(said.contains(image["id"].as_str().unwrap()), "{said}");
        assert_eq!(image["status"], "active");
    }
    simulator.stop().await;
}
