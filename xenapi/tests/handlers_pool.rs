//! Raw handlers of the simulated pool, over TLS: what the one side writes, the other reads.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use simulator::xen::{XenConfig, XenServer};
use xenapi::metrics::{Consolidation, RrdQuery};
use xenapi::vm::{self, Vm};
use xenapi::{
    Call, Client, DateTime, ErrorCode, ErrorKind, ExportOptions, HandlerRequest, ImportOptions,
    ImportSource, MetadataExport, Pin, Ref, Session, Trust,
};

const MOST: usize = 16 << 20;

async fn start(config: XenConfig) -> (XenServer, Session) {
    let server = XenServer::start(config).await.unwrap();
    let pins = Pin::parse_list(&server.handle().pin_sha256(0).unwrap()).unwrap();
    let client = Client::builder(server.url()).trust(Trust::Pins(pins)).build().unwrap();
    let config = server.config();
    let session = client.login(config.username(), config.password(), "xenapi-test").await.unwrap();
    (server, session)
}

fn options() -> ExportOptions {
    ExportOptions::new("run-1 test").with_inactivity_timeout(Duration::from_secs(20))
}

/// A running machine.
async fn web01(session: &Session) -> (Ref<Vm>, Vm) {
    let all = session.call(vm::get_all_records()).await.unwrap();
    all.into_iter().find(|(_, record)| record.name_label == "web01").unwrap()
}

#[tokio::test]
async fn a_description_goes_out_and_comes_in() {
    use futures_util::TryStreamExt as _;

    let (server, session) = start(XenConfig::new()).await;
    let (web01, record) = web01(&session).await;
    let mut export = session.export_metadata(&MetadataExport::of(web01), &options()).await.unwrap();
    let length = export.content_length().unwrap();
    let mut tar = Vec::new();
    while let Some(bytes) = export.try_next().await.unwrap() {
        tar.extend_from_slice(&bytes);
    }
    export.finish().await.unwrap();
    assert_eq!(tar.len() as u64, length);
    let text = String::from_utf8_lossy(&tar);
    assert!(text.starts_with("ova.xml") && text.contains(&record.uuid));
    let made = session
        .import_metadata(ImportSource::from_bytes(tar), true, &ImportOptions::new("run-1 test"))
        .await
        .unwrap();
    assert_eq!(made.len(), 1);
    // What servers refuse is told with their code.
    let snapshots = session.start(vm::async_snapshot(&self::web01(&session).await.0, "s")).await;
    let snapshot = session.wait(&snapshots.unwrap(), &xenapi::WaitOptions::new()).await.unwrap();
    let refused = session.export_metadata(&MetadataExport::of(snapshot), &options()).await;
    assert!(refused.unwrap_err().has_code(&ErrorCode::OPERATION_NOT_ALLOWED));
    assert_eq!(server.handle().inventory().get("task"), None);
}

#[tokio::test]
async fn metrics_in_every_dialect() {
    let (server, session) = start(XenConfig::new()).await;
    let (_, record) = web01(&session).await;
    let query = RrdQuery::since(-300).with_consolidation(Consolidation::Average).with_host();
    for dialect in ["", "old-metrics"] {
        if !dialect.is_empty() {
            server.handle().faults().set_str(dialect).unwrap();
        }
        let updates = session.rrd_updates(&query).await.unwrap();
        assert_eq!(updates.step, 5);
        assert!(updates.rows.len() > 50, "{}", updates.rows.len());
        assert_eq!(updates.rows[0].time, updates.end);
        assert!(updates.rows.windows(2).all(|two| two[0].time - two[1].time == 5));
        let column = updates.column(&record.uuid, "cpu0").unwrap();
        assert_eq!(updates.legend[column].class, "vm");
        assert!(updates.series(column).any(|(_, value)| value.is_finite()));
        assert!(updates.legend.iter().any(|metric| metric.class == "host"));
    }
    let one = RrdQuery::since(-60).without_vms().with_srs();
    let updates = session.rrd_updates(&one).await.unwrap();
    assert!(updates.legend.iter().all(|metric| metric.class == "sr"));
    // Nothing was asked for.
    let nothing = RrdQuery::since(-60).without_vms();
    let error = session.rrd_updates(&nothing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");

    // Whoever does not ask for JSON gets XML.
    let xml = HandlerRequest::new("/rrd_updates").with_param("start", "-60");
    let xml = session.get_resource(&xml).await.unwrap().bytes(MOST).await.unwrap();
    assert!(xml.starts_with(b"<"), "{xml:?}");
}

#[tokio::test]
async fn a_whole_record_is_found_at_the_host_that_has_it() {
    let (server, session) = start(XenConfig::new().with_second_host(true)).await;
    let all = session.call(vm::get_all_records()).await.unwrap();
    let running = all.values().filter(|record| !record.resident_on.is_null());
    let hosts: BTreeSet<_> = running.clone().map(|record| record.resident_on.clone()).collect();
    assert_eq!(hosts.len(), 2, "each host has its own domain");
    for record in running {
        let request = HandlerRequest::new("/vm_rrd").with_param("uuid", &record.uuid);
        let xml = session.get_resource(&request).await.unwrap().bytes(MOST).await.unwrap();
        let xml = String::from_utf8(xml.to_vec()).unwrap();
        assert!(xml.contains("<rra>") && xml.trim_end().ends_with("</rrd>"), "{}", xml.len());
    }
    // The master has sent us on for some.
    let asked = server.handle().calls().iter().filter(|call| *call == "GET /vm_rrd").count();
    assert!(asked > all.values().filter(|record| !record.resident_on.is_null()).count());
}

#[tokio::test]
async fn a_blob_is_written_and_read() {
    let (_server, session) = start(XenConfig::new()).await;
    let (web01, _) = web01(&session).await;
    let call = Call::new("VM.create_new_blob").arg(&web01).arg("notes").arg("text/plain");
    let blob = session.call(call.arg(false)).await.unwrap();
    let never = session.read_blob(&blob, MOST).await.unwrap_err();
    assert_eq!(never.kind(), ErrorKind::Protocol, "{never}");
    for content in [vec![7; 300_000], b"HTTP/1.1 500 Internal Error\r\n\r\n".to_vec(), Vec::new()] {
        let source = ImportSource::from_bytes(content.clone());
        session.write_blob(&blob, source).await.unwrap();
        assert!(session.read_blob(&blob, 300_000).await.unwrap() == content);
    }
}

#[tokio::test]
async fn the_audit_log_tells_what_was_changed_since() {
    let (server, session) = start(XenConfig::new()).await;
    let (web01, _) = web01(&session).await;
    session.call(vm::set_name_label(&web01, "web01")).await.unwrap();
    let log = async |since: Option<&str>| {
        let since = since.map(DateTime::new);
        let log = session.audit_log(since.as_ref(), &options()).await.unwrap();
        String::from_utf8(log.bytes(MOST).await.unwrap().to_vec()).unwrap()
    };
    assert!(log(None).await.contains("'VM.set_name_label'"));
    assert!(log(Some("2001-01-01T00:00:00Z")).await.contains("'VM.set_name_label'"));
    assert_eq!(log(Some("29990101T00:00:00Z")).await, "");
    assert_eq!(server.handle().inventory().get("task"), None);
}

#[tokio::test]
async fn a_handler_that_is_not_there_says_so_in_its_task() {
    let (server, session) = start(XenConfig::new()).await;
    let request = HandlerRequest::new("/system-status").with_param("output", "tar");
    let error = session.get_resource(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let request = request.with_task("run-1 test");
    let error = session.get_resource(&request).await.unwrap_err();
    assert!(error.has_code(&ErrorCode::new("NOT_IMPLEMENTED")), "{error}");
    let request = HandlerRequest::new("/bundle").with_task("run-1 test");
    let source = ImportSource::from_bytes(vec![0; 1000]);
    let error = session.put_resource(&request, source).await.unwrap_err();
    assert!(error.has_code(&ErrorCode::new("NOT_IMPLEMENTED")), "{error}");
    let unknown = HandlerRequest::new("/nothing_here");
    let error = session.get_resource(&unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication, "servers forbid what they do not know");
    assert_eq!(server.handle().inventory().get("task"), None);
}

#[tokio::test]
async fn a_dead_session_is_renewed_by_a_raw_handler() {
    let (server, session) = start(XenConfig::new()).await;
    let request = HandlerRequest::new("/rrd_updates").with_param("start", "-60");
    server.handle().drop_sessions();
    session.get_resource(&request).await.unwrap().bytes(MOST).await.unwrap();
    assert_eq!(session.logins(), 2);
}

/// Width and height in a JPEG's frame header.
fn dimensions(jpeg: &[u8]) -> (u16, u16) {
    let at = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    let number = |at: usize| u16::from_be_bytes([jpeg[at], jpeg[at + 1]]);
    (number(at + 7), number(at + 5))
}

#[tokio::test]
async fn a_screenshot_shows_what_the_screen_does() {
    let (server, session) = start(XenConfig::new()).await;
    let (web01, _) = web01(&session).await;
    let before = session.screenshot_jpeg(&web01).await.unwrap();
    assert_eq!(dimensions(&before), (640, 200));
    assert_eq!(session.screenshot_jpeg(&web01).await.unwrap(), before);
    server.handle().show("web01", "\nsomething else\n");
    assert_ne!(session.screenshot_jpeg(&web01).await.unwrap(), before);
    assert!(server.handle().interruptions().is_empty());
    // A template does not run.
    let all = session.call(vm::get_all_records()).await.unwrap();
    let (halted, _) = all.iter().find(|(_, record)| record.resident_on.is_null()).unwrap();
    let error = session.screenshot_jpeg(halted).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
}
