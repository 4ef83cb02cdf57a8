//! A source that misbehaves, or is changed by others while a run is under way.
#![cfg(all(feature = "openstack", feature = "xenserver"))]
#![allow(clippy::unwrap_used)] // a test helper that fails is a test that fails

mod doubles;
mod world;

use std::time::Duration;

use migrate_core::journal::MemoryJournal;
use migrate_core::openstack::OpenStackXenServer;
use migrate_core::{CancelToken, ErrorKind, Event, Pipeline, XenServerVm};
use vmimage::TargetFormat;
use xenapi::Ref;
use xenapi::vm::{self, Vm};
use xenapi::{task, vbd, vdi};

use doubles::{context, done};
use world::World;

impl World {
    async fn snapshots(&self) -> Vec<(Ref<Vm>, Vm)> {
        let all = self.session.call(vm::get_all_records()).await.unwrap();
        all.into_iter().filter(|(_, record)| record.is_a_snapshot).collect()
    }

    async fn source(&self) -> Ref<Vm> {
        self.session.call(vm::get_by_name_label("web01")).await.unwrap().remove(0)
    }

    /// The VM and its disks go, while its snapshot stays.
    async fn delete_source(&self) -> String {
        let source = self.source().await;
        let record = self.session.call(vm::get_record(&source)).await.unwrap();
        self.session.call(vm::hard_shutdown(&source)).await.unwrap();
        self.session.call(vm::destroy(&source)).await.unwrap();
        record.uuid
    }
}

/// One of the snapshot's disks goes before it is looked at: the clone would have a disk less.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lost_a_disk_is_no_clone() {
    let world = World::new().await;
    let journal = world.dead_after(done("snapshot")).await;
    let (_, snapshot) = world.snapshots().await.remove(0);
    for drive in &snapshot.vbds {
        let drive = world.session.call(vbd::get_record(drive)).await.unwrap();
        if drive.r#type.as_str() == "Disk" && drive.userdevice != "0" {
            world.session.call(vdi::destroy(&drive.vdi)).await.unwrap();
            break;
        }
    }
    let e = world.run(journal, context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Source, "{}", e.report());
    assert!(e.to_string().contains("web01"), "{e}");
    world.assert_no_image("a disk less");
    world.assert_source_unchanged("a disk less");
}

/// Somebody removes the snapshot, as `xe snapshot-destroy` does: its disks stay, and are ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_somebody_removed_leaves_no_disk() {
    for way in ["run", "undo"] {
        let world = World::new().await;
        let journal = world.dead_after(done("inspect")).await;
        let (snapshot, _) = world.snapshots().await.remove(0);
        world.session.call(vm::destroy(&snapshot)).await.unwrap();
        let pipeline = world.pipeline(TargetFormat::Qcow2).await;
        if way == "undo" {
            pipeline.undo(journal, context()).await.unwrap();
            world.assert_no_image(way);
        } else {
            // The disks are whole, so the clone is, too.
            let report = pipeline.run(journal, context()).await.unwrap();
            world.assert_images(&report, way);
        }
        world.assert_source_unchanged(way);
    }
}

/// The source is deleted while its run is dead: the snapshot is what is left of it, to be cloned or
/// to be removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_vm_is_gone_is_resumed_or_undone() {
    for step in ["snapshot", "inspect", "verify/1", "publish"] {
        for way in ["resume", "undo"] {
            let what = format!("{way} after {step}");
            let world = World::new().await;
            let journal = world.dead_after(done(step)).await;
            let uuid = world.delete_source().await;
            let e = XenServerVm::find(&world.session, &uuid).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotFound);
            let vm = XenServerVm::of_run(&world.session, &uuid).await.unwrap();
            let target = OpenStackXenServer::new(&world.glance, TargetFormat::Qcow2);
            let pipeline = Pipeline::new(vm, target.with_name("copy"));
            if way == "resume" {
                let result = pipeline.run(journal, context()).await;
                let report = result.unwrap_or_else(|e| panic!("{what}: {}", e.report()));
                world.assert_images(&report, &what);
            } else {
                pipeline.undo(journal, context()).await.unwrap();
                world.assert_no_image(&what);
            }
            assert!(world.snapshots().await.is_empty(), "{what}: a snapshot is left");
            let disks = world.session.call(vdi::get_all_records()).await.unwrap();
            assert!(!disks.values().any(|d| d.is_a_snapshot), "{what}: a disk is left");
        }
    }
    // It begins nothing.
    let world = World::new().await;
    let uuid = world.delete_source().await;
    let vm = XenServerVm::of_run(&world.session, &uuid).await.unwrap();
    let pipeline = Pipeline::new(vm, OpenStackXenServer::new(&world.glance, TargetFormat::Qcow2));
    let e = pipeline.run(MemoryJournal::new(), context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound, "{}", e.report());
    assert!(e.to_string().contains(&uuid), "{e}");
}

/// A task that somebody removes says nothing of its work.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_vanishes_is_no_end() {
    let world = World::new().await;
    world.sim.xen().faults().set_str("slow-task=700").unwrap();
    let run = world.run(MemoryJournal::new(), context());
    let thief = async {
        loop {
            let all = world.session.call(task::get_all_records()).await.unwrap();
            let found = all.iter().find(|(_, t)| t.name_label.contains("VM.snapshot"));
            if let Some((reference, _)) = found {
                let _ = world.session.call(task::destroy(reference)).await;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (result, ()) = tokio::join!(run, thief);
    match result {
        Ok(report) => world.assert_images(&report, "no task"),
        Err(e) => {
            assert_ne!(e.kind(), ErrorKind::Stuck, "{}", e.report());
            world.assert_no_image("no task");
        }
    }
    world.assert_source_unchanged("no task");
}

/// Sessions and tokens end in the middle, at any call.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_at_any_call_is_renewed() {
    let world = World::new().await;
    for n in (1..80).step_by(3) {
        let fault = format!("session-invalid={n}");
        world.sim.xen().faults().set_str(&fault).unwrap();
        let target = format!("expire-after={}", n % 7 + 3);
        world.sim.openstack().faults().set_str(&target).unwrap();
        let result = world.run(MemoryJournal::new(), context()).await;
        world.sim.openstack().faults().clear();
        let over = world.sim.xen().faults().is_pending();
        world.sim.xen().faults().clear();
        let report = result.unwrap_or_else(|e| panic!("{fault} {target}: {}", e.report()));
        for image in report.images {
            let delete = glance_client::image::delete(&image.id);
            world.glance.call(delete).await.unwrap();
        }
        world.assert_source_unchanged(&fault);
        if over {
            break;
        }
    }
}

/// A VM that does not run, in each of its ways.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_does_not_run_is_cloned_as_it_is() {
    for state in ["Halted", "Suspended", "Paused"] {
        let world = World::new().await;
        let source = world.source().await;
        match state {
            "Halted" => world.session.call(vm::hard_shutdown(&source)).await.unwrap(),
            "Suspended" => world.session.call(vm::suspend(&source)).await.unwrap(),
            _ => world.session.call(vm::pause(&source)).await.unwrap(),
        }
        let before = world.sim.xen().inventory();
        let stops = world.sim.xen().interruptions();
        let vm = XenServerVm::find(&world.session, "web01").await.unwrap();
        let target = OpenStackXenServer::new(&world.glance, TargetFormat::Qcow2);
        let pipeline = Pipeline::new(vm, target.with_name("copy"));
        let plan = pipeline.plan().await.unwrap();
        assert!(plan.findings.iter().any(|f| f.rule == "vm-power-state"), "{plan:?}");
        if state == "Paused" {
            // The pool takes no snapshot of it, and says so before anything is done.
            assert!(plan.blocking().any(|f| f.rule == "vm-snapshot-allowed"), "{plan:?}");
            continue;
        }
        let report = pipeline.run(MemoryJournal::new(), context()).await.unwrap();
        world.assert_images(&report, state);
        assert_eq!(world.sim.xen().inventory(), before, "{state}");
        assert_eq!(world.sim.xen().interruptions(), stops, "{state}");
    }
}

/// Who may not snapshot is told which role can.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_too_small_is_named() {
    let world = World::new().await;
    let xen = &world.sim.ready().xen;
    let pins = xenapi::Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap();
    let client =
        xenapi::Client::builder(&xen.url).trust(xenapi::Trust::Pins(pins)).build().unwrap();
    let small = client.login("vm-operator", xen.password.as_str(), "test").await.unwrap();
    let vm = XenServerVm::find(&small, "web01").await.unwrap();
    let target = OpenStackXenServer::new(&world.glance, TargetFormat::Qcow2);
    let e = Pipeline::new(vm, target).run(MemoryJournal::new(), context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Source, "{}", e.report());
    assert!(e.to_string().contains("vm-power-admin"), "{e}");
    world.assert_no_image("small");
    world.assert_source_unchanged("small");
}

/// Several runs of one VM at once do not see each other.
#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_are_two_clones() {
    let world = World::new().await;
    let one = world.run(MemoryJournal::new(), context());
    let other = world.run(MemoryJournal::new(), context());
    let (one, other) = tokio::join!(one, other);
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one.images[0].id, other.images[0].id);
    assert_eq!(world.sim.openstack().images().len(), 4);
    world.assert_source_unchanged("two runs");
}

/// A cancellation is heard in the last moment, too: while the pool's word on the export, or the
/// cloud's on the image, is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_is_heard_while_the_last_word_is_waited_for() {
    for (end, fault, at) in
        [("xen", "slow-task=30000", "transfer/0"), ("cloud", "stuck-saving", "verify/0")]
    {
        let world = World::new().await;
        let cancel = CancelToken::new();
        let token = cancel.clone();
        let xen = end == "xen";
        if !xen {
            world.sim.openstack().faults().set_str(fault).unwrap();
        }
        let faults = world.sim.xen().faults().clone();
        let context =
            context().with_cancel(cancel).with_observer(move |event: &Event<'_>| match event {
                Event::StepFinished { step, .. } if xen && *step == "snapshot" => {
                    faults.set_str(fault).unwrap();
                }
                Event::StepStarted { step, .. } if !xen && *step == at => token.cancel(),
                Event::Progress { step, done, total: Some(total), .. }
                    if xen && *step == at && done == total =>
                {
                    faults.clear();
                    token.cancel();
                }
                _ => {}
            });
        let run = world.run(MemoryJournal::new(), context);
        let limit = Duration::from_secs(25);
        let e = tokio::time::timeout(limit, run).await.expect("it was not heard").unwrap_err();
        assert!(e.is_cancelled(), "{fault}: {}", e.report());
        world.assert_no_image(fault);
    }
}
