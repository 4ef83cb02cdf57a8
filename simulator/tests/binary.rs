//! The program: its line, its end, its refusals.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn simulator(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulator"));
    command.args(args).stdin(Stdio::null());
    command
}

fn fails(args: &[&str]) -> (Output, String) {
    let output = simulator(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    (output, stderr)
}

#[test]
fn it_says_how_to_reach_it_and_ends_when_told_to() {
    for (signal, plain) in [("TERM", false), ("INT", true)] {
        let args: &[&str] = if plain { &["--xen-plain"] } else { &[] };
        let mut child = simulator(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let keys: Vec<_> = ready.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["cloudstack", "openstack", "xen"]);
        let url = ready["xen"]["url"].as_str().unwrap();
        assert_eq!(url.starts_with("http://127.0.0.1:"), plain, "{url}");
        assert_eq!(ready["xen"]["pin_sha256"].is_null(), plain);
        assert!(ready["openstack"]["auth_url"].is_string());
        let cloudstack = ready["cloudstack"].as_object().unwrap();
        let keys: Vec<_> = cloudstack.keys().collect();
        assert_eq!(keys, ["endpoint", "key", "secret"]);
        assert!(cloudstack["endpoint"].as_str().unwrap().ends_with("/client/api"));
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(lines.next().is_none());
    }
}

#[test]
fn a_disk_that_is_not_there_is_one_line() {
    let (output, stderr) = fails(&["--disk", "web01=/nowhere/at/all.vhd"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("/nowhere/at/all.vhd"), "{stderr}");
    assert_eq!(stderr.matches("No such file").count(), 1, "said once: {stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_port_that_is_taken_is_named_with_its_server() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (option, server) in [
        ("--xen-port", "XenServer"),
        ("--cloudstack-port", "CloudStack"),
        ("--openstack-port", "OpenStack"),
    ] {
        let (output, stderr) = fails(&[option, &port]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(server) && stderr.contains(&port), "{stderr}");
    }
}

#[test]
fn a_broken_disk_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.vhd");
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(b"conectix");
    std::fs::write(&path, bytes).unwrap();
    let (output, stderr) = fails(&["--disk", &format!("web01={}", path.display())]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn an_unknown_fault_is_refused_and_the_known_ones_are_listed() {
    let (output, stderr) = fails(&["--fault", "no-such-fault=1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let (_, stderr) = fails(&["--fault", "cloudstack:image-killed"]);
    assert!(stderr.contains("template-quota"), "{stderr}");
    let help = simulator(&["--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for word in ["--disk <NAME=FILE>", "--xen-plain", "export-truncate=BYTES", "job-fails=COMMAND"]
    {
        assert!(help.contains(word), "{word} is not in {help}");
    }
}
