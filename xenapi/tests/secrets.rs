//! Servers repeat what they were asked with, the session included: in pages of refusal, in second
//! answers, in what a task says. No error shows it, in its words or in those of its causes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{PASSWORD, Reply, Request, Server, USER, batch, or_login, task};
use serde_json::{Value, json};
use xenapi::vdi::Vdi;
use xenapi::{
    Client, Error, ExportFormat, ExportOptions, ImportOptions, ImportSource, Ref, Session,
    TaskHandle, WaitOptions,
};

const SESSION: &str = "OpaqueRef:session-1";

/// The calls around a transfer whose task has failed, and says so with the session.
fn rpc(request: &Request, info: &Value) -> Reply {
    let failed = || task("failure", json!({"error_info": info}));
    or_login(request, |method, _| match method {
        "task.create" => Reply::result(json!("OpaqueRef:task")),
        "event.from" => Reply::result(batch("t", vec![failed()])),
        "task.get_record" => Reply::result(failed()),
        "VDI.get_SR" => Reply::result(json!("OpaqueRef:sr")),
        "SR.get_PBDs" => Reply::result(json!([])),
        "pool.get_all_records" => Reply::result(json!({})),
        _ => Reply::result(json!("")),
    })
}

/// A pool that answers a transfer with `reply`, and a session with it.
async fn pool(reply: Reply, info: Value) -> (Server, Session) {
    let server = Server::plain(move |request| {
        let (reply, info) = (reply.clone(), info.clone());
        async move {
            let raw = ["GET ", "PUT "].iter().any(|verb| request.head.starts_with(verb));
            if raw { reply } else { rpc(&request, &info) }
        }
    })
    .await;
    let client = Client::builder(server.url()).build().unwrap();
    let session = client.login(USER, PASSWORD, "test").await.unwrap();
    (server, session)
}

/// Whether the session is in anything that an error can show; it has to show `words`.
fn is_silent(error: &Error, words: &str) {
    let mut shown = format!("{error} {error:?} {:?}", error.params());
    let mut next = error.source();
    while let Some(cause) = next {
        shown.push_str(&format!(" {cause} {cause:?}"));
        next = cause.source();
    }
    assert!(shown.contains(words), "{shown}");
    assert!(!shown.contains("session-1"), "{shown}");
}

fn vdi() -> Ref<Vdi> {
    Ref::new("OpaqueRef:vdi")
}

fn refused() -> Reply {
    let page = format!("<p>the session {SESSION} is not one</p>");
    Reply::raw(format!(
        "HTTP/1.1 401 Unauthorised\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    ))
}

#[tokio::test]
async fn a_refused_export_does_not_tell_its_session() {
    // The task may say why, or nothing.
    for info in [json!(["SESSION_INVALID", SESSION]), json!([])] {
        let (_server, session) = pool(refused(), info).await;
        let options = ExportOptions::new("run-1 export");
        let refused = session.export_raw_vdi(&vdi(), ExportFormat::Vhd, &options).await;
        is_silent(&refused.unwrap_err(), "the session <redacted> is not one");
    }
}

#[tokio::test]
async fn an_export_that_breaks_does_not_tell_its_session() {
    use futures_util::TryStreamExt as _;

    let second = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nHTTP/1.1 500 Internal Error\r\n\r\nsession \
         {SESSION} has gone"
    );
    for info in [json!(["SESSION_INVALID", SESSION]), json!([])] {
        let (_server, session) = pool(Reply::raw(second.clone()), info).await;
        let options = ExportOptions::new("run-1 export");
        let mut export = session.export_raw_vdi(&vdi(), ExportFormat::Vhd, &options).await.unwrap();
        is_silent(&export.try_next().await.unwrap_err(), "session <redacted> has gone");
        let shown = format!("{export:?}");
        assert!(!shown.contains("session-1"), "{shown}");
        is_silent(&export.finish().await.unwrap_err(), "session <redacted> has gone");
    }
}

#[tokio::test]
async fn a_refused_import_does_not_tell_its_session() {
    for info in [json!(["SESSION_INVALID", SESSION]), json!([])] {
        let (_server, session) = pool(refused(), info).await;
        let options =
            ImportOptions::new("run-1 import").with_inactivity_timeout(Duration::from_secs(20));
        let source = ImportSource::from_bytes(vec![0; 1 << 20]);
        let refused = session.import_raw_vdi(&vdi(), ExportFormat::Raw, source, &options).await;
        is_silent(&refused.unwrap_err(), "the session <redacted> is not one");
    }
}

#[tokio::test]
async fn a_session_that_was_renewed_meanwhile_is_not_told_either() {
    let server = Server::plain(|request| async move {
        if request.head.starts_with("GET ") {
            return refused();
        }
        let (method, params) = request.call();
        let is_dead = params.first().is_some_and(|session| session == SESSION);
        match method.as_str() {
            // The host has forgotten the session by the time that the task is asked.
            "task.get_record" if is_dead => Reply::error("SESSION_INVALID", &[SESSION]),
            "task.get_record" => Reply::result(task("failure", json!({}))),
            "session.login_with_password" if RENEWED.swap(true, Ordering::SeqCst) => {
                Reply::result(json!("OpaqueRef:another"))
            }
            _ => rpc(&request, &json!([])),
        }
    })
    .await;
    let client = Client::builder(server.url()).build().unwrap();
    let session = client.login(USER, PASSWORD, "test").await.unwrap();
    let options = ExportOptions::new("run-1 export");
    let refused = session.export_raw_vdi(&vdi(), ExportFormat::Vhd, &options).await;
    assert_eq!(session.logins(), 2);
    is_silent(&refused.unwrap_err(), "the session <redacted> is not one");
}

static RENEWED: AtomicBool = AtomicBool::new(false);

#[tokio::test]
async fn a_task_that_failed_does_not_tell_the_session() {
    let (_server, session) = pool(Reply::default(), json!(["SESSION_INVALID", SESSION])).await;
    let handle = TaskHandle::<Value>::new(Ref::new("OpaqueRef:task"));
    let error = session.wait(&handle, &WaitOptions::new()).await.unwrap_err();
    is_silent(&error, "SESSION_INVALID");
}
