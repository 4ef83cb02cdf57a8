//! Any raw handler, against scripted servers that answer well and badly.
#![allow(missing_docs, clippy::unwrap_used, clippy::needless_pass_by_value)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Identity, PASSWORD, Reply, Request, Server, USER, batch, or_login, task};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use xenapi::{
    Cancel, Client, ClientBuilder, Error, ErrorKind, HandlerRequest, ImportSource, Progress, Ref,
    Session, Trust,
};

const SESSION: &str = "OpaqueRef:session-1";
const MOST: usize = 1 << 20;

async fn login(builder: ClientBuilder) -> Session {
    builder.build().unwrap().login(USER, PASSWORD, "test").await.unwrap()
}

fn is_raw(request: &Request) -> bool {
    ["GET ", "PUT "].iter().any(|verb| request.head.starts_with(verb))
}

/// The calls of a transfer whose task ends so, in a pool of two hosts.
fn rpc(request: &Request, status: &str, extra: &Value) -> Reply {
    let host = |n: u8| json!({"address": format!("10.9.9.{n}"), "hostname": format!("xen{n}")});
    or_login(request, |method, params| match method {
        "task.create" => Reply::result(json!("OpaqueRef:task")),
        "event.from" => Reply::result(batch("t", vec![task(status, extra.clone())])),
        "task.get_record" => Reply::result(task(status, extra.clone())),
        "pool.get_all_records" => {
            Reply::result(json!({"OpaqueRef:pool": {"master": "OpaqueRef:h1"}}))
        }
        "host.get_record" if params[1] == "OpaqueRef:h2" => Reply::result(host(2)),
        "host.get_all_records" => {
            Reply::result(json!({"OpaqueRef:h1": host(1), "OpaqueRef:h2": host(2)}))
        }
        _ => Reply::result(json!("")),
    })
}

/// A server whose handlers all answer so.
async fn answering(reply: Reply, status: &'static str, extra: Value) -> (Server, Session) {
    let server = Server::early(None, move |request| {
        let (reply, extra) = (reply.clone(), extra.clone());
        async move { if is_raw(&request) { reply } else { rpc(&request, status, &extra) } }
    })
    .await;
    let session = login(Client::builder(server.url())).await;
    (server, session)
}

fn request() -> HandlerRequest {
    HandlerRequest::new("/thing").with_inactivity_timeout(Duration::from_secs(20))
}

fn raws(server: &Server) -> Vec<Request> {
    server.seen().into_iter().filter(is_raw).collect()
}

async fn got(reply: &str) -> Result<Vec<u8>, Error> {
    let (_server, session) = answering(Reply::raw(reply), "success", json!({})).await;
    let bytes = session.get_resource(&request()).await?.bytes(MOST).await?;
    Ok(bytes.to_vec())
}

#[tokio::test]
async fn an_answer_comes_whole_however_it_is_framed() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata",
        "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\ndata",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\ndata",
        "HTTP/1.0 200 OK\r\n\r\ndata",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\n\r\n",
    ] {
        assert_eq!(got(reply).await.unwrap(), b"data", "{reply}");
    }
    assert_eq!(got("HTTP/1.0 200 OK\r\n\r\n").await.unwrap(), b"");
}

#[tokio::test]
async fn what_ends_early_or_in_a_failure_is_an_error() {
    let failure = "HTTP/1.1 500 Internal Error\r\ncontent-length: 10\r\n\r\n<b>bad</b>";
    let open = "HTTP/1.0 200 OK\r\n\r\n";
    for (reply, kind, words) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndata".to_owned(), ErrorKind::Truncated, "4"),
        (format!("{open}{failure}"), ErrorKind::Protocol, "Internal Error: bad"),
        (format!("{open}some data\n{failure}"), ErrorKind::Truncated, "Internal Error: bad"),
        (failure.to_owned(), ErrorKind::Protocol, "bad"),
        ("HTTP/1.1 404 Not Found\r\n\r\n".to_owned(), ErrorKind::Protocol, "404"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n".to_owned(), ErrorKind::Authentication, "403"),
        ("HTTP/1.1 302 Found\r\n\r\n".to_owned(), ErrorKind::Redirect, "where"),
    ] {
        let error = got(&reply).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{reply}: {error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    // With all of its length, it is data that looks so.
    let length = failure.len();
    let data = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{failure}");
    assert_eq!(got(&data).await.unwrap(), failure.as_bytes());
}

#[tokio::test]
async fn the_session_is_in_one_cookie_and_the_parameters_are_encoded() {
    let reply = Reply::raw("HTTP/1.0 200 OK\r\n\r\n");
    let (server, session) = answering(reply, "success", json!({})).await;
    let asked = request().with_param("a b", "c&d=é\r\n").with_param("a b", "");
    session.get_resource(&asked).await.unwrap().finish().await.unwrap_err();
    let plain = session.get_resource(&request()).await.unwrap();
    plain.bytes(0).await.unwrap();
    let seen = raws(&server);
    assert_eq!(seen[0].path(), "/thing?a+b=c%26d%3D%C3%A9%0D%0A&a+b=");
    assert_eq!(seen[1].path(), "/thing");
    for request in &seen {
        assert_eq!(request.headers("cookie"), [format!("session_id={SESSION}")]);
        assert_eq!(request.head.matches("session-1").count(), 1);
    }
    assert!(!server.methods().iter().any(|method| method.starts_with("task.")));
}

#[tokio::test]
async fn a_task_is_made_awaited_and_removed_and_its_word_counts() {
    let reply = Reply::raw("HTTP/1.0 200 OK\r\n\r\ndata");
    let (server, session) = answering(reply.clone(), "success", json!({})).await;
    let resource = session.get_resource(&request().with_task("run-1")).await.unwrap();
    assert_eq!(resource.task().unwrap().as_str(), "OpaqueRef:task");
    assert_eq!(resource.bytes(4).await.unwrap(), "data");
    assert_eq!(raws(&server)[0].path(), "/thing?task_id=OpaqueRef%3Atask");
    let methods = server.methods();
    assert_eq!(methods.iter().filter(|m| *m == "task.create").count(), 1);
    assert_eq!(methods.last().unwrap(), "task.destroy");

    let info = json!({"error_info": ["VM_BAD_POWER_STATE", "vm"]});
    for reply in [reply, Reply::raw("HTTP/1.1 500 Internal Error\r\n\r\n")] {
        let (server, session) = answering(reply, "failure", info.clone()).await;
        let failed =
            async { session.get_resource(&request().with_task("run-1")).await?.bytes(MOST).await };
        let error = failed.await.unwrap_err();
        assert_eq!(error.code().unwrap().as_str(), "VM_BAD_POWER_STATE", "{error}");
        assert_eq!(server.methods().last().unwrap(), "task.destroy");
    }
}

#[tokio::test]
async fn there_is_never_more_in_memory_than_allowed() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata",
        // More than anyone could send.
        "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\ndata",
    ] {
        let (server, session) = answering(Reply::raw(reply), "cancelled", json!({})).await;
        let resource = session.get_resource(&request().with_task("run-1")).await.unwrap();
        let error = resource.bytes(3).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        assert_eq!(server.methods().last().unwrap(), "task.destroy");
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    for head in ["HTTP/1.0 200 OK\r\n\r\nda", ""] {
        let reply = Reply { hang: true, ..Reply::raw(head) };
        let (_server, session) = answering(reply, "success", json!({})).await;
        let request = request().with_inactivity_timeout(Duration::from_millis(50));
        let silent = async { session.get_resource(&request).await?.bytes(MOST).await };
        assert_eq!(silent.await.unwrap_err().kind(), ErrorKind::Timeout);
    }
}

#[tokio::test]
async fn progress_is_told_without_a_task() {
    let reply = Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata");
    let (_server, session) = answering(reply, "success", json!({})).await;
    let heard: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let hear = Arc::clone(&heard);
    let request = request().with_progress(move |now| hear.lock().unwrap().push(now));
    session.get_resource(&request).await.unwrap().bytes(MOST).await.unwrap();
    let last = *heard.lock().unwrap().last().unwrap();
    assert_eq!((last.bytes, last.total), (4, Some(4)));
}

/// A pool that has forgotten `dead` sessions, at whose handlers a dead one gets a 401.
async fn forgetful(dead: usize) -> Server {
    let logins = AtomicUsize::new(0);
    Server::early(None, move |request| {
        let (method, params) = request.call();
        let is_live = |session: &str| {
            let number = session.rsplit('-').next().and_then(|n| n.parse::<usize>().ok());
            number.is_some_and(|number| number > dead)
        };
        let reply = if is_raw(&request) {
            if is_live(&request.header("cookie").unwrap()) {
                Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfresh")
            } else {
                Reply::raw("HTTP/1.1 401 Unauthorised\r\n\r\n<p>OpaqueRef:session-1?</p>")
            }
        } else if method == "session.login_with_password" {
            let number = logins.fetch_add(1, Ordering::SeqCst) + 1;
            Reply::result(json!(format!("OpaqueRef:session-{number}")))
        } else if method.starts_with("pool.") && !is_live(params[0].as_str().unwrap()) {
            Reply::error("SESSION_INVALID", &[params[0].as_str().unwrap()])
        } else {
            rpc(&request, "success", &json!({}))
        };
        async move { reply }
    })
    .await
}

#[tokio::test]
async fn a_session_that_has_died_is_renewed_once() {
    for request in [request(), request().with_task("run-1")] {
        let server = forgetful(1).await;
        let session = login(Client::builder(server.url())).await;
        let resource = session.get_resource(&request).await.unwrap();
        assert_eq!(resource.bytes(MOST).await.unwrap(), "fresh");
        assert_eq!((session.logins(), raws(&server).len()), (2, 2));
        let count = |name: &str| server.methods().iter().filter(|m| *m == name).count();
        assert_eq!(count("task.create"), count("task.destroy"));

        let server = forgetful(1).await;
        let session = login(Client::builder(server.url())).await;
        let source = ImportSource::from_bytes("a body");
        session.put_resource(&request, source).await.unwrap();
        let bodies: Vec<Request> = raws(&server);
        assert_eq!((session.logins(), bodies.len()), (2, 2));
        assert_eq!(bodies[1].body, b"a body");
    }
    // One that stays dead is an error, and so is a 401 that has another reason.
    for dead in [9, 0] {
        let server = forgetful(dead).await;
        let other = Server::plain(|_| async {
            Reply::raw("HTTP/1.1 401 Unauthorised\r\n\r\n<p>OpaqueRef:session-1?</p>")
        })
        .await;
        let builder = Client::builder(server.url());
        let session = login(builder.host_address("10.9.9.2", other.address.to_string())).await;
        let elsewhere = request().on_host(Ref::new("OpaqueRef:h2"));
        let request = if dead == 0 { elsewhere } else { request() };
        let logins = session.logins();
        let error = session.get_resource(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Authentication, "{error}");
        assert!(!format!("{error:?}").contains("session-1"), "{error:?}");
        assert_eq!(session.logins() - logins, u64::from(dead == 9));
    }
}

/// Two hosts with certificates of their own; the first one sends handlers to `location`.
async fn pool(location: &'static str) -> (Server, Server, Session) {
    let (first_id, second_id) = (Identity::new(&["127.0.0.1"]), Identity::new(&["127.0.0.1"]));
    let second = Server::tls(second_id.acceptor(true), |_| async {
        Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfrom the second")
    })
    .await;
    let pem = second_id.pem.clone();
    let first = Server::early(Some(first_id.acceptor(true)), move |request| {
        let pem = pem.clone();
        async move {
            if is_raw(&request) {
                return Reply::raw(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n"));
            }
            match request.call().0.as_str() {
                "host.get_server_certificate" => Reply::result(json!(pem)),
                _ => rpc(&request, "success", &json!({})),
            }
        }
    })
    .await;
    let builder = Client::builder(first.url())
        .trust(Trust::Pins(vec![first_id.pin()]))
        .host_address("10.9.9.1", first.address.to_string())
        .host_address("10.9.9.2", second.address.to_string());
    let session = login(builder).await;
    (first, second, session)
}

#[tokio::test]
async fn a_redirect_is_followed_to_a_host_of_the_pool_with_what_it_adds() {
    let to = "https://10.9.9.2/thing?unarchive=&uuid=changed&session_id=stolen&task_id=no";
    let (_first, second, session) = pool(to).await;
    let request = request().with_param("uuid", "a b");
    let resource = session.get_resource(&request).await.unwrap();
    assert_eq!(resource.bytes(MOST).await.unwrap(), "from the second");
    let seen = &second.seen()[0];
    assert_eq!(seen.path(), "/thing?uuid=a+b&unarchive=");
    assert_eq!(seen.headers("cookie"), [format!("session_id={SESSION}")]);
    session.put_resource(&request, ImportSource::from_bytes("body")).await.unwrap();
    assert_eq!(second.seen()[1].path(), "/thing?uuid=a+b");
    assert_eq!(second.seen()[1].body, b"body");

    for to in ["https://10.9.9.2/other", "http://10.9.9.2/thing", "https://evil.example/thing"] {
        let (_first, second, session) = pool(to).await;
        let error = session.get_resource(&self::request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Redirect, "{error}");
        let body = ImportSource::from_bytes("body");
        let error = session.put_resource(&self::request(), body).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Redirect, "{error}");
        assert!(second.seen().is_empty(), "{to}");
    }
}

#[tokio::test]
async fn a_host_is_asked_that_the_caller_names() {
    let (first, second, session) = pool("https://10.9.9.2/thing").await;
    let request = request().on_host(Ref::new("OpaqueRef:h2"));
    let resource = session.get_resource(&request).await.unwrap();
    assert_eq!(resource.bytes(MOST).await.unwrap(), "from the second");
    session.put_resource(&request, ImportSource::from_bytes("body")).await.unwrap();
    assert!(raws(&first).is_empty());
    assert_eq!(second.seen().len(), 2);
    // The master is asked where it was found.
    let request = self::request().on_host(Ref::new("OpaqueRef:h1"));
    session.get_resource(&request).await.unwrap().abort().await.unwrap();
    assert_eq!(raws(&first).len(), 1);
}

const ACCEPTED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_put_gives_what_its_task_comes_to() {
    let extra = json!({"result": "<value>OpaqueRef:made</value>"});
    let (server, session) = answering(Reply::raw(ACCEPTED), "success", extra).await;
    let body = || ImportSource::from_bytes(vec![7; 300_000]);
    let value = session.put_resource(&request().with_task("run-1"), body()).await.unwrap();
    assert_eq!(value, "OpaqueRef:made");
    assert_eq!(server.methods().last().unwrap(), "task.destroy");
    let value = session.put_resource(&request().with_param("ref", "x"), body()).await.unwrap();
    assert_eq!(value, Value::Null);
    let seen = raws(&server);
    assert_eq!(seen[0].path(), "/thing?task_id=OpaqueRef%3Atask");
    assert_eq!(seen[1].path(), "/thing?ref=x");
    for request in seen {
        assert_eq!(request.headers("content-length"), ["300000"]);
        assert!(request.headers("transfer-encoding").is_empty());
        assert!(request.body == vec![7; 300_000]);
    }
}

#[tokio::test]
async fn a_put_fails_with_its_answer_its_source_its_task_and_its_caller() {
    let second = format!("{ACCEPTED}HTTP/1.1 500 Internal Error\r\n\r\nno room");
    for (reply, kind) in [
        (second.as_str(), ErrorKind::Protocol),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", ErrorKind::Authentication),
        ("HTTP/1.1 500 Internal Error\r\n\r\n", ErrorKind::Protocol),
    ] {
        let (_server, session) = answering(Reply::raw(reply), "success", json!({})).await;
        let body = ImportSource::from_bytes("body");
        let error = session.put_resource(&request(), body).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{reply}: {error}");
    }
    let (_server, session) = answering(Reply::raw(ACCEPTED), "success", json!({})).await;
    let short = futures_util::stream::iter([Ok("body".into())]);
    let short = ImportSource::from_stream(short, 5);
    let error = session.put_resource(&request(), short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source, "{error}");

    let info = json!({"error_info": ["DB_GONE"]});
    let (_server, session) = answering(Reply::raw(ACCEPTED), "failure", info).await;
    let body = ImportSource::from_bytes("body");
    let error = session.put_resource(&request().with_task("x"), body).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "DB_GONE", "{error}");

    let cancel = Cancel::new();
    cancel.cancel();
    let request = request().with_task("x").with_cancel(cancel);
    let body = ImportSource::from_bytes("body");
    let error = session.put_resource(&request, body).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

#[tokio::test]
async fn a_dropped_answer_leaves_the_server_alone() {
    let reply = Reply { hang: true, ..Reply::raw("HTTP/1.0 200 OK\r\n\r\ndata") };
    let (server, session) = answering(reply, "pending", json!({})).await;
    let mut resource = session.get_resource(&request().with_task("x")).await.unwrap();
    assert_eq!(resource.next().await.unwrap().unwrap(), "data");
    let shown = format!("{resource:?}");
    assert!(!shown.contains("session-1"), "{shown}");
    drop(resource);
    session.call(xenapi::vm::get_all()).await.unwrap();
    assert_eq!(server.methods().last().unwrap(), "VM.get_all");
    assert!(!server.methods().iter().any(|method| method == "task.cancel"));
}

#[tokio::test]
async fn a_request_that_servers_would_refuse_is_not_sent() {
    let (server, session) = answering(Reply::raw(ACCEPTED), "success", json!({})).await;
    let long = request().with_param("x", "y".repeat(1000));
    assert_eq!(session.get_resource(&long).await.unwrap_err().kind(), ErrorKind::TooLarge);
    let body = ImportSource::from_bytes("body");
    let error = session.put_resource(&long, body).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let stolen = request().with_param("session_id", "x");
    assert_eq!(session.get_resource(&stolen).await.unwrap_err().kind(), ErrorKind::Config);
    assert!(raws(&server).is_empty());
}
