//! The whole clone against the simulated pool and cloud: whatever happens on the way, the source
//! ends as it was, and the target holds a verified image or nothing.
#![cfg(all(feature = "openstack", feature = "xenserver"))]
#![allow(clippy::unwrap_used)] // a test helper that fails is a test that fails

mod doubles;
mod world;

use std::path::Path;

use migrate_core::journal::{FileJournal, MemoryJournal};
use migrate_core::openstack::OpenStackXenServer;
use migrate_core::{
    CancelToken, Context, Error, ErrorKind, Event, LocalDirectory, Pipeline, RunId, Severity,
    VhdFiles, XenServerVm,
};
use vmimage::TargetFormat;

use doubles::{context, disk, killed, killed_in, run_id};
use world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_becomes_images() {
    let world = World::new().await;
    let plan = world.pipeline(TargetFormat::Qcow2).await.plan().await.unwrap();
    plan.check().unwrap();
    assert_eq!(plan.machine.disks.len(), 2);
    assert!(plan.bytes > 0 && !plan.findings.is_empty());
    serde_json::to_string(&plan).unwrap();
    world.assert_source_unchanged("plan");
    world.assert_no_image("plan");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let report = world.run(FileJournal::open(&path).unwrap(), context()).await.unwrap();
    world.assert_source_unchanged("success");
    world.assert_images(&report, "success");
    let names: Vec<&str> = report.steps.iter().map(|s| s.name.as_str()).collect();
    let expected =
        ["snapshot", "inspect", "create-image", "transfer", "verify", "publish", "cleanup"];
    assert_eq!(names, expected);

    // No secret is in the journal, and a finished run tells its result again.
    let text = std::fs::read_to_string(&path).unwrap();
    let ready = world.sim.ready();
    for secret in [&ready.xen.password, &ready.openstack.password] {
        assert!(!text.contains(secret.as_str()), "the journal holds a password");
    }
    let again = world.run(FileJournal::open(&path).unwrap(), context()).await.unwrap();
    assert_eq!(again, report);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_become_an_image_without_a_pool() {
    let world = World::new().await;
    for format in [TargetFormat::Qcow2, TargetFormat::VhdDynamic, TargetFormat::VhdTgz] {
        let files = VhdFiles::new(&world.files[0]).with_name("web01");
        let target = OpenStackXenServer::new(&world.glance, format);
        let report =
            Pipeline::new(files, target).run(MemoryJournal::new(), context()).await.unwrap();
        assert_eq!(report.images[0].format, format.as_str());
        assert_eq!(report.images[0].name, "web01");
    }
    world.assert_source_unchanged("files");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_at_the_target_leave_nothing() {
    let world = World::new().await;
    for fault in [
        "upload-fails=507:1048576",
        "upload-close=1048576@3",
        "image-killed",
        "image-back-to-queued",
        "hash-mismatch",
        "fail-nth=1:POST /v2/images 500@100",
        "fail-nth=2:POST /v2/images 403",
        "fail-nth=1:PATCH /v2/images 403",
        "size-cap=1048576",
    ] {
        world.sim.openstack().faults().set_str(fault).unwrap();
        let e = world.run(MemoryJournal::new(), context()).await.unwrap_err();
        world.sim.openstack().faults().clear();
        assert_ne!(e.kind(), ErrorKind::Stuck, "{fault}: {}", e.report());
        assert!(!e.to_string().contains('\n'));
        world.assert_source_unchanged(fault);
        world.assert_no_image(fault);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_at_the_source_leave_nothing() {
    let world = World::new().await;
    for fault in [
        "task-fails=VM.snapshot",
        "sr-full",
        "export-task-fails",
        "export-truncate=200000",
        "export-500-in-body=200000",
        "fail-nth=1:VM.add_to_other_config",
        "fail-nth=1:task.create",
    ] {
        world.sim.xen().faults().set_str(fault).unwrap();
        let e = world.run(MemoryJournal::new(), context()).await.unwrap_err();
        world.sim.xen().faults().clear();
        assert_ne!(e.kind(), ErrorKind::Stuck, "{fault}: {}", e.report());
        world.assert_source_unchanged(fault);
        world.assert_no_image(fault);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_are_found_again() {
    for (end, fault) in [
        ("xen", "drop-after-effect=VM.snapshot"),
        ("xen", "drop-after-effect=VM.add_to_other_config"),
        ("xen", "drop-after-effect=VDI.destroy"),
        ("xen", "drop-after-effect=VM.destroy"),
        ("xen", "fail-nth=1:VDI.destroy"),
        ("xen", "slow-unplug=1500"),
        ("xen", "session-invalid=9"),
        ("cloud", "create-500-after-store@1"),
        ("cloud", "drop-after-effect=POST /v2/images"),
        ("cloud", "drop-after-effect=PATCH /v2/images"),
        ("cloud", "upload-close=1048576@2"),
        ("cloud", "upload-fails=503:1048576@1"),
        ("cloud", "slow-activate=1500"),
    ] {
        let world = World::new().await;
        if end == "xen" {
            world.sim.xen().faults().set_str(fault).unwrap();
        } else {
            world.sim.openstack().faults().set_str(fault).unwrap();
        }
        let result = world.run(MemoryJournal::new(), context()).await;
        let report = result.unwrap_or_else(|e| panic!("{fault}: {}", e.report()));
        world.assert_source_unchanged(fault);
        world.assert_images(&report, fault);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_transfer_leaves_nothing() {
    let world = World::new().await;
    world.sim.xen().faults().set_str("slow-task=400").unwrap();
    for step in ["snapshot", "inspect", "create-image/1", "transfer/0", "transfer/1", "verify/1"] {
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
        let e = world.run(MemoryJournal::new(), context).await.unwrap_err();
        assert!(e.is_cancelled(), "{step}: {}", e.report());
        world.assert_source_unchanged(step);
        world.assert_no_image(step);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_every_entry_is_resumed() {
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
                killed(&world.pipeline(TargetFormat::Qcow2).await, &journal, at, before).await,
                "it was to die"
            );
            let report = world.run(journal, context()).await.unwrap();
            world.assert_source_unchanged(&what);
            world.assert_images(&report, &what);
        }
    }
}

/// The mark by which an image is found again is ours, whatever properties the caller sets.
#[tokio::test(flavor = "multi_thread")]
async fn a_property_of_the_callers_does_not_hide_an_image_from_the_sweep() {
    let world = World::new().await;
    let vm = XenServerVm::only_running(&world.session).await.unwrap();
    let target = OpenStackXenServer::new(&world.glance, TargetFormat::Qcow2)
        .with_property("migrate_run_id", "theirs")
        .with_property("os_distro", "theirs");
    let pipeline = Pipeline::new(vm, target);
    let inner = MemoryJournal::new();
    assert!(killed(&pipeline, &inner, 6, false).await, "it was to die");
    let image = world.sim.openstack().images().remove(0);
    assert_eq!(image["os_distro"], "theirs");
    let run_id = run_id(&inner);
    pipeline.sweep(run_id).await.unwrap();
    world.assert_no_image("swept");
    world.assert_source_unchanged("swept");
}

/// One thing that cannot be removed keeps nobody from the others, and is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_tries_everything() {
    let world = World::new().await;
    let (_, run_id) = world.dead_in("transfer/1").await;
    world.sim.openstack().faults().set_str("fail-nth=1:DELETE /v2/images 403").unwrap();
    world.sim.xen().faults().set_str("fail-nth=1:task.destroy").unwrap();
    let pipeline = world.pipeline(TargetFormat::Qcow2).await;
    let e = pipeline.sweep(run_id).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Stuck);
    let images = world.sim.openstack().images();
    let left: Vec<_> = e.leftovers().iter().map(|l| (l.kind.as_str(), l.id.as_str())).collect();
    assert_eq!(images.len(), 1, "{images:?}");
    assert!(left.contains(&("image", images[0]["id"].as_str().unwrap())), "{left:?}");
    let snapshots = world.session.call(xenapi::vm::get_all_records()).await.unwrap();
    assert!(!snapshots.values().any(|v| v.is_a_snapshot), "a snapshot is left");
    assert!(left.iter().any(|(kind, _)| *kind == "task"), "{left:?}");
    assert_eq!(left.len(), 2, "{left:?}");
    pipeline.sweep(run_id).await.unwrap();
    world.assert_no_image("swept");
    world.assert_source_unchanged("swept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_died_in_a_transfer_can_be_resumed_undone_or_swept() {
    for end in ["resume", "undo", "sweep"] {
        let world = World::new().await;
        let (journal, run_id) = world.dead_in("transfer/0").await;
        assert_ne!(world.sim.xen().inventory(), world.before);
        let pipeline = world.pipeline(TargetFormat::Qcow2).await;
        match end {
            "resume" => {
                let report = pipeline.run(journal, context()).await.unwrap();
                world.assert_images(&report, end);
            }
            "undo" => {
                pipeline.undo(journal, context()).await.unwrap();
                world.assert_no_image(end);
            }
            _ => {
                let removed = pipeline.sweep(run_id).await.unwrap();
                assert!(removed.iter().any(|l| l.kind == "VM snapshot"), "{removed:?}");
                assert!(removed.iter().any(|l| l.kind == "image"), "{removed:?}");
                world.assert_no_image(end);
                assert_eq!(pipeline.sweep(run_id).await.unwrap(), []);
            }
        }
        world.assert_source_unchanged(end);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_is_named() {
    let world = World::new().await;
    world.sim.openstack().faults().set_str("upload-fails=507:1048576").unwrap();
    world.sim.openstack().faults().set_str("fail-nth=1:DELETE /v2/images 403@100").unwrap();
    let journal = MemoryJournal::new();
    let e = world.run(journal.clone(), context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Stuck, "{}", e.report());
    let image = world.sim.openstack().images().remove(0);
    let id = image["id"].as_str().unwrap();
    assert!(e.leftovers().iter().any(|l| l.kind == "image" && l.id == id), "{e}");
    assert!(e.to_string().contains(id), "{e}");
    world.assert_source_unchanged("stuck");
    // The way out: resume, which undoes what is left.
    world.sim.openstack().faults().clear();
    let e = world.run(journal, context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Undone, "{}", e.report());
    world.assert_no_image("resumed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_finding_blocks_before_anything_is_done() {
    let world = World::new().await;
    let pipeline = world.pipeline(TargetFormat::VhdFixed).await;
    let plan = pipeline.plan().await.unwrap();
    assert_eq!(plan.findings[0].severity, Severity::Critical);
    let journal = MemoryJournal::new();
    let e: Error = pipeline.run(journal.clone(), context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Preflight);
    assert!(journal.entries().is_empty());
    world.assert_source_unchanged("preflight");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_found_by_name_and_uuid() {
    let world = World::new().await;
    let by_name = XenServerVm::find(&world.session, "web01").await.unwrap();
    let by_uuid = XenServerVm::find(&world.session, by_name.uuid()).await.unwrap();
    assert_eq!(by_uuid.name(), "web01");
    let e = XenServerVm::find(&world.session, "nobody").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    let missing = XenServerVm::find(&world.session, &RunId::random().to_string()).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A dead process may have asked twice: all that bear the run's name are the run's.
#[tokio::test(flavor = "multi_thread")]
async fn several_snapshots_of_one_run_are_all_removed() {
    let world = World::new().await;
    let run_id = RunId::random();
    let vm = world.session.call(xenapi::vm::get_by_name_label("web01")).await.unwrap().remove(0);
    for _ in 0..2 {
        let call = xenapi::vm::snapshot(&vm, &run_id.object_name());
        world.session.call(call).await.unwrap();
    }
    // Somebody else's, which must stay.
    world.session.call(xenapi::vm::snapshot(&vm, "nightly")).await.unwrap();
    let pipeline = world.pipeline(TargetFormat::Qcow2).await;
    let dying = MemoryJournal::new();
    assert!(killed_in(&pipeline, &dying, 1, false, Context::new(run_id)).await, "it was to die");
    let report = pipeline.run(dying, context()).await.unwrap();
    world.assert_images(&report, "several snapshots");
    let record = world.session.call(xenapi::vm::get_record(&vm)).await.unwrap();
    assert_eq!(record.snapshots.len(), 1);
    let left = world.session.call(xenapi::vm::get_record(&record.snapshots[0])).await.unwrap();
    assert_eq!(left.name_label, "nightly");
}

/// A truncated export is told in the pool's words.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_export_says_why() {
    let world = World::new().await;
    for fault in ["export-truncate=200000", "export-task-fails"] {
        world.sim.xen().faults().set_str(fault).unwrap();
        let e = world.run(MemoryJournal::new(), context()).await.unwrap_err();
        world.sim.xen().faults().clear();
        let said = e.report();
        assert!(said.contains("web01") && said.contains("INTERNAL_ERROR"), "{fault}: {said}");
    }
    world.assert_source_unchanged("broken exports");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_every_entry_of_a_run_into_a_folder_is_resumed() {
    let source = tempfile::tempdir().unwrap();
    let file = disk(source.path(), "root.img", 3, 9);
    let pipeline = |folder: &Path| {
        let target = LocalDirectory::new(folder, TargetFormat::Qcow2).with_name("copy");
        Pipeline::new(VhdFiles::new(&file), target)
    };
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let whole = MemoryJournal::new();
    let folder = tempfile::tempdir().unwrap();
    pipeline(folder.path()).run(whole.clone(), context()).await.unwrap();
    for at in 0..whole.entries().len() {
        for before in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let inner = MemoryJournal::new();
            let pipeline = pipeline(folder.path());
            assert!(killed(&pipeline, &inner, at, before).await, "it was to die");
            pipeline.run(inner, context()).await.unwrap();
            assert_eq!(names(folder.path()), ["copy.json", "copy.qcow2"], "{at} {before}");
        }
    }
}
