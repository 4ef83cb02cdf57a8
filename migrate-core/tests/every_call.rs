//! A fault at every remote call, at each end: the call fails without an effect, or it has its effect
//! and the answer is lost. Afterwards the clone is whole or nothing of it is left.
#![cfg(all(feature = "cloudstack", feature = "openstack", feature = "xenserver"))]
#![allow(clippy::unwrap_used)] // a test helper that fails is a test that fails

mod doubles;
mod world;

use cloudstack_client::{Client, Credentials};
use migrate_core::cloudstack::{CloudStackTemplate, Via};
use migrate_core::journal::MemoryJournal;
use migrate_core::{ErrorKind, Pipeline, Report, Result, XenServerVm};
use serde_json::Value;
use vmimage::TargetFormat;

use doubles::{Hasty, context};
use world::World;

impl World {
    /// What a run came to: the clone whole, or nothing of it left.
    fn assert_whole_or_nothing(&self, result: &Result<Report>, what: &str) {
        match result {
            Ok(report) => self.assert_images(report, what),
            Err(e) => {
                assert_ne!(e.kind(), ErrorKind::Stuck, "{what}: {}", e.report());
                assert_eq!(e.to_string().lines().count(), 1, "{what}");
                self.assert_no_image(what);
            }
        }
        self.assert_source_unchanged(what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_pool() {
    for fault in ["fail-nth", "drop-after-effect", "drop-before-effect", "session-invalid"] {
        let mut struck = 0;
        for n in 1..200 {
            let what = format!("{fault} {n}");
            let world = World::new().await;
            let vm = XenServerVm::only_running(&world.session).await.unwrap();
            let target = migrate_core::openstack::OpenStackXenServer::new(
                &world.glance,
                TargetFormat::Qcow2,
            );
            let pipeline = Pipeline::new(vm, target.with_name("copy"));
            let faults = world.sim.xen().faults();
            match fault {
                "fail-nth" => faults.set_str(&format!("fail-nth={n}:*")).unwrap(),
                "session-invalid" => faults.set_str(&format!("session-invalid={n}")).unwrap(),
                // By name: the nth kind of call that a run makes.
                _ => {
                    let twin = World::new().await;
                    let before = twin.sim.xen().calls().len();
                    twin.run(MemoryJournal::new(), context()).await.unwrap();
                    let mut kinds = twin.sim.xen().calls().split_off(before);
                    kinds.retain(|call| call.contains('.') && !call.contains(' '));
                    kinds.iter_mut().for_each(|call| *call = call.replace("Async.", ""));
                    kinds.sort();
                    kinds.dedup();
                    let Some(kind) = kinds.get(n - 1) else { break };
                    faults.set_str(&format!("{fault}={kind}")).unwrap();
                }
            }
            let result = pipeline.run(MemoryJournal::new(), context().with_clock(Hasty)).await;
            let over = world.sim.xen().faults().is_pending();
            world.sim.xen().faults().clear();
            world.assert_whole_or_nothing(&result, &what);
            if over && fault != "drop-after-effect" && fault != "drop-before-effect" {
                break;
            }
            struck += 1;
        }
        assert!(struck > 10, "{fault}: {struck}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_glance() {
    let world = World::new().await;
    let pipeline = world.pipeline(TargetFormat::Qcow2).await;
    for fault in ["fail-nth", "drop-after-effect"] {
        for request in ["GET /v2", "POST /v2", "PUT /v2", "PATCH /v2"] {
            for n in 1..12 {
                let what = format!("{fault}={n}:{request}");
                world.sim.openstack().faults().set_str(&what).unwrap();
                let result = pipeline.run(MemoryJournal::new(), context().with_clock(Hasty)).await;
                world.sim.openstack().faults().clear();
                world.assert_whole_or_nothing(&result, &what);
                for image in result.into_iter().flat_map(|report| report.images) {
                    let delete = glance_client::image::delete(&image.id);
                    world.glance.call(delete).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_cloudstack() {
    const COMMANDS: [&str; 11] = [
        "listZones",
        "listHypervisors",
        "listOsTypes",
        "listAccounts",
        "listTemplates",
        "getUploadParamsForTemplate",
        "registerTemplate",
        "upload",
        "createTags",
        "updateTemplate",
        "queryAsyncJobResult",
    ];
    let world = World::new().await;
    let ready = &world.sim.ready().cloudstack;
    let keys = Credentials::new(&ready.key, &ready.secret);
    let cloud = Client::builder(&ready.endpoint).credentials(keys).build().unwrap();
    for via in [Via::Upload, Via::Url { bind: ([127, 0, 0, 1], 0).into(), host: None }] {
        for fault in ["fail-nth", "drop-after-effect", "late-effect"] {
            for command in COMMANDS {
                let makes =
                    ["getUploadParamsForTemplate", "upload", "createTags", "updateTemplate"];
                // Those that change something once for each disk.
                for n in 1..=1 + usize::from(makes.contains(&command)) {
                    let late = fault == "late-effect";
                    let makes = ["getUploadParamsForTemplate", "registerTemplate"];
                    let by_url = via != Via::Upload;
                    if (late && (n > 1 || !makes.contains(&command)))
                        || (by_url && !["registerTemplate", "createTags"].contains(&command))
                        || (!by_url && command == "registerTemplate")
                    {
                        continue;
                    }
                    let what = match fault {
                        "late-effect" => format!("{fault}=2500:{command}@1"),
                        _ => format!("{fault}={n}:{command}"),
                    };
                    let vm = XenServerVm::only_running(&world.session).await.unwrap();
                    let target = CloudStackTemplate::new(&cloud, TargetFormat::VhdDynamic);
                    let target = target.with_name("copy").with_via(via.clone());
                    world.sim.cloudstack().faults().set_str(&what).unwrap();
                    if late {
                        // It comes when the template has been asked for again, and is on its way.
                        world.sim.cloudstack().faults().set_str("slow-template=1500").unwrap();
                    }
                    let clock = context();
                    let clock = if late { clock } else { clock.with_clock(Hasty) };
                    let result = Pipeline::new(vm, target).run(MemoryJournal::new(), clock).await;
                    if late {
                        // The effect that nobody waits for any more.
                        tokio::time::sleep(std::time::Duration::from_millis(3600)).await;
                    }
                    world.sim.cloudstack().faults().clear();
                    let templates = world.sim.cloudstack().templates();
                    let what = format!("{what} {via:?}");
                    match result {
                        Ok(report) => {
                            let mut made: Vec<_> =
                                report.images.iter().map(|i| i.id.as_str()).collect();
                            let mut there: Vec<_> =
                                templates.iter().map(|t| t["id"].as_str().unwrap()).collect();
                            made.sort_unstable();
                            there.sort_unstable();
                            assert_eq!(made, there, "{what}: {templates:?}");
                            assert!(
                                templates.iter().all(|t| t["isready"] == true
                                    && t["name"].as_str().unwrap().starts_with("copy")),
                                "{what}: {templates:?}"
                            );
                        }
                        Err(e) => {
                            assert_ne!(e.kind(), ErrorKind::Stuck, "{what}: {}", e.report());
                            assert_eq!(templates, [Value::Null; 0], "{what}: {}", e.report());
                        }
                    }
                    world.assert_source_unchanged(&what);
                    for template in templates {
                        let delete =
                            cloudstack_client::templates::delete(template["id"].as_str().unwrap());
                        let job = cloud.call(delete).await.unwrap();
                        cloud.job(&job, &cloudstack_client::WaitOptions::default()).await.unwrap();
                    }
                }
            }
        }
    }
}
