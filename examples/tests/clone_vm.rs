//! `clone_vm` as a program: its contract, and that no end of the process leaves anything behind.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use simulator::Simulator;

/// The built example, beside the folder of this test's own binary.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/clone_vm");
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

/// The program with a clean environment but for `variables`.
fn command(variables: &[(String, String)], args: &[&str]) -> Command {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["XEN_", "OS_", "CLOUDSTACK_"].iter().any(|p| text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command.envs(variables.iter().cloned()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run(variables: &[(String, String)], args: &[&str]) -> Output {
    let mut command = command(variables, args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The last line of standard output as JSON.
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap()
}

fn assert_one_line(output: &Output, code: i32, part: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(part), "{said}");
}

/// A pool with one running VM, and how to reach both ends.
async fn world(dir: &Path) -> (Simulator, Vec<(String, String)>) {
    let disk = dir.join("disk.img");
    let content: Vec<u8> = (0..6_u32 << 20).map(|i| (i >> 9) as u8 ^ (i as u8)).collect();
    std::fs::write(&disk, content).unwrap();
    let simulator = Simulator::builder().disk("web01", &disk).start().await.unwrap();
    let (xen, cloud) = (&simulator.ready().xen, &simulator.ready().openstack);
    let variables = [
        ("XEN_URL", xen.url.as_str()),
        ("XEN_USERNAME", &xen.username),
        ("XEN_PASSWORD", &xen.password),
        ("XEN_PIN_SHA256", xen.pin_sha256.as_deref().unwrap()),
        ("OS_AUTH_URL", &cloud.auth_url),
        ("OS_USERNAME", &cloud.username),
        ("OS_PASSWORD", &cloud.password),
        ("OS_PROJECT_NAME", &cloud.project),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
    ];
    let variables = variables.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    (simulator, variables)
}

/// Waits until an upload is under way.
async fn uploading(simulator: &Simulator) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !simulator.openstack().images().iter().any(|i| i["status"] == "saving") {
        assert!(Instant::now() < limit, "no upload has begun");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ended(mut child: Child) -> (Option<i32>, String) {
    tokio::task::spawn_blocking(move || {
        let code = child.wait().unwrap().code();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_server_it_clones_the_simulated_vm() {
    let report = json(&run(&[], &["--json"]).await);
    assert_eq!(report["target"], "glance");
    assert_eq!(report["vm"], "web01");
    let image = &report["images"][0];
    for (field, len) in [("md5", 32), ("sha256", 64), ("sha512", 128), ("content_root", 64)] {
        assert_eq!(image[field].as_str().unwrap().len(), len, "{field}");
    }
    assert!(image["bytes"].as_u64().unwrap() > 0 && image["format"] == "qcow2");
    assert!(report["steps"].as_array().unwrap().iter().any(|s| s["name"] == "transfer"));
    let table = text(&run(&[], &["--plan"]).await.stdout);
    assert!(table.contains("not checked"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_one_line_that_names_what_is_wrong() {
    let set = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_one_line(&run(&set("XEN_URL", "https://x"), &[]).await, 1, "XEN_USERNAME, XEN_PASSWORD");
    assert_one_line(&run(&set("OS_CLOUD", "x"), &[]).await, 1, "XEN_URL");
    assert_one_line(&run(&[], &["--format", "floppy"]).await, 2, "floppy");
    assert_one_line(&run(&[], &["--vm", "nobody"]).await, 1, "nobody");
    assert_one_line(&run(&[], &["--sim-disk", "web=/no/such/file"]).await, 1, "/no/such/file");
    assert_one_line(&run(&[], &["--from-vhd", "/no/such.vhd"]).await, 1, "/no/such.vhd");
    assert_one_line(&run(&[], &["--resume"]).await, 2, "--journal");
    assert_one_line(&run(&[], &["--no-such-option"]).await, 2, "--no-such-option");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_undo_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (simulator, variables) = world(dir.path()).await;
    let before = simulator.xen().inventory();
    simulator.xen().faults().set_str("slow-export=2000000").unwrap();
    for signal in ["-INT", "-TERM"] {
        let child = command(&variables, &["--json"]).spawn().unwrap();
        uploading(&simulator).await;
        for _ in 0..2 {
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        }
        let (code, said) = ended(child).await;
        assert_eq!((code, said.lines().count()), (Some(130), 1), "{signal}: {said}");
        assert!(said.contains("the snapshot and the image of run "), "{signal}: {said}");
        assert_eq!(simulator.xen().inventory(), before, "{signal}");
        assert_eq!(simulator.xen().sessions(), 0, "{signal}: it did not log out");
        assert_eq!(simulator.openstack().images(), [Value::Null; 0], "{signal}");
    }
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_resumed_or_undone() {
    let dir = tempfile::tempdir().unwrap();
    let (simulator, variables) = world(dir.path()).await;
    let before = simulator.xen().inventory();
    for way in ["--resume", "--undo"] {
        let journal = dir.path().join(way);
        let journal = journal.to_str().unwrap();
        simulator.xen().faults().set_str("slow-export=2000000").unwrap();
        let mut child =
            command(&variables, &["--journal", journal, "--name", "copy"]).spawn().unwrap();
        uploading(&simulator).await;
        child.kill().unwrap();
        child.wait().unwrap();
        simulator.xen().faults().clear();
        assert_ne!(simulator.xen().inventory(), before);
        let again = run(&variables, &["--journal", journal]).await;
        assert_one_line(&again, 1, "--resume");

        // What the command line does not say, the journal knows.
        let output = run(&variables, &["--journal", journal, way, "--json"]).await;
        assert!(output.status.success(), "{way}: {}", text(&output.stderr));
        assert_eq!(simulator.xen().inventory(), before, "{way}");
        let images = simulator.openstack().images();
        if way == "--undo" {
            assert_eq!(images.len(), 1, "that of the run before");
            continue;
        }
        let report = json(&output);
        assert_eq!(images[0]["id"], report["images"][0]["id"]);
        assert_eq!(images[0]["name"], "copy");
        // A finished run tells its result again, and needs no server for it.
        assert_eq!(json(&run(&[], &["--journal", journal, "--resume", "--json"]).await), report);
    }
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_need_no_pool() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("leaf.img");
    std::fs::write(&disk, vec![3_u8; 2 << 20]).unwrap();
    let file = disk.to_str().unwrap();
    let args = ["--from-vhd", file, "--name", "web02", "--format", "vhd-tgz", "--json"];
    let report = json(&run(&[], &args).await);
    assert_eq!(report["images"][0]["name"], "web02");
    assert_eq!(report["images"][0]["format"], "vhd-tgz");
    let pool_is_not_asked = vec![("XEN_URL".to_owned(), "https://127.0.0.1:1".to_owned())];
    json(&run(&pool_is_not_asked, &args).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_needs_no_cloud() {
    let dir = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", dir.path().display());
    let args = ["--target", &target, "--format", "vhd", "--json"];
    let report = json(&run(&[("OS_CLOUD".to_owned(), "not-asked".to_owned())], &args).await);
    assert_eq!(report["target"], "dir");
    let path = PathBuf::from(report["images"][0]["id"].as_str().unwrap());
    assert_eq!(path, dir.path().join("web01.vhd"));
    assert_eq!(std::fs::metadata(path).unwrap().len(), report["images"][0]["bytes"]);
    assert!(dir.path().join("web01.json").exists());
    assert_one_line(&run(&[], &["--target", "floppy"]).await, 2, "dir:PATH");
}

/// CloudStack with the same pool: by upload and by URL, and a second run beside the first.
#[tokio::test(flavor = "multi_thread")]
async fn cloudstack_gets_a_template_for_each_run() {
    let dir = tempfile::tempdir().unwrap();
    let (simulator, mut variables) = world(dir.path()).await;
    variables.retain(|(name, _)| name.starts_with("XEN_"));
    let cloud = &simulator.ready().cloudstack;
    for (name, value) in [
        ("CLOUDSTACK_ENDPOINT", &cloud.endpoint),
        ("CLOUDSTACK_KEY", &cloud.key),
        ("CLOUDSTACK_SECRET", &cloud.secret),
        // A configuration of the other cloud is not looked at.
        ("OS_CLOUD", &"nowhere".to_owned()),
    ] {
        variables.push((name.to_owned(), value.clone()));
    }
    let before = simulator.xen().inventory();
    let args = ["--target", "cloudstack", "--zone", "zone1", "--os-type", "debian 12", "--json"];
    let mut templates = Vec::new();
    for via in ["upload", "url"] {
        let report = json(&run(&variables, &[&args[..], &["--via", via]].concat()).await);
        assert_eq!((&report["target"], &report["vm"]), (&"cloudstack".into(), &"web01".into()));
        assert_eq!(report["images"][0]["format"], "vhd");
        let id = report["images"][0]["id"].as_str().unwrap().to_owned();
        let path = simulator.cloudstack().template_path(&id).unwrap();
        let (vhd, raw) = (vmimage::OpenOptions::new(), vmimage::OpenOptions::new());
        let stored = vmimage::open(&path, &vhd.with_format(vmimage::Format::Vhd)).unwrap();
        let disk = vmimage::open(dir.path().join("disk.img"), &raw).unwrap();
        let same = vmimage::compare(&*stored.disks()[0], &*disk.disks()[0]).unwrap();
        assert_eq!(same, vmimage::Comparison::Same, "{via}");
        templates.push(id);
        assert_eq!(simulator.xen().inventory(), before, "{via}");
    }
    let found = simulator.cloudstack().templates();
    let ids: Vec<_> = found.iter().map(|t| t["id"].as_str().unwrap()).collect();
    assert_eq!(ids, templates, "both are there, each once");
    assert!(found.iter().all(|t| t["name"] == "web01" && t["isready"] == true));

    // What the command line does not say, the journal knows.
    simulator.xen().faults().set_str("slow-export=2000000").unwrap();
    let journal = dir.path().join("journal");
    let journal = ["--journal", journal.to_str().unwrap()];
    let mut child = command(&variables, &[&args[..], &journal[..]].concat()).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while simulator.cloudstack().templates().len() < 3 {
        assert!(Instant::now() < limit, "no upload has begun");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    simulator.xen().faults().clear();
    let resumed = run(&variables, &[&journal[..], &["--resume", "--json"]].concat()).await;
    assert_eq!(json(&resumed)["target"], "cloudstack");
    assert_eq!(simulator.cloudstack().templates().len(), 3);
    assert_eq!(simulator.xen().inventory(), before);

    let simulated = run(&[], &["--target", "cloudstack", "--json"]).await;
    assert_eq!(json(&simulated)["images"][0]["format"], "vhd");
}

/// A pipe whose reader has gone away.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A reader that has seen enough is no failure, and nobody to be told about a failure is none more.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (simulator, variables) = world(dir.path()).await;
    let simulated: &[(String, String)] = &[];
    let failing = ["--vm", "nobody"];
    for (variables, args, code) in [
        (simulated, &["--help"][..], 0),
        (simulated, &["--plan"], 0),
        (simulated, &["--json"], 0),
        (&variables, &["--json"], 0),
        (&variables, &["--no-such-option"], 2),
        (&variables, &failing, 1),
    ] {
        let mut command = command(variables, args);
        command.stdout(broken_pipe()).stderr(broken_pipe());
        let status = tokio::task::spawn_blocking(move || command.status().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
    assert_eq!(simulator.openstack().images().len(), 1);
    simulator.stop().await;
}

/// A command that a program like `nohup` runs in its own place.
fn through(program: &str, args: &[&str], direct: &Command) -> Command {
    let mut command = Command::new(program);
    command.args(args).arg(direct.get_program()).args(direct.get_args());
    for (name, value) in direct.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|m| m & 1 == 1)
}

/// A terminal that is closed, or a connection that is lost, is a signal, too; unless the caller said
/// (`nohup`) that it is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_undoes_the_run_unless_it_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (simulator, variables) = world(dir.path()).await;
    let before = simulator.xen().inventory();
    for ignored in [false, true] {
        simulator.xen().faults().set_str("slow-export=2000000").unwrap();
        let direct = command(&variables, &["--json"]);
        let mut command = if ignored {
            through("nohup", &[], &direct)
        } else if hangups_are_ignored() {
            // Whoever runs these tests has said it, which is inherited.
            through("env", &["--default-signal=HUP"], &direct)
        } else {
            direct
        };
        let child = command.spawn().unwrap();
        uploading(&simulator).await;
        Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
        if ignored {
            simulator.xen().faults().clear();
        }
        let (code, said) = ended(child).await;
        assert_eq!(code, Some(if ignored { 0 } else { 130 }), "{said}");
        assert_eq!(simulator.openstack().images().len(), usize::from(ignored), "{said}");
        assert_eq!(simulator.xen().inventory(), before);
    }
    simulator.stop().await;
}

/// A journal is for one run: other arguments are an error, also when the run is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_is_not_the_answer_to_another_question() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let folder = dir.path().join("images");
    let target = format!("dir:{}", folder.display());
    let first = ["--journal", journal.to_str().unwrap(), "--target", &target, "--format", "raw"];
    json(&run(&[], &[&first[..], &["--json"]].concat()).await);
    let again = ["--journal", journal.to_str().unwrap(), "--resume", "--json"];
    let same = json(&run(&[], &again).await);
    for fitting in [&["--vm", "web01"][..], &["--target", &target], &["--format", "raw"]] {
        assert_eq!(json(&run(&[], &[&again[..], fitting].concat()).await), same, "{fitting:?}");
    }
    for (other, named) in [
        (&["--vm", "db02"][..], "web01"),
        (&["--from-vhd", "/tmp/other.vhd"], "--from-vhd"),
        (&["--target", "glance"], "dir"),
        (&["--target", "cloudstack"], "dir"),
        (&["--target", "dir:/elsewhere"], "images"),
        (&["--format", "qcow2"], "raw"),
        (&["--name", "other"], "--name"),
    ] {
        let output = run(&[], &[&again[..], other].concat()).await;
        assert_one_line(&output, 1, named);
        assert_eq!(text(&output.stdout), "", "{other:?}");
    }
}

/// What only looks changes nothing, not even a journal's folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_and_an_undo_make_no_journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let journal = ["--journal", journal.to_str().unwrap()];
    let planned = run(&[], &[&journal[..], &["--plan"]].concat()).await;
    assert!(planned.status.success(), "{}", text(&planned.stderr));
    let undone = run(&[], &[&journal[..], &["--undo"]].concat()).await;
    assert_one_line(&undone, 1, "journal");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Who lost the journal, or had none, needs only the run's id, which is in the snapshot's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_journal_is_swept_by_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let (simulator, variables) = world(dir.path()).await;
    let before = simulator.xen().inventory();
    simulator.xen().faults().set_str("slow-export=2000000").unwrap();
    let mut child = command(&variables, &[]).spawn().unwrap();
    uploading(&simulator).await;
    child.kill().unwrap();
    child.wait().unwrap();
    simulator.xen().faults().clear();
    let inventory = simulator.xen().inventory().to_string();
    let at = inventory.find("migrate-run-").unwrap() + "migrate-run-".len();
    let id = &inventory[at..at + 36];
    let swept = json(&run(&variables, &["--sweep", id, "--json"]).await);
    assert_eq!(swept["run_id"], id);
    let kinds: Vec<_> = swept["removed"].as_array().unwrap().iter().map(|l| &l["kind"]).collect();
    assert!(kinds.contains(&&"image".into()) && kinds.contains(&&"VM snapshot".into()), "{swept}");
    assert_eq!(simulator.xen().inventory(), before);
    assert_eq!(simulator.openstack().images(), [Value::Null; 0]);
    let again = json(&run(&variables, &["--sweep", id, "--json"]).await);
    assert_eq!(again["removed"], serde_json::json!([]));
    assert_one_line(&run(&variables, &["--sweep", "web01"]).await, 2, "web01");
    simulator.stop().await;
}

/// The VM may be gone when its run is taken up again.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_of_a_vm_that_is_gone_is_resumed_or_undone() {
    use xenapi::vm;
    for way in ["--resume", "--undo"] {
        let dir = tempfile::tempdir().unwrap();
        let (simulator, variables) = world(dir.path()).await;
        let journal = dir.path().join("journal");
        let journal = ["--journal", journal.to_str().unwrap()];
        simulator.xen().faults().set_str("slow-export=2000000").unwrap();
        let mut child = command(&variables, &journal).spawn().unwrap();
        uploading(&simulator).await;
        child.kill().unwrap();
        child.wait().unwrap();
        simulator.xen().faults().clear();

        let xen = &simulator.ready().xen;
        let pins = xenapi::Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap();
        let client = xenapi::Client::builder(&xen.url).trust(xenapi::Trust::Pins(pins));
        let client = client.build().unwrap();
        let session = client.login(&xen.username, xen.password.as_str(), "test").await.unwrap();
        let source = session.call(vm::get_by_name_label("web01")).await.unwrap().remove(0);
        session.call(vm::hard_shutdown(&source)).await.unwrap();
        session.call(vm::destroy(&source)).await.unwrap();

        let output = run(&variables, &[&journal[..], &[way, "--json"]].concat()).await;
        let result = json(&output);
        let images = usize::from(way == "--resume");
        assert_eq!(simulator.openstack().images().len(), images, "{way}: {result}");
        let left = session.call(vm::get_all_records()).await.unwrap();
        assert!(!left.values().any(|v| v.is_a_snapshot), "{way}: a snapshot is left");
        simulator.stop().await;
    }
}

/// A name of the pool's is shown, and does nothing to the terminal.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_no_commands_to_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    std::fs::write(&disk, vec![3_u8; 1 << 20]).unwrap();
    let disk = format!("we\u{1b}[31mb=01={}", disk.display());
    let (name, file) = disk.rsplit_once('=').unwrap();
    let sim = format!("{}={file}", name.replace('=', ""));
    for args in [&["--sim-disk", &sim][..], &["--sim-disk", &sim, "--plan"]] {
        let output = run(&[], args).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(!output.stdout.contains(&0x1b), "{:?}", text(&output.stdout));
    }
}

/// The address at which data are served is not what a run does: the journal does not know it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_serves_its_data_is_resumed_with_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let (simulator, mut variables) = world(dir.path()).await;
    variables.retain(|(name, _)| name.starts_with("XEN_"));
    let cloud = &simulator.ready().cloudstack;
    for (name, value) in [
        ("CLOUDSTACK_ENDPOINT", &cloud.endpoint),
        ("CLOUDSTACK_KEY", &cloud.key),
        ("CLOUDSTACK_SECRET", &cloud.secret),
    ] {
        variables.push((name.to_owned(), value.clone()));
    }
    let journal = dir.path().join("journal");
    let journal = ["--journal", journal.to_str().unwrap()];
    simulator.xen().faults().set_str("slow-export=2000000").unwrap();
    let bind = ["--bind", "127.0.0.1:0"];
    let args = [&journal[..], &["--target", "cloudstack", "--via", "url"], &bind].concat();
    let mut child = command(&variables, &args).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while !simulator.xen().inventory().to_string().contains("migrate-run-") {
        assert!(Instant::now() < limit, "no snapshot");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    simulator.xen().faults().clear();
    let resume = [&journal[..], &["--resume", "--json"]].concat();
    assert_one_line(&run(&variables, &resume).await, 1, "--bind");
    json(&run(&variables, &[&resume[..], &bind].concat()).await);
    assert_eq!(simulator.cloudstack().templates().len(), 1);
    simulator.stop().await;
}
