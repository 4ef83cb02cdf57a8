//! Raw exports, against scripted servers that break them in every known way.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Identity, PASSWORD, Reply, Request, Server, USER, batch, or_login, task};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use xenapi::vdi::Vdi;
use xenapi::{
    Client, ClientBuilder, Error, ErrorKind, Export, ExportFormat, ExportOptions, Ref, Session,
    Trust,
};

const HEAD: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/vhd\r\n\r\n";

async fn login(builder: ClientBuilder) -> Session {
    builder.build().unwrap().login(USER, PASSWORD, "test").await.unwrap()
}

fn vdi() -> Ref<Vdi> {
    Ref::new("OpaqueRef:vdi")
}

async fn export(session: &Session, options: &ExportOptions) -> Result<Export, Error> {
    session.export_raw_vdi(&vdi(), ExportFormat::Vhd, options).await
}

fn options() -> ExportOptions {
    ExportOptions::new("run-1 export").with_inactivity_timeout(Duration::from_secs(20))
}

/// Everything that comes, and how it ended.
async fn drain(export: &mut Export) -> (Vec<u8>, Option<Error>) {
    let mut all = Vec::new();
    while let Some(chunk) = export.next().await {
        match chunk {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

/// The calls that an export makes: its task ends with `status`.
fn rpc(request: &Request, status: &str, extra: &Value) -> Reply {
    or_login(request, |method, _| match method {
        "task.create" => Reply::result(json!("OpaqueRef:task")),
        "event.from" => Reply::result(batch("t", vec![task(status, extra.clone())])),
        "task.get_record" => Reply::result(task(status, extra.clone())),
        "VDI.get_virtual_size" => Reply::result(json!(4096)),
        "host.get_all_records" => Reply::result(json!({
            "OpaqueRef:h1": {"address": "10.9.9.1", "hostname": "xen1", "name_label": "xen1"},
            "OpaqueRef:h2": {"address": "10.9.9.2", "hostname": "xen2", "name_label": "xen2"},
        })),
        _ => Reply::result(json!("")),
    })
}

/// A server that answers the export with `reply`.
async fn exporting(reply: Reply, status: &'static str, extra: Value) -> Server {
    Server::plain(move |request| {
        let (reply, extra) = (reply.clone(), extra.clone());
        async move {
            if request.head.starts_with("GET ") { reply } else { rpc(&request, status, &extra) }
        }
    })
    .await
}

/// What passes for a VHD: it ends with the footer that it starts with.
fn whole(content: &[u8]) -> Vec<u8> {
    let mut footer = vec![7; 512];
    footer[..8].copy_from_slice(b"conectix");
    let mut vhd = [&footer[..], content].concat();
    vhd.resize(vhd.len().next_multiple_of(512), 0);
    vhd.extend_from_slice(&footer);
    vhd
}

fn with_body(body: &[u8]) -> Reply {
    Reply::raw([HEAD.as_bytes(), body].concat())
}

#[tokio::test]
async fn a_disk_comes_whole_and_its_task_is_removed() {
    let disk = whole(&(0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
    let chunked = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        format!("{:x}\r\n", disk.len()).into_bytes(),
        disk.clone(),
        b"\r\n0\r\n\r\n".to_vec(),
    ]
    .concat();
    let sized = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", disk.len()).into_bytes(),
        disk.clone(),
    ]
    .concat();
    let old = [b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), disk.clone()].concat();
    for (reply, expected) in [
        (with_body(&disk), &disk),
        (Reply::raw(chunked), &disk),
        (Reply::raw(sized), &disk),
        (Reply::raw(old), &disk),
    ] {
        let server = exporting(reply, "success", json!({})).await;
        let session = login(Client::builder(server.url())).await;
        let mut export = export(&session, &options()).await.unwrap();
        assert_eq!(export.task().as_str(), "OpaqueRef:task");
        let (got, error) = drain(&mut export).await;
        assert!(error.is_none(), "{error:?}");
        assert!(got == *expected, "{} of {} bytes", got.len(), expected.len());
        assert_eq!(export.received(), got.len() as u64);
        export.finish().await.unwrap();
        assert_eq!(server.methods().last().unwrap(), "task.destroy");
    }
}

#[tokio::test]
async fn a_stream_that_does_not_end_as_its_format_does_is_cut() {
    let disk = whole(&[5; 5000]);
    let tar = [&[0; 1024][..], b""].concat();
    let cut = &disk[..disk.len() - 512];
    for (format, body, good) in [
        (ExportFormat::Vhd, &disk[..], true),
        (ExportFormat::Vhd, cut, false),
        (ExportFormat::Vhd, b"HTTP", false),
        (ExportFormat::Vhd, b"", false),
        // The disk of this server has 4096 bytes.
        (ExportFormat::Raw, &[0; 4096], true),
        (ExportFormat::Raw, &[0; 4095], false),
        (ExportFormat::Raw, b"", false),
        (ExportFormat::Tar, &tar, true),
        (ExportFormat::Tar, &tar[..512], false),
        (ExportFormat::Qcow2, &disk, false),
    ] {
        // The task has succeeded, and the connection was closed in good order.
        let server = exporting(with_body(body), "success", json!({})).await;
        let session = login(Client::builder(server.url())).await;
        let mut export = session.export_raw_vdi(&vdi(), format, &options()).await.unwrap();
        let (got, error) = drain(&mut export).await;
        assert!(error.is_none() && got == body, "{format}: {error:?}");
        match export.finish().await {
            Ok(()) => assert!(good, "{format}: {} bytes pass for whole", body.len()),
            Err(error) => {
                assert!(!good, "{format}: {error}");
                assert_eq!(error.kind(), ErrorKind::Truncated);
                assert_eq!(server.methods().last().unwrap(), "task.destroy");
            }
        }
    }
}

#[tokio::test]
async fn a_throttle_paces_and_progress_tells() {
    let body = whole(&[5; 50_000]);
    let server = exporting(with_body(&body), "success", json!({})).await;
    let session = login(Client::builder(server.url())).await;
    let told: Arc<Mutex<Vec<xenapi::Progress>>> = Arc::default();
    let tell = Arc::clone(&told);
    let rate = std::num::NonZeroU64::new(100_000).unwrap();
    let options = options()
        .with_throttle(xenapi::Throttle::new(rate))
        .with_progress(move |progress| tell.lock().unwrap().push(progress));
    let start = std::time::Instant::now();
    let mut export = export(&session, &options).await.unwrap();
    assert!(drain(&mut export).await.1.is_none());
    // At the rate it takes half a second, of which a tenth may be saved up. More time is allowed.
    assert!(start.elapsed() > Duration::from_millis(390), "{:?}", start.elapsed());
    while !told.lock().unwrap().iter().any(|p| p.task > 0.0) {
        tokio::task::yield_now().await;
    }
    export.finish().await.unwrap();
    let told = told.lock().unwrap();
    assert!(told.is_sorted_by_key(|progress| progress.bytes));
    assert_eq!(told.last().unwrap().bytes, body.len() as u64);
}

#[tokio::test]
async fn trap_6_and_8_one_cookie_no_session_in_the_url_a_short_head() {
    let server = exporting(with_body(&whole(b"data-data-data")), "success", json!({})).await;
    let session = login(Client::builder(server.url())).await;
    let options = options().with_base(Ref::new("OpaqueRef:base"));
    let mut export = export(&session, &options).await.unwrap();
    drain(&mut export).await;
    export.finish().await.unwrap();
    let seen = server.seen();
    let get = seen.iter().find(|r| r.head.starts_with("GET ")).unwrap();
    assert_eq!(get.headers("cookie"), ["session_id=OpaqueRef:session-1"]);
    assert_eq!(get.headers("host"), [server.address.to_string()]);
    assert!(get.head.len() < 512, "{}", get.head);
    let url = xenapi_url(get.path());
    let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let pair = |name: &str| {
        query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default()
    };
    assert_eq!(pair("vdi"), "OpaqueRef:vdi");
    assert_eq!(pair("format"), "vhd");
    assert_eq!(pair("task_id"), "OpaqueRef:task");
    assert_eq!(pair("base"), "OpaqueRef:base");
    assert_eq!(query.len(), 4, "and nothing else: {query:?}");
    assert!(!get.path().contains("session"));
    let create = seen.iter().map(Request::call).find(|(m, _)| m == "task.create").unwrap();
    assert_eq!(create.1[1], "run-1 export", "a later run finds the task by its label");
}

fn xenapi_url(path: &str) -> url::Url {
    url::Url::parse(&format!("http://x{path}")).unwrap()
}

#[tokio::test]
async fn trap_2_a_failure_in_the_place_of_the_data() {
    let body = b"HTTP/1.1 500 Internal Error\r\ncontent-length: 20\r\n\r\n<b>VDI_TOO_LARGE</b>";
    let info = json!({"error_info": ["VDI_TOO_LARGE", "OpaqueRef:vdi", "2190433320960"]});
    let server = exporting(with_body(body), "failure", info).await;
    let session = login(Client::builder(server.url())).await;
    let mut export = export(&session, &options()).await.unwrap();
    let (got, error) = drain(&mut export).await;
    assert!(got.is_empty(), "no byte of it passes for data");
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("500 Internal Error: VDI_TOO_LARGE"), "{error}");
    let error = export.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    assert_eq!(error.code().unwrap().as_str(), "VDI_TOO_LARGE");
    assert_eq!(server.methods().last().unwrap(), "task.destroy");
}

#[tokio::test]
async fn trap_2_a_stream_that_looks_whole_is_not_when_its_task_failed() {
    let info = json!({"error_info": ["VDI_IO_ERROR", "Device I/O errors"]});
    let server = exporting(with_body(b"half a disk, then the end"), "failure", info).await;
    let session = login(Client::builder(server.url())).await;
    let mut export = export(&session, &options()).await.unwrap();
    assert!(drain(&mut export).await.1.is_none());
    let error = export.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    assert_eq!(error.code().unwrap().as_str(), "VDI_IO_ERROR");
}

#[tokio::test]
async fn a_body_short_of_its_length_is_truncated() {
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly these bytes";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nonly these bytes";
    for reply in [sized, chunked] {
        let server = exporting(Reply::raw(reply), "success", json!({})).await;
        let session = login(Client::builder(server.url())).await;
        let mut export = export(&session, &options()).await.unwrap();
        let (_, error) = drain(&mut export).await;
        assert_eq!(error.unwrap().kind(), ErrorKind::Truncated, "{reply}");
        assert_eq!(export.finish().await.unwrap_err().kind(), ErrorKind::Truncated);
    }
}

#[tokio::test]
async fn finishing_too_early_is_an_error_and_cleans_up() {
    let server = exporting(with_body(&whole(b"data-data-data")), "success", json!({})).await;
    let session = login(Client::builder(server.url())).await;
    let early = export(&session, &options()).await.unwrap();
    assert_eq!(early.finish().await.unwrap_err().kind(), ErrorKind::Truncated);
    let methods = server.methods();
    assert_eq!(methods.iter().filter(|m| *m == "task.cancel").count(), 1);
    assert_eq!(methods.last().unwrap(), "task.destroy");
}

#[tokio::test]
async fn tls_that_is_cut_is_told_apart_from_an_end() {
    let identity = Identity::new(&["127.0.0.1"]);
    for unclean in [true, false] {
        let reply = Reply { unclean, ..with_body(&whole(b"data-data-data")) };
        let server = Server::tls(identity.acceptor(true), move |request| {
            let reply = reply.clone();
            async move {
                if request.head.starts_with("GET ") {
                    reply
                } else {
                    rpc(&request, "success", &json!({}))
                }
            }
        })
        .await;
        let trust = Trust::Pins(vec![identity.pin()]);
        let session = login(Client::builder(server.url()).trust(trust)).await;
        let mut export = export(&session, &options()).await.unwrap();
        let (got, error) = drain(&mut export).await;
        assert_eq!(got, whole(b"data-data-data"));
        if unclean {
            assert_eq!(error.unwrap().kind(), ErrorKind::UncleanClose);
            assert_eq!(export.finish().await.unwrap_err().kind(), ErrorKind::UncleanClose);
        } else {
            assert!(error.is_none());
            export.finish().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_reset_is_never_an_end() {
    let identity = Identity::new(&["127.0.0.1"]);
    for tls in [true, false] {
        let answer = |request: Request| async move {
            if request.head.starts_with("GET ") {
                Reply { reset: true, ..with_body(&whole(b"data-data-data")) }
            } else {
                rpc(&request, "success", &json!({}))
            }
        };
        let server = match tls {
            true => Server::tls(identity.acceptor(true), answer).await,
            false => Server::plain(answer).await,
        };
        let trust = Trust::Pins(vec![identity.pin()]);
        let session = login(Client::builder(server.url()).trust(trust)).await;
        let error = match export(&session, &options()).await {
            // The reset may also take away what was not read yet, the head included.
            Err(error) => error,
            Ok(mut export) => {
                let (_, error) = drain(&mut export).await;
                let said = error.expect("the stream looked whole");
                assert_eq!(export.finish().await.unwrap_err().kind(), said.kind());
                said
            }
        };
        assert!(
            matches!(error.kind(), ErrorKind::Transport | ErrorKind::UncleanClose),
            "tls {tls}: {error:?}"
        );
    }
}

#[tokio::test]
async fn silence_ends_the_export() {
    let reply = Reply { hang: true, ..with_body(&whole(b"data-data-data")) };
    let server = exporting(reply, "pending", json!({})).await;
    let session = login(Client::builder(server.url())).await;
    let options = options().with_inactivity_timeout(Duration::from_millis(300));
    let mut export = export(&session, &options).await.unwrap();
    let (got, error) = drain(&mut export).await;
    assert_eq!(got, whole(b"data-data-data"));
    assert_eq!(error.unwrap().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_refusal_is_what_the_task_says() {
    let page = "HTTP/1.0 404 Not Found\r\nContent-Length: 9\r\n\r\n<p>no</p>";
    let info = json!({"error_info": ["VDI_INCOMPATIBLE_TYPE", "OpaqueRef:vdi", "cbt_metadata"]});
    let server = exporting(Reply::raw(page), "failure", info).await;
    let session = login(Client::builder(server.url())).await;
    let e = export(&session, &options()).await.unwrap_err();
    assert_eq!(e.code().unwrap().as_str(), "VDI_INCOMPATIBLE_TYPE");
    assert!(e.to_string().contains("OpaqueRef:vdi"), "{e}");
    assert_eq!(server.methods().last().unwrap(), "task.destroy");
    let server = exporting(Reply::raw(page), "pending", json!({})).await;
    let session = login(Client::builder(server.url())).await;
    // A task that does not end by itself is cancelled; the refusal is told, not the waiting.
    let options = options();
    let opening = export(&session, &options);
    let cancelled = async {
        while !server.methods().iter().any(|m| m == "task.cancel") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        result = opening => panic!("{result:?}"),
        () = cancelled => {}
    }
}

#[tokio::test]
async fn a_refused_session_or_user_is_told_apart() {
    for (status, kind) in [
        ("401 Unauthorised", ErrorKind::Authentication),
        ("403 Forbidden", ErrorKind::Authentication),
        ("501 Not Implemented", ErrorKind::Protocol),
    ] {
        let page = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n<p>no</p>");
        let server = exporting(Reply::raw(page), "failure", json!({})).await;
        let session = login(Client::builder(server.url())).await;
        let error = export(&session, &options()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.to_string().contains("no"), "{status}: {error}");
    }
}

/// Two hosts with certificates of their own; the first sends every export to `location`.
struct Pool {
    first: Server,
    second: Server,
    first_id: Identity,
    second_id: Identity,
}

async fn pool(location: &'static str, certificate: impl Fn(&Pool) -> Reply) -> Pool {
    let (first_id, second_id) = (Identity::new(&["127.0.0.1"]), Identity::new(&["127.0.0.1"]));
    let second = Server::tls(second_id.acceptor(true), |request| async move {
        if request.head.starts_with("GET ") {
            with_body(&whole(b"data-data-data"))
        } else {
            Reply::default()
        }
    })
    .await;
    let pem: Arc<Mutex<Reply>> = Arc::default();
    let say = Arc::clone(&pem);
    let first = Server::tls(first_id.acceptor(true), move |request| {
        let pem = say.lock().unwrap().clone();
        async move {
            if request.head.starts_with("GET ") {
                let text = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n");
                return Reply::raw(text);
            }
            let (method, params) = request.call();
            if method == "host.get_server_certificate" {
                let host = if location.contains("10.9.9.1") { "h1" } else { "h2" };
                assert_eq!(params[1], format!("OpaqueRef:{host}"));
                return pem;
            }
            rpc(&request, "success", &json!({}))
        }
    })
    .await;
    let pool = Pool { first, second, first_id, second_id };
    *pem.lock().unwrap() = certificate(&pool);
    pool
}

impl Pool {
    async fn session(&self) -> Session {
        login(
            Client::builder(self.first.url())
                .trust(Trust::Pins(vec![self.first_id.pin()]))
                .host_address("10.9.9.1", self.first.address.to_string())
                .host_address("10.9.9.2", self.second.address.to_string()),
        )
        .await
    }
}

const TO_SECOND: &str = "https://10.9.9.2/export_raw_vdi?vdi=x&task_id=y";

#[tokio::test]
async fn trap_10_a_redirect_to_a_host_of_the_pool_with_its_own_certificate() {
    let pool = pool(TO_SECOND, |p| Reply::result(json!(p.second_id.pem))).await;
    let session = pool.session().await;
    let mut export = export(&session, &options()).await.unwrap();
    let (got, error) = drain(&mut export).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(got, whole(b"data-data-data"));
    export.finish().await.unwrap();
    let request = &pool.second.seen()[0];
    assert_eq!(request.headers("cookie"), ["session_id=OpaqueRef:session-1"]);
    assert!(request.path().contains("vdi=OpaqueRef%3Avdi"), "our own query: {}", request.path());
}

#[tokio::test]
async fn a_redirected_host_with_another_certificate_than_the_pool_says_gets_nothing() {
    let stranger = Identity::new(&["127.0.0.1"]);
    let pem = stranger.pem.clone();
    let pool = pool(TO_SECOND, move |_| Reply::result(json!(pem))).await;
    let session = pool.session().await;
    let e = export(&session, &options()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Tls, "{e}");
    assert!(pool.second.seen().is_empty(), "no cookie went there");
    assert_eq!(pool.first.methods().last().unwrap(), "task.destroy");
}

#[tokio::test]
async fn redirects_elsewhere_are_not_followed() {
    for location in [
        "https://evil.example/export_raw_vdi",
        "http://10.9.9.2/export_raw_vdi",
        "https://10.9.9.2/other",
        "https://user:pw@10.9.9.2/export_raw_vdi",
        "::::",
    ] {
        let pool = pool(location, |p| Reply::result(json!(p.second_id.pem))).await;
        let session = pool.session().await;
        let e = export(&session, &options()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Redirect, "{location}: {e}");
        assert!(pool.second.seen().is_empty(), "{location}");
    }
}

#[tokio::test]
async fn redirects_without_end_are_an_error() {
    let pool = pool("https://10.9.9.1/export_raw_vdi", |p| Reply::result(json!(p.first_id.pem)));
    let pool = pool.await;
    let session = pool.session().await;
    let e = export(&session, &options()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Redirect, "{e}");
    assert!(pool.first.seen().iter().filter(|r| r.head.starts_with("GET ")).count() <= 5);
}

#[tokio::test]
async fn aborting_cancels_and_removes_the_task() {
    let reply = Reply { hang: true, ..with_body(&whole(b"data-data-data")) };
    let server = exporting(reply, "cancelled", json!({})).await;
    let session = login(Client::builder(server.url())).await;
    let mut export = export(&session, &options()).await.unwrap();
    export.next().await.unwrap().unwrap();
    export.abort().await.unwrap();
    let methods = server.methods();
    assert!(methods.iter().any(|m| m == "task.cancel"));
    assert_eq!(methods.last().unwrap(), "task.destroy");
}

#[tokio::test]
async fn dropping_does_nothing_at_the_server() {
    let reply = Reply { hang: true, ..with_body(&whole(b"data-data-data")) };
    let server = exporting(reply, "pending", json!({})).await;
    let session = login(Client::builder(server.url())).await;
    let mut export = export(&session, &options()).await.unwrap();
    export.next().await.unwrap().unwrap();
    let before = server.seen().len();
    let shown = format!("{export:?} {session:?}");
    drop(export);
    session.call(xenapi::vm::get_all()).await.unwrap();
    assert_eq!(server.seen().len(), before + 1, "only the call that we made");
    assert!(!shown.contains("session-1"), "{shown}");
}
