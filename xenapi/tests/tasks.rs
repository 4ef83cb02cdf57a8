//! Tasks, against a scripted server.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PASSWORD, Reply, Server, USER, batch, or_login, task};
use serde_json::{Value, json};
use xenapi::vm::Vm;
use xenapi::{Cancel, Client, ErrorKind, Ref, Session, TaskHandle, WaitOptions, vm};

async fn login(server: &Server) -> Session {
    Client::builder(server.url()).build().unwrap().login(USER, PASSWORD, "test").await.unwrap()
}

fn handle() -> TaskHandle<Ref<Vm>> {
    TaskHandle::new(Ref::new("OpaqueRef:task"))
}

/// A server whose `event.from` gives one reply after the other, then hangs; other calls by name.
async fn scripted(events: Vec<Reply>, others: Vec<(&'static str, Reply)>) -> Server {
    let events = Arc::new(Mutex::new(events.into_iter()));
    let others = Arc::new(others);
    Server::plain(move |request| {
        let (events, others) = (Arc::clone(&events), Arc::clone(&others));
        async move {
            or_login(&request, |method, _| match method {
                "event.from" => events
                    .lock()
                    .unwrap()
                    .next()
                    .unwrap_or_else(|| Reply { hang: true, ..Reply::default() }),
                "task.destroy" => Reply::result(json!("")),
                other => others
                    .iter()
                    .find(|(name, _)| *name == other)
                    .map(|(_, reply)| reply.clone())
                    .unwrap_or_else(|| Reply::error("MESSAGE_METHOD_UNKNOWN", &[other])),
            })
        }
    })
    .await
}

fn events(token: &str, status: &str, extra: Value) -> Reply {
    Reply::result(batch(token, vec![task(status, extra)]))
}

const DONE: &str = "<value>OpaqueRef:snap</value>";

#[tokio::test]
async fn a_task_is_watched_by_events_and_removed() {
    let server = scripted(
        vec![
            events("t1", "pending", json!({"progress": 0.25})),
            events("t2", "pending", json!({"progress": "0.75"})),
            events("t3", "success", json!({"result": DONE, "progress": 1})),
        ],
        vec![("Async.VM.snapshot", Reply::result(json!("OpaqueRef:task")))],
    )
    .await;
    let session = login(&server).await;
    let started = session.start(vm::async_snapshot(&Ref::new("OpaqueRef:vm"), "s")).await.unwrap();
    let seen: Arc<Mutex<Vec<f64>>> = Arc::default();
    let tell = Arc::clone(&seen);
    let options = WaitOptions::new().with_progress(move |p| tell.lock().unwrap().push(p));
    let snapshot = session.wait(&started, &options).await.unwrap();
    assert_eq!(snapshot.as_str(), "OpaqueRef:snap");
    assert_eq!(*seen.lock().unwrap(), [0.25, 0.75, 1.0]);
    let asked: Vec<_> = server
        .seen()
        .iter()
        .map(common::Request::call)
        .filter(|(method, _)| method == "event.from")
        .map(|(_, params)| (params[1].clone(), params[2].clone(), params[3].is_f64()))
        .collect();
    let class = json!(["task/OpaqueRef:task"]);
    assert_eq!(
        asked,
        [
            (class.clone(), json!(""), true),
            (class.clone(), json!("t1"), true),
            (class, json!("t2"), true),
        ]
    );
    assert_eq!(server.methods().last().unwrap(), "task.destroy");
}

#[tokio::test]
async fn results_are_xml_even_in_json_and_may_be_escaped() {
    for result in [DONE, "&lt;value&gt;OpaqueRef:snap&lt;/value&gt;", "OpaqueRef:snap"] {
        let server =
            scripted(vec![events("t", "success", json!({"result": result}))], vec![]).await;
        let session = login(&server).await;
        let got = session.wait(&handle(), &WaitOptions::new()).await.unwrap();
        assert_eq!(got.as_str(), "OpaqueRef:snap", "{result}");
    }
    let server = scripted(vec![events("t", "success", json!({"result": ""}))], vec![]).await;
    let void: TaskHandle<()> = TaskHandle::new(Ref::new("OpaqueRef:task"));
    login(&server).await.wait(&void, &WaitOptions::new()).await.unwrap();
    let server = scripted(vec![events("t", "success", json!({"result": "<value>"}))], vec![]).await;
    let e = login(&server).await.wait(&handle(), &WaitOptions::new()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_failed_task_gives_the_servers_code_and_is_removed() {
    let info = json!({"error_info": ["SR_BACKEND_FAILURE_46", "", "no space"]});
    let server = scripted(vec![events("t", "failure", info)], vec![]).await;
    let e = login(&server).await.wait(&handle(), &WaitOptions::new()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TaskFailed);
    assert!(e.code().unwrap().is_sr_backend_failure());
    assert_eq!(e.params()[1], "no space");
    assert_eq!(server.methods().last().unwrap(), "task.destroy");
}

#[tokio::test]
async fn a_task_that_was_cancelled_at_the_server() {
    let server = scripted(vec![events("t", "cancelled", json!({}))], vec![]).await;
    let e = login(&server).await.wait(&handle(), &WaitOptions::new()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_task_that_vanished_is_told_apart_from_one_that_failed() {
    // Once as a deletion, once as silence and an unknown handle.
    let gone = json!({"token": "t", "events": [{"id": "1", "timestamp": "0.0", "class": "task",
        "operation": "del", "ref": "OpaqueRef:task"}], "valid_ref_counts": {}});
    let silent = json!({"token": "t", "events": [], "valid_ref_counts": {}});
    for reply in [gone, silent] {
        let missing = Reply::error("HANDLE_INVALID", &["task", "OpaqueRef:task"]);
        let server = scripted(vec![Reply::result(reply)], vec![("task.get_record", missing)]).await;
        let e = login(&server).await.wait(&handle(), &WaitOptions::new()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TaskVanished);
    }
}

#[tokio::test]
async fn a_server_without_events_is_asked() {
    let done = task("success", json!({"result": DONE}));
    let server = scripted(
        vec![Reply::error("MESSAGE_METHOD_UNKNOWN", &["event.from"])],
        vec![("task.get_record", Reply::result(done))],
    )
    .await;
    login(&server).await.wait(&handle(), &WaitOptions::new()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_now_and_then_does_not_end_the_wait() {
    let cut = || Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");
    let server = scripted(
        vec![
            cut(),
            events("t1", "pending", json!({})),
            cut(),
            cut(),
            events("t2", "success", json!({"result": DONE})),
        ],
        vec![],
    )
    .await;
    login(&server).await.wait(&handle(), &WaitOptions::new()).await.unwrap();
    // One that stays broken does.
    let session = login(&scripted((0..20).map(|_| cut()).collect(), vec![]).await).await;
    let e = session.wait(&handle(), &WaitOptions::new()).await.unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Transport | ErrorKind::Connect), "{e}");
}

#[tokio::test]
async fn a_lost_token_starts_the_events_anew() {
    let server = scripted(
        vec![
            events("t1", "pending", json!({})),
            Reply::error("EVENT_FROM_TOKEN_PARSE_FAILURE", &["t1"]),
            events("t2", "success", json!({"result": DONE})),
        ],
        vec![("task.get_record", Reply::result(task("pending", json!({}))))],
    )
    .await;
    login(&server).await.wait(&handle(), &WaitOptions::new()).await.unwrap();
}

#[tokio::test]
async fn a_wait_that_is_too_short_leaves_the_task_running() {
    let server = scripted(
        vec![events("t", "pending", json!({}))],
        vec![("task.get_record", Reply::result(task("pending", json!({}))))],
    )
    .await;
    let session = login(&server).await;
    let options = WaitOptions::new().with_timeout(Duration::ZERO);
    let e = session.wait(&handle(), &options).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(!server.methods().iter().any(|m| m == "task.destroy" || m == "task.cancel"));
}

/// A server whose task ends, as `ends`, only after it was cancelled.
async fn cancellable(ends: &'static str, cancels: Arc<AtomicUsize>, refuse: bool) -> Server {
    let cancelled = Arc::new(AtomicBool::new(false));
    Server::plain(move |request| {
        let (cancelled, cancels) = (Arc::clone(&cancelled), Arc::clone(&cancels));
        async move {
            let (method, params) = request.call();
            if method == "event.from" && params[2] != "" && !cancelled.load(Ordering::SeqCst) {
                return Reply { hang: true, ..Reply::default() };
            }
            or_login(&request, |method, _| match method {
                "event.from" if cancelled.load(Ordering::SeqCst) => {
                    events("t2", ends, json!({"result": DONE}))
                }
                "event.from" => events("t1", "pending", json!({})),
                "task.cancel" => {
                    cancels.fetch_add(1, Ordering::SeqCst);
                    cancelled.store(true, Ordering::SeqCst);
                    if refuse {
                        Reply::error("OPERATION_NOT_ALLOWED", &["no"])
                    } else {
                        Reply::result(json!(""))
                    }
                }
                _ => Reply::result(json!("")),
            })
        }
    })
    .await
}

#[tokio::test]
async fn a_cancel_reaches_the_server_and_the_end_is_waited_for() {
    for (ends, refuse) in [("cancelled", false), ("success", true)] {
        let cancels = Arc::new(AtomicUsize::new(0));
        let server = cancellable(ends, Arc::clone(&cancels), refuse).await;
        let session = login(&server).await;
        let cancel = Cancel::new();
        // The word comes while the wait hangs in `event.from`.
        let word = cancel.clone();
        let options = WaitOptions::new().with_cancel(cancel).with_progress(move |_| word.cancel());
        let result = session.wait(&handle(), &options).await;
        if ends == "success" {
            assert_eq!(result.unwrap().as_str(), "OpaqueRef:snap", "what it made exists");
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
        }
        assert_eq!(cancels.load(Ordering::SeqCst), 1);
        assert_eq!(server.methods().last().unwrap(), "task.destroy");
    }
}

#[tokio::test]
async fn a_server_that_answers_at_once_is_not_asked_without_end() {
    // No event, no waiting at the server, and a token that it never wants to see again.
    for reply in [
        Reply::result(batch("t", vec![])),
        Reply::error("EVENT_FROM_TOKEN_PARSE_FAILURE", &["t"]),
        events("t", "pending", json!({})),
        events("t", "pending", json!({"progress": "NaN"})),
    ] {
        let server = scripted(
            vec![reply; 100_000],
            vec![("task.get_record", Reply::result(json!({"status": "pending"})))],
        )
        .await;
        let session = login(&server).await;
        let options = WaitOptions::new()
            .with_timeout(Duration::from_secs(1))
            .with_progress(|p| assert!((0.0..=1.0).contains(&p), "{p}"));
        let error = session.wait(&handle(), &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        let questions = server.seen().len();
        assert!(questions < 50, "{questions} requests within a second");
    }
}

#[tokio::test]
async fn a_time_limit_holds_where_the_server_says_nothing_at_all() {
    let server = scripted(vec![], vec![]).await;
    let session = login(&server).await;
    let options = WaitOptions::new().with_timeout(Duration::from_millis(100));
    let handle = handle();
    let waiting = session.wait(&handle, &options);
    let error = tokio::time::timeout(Duration::from_secs(25), waiting).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn a_cancel_gets_through_a_connection_that_breaks_for_a_moment() {
    let (told, cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, flag) = (Arc::clone(&told), Arc::clone(&cancelled));
    let server = Server::plain(move |request| {
        let (count, flag) = (Arc::clone(&count), Arc::clone(&flag));
        async move {
            or_login(&request, |method, _| match method {
                "task.cancel" if count.fetch_add(1, Ordering::SeqCst) == 0 => {
                    Reply::raw(Vec::new())
                }
                "task.cancel" => {
                    flag.store(true, Ordering::SeqCst);
                    Reply::result(json!(""))
                }
                "event.from" if flag.load(Ordering::SeqCst) => events("t", "cancelled", json!({})),
                "event.from" => events("t", "pending", json!({})),
                _ => Reply::result(json!("")),
            })
        }
    })
    .await;
    let session = login(&server).await;
    let cancel = Cancel::new();
    cancel.cancel();
    let options = WaitOptions::new().with_cancel(cancel).with_timeout(Duration::MAX);
    let error = session.wait(&handle(), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(told.load(Ordering::SeqCst), 2);
}
