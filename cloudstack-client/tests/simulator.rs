//! The whole way against a CloudStack that checks every signature with code of its own.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use cloudstack_client::serve::{Content, Server};
use cloudstack_client::templates::{
    self, Format, NewTemplate, Permissions, TemplateFilter, ZoneState, Zones,
};
use cloudstack_client::{
    Client, Credentials, ErrorKind, Spelling, Upload, WaitOptions, capabilities, hypervisors,
    os_types, tags, zones,
};
use futures_util::{StreamExt, stream};
use simulator::cloudstack::{CloudStack, CloudStackConfig};

async fn cloud(faults: &[&str]) -> (CloudStack, Client) {
    let cloud = CloudStack::start(CloudStackConfig::new()).await.unwrap();
    for fault in faults {
        cloud.faults().set_str(fault).unwrap();
    }
    let credentials = Credentials::new(cloud.config().key(), cloud.config().secret());
    let client = Client::builder(cloud.endpoint()).credentials(credentials).build().unwrap();
    (cloud, client)
}

fn soon() -> WaitOptions {
    WaitOptions::default()
        .with_timeout(Duration::from_secs(30))
        .with_pauses(Duration::from_millis(5), Duration::from_millis(50))
}

/// What a storage VM looks at: the copy of the footer at the start, and some bytes after it.
fn vhd(size: u64) -> Vec<u8> {
    let mut data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    data[..8].copy_from_slice(b"conectix");
    data[48..56].copy_from_slice(&size.to_be_bytes());
    data[60..64].copy_from_slice(&[0, 0, 0, 3]);
    data
}

async fn template(client: &Client, name: &str) -> NewTemplate {
    let zone = client.call_all(zones::list()).await.unwrap().remove(0);
    assert!(zone.is_enabled());
    let os = client.call_all(os_types::list()).await.unwrap();
    let os = os.iter().find(|os| os.description.contains("64-bit")).unwrap();
    NewTemplate::new(name, "XenServer", Format::Vhd, zone.id)
        .with_os_type(&os.id)
        .with_bits(64)
        .with_hvm(true)
        .with_password_enabled(true)
        .with_ssh_key_enabled(true)
        .with_dynamically_scalable(true)
        .with_extractable(true)
        .with_public(false)
        .with_detail("UEFI", "SECURE")
        .with_detail("rootDiskController", "scsi")
}

async fn upload(client: &Client, new: &NewTemplate, data: &[u8]) -> String {
    let ticket = client.call(templates::upload_params(new)).await.unwrap();
    let pieces: Vec<_> = data.chunks(70_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let upload = Upload::new(data.len() as u64, stream::iter(pieces).boxed());
    let done = client.upload(ticket, upload).await.unwrap();
    assert_eq!(done.bytes, data.len() as u64);
    done.template_id
}

#[tokio::test]
async fn an_upload_becomes_a_template_with_every_attribute() {
    let (cloud, client) = cloud(&["slow-template=50", "slow-job=50"]).await;
    assert!(client.call(capabilities::get()).await.unwrap().version.is_some());
    let all = client.call_all(hypervisors::list()).await.unwrap();
    assert!(all.iter().any(|hypervisor| hypervisor.name == "XenServer"));

    let new = template(&client, "web 01 ~ é").await;
    let data = vhd(10 << 20);
    let first = upload(&client, &new, &data).await;
    let ready = client.wait_ready(&first, &[], &soon()).await.unwrap();
    assert_eq!(std::fs::read(cloud.template_path(&first).unwrap()).unwrap(), data);
    assert_eq!((ready.size, ready.name.as_str()), (Some(10 << 20), "web 01 ~ é"));
    assert_eq!(
        (ready.format.as_deref(), ready.hypervisor.as_deref()),
        (Some("VHD"), Some("XenServer"))
    );
    assert_eq!((ready.bits, ready.os_type.as_deref()), (Some(64), new.os_type.as_deref()));
    for flag in [
        ready.requires_hvm,
        ready.password_enabled,
        ready.ssh_key_enabled,
        ready.is_dynamically_scalable,
        ready.is_extractable,
    ] {
        assert_eq!(flag, Some(true));
    }
    assert_eq!(ready.is_public, Some(false));
    assert_eq!(ready.details["UEFI"], "SECURE");
    assert_eq!(ready.details["rootDiskController"], "scsi");

    // A second run makes a second template and leaves the first alone.
    let second = upload(&client, &new, &vhd(20 << 20)).await;
    client.wait_ready(&second, &[], &soon()).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(client.call_all(templates::named("web 01 ~ é")).await.unwrap().len(), 2);
    assert_eq!(client.wait_ready(&first, &[], &soon()).await.unwrap(), ready);

    client.run(tags::create("Template", &[&first], [("run-id", "r-7")]), &soon()).await.unwrap();
    let tagged = client.call_all(templates::list_tagged([("run-id", "r-7")])).await.unwrap();
    assert_eq!(tagged.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), [first.as_str()]);
    client
        .call(templates::set_permissions(&first, &Permissions::new().with_public(true)))
        .await
        .unwrap();
    assert_eq!(client.wait_ready(&first, &[], &soon()).await.unwrap().is_public, Some(true));

    for id in [first, second] {
        client.run(templates::delete(&id), &soon()).await.unwrap();
    }
    assert!(cloud.templates().is_empty());
    let gone = client.run(templates::delete("6f1c9c1e-0b1d-4a56-9c53-0d3b8d0c0a11"), &soon()).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_served_file_is_registered_in_two_zones() {
    let (cloud, client) = cloud(&["two-zones"]).await;
    let data = vhd(10 << 20);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&data).unwrap();
    let packed = packed.finish().unwrap();
    let made = data.clone();
    let streamed = Content::new(data.len() as u64, move || {
        let pieces: Vec<_> = made.chunks(9_999).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        stream::iter(pieces).boxed()
    });
    for (name, content) in [("web01.vhd", streamed), ("web01.vhd.gz", Content::from_bytes(packed))]
    {
        let server = Server::builder(name, content).start().await.unwrap();
        let new = template(&client, name).await.with_zones(Zones::All);
        let made = client.call(templates::register(&new, server.url().as_str())).await.unwrap();
        assert!(!format!("{made:?}").contains(server.url().path()));
        let ready = client.wait_ready(&made.id, &[], &soon()).await.unwrap();
        assert_eq!(ready.zones.len(), 2);
        assert!(ready.zones.iter().all(|zone| zone.state == ZoneState::Ready));
        assert_eq!(std::fs::read(cloud.template_path(&made.id).unwrap()).unwrap(), data);
        assert_eq!(server.failure(), None);
    }
    let rows = client.call_all(templates::list(TemplateFilter::Self_)).await.unwrap();
    assert_eq!((rows.len(), templates::merge(rows).len()), (4, 2));

    // A source that breaks off, or a server that is gone, fails the template with the cloud's words.
    let broken = Content::new(300_000, || {
        stream::iter([
            Ok(Bytes::from(vhd(1))),
            Err(std::io::Error::other("the export task failed")),
        ])
        .boxed()
    });
    let server = Server::builder("bad.vhd", broken).start().await.unwrap();
    let new = template(&client, "bad").await;
    let made = client.call(templates::register(&new, server.url().as_str())).await.unwrap();
    let failed = client.wait_ready(&made.id, &[], &soon()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Failed, "{failed}");
    assert!(server.failure().unwrap().contains("export task failed"));
    let segment = server.url().path().split('/').nth(1).unwrap().to_owned();
    assert!(!format!("{failed:?}").contains(&segment));
}

#[tokio::test]
async fn lists_follow_a_small_page_size() {
    let (cloud, client) = cloud(&[]).await;
    let all = client.call_all(os_types::list()).await.unwrap();
    assert!(all.len() > 3);
    cloud.faults().set_str("page-size=3").unwrap();
    assert_eq!(client.call_all(os_types::list()).await.unwrap(), all);
    let one = client.call_all(os_types::described(&all[2].description)).await.unwrap();
    assert_eq!(one[0], all[2]);
}

#[tokio::test]
async fn refused_keys_and_clocks_are_told() {
    let (server, _) = cloud(&[]).await;
    let wrong = Credentials::new(server.config().key(), "another-secret-entirely");
    let wrong = Client::builder(server.endpoint()).credentials(wrong).build().unwrap();
    let refused = wrong.call(zones::list()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
    assert!(refused.to_string().contains("check the API key"), "{refused}");

    let (skewed, client) = cloud(&["clock-skew=3600"]).await;
    let refused = client.call(zones::list()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
    assert!(
        refused.to_string().contains("60 min behind")
            || refused.to_string().contains("59 min behind"),
        "{refused}"
    );
    // Told to, the client signs by the server's clock after that.
    for seconds in [3600i64, -3600] {
        let (server, _) = cloud(&[&format!("clock-skew={seconds}"), "enforce-post"]).await;
        let keys = Credentials::new(server.config().key(), server.config().secret());
        let client = Client::builder(server.endpoint()).credentials(keys);
        let client = client.follow_server_clock(true).build().unwrap();
        client.call(zones::list()).await.unwrap();
        let wrong = Credentials::new(server.config().key(), "another-secret-entirely");
        let wrong = Client::builder(server.endpoint()).credentials(wrong);
        let wrong = wrong.follow_server_clock(true).build().unwrap();
        let refused = wrong.call(zones::list()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused}");
        let text = refused.to_string();
        assert!(text.contains("check the API key") && !text.contains("correct it"), "{text}");
    }
    drop(skewed);

    let (expired, client) = cloud(&["expire-after=1"]).await;
    client.call(capabilities::get()).await.unwrap();
    assert_eq!(client.call(zones::list()).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    drop(expired);

    // Servers before 4.11 read another spelling only; newer ones read it, too.
    for fault in [&["old-expires"][..], &[]] {
        let (old, new) = cloud(fault).await;
        let refused = new.call(zones::list()).await;
        assert_eq!(refused.is_err(), !fault.is_empty());
        let keys = Credentials::new(old.config().key(), old.config().secret());
        let client = Client::builder(old.endpoint()).credentials(keys);
        let client = client.expires_spelling(Spelling::Legacy).build().unwrap();
        client.call(zones::list()).await.unwrap();
    }

    // The strict setting of new servers is met without doing anything.
    let (strict, client) = cloud(&["enforce-post"]).await;
    let new = template(&client, "strict").await;
    let id = upload(&client, &new, &vhd(1 << 20)).await;
    client.run(templates::delete(&id), &soon()).await.unwrap();
    drop(strict);
}

#[tokio::test]
async fn every_broken_upload_is_told_and_leaves_a_template_to_delete() {
    for (fault, kind, words) in [
        ("upload-unreachable", ErrorKind::Transport, "secondary storage VM"),
        ("upload-fails=503", ErrorKind::Busy, "503"),
        ("upload-fails=500:100000", ErrorKind::Server, "500"),
        ("upload-close=100000", ErrorKind::Transport, "on their way"),
        ("size-cap=1000", ErrorKind::Quota, "Maximum file upload size"),
    ] {
        let (cloud, client) = cloud(&[fault]).await;
        let new = template(&client, "web01").await;
        let ticket = client.call(templates::upload_params(&new)).await.unwrap();
        let id = ticket.template_id().to_owned();
        // More than the buffers of a connection hold.
        let first = stream::iter([Ok(Bytes::from(vhd(1 << 30)))]);
        let rest = stream::repeat_with(|| Ok(Bytes::from(vec![0; 100_000]))).take(640);
        let data = Upload::new(300_000 + 64_000_000, first.chain(rest).boxed());
        let broken = client.upload(ticket, data).await.unwrap_err();
        assert_eq!(broken.kind(), kind, "{fault}: {broken:?}");
        let text = broken.to_string();
        assert!(text.contains(words) && text.contains(&format!("template {id}: upload")), "{text}");
        client.run(templates::delete(&id), &soon()).await.unwrap();
        assert!(cloud.templates().is_empty(), "{fault}");
    }
}

#[tokio::test]
async fn limits_and_templates_in_error_are_told() {
    let (full, client) = cloud(&["template-quota=0"]).await;
    let new = template(&client, "web01").await;
    let refused = client.call(templates::upload_params(&new)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Quota, "{refused}");
    assert!(refused.to_string().contains("raise the account's limit"), "{refused}");
    let server = Server::builder("web01.vhd", Content::from_bytes(vhd(1))).start().await.unwrap();
    let refused = client.call(templates::register(&new, server.url().as_str())).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Quota, Some(535)));
    assert!(full.templates().is_empty());

    let (_far, client) = cloud(&["refuse-loopback"]).await;
    let refused = client.call(templates::register(&new, server.url().as_str())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");

    let (_bad, client) = cloud(&["template-error=Failed to scan it"]).await;
    let id = upload(&client, &new, &vhd(1 << 20)).await;
    let failed = client.wait_ready(&id, &[], &soon()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Failed);
    assert!(failed.to_string().contains("Failed to scan it"), "{failed}");

    let (_stuck, client) = cloud(&["stuck-template"]).await;
    let id = upload(&client, &new, &vhd(1 << 20)).await;
    let late = client.wait_ready(&id, &[], &soon().with_timeout(Duration::from_millis(200))).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn jobs_fail_and_answers_get_lost() {
    let (cloud, client) = cloud(&["job-fails=deleteTemplate@1"]).await;
    let new = template(&client, "web01").await;
    let id = upload(&client, &new, &vhd(1 << 20)).await;
    let failed = client.run(templates::delete(&id), &soon()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Failed, "{failed}");
    assert_eq!(cloud.templates().len(), 1);

    cloud.faults().set_str("drop-after-effect=deleteTemplate@1").unwrap();
    let delete = templates::delete(&id).with_job_id("2c7f3c0e-8b62-4d53-9d5c-5b1f1f6f2a10");
    client.run(delete, &soon()).await.unwrap();
    assert!(cloud.templates().is_empty());
}
