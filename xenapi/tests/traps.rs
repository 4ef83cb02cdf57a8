//! The traps of XAPI's raw handlers, each by its number in our notes. Others are beside what they
//! are about: see `trap_` in the rest of the tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Identity, PASSWORD, Reply, Request, Server, USER, batch, or_login, task};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use simulator::xen::{XenConfig, XenServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use xenapi::vdi::Vdi;
use xenapi::{
    Client, ClientBuilder, Error, ErrorKind, ExportFormat, ExportOptions, ImportOptions,
    ImportSource, Pin, Ref, Session, Trust,
};

async fn login(builder: ClientBuilder) -> Session {
    builder.build().unwrap().login(USER, PASSWORD, "test").await.unwrap()
}

fn options() -> ImportOptions {
    ImportOptions::new("run-1 import").with_inactivity_timeout(Duration::from_secs(20))
}

async fn put(session: &Session, body: Vec<u8>) -> Result<(), Error> {
    let source = ImportSource::from_bytes(body);
    session.import_raw_vdi(&Ref::new("OpaqueRef:vdi"), ExportFormat::Raw, source, &options()).await
}

/// The calls that an import makes, in a pool whose storage is plugged at `seeing`.
fn rpc(request: &Request, seeing: &str, status: &str, extra: &Value) -> Reply {
    let host = |n: u8| {
        json!({"address": format!("10.9.9.{n}"), "hostname": format!("xen{n}"),
            "name_label": format!("xen{n}")})
    };
    or_login(request, |method, params| match method {
        "task.create" => Reply::result(json!("OpaqueRef:task")),
        "event.from" => Reply::result(batch("t", vec![task(status, extra.clone())])),
        "task.get_record" => Reply::result(task(status, extra.clone())),
        "VDI.get_SR" => Reply::result(json!("OpaqueRef:sr")),
        "SR.get_PBDs" => Reply::result(json!(["OpaqueRef:p1", "OpaqueRef:p2"])),
        "PBD.get_record" => {
            let host = if params[1] == "OpaqueRef:p1" { "OpaqueRef:h1" } else { "OpaqueRef:h2" };
            Reply::result(json!({"host": host, "SR": "OpaqueRef:sr",
                "currently_attached": host == seeing}))
        }
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

const ACCEPTED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\ntask-id: x\r\n\r\n";

/// A server of the calls, and a port where a PUT is answered with 200 before its body is read, of
/// which `taken` bytes are. It is another host, the one with the storage.
async fn early(taken: usize, status: &'static str, extra: Value) -> (Server, Session) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"PUT /import"));
            tcp.write_all(ACCEPTED.as_bytes()).await.unwrap();
            let mut body = vec![0; taken];
            let _ = tcp.read_exact(&mut body).await;
        }
    });
    let server = Server::plain(move |request| {
        let extra = extra.clone();
        async move { rpc(&request, "OpaqueRef:h2", status, &extra) }
    })
    .await;
    let session = login(Client::builder(server.url()).host_address("10.9.9.2", address)).await;
    (server, session)
}

const SIZE: usize = 16 << 20;

#[tokio::test]
async fn trap_1_early_200_on_put() {
    // All of it is taken, and the task says yes: only that is success.
    let (server, session) = early(SIZE, "success", json!({})).await;
    put(&session, vec![1; SIZE]).await.unwrap();
    assert_eq!(server.methods().last().unwrap(), "task.destroy");

    // The 200 was seen, and all was sent; the task says no.
    let info = json!({"error_info": ["VDI_IO_ERROR", "Device I/O errors"]});
    let (server, session) = early(SIZE, "failure", info).await;
    let error = put(&session, vec![1; SIZE]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TaskFailed, "{error}");
    assert_eq!(error.code().unwrap().as_str(), "VDI_IO_ERROR");
    assert_eq!(server.methods().last().unwrap(), "task.destroy");

    // The 200 was seen, and the server goes away in the middle, whatever the task says.
    let (server, session) = early(100_000, "success", json!({})).await;
    let error = put(&session, vec![1; SIZE]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
    assert!(server.methods().iter().any(|method| method == "task.cancel"));
    assert_eq!(server.methods().last().unwrap(), "task.destroy");
}

/// An archive of `SIZE` bytes whose end comes when the server has closed the connection.
fn archive(end: usize) -> ImportSource {
    let later = stream::once(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Bytes::from(vec![0; end]))
    });
    let begin = stream::iter([Ok(Bytes::from(vec![1; SIZE - end]))]);
    ImportSource::from_stream(begin.chain(later), SIZE as u64)
}

#[tokio::test]
async fn a_server_that_leaves_the_zeros_behind_a_machine_unread_has_all_of_it() {
    let made = "<value><array><data><value>OpaqueRef:vm</value></data></array></value>";
    let options = options().with_sr(Ref::new("OpaqueRef:sr"));
    let (server, session) = early(SIZE - 1024, "success", json!({"result": made})).await;
    let machines = session.import_vm(archive(1024), &options).await.unwrap();
    assert_eq!(machines, [Ref::new("OpaqueRef:vm")]);
    assert!(!server.methods().iter().any(|method| method == "task.cancel"));
    assert_eq!(server.methods().last().unwrap(), "task.destroy");

    // More than zeros, or a disk: whatever the task says.
    let (_server, session) = early(100_000, "success", json!({"result": made})).await;
    let error = session.import_vm(archive(1 << 20), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
    let (_server, session) = early(SIZE - 1024, "success", json!({})).await;
    let vdi = Ref::new("OpaqueRef:vdi");
    let error =
        session.import_raw_vdi(&vdi, ExportFormat::Raw, archive(1024), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
}

#[tokio::test]
async fn trap_1_a_host_that_dies_after_its_200() {
    let (server, session) = simulated(XenConfig::new()).await;
    let disk = disk(&session).await;
    server.handle().faults().set_str("host-gone=100000").unwrap();
    let source = ImportSource::from_bytes(vec![1; SIZE]);
    let gone = session.import_raw_vdi(&disk, ExportFormat::Raw, source, &options()).await;
    let error = gone.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
}

async fn simulated(config: XenConfig) -> (XenServer, Session) {
    let server = XenServer::start(config).await.unwrap();
    let pins = Pin::parse_list(&server.handle().pin_sha256(0).unwrap()).unwrap();
    let client = Client::builder(server.url()).trust(Trust::Pins(pins)).build().unwrap();
    let config = server.config();
    let session = client.login(config.username(), config.password(), "xenapi-test").await.unwrap();
    (server, session)
}

const DISK: usize = 2 << 20;

/// A disk with something on it.
async fn disk(session: &Session) -> Ref<Vdi> {
    let sr = session.call(xenapi::sr::get_all_records()).await.unwrap().into_keys().next().unwrap();
    let source = ImportSource::from_bytes(vec![7; DISK]);
    let (format, size) = (ExportFormat::Raw, DISK as u64);
    session.import_new_vdi(&sr, "disk", format, size, source, &options()).await.unwrap()
}

#[tokio::test]
async fn trap_2_errors_inside_a_200_body() {
    // Out: in the place of the data, in its midst, after it.
    for format in [ExportFormat::Raw, ExportFormat::Vhd, ExportFormat::Qcow2] {
        for at in [0, 100_000, 1_u64 << 40] {
            let (server, session) = simulated(XenConfig::new()).await;
            let disk = disk(&session).await;
            server.handle().faults().set_str(&format!("export-500-in-body={at}")).unwrap();
            let options = ExportOptions::new("run-1 export");
            let mut export = session.export_raw_vdi(&disk, format, &options).await.unwrap();
            while let Some(Ok(_)) = export.next().await {}
            let error = export.finish().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TaskFailed, "{format} at {at}: {error}");
            assert_eq!(server.handle().inventory().get("task"), None);
        }
    }
    // In: the server gives up, before it has read everything and afterwards.
    let second = "HTTP/1.1 500 Internal Error\r\ncontent-length: 14\r\n\r\n<b>no room</b>";
    let server = Server::plain(move |request| async move {
        if request.head.starts_with("PUT ") {
            return Reply::raw([ACCEPTED, second].concat());
        }
        rpc(&request, "OpaqueRef:h1", "success", &json!({}))
    })
    .await;
    let session = login(Client::builder(server.url())).await;
    // Whatever the task says.
    let error = put(&session, vec![1; 1000]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("no room"), "{error}");
    for at in [100_000, DISK] {
        let (server, session) = simulated(XenConfig::new()).await;
        let disk = disk(&session).await;
        server.handle().faults().set_str(&format!("import-500-in-body={at}")).unwrap();
        let source = ImportSource::from_bytes(vec![1; DISK]);
        let result = session.import_raw_vdi(&disk, ExportFormat::Raw, source, &options()).await;
        let error = result.unwrap_err();
        assert_eq!(error.code().unwrap().as_str(), "INTERNAL_ERROR", "{at}: {error}");
    }
}

/// The request of an import, as a server sees it.
async fn seen(body: Vec<u8>) -> Request {
    let server = Server::plain(|request| async move {
        if request.head.starts_with("PUT ") {
            return Reply::raw(ACCEPTED);
        }
        rpc(&request, "OpaqueRef:h1", "success", &json!({}))
    })
    .await;
    let session = login(Client::builder(server.url())).await;
    put(&session, body).await.unwrap();
    server.seen().into_iter().find(|request| request.head.starts_with("PUT ")).unwrap()
}

#[tokio::test]
async fn trap_7_no_chunked() {
    for body in [Vec::new(), vec![5; 300_000]] {
        let request = seen(body.clone()).await;
        assert_eq!(request.headers("content-length"), [body.len().to_string()]);
        assert!(request.headers("transfer-encoding").is_empty());
        assert!(!request.path().contains("chunked"), "its presence alone switches it on");
        assert!(request.body == body);
        assert!(request.head.len() < 512, "and the head is short: trap 6");
    }
}

#[tokio::test]
async fn trap_8_one_cookie() {
    let request = seen(b"disk".to_vec()).await;
    assert_eq!(request.headers("cookie"), ["session_id=OpaqueRef:session-1"]);
    assert!(!request.path().contains("session"), "servers log queries: {}", request.path());
    let url = url::Url::parse(&format!("http://x{}", request.path())).unwrap();
    let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let pairs = [("vdi", "OpaqueRef:vdi"), ("format", "raw"), ("task_id", "OpaqueRef:task")];
    assert_eq!(query, pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[tokio::test]
async fn trap_10_redirect_across_the_pool() {
    // The storage is at the second host, which has a certificate of its own, behind NAT: the
    // body goes there at once.
    let (first_id, second_id) = (Identity::new(&["127.0.0.1"]), Identity::new(&["127.0.0.1"]));
    let second = Server::tls(second_id.acceptor(true), |request| async move {
        assert!(request.head.starts_with("PUT "));
        Reply::raw(ACCEPTED)
    })
    .await;
    for pem in [second_id.pem.clone(), Identity::new(&["127.0.0.1"]).pem] {
        let right = pem == second_id.pem;
        let first = Server::tls(first_id.acceptor(true), move |request| {
            let pem = pem.clone();
            async move {
                let (method, params) = request.call();
                if method == "host.get_server_certificate" {
                    assert_eq!(params[1], "OpaqueRef:h2");
                    return Reply::result(json!(pem));
                }
                rpc(&request, "OpaqueRef:h2", "success", &json!({}))
            }
        })
        .await;
        let builder = Client::builder(first.url())
            .trust(Trust::Pins(vec![first_id.pin()]))
            .host_address("10.9.9.1", first.address.to_string())
            .host_address("10.9.9.2", second.address.to_string());
        let session = login(builder).await;
        let result = put(&session, vec![5; 300_000]).await;
        assert!(!first.seen().iter().any(|request| request.head.starts_with("PUT ")));
        if right {
            result.unwrap();
            assert!(second.seen()[0].body == vec![5; 300_000]);
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Tls);
        }
        assert_eq!(second.seen().len(), 1);
        assert_eq!(first.methods().last().unwrap(), "task.destroy");
    }
}

#[tokio::test]
async fn a_body_goes_to_a_host_that_lives() {
    // The storage is attached at the second to fourth host; what the pool knows of them, and where
    // the body should go.
    for (known, expected) in [
        ([(true, "true"), (true, "true"), (true, "true")], "10.9.9.2"),
        ([(true, "false"), (false, "true"), (true, "true")], "10.9.9.4"),
        ([(true, "false"), (true, "unknown"), (true, "false")], "10.9.9.3"),
        ([(true, "false"), (true, "false"), (true, "gone")], "10.9.9.2"),
    ] {
        let server = Server::plain(move |request| async move {
            let (method, params) = request.call();
            let number = params.get(1).and_then(|p| p.as_str()?.chars().last()?.to_digit(10));
            let (enabled, live) = known[number.unwrap_or(2).clamp(2, 4) as usize - 2];
            match method.as_str() {
                "SR.get_PBDs" => {
                    let pbds = ["OpaqueRef:p2", "OpaqueRef:p3", "OpaqueRef:p4"];
                    Reply::result(json!(pbds))
                }
                // One that was taken away while we asked.
                "PBD.get_record" if live == "gone" => Reply::error("HANDLE_INVALID", &["PBD", ""]),
                "PBD.get_record" => {
                    let host = format!("OpaqueRef:h{}", number.unwrap());
                    Reply::result(json!({"host": host, "currently_attached": true}))
                }
                "host.get_record" => {
                    let number = number.unwrap();
                    Reply::result(json!({"address": format!("10.9.9.{number}"),
                        "enabled": enabled, "metrics": format!("OpaqueRef:m{number}")}))
                }
                "host_metrics.get_live" if live == "unknown" => {
                    Reply::error("HANDLE_INVALID", &["host_metrics", ""])
                }
                "host_metrics.get_live" => Reply::result(json!(live == "true")),
                _ => rpc(&request, "", "failure", &json!({})),
            }
        })
        .await;
        let mut builder = Client::builder(server.url());
        let mut hosts = Vec::new();
        for number in 2..=4 {
            let host = Server::early(None, |_| async { Reply::raw(ACCEPTED) }).await;
            builder = builder.host_address(format!("10.9.9.{number}"), host.address.to_string());
            hosts.push((format!("10.9.9.{number}"), host));
        }
        let session = login(builder).await;
        put(&session, b"body".to_vec()).await.unwrap_err();
        for (name, host) in hosts {
            assert_eq!(host.seen().len(), usize::from(name == expected), "{known:?}: {name}");
        }
    }
}

#[tokio::test]
async fn trap_10_a_redirect_before_the_body_is_followed() {
    // All simulated hosts have one address, so that the first one must send us to the other.
    let config = XenConfig::new().with_storage_at_second_host(true);
    let (server, session) = simulated(config).await;
    let disk = disk(&session).await;
    let puts = server.handle().calls().iter().filter(|c| *c == "PUT /import_raw_vdi").count();
    assert_eq!(puts, 2);
    let options = ExportOptions::new("run-1 export");
    let export = session.export_raw_vdi(&disk, ExportFormat::Raw, &options).await.unwrap();
    export.abort().await.unwrap();

    // One that comes when the body has begun cannot be.
    let late = Server::plain(|request| async move {
        if request.head.starts_with("PUT ") {
            return Reply::raw("HTTP/1.1 302 Found\r\nLocation: http://10.9.9.2/import\r\n\r\n");
        }
        rpc(&request, "OpaqueRef:h1", "success", &json!({}))
    })
    .await;
    let session = login(Client::builder(late.url())).await;
    let source = stream::iter([Ok(Bytes::from_static(b"a disk"))]);
    let source = ImportSource::from_stream(source, 6);
    let vdi = Ref::new("OpaqueRef:vdi");
    let late = session.import_raw_vdi(&vdi, ExportFormat::Raw, source, &self::options()).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Redirect);
}
