//! The raw handlers that have a function of their own, against scripted servers.
#![allow(missing_docs, clippy::unwrap_used, clippy::needless_pass_by_value)]

mod common;

use std::time::Duration;

use common::{PASSWORD, Reply, Request, Server, USER, batch, or_login, task};
use futures_util::TryStreamExt as _;
use serde_json::json;
use xenapi::metrics::RrdQuery;
use xenapi::{
    Client, DateTime, Error, ErrorKind, ExportOptions, ImportSource, MetadataExport, Ref, Session,
};

/// A pool of two hosts, the first being master; the machine runs on `resident`. All handlers
/// answer with `reply`, at either host.
struct Pool {
    master: Server,
    second: Server,
    session: Session,
}

async fn pool(reply: Reply, resident: &'static str, size: i64) -> Pool {
    let answer = move |request: Request| {
        let reply = reply.clone();
        async move { if is_raw(&request) { reply } else { rpc(&request, resident, size) } }
    };
    let second = Server::early(None, answer.clone()).await;
    let master = Server::early(None, answer).await;
    let client = Client::builder(master.url())
        .host_address("10.9.9.2", second.address.to_string())
        .build()
        .unwrap();
    let session = client.login(USER, PASSWORD, "test").await.unwrap();
    Pool { master, second, session }
}

fn is_raw(request: &Request) -> bool {
    ["GET ", "PUT "].iter().any(|verb| request.head.starts_with(verb))
}

fn rpc(request: &Request, resident: &str, size: i64) -> Reply {
    or_login(request, |method, params| match method {
        "task.create" => {
            assert_eq!(params[1], "run-1");
            Reply::result(json!("OpaqueRef:task"))
        }
        "event.from" => Reply::result(batch("t", vec![task("success", json!({}))])),
        "pool.get_all_records" => {
            Reply::result(json!({"OpaqueRef:pool": {"master": "OpaqueRef:h1"}}))
        }
        "host.get_record" => {
            assert_eq!(params[1], "OpaqueRef:h2");
            Reply::result(json!({"address": "10.9.9.2"}))
        }
        "VM.get_resident_on" => Reply::result(json!(resident)),
        "blob.get_size" => Reply::result(json!(size.to_string())),
        _ => Reply::result(json!("")),
    })
}

fn sized(version: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/{version} 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    Reply::raw([head.as_bytes(), body].concat())
}

fn options() -> ExportOptions {
    ExportOptions::new("run-1").with_inactivity_timeout(Duration::from_secs(20))
}

/// The targets of the raw requests to a host.
fn asked(server: &Server) -> Vec<String> {
    server.seen().iter().filter(|r| is_raw(r)).map(|r| r.path().to_owned()).collect()
}

#[tokio::test]
async fn descriptions_are_a_tar_file_of_known_length() {
    // What `tar` wrote, of a file `ova.xml` with 4 bytes.
    let mut tar = vec![0; 10_240];
    tar[..7].copy_from_slice(b"ova.xml");
    tar[100..107].copy_from_slice(b"0000644");
    tar[124..135].copy_from_slice(b"00000000004");
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar[512..516].copy_from_slice(b"<a/>");
    for what in [
        MetadataExport::of(Ref::new("OpaqueRef:vm")),
        MetadataExport::of_all().with_snapshots(false),
    ] {
        let pool = pool(sized("1.0", &tar), "", 0).await;
        let mut export = pool.session.export_metadata(&what, &options()).await.unwrap();
        assert_eq!(export.content_length(), Some(10_240));
        let mut got = Vec::new();
        while let Some(bytes) = export.try_next().await.unwrap() {
            got.extend_from_slice(&bytes);
        }
        export.finish().await.unwrap();
        assert!(got == tar);
        let one = "/export_metadata?ref=OpaqueRef%3Avm&task_id=OpaqueRef%3Atask";
        let all = "/export_metadata?all=true&export_snapshots=false&task_id=OpaqueRef%3Atask";
        assert!([one, all].contains(&&*asked(&pool.master)[0]));
        assert_eq!(pool.master.methods().last().unwrap(), "task.destroy");
    }
    // A file without its end, of just the length that was announced.
    let pool = pool(sized("1.0", &tar[..1024]), "", 0).await;
    let all = MetadataExport::of_all();
    let mut export = pool.session.export_metadata(&all, &options()).await.unwrap();
    while export.try_next().await.unwrap().is_some() {}
    assert_eq!(export.finish().await.unwrap_err().kind(), ErrorKind::Truncated);
}

const JPEG: &[u8] = b"\xff\xd8\xff\xe0 a picture \xff\xd9";

#[tokio::test]
async fn a_screenshot_is_of_the_host_where_the_machine_runs() {
    let vm = Ref::new("OpaqueRef:vm");
    let pool = pool(sized("1.1", JPEG), "OpaqueRef:h2", 0).await;
    assert_eq!(pool.session.screenshot_jpeg(&vm).await.unwrap(), JPEG);
    assert_eq!(asked(&pool.second), ["/vncsnapshot?ref=OpaqueRef%3Avm"]);
    assert!(asked(&pool.master).is_empty());
    for (reply, resident, kind) in [
        (sized("1.1", JPEG), "OpaqueRef:h1", None),
        (sized("1.1", JPEG), "OpaqueRef:NULL", Some(ErrorKind::Connect)),
        (sized("1.1", &JPEG[..10]), "OpaqueRef:h1", Some(ErrorKind::Truncated)),
        (sized("1.1", b"<html>"), "OpaqueRef:h1", Some(ErrorKind::Protocol)),
        (Reply::raw("HTTP/1.1 404 Not Found\r\n\r\n"), "OpaqueRef:h1", Some(ErrorKind::Protocol)),
    ] {
        let pool = self::pool(reply, resident, 0).await;
        let taken = pool.session.screenshot_jpeg(&vm).await;
        assert_eq!(taken.err().map(|error| error.kind()), kind, "{resident}");
    }
}

#[tokio::test]
async fn the_audit_log_is_lines_of_text_since_a_time() {
    let lines = "[20260101T00:00:00.000Z|audit] one\n[20260101T00:00:01.000Z|audit] two\n";
    let reply = Reply::raw(format!("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n{lines}"));
    let pool = pool(reply, "", 0).await;
    let since = DateTime::new("2026-01-01T00:00:00Z");
    let log = pool.session.audit_log(Some(&since), &options()).await.unwrap();
    assert_eq!(log.bytes(1 << 20).await.unwrap(), lines);
    let log = pool.session.audit_log(None, &options()).await.unwrap();
    log.bytes(1 << 20).await.unwrap();
    let expected = [
        "/audit_log?since=2026-01-01T00%3A00%3A00Z&task_id=OpaqueRef%3Atask",
        "/audit_log?task_id=OpaqueRef%3Atask",
    ];
    assert_eq!(asked(&pool.master), expected);
}

#[tokio::test]
async fn a_blob_is_read_within_a_limit() {
    let blob = Ref::new("OpaqueRef:blob");
    let pool = pool(sized("1.1", b"content"), "", 0).await;
    assert_eq!(pool.session.read_blob(&blob, 7).await.unwrap(), "content");
    let error = pool.session.read_blob(&blob, 6).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert_eq!(asked(&pool.master)[0], "/blob?ref=OpaqueRef%3Ablob");
}

#[tokio::test]
async fn a_blob_is_written_when_the_server_says_that_it_has_it() {
    let blob = Ref::new("OpaqueRef:blob");
    let written = async |size| {
        let accepted = Reply::raw("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let pool = pool(accepted, "", size).await;
        let source = ImportSource::from_bytes("content");
        pool.session.write_blob(&blob, source).await?;
        let put = pool.master.seen().into_iter().find(is_raw).unwrap();
        assert_eq!((put.path(), &*put.body), ("/blob?ref=OpaqueRef%3Ablob", &b"content"[..]));
        Ok::<(), Error>(())
    };
    written(7).await.unwrap();
    assert_eq!(written(3).await.unwrap_err().kind(), ErrorKind::Truncated);
}

#[tokio::test]
async fn metrics_are_asked_of_a_host_and_understood_in_either_form() {
    let json = json!({"meta": {"start": 5, "step": 5, "end": 10, "rows": 1, "columns": 1,
        "legend": ["AVERAGE:vm:u:cpu0"]}, "data": [{"t": 10, "values": ["0.5"]}]});
    let xml = "<xport><meta><start>5</start><step>5</step><end>10</end><legend><entry>\
        AVERAGE:vm:u:cpu0</entry></legend></meta><data><row><t>10</t><v>0.5</v></row></data>\
        </xport>";
    for body in [json.to_string().as_str(), xml] {
        let pool = pool(sized("1.1", body.as_bytes()), "", 0).await;
        let query = RrdQuery::since(5).of_vm("u").on_host(Ref::new("OpaqueRef:h2"));
        let updates = pool.session.rrd_updates(&query).await.unwrap();
        assert_eq!(updates.end, 10);
        let series: Vec<_> = updates.series(updates.column("u", "cpu0").unwrap()).collect();
        assert_eq!(series, [(10, 0.5)]);
        assert_eq!(asked(&pool.second), ["/rrd_updates?start=5&json=true&vm_uuid=u"]);
    }
    let pool = pool(sized("1.1", b"no record"), "", 0).await;
    let error = pool.session.rrd_updates(&RrdQuery::since(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}
