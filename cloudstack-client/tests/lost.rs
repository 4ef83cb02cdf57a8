//! Answers that get lost, processes that end, and servers that refuse: nothing is made twice, nothing is forgotten.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use cloudstack_client::job::StoredJob;
use cloudstack_client::preflight::{Needs, Severity};
use cloudstack_client::serve::{Content, Server};
use cloudstack_client::templates::{
    self, DiskSource, Format, NewTemplate, Template, TemplateFilter, TemplateFromDisk,
};
use cloudstack_client::virtual_machines::{self, NewVirtualMachine};
use cloudstack_client::{
    Client, Credentials, CsErrorCode, ErrorKind, Job, Upload, WaitOptions, accounts, isos,
    offerings, os_types, volumes, zones,
};
use simulator::cloudstack::{CloudStack, CloudStackConfig, Faults};

fn client_of(endpoint: &str, key: &str, secret: &str) -> Client {
    Client::builder(endpoint).credentials(Credentials::new(key, secret)).build().unwrap()
}

async fn cloud() -> (CloudStack, Client) {
    let cloud = CloudStack::start(CloudStackConfig::new()).await.unwrap();
    let client = client_of(&cloud.endpoint(), cloud.config().key(), cloud.config().secret());
    (cloud, client)
}

fn soon() -> WaitOptions {
    WaitOptions::default()
        .with_timeout(Duration::from_secs(30))
        .with_pauses(Duration::from_millis(5), Duration::from_millis(50))
}

fn set(faults: &Faults, text: &str) {
    faults.set_str(text).unwrap();
}

/// A stopped machine, and a call that makes a template of its root disk.
async fn source(client: &Client) -> TemplateFromDisk {
    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let size = client.call_all(offerings::services()).await.unwrap().remove(0).id;
    let os = client.call_all(os_types::list()).await.unwrap().remove(0).id;
    let all = client.call_all(templates::list(TemplateFilter::Featured)).await.unwrap();
    let new = NewVirtualMachine::new(&zone, &size, &all[0].id).with_start(false);
    let machine = client.run(virtual_machines::deploy(&new), &soon()).await.unwrap();
    let root = client.call_all(volumes::root_of(&machine.id)).await.unwrap().remove(0).id;
    TemplateFromDisk::new("golden", &os, DiskSource::Volume(&root))
}

#[tokio::test]
async fn a_lost_answer_never_makes_two_templates() {
    for fault in [
        // The command has taken effect, and its answer is lost.
        "drop-after-effect=createTemplate@1",
        // It takes effect only while it is being looked for.
        "late-effect=300:createTemplate@1",
        // It arrives only after the time in which its job is looked for.
        "late-arrival=1000:createTemplate@1",
        // The server is out of order for a while on top of that.
        "drop-after-effect=createTemplate@1 fail-nth=1:queryAsyncJobResult fail-nth=2:queryAsyncJobResult",
    ] {
        let (cloud, client) = cloud().await;
        let source = source(&client).await;
        for one in fault.split(' ') {
            set(cloud.faults(), one);
        }
        let create = templates::create(&source).with_new_job_id().unwrap();
        let made = client.run(create, &soon().with_settle(Duration::ZERO)).await.unwrap();
        // What is late has come by now.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let all = client.call_all(templates::named("golden")).await.unwrap();
        assert_eq!(all.iter().map(|one| &one.id).collect::<Vec<_>>(), [&made.id], "{fault}");
        client.wait_ready(&made.id, &[], &soon()).await.unwrap();
    }
    // A call that has never arrived is sent again, but only when it can no longer arrive.
    let (cloud, _) = cloud().await;
    let keys = Credentials::new(cloud.config().key(), cloud.config().secret());
    let client = Client::builder(cloud.endpoint()).credentials(keys);
    let client = client.validity(Duration::from_secs(1)).build().unwrap();
    let source = source(&client).await;
    set(cloud.faults(), "late-arrival=3600000:createTemplate@1");
    let create = templates::create(&source).with_new_job_id().unwrap();
    let options = soon().with_settle(Duration::from_millis(50));
    client.run(create, &options).await.unwrap();
    assert_eq!(client.call_all(templates::named("golden")).await.unwrap().len(), 1);
    // Without an id of ours nobody can know, so that nothing is sent again.
    set(cloud.faults(), "drop-after-effect=createTemplate@1");
    let lost = client.run(templates::create(&source), &soon()).await.unwrap_err();
    assert!(lost.is_retryable(), "{lost}");
    assert_eq!(client.call_all(templates::named("golden")).await.unwrap().len(), 2);
}

/// Between a second try and the end of a signature that is nearly over lies what must not be done twice.
#[tokio::test]
async fn what_arrives_after_it_was_sent_again_is_too_old() {
    let (cloud, _) = cloud().await;
    let keys = Credentials::new(cloud.config().key(), cloud.config().secret());
    let client = Client::builder(cloud.endpoint()).credentials(keys);
    let client = client.validity(Duration::from_secs(1)).build().unwrap();
    let source = source(&client).await;
    set(cloud.faults(), "late-arrival=4000:createTemplate@1");
    let begun = std::time::Instant::now();
    let create = templates::create(&source).with_new_job_id().unwrap();
    let made = client.run(create, &soon().with_settle(Duration::ZERO)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(4500).saturating_sub(begun.elapsed())).await;
    let all = client.call_all(templates::named("golden")).await.unwrap();
    assert_eq!(all.iter().map(|one| &one.id).collect::<Vec<_>>(), [&made.id]);
    // And of a job that another process may have begun, it is waited in the same way.
    set(cloud.faults(), "late-arrival=700:createTemplate@1");
    let create = templates::create(&source).with_new_job_id().unwrap();
    client.call(create.clone()).await.unwrap_err();
    client.resume(create, &soon().with_settle(Duration::ZERO)).await.unwrap();
    assert_eq!(client.call_all(templates::named("golden")).await.unwrap().len(), 2);
}

/// What the process of the next test does: it starts a job, tells how to find it, and ends without waiting.
#[tokio::test]
async fn child_that_ends_in_the_middle() {
    let Ok(place) = std::env::var("LOST_TEST_CLOUD") else { return };
    let [endpoint, key, secret] = place.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{place}")
    };
    let client = client_of(endpoint, key, secret);
    let create = templates::create(&source(&client).await).with_new_job_id().unwrap();
    let job = client.call(create).await.unwrap();
    println!("\njob: {}", job.stored());
    std::io::stdout().flush().unwrap();
    std::process::abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_resumed_after_the_process_has_ended() {
    let (cloud, client) = cloud().await;
    set(cloud.faults(), "slow-job=300");
    let place = [&cloud.endpoint(), cloud.config().key(), cloud.config().secret()].join(" ");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child_that_ends_in_the_middle", "--nocapture"]);
    child.env("LOST_TEST_CLOUD", place).stderr(Stdio::null());
    let output = tokio::task::spawn_blocking(move || child.output().unwrap()).await.unwrap();
    assert!(!output.status.success(), "it was ended");
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("job: ")).unwrap();
    let stored: StoredJob = line.parse().unwrap();
    assert!(!line.contains(cloud.config().secret()));

    let job = Job::<Template>::restored(&stored);
    let made = client.job(&job, &soon()).await.unwrap();
    assert_eq!(stored.object.as_deref(), Some(made.id.as_str()));
    assert_eq!(client.call_all(templates::named("golden")).await.unwrap().len(), 1);
    // It can be waited for again, as long as the server remembers it.
    assert_eq!(client.job(&job, &soon()).await.unwrap().id, made.id);
    let unknown: StoredJob =
        r#"{"job":"6f1a6d2e-2f6b-4a43-9c1d-0d4b8a1f2c3d","what":"x"}"#.parse().unwrap();
    let unknown = client.job(&Job::<Template>::restored(&unknown), &soon()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::JobUnknown, "{unknown}");
}

#[tokio::test]
async fn a_wait_tells_how_far_it_is() {
    let (cloud, client) = cloud().await;
    let source = source(&client).await;
    set(cloud.faults(), "slow-job=200");
    let said = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&said);
    let options = soon().with_progress(move |last, _| log.lock().unwrap().push(last.to_owned()));
    client.run(templates::create(&source), &options).await.unwrap();
    assert!(said.lock().unwrap().iter().all(|last| last == "the job is pending"));
    assert!(said.lock().unwrap().len() > 1);
}

#[tokio::test]
async fn every_status_of_the_server_has_its_kind() {
    let (cloud, client) = cloud().await;
    let client = Client::builder(client.endpoint())
        .credentials(Credentials::new(cloud.config().key(), cloud.config().secret()))
        .retries(0)
        .build()
        .unwrap();
    // The status, its exception, what it means, and whether it is worth another try.
    for (status, exception, kind, again) in [
        (401, None, ErrorKind::Unauthorized, false),
        (429, Some(CsErrorCode::RequestLimit), ErrorKind::Busy, true),
        (430, Some(CsErrorCode::ServerApi), ErrorKind::Invalid, false),
        (432, Some(CsErrorCode::ServerApi), ErrorKind::Unsupported, false),
        (503, Some(CsErrorCode::ServerApi), ErrorKind::Busy, true),
        (511, Some(CsErrorCode::TwoFactorAuthentication), ErrorKind::Unauthorized, false),
        (530, Some(CsErrorCode::ServerApi), ErrorKind::Server, true),
        (531, Some(CsErrorCode::PermissionDenied), ErrorKind::Forbidden, false),
        (532, Some(CsErrorCode::AccountLimit), ErrorKind::Quota, false),
        (533, Some(CsErrorCode::InsufficientCapacity), ErrorKind::Capacity, false),
        (534, Some(CsErrorCode::ResourceUnavailable), ErrorKind::Capacity, false),
        (535, Some(CsErrorCode::ResourceAllocation), ErrorKind::Quota, false),
        (536, Some(CsErrorCode::ResourceInUse), ErrorKind::Conflict, false),
        (537, Some(CsErrorCode::NetworkRuleConflict), ErrorKind::Conflict, false),
    ] {
        set(cloud.faults(), &format!("fail-nth=1:listZones {status}"));
        let refused = client.call(zones::list()).await.unwrap_err();
        assert_eq!((refused.kind(), refused.exception()), (kind, exception), "{status}: {refused}");
        assert_eq!((refused.code(), refused.is_retryable()), (Some(status), again), "{status}");
        assert_eq!(refused.status().unwrap().as_u16(), status);
    }
    let bad = client.call(zones::list().with("page", "1")).await.unwrap_err();
    assert_eq!((bad.kind(), bad.code()), (ErrorKind::Invalid, Some(431)));
    let bad = client.call(zones::list().with("x[0]y", "1")).await.unwrap_err();
    assert_eq!((bad.kind(), bad.code()), (ErrorKind::Invalid, Some(430)));
}

#[tokio::test]
async fn a_job_that_fails_has_the_kind_of_its_code() {
    let (cloud, client) = cloud().await;
    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let size = client.call_all(offerings::services()).await.unwrap().remove(0).id;
    let all = client.call_all(templates::list(TemplateFilter::Featured)).await.unwrap();
    set(cloud.faults(), "no-capacity@1");
    let new = NewVirtualMachine::new(&zone, &size, &all[0].id).with_name("web01");
    let full = client.run(virtual_machines::deploy(&new), &soon()).await.unwrap_err();
    assert_eq!((full.kind(), full.code()), (ErrorKind::Capacity, Some(533)));
    assert!(full.to_string().contains("virtual machine web01: deploy (job "), "{full}");
    set(cloud.faults(), "job-fails=deployVirtualMachine");
    let new = NewVirtualMachine::new(&zone, &size, &all[0].id);
    let failed = client.run(virtual_machines::deploy(&new), &soon()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Failed, "{failed}");
}

#[tokio::test]
async fn a_preflight_foresees_what_the_cloud_will_refuse() {
    let (cloud, client) = cloud().await;
    let needs = Needs::new()
        .with_release(4, 11)
        .with_commands(["registerTemplate", "deployVirtualMachine"])
        .with_templates(1)
        .with_served_from([192, 0, 2, 1].into());
    let report = client.preflight(&needs).await.unwrap();
    assert!(report.is_clear(), "{report:?}");
    assert!(report.findings.iter().all(|one| one.severity == Severity::NotChecked));

    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let os = client.call_all(os_types::list()).await.unwrap().remove(0).id;
    let new = NewTemplate::new("web01", "XenServer", Format::Vhd, &zone).with_os_type(&os);
    let server = Server::builder("a.vhd", Content::from_bytes("conectix")).start().await.unwrap();
    let url = server.url().to_string();

    set(cloud.faults(), "denied=registerTemplate@1");
    let rules = |report: cloudstack_client::preflight::Report| -> BTreeMap<&str, String> {
        report.critical().map(|one| (one.rule, one.subject.clone())).collect()
    };
    assert_eq!(rules(client.preflight(&needs).await.unwrap())["permission"], "registerTemplate");
    let refused = client.call(templates::register(&new, &url)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    cloud.faults().clear();

    set(cloud.faults(), "template-quota=0");
    assert_eq!(rules(client.preflight(&needs).await.unwrap())["limit"], "templates");
    assert_eq!(
        client.call(templates::register(&new, &url)).await.unwrap_err().kind(),
        ErrorKind::Quota
    );
    cloud.faults().clear();

    // Storage VMs may fetch from elsewhere only, which an administrator sees.
    set(cloud.faults(), "allowed-sites=198.51.100.0/24");
    assert_eq!(rules(client.preflight(&needs).await.unwrap())["allowed-sites"], "192.0.2.1");
    let made = client.call(templates::register(&new, &url)).await.unwrap();
    let failed = client.wait_ready(&made.id, &[], &soon()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Failed, "{failed}");

    let wrong = client_of(&cloud.endpoint(), cloud.config().key(), "another-secret-entirely");
    assert_eq!(wrong.preflight(&needs).await.unwrap_err().kind(), ErrorKind::Unauthorized);
}

/// The two ways by which an image comes, in every packing.
#[tokio::test]
async fn every_format_is_taken_in_every_packing() {
    let (cloud, client) = cloud().await;
    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let os = client.call_all(os_types::list()).await.unwrap().remove(0).id;
    let mut vhd = vec![0; 4096];
    vhd[..8].copy_from_slice(b"conectix");
    vhd[48..56].copy_from_slice(&(1u64 << 20).to_be_bytes());
    vhd[63] = 3;
    let mut qcow2 = vec![0; 4096];
    qcow2[..4].copy_from_slice(b"QFI\xfb");
    qcow2[24..32].copy_from_slice(&(1u64 << 20).to_be_bytes());
    let raw = vec![7; 1 << 20];
    let gz = |data: &[u8]| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    };
    let bz2 = |data: &[u8]| {
        let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    };
    let zip = |data: &[u8]| {
        let mut packer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        packer.start_file("disk", zip::write::SimpleFileOptions::default()).unwrap();
        packer.write_all(data).unwrap();
        packer.finish().unwrap().into_inner()
    };
    for (format, hypervisor, name, data) in [
        (Format::Vhd, "XenServer", "a.vhd.zip", zip(&vhd)),
        (Format::Qcow2, "KVM", "a.qcow2.zip", zip(&qcow2)),
        (Format::Raw, "KVM", "a.img.zip", zip(&raw)),
        (Format::Vhd, "XenServer", "a.vhd", vhd.clone()),
        (Format::Vhd, "XenServer", "a.vhd.gz", gz(&vhd)),
        (Format::Vhd, "XenServer", "a.vhd.bz2", bz2(&vhd)),
        (Format::Qcow2, "KVM", "a.qcow2", qcow2.clone()),
        (Format::Qcow2, "KVM", "a.img", qcow2.clone()),
        (Format::Qcow2, "KVM", "a.qcow2.gz", gz(&qcow2)),
        (Format::Qcow2, "KVM", "a.qcow2.bz2", bz2(&qcow2)),
        (Format::Raw, "KVM", "a.raw", raw.clone()),
        (Format::Raw, "KVM", "a.raw.gz", gz(&raw)),
    ] {
        let new = NewTemplate::new(name, hypervisor, format, &zone).with_os_type(&os);
        let ticket = client.call(templates::upload_params(&new)).await.unwrap();
        let upload = Upload::from_bytes(data.clone()).with_file_name(name);
        let id = client.upload(ticket, upload).await.unwrap().template_id;
        let up = client.wait_ready(&id, &[&zone], &soon()).await.unwrap();
        let server = Server::builder(name, Content::from_bytes(data)).start().await.unwrap();
        let made = client.call(templates::register(&new, server.url().as_str())).await.unwrap();
        let down = client.wait_ready(&made.id, &[&zone], &soon()).await.unwrap();
        assert_eq!((up.size, down.size), (Some(1 << 20), Some(1 << 20)), "{name}");
        assert_eq!(up.zone(&zone).unwrap().stores[0].state, "DOWNLOADED");
        for id in [id, made.id] {
            client.run(templates::delete(&id), &soon()).await.unwrap();
        }
    }
    assert!(cloud.templates().is_empty());
    // What is not packed as its name says is not sent.
    let new = NewTemplate::new("b", "XenServer", Format::Vhd, &zone).with_os_type(&os);
    let ticket = client.call(templates::upload_params(&new)).await.unwrap();
    let upload = Upload::from_bytes(vhd).with_file_name("b.vhd.bz2");
    let refused = client.upload(ticket, upload).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UnsupportedFormat);
}

#[tokio::test]
async fn volumes_and_isos_are_fetched_by_url() {
    let (cloud, client) = cloud().await;
    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let mut vhd = vec![0; 4096];
    vhd[..8].copy_from_slice(b"conectix");
    vhd[48..56].copy_from_slice(&(1u64 << 20).to_be_bytes());
    let server = Server::builder("data.vhd", Content::from_bytes(vhd)).start().await.unwrap();
    let new = volumes::NewUploadedVolume::new("data", Format::Vhd, &zone);
    let call = volumes::register(&new, server.url().as_str()).with_new_job_id().unwrap();
    let begun = client.run(call, &soon()).await.unwrap();
    let there = client.wait_volume(&begun.id, &soon()).await.unwrap();
    assert_eq!((there.state, there.size), (Some(volumes::VolumeState::Uploaded), Some(1 << 20)));
    client.call(volumes::delete(&begun.id)).await.unwrap();

    let server =
        Server::builder("tools.iso", Content::from_bytes(vec![1; 4096])).start().await.unwrap();
    let new = isos::NewIso::new("tools", &zone).with_bootable(false);
    let made = client.call(isos::register(&new, server.url().as_str())).await.unwrap();
    assert!(client.wait_iso(&made.id, &[&zone], &soon()).await.unwrap().is_ready());
    client.run(isos::delete(&made.id), &soon()).await.unwrap();

    // A server that is gone fails them with the cloud's words.
    let url = server.url().clone();
    server.stop().await;
    let made = client.call(isos::register(&new, url.as_str())).await.unwrap();
    let failed = client.wait_iso(&made.id, &[], &soon()).await.unwrap_err();
    assert!(
        failed.kind() == ErrorKind::Failed && failed.to_string().starts_with("ISO "),
        "{failed}"
    );
    client.run(isos::delete(&made.id), &soon()).await.unwrap();
    assert_eq!(cloud.objects().iter().filter(|one| one["kind"] == "Iso").count(), 0);
}

#[tokio::test]
async fn a_broken_upload_of_a_volume_is_told_as_one() {
    let (cloud, client) = cloud().await;
    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let new = volumes::NewUploadedVolume::new("data", Format::Raw, &zone);
    for fault in ["upload-fails=500:100", "upload-close=100"] {
        set(cloud.faults(), fault);
        let ticket = client.call(volumes::upload_params(&new)).await.unwrap();
        let id = ticket.id().to_owned();
        let broken = client.upload(ticket, Upload::from_bytes(vec![7; 4096])).await.unwrap_err();
        let text = broken.to_string();
        assert!(text.contains(&format!("volume {id}: upload: ")), "{text}");
        assert!(text.contains("delete this volume and begin with a new one"), "{text}");
        let failed = client.wait_volume(&id, &soon()).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Failed, "{failed}");
        client.call(volumes::delete(&id)).await.unwrap();
        cloud.faults().clear();
    }
    let gone =
        client.wait_volume("6f1a6d2e-2f6b-4a43-9c1d-0d4b8a1f2c3d", &soon()).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
}

#[tokio::test]
async fn what_belongs_to_a_project_is_made_waited_for_and_deleted() {
    let (cloud, client) = cloud().await;
    let zone = client.call_all(zones::list()).await.unwrap().remove(0).id;
    let os = client.call_all(os_types::list()).await.unwrap().remove(0).id;
    let project = client.call_all(accounts::projects()).await.unwrap().remove(0);
    let new = volumes::NewUploadedVolume::new("data", Format::Raw, &zone);
    let new = new.with_project(&project.id);
    let ticket = client.call(volumes::upload_params(&new)).await.unwrap();
    let volume = ticket.id().to_owned();
    client.upload(ticket, Upload::from_bytes(vec![7; 4096])).await.unwrap();
    client.wait_volume(&volume, &soon()).await.unwrap();
    assert!(client.call_all(volumes::list()).await.unwrap().is_empty());
    let of_project = volumes::list().of_project(&project.id);
    assert_eq!(client.call_all(of_project).await.unwrap()[0].id, volume);

    let new = NewTemplate::new("web01", "KVM", Format::Raw, &zone).with_os_type(&os);
    let ticket = client.call(templates::upload_params(&new.with_project(&project.id))).await;
    let ticket = ticket.unwrap();
    let template = ticket.id().to_owned();
    client.upload(ticket, Upload::from_bytes(vec![7; 4096])).await.unwrap();
    assert!(client.wait_ready(&template, &[&zone], &soon()).await.unwrap().is_ready());

    // The other member sees both; an administrator all that is anybody's.
    let (key, secret) = cloud.config().keys_of("others");
    let other = client_of(&cloud.endpoint(), &key, &secret);
    other.wait_ready(&template, &[], &soon()).await.unwrap();
    let (key, secret) = cloud.config().keys_of("admin");
    let admin = client_of(&cloud.endpoint(), &key, &secret);
    assert_eq!(admin.call_all(accounts::list().of_all_accounts()).await.unwrap().len(), 3);
    assert_eq!(admin.call_all(volumes::list().of_project("-1")).await.unwrap().len(), 1);
    other.run(templates::delete(&template), &soon()).await.unwrap();
    client.call(volumes::delete(&volume)).await.unwrap();
    assert!(cloud.templates().is_empty());
    // What is another's is refused, and not there.
    let mine = volumes::NewUploadedVolume::new("data", Format::Raw, &zone);
    let mine = client.call(volumes::upload_params(&mine)).await.unwrap().id().to_owned();
    assert!(other.wait_volume(&mine, &soon()).await.unwrap_err().is_not_found());
    let refused = other.call(volumes::delete(&mine)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
}
