//! `console_type` and `screenshot` as programs: what arrives in the guest, what is written, and how
//! they fail.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use simulator::Simulator;

/// A built example, beside the folder of this test's own binary.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

/// Runs a program against a pool, or with none named.
async fn run(pool: Option<&Simulator>, name: &str, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(program(name));
    for variable in
        ["XEN_URL", "XEN_USERNAME", "XEN_PASSWORD", "XEN_CA_FILE", "XEN_PIN_SHA256", "XEN_INSECURE"]
    {
        command.env_remove(variable);
    }
    if let Some(simulator) = pool {
        let xen = &simulator.ready().xen;
        command
            .env("XEN_URL", &xen.url)
            .env("XEN_USERNAME", &xen.username)
            .env("XEN_PASSWORD", &xen.password)
            .env("XEN_PIN_SHA256", xen.pin_sha256.as_deref().unwrap());
    }
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let work = move || {
        let mut child = command.spawn().unwrap();
        // A program that reads nothing may be gone by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_arrives_and_the_picture_is_a_png() {
    let simulator = Simulator::builder().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.png"), folder.path().join("b.png"));
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    let args =
        ["web01", "Root<enter><wait10ms><f2>!", "--key-interval", "1", "--screenshot", first];
    let output = run(Some(&simulator), "console_type", &args, "").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(simulator.xen().typed("web01").unwrap(), "Root\n<f2>!");

    let args = ["web01", "--stdin", "--key-interval", "1"];
    let output = run(Some(&simulator), "console_type", &args, "s3cret<enter>\n").await;
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert_eq!(simulator.xen().typed("web01").unwrap(), "Root\n<f2>!s3cret\n");

    let args = ["web01", second, "--wait-stable", "1"];
    let output = run(Some(&simulator), "screenshot", &args, "").await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("640x200\n"), "{}", text(&output.stdout));
    for file in [first, second] {
        let png = std::fs::read(file).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\0\xc8"), "{file}");
    }
    assert_ne!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
    assert_eq!(simulator.xen().sessions(), 0, "they logged out");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pool_they_simulate_one_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.png");
    for (name, args) in [
        ("console_type", vec!["web01", "x", "--key-interval", "1"]),
        ("screenshot", vec!["web01", file.to_str().unwrap()]),
    ] {
        let output = run(None, name, &args, "").await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).lines().count(), 1);
        assert!(text(&output.stderr).contains("simulated"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_one_line() {
    let simulator = Simulator::builder().start().await.unwrap();
    for (args, word) in [
        (vec!["web01", "root<etner>"], "byte 4"),
        (vec!["web01", "<wait0>"], "byte 0"),
        (vec!["nobody", "x"], "nobody"),
        (vec!["web01", "x", "--screenshot", "/nowhere/a.png"], "/nowhere/a.png"),
    ] {
        let output = run(Some(&simulator), "console_type", &args, "").await;
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(word), "{word}: {said}");
    }
    simulator.xen().faults().set_str("console-limit").unwrap();
    let output = run(Some(&simulator), "screenshot", &["web01", "x", "--patience", "1"], "").await;
    let said = text(&output.stderr);
    assert!(said.contains("one viewer") && said.lines().count() == 1, "{said}");
    assert_eq!(simulator.xen().sessions(), 0, "they logged out");
    simulator.stop().await;
}

#[tokio::test]
async fn the_help_teaches_the_grammar() {
    let output = run(None, "console_type", &["--help"], "").await;
    let help = text(&output.stdout);
    for word in ["<leftCtrlOn>c<leftCtrlOff>", "<wait1m30s>", "XEN_PIN_SHA256", "--stdin", "US"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
