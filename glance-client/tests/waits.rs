//! Waiting for what takes its time at the server, against a scripted cloud.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use glance_client::task::TaskStatus;
use glance_client::{ErrorKind, Pace, WaitOptions};
use serde_json::json as value;
use support::{Cloud, Reply, answer, image, json};

#[tokio::test]
async fn waiting_ends_on_every_bad_state() {
    let states = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&states);
    let cloud = Cloud::start(3600, move |request| {
        let status = match request.path.rsplit('/').next().unwrap() {
            "slow" => ["saving", "importing", "new-word", "active"]
                [count.fetch_add(1, Ordering::SeqCst).min(3)],
            "flaky" if count.fetch_add(1, Ordering::SeqCst) < 6 => {
                return Reply::Send(answer("503 Service Unavailable", &[], "<h1>haproxy</h1>"));
            }
            "flaky" => "active",
            "gone" => return Reply::Send(answer("404 Not Found", &[], "")),
            "" | "tokens" => return Reply::Default,
            status => return Reply::Send(json("200 OK", &image(status))),
        };
        Reply::Send(json("200 OK", &image(status)))
    })
    .await;
    let glance = cloud.glance().await;
    let quick = WaitOptions::default()
        .with_pauses(Duration::from_millis(1), Duration::from_millis(5))
        .with_timeout(Duration::from_secs(20));
    glance.wait("slow", &quick).await.unwrap();
    glance.wait("flaky", &quick).await.unwrap();
    for bad in ["queued", "killed", "deleted", "pending_delete", "deactivated", "gone"] {
        let error = glance.wait(bad, &quick).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{bad}: {error}");
    }
    let short = quick.clone().with_timeout(Duration::from_millis(20));
    let error = glance.wait("saving", &short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("last: saving"), "{error}");
    let cancel = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let error = glance.wait("saving", &quick.with_cancel(cancel)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_task_is_waited_for_to_its_end() {
    let looks = AtomicUsize::new(0);
    let cloud = Cloud::start(3600, move |request| {
        let status = match request.path.as_str() {
            "/v2/tasks/good" => match looks.fetch_add(1, Ordering::SeqCst) {
                0 => "pending",
                1 => return Reply::Send(answer("503 Service Unavailable", &[], "restarting")),
                2 => "processing",
                _ => "success",
            },
            "/v2/tasks/bad" => "failure",
            "/v2/tasks/slow" => "processing",
            _ => return Reply::Default,
        };
        let task = value!({"id": "t", "status": status, "message": "no space"});
        Reply::Send(json("200 OK", &task))
    })
    .await;
    let glance = cloud.glance().await;
    let pace = Pace::default().with_pauses(Duration::from_millis(1), Duration::from_millis(5));
    let wait = async |id, limit| glance.wait_for_task(id, limit, &pace).await;
    let long = Duration::from_secs(60);
    assert_eq!(wait("good", long).await.unwrap().status, TaskStatus::Success);
    let error = wait("bad", long).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("it failed: no space"), "{error}");
    let error = wait("slow", Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("last: processing"), "{error}");
    assert!(wait("none", long).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_keystone_that_restarts_when_a_token_is_refused_is_waited_for() {
    let logins = AtomicUsize::new(0);
    let cloud = Cloud::start(3600, move |request| match request.method.as_str() {
        "POST" if logins.fetch_add(1, Ordering::SeqCst) == 1 => {
            Reply::Send(answer("503 Service Unavailable", &[], "restarting"))
        }
        "GET" if request.path.starts_with("/v2/images/") => match request.token() {
            "token-1" => Reply::Send(answer("401 Unauthorized", &[], "revoked")),
            _ => Reply::Send(json("200 OK", &image("active"))),
        },
        _ => Reply::Default,
    })
    .await;
    let glance = cloud.glance().await;
    let quick = WaitOptions::default()
        .with_pauses(Duration::from_millis(1), Duration::from_millis(5))
        .with_timeout(Duration::from_secs(20));
    glance.wait(support::ID, &quick).await.unwrap();
}
