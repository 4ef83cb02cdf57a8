//! The failures that a user meets, through the program: each is one line on standard error that
//! names the object and the remedy, exit code 1, and nothing is left at either end.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use simulator::Simulator;

/// The built example, beside the folder of this test's own binary.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/clone_vm");
    assert!(path.exists(), "build it first: cargo build -p examples --examples");
    path
}

/// A pool with one running VM, an empty Glance and an empty CloudStack.
struct World {
    simulator: Simulator,
    before: Value,
    variables: Vec<(&'static str, String)>,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk.img");
        let content: Vec<u8> = (0..6_u32 << 20).map(|i| (i >> 9) as u8 ^ (i as u8)).collect();
        std::fs::write(&disk, content).unwrap();
        Self::with(Simulator::builder().disk("web01", &disk).start().await.unwrap(), dir)
    }

    fn with(simulator: Simulator, dir: tempfile::TempDir) -> Self {
        let ready = simulator.ready();
        let variables = vec![
            ("XEN_URL", ready.xen.url.clone()),
            ("XEN_USERNAME", ready.xen.username.clone()),
            ("XEN_PASSWORD", ready.xen.password.clone()),
            ("XEN_PIN_SHA256", ready.xen.pin_sha256.clone().unwrap()),
            ("OS_AUTH_URL", ready.openstack.auth_url.clone()),
            ("OS_USERNAME", ready.openstack.username.clone()),
            ("OS_PASSWORD", ready.openstack.password.clone()),
            ("OS_PROJECT_NAME", ready.openstack.project.clone()),
            ("OS_USER_DOMAIN_NAME", "Default".to_owned()),
            ("OS_PROJECT_DOMAIN_NAME", "Default".to_owned()),
            ("CLOUDSTACK_ENDPOINT", ready.cloudstack.endpoint.clone()),
            ("CLOUDSTACK_KEY", ready.cloudstack.key.clone()),
            ("CLOUDSTACK_SECRET", ready.cloudstack.secret.clone()),
        ];
        Self { before: simulator.xen().inventory(), simulator, variables, dir }
    }

    /// The program for one of the clouds, with other values for some variables; an empty one is
    /// not set.
    async fn run(&self, target: &str, changes: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["XEN_", "OS_", "CLOUDSTACK_"].iter().any(|p| text.starts_with(p)) {
                command.env_remove(&name);
            }
        }
        command.envs(self.variables.iter().map(|(n, v)| (*n, v)));
        for (name, value) in changes {
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        command.args(["--target", target]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    fn fault(&self, text: &str) {
        let (end, fault) = text.split_once(' ').unwrap();
        match end {
            "xen" => self.simulator.xen().faults().set_str(fault).unwrap(),
            "glance" => self.simulator.openstack().faults().set_str(fault).unwrap(),
            _ => self.simulator.cloudstack().faults().set_str(fault).unwrap(),
        }
    }

    fn clear(&self) {
        self.simulator.xen().faults().clear();
        self.simulator.openstack().faults().clear();
        self.simulator.cloudstack().faults().clear();
    }

    fn assert_nothing_left(&self, what: &str) {
        assert_eq!(self.simulator.xen().inventory(), self.before, "{what}: the source has changed");
        self.assert_target_empty(what);
    }

    fn assert_target_empty(&self, what: &str) {
        assert_eq!(self.simulator.openstack().images(), [Value::Null; 0], "{what}");
        assert_eq!(self.simulator.cloudstack().templates(), [Value::Null; 0], "{what}");
    }

    /// What the program said, after a look at its form.
    fn said(&self, output: &Output, code: i32, what: &str) -> String {
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        println!("{what}:\n  {said}");
        assert_eq!(output.status.code(), Some(code), "{what}: {said}");
        assert_eq!(said.lines().count(), 1, "{what}: {said}");
        for (name, value) in &self.variables {
            if name.ends_with("PASSWORD") || name.ends_with("SECRET") {
                assert!(!said.contains(value), "{what}: {name} is told");
            }
        }
        said
    }

    /// Fails with all rows whose line lacks something.
    async fn fail(&self, rows: &[Row<'_>]) {
        let mut missing = Vec::new();
        for row in rows {
            missing.extend(self.misses(row).await);
        }
        assert!(missing.is_empty(), "{}", missing.concat());
    }

    /// Runs, and looks at everything that the table asks; gives what the line does not say.
    async fn misses(&self, row: &Row<'_>) -> Vec<String> {
        let what = format!("{} ({})", row.name, row.target);
        if !row.fault.is_empty() {
            self.fault(row.fault);
        }
        let output = self.run(row.target, row.changes, row.args).await;
        self.clear();
        let said = self.said(&output, 1, &what);
        self.assert_nothing_left(&what);
        let missing = [row.object, row.remedy].into_iter().filter(|part| !said.contains(part));
        missing.map(|part| format!("{what}: no {part:?} in: {said}")).collect()
    }
}

#[derive(Clone, Copy)]
struct Row<'a> {
    name: &'a str,
    target: &'a str,
    /// An end and its fault.
    fault: &'a str,
    changes: &'a [(&'a str, &'a str)],
    args: &'a [&'a str],
    /// Words by which the line names the object.
    object: &'a str,
    /// Words by which it names the remedy.
    remedy: &'a str,
}

const fn row<'a>(
    name: &'a str,
    target: &'a str,
    fault: &'a str,
    object: &'a str,
    remedy: &'a str,
) -> Row<'a> {
    Row { name, target, fault, changes: &[], args: &[], object, remedy }
}

const NOWHERE: &str = "http://127.0.0.1:1";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_got_wrong() {
    let world = World::new().await;
    let zeros = "0".repeat(64);
    let cs = [("CLOUDSTACK_ENDPOINT", "http://127.0.0.1:1/client/api")];
    let base = |name, target, object, remedy| row(name, target, "", object, remedy);
    let rows = [
        Row {
            changes: &[("XEN_PASSWORD", "wrong")],
            ..base("wrong password of the pool", "glance", "root", "password")
        },
        Row {
            changes: &[("OS_PASSWORD", "wrong")],
            ..base("wrong password of OpenStack", "glance", "log in", "check user, password")
        },
        Row {
            changes: &[("CLOUDSTACK_SECRET", "wrong")],
            ..base(
                "wrong secret of CloudStack",
                "cloudstack",
                "API key",
                "check the API key and its secret",
            )
        },
        Row {
            args: &["--vm", "nobody"],
            ..base("unknown VM", "glance", "nobody", "give its name or UUID")
        },
        Row {
            args: &["--vm", "nobody"],
            ..base("unknown VM", "cloudstack", "nobody", "give its name or UUID")
        },
        Row {
            changes: &[("XEN_URL", "https://127.0.0.1:1")],
            ..base("unreachable pool", "glance", "127.0.0.1:1", "is the address right")
        },
        Row {
            changes: &[("OS_AUTH_URL", NOWHERE)],
            ..base("unreachable Keystone", "glance", "127.0.0.1:1", "check")
        },
        Row {
            changes: &cs,
            ..base("unreachable CloudStack", "cloudstack", "127.0.0.1:1", "check")
        },
        Row {
            changes: &[("XEN_PIN_SHA256", &zeros)],
            ..base("another certificate", "glance", "certificate", "pin")
        },
        Row {
            changes: &[("XEN_PASSWORD", "")],
            ..base("partial pool", "glance", "XEN_PASSWORD", "set")
        },
        Row {
            changes: &[("OS_PASSWORD", "")],
            ..base("partial OpenStack", "glance", "OS_PASSWORD", "set")
        },
        Row {
            changes: &[("CLOUDSTACK_SECRET", "")],
            ..base("partial CloudStack", "cloudstack", "CLOUDSTACK_SECRET", "set")
        },
    ];
    world.fail(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_at_the_source() {
    let world = World::new().await;
    for target in ["glance", "cloudstack"] {
        let rows = [
            row("SR full at the snapshot", target, "xen sr-full", "web01", "free space"),
            row("snapshot chain too long", target, "xen chain-too-long", "web01", "coalesce"),
            row(
                "export truncated",
                target,
                "xen export-truncate=200000",
                "disk 0 of web01",
                "again",
            ),
            row(
                "task failed after HTTP 200",
                target,
                "xen export-task-fails",
                "disk 0 of web01",
                "again",
            ),
        ];
        world.fail(&rows).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_at_the_target() {
    let world = World::new().await;
    let rows = [
        row("expired token", "glance", "glance expire-after=0", "image", "log in anew"),
        row(
            "expired API key",
            "cloudstack",
            "cloudstack expired-key",
            "API key",
            "check the API key",
        ),
        row("image quota full", "glance", "glance quota=1000000", "web01", "quota"),
        row(
            "template quota full",
            "cloudstack",
            "cloudstack template-quota",
            "web01",
            "delete templates",
        ),
        row(
            "upload endpoint unreachable",
            "cloudstack",
            "cloudstack upload-unreachable",
            "web01",
            "127.0.0.1:1",
        ),
        Row {
            changes: &[("OS_IMAGE_ENDPOINT_OVERRIDE", NOWHERE)],
            ..row("upload endpoint unreachable", "glance", "", "127.0.0.1:1", "check")
        },
        row("image killed", "glance", "glance image-killed", "image", "make a new one"),
        row(
            "template in error state",
            "cloudstack",
            "cloudstack template-error",
            "web01",
            "begin anew",
        ),
        Row {
            args: &["--via", "url"],
            ..row(
                "template in error state by URL",
                "cloudstack",
                "cloudstack template-error",
                "web01",
                "begin anew",
            )
        },
    ];
    world.fail(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_expires_in_the_middle_is_told_with_what_is_left() {
    let world = World::new().await;
    world.fault("cloudstack expire-after=10");
    let output = world.run("cloudstack", &[], &[]).await;
    world.clear();
    let said = world.said(&output, 1, "API key that expires on the way");
    assert!(said.contains("left behind: ") && said.contains("API key"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_vms_of_one_name() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    std::fs::write(&disk, [7; 1 << 20]).unwrap();
    let builder = Simulator::builder().disk("web01", &disk).disk("db01", &disk);
    let simulator = builder.start().await.unwrap();
    let xen = &simulator.ready().xen;
    let pins = xenapi::Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap();
    let client = xenapi::Client::builder(&xen.url).trust(xenapi::Trust::Pins(pins));
    let session =
        client.build().unwrap().login(&xen.username, xen.password.as_str(), "test").await.unwrap();
    let vm = session.call(xenapi::vm::get_by_name_label("db01")).await.unwrap().remove(0);
    session.call(xenapi::vm::set_name_label(&vm, "web01")).await.unwrap();
    let world = World::with(simulator, dir);
    for target in ["glance", "cloudstack"] {
        let row = row("two VMs of one name", target, "", "web01", "give a UUID");
        world.fail(&[Row { args: &["--vm", "web01"], ..row }]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_no_vhd_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("huge.img");
    std::fs::File::create(&disk).unwrap().set_len(2041 << 30).unwrap();
    let simulator = Simulator::builder().disk("web01", &disk).start().await.unwrap();
    let world = World::with(simulator, dir);
    for target in ["glance", "cloudstack"] {
        let row = row("disk over 2040 GiB as VHD", target, "", "2041 GiB", "2040");
        world.fail(&[Row { args: &["--format", "vhd"], ..row }]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_in_use() {
    let world = World::new().await;
    let path = world.dir.path().join("web01.journal");
    let _held = migrate_core::journal::FileJournal::open(&path).unwrap();
    let path = path.to_str().unwrap();
    let row = row("journal in use", "glance", "", path, "wait");
    world.fail(&[Row { args: &["--journal", path], ..row }]).await;
}

/// A host that is gone cannot be tidied up: what is left there is named, and the way to remove it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_gone_during_the_export() {
    // Side by side: the undo waits for a minute whether the host comes back.
    let gone = async |target: &str| {
        let world = World::new().await;
        world.fault("xen host-gone=200000");
        let output = world.run(target, &[], &[]).await;
        let said = world.said(&output, 1, "host gone during the export");
        assert!(said.contains("web01") && said.contains("left behind: "), "{said}");
        assert!(said.contains("resume it to try again, or remove by hand"), "{said}");
        world.assert_target_empty("host gone");
    };
    tokio::join!(gone("glance"), gone("cloudstack"));
}
