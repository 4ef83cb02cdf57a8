//! Against the simulated pool, which knows nothing of this crate: the whole way from login to
//! cleanup, with every fault that it can show.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use simulator::Simulator;
use xenapi::enums::VmPowerState;
use xenapi::vdi::Vdi;
use xenapi::vm::Vm;
use xenapi::{
    Client, Error, ErrorCode, ErrorKind, ExportFormat, ExportOptions, Pin, Ref, Session, Trust,
    WaitOptions, XvaCompression, host, pool as pool_class, vbd, vdi, vm,
};

/// A pool of two hosts whose running machine has one small disk.
async fn pool(faults: &[&str]) -> Simulator {
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..3_u32 << 18).flat_map(|n| (n / 3).to_be_bytes()).collect();
    disk.write_all(&content).unwrap();
    let builder = Simulator::builder().second_host(true).disk("web01", disk.path());
    let simulator = builder.start().await.unwrap();
    for fault in faults {
        simulator.xen().faults().set_str(fault).unwrap();
    }
    simulator
}

async fn login(simulator: &Simulator) -> Session {
    let xen = &simulator.ready().xen;
    let pins = Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap();
    let client = Client::builder(&xen.url).trust(Trust::Pins(pins)).build().unwrap();
    client.login(&xen.username, xen.password.as_str(), "xenapi-test").await.unwrap()
}

/// Finds the running machine, snapshots it, and gives the snapshot with its disks.
async fn snapshot(session: &Session) -> Result<(Ref<Vm>, Vec<Ref<Vdi>>), Error> {
    let all = session.call(vm::get_all_records()).await?;
    let (source, _) = all
        .iter()
        .find(|(_, r)| r.power_state == VmPowerState::Running && !r.is_control_domain)
        .unwrap();
    let task = session.start(vm::async_snapshot(source, "xenapi-test")).await?;
    let snapshot = session.wait(&task, &WaitOptions::new()).await?;
    let mut disks = Vec::new();
    for device in session.call(vm::get_vbds(&snapshot)).await? {
        let device = session.call(vbd::get_record(&device)).await?;
        disks.extend(device.vdi.non_null().cloned());
    }
    Ok((snapshot, disks))
}

async fn export(session: &Session, disk: &Ref<Vdi>) -> Result<Vec<u8>, Error> {
    let options =
        ExportOptions::new("xenapi-test").with_inactivity_timeout(Duration::from_secs(30));
    let mut export = session.export_raw_vdi(disk, ExportFormat::Vhd, &options).await?;
    let mut all = Vec::new();
    while let Some(chunk) = export.next().await {
        match chunk {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(_) => break,
        }
    }
    export.finish().await?;
    Ok(all)
}

/// Removes a snapshot and its disks; a disk may stay in use for a moment after its export.
async fn remove(session: &Session, snapshot: &Ref<Vm>, disks: &[Ref<Vdi>]) -> Result<(), Error> {
    session.call(vm::destroy(snapshot)).await?;
    for disk in disks {
        loop {
            match session.call(vdi::destroy(disk)).await {
                Err(e) if e.is_in_use() => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(e) if e.is_not_found() => break,
                other => break other?,
            }
        }
    }
    Ok(())
}

async fn whole_way(session: &Session) -> Result<Vec<Vec<u8>>, Error> {
    let (snapshot, disks) = snapshot(session).await?;
    let mut images = Vec::new();
    let mut failed = None;
    for disk in &disks {
        match export(session, disk).await {
            Ok(image) => images.push(image),
            Err(e) => failed = Some(e),
        }
    }
    remove(session, &snapshot, &disks).await?;
    failed.map_or(Ok(images), Err)
}

/// Runs the whole way; says how it ended, and that nothing was left behind in either case.
async fn run(faults: &[&str]) -> Result<Vec<Vec<u8>>, Error> {
    let simulator = pool(&[]).await;
    let before = simulator.xen().inventory();
    let session = login(&simulator).await;
    for fault in faults {
        simulator.xen().faults().set_str(fault).unwrap();
    }
    let result = whole_way(&session).await;
    session.logout().await.unwrap();
    assert_eq!(differences(&before, &simulator.xen().inventory()), "", "{faults:?}: {result:?}");
    assert_eq!(simulator.xen().sessions(), 0, "{faults:?}");
    assert!(simulator.xen().interruptions().is_empty(), "the service was left alone");
    simulator.stop().await;
    result
}

/// What differs between two inventories, class by class.
fn differences(before: &Value, after: &Value) -> String {
    let (Some(a), Some(b)) = (before.as_object(), after.as_object()) else { return "?".into() };
    let differs = a.iter().filter(|(class, was)| b.get(*class) != Some(*was));
    differs.map(|(class, was)| format!("{class}: {was} -> {:?}\n", b.get(class))).collect()
}

#[tokio::test]
async fn a_running_machine_is_snapshotted_exported_and_left_as_it_was() {
    let simulator = Simulator::builder().start().await.unwrap();
    let before = simulator.xen().inventory();
    let session = login(&simulator).await;
    let images = whole_way(&session).await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(differences(&before, &simulator.xen().inventory()), "");
    simulator.stop().await;
    assert_eq!(images.len(), 2);
    for image in images {
        assert_eq!(&image[..8], b"conectix", "a dynamic VHD begins with a copy of its footer");
        assert_eq!(&image[image.len() - 512..][..8], b"conectix", "and ends with it");
    }
}

#[tokio::test]
async fn odd_servers_give_the_same() {
    let expected = run(&[]).await.unwrap();
    assert_eq!(expected.len(), 1);
    assert!(expected[0].len() > 3 << 20, "{} bytes", expected[0].len());
    for fault in
        ["redirect", "nan-floats", "duplicate-keys", "unknown-enum", "old-arity", "slow-unplug=100"]
    {
        let images = run(&[fault]).await.unwrap_or_else(|e| panic!("{fault}: {e}"));
        // The headers differ by identifiers and times; the blocks at the end do not.
        let tail = |image: &[u8]| image[image.len() - (1 << 20)..image.len() - 512].to_vec();
        assert_eq!(images[0].len(), expected[0].len(), "{fault}");
        assert!(tail(&images[0]) == tail(&expected[0]), "{fault}");
    }
}

#[tokio::test]
async fn trap_3_floats_that_json_does_not_have_are_read_in_both_codecs() {
    for more in [None, Some("no-json")] {
        let faults: Vec<_> = ["nan-floats"].into_iter().chain(more).collect();
        let simulator = pool(&faults).await;
        let session = login(&simulator).await;
        let all = session.call(vm::get_all_records()).await.unwrap();
        let strange = all.values().filter(|vm| vm.hvm_shadow_multiplier.is_nan()).count();
        assert!(strange > 0 && strange == all.len(), "{more:?}: {strange} of {}", all.len());
        simulator.stop().await;
    }
}

#[tokio::test]
async fn trap_4_of_a_repeated_key_the_last_counts() {
    let simulator = pool(&["duplicate-keys"]).await;
    let session = login(&simulator).await;
    let hosts = session.call(host::get_all_records()).await.unwrap();
    assert_eq!(hosts.len(), 2);
    for host in hosts.values() {
        assert!(host.license_params.contains_key("restrict_vtpm"), "{:?}", host.license_params);
    }
    simulator.stop().await;
}

#[tokio::test]
async fn trap_5_values_fields_and_classes_of_the_future() {
    let simulator = pool(&["unknown-enum"]).await;
    let session = login(&simulator).await;
    let all = session.call(vm::get_all_records()).await.unwrap();
    for vm in all.values() {
        assert_eq!(vm.actions_after_crash.as_str(), "of_the_future");
        assert!(vm.allowed_operations.iter().any(|o| o.as_str() == "levitate"));
    }
    // What is followed by all classes is what this crate knows and what it does not.
    let mut events = session.events(["*"]);
    let batch = events.next().await.unwrap();
    let strange: Vec<_> = batch.events.iter().filter(|e| e.class() == "hologram").collect();
    assert_eq!(strange.len(), 1);
    assert_eq!(strange[0].snapshot().unwrap()["emitter"], "OpaqueRef:NULL");
    let cache = session.cache(["*"]).await.unwrap();
    assert_eq!(cache.all::<Vm>().filter(|(_, vm)| vm.is_ok()).count(), all.len());
    assert_eq!(cache.references("hologram").count(), 1);
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_killed_under_fifty_calls_is_renewed_once() {
    let simulator = pool(&[]).await;
    let session = login(&simulator).await;
    let before = simulator.xen().calls().len();
    simulator.xen().drop_sessions();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.call(vm::get_all_records()).await })
        })
        .collect();
    for call in calls {
        assert!(!call.await.unwrap().unwrap().is_empty());
    }
    let calls = simulator.xen().calls();
    let logins = calls[before..].iter().filter(|c| c.starts_with("session.login")).count();
    assert_eq!((logins, session.logins()), (1, 2));
    session.logout().await.unwrap();
    assert_eq!(simulator.xen().sessions(), 0);
    simulator.stop().await;
}

#[tokio::test]
async fn a_pool_whose_master_moves_is_followed_there_and_back() {
    let simulator = pool(&[]).await;
    let session = login(&simulator).await;
    let mut cache = session.cache(["pool"]).await.unwrap();
    let first = session.url();
    for (step, master) in [1, 0, 1].into_iter().enumerate() {
        simulator.xen().move_master(master);
        let pools = session.call(pool_class::get_all_records()).await.unwrap();
        assert_eq!(pools.len(), 1);
        let host = pools.values().next().unwrap().master.clone();
        let reached = session.url();
        assert_eq!(reached.as_str().trim_end_matches('/'), simulator.xen().url(master).unwrap());
        assert_eq!(session.logins(), 2 + step as u64);
        let followed = cache.wait_for(Duration::from_secs(20), |cache| {
            let mut pools = cache.all::<pool_class::Pool>();
            pools.find(|(_, pool)| pool.as_ref().is_ok_and(|pool| pool.master == host))
        });
        assert!(followed.await.unwrap().1.is_ok());
    }
    assert_ne!(session.url(), first);
    simulator.stop().await;
}

#[tokio::test]
async fn a_role_that_may_not_is_told_by_code() {
    let simulator = pool(&[]).await;
    let admin = login(&simulator).await;
    let (_, disks) = snapshot(&admin).await.unwrap();
    let before = simulator.xen().inventory();
    let xen = &simulator.ready().xen;
    let trust = Trust::Pins(Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap());
    let client = Client::builder(&xen.url).trust(trust).build().unwrap();
    let reader = client.login("read-only", xen.password.as_str(), "xenapi-test").await.unwrap();
    assert!(!reader.call(vm::get_all_records()).await.unwrap().is_empty());
    let denied = reader.call(vdi::destroy(&disks[0])).await.unwrap_err();
    assert!(denied.has_code(&ErrorCode::RBAC_PERMISSION_DENIED), "{denied}");
    assert_eq!(denied.params()[0], "vdi.destroy");
    // The handler says 403 and no more; its task knows.
    let denied = export(&reader, &disks[0]).await.unwrap_err();
    assert!(denied.has_code(&ErrorCode::RBAC_PERMISSION_DENIED), "{denied}");
    assert_eq!(differences(&before, &simulator.xen().inventory()), "");
    simulator.stop().await;
}

#[tokio::test]
async fn a_disk_as_a_tar_is_whole_or_an_error() {
    let simulator = pool(&[]).await;
    let session = login(&simulator).await;
    let (_, disks) = snapshot(&session).await.unwrap();
    let options = ExportOptions::new("xenapi-test");
    for cut in [false, true] {
        if cut {
            simulator.xen().faults().set_str("export-truncate=1048576").unwrap();
        }
        let export = session.export_raw_vdi(&disks[0], ExportFormat::Tar, &options);
        let mut export = export.await.unwrap();
        let mut all = Vec::new();
        while let Some(Ok(bytes)) = export.next().await {
            all.extend_from_slice(&bytes);
        }
        assert!(all.starts_with(b"vdi/00000000\0"));
        assert_eq!(export.finish().await.is_ok(), !cut);
        assert_eq!(all.ends_with(&[0; 1024]) && all.len() > 3 << 20, !cut);
    }
    simulator.stop().await;
}

#[tokio::test]
async fn broken_exports_never_pass() {
    for (fault, kind) in [
        ("export-truncate=4096", ErrorKind::TaskFailed),
        ("export-500-in-body=0", ErrorKind::TaskFailed),
        ("export-500-in-body=70000", ErrorKind::TaskFailed),
        ("export-task-fails", ErrorKind::TaskFailed),
        ("export-unclean-close", ErrorKind::UncleanClose),
        ("sr-full", ErrorKind::TaskFailed),
        ("task-fails=VM.snapshot", ErrorKind::TaskFailed),
    ] {
        let error = run(&[fault]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
}

/// Exports a snapshot of the machine as an archive.
async fn archive(faults: &[&str], compression: XvaCompression) -> Result<Vec<u8>, Error> {
    let simulator = pool(&[]).await;
    let session = login(&simulator).await;
    let (snapshot, disks) = snapshot(&session).await?;
    let before = simulator.xen().inventory();
    for fault in faults {
        simulator.xen().faults().set_str(fault).unwrap();
    }
    let options = ExportOptions::new("xenapi-test");
    #[cfg(feature = "gzip")]
    let options = options.with_gzip_check(true);
    let archived = async {
        let mut export = session.export_vm(&snapshot, compression, &options).await?;
        let mut all = Vec::new();
        while let Some(Ok(bytes)) = export.next().await {
            all.extend_from_slice(&bytes);
        }
        export.finish().await.map(|()| all)
    };
    let result = archived.await;
    assert_eq!(differences(&before, &simulator.xen().inventory()), "", "{faults:?}: {result:?}");
    simulator.xen().faults().clear();
    remove(&session, &snapshot, &disks).await?;
    session.logout().await.unwrap();
    simulator.stop().await;
    result
}

#[tokio::test]
async fn a_machine_is_exported_as_an_archive() {
    let plain = archive(&[], XvaCompression::None).await.unwrap();
    assert!(plain.starts_with(b"ova.xml\0") && plain.ends_with(&[0; 1024]));
    let elsewhere = archive(&["redirect"], XvaCompression::None).await.unwrap();
    assert_eq!(elsewhere.len(), plain.len());
    let gzip = archive(&[], XvaCompression::Gzip).await.unwrap();
    assert!(gzip.starts_with(b"\x1f\x8b") && gzip.len() < plain.len());
    for fault in ["export-truncate=4096", "export-500-in-body=0", "export-500-in-body=70000"] {
        let error = archive(&[fault], XvaCompression::None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TaskFailed, "{fault}: {error:?}");
    }
}

#[tokio::test]
async fn a_running_machine_is_no_archive() {
    let simulator = pool(&[]).await;
    let session = login(&simulator).await;
    let before = simulator.xen().inventory();
    let all = session.call(vm::get_all_records()).await.unwrap();
    let (running, _) = all.iter().find(|(_, r)| r.name_label == "web01").unwrap();
    let options = ExportOptions::new("xenapi-test");
    let refused = session.export_vm(running, XvaCompression::None, &options).await;
    let error = refused.map(drop).unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "VM_BAD_POWER_STATE");
    assert!(error.to_string().starts_with("export of VM"), "{error}");
    assert_eq!(differences(&before, &simulator.xen().inventory()), "");
    session.logout().await.unwrap();
    simulator.stop().await;
}

#[tokio::test]
async fn a_session_may_die_at_any_call() {
    // At every call in turn, until the way is shorter than that.
    for n in 1.. {
        let simulator = pool(&[]).await;
        let before = simulator.xen().inventory();
        let session = login(&simulator).await;
        simulator.xen().faults().set_str(&format!("session-invalid={n}")).unwrap();
        let result = whole_way(&session).await;
        let reached = !simulator.xen().faults().is_pending();
        assert!(result.is_ok(), "call {n}: {result:?}");
        assert_eq!(session.logins(), if reached { 2 } else { 1 }, "call {n}");
        assert_eq!(differences(&before, &simulator.xen().inventory()), "", "call {n}");
        session.logout().await.unwrap();
        simulator.stop().await;
        if !reached {
            assert!(n > 8, "only {n} calls: the test says nothing");
            return;
        }
    }
}

#[tokio::test]
async fn a_server_without_json_rpc() {
    let simulator = pool(&["no-json"]).await;
    let before = simulator.xen().inventory();
    let session = login(&simulator).await;
    assert_eq!(whole_way(&session).await.unwrap().len(), 1);
    session.logout().await.unwrap();
    assert_eq!(differences(&before, &simulator.xen().inventory()), "");
    simulator.stop().await;
}

#[tokio::test]
async fn a_wrong_password_and_a_server_in_trouble_are_told_apart() {
    let simulator = pool(&["login-delay=10"]).await;
    let xen = &simulator.ready().xen;
    let trust = Trust::Pins(Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap());
    let client = Client::builder(&xen.url).trust(trust).build().unwrap();
    let e = client.login(&xen.username, "wrong-password", "t").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Authentication);
    assert!(!format!("{e:?}").contains("wrong-password"));
    let session = login(&simulator).await;
    simulator.xen().faults().set_str("bare-array-error").unwrap();
    let e = session.call(vm::get_record(&Ref::new("OpaqueRef:none"))).await.unwrap_err();
    assert!(e.is_not_found(), "{e}");
    simulator.stop().await;
}

#[tokio::test]
async fn aborting_half_way_leaves_nothing() {
    let simulator = pool(&["slow-export=200000"]).await;
    let before = simulator.xen().inventory();
    let session = login(&simulator).await;
    let (snapshot, disks) = snapshot(&session).await.unwrap();
    let options = ExportOptions::new("xenapi-test");
    let mut export = session.export_raw_vdi(&disks[0], ExportFormat::Vhd, &options).await.unwrap();
    export.next().await.unwrap().unwrap();
    export.abort().await.unwrap();
    remove(&session, &snapshot, &disks).await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(differences(&before, &simulator.xen().inventory()), "");
    simulator.stop().await;
}

#[tokio::test]
async fn a_pool_that_disappears_is_an_error_within_moments() {
    let simulator = pool(&["host-gone=65536"]).await;
    let session = login(&simulator).await;
    let (_, disks) = snapshot(&session).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), export(&session, &disks[0])).await;
    let error = ended.unwrap().unwrap_err();
    // Whether the stream itself looks broken or whole: nobody is left to say that it succeeded.
    let kinds = [ErrorKind::Connect, ErrorKind::Transport, ErrorKind::UncleanClose];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    simulator.stop().await;
}
