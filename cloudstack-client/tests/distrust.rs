//! Servers and proxies that say more, less or other than they should.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudstack_client::{
    Client, Credentials, ErrorKind, Job, accounts, command, snapshots, ssh_keys, templates, zones,
};
use serde_json::json;
use support::{Cloud, Reply, hang_up, ok, raw, soon};

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
        let unsure = cloud.client().run(create, &options).await.unwrap_err();
        assert!(!unsure.is_not_found(), "{unsure}");
        let sent = cloud.commands().iter().filter(|one| *one == "createTemplate").count();
        assert_eq!(sent, 1, "{status}: nobody knows whether there is a template");
    }
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
