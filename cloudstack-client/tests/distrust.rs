//! Servers and proxies that say more, less or other than they should.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudstack_client::{
    Client, Credentials, ErrorKind, Job, Record, Row, Upload, accounts, command, job, snapshots,
    ssh_keys, templates, virtual_machines, volumes, zones,
};
use serde_json::json;
use support::{Cloud, Reply, SECRET, error, hang_up, ok, raw, soon};

fn page(status: &str) -> Reply {
    Reply::Send(raw(status, &[], "<html><title>Not ready</title></html>"))
}

#[tokio::test]
async fn only_cloudstack_itself_can_say_that_a_job_is_unknown() {
    // The answer is lost because the server is restarted, and what stands before it knows nothing of jobs.
    for status in ["404 Not Found", "410 Gone", "400 Bad Request", "408 Request Timeout"] {
        let cloud =
            Cloud::start(move |_, number| if number == 0 { hang_up() } else { page(status) });
        let cloud = cloud.await;
        let source = templates::DiskSource::Snapshot("s1");
        let new = templates::TemplateFromDisk::new("golden", "os", source);
        let create = templates::create(&new).with_job_id("our-id");
        let options = soon().with_settle(Duration::from_millis(20));
        let options = options.with_timeout(Duration::from_millis(300));
        let unsure = cloud.client().run(create, &options).await.unwrap_err();
        assert!(!unsure.is_not_found(), "{unsure}");
        let sent = cloud.commands().iter().filter(|one| *one == "createTemplate").count();
        assert_eq!(sent, 1, "{status}: nobody knows whether there is a template");
    }
}

#[tokio::test]
async fn a_first_try_that_comes_through_after_all_is_found() {
    // Nobody knew the job while it was looked for, and the second try meets what the first one does.
    let cloud = Cloud::start(|seen, number| match (seen.command(), number) {
        ("createSnapshot", 0) => hang_up(),
        ("createSnapshot", _) => error(530, "the volume is being snapshotted"),
        _ if number == 1 => error(431, "Unable to find a job with id our-id"),
        _ => ok(&json!({"jobstatus": 1, "jobresult": {"snapshot": {"id": "s1"}}})),
    })
    .await;
    let create = snapshots::create(&snapshots::NewSnapshot::of("v1")).with_job_id("our-id");
    let options = soon().with_settle(Duration::ZERO);
    assert_eq!(cloud.hasty_client().run(create, &options).await.unwrap().id, "s1");
    // If there is still none, the refusal is told.
    let cloud = Cloud::start(|seen, number| match (seen.command(), number) {
        ("createSnapshot", 0) => hang_up(),
        ("createSnapshot", _) => error(535, "no more"),
        _ => error(431, "Unable to find a job with id our-id"),
    })
    .await;
    let create = snapshots::create(&snapshots::NewSnapshot::of("v1")).with_job_id("our-id");
    let refused = cloud.hasty_client().run(create, &options).await.unwrap_err();
    let sent = cloud.commands().iter().filter(|one| *one == "createSnapshot").count();
    assert_eq!((refused.kind(), sent), (ErrorKind::Quota, 2), "{refused}");
}

#[tokio::test]
async fn a_proxy_cannot_say_that_an_object_is_gone() {
    let cloud = Cloud::start(|_, _| page("404 Not Found")).await;
    let client = cloud.client();
    let wrong = client.call(zones::list()).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Protocol, "{wrong}");
    assert!(wrong.to_string().contains("is the endpoint"), "{wrong}");
    for wrong in [
        client.run(templates::delete("t1"), &soon()).await.unwrap_err(),
        client.wait_ready("t1", &[], &soon()).await.unwrap_err(),
        client.wait_volume("v1", &soon()).await.unwrap_err(),
    ] {
        assert!(!wrong.is_not_found(), "{wrong}");
    }
}

#[tokio::test]
async fn secrets_that_come_back_are_in_no_error() {
    // Echoed whole, and so that the end of the text falls into the middle.
    for pad in [0, 310, 330, 340, 350, 360] {
        let cloud = Cloud::start(move |seen, _| {
            let said = format!(
                "{} cannot verify {SECRET} {} {} {SECRET}",
                "x".repeat(pad),
                seen.get("signature"),
                seen.get("password")
            );
            error(530, &said)
        })
        .await;
        let new = virtual_machines::NewVirtualMachine::new("z", "s", "t");
        let deploy = virtual_machines::deploy(&new.with_password("correct-horse-battery"));
        let told = cloud.client().call(deploy).await.unwrap_err();
        let text = format!("{told} {told:?}");
        let signature = cloud.seen.lock().unwrap()[0].get("signature").to_owned();
        for secret in [SECRET, &signature, "correct-horse-battery"] {
            assert!(!text.contains(&secret[..8]), "{pad}: {text}");
        }
    }
    // The same of a ticket, whose parts are longer than what is kept of a text.
    let metadata = "bWV0YWRhdGEt".repeat(60);
    let long = metadata.clone();
    let cloud = Cloud::start(move |seen, _| {
        if seen.is_upload() {
            Reply::Send(raw("400 Bad Request", &[], &format!("cannot read {long}")))
        } else {
            unreachable!()
        }
    })
    .await;
    let mut answer = cloud.ticket();
    answer["getuploadparams"]["metadata"] = json!(metadata);
    let new = volumes::NewUploadedVolume::new("data", templates::Format::Raw, "z1");
    let body = json!({"r": answer}).to_string();
    let ticket = volumes::upload_params(&new).parse(http::StatusCode::OK, body.as_bytes()).unwrap();
    let told = cloud.client().upload(ticket, Upload::from_bytes(vec![7; 512])).await.unwrap_err();
    let text = format!("{told} {told:?}");
    assert!(text.contains("cannot read") && !text.contains(&metadata[..12]), "{text}");
}

#[test]
fn what_jobs_and_rows_hold_is_not_printed() {
    let body = json!({"r": {"jobstatus": 1, "jobresult": {"virtualmachine": {"id": "m1", "password": "hunter2x"}}}});
    let state = job::query("j1").parse(http::StatusCode::OK, body.to_string().as_bytes()).unwrap();
    let row = Row::read(&json!({"id": "u1", "secretkey": "hunter2x"})).unwrap();
    let content = json!({"password": "hunter2x"});
    let call = cloudstack_client::Call::read("x", "getUser", |answer| Ok(format!("{answer:?}")));
    let answer =
        call.parse(http::StatusCode::OK, json!({"r": content}).to_string().as_bytes()).unwrap();
    let printed = format!("{state:?} {row:?} {answer}");
    assert!(!printed.contains("hunter2x"), "{printed}");
    assert!(printed.contains("secretkey"), "the names may be seen: {printed}");
}

#[test]
fn a_volume_does_not_tell_where_it_was_fetched_from() {
    let key = "0123456789abcdef0123456789abcdef";
    let status = format!("http://192.0.2.1/{key}/a.vhd:\n timed out");
    let volume = volumes::Volume::read(&json!({"id": "v", "status": status})).unwrap();
    assert_eq!(volume.status.as_deref(), Some("http://192.0.2.1/…/a.vhd: timed out"));
}

#[tokio::test]
async fn a_wait_ends_in_time_even_if_the_server_hangs() {
    let cloud = Cloud::start(|_, _| {
        support::take(|tcp, _| async move {
            tokio::time::sleep(Duration::from_secs(120)).await;
            drop(tcp);
        })
    })
    .await;
    let client = cloud.client();
    let stored = r#"{"job":"j1","what":"x"}"#.parse().unwrap();
    let waiting = Job::<()>::restored(&stored);
    let cancel = Arc::new(AtomicBool::new(false));
    let cancelled = soon().with_cancel(Arc::clone(&cancel));
    let short = soon().with_timeout(Duration::from_millis(100));
    let all = async {
        tokio::join!(
            client.job(&waiting, &cancelled),
            client.wait_ready("t1", &[], &short),
            client.wait_volume("v1", &short),
            async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                cancel.store(true, Ordering::Relaxed);
            },
        )
    };
    let (job, template, volume, ()) =
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("it hangs");
    assert_eq!(job.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(template.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(volume.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn what_differs_in_its_owner_or_zone_is_not_the_same() {
    let cloud = Cloud::start(|seen, _| match seen.command() {
        "listSSHKeyPairs" => ok(&json!({"count": 3, "sshkeypair": [
            {"name": "mine", "account": "a", "domainid": "d1"},
            {"name": "mine", "account": "b", "domainid": "d1"},
            {"name": "mine", "account": "a", "domainid": "d2"}]})),
        "listSnapshots" => ok(&json!({"count": 2, "snapshot": [
            {"id": "s1", "zoneid": "z1"}, {"id": "s1", "zoneid": "z2"}]})),
        _ => ok(&json!({"count": 3, "resourcelimit": [
            {"resourcetype": "4", "max": 1, "account": "admin", "domainid": "d1"},
            {"resourcetype": "4", "max": 2, "account": "admin", "domainid": "d2"},
            {"resourcetype": "4", "max": 3, "domainid": "d1"},
            {"resourcetype": "4", "max": 4, "domainid": "d1", "projectid": "p1"}]})),
    })
    .await;
    let client = cloud.client();
    assert_eq!(client.call_all(ssh_keys::list().of_all_accounts()).await.unwrap().len(), 3);
    assert_eq!(client.call_all(snapshots::list()).await.unwrap().len(), 2);
    assert_eq!(client.call_all(accounts::limits().of_all_accounts()).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_clock_is_blamed_only_for_what_it_can_do() {
    let told = async |ahead: i64| {
        let there = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(ahead);
        let date = there.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let cloud = Cloud::start(move |_, _| {
            let body =
                json!({"r": {"errorcode": 401, "errortext": "unable to verify user credentials"}});
            Reply::Send(raw("401 Some", &[("Date", &date)], &body.to_string()))
        })
        .await;
        cloud.client().call(zones::list()).await.unwrap_err().to_string()
    };
    // Signatures are valid for ten minutes: a server that is three minutes ahead takes them.
    let slight = told(180).await;
    assert!(slight.contains("check the API key") && !slight.contains("correct it"), "{slight}");
    let behind = told(3600).await;
    assert!(behind.contains("min behind"), "{behind}");
    // Strict servers take no more than a quarter of an hour by their own clock.
    let ahead = told(-600).await;
    assert!(ahead.contains("min ahead of") && ahead.contains("check the API key"), "{ahead}");
}

#[tokio::test]
async fn settings_beyond_all_measure_are_told_and_no_panic() {
    let cloud = Cloud::start(|_, _| ok(&json!({"jobstatus": 0}))).await;
    let client = Client::builder(&cloud.url)
        .credentials(Credentials::new("k", "s"))
        .validity(Duration::MAX)
        .build()
        .unwrap();
    let wrong = client.call(command("listZones")).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Expires, "{wrong}");
    let cancel = Arc::new(AtomicBool::new(true));
    let forever = soon()
        .with_timeout(Duration::MAX)
        .with_pauses(Duration::MAX, Duration::MAX)
        .with_cancel(cancel);
    let stored = r#"{"job":"j1","what":"x"}"#.parse().unwrap();
    let waiting = Job::<()>::restored(&stored);
    let ended = cloud.client().job(&waiting, &forever).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Cancelled, "{ended}");
}
