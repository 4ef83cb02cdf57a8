//! `export_vm` as a program: the archive holds what the machine's disk holds, and nothing is left
//! at the server.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use simulator::Simulator;
use vmimage::{Comparison, OpenOptions};

/// The built example, beside the folder of this test's own binary.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/export_vm");
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

async fn run(simulator: &Simulator, args: &[&str]) -> Output {
    run_into(simulator, args, Stdio::piped()).await
}

async fn run_into(simulator: &Simulator, args: &[&str], stdout: Stdio) -> Output {
    let xen = simulator.ready().xen.clone();
    let mut command = Command::new(program());
    command
        .envs([("XEN_URL", xen.url), ("XEN_USERNAME", xen.username)])
        .envs([("XEN_PASSWORD", xen.password), ("XEN_PIN_SHA256", xen.pin_sha256.unwrap())])
        .args(args)
        .stdout(stdout);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_holds_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, xva) = (folder.path().join("raw"), folder.path().join("web01.xva"));
    let mut content = vec![0; 9 << 20];
    for (n, byte) in content.iter_mut().enumerate().skip(3 << 20).take(2_500_000) {
        *byte = (n / 777) as u8;
    }
    std::fs::write(&raw, &content).unwrap();
    let simulator = Simulator::builder().disk("web01", &raw).start().await.unwrap();
    let before = simulator.xen().inventory();
    for compression in ["none", "gzip"] {
        let args = ["web01", "-o", xva.to_str().unwrap(), "--compress", compression];
        let output = run(&simulator, &args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{compression}: {said}");
        assert!(said.contains("web01 is in"), "{said}");
        let archive = vmimage::open(&xva, &OpenOptions::new()).unwrap();
        let disk = vmimage::open(&raw, &OpenOptions::new()).unwrap();
        let same = vmimage::compare(archive.disks()[0].as_ref(), disk.disks()[0].as_ref()).unwrap();
        assert_eq!(same, Comparison::Same, "{compression}");
        assert_eq!(simulator.xen().inventory(), before, "the snapshot is gone");
    }
    assert!(simulator.xen().interruptions().is_empty(), "the service was left alone");
    assert_eq!(simulator.xen().sessions(), 0);

    // To a pipe, too, and nothing else goes there.
    let output = run(&simulator, &["web01", "-o", "-"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let piped = folder.path().join("piped.xva");
    std::fs::write(&piped, &output.stdout).unwrap();
    let archive = vmimage::open(&piped, &OpenOptions::new()).unwrap();
    let disk = vmimage::open(&raw, &OpenOptions::new()).unwrap();
    let same = vmimage::compare(archive.disks()[0].as_ref(), disk.disks()[0].as_ref()).unwrap();
    assert_eq!(same, Comparison::Same);
    std::fs::remove_file(piped).unwrap();

    // What fails leaves the file that was there, and nothing else.
    let old = std::fs::read(&xva).unwrap();
    simulator.xen().faults().set_str("export-truncate=100000").unwrap();
    let output = run(&simulator, &["web01", "-o", xva.to_str().unwrap()]).await;
    assert!(!output.status.success());
    simulator.xen().faults().clear();
    let output = run(&simulator, &["web77", "-o", xva.to_str().unwrap()]).await;
    assert!(String::from_utf8(output.stderr).unwrap().contains("no machine \"web77\""));
    assert!(std::fs::read(&xva).unwrap() == old);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    assert_eq!(simulator.xen().inventory(), before);
    simulator.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_takes_nothing_is_named_as_the_reason() {
    let simulator = Simulator::builder().start().await.unwrap();
    let before = simulator.xen().inventory();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = run_into(&simulator, &["web01", "-o", "-"], full.into()).await;
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(simulator.xen().inventory(), before, "the task and the snapshot are gone");
    simulator.stop().await;
}
