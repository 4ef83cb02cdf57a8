//! The whole clone into the simulated CloudStack: whatever happens on the way, the source ends as
//! it was, and the target holds verified templates or nothing.
#![cfg(all(feature = "cloudstack", feature = "xenserver"))]
#![allow(clippy::unwrap_used)] // a test helper that fails is a test that fails

mod doubles;

use std::path::{Path, PathBuf};

use cloudstack_client::{Client as Cloud, Credentials};
use migrate_core::cloudstack::{CloudStackTemplate, Hypervisor, Via};
use migrate_core::journal::{Entry, Journal, MemoryJournal};
use migrate_core::{
    CancelToken, Context, ErrorKind, Event, Pipeline, Report, Result, RunId, VhdFiles, XenServerVm,
};
use serde_json::Value;
use simulator::Simulator;
use vmimage::TargetFormat;
use xenapi::{Client, Pin, Secret, Session, Trust};

use doubles::{context, disk, killed, run_id};

struct World {
    sim: Simulator,
    before: Value,
    _dir: tempfile::TempDir,
    session: Session,
    cloud: Cloud,
    files: Vec<PathBuf>,
}

impl World {
    /// A pool with one running VM of two disks, and an empty cloud.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![disk(dir.path(), "root.img", 6, 1), disk(dir.path(), "data.img", 3, 7)];
        let builder = files.iter().fold(Simulator::builder(), |b, f| b.disk("web01", f));
        let sim = builder.start().await.unwrap();
        let ready = sim.ready();
        let pins = Pin::parse_list(ready.xen.pin_sha256.as_deref().unwrap()).unwrap();
        let client = Client::builder(&ready.xen.url).trust(Trust::Pins(pins)).build().unwrap();
        let password = Secret::new(ready.xen.password.as_str());
        let session = client.login(&ready.xen.username, password, "test").await.unwrap();
        let keys = Credentials::new(&ready.cloudstack.key, &ready.cloudstack.secret);
        let cloud = Cloud::builder(&ready.cloudstack.endpoint).credentials(keys).build().unwrap();
        let before = sim.xen().inventory();
        Self { sim, before, _dir: dir, session, cloud, files }
    }

    fn target(&self) -> CloudStackTemplate {
        CloudStackTemplate::new(&self.cloud, TargetFormat::VhdDynamic).with_name("copy")
    }

    async fn pipeline(&self, target: CloudStackTemplate) -> Pipeline {
        Pipeline::new(XenServerVm::only_running(&self.session).await.unwrap(), target)
    }

    async fn run(&self, journal: impl Journal + 'static, context: Context) -> Result<Report> {
        self.pipeline(self.target()).await.run(journal, context).await
    }

    fn assert_source_unchanged(&self, what: &str) {
        assert_eq!(self.sim.xen().inventory(), self.before, "{what}: the source has changed");
        assert_eq!(self.sim.xen().interruptions(), [""; 0], "{what}: the service was stopped");
    }

    fn assert_no_template(&self, what: &str) {
        let left = self.sim.cloudstack().templates();
        assert_eq!(left, [Value::Null; 0], "{what}: a template is left");
    }

    /// All templates are whole, published, and hold the disks.
    fn assert_templates(&self, report: &Report, what: &str) {
        let templates = self.sim.cloudstack().templates();
        assert_eq!(templates.len(), self.files.len(), "{what}: {templates:?}");
        for (i, (report, file)) in report.images.iter().zip(&self.files).enumerate() {
            let name = if i == 0 { "copy".to_owned() } else { format!("copy-disk{}", i + 1) };
            assert_eq!(report.name, name, "{what}");
            let template = templates.iter().find(|v| v["id"] == report.id.as_str()).unwrap();
            assert_eq!(template["name"], name.as_str(), "{what}");
            assert_eq!(template["isready"], true, "{what}");
            assert_eq!(template["physicalsize"], report.bytes, "{what}");
            let path = self.sim.cloudstack().template_path(&report.id).unwrap();
            assert_same(&path, file, what);
        }
    }
}

/// The stored VHD is sound, and its content that of the file.
fn assert_same(vhd: &Path, file: &Path, what: &str) {
    let options = vmimage::OpenOptions::new().with_format(vmimage::Format::Vhd);
    let stored = vmimage::open(vhd, &options).unwrap();
    let raw = vmimage::open(file, &vmimage::OpenOptions::new()).unwrap();
    let same = vmimage::compare(&*stored.disks()[0], &*raw.disks()[0]).unwrap();
    assert_eq!(same, vmimage::Comparison::Same, "{what}");
    let found = vmimage::check(vhd, &options).unwrap();
    assert_eq!(found.verdict(), vmimage::Verdict::Sound, "{what}: {found:?}");
}

fn by_url() -> Via {
    Via::Url { bind: ([127, 0, 0, 1], 0).into(), host: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_becomes_templates_by_upload_and_by_url() {
    for via in [Via::Upload, by_url()] {
        let world = World::new().await;
        let what = format!("{via:?}");
        let target = world.target().with_via(via).with_os_type("debian 12").with_public(true);
        let pipeline = world.pipeline(target).await;
        let plan = pipeline.plan().await.unwrap();
        plan.check().unwrap();
        assert!(plan.findings.iter().any(|f| f.rule == "template-data-disks"), "{plan:?}");
        world.assert_source_unchanged("plan");
        world.assert_no_template("plan");

        let journal = MemoryJournal::new();
        let report = pipeline.run(journal.clone(), context()).await.unwrap();
        assert_eq!(report.target, "cloudstack");
        world.assert_source_unchanged(&what);
        world.assert_templates(&report, &what);
        let names: Vec<&str> = report.steps.iter().map(|s| s.name.as_str()).collect();
        let expected =
            ["snapshot", "inspect", "choose", "transfer", "verify", "publish", "cleanup"];
        assert_eq!(names, expected);
        let root = &world.sim.cloudstack().templates()[0];
        assert_eq!(root["hypervisor"], "XenServer");
        assert_eq!(root["ostypename"], "Debian GNU/Linux 12 (64-bit)");
        assert_eq!(root["displaytext"], "copy");
        assert_eq!(root["ispublic"], true);
        assert_eq!(root["tags"][0]["key"], "migrate_run_id");
        assert_eq!(root["tags"][0]["value"], report.run_id.to_string());
        assert_eq!(root.get("checksum").is_some(), what != "Upload", "{root}");

        // A second run makes a second template, and leaves the first alone.
        let again = pipeline.run(MemoryJournal::new(), context()).await.unwrap();
        let all = world.sim.cloudstack().templates();
        assert_eq!(all.len(), 4);
        assert_eq!(&all[0], root);
        assert!(again.images.iter().all(|i| report.images.iter().all(|j| i.id != j.id)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_formats_and_sources_become_templates() {
    let world = World::new().await;
    for (format, hypervisor) in [
        (TargetFormat::Qcow2, Hypervisor::Kvm),
        (TargetFormat::Raw, Hypervisor::Kvm),
        (TargetFormat::VhdDynamic, Hypervisor::Kvm),
    ] {
        let files = VhdFiles::new(&world.files[0]).with_name("web01");
        let target = CloudStackTemplate::new(&world.cloud, format).with_hypervisor(hypervisor);
        let run = Pipeline::new(files, target).run(MemoryJournal::new(), context()).await;
        let report = run.unwrap_or_else(|e| panic!("{format:?}: {}", e.report()));
        assert_eq!(
            (report.images[0].format.as_str(), report.images[0].name.as_str()),
            (format.as_str(), "web01")
        );
    }
    let found = world.sim.cloudstack().templates();
    assert!(found.iter().all(|t| t["hypervisor"] == "KVM"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_leave_nothing() {
    let world = World::new().await;
    for via in [Via::Upload, by_url()] {
        for fault in [
            "template-error",
            "fail-nth=1:createTags 431",
            "fail-nth=1:updateTemplate 531",
            "fail-nth=1:listZones 531",
            "template-quota=1",
            "upload-unreachable",
            "upload-fails=500:100000",
            "upload-close=100000",
            "size-cap=1000",
            "ticket-ttl=0",
            "expire-after=9",
            "refuse-loopback",
            "quota=1000000",
        ] {
            let ours = match via {
                Via::Upload => fault != "refuse-loopback",
                _ => !["upload", "size", "ticket"].iter().any(|f| fault.starts_with(f)),
            };
            if !ours {
                continue;
            }
            let what = format!("{fault} by {via:?}");
            world.sim.cloudstack().faults().set_str(fault).unwrap();
            let pipeline = world.pipeline(world.target().with_via(via.clone())).await;
            let e = pipeline.run(MemoryJournal::new(), context()).await.unwrap_err();
            world.sim.cloudstack().faults().clear();
            assert!(!e.to_string().contains('\n'));
            if fault.starts_with("expire") {
                // Nothing can be removed without a key; what is left is named.
                assert_eq!(e.kind(), ErrorKind::Stuck, "{what}: {}", e.report());
                for template in world.sim.cloudstack().templates() {
                    let name = template["name"].as_str().unwrap();
                    let run: RunId = name.split("run-").nth(1).unwrap()[..36].parse().unwrap();
                    assert!(!pipeline.sweep(run).await.unwrap().is_empty());
                }
            } else {
                assert_ne!(e.kind(), ErrorKind::Stuck, "{what}: {}", e.report());
            }
            world.assert_source_unchanged(&what);
            world.assert_no_template(&what);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_are_found_again() {
    for fault in [
        "drop-after-effect=getUploadParamsForTemplate",
        "drop-after-effect=upload",
        "drop-after-effect=createTags",
        "drop-after-effect=updateTemplate",
        "drop-after-effect=updateTemplatePermissions",
        "upload-close=100000@1",
        "upload-fails=503:100000@1",
        "slow-template=1500",
        "slow-job=700",
    ] {
        let world = World::new().await;
        world.sim.cloudstack().faults().set_str(fault).unwrap();
        let pipeline = world.pipeline(world.target().with_public(true)).await;
        let result = pipeline.run(MemoryJournal::new(), context()).await;
        let report = result.unwrap_or_else(|e| panic!("{fault}: {}", e.report()));
        world.assert_source_unchanged(fault);
        world.assert_templates(&report, fault);
    }
    let world = World::new().await;
    world.sim.cloudstack().faults().set_str("drop-after-effect=registerTemplate").unwrap();
    let pipeline = world.pipeline(world.target().with_via(by_url())).await;
    let report = pipeline.run(MemoryJournal::new(), context()).await.unwrap();
    world.assert_source_unchanged("register");
    world.assert_templates(&report, "register");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_transfer_leaves_nothing() {
    let world = World::new().await;
    for via in [Via::Upload, by_url()] {
        for step in ["choose", "transfer/0", "transfer/1", "verify/1", "publish"] {
            let cancel = CancelToken::new();
            let token = cancel.clone();
            let context = context().with_cancel(cancel).with_observer(move |event: &Event<'_>| {
                let at = match event {
                    Event::Progress { step, done, .. } if *done > 0 => step,
                    Event::StepStarted { step, .. } if !step.starts_with("transfer") => step,
                    _ => return,
                };
                if *at == step {
                    token.cancel();
                }
            });
            let pipeline = world.pipeline(world.target().with_via(via.clone())).await;
            let e = pipeline.run(MemoryJournal::new(), context).await.unwrap_err();
            assert!(e.is_cancelled(), "{step}: {}", e.report());
            assert!(e.to_string().contains("the snapshot"), "{step}: {e}");
            world.assert_source_unchanged(step);
            world.assert_no_template(step);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_every_entry_is_resumed_or_undone() {
    let entries = {
        let world = World::new().await;
        let journal = MemoryJournal::new();
        world.run(journal.clone(), context()).await.unwrap();
        journal.entries().len()
    };
    for at in 0..entries {
        for before in [true, false] {
            let what = format!("{} entry {at}", if before { "before" } else { "after" });
            let world = World::new().await;
            let journal = MemoryJournal::new();
            assert!(
                killed(&world.pipeline(world.target()).await, &journal, at, before).await,
                "it was to die"
            );
            // A committed run cannot be undone, one without an entry need not be.
            let committed = journal.entries().iter().any(|e| matches!(e, Entry::Committed));
            if at % 2 == 0 || committed || journal.entries().is_empty() {
                let report = world.run(journal, context()).await.unwrap();
                world.assert_templates(&report, &what);
            } else {
                let pipeline = world.pipeline(world.target()).await;
                pipeline.undo(journal, context()).await.unwrap();
                world.assert_no_template(&what);
            }
            world.assert_source_unchanged(&what);
        }
    }
}

/// One template that cannot be removed keeps nobody from the others, and is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_tries_every_template() {
    let world = World::new().await;
    let journal = MemoryJournal::new();
    world.run(journal.clone(), context()).await.unwrap();
    let publish = |e: &Entry| matches!(e, Entry::StepStarted { step, .. } if step == "publish");
    let at = journal.entries().iter().position(publish).unwrap();
    let world = World::new().await;
    let journal = MemoryJournal::new();
    assert!(
        killed(&world.pipeline(world.target()).await, &journal, at, true).await,
        "it was to die"
    );
    let run_id = run_id(&journal);
    world.sim.cloudstack().faults().set_str("fail-nth=1:deleteTemplate 531").unwrap();
    let pipeline = world.pipeline(world.target()).await;
    let e = pipeline.sweep(run_id).await.unwrap_err();
    let left = world.sim.cloudstack().templates();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(e.leftovers().len(), 1, "{e}");
    assert_eq!(e.leftovers()[0].id, left[0]["id"].as_str().unwrap());
    pipeline.sweep(run_id).await.unwrap();
    world.assert_no_template("swept");
    world.assert_source_unchanged("swept");
}

/// Neither the keys nor the right to send the data are in what a run keeps or tells.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_kept_or_told() {
    let world = World::new().await;
    let ready = world.sim.ready();
    let dir = tempfile::tempdir().unwrap();
    for (i, fault) in ["", "upload-fails=500:100000", "upload-unreachable", "ticket-ttl=0"]
        .into_iter()
        .enumerate()
    {
        if !fault.is_empty() {
            world.sim.cloudstack().faults().set_str(fault).unwrap();
        }
        let path = dir.path().join(i.to_string());
        let journal = migrate_core::journal::FileJournal::open(&path).unwrap();
        let pipeline = world.pipeline(world.target()).await;
        let plan = pipeline.plan().await.unwrap();
        let result = pipeline.run(journal, context()).await;
        world.sim.cloudstack().faults().clear();
        assert_eq!(result.is_ok(), fault.is_empty(), "{fault}");
        let told = match result {
            Ok(report) => serde_json::to_string(&report).unwrap(),
            Err(e) => format!("{} {e:?}", e.report()),
        };
        let kept = std::fs::read_to_string(&path).unwrap();
        let planned = serde_json::to_string(&plan).unwrap();
        for text in [&told, &kept, &planned, &format!("{pipeline:?}")] {
            for secret in [&ready.cloudstack.key, &ready.cloudstack.secret, &ready.xen.password] {
                assert!(!text.contains(secret.as_str()), "{fault}: {text}");
            }
            for part in ["ignature", "metadata\"", "expires", "OpaqueRef:session"] {
                assert!(!text.contains(part), "{fault}: {part} in {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_blocks_before_anything_is_done() {
    let world = World::new().await;
    world.sim.cloudstack().faults().set_str("two-zones").unwrap();
    for (target, rule, named) in [
        (world.target(), "zone-known", "zone1, zone2"),
        (world.target().with_zone("mars"), "zone-known", "zone1, zone2"),
        (world.target().with_zone("zone2").with_os_type("plan9"), "os-type-known", "CentOS"),
        (
            CloudStackTemplate::new(&world.cloud, TargetFormat::VhdFixed).with_zone("zone1"),
            "image-format-accepted",
            "choose vhd",
        ),
        (world.target().with_zone("zone1").with_name(" "), "template-name", "another name"),
    ] {
        let pipeline = world.pipeline(target).await;
        let journal = MemoryJournal::new();
        let e = pipeline.run(journal.clone(), context()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Preflight);
        assert!(e.to_string().contains(rule) && e.to_string().contains(named), "{e}");
        assert!(journal.entries().is_empty());
    }
    world.assert_source_unchanged("preflight");
    world.assert_no_template("preflight");
}
