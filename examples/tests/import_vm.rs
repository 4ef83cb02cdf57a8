//! `import_vm` as a program: what was exported comes back, and what fails leaves nothing.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use simulator::Simulator;
use vmimage::{Comparison, OpenOptions};

/// A built example, beside the folder of this test's own binary.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

async fn run(simulator: &Simulator, name: &str, args: &[&str]) -> Output {
    let xen = simulator.ready().xen.clone();
    let mut command = Command::new(program(name));
    command
        .envs([("XEN_URL", xen.url), ("XEN_USERNAME", xen.username)])
        .envs([("XEN_PASSWORD", xen.password), ("XEN_PIN_SHA256", xen.pin_sha256.unwrap())])
        .args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The UUID in the program's last line.
fn made(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said.trim_end().rsplit(' ').next().unwrap().to_owned()
}

fn compare(a: &Path, b: &Path) -> Comparison {
    let open = |path| vmimage::open(path, &OpenOptions::new()).unwrap();
    vmimage::compare(open(a).disks()[0].as_ref(), open(b).disks()[0].as_ref()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_and_a_disk_are_brought_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (disk, xva, again) = (path("disk.img"), path("web01.xva"), path("again.xva"));
    let mut content = vec![0; 8 << 20];
    for (n, byte) in content.iter_mut().enumerate().skip(3 << 20).take(2_500_000) {
        *byte = (n / 777) as u8;
    }
    std::fs::write(&disk, &content).unwrap();
    let simulator = Simulator::builder().disk("web01", &disk).start().await.unwrap();
    let saved = run(&simulator, "export_vm", &["web01", "-o", xva.to_str().unwrap()]).await;
    assert!(saved.status.success());
    let machine = made(&run(&simulator, "import_vm", &[xva.to_str().unwrap()]).await);
    let args = [machine.as_str(), "-o", again.to_str().unwrap()];
    assert!(run(&simulator, "export_vm", &args).await.status.success());
    assert_eq!(compare(&again, &disk), Comparison::Same);

    let args = [disk.to_str().unwrap(), "--name", "a new disk", "--limit", "50000000"];
    let uuid = made(&run(&simulator, "import_vm", &args).await);
    let inventory = simulator.xen().inventory();
    let disks = inventory["VDI"].as_object().unwrap();
    let new = disks.values().find(|disk| disk["uuid"] == uuid.as_str()).unwrap();
    assert_eq!((&new["name_label"], &new["virtual_size"]), (&"a new disk".into(), &8388608.into()));

    // The same disk once more.
    let onto = run(&simulator, "import_vm", &[disk.to_str().unwrap(), "--onto", &uuid]).await;
    let said = String::from_utf8_lossy(&onto.stderr).into_owned();
    assert!(onto.status.success() && said.contains(&format!("{uuid} is written")), "{said}");
    assert_eq!(simulator.xen().inventory(), inventory);
    let none = run(&simulator, "import_vm", &[xva.to_str().unwrap(), "--onto", &uuid]).await;
    assert!(!none.status.success(), "a machine is no disk");

    // Failures are told in a line and leave nothing.
    for (fault, words) in [
        (Some("import-task-fails"), "INTERNAL_ERROR"),
        (Some("import-forbidden"), "RBAC_PERMISSION_DENIED"),
        (None, "no storage \"nowhere\""),
    ] {
        let mut args = vec![disk.to_str().unwrap()];
        match fault {
            Some(fault) => simulator.xen().faults().set_str(fault).unwrap(),
            None => args.extend(["--sr", "nowhere"]),
        }
        let output = run(&simulator, "import_vm", &args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(words), "{said}");
        assert_eq!(simulator.xen().inventory(), inventory, "{words}");
        simulator.xen().faults().clear();
    }
    assert_eq!(simulator.xen().sessions(), 0);
    simulator.stop().await;
}
